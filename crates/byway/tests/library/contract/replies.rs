//! `reply-to`: replies leave the way that their requests came in, with no address, gateway or device configured.

use std::{
    collections::BTreeSet,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
};

use byway::{Role, RuleSpec, TargetSpec};
use byway_lab::{
    Frame,
    seed::{Addresses, Seed},
    wait_until,
};

use crate::support::{
    ANSWER, SILENCE, all_arrived, hooks_and_addresses, hooks_and_families, on, packet, pins,
    replies::{
        ACK, Datagrams, PORT, SYN, Steered, TRAFFIC, Traffic, call, replies, serve, tcp, two_served_uplinks,
        two_uplinks,
    },
    routers::{Routers, Way},
};

/// The seed's story, with a rule that names nothing but the addresses, and with a second address that comes later.
#[test]
fn one_rule_mends_a_host() {
    for (hook, addresses) in hooks_and_addresses() {
        let seed = Seed::new().unwrap();
        let Addresses { service, client, .. } = addresses;
        let at = SocketAddr::new(service, PORT);
        let _services = serve(&seed.server, at);
        for traffic in TRAFFIC {
            call(&seed.client, None, at, traffic, SILENCE)
                .expect_err("the reply goes to the default gateway");
        }
        let any = if service.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
        on(&seed.server, hook, |byway| byway.add(&replies(any))).unwrap();
        for traffic in TRAFFIC {
            call(&seed.client, None, at, traffic, ANSWER)
                .unwrap_or_else(|error| panic!("{traffic:?}: {error}"));
        }
        let status = all_arrived(&seed.server);
        // At least the SYN-ACK, and one answer of each kind. TCP may put more into one segment.
        assert!(status.departed.packets >= 4, "{status:?}");

        let (second, route) = if service.is_ipv4() {
            ("192.168.1.6", "192.168.1.6 via 10.111.221.11")
        } else {
            ("2001:db8:1::6", "2001:db8:1::6 via 2001:db8:221::11")
        };
        let length = if service.is_ipv4() { 32 } else { 128 };
        seed.server.address("lo", &format!("{second}/{length}")).unwrap();
        seed.router.route(route).unwrap();
        let at = SocketAddr::new(second.parse().unwrap(), PORT);
        let _services = serve(&seed.server, at);
        for traffic in TRAFFIC {
            call(&seed.client, None, at, traffic, ANSWER)
                .unwrap_or_else(|error| panic!("{traffic:?}: {error}"));
        }

        // What the kernel itself answers.
        let closed = SocketAddr::new(service, PORT + 1);
        for traffic in [Traffic::Tcp, Traffic::Udp] {
            let error = call(&seed.client, None, closed, traffic, ANSWER).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{traffic:?}: {error}");
        }

        // What the host itself begins goes the ordinary way.
        let lost = seed.gateway.capture("eth0").unwrap();
        seed.server.run(|| UdpSocket::bind((service, 0)).unwrap().send_to(b"hello", (client, 9)).unwrap());
        let is_it = |frame: &Frame| frame.source() == Some(service) && frame.destination() == Some(client);
        assert!(lost.wait_for(ANSWER, is_it).is_some(), "it should have gone to the gateway");

        // Some kernels give each network namespace devices of tunnels besides.
        let carry = |role: Role| -> Vec<String> {
            let all = on(&seed.server, hook, |byway| byway.attachments()).unwrap();
            let carry = all.into_iter().filter(|it| it.role == role && it.is_installed);
            carry.map(|it| it.device.name).filter(|name| name.starts_with("eth")).collect()
        };
        let roles = || [Role::Departure, Role::Arrival, Role::Reception].map(&carry);
        assert_eq!(roles(), [vec!["eth0"], vec!["eth1"], vec!["eth0", "eth1"]]);
        on(&seed.server, hook, |byway| byway.flush()).unwrap();
        assert_eq!(roles(), [vec!["eth0"], vec![], vec![]]);
        call(&seed.client, None, SocketAddr::new(service, PORT), Traffic::Icmp, SILENCE)
            .expect_err("the rule is gone");
        on(&seed.server, hook, |byway| byway.detach_all()).unwrap();
        assert_eq!(pins(), Vec::<String>::new());
    }
}

