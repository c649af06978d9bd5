//! Where a redirected packet passes an egress hook again: it must not be redirected again, looped or lost.

use std::net::SocketAddr;

use byway::{Attach, Count, Hook, Role};
use byway_lab::{
    Frame,
    seed::{Addresses, Seed},
    wait_until,
};

use crate::support::{ANSWER, SILENCE, all_arrived, hooks_and_addresses, on, rules, the_rule, via};

const PORT: u16 = 30100;

fn for_each(test: impl Fn(Hook, Addresses)) {
    for (hook, addresses) in hooks_and_addresses() {
        test(hook, addresses);
    }
}

fn host_len(addresses: &Addresses) -> u8 {
    if addresses.service.is_ipv4() { 32 } else { 128 }
}

/// Sends `packets` UDP datagrams from the service address to the client.
fn send(seed: &Seed, addresses: &Addresses, packets: u64) {
    let (from, to) = (addresses.service, SocketAddr::new(addresses.client, 9));
    seed.server.run(|| {
        let socket = std::net::UdpSocket::bind((from, 0)).unwrap();
        for _ in 0..packets {
            socket.send_to(&[0; 100], to).unwrap();
        }
    });
}

/// How many of them a capture has seen coming in.
fn heard(capture: &byway_lab::Capture, addresses: &Addresses) -> u64 {
    let is_it = |frame: &Frame| {
        frame.source() == Some(addresses.service)
            && frame.destination() == Some(addresses.client)
            && frame.direction == byway_lab::Direction::Incoming
    };
    capture.count(is_it) as u64
}

#[test]
fn another_router_on_the_same_interface() {
    for_each(|hook, addresses| {
        let seed = Seed::new().unwrap();
        // A second router on the network of the default gateway, with a way to the client.
        let other = seed.lab.node("other").unwrap();
        seed.server.delete_link("eth0").unwrap();
        seed.lab.bridge("lan", &[(&seed.server, "eth0"), (&seed.gateway, "eth0"), (&other, "eth0")]).unwrap();
        seed.lab.link((&other, "eth1"), (&seed.router, "eth2")).unwrap();
        for (node, device, address) in [
            (&seed.server, "eth0", ["10.111.220.11/24", "2001:db8:220::11/64"]),
            (&seed.gateway, "eth0", ["10.111.220.1/24", "2001:db8:220::1/64"]),
            (&other, "eth0", ["10.111.220.2/24", "2001:db8:220::2/64"]),
            (&other, "eth1", ["10.111.223.1/24", "2001:db8:223::1/64"]),
            (&seed.router, "eth2", ["10.111.223.2/24", "2001:db8:223::2/64"]),
        ] {
            for address in address {
                node.address(device, address).unwrap();
            }
        }
        other.forwarding().unwrap();
        for (node, route) in [
            (&seed.server, "default via 10.111.220.1"),
            (&seed.server, "default via 2001:db8:220::1"),
            (&other, "default via 10.111.223.2"),
            (&other, "default via 2001:db8:223::2"),
        ] {
            node.route(route).unwrap();
        }
        let gateway_hears = seed.gateway.capture("eth0").unwrap();
        let other_hears = other.capture("eth0").unwrap();
        let service = SocketAddr::new(addresses.service, PORT);
        let _service = seed.server.tcp_serve(service).unwrap();
        let call = |timeout| seed.client.tcp_echo(None, service, b"hello", timeout);
        call(SILENCE).expect_err("the reply goes to the default gateway");

        let hop = if addresses.service.is_ipv4() { "10.111.220.2" } else { "2001:db8:220::2" };
        let spec = via(&addresses.service.to_string(), hop.parse().unwrap(), "eth0");
        on(&seed.server, hook, |byway| byway.add(&spec)).unwrap();
        let attachments = on(&seed.server, hook, |byway| byway.attachments()).unwrap();
        assert_eq!(attachments.len(), 1, "one program does both: {attachments:?}");
        assert_eq!(call(ANSWER).unwrap(), b"hello");

        let gateway_heard = heard(&gateway_hears, &addresses);
        send(&seed, &addresses, 100);
        let each_went_once = || heard(&other_hears, &addresses) == the_rule(&seed.server).departed.packets;
        assert!(wait_until(ANSWER, each_went_once), "{:?}", the_rule(&seed.server));
        assert!(heard(&other_hears, &addresses) > 100);
        assert_eq!(heard(&gateway_hears, &addresses), gateway_heard, "nothing goes to the gateway any more");
        all_arrived(&seed.server);
    });
}

