//! Other tc programs on the same device: a miss reaches them, and Byway leaves them as they are.

use std::net::UdpSocket;

use aya::programs::{SchedClassifier, TcAttachType};
use byway::{Attach, Hook};
use byway_lab::{
    Capture,
    seed::{Addresses, IPV4, Seed},
    wait_until,
};

use crate::support::{
    foreign::{Foreign, Place, Verdict},
    hooks, hooks_and_addresses, on, pins, the_rule, via,
};

/// Sends packets that leave by `eth0`, from the service address or from the server's own.
fn send(seed: &Seed, addresses: &Addresses, from_service: bool, packets: usize) {
    seed.server.run(|| {
        let from = if from_service { addresses.service } else { addresses.server };
        let socket = UdpSocket::bind((from, 0)).unwrap();
        for _ in 0..packets {
            // A packet that a program drops is an error of the socket's for some kernels.
            let _ = socket.send_to(b"hello", (addresses.client, 9));
        }
    });
}

#[test]
fn a_miss_reaches_the_programs_ahead_and_behind() {
    for (hook, addresses) in hooks_and_addresses() {
        let seed = Seed::new().unwrap();
        // Neighbour discovery of the gateway would be counted as well: let it happen before.
        seed.server.ping(None, addresses.gateway, crate::support::ANSWER).unwrap();
        let behind = seed.server.run(|| Foreign::attach("behind", "eth0", hook, Place::Behind));
        on(&seed.server, hook, |byway| {
            byway.add(&via(&addresses.service.to_string(), addresses.router, "eth1")).unwrap();
        });
        let ahead = seed.server.run(|| Foreign::attach("ahead", "eth0", hook, Place::Ahead));
        let seen = || (ahead.seen(), behind.seen());

        let before = seen();
        send(&seed, &addresses, false, 20);
        let after = seen();
        assert!(after.0 >= before.0 + 20 && after.1 >= before.1 + 20, "a miss: {before:?}, {after:?}");
        assert_eq!(the_rule(&seed.server).departed.packets, 0);

        let before = seen();
        send(&seed, &addresses, true, 20);
        let after = seen();
        assert!(after.0 >= before.0 + 20, "a hit, ahead: {before:?}, {after:?}");
        assert!(after.1 < before.1 + 20, "a hit leaves by another device: {before:?}, {after:?}");
        let status = the_rule(&seed.server);
        assert_eq!(status.departed.packets, 20);
        assert_eq!(status.departed, status.arrived);

        // Both are still there when Byway has gone, and still see what passes.
        on(&seed.server, hook, |byway| byway.flush().and_then(|_| byway.detach_all())).unwrap();
        assert_eq!(pins(), Vec::<String>::new());
        let before = seen();
        send(&seed, &addresses, false, 20);
        let after = seen();
        assert!(after.0 >= before.0 + 20 && after.1 >= before.1 + 20, "detached: {before:?}, {after:?}");
    }
}

#[test]
fn the_same_holds_where_arrivals_are_watched() {
    for hook in hooks() {
        let (seed, addresses) = (Seed::new().unwrap(), IPV4);
        on(&seed.server, *hook, |byway| {
            byway.add(&via(&addresses.service.to_string(), addresses.router, "eth1")).unwrap();
        });
        let behind = seed.server.run(|| Foreign::attach("behind", "eth1", *hook, Place::Behind));
        let before = behind.seen();
        send(&seed, &addresses, true, 20);
        // The first packets may wait for the neighbour, but none is lost.
        let all = || behind.seen() >= before + 20;
        assert!(wait_until(crate::support::ANSWER, all), "{} of 20", behind.seen() - before);
    }
}

/// A seed with a rule, and what comes to the gateway and to the router. Both are known as neighbours.
fn watched(hook: Hook, addresses: &Addresses) -> (Seed, [Capture; 2]) {
    let seed = Seed::new().unwrap();
    for neighbour in [addresses.gateway, addresses.router] {
        seed.server.ping(None, neighbour, crate::support::ANSWER).unwrap();
    }
    let rule = via(&addresses.service.to_string(), addresses.router, "eth1");
    on(&seed.server, hook, |byway| byway.add(&rule)).unwrap();
    let heard = [&seed.gateway, &seed.router].map(|node| node.capture("eth0").unwrap());
    (seed, heard)
}

/// How many packets of the service have come to the gateway and to the router.
fn came(heard: &[Capture; 2], addresses: &Addresses) -> [usize; 2] {
    heard.each_ref().map(|capture| capture.count(|frame| frame.source() == Some(addresses.service)))
}

