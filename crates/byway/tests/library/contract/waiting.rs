//! What is asked for and cannot hold yet: it waits, says so, and holds as soon as it can.

use byway::{Attach, NextHopState, OnDown, Owner, RuleSpec, RuleStatus, TargetSpec, config::Config};

use crate::support::{
    hooks_and_families, on,
    routers::{Routers, Way, rule},
};

/// By a device that is not there, by another one if that is not there, and by a gateway that no route leads to.
fn config(hosts: &Routers) -> Config {
    let late = || hosts.hop(1).dev("late");
    let from = |last, target: TargetSpec| rule(&hosts.source(last).to_string(), None, target);
    let rules: [RuleSpec; 3] = [
        from(5, late().into()),
        from(6, vec![late().into(), hosts.hop(2).into()].into()),
        from(7, byway::NextHopSpec::via(hosts.via[0]).into()).on_down(OnDown::Drop),
    ];
    Config::new(Some(Attach::devices(["eth0"])), vec![], rules)
}

fn rule_of(hosts: &Routers, last: u16) -> RuleStatus {
    let selector = byway::Prefix::from(hosts.source(last)).into();
    hosts.server.run(|| byway::Byway::open().unwrap().rule(&selector).unwrap())
}

#[test]
fn what_cannot_hold_yet_waits_until_it_can() {
    for (hook, v6) in hooks_and_families() {
        let hosts = Routers::new(v6);
        let config = config(&hosts);
        let [via, far] = [hosts.via[0], hosts.far(1)];
        let link = hosts.on_link(1, 2);
        hosts.server.delete_address("eth1", &link).unwrap();

        let strict = hosts.server.run(|| {
            byway::Byway::open().unwrap().with_hook(hook).with_strict().apply(Owner::CONFIG, &config)
        });
        assert!(strict.unwrap_err().to_string().contains("late"), "nothing may wait");
        let changes = on(&hosts.server, hook, |byway| byway.apply(Owner::CONFIG, &config)).unwrap();
        let waiting: Vec<&str> = changes.waiting().iter().map(|it| it.request.as_str()).collect();
        assert_eq!(waiting, [format!("via {via} dev late"), format!("via {via}")], "{changes:?}");

        // Each does what it says for the case that none is in service.
        assert_eq!(hosts.way(hosts.source(5), far), Way::Gateway);
        assert!(hosts.goes(hosts.source(6), far, Way::Router2), "{:?}", rule_of(&hosts, 6));
        for _ in 0..3 {
            hosts.send(hosts.source(7), far);
        }
        assert_eq!(rule_of(&hosts, 7).no_next_hop.packets, 3);
        let next_hops = on(&hosts.server, hook, |byway| byway.next_hops()).unwrap();
        let states = next_hops.iter().filter(|it| it.state == NextHopState::Waiting);
        assert_eq!(states.count(), 2, "{next_hops:?}");
        let exported = on(&hosts.server, hook, |byway| byway.export()).unwrap();
        assert_eq!(exported.to_string(), config.to_string(), "what was asked for is kept");

        // Any change completes what it can.
        hosts.server.set_up("eth1", false).unwrap();
        hosts.server.rename_link("eth1", "late").unwrap();
        hosts.server.set_up("late", true).unwrap();
        hosts.server.address("late", &link).unwrap();
        let changes = on(&hosts.server, hook, |byway| byway.apply(Owner::CONFIG, &config)).unwrap();
        assert!(changes.waiting().is_empty(), "{changes:?}");
        assert_eq!(changes.completed().len(), 2, "{changes:?}");
        assert_eq!(changes.counts().kept, 3, "the rules stay, with their counters");
        for last in [5, 7] {
            assert!(hosts.goes(hosts.source(last), far, Way::Router1), "{:?}", rule_of(&hosts, last));
        }
        assert_eq!(rule_of(&hosts, 7).no_next_hop.packets, 3);
        let shown = rule_of(&hosts, 7).rule.target.to_string();
        assert_eq!(shown, format!("via {via} (dev late)"), "what was asked for, and what came of it");
        let exported = on(&hosts.server, hook, |byway| byway.export()).unwrap();
        assert_eq!(exported.to_string(), config.to_string());
    }
}
