//! Random packets of a few flows, in both directions, under rules that change: what the programs do is compared with a model
//! that shares no code with them, packet by packet.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use byway::{Byway, RuleSpec, Selector};

use super::{
    Programs,
    model::{Kind, Model, Protocol, Way},
    two_uplinks,
};
use crate::support::{
    any_hook,
    departure::{REDIRECT, SHOT, UNSPEC},
    packet::{self, ETHERNET, ICMP, ICMPV6, SCTP, UDP},
    pins,
    proven::Proven,
    random::Random,
    release,
    replies::{ACK, SYN, replies},
};

const PACKETS: usize = 20_000;
/// How many packets go by between two changes of the rules.
const PHASE: usize = 100;
/// How many packets go by before all flows are forgotten.
const EPOCH: usize = 2_000;
const SERVICES: usize = 3;
const CLIENTS: usize = 4;
const PROTOCOLS: [Protocol; 5] =
    [Protocol::Tcp, Protocol::Udp, Protocol::Sctp, Protocol::Echo, Protocol::Esp];
const ESP: u8 = 50;
const RST: u8 = 0x04;
/// Some that differ in the highest byte alone, which the program does not compare.
const NUMBERS: [u32; 4] = [1_000, 0x0100_03E8, 0x00FF_FFFF, u32::MAX];

/// What a rule says of the packets that are no replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Otherwise {
    Pass,
    Drop,
    Redirect,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    sends_back: bool,
    /// Only what came in by this device.
    only: Option<usize>,
    otherwise: Otherwise,
}

/// A flow of the pool.
#[derive(Debug, Clone, Copy)]
struct Flow {
    client: SocketAddr,
    service: SocketAddr,
    protocol: Protocol,
}

fn service(v6: bool, nth: usize) -> IpAddr {
    if v6 {
        [0x2001, 0xDB8, 9, 0, 0, 0, 0, 1 + nth as u16].into()
    } else {
        [192, 168, 9, 1 + nth as u8].into()
    }
}

/// The clients with an odd number are in a prefix of their own.
fn client(v6: bool, nth: usize) -> IpAddr {
    let (odd, nth) = (nth % 2, 1 + nth);
    if v6 {
        [0x2001, 0xDB8, 50, odd as u16, 0, 0, 0, nth as u16].into()
    } else {
        [198, 51, 100, (128 * odd + nth) as u8].into()
    }
}

fn odd_clients(v6: bool) -> &'static str {
    if v6 { "2001:db8:32:1::/64" } else { "198.51.100.128/25" }
}

impl Flow {
    fn random(random: &mut Random) -> Self {
        let (v6, protocol) = (random.percent(50), *random.pick(&PROTOCOLS));
        let (client, service) = (client(v6, random.below(CLIENTS)), service(v6, random.below(SERVICES)));
        let (client_port, service_port) = match protocol {
            Protocol::Tcp | Protocol::Udp | Protocol::Sctp => (1_024 + random.below(2) as u16, 443),
            Protocol::Echo => (random.below(2) as u16, 0),
            Protocol::Esp => (0, 0),
        };
        Self {
            client: SocketAddr::new(client, client_port),
            service: SocketAddr::new(service, service_port),
            protocol,
        }
    }

    fn key(&self) -> (SocketAddr, SocketAddr, Protocol) {
        (self.client, self.service, self.protocol)
    }

    /// A packet of it: a request, or if it leaves a reply.
    fn frame(&self, kind: Kind, leaves: bool) -> Vec<u8> {
        let (from, to) = if leaves { (self.service, self.client) } else { (self.client, self.service) };
        let ip = |protocol, payload: &[u8]| packet::ip(from.ip(), to.ip(), protocol, payload);
        let v4 = from.is_ipv4();
        if kind == Kind::Error {
            // It quotes a packet of the other side: its IP header, and eight bytes (RFC 792).
            let quoted = self.frame(Kind::Begin, !leaves);
            let quoted = &quoted[ETHERNET..ETHERNET + if v4 { 28 } else { 48 }];
            let (protocol, kind) = if v4 { (ICMP, 3) } else { (ICMPV6, 1) };
            return ip(protocol, &[&[kind, 3, 0, 0, 0, 0, 0, 0], quoted].concat());
        }
        match self.protocol {
            Protocol::Tcp => {
                let (numbers, flags) = match kind {
                    Kind::Begin => ([7, 0], SYN),
                    Kind::Accept(number) => ([number, 8], SYN | ACK),
                    Kind::Other(acknowledged) => ([8, acknowledged], ACK),
                    _ => ([8, 0], RST | ACK),
                };
                packet::tcp(from, to, numbers, flags, &[])
            }
            Protocol::Udp => ip(UDP, &packet::datagram(from, to, b"differential")),
            Protocol::Sctp => {
                let ports = [from.port(), to.port()].map(u16::to_be_bytes);
                ip(SCTP, &[ports.as_flattened(), &[0; 12]].concat())
            }
            Protocol::Echo => {
                let begins = kind == Kind::Begin;
                let (protocol, kind) = match (v4, begins) {
                    (true, true) => (ICMP, 8),
                    (true, false) => (ICMP, 0),
                    (false, true) => (ICMPV6, 128),
                    (false, false) => (ICMPV6, 129),
                };
                let [a, b] = self.client.port().to_be_bytes();
                ip(protocol, &[kind, 0, 0, 0, a, b, 0, 1, 1, 2, 3, 4])
            }
            Protocol::Esp => ip(ESP, &[0; 16]),
        }
    }

