//! `reply-to` with all sorts of traffic: replies that the host forwards, fragments, devices of other kinds, packets that are too
//! big, what the kernel itself answers, neighbours on the link, and what the host itself begins.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    process::Command,
    thread,
};

use byway::{Hook, RuleStatus, TargetSpec};
use byway_lab::{
    Capture, Direction, Frame, Node, Protocol, Service,
    seed::{Addresses, Seed},
    wait_until,
};

use crate::support::{
    ANSWER, FAMILIES, all_arrived,
    backend::with_backend,
    devices::{Hosts, Kind, unless_lacking},
    hooks, hooks_and_addresses, hooks_and_families, lacking, lacking_before,
    narrow::{NARROW, mtu_is_asked_for_each_packet, narrowed},
    on, packet, release,
    replies::{
        ACK, NUMBERS, PORT, SYN, Steered, TRAFFIC, Traffic, call, replies, serve, two_served_uplinks,
        two_uplinks,
    },
    routers::Routers,
    sockets::{Discovery, TRANSFER, connect, known_mtu, set_discovery, transfer},
    the_rule,
};

/// More than a path takes in one packet, and more than one packet of segmentation offload.
const LARGE: usize = 200_000;

fn some_bytes(length: usize) -> Vec<u8> {
    (0..length).map(|nth| (nth / 256 + nth) as u8).collect()
}

/// The link of [`behind`], by its number.
const BEHIND: usize = 3;

/// A host behind the server, for which the server forwards, and its address.
fn behind(hosts: &Routers) -> (Node, IpAddr) {
    let backend = hosts.lab.node("backend").unwrap();
    hosts.lab.link((&hosts.server, "eth3"), (&backend, "eth0")).unwrap();
    hosts.server.address("eth3", &hosts.on_link(BEHIND, 1)).unwrap();
    backend.address("eth0", &hosts.on_link(BEHIND, 2)).unwrap();
    backend.route(&format!("default via {}", address(&hosts.on_link(BEHIND, 1)))).unwrap();
    hosts.server.forwarding().unwrap();
    let at = address(&hosts.on_link(BEHIND, 2));
    (backend, at)
}

/// The address without the length of its network.
fn address(with_length: &str) -> IpAddr {
    with_length.split('/').next().unwrap().parse().unwrap()
}

/// Both routers call from the same address: each gets ports of its own.
fn give_ports(hosts: &Routers) {
    for (router, range) in hosts.router.iter().zip(["20000 29999", "30000 39999"]) {
        router.sysctl("net.ipv4.ip_local_port_range", range).unwrap();
    }
}

/// A service address with two ports that are forwarded to a host behind the server. Nobody listens behind the second.
struct Forwarded {
    hosts: Routers,
    client: IpAddr,
    at: SocketAddr,
    closed: SocketAddr,
    backend: Node,
    target: SocketAddr,
}

impl Forwarded {
    fn new(hook: Hook, v6: bool) -> Self {
        let (hosts, client, service) = two_uplinks(v6);
        let (backend, behind) = behind(&hosts);
        let [at, closed] = [PORT, PORT + 1].map(|port| SocketAddr::new(service, port));
        let [target, nobody] = [8080, 8081].map(|port| SocketAddr::new(behind, port));
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            hosts.server.dnat(protocol, at, target).unwrap();
            hosts.server.dnat(protocol, closed, nobody).unwrap();
        }
        let spec = replies(&hosts.around(service, 8));
        on(&hosts.server, hook, |byway| byway.add(&spec)).unwrap();
        Self { hosts, client, at, closed, backend, target }
    }
}

/// A port forward to a host behind the server: the client's connections by both uplinks are answered by the uplink of each, at
/// the same time. So are the refusals of a closed port. It does not matter whether the host behind sees the client's address.
#[test]
fn forwarded_ports_answer_by_the_way_of_each_request() {
    for (hook, v6) in hooks_and_families() {
        for is_hidden in [false, true] {
            let Forwarded { hosts, client, at, closed, backend, target } = Forwarded::new(hook, v6);
            let _services = serve(&backend, target);
            let in_between = address(&hosts.on_link(BEHIND, 1));
            if is_hidden {
                hosts.server.snat("eth3", in_between).unwrap();
            }
            give_ports(&hosts);
            let asked = backend.capture("eth0").unwrap();
            let call_all = |router: &Node| {
                for _ in 0..3 {
                    for traffic in [Traffic::Tcp, Traffic::Udp] {
                        call(router, Some(client), at, traffic, ANSWER)?;
                        let refused = call(router, Some(client), closed, traffic, ANSWER).unwrap_err();
                        assert_eq!(
                            refused.kind(),
                            io::ErrorKind::ConnectionRefused,
                            "{traffic:?}: {refused}"
                        );
                    }
                    let said = some_bytes(LARGE);
                    assert!(router.tcp_echo(Some(client), at, &said, ANSWER)? == said);
                }
                io::Result::Ok(())
            };
            let mut streams = hosts.router.each_ref().map(|router| {
                let stream = router.run(|| TcpStream::connect(at)).unwrap();
                stream.set_read_timeout(Some(ANSWER)).unwrap();
                stream
            });
            for _ in 0..3 {
                for stream in &mut streams {
                    stream.write_all(b"one by each").unwrap();
                }
                for stream in &mut streams {
                    let mut heard = [0; 11];
                    stream.read_exact(&mut heard).unwrap();
                    assert_eq!(&heard, b"one by each");
                }
            }
            thread::scope(|scope| {
                let calls = hosts.router.each_ref().map(|router| scope.spawn(move || call_all(router)));
                for (nth, calls) in calls.into_iter().enumerate() {
                    let why = format!("{hook}, hidden: {is_hidden}, router {}", nth + 1);
                    calls.join().unwrap().unwrap_or_else(|error| panic!("{why}: {error}"));
                }
            });
            let status = all_arrived(&hosts.server);
            assert_eq!(status.no_next_hop.packets, 0, "{hook}, hidden: {is_hidden}: {status:?}");
            assert_eq!(hosts.counts(at.ip(), client)[0], 0, "nothing goes to the gateway");
            let asks = |source: IpAddr| {
                asked.count(|frame| {
                    frame.direction == Direction::Incoming
                        && frame.source() == Some(source)
                        && frame.protocol() == Some(packet::TCP)
                }) > 0
            };
            assert_eq!((asks(client), asks(in_between)), (!is_hidden, is_hidden));
        }
    }
}

