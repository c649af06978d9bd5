//! The lab's own hosts, links and traffic.

use std::{
    env, fs, io,
    net::{IpAddr, SocketAddr, UdpSocket},
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use byway_lab::{
    DatagramSender, Direction, Frame, FrameSender, Lab, NeighbourState, Node, Offload, Protocol, frame,
    wait_until,
};

const SOON: Duration = Duration::from_secs(5);
const BRIEFLY: Duration = Duration::from_millis(200);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Two neighbours, .1 and .2.
fn pair(lab: &Lab) -> (Node, Node) {
    let (a, b) = (lab.node("a").unwrap(), lab.node("b").unwrap());
    lab.link((&a, "eth0"), (&b, "eth0")).unwrap();
    a.address("eth0", "10.0.0.1/24").unwrap();
    b.address("eth0", "10.0.0.2/24").unwrap();
    a.address("eth0", "fd00::1/64").unwrap();
    b.address("eth0", "fd00::2/64").unwrap();
    (a, b)
}

/// client — router — server, each with a default route by way of the router.
fn routed(lab: &Lab) -> (Node, Node, Node) {
    let (client, router, server) =
        (lab.node("client").unwrap(), lab.node("router").unwrap(), lab.node("server").unwrap());
    lab.link((&client, "eth0"), (&router, "eth0")).unwrap();
    lab.link((&router, "eth1"), (&server, "eth0")).unwrap();
    for (node, device, addresses) in [
        (&client, "eth0", ["10.1.0.2/24", "fd00:1::2/64"]),
        (&router, "eth0", ["10.1.0.1/24", "fd00:1::1/64"]),
        (&router, "eth1", ["10.2.0.1/24", "fd00:2::1/64"]),
        (&server, "eth0", ["10.2.0.2/24", "fd00:2::2/64"]),
    ] {
        addresses.into_iter().for_each(|address| node.address(device, address).unwrap());
    }
    for route in ["default via 10.1.0.1", "default via fd00:1::1"] {
        client.route(route).unwrap();
    }
    for route in ["default via 10.2.0.1", "default via fd00:2::1"] {
        server.route(route).unwrap();
    }
    (client, router, server)
}

#[test]
fn neighbours_ping_each_other() {
    let lab = Lab::new().unwrap();
    let (a, b) = pair(&lab);
    a.ping(None, ip("10.0.0.2"), SOON).unwrap();
    b.ping(Some(ip("10.0.0.2")), ip("10.0.0.1"), SOON).unwrap();
    a.ping(None, ip("fd00::2"), SOON).unwrap();
    b.ping(Some(ip("fd00::2")), ip("fd00::1"), SOON).unwrap();
    let nobody = a.ping(None, ip("10.0.0.9"), BRIEFLY).unwrap_err();
    assert_eq!(nobody.kind(), io::ErrorKind::TimedOut, "{nobody}");
}

#[test]
fn tcp_and_udp_come_back() {
    let lab = Lab::new().unwrap();
    let (a, b) = pair(&lab);
    for address in ["10.0.0.2:7", "[fd00::2]:7"] {
        let tcp = b.tcp_serve(at(address)).unwrap();
        let udp = b.udp_serve(at(address)).unwrap();
        let payload = vec![0x5a; 3_000_000];
        assert_eq!(a.tcp_echo(None, tcp.address(), &payload, SOON).unwrap(), payload);
        assert_eq!(a.udp_echo(None, udp.address(), b"hello", SOON).unwrap(), b"hello");
        drop((tcp, udp));
        assert!(a.tcp_echo(None, at(address), b"hello", SOON).is_err());
        assert!(a.udp_echo(None, at(address), b"hello", SOON).is_err());
    }
    let tcp = b.tcp_serve(at("10.0.0.2:0")).unwrap();
    assert_eq!(a.tcp_echo(Some(ip("10.0.0.1")), tcp.address(), b"hello", SOON).unwrap(), b"hello");
}

/// A kernel as it is configured by default answers the first 50.
#[test]
fn each_datagram_to_a_closed_port_is_answered() {
    let lab = Lab::new().unwrap();
    let (a, _b) = pair(&lab);
    for closed in ["10.0.0.2:9", "[fd00::2]:9"].map(at) {
        a.ping(None, closed.ip(), SOON).unwrap();
        let ours = if closed.is_ipv4() { "10.0.0.1:0" } else { "[fd00::1]:0" };
        let sockets: Vec<UdpSocket> =
            (0..200).map(|_| a.run(|| UdpSocket::bind(at(ours)).unwrap())).collect();
        for socket in &sockets {
            socket.connect(closed).unwrap();
            socket.send(b"hello").unwrap();
        }
        for socket in sockets {
            socket.set_read_timeout(Some(SOON)).unwrap();
            let answer = socket.recv(&mut [0]).unwrap_err();
            assert_eq!(answer.kind(), io::ErrorKind::ConnectionRefused, "{closed}: {answer}");
        }
    }
}

#[test]
fn a_router_forwards_when_told_to() {
    let lab = Lab::new().unwrap();
    let (client, router, server) = routed(&lab);
    client.ping(None, ip("10.2.0.2"), BRIEFLY).unwrap_err();
    router.forwarding().unwrap();
    client.ping(None, ip("10.2.0.2"), SOON).unwrap();
    client.ping(None, ip("fd00:2::2"), SOON).unwrap();
    let echo = server.tcp_serve(at("10.2.0.2:80")).unwrap();
    assert_eq!(client.tcp_echo(None, echo.address(), b"hello", SOON).unwrap(), b"hello");
    client.delete_route("default via 10.1.0.1").unwrap();
    client.ping(None, ip("10.2.0.2"), BRIEFLY).unwrap_err();
}

#[test]
fn rules_choose_the_table() {
    let lab = Lab::new().unwrap();
    let (client, router, _server) = routed(&lab);
    router.forwarding().unwrap();
    client.route("blackhole default table 100").unwrap();
    client.rule("from 10.1.0.2 lookup 100 priority 10").unwrap();
    client.ping(Some(ip("10.1.0.2")), ip("10.2.0.2"), BRIEFLY).unwrap_err();
    client.delete_rule("from 10.1.0.2 lookup 100 priority 10").unwrap();
    client.ping(Some(ip("10.1.0.2")), ip("10.2.0.2"), SOON).unwrap();
    client.route("-6 blackhole default table 100").unwrap();
    client.rule("from fd00:1::/64 lookup 100").unwrap();
    client.ping(Some(ip("fd00:1::2")), ip("fd00:2::2"), BRIEFLY).unwrap_err();
    client.route("-4 192.0.2.0/24 via fd00:1::1").unwrap();
    client.route("198.51.100.0/24 dev eth0 metric 7 src 10.1.0.2").unwrap();
    client.delete_route("198.51.100.0/24").unwrap();
    client.route("local 203.0.113.0/24 dev lo").unwrap();
    client.ping(None, ip("203.0.113.9"), SOON).unwrap();
}

#[test]
fn marks_choose_the_table() {
    let lab = Lab::new().unwrap();
    let (client, router, server) = routed(&lab);
    router.forwarding().unwrap();
    let asks = |from: &str, timeout| client.udp_echo(Some(ip(from)), at("10.2.0.2:7"), b"?", timeout);
    let _service = server.udp_serve(at("10.2.0.2:7")).unwrap();
    for address in ["10.1.0.3/24", "10.1.0.4/24"] {
        client.address("eth0", address).unwrap();
    }
    router.route("blackhole default table 100").unwrap();
    router.rule("from all fwmark 7 lookup 100 priority 1000").unwrap();
    asks("10.1.0.3", SOON).unwrap();
    router.mark_sources(&["10.1.0.3".parse().unwrap(), "10.9.0.1".parse().unwrap()], 7).unwrap();
    asks("10.1.0.3", BRIEFLY).unwrap_err();
    asks("10.1.0.4", SOON).unwrap();
}

#[test]
fn replies_are_marked_like_their_requests() {
    let lab = Lab::new().unwrap();
    let (client, router, server) = routed(&lab);
    router.forwarding().unwrap();
    let service = server.udp_serve(at("10.2.0.2:7")).unwrap();
    let other = client.udp_serve(at("10.1.0.2:7")).unwrap();
    router.route("blackhole default table 100").unwrap();
    router.rule("from all fwmark 7 lookup 100 priority 1000").unwrap();
    let asks = |timeout| client.udp_echo(None, service.address(), b"?", timeout);
    asks(SOON).unwrap();
    router.mark_replies("eth0", 7).unwrap();
    asks(BRIEFLY).unwrap_err();
    // Its request came in by the other device, so nothing of it is marked, however often it asks.
    for _ in 0..2 {
        server.udp_echo(Some(ip("10.2.0.2")), other.address(), b"?", SOON).unwrap();
    }
}

#[test]
fn a_bridge_joins_several() {
    let lab = Lab::new().unwrap();
    let nodes: Vec<Node> = ["a", "b", "c"].iter().map(|name| lab.node(name).unwrap()).collect();
    let ports: Vec<(&Node, &str)> = nodes.iter().map(|node| (node, "eth0")).collect();
    lab.bridge("lan", &ports).unwrap();
    for (node, number) in nodes.iter().zip(1..) {
        node.address("eth0", &format!("10.0.0.{number}/24")).unwrap();
        node.address("eth0", &format!("fd00::{number}/64")).unwrap();
    }
    for node in &nodes {
        for number in 1..=3 {
            node.ping(None, ip(&format!("10.0.0.{number}")), SOON).unwrap();
            node.ping(None, ip(&format!("fd00::{number}")), SOON).unwrap();
        }
    }
}

/// The kernel joins an IPv6 address's group behind the back of who adds it. On a busy machine that took seconds.
#[test]
fn an_address_is_found_as_soon_as_it_is_added() {
    let lab = Lab::new().unwrap();
    let (a, _b) = pair(&lab);
    for number in 0x100..0x200 {
        a.address("eth0", &format!("fd00::{number:x}/64")).unwrap();
        let groups = a.run(|| fs::read_to_string("/proc/thread-self/net/igmp6")).unwrap();
        assert!(groups.contains(&format!("ff0200000000000000000001ff000{number:x}")), "{number:x}: {groups}");
    }
}

#[test]
fn a_capture_sees_both_directions() {
    let lab = Lab::new().unwrap();
    let (a, b) = pair(&lab);
    let capture = b.capture("eth0").unwrap();
    a.ping(None, ip("10.0.0.2"), SOON).unwrap();
    let icmp = |frame: &frame::Frame, direction| frame.direction == direction && frame.protocol() == Some(1);
    let request = capture.wait_for(SOON, |frame| icmp(frame, Direction::Incoming)).unwrap();
    assert_eq!(request.source(), Some(ip("10.0.0.1")));
    assert_eq!(request.destination(), Some(ip("10.0.0.2")));
    assert_eq!(request.source_mac(), Some(a.mac("eth0").unwrap()));
    assert!(capture.wait_for(SOON, |frame| icmp(frame, Direction::Outgoing)).is_some());
    assert!(capture.count(|frame| frame.ether_type() == Some(frame::ARP)) >= 2);
    assert_eq!(capture.count(|frame| frame.protocol() == Some(1)), 2);

    let mut raw = vec![0xff; 6];
    raw.extend([2, 0, 0, 0, 0, 9, 0x88, 0xb5]);
    raw.extend([0; 46]);
    a.send_frame("eth0", &raw).unwrap();
    let experimental = capture.wait_for(SOON, |frame| frame.ether_type() == Some(0x88b5)).unwrap();
    assert_eq!((experimental.bytes, experimental.direction), (raw, Direction::Incoming));
    assert_eq!(capture.wait_for(BRIEFLY, |frame| frame.protocol() == Some(99)), None);
    assert!(a.capture("eth7").unwrap_err().to_string().contains("eth7"));
}

#[test]
fn a_service_address_is_translated() {
    let lab = Lab::new().unwrap();
    let (client, router, server) = routed(&lab);
    router.forwarding().unwrap();
    for (service, real) in [("192.0.2.1:80", "10.2.0.2:8080"), ("[fd00:9::1]:80", "[fd00:2::2]:8080")] {
        let _tcp = server.tcp_serve(at(real)).unwrap();
        let _udp = server.udp_serve(at(real)).unwrap();
        client.tcp_echo(None, at(service), b"hello", BRIEFLY).unwrap_err();
        router.dnat(Protocol::Tcp, at(service), at(real)).unwrap();
        router.dnat(Protocol::Udp, at(service), at(real)).unwrap();
        assert_eq!(client.tcp_echo(None, at(service), b"hello", SOON).unwrap(), b"hello");
        assert_eq!(client.udp_echo(None, at(service), b"hello", SOON).unwrap(), b"hello");
    }
}

#[test]
fn a_source_is_translated() {
    let lab = Lab::new().unwrap();
    let (client, router, server) = routed(&lab);
    router.forwarding().unwrap();
    for (service, translated) in [("10.2.0.2:80", "10.2.0.1"), ("[fd00:2::2]:80", "fd00:2::1")] {
        let _service = server.udp_serve(at(service)).unwrap();
        let translated = translated.parse().unwrap();
        router.snat("eth1", translated).unwrap();
        let heard = server.capture("eth0").unwrap();
        assert_eq!(client.udp_echo(None, at(service), b"hello", SOON).unwrap(), b"hello");
        let is_request =
            |frame: &Frame| frame.protocol() == Some(17) && frame.destination() == Some(at(service).ip());
        assert_eq!(heard.wait_for(SOON, is_request).and_then(|frame| frame.source()), Some(translated));
    }
}

#[test]
fn a_bulk_transfer_is_complete() {
    let lab = Lab::new().unwrap();
    let (a, b) = pair(&lab);
    let service = b.tcp_bulk_serve(at("10.0.0.2:9000")).unwrap();
    let before = b.counters("eth0").unwrap();
    let bulk = a.tcp_bulk(service.address(), 50_000_001, Duration::from_secs(30)).unwrap();
    assert_eq!(bulk.bytes, 50_000_001);
    assert!(b.counters("eth0").unwrap().tx_bytes - before.tx_bytes > 50_000_000);
    println!("{:.1} Gbit/s", bulk.bits_per_second() / 1e9);
}

#[test]
fn a_question_is_asked_many_times() {
    let lab = Lab::new().unwrap();
    let (a, b) = pair(&lab);
    let service = b.tcp_serve(at("10.0.0.2:0")).unwrap();
    let took = a.tcp_round_trips(service.address(), b"?", 100, SOON).unwrap();
    assert_eq!(took.len(), 100);
    assert!(took.iter().all(|took| !took.is_zero()));
}

#[test]
fn connections_follow_one_another() {
    let lab = Lab::new().unwrap();
    let (a, b) = pair(&lab);
    let service = b.tcp_serve_in_turn(at("10.0.0.2:0")).unwrap();
    // More than there are ports, if they were not free again at once.
    a.sysctl("net.ipv4.ip_local_port_range", "40000 40009").unwrap();
    let mut count = 0;
    let connect =
        || a.tcp_connections(ip("10.0.0.1"), service.address(), Duration::from_millis(100)).unwrap().0;
    let enough = wait_until(SOON, || {
        count += connect();
        count > 10
    });
    assert!(enough, "{count}");
    a.tcp_connections(ip("10.0.0.9"), service.address(), SOON).unwrap_err();
}

#[test]
fn many_datagrams_are_sent_at_once() {
    let lab = Lab::new().unwrap();
    let (a, b) = pair(&lab);
    let receiver = b.datagram_receiver(at("10.0.0.2:0")).unwrap();
    receiver.set_read_timeout(Some(SOON)).unwrap();
    for connected in [false, true] {
        let to = receiver.local_addr().unwrap();
        let mut sender = a.datagram_sender(ip("10.0.0.1"), to, connected).unwrap();
        assert_eq!(sender.send(b"hello").unwrap(), DatagramSender::BATCH);
        for _ in 0..DatagramSender::BATCH {
            let mut buffer = [0; 9];
            let (length, from) = receiver.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], from.ip()), (&b"hello"[..], ip("10.0.0.1")));
        }
    }
}