/// One address that both uplinks lead to: each reply takes the way of its own request, from the same client address as well.
#[test]
fn each_reply_takes_the_way_of_its_own_request() {
    for (hook, v6) in hooks_and_families() {
        let (hosts, client, at, _services) = two_served_uplinks(hook, v6);
        let service = at.ip();
        for round in 0..3 {
            for (nth, router) in hosts.router.iter().enumerate() {
                for traffic in TRAFFIC {
                    call(router, Some(client), at, traffic, ANSWER).unwrap_or_else(|error| {
                        panic!("{hook}, round {round}, router {nth}, {traffic:?}: {error}")
                    });
                }
                let closed = SocketAddr::new(service, PORT + 1);
                for traffic in [Traffic::Tcp, Traffic::Udp] {
                    let error = call(router, Some(client), closed, traffic, ANSWER).unwrap_err();
                    assert_eq!(
                        error.kind(),
                        io::ErrorKind::ConnectionRefused,
                        "{hook}, round {round}, router {nth}, {traffic:?}: {error}"
                    );
                }
            }
        }
        assert_eq!(hosts.counts(service, client)[0], 0, "nothing goes to the gateway");
    }
}

/// A flow moves when two packets in a row have come in by another way, and does not flap when they alternate.
#[test]
fn a_flow_moves_with_the_second_packet_in_a_row() {
    for (hook, v6) in hooks_and_families() {
        let Steered { hosts, udp, .. } = Steered::new(hook, v6, TargetSpec::Pass);
        udp.ask(1);
        assert_eq!(udp.answer(&hosts), 1);
        for _ in 0..3 {
            udp.ask(2);
            assert_eq!(udp.answer(&hosts), 1, "one packet moves nothing");
            udp.ask(1);
            assert_eq!(udp.answer(&hosts), 1);
        }
        udp.ask(2);
        udp.ask(2);
        assert_eq!(udp.answer(&hosts), 2, "two in a row do");
    }
}

/// What the host has begun goes the ordinary way, also when its answers come in by another device.
#[test]
fn flows_that_the_host_began_keep_to_normal_routing() {
    for (hook, v6) in hooks_and_families() {
        let Steered { hosts, udp, .. } = Steered::new(hook, v6, TargetSpec::Pass);
        for _ in 0..3 {
            assert_eq!(udp.answer(&hosts), 0, "it is the first packet of the flow");
            udp.ask(1);
        }
    }
}

/// The programs that come with an upgrade, and rules that are replaced, know the flows.
#[test]
fn known_flows_outlive_changes() {
    for (hook, v6) in hooks_and_families() {
        let Steered { hosts, udp, spec } = Steered::new(hook, v6, TargetSpec::Pass);
        udp.ask(1);
        assert_eq!(udp.answer(&hosts), 1);
        let other = spec.clone().name("other");
        on(&hosts.server, hook, |byway| byway.replace(&other)).unwrap();
        assert_eq!(udp.answer(&hosts), 1);
        on(&hosts.server, hook, |byway| byway.del(&spec.selector)).unwrap();
        assert_eq!(udp.answer(&hosts), 0);
    }
}

/// A frame that somebody behind the second router sends in the client's name.
fn spoofed(hosts: &Routers, from: SocketAddr, to: SocketAddr, flags: u8) -> Vec<u8> {
    tcp(from, to, flags, hosts.router[1].mac("eth0").unwrap(), hosts.server.mac("eth2").unwrap())
}

