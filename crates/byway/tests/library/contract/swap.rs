//! Rules and what they lead to change at once, under traffic, and no packet notices.

use std::{
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use byway::{GroupSpec, MemberSpec, OnDown, Owner, TargetSpec, config::Config};
use byway_lab::{Traffic, wait_until};

use crate::support::{
    ANSWER, any_hook, on,
    routers::{PAUSE, Routers, goes_on, rule},
};

/// How many rules there are.
const RULES: u16 = 5_000;

/// How long packets are sent at the least.
const TRAFFIC: Duration = Duration::from_secs(1);

/// Rules change places between two groups, and the groups their next hops, so that each packet goes where it went. One that
/// finds the old rule and the new group, or the other way round, goes to the other router.
#[test]
fn rules_and_the_groups_that_they_lead_to_change_in_the_same_instant() {
    let hosts = Routers::new(false);
    let hook = any_hook();
    let far = hosts.far(1);
    let state = |one: usize, other: usize| {
        let group = |name: &str, router| {
            GroupSpec::new(name, [MemberSpec::new(hosts.hop(router))])
                .on_down(OnDown::Drop)
                .owner(Owner::CONFIG)
        };
        let groups = vec![group("group1", one), group("group2", other)];
        let by = |router| if router == one { "group1" } else { "group2" };
        let rules = (0..RULES).map(|nth| {
            let target = TargetSpec::Group(by(usize::from(nth) % 2 + 1).into());
            rule(&hosts.source(nth + 1).to_string(), None, target)
        });
        Config::new(None, groups, rules)
    };
    let states = [state(1, 2), state(2, 1)];
    let apply = |state| {
        on(&hosts.server, hook, |byway| byway.apply(Owner::CONFIG, state).map(|it| it.counts())).unwrap()
    };
    apply(&states[0]);
    let sampled = [0, 1, RULES - 2, RULES - 1];
    let flows: Vec<(IpAddr, IpAddr)> = sampled.iter().map(|nth| (hosts.source(nth + 1), far)).collect();
    let traffic = Traffic::default();
    let sent = thread::scope(|scope| {
        let ending = traffic.ending();
        let sender = scope.spawn(|| hosts.server.run(|| traffic.send(&flows, PAUSE)));
        let (start, mut rounds) = (Instant::now(), 0);
        while rounds < 5 || start.elapsed() < TRAFFIC {
            for state in [&states[1], &states[0]] {
                assert_eq!(apply(state).changed, usize::from(RULES));
                goes_on(&traffic, &flows);
            }
            rounds += 1;
        }
        drop(ending);
        sender.join().unwrap().unwrap()
    });
    let all = || flows.iter().map(|(from, to)| hosts.counts(*from, *to).iter().sum::<usize>()).sum::<usize>();
    assert!(wait_until(ANSWER, || all() == sent), "{} of {sent} packets arrived", all());
    for (nth, (from, to)) in sampled.iter().zip(&flows) {
        let [gateway, router_1, router_2] = hosts.counts(*from, *to);
        let elsewhere = if nth % 2 == 0 { router_2 } else { router_1 };
        assert_eq!((gateway, elsewhere), (0, 0), "{from} has gone where neither state says");
    }
}
