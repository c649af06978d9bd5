//! The flows that rules with `reply-to` send back, and the ways that their requests have come in by.
//!
//! The table has a fingerprint of each flow and no addresses. So flows are counted by their way, and a single one is found by
//! asking for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use byway_abi::reply::{
    FLOW_ANSWERED, FLOW_ANSWERED_SYN, FLOW_CONFIRMED, FLOW_IN_BOTH, FLOW_NEW, FLOW_OF_HOST, FLOW_REQUESTED,
    MAX_FLOWS, Way, ethernet_bytes, ethernet_words,
};
use serde::{Serialize, Serializer};

use crate::{
    error::{Error, Result},
    kernel::{
        network::{NeighbourAddresses, Network},
        pins::Pins,
        replies::{Ethernet, FlowClock, FlowKey, Replies},
    },
    model::{Device, FlowError, FlowSpec},
    policy::snapshot::Link,
    show::status::monotonic_now,
};

/// An Ethernet address, as ip-neighbour(8) calls it: `02:42:0a:00:00:15`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkLayerAddress(pub [u8; 6]);

impl fmt::Display for LinkLayerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl Serialize for LinkLayerAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A way that requests have come in by, and that their replies leave by: a neighbour on a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ReplyWay {
    /// The device.
    pub device: Device,
    /// The neighbour that has sent the requests, or the one that has taken its place. `None` if the device has no Ethernet header.
    pub lladdr: Option<LinkLayerAddress>,
    /// The addresses that the kernel's neighbour table has for it: none if the kernel has not asked it.
    pub addresses: Vec<IpAddr>,
}

impl ReplyWay {
    /// Makes a way on a device without an Ethernet header.
    pub fn new(device: Device) -> Self {
        Self { device, lladdr: None, addresses: Vec::new() }
    }
}

impl fmt::Display for ReplyWay {
    /// `via 10.111.221.21 lladdr 02:42:0a:00:00:15 dev eth1`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(address) = self.addresses.first() {
            write!(f, "via {address} ")?;
        }
        if let Some(lladdr) = self.lladdr {
            write!(f, "lladdr {lladdr} ")?;
        }
        write!(f, "dev {}", self.device.name)
    }
}

/// What is known about a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum FlowState {
    /// A request has come in. Of a TCP connection, only the answers to its SYN are sent back.
    New,
    /// An answer to it has left.
    Answered,
    /// The client has proved that it gets the answers, or a later request has come in. Other flows cannot take its place.
    Established,
    /// The host itself began it. Its packets go the ordinary way.
    OfHost,
}

impl fmt::Display for FlowState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::New => "new",
            Self::Answered => "answered",
            Self::Established => "established",
            Self::OfHost => "of the host",
        })
    }
}

/// Whether replies go by a way. Only an agent (`byway run`) takes one out of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum WayState {
    /// They do.
    Up,
    /// Its device is down.
    DeviceDown,
    /// Its device is up, and has no carrier.
    NoCarrier,
    /// Its neighbour does not answer.
    Silent,
}

impl fmt::Display for WayState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Up => "up",
            Self::DeviceDown => "down",
            Self::NoCarrier => "no carrier",
            Self::Silent => "silent",
        })
    }
}

/// A flow in the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ReplyFlow {
    /// What is known about it.
    pub state: FlowState,
    /// The way that its replies leave by. `None` if the host began it.
    pub way: Option<ReplyWay>,
    /// Whether they do. If not, what the rule says `else` holds.
    pub way_state: WayState,
    /// How many seconds ago its entry was written. A flow in use writes it once in a quarter of the time that it may be idle.
    pub age: u64,
}

impl ReplyFlow {
    /// Makes a flow whose entry was written so many seconds ago.
    pub fn new(state: FlowState, way: Option<ReplyWay>, age: u64) -> Self {
        Self { state, way, way_state: WayState::Up, age }
    }

    /// Returns whether its replies are sent back.
    pub fn is_sent_back(&self) -> bool {
        self.state != FlowState::OfHost && self.way_state == WayState::Up
    }
}