#[test]
fn many_frames_are_sent_at_once() {
    let lab = Lab::new().unwrap();
    let (a, b) = pair(&lab);
    let before = b.counters("eth0").unwrap().rx_packets;
    let mut frame = [0; 60];
    frame[..6].copy_from_slice(&b.mac("eth0").unwrap());
    let mut sender = a.frame_sender("eth0").unwrap();
    assert_eq!(sender.send(&[frame; 100]).unwrap(), FrameSender::BATCH);
    assert!(wait_until(SOON, || b.counters("eth0").unwrap().rx_packets >= before + 64));
    a.frame_sender("eth1").unwrap_err();
}

#[test]
fn neighbours_are_known_and_set() {
    let lab = Lab::new().unwrap();
    let (a, b) = pair(&lab);
    assert_eq!(a.neighbour("eth0", ip("10.0.0.2")).unwrap(), None);
    a.ping(None, ip("10.0.0.2"), SOON).unwrap();
    let neighbour = a.neighbour("eth0", ip("10.0.0.2")).unwrap().unwrap();
    assert_eq!(neighbour.lladdr, Some(b.mac("eth0").unwrap()));
    assert!(!neighbour.managed);
    a.permanent_neighbour("eth0", ip("fd00::9"), [2, 0, 0, 0, 0, 9]).unwrap();
    let set = a.neighbour("eth0", ip("fd00::9")).unwrap().unwrap();
    assert_eq!((set.lladdr, set.state), (Some([2, 0, 0, 0, 0, 9]), NeighbourState::Permanent));
    a.delete_neighbour("eth0", ip("fd00::9")).unwrap();
    assert_eq!(a.neighbour("eth0", ip("fd00::9")).unwrap(), None);
}

