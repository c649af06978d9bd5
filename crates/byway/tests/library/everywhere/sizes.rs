//! Real traffic by a way that takes smaller packets than the attachment: TCP asks for smaller segments, senders learn the size
//! from the answers, and nothing vanishes.
//!
//! ```text
//!   gateway ── 1500 ── server ── 1280 ── router ── 1500 ── client
//!                eth0         eth1
//! ```

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
};

use byway::{Attach, Count, Hook, Mss, RuleStatus};
use byway_lab::{
    Capture, Direction, Frame, Node, Offload, Protocol,
    seed::{Addresses, IPV4, IPV6, Seed},
    wait_until,
};

use Offload::{GenericSegmentation, TcpSegmentation, TxChecksum, UdpSegmentation};

use crate::support::{
    ANSWER,
    backend::with_backend,
    hooks, hooks_and_addresses,
    narrow::{NARROW, mtu_is_asked_for_each_packet, narrowed, told_mtu, with_mss},
    on,
    packet::{UDP, ethernet, ipv4, ipv6, mss},
    sockets::{Discovery, TRANSFER, bound, connect, known_mtu, path_mtu, set_discovery, transfer},
    the_rule, via,
};

/// The server with its service address, or a host behind it that is reached by its own address.
struct Sender {
    seed: Seed,
    backend: Option<Node>,
    address: IpAddr,
    client: IpAddr,
    v6: bool,
    hook: Hook,
}

impl Sender {
    fn new(hook: Hook, addresses: Addresses, behind: bool) -> Self {
        let v6 = addresses.service.is_ipv6();
        let (seed, backend) = if behind {
            let (seed, backend) = with_backend();
            (seed, Some(backend))
        } else {
            (Seed::new().unwrap(), None)
        };
        let address = match (&backend, v6) {
            (None, _) => addresses.service,
            (Some(_), false) => [10, 50, 0, 2].into(),
            (Some(_), true) => [0x2001, 0xDB8, 0x50, 0, 0, 0, 0, 2].into(),
        };
        if backend.is_some() {
            let length = if v6 { 128 } else { 32 };
            seed.router.route(&format!("{address}/{length} via {}", addresses.server)).unwrap();
        }
        narrowed(&seed, NARROW);
        Self { seed, backend, address, client: addresses.client, v6, hook }
    }

    /// One after the other: each is gone before the next one comes.
    fn all() -> impl Iterator<Item = Self> {
        let cases = hooks().iter().flat_map(|hook| [(*hook, IPV4), (*hook, IPV6)]);
        let cases = cases.flat_map(|(hook, addresses)| [(hook, addresses, false), (hook, addresses, true)]);
        cases.map(|(hook, addresses, behind)| Self::new(hook, addresses, behind))
    }

    fn node(&self) -> &Node {
        self.backend.as_ref().unwrap_or(&self.seed.server)
    }

    fn redirect(&self, mss: Mss) {
        let router = if self.v6 { IPV6.router } else { IPV4.router };
        let rule = with_mss(via(&self.address.to_string(), router, "eth1"), mss);
        on(&self.seed.server, self.hook, |byway| byway.add(&rule)).unwrap();
    }

    fn status(&self) -> RuleStatus {
        the_rule(&self.seed.server)
    }

    /// How this is called when something fails.
    fn name(&self) -> String {
        let of = if self.backend.is_some() { "a host behind the server" } else { "the server" };
        format!("{}, {of}, {}: {:?}", self.hook, self.address, self.status())
    }

    /// The headers of IP and UDP.
    fn headers(&self) -> usize {
        if self.v6 { 48 } else { 28 }
    }

    /// A socket of the sender's and one of the client's.
    fn udp(&self, discovery: Discovery) -> (UdpSocket, UdpSocket) {
        let sender = bound(self.node(), self.address);
        set_discovery(&sender, self.v6, discovery);
        let client = bound(&self.seed.client, self.client);
        client.set_read_timeout(Some(ANSWER)).unwrap();
        (sender, client)
    }

    /// The MTU of the path to the client, as the sender's host knows it.
    fn known_mtu(&self) -> u32 {
        known_mtu(self.node(), self.address, self.client)
    }

    fn learns(&self, mtu: u32) {
        assert!(wait_until(ANSWER, || self.known_mtu() == mtu), "{} knows {}", self.name(), self.known_mtu());
    }