/// A way, and how many flows have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct FlowsOfWay {
    /// The way.
    #[serde(flatten)]
    pub way: ReplyWay,
    /// Whether replies go there.
    pub state: WayState,
    /// Flows with [`FlowState::New`].
    pub new: u64,
    /// Flows with [`FlowState::Answered`].
    pub answered: u64,
    /// Flows with [`FlowState::Established`].
    pub established: u64,
    /// How many seconds ago the youngest of their entries was written. `None` if there are no flows.
    pub age: Option<u64>,
}

impl FlowsOfWay {
    /// Makes a way without flows.
    pub fn new(way: ReplyWay) -> Self {
        Self { way, state: WayState::Up, new: 0, answered: 0, established: 0, age: None }
    }

    /// Returns how many flows have the way.
    pub fn count(&self) -> u64 {
        self.new + self.answered + self.established
    }
}

/// The table of flows. Flows that have been idle for so long that another one may take their place do not count.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Flows {
    /// The ways that requests have come in by, with their flows, by device.
    pub ways: Vec<FlowsOfWay>,
    /// Flows with [`FlowState::OfHost`].
    pub of_host: u64,
    /// How many flows the table has room for. 0 if there has been no rule with `reply-to`.
    pub room: u64,
    /// How many flows have got a place.
    pub noted: u64,
    /// How many of them took the place of another flow that was not idle.
    pub evicted: u64,
    /// How often a flow got no place, because those of other flows may not be taken.
    pub refused: u64,
}

impl Flows {
    /// Returns how many flows there are.
    pub fn count(&self) -> u64 {
        self.ways.iter().map(FlowsOfWay::count).sum::<u64>() + self.of_host
    }
}

/// Reads the table, or what has come in by one device.
pub(crate) fn read(pins: Option<&Pins>, network: &mut Network, device: Option<&str>) -> Result<Flows> {
    let links = network.links()?;
    let only = device.map(|name| named(&links, name)).transpose()?;
    let Some(pins) = pins else { return Ok(Flows::default()) };
    let replies = &pins.tables.replies;
    let Some(table) = replies.flows()? else { return Ok(Flows::default()) };
    let known = replies.ways()?;
    let clock = FlowClock::read()?;
    let mut ways: BTreeMap<u32, FlowsOfWay> = BTreeMap::new();
    let neighbours = Neighbours::read(pins, network)?;
    let (liveness, now) = (replies.liveness()?, monotonic_now()?);
    for (number, way) in known.iter().filter(|(_, way)| only.is_none_or(|index| index == way.ifindex)) {
        let named = reply_way(way, &links, &neighbours);
        let state =
            way_state(liveness.as_ref().map_or(0, |it| it.out(*number)) > now, links.get(&way.ifindex));
        ways.insert(*number, FlowsOfWay { state, ..FlowsOfWay::new(named) });
    }
    let mut flows = Flows { room: MAX_FLOWS.into(), ..Flows::default() };
    for entry in table.entries().filter(|entry| !clock.is_idle(entry)) {
        let state = state(entry.state);
        if state == Some(FlowState::OfHost) {
            flows.of_host += u64::from(only.is_none());
            continue;
        }
        let Some(way) = ways.get_mut(&entry.way.into()) else { continue };
        match state {
            Some(FlowState::New) => way.new += 1,
            Some(FlowState::Answered) => way.answered += 1,
            Some(_) => way.established += 1,
            None => continue,
        }
        let age = clock.age(&entry);
        way.age = Some(way.age.map_or(age, |least| least.min(age)));
    }
    flows.ways = ways.into_values().collect();
    flows.ways.sort_by(|one, other| {
        let key = |it: &FlowsOfWay| (it.way.device.name.clone(), it.way.addresses.clone(), it.way.lladdr);
        key(one).cmp(&key(other))
    });
    let counters = replies.counters()?;
    (flows.noted, flows.evicted, flows.refused) = (counters.noted, counters.evicted, counters.refused);
    Ok(flows)
}

