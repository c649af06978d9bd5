//! What is too big for its next hop comes back as the ICMP error that says so: crafted packets, one by one
//! (`BPF_PROG_TEST_RUN`, bpf(2)). All checksums are computed here anew.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Instant,
};

use byway::{Attach, Count, MemberSpec, NextHop, NextHopSpec, RuleSpec, TargetSpec};
use byway_lab::{
    seed::{IPV4, IPV6},
    wait_until,
};

use crate::support::random::Random;
use crate::support::{
    ANSWER, any_hook,
    departure::{REDIRECT, SHOT, UNSPEC},
    narrow::{Bench, Counted, counted, mtu_is_asked_for_each_packet, stay_on_cpu},
    on,
    packet::{
        DESTINATION_OPTIONS, ETHERNET, FRAGMENT, HOP_BY_HOP, ICMP, ICMPV6, ROUTING, SCTP, TCP, UDP, behind,
        checksum, ethernet, ipv4, ipv6, transport_checksum,
    },
    rules, via,
};

/// How much of a packet is quoted: IPv4, IPv4 where it is shorter than that, and IPv6.
const QUOTE: usize = 548;
const SHORT_QUOTE: usize = 68;
const QUOTE6: usize = 1_232;

fn v4(address: IpAddr) -> Ipv4Addr {
    let IpAddr::V4(address) = address else { panic!("{address} is not IPv4") };
    address
}

fn v6(address: IpAddr) -> Ipv6Addr {
    let IpAddr::V6(address) = address else { panic!("{address} is not IPv6") };
    address
}

/// Where the transport's checksum field is, in a transport's header.
fn field(protocol: u8) -> Option<usize> {
    match protocol {
        TCP => Some(16),
        UDP => Some(6),
        _ => None,
    }
}

/// A packet as it was built.
struct Packet {
    frame: Vec<u8>,
    why: String,
    /// Where the transport's header begins, from the IP header on, and its checksum field in it.
    transport: usize,
    field: Option<usize>,
    is_fragment: bool,
}

impl Packet {
    /// An IPv4 packet of so many bytes, all told.
    fn ipv4(source: &str, protocol: u8, dont_fragment: bool, random: &mut Random, length: usize) -> Self {
        let payload = payload(protocol, random, length - 20);
        let mut packet = ipv4(source.parse().unwrap(), v4(IPV4.client), protocol, &payload);
        packet[6] = if dont_fragment { 0x40 } else { 0 };
        fill_in(&mut packet);
        let why = format!("{length} bytes of IPv4 protocol {protocol} from {source}, DF {dont_fragment},");
        Self {
            frame: ethernet(0x0800, &packet),
            why,
            transport: 20,
            field: field(protocol),
            is_fragment: false,
        }
    }

    /// An IPv6 packet of so many bytes, all told, with extension headers: their types and their lengths.
    fn ipv6(
        source: &str,
        extensions: &[(u8, usize)],
        protocol: u8,
        random: &mut Random,
        length: usize,
    ) -> Self {
        let headers: usize = extensions.iter().map(|(_, length)| length).sum();
        let (next, payload) = behind(extensions, protocol, payload(protocol, random, length - 40 - headers));
        let packet = ipv6(source.parse().unwrap(), v6(IPV6.client), next, &payload);
        let why = format!("{length} bytes of IPv6 protocol {protocol} from {source} behind {extensions:?}");
        Self {
            frame: ethernet(0x86DD, &packet),
            why,
            transport: 40 + headers,
            field: field(protocol),
            is_fragment: extensions.iter().any(|(kind, _)| *kind == FRAGMENT),
        }
    }

    fn of(source: IpAddr, protocol: u8, random: &mut Random, length: usize) -> Self {
        match source {
            IpAddr::V4(source) => Self::ipv4(&source.to_string(), protocol, true, random, length),
            IpAddr::V6(source) => Self::ipv6(&source.to_string(), &[], protocol, random, length),
        }
    }

    fn is_v6(&self) -> bool {
        self.packet()[0] >> 4 == 6
    }

    fn packet(&self) -> &[u8] {
        &self.frame[ETHERNET..]
    }
}