    fn random_kind(&self, random: &mut Random) -> Kind {
        if random.percent(8) {
            return Kind::Error;
        }
        let number = *random.pick(&NUMBERS);
        match (self.protocol, random.below(10)) {
            (Protocol::Tcp, 0..=2) => Kind::Begin,
            (Protocol::Tcp, 3..=5) => Kind::Accept(number),
            (Protocol::Tcp, 6..=8) => Kind::Other(number.wrapping_add(1)),
            (Protocol::Tcp, _) => Kind::Reset,
            (Protocol::Echo, 0..=4) => Kind::Begin,
            (Protocol::Echo, _) => Kind::Accept(number),
            _ => Kind::Other(number),
        }
    }
}

/// The rules of each service, for all clients and for the odd ones.
#[derive(Default)]
struct Rules(HashMap<(IpAddr, bool), Rule>);

impl Rules {
    fn of(&self, flow: &Flow) -> Option<Rule> {
        let (service, client) = (flow.service.ip(), flow.client.ip());
        let is_odd = match client {
            IpAddr::V4(v4) => v4.octets()[3] >= 128,
            IpAddr::V6(v6) => v6.segments()[3] == 1,
        };
        let exception = self.0.get(&(service, true)).filter(|_| is_odd);
        exception.or(self.0.get(&(service, false))).copied()
    }

    /// Changes one at random.
    fn change(&mut self, byway: &mut Byway, random: &mut Random) {
        let v6 = random.percent(50);
        let service = service(v6, random.below(SERVICES));
        let of_odd = random.percent(50);
        let selector =
            if of_odd { format!("from {service} to {}", odd_clients(v6)) } else { format!("from {service}") };
        let rule = Rule {
            sends_back: random.percent(70),
            only: random.percent(40).then(|| random.below(2)),
            otherwise: *random.pick(&[Otherwise::Pass, Otherwise::Drop, Otherwise::Redirect]),
        };
        if random.percent(20) {
            if self.0.remove(&(service, of_odd)).is_some() {
                let spec: RuleSpec = format!("{selector} pass").parse().unwrap();
                let selector: Selector = spec.selector;
                byway.del(&selector).unwrap();
            }
            return;
        }
        let next_hop = if v6 { "via 2001:db8:221::21 dev eth1" } else { "via 10.111.221.21 dev eth1" };
        let back = rule.only.map_or("reply-to".to_owned(), |only| format!("reply-to dev eth{}", 1 + only));
        let target = match (rule.sends_back, rule.otherwise) {
            (true, Otherwise::Pass) => back,
            (true, Otherwise::Drop) => format!("{back} else drop"),
            (true, Otherwise::Redirect) => format!("{back} else {next_hop}"),
            (false, Otherwise::Pass) => "pass".to_owned(),
            (false, Otherwise::Drop) => "drop".to_owned(),
            (false, Otherwise::Redirect) => next_hop.to_owned(),
        };
        byway.replace(&format!("{selector} {target}").parse().unwrap()).unwrap();
        self.0.insert((service, of_odd), rule);
    }
}

/// What became of a packet that left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Went {
    Back(Way),
    On,
    ToNextHop,
    Nowhere,
}

fn mac_of(neighbour: usize) -> [u8; 6] {
    [0x02, 0x42, 0, 0, 0, neighbour as u8]
}

/// Where a packet went, by its verdict and its Ethernet addresses: only a reply that goes back has got others.
fn went(programs: &Programs, frame: &[u8], is_forwarded: bool) -> Went {
    let ingress = if is_forwarded { programs.comes_in_by[0].0 } else { 0 };
    let (verdict, out) = programs.forwards(frame, ingress);
    match verdict {
        REDIRECT if out[..12] == frame[..12] => Went::ToNextHop,
        REDIRECT => {
            let ways = (0..2).flat_map(|device| (0..3).map(move |neighbour| (device, neighbour)));
            let mut to = ways.filter(|(device, neighbour)| {
                out[..6] == mac_of(*neighbour) && out[6..12] == programs.comes_in_by[*device].1
            });
            Went::Back(to.next().unwrap_or_else(|| panic!("sent to {:02x?}", &out[..12])))
        }
        SHOT => Went::Nowhere,
        UNSPEC => Went::On,
        other => panic!("verdict {other}"),
    }
}

