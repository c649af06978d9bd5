//! What was asked for follows devices and routes, without a change of anybody's.

use std::time::Duration;

use byway::{Attach, Followed, Hook, NetworkEvents, NextHopSpec, Owner, Role, config::Config};

use crate::support::{
    any_hook, hooks, hooks_and_families, on, pins,
    replies::replies,
    routers::{Routers, Way, rule},
};

fn follow(hosts: &Routers, hook: Hook) -> Vec<String> {
    let followed = on(&hosts.server, hook, |byway| byway.follow()).unwrap();
    followed.iter().map(Followed::to_string).collect()
}

/// The attachments, by name.
fn attached(hosts: &Routers) -> Vec<String> {
    let all = on(&hosts.server, any_hook(), |byway| byway.attachments()).unwrap();
    let departures = all.iter().filter(|it| it.role == Role::Departure && it.is_installed);
    departures.map(|it| it.device.name.clone()).collect()
}

fn detached(device: &str) -> String {
    format!("detached from {device}, which carries no default route now")
}

#[test]
fn attachments_move_with_the_default_route() {
    for (hook, v6) in hooks_and_families() {
        let hosts = Routers::new(v6);
        let spec = rule(&hosts.source(5).to_string(), None, hosts.hop(2).into());
        on(&hosts.server, hook, |byway| byway.add(&spec)).unwrap();
        assert_eq!(attached(&hosts), ["eth0"]);
        assert_eq!(follow(&hosts, hook), [""; 0]);

        let family = if v6 { "-6" } else { "-4" };
        hosts.server.delete_route(&format!("{family} default")).unwrap();
        assert_eq!(follow(&hosts, hook), [""; 0], "while there is none, they stay");
        assert_eq!(attached(&hosts), ["eth0"]);
        hosts.server.route(&format!("default via {}", hosts.via[0])).unwrap();
        assert_eq!(hosts.way(hosts.source(5), hosts.far(1)), Way::Router1, "nobody has followed it yet");
        assert_eq!(follow(&hosts, hook), [detached("eth0"), "attached to eth1".to_owned()]);
        assert_eq!(hosts.way(hosts.source(5), hosts.far(2)), Way::Router2);
        assert_eq!(hosts.way(hosts.source(6), hosts.far(2)), Way::Router1);
        assert_eq!(follow(&hosts, hook), [""; 0]);

        // It has several, and one of them by a device of next hops.
        hosts.server.route(&format!("default via {} metric 2000", hosts.via[1])).unwrap();
        assert_eq!(follow(&hosts, hook), ["attached to eth2"]);
        assert_eq!(attached(&hosts), ["eth1", "eth2"]);
        assert_eq!(hosts.way(hosts.source(5), hosts.far(3)), Way::Router2);
        hosts.server.delete_route(&format!("default via {}", hosts.via[1])).unwrap();
        assert_eq!(follow(&hosts, hook), [detached("eth2")]);
        assert_eq!(hosts.way(hosts.source(5), hosts.far(4)), Way::Router2);
    }
}

#[test]
fn attachments_that_were_named_stay() {
    let hosts = Routers::new(false);
    on(&hosts.server, any_hook(), |byway| byway.attach(&Attach::devices(["eth0"]))).unwrap();
    hosts.server.delete_route("default").unwrap();
    hosts.server.route("default via 10.0.1.1").unwrap();
    assert_eq!(follow(&hosts, any_hook()), [""; 0]);
    assert_eq!(attached(&hosts), ["eth0"]);
}

/// Packets to a next hop that is stacked on an attachment would go round.
#[test]
fn no_attachment_moves_below_a_next_hop() {
    let hosts = Routers::new(false);
    hosts.server.macvlan("mv0", "eth2").unwrap();
    let spec = rule("192.168.0.5", None, NextHopSpec::on_link("mv0").into());
    on(&hosts.server, any_hook(), |byway| byway.add(&spec)).unwrap();
    hosts.server.delete_route("default").unwrap();
    hosts.server.route("default via 10.0.2.1").unwrap();
    assert_eq!(follow(&hosts, any_hook()), [""; 0]);
    assert_eq!(attached(&hosts), ["eth0"]);
}

/// Makes the routing tables find router 1's address on the link of router 2, who has it as well.
fn move_route(hosts: &Routers) {
    hosts.router[1].address("eth0", &hosts.on_link(1, 1)).unwrap();
    hosts.server.route(&format!("{} dev eth2", hosts.via[0])).unwrap();
}