/// Random bytes, but for what decides whether an answer is allowed.
fn payload(protocol: u8, random: &mut Random, length: usize) -> Vec<u8> {
    let mut payload = random.bytes(length);
    match protocol {
        ICMP => payload[..2].copy_from_slice(&[8, 0]),
        ICMPV6 => payload[..2].copy_from_slice(&[128, 0]),
        // The length of the header, and flags without SYN.
        TCP => payload[12..14].copy_from_slice(&[5 << 4, 0x10]),
        _ => {}
    }
    payload
}

/// The checksum of an IPv4 header.
fn fill_in(packet: &mut [u8]) {
    let header = usize::from(packet[0] & 0xF) * 4;
    packet[10..12].fill(0);
    let sum = checksum(&packet[..header]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// Lets a packet through the program and looks at each byte of the answer.
fn is_answered(bench: &Bench, packet: &Packet, mtu: u32) {
    let answer = runs_into_an_answer(bench, packet);
    assert_answers(packet, &answer, mtu);
}

fn runs_into_an_answer(bench: &Bench, packet: &Packet) -> Vec<u8> {
    let (ran, counted) = bench.run(&packet.frame);
    let why = &packet.why;
    let once = Count { packets: 1, bytes: packet.frame.len() as u64 };
    let expected = Counted { icmp_sent: once, ..Counted::default() };
    assert_eq!((ran.verdict, counted), (REDIRECT, expected), "{why} should be answered");
    ran.frame
}

fn is_refused(bench: &Bench, frame: &[u8], why: &str) {
    let (ran, counted) = bench.run(frame);
    let once = Count { packets: 1, bytes: frame.len() as u64 };
    let expected = Counted { too_big_dropped: once, ..Counted::default() };
    assert_eq!((ran.verdict, counted), (SHOT, expected), "{why} should be refused");
}

fn assert_answers(packet: &Packet, answer: &[u8], mtu: u32) {
    let why = &packet.why;
    assert_eq!(answer[..6], packet.frame[6..12], "{why}: to the sender's Ethernet address");
    assert_eq!(answer[6..12], packet.frame[..6], "{why}: from the receiver's Ethernet address");
    assert_eq!(answer[12..14], packet.frame[12..14], "{why}: the EtherType");
    let (original, answer) = (packet.packet(), &answer[ETHERNET..]);
    let quoted = match original.len() {
        _ if packet.is_v6() => QUOTE6,
        QUOTE.. => QUOTE,
        _ => SHORT_QUOTE,
    };
    let header = if packet.is_v6() { 40 } else { 20 };
    assert_eq!(answer.len(), header + 8 + quoted, "{why}: the length of the answer");
    let icmp = &answer[header..];
    if packet.is_v6() {
        assert_eq!(answer[0] >> 4, 6, "{why}");
        assert_eq!(answer[4..6], (8 + quoted as u16).to_be_bytes(), "{why}: the payload's length");
        assert_eq!(answer[6..8], [ICMPV6, 64], "{why}: next header and hop limit");
        assert_eq!(answer[8..24], original[24..40], "{why}: from the destination");
        assert_eq!(answer[24..40], original[8..24], "{why}: to the source");
        assert_eq!(icmp[..2], [2, 0], "{why}: packet too big");
        assert_eq!(icmp[4..8], mtu.to_be_bytes(), "{why}: the MTU");
    } else {
        assert_eq!(answer[..2], [0x45, 0xC0], "{why}: no options, and TOS");
        assert_eq!(answer[2..4], (answer.len() as u16).to_be_bytes(), "{why}: the total length");
        assert_eq!(answer[4..8], [0, 0, 0x40, 0], "{why}: no identification, DF");
        assert_eq!(answer[8..10], [64, ICMP], "{why}: TTL and protocol");
        assert_eq!(checksum(&answer[..20]), 0, "{why}: the checksum of the IPv4 header");
        assert_eq!(answer[12..16], original[16..20], "{why}: from the destination");
        assert_eq!(answer[16..20], original[12..16], "{why}: to the source");
        assert_eq!(icmp[..2], [3, 4], "{why}: fragmentation needed");
        assert_eq!(icmp[4..6], [0, 0], "{why}: unused");
        assert_eq!(icmp[6..8], (mtu as u16).to_be_bytes(), "{why}: the MTU");
    }
    assert!(icmp_checksum_is_right(answer), "{why}: the ICMP checksum");

    let quote = &icmp[8..];
    assert_eq!(quote, &original[..quoted], "{why}: what is quoted");
}

fn icmp_checksum_is_right(packet: &[u8]) -> bool {
    if packet[0] >> 4 == 4 {
        return checksum(&packet[20..]) == 0;
    }
    let address = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap());
    transport_checksum(address(8), address(24), ICMPV6, &packet[40..]) == 0
}

#[test]
fn what_is_too_big_is_answered_and_what_fits_departs() {
    let bench = Bench::new(1_280);
    let mut random = Random::new(1);
    for source in [IPV4.service, IPV6.service] {
        let echo = if source.is_ipv4() { ICMP } else { ICMPV6 };
        for protocol in [TCP, UDP, echo, SCTP, 0xFD] {
            for length in [100, 1_279, 1_280] {
                let packet = Packet::of(source, protocol, &mut random, length);
                bench.departs(&packet.frame, &packet.why);
            }
            for length in [1_281, 1_282, 1_283, 1_499, 1_500, 2_999, 3_600] {
                let packet = Packet::of(source, protocol, &mut random, length);
                is_answered(&bench, &packet, 1_280);
            }
        }
    }
}

/// Also where the sender allows routers to cut it up: Linux then does so itself, and to the right size.
#[test]
fn ipv4_without_df_is_answered_as_well() {
    let bench = Bench::new(1_280);
    let mut random = Random::new(2);
    for protocol in [TCP, UDP, ICMP, SCTP] {
        for dont_fragment in [true, false] {
            let packet = Packet::ipv4("192.168.1.5", protocol, dont_fragment, &mut random, 1_500);
            is_answered(&bench, &packet, 1_280);
        }
    }
}

#[test]
fn the_mtu_is_that_of_the_next_hops_device() {
    let bench = Bench::new(1_280);
    let mut random = Random::new(3);
    let mut told = |mtu: u32| {
        bench.set_mtu(mtu);
        for source in [IPV4.service, IPV6.service] {
            let fits = Packet::of(source, UDP, &mut random, mtu as usize);
            bench.departs(&fits.frame, &fits.why);
            let packet = Packet::of(source, UDP, &mut random, mtu as usize + 1);
            is_answered(&bench, &packet, mtu);
        }
    };
    for mtu in [1_280, 1_400, 1_281, 1_499, 3_000, 1_300] {
        told(mtu);
    }
}

/// As small as a device can have it, and around the length of the quote.
#[test]
fn small_mtus_and_short_quotes() {
    let bench = Bench::ipv4(1_280);
    let mut random = Random::new(4);
    for (mtu, lengths) in
        [(300, [301, 546, 547, 548, 549]), (68, [69, 70, 547, 548, 1_500]), (547, [548, 549, 550, 551, 552])]
    {
        bench.set_mtu(mtu);
        for protocol in [TCP, UDP, ICMP] {
            for length in lengths {
                let packet = Packet::of(IPV4.service, protocol, &mut random, length);
                is_answered(&bench, &packet, mtu);
            }
        }
    }
}

/// With 60 bytes of header a short quote ends before TCP's checksum.
#[test]
fn ipv4_options_are_quoted() {
    for mtu in [1_280, 500] {
        let bench = Bench::ipv4(mtu);
        let mut random = Random::new(5);
        for words in 5..=15_usize {
            for protocol in [TCP, UDP, ICMP] {
                let length = mtu as usize + 4;
                let mut packet = Packet::of(IPV4.service, protocol, &mut random, length);
                let bytes = &mut packet.frame[ETHERNET..];
                let transport = bytes[20..].to_vec();
                bytes[0] = 0x40 | words as u8;
                bytes[20..words * 4].fill(1);
                let rest = length - words * 4;
                bytes[words * 4..].copy_from_slice(&transport[..rest]);
                fill_in(bytes);
                packet.transport = words * 4;
                packet.why += &format!(" a header of {words} words");
                is_answered(&bench, &packet, mtu);
            }
        }
    }
}

const CHAINS: [&[(u8, usize)]; 7] = [
    &[(HOP_BY_HOP, 8)],
    &[(DESTINATION_OPTIONS, 8)],
    &[(ROUTING, 24)],
    &[(FRAGMENT, 8)],
    &[(HOP_BY_HOP, 8), (ROUTING, 8), (FRAGMENT, 8), (DESTINATION_OPTIONS, 16)],
    &[(HOP_BY_HOP, 248)],
    &[(DESTINATION_OPTIONS, 8); 8],
];

#[test]
fn ipv6_extension_headers_are_quoted() {
    let bench = Bench::new(1_280);
    let mut random = Random::new(6);
    for chain in CHAINS {
        for protocol in [TCP, UDP, ICMPV6] {
            let packet = Packet::ipv6("2001:db8:1::5", chain, protocol, &mut random, 1_500);
            let answer = runs_into_an_answer(&bench, &packet);
            assert_answers(&packet, &answer, 1_280);
        }
    }
}

/// A checksum is 16 bits, and there are two zeros: many packets, until each carry has come up.
#[test]
fn random_packets_are_answered_with_right_checksums() {
    let bench = Bench::new(1_280);
    let mut random = Random::new(7);
    for nth in 0..1_000 {
        let source = if nth % 2 == 0 { IPV4.service } else { IPV6.service };
        let protocol = *random.pick(&[TCP, UDP, SCTP]);
        let length = random.between(1_281, 3_600);
        let mut packet = Packet::of(source, protocol, &mut random, length);
        if let Some(field) = packet.field {
            let field = ETHERNET + packet.transport + field;
            match random.below(4) {
                0 => packet.frame[field..field + 2].fill(0),
                1 => packet.frame[field..field + 2].fill(0xFF),
                2 => packet.frame[ETHERNET + packet.transport + 20..].fill(0),
                _ => {}
            }
        }
        is_answered(&bench, &packet, 1_280);
    }
}

#[test]
fn no_error_is_sent_about_fragments_behind_the_first() {
    let bench = Bench::new(1_280);
    let mut random = Random::new(8);
    for (fragment, refused) in [
        (0x2000_u16, false), // more fragments, the first
        (0x6000, false),     // the same with DF
        (0x2001, true),
        (0x00B9, true),
        (0x1FFF, true),
        (0x4001, true),
        (0x3FFF, true),
    ] {
        for protocol in [TCP, UDP, ICMP] {
            let mut packet = Packet::of(IPV4.service, protocol, &mut random, 1_500);
            packet.frame[20..22].copy_from_slice(&fragment.to_be_bytes());
            fill_in(&mut packet.frame[ETHERNET..]);
            packet.is_fragment = true;
            packet.why += &format!(" fragment {fragment:#06x}");
            if refused {
                is_refused(&bench, &packet.frame, &packet.why);
            } else {
                is_answered(&bench, &packet, 1_280);
            }
        }
    }
    for (fragment, refused) in [(0x0001_u16, false), (0x0009, true), (0x0008, true), (0xFFF9, true)] {
        for chain in [&[(FRAGMENT, 8)][..], &[(HOP_BY_HOP, 8), (FRAGMENT, 8)]] {
            let mut packet = Packet::ipv6("2001:db8:1::5", chain, UDP, &mut random, 1_500);
            let field = ETHERNET + packet.transport - 6;
            packet.frame[field..field + 2].copy_from_slice(&fragment.to_be_bytes());
            packet.why += &format!(" fragment {fragment:#06x}");
            if refused {
                is_refused(&bench, &packet.frame, &packet.why);
            } else {
                is_answered(&bench, &packet, 1_280);
            }
        }
    }
}

#[test]
fn no_error_is_sent_about_an_error() {
    let bench = Bench::new(1_280);
    let mut random = Random::new(9);
    for kind in 0..=u8::MAX {
        let mut packet = Packet::of(IPV4.service, ICMP, &mut random, 1_400);
        packet.frame[ETHERNET + 20] = kind;
        packet.why += &format!(" type {kind}");
        if matches!(kind, 3 | 4 | 5 | 11 | 12) {
            is_refused(&bench, &packet.frame, &packet.why);
        } else {
            is_answered(&bench, &packet, 1_280);
        }

        let mut packet = Packet::of(IPV6.service, ICMPV6, &mut random, 1_400);
        packet.frame[ETHERNET + 40] = kind;
        packet.why += &format!(" type {kind}");
        match kind {
            0..128 => is_refused(&bench, &packet.frame, &packet.why),
            // Neighbour discovery is left alone.
            133..=137 => assert_eq!(bench.program.run(&packet.frame).verdict, UNSPEC, "{}", packet.why),
            _ => is_answered(&bench, &packet, 1_280),
        }
    }
    for chain in [&[(HOP_BY_HOP, 8)][..], &[(DESTINATION_OPTIONS, 8), (FRAGMENT, 8)]] {
        for kind in [1, 2, 3, 4, 127] {
            let mut packet = Packet::ipv6("2001:db8:1::5", chain, ICMPV6, &mut random, 1_400);
            packet.frame[ETHERNET + packet.transport] = kind;
            is_refused(&bench, &packet.frame, &format!("{} type {kind}", packet.why));
        }
    }
}

#[test]
fn no_error_is_sent_to_nobody_or_to_many() {
    let bench = Bench::new(1_280);
    let mut random = Random::new(10);
    for source in ["0.0.0.0", "0.255.255.255", "127.0.0.1", "127.255.255.255", "224.0.0.1", "239.1.2.3"] {
        let packet = Packet::ipv4(source, UDP, true, &mut random, 1_500);
        is_refused(&bench, &packet.frame, &packet.why);
    }
    for source in ["240.0.0.1", "255.255.255.254", "255.255.255.255"] {
        let packet = Packet::ipv4(source, UDP, true, &mut random, 1_500);
        is_refused(&bench, &packet.frame, &packet.why);
    }
    for source in ["1.0.0.0", "126.255.255.255", "128.0.0.1", "223.255.255.255", "10.1.2.3"] {
        let packet = Packet::ipv4(source, UDP, true, &mut random, 1_500);
        is_answered(&bench, &packet, 1_280);
    }
    for source in ["::", "::1", "ff0e::1", "ff02::5"] {
        let packet = Packet::ipv6(source, &[], UDP, &mut random, 1_500);
        is_refused(&bench, &packet.frame, &packet.why);
    }
    for source in ["0:0:0:1::1", "100::", "2001:db8::1", "fd00::1", "feff::1"] {
        let packet = Packet::ipv6(source, &[], UDP, &mut random, 1_500);
        is_answered(&bench, &packet, 1_280);
    }
}

#[test]
fn next_to_the_unspecified_and_the_loopback_address_are_ordinary_ones() {
    let bench = Bench::new(1_280);
    let mut random = Random::new(19);
    let refused: Vec<&str> = ["::2", "::100", "::1:1", "::1:0:0", "::1:0:0:0", "::1:0:0:1", "0:0:0:1::"]
        .into_iter()
        .filter(|source| {
            let packet = Packet::ipv6(source, &[], UDP, &mut random, 1_500);
            bench.run(&packet.frame).0.verdict != REDIRECT
        })
        .collect();
    assert_eq!(refused, Vec::<&str>::new());
}

/// No IPv6 sender goes below 1,280 bytes, whatever it is told.
#[test]
fn ipv6_is_refused_where_the_way_is_too_narrow_for_it() {
    let bench = Bench::new(1_280);
    let mut random = Random::new(11);
    for mtu in [1_279, 1_000, 68] {
        bench.set_mtu(mtu);
        for length in [mtu as usize + 1, 1_279, 1_281, 1_500] {
            if length > mtu as usize {
                let packet = Packet::of(IPV6.service, UDP, &mut random, length);
                is_refused(&bench, &packet.frame, &packet.why);
            }
        }
        let packet = Packet::of(IPV4.service, UDP, &mut random, 1_500);
        is_answered(&bench, &packet, mtu);
    }
}

/// The kernel has taken IPv6 off the device then, and with it the neighbours.
#[test]
fn byway_changes_rules_where_a_device_has_lost_ipv6() {
    let bench = Bench::new(1_280);
    let server = &bench.seed.server;
    let hook = any_hook();
    server.set_mtu("eth1", 1_000).unwrap();
    let spec = via("192.168.7.7", IPV4.router, "eth1");
    on(server, hook, |byway| byway.attach(&Attach::Auto)).unwrap();
    on(server, hook, |byway| byway.add(&spec)).unwrap();
    on(server, hook, |byway| byway.del(&spec.selector)).unwrap();
    on(server, hook, |byway| byway.flush()).unwrap();
}

/// A thousand a second for each next hop and CPU, and fifty at once.
#[test]
fn answers_are_allowed_so_often() {
    const BURST: u64 = 50;
    const A_SECOND: f64 = 1_000.0;
    // Gateways of their own for some sources: other next hops, on the same device.
    let bench = Bench::new(1_280);
    let other = NextHopSpec::ViaDev([10, 111, 221, 22].into(), "eth1".into());
    let spec = RuleSpec::new("192.168.9.9".parse().unwrap(), TargetSpec::NextHop(other));
    on(&bench.seed.server, any_hook(), |byway| byway.add(&spec)).unwrap();
    let mut random = Random::new(13);
    let packet = Packet::of(IPV4.service, UDP, &mut random, 1_500);
    let others = Packet::ipv4("192.168.9.9", UDP, true, &mut random, 1_500);

    // What was allowed before this one is full again: nothing has been answered.
    let burst = |packet: &Packet| {
        let before = counted(&bench.seed.server);
        let started = Instant::now();
        let verdicts = bench.program.run_in_a_row(&packet.frame, 500);
        let lasted = started.elapsed().as_secs_f64();
        let of = |wanted: u32| verdicts.iter().filter(|verdict| **verdict == wanted).count() as u64;
        let (answered, refused) = (of(REDIRECT), of(SHOT));
        assert_eq!(answered + refused, 500, "{verdicts:?}");
        let counted = counted(&bench.seed.server).since(before);
        assert_eq!((counted.icmp_sent.packets, counted.too_big_dropped.packets), (answered, refused));
        assert_eq!((counted.departed.packets, counted.passed.packets), (0, 0));
        let first = verdicts.iter().take_while(|verdict| **verdict == REDIRECT).count() as u64;
        (first, answered, BURST + (lasted * A_SECOND) as u64 + 1)
    };
    let (first, answered, most) = burst(&packet);
    assert!(first >= BURST, "{first} of a burst");
    assert!(answered <= most, "{answered} answers where {most} are allowed");
    let (first, answered, most) = burst(&others);
    assert!(first >= BURST, "another next hop has an allowance of its own, and got {first}");
    assert!(answered <= most, "{answered} answers where {most} are allowed");

    // With time they come back, and all of them after some time, but never more.
    let _ = bench.program.run_in_a_row(&packet.frame, 500);
    assert!(wait_until(ANSWER, || bench.program.run(&packet.frame).verdict == REDIRECT));
    let now = Instant::now();
    assert!(wait_until(ANSWER, || now.elapsed().as_secs_f64() >= 4.0 * BURST as f64 / A_SECOND));
    let (first, answered, most) = burst(&packet);
    assert!(first >= BURST, "{first} of a burst after a pause");
    assert!(answered <= most, "{answered} answers where {most} are allowed");
}

/// A burst on one CPU takes nothing from another.
#[test]
fn each_cpu_has_an_allowance_of_its_own() {
    // Looked up before the bench puts this thread on the first.
    let second = std::thread::spawn(|| stay_on_cpu(1)).join().unwrap();
    if !second {
        println!("this machine has one CPU: nothing is tested");
        return;
    }
    let all = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).unwrap();
    let bench = Bench::new(1_280);
    let packet = Packet::of(IPV4.service, UDP, &mut Random::new(14), 1_500);
    let refused = |verdicts: &[u32]| verdicts.contains(&SHOT);
    assert!(wait_until(ANSWER, || refused(&bench.program.run_in_a_row(&packet.frame, 500))));
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &all).unwrap();
    assert!(stay_on_cpu(1));
    assert!(!refused(&bench.program.run_in_a_row(&packet.frame, 50)));
}

