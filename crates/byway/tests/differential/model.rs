//! What should become of a packet, in plain Rust: linear searches and maps. It shares the rules' plain data types with
//! Byway, and no code that decides anything.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
};

use byway::{Group, Member, NextHop, OnDown, Prefix, Rule, Selector, Target};
use byway_abi::{AttachmentCounters, Count, Counters, NextHopCounters, class};

pub(crate) const ETHERNET: usize = 14;
pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const IPV6: u16 = 0x86DD;

pub(crate) const HOP_BY_HOP: u8 = 0;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const DCCP: u8 = 33;
pub(crate) const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
pub(crate) const AUTHENTICATION: u8 = 51;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const DESTINATION: u8 = 60;
pub(crate) const SCTP: u8 = 132;
pub(crate) const UDP_LITE: u8 = 136;
pub(crate) const WITH_PORTS: [u8; 5] = [TCP, UDP, DCCP, SCTP, UDP_LITE];

/// An address as the bits that a prefix counts, from the left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Address {
    pub(crate) is_v4: bool,
    pub(crate) bits: u128,
}

impl Address {
    pub(crate) fn width(&self) -> u8 {
        if self.is_v4 { 32 } else { 128 }
    }

    /// From its bytes in network order.
    fn read(bytes: &[u8]) -> Self {
        let mut all = [0; 16];
        all[..bytes.len()].copy_from_slice(bytes);
        Self { is_v4: bytes.len() == 4, bits: u128::from_be_bytes(all) }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.bits.to_be_bytes()[..usize::from(self.width() / 8)].to_vec()
    }

    pub(crate) fn ip(&self) -> IpAddr {
        if self.is_v4 {
            ((self.bits >> 96) as u32).to_be_bytes().into()
        } else {
            self.bits.to_be_bytes().into()
        }
    }

    /// Whether the first bits of both are the same.
    pub(crate) fn agrees(&self, other: &Self, length: u8) -> bool {
        self.is_v4 == other.is_v4
            && (length == 0 || (self.bits ^ other.bits) >> (128 - u32::from(length)) == 0)
    }

    fn is_in(&self, text: &str) -> bool {
        let (address, length) = text.split_once('/').unwrap();
        self.agrees(&Self::from(address.parse::<IpAddr>().unwrap()), length.parse().unwrap())
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::read(&v4.octets()),
            IpAddr::V6(v6) => Self::read(&v6.octets()),
        }
    }
}

/// What the packets of a flow have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Flow {
    pub(crate) source: Address,
    pub(crate) destination: Address,
    pub(crate) protocol: u8,
    /// Those of a protocol that has any.
    pub(crate) ports: Option<[u8; 4]>,
}

/// What the fragments of a packet have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Whole {
    source: Address,
    destination: Address,
    id: u32,
    protocol: u8,
}

/// What decides about the choice of a group's member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Identity {
    Flow(Flow),
    /// A fragment, with the flow where it is the first one and says so.
    Fragment(Whole, Option<Flow>),
    /// The contract says nothing about what cannot be read: extension headers or ports that are cut off.
    Unclear,
}

/// What a frame is before any rule is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// One of [`class`].
    LeftAlone(usize),
    Packet {
        source: Address,
        destination: Address,
        identity: Identity,
    },
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().unwrap()))
}

pub(crate) fn ether_type(frame: &[u8]) -> Option<u16> {
    be16(frame, 12)
}

/// Reads a frame. VLAN tags are no part of it: BPF_PROG_TEST_RUN has no way to give a packet one, and a tag in the
/// frame's bytes is an EtherType like any other.
pub(crate) fn parse(frame: &[u8]) -> Parsed {
    let packet = &frame[ETHERNET..];
    let is_to_many = frame[0] & 1 != 0;
    match ether_type(frame) {
        Some(IPV4) => parse_v4(packet, is_to_many),
        Some(IPV6) => parse_v6(packet, is_to_many),
        _ => Parsed::LeftAlone(class::NOT_IP),
    }
}

