//! Thousands of rules change at once, under traffic, and no packet notices.

use std::{net::IpAddr, thread};

use byway::{Byway, Changes, Owner, RuleSpec, TargetSpec, config::Config};
use byway_lab::{Frame, Traffic, wait_until};

use crate::support::{
    ANSWER, FAMILIES, any_hook, on,
    routers::{PAUSE, Routers, goes_on, rule},
    rules,
};

/// How many networks there are, each with two rules in one set and one in the other.
const NETWORKS: u16 = 5_000;

/// Packets of each network's host and of one of its neighbours, to two destinations. What the old set says and what the
/// new one says of them:
///
/// | | old | new |
/// |---|---|---|
/// | host | router 1, by its own rule | router 1, by the network's |
/// | neighbour | router 2, by the network's rule | router 1, by the network's |
/// | neighbour, to the other destination | router 2, likewise | router 2, by the network's rule for it |
///
/// A packet that finds half of each goes elsewhere: a host to router 2, or anything to the gateway.
#[test]
fn ten_thousand_rules_change_back_and_forth_under_traffic() {
    for v6 in FAMILIES {
        let hosts = Routers::new(v6);
        let hook = any_hook();
        let (far, other) = (hosts.far(1), hosts.far(2));
        let host = |nth: u16| hosts.source(8 * nth + 5);
        let neighbour = |nth: u16| hosts.source(8 * nth + 3);
        let network = |nth: u16| hosts.around(host(nth), 3);
        let by = |router| TargetSpec::NextHop(hosts.hop(router));
        let old: Vec<RuleSpec> = (0..NETWORKS)
            .flat_map(|nth| [rule(&network(nth), None, by(2)), rule(&host(nth).to_string(), None, by(1))])
            .collect();
        let new: Vec<RuleSpec> = (0..NETWORKS)
            .flat_map(|nth| {
                [rule(&network(nth), None, by(1)), rule(&network(nth), Some(&other.to_string()), by(2))]
            })
            .collect();
        assert_eq!(old.len(), 10_000);
        on(&hosts.server, hook, |byway| apply(byway, &old)).unwrap();

        let sampled = [0, NETWORKS / 2, NETWORKS - 1];
        let flows: Vec<(IpAddr, IpAddr)> = sampled
            .iter()
            .flat_map(|nth| [(host(*nth), far), (neighbour(*nth), far), (neighbour(*nth), other)])
            .collect();
        let traffic = Traffic::default();
        let sent = thread::scope(|scope| {
            let ending = traffic.ending();
            let sender = scope.spawn(|| hosts.server.run(|| traffic.send(&flows, PAUSE)));
            goes_on(&traffic, &flows);
            for _ in 0..2 {
                for set in [&new, &old] {
                    on(&hosts.server, hook, |byway| apply(byway, set)).unwrap();
                    goes_on(&traffic, &flows);
                }
            }
            drop(ending);
            sender.join().unwrap().unwrap()
        });

        let all = || {
            let is_ours =
                |frame: &Frame| frame.destination() == Some(far) || frame.destination() == Some(other);
            hosts.heard().iter().map(|capture| capture.count(is_ours)).sum::<usize>()
        };
        assert!(wait_until(ANSWER, || all() == sent), "{} of {sent} packets arrived", all());
        for (from, to) in &flows {
            let [gateway, router_1, router_2] = hosts.counts(*from, *to);
            assert_eq!(gateway, 0, "{from} to {to} has gone to the gateway");
            if sampled.iter().any(|nth| host(*nth) == *from) {
                assert_eq!(router_2, 0, "{from} to {to} has gone to router 2, which neither set says");
            }
            if *to == other {
                assert_eq!(router_1, 0, "{from} to {to} has gone to router 1, which neither set says");
            } else if sampled.iter().any(|nth| neighbour(*nth) == *from) {
                assert!(router_1 > 0 && router_2 > 0, "both sets have held: {router_1}, {router_2}");
            }
        }
        assert_eq!(rules(&hosts.server).len(), 10_000);
    }
}

/// Applies rules as those of the owner `api`.
fn apply(byway: &mut Byway, specs: &[RuleSpec]) -> byway::Result<Changes> {
    byway.apply(Owner::API, &Config::new(None, vec![], specs.iter().cloned()))
}

/// A rule that both sets have is the same rule, with the same counters, however much changes around it.
#[test]
fn counters_survive_a_swap_around_them() {
    let hosts = Routers::new(false);
    let hook = any_hook();
    let by = |router| TargetSpec::NextHop(hosts.hop(router));
    let kept = rule("192.168.0.5", Some("203.0.0.0/16"), by(1));
    let sets = [1, 2].map(|router| {
        let others = (10..30).map(|last| rule(&format!("192.168.0.{last}"), None, by(router)));
        let mut set: Vec<RuleSpec> = others.collect();
        set.push(kept.clone());
        set
    });
    on(&hosts.server, hook, |byway| apply(byway, &sets[0])).unwrap();
    hosts.way("192.168.0.5".parse().unwrap(), hosts.far(1));
    for (round, set) in [&sets[1], &sets[0], &sets[1]].into_iter().enumerate() {
        on(&hosts.server, hook, |byway| apply(byway, set)).unwrap();
        hosts.way("192.168.0.5".parse().unwrap(), hosts.far(1));
        let status = rules(&hosts.server).into_iter().find(|it| it.rule.selector() == kept.selector).unwrap();
        assert_eq!(status.departed.packets, 2 + round as u64);
    }
    // Rules of others are none of its business.
    let of_cli = rule("192.168.0.77", None, TargetSpec::Drop).owner(Owner::CLI);
    on(&hosts.server, hook, |byway| byway.add(&of_cli)).unwrap();
    on(&hosts.server, hook, |byway| apply(byway, &[])).unwrap();
    assert_eq!(rules(&hosts.server).len(), 1);
    // Nothing to put needs nothing to watch.
    on(&hosts.server, hook, |byway| byway.detach_all()).unwrap();
    on(&hosts.server, hook, |byway| apply(byway, &[])).unwrap();
    assert_eq!(on(&hosts.server, hook, |byway| byway.attachments()).unwrap(), []);
    // What another owner says as well is left to it.
    on(&hosts.server, hook, |byway| apply(byway, std::slice::from_ref(&of_cli))).unwrap();
    assert_eq!(rules(&hosts.server)[0].rule.owner, Owner::CLI);
    let taken = rule("192.168.0.77", None, TargetSpec::Pass);
    let error = on(&hosts.server, hook, |byway| apply(byway, &[taken])).unwrap_err();
    assert_eq!(
        error.sentence(),
        "there is already a rule for these packets (from 192.168.0.77 drop), which belongs to cli; delete it first"
    );
}
