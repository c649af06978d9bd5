//! Requests that outlive what came of them, and what must not come of one.

use std::net::SocketAddr;

use byway::{
    Attach, Changes, Error, Hook, MemberSpec, NextHopSpec, Owner, RuleSpec, RuleStatus, config::Config,
};

use crate::support::{
    any_hook, hooks_and_families, on, pins,
    replies::{Datagrams, PORT, replies, two_uplinks},
    routers::{Routers, Way, rule},
};

fn apply(hosts: &Routers, config: &Config) -> Result<Changes, Error> {
    on(&hosts.server, any_hook(), |byway| byway.apply(Owner::CONFIG, config))
}

/// A change that asks for nothing.
fn any_change(hosts: &Routers) {
    on(&hosts.server, any_hook(), |byway| byway.attach(&Attach::Devices(Vec::new()))).unwrap();
}

fn of(hosts: &Routers, last: u16, next_hop: NextHopSpec) -> RuleSpec {
    rule(&hosts.source(last).to_string(), None, next_hop.into())
}

fn add(hosts: &Routers, spec: &RuleSpec) {
    on(&hosts.server, any_hook(), |byway| byway.add(spec)).unwrap();
}

fn status(hosts: &Routers, spec: &RuleSpec) -> RuleStatus {
    on(&hosts.server, any_hook(), |byway| byway.rule(&spec.selector)).unwrap()
}

/// The kernel renames what is up from Linux 6.2 on; before, an address and a default route have to be given back.
fn rename(hosts: &Routers, device: &str, name: &str) {
    hosts.server.set_up(device, false).unwrap();
    hosts.server.rename_link(device, name).unwrap();
    hosts.server.set_up(name, true).unwrap();
    if device == "eth0" {
        hosts.server.route(&format!("default via 10.0.0.1 dev {name}")).unwrap();
    }
}

/// What packets would go round in takes nobody in, although it has the name that is asked for.
#[test]
fn no_device_is_taken_that_is_stacked_on_an_attachment() {
    let hosts = Routers::new(false);
    let spec = of(&hosts, 5, hosts.hop(1).dev("mv0"));
    let config = Config::new(Some(Attach::devices(["eth0"])), vec![], [spec.clone()]);
    assert_eq!(apply(&hosts, &config).unwrap().waiting().len(), 1);
    hosts.server.macvlan("mv0", "eth0").unwrap();
    any_change(&hosts);
    assert!(status(&hosts, &spec).device_gone, "it waits still");
    assert_eq!(hosts.way(hosts.source(5), hosts.far(1)), Way::Gateway);
    assert!(matches!(apply(&hosts, &config), Err(Error::Stacked { .. })));
}

/// The same for an attachment that has waited, below a next hop.
#[test]
fn nothing_is_attached_to_that_a_next_hop_is_stacked_on() {
    let hosts = Routers::new(false);
    hosts.server.set_up("eth2", false).unwrap();
    hosts.server.rename_link("eth2", "low").unwrap();
    hosts.server.set_up("low", true).unwrap();
    hosts.server.macvlan("mv0", "low").unwrap();
    let config = Config::new(
        Some(Attach::devices(["eth0", "eth2"])),
        vec![],
        [of(&hosts, 5, NextHopSpec::on_link("mv0"))],
    );
    assert_eq!(apply(&hosts, &config).unwrap().waiting().len(), 1);
    hosts.server.set_up("low", false).unwrap();
    hosts.server.rename_link("low", "eth2").unwrap();
    any_change(&hosts);
    let attachments = on(&hosts.server, any_hook(), |byway| byway.attachments()).unwrap();
    let eth2 = attachments.iter().find(|it| it.device.name == "eth2").unwrap();
    assert!(!eth2.is_installed, "{attachments:?}");
}

#[test]
fn a_default_route_that_is_away_for_a_while_takes_no_attachment_with_it() {
    let hosts = Routers::new(false);
    let config = Config::new(Some(Attach::Auto), vec![], [of(&hosts, 5, hosts.hop(1))]);
    apply(&hosts, &config).unwrap();
    hosts.server.delete_route("default via 10.0.0.1").unwrap();
    assert!(apply(&hosts, &config).unwrap().is_empty());
    hosts.server.route("default via 10.0.0.1").unwrap();
    assert!(hosts.goes(hosts.source(5), hosts.far(1), Way::Router1));
}