/// Reads one flow. `None` if it is not in the table.
pub(crate) fn find(
    pins: &Pins,
    network: &mut Network,
    links: &BTreeMap<u32, Link>,
    key: &FlowKey,
) -> Result<Option<ReplyFlow>> {
    let found = pins.tables.replies.flows()?.and_then(|table| table.find(key));
    let Some(entry) = found else { return Ok(None) };
    let clock = FlowClock::read()?;
    let Some(state) = state(entry.state) else { return Ok(None) };
    // Its packets bring it back to life, until another flow takes its place.
    let age = clock.age(&entry);
    if state == FlowState::OfHost {
        return Ok(Some(ReplyFlow::new(state, None, age)));
    }
    let Some(way) = pins.tables.replies.ways()?.remove(&entry.way.into()) else { return Ok(None) };
    // The programs send nothing back by a device that is gone.
    if !pins.tables.replies.is_receiver(way.ifindex)? {
        return Ok(None);
    }
    let out = pins.tables.replies.liveness()?.map_or(0, |it| it.out(entry.way.into()));
    let way_state = way_state(out > monotonic_now()?, links.get(&way.ifindex));
    let way = reply_way(&way, links, &Neighbours::read(pins, network)?);
    Ok(Some(ReplyFlow { way_state, ..ReplyFlow::new(state, Some(way), age) }))
}

/// Removes one flow, and returns it.
pub(crate) fn remove(pins: Option<&Pins>, network: &mut Network, flow: &FlowSpec) -> Result<ReplyFlow> {
    if flow.incoming.is_some() {
        return Err(FlowError::Incoming.into());
    }
    let key = key(flow)?;
    let gone = || Error::NoSuchFlow(flow.clone());
    let Some(pins) = pins else { return Err(gone()) };
    let links = network.links()?;
    let found = find(pins, network, &links, &key)?.ok_or_else(gone)?;
    let removed = pins.tables.replies.flows()?.and_then(|table| table.remove(&key));
    removed.map(|_| found).ok_or_else(gone)
}

/// Removes all flows, or those that have come in by one device. Returns how many.
pub(crate) fn flush(pins: Option<&Pins>, network: &mut Network, device: Option<&str>) -> Result<u64> {
    let links = network.links()?;
    let only = device.map(|name| named(&links, name)).transpose()?;
    let Some(pins) = pins else { return Ok(0) };
    let Some(index) = only else { return pins.tables.replies.forget_flows() };
    let Some(table) = pins.tables.replies.flows()? else { return Ok(0) };
    let ways = pins.tables.replies.ways()?;
    let of_device: BTreeSet<u32> =
        ways.iter().filter(|(_, way)| way.ifindex == index).map(|(number, _)| *number).collect();
    Ok(table.remove_if(|entry| of_device.contains(&entry.way.into())))
}

fn named(links: &BTreeMap<u32, Link>, name: &str) -> Result<u32> {
    let link = links.values().find(|link| link.is_called(name));
    link.map(|link| link.device.index).ok_or_else(|| Error::NoSuchDevice(name.to_owned()))
}

/// Returns what tells the flow of these packets from all others, or what keeps anybody from that.
pub(crate) fn key(flow: &FlowSpec) -> std::result::Result<FlowKey, FlowError> {
    let incomplete = |missing| FlowError::Incomplete { flow: Box::new(flow.clone()), missing };
    let (remote, protocol) = flow.parts().map_err(incomplete)?;
    if protocol.is_icmp() {
        return Err(FlowError::Echo(Box::new(flow.clone())));
    }
    Ok(FlowKey {
        remote,
        local: flow.source,
        protocol: protocol.number(),
        remote_port: flow.destination_port.unwrap_or(0),
        local_port: flow.source_port.unwrap_or(0),
    })
}

fn state(state: u8) -> Option<FlowState> {
    match state {
        FLOW_NEW | FLOW_ANSWERED_SYN | FLOW_REQUESTED => Some(FlowState::New),
        FLOW_ANSWERED => Some(FlowState::Answered),
        FLOW_IN_BOTH | FLOW_CONFIRMED => Some(FlowState::Established),
        FLOW_OF_HOST => Some(FlowState::OfHost),
        _ => None,
    }
}

/// Why an agent has taken a way out of service, if it has.
fn way_state(is_out: bool, link: Option<&Link>) -> WayState {
    match link {
        _ if !is_out => WayState::Up,
        Some(link) if !link.is_up => WayState::DeviceDown,
        Some(link) if !link.has_carrier => WayState::NoCarrier,
        _ => WayState::Silent,
    }
}