#[test]
fn devices_change() {
    let lab = Lab::new().unwrap();
    let (a, b) = pair(&lab);
    let index = a.ifindex("eth0").unwrap();
    a.set_up("eth0", false).unwrap();
    a.rename_link("eth0", "wan").unwrap();
    a.set_up("wan", true).unwrap();
    assert_eq!(a.ifindex("wan").unwrap(), index);
    a.ping(None, ip("10.0.0.2"), SOON).unwrap();
    b.delete_link("eth0").unwrap();
    assert!(wait_until(SOON, || a.ifindex("wan").is_err()));
    let error = a.ifindex("wan").unwrap_err().to_string();
    assert!(error.starts_with("looking wan up on a: "), "{error}");
    assert!(
        a.route("default by 10.0.0.1").unwrap_err().to_string().starts_with("`default by 10.0.0.1` is not ")
    );
    assert_eq!(a.read_sysctl("net.ipv4.ip_forward").unwrap(), "0");
    assert_eq!(a.read_sysctl("net.ipv4.conf.all.rp_filter").unwrap(), "0");
}

#[test]
fn two_labs_have_the_same_addresses() {
    let outer = Lab::new().unwrap();
    let (a, _b) = pair(&outer);
    thread::scope(|scope| {
        scope.spawn(|| {
            let other = Lab::new().unwrap();
            let (_a, b) = pair(&other);
            b.ping(None, ip("10.0.0.1"), SOON).unwrap();
        });
        a.ping(None, ip("10.0.0.2"), SOON).unwrap();
    });
    // One after the other on one thread, and one within the other.
    for _ in 0..2 {
        let inner = Lab::new().unwrap();
        let (inner_a, _b) = pair(&inner);
        inner_a.ping(None, ip("10.0.0.2"), SOON).unwrap();
    }
    a.ping(None, ip("10.0.0.2"), SOON).unwrap();
}