/// A virtual service (IPVS) with its real server behind the host: IPVS gives the answers the service's address before they leave.
#[test]
fn virtual_services_answer_by_the_way_of_each_request() {
    if !Path::new("/proc/net/ip_vs").exists() {
        return lacking("IPVS");
    }
    for (hook, v6) in hooks_and_families() {
        let (hosts, client, service) = two_uplinks(v6);
        let (backend, behind) = behind(&hosts);
        let [at, target] = [SocketAddr::new(service, PORT), SocketAddr::new(behind, 8080)];
        for protocol in ["-t", "-u"] {
            let virtually = |words: &str| {
                let output = hosts.server.output(Command::new("ipvsadm").args(words.split(' '))).unwrap();
                assert!(output.status.success(), "{words}: {output:?}");
            };
            virtually(&format!("-A {protocol} {at} -s rr"));
            virtually(&format!("-a {protocol} {at} -r {target} -m"));
        }
        let spec = replies(&hosts.around(service, 8));
        on(&hosts.server, hook, |byway| byway.add(&spec)).unwrap();
        let _services = serve(&backend, target);
        give_ports(&hosts);
        for round in 0..3 {
            for (nth, router) in hosts.router.iter().enumerate() {
                for traffic in [Traffic::Tcp, Traffic::Udp] {
                    call(router, Some(client), at, traffic, ANSWER).unwrap_or_else(|error| {
                        panic!("{hook}, round {round}, router {nth}, {traffic:?}: {error}")
                    });
                }
                let said = some_bytes(LARGE);
                assert!(router.tcp_echo(Some(client), at, &said, ANSWER).unwrap() == said);
            }
        }
        let status = all_arrived(&hosts.server);
        assert_eq!(status.no_next_hop.packets, 0, "{hook}: {status:?}");
        assert_eq!(hosts.counts(service, client)[0], 0, "nothing goes to the gateway");
    }
}

/// How many fragments from a source a router has got. (A capture may show another header of what has left: it is the same
/// memory that the next host writes.)
fn fragments_from(service: IpAddr, capture: &Capture) -> usize {
    capture.count(|frame| {
        frame.direction == Direction::Incoming
            && frame.source() == Some(service)
            && packet::is_fragment(frame)
    })
}

/// Large datagrams, in fragments there and back, to the host itself and to a host behind it.
#[test]
fn large_datagrams_come_back_whole() {
    const LENGTH: usize = 7_000;
    /// What it takes in packets of 1,500 bytes.
    const FRAGMENTS: usize = 5;
    for (hook, v6) in hooks_and_families() {
        let tell = |hosts: &Routers, client: IpAddr, at: SocketAddr| {
            let said = some_bytes(LENGTH);
            for round in 1..=3 {
                for (nth, router) in hosts.router.iter().enumerate() {
                    let heard = router.udp_echo(Some(client), at, &said, ANSWER);
                    let heard = heard.unwrap_or_else(|error| {
                        panic!("{hook}, router {}: {error}; {:?}", nth + 1, the_rule(&hosts.server))
                    });
                    assert!(heard == said, "{hook}, router {}", nth + 1);
                    let fragments = || fragments_from(at.ip(), &hosts.heard()[nth + 1]);
                    let all = wait_until(ANSWER, || fragments() == round * FRAGMENTS);
                    assert!(all, "{hook}, router {}, round {round}: {:?}", nth + 1, fragments());
                }
            }
            assert_eq!(hosts.counts(at.ip(), client)[0], 0, "nothing goes to the gateway");
            let status = all_arrived(&hosts.server);
            assert_eq!(status.departed.packets, 6 * FRAGMENTS as u64, "{status:?}");
            assert_eq!(status.no_next_hop.packets, 0, "{status:?}");
        };
        let (hosts, client, at, _services) = two_served_uplinks(hook, v6);
        tell(&hosts, client, at);
        drop(hosts);
        let forwarded = Forwarded::new(hook, v6);
        let _service = forwarded.backend.udp_serve(forwarded.target).unwrap();
        tell(&forwarded.hosts, forwarded.client, forwarded.at);
    }
}