/// What the rule of a packet says.
fn expected(rule: Option<Rule>, way: Option<Way>) -> Went {
    let Some(rule) = rule else { return Went::On };
    let is_meant = |(device, _): &Way| rule.sends_back && rule.only.is_none_or(|only| only == *device);
    match (way.filter(is_meant), rule.otherwise) {
        (Some(way), _) => Went::Back(way),
        (None, Otherwise::Pass) => Went::On,
        (None, Otherwise::Drop) => Went::Nowhere,
        (None, Otherwise::Redirect) => Went::ToNextHop,
    }
}

#[test]
fn flows_go_the_ways_that_the_model_says() {
    let seed = two_uplinks();
    seed.server.run(|| {
        let mut byway = Byway::open().unwrap().with_hook(any_hook());
        // Of an address of its own: as long as there is one such rule, flows are noted.
        byway.add(&replies("192.168.99.1")).unwrap();
        let programs = Programs::new(&seed.server);
        let mut proven = Proven::open(Path::new(&pins().remove(0)));
        let (mut random, mut model, mut rules) = (Random::new(11), Model::default(), Rules::default());
        let mut numbers = HashMap::new();
        // Their ports are in the first one alone.
        let mut fragments: HashMap<(IpAddr, IpAddr, u16), Way> = HashMap::new();
        let mut seen = HashMap::<(bool, &str), usize>::new();
        (0..2 * SERVICES).for_each(|_| rules.change(&mut byway, &mut random));
        for nth in 0..PACKETS {
            if nth % PHASE == 0 {
                rules.change(&mut byway, &mut random);
            }
            if nth % EPOCH == 0 {
                assert_eq!(byway.flush_flows(None).unwrap(), model.forget());
            }
            let flow = Flow::random(&mut random);
            let next = numbers.len();
            let number = *numbers.entry(flow.key()).or_insert(next);
            let rule = rules.of(&flow);
            let sends_back = rule.is_some_and(|rule| rule.sends_back);
            let in_fragments = flow.protocol == Protocol::Udp && random.percent(30);
            let kind = if in_fragments { Kind::Other(0) } else { flow.random_kind(&mut random) };
            let id = random.below(3) as u16;
            let datagram = (flow.service.ip(), flow.client.ip(), id);
            let is_later = in_fragments && random.percent(50);
            let frame = |leaves: bool| {
                let (from, to) =
                    if leaves { (flow.service, flow.client) } else { (flow.client, flow.service) };
                match in_fragments {
                    true => packet::fragments(from, to, &[7; 24], 16, id).remove(usize::from(is_later)),
                    false => flow.frame(kind, leaves),
                }
            };
            if random.percent(50) {
                let (device, neighbour) = (random.below(2), random.below(3));
                // Now and then one that only passes by.
                let is_ours = !random.percent(5);
                let receiver = if is_ours { programs.comes_in_by[device].1 } else { mac_of(99) };
                programs.comes_in(device, &packet::addressed(frame(false), mac_of(neighbour), receiver));
                if is_ours && !is_later {
                    model.comes_in(number, flow.protocol, kind, (device, neighbour), sends_back);
                }
                continue;
            }
            // Older kernels refuse to say so to the program.
            let is_forwarded = random.percent(50) && release() >= [5, 15];
            proven.prove_all();
            let way = match (sends_back, is_later) {
                (false, _) => None,
                (true, true) => fragments.get(&datagram).copied(),
                (true, false) => model.leaves(number, flow.protocol, kind, is_forwarded),
            };
            if let (Some(way), true, false) = (way, in_fragments, is_later) {
                fragments.insert(datagram, way);
            }
            let (expected, went) = (expected(rule, way), went(&programs, &frame(true), is_forwarded));
            assert_eq!(
                went, expected,
                "packet {nth}, {kind:?} of {flow:?} under {rule:?}, later fragment: {is_later}"
            );
            let what = match went {
                Went::Back(_) => "back",
                Went::On => "on",
                Went::ToNextHop => "to its next hop",
                Went::Nowhere => "nowhere",
            };
            *seen.entry((sends_back, what)).or_default() += 1;
        }
        let flows = byway.flows(None).unwrap();
        assert_eq!((flows.noted, flows.evicted, flows.refused), (model.noted, 0, 0));
        println!("{seen:?}, {} flows noted", flows.noted);
        // It was no test of one thing alone.
        assert!(seen.len() == 7 && seen.values().all(|packets| *packets > PACKETS / 100), "{seen:?}");
    });
}