#[test]
fn programs_and_closures_run_inside() {
    let lab = Lab::new().unwrap();
    let node = lab.node("host").unwrap();
    let inside = node.run(|| fs::read_link("/proc/thread-self/ns/net").unwrap());
    assert_ne!(inside, fs::read_link("/proc/thread-self/ns/net").unwrap());
    assert_eq!(node.spawn(|| fs::read_link("/proc/thread-self/ns/net").unwrap()).join().unwrap(), inside);
    let output = node.output(Command::new("readlink").arg("/proc/self/ns/net")).unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim_end(), inside.to_str().unwrap());
    let output = node.output(Command::new("ls").arg("/run/netns")).unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "host\n");

    let mut process = node.start(Command::new("sleep").arg("1000")).unwrap();
    let id = process.id();
    assert_eq!(process.wait_for(BRIEFLY).unwrap_err().kind(), io::ErrorKind::TimedOut);
    process.signal(15).unwrap();
    assert_eq!(process.wait_for(SOON).unwrap().code(), None);
    drop(process);
    assert!(!Path::new(&format!("/proc/{id}")).exists());
}

#[test]
#[should_panic(expected = "inside")]
fn a_panic_inside_goes_on_outside() {
    Lab::new().unwrap().node("host").unwrap().run(|| panic!("inside"));
}

