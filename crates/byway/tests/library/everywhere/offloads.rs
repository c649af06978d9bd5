//! Checksums and segmentation that are put off, or not, at the attachment and at the next hop's device: whoever has to
//! do the work in the end, what arrives is whole.
//!
//! Between veths the work is never done: a packet goes from host to host with its checksum still to be filled in, and
//! the receiver takes it as good. A wrong checksum would not be noticed. So the router's own device to the client does
//! no offload at all here. There the kernel cuts up whatever is not cut up yet and fills in what is not filled in, at
//! the place that the packet names, and what was filled in before stays as it is. The client then gets packets as from
//! a real wire. It computes each checksum itself, drops what is wrong and counts it (`InCsumErrors`). Had the way
//! through Byway lost or moved the place of the checksum, or left one half done, the transfer would not come to an end,
//! and the counter would not be zero.

use std::{
    fs,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use byway::Hook;
use byway_lab::{
    Direction, Frame, Node, Offload, Service,
    seed::{Addresses, IPV4, IPV6, Seed},
    wait_until,
};
use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};

use Offload::{GenericReceive, GenericSegmentation, TcpSegmentation, TxChecksum, UdpSegmentation};

use crate::support::{
    ANSWER,
    backend::with_backend,
    hooks, hooks_and_addresses, on,
    packet::{self, transport_checksum_is_right},
    the_rule, via,
};

const BYTES: u64 = 20_000_000;
/// Enough for segmentation, and little enough to look at each frame.
const LOOKED_AT: u64 = 500_000;

/// What is off at the attachment, and at the next hop's device.
type Off = (&'static [Offload], &'static [Offload]);

const TCP_CASES: [Off; 9] = [
    (&[], &[]),
    (&[TxChecksum], &[]),
    (&[], &[TxChecksum]),
    (&[TxChecksum], &[TxChecksum]),
    (&[TcpSegmentation], &[]),
    (&[], &[TcpSegmentation]),
    (&[GenericSegmentation], &[]),
    (&[], &[GenericSegmentation]),
    (
        &[GenericSegmentation, TcpSegmentation, TxChecksum],
        &[GenericSegmentation, TcpSegmentation, TxChecksum],
    ),
];

/// Without checksums at the device of the route, UDP does not take segments to send (`EIO`) before Linux 6.11.
const UDP_CASES: [Off; 6] = [
    (&[], &[]),
    (&[UdpSegmentation], &[]),
    (&[], &[UdpSegmentation]),
    (&[UdpSegmentation], &[UdpSegmentation]),
    (&[], &[TxChecksum]),
    (&[GenericSegmentation, UdpSegmentation], &[GenericSegmentation, UdpSegmentation, TxChecksum]),
];

/// The two devices of the server, with everything on but what is said.
fn switch(server: &Node, (attachment, next_hop): Off) {
    for (device, off) in [("eth0", attachment), ("eth1", next_hop)] {
        // Checksums come first, for segmentation needs them.
        for offload in [TxChecksum, TcpSegmentation, UdpSegmentation, GenericSegmentation] {
            switch_one(server, device, offload, true);
        }
        for offload in off {
            switch_one(server, device, *offload, false);
        }
    }
}

/// An offload that no device of this kernel has is off.
fn switch_one(node: &Node, device: &str, offload: Offload, on: bool) {
    if node.has_offload(device, offload).unwrap() {
        node.set_offload(device, offload, on).unwrap();
    }
}

/// Makes the client get packets as from a wire, and proves that it checks them: one whose checksum is wrong is counted.
fn check_at_the_client(seed: &Seed, addresses: Addresses) {
    for offload in [GenericSegmentation, UdpSegmentation, TcpSegmentation, TxChecksum] {
        switch_one(&seed.router, "eth1", offload, false);
    }
    let before = checksum_errors(&seed.client);
    let mut segment = [0; 20];
    segment[12] = 5 << 4; // the header's length, in words
    segment[16..18].copy_from_slice(&[0xBA, 0xD0]);
    let mut frame = match (addresses.router, addresses.client) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            packet::ethernet(0x0800, &packet::ipv4(from, to, packet::TCP, &segment))
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            packet::ethernet(0x86DD, &packet::ipv6(from, to, packet::TCP, &segment))
        }
        _ => unreachable!("a seed's addresses are of one family"),
    };
    frame[..6].copy_from_slice(&seed.client.mac("eth0").unwrap());
    seed.router.send_frame("eth1", &frame).unwrap();
    assert!(wait_until(ANSWER, || checksum_errors(&seed.client) == before + 1), "nobody checks");
}

/// Segments and datagrams whose checksum was wrong, of both families.
fn checksum_errors(node: &Node) -> u64 {
    let files = node.run(|| {
        // Without the thread's name it would be the namespace of the process.
        ["snmp", "snmp6"].map(|file| fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap())
    });
    // Names are in one line, and values in the next one.
    let column = |protocol: &str| {
        let mut lines = files[0].lines().filter(|line| line.starts_with(protocol));
        let place = lines.next()?.split_whitespace().position(|name| name == "InCsumErrors")?;
        lines.next()?.split_whitespace().nth(place)?.parse::<u64>().ok()
    };
    let udp6 = files[1].lines().find_map(|line| line.strip_prefix("Udp6InCsumErrors"));
    column("Tcp:").unwrap() + column("Udp:").unwrap() + udp6.unwrap().trim().parse::<u64>().unwrap()
}

/// Nobody has lost a packet between the two hooks.
fn all_arrived(server: &Node) -> bool {
    wait_until(ANSWER, || {
        let rule = the_rule(server);
        rule.departed.packets == rule.arrived.packets
    })
}

