//! What should become of a packet, in plain Rust: linear searches and maps. It shares the rules' plain data types with
//! Byway, and no code that decides anything.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
};

use byway::{Group, Member, NextHop, OnDown, Prefix, Rule, Selector, Target};
use byway_abi::{AttachmentCounters, Count, NextHopCounters, class};

use super::{
    parse::{Address, Flow, Identity, Whole, parse},
    sizes::{self, Allowance, Fit},
    traffic::Frame,
};

/// What the program should do with a packet.
#[derive(Clone, PartialEq)]
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

/// What a packet is called in the tally of packets.
const CLASSES: [&str; class::MATCHED] = [
    "not IP",
    "malformed",
    "tagged",
    "multicast",
    "broadcast",
    "link-local",
    "neighbour discovery",
    "not matched",
];

impl Expected {
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::LeftAlone(class) => CLASSES[*class],
            Self::Pass(_) => "pass",
            Self::Drop(_) => "drop",
            Self::Down(_, OnDown::Pass, _) => "on-down pass",
            Self::Down(_, OnDown::Drop, _) => "on-down drop",
            Self::Down(_, other, _) => panic!("on-down {other}"),
            Self::NextHop(..) => "next hop",
            Self::Member(_, choice) => match (&choice.key, &choice.must_be) {
                (None, _) => "some member",
                (Some(_), None) => "a new flow's member",
                (Some(FlowKey::Flow(_)), Some(_)) => "a known flow's member",
                (Some(FlowKey::Whole(_)), Some(_)) => "a known fragment's member",
            },
        }
    }

    /// All that there is, but for what BPF_PROG_TEST_RUN cannot make, with the kinds of [`super::judge`].
    pub(crate) const KINDS: usize = CLASSES.len() - 1 + 9 + 3;
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LeftAlone(class) => write!(f, "left alone, class {class}"),
            Self::Pass(selector) => write!(f, "{selector} pass"),
            Self::Drop(selector) => write!(f, "{selector} drop"),
            Self::Down(selector, on_down, _) => write!(f, "{selector}, no live next hop, {on_down}"),
            Self::NextHop(selector, next_hop) => write!(f, "{selector} {next_hop}"),
            Self::Member(selector, choice) => {
                write!(f, "{selector}, one of")?;
                for (nth, member) in choice.members.iter().enumerate() {
                    let is_live = choice.live >> nth & 1 != 0;
                    write!(f, " [{member}{}]", if is_live { "" } else { " down" })?;
                }
                write!(f, ", by {:?}", choice.key)?;
                choice.must_be.as_ref().map_or(Ok(()), |member| write!(f, ", so {member}"))
            }
        }
    }
}

/// What is known of the choice of a member.
#[derive(Clone, PartialEq)]
pub(crate) struct Choice {
    group: GroupKey,
    pub(crate) members: Vec<NextHop>,
    /// One bit a member: those that it may be. They are live, and while one is no backup, none is.
    live: u32,
    /// The same of those that it may be while all are live.
    primaries: u32,
    key: Option<FlowKey>,
    /// The only member that it may be, where earlier packets tell.
    pub(crate) must_be: Option<NextHop>,
}

impl Choice {
    pub(crate) fn down(&self) -> impl Iterator<Item = &NextHop> {
        self.members_that(false)
    }

    pub(crate) fn live(&self) -> impl Iterator<Item = &NextHop> {
        self.members_that(true)
    }

    fn members_that(&self, are_live: bool) -> impl Iterator<Item = &NextHop> {
        let members = self.members.iter().enumerate();
        members.filter(move |(nth, _)| (self.live >> nth & 1 != 0) == are_live).map(|(_, member)| member)
    }
}

/// A named group, or that of the one rule.
#[derive(Clone, PartialEq)]
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

/// What a rule did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RuleCounters {
    pub(crate) departed: Count,
    pub(crate) arrived: Count,
    pub(crate) passed: Count,
    pub(crate) dropped: Count,
    pub(crate) no_next_hop: Count,
    pub(crate) clamped: Count,
    pub(crate) icmp_sent: Count,
    pub(crate) too_big_dropped: Count,
}

struct RuleState {
    rule: Rule,
    counters: RuleCounters,
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
    answers: Allowance,
}

/// The rules, the groups, and what packets have done so far.
#[derive(Default)]
pub(crate) struct Model {
    rules: BTreeMap<Selector, RuleState>,
    groups: BTreeMap<String, GroupState>,
    next_hops: BTreeMap<NextHop, NextHopState>,
    attachments: BTreeMap<u32, AttachmentCounters>,
    /// By ifindex: the longest packet that a device takes.
    mtus: BTreeMap<u32, usize>,
    /// The packets that fragments have been seen of since the last change.
    fragmented: HashMap<Whole, FlowKey>,
    /// Those of all times: an identification that is used again is anybody's guess.
    ever_fragmented: HashSet<Whole>,
}

