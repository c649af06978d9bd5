//! Next hops that die and come back with no process of Byway alive, and next hops of every kind.

use std::net::{IpAddr, SocketAddr};

use crate::support::{
    ANSWER, SILENCE, add_bridge, all_arrived, any_hook, hooks, hooks_and_families, on,
    routers::{Routers, Way, rule},
    the_rule,
};
use byway::{Attach, MemberSpec, NextHopSpec, NextHopState, NextHopStatus, OnDown, RuleSpec, TargetSpec};
use byway_lab::{
    Frame, Node,
    seed::{IPV4, IPV6, Seed},
    wait_until,
};

fn next_hops(node: &Node) -> Vec<NextHopStatus> {
    on(node, any_hook(), |byway| byway.next_hops()).unwrap()
}

/// The link of a rule's only next hop goes down under traffic: after a moment its packets go by normal routing, or are
/// dropped, as the rule says. The link comes back, and so do they.
#[test]
fn a_link_that_flaps_is_left_alone_while_it_is_down() {
    for (hook, v6) in hooks_and_families() {
        let hosts = Routers::new(v6);
        let spec = rule(&hosts.source(5).to_string(), None, TargetSpec::NextHop(hosts.hop(1)));
        on(&hosts.server, hook, |byway| byway.add(&spec)).unwrap();
        assert!(hosts.goes(hosts.source(5), hosts.far(1), Way::Router1));
        for _ in 0..2 {
            hosts.server.set_up("eth1", false).unwrap();
            assert!(hosts.goes(hosts.source(5), hosts.far(1), Way::Gateway), "{:?}", the_rule(&hosts.server));
            let [next_hop] = &next_hops(&hosts.server)[..] else { panic!("one next hop") };
            assert_eq!((next_hop.state, next_hop.device_down), (NextHopState::Silent, true));
            assert!(next_hop.failed_over.packets > 0 && the_rule(&hosts.server).no_next_hop.packets > 0);
            hosts.server.set_up("eth1", true).unwrap();
            assert!(
                hosts.goes(hosts.source(5), hosts.far(1), Way::Router1),
                "{:?}",
                next_hops(&hosts.server)
            );
            let [next_hop] = &next_hops(&hosts.server)[..] else { panic!("one next hop") };
            assert_eq!((next_hop.state, next_hop.device_down), (NextHopState::Up, false));
        }

        if v6 {
            // The address went with the link.
            hosts.server.address("eth1", "2001:db8:1::2/64").unwrap();
        }
        let dropping = spec.on_down(OnDown::Drop);
        on(&hosts.server, hook, |byway| byway.replace(&dropping)).unwrap();
        hosts.server.set_up("eth1", false).unwrap();
        let (from, to) = (hosts.source(5), hosts.far(1));
        let at_gateway = hosts.counts(from, to)[0];
        assert!(wait_until(ANSWER, || {
            hosts.send(from, to);
            the_rule(&hosts.server).no_next_hop.packets > 20
        }));
        assert_eq!(hosts.counts(from, to)[0], at_gateway, "on-down drop");
    }
}

/// The cable is in and the gateway dead. The kernel finds out by itself, in its own time, which is short here.
#[test]
fn a_gateway_that_falls_mute_is_left_alone_once_the_kernel_knows() {
    for v6 in [false, true] {
        let hosts = Routers::new(v6);
        let family = if v6 { "ipv6" } else { "ipv4" };
        for (name, value) in [
            ("base_reachable_time_ms", "500"),
            ("delay_first_probe_time", "1"),
            ("ucast_solicit", "1"),
            ("mcast_solicit", "1"),
            ("retrans_time_ms", "200"),
        ] {
            hosts.server.sysctl(&format!("net.{family}.neigh.eth1.{name}"), value).unwrap();
        }
        let spec = rule(&hosts.source(5).to_string(), None, TargetSpec::NextHop(hosts.hop(1)));
        on(&hosts.server, any_hook(), |byway| byway.add(&spec)).unwrap();
        assert!(hosts.goes(hosts.source(5), hosts.far(1), Way::Router1));
        let address = if v6 { "2001:db8:1::1/64" } else { "10.0.1.1/24" };
        hosts.router[0].delete_address("eth0", address).unwrap();
        assert!(hosts.goes(hosts.source(5), hosts.far(1), Way::Gateway), "{:?}", next_hops(&hosts.server));
        let [next_hop] = &next_hops(&hosts.server)[..] else { panic!("one next hop") };
        assert_eq!((next_hop.state, next_hop.device_down), (NextHopState::Silent, false));
        hosts.router[0].address("eth0", address).unwrap();
        assert!(hosts.goes(hosts.source(5), hosts.far(1), Way::Router1), "{:?}", next_hops(&hosts.server));
    }
}

