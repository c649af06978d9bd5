//! Whatever entries and routes there are: Byway by what was imported does what Linux did, at each step of the move and
//! without each device, or a remark says that it does not. Linux is a model here that shares no code with the import.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    slice,
};

use proptest::{collection::vec, prelude::*, sample::select};

use super::host::{host, rule};
use crate::{
    import::{
        Imported,
        policy::{Action, Condition, Hop, LOCAL, MAIN, Policy, PolicyRule, Refusal, RouteKind, TableRoute},
        translate,
    },
    model::Prefix,
    model::{GroupSpec, NextHopSpec, OnDown, RuleSpec, TargetSpec},
};

/// What becomes of a packet: the next hops that it may go to, and none where it is dropped.
pub(super) type Fate = Option<BTreeSet<(Option<IpAddr>, String, u16)>>;

/// Two bits of sources and three of destinations tell everything apart that there is to tell.
fn prefix(base: [u8; 4], bits: u8) -> impl Strategy<Value = Prefix> {
    let at = 32 - bits;
    let within = (at..=32_u8, 0..1_u8 << bits).prop_map(move |(length, low)| {
        let address = IpAddr::from([base[0], base[1], base[2], base[3] + low]);
        Prefix::holding(address, length).unwrap()
    });
    prop_oneof![1 => Just("0.0.0.0/0".parse().unwrap()), 3 => within]
}

const SOURCES: [u8; 4] = [10, 0, 0, 8];
const DESTINATIONS: [u8; 4] = [10, 9, 0, 16];

fn hop() -> impl Strategy<Value = Hop> {
    let device = select(vec!["eth0", "eth1", "eth2"]);
    let gateway = prop_oneof![Just(None), (1..4_u8).prop_map(|last| Some(IpAddr::from([10, 1, 0, last])))];
    (gateway, device, 0..2_u32, 1..4_u16, prop::bool::weighted(0.15)).prop_map(
        |(gateway, device, group, weight, dead)| Hop {
            gateway,
            device: Some(device.to_owned()),
            group,
            weight,
            onlink: false,
            dead,
        },
    )
}

fn route() -> impl Strategy<Value = TableRoute> {
    let kind = prop_oneof![
        5 => hop().prop_map(|mut hop| {
            hop.weight = 1;
            RouteKind::Unicast(vec![hop])
        }),
        1 => vec(hop(), 2..4).prop_map(RouteKind::Unicast),
        1 => Just(RouteKind::Throw),
        1 => refusal().prop_map(RouteKind::Refuse),
    ];
    let table = select(vec![100, 100, 200, 200, MAIN]);
    (table, prefix(DESTINATIONS, 3), 0..3_u32, kind).prop_map(|(table, destination, metric, kind)| {
        TableRoute { table, destination, metric, kind, preferred_source: None, only: None }
    })
}

fn refusal() -> impl Strategy<Value = Refusal> {
    select(vec![Refusal::Blackhole, Refusal::Unreachable, Refusal::Prohibit])
}

fn entry() -> impl Strategy<Value = PolicyRule> {
    let lookup = (
        select(vec![100, 100, 200, 200, 300, MAIN, LOCAL]),
        prop::option::weighted(0.2, select(vec![0, 30])),
        prop::option::weighted(0.1, 0..2_u32),
    )
        .prop_map(|(table, suppress_length, suppress_group)| Action::Lookup {
            table,
            suppress_length,
            suppress_group,
        });
    let conditions = prop_oneof![
        12 => Just(Vec::new()),
        2 => Just(vec![Condition::Not]),
        2 => mark().prop_map(|mark| vec![mark]),
        1 => mark().prop_map(|mark| vec![Condition::Not, mark]),
        1 => Just(vec![Condition::SourcePorts(7, 7)]),
    ];
    // The last is behind main.
    let priority = prop_oneof![9 => 1..10_u32, 1 => Just(LAST)];
    let addresses = (prefix(SOURCES, 2), prefix(DESTINATIONS, 3), any::<bool>());
    (priority, addresses, conditions, lookup, 0..20_u32, refusal()).prop_map(
        |(priority, (source, to, is_for_all), conditions, lookup, dice, refusal)| {
            let action = match dice {
                0 | 1 => Action::Refuse(refusal),
                2 => Action::Nop,
                3 | 4 if priority < LAST => Action::Goto(priority + dice),
                5 if priority < LAST => Action::Goto(LAST),
                _ => lookup,
            };
            let mut rule = rule(priority, source, action);
            rule.destination = if is_for_all { "0.0.0.0/0".parse().unwrap() } else { to };
            rule.conditions = conditions;
            rule
        },
    )
}