/// Sends a packet that goes Byway's way, and is behind all that were sent before it.
fn one_more_comes_to_the_router(seed: &Seed, heard: &[Capture; 2], addresses: &Addresses) {
    let before = came(heard, addresses);
    send(seed, addresses, true, 1);
    let after = [before[0], before[1] + 1];
    assert!(
        wait_until(crate::support::ANSWER, || came(heard, addresses) == after),
        "{:?}",
        came(heard, addresses)
    );
}

#[test]
fn a_program_ahead_that_ends_the_chain_keeps_packets_from_byway() {
    for (hook, addresses) in hooks_and_addresses() {
        let (seed, heard) = watched(hook, &addresses);
        let eth1 = seed.server.ifindex("eth1").unwrap();
        for (nth, (verdict, expected)) in [
            (Verdict::Ok, [5, 0]),
            (Verdict::Shot, [0, 0]),
            // It comes to the router with the gateway's Ethernet address.
            (Verdict::Redirect(eth1), [0, 5]),
        ]
        .into_iter()
        .enumerate()
        {
            let (before, status) = (came(&heard, &addresses), the_rule(&seed.server));
            let ahead = seed
                .server
                .run(|| Foreign::attach_with(verdict, &format!("ahead{nth}"), "eth0", hook, Place::Ahead));
            send(&seed, &addresses, true, 5);
            assert!(ahead.seen() >= 5);
            let expected = [before[0] + expected[0], before[1] + expected[1]];
            let as_expected = || came(&heard, &addresses) == expected;
            assert!(
                wait_until(crate::support::ANSWER, as_expected),
                "{verdict:?}: {:?}",
                came(&heard, &addresses)
            );
            // What somebody else redirects is no arrival of Byway's either.
            let now = the_rule(&seed.server);
            assert_eq!((now.departed, now.arrived), (status.departed, status.arrived), "{verdict:?}");
            seed.server.run(|| drop(ahead));
            one_more_comes_to_the_router(&seed, &heard, &addresses);
        }
    }
}

/// On the next hop's device Byway's program only counts. One ahead of it that ends the chain makes the next hop look
/// dead, and packets may come twice; one behind it loses packets that have arrived.
#[test]
fn a_program_on_the_next_hops_device_that_ends_the_chain_is_not_seen() {
    for (hook, addresses) in hooks_and_addresses() {
        let (seed, heard) = watched(hook, &addresses);
        let attach = |verdict, name, place| {
            seed.server.run(|| Foreign::attach_with(verdict, name, "eth1", hook, place))
        };
        let behind = attach(Verdict::Shot, "behind", Place::Behind);
        send(&seed, &addresses, true, 5);
        let status = the_rule(&seed.server);
        assert_eq!((status.departed.packets, status.arrived.packets), (5, 5));
        seed.server.run(|| drop(behind));
        one_more_comes_to_the_router(&seed, &heard, &addresses);
        assert_eq!(came(&heard, &addresses), [0, 1]);

        let _ahead = attach(Verdict::Ok, "ahead", Place::Ahead);
        send(&seed, &addresses, true, 1);
        // Where it is time for a probe, it is its copy, which nobody hears arrive, and the packet itself, which has no other way.
        assert!(wait_until(crate::support::ANSWER, || matches!(came(&heard, &addresses), [0, 2 | 3])));
        let status = the_rule(&seed.server);
        assert_eq!((status.departed.packets, status.arrived.packets), (7, 6));
        // Nothing of what goes there arrives, so that the rule falls back to the ordinary way.
        let to_the_gateway = || {
            send(&seed, &addresses, true, 1);
            came(&heard, &addresses)[0] > 0
        };
        assert!(wait_until(crate::support::ANSWER, to_the_gateway), "{:?}", the_rule(&seed.server));
    }
}