pub(crate) fn add(sum: &mut Count, more: Count) {
    sum.packets += more.packets;
    sum.bytes += more.bytes;
}

/// One bit for each member that is meant.
fn bits(members: &[Member], is_meant: impl Fn(&Member) -> bool) -> u32 {
    members.iter().enumerate().fold(0, |bits, (nth, member)| bits | u32::from(is_meant(member)) << nth)
}

impl Model {
    pub(crate) fn attach(&mut self, ifindex: u32) {
        self.attachments.insert(ifindex, AttachmentCounters::default());
    }

    pub(crate) fn set_mtu(&mut self, ifindex: u32, mtu: usize) {
        self.mtus.insert(ifindex, mtu);
    }

    pub(crate) fn mtu(&self, next_hop: &NextHop) -> usize {
        self.mtus[&next_hop.device.index]
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

    pub(crate) fn rule_counters(&self, selector: &Selector) -> &RuleCounters {
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
            let state = RuleState {
                rule: rule.clone(),
                counters: RuleCounters::default(),
                choices: Choices::default(),
            };
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

    /// Whether a packet departs, to whichever member of a group.
    pub(crate) fn departs(&self, frame: &Frame) -> bool {
        match self.decide(&frame.bytes).0 {
            Expected::NextHop(selector, next_hop) => self.fits(frame, &selector, [&next_hop]),
            Expected::Member(selector, choice) => self.fits(frame, &selector, choice.live()),
            _ => false,
        }
    }

    pub(crate) fn fits<'a>(
        &self,
        frame: &Frame,
        selector: &Selector,
        next_hops: impl IntoIterator<Item = &'a NextHop>,
    ) -> bool {
        next_hops.into_iter().all(|next_hop| matches!(self.fit(frame, selector, next_hop), Fit::Departs(_)))
    }

    pub(crate) fn fit(&self, frame: &Frame, selector: &Selector, next_hop: &NextHop) -> Fit {
        sizes::fit(frame, self.mtu(next_hop), self.rule(selector).mss)
    }

    /// What becomes of a packet, without which of a group's members it is to be; that takes the identity beside it.
    fn decide(&self, frame: &[u8]) -> (Expected, Identity) {
        let packet = match parse(frame) {
            Ok(packet) => packet,
            Err(class) => return (Expected::LeftAlone(class), Identity::Unclear),
        };
        let expected = match self.find(&packet.source, &packet.destination) {
            Some(rule) => self.target(rule),
            None => Expected::LeftAlone(class::NOT_MATCHED),
        };
        (expected, packet.identity)
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
            Target::NextHops(several) => (GroupKey::Own(selector), several, rule.on_down),
            Target::Group(name) => {
                let group = &self.groups[name].group;
                (GroupKey::Named(name.clone()), &group.members, group.on_down)
            }
            other => panic!("no rule of this test has the target {other}"),
        };
        let primaries = bits(members, |member| !member.is_backup);
        let live = bits(members, |member| self.is_live(&member.next_hop));
        // Of the backups the first one.
        let live = if live & primaries != 0 { live & primaries } else { live & live.wrapping_neg() };
        let members = members.iter().map(|member| member.next_hop.clone()).collect();
        if live == 0 {
            return Expected::Down(selector, on_down, members);
        }
        Expected::Member(selector, Choice { group, members, live, primaries, key: None, must_be: None })
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
            return Err(format!("it went to {member}, and earlier packets went to {must_be}"));
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
        let whole = Choice { live: choice.primaries, must_be: None, ..choice.clone() };
        let must_be = choice.key.as_ref().and_then(|key| self.must_be(&choice.group, key, whole.live));
        let must_be = must_be.map(|nth| choice.members[nth].clone());
        self.chose(&Choice { must_be, ..whole }, member)
    }

    pub(crate) fn count_seen(&mut self, ifindex: u32, left_alone: Option<usize>, size: Count) {
        let counters = self.attachments.get_mut(&ifindex).unwrap();
        add(&mut counters.of[left_alone.unwrap_or(class::MATCHED)], size);
    }

    pub(crate) fn count_rule(&mut self, selector: &Selector, count: impl FnOnce(&mut RuleCounters)) {
        count(&mut self.rules.get_mut(selector).unwrap().counters);
    }

    pub(crate) fn allowance(&mut self, next_hop: &NextHop) -> &mut Allowance {
        &mut self.next_hops.get_mut(next_hop).unwrap().answers
    }

    pub(crate) fn count_next_hop(&mut self, next_hop: &NextHop, count: impl FnOnce(&mut NextHopCounters)) {
        count(&mut self.next_hops.get_mut(next_hop).unwrap().counters);
    }
}