#[test]
fn what_no_rule_redirects_is_not_answered() {
    let bench = Bench::with(
        1_280,
        &[
            RuleSpec::new("192.168.1.5".parse().unwrap(), TargetSpec::Pass),
            RuleSpec::new("192.168.1.6".parse().unwrap(), TargetSpec::Drop),
            via("192.168.1.7", IPV4.router, "eth1"),
        ],
    );
    let mut random = Random::new(15);
    for (source, verdict) in [("192.168.1.5", UNSPEC), ("192.168.1.6", SHOT), ("192.168.1.8", UNSPEC)] {
        let packet = Packet::ipv4(source, UDP, true, &mut random, 1_500);
        let ran = bench.program.run(&packet.frame);
        assert_eq!(ran.verdict, verdict, "{}", packet.why);
        assert!(ran.frame == packet.frame, "{}", packet.why);
    }
    for status in rules(&bench.seed.server) {
        assert_eq!(
            (status.icmp_sent, status.too_big_dropped),
            (Count::default(), Count::default()),
            "{status:?}"
        );
    }
}

/// Each member of a group has the MTU of its own device.
#[test]
fn a_group_answers_for_the_member_that_a_packet_would_go_to() {
    let bench = Bench::with(1_280, &[via("10.9.9.9", IPV4.router, "eth1")]);
    let (server, router) = (&bench.seed.server, &bench.seed.router);
    bench.seed.lab.link((server, "eth2"), (router, "eth2")).unwrap();
    server.address("eth2", "10.111.223.11/24").unwrap();
    router.address("eth2", "10.111.223.21/24").unwrap();
    let member =
        |address: [u8; 4], device: &str| MemberSpec::new(NextHopSpec::via(address.into()).dev(device));
    let members = vec![member([10, 111, 221, 21], "eth1"), member([10, 111, 223, 21], "eth2")];
    let spec = RuleSpec::new("192.168.0.0/16".parse().unwrap(), TargetSpec::NextHops(members));
    on(server, any_hook(), |byway| byway.add(&spec)).unwrap();
    let mut random = Random::new(16);
    let (mut departed, mut answered) = (0, 0);
    for last in 1..=100 {
        let packet = Packet::ipv4(&format!("192.168.3.{last}"), UDP, true, &mut random, 1_400);
        let (ran, counted) = bench.run(&packet.frame);
        assert_eq!(ran.verdict, REDIRECT, "{}", packet.why);
        if counted.icmp_sent.packets == 1 {
            assert_answers(&packet, &ran.frame, 1_280);
            answered += 1;
        } else {
            assert_eq!(counted.departed.packets, 1, "{}", packet.why);
            assert_eq!(bench.program.run_thrice(&packet.frame).verdict, UNSPEC, "{}", packet.why);
            departed += 1;
        }
    }
    assert!(departed > 20 && answered > 20, "{departed} departed, {answered} answered");
    for status in on(server, any_hook(), |byway| byway.next_hops()).unwrap() {
        let narrow = status.next_hop.device.name == "eth1";
        assert_eq!(status.mtu, Some(if narrow { 1_280 } else { 1_500 }));
        assert_eq!(status.icmp_sent.packets, if narrow { answered } else { 0 }, "{status:?}");
        assert_eq!(status.departed.packets > 0, !narrow, "{status:?}");
    }
}