/// The priority of the last entry there may be.
const LAST: u32 = 32800;

fn mark() -> impl Strategy<Value = Condition> {
    (1..3_u32).prop_map(|mark| Condition::Fwmark { mark, mask: u32::MAX })
}

pub(super) fn policy() -> impl Strategy<Value = Policy> {
    (vec(entry(), 1..7), vec(route(), 0..9)).prop_map(|(rules, routes)| {
        let mut policy = host("table main: default via 10.1.0.1 dev eth0");
        policy.rules.extend(rules);
        policy.rules.sort_by_key(|rule| rule.priority);
        policy.routes.extend(routes);
        // Linux has one route of a destination and metric.
        let mut seen = BTreeSet::new();
        policy.routes.retain(|route| seen.insert((route.table, route.destination, route.metric)));
        policy
    })
}

/// What entries tell apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packet {
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    pub(super) mark: u32,
    pub(super) port: u16,
}

/// The port of packets that fulfil no conditions, whatever they are.
pub(super) const PLAIN: u16 = 0;

/// The packets of these addresses, those that fulfil no conditions first.
pub(super) fn packets() -> impl Iterator<Item = Packet> {
    // The last of each is none that an entry or a route names.
    (0..9).flat_map(|to| (0..5).map(move |from| (from, to))).flat_map(|(from, to)| {
        let from = IpAddr::from([10, 0, 0, SOURCES[3] + from]);
        let to = IpAddr::from([10, 9, 0, DESTINATIONS[3] + to]);
        [(0, PLAIN), (0, 1), (1, 1), (2, 1), (0, 7), (1, 7), (2, 7)].map(|(mark, port)| Packet {
            from,
            to,
            mark,
            port,
        })
    })
}

/// Whether an entry is for a packet (fib_rule_match, net/core/fib_rules.c).
fn is_for(rule: &PolicyRule, packet: Packet) -> bool {
    if has_conditions(rule) && packet.port == PLAIN {
        return false;
    }
    let mut is_inverted = false;
    let is_fulfilled = rule.conditions.iter().all(|condition| match condition {
        Condition::Not => {
            is_inverted = true;
            true
        }
        Condition::Fwmark { mark, .. } => *mark == packet.mark,
        Condition::SourcePorts(port, _) => *port == packet.port,
        _ => unreachable!(),
    });
    let is_addressed = rule.source.contains(packet.from) && rule.destination.contains(packet.to);
    (is_fulfilled && is_addressed) != is_inverted
}

pub(super) fn has_conditions(rule: &PolicyRule) -> bool {
    rule.conditions.iter().any(|condition| *condition != Condition::Not)
}

/// A configuration, and its rules one by one.
struct Rules {
    rules: Vec<RuleSpec>,
    groups: Vec<GroupSpec>,
}

/// Byway's choice: the most specific source, then the most specific destination.
fn chosen(rules: &[RuleSpec], packet: Packet) -> Option<&RuleSpec> {
    let speaks = |rule: &&RuleSpec| {
        let Packet { from, to, .. } = packet;
        rule.selector.source().contains(from)
            && rule.selector.destination().is_none_or(|prefix| prefix.contains(to))
    };
    let key = |rule: &&RuleSpec| {
        (rule.selector.source().len(), rule.selector.destination().map(|prefix| prefix.len()))
    };
    rules.iter().filter(speaks).max_by_key(key)
}