    /// A connection, which the client or the sender has asked for: the sender's end and the client's.
    fn connection(&self, by_the_client: bool) -> (TcpStream, TcpStream) {
        let [(from, address), (to, to_address)] = if by_the_client {
            [(&self.seed.client, self.client), (self.node(), self.address)]
        } else {
            [(self.node(), self.address), (&self.seed.client, self.client)]
        };
        let listener = to.run(|| TcpListener::bind((to_address, 0))).unwrap();
        let asking = connect(from, address, listener.local_addr().unwrap());
        let (asked, _) = listener.accept().unwrap();
        let ends = if by_the_client { (asked, asking) } else { (asking, asked) };
        for end in [&ends.0, &ends.1] {
            end.set_read_timeout(Some(TRANSFER)).unwrap();
            end.set_write_timeout(Some(TRANSFER)).unwrap();
        }
        ends
    }

    /// All that left by the attachment from the sender has arrived, or was answered, or refused. Nothing else leaves there
    /// that a rule speaks about.
    fn nothing_vanishes(&self) {
        let balanced = || {
            let status = self.status();
            status.departed.packets == status.arrived.packets
        };
        assert!(wait_until(ANSWER, balanced), "{}", self.name());
        // A last acknowledgement may be on its way between one look and the other.
        let is_even = || {
            let (seen, spoken_about) = self.seen_and_spoken_about();
            seen == spoken_about
        };
        assert!(wait_until(ANSWER, is_even), "{:?} {}", self.seen_and_spoken_about(), self.name());
        let status = self.status();
        assert_eq!(
            (status.passed, status.dropped, status.no_next_hop),
            Default::default(),
            "{}",
            self.name()
        );
    }

    /// What left by the attachment and was not left alone, and what of it the rule's counters know.
    fn seen_and_spoken_about(&self) -> (u64, u64) {
        let attachments = on(&self.seed.server, self.hook, |byway| byway.attachments()).unwrap();
        let seen = attachments.iter().find_map(|attachment| attachment.counters).unwrap();
        let left_alone = [
            seen.not_ip,
            seen.malformed,
            seen.tagged,
            seen.multicast,
            seen.broadcast,
            seen.link_local,
            seen.neighbour_discovery,
            seen.not_matched,
        ];
        let left_alone: u64 = left_alone.iter().map(|count| count.packets).sum();
        let status = self.status();
        let spoken_about =
            status.departed.packets + status.icmp_sent.packets + status.too_big_dropped.packets;
        (seen.seen.packets - left_alone, spoken_about)
    }
}

fn count_told(capture: &Capture, to: IpAddr) -> usize {
    capture.count(|frame| {
        frame.direction == Direction::Incoming && frame.destination() == Some(to) && told_mtu(frame).is_some()
    })
}

/// Turned off in one go; what a kernel's devices do not have is off.
fn switch_off(node: &Node, device: &str, offloads: &[Offload]) {
    for offload in offloads {
        if node.has_offload(device, *offload).unwrap() {
            node.set_offload(device, *offload, false).unwrap();
        }
    }
}

/// The clamped option makes the client send what fits from the start. The sender itself learns from the first answer.
#[test]
fn tcp_connections_made_under_the_rule() {
    for by_the_client in [true, false] {
        for sender in Sender::all() {
            sender.redirect(Mss::Auto);
            let at_client = sender.seed.client.capture("eth0").unwrap();
            let (ours, theirs) = sender.connection(by_the_client);
            let asks = |frame: &Frame| frame.direction == Direction::Incoming && mss(frame).is_some();
            let asked = at_client.wait_for(ANSWER, asks).unwrap();
            let fits = NARROW as u16 - if sender.v6 { 60 } else { 40 };
            assert_eq!(mss(&asked), Some(fits), "{}", sender.name());
            transfer(&theirs, &ours, &sender.name());
            // No router has had to tell the client.
            assert_eq!(count_told(&at_client, sender.client), 0, "{}", sender.name());
            drop(at_client);
            transfer(&ours, &theirs, &sender.name());
            sender.learns(NARROW);
            sender.nothing_vanishes();
            assert_eq!(sender.status().clamped.packets, 1, "{}", sender.name());
            assert!(sender.status().icmp_sent.packets > 0, "{}", sender.name());
        }
    }
}