/// A link that was down makes the kernel forget which neighbours it keeps resolved. The next change reminds it.
#[test]
fn the_next_change_has_gateways_kept_resolved_again() {
    let hosts = Routers::new(false);
    let spec = rule(&hosts.source(5).to_string(), None, TargetSpec::NextHop(hosts.hop(1)));
    on(&hosts.server, any_hook(), |byway| byway.add(&spec)).unwrap();
    let is_managed =
        || hosts.server.neighbour("eth1", hosts.via[0]).unwrap().is_some_and(|neighbour| neighbour.managed);
    if !is_managed() {
        println!("this kernel keeps no neighbours resolved by itself (Linux 5.16 does): nothing to test");
        return;
    }
    hosts.server.set_up("eth1", false).unwrap();
    hosts.server.set_up("eth1", true).unwrap();
    assert!(!is_managed());
    on(&hosts.server, any_hook(), |byway| byway.attach(&Attach::Auto)).unwrap();
    assert!(is_managed());
    on(&hosts.server, any_hook(), |byway| byway.flush()).unwrap();
    assert!(!is_managed());
}

/// The other member of a group takes the flows of one whose cable is pulled, and gives them back.
#[test]
fn a_group_goes_on_by_its_other_member() {
    for (hook, v6) in hooks_and_families() {
        let hosts = Routers::new(v6);
        let member = |router| MemberSpec::new(hosts.hop(router));
        let target = TargetSpec::NextHops(vec![member(1), member(2)]);
        let spec = rule(&hosts.source(5).to_string(), None, target);
        on(&hosts.server, hook, |byway| byway.add(&spec)).unwrap();
        let all: Vec<SocketAddr> = (1..64).map(|port| SocketAddr::new(hosts.far(1), port)).collect();
        let from = hosts.source(5);
        let send_all = || {
            hosts.server.run(|| {
                let socket = std::net::UdpSocket::bind((from, 4_000)).unwrap();
                for to in &all {
                    socket.send_to(b"hello", to).unwrap();
                }
            });
        };
        // Where the flows are going now: how many of a burst each router has got.
        let burst = || {
            let before = hosts.counts(hosts.source(5), hosts.far(1));
            send_all();
            let grown = || {
                let now = hosts.counts(hosts.source(5), hosts.far(1));
                [0, 1, 2].map(|nth| now[nth] - before[nth])
            };
            // Those that are lost do not come, however long this waits.
            let _ = wait_until(SILENCE, || grown().iter().sum::<usize>() == all.len());
            grown()
        };
        let whole = |of: &[usize; 3]| of.iter().sum::<usize>() == all.len();
        let mut at_rest = [0; 3];
        assert!(wait_until(ANSWER, || {
            at_rest = burst();
            whole(&at_rest)
        }));
        assert!(at_rest[0] == 0 && at_rest[1] > 10 && at_rest[2] > 10, "{at_rest:?}");

        // The other end of the cable: no carrier here, while the device itself is up.
        hosts.router[0].set_up("eth0", false).unwrap();
        let mut now = [0; 3];
        assert!(
            wait_until(ANSWER, || {
                now = burst();
                now == [0, 0, all.len()]
            }),
            "{now:?} {:?}",
            next_hops(&hosts.server)
        );
        hosts.router[0].set_up("eth0", true).unwrap();
        if v6 {
            hosts.router[0].address("eth0", "2001:db8:1::1/64").unwrap();
        }
        assert!(
            wait_until(ANSWER, || {
                now = burst();
                now == at_rest
            }),
            "{now:?}, not {at_rest:?}: {:?}",
            next_hops(&hosts.server)
        );
    }
}

/// A device that is gone is left alone at once, and so is another that has its ifindex.
#[test]
fn a_device_that_is_gone_gets_nothing_and_neither_does_its_heir() {
    for (hook, v6) in hooks_and_families() {
        let hosts = Routers::new(v6);
        let spec = rule(&hosts.source(5).to_string(), None, TargetSpec::NextHop(hosts.hop(1)));
        on(&hosts.server, hook, |byway| byway.add(&spec)).unwrap();
        assert!(hosts.goes(hosts.source(5), hosts.far(1), Way::Router1));
        let index = hosts.server.ifindex("eth1").unwrap();
        let before = the_rule(&hosts.server);
        hosts.server.delete_link("eth1").unwrap();
        let (from, to) = (hosts.source(5), hosts.far(1));
        assert_eq!(hosts.way(from, to), Way::Gateway, "not one packet is lost");

        // Another device by its number, with a program that would receive what is redirected there.
        hosts.server.run(|| add_bridge("heir", index));
        assert_eq!(hosts.server.ifindex("heir").unwrap(), index);
        on(&hosts.server, hook, |byway| byway.attach(&Attach::devices(["heir"]))).unwrap();
        let heir_sends = hosts.server.capture("heir").unwrap();
        for _ in 0..10 {
            assert_eq!(hosts.way(from, to), Way::Gateway);
        }
        assert_eq!(heir_sends.count(|frame: &Frame| frame.source() == Some(from)), 0);
        let after = the_rule(&hosts.server);
        assert_eq!(after.departed, before.departed);
        assert_eq!(after.no_next_hop.packets, 11);
        assert!(after.device_gone);
        let [next_hop] = &next_hops(&hosts.server)[..] else { panic!("one next hop") };
        assert_eq!(next_hop.state, NextHopState::DeviceGone);
        assert_eq!(next_hop.next_hop.device.name, "eth1", "not its heir");
    }
}