/// A host at one step of the move.
#[derive(Debug, Clone, Copy)]
pub(super) struct Host<'h> {
    pub(super) policy: &'h Policy,
    /// The device that has gone.
    pub(super) gone: Option<&'h str>,
    /// The entries that were imported have gone.
    pub(super) is_moved: bool,
}

impl<'h> Host<'h> {
    /// The hops of a route that are there.
    fn hops(&self, route: &'h TableRoute) -> Vec<&'h Hop> {
        let RouteKind::Unicast(hops) = &route.kind else { return Vec::new() };
        hops.iter().filter(|hop| !hop.dead && hop.device.as_deref() != self.gone).collect()
    }

    /// A table's route to an address (fib_table_lookup, net/ipv4/fib_trie.c).
    fn look_up(&self, table: u32, to: IpAddr) -> Option<&'h TableRoute> {
        let is_found = |route: &&TableRoute| route.table == table && route.destination.contains(to);
        let is_there = |route: &&'h TableRoute| {
            !matches!(route.kind, RouteKind::Unicast(_)) || !self.hops(route).is_empty()
        };
        let routes = self.policy.routes.iter().filter(is_found).filter(is_there);
        routes.max_by_key(|route| (route.destination.len(), std::cmp::Reverse(route.metric)))
    }

    /// What Linux does (fib_rules_lookup, net/core/fib_rules.c): the route, and the entry that decides.
    pub(super) fn linux(&self, packet: Packet) -> (Option<&'h TableRoute>, Option<&'h PolicyRule>) {
        let is_there = |rule: &&PolicyRule| !self.is_moved || rule.is_initial() || has_conditions(rule);
        let rules: Vec<&PolicyRule> = self
            .policy
            .rules
            .iter()
            .filter(|rule| rule.source.address().is_ipv4())
            .filter(is_there)
            .collect();
        let mut place = 0;
        while let Some(rule) = rules.get(place) {
            place += 1;
            if !is_for(rule, packet) {
                continue;
            }
            match rule.action {
                Action::Goto(priority) => {
                    if let Some(target) = rules.iter().position(|other| other.priority == priority) {
                        place = target;
                    }
                }
                Action::Refuse(_) => return (None, Some(rule)),
                Action::Lookup { table, suppress_length, suppress_group } => {
                    let Some(route) = self.look_up(table, packet.to) else { continue };
                    match &route.kind {
                        RouteKind::Throw => {}
                        RouteKind::Unicast(hops)
                            if suppress_length
                                .is_some_and(|length| u32::from(route.destination.len()) <= length)
                                || suppress_group.is_some_and(|group| hops[0].group == group) => {}
                        _ => return (Some(route), Some(rule)),
                    }
                }
                _ => {}
            }
        }
        (None, None)
    }

    pub(super) fn fate(&self, route: Option<&'h TableRoute>) -> Fate {
        let hops = self.hops(route?);
        sum(hops.iter().map(|hop| (hop.gateway, hop.device.clone().unwrap(), hop.weight)))
    }

    /// What becomes of a packet that Linux sends by this route, if Byway sees it on its way.
    fn with_byway(&self, config: &Rules, packet: Packet, route: Option<&'h TableRoute>) -> Fate {
        let by_linux = self.fate(route);
        if !self.leaves_by_attachment(route) {
            return by_linux;
        }
        let Some(rule) = chosen(&config.rules, packet) else { return by_linux };
        let (members, on_down) = match &rule.target {
            TargetSpec::Pass => return by_linux,
            TargetSpec::Drop => return None,
            TargetSpec::NextHop(spec) => (vec![(spec, 1)], rule.on_down),
            TargetSpec::NextHops(members) => {
                (members.iter().map(|it| (&it.next_hop, it.weight)).collect(), rule.on_down)
            }
            TargetSpec::Group(name) => {
                let group = config.groups.iter().find(|group| group.name == *name).unwrap();
                (group.members.iter().map(|it| (&it.next_hop, it.weight)).collect(), group.on_down)
            }
        };
        let device = |spec: &NextHopSpec| spec.device().unwrap().to_owned();
        let there = members.into_iter().filter(|(spec, _)| spec.device() != self.gone);
        match sum(there.map(|(spec, weight)| (spec.gateway(), device(spec), weight))) {
            None if on_down == OnDown::Pass => by_linux,
            fate => fate,
        }
    }

    /// Whether a route leads out of interfaces that carry a default route.
    fn leaves_by_attachment(&self, route: Option<&'h TableRoute>) -> bool {
        let is_default = |route: &&TableRoute| route.table == MAIN && route.destination.is_all();
        let attachments: BTreeSet<&str> =
            self.policy.routes.iter().filter(is_default).flat_map(devices).collect();
        let devices: BTreeSet<&str> =
            route.map(|route| self.hops(route)).unwrap_or_default().into_iter().map(name).collect();
        !devices.is_empty() && devices.is_subset(&attachments)
    }

    /// Whether all of the route leads past the attachments.
    fn leaves_past_attachments(&self, route: Option<&'h TableRoute>) -> bool {
        let is_default = |route: &&TableRoute| route.table == MAIN && route.destination.is_all();
        let attachments: BTreeSet<&str> =
            self.policy.routes.iter().filter(is_default).flat_map(devices).collect();
        let hops = route.map(|route| self.hops(route)).unwrap_or_default();
        hops.into_iter().all(|hop| !attachments.contains(name(hop)))
    }
}