/// Without the clamped option the client learns it the hard way, from the router on the way.
#[test]
fn tcp_connections_of_a_rule_that_leaves_the_mss_alone() {
    for sender in Sender::all() {
        sender.redirect(Mss::Off);
        let at_client = sender.seed.client.capture("eth0").unwrap();
        let (ours, theirs) = sender.connection(true);
        transfer(&theirs, &ours, &sender.name());
        assert!(wait_until(ANSWER, || count_told(&at_client, sender.client) > 0), "{}", sender.name());
        drop(at_client);
        transfer(&ours, &theirs, &sender.name());
        sender.nothing_vanishes();
        assert_eq!(sender.status().clamped, Count::default(), "{}", sender.name());
    }
}

/// A connection as old as that knows of larger packets on both sides. It gets over it.
#[test]
fn tcp_connections_made_before_the_rule() {
    for sender in Sender::all() {
        // By a route of its own, which is wide.
        narrowed(&sender.seed, 1_500);
        let router = if sender.v6 { IPV6.router } else { IPV4.router };
        let length = if sender.v6 { 128 } else { 32 };
        let route = format!("{}/{length} via {router}", sender.client);
        sender.seed.server.route(&route).unwrap();
        let (ours, theirs) = sender.connection(true);
        transfer(&theirs, &ours, "before the rule");
        transfer(&ours, &theirs, "before the rule");

        sender.redirect(Mss::Auto);
        sender.seed.server.delete_route(&route).unwrap();
        narrowed(&sender.seed, NARROW);
        if !mtu_is_asked_for_each_packet() {
            on(&sender.seed.server, sender.hook, |byway| byway.attach(&Attach::Auto)).unwrap();
        }
        transfer(&ours, &theirs, &sender.name());
        transfer(&theirs, &ours, &sender.name());
        sender.learns(NARROW);
        sender.nothing_vanishes();
        let status = sender.status();
        assert!(status.icmp_sent.packets > 0 && status.departed.packets > 0, "{}", sender.name());
        assert_eq!(status.clamped, Count::default(), "{}", sender.name());
    }
}

/// Whoever cuts up and fills in, what arrives is whole, and the answers are right.
#[test]
fn tcp_without_offloads() {
    const CASES: [(&[Offload], &[Offload]); 4] = [
        (&[TcpSegmentation, GenericSegmentation], &[]),
        (&[TxChecksum, TcpSegmentation, GenericSegmentation], &[]),
        (&[], &[TxChecksum, TcpSegmentation, GenericSegmentation]),
        (&[TxChecksum], &[TxChecksum]),
    ];
    for (attachment, next_hop) in CASES {
        for sender in Sender::all() {
            switch_off(&sender.seed.server, "eth0", attachment);
            switch_off(&sender.seed.server, "eth1", next_hop);
            if let Some(backend) = &sender.backend {
                switch_off(backend, "eth0", attachment);
                // What the answer leaves by: a checksum that the sender left unfilled is filled in there.
                switch_off(&sender.seed.server, "eth2", next_hop);
            }
            sender.redirect(Mss::Auto);
            let (ours, theirs) = sender.connection(true);
            let why = format!("{attachment:?} {next_hop:?} {}", sender.name());
            transfer(&ours, &theirs, &why);
            transfer(&theirs, &ours, &why);
            assert_eq!(sender.known_mtu(), NARROW, "{why}");
            sender.nothing_vanishes();
        }
    }
}

/// The sender asks to be told (`IP_PMTUDISC_DO`).
#[test]
fn udp_that_is_never_fragmented() {
    for sender in Sender::all() {
        sender.redirect(Mss::Auto);
        let (ours, theirs) = sender.udp(Discovery::Do);
        ours.connect(theirs.local_addr().unwrap()).unwrap();
        let largest = NARROW as usize - sender.headers();
        assert_eq!(path_mtu(&ours, sender.v6), 1_500);
        assert_eq!(ours.send(&vec![1; largest + 1]).unwrap(), largest + 1, "nobody knows yet");
        sender.learns(NARROW);
        assert_eq!(path_mtu(&ours, sender.v6), NARROW);
        // The answer is an error of the socket's once.
        let error = ours.take_error().unwrap().and_then(|error| error.raw_os_error());
        assert_eq!(error, Some(libc::EMSGSIZE), "{}", sender.name());
        for length in [largest + 1, 1_500 - sender.headers()] {
            let error = ours.send(&vec![2; length]).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE), "{} {length}", sender.name());
        }
        for length in [largest, largest - 1, 1] {
            ours.send(&vec![3; length]).unwrap();
            assert_eq!(receive(&theirs).unwrap(), vec![3; length], "{}", sender.name());
        }
        sender.nothing_vanishes();
        let status = sender.status();
        let counted = (
            status.icmp_sent.packets,
            status.too_big_dropped.packets,
            status.departed.packets,
            status.arrived.packets,
        );
        assert_eq!(counted, (1, 0, 3, 3), "{}", sender.name());
    }
}