/// A rule stays with its device through renaming, and so does what the file says of it.
#[test]
fn applying_the_same_again_changes_nothing_whatever_the_device_is_called() {
    let hosts = Routers::new(false);
    let spec = of(&hosts, 5, hosts.hop(1));
    let config = Config::new(Some(Attach::devices(["eth0"])), vec![], [spec.clone()]);
    apply(&hosts, &config).unwrap();
    assert!(hosts.goes(hosts.source(5), hosts.far(1), Way::Router1));
    for (device, name) in [("eth1", "one"), ("eth0", "nought")] {
        rename(&hosts, device, name);
        let changes = apply(&hosts, &config).unwrap();
        assert!(changes.is_empty(), "{changes:?}");
        assert!(!changes.waiting().is_empty(), "the file does not have the right name of eth1");
    }
    assert!(hosts.goes(hosts.source(5), hosts.far(1), Way::Router1));
    let before = status(&hosts, &spec).departed;
    hosts.server.delete_link("one").unwrap();
    for _ in 0..2 {
        let changes = apply(&hosts, &config).unwrap();
        assert!(changes.is_empty() && !changes.waiting().is_empty(), "{changes:?}");
    }
    assert_eq!(status(&hosts, &spec).departed, before, "it is the same rule still");
}

/// Two that have found a gateway on different devices, one of which goes: both have the other one then.
#[test]
fn two_requests_may_come_to_mean_the_same() {
    let hosts = Routers::new(false);
    let by_route = |last| of(&hosts, last, NextHopSpec::via(hosts.via[0]));
    let group = vec![MemberSpec::from(NextHopSpec::via(hosts.via[0])), hosts.hop(2).into()];
    let both = rule(&hosts.source(7).to_string(), None, group.into());
    add(&hosts, &by_route(5));
    add(&hosts, &both);
    hosts.server.delete_address("eth1", "10.0.1.2/24").unwrap();
    hosts.server.address("eth2", "10.0.1.2/24").unwrap();
    hosts.router[1].address("eth0", "10.0.1.1/24").unwrap();
    add(&hosts, &by_route(6));
    hosts.server.delete_link("eth1").unwrap();
    any_change(&hosts);
    for last in [5, 6, 7] {
        assert!(
            hosts.goes(hosts.source(last), hosts.far(1), Way::Router2),
            "{:?}",
            status(&hosts, &by_route(last))
        );
    }
    let next_hops = on(&hosts.server, any_hook(), |byway| byway.next_hops()).unwrap();
    assert_eq!(next_hops.len(), 2, "{next_hops:?}");
}

#[test]
fn what_cannot_be_a_name_is_not_waited_for() {
    let hosts = Routers::new(false);
    for name in ["", "two words", "a/b", "..", "longer-than-any-device"] {
        let specs = [of(&hosts, 5, NextHopSpec::on_link(name)), of(&hosts, 5, hosts.hop(1).dev(name))];
        for spec in specs {
            let refused = apply(&hosts, &Config::new(None, vec![], [spec]));
            assert!(matches!(refused, Err(Error::NoSuchDevice(_))), "`{name}`: {refused:?}");
        }
        let refused = apply(&hosts, &Config::new(Some(Attach::devices([name])), vec![], []));
        assert!(matches!(refused, Err(Error::NoSuchDevice(_))), "`{name}`: {refused:?}");
    }
    assert_eq!(pins(), Vec::<String>::new());
}

/// Nobody has to make a change first to end the wait for a device that has gone.
#[test]
fn an_attachment_that_is_gone_is_asked_for_until_it_is_detached() {
    let hosts = Routers::new(false);
    on(&hosts.server, any_hook(), |byway| byway.attach(&Attach::devices(["eth1", "eth2"]))).unwrap();
    hosts.server.delete_link("eth1").unwrap();
    let exported = on(&hosts.server, any_hook(), |byway| byway.export()).unwrap();
    assert_eq!(exported.attach, Some(Attach::devices(["eth1", "eth2"])));
    on(&hosts.server, any_hook(), |byway| byway.detach(&["eth1"])).unwrap();
    let exported = on(&hosts.server, any_hook(), |byway| byway.export()).unwrap();
    assert_eq!(exported.attach, Some(Attach::devices(["eth2"])));
}