/// Only the first fragment of a reply says which flow it is of. Later ones that leave before it take the ordinary way, and those
/// behind it follow it, in whatever order.
#[test]
fn later_fragments_follow_the_first() {
    for (hook, v6) in hooks_and_families() {
        let Steered { hosts, udp, .. } = Steered::new(hook, v6, TargetSpec::Pass);
        let (service, client) = (udp.at.ip(), udp.client.ip());
        let said = some_bytes(3 * 1_000 - 8);
        let send_in_order = |order: [usize; 3], id: u16| {
            let fragments = packet::fragments(udp.at, udp.client, &said, 1_000, id);
            let (sender, receiver) = (hosts.server.mac("eth0").unwrap(), hosts.gateway.mac("eth0").unwrap());
            let before = hosts.counts(service, client);
            for nth in order {
                let frame = packet::addressed(fragments[nth].clone(), sender, receiver);
                hosts.server.send_frame("eth0", &frame).unwrap();
            }
            let went = || {
                let after = hosts.counts(service, client);
                [0, 1, 2].map(|nth| after[nth] - before[nth])
            };
            assert!(wait_until(ANSWER, || went().iter().sum::<usize>() == 3), "{hook}: {:?}", went());
            went()
        };
        udp.ask(2);
        assert_eq!(send_in_order([0, 1, 2], 1), [0, 0, 3], "{hook}");
        assert_eq!(send_in_order([0, 2, 1], 2), [0, 0, 3], "{hook}");
        assert_eq!(send_in_order([2, 0, 1], 3), [1, 0, 2], "{hook}");
        assert_eq!(send_in_order([2, 1, 0], 4), [2, 0, 1], "{hook}");
        let mut room = vec![0; said.len() + 1];
        for _ in 0..2 {
            assert_eq!(udp.clients[1].recv(&mut room).unwrap(), said.len());
            assert!(room[..said.len()] == said, "{hook}: it comes back whole");
        }
    }
}

/// A host that tracks connections puts a packet together before it forwards it. So the order in which the host behind it sends the
/// fragments of its reply does not matter.
#[test]
fn fragments_of_a_host_behind_may_come_in_any_order() {
    for (hook, v6) in hooks_and_families() {
        let Forwarded { hosts, client, at, backend, target, .. } = Forwarded::new(hook, v6);
        let server = backend.run(|| UdpSocket::bind(target)).unwrap();
        server.set_read_timeout(Some(ANSWER)).unwrap();
        let asking = hosts.router[1].run(|| UdpSocket::bind((client, 0))).unwrap();
        asking.set_read_timeout(Some(ANSWER)).unwrap();
        asking.connect(at).unwrap();
        asking.send(b"ask").unwrap();
        let (_, from) = server.recv_from(&mut [0; 16]).unwrap();
        let (sender, receiver) = (backend.mac("eth0").unwrap(), hosts.server.mac("eth3").unwrap());
        let said = some_bytes(3 * 1_000 - 8);
        for (id, order) in [[2, 1, 0], [1, 2, 0], [0, 2, 1]].into_iter().enumerate() {
            let fragments = packet::fragments(target, from, &said, 1_000, id as u16);
            for nth in order {
                let frame = packet::addressed(fragments[nth].clone(), sender, receiver);
                backend.send_frame("eth0", &frame).unwrap();
            }
            let mut room = vec![0; said.len() + 1];
            let heard = asking.recv(&mut room);
            assert!(heard.is_ok_and(|length| room[..length] == said), "{hook} {order:?}");
        }
        let status = all_arrived(&hosts.server);
        assert_eq!(status.no_next_hop.packets, 0, "{hook}: {status:?}");
        assert_eq!(hosts.counts(at.ip(), client)[0], 0);
    }
}

/// The networks of the neighbour of [`by_devices_at_once`]: of its link, and of a VLAN on it.
const LINK: u8 = 2;
const VLAN: u8 = 5;