fn parse_v4(packet: &[u8], is_to_many: bool) -> Parsed {
    let header = usize::from(packet.first().map_or(0, |first| first & 0xF)) * 4;
    if packet.is_empty() || packet[0] >> 4 != 4 || header < 20 || packet.len() < header {
        return Parsed::LeftAlone(class::MALFORMED);
    }
    let (source, destination) = (Address::read(&packet[12..16]), Address::read(&packet[16..20]));
    let link_local = |address: &Address| address.is_in("169.254.0.0/16");
    if destination.is_in("224.0.0.0/4") {
        return Parsed::LeftAlone(class::MULTICAST);
    } else if link_local(&source) || link_local(&destination) {
        return Parsed::LeftAlone(class::LINK_LOCAL);
    } else if destination.is_in("255.255.255.255/32") || is_to_many {
        return Parsed::LeftAlone(class::BROADCAST);
    }
    let end = usize::from(be16(packet, 2).unwrap());
    let (id, fragment, protocol) = (be16(packet, 4).unwrap(), be16(packet, 6).unwrap(), packet[9]);
    let flow = || flow(source, destination, protocol, packet, header, end);
    let whole = Whole { source, destination, id: id.into(), protocol };
    let identity = match (fragment & 0x1FFF, fragment & 0x2000 != 0) {
        (0, false) => flow().map_or(Identity::Unclear, Identity::Flow),
        (0, true) => Identity::Fragment(whole, flow()),
        _ => Identity::Fragment(whole, None),
    };
    Parsed::Packet { source, destination, identity }
}

fn parse_v6(packet: &[u8], is_to_many: bool) -> Parsed {
    if packet.len() < 40 || packet[0] >> 4 != 6 || packet[6] == ICMPV6 && packet.len() < 41 {
        return Parsed::LeftAlone(class::MALFORMED);
    }
    let (source, destination) = (Address::read(&packet[8..24]), Address::read(&packet[24..40]));
    let link_local = |address: &Address| address.is_in("fe80::/10");
    if destination.is_in("ff00::/8") {
        return Parsed::LeftAlone(class::MULTICAST);
    } else if link_local(&source) || link_local(&destination) {
        return Parsed::LeftAlone(class::LINK_LOCAL);
    } else if is_to_many {
        return Parsed::LeftAlone(class::MULTICAST);
    } else if packet[6] == ICMPV6 && (133..=137).contains(&packet[40]) {
        return Parsed::LeftAlone(class::NEIGHBOUR_DISCOVERY);
    }
    Parsed::Packet { source, destination, identity: identity_v6(packet, source, destination) }
}

/// Goes through the extension headers (RFC 8200, section 4; RFC 4302).
fn identity_v6(packet: &[u8], source: Address, destination: Address) -> Identity {
    let end = 40 + usize::from(be16(packet, 4).unwrap());
    let (mut next, mut at, mut whole) = (packet[6], 40, None);
    let flow = loop {
        let length = |unit: usize, more: usize| Some((usize::from(*packet.get(at + 1)?) + more) * unit);
        let length = match next {
            // It has its place at the beginning and nowhere else.
            HOP_BY_HOP if at != 40 => break None,
            HOP_BY_HOP | ROUTING | DESTINATION => length(8, 1),
            AUTHENTICATION => length(4, 2),
            FRAGMENT => Some(8),
            _ => break flow(source, destination, next, packet, at, end),
        };
        let Some(length) = length.filter(|length| at + length <= packet.len().min(end)) else { break None };
        if next == FRAGMENT {
            if whole.is_some() {
                break None;
            }
            let (offset, is_more) = (packet[at + 2..at + 4].to_vec(), packet[at + 3] & 1 != 0);
            let is_first = offset[0] == 0 && offset[1] & 0xF8 == 0;
            let id = u32::from_be_bytes(packet[at + 4..at + 8].try_into().unwrap());
            let fragment = Whole { source, destination, id, protocol: packet[at] };
            if !is_first {
                return Identity::Fragment(fragment, None);
            }
            // The one fragment of a packet is a packet (RFC 6946).
            whole = is_more.then_some(fragment);
        }
        (next, at) = (packet[at], at + length);
    };
    match whole {
        Some(whole) => Identity::Fragment(whole, flow),
        None => flow.map_or(Identity::Unclear, Identity::Flow),
    }
}

/// The flow of a packet whose transport header begins at `at`, by a length field that says where it ends.
fn flow(
    source: Address,
    destination: Address,
    protocol: u8,
    packet: &[u8],
    at: usize,
    end: usize,
) -> Option<Flow> {
    let ports = if WITH_PORTS.contains(&protocol) {
        let ports = packet.get(at..at + 4).filter(|_| at + 4 <= end)?;
        Some(ports.try_into().unwrap())
    } else {
        None
    };
    Some(Flow { source, destination, protocol, ports })
}

