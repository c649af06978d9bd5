//! Gateways that the host learns from DHCP or from router advertisements: `via dhcp` and `via ra`.

use byway::{
    Attach, Changes, Error, Followed, GroupSpec, HealthCheck, HealthCheckSpec, Hook, Learned, MemberSpec,
    NextHopSpec, NextHopState, Owner, RuleSpec, config::Config,
};

use crate::support::{
    any_hook, hooks_and_families, on,
    routers::{Routers, Way, rule},
};

fn learned(v6: bool) -> Learned {
    if v6 { Learned::Ra } else { Learned::Dhcp }
}

fn spec(hosts: &Routers, last: u16, device: &str, v6: bool) -> RuleSpec {
    rule(&hosts.source(last).to_string(), None, NextHopSpec::learned_from(learned(v6), device).into())
}

/// The host learns that router 1 or 2, at this address on its link, is a gateway.
fn learn(hosts: &Routers, router: usize, host: u8, more: &str) {
    let gateway = hosts.on_link(router, host);
    let gateway = gateway.split('/').next().unwrap();
    let of = learned(gateway.contains(':'));
    hosts.server.route(&format!("default via {gateway} dev eth{router} proto {of} {more}")).unwrap();
}

fn forget(hosts: &Routers, router: usize, host: u8, more: &str) {
    let gateway = hosts.on_link(router, host);
    let gateway = gateway.split('/').next().unwrap();
    hosts.server.delete_route(&format!("default via {gateway} dev eth{router} {more}")).unwrap();
}

fn follow(hosts: &Routers, hook: Hook) -> Vec<String> {
    let followed = on(&hosts.server, hook, |byway| byway.follow()).unwrap();
    followed.iter().map(Followed::to_string).collect()
}

fn has(hosts: &Routers, router: usize, host: u8, v6: bool) -> String {
    let gateway = hosts.on_link(router, host);
    let gateway = gateway.split('/').next().unwrap();
    format!("the next hop via {} dev eth{router} has the gateway {gateway} now", learned(v6))
}

fn next_hops(hosts: &Routers) -> Vec<(String, NextHopState)> {
    let all = on(&hosts.server, any_hook(), |byway| byway.next_hops()).unwrap();
    all.iter().map(|it| (it.next_hop.to_string(), it.state)).collect()
}

#[test]
fn a_next_hop_gets_the_gateway_that_the_host_learns() {
    for (hook, v6) in hooks_and_families() {
        let hosts = Routers::new(v6);
        let spec = spec(&hosts, 5, "eth1", v6);
        on(&hosts.server, hook, |byway| byway.attach(&Attach::devices(["eth0"]))).unwrap();
        let refused = on(&hosts.server, hook, |byway| byway.add(&spec)).unwrap_err();
        assert!(matches!(&refused, Error::NothingLearned { device, .. } if device == "eth1"), "{refused}");

        // In a table of its own, as a client for policy routing has it. Somebody else's default route on the device does not
        // count.
        hosts.server.route(&format!("default via {} dev eth1 table 101 proto static", hosts.via[0])).unwrap();
        let refused = on(&hosts.server, hook, |byway| byway.add(&spec)).unwrap_err();
        assert!(matches!(refused, Error::NothingLearned { .. }), "{refused}");
        learn(&hosts, 1, 1, "table 100");
        on(&hosts.server, hook, |byway| byway.add(&spec)).unwrap();
        assert_eq!(hosts.way(hosts.source(5), hosts.far(1)), Way::Router1);
        assert_eq!(follow(&hosts, hook), [""; 0]);

        // Another lease: the old gateway is gone.
        forget(&hosts, 1, 1, "table 100");
        assert_eq!(follow(&hosts, hook), [""; 0], "while there is none, the last one stays");
        assert_eq!(hosts.way(hosts.source(5), hosts.far(1)), Way::Router1);
        hosts.router[0].delete_address("eth0", &hosts.on_link(1, 1)).unwrap();
        hosts.router[0].address("eth0", &hosts.on_link(1, 9)).unwrap();
        learn(&hosts, 1, 9, "table 100");
        assert_eq!(follow(&hosts, hook), [has(&hosts, 1, 9, v6)]);
        assert_eq!(hosts.way(hosts.source(5), hosts.far(2)), Way::Router1);
        let status = on(&hosts.server, hook, |byway| byway.rule(&spec.selector)).unwrap();
        assert_eq!((status.departed.packets, status.arrived.packets), (3, 3), "the rule's counters stay");
        assert_eq!(next_hops(&hosts).len(), 1);
        assert_eq!(follow(&hosts, hook), [""; 0]);

        // What is in force is what was asked for.
        let rules = on(&hosts.server, hook, |byway| byway.rules()).unwrap();
        assert_eq!(RuleSpec::try_from(&rules[0].rule).unwrap(), spec);
    }
}