/// Requests by a device of some kind, by a link and by a VLAN device on that link are answered by the same device each, at the
/// same time.
fn by_devices_at_once(uplink: Kind, side: Kind) {
    for v6 in FAMILIES {
        if v6 && !(uplink.carries_ipv6() && side.carries_ipv6()) {
            continue;
        }
        for hook in hooks() {
            let Some(hosts) = unless_lacking(Hosts::joined(uplink, side, v6)) else { return };
            let (server, neighbour) = (&hosts.server, hosts.lab.node("neighbour").unwrap());
            hosts.lab.link((server, "eth2"), (&neighbour, "eth0")).unwrap();
            let vlan = || server.vlan("eth2.5", "eth2", 5).and_then(|()| neighbour.vlan("eth0.5", "eth0", 5));
            let mut ways = vec![(LINK, "eth2", "eth0")];
            if unless_lacking(vlan()).is_some() {
                ways.push((VLAN, "eth2.5", "eth0.5"));
            }
            let service = hosts.host(hosts.source());
            let client = |network: u8| -> IpAddr {
                match v6 {
                    false => [203, 0, 113, network].into(),
                    true => [0x2001, 0xDB8, 0xFA, 0, 0, 0, 0, 0x100 + u16::from(network)].into(),
                }
            };
            let mut clients = vec![(&hosts.router, hosts.far().ip())];
            for (network, at_server, at_neighbour) in &ways {
                server.address(at_server, &hosts.network(*network, 2)).unwrap();
                neighbour.address(at_neighbour, &hosts.network(*network, 1)).unwrap();
                neighbour.address("lo", &hosts.host(client(*network))).unwrap();
                let gateway = hosts.address(*network, 2);
                neighbour.route(&format!("{service} via {gateway} table {network}")).unwrap();
                neighbour.rule(&format!("from {} lookup {network}", client(*network))).unwrap();
                clients.push((&neighbour, client(*network)));
            }
            let at = SocketAddr::new(hosts.source(), PORT);
            let _services = serve(server, at);
            let heard: Vec<Capture> =
                ways.iter().map(|(_, _, device)| neighbour.capture(device).unwrap()).collect();
            let spec = replies(&hosts.source().to_string());
            on(server, *hook, |byway| byway.add(&spec)).unwrap();

            let call_often = |node: &Node, from: IpAddr| {
                for _ in 0..3 {
                    for traffic in TRAFFIC {
                        call(node, Some(from), at, traffic, ANSWER)?;
                    }
                    let said = some_bytes(LARGE);
                    assert!(node.tcp_echo(Some(from), at, &said, ANSWER)? == said);
                }
                io::Result::Ok(())
            };
            let why = format!("{hook}, from {uplink:?} to {side:?}");
            thread::scope(|scope| {
                let calls: Vec<_> = clients
                    .iter()
                    .map(|(node, from)| (from, scope.spawn(|| call_often(node, *from))))
                    .collect();
                for (from, calls) in calls {
                    calls
                        .join()
                        .unwrap()
                        .unwrap_or_else(|error| panic!("{why}, {from}: {error}; {:?}", the_rule(server)));
                }
            });
            // A device without an Ethernet header counts fewer bytes.
            let is_even = |status: &RuleStatus| status.departed.packets == status.arrived.packets;
            assert!(wait_until(ANSWER, || is_even(&the_rule(server))), "{why}: {:?}", the_rule(server));
            let status = the_rule(server);
            assert!(status.departed.packets >= 3 * 4 * clients.len() as u64, "{why}: {status:?}");
            assert_eq!(status.no_next_hop.packets, 0, "{why}: {status:?}");
            if let [at_link, at_vlan] = &heard[..] {
                let answers = |capture: &Capture, network: u8| {
                    capture.count(|frame| {
                        frame.source() == Some(at.ip()) && frame.destination() == Some(client(network))
                    })
                };
                // The link's capture sees the frames of the VLAN as well.
                let of_vlan = || [answers(at_link, VLAN), answers(at_vlan, VLAN)];
                let are_tagged = wait_until(ANSWER, || of_vlan()[0] == of_vlan()[1] && of_vlan()[1] > 0);
                assert!(are_tagged, "{why}: {:?} answers came on the link, and by the VLAN", of_vlan());
                assert_eq!(answers(at_vlan, LINK), 0, "{why}: answers came with a tag");
            }
        }
    }
}

#[test]
fn by_tun_a_link_and_a_vlan() {
    by_devices_at_once(Kind::Veth, Kind::Tun);
}

#[test]
fn by_wireguard_a_link_and_a_vlan() {
    by_devices_at_once(Kind::Veth, Kind::WireGuard);
}

#[test]
fn by_ipip_a_link_and_a_vlan() {
    by_ip_tunnel(Kind::IpIp);
}

#[test]
fn by_gre_a_link_and_a_vlan() {
    by_ip_tunnel(Kind::Gre);
}

/// An older kernel shows the programs the outer packet (docs/limits.md).
fn by_ip_tunnel(tunnel: Kind) {
    const SHOWS_THE_INNER_PACKET: [u32; 2] = [5, 14];
    if release() < SHOWS_THE_INNER_PACKET {
        lacking_before("ingress of IP tunnels that begins with the inner packet", SHOWS_THE_INNER_PACKET);
    } else {
        by_devices_at_once(Kind::Veth, tunnel);
    }
}

/// The ordinary way leads by a device without an Ethernet header, and the replies need one, or none either.
#[test]
fn from_a_tunnel_to_a_link_a_vlan_and_a_tunnel() {
    by_devices_at_once(Kind::Tun, Kind::Veth);
    by_devices_at_once(Kind::Gre, Kind::Tun);
}