#[test]
fn both_uplinks_attached_and_rules_crossing_over() {
    for_each(|hook, addresses| {
        let seed = Seed::new().unwrap();
        // A second service address whose rule leads the other way than the first one's.
        let (first, second) =
            (addresses.service, if addresses.service.is_ipv4() { "192.168.1.6" } else { "2001:db8:1::6" });
        seed.server.address("lo", &format!("{second}/{}", host_len(&addresses))).unwrap();
        // Packets to the client would leave by eth1 without a rule, all others by eth0.
        seed.server
            .route(&format!("{}/{} via {}", addresses.client, host_len(&addresses), addresses.router))
            .unwrap();
        let gateway_hears = seed.gateway.capture("eth0").unwrap();
        let router_hears = seed.router.capture("eth0").unwrap();

        on(&seed.server, hook, |byway| byway.attach(&Attach::devices(["eth0", "eth1"]))).unwrap();
        let to_router = via(&first.to_string(), addresses.router, "eth1");
        let to_gateway = via(second, addresses.gateway, "eth0");
        on(&seed.server, hook, |byway| byway.add_all(&[to_router, to_gateway])).unwrap();
        let attachments = on(&seed.server, hook, |byway| byway.attachments()).unwrap();
        assert!(attachments.iter().all(|attachment| attachment.role == Role::Departure));

        let far = if first.is_ipv4() { "10.99.9.9" } else { "2001:db8:99::9" }.parse().unwrap();
        let second = second.parse().unwrap();
        // From, to, and who should get it: the first two turn off from where routing sends them, the last one
        // leaves by the very device that routing chose, to the very gateway.
        for (from, to, expected, unexpected) in [
            (first, far, &router_hears, &gateway_hears),
            (second, addresses.client, &gateway_hears, &router_hears),
            (second, far, &gateway_hears, &router_hears),
            (first, addresses.client, &router_hears, &gateway_hears),
        ] {
            let is_it = |frame: &Frame| frame.source() == Some(from) && frame.destination() == Some(to);
            let sent = 50;
            seed.server.run(|| {
                let socket = std::net::UdpSocket::bind((from, 0)).unwrap();
                for _ in 0..sent {
                    socket.send_to(&[0; 100], (to, 9)).unwrap();
                }
            });
            assert!(wait_until(ANSWER, || expected.count(is_it) >= sent), "{from} to {to} got lost");
            assert_eq!(expected.count(is_it), sent, "{from} to {to} was doubled");
            assert_eq!(unexpected.count(is_it), 0, "{from} to {to} went the other way");
        }
        for status in rules(&seed.server) {
            assert_eq!(status.departed.packets, 100, "each is redirected once: {status:?}");
            assert_eq!(status.departed, status.arrived);
        }
    });
}

/// A container whose traffic leaves through a host: both run Byway, and each applies its own rules.
#[test]
fn nested_namespaces_each_apply_their_own_rules() {
    for_each(|hook, addresses| {
        let seed = Seed::new().unwrap();
        let container = seed.lab.node("container").unwrap();
        let host = &seed.server;
        host.forwarding().unwrap();
        // Two ways from the container to the host. The default route is the first, its rule says the second.
        seed.lab.link((&container, "eth0"), (host, "c0")).unwrap();
        seed.lab.link((&container, "eth1"), (host, "c1")).unwrap();
        for (node, device, address) in [
            (&container, "eth0", ["10.60.0.2/24", "2001:db8:60::2/64"]),
            (host, "c0", ["10.60.0.1/24", "2001:db8:60::1/64"]),
            (&container, "eth1", ["10.61.0.2/24", "2001:db8:61::2/64"]),
            (host, "c1", ["10.61.0.1/24", "2001:db8:61::1/64"]),
        ] {
            for address in address {
                node.address(device, address).unwrap();
            }
        }
        for route in ["default via 10.60.0.1", "default via 2001:db8:60::1"] {
            container.route(route).unwrap();
        }
        let (source, hop) = if addresses.service.is_ipv4() {
            ("10.70.0.7", "10.61.0.1")
        } else {
            ("2001:db8:70::7", "2001:db8:61::1")
        };
        container.address("lo", &format!("{source}/{}", host_len(&addresses))).unwrap();
        let second_way = host.capture("c1").unwrap();
        let router_hears = seed.router.capture("eth0").unwrap();

        on(&container, hook, |byway| byway.add(&via(source, hop.parse().unwrap(), "eth1"))).unwrap();
        on(host, hook, |byway| byway.add(&via(source, addresses.router, "eth1"))).unwrap();
        let source = source.parse().unwrap();
        container.run(|| {
            let socket = std::net::UdpSocket::bind((source, 0)).unwrap();
            for _ in 0..50 {
                socket.send_to(&[0; 100], (addresses.client, 9)).unwrap();
            }
        });
        let is_it =
            |frame: &Frame| frame.source() == Some(source) && frame.destination() == Some(addresses.client);
        assert!(wait_until(ANSWER, || router_hears.count(is_it) >= 50), "the host's rule should hold too");
        // Each capture has a pace of its own.
        assert!(wait_until(ANSWER, || second_way.count(is_it) == 50), "the container's rule should hold");
        for node in [&container, host] {
            let status = the_rule(node);
            assert_eq!(status.departed.packets, 50, "{status:?}");
            assert_eq!(status.departed, status.arrived);
        }
    });
}