/// Whoever sends in the client's name by another way, without the numbers of the connection, moves none of this host, and confirms
/// none. What has the right numbers moves it, as its own client does.
#[test]
fn a_spoofed_packet_moves_no_connection() {
    for (hook, v6) in hooks_and_families() {
        let (hosts, client, at, _services) = two_served_uplinks(hook, v6);
        let service = at.ip();
        let mut stream = hosts.router[0].run(|| TcpStream::connect(at)).unwrap();
        assert_eq!(stream.local_addr().unwrap().ip(), client);
        stream.set_read_timeout(Some(ANSWER)).unwrap();
        let from = stream.local_addr().unwrap();
        let mut says = |said: &[u8; 4]| {
            stream.write_all(said).unwrap();
            let mut heard = [0; 4];
            stream.read_exact(&mut heard).unwrap();
            assert_eq!(&heard, said);
        };
        let went_astray = || hosts.counts(service, client)[2];
        says(b"one ");
        let heard = hosts.router[0].capture("eth0").unwrap();
        for flags in [SYN, ACK, SYN, ACK] {
            for _ in 0..3 {
                hosts.router[1].send_frame("eth0", &spoofed(&hosts, from, at, flags)).unwrap();
            }
            says(b"more");
        }
        assert_eq!(went_astray(), 0, "{hook}");

        // A connection that somebody begins in the client's name is answered by the way that its SYN came in by, and nothing
        // follows there: the client, who knows nothing of it, resets it.
        let other = SocketAddr::new(client, PORT + 7);
        let before = went_astray();
        hosts.router[1].send_frame("eth0", &spoofed(&hosts, other, at, SYN)).unwrap();
        assert!(wait_until(ANSWER, || went_astray() > before), "the SYN-ACK goes where the SYN came from");
        let answers = went_astray();
        hosts.router[1].send_frame("eth0", &spoofed(&hosts, other, at, ACK)).unwrap();
        says(b"last");
        assert!(went_astray() <= answers + 2, "a reset, or the SYN-ACK once more, and no more");
        assert_eq!(hosts.counts(service, client)[0], 0);

        // A frame with the right numbers, as if the client's network had taken it to the other router.
        let of_client = |frame: &&Frame| frame.source() == Some(client) && frame.protocol() == Some(6);
        let last = heard.frames().iter().rfind(of_client).unwrap().bytes.clone();
        let [sender, receiver] = [hosts.router[1].mac("eth0").unwrap(), hosts.server.mac("eth2").unwrap()];
        let again = packet::addressed(last, sender, receiver);
        let moves = || {
            hosts.router[1].send_frame("eth0", &again).unwrap();
            hosts.router[1].send_frame("eth0", &again).unwrap();
            let flows = on(&hosts.server, hook, |byway| byway.flows(Some("eth2"))).unwrap();
            flows.ways.iter().any(|it| it.established == 1)
        };
        assert!(wait_until(ANSWER, moves), "{hook}: two such packets in a row move it");
    }
}

/// A router gets another card, and no request follows: replies go to the new one as soon as the router is heard, and to the old
/// one again once that is heard.
#[test]
fn replies_follow_a_router_to_another_card() {
    for (hook, v6) in hooks_and_families() {
        let Steered { hosts, udp, .. } = Steered::new(hook, v6, TargetSpec::Pass);
        let router = &hosts.router[0];
        router.sysctl("net.ipv4.conf.eth0.arp_notify", "1").unwrap();
        router.sysctl("net.ipv6.conf.eth0.ndisc_notify", "1").unwrap();
        let first = router.mac("eth0").unwrap();
        udp.ask(1);
        for mac in [first, [0x02, 0, 0, 0, 0, 2], [0x02, 0, 0, 0, 0, 3], first] {
            let heard = router.capture("eth0").unwrap();
            router.set_mac("eth0", mac).unwrap();
            // The router tells its neighbours by several messages, and not by each of its addresses before.
            let arrives = || {
                udp.server.send_to(b"answer", udp.client).unwrap();
                let is_it = |frame: &Frame| {
                    frame.destination() == Some(udp.client.ip()) && frame.destination_mac() == Some(mac)
                };
                heard.count(is_it) > 0
            };
            assert!(wait_until(ANSWER, arrives), "{hook}: nothing came to {mac:02x?}");
        }
        // The flow itself has not moved, so its way is counted as before.
        let flows = on(&hosts.server, hook, |byway| byway.flows(Some("eth1"))).unwrap();
        assert_eq!((flows.ways.len(), flows.count()), (1, 1), "{flows:?}");
    }
}

