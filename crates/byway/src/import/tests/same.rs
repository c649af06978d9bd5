//! Whatever entries and routes there are: Byway by what was imported does what Linux did, with each packet that leaves by
//! an attachment. Linux is a model here that shares no code with the import.

use std::{collections::BTreeSet, net::IpAddr};

use proptest::{collection::vec, prelude::*, sample::select};

use super::host::{host, rule};
use crate::{
    config::Config,
    import::{
        policy::{Action, Hop, LOCAL, MAIN, Policy, PolicyRule, Refusal, RouteKind, TableRoute},
        translate,
    },
    model::{NextHopSpec, Prefix, TargetSpec},
};

/// What becomes of a packet: the next hops that it may go to, and none where it is dropped.
type Fate = Option<BTreeSet<(Option<IpAddr>, String, u16)>>;

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
    (1..10_u32, prefix(SOURCES, 2), prefix(DESTINATIONS, 3), any::<bool>(), lookup, 0..20_u32, refusal())
        .prop_map(|(priority, source, to, is_for_all, lookup, dice, refusal)| {
            let action = match dice {
                0 | 1 => Action::Refuse(refusal),
                2 => Action::Nop,
                3 | 4 => Action::Goto(priority + dice),
                _ => lookup,
            };
            let mut rule = rule(priority, source, action);
            rule.destination = if is_for_all { "0.0.0.0/0".parse().unwrap() } else { to };
            rule
        })
}

fn policy() -> impl Strategy<Value = Policy> {
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

/// A table's route to an address (fib_table_lookup, net/ipv4/fib_trie.c).
fn look_up(policy: &Policy, table: u32, to: IpAddr) -> Option<&TableRoute> {
    let is_found = |route: &&TableRoute| {
        let is_dead = matches!(&route.kind, RouteKind::Unicast(hops) if hops.iter().all(|hop| hop.dead));
        route.table == table && route.destination.contains(to) && !is_dead
    };
    let routes = policy.routes.iter().filter(is_found);
    routes.max_by_key(|route| (route.destination.len(), std::cmp::Reverse(route.metric)))
}

fn fate(route: &TableRoute) -> Fate {
    match &route.kind {
        RouteKind::Unicast(hops) => {
            let alive = hops.iter().filter(|hop| !hop.dead);
            let mut next_hops = BTreeSet::new();
            for hop in alive {
                let same: u16 = hops
                    .iter()
                    .filter(|it| !it.dead && (it.gateway, &it.device) == (hop.gateway, &hop.device))
                    .map(|it| it.weight)
                    .sum();
                next_hops.insert((hop.gateway, hop.device.clone().unwrap(), same));
            }
            Some(if next_hops.len() == 1 { one(next_hops) } else { next_hops })
        }
        _ => None,
    }
}

/// A weight says nothing where there is no other.
fn one(next_hops: BTreeSet<(Option<IpAddr>, String, u16)>) -> BTreeSet<(Option<IpAddr>, String, u16)> {
    next_hops.into_iter().map(|(gateway, device, _)| (gateway, device, 1)).collect()
}

/// What Linux does (fib_rules_lookup, net/core/fib_rules.c).
fn linux(policy: &Policy, from: IpAddr, to: IpAddr) -> Fate {
    let rules: Vec<&PolicyRule> =
        policy.rules.iter().filter(|rule| rule.source.address().is_ipv4()).collect();
    let mut place = 0;
    while let Some(rule) = rules.get(place) {
        place += 1;
        if !rule.source.contains(from) || !rule.destination.contains(to) {
            continue;
        }
        match rule.action {
            Action::Goto(priority) => {
                if let Some(target) = rules.iter().position(|other| other.priority == priority) {
                    place = target;
                }
            }
            Action::Refuse(_) => return None,
            Action::Lookup { table, suppress_length, suppress_group } => {
                let Some(route) = look_up(policy, table, to) else { continue };
                match &route.kind {
                    RouteKind::Throw => {}
                    RouteKind::Unicast(hops)
                        if suppress_length
                            .is_some_and(|length| u32::from(route.destination.len()) <= length)
                            || suppress_group.is_some_and(|group| hops[0].group == group) => {}
                    _ => return fate(route),
                }
            }
            _ => {}
        }
    }
    None
}

/// What becomes of it with Byway, and without the entries.
fn byway(policy: &Policy, config: &Config, from: IpAddr, to: IpAddr) -> Fate {
    let rules: Vec<_> = config.rules().collect();
    let speaks = |source: &Prefix, destination: Option<Prefix>| {
        source.contains(from) && destination.is_none_or(|prefix| prefix.contains(to))
    };
    let chosen = rules
        .iter()
        .filter(|rule| speaks(&rule.selector.source(), rule.selector.destination()))
        .max_by_key(|rule| (rule.selector.source().len(), rule.selector.destination().map(|it| it.len())));
    let next_hop = |spec: &NextHopSpec, weight| (spec.gateway(), spec.device().unwrap().to_owned(), weight);
    match chosen.map(|rule| &rule.target) {
        None | Some(TargetSpec::Pass) => fate(look_up(policy, MAIN, to).unwrap()),
        Some(TargetSpec::Drop) => None,
        Some(TargetSpec::NextHop(spec)) => Some([next_hop(spec, 1)].into()),
        Some(TargetSpec::NextHops(members)) => {
            Some(members.iter().map(|member| next_hop(&member.next_hop, member.weight)).collect())
        }
        Some(TargetSpec::Group(name)) => {
            let group = config.groups.iter().find(|group| group.name == *name).unwrap();
            Some(group.members.iter().map(|member| next_hop(&member.next_hop, member.weight)).collect())
        }
    }
}

/// Whether main sends it out of an interface that carries a default route.
fn leaves_by_attachment(policy: &Policy, to: IpAddr) -> bool {
    let defaults = policy.routes.iter().filter(|route| route.table == MAIN && route.destination.is_all());
    let devices = |route: &TableRoute| -> BTreeSet<String> {
        match &route.kind {
            RouteKind::Unicast(hops) => hops.iter().filter_map(|hop| hop.device.clone()).collect(),
            _ => BTreeSet::new(),
        }
    };
    let attachments: BTreeSet<String> = defaults.flat_map(devices).collect();
    look_up(policy, MAIN, to).is_some_and(|route| {
        let devices = devices(route);
        !devices.is_empty() && devices.is_subset(&attachments)
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
        for entry in entries {
            prop_assert!(text.contains(&entry.text(&policy.names)), "{} is not in {text}", entry.text(&policy.names));
        }

        // The last of each is none that an entry or a route names.
        for to in 0..9 {
            let to = IpAddr::from([10, 9, 0, DESTINATIONS[3] + to]);
            for from in 0..5 {
                let from = IpAddr::from([10, 0, 0, SOURCES[3] + from]);
                if leaves_by_attachment(&policy, to) {
                    prop_assert_eq!(
                        byway(&policy, &config, from, to), linux(&policy, from, to), "{} to {}: {}", from, to, text
                    );
                }
            }
        }
    }
}