/// RFC 8950: an IPv4 packet through an IPv6 next hop. And gateways that are link-local, which mean something on
/// their device only.
#[test]
fn gateways_of_the_other_family_and_link_local_ones() {
    for hook in hooks() {
        let seed = Seed::new().unwrap();
        seed.router.address("eth0", "fe80::21/64").unwrap();
        let service = SocketAddr::new(IPV4.service, 30100);
        let service6 = SocketAddr::new(IPV6.service, 30100);
        let _services = [service, service6].map(|service| seed.server.tcp_serve(service).unwrap());
        let link_local: IpAddr = "fe80::21".parse().unwrap();
        for (source, gateway, service) in [
            (IPV4.service, IPV6.router, service),
            (IPV4.service, link_local, service),
            (IPV6.service, link_local, service6),
        ] {
            let call = |timeout| seed.client.tcp_echo(None, service, b"hello", timeout);
            call(SILENCE).expect_err("without a rule");
            let spec = crate::support::via(&source.to_string(), gateway, "eth1");
            on(&seed.server, *hook, |byway| byway.add(&spec)).unwrap();
            assert_eq!(call(ANSWER).unwrap(), b"hello", "{source} via {gateway}");
            all_arrived(&seed.server);
            on(&seed.server, *hook, |byway| byway.flush()).unwrap();
        }
    }
}

/// What leaves by an attachment is counted once, by what became of it.
#[test]
fn an_attachment_counts_what_it_leaves_alone() {
    for hook in hooks() {
        let hosts = Routers::new(false);
        on(&hosts.server, *hook, |byway| byway.attach(&Attach::devices(["eth0"]))).unwrap();
        let counted = || on(&hosts.server, *hook, |byway| byway.attachments()).unwrap()[0].counters.unwrap();
        let before = counted();
        for _ in 0..7 {
            hosts.way(hosts.source(5), hosts.far(1));
        }
        hosts.server.send_frame("eth0", &crate::support::packet::ethernet(0x88B5, &[0; 50])).unwrap();
        let to = |to: &str| crate::support::packet::udp(hosts.source(5), to.parse().unwrap());
        for destination in ["224.0.0.251", "255.255.255.255", "169.254.1.1"] {
            hosts.server.send_frame("eth0", &to(destination)).unwrap();
        }
        let all = || {
            let now = counted();
            [
                now.seen.packets - before.seen.packets,
                now.not_matched.packets - before.not_matched.packets,
                now.not_ip.packets - before.not_ip.packets,
                now.multicast.packets - before.multicast.packets,
                now.broadcast.packets - before.broadcast.packets,
                now.link_local.packets - before.link_local.packets,
                now.malformed.packets - before.malformed.packets,
            ]
        };
        // The host sends ARP and IPv6 multicast of its own, which are more of the same.
        let now = all();
        assert_eq!(now[1], 7, "{now:?}");
        assert!(now[2] >= 1 && now[3] >= 1 && now[4] == 1 && now[5] == 1 && now[6] == 0, "{now:?}");
        assert!(now[0] >= 11, "{now:?}");
        let now = counted();
        let classes = [
            now.not_ip,
            now.malformed,
            now.tagged,
            now.multicast,
            now.broadcast,
            now.link_local,
            now.neighbour_discovery,
            now.not_matched,
        ];
        assert_eq!(
            now.seen.packets,
            classes.iter().map(|class| class.packets).sum::<u64>(),
            "no rule, so that is all"
        );
    }
}

/// Several gateways on one device, one of them on the attachment itself.
#[test]
fn next_hops_are_told_apart_on_one_device() {
    let hosts = Routers::new(false);
    let hook = any_hook();
    hosts.gateway.address("eth0", "10.0.0.9/24").unwrap();
    hosts.router[0].address("eth0", "10.0.1.9/24").unwrap();
    let via = |text: &str, device: &str| NextHopSpec::ViaDev(text.parse().unwrap(), device.into());
    let specs: Vec<RuleSpec> = [("10.0.1.1", "eth1"), ("10.0.1.9", "eth1"), ("10.0.0.9", "eth0")]
        .into_iter()
        .zip(5..)
        .map(|((gateway, device), last)| {
            rule(&hosts.source(last).to_string(), None, TargetSpec::NextHop(via(gateway, device)))
        })
        .collect();
    on(&hosts.server, hook, |byway| byway.add_all(&specs)).unwrap();
    for (last, way) in [(5, Way::Router1), (6, Way::Router1), (7, Way::Gateway)] {
        for _ in 0..last {
            assert_eq!(hosts.way(hosts.source(last), hosts.far(1)), way);
        }
    }
    let arrived: Vec<(String, u64)> =
        next_hops(&hosts.server).iter().map(|it| (it.next_hop.to_string(), it.arrived.packets)).collect();
    let expected = [("via 10.0.0.9 dev eth0", 7), ("via 10.0.1.1 dev eth1", 5), ("via 10.0.1.9 dev eth1", 6)];
    assert_eq!(arrived, expected.map(|(next_hop, packets)| (next_hop.to_owned(), packets)));
}
