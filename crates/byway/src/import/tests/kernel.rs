//! The kernel asked whether the model of Linux that the import is compared with does as it does: for random entries and
//! routes, at each step of the move and without each device.

use std::{collections::BTreeSet, net::IpAddr};

use byway_lab::{Lab, Node};
use byway_netlink::{
    Netlink,
    packet::{
        AddressFamily, RouteNetlinkMessage,
        route::{RouteAddress, RouteAttribute, RouteMessage},
    },
};
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};

use super::same::{Host, PLAIN, Packet, has_conditions, packets, policy};
use crate::import::policy::{Action, Condition, Policy, PolicyRule, RouteKind, TableRoute};

/// How many hosts are asked, each without one device and with all.
const HOSTS: usize = 12;

#[test]
fn linux_is_as_the_model_says() {
    let mut runner = TestRunner::deterministic();
    let (mut asked, mut nowhere) = (0, 0);
    for _ in 0..HOSTS {
        let policy = as_the_lab_can(policy().new_tree(&mut runner).unwrap().current());
        for gone in [None, Some("eth0"), Some("eth1"), Some("eth2")] {
            let lab = Lab::new().unwrap();
            let node = host(&lab, &policy);
            if let Some(device) = gone {
                node.set_up(device, false).unwrap();
            }
            for is_moved in [false, true] {
                if is_moved {
                    imported(&policy).for_each(|rule| node.delete_rule(&rule_words(rule)).unwrap());
                }
                let model = Host { policy: &policy, gone, is_moved };
                // A packet that fulfils no conditions is not to be had where one is inverted.
                for packet in packets().filter(|packet| ![PLAIN, 7].contains(&packet.port)) {
                    let fate = model.fate(model.linux(packet).0);
                    let said = answer(&node, packet);
                    let next_hops: Option<BTreeSet<_>> = fate.map(|next_hops| {
                        let device = |name: &str| node.ifindex(name).unwrap();
                        next_hops.into_iter().map(|(gateway, name, _)| (gateway, device(&name))).collect()
                    });
                    let is_same = match (&next_hops, said) {
                        (None, None) => true,
                        (Some(next_hops), Some(one)) => next_hops.contains(&one),
                        _ => false,
                    };
                    assert!(
                        is_same,
                        "{packet:?} without {gone:?}, moved {is_moved}: {said:?} and not {next_hops:?}: {policy:?}"
                    );
                    asked += 1;
                    nowhere += usize::from(said.is_none());
                }
            }
        }
    }
    assert!(nowhere * 50 > asked && nowhere * 2 < asked, "{nowhere} of {asked} went nowhere");
}

/// The entries that go with the move.
fn imported(policy: &Policy) -> impl Iterator<Item = &PolicyRule> {
    own(policy).filter(|rule| !has_conditions(rule))
}

fn own(policy: &Policy) -> impl Iterator<Item = &PolicyRule> {
    policy.rules.iter().filter(|rule| !rule.is_initial())
}

/// Without what the lab has no words for, and what the kernel does not take.
fn as_the_lab_can(mut policy: Policy) -> Policy {
    policy.rules.retain(|rule| !rule.conditions.iter().any(|it| matches!(it, Condition::SourcePorts(..))));
    for rule in &mut policy.rules {
        if let Action::Lookup { suppress_group, .. } = &mut rule.action {
            *suppress_group = None;
        }
    }
    let mut seen = BTreeSet::new();
    policy.rules.retain(|rule| rule.is_initial() || seen.insert(rule_words(rule)));
    for route in &mut policy.routes {
        if let RouteKind::Unicast(hops) = &mut route.kind {
            let is_one = hops.len() == 1;
            for hop in hops.iter_mut() {
                hop.dead = false;
                // Each next hop of several has one.
                hop.gateway = hop.gateway.or((!is_one).then_some(IpAddr::from([10, 1, 0, 1])));
            }
        }
    }
    policy
}

fn host(lab: &Lab, policy: &Policy) -> Node {
    let (node, others) = (lab.node("host").unwrap(), lab.node("others").unwrap());
    for (device, last) in [("eth0", 10), ("eth1", 11), ("eth2", 12)] {
        lab.link((&node, device), (&others, device)).unwrap();
        node.address(device, &format!("10.1.0.{last}/24")).unwrap();
    }
    for source in packets().map(|packet| packet.from).collect::<BTreeSet<_>>() {
        node.address("lo", &format!("{source}/32")).unwrap();
    }
    policy.routes.iter().for_each(|route| node.route(&route_words(route)).unwrap());
    own(policy).for_each(|rule| node.rule(&rule_words(rule)).unwrap());
    node
}

fn rule_words(rule: &PolicyRule) -> String {
    let mut words = Vec::new();
    if rule.is_inverted() {
        words.push("not".to_owned());
    }
    words.push(format!("from {} to {}", rule.source, rule.destination));
    for condition in &rule.conditions {
        if let Condition::Fwmark { mark, .. } = condition {
            words.push(format!("fwmark {mark}"));
        }
    }
    words.push(match &rule.action {
        Action::Lookup { table, suppress_length, .. } => {
            let suppress = suppress_length.map(|length| format!(" suppress_prefixlength {length}"));
            format!("lookup {table}{}", suppress.unwrap_or_default())
        }
        Action::Goto(priority) => format!("goto {priority}"),
        Action::Refuse(refusal) => refusal.word().to_owned(),
        _ => "nop".to_owned(),
    });
    words.push(format!("priority {}", rule.priority));
    words.join(" ")
}

fn route_words(route: &TableRoute) -> String {
    let (kind, hops) = match &route.kind {
        RouteKind::Unicast(hops) => ("", &hops[..]),
        RouteKind::Refuse(refusal) => (refusal.word(), &[][..]),
        RouteKind::Throw => ("throw", &[][..]),
        RouteKind::Foreign(why) => unreachable!("{why}"),
    };
    let next_hops: String = match hops {
        [hop] => {
            let gateway = hop.gateway.map(|gateway| format!("via {gateway} ")).unwrap_or_default();
            format!("{gateway}dev {}", hop.device.as_deref().unwrap())
        }
        several => several
            .iter()
            .map(|hop| {
                let (gateway, device) = (hop.gateway.unwrap(), hop.device.as_deref().unwrap());
                format!("nexthop via {gateway} dev {device} weight {} ", hop.weight)
            })
            .collect(),
    };
    format!("{kind} {} {next_hops} table {} metric {}", route.destination, route.table, route.metric)
}

/// `ip route get DESTINATION from SOURCE mark MARK`: the gateway and the device; nothing where it does not leave.
fn answer(node: &Node, packet: Packet) -> Option<(Option<IpAddr>, u32)> {
    let mut request = RouteMessage::default();
    request.header.address_family = AddressFamily::Inet;
    (request.header.source_prefix_length, request.header.destination_prefix_length) = (32, 32);
    request.attributes = vec![
        RouteAttribute::Source(packet.from.into()),
        RouteAttribute::Destination(packet.to.into()),
        RouteAttribute::Mark(packet.mark),
    ];
    let message = RouteNetlinkMessage::GetRoute(request);
    let answer = node.run(|| Netlink::open().unwrap().get(message)).ok()?;
    let RouteNetlinkMessage::NewRoute(route) = answer else { return None };
    let (mut gateway, mut device) = (None, 0);
    for attribute in route.attributes {
        match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(v4)) => gateway = Some(v4.into()),
            RouteAttribute::Oif(index) => device = index,
            _ => {}
        }
    }
    Some((gateway, device))
}