/// A clsact qdisc that Byway added goes with it, one that was there stays, and so does one that somebody has put a
/// filter into meanwhile.
#[test]
fn a_clsact_qdisc_goes_only_with_whom_it_came() {
    let attach = |seed: &Seed| {
        on(&seed.server, Hook::Clsact, |byway| byway.attach(&Attach::devices(["eth0"]))).unwrap()
    };
    let detach = |seed: &Seed| on(&seed.server, Hook::Clsact, |byway| byway.detach_all()).unwrap();
    // Adding the qdisc fails where there is one.
    let has_clsact = |seed: &Seed| seed.server.run(|| aya::programs::tc::qdisc_add_clsact("eth0").is_err());

    let seed = Seed::new().unwrap();
    attach(&seed);
    detach(&seed);
    assert!(!has_clsact(&seed), "byway's own qdisc should have gone");

    // `has_clsact` has added one now, which is not Byway's.
    attach(&seed);
    detach(&seed);
    assert!(has_clsact(&seed), "somebody else's qdisc should have stayed");

    let seed = Seed::new().unwrap();
    attach(&seed);
    let foreign = seed.server.run(|| Foreign::attach("late", "eth0", Hook::Clsact, Place::Behind));
    detach(&seed);
    assert!(has_clsact(&seed), "the qdisc holds somebody's filter");
    let before = foreign.seen();
    send(&seed, &IPV4, false, 5);
    assert!(foreign.seen() > before, "somebody's filter should have stayed");
}

/// Somebody takes Byway's program off: `show` says so, and attaching puts it back.
#[test]
fn a_program_that_was_taken_off_is_missed_and_put_back() {
    for hook in hooks() {
        let seed = Seed::new().unwrap();
        on(&seed.server, *hook, |byway| byway.attach(&Attach::devices(["eth0"]))).unwrap();
        match hook {
            Hook::Tcx => {
                let folder = pins().remove(0);
                let index = seed.server.ifindex("eth0").unwrap();
                std::fs::remove_file(format!("{folder}/egress/{index}")).unwrap();
            }
            Hook::Clsact => seed.server.run(|| {
                aya::programs::tc::qdisc_detach_program("eth0", TcAttachType::Egress, "byway_departure")
                    .unwrap();
            }),
            other => panic!("no test attaches by {other}"),
        }
        let attachments = || on(&seed.server, *hook, |byway| byway.attachments()).unwrap();
        assert!(!attachments()[0].is_installed, "{:?}", attachments());
        on(&seed.server, *hook, |byway| byway.attach(&Attach::devices(["eth0"]))).unwrap();
        assert!(attachments()[0].is_installed, "{:?}", attachments());
    }
}

/// Whoever has a link of Byway's open, or a filter beside it, sees it in the place where it should be: first.
#[test]
fn byway_goes_first_in_a_tcx_chain() {
    if !hooks().contains(&Hook::Tcx) {
        return println!("this kernel has no tcx");
    }
    let seed = Seed::new().unwrap();
    let foreign = seed.server.run(|| Foreign::attach("there", "eth0", Hook::Tcx, Place::Behind));
    on(&seed.server, Hook::Tcx, |byway| byway.attach(&Attach::devices(["eth0"]))).unwrap();
    let (_, chain) = seed.server.run(|| SchedClassifier::query_tcx("eth0", TcAttachType::Egress)).unwrap();
    let names: Vec<_> = chain.iter().map(|program| program.id()).collect();
    assert_eq!(names.len(), 2);
    assert_eq!(names[1], foreign.id());
}

/// Somebody deletes the qdisc with Byway's filter in it, or the device with everything: the next change goes on.
#[test]
fn what_is_taken_away_blocks_no_later_change() {
    for hook in hooks() {
        let seed = Seed::new().unwrap();
        seed.lab.link((&seed.server, "eth9"), (&seed.router, "eth9")).unwrap();
        on(&seed.server, *hook, |byway| byway.attach(&Attach::devices(["eth0", "eth9"]))).unwrap();
        if *hook == Hook::Clsact {
            seed.server.run(|| crate::support::delete_clsact_qdisc("eth0"));
        }
        seed.server.delete_link("eth9").unwrap();
        let attachments = on(&seed.server, *hook, |byway| byway.attachments()).unwrap();
        assert!(attachments.iter().any(|it| it.device.name == "eth9" && it.device_gone), "{attachments:?}");
        // Any change puts back what was taken off a device that is there. One that is gone is asked for still.
        let spec = via("192.168.1.5", IPV4.router, "eth1");
        on(&seed.server, *hook, |byway| byway.add(&spec)).unwrap();
        let attachments = on(&seed.server, *hook, |byway| byway.attachments()).unwrap();
        let names: Vec<&str> = attachments.iter().map(|it| it.device.name.as_str()).collect();
        assert_eq!(names, ["eth0", "eth1", "eth9"]);
        assert!(attachments.iter().all(|it| it.is_installed == (it.device.name != "eth9")));
        on(&seed.server, *hook, |byway| byway.flush().and_then(|_| byway.detach_all())).unwrap();
        assert_eq!(pins(), Vec::<String>::new());
    }
}