/// Who answers by a way that takes smaller packets than the ordinary one: the server, or a host behind it.
struct Narrowed {
    seed: Seed,
    at: SocketAddr,
    answers: Node,
    binds: SocketAddr,
}

impl Narrowed {
    fn new(hook: Hook, addresses: &Addresses, is_behind: bool) -> Self {
        let at = SocketAddr::new(addresses.service, PORT);
        let (seed, answers, binds) = if is_behind {
            let (seed, backend) = with_backend();
            let behind: IpAddr =
                if at.is_ipv4() { [10, 50, 0, 2].into() } else { "2001:db8:50::2".parse().unwrap() };
            let target = SocketAddr::new(behind, 8080);
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                seed.server.dnat(protocol, at, target).unwrap();
            }
            (seed, backend, target)
        } else {
            let seed = Seed::new().unwrap();
            let server = seed.server.clone();
            (seed, server, at)
        };
        narrowed(&seed, NARROW);
        on(&seed.server, hook, |byway| byway.add(&replies(&addresses.service.to_string()))).unwrap();
        Self { seed, at, answers, binds }
    }
}

/// A reply that is too big for its way comes back to who sent it as the ICMP error that says so, and everything gets through in
/// the end. The SYN-ACK asks for segments that fit.
#[test]
fn replies_that_are_too_big_for_their_way_are_answered() {
    if !mtu_is_asked_for_each_packet() {
        return lacking_before("MTU of a device for a program", [5, 12]);
    }
    for (hook, addresses) in hooks_and_addresses() {
        for is_behind in [false, true] {
            let Narrowed { seed, at, answers, binds } = Narrowed::new(hook, &addresses, is_behind);
            let (client, v6) = (addresses.client, at.is_ipv6());
            let why = || format!("{hook}, {at}, behind: {is_behind}: {:?}", the_rule(&seed.server));
            let known = || known_mtu(&answers, binds.ip(), client);

            let udp = answers.run(|| UdpSocket::bind(binds)).unwrap();
            let asking = seed.client.run(|| UdpSocket::bind((client, 0))).unwrap();
            for socket in [&udp, &asking] {
                set_discovery(socket, v6, Discovery::Want);
                socket.set_read_timeout(Some(ANSWER)).unwrap();
            }
            asking.send_to(b"ask", at).unwrap();
            let (_, from) = udp.recv_from(&mut [0; 16]).unwrap();
            assert_eq!((from.ip(), known()), (client, 1_500), "{}", why());
            let reply = some_bytes(1_400);
            udp.send_to(&reply, from).unwrap();
            assert!(wait_until(ANSWER, || known() == NARROW), "it knows {}; {}", known(), why());
            assert_eq!(the_rule(&seed.server).icmp_sent.packets, 1, "{}", why());
            udp.send_to(&reply, from).unwrap();
            let mut room = vec![0; reply.len() + 1];
            let heard = asking.recv(&mut room);
            assert!(heard.is_ok_and(|length| room[..length] == reply), "{}", why());

            let listener = answers.run(|| TcpListener::bind(binds)).unwrap();
            let at_client = seed.client.capture("eth0").unwrap();
            let theirs = connect(&seed.client, client, at);
            let (ours, _) = listener.accept().unwrap();
            for end in [&ours, &theirs] {
                end.set_read_timeout(Some(TRANSFER)).unwrap();
                end.set_write_timeout(Some(TRANSFER)).unwrap();
            }
            let asks = |frame: &Frame| frame.direction == Direction::Incoming && packet::mss(frame).is_some();
            let asked = at_client.wait_for(ANSWER, asks).unwrap();
            drop(at_client);
            let fits = NARROW as u16 - if v6 { 60 } else { 40 };
            assert_eq!(packet::mss(&asked), Some(fits), "{}", why());
            transfer(&ours, &theirs, &why());
            transfer(&theirs, &ours, &why());
            let status = all_arrived(&seed.server);
            assert_eq!(status.no_next_hop.packets, 0, "{}", why());
            assert_eq!(status.too_big_dropped.packets, 0, "{}", why());
        }
    }
}

/// A connection whose two ends do not know yet how little the way takes, of a sender that sends much at once.
#[test]
fn connections_learn_how_much_their_way_takes() {
    if !mtu_is_asked_for_each_packet() {
        return lacking_before("MTU of a device for a program", [5, 12]);
    }
    for (hook, addresses) in hooks_and_addresses() {
        for is_behind in [false, true] {
            let Narrowed { seed, at, answers, binds } = Narrowed::new(hook, &addresses, is_behind);
            let why = || format!("{hook}, {at}, behind: {is_behind}: {:?}", the_rule(&seed.server));
            let listener = answers.run(|| TcpListener::bind(binds)).unwrap();
            let theirs = connect(&seed.client, addresses.client, at);
            let (ours, _) = listener.accept().unwrap();
            for end in [&ours, &theirs] {
                end.set_read_timeout(Some(TRANSFER)).unwrap();
                end.set_write_timeout(Some(TRANSFER)).unwrap();
            }
            assert_eq!(the_rule(&seed.server).icmp_sent.packets, 0, "{}", why());
            transfer(&ours, &theirs, &why());
            let status = all_arrived(&seed.server);
            assert_eq!(known_mtu(&answers, binds.ip(), addresses.client), NARROW, "{}", why());
            assert!(status.icmp_sent.packets > 0, "{}", why());
            assert_eq!(status.clamped.packets, 1, "{}", why());
            assert_eq!(status.no_next_hop.packets, 0, "{}", why());
        }
    }
}