#[test]
fn a_next_hop_without_a_named_device_follows_its_route() {
    for (hook, v6) in hooks_and_families() {
        let hosts = Routers::new(v6);
        let by_route = rule(&hosts.source(5).to_string(), None, NextHopSpec::via(hosts.via[0]).into());
        let named = rule(&hosts.source(6).to_string(), None, hosts.hop(1).into());
        on(&hosts.server, hook, |byway| byway.add_all(&[by_route.clone(), named])).unwrap();
        assert_eq!(hosts.way(hosts.source(5), hosts.far(1)), Way::Router1);

        move_route(&hosts);
        on(&hosts.server, hook, |byway| byway.attach(&Attach::Devices(Vec::new()))).unwrap();
        assert_eq!(hosts.way(hosts.source(5), hosts.far(1)), Way::Router1, "no other change moves it");
        let now = format!("the next hop via {} (dev eth2) leaves by eth2 now", hosts.via[0]);
        assert_eq!(follow(&hosts, hook), [now]);
        assert_eq!(hosts.way(hosts.source(5), hosts.far(1)), Way::Router2);
        assert_eq!(hosts.way(hosts.source(6), hosts.far(1)), Way::Router1);
        let status = on(&hosts.server, hook, |byway| byway.rule(&by_route.selector)).unwrap();
        assert_eq!((status.departed.packets, status.arrived.packets), (3, 3), "the counters stay");
        assert_eq!(follow(&hosts, hook), [""; 0]);
    }
}

#[test]
fn a_next_hop_that_follows_its_route_may_meet_another_one() {
    let hosts = Routers::new(false);
    let of = |last| rule(&hosts.source(last).to_string(), None, NextHopSpec::via(hosts.via[0]).into());
    let add = |spec| on(&hosts.server, any_hook(), |byway| byway.add(&spec)).unwrap();
    add(of(5));
    move_route(&hosts);
    add(of(6));
    assert_eq!(hosts.way(hosts.source(5), hosts.far(1)), Way::Router1);
    assert_eq!(follow(&hosts, any_hook()), ["the next hop via 10.0.1.1 (dev eth2) leaves by eth2 now"]);
    for last in [5, 6] {
        assert_eq!(hosts.way(hosts.source(last), hosts.far(1)), Way::Router2);
    }
    assert_eq!(on(&hosts.server, any_hook(), |byway| byway.next_hops()).unwrap().len(), 1);
}

#[test]
fn an_interface_that_is_made_anew_gets_its_program_and_its_next_hop() {
    for (hook, v6) in hooks_and_families() {
        let hosts = Routers::new(v6);
        let spec = rule(&hosts.source(5).to_string(), None, hosts.hop(2).into());
        on(&hosts.server, hook, |byway| {
            byway.attach(&Attach::devices(["eth0"])).unwrap();
            byway.add(&spec).unwrap();
        });
        hosts.server.delete_link("eth2").unwrap();
        assert_eq!(follow(&hosts, hook), [""; 0]);
        assert_eq!(hosts.way(hosts.source(5), hosts.far(1)), Way::Gateway);
        hosts.lab.link((&hosts.server, "eth2"), (&hosts.router[1], "eth9")).unwrap();
        hosts.server.address("eth2", &hosts.on_link(2, 2)).unwrap();
        hosts.router[1].address("eth9", &hosts.on_link(2, 1)).unwrap();
        let now = format!("the next hop via {} dev eth2 leaves by eth2 now", hosts.via[1]);
        assert_eq!(follow(&hosts, hook), [now]);
        let status = || on(&hosts.server, hook, |byway| byway.rule(&spec.selector)).unwrap();
        hosts.send(hosts.source(5), hosts.far(1));
        assert_eq!(status().departed.packets, 1, "{:?}", status());
    }
}

/// A default route without a gateway leads to every address, and is no reason to go there while there is another device.
#[test]
fn no_next_hop_follows_a_default_route_without_a_gateway() {
    let hosts = Routers::new(false);
    let spec = rule("192.168.0.5", None, NextHopSpec::via(hosts.via[0]).into());
    on(&hosts.server, any_hook(), |byway| byway.add(&spec)).unwrap();
    hosts.server.delete_route("default").unwrap();
    hosts.server.route("default dev eth2 scope link").unwrap();
    hosts.server.delete_address("eth1", &hosts.on_link(1, 2)).unwrap();
    assert_eq!(follow(&hosts, any_hook()), [detached("eth0"), "attached to eth2".to_owned()]);
    let status = on(&hosts.server, any_hook(), |byway| byway.rule(&spec.selector)).unwrap();
    assert_eq!(status.rule.target.next_hops().next().unwrap().device.name, "eth1");
}