/// What the neighbour table and the programs know of neighbours.
pub(crate) struct Neighbours {
    addresses: NeighbourAddresses,
    successors: BTreeMap<(u32, Ethernet), Ethernet>,
}

impl Neighbours {
    fn read(pins: &Pins, network: &mut Network) -> Result<Self> {
        let (addresses, successors) = (network.addresses_of_neighbours()?, pins.tables.replies.successors()?);
        Ok(Self { addresses, successors })
    }

    /// What the programs alone know.
    pub(crate) fn heard(replies: &Replies) -> Result<Self> {
        Ok(Self { addresses: replies.heard()?, successors: replies.successors()? })
    }

    /// The Ethernet address that replies go to, by the same steps as the programs (`crates/byway-ebpf/src/heard.rs`).
    fn of_today(&self, ifindex: u32, sender: [u8; 6]) -> [u8; 6] {
        let next = |it: &Ethernet| self.successors.get(&(ifindex, *it)).copied();
        let steps = std::iter::successors(Some(ethernet_words(sender)), next);
        steps.take(3).last().map_or(sender, ethernet_bytes)
    }
}

pub(crate) fn reply_way(way: &Way, links: &BTreeMap<u32, Link>, neighbours: &Neighbours) -> ReplyWay {
    let device = match links.get(&way.ifindex) {
        Some(link) => link.device.clone(),
        None => Device::from_kernel("", way.ifindex),
    };
    let lladdr = way.sender().map(|sender| neighbours.of_today(way.ifindex, sender));
    let addresses = lladdr.and_then(|it| neighbours.addresses.get(&(way.ifindex, it)));
    ReplyWay {
        device,
        lladdr: lladdr.map(LinkLayerAddress),
        addresses: addresses.into_iter().flatten().copied().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_one_flow_if_nothing_is_missing() {
        for (words, sentence) in [
            ("192.0.2.7", "`192.0.2.7` may be many flows: it lacks `to`, `proto`, `sport` and `dport`"),
            (
                "192.0.2.7 to 198.51.100.9 proto tcp dport 80",
                "`192.0.2.7 to 198.51.100.9 proto tcp dport 80` may be many flows: it lacks `sport`",
            ),
            (
                "2001:db8::7 to 2001:db8::8 proto icmp",
                "`2001:db8::7 to 2001:db8::8 proto icmpv6` may be many flows: a number in each ping tells them apart, and there is no word for it",
            ),
        ] {
            assert_eq!(key(&words.parse().unwrap()).unwrap_err().sentence(), sentence, "{words}");
        }
        let key = key(&"192.0.2.7 to 198.51.100.9 proto udp sport 53 dport 4711".parse().unwrap()).unwrap();
        assert_eq!((key.remote_port, key.local_port), (4711, 53));
    }

    #[test]
    fn a_way_is_named_as_ip_neigh_names_a_neighbour() {
        let mut way = Way { ifindex: 3, addresses: [0; 3] };
        let named = |way: &Way| {
            let addresses = [((3, [2, 66, 10, 0, 0, 21]), BTreeSet::from(["10.0.0.21".parse().unwrap()]))];
            let successor =
                [((3, ethernet_words([2, 66, 10, 0, 0, 9])), ethernet_words([2, 66, 10, 0, 0, 21]))];
            let neighbours = Neighbours { addresses: addresses.into(), successors: successor.into() };
            reply_way(way, &BTreeMap::new(), &neighbours).to_string()
        };
        assert_eq!(named(&way), "dev if3");
        way.addresses = [[1, 2, 3, 4], [5, 6, 2, 66], [10, 0, 0, 21]].map(u32::from_ne_bytes);
        assert_eq!(named(&way), "via 10.0.0.21 lladdr 02:42:0a:00:00:15 dev if3");
        way.addresses[2] = u32::from_ne_bytes([10, 0, 0, 9]);
        assert_eq!(named(&way), "via 10.0.0.21 lladdr 02:42:0a:00:00:15 dev if3");
        way.addresses[2] = u32::from_ne_bytes([10, 0, 0, 22]);
        assert_eq!(named(&way), "lladdr 02:42:0a:00:00:16 dev if3");
    }
}