/// What the program should do with a packet.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Expected {
    /// One of [`class`].
    LeftAlone(usize),
    Pass(Selector),
    Drop(Selector),
    /// No next hop is live. Those that should have had the packet are all down.
    Down(Selector, OnDown, Vec<NextHop>),
    /// To the one next hop.
    NextHop(Selector, NextHop),
    /// To a live one of a group's members.
    Member(Selector, Choice),
}

/// What is known of the choice of a member.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Choice {
    group: GroupKey,
    pub(crate) members: Vec<NextHop>,
    /// One bit a member.
    live: u32,
    key: Option<FlowKey>,
    /// The only member that it may be, where earlier packets tell.
    pub(crate) must_be: Option<NextHop>,
}

impl Choice {
    pub(crate) fn down(&self) -> impl Iterator<Item = &NextHop> {
        self.members.iter().enumerate().filter(|(nth, _)| self.live >> nth & 1 == 0).map(|(_, member)| member)
    }
}

/// A named group, or that of the one rule.
#[derive(Debug, Clone, PartialEq)]
enum GroupKey {
    Named(String),
    Own(Selector),
}

/// What always leads to the same member while the live ones are the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum FlowKey {
    Flow(Flow),
    /// A packet whose first fragment was not the first to come.
    Whole(Whole),
}

/// The choices that packets have shown, by flow and live members.
type Choices = HashMap<FlowKey, HashMap<u32, usize>>;

struct RuleState {
    rule: Rule,
    counters: Counters,
    choices: Choices,
}

struct GroupState {
    group: Group,
    choices: Choices,
}

#[derive(Default)]
struct NextHopState {
    is_down: bool,
    counters: NextHopCounters,
}

/// The rules, the groups, and what packets have done so far.
#[derive(Default)]
pub(crate) struct Model {
    rules: BTreeMap<Selector, RuleState>,
    groups: BTreeMap<String, GroupState>,
    next_hops: BTreeMap<NextHop, NextHopState>,
    attachments: BTreeMap<u32, AttachmentCounters>,
    /// The packets that fragments have been seen of since the last change.
    fragmented: HashMap<Whole, FlowKey>,
    /// Those of all times: an identification that is used again is anybody's guess.
    ever_fragmented: HashSet<Whole>,
}

pub(crate) fn add(sum: &mut Count, packets: u64, bytes: u64) {
    sum.packets += packets;
    sum.bytes += bytes;
}

fn members(target: &[Member]) -> Vec<NextHop> {
    target.iter().map(|member| member.next_hop.clone()).collect()
}

impl Model {
    pub(crate) fn attach(&mut self, ifindex: u32) {
        self.attachments.insert(ifindex, AttachmentCounters::default());
    }