/// What an apply has attached to by the default route may be elsewhere when it is rolled back.
#[test]
fn a_rollback_ends_attachments_that_have_moved() {
    let hosts = Routers::new(false);
    on(&hosts.server, any_hook(), |byway| byway.attach(&Attach::devices(["eth0"]))).unwrap();
    let config = Config::new(Some(Attach::Auto), vec![], []);
    on(&hosts.server, any_hook(), |byway| byway.apply(Owner::CONFIG, &config)).unwrap();
    hosts.server.delete_route("default").unwrap();
    hosts.server.route("default via 10.0.1.1").unwrap();
    assert_eq!(follow(&hosts, any_hook()), [detached("eth0"), "attached to eth1".to_owned()]);
    on(&hosts.server, any_hook(), |byway| byway.rollback()).unwrap();
    assert_eq!(attached(&hosts), ["eth0"]);
    assert_eq!(follow(&hosts, any_hook()), [""; 0]);
}

/// An upgrade is a change that nobody else may make.
#[test]
fn following_takes_over_the_pins_of_an_older_schema() {
    let hosts = Routers::new(false);
    on(&hosts.server, any_hook(), |byway| byway.attach(&Attach::Auto)).unwrap();
    let meta = format!("{}/META", pins().remove(0));
    let schema = |set: Option<u32>| {
        let map = aya::maps::Map::from_map_data(aya::maps::MapData::from_pin(&meta).unwrap()).unwrap();
        let mut meta: aya::maps::Array<_, u32> = map.try_into().unwrap();
        if let Some(schema) = set {
            meta.set(byway_abi::meta::SCHEMA, schema, 0).unwrap();
        }
        meta.get(&byway_abi::meta::SCHEMA, 0).unwrap()
    };
    schema(Some(byway::SCHEMA - 1));
    assert_eq!(follow(&hosts, any_hook()), [""; 0]);
    assert_eq!(schema(None), byway::SCHEMA);
}

/// No rule is read for this: what rules with `reply-to` need follows from what their programs and sets say.
#[test]
fn a_device_that_comes_late_sends_replies_back() {
    for (hook, v6) in hooks_and_families() {
        let hosts = Routers::new(v6);
        let spec = replies(&hosts.around(hosts.source(5), 8)).received_by(["eth1", "late"]);
        let config = Config::new(None, vec![], [spec]);
        let changes = on(&hosts.server, hook, |byway| byway.apply(Owner::CONFIG, &config)).unwrap();
        assert_eq!(changes.waiting().len(), 1);
        assert_eq!(follow(&hosts, hook), [""; 0]);
        hosts.lab.link((&hosts.server, "late"), (&hosts.router[0], "eth9")).unwrap();
        let there = "of the devices after `reply-to`, these are there now: eth1, late";
        assert_eq!(follow(&hosts, hook), ["replies to requests by late go back by late", there]);
        let all = on(&hosts.server, hook, |byway| byway.attachments()).unwrap();
        let receives: Vec<&str> = all
            .iter()
            .filter(|it| it.role == Role::Reception && it.is_installed)
            .map(|it| it.device.name.as_str())
            // Some kernels make tunnels of their own in each namespace.
            .filter(|name| name.starts_with("eth") || *name == "late")
            .collect();
        assert_eq!(receives, ["eth0", "eth1", "eth2", "late"]);
        assert!(on(&hosts.server, hook, |byway| byway.diff(Owner::CONFIG, &config)).unwrap().is_empty());
        assert_eq!(follow(&hosts, hook), [""; 0]);

        hosts.server.delete_link("late").unwrap();
        let there = "of the devices after `reply-to`, these are there now: eth1";
        assert_eq!(follow(&hosts, hook), [there]);
    }
}

/// What changes while a call changes something is not lost.
#[test]
fn a_change_meanwhile_is_followed_by_the_next_call() {
    let hosts = Routers::new(false);
    on(&hosts.server, any_hook(), |byway| byway.attach(&Attach::Auto)).unwrap();
    let moved = |from: &str, to: &str| {
        hosts.server.delete_route(&format!("default via {from}")).unwrap();
        hosts.server.route(&format!("default via {to}")).unwrap();
    };
    moved("10.0.0.1", "10.0.1.1");
    let server = hosts.server.clone();
    let calls = std::sync::atomic::AtomicU32::new(0);
    let meanwhile = move |_, _| {
        if calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0 {
            server.delete_route("default via 10.0.1.1").unwrap();
            server.route("default via 10.0.2.1").unwrap();
        }
    };
    let said = hosts.server.run(move || {
        let mut byway = byway::Byway::open().unwrap().with_hook(any_hook()).with_progress(meanwhile);
        [(); 3].map(|()| byway.follow().unwrap().iter().map(Followed::to_string).collect::<Vec<_>>())
    });
    assert_eq!(said[0], [detached("eth0"), "attached to eth1".to_owned()]);
    assert_eq!(said[1], [detached("eth1"), "attached to eth2".to_owned()]);
    assert_eq!(said[2], [""; 0]);
}