/// The kernel's own answers, by the way of each request, from whatever address they come: a reset, an unreachable port, an echo
/// reply, and an ICMP error about a packet that the server would forward if it were not for its TTL (what traceroute asks for).
#[test]
fn what_the_kernel_answers_goes_back_as_well() {
    const TCP_PORT: u16 = 80;
    for (hook, v6) in hooks_and_families() {
        let (hosts, client, service) = two_uplinks(v6);
        let (_backend, behind) = behind(&hosts);
        let any = if v6 { "::/0" } else { "0.0.0.0/0" };
        on(&hosts.server, hook, |byway| byway.add(&replies(any))).unwrap();
        for (nth, router) in hosts.router.iter().enumerate() {
            let why = format!("{hook}, router {}", nth + 1);
            let at = SocketAddr::new(service, PORT);
            call(router, Some(client), at, Traffic::Icmp, ANSWER)
                .unwrap_or_else(|error| panic!("{why}: {error}"));
            for traffic in [Traffic::Tcp, Traffic::Udp] {
                let error = call(router, Some(client), at, traffic, ANSWER).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{why}, {traffic:?}: {error}");
            }
            let sender = router.mac("eth0").unwrap();
            let receiver = hosts.server.mac(&format!("eth{}", nth + 1)).unwrap();
            let [from, to] = [(client, 40_000 + nth as u16), (behind, TCP_PORT)].map(SocketAddr::from);
            let echo = [if v6 { 128 } else { 8 }, 0, 0, 0, 0, nth as u8, 0, 1];
            let icmp = if v6 { packet::ICMPV6 } else { packet::ICMP };
            let requests = [
                (packet::TCP, packet::tcp(from, to, NUMBERS, SYN, &[])),
                (packet::UDP, packet::ip(client, behind, packet::UDP, &packet::datagram(from, to, b"?"))),
                (icmp, packet::ip(client, behind, icmp, &echo)),
            ];
            for (protocol, mut request) in requests {
                packet::set_ttl(&mut request, 1);
                router.send_frame("eth0", &packet::addressed(request, sender, receiver)).unwrap();
                let heard = hosts.heard()[nth + 1].wait_for(ANSWER, |frame| {
                    frame.destination() == Some(client) && quoted_by_time_exceeded(frame) == Some(protocol)
                });
                assert!(heard.is_some(), "{why}, protocol {protocol}: {:?}", the_rule(&hosts.server));
            }
        }
        let to_client = |frame: &Frame| frame.destination() == Some(client);
        assert_eq!(hosts.heard()[0].count(to_client), 0, "{hook}: nothing goes to the gateway");
        for (nth, answers) in [&hosts.heard()[1], &hosts.heard()[2]].into_iter().enumerate() {
            assert_eq!(answers.count(to_client), 6, "{hook}, router {}", nth + 1);
        }
    }
}

/// The protocol of the packet that ran out of time, as an ICMP error quotes it (RFC 792, RFC 4443).
fn quoted_by_time_exceeded(frame: &Frame) -> Option<u8> {
    let packet = frame.payload();
    match frame.protocol()? {
        packet::ICMP if packet[20] == 11 => packet.get(20 + 8 + 9).copied(),
        packet::ICMPV6 if packet[40] == 3 => packet.get(40 + 8 + 6).copied(),
        _ => None,
    }
}

// Flags of TCP (RFC 9293, RFC 3168).
const CWR: u8 = 0x80;
const ECE: u8 = 0x40;
const PSH: u8 = 0x08;
const FIN: u8 = 0x01;

/// What TCP's timestamps are, behind two bytes of padding (RFC 7323).
const TIMESTAMPS: [u8; 12] = [1, 1, 8, 10, 0xDE, 0xAD, 0xBE, 0xEF, 0x12, 0x34, 0x56, 0x78];