/// What is no reply goes where the rule says otherwise, to one next hop or by a group, and replies go back all the same.
#[test]
fn what_is_no_reply_goes_to_another_target() {
    for (hook, v6) in hooks_and_families() {
        for several in [false, true] {
            let hosts = Routers::new(v6);
            let otherwise = match several {
                false => TargetSpec::NextHop(hosts.hop(2)),
                true => TargetSpec::NextHops(vec![hosts.hop(2).into(), hosts.hop(1).into()]),
            };
            drop(hosts);
            let Steered { hosts, udp, spec } = Steered::new(hook, v6, otherwise);
            let service = udp.at.ip();
            udp.ask(1);
            assert_eq!(udp.answer(&hosts), 1);
            // Each is a flow of its own. One next hop of several gets none before it has answered.
            let mut ways = BTreeSet::new();
            let has_seen_all = (100..1_000).any(|host| {
                ways.insert(hosts.way(service, hosts.far(host)));
                ways.len() == if several { 2 } else { 1 }
            });
            assert!(has_seen_all && !ways.contains(&Way::Gateway), "{ways:?}");
            assert!(ways.contains(&Way::Router2), "{ways:?}");
            let status = all_arrived(&hosts.server);
            assert_eq!(status.no_next_hop.packets, 0, "{status:?}");
            assert_eq!(RuleSpec::try_from(&status.rule).unwrap().target, spec.target);
            assert!(status.rule.reply_to);
        }
    }
}

/// With devices named, only flows whose requests come in by these go back, and a flow follows its requests to one of them and away.
#[test]
fn only_flows_of_the_named_devices_go_back() {
    for (hook, v6) in hooks_and_families() {
        let (hosts, client, service) = two_uplinks(v6);
        let spec = replies(&hosts.around(service, 8)).received_by(["eth2"]);
        on(&hosts.server, hook, |byway| byway.add(&spec)).unwrap();
        let udp = Datagrams::new(&hosts, client, service);
        for _ in 0..2 {
            udp.ask(1);
            udp.ask(1);
            assert_eq!(udp.answer(&hosts), 0, "{hook}: its requests come in by eth1");
            udp.ask(2);
            udp.ask(2);
            assert_eq!(udp.answer(&hosts), 2, "{hook}: now they come in by eth2");
        }
        // The same rule for every device, and for eth2 alone again.
        let every = spec.clone().received_by::<String>([]);
        on(&hosts.server, hook, |byway| byway.replace(&every)).unwrap();
        udp.ask(1);
        udp.ask(1);
        assert_eq!(udp.answer(&hosts), 1);
        on(&hosts.server, hook, |byway| byway.replace(&spec)).unwrap();
        assert_eq!(udp.answer(&hosts), 0);
        let status = on(&hosts.server, hook, |byway| byway.rule(&spec.selector)).unwrap();
        assert_eq!(status.no_next_hop.packets, 1, "{status:?}");
        assert_eq!(RuleSpec::try_from(&status.rule).unwrap(), spec);

        let at = SocketAddr::new(service, PORT + 5);
        let _services = serve(&hosts.server, at);
        for traffic in TRAFFIC {
            call(&hosts.router[1], Some(client), at, traffic, ANSWER)
                .unwrap_or_else(|error| panic!("{hook}, {traffic:?}: {error}"));
            call(&hosts.router[0], Some(client), at, traffic, SILENCE)
                .expect_err("what came in by eth1 is answered by the gateway");
        }
        on(&hosts.server, hook, |byway| byway.flush()).unwrap();
        on(&hosts.server, hook, |byway| byway.detach_all()).unwrap();
        assert_eq!(pins(), Vec::<String>::new());
    }
}