#[test]
fn of_several_gateways_the_kernels_is_taken_and_stays() {
    for v6 in [false, true] {
        let hosts = Routers::new(v6);
        hosts.router[0].address("eth0", &hosts.on_link(1, 9)).unwrap();
        learn(&hosts, 1, 9, "metric 200");
        learn(&hosts, 1, 1, "metric 300");
        let spec = spec(&hosts, 5, "eth1", v6);
        on(&hosts.server, any_hook(), |byway| byway.add(&spec)).unwrap();
        let is = |host| {
            let gateway = hosts.on_link(1, host);
            format!("via {} ({}) dev eth1", learned(v6), gateway.split('/').next().unwrap())
        };
        assert_eq!(next_hops(&hosts)[0].0, is(9));
        // One that is as good comes, and would be the first.
        learn(&hosts, 1, 1, "metric 200 table 100");
        assert_eq!(follow(&hosts, any_hook()), [""; 0]);
        forget(&hosts, 1, 9, "metric 200");
        assert_eq!(follow(&hosts, any_hook()), [has(&hosts, 1, 1, v6)]);
        assert_eq!(next_hops(&hosts)[0].0, is(1));
    }
}

fn apply(hosts: &Routers, config: &Config) -> Result<Changes, Error> {
    on(&hosts.server, any_hook(), |byway| byway.apply(Owner::CONFIG, config))
}

#[test]
fn one_that_waits_for_its_gateway_is_completed_and_keeps_its_check_and_its_place() {
    for v6 in [false, true] {
        let hosts = Routers::new(v6);
        let dhcp = NextHopSpec::learned_from(learned(v6), "eth1");
        let members = vec![MemberSpec::new(dhcp.clone()), MemberSpec::new(hosts.hop(2)).backup()];
        let group = GroupSpec::new("uplinks", members);
        let of_group = rule(&hosts.source(5).to_string(), None, byway::TargetSpec::Group("uplinks".into()));
        let mut config = Config::new(Some(Attach::devices(["eth0"])), vec![group], [of_group]);
        config.health_checks = vec![HealthCheckSpec::new(
            dhcp.clone(),
            HealthCheck::ping([hosts.via[0]]).interval(byway::INTERVAL_MAX),
        )];
        let changes = apply(&hosts, &config).unwrap();
        let waiting = &changes.waiting()[0];
        assert_eq!(waiting.request, dhcp.to_string());
        assert_eq!(
            waiting.reason,
            format!("no gateway is known on eth1 yet: it has no default route of `proto {}`", learned(v6))
        );
        assert!(next_hops(&hosts).contains(&(dhcp.to_string(), NextHopState::Waiting)));
        assert_eq!(hosts.way(hosts.source(5), hosts.far(1)), Way::Router2, "the backup");
        assert!(apply(&hosts, &config).unwrap().is_empty(), "it waits already");

        learn(&hosts, 1, 1, "table 100");
        assert_eq!(follow(&hosts, any_hook()), [has(&hosts, 1, 1, v6)]);
        assert_eq!(hosts.way(hosts.source(5), hosts.far(1)), Way::Router1);
        let checks = || {
            let all = on(&hosts.server, any_hook(), |byway| byway.next_hops()).unwrap();
            all.iter().filter_map(|it| it.health_check.clone()).collect::<Vec<_>>()
        };
        assert_eq!(checks().len(), 1, "the health check has come along");
        assert!(apply(&hosts, &config).unwrap().is_empty());

        // Out of service by hand, also by the gateway's own address, and so with the next gateway.
        let down = |spec: &NextHopSpec| {
            on(&hosts.server, any_hook(), |byway| byway.take_out_of_service(spec)).unwrap()
        };
        down(&hosts.hop(1));
        assert_eq!(hosts.way(hosts.source(5), hosts.far(2)), Way::Router2);
        hosts.router[0].address("eth0", &hosts.on_link(1, 9)).unwrap();
        forget(&hosts, 1, 1, "table 100");
        learn(&hosts, 1, 9, "table 100");
        assert_eq!(follow(&hosts, any_hook()), [has(&hosts, 1, 9, v6)]);
        assert_eq!(hosts.way(hosts.source(5), hosts.far(3)), Way::Router2);
        on(&hosts.server, any_hook(), |byway| byway.put_in_service(&dhcp)).unwrap();
        assert_eq!(hosts.way(hosts.source(5), hosts.far(3)), Way::Router1);
        assert_eq!(checks().len(), 1);
    }
}