#[test]
fn a_private_lab_leaves_nothing() {
    let here = fs::read_link("/proc/thread-self/ns/mnt").unwrap();
    let directory = env::current_dir().unwrap();
    let lab = Lab::new().unwrap();
    let node = lab.node("only-in-this-test").unwrap();
    assert!(node.path().exists());
    assert_ne!(fs::read_link("/proc/thread-self/ns/mnt").unwrap(), here);
    drop(lab);
    assert_eq!(fs::read_link("/proc/thread-self/ns/mnt").unwrap(), here);
    assert_eq!(env::current_dir().unwrap(), directory);
    assert!(!Path::new("/run/netns/only-in-this-test").exists());
}

#[test]
fn a_named_lab_is_seen_kept_and_removed() {
    let prefix = format!("lab-test-{}", std::process::id());
    let host = format!("{prefix}-host");
    let path = Path::new("/run/netns").join(&host);

    let lab = Lab::named(&prefix).unwrap();
    assert_eq!(lab.node("host").unwrap().netns(), host);
    assert!(path.exists());
    drop(lab);
    assert!(!path.exists(), "removed on drop");

    let lab = Lab::named(&prefix).unwrap();
    lab.node("host").unwrap();
    lab.keep();
    drop(lab);
    assert!(path.exists(), "kept");
    let lab = Lab::named(&prefix).unwrap();
    let taken = lab.node("host").unwrap_err().to_string();
    assert!(taken.contains(&host), "{taken}");
    assert_eq!(Lab::remove_named(&prefix).unwrap(), [host.as_str()]);
    assert!(!path.exists(), "removed by name");
    assert_eq!(Lab::remove_named(&prefix).unwrap(), [""; 0]);

    let panicked = thread::spawn(move || {
        let lab = Lab::named(&prefix).unwrap();
        lab.node("host").unwrap();
        panic!("with a named lab");
    });
    panicked.join().unwrap_err();
    assert!(!path.exists(), "removed on panic");
}

#[test]
fn an_offload_goes_off_and_on_and_what_the_kernel_refuses_is_an_error() {
    let lab = Lab::new().unwrap();
    let (a, _b) = pair(&lab);
    a.set_offload("eth0", Offload::TxChecksum, false).unwrap();
    // Segmentation needs checksums.
    a.set_offload("eth0", Offload::TcpSegmentation, true).unwrap_err();
    a.set_offload("eth0", Offload::TxChecksum, true).unwrap();
    a.set_offload("eth0", Offload::TcpSegmentation, true).unwrap();
    for offload in [Offload::GenericSegmentation, Offload::GenericReceive] {
        a.set_offload("eth0", offload, false).unwrap();
        a.set_offload("eth0", offload, true).unwrap();
    }
    a.set_offload("eth1", Offload::TxChecksum, false).unwrap_err();
    // The loopback device's checksums are not to be switched.
    assert!(!a.has_offload("lo", Offload::TxChecksum).unwrap());
    a.set_offload("lo", Offload::TxChecksum, false).unwrap_err();
}