/// Nothing is made where nothing was asked for, and what is as it was takes no lock.
#[test]
fn following_nothing_costs_nothing() {
    let hosts = Routers::new(false);
    assert_eq!(follow(&hosts, any_hook()), [""; 0]);
    assert_eq!(pins(), [""; 0]);

    on(&hosts.server, any_hook(), |byway| byway.attach(&Attach::Auto)).unwrap();
    hosts.server.run(|| {
        let open = || byway::Byway::open().unwrap().with_hook(any_hook()).with_wait(Duration::ZERO);
        let mut byway = open();
        assert_eq!(byway.follow().unwrap(), []);
        let held = nix::fcntl::Flock::lock(
            std::fs::File::open("/sys/fs/bpf/byway").unwrap(),
            nix::fcntl::FlockArg::LockExclusiveNonblock,
        );
        let _held = held.unwrap();
        assert_eq!(byway.follow().unwrap(), []);
        assert!(matches!(open().follow(), Err(byway::Error::Locked { .. })));
    });
}

/// A reader that is too slow is told so, and what it reads then is right.
#[test]
fn events_may_be_lost_but_no_change() {
    let hosts = Routers::new(false);
    on(&hosts.server, any_hook(), |byway| byway.attach(&Attach::Auto)).unwrap();
    let mut events = hosts.server.run(|| NetworkEvents::open(Some(1))).unwrap();
    assert_eq!(events.take().unwrap(), Default::default());
    for nth in 0..100 {
        hosts.server.route(&format!("198.51.100.{nth} via 10.0.1.1")).unwrap();
    }
    hosts.server.delete_route("default").unwrap();
    hosts.server.route("default via 10.0.1.1").unwrap();
    let counts = events.take().unwrap();
    assert!(counts.overruns > 0 && counts.messages < 102, "{counts:?}");
    assert_eq!(follow(&hosts, any_hook()), [detached("eth0"), "attached to eth1".to_owned()]);

    let mut events = hosts.server.run(|| NetworkEvents::open(None)).unwrap();
    hosts.server.route("198.51.100.200 via 10.0.1.1").unwrap();
    let counts = events.take().unwrap();
    assert_eq!((counts.messages, counts.overruns), (1, 0));
}

/// Whoever deletes the pins takes the rules off, and what was applied before the last time is still there to go back to. With
/// clsact, the programs would stay.
#[test]
fn lost_pins_are_noticed_and_leave_the_way_back() {
    for hook in hooks().iter().copied().filter(|hook| *hook == Hook::Tcx) {
        let hosts = Routers::new(false);
        let of = |last, router: usize| rule(&hosts.source(last).to_string(), None, hosts.hop(router).into());
        let config = |router| Config::new(Some(Attach::devices(["eth0"])), vec![], [of(5, router)]);
        let (first, second, other) = (config(1), config(2), of(6, 1));
        let lose = || std::fs::remove_dir_all(pins().remove(0)).unwrap();
        on(&hosts.server, hook, |byway| {
            assert!(!byway.has_lost_pins().unwrap());
            for config in [&first, &second] {
                byway.apply(Owner::CONFIG, config).unwrap();
                assert!(!byway.has_lost_pins().unwrap());
            }
            for _ in 0..2 {
                lose();
                assert!(byway.has_lost_pins().unwrap());
                assert!(!byway.has_lost_pins().unwrap(), "it says it once");
                byway.apply_again(&second).unwrap();
                assert!(!byway.has_lost_pins().unwrap());
            }
            lose();
            // By then, somebody has made others.
            byway.add(&other).unwrap();
            assert!(byway.has_lost_pins().unwrap());
            byway.apply_again(&second).unwrap();
            byway.rollback().unwrap();
        });
        assert_eq!(hosts.way(hosts.source(5), hosts.far(1)), Way::Router1);
        on(&hosts.server, hook, |byway| {
            byway.flush().unwrap();
            byway.detach_all().unwrap();
            assert!(!byway.has_lost_pins().unwrap(), "a Byway has removed them");
        });
        assert_eq!(pins(), [""; 0]);
    }
}
