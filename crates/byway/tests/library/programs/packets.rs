//! The departure program on crafted packets, one by one (`BPF_PROG_TEST_RUN`, bpf(2)).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aya::programs::ProgramError;
use byway::Count;
use byway_lab::seed::{IPV4, IPV6, Seed};

use crate::support::{
    any_hook,
    departure::{Departure, REDIRECT, UNSPEC},
    on,
    packet::{ICMPV6, UDP, ethernet, ipv4, ipv6, udp},
    rules, via,
};

/// The program with a rule for the service address of each family, and for the link-local sources that no rule
/// is for in particular.
struct Bench {
    seed: Seed,
    program: Departure,
}

impl Bench {
    fn new() -> Self {
        let seed = Seed::new().unwrap();
        let specs = [
            via(&IPV4.service.to_string(), IPV4.router, "eth1"),
            via("0.0.0.0/0", IPV4.router, "eth1"),
            via(&IPV6.service.to_string(), IPV6.router, "eth1"),
            via("::/0", IPV6.router, "eth1"),
        ];
        on(&seed.server, any_hook(), |byway| byway.add_all(&specs)).unwrap();
        let program = Departure::on(&seed.server, "eth0");
        Self { seed, program }
    }

    /// What has departed by all rules.
    fn departed(&self) -> Count {
        rules(&self.seed.server).into_iter().fold(Count::default(), |sum, status| Count {
            packets: sum.packets + status.departed.packets,
            bytes: sum.bytes + status.departed.bytes,
        })
    }

    /// The program's verdict, and how the departures have grown.
    fn run(&self, frame: &[u8]) -> (u32, Count) {
        self.try_run(frame).unwrap_or_else(|error| panic!("{} bytes: {error}", frame.len()))
    }

    fn try_run(&self, frame: &[u8]) -> Result<(u32, Count), ProgramError> {
        let before = self.departed();
        let ran = self.program.try_run(frame, 1)?;
        assert_eq!(ran.frame, frame, "the packet itself is never changed");
        let after = self.departed();
        let grown = Count { packets: after.packets - before.packets, bytes: after.bytes - before.bytes };
        Ok((ran.verdict, grown))
    }

    fn is_redirected(&self, frame: &[u8], why: &str) {
        let once = Count { packets: 1, bytes: frame.len() as u64 };
        assert_eq!(self.run(frame), (REDIRECT, once), "{why} should be redirected");
        // The run alone lets nothing arrive, which would make the next hop a dead one.
        assert_eq!(self.program.run_thrice(frame).verdict, UNSPEC, "{why} should arrive");
    }

    fn is_left_alone(&self, frame: &[u8], why: &str) {
        assert_eq!(self.run(frame), (UNSPEC, Count::default()), "{why} should be left alone");
    }
}