#[test]
fn a_next_hop_that_does_not_answer_shows_as_departures_without_arrivals() {
    for_each(|hook, addresses| {
        let seed = Seed::new().unwrap();
        let nobody = if addresses.service.is_ipv4() { "10.111.221.99" } else { "2001:db8:221::99" };
        let spec = via(&addresses.service.to_string(), nobody.parse().unwrap(), "eth1");
        on(&seed.server, hook, |byway| byway.add(&spec)).unwrap();
        send(&seed, &addresses, 20);
        let status = the_rule(&seed.server);
        assert_eq!(status.departed.packets, 20);
        assert_eq!(status.arrived, Count::default());

        // The same packets arrive once somebody answers there: the mark survives the wait for the neighbour.
        seed.router.address("eth0", &format!("{nobody}/{}", host_len(&addresses))).unwrap();
        let sent = std::cell::Cell::new(20);
        let arrives = || {
            send(&seed, &addresses, 1);
            sent.set(sent.get() + 1);
            the_rule(&seed.server).arrived.packets > 0
        };
        assert!(wait_until(ANSWER, arrives), "{:?}", the_rule(&seed.server));
        // Those that would have come after a silence were not sent there any more.
        let status = the_rule(&seed.server);
        assert_eq!(status.departed.packets + status.no_next_hop.packets, sent.get(), "{status:?}");
    });
}

/// While a neighbour is not resolved the kernel holds packets back, and then sends them with the header of the
/// default gateway's, on the wrong link. They get to their next hop all the same.
#[test]
fn packets_that_wait_for_their_neighbour_get_there() {
    for_each(|hook, addresses| {
        let seed = Seed::new().unwrap();
        let spec = via(&addresses.service.to_string(), addresses.router, "eth1");
        on(&seed.server, hook, |byway| byway.add(&spec)).unwrap();
        let router_hears = seed.router.capture("eth0").unwrap();
        let router = seed.router.mac("eth0").unwrap();
        for round in 1..=5_usize {
            if seed.server.neighbour("eth1", addresses.router).unwrap().is_some() {
                seed.server.delete_neighbour("eth1", addresses.router).unwrap();
            }
            send(&seed, &addresses, 2);
            let is_it = |frame: &Frame| {
                frame.source() == Some(addresses.service)
                    && frame.destination() == Some(addresses.client)
                    && frame.direction == byway_lab::Direction::Incoming
                    && frame.destination_mac() == Some(router)
            };
            assert!(
                wait_until(ANSWER, || router_hears.count(is_it) >= 2 * round),
                "{:?}",
                the_rule(&seed.server)
            );
            let status = the_rule(&seed.server);
            assert_eq!(status.departed.packets, 2 * round as u64, "each is counted once");
            assert_eq!(status.departed, status.arrived);
        }
    });
}

#[test]
fn on_link_next_hops_take_the_destination_as_their_neighbour() {
    for_each(|hook, addresses| {
        let seed = Seed::new().unwrap();
        // The default route would take a packet for the router's network to the gateway, were it not connected:
        // a more distant address on the same wire, which only the rule knows to be there.
        let far = if addresses.service.is_ipv4() { "10.77.0.7" } else { "2001:db8:77::7" };
        seed.router.address("eth0", &format!("{far}/{}", host_len(&addresses))).unwrap();
        let far = SocketAddr::new(far.parse().unwrap(), PORT);
        let _service = seed.router.tcp_serve(far).unwrap();
        let from = Some(addresses.service);
        seed.server.tcp_echo(from, far, b"hello", SILENCE).expect_err("the gateway does not lead there");
        on(&seed.server, hook, |byway| {
            byway.add(&crate::support::on_link(&addresses.service.to_string(), "eth1"))
        })
        .unwrap();
        assert_eq!(seed.server.tcp_echo(from, far, b"hello", ANSWER).unwrap(), b"hello");
        all_arrived(&seed.server);
    });
}

#[test]
fn the_kernel_keeps_the_gateway_resolved_where_it_can() {
    for_each(|hook, addresses| {
        let seed = Seed::new().unwrap();
        let neighbour = || seed.server.neighbour("eth1", addresses.router).unwrap();
        let spec = via(&addresses.service.to_string(), addresses.router, "eth1");
        on(&seed.server, hook, |byway| byway.add(&spec)).unwrap();
        // Linux 5.16 resolves a managed neighbour at once, with no packet in need of it.
        if neighbour().is_some_and(|neighbour| neighbour.managed) {
            assert!(wait_until(ANSWER, || neighbour().is_some_and(|neighbour| neighbour.lladdr.is_some())));
            on(&seed.server, hook, |byway| byway.del(&spec.selector)).unwrap();
            assert!(!neighbour().is_some_and(|neighbour| neighbour.managed), "it is let go of with the rule");
        } else {
            println!("this kernel has no managed neighbours (Linux 5.16): {:?}", neighbour());
        }

        // Somebody else's stays as it was.
        seed.server.permanent_neighbour("eth1", addresses.router, [2, 0, 0, 0, 0, 9]).unwrap();
        on(&seed.server, hook, |byway| byway.replace(&spec)).unwrap();
        on(&seed.server, hook, |byway| byway.flush()).unwrap();
        on(&seed.server, hook, |byway| byway.detach_all()).unwrap();
        let kept = neighbour().unwrap();
        assert_eq!(kept.lladdr, Some([2, 0, 0, 0, 0, 9]));
        assert!(!kept.managed);
    });
}
