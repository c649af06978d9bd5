//! What ARCHITECTURE.md and docs/limits.md promise of flows and their ways, in plain Rust: no clock, no fingerprints, no
//! buckets.

use std::collections::HashMap;

/// How a request came in: the nth device, and the nth neighbour there.
pub(super) type Way = (usize, usize);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Protocol {
    Tcp,
    Udp,
    Sctp,
    Echo,
    /// Without ports.
    Esp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A SYN of TCP, or an echo request: it begins a flow, whoever sends it.
    Begin,
    /// A SYN-ACK with this number, or an echo reply.
    Accept(u32),
    /// Another segment of TCP, which acknowledges this number, or any packet of a protocol that does not say who began.
    Other(u32),
    Reset,
    /// An ICMP error that quotes a packet of the flow.
    Error,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A SYN has come in. If the SYN-ACK has left, with the number that acknowledges it.
    Begun(Option<u32>),
    /// Packets of both sides belong to it, and it moves with two packets in a row.
    Known,
    OfHost,
}

#[derive(Debug, Clone, Copy)]
struct Flow {
    state: State,
    way: Way,
    /// The way of the last packet that came in, if that was another one.
    other: Option<Way>,
}

/// All flows, by their numbers.
#[derive(Default)]
pub(super) struct Model {
    flows: HashMap<usize, Flow>,
    /// How many have ever been noted.
    pub(super) noted: u64,
}

impl Model {
    /// Forgets all flows, and returns how many there were.
    pub(super) fn forget(&mut self) -> u64 {
        self.flows.drain().count() as u64
    }

    fn note(&mut self, number: usize, state: State, way: Way) {
        self.noted += 1;
        self.flows.insert(number, Flow { state, way, other: None });
    }

    /// A packet comes in. `is_asked_for` says whether a rule sends its replies back.
    pub(super) fn comes_in(
        &mut self,
        number: usize,
        protocol: Protocol,
        kind: Kind,
        way: Way,
        is_asked_for: bool,
    ) {
        if kind == Kind::Error {
            return;
        }
        let Some(flow) = self.flows.get_mut(&number) else {
            let begins = match protocol {
                Protocol::Tcp | Protocol::Echo => kind == Kind::Begin,
                _ => true,
            };
            if begins && is_asked_for {
                let state = if protocol == Protocol::Tcp { State::Begun(None) } else { State::Known };
                self.note(number, state, way);
            }
            return;
        };
        match (flow.state, kind) {
            // A SYN steers only the answers to it, so it may as well steer them elsewhere.
            (State::Begun(_), Kind::Begin) if flow.way != way => {
                *flow = Flow { state: State::Begun(None), way, other: None };
            }
            (State::Begun(Some(expected)), Kind::Other(acknowledged))
                if expected << 8 == acknowledged << 8 =>
            {
                *flow = Flow { state: State::Known, way, other: None };
            }
            (State::Begun(_) | State::OfHost, _) => {}
            (State::Known, _) if flow.way == way => flow.other = None,
            (State::Known, _) if flow.other == Some(way) => (flow.way, flow.other) = (way, None),
            (State::Known, _) => flow.other = Some(way),
        }
    }

    /// A packet leaves that a rule sends back if it is a reply. The host has made it, or forwards it. Returns its way, if it is
    /// one.
    pub(super) fn leaves(
        &mut self,
        number: usize,
        protocol: Protocol,
        kind: Kind,
        is_forwarded: bool,
    ) -> Option<Way> {
        if (protocol, kind) == (Protocol::Echo, Kind::Begin) {
            return None;
        }
        let Some(flow) = self.flows.get_mut(&number) else {
            // Only of these the first packet says nothing.
            let is_unclear = !matches!(protocol, Protocol::Tcp | Protocol::Echo) && kind != Kind::Error;
            if is_unclear {
                self.note(number, State::OfHost, (0, 0));
            }
            return None;
        };
        match (flow.state, kind) {
            (State::OfHost, _) => None,
            // The host begins another connection between the same ports. Anybody may have sent one that it forwards.
            (State::Known, Kind::Begin) if !is_forwarded => {
                self.flows.remove(&number);
                None
            }
            (State::Begun(_), Kind::Accept(number)) => {
                flow.state = State::Begun(Some(number.wrapping_add(1)));
                Some(flow.way)
            }
            (State::Begun(_), Kind::Begin | Kind::Other(_)) => None,
            (State::Begun(_), Kind::Reset | Kind::Error) | (State::Known, _) => Some(flow.way),
        }
    }
}