fn receive(socket: &UdpSocket) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; 65_535];
    let length = socket.recv(&mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

/// What the kernel does unless told otherwise, and IPv4 without discovery: after the first answer the sender fragments.
#[test]
fn udp_that_is_fragmented() {
    for discovery in [Discovery::Want, Discovery::Dont] {
        for sender in Sender::all() {
            sender.redirect(Mss::Auto);
            let (ours, theirs) = sender.udp(discovery);
            let to = theirs.local_addr().unwrap();
            let whole = 1_500 - sender.headers();
            ours.send_to(&vec![1; whole], to).unwrap();
            sender.learns(NARROW);
            let first = sender.status();
            assert_eq!(
                (first.icmp_sent.packets, first.too_big_dropped.packets, first.departed.packets),
                (1, 0, 0),
                "{discovery:?} {}",
                sender.name()
            );
            for (nth, length) in [whole, 1_300, 3_000, 8_000, 1_000].into_iter().enumerate() {
                ours.send_to(&vec![nth as u8; length], to).unwrap();
                let received = receive(&theirs)
                    .unwrap_or_else(|error| panic!("{discovery:?} {length} {}: {error}", sender.name()));
                assert_eq!(received, vec![nth as u8; length], "{discovery:?} {}", sender.name());
            }
            sender.nothing_vanishes();
            let status = sender.status();
            assert_eq!(
                (status.icmp_sent.packets, status.too_big_dropped.packets),
                (1, 0),
                "{}",
                sender.name()
            );
        }
    }
}

/// A datagram that was cut up to the wrong size: its first fragment is answered, and those behind it are refused, but for the
/// small one at its end. Where a fragment of its own is dropped the kernel sends no other.
#[test]
fn fragments_that_are_too_big() {
    for sender in Sender::all() {
        sender.redirect(Mss::Auto);
        // Fragments that wait for the neighbour of the normal route leave one by one, whatever becomes of the first.
        let gateway = sender.seed.gateway.mac("eth0").unwrap();
        for ip in [IPV4, IPV6] {
            sender.seed.server.permanent_neighbour("eth0", ip.gateway, gateway).unwrap();
        }
        let (ours, theirs) = sender.udp(Discovery::Want);
        let to = theirs.local_addr().unwrap();
        // Three that are full, and one that is not.
        ours.send_to(&[1; 4_700], to).unwrap_or_default();
        sender.learns(NARROW);
        let counted = || {
            let status = sender.status();
            (status.icmp_sent.packets, status.too_big_dropped.packets, status.departed.packets)
        };
        let expected = if sender.backend.is_some() { (1, 2, 1) } else { (1, 1, 0) };
        assert!(wait_until(ANSWER, || counted() == expected), "{}", sender.name());
        sender.nothing_vanishes();
        ours.send_to(&[2; 4_700], to).unwrap();
        assert_eq!(receive(&theirs).unwrap(), [2; 4_700], "{}", sender.name());
        sender.nothing_vanishes();
    }
}

/// `UDP_SEGMENT` (udp(7)): many datagrams in one packet are answered as many, and once.
#[test]
fn datagrams_of_one_call() {
    use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};
    for off in [&[][..], &[UdpSegmentation]] {
        for sender in Sender::all() {
            switch_off(&sender.seed.server, "eth0", off);
            sender.redirect(Mss::Auto);
            let (ours, theirs) = sender.udp(Discovery::Want);
            let to = theirs.local_addr().unwrap();
            setsockopt(&ours, UdpGsoSegment, &1_300).unwrap();
            ours.send_to(&[1; 13_000], to).unwrap();
            sender.learns(NARROW);
            sender.nothing_vanishes();
            let status = sender.status();
            assert_eq!(status.icmp_sent.packets, 10, "{off:?} {}", sender.name());
            assert_eq!(
                status.departed.packets + status.too_big_dropped.packets,
                0,
                "{off:?} {}",
                sender.name()
            );
            setsockopt(&ours, UdpGsoSegment, &1_200).unwrap();
            ours.send_to(&[2; 12_000], to).unwrap();
            for _ in 0..10 {
                assert_eq!(receive(&theirs).unwrap(), [2; 1_200], "{off:?} {}", sender.name());
            }
            sender.nothing_vanishes();
        }
    }
}