/// A router that is taken out of service is out of service, however a rule names it.
#[test]
fn out_of_service_is_a_gateway_on_a_device_and_not_a_request() {
    let hosts = Routers::new(false);
    add(&hosts, &of(&hosts, 5, hosts.hop(1)));
    let (named, by_route) = (hosts.hop(1), NextHopSpec::via(hosts.via[0]));
    on(&hosts.server, any_hook(), |byway| byway.take_out_of_service(&named)).unwrap();
    add(&hosts, &of(&hosts, 6, by_route.clone()));
    assert_eq!(hosts.way(hosts.source(6), hosts.far(1)), Way::Gateway);
    on(&hosts.server, any_hook(), |byway| byway.put_in_service(&by_route)).unwrap();
    for last in [5, 6] {
        assert!(hosts.goes(hosts.source(last), hosts.far(1), Way::Router1));
    }
}

/// An apply that only completes what waited asks for nothing new: the way back still leads to what was before.
#[test]
fn completing_takes_no_way_back() {
    let hosts = Routers::new(false);
    apply(&hosts, &Config::new(None, vec![], [of(&hosts, 5, hosts.hop(2))])).unwrap();
    let late = Config::new(None, vec![], [of(&hosts, 5, hosts.hop(1).dev("late"))]);
    assert_eq!(apply(&hosts, &late).unwrap().waiting().len(), 1);
    rename(&hosts, "eth1", "late");
    assert_eq!(apply(&hosts, &late).unwrap().completed().len(), 1);
    assert!(hosts.goes(hosts.source(5), hosts.far(1), Way::Router1));
    on(&hosts.server, any_hook(), |byway| byway.rollback()).unwrap();
    assert!(hosts.goes(hosts.source(5), hosts.far(1), Way::Router2));
}

/// The way back knows where a gateway is that nobody has named a device for.
#[test]
fn going_back_looks_for_the_routes_of_now() {
    let hosts = Routers::new(false);
    hosts.server.delete_address("eth1", "10.0.1.2/24").unwrap();
    let spec = of(&hosts, 5, NextHopSpec::via(hosts.via[0]));
    apply(&hosts, &Config::new(None, vec![], [spec.clone()])).unwrap();
    apply(&hosts, &Config::new(None, vec![], [of(&hosts, 6, hosts.hop(2))])).unwrap();
    hosts.server.address("eth1", "10.0.1.2/24").unwrap();
    let changes = on(&hosts.server, any_hook(), |byway| byway.rollback()).unwrap();
    assert!(changes.waiting().is_empty(), "{changes:?}");
    assert!(hosts.goes(hosts.source(5), hosts.far(1), Way::Router1));
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
        assert!(arrived, "{:?}", status(&hosts, &spec));
        assert!(status(&hosts, &spec).no_next_hop.packets >= 2, "the rule has kept its counters");
    }
}

/// What an export says of the attachments.
fn asked(hosts: &Routers, hook: Hook) -> Option<Attach> {
    on(&hosts.server, hook, |byway| byway.export()).unwrap().attach
}