/// A reply that leaves by its way is the same packet as the one that leaves by plain routing, to the last bit: traffic class, ECN,
/// flags, timestamps, identification and TTL. Only the Ethernet addresses differ.
#[test]
fn a_reply_is_the_same_by_its_way_and_by_plain_routing() {
    for (hook, v6) in hooks_and_families() {
        let (hosts, client, _) = two_uplinks(v6);
        let (backend, behind) = behind(&hosts);
        let [asks, tcp_asks] = [PORT + 2, PORT + 3].map(|port| SocketAddr::new(client, port));
        let at = SocketAddr::new(behind, PORT);
        let ip = |payload: &[u8]| packet::ip(at.ip(), client, packet::UDP, payload);
        let segment = |sequence: u32, flags: u8| {
            packet::tcp(at, tcp_asks, [NUMBERS[1].wrapping_add(sequence), NUMBERS[0] + 1], flags, &TIMESTAMPS)
        };
        let syn_ack = segment(u32::MAX, SYN | ACK | ECE);
        let flags = [ACK, ACK | PSH, ACK | ECE, ACK | CWR, ACK | ECE | CWR, ACK | FIN];
        let mut replies_sent: Vec<Vec<u8>> = flags.map(|flags| segment(0, flags)).into();
        // Some classes of DiffServ (RFC 4594), each with all of ECN.
        let classes =
            [0, 8, 34, 46, 63].into_iter().flat_map(|class| (0..4).map(move |ecn| class << 2 | ecn));
        replies_sent.extend(classes.map(|class: u8| {
            let mut frame = ip(&packet::datagram(at, asks, &[class; 40]));
            packet::set_class(&mut frame, class);
            frame
        }));

        let spec = replies(&behind.to_string());
        on(&hosts.server, hook, |byway| byway.add(&spec)).unwrap();
        let (router, server) = (&hosts.router[1], hosts.server.mac("eth2").unwrap());
        let ask = |frame: Vec<u8>| {
            let frame = packet::addressed(frame, router.mac("eth0").unwrap(), server);
            router.send_frame("eth0", &frame).unwrap();
        };
        let reply = |frame: &[u8]| {
            let (sender, receiver) = (backend.mac("eth0").unwrap(), hosts.server.mac("eth3").unwrap());
            backend.send_frame("eth0", &packet::addressed(frame.to_vec(), sender, receiver)).unwrap();
        };
        // What the host behind does about requests that it knows nothing of is no reply here.
        let is_reply = |frame: &Frame, sent: &[u8]| {
            let mut forwarded = sent.to_vec();
            packet::set_ttl(&mut forwarded, 63);
            frame.direction == Direction::Incoming && frame.payload() == &forwarded[packet::ETHERNET..]
        };
        ask(packet::tcp(tcp_asks, at, NUMBERS, SYN | ECE | CWR, &TIMESTAMPS));
        reply(&syn_ack);
        let answered = hosts.heard()[2].wait_for(ANSWER, |frame| is_reply(frame, &syn_ack));
        assert!(answered.is_some(), "{hook}: {:?}", the_rule(&hosts.server));
        ask(packet::tcp(tcp_asks, at, NUMBERS, ACK, &TIMESTAMPS));
        ask(packet::ip(client, behind, packet::UDP, &packet::datagram(asks, at, b"ask")));
        let are_confirmed = || on(&hosts.server, hook, |byway| byway.flows(None)).unwrap().count() == 2;
        assert!(wait_until(ANSWER, are_confirmed), "{hook}");
        for sent in &replies_sent {
            reply(sent);
        }
        for sent in &replies_sent {
            let heard = hosts.heard()[2].wait_for(ANSWER, |frame| is_reply(frame, sent));
            assert!(heard.is_some(), "{hook}: {sent:x?} by its way");
            assert_eq!(hosts.heard()[0].count(|frame| is_reply(frame, sent)), 0, "{hook}: {sent:x?}");
        }
        on(&hosts.server, hook, |byway| byway.del(&spec.selector)).unwrap();
        for sent in &replies_sent {
            reply(sent);
        }
        for sent in &replies_sent {
            let heard = hosts.heard()[0].wait_for(ANSWER, |frame| is_reply(frame, sent));
            assert!(heard.is_some(), "{hook}: {sent:x?} by plain routing");
        }
    }
}

/// Clients on the link itself, with an address of its network or with another one, and a client behind a router there: each gets
/// its answers from the server straight away, at the same time. So it is also if the router is the server's default gateway.
#[test]
fn neighbours_on_the_link_get_their_answers_themselves() {
    const LAN: usize = 3;
    for (hook, v6) in hooks_and_families() {
        for is_default in [false, true] {
            let (hosts, _, service) = two_uplinks(v6);
            let (server, [router, near]) =
                (&hosts.server, ["r3", "near"].map(|name| hosts.lab.node(name).unwrap()));
            hosts.lab.bridge("lan", &[(server, "eth3"), (&router, "eth0"), (&near, "eth0")]).unwrap();
            for (node, device, host) in [(server, "eth3", 2), (&router, "eth0", 1), (&near, "eth0", 7)] {
                node.address(device, &hosts.on_link(LAN, host)).unwrap();
            }
            let [behind, foreign] = [17, 18].map(|last| hosts.far(last));
            let local = address(&hosts.on_link(LAN, 7));
            for (node, client) in [(&router, behind), (&near, foreign)] {
                node.address("lo", &format!("{client}/{}", if v6 { 128 } else { 32 })).unwrap();
                let server = address(&hosts.on_link(LAN, 2));
                node.route(&format!("{} via {server}", hosts.around(service, 8))).unwrap();
            }
            if is_default {
                let gateway = address(&hosts.on_link(0, 1));
                server.delete_route(&format!("default via {gateway}")).unwrap();
                server.route(&format!("default via {}", address(&hosts.on_link(LAN, 1)))).unwrap();
            }
            let at = SocketAddr::new(service, PORT);
            let _services = serve(server, at);
            let spec = replies(&hosts.around(service, 8));
            on(server, hook, |byway| byway.add(&spec)).unwrap();
            let left = server.capture("eth3").unwrap();
            let clients = [(&router, behind), (&near, foreign), (&near, local)];
            let why = format!("{hook}, the router is the default gateway: {is_default}");
            thread::scope(|scope| {
                let calls = clients.map(|(node, from)| {
                    scope.spawn(move || {
                        (0..5)
                            .flat_map(|_| TRAFFIC)
                            .try_for_each(|traffic| call(node, Some(from), at, traffic, ANSWER))
                    })
                });
                for (calls, (_, from)) in calls.into_iter().zip(clients) {
                    calls
                        .join()
                        .unwrap()
                        .unwrap_or_else(|error| panic!("{why}, {from}: {error}; {:?}", the_rule(server)));
                }
            });
            let status = all_arrived(server);
            assert_eq!(status.no_next_hop.packets, 0, "{why}: {status:?}");
            let mut neighbours = BTreeMap::new();
            for frame in left.frames() {
                if frame.direction == Direction::Outgoing && frame.source() == Some(service) {
                    let to: &mut BTreeSet<_> = neighbours.entry(frame.destination().unwrap()).or_default();
                    to.insert(frame.destination_mac().unwrap());
                }
            }
            let expected = clients.map(|(node, from)| (from, [node.mac("eth0").unwrap()].into()));
            assert_eq!(neighbours, expected.into(), "{why}");
        }
    }
}