#[test]
fn a_device_that_is_made_anew_gets_the_gateway_of_its_new_lease() {
    let hosts = Routers::new(false);
    learn(&hosts, 2, 1, "table 100");
    let spec = spec(&hosts, 5, "eth2", false);
    on(&hosts.server, any_hook(), |byway| {
        byway.attach(&Attach::devices(["eth0"])).unwrap();
        byway.add(&spec).unwrap();
    });
    hosts.server.delete_link("eth2").unwrap();
    assert_eq!(follow(&hosts, any_hook()), [""; 0]);
    hosts.lab.link((&hosts.server, "eth2"), (&hosts.router[1], "eth9")).unwrap();
    hosts.server.address("eth2", &hosts.on_link(2, 2)).unwrap();
    hosts.router[1].address("eth9", &hosts.on_link(2, 9)).unwrap();
    assert_eq!(follow(&hosts, any_hook()), [""; 0], "it has no lease yet");
    assert_eq!(hosts.way(hosts.source(5), hosts.far(1)), Way::Gateway);
    learn(&hosts, 2, 9, "table 100");
    assert_eq!(follow(&hosts, any_hook()), [has(&hosts, 2, 9, false)]);
    assert_eq!(next_hops(&hosts), [("via dhcp (10.0.2.9) dev eth2".to_owned(), NextHopState::Up)]);
}

#[test]
fn a_rollback_goes_back_to_what_was_asked_for_and_not_to_its_gateway() {
    let hosts = Routers::new(false);
    hosts.router[0].address("eth0", &hosts.on_link(1, 9)).unwrap();
    learn(&hosts, 1, 1, "table 100");
    let of = |spec: NextHopSpec| {
        Config::new(None, vec![], [rule(&hosts.source(5).to_string(), None, spec.into())])
    };
    apply(&hosts, &of(NextHopSpec::learned_from(Learned::Dhcp, "eth1"))).unwrap();
    apply(&hosts, &of(hosts.hop(2))).unwrap();
    forget(&hosts, 1, 1, "table 100");
    learn(&hosts, 1, 9, "table 100");
    on(&hosts.server, any_hook(), |byway| byway.rollback()).unwrap();
    assert_eq!(next_hops(&hosts)[0].0, "via dhcp (10.0.1.9) dev eth1");
    assert_eq!(hosts.way(hosts.source(5), hosts.far(1)), Way::Router1);
    // And where there is no lease any more.
    apply(&hosts, &of(hosts.hop(2))).unwrap();
    forget(&hosts, 1, 9, "table 100");
    on(&hosts.server, any_hook(), |byway| byway.rollback()).unwrap();
    assert_eq!(next_hops(&hosts), [("via dhcp dev eth1".to_owned(), NextHopState::Waiting)]);
    assert_eq!(hosts.way(hosts.source(5), hosts.far(1)), Way::Gateway);
}

/// IPv6 makes one route of equal ones by several routers.
#[test]
fn each_gateway_of_a_multipath_route_is_that_of_its_device() {
    for v6 in [false, true] {
        let hosts = Routers::new(v6);
        let (family, of) = (if v6 { "-6" } else { "-4" }, learned(v6));
        let [one, other] = hosts.via;
        let route = format!("{family} default nexthop via {one} dev eth1 nexthop via {other} dev eth2");
        hosts.server.route(&format!("{route} proto {of} table 100")).unwrap();
        for (last, device, way) in [(5, "eth1", Way::Router1), (6, "eth2", Way::Router2)] {
            let spec = spec(&hosts, last, device, v6);
            on(&hosts.server, any_hook(), |byway| byway.add(&spec)).unwrap();
            assert_eq!(hosts.way(hosts.source(last), hosts.far(1)), way);
        }
    }
}

#[test]
fn the_same_request_means_the_same_gateway_whoever_asks() {
    let hosts = Routers::new(false);
    hosts.router[0].address("eth0", &hosts.on_link(1, 9)).unwrap();
    learn(&hosts, 1, 9, "table 100");
    let add = |last| {
        let spec = spec(&hosts, last, "eth1", false);
        on(&hosts.server, any_hook(), |byway| byway.add(&spec)).unwrap()
    };
    add(5);
    learn(&hosts, 1, 1, "table 101");
    add(6);
    assert_eq!(next_hops(&hosts), [("via dhcp (10.0.1.9) dev eth1".to_owned(), NextHopState::Up)]);
}

#[test]
fn a_learned_gateway_may_become_that_of_another_next_hop() {
    let hosts = Routers::new(false);
    hosts.router[0].address("eth0", &hosts.on_link(1, 9)).unwrap();
    learn(&hosts, 1, 9, "table 100");
    let both = [NextHopSpec::learned_from(Learned::Dhcp, "eth1"), hosts.hop(1)];
    let target = byway::TargetSpec::NextHops(both.map(MemberSpec::new).into());
    let config = |last: u16| {
        let rule = rule(&hosts.source(last).to_string(), None, target.clone());
        Config::new(Some(Attach::devices(["eth0"])), vec![], [rule])
    };
    apply(&hosts, &config(5)).unwrap();
    forget(&hosts, 1, 9, "table 100");
    learn(&hosts, 1, 1, "table 100");
    assert_eq!(follow(&hosts, any_hook()), [has(&hosts, 1, 1, false)]);
    assert!(apply(&hosts, &config(5)).unwrap().is_empty());
    apply(&hosts, &config(6)).unwrap();
    on(&hosts.server, any_hook(), |byway| byway.rollback()).unwrap();
    assert_eq!(hosts.way(hosts.source(5), hosts.far(1)), Way::Router1);
}