/// The answer comes in where the sender's default route leads, and so it passes the strictest check of its source.
#[test]
fn answers_pass_strict_reverse_path_filters() {
    for sender in Sender::all() {
        if sender.v6 {
            continue; // There is none in the kernel for IPv6.
        }
        sender.seed.server.sysctl("net.ipv4.conf.eth0.rp_filter", "1").unwrap();
        sender.redirect(Mss::Auto);
        let (ours, theirs) = sender.udp(Discovery::Want);
        ours.send_to(&[1; 1_400], theirs.local_addr().unwrap()).unwrap();
        sender.learns(NARROW);
        let (ours, theirs) = sender.connection(true);
        transfer(&ours, &theirs, &sender.name());
        sender.nothing_vanishes();
    }
}

/// A service address that is translated to the backend's: the answer is translated as well, and gets to the backend, which
/// the client does not know by that address.
#[test]
fn answers_find_their_way_back_through_nat() {
    for hook in hooks() {
        for (addresses, backend) in BEHIND_NAT {
            through_nat(*hook, addresses, backend, |_| {});
        }
    }
}

/// The same, where the checksum that the backend has left unfilled is filled in on the answer's way.
#[test]
fn answers_about_unfilled_checksums_find_their_way_back_through_nat() {
    for hook in hooks() {
        for (addresses, backend) in BEHIND_NAT {
            through_nat(*hook, addresses, backend, |server| switch_off(server, "eth2", &[TxChecksum]));
        }
    }
}

const BEHIND_NAT: [(Addresses, &str); 2] = [(IPV4, "10.50.0.2"), (IPV6, "2001:db8:50::2")];

fn through_nat(hook: Hook, addresses: Addresses, backend_address: &str, prepare: impl FnOnce(&Node)) {
    const SOME: usize = 20_000;
    let v6 = addresses.service.is_ipv6();
    let (seed, backend) = with_backend();
    narrowed(&seed, NARROW);
    let length = if v6 { 128 } else { 32 };
    seed.server.delete_address("lo", &format!("{}/{length}", addresses.service)).unwrap();
    let frontend = SocketAddr::new(addresses.service, 80);
    let target = SocketAddr::new(backend_address.parse().unwrap(), 8080);
    seed.server.dnat(Protocol::Tcp, frontend, target).unwrap();
    prepare(&seed.server);
    let rule = via(&addresses.service.to_string(), addresses.router, "eth1");
    on(&seed.server, hook, |byway| byway.add(&rule)).unwrap();
    let why = || format!("{hook} {}: {:?}", addresses.service, the_rule(&seed.server));

    let at_backend = backend.capture("eth0").unwrap();
    let listener = backend.run(|| TcpListener::bind(target)).unwrap();
    let theirs = connect(&seed.client, addresses.client, frontend);
    let (ours, _) = listener.accept().unwrap();
    for end in [&ours, &theirs] {
        end.set_read_timeout(Some(TRANSFER)).unwrap();
        end.set_write_timeout(Some(TRANSFER)).unwrap();
    }
    let told = |frame: &Frame| {
        frame.direction == Direction::Incoming
            && frame.destination() == Some(target.ip())
            && told_mtu(frame) == Some(NARROW)
    };
    (&ours).write_all(&[7; SOME]).unwrap();
    assert!(at_backend.wait_for(ANSWER, told).is_some(), "{}", why());
    drop(at_backend);
    let learned = wait_until(ANSWER, || known_mtu(&backend, target.ip(), addresses.client) == NARROW);
    assert!(learned, "the backend was told, and does not believe it; {}", why());
    let mut received = vec![0; SOME];
    (&theirs).read_exact(&mut received).unwrap_or_else(|error| panic!("{error}; {}", why()));
    assert!(received == [7; SOME], "{}", why());
    transfer(&ours, &theirs, &why());
    transfer(&theirs, &ours, &why());
    let balanced = || {
        let status = the_rule(&seed.server);
        status.departed.packets == status.arrived.packets
    };
    assert!(wait_until(ANSWER, balanced), "{}", why());
}