/// A service far away that the gateway leads to, and whose answers come in by the second router.
fn asymmetric(hosts: &Routers, service: IpAddr) -> (SocketAddr, [Service; 2]) {
    const NETWORKS: [usize; 2] = [7, 8];
    let far = hosts.lab.node("far").unwrap();
    let at = SocketAddr::new(hosts.far(9), PORT);
    let length = if service.is_ipv6() { 128 } else { 32 };
    far.address("lo", &format!("{}/{length}", at.ip())).unwrap();
    for ((network, node), device) in
        NETWORKS.into_iter().zip([&hosts.gateway, &hosts.router[1]]).zip(["eth0", "eth1"])
    {
        hosts.lab.link((node, "eth1"), (&far, device)).unwrap();
        node.address("eth1", &hosts.on_link(network, 1)).unwrap();
        far.address(device, &hosts.on_link(network, 2)).unwrap();
        node.forwarding().unwrap();
    }
    let [by_gateway, by_router] =
        NETWORKS.map(|network| [1, 2].map(|host| address(&hosts.on_link(network, host))));
    hosts.gateway.route(&format!("{}/{length} via {}", at.ip(), by_gateway[1])).unwrap();
    far.route(&format!("{service}/{length} via {}", by_router[0])).unwrap();
    let services = serve(&far, at);
    (at, services)
}

/// What the host itself begins from the service address keeps to normal routing, packet after packet, although its answers come
/// in by another device: TCP, UDP and ping.
#[test]
fn what_the_host_begins_keeps_to_normal_routing_though_answers_come_in_elsewhere() {
    for (hook, v6) in hooks_and_families() {
        let (hosts, _, service) = two_uplinks(v6);
        let (far, _services) = asymmetric(&hosts, service);
        let spec = replies(&hosts.around(service, 8));
        on(&hosts.server, hook, |byway| byway.add(&spec)).unwrap();
        let came_in = hosts.server.capture("eth2").unwrap();
        let said = some_bytes(LARGE);
        assert!(hosts.server.tcp_echo(Some(service), far, &said, ANSWER).unwrap() == said, "{hook}");
        let udp = hosts.server.run(|| UdpSocket::bind((service, 0))).unwrap();
        udp.set_read_timeout(Some(ANSWER)).unwrap();
        udp.connect(far).unwrap();
        for nth in 0..20_u8 {
            udp.send(&[nth; 3]).unwrap();
            let mut heard = [0; 8];
            assert_eq!(udp.recv(&mut heard).unwrap(), 3, "{hook}");
            assert_eq!(heard[..3], [nth; 3], "{hook}");
        }
        for _ in 0..5 {
            hosts.server.ping(Some(service), far.ip(), ANSWER).unwrap();
        }
        let status = the_rule(&hosts.server);
        assert_eq!(status.departed.packets, 0, "{hook}: {status:?}");
        // One by one: TCP has at least a SYN, an acknowledgement and data.
        assert!(status.no_next_hop.packets >= 20 + 5 + 3, "{hook}: {status:?}");
        let answers =
            came_in.count(|frame| frame.direction == Direction::Incoming && frame.source() == Some(far.ip()));
        assert!(answers >= 20 + 5 + 3, "{hook}: {answers} answers came in by the second router");
        let [at_gateway, at_routers @ ..] = hosts.counts(service, far.ip());
        assert_eq!(at_routers, [0; 2], "{hook}");
        assert!(at_gateway >= 20 + 5 + 3, "{hook}: {at_gateway}");
    }
}