    pub(crate) fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.rules.values().map(|state| &state.rule)
    }

    pub(crate) fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.values().map(|state| &state.group)
    }

    pub(crate) fn next_hops(&self) -> impl Iterator<Item = (&NextHop, bool)> {
        self.next_hops.iter().map(|(next_hop, state)| (next_hop, state.is_down))
    }

    pub(crate) fn rule(&self, selector: &Selector) -> &Rule {
        &self.rules[selector].rule
    }

    pub(crate) fn rule_counters(&self, selector: &Selector) -> &Counters {
        &self.rules[selector].counters
    }

    pub(crate) fn next_hop_counters(&self, next_hop: &NextHop) -> &NextHopCounters {
        &self.next_hops[next_hop].counters
    }

    pub(crate) fn attachment_counters(&self, ifindex: u32) -> &AttachmentCounters {
        &self.attachments[&ifindex]
    }

    /// A rule that is the same stays, with all that it has counted.
    pub(crate) fn put(&mut self, rule: &Rule) {
        if self.rules.get(&rule.selector()).is_none_or(|state| state.rule != *rule) {
            let state =
                RuleState { rule: rule.clone(), counters: Counters::default(), choices: Choices::default() };
            self.rules.insert(rule.selector(), state);
        }
    }

    pub(crate) fn delete(&mut self, selector: &Selector) {
        self.rules.remove(selector);
    }

    pub(crate) fn flush(&mut self) {
        self.rules.clear();
    }

    pub(crate) fn put_group(&mut self, group: &Group) {
        if self.groups.get(&group.name).is_none_or(|state| state.group != *group) {
            let state = GroupState { group: group.clone(), choices: Choices::default() };
            self.groups.insert(group.name.clone(), state);
        }
    }

    pub(crate) fn set_down(&mut self, next_hop: &NextHop, is_down: bool) {
        self.next_hops.get_mut(next_hop).unwrap().is_down = is_down;
    }

    /// After each change. A next hop that nothing leads to any more is forgotten, and fragments of before are no longer
    /// expected; of flows only those are remembered that will come again.
    pub(crate) fn settle(&mut self, again: impl Fn(&Flow) -> bool) {
        let of_rules = self.rules.values().flat_map(|state| state.rule.target.next_hops());
        let of_groups =
            self.groups.values().flat_map(|state| &state.group.members).map(|member| &member.next_hop);
        let used: BTreeSet<NextHop> = of_rules.chain(of_groups).cloned().collect();
        self.next_hops.retain(|next_hop, _| used.contains(next_hop));
        for next_hop in used {
            self.next_hops.entry(next_hop).or_default();
        }
        self.fragmented.clear();
        let of_rules = self.rules.values_mut().map(|state| &mut state.choices);
        let of_groups = self.groups.values_mut().map(|state| &mut state.choices);
        for choices in of_rules.chain(of_groups) {
            choices.retain(|key, _| matches!(key, FlowKey::Flow(flow) if again(flow)));
        }
    }

    /// The rule that speaks about a packet: longest source first, then longest destination.
    fn find(&self, source: &Address, destination: &Address) -> Option<&Rule> {
        let holds = |prefix: &Prefix, address| Address::from(prefix.address()).agrees(address, prefix.len());
        self.rules()
            .filter(|rule| {
                holds(&rule.source, source)
                    && rule.destination.is_none_or(|prefix| holds(&prefix, destination))
            })
            .max_by_key(|rule| (rule.source.len(), rule.destination.map_or(0, |prefix| prefix.len())))
    }

    fn is_live(&self, next_hop: &NextHop) -> bool {
        !self.next_hops[next_hop].is_down
    }

    pub(crate) fn expect(&mut self, frame: &[u8]) -> Expected {
        let (mut expected, identity) = self.decide(frame);
        if let Expected::Member(_, choice) = &mut expected {
            choice.key = self.key(identity);
            let must_be = choice.key.as_ref().and_then(|key| self.must_be(&choice.group, key, choice.live));
            choice.must_be = must_be.map(|nth| choice.members[nth].clone());
        }
        expected
    }

    pub(crate) fn is_redirected(&self, frame: &[u8]) -> bool {
        matches!(self.decide(frame).0, Expected::NextHop(..) | Expected::Member(..))
    }

    /// What becomes of a packet, without which of a group's members it is to be; that takes the identity beside it.
    fn decide(&self, frame: &[u8]) -> (Expected, Identity) {
        let (source, destination, identity) = match parse(frame) {
            Parsed::LeftAlone(class) => return (Expected::LeftAlone(class), Identity::Unclear),
            Parsed::Packet { source, destination, identity } => (source, destination, identity),
        };
        let expected = match self.find(&source, &destination) {
            Some(rule) => self.target(rule),
            None => Expected::LeftAlone(class::NOT_MATCHED),
        };
        (expected, identity)
    }

    fn target(&self, rule: &Rule) -> Expected {
        let selector = rule.selector();
        let (group, members, on_down) = match &rule.target {
            Target::Pass => return Expected::Pass(selector),
            Target::Drop => return Expected::Drop(selector),
            Target::NextHop(next_hop) if self.is_live(next_hop) => {
                return Expected::NextHop(selector, next_hop.clone());
            }
            Target::NextHop(next_hop) => {
                return Expected::Down(selector, rule.on_down, vec![next_hop.clone()]);
            }
            Target::NextHops(several) => (GroupKey::Own(selector), members(several), rule.on_down),
            Target::Group(name) => {
                let group = &self.groups[name].group;
                (GroupKey::Named(name.clone()), members(&group.members), group.on_down)
            }
            other => panic!("no rule of this test has the target {other}"),
        };
        let is_live = members.iter().map(|member| self.is_live(member)).enumerate();
        let live = is_live.fold(0, |live, (nth, is_live)| live | u32::from(is_live) << nth);
        if live == 0 {
            return Expected::Down(selector, on_down, members);
        }
        Expected::Member(selector, Choice { group, members, live, key: None, must_be: None })
    }

    /// What the packet's member depends on, where the contract says it.
    fn key(&mut self, identity: Identity) -> Option<FlowKey> {
        let (whole, flow) = match identity {
            Identity::Flow(flow) => return Some(FlowKey::Flow(flow)),
            Identity::Unclear => return None,
            Identity::Fragment(whole, flow) => (whole, flow),
        };
        if let Some(known) = self.fragmented.get(&whole) {
            return Some(known.clone());
        }
        if !self.ever_fragmented.insert(whole.clone()) {
            return None;
        }
        // The first to come decides for those that follow.
        let key = flow.map_or(FlowKey::Whole(whole.clone()), FlowKey::Flow);
        self.fragmented.insert(whole, key.clone());
        Some(key)
    }

    fn choices_mut(&mut self, group: &GroupKey) -> &mut Choices {
        match group {
            GroupKey::Named(name) => &mut self.groups.get_mut(name).unwrap().choices,
            GroupKey::Own(selector) => &mut self.rules.get_mut(selector).unwrap().choices,
        }
    }

    /// The member that earlier packets of the flow make the only right one. A member that goes down takes its own flows
    /// along and no other, and has them back when it comes back. So of two sets of live members, one within the other,
    /// both choose the same where the smaller one has what the larger one chose.
    fn must_be(&self, group: &GroupKey, key: &FlowKey, live: u32) -> Option<usize> {
        let choices = match group {
            GroupKey::Named(name) => &self.groups[name].choices,
            GroupKey::Own(selector) => &self.rules[selector].choices,
        };
        let earlier = choices.get(key)?;
        if let Some(same) = earlier.get(&live) {
            return Some(*same);
        }
        let larger = earlier.iter().find(|(then, chosen)| *then & live == live && live >> **chosen & 1 != 0);
        larger.map(|(_, chosen)| *chosen)
    }

    /// Takes in which member a packet was sent to, or says what is wrong with it.
    pub(crate) fn chose(&mut self, choice: &Choice, member: &NextHop) -> Result<(), String> {
        let Some(nth) = choice.members.iter().position(|other| other == member) else {
            return Err(format!("{member} is no member"));
        };
        if choice.live >> nth & 1 == 0 {
            return Err(format!("{member} is down"));
        }
        if let Some(must_be) = &choice.must_be
            && must_be != member
        {
            return Err(format!("earlier packets of {:?} say {must_be}", choice.key));
        }
        let Some(key) = &choice.key else { return Ok(()) };
        let choices = self.choices_mut(&choice.group).entry(key.clone()).or_default();
        let smaller = choices.iter().find(|(then, chosen)| {
            **then & choice.live == **then && **then >> nth & 1 != 0 && **chosen != nth
        });
        if let Some((_, chosen)) = smaller {
            let chosen = &choice.members[*chosen];
            return Err(format!("with fewer live members, {member} one of them, {key:?} went to {chosen}"));
        }
        choices.insert(choice.live, nth);
        Ok(())
    }

    /// Takes in that no try of a flow's failed: it would have gone to the same member, were all of them live.
    pub(crate) fn chose_first(&mut self, choice: &Choice, member: &NextHop) -> Result<(), String> {
        let all = (1_u64 << choice.members.len()) - 1;
        let whole = Choice { live: all as u32, must_be: None, ..choice.clone() };
        let must_be = choice.key.as_ref().and_then(|key| self.must_be(&choice.group, key, whole.live));
        let must_be = must_be.map(|nth| choice.members[nth].clone());
        self.chose(&Choice { must_be, ..whole }, member)
    }

    pub(crate) fn count_seen(&mut self, ifindex: u32, left_alone: Option<usize>, packets: u64, bytes: u64) {
        let counters = self.attachments.get_mut(&ifindex).unwrap();
        add(&mut counters.seen, packets, bytes);
        if let Some(class) = left_alone {
            add(&mut counters.left_alone[class], packets, bytes);
        }
    }

    pub(crate) fn count_rule(&mut self, selector: &Selector, count: impl FnOnce(&mut Counters)) {
        count(&mut self.rules.get_mut(selector).unwrap().counters);
    }

    pub(crate) fn count_next_hop(&mut self, next_hop: &NextHop, count: impl FnOnce(&mut NextHopCounters)) {
        count(&mut self.next_hops.get_mut(next_hop).unwrap().counters);
    }
}