fn name(hop: &Hop) -> &str {
    hop.device.as_deref().unwrap()
}

fn devices(route: &TableRoute) -> Vec<&str> {
    match &route.kind {
        RouteKind::Unicast(hops) => hops.iter().map(name).collect(),
        _ => Vec::new(),
    }
}

/// Next hops, those that are there twice as one. A weight says nothing where there is no other.
fn sum(hops: impl Iterator<Item = (Option<IpAddr>, String, u16)>) -> Fate {
    let mut weights = BTreeMap::<(Option<IpAddr>, String), u16>::new();
    hops.for_each(|(gateway, device, weight)| *weights.entry((gateway, device)).or_default() += weight);
    let is_one = weights.len() == 1;
    let next_hops: BTreeSet<_> = weights
        .into_iter()
        .map(|((gateway, device), weight)| (gateway, device, if is_one { 1 } else { weight }))
        .collect();
    (!next_hops.is_empty()).then_some(next_hops)
}

/// Whether a remark that begins with `Differs` has all of this in it, and stands at a rule for packets of this source, or
/// says itself from where they are.
fn says_so(imported: &Imported, packet: Packet, said: &[String]) -> bool {
    let has_it = |line: &String| line.starts_with("Differs") && said.iter().all(|part| line.contains(part));
    imported.sections.iter().any(|section| {
        let at_rules = section.rules.iter().any(|rule| {
            let is_for = rule.from.iter().any(|from| from.contains(packet.from));
            is_for && rule.comment.iter().any(has_it)
        });
        at_rules || section.comment.iter().any(has_it)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn byway_does_what_linux_did(policy in policy()) {
        let imported = translate(&policy);
        let config = imported.config();
        for rule in config.rules() {
            prop_assert!(rule.check().is_ok(), "{rule:?}");
        }
        for group in &config.groups {
            prop_assert!(group.check().is_ok(), "{group:?}");
        }
        super::says(&imported.to_string(), &config);
        let distinct: BTreeSet<_> = config.rules().map(|rule| rule.selector).collect();
        prop_assert_eq!(distinct.len(), config.rules().count(), "{}", imported);
        let counted = imported.imported + imported.left_out + imported.without_equivalent;
        let entries = policy.rules.iter().filter(|rule| !rule.is_initial());
        prop_assert_eq!(counted, entries.clone().count());
        // Quotations are kept together, and so are found again.
        let text = imported.to_string();
        for entry in entries.clone() {
            prop_assert!(text.contains(&entry.text(&policy.names)), "{} is not in {text}", entry.text(&policy.names));
        }

        let quoted = |rule: &PolicyRule| format!("`{}`", rule.text(&policy.names));
        let rules = Rules { rules: config.rules().collect(), groups: config.groups.clone() };
        let jumps: Vec<_> = entries.clone().filter(|rule| matches!(rule.action, Action::Goto(_))).collect();
        // Those of which it is said whether devices go or not.
        let mut with_all = BTreeSet::new();
        for gone in [None, Some("eth0"), Some("eth1"), Some("eth2")] {
            for packet in packets() {
                let before = Host { policy: &policy, gone, is_moved: false };
                let after = Host { is_moved: true, ..before };
                let (route, by) = before.linux(packet);
                let fate = before.fate(route);
                let (later, later_by) = after.linux(packet);
                let whole = Host { gone: None, ..after };
                let (settled, _) = whole.linux(packet);
                for (step, found) in [
                    ("both in force", before.with_byway(&rules, packet, route)),
                    ("entries gone", after.with_byway(&rules, packet, later)),
                ] {
                    if found == fate {
                        continue;
                    }
                    let is_moved = step == "entries gone";
                    // What the text says at its top.
                    if is_moved && gone.is_some() && later.is_none() && !whole.leaves_past_attachments(settled) {
                        continue;
                    }
                    // One of them is to be named, and where there is none, the device.
                    let conditional: Vec<&PolicyRule> =
                        [by, later_by].into_iter().flatten().filter(|rule| has_conditions(rule)).collect();
                    let mut named: Vec<String> = conditional.iter().map(|rule| quoted(rule)).collect();
                    let is_plain = conditional.is_empty() && !jumps.iter().any(|jump| has_conditions(jump));
                    if is_plain && is_moved && gone.is_none() && whole.leaves_by_attachment(settled) {
                        prop_assert!(false, "{packet:?}: {found:?} and not {fate:?}: {text}");
                    }
                    if is_plain && !is_moved && gone.is_none() {
                        prop_assert!(false, "{packet:?}, {step}: {found:?} and not {fate:?}: {text}");
                    }
                    // Nothing leaks where the devices of a rule are gone and Linux would have sent nothing.
                    let is_redirected = match chosen(&rules.rules, packet).map(|rule| &rule.target) {
                        Some(TargetSpec::NextHop(next_hop)) => next_hop.device() == gone,
                        _ => false,
                    };
                    if is_plain && is_redirected && fate.is_none() && after.leaves_by_attachment(later) {
                        prop_assert!(false, "{packet:?} without {gone:?}: {found:?} leaks: {text}");
                    }
                    if gone.is_none() && packet.port == PLAIN {
                        with_all.insert((packet.from, packet.to, step));
                    }
                    if let Some(gone) = gone
                        && named.is_empty()
                        && !with_all.contains(&(packet.from, packet.to, step))
                    {
                        named.push(format!("`{gone}`"));
                    }
                    let is_elsewhere = is_moved && whole.look_up(MAIN, packet.to).is_some_and(|route| {
                        !route.destination.is_all() && whole.leaves_past_attachments(Some(route))
                    });
                    let is_said = named.is_empty() && says_so(&imported, packet, &[])
                        || named.iter().any(|name| says_so(&imported, packet, slice::from_ref(name)))
                        || is_elsewhere && says_so(&imported, packet, &["past the attachments".to_owned()])
                        || jumps.iter().any(|jump| says_so(&imported, packet, &[quoted(jump), "jumps".to_owned()]));
                    prop_assert!(
                        is_said, "{packet:?} without {gone:?}, {step}: {found:?} and not {fate:?}: {named:?} in {text}"
                    );
                }
            }
        }
    }
}