fn apply_attach(hosts: &Routers, hook: Hook, attach: Option<Attach>) -> Changes {
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
        let changes = apply_attach(&hosts, hook, Some(Attach::Auto));
        assert_eq!(changes.waiting().len(), 1, "{changes:?}");
        assert_eq!(changes.auto(), [false, true]);
        assert_eq!(asked(&hosts, hook), Some(Attach::Auto));
        let attachments = on(&hosts.server, hook, |byway| byway.attachments()).unwrap();
        let [waits] = &attachments[..] else { panic!("{attachments:?}") };
        assert!(waits.by_route && waits.device.index == 0 && !waits.is_installed, "{waits:?}");
        assert!(waits.trouble().is_some_and(|it| it.starts_with("auto: ")), "{waits:?}");

        hosts.server.route(default).unwrap();
        on(&hosts.server, hook, |byway| byway.flush()).unwrap();
        let attachments = on(&hosts.server, hook, |byway| byway.attachments()).unwrap();
        let [eth0] = &attachments[..] else { panic!("{attachments:?}") };
        assert!(eth0.device.name == "eth0" && eth0.is_installed && eth0.by_route, "{eth0:?}");
        assert!(apply_attach(&hosts, hook, asked(&hosts, hook)).is_empty(), "an export changes nothing");

        // The same device by its name is another request, and going back is going back to the request.
        let named = Attach::devices(["eth0"]);
        let changes = apply_attach(&hosts, hook, Some(named.clone()));
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
        let changes = apply_attach(&hosts, hook, Some(names.clone()));
        assert_eq!(changes.waiting().len(), 1, "{changes:?}");
        assert!(apply_attach(&hosts, hook, Some(names.clone())).is_empty());
        assert_eq!(asked(&hosts, hook), Some(names.clone()));

        hosts.server.set_up("eth2", false).unwrap();
        hosts.server.rename_link("eth2", "late").unwrap();
        hosts.server.set_up("late", true).unwrap();
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

/// A device after `reply-to` may come later, and keeps its flows and the rule its counters under another name. One that is a port
/// of a bridge is refused, since nothing comes in by it.
#[test]
fn a_device_of_reply_to_may_come_later() {
    for (hook, v6) in hooks_and_families() {
        let (hosts, client, service) = two_uplinks(v6);
        let link = hosts.on_link(2, 2);
        rename(&hosts, "eth2", "early");
        hosts.address_again(&hosts.server, "early", &link);
        let spec = replies(&hosts.around(service, 8)).received_by(["late"]);
        let error = on(&hosts.server, hook, |byway| byway.add(&spec)).unwrap_err();
        assert!(matches!(error, Error::NoSuchDevice(_)), "{error}");
        let config = Config::new(Some(Attach::devices(["eth0"])), vec![], [spec.clone()]);
        let apply = || on(&hosts.server, hook, |byway| byway.apply(Owner::CONFIG, &config)).unwrap();
        let waiting =
            |changes: &Changes| changes.waiting().iter().map(|it| it.request.clone()).collect::<Vec<_>>();
        assert_eq!(waiting(&apply()), ["reply-to dev late"]);
        let udp = Datagrams::new(&hosts, client, service);
        udp.ask(2);
        assert_eq!(udp.answer(&hosts), 0);
        drop(udp);

        rename(&hosts, "early", "late");
        hosts.address_again(&hosts.server, "late", &link);
        assert_eq!(waiting(&apply()), Vec::<String>::new());
        let status = || status(&hosts, &spec);
        assert_eq!(status().no_next_hop.packets, 1, "the rule is the same");
        let udp = Datagrams::from(&hosts, SocketAddr::new(client, PORT + 9), service);
        udp.ask(2);
        assert_eq!(udp.answer(&hosts), 2);

        rename(&hosts, "late", "other");
        hosts.address_again(&hosts.server, "other", &link);
        let any_change =
            || on(&hosts.server, hook, |byway| byway.attach(&Attach::Devices(Vec::new()))).unwrap();
        any_change();
        assert_eq!(udp.answer(&hosts), 2, "it is the same device");
        assert_eq!(status().rule.reply_to_dev, spec.reply_to_dev);
        rename(&hosts, "eth1", "late");
        any_change();
        assert_eq!(udp.answer(&hosts), 0, "another device has the name now");

        let of_port = spec.clone().received_by(["other"]);
        on(&hosts.server, hook, |byway| byway.replace(&of_port)).unwrap();
        assert_eq!(udp.answer(&hosts), 2);
        hosts.server.bridge("br0", &["other"]).unwrap();
        let error = on(&hosts.server, hook, |byway| byway.replace(&of_port)).unwrap_err();
        assert_eq!(
            error.sentence(),
            "what comes in by other comes in by br0, which other is a port of; name br0"
        );
        let config = Config::new(Some(Attach::devices(["eth0"])), vec![], [of_port]);
        let changes = on(&hosts.server, hook, |byway| byway.apply(Owner::CONFIG, &config)).unwrap();
        assert_eq!(waiting(&changes), ["reply-to dev other"]);
    }
}