/// The answer as it comes in, with the MTU of the moment.
#[test]
fn the_mtu_changes_while_attached() {
    for (hook, addresses) in hooks_and_addresses() {
        let seed = Seed::new().unwrap();
        let rule = via(&addresses.service.to_string(), addresses.router, "eth1");
        on(&seed.server, hook, |byway| byway.add(&rule)).unwrap();
        let (comes_back, arrives) =
            (seed.server.capture("eth0").unwrap(), seed.router.capture("eth0").unwrap());
        let mut frame = match (addresses.service, addresses.client) {
            (IpAddr::V4(from), IpAddr::V4(to)) => ethernet(0x0800, &ipv4(from, to, UDP, &[0; 1_430])),
            (IpAddr::V6(from), IpAddr::V6(to)) => ethernet(0x86DD, &ipv6(from, to, UDP, &[0; 1_410])),
            _ => unreachable!("both are of one family"),
        };
        // As if the server had sent it to its gateway.
        frame[..6].copy_from_slice(&seed.gateway.mac("eth0").unwrap());
        frame[6..12].copy_from_slice(&seed.server.mac("eth0").unwrap());
        let arrived = || {
            arrives.count(|heard| heard.direction == Direction::Incoming && heard.payload() == &frame[14..])
        };
        let told = |mtu| {
            comes_back.count(|heard| {
                heard.direction == Direction::Incoming
                    && heard.source() == Some(addresses.client)
                    && heard.destination() == Some(addresses.service)
                    && told_mtu(heard) == Some(mtu)
            })
        };
        for (nth, mtu) in [1_500, 1_280, 1_400, 1_449, 1_450, 1_300].into_iter().enumerate() {
            seed.server.set_mtu("eth1", mtu).unwrap();
            if !mtu_is_asked_for_each_packet() {
                on(&seed.server, hook, |byway| byway.attach(&Attach::Auto)).unwrap();
            }
            let (before, before_told) = (arrived(), told(mtu));
            seed.server.send_frame("eth0", &frame).unwrap();
            if mtu >= 1_450 {
                assert!(wait_until(ANSWER, || arrived() == before + 1), "{hook} {mtu}");
                assert_eq!(told(mtu), before_told);
            } else {
                assert!(wait_until(ANSWER, || told(mtu) == before_told + 1), "{hook} {mtu}");
                assert_eq!(arrived(), before);
            }
            let status = the_rule(&seed.server);
            let all = status.departed.packets + status.icmp_sent.packets + status.too_big_dropped.packets;
            assert_eq!(all, nth as u64 + 1, "{hook} {mtu}: {status:?}");
        }
        assert_eq!(the_rule(&seed.server).icmp_sent.packets, 4);
    }
}

/// Datagrams faster than answers are allowed: who asks is told, and each is counted somewhere.
#[test]
fn a_flood_is_answered_as_often_as_is_allowed() {
    const DATAGRAMS: u64 = 5_000;
    for sender in Sender::all() {
        sender.redirect(Mss::Auto);
        // It does not listen to what it is told, and goes on.
        let (socket, _) = sender.udp(Discovery::Probe);
        let at_attachment = sender.seed.server.capture("eth0").unwrap();
        let to = SocketAddr::new(sender.client, 9);
        sender.node().run(|| {
            for _ in 0..DATAGRAMS {
                let _ = socket.send_to(&[0; 1_400], to);
            }
        });
        let counted = || {
            let status = sender.status();
            status.icmp_sent.packets + status.too_big_dropped.packets
        };
        assert!(wait_until(ANSWER, || counted() == DATAGRAMS), "{}", sender.name());
        let status = sender.status();
        assert!(status.icmp_sent.packets >= 50, "{}", sender.name());
        assert_eq!(status.departed.packets, 0, "{}", sender.name());
        let answers = || count_told(&at_attachment, sender.address) as u64;
        assert!(
            wait_until(ANSWER, || answers() == status.icmp_sent.packets),
            "{} of {}",
            answers(),
            sender.name()
        );
        sender.nothing_vanishes();
    }
}