#[test]
fn next_hops_that_are_narrower_than_the_attachment_are_told() {
    let bench = Bench::new(1_500);
    let server = &bench.seed.server;
    let next_hop = || {
        let device = byway::Device { name: "eth1".into(), index: server.ifindex("eth1").unwrap() };
        NextHop::new(Some(IPV4.router), device)
    };
    let narrow = || on(server, any_hook(), |byway| byway.mtu_mismatches(&[next_hop()])).unwrap();
    assert_eq!(narrow(), []);
    server.set_mtu("eth1", 1_499).unwrap();
    let [told] = &narrow()[..] else { panic!("{:?}", narrow()) };
    assert_eq!((told.mtu, told.attachment_mtu), (1_499, 1_500));
    assert_eq!((&told.next_hop, told.attachment.name.as_str()), (&next_hop(), "eth0"));
    server.set_mtu("eth0", 1_400).unwrap();
    assert_eq!(narrow(), [], "the attachment takes no more than the next hop");
}

/// Before Linux 5.12 a program cannot ask for the MTU, and Byway's last change is what it knows.
#[test]
fn another_mtu_counts_at_once() {
    let bench = Bench::new(1_500);
    let packet = Packet::of(IPV4.service, UDP, &mut Random::new(17), 1_450);
    bench.departs(&packet.frame, &packet.why);
    bench.seed.server.set_mtu("eth1", 1_280).unwrap();
    if mtu_is_asked_for_each_packet() {
        is_answered(&bench, &packet, 1_280);
    } else {
        bench.departs(&packet.frame, "what was small enough at the last change");
        on(&bench.seed.server, any_hook(), |byway| byway.attach(&Attach::Auto)).unwrap();
        is_answered(&bench, &packet, 1_280);
    }
}
