//! What is asked for and cannot hold yet: it waits, says so, and holds as soon as it can.

use byway::{
    Attach, Changes, Hook, NextHopState, OnDown, Owner, RuleSpec, RuleStatus, TargetSpec, config::Config,
};

use crate::support::{
    hooks_and_families, on, pins,
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

/// A device that is made anew takes the place of the one that had its name, with the next change of any kind.
#[test]
fn a_device_that_is_made_anew_is_what_was_asked_for() {
    for (hook, v6) in hooks_and_families() {
        let hosts = Routers::new(v6);
        let spec = rule(&hosts.source(5).to_string(), None, hosts.hop(1).into());
        on(&hosts.server, hook, |byway| byway.add(&spec)).unwrap();
        let far = hosts.far(1);
        assert!(hosts.goes(hosts.source(5), far, Way::Router1));
        let before = hosts.server.ifindex("eth1").unwrap();
        hosts.server.delete_link("eth1").unwrap();
        assert_eq!(hosts.way(hosts.source(5), far), Way::Gateway);

        hosts.lab.link((&hosts.server, "eth1"), (&hosts.router[0], "eth0")).unwrap();
        assert_ne!(hosts.server.ifindex("eth1").unwrap(), before);
        hosts.server.address("eth1", &hosts.on_link(1, 2)).unwrap();
        hosts.router[0].address("eth0", &hosts.on_link(1, 1)).unwrap();
        let heard = hosts.router[0].capture("eth0").unwrap();
        assert_eq!(hosts.way(hosts.source(5), far), Way::Gateway, "nobody has looked yet");
        on(&hosts.server, hook, |byway| byway.attach(&Attach::devices(["eth2"]))).unwrap();
        let arrived = byway_lab::wait_until(crate::support::ANSWER, || {
            hosts.send(hosts.source(5), far);
            heard.count(|frame| frame.source() == Some(hosts.source(5))) > 0
        });
        assert!(arrived, "{:?}", rule_of(&hosts, 5));
        assert!(rule_of(&hosts, 5).no_next_hop.packets >= 2, "the rule has kept its counters");
    }
}

/// What an export says of the attachments.
fn asked(hosts: &Routers, hook: Hook) -> Option<Attach> {
    on(&hosts.server, hook, |byway| byway.export()).unwrap().attach
}

fn attach(hosts: &Routers, hook: Hook, attach: Option<Attach>) -> Changes {
    let config = Config::new(attach, vec![], []);
    on(&hosts.server, hook, |byway| byway.apply(Owner::CONFIG, &config)).unwrap()
}

/// `auto` stays `auto`, whatever it has found, and also where there is nothing to find yet.
#[test]
fn attachments_that_follow_from_the_default_route_are_asked_for_as_such() {
    for (hook, v6) in hooks_and_families() {
        let hosts = Routers::new(v6);
        let default = if v6 { "default via 2001:db8:0::1" } else { "default via 10.0.0.1" };
        hosts.server.delete_route(default).unwrap();
        let changes = attach(&hosts, hook, Some(Attach::Auto));
        assert_eq!(changes.waiting().len(), 1, "{changes:?}");
        assert_eq!(changes.auto(), [false, true]);
        assert_eq!(asked(&hosts, hook), Some(Attach::Auto));

        hosts.server.route(default).unwrap();
        on(&hosts.server, hook, |byway| byway.flush()).unwrap();
        let attachments = on(&hosts.server, hook, |byway| byway.attachments()).unwrap();
        let [eth0] = &attachments[..] else { panic!("{attachments:?}") };
        assert!(eth0.device.name == "eth0" && eth0.is_installed && eth0.by_route, "{eth0:?}");
        assert!(attach(&hosts, hook, asked(&hosts, hook)).is_empty(), "an export changes nothing");

        // The same device by its name is another request, and going back is going back to the request.
        let named = Attach::devices(["eth0"]);
        let changes = attach(&hosts, hook, Some(named.clone()));
        assert!(changes.attachments().is_empty() && changes.auto() == [true, false], "{changes:?}");
        assert_eq!(asked(&hosts, hook), Some(named));
        on(&hosts.server, hook, |byway| byway.rollback()).unwrap();
        assert_eq!(asked(&hosts, hook), Some(Attach::Auto));
        on(&hosts.server, hook, |byway| byway.detach(&["eth0"])).unwrap();
        assert_eq!(pins(), Vec::<String>::new(), "nothing is asked for any more");
    }
}

#[test]
fn an_attachment_waits_for_the_device_of_its_name() {
    for (hook, v6) in hooks_and_families() {
        let hosts = Routers::new(v6);
        let refused = on(&hosts.server, hook, |byway| byway.attach(&Attach::devices(["late"])));
        assert!(refused.is_err(), "who asks for one now wants it now");
        let names = Attach::devices(["eth0", "late"]);
        let changes = attach(&hosts, hook, Some(names.clone()));
        assert_eq!(changes.waiting().len(), 1, "{changes:?}");
        assert!(attach(&hosts, hook, Some(names.clone())).is_empty());
        assert_eq!(asked(&hosts, hook), Some(names.clone()));

        hosts.server.rename_link("eth2", "late").unwrap();
        on(&hosts.server, hook, |byway| byway.flush()).unwrap();
        let installed = || -> Vec<(String, bool)> {
            let attachments = on(&hosts.server, hook, |byway| byway.attachments()).unwrap();
            attachments.into_iter().map(|it| (it.device.name, it.is_installed)).collect()
        };
        assert_eq!(installed(), [("eth0".to_owned(), true), ("late".to_owned(), true)]);

        // It goes, and is asked for all the same, until somebody says that it is not.
        hosts.server.delete_link("late").unwrap();
        on(&hosts.server, hook, |byway| byway.flush()).unwrap();
        assert_eq!(installed(), [("eth0".to_owned(), true), ("late".to_owned(), false)]);
        assert_eq!(asked(&hosts, hook), Some(names));
        on(&hosts.server, hook, |byway| byway.detach(&["late"])).unwrap();
        assert_eq!(installed(), [("eth0".to_owned(), true)]);
        on(&hosts.server, hook, |byway| byway.detach_all()).unwrap();
        assert_eq!(pins(), Vec::<String>::new());
    }
}