fn v4(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

/// A UDP frame between two addresses as they are written.
fn between(source: &str, destination: &str) -> Vec<u8> {
    udp(source.parse().unwrap(), destination.parse().unwrap())
}

const FAR4: &str = "203.0.113.9";
const FAR6: &str = "2001:db8:99::9";

#[test]
fn truncated_packets_are_left_alone_at_every_length() {
    let bench = Bench::new();
    for (addresses, far, headers) in [(IPV4, FAR4, 14 + 20), (IPV6, FAR6, 14 + 40)] {
        let frame = udp(addresses.service, far.parse::<IpAddr>().unwrap());
        let gateway_hears = bench.seed.gateway.capture("eth0").unwrap();
        for length in 14..headers {
            let frame = &frame[..length];
            // Newer kernels refuse to run a program on a packet without its whole IP header (EINVAL)...
            if let Ok(ran) = bench.try_run(frame) {
                assert_eq!(ran, (UNSPEC, Count::default()), "{length} bytes should be left alone");
            }
            // ...but all send one through the hook.
            let before = bench.departed();
            bench.seed.server.send_frame("eth0", frame).unwrap();
            let is_it = |heard: &byway_lab::Frame| heard.bytes == frame;
            assert!(
                gateway_hears.wait_for(crate::support::ANSWER, is_it).is_some(),
                "{length} bytes should pass"
            );
            assert_eq!(bench.departed(), before, "{length} bytes should be left alone");
        }
        for length in headers..=frame.len() {
            bench.is_redirected(
                &frame[..length],
                &format!("{length} bytes of {} to {far}", addresses.service),
            );
        }
    }
    // Options that reach behind the end of the frame.
    let mut frame = between("192.168.1.5", FAR4);
    frame[14] = 0x4F;
    frame.resize(14 + 60, 0);
    bench.is_left_alone(&frame[..14 + 59], "an IPv4 header one byte short of its options");
    bench.is_redirected(&frame, "an IPv4 header with all its options");
}

#[test]
fn headers_that_make_no_sense_are_left_alone() {
    let bench = Bench::new();
    let mut frame = between("192.168.1.5", FAR4);
    for first in [0x00, 0x35, 0x44, 0x40, 0x65, 0xF5] {
        frame[14] = first;
        bench.is_left_alone(&frame, &format!("version and length {first:#x}"));
    }
    let mut frame = between("2001:db8:1::5", FAR6);
    for first in [0x00, 0x45, 0x50, 0x70] {
        frame[14] = first;
        bench.is_left_alone(&frame, &format!("version {first:#x}"));
    }
    for (ether_type, name) in [(0x0806, "ARP"), (0x8847, "MPLS"), (0x88CC, "LLDP"), (0x0000, "nothing")] {
        let body = ipv4(v4("192.168.1.5"), v4(FAR4), UDP, &[0; 16]);
        bench.is_left_alone(&ethernet(ether_type, &body), name);
    }
}

#[test]
fn what_is_never_redirected_is_left_alone() {
    let bench = Bench::new();
    for (source, destination, why) in [
        ("192.168.1.5", "224.0.0.1", "multicast"),
        ("192.168.1.5", "239.255.255.250", "multicast"),
        ("192.168.1.5", "255.255.255.255", "broadcast"),
        ("192.168.1.5", "169.254.0.1", "a link-local destination"),
        ("192.168.1.5", "169.254.255.255", "a link-local destination"),
        ("169.254.1.1", FAR4, "a link-local source"),
        ("2001:db8:1::5", "ff02::1", "multicast"),
        ("2001:db8:1::5", "ff0e::1", "multicast"),
        ("2001:db8:1::5", "fe80::1", "a link-local destination"),
        ("2001:db8:1::5", "febf:ffff::1", "a link-local destination"),
        ("fe80::5", FAR6, "a link-local source"),
    ] {
        bench.is_left_alone(&between(source, destination), &format!("{why}, {source} to {destination},"));
    }
    // Just outside of each.
    for (source, destination) in [
        ("192.168.1.5", "223.255.255.255"),
        ("192.168.1.5", "240.0.0.1"),
        ("192.168.1.5", "255.255.255.254"),
        ("192.168.1.5", "169.253.255.255"),
        ("192.168.1.5", "169.255.0.0"),
        ("169.255.0.0", FAR4),
        ("2001:db8:1::5", "fe7f:ffff::1"),
        ("2001:db8:1::5", "fec0::1"),
        ("fec0::5", FAR6),
        ("2001:db8:1::5", "fd00::1"),
    ] {
        bench.is_redirected(&between(source, destination), &format!("{source} to {destination}"));
    }
    // A subnet's broadcast address looks like any other; the frame's address tells.
    for mac in [[0xFF; 6], [0x01, 0, 0x5E, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1]] {
        for mut frame in [between("192.168.1.5", FAR4), between("2001:db8:1::5", FAR6)] {
            frame[..6].copy_from_slice(&mac);
            bench.is_left_alone(&frame, "a frame to many");
        }
    }
}

#[test]
fn neighbour_discovery_is_left_alone() {
    let bench = Bench::new();
    let message = |kind: u8| {
        ethernet(0x86DD, &ipv6(v6("2001:db8:1::5"), v6(FAR6), ICMPV6, &[kind, 0, 0, 0, 0, 0, 0, 0]))
    };
    for kind in 0..=u8::MAX {
        if (133..=137).contains(&kind) {
            bench.is_left_alone(&message(kind), &format!("ICMPv6 type {kind}"));
        } else {
            bench.is_redirected(&message(kind), &format!("ICMPv6 type {kind}"));
        }
    }
    bench.is_left_alone(&message(128)[..14 + 40], "ICMPv6 without a type");
    bench.is_redirected(&message(128)[..14 + 41], "ICMPv6 with a type and no more");
}

#[test]
fn tagged_frames_are_left_alone() {
    let bench = Bench::new();
    for (tag, name) in [(0x8100_u16, "802.1Q"), (0x88A8, "802.1ad")] {
        for frame in [between("192.168.1.5", FAR4), between("2001:db8:1::5", FAR6)] {
            let mut tagged = frame[..12].to_vec();
            tagged.extend(tag.to_be_bytes());
            tagged.extend([0, 10]);
            tagged.extend(&frame[12..]);
            bench.is_left_alone(&tagged, name);
            for length in 14..18 {
                bench.is_left_alone(&tagged[..length], name);
            }
        }
    }
}

#[test]
fn fragments_go_with_their_packet() {
    let bench = Bench::new();
    // First, middle and last fragment (RFC 791): more-fragments bit and offset.
    for fragment in [0x2000_u16, 0x2001, 0x00B9, 0x1FFF] {
        let mut frame = between("192.168.1.5", FAR4);
        frame[20..22].copy_from_slice(&fragment.to_be_bytes());
        bench.is_redirected(&frame, &format!("an IPv4 fragment {fragment:#x}"));
    }
    // The fragment header (44), and other extension headers (RFC 8200): hop by hop, routing, destination options.
    for next_header in [44, 0, 43, 60] {
        let frame =
            ethernet(0x86DD, &ipv6(v6("2001:db8:1::5"), v6(FAR6), next_header, &[17, 0, 0, 1, 0, 0, 0, 9]));
        bench.is_redirected(&frame, &format!("IPv6 with extension header {next_header}"));
    }
}