/// A large transfer from a service by each case's way: at first a small one, of which each frame is looked at.
fn transfers(hook: Hook, seed: &Seed, addresses: Addresses, source: &str, service: &Service) {
    on(&seed.server, hook, |byway| byway.add(&via(source, addresses.router, "eth1"))).unwrap();
    check_at_the_client(seed, addresses);
    let errors = checksum_errors(&seed.client);
    for off in TCP_CASES {
        switch(&seed.server, off);
        let capture = seed.client.capture("eth0").unwrap();
        let download = |bytes| seed.client.tcp_bulk(service.address(), bytes, Duration::from_secs(60));
        let bulk = download(LOOKED_AT).and_then(|_| {
            let came = |frame: &Frame| {
                frame.direction == Direction::Incoming && frame.source() == Some(service.address().ip())
            };
            let full = |frame: &Frame| came(frame) && frame.bytes.len() > 1_400;
            assert!(wait_until(ANSWER, || capture.count(full) as u64 >= LOOKED_AT / 1_500), "{off:?}");
            for frame in capture.frames().iter().filter(|frame| came(frame)) {
                assert!(frame.bytes.len() <= 1_514, "{off:?}: {} bytes in one frame", frame.bytes.len());
                assert!(transport_checksum_is_right(frame), "{hook}, {source}, {off:?}: {frame:?}");
            }
            drop(capture);
            download(BYTES)
        });
        assert_eq!(checksum_errors(&seed.client), errors, "{hook}, {source}, {off:?}: wrong checksums");
        assert_eq!(bulk.unwrap().bytes, BYTES, "{hook}, {source}, {off:?}");
        assert!(all_arrived(&seed.server), "{hook}, {source}, {off:?}: {:?}", the_rule(&seed.server));
    }
    let sent = LOOKED_AT + BYTES;
    assert!(the_rule(&seed.server).departed.packets >= TCP_CASES.len() as u64 * sent / 1_500);
}

#[test]
fn what_the_host_sends_arrives_whole_whoever_does_checksums_and_segments() {
    for (hook, addresses) in hooks_and_addresses() {
        let seed = Seed::new().unwrap();
        let service = seed.server.tcp_bulk_serve(SocketAddr::new(addresses.service, 30100)).unwrap();
        transfers(hook, &seed, addresses, &addresses.service.to_string(), &service);
    }
}

/// What comes in for others may be put together again (`gro`), and is then cut up once more behind Byway.
#[test]
fn what_the_host_forwards_arrives_whole_whoever_does_checksums_and_segments() {
    for hook in hooks() {
        for (addresses, backend_address, network) in
            [(IPV4, "10.50.0.2", "10.50.0.0/24"), (IPV6, "2001:db8:50::2", "2001:db8:50::/64")]
        {
            // As the backend's device hands it over: whole and unchecked, or in segments with checksums.
            for put_off in [true, false] {
                let (seed, backend) = with_backend();
                seed.router.route(&format!("{network} via {}", addresses.server)).unwrap();
                backend.set_offload("eth0", TxChecksum, put_off).unwrap();
                seed.server.set_offload("eth2", GenericReceive, !put_off).unwrap();
                let address = SocketAddr::new(backend_address.parse().unwrap(), 30100);
                let service = backend.tcp_bulk_serve(address).unwrap();
                transfers(*hook, &seed, addresses, network, &service);
            }
        }
    }
}

/// `UDP_SEGMENT` (udp(7)): one call, many datagrams.
#[test]
fn datagrams_of_one_call_arrive_whole_whoever_does_checksums_and_segments() {
    const DATAGRAMS: usize = 40;
    const LENGTH: usize = 1_000;
    let payload: Vec<u8> = (0..DATAGRAMS * LENGTH).map(|at| (at / LENGTH + at % 251) as u8).collect();
    for (hook, addresses) in hooks_and_addresses() {
        let seed = Seed::new().unwrap();
        let rule = via(&addresses.service.to_string(), addresses.router, "eth1");
        on(&seed.server, hook, |byway| byway.add(&rule)).unwrap();
        check_at_the_client(&seed, addresses);
        let errors = checksum_errors(&seed.client);
        let client = seed.client.run(|| UdpSocket::bind((addresses.client, 0))).unwrap();
        client.set_read_timeout(Some(ANSWER)).unwrap();
        let server = seed.server.run(|| UdpSocket::bind((addresses.service, 0))).unwrap();
        setsockopt(&server, UdpGsoSegment, &(LENGTH as i32)).unwrap();
        for (nth, off) in UDP_CASES.into_iter().enumerate() {
            switch(&seed.server, off);
            let sent = server.send_to(&payload, client.local_addr().unwrap()).unwrap();
            assert_eq!(sent, payload.len());
            for datagram in payload.chunks(LENGTH) {
                let mut buffer = [0; 2 * LENGTH];
                let length = client.recv(&mut buffer).unwrap_or_else(|error| {
                    let errors = checksum_errors(&seed.client) - errors;
                    panic!("{hook}, {off:?}: {error}, {errors} wrong checksums")
                });
                assert_eq!(&buffer[..length], datagram, "{hook}, {off:?}");
            }
            assert!(all_arrived(&seed.server), "{hook}, {off:?}: {:?}", the_rule(&seed.server));
            // Datagrams are counted, not the packets that carry many.
            assert_eq!(the_rule(&seed.server).departed.packets as usize, (nth + 1) * DATAGRAMS, "{off:?}");
        }
        assert_eq!(checksum_errors(&seed.client), errors);
    }
}
