//! TCP's MSS option on the way to a next hop: clamped where it is larger than what the way carries, and nothing else changed.
//! Crafted segments, one by one (`BPF_PROG_TEST_RUN`, bpf(2)), and what should become of them by a model that was written
//! from RFC 9293 and what is promised, without a look at the program.

use std::net::IpAddr;

use byway::{Count, MSS_MAX, MSS_MIN, Mss, RuleSpec, TargetSpec};
use byway_lab::seed::{IPV4, IPV6};

use crate::support::random::Random;
use crate::support::{
    departure::{REDIRECT, UNSPEC},
    narrow::{Bench, Counted, counted, with_mss},
    packet::{
        self, DESTINATION_OPTIONS, FRAGMENT, HOP_BY_HOP, ROUTING, TCP, behind, ethernet, ipv4, ipv6,
        transport_checksum,
    },
    rules, via,
};

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 0x10;
const ECN: u8 = 0xC0;

/// Kinds of options (RFC 9293, RFC 7323, RFC 2018).
const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const TIMESTAMPS: u8 = 8;

/// A segment as it was built.
#[derive(Clone)]
struct Segment {
    frame: Vec<u8>,
    /// Where TCP's header begins in the frame.
    tcp: usize,
}

/// What a segment is made of.
#[derive(Debug, Clone)]
struct Parts<'a> {
    source: IpAddr,
    flags: u8,
    options: &'a [u8],
    /// The length of the header in words, where it is not what it should be.
    data_offset: Option<u8>,
    data: &'a [u8],
    extensions: &'a [u8],
}

const PARTS: Parts<'static> = Parts {
    source: IPV4.service,
    flags: SYN,
    options: &[MSS, 4, 0x05, 0xB4],
    data_offset: None,
    data: &[],
    extensions: &[],
};

impl Parts<'_> {
    /// The segment with a right checksum.
    fn build(&self) -> Segment {
        let words = 5 + self.options.len().div_ceil(4) as u8;
        let mut segment = vec![0x30, 0x39, 0, 80, 0xDE, 0xAD, 0xBE, 0xEF, 0x01, 0x02, 0x03, 0x04];
        segment.extend([self.data_offset.unwrap_or(words) << 4, self.flags, 0xFF, 0xFE, 0, 0, 0, 0]);
        segment.extend(self.options);
        segment.resize(usize::from(words) * 4, END);
        segment.extend(self.data);
        let destination = if self.source.is_ipv4() { IPV4.client } else { IPV6.client };
        let sum = transport_checksum(self.source, destination, TCP, &segment);
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        match (self.source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                Segment { frame: ethernet(0x0800, &ipv4(source, destination, TCP, &segment)), tcp: 14 + 20 }
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let extensions: Vec<(u8, usize)> = self.extensions.iter().map(|kind| (*kind, 8)).collect();
                let (next, segment) = behind(&extensions, TCP, segment);
                let frame = ethernet(0x86DD, &ipv6(source, destination, next, &segment));
                Segment { frame, tcp: 14 + 40 + 8 * self.extensions.len() }
            }
            _ => unreachable!("both are of one family"),
        }
    }
}

/// Where the MSS is that counts, in the options of a segment; nothing where there is none, or what leads there makes no sense.
fn place_of_mss(options: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match *options.get(at)? {
            END => return None,
            NOP => at += 1,
            kind => {
                let length = usize::from(*options.get(at + 1)?);
                if length < 2 || at + length > options.len() {
                    return None;
                }
                if kind == MSS {
                    return (length == 4).then_some(at + 2);
                }
                at += length;
            }
        }
    }
}

/// What a segment should look like that departs, but for its checksum: nothing where it should stay as it is.
fn model(segment: &Segment, limit: u16) -> Option<Vec<u8>> {
    let tcp = segment.frame.get(segment.tcp..).filter(|tcp| tcp.len() >= 20)?;
    let header = usize::from(tcp[12] >> 4) * 4;
    if tcp[13] & SYN == 0 || header < 20 || header > tcp.len() {
        return None;
    }
    let at = segment.tcp + 20 + place_of_mss(&tcp[20..header])?;
    let mss = u16::from_be_bytes([segment.frame[at], segment.frame[at + 1]]);
    let mut changed = segment.frame.clone();
    changed[at..at + 2].copy_from_slice(&limit.to_be_bytes());
    (mss > limit).then_some(changed)
}

/// The sum over the segment and its pseudo header: it stays the same as long as the checksum follows every change. That of
/// a right segment is 0. There are two zeros.
fn sum_of(frame: &[u8], tcp: usize) -> u16 {
    let ip = &frame[14..];
    let (source, destination) = if ip[0] >> 4 == 4 {
        let address = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&ip[at..at + 4]).unwrap());
        (address(12), address(16))
    } else {
        let address = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&ip[at..at + 16]).unwrap());
        (address(8), address(24))
    };
    match transport_checksum(source, destination, TCP, &frame[tcp..]) {
        0xFFFF => 0,
        sum => sum,
    }
}

/// Runs a segment and compares it with the model. Says whether it was clamped.
fn compare(bench: &Bench, segment: &Segment, limit: u16, why: &str) -> bool {
    let ran = bench.program.run(&segment.frame);
    assert_eq!(ran.verdict, REDIRECT, "{why}");
    let Some(expected) = model(segment, limit) else {
        assert!(ran.frame == segment.frame, "{why}: {:x?} became {:x?}", segment.frame, ran.frame);
        return false;
    };
    assert_eq!(ran.frame.len(), expected.len(), "{why}");
    let checksum = segment.tcp + 16..segment.tcp + 18;
    for (at, byte) in ran.frame.iter().enumerate() {
        if !checksum.contains(&at) {
            assert_eq!(*byte, expected[at], "{why}, byte {at}: {:x?} became {:x?}", segment.frame, ran.frame);
        }
    }
    assert_eq!(
        sum_of(&ran.frame, segment.tcp),
        sum_of(&segment.frame, segment.tcp),
        "{why}: {:x?}",
        ran.frame
    );
    true
}

fn is_clamped(bench: &Bench, segment: &Segment, limit: u16, why: &str) {
    let before = counted(&bench.seed.server);
    assert!(compare(bench, segment, limit, why), "{why} should be clamped");
    let once = Count { packets: 1, bytes: segment.frame.len() as u64 };
    let expected = Counted { departed: once, clamped: once, ..Counted::default() };
    assert_eq!(counted(&bench.seed.server).since(before), expected, "{why}");
    bench.let_some_arrive();
}

fn is_left(bench: &Bench, segment: &Segment, limit: u16, why: &str) {
    let before = counted(&bench.seed.server);
    assert!(!compare(bench, segment, limit, why), "{why} should be left as it is");
    let once = Count { packets: 1, bytes: segment.frame.len() as u64 };
    let expected = Counted { departed: once, ..Counted::default() };
    assert_eq!(counted(&bench.seed.server).since(before), expected, "{why}");
    bench.let_some_arrive();
}

/// What fits a way of 1,280 bytes.
fn limit(source: IpAddr) -> u16 {
    if source.is_ipv4() { 1_240 } else { 1_220 }
}

fn mss(bytes: u16) -> [u8; 4] {
    let [high, low] = bytes.to_be_bytes();
    [MSS, 4, high, low]
}

#[test]
fn a_syn_and_a_syn_ack_are_clamped_where_they_ask_for_more() {
    let bench = Bench::new(1_280);
    for source in [IPV4.service, IPV6.service] {
        let limit = limit(source);
        for flags in [SYN, SYN | ACK, SYN | ECN, SYN | ACK | ECN] {
            for bytes in [limit + 1, limit + 2, 1_460, 8_960, 0x8000, 0xFFFF] {
                let segment = Parts { source, flags, options: &mss(bytes), ..PARTS }.build();
                is_clamped(&bench, &segment, limit, &format!("{source} flags {flags:#x} MSS {bytes}"));
            }
            for bytes in [0, 1, 536, limit - 1, limit] {
                let segment = Parts { source, flags, options: &mss(bytes), ..PARTS }.build();
                is_left(&bench, &segment, limit, &format!("{source} flags {flags:#x} MSS {bytes}"));
            }
        }
        for flags in [0, ACK, FIN | ACK, RST, RST | ACK, ACK | 8, ECN | ACK] {
            let segment = Parts { source, flags, ..PARTS }.build();
            is_left(&bench, &segment, limit, &format!("{source} flags {flags:#x}"));
        }
    }
}

#[test]
fn the_mss_follows_the_mtu_of_the_next_hops_device() {
    let bench = Bench::new(1_500);
    for source in [IPV4.service, IPV6.service] {
        let headers = if source.is_ipv4() { 40 } else { 60 };
        for mtu in [1_500, 1_280, 1_400, 1_499, 9_000] {
            bench.set_mtu(mtu);
            let limit = mtu as u16 - headers;
            let segment = |bytes| Parts { source, options: &mss(bytes), ..PARTS }.build();
            is_left(&bench, &segment(limit), limit, &format!("{source} MTU {mtu}"));
            is_clamped(&bench, &segment(limit + 1), limit, &format!("{source} MTU {mtu}"));
        }
    }
}

/// Whatever a device can have: IPv4 needs 68 bytes.
#[test]
fn the_mss_follows_small_mtus() {
    let bench = Bench::ipv4(1_280);
    for mtu in [576, 300, 128, 68] {
        bench.set_mtu(mtu);
        let limit = mtu as u16 - 40;
        let before = counted(&bench.seed.server);
        let segment = |bytes| Parts { options: &mss(bytes), ..PARTS }.build();
        assert!(compare(&bench, &segment(1_460), limit, &format!("MTU {mtu}")));
        assert!(!compare(&bench, &segment(limit), limit, &format!("MTU {mtu}")));
        let counted = counted(&bench.seed.server).since(before);
        assert_eq!((counted.departed.packets, counted.clamped.packets), (2, 1), "MTU {mtu}");
        let small = packet::udp(IPV4.service, IPV4.client);
        assert_eq!(bench.program.run_thrice(&small).verdict, UNSPEC);
    }
}

/// The rules of one next hop, each with its own word.
#[test]
fn a_rule_says_what_is_clamped_to() {
    let bench = Bench::with(
        1_280,
        &[
            via("192.168.1.5", IPV4.router, "eth1"),
            via("2001:db8:1::5", IPV6.router, "eth1"),
            with_mss(via("192.168.2.1", IPV4.router, "eth1"), Mss::Off),
            with_mss(via("192.168.2.2", IPV4.router, "eth1"), Mss::Bytes(1_000)),
            with_mss(via("192.168.2.3", IPV4.router, "eth1"), Mss::Bytes(1_400)),
            with_mss(via("192.168.2.4", IPV4.router, "eth1"), Mss::Bytes(MSS_MIN)),
            with_mss(via("192.168.2.5", IPV4.router, "eth1"), Mss::Bytes(MSS_MAX)),
            with_mss(via("2001:db8:2::1", IPV6.router, "eth1"), Mss::Off),
            with_mss(via("2001:db8:2::2", IPV6.router, "eth1"), Mss::Bytes(1_000)),
            with_mss(via("2001:db8:2::3", IPV6.router, "eth1"), Mss::Bytes(1_400)),
        ],
    );
    for (source, limit) in [
        ("192.168.1.5", 1_240),
        ("2001:db8:1::5", 1_220),
        ("192.168.2.1", u16::MAX),
        ("192.168.2.2", 1_000),
        ("192.168.2.3", 1_400),
        ("192.168.2.4", MSS_MIN),
        ("192.168.2.5", MSS_MAX),
        ("2001:db8:2::1", u16::MAX),
        ("2001:db8:2::2", 1_000),
        ("2001:db8:2::3", 1_400),
    ] {
        let mut clamped = 0;
        for bytes in
            [0, MSS_MIN, 999, 1_000, 1_001, 1_220, 1_240, 1_241, 1_400, 1_401, 1_460, MSS_MAX, u16::MAX]
        {
            let segment = Parts { source: source.parse().unwrap(), options: &mss(bytes), ..PARTS }.build();
            if bytes > limit {
                is_clamped(&bench, &segment, limit, &format!("{source} MSS {bytes}"));
                clamped += 1;
            } else {
                is_left(&bench, &segment, limit, &format!("{source} MSS {bytes}"));
            }
        }
        let status = rules(&bench.seed.server);
        let status = status.iter().find(|status| status.rule.source.to_string() == source).unwrap();
        assert_eq!(status.clamped.packets, clamped, "{status:?}");
    }
}

#[test]
fn what_is_not_redirected_is_not_clamped() {
    let pass = RuleSpec::new("192.168.1.5".parse().unwrap(), TargetSpec::Pass);
    let bench = Bench::with(1_280, &[pass, via("192.168.1.7", IPV4.router, "eth1")]);
    for source in ["192.168.1.5", "192.168.1.8", "2001:db8:1::5"] {
        let segment = Parts { source: source.parse().unwrap(), ..PARTS }.build();
        let ran = bench.program.run(&segment.frame);
        assert_eq!(ran.verdict, UNSPEC, "{source}");
        assert!(ran.frame == segment.frame, "{source}");
    }
}

/// What a segment may carry besides, or in the wrong place.
#[test]
fn options_in_every_order() {
    let bench = Bench::new(1_280);
    let timestamps = [TIMESTAMPS, 10, 1, 2, 3, 4, 0, 0, 0, 0];
    for source in [IPV4.service, IPV6.service] {
        let limit = limit(source);
        let large = mss(1_460);
        let clamped = [
            (
                "what Linux sends",
                [&large[..], &[SACK_PERMITTED, 2], &timestamps, &[NOP, WINDOW_SCALE, 3, 7]].concat(),
            ),
            ("at an odd place", [&[NOP][..], &large].concat()),
            ("at the next odd place", [&[NOP, NOP, NOP][..], &large].concat()),
            ("at an even place", [&[NOP, NOP][..], &large].concat()),
            ("behind an option of odd length", [&[WINDOW_SCALE, 3, 7][..], &large].concat()),
            ("behind timestamps", [&timestamps[..], &large].concat()),
            ("behind an unknown option", [&[253, 6, 1, 2, 3, 4][..], &large].concat()),
            ("behind an empty option", [&[254, 2][..], &large].concat()),
            ("the last of 40 bytes", [&[NOP; 36][..], &large].concat()),
            ("the last of 40 bytes, behind one option", [&[253, 36][..], &[2; 34], &large].concat()),
            ("before the end of the list", [&large[..], &[END, MSS, 4, 5, 0xB4]].concat()),
            ("the first of two", [&large[..], &mss(9_000)].concat()),
            ("the first of two, large and small", [&large[..], &mss(500)].concat()),
        ];
        for (why, options) in clamped {
            let segment = Parts { source, options: &options, ..PARTS }.build();
            is_clamped(&bench, &segment, limit, &format!("{source} {why}"));
        }
        let left = [
            ("no options", vec![]),
            ("no MSS", [&timestamps[..], &[SACK_PERMITTED, 2]].concat()),
            ("the first of two, small and large", [&mss(500)[..], &large].concat()),
            ("behind the end of the list", [&[END][..], &large].concat()),
            ("an option that ends behind the list", [&[253, 11, 0, 0][..], &large].concat()),
            ("an option that ends behind the list by far", [&[253, 255, 0, 0][..], &large].concat()),
            ("an MSS of no length", vec![MSS, 0, 0xFF, 0xFF]),
            ("an MSS of one byte", vec![MSS, 1, 0xFF, 0xFF]),
            ("an MSS of two bytes", vec![MSS, 2, NOP, NOP]),
            ("an MSS of three bytes", vec![MSS, 3, 0xFF, NOP]),
            ("an MSS without its second byte", vec![NOP, MSS, 4, 0xFF]),
            ("an MSS without any", vec![NOP, NOP, MSS, 4]),
            ("an MSS without a length", vec![NOP, NOP, NOP, MSS]),
            ("an MSS of forty bytes", [&[MSS, 40][..], &[0xFF; 38]].concat()),
            ("nothing but NOPs", vec![NOP; 40]),
            ("nothing but ends", vec![END; 40]),
        ];
        for (why, options) in left {
            let segment = Parts { source, options: &options, ..PARTS }.build();
            is_left(&bench, &segment, limit, &format!("{source} {why}"));
        }
    }
}

#[test]
fn headers_that_are_cut_off_are_left() {
    let bench = Bench::new(1_280);
    for source in [IPV4.service, IPV6.service] {
        let limit = limit(source);
        let whole = Parts { source, ..PARTS }.build();
        for length in whole.tcp..=whole.frame.len() {
            // The IP header says that there is more.
            let cut = Segment { frame: whole.frame[..length].to_vec(), ..whole };
            let why = format!("{source} {} bytes of TCP", length - whole.tcp);
            if length == whole.frame.len() {
                is_clamped(&bench, &cut, limit, &why);
            } else {
                is_left(&bench, &cut, limit, &why);
            }
        }
        for words in 0..5 {
            let segment = Parts { source, data_offset: Some(words), ..PARTS }.build();
            is_left(&bench, &segment, limit, &format!("{source} a header of {words} words"));
        }
        // The header ends before the option does, which is data then.
        let segment = Parts { source, data_offset: Some(5), data: &[1, 2, 3, 4], ..PARTS }.build();
        is_left(&bench, &segment, limit, &format!("{source} an MSS in the data"));
        let options = [&[NOP, NOP, NOP, NOP][..], &mss(1_460)].concat();
        let segment = Parts { source, options: &options, data_offset: Some(6), ..PARTS }.build();
        is_left(&bench, &segment, limit, &format!("{source} an MSS right behind the header"));
        // Data that comes with a SYN (RFC 7413).
        let segment = Parts { source, data: &[7; 501], ..PARTS }.build();
        is_clamped(&bench, &segment, limit, &format!("{source} with data"));
    }
}

#[test]
fn headers_that_end_behind_the_packet_are_left() {
    let bench = Bench::new(1_280);
    for source in [IPV4.service, IPV6.service] {
        for words in 7..=15 {
            let segment = Parts { source, data_offset: Some(words), ..PARTS }.build();
            is_left(&bench, &segment, limit(source), &format!("{source} a header of {words} words"));
        }
    }
}

#[test]
fn options_of_no_length_or_one_end_the_list() {
    let bench = Bench::new(1_280);
    for source in [IPV4.service, IPV6.service] {
        for kind in [WINDOW_SCALE, TIMESTAMPS, 253] {
            for length in [0, 1] {
                let options = [&[kind, length][..], &mss(1_460)].concat();
                let segment = Parts { source, options: &options, ..PARTS }.build();
                is_left(&bench, &segment, limit(source), &format!("{source} kind {kind}, length {length}"));
            }
        }
    }
}

/// A wrong checksum is the receiver's to find: it stays as wrong as it was.
#[test]
fn a_wrong_checksum_stays_wrong() {
    let bench = Bench::new(1_280);
    let mut random = Random::new(1);
    for source in [IPV4.service, IPV6.service] {
        for _ in 0..200 {
            let bytes = random.between(1_300, 0xFFFF) as u16;
            let mut segment = Parts { source, options: &mss(bytes), ..PARTS }.build();
            let wrong = random.bytes(2);
            segment.frame[segment.tcp + 16..segment.tcp + 18].copy_from_slice(&wrong);
            assert!(compare(&bench, &segment, limit(source), &format!("{source} checksum {wrong:x?}")));
            bench.let_some_arrive();
        }
    }
}

#[test]
fn ipv4_options_and_fragments() {
    let bench = Bench::new(1_280);
    for words in 5..=15_usize {
        let Segment { frame, tcp } = PARTS.build();
        let mut packet = frame[14..tcp].to_vec();
        packet.resize(words * 4, NOP);
        packet[0] = 0x40 | words as u8;
        let length = packet.len() + frame.len() - tcp;
        packet[2..4].copy_from_slice(&(length as u16).to_be_bytes());
        packet.extend(&frame[tcp..]);
        let segment = Segment { frame: ethernet(0x0800, &packet), tcp: 14 + words * 4 };
        is_clamped(&bench, &segment, 1_240, &format!("an IPv4 header of {words} words"));
    }
    for (fragment, first) in [
        (0x4000_u16, true),
        (0x2000, true),
        (0x6000, true),
        (0x2001, false),
        (0x0001, false),
        (0x1FFF, false),
    ] {
        let mut segment = PARTS.build();
        segment.frame[20..22].copy_from_slice(&fragment.to_be_bytes());
        let why = format!("fragment {fragment:#06x}");
        if first {
            is_clamped(&bench, &segment, 1_240, &why);
        } else {
            // What looks like a header is data.
            let ran = bench.program.run(&segment.frame);
            assert_eq!(ran.verdict, REDIRECT, "{why}");
            assert!(ran.frame == segment.frame, "{why}");
            bench.let_some_arrive();
        }
    }
}

#[test]
fn ipv6_extension_headers_are_passed_up_to_the_eighth() {
    let bench = Bench::new(1_280);
    let chains: [&[u8]; 12] = [
        &[HOP_BY_HOP],
        &[ROUTING],
        &[FRAGMENT],
        &[DESTINATION_OPTIONS],
        &[HOP_BY_HOP, DESTINATION_OPTIONS],
        &[HOP_BY_HOP, DESTINATION_OPTIONS, ROUTING],
        &[HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS],
        &[DESTINATION_OPTIONS; 5],
        &[DESTINATION_OPTIONS; 6],
        &[DESTINATION_OPTIONS; 7],
        &[DESTINATION_OPTIONS; 8],
        &[HOP_BY_HOP, DESTINATION_OPTIONS, ROUTING, ROUTING, ROUTING, FRAGMENT, ROUTING, DESTINATION_OPTIONS],
    ];
    let parts = Parts { source: IPV6.service, ..PARTS };
    for extensions in chains {
        for options in [&mss(1_460)[..], &[&[NOP][..], &mss(1_460)].concat()] {
            let segment = Parts { extensions, options, ..parts.clone() }.build();
            is_clamped(&bench, &segment, 1_220, &format!("behind {extensions:?}"));
        }
    }
    let unseen = |segment: &Segment, why: &str| {
        let ran = bench.program.run(&segment.frame);
        assert_eq!(ran.verdict, REDIRECT, "{why}");
        assert!(ran.frame == segment.frame, "{why}");
        bench.let_some_arrive();
    };
    for length in 9..12 {
        let extensions = vec![DESTINATION_OPTIONS; length];
        unseen(&Parts { extensions: &extensions, ..parts.clone() }.build(), "behind too many");
    }
    let mut behind_the_first = Parts { extensions: &[FRAGMENT], ..parts.clone() }.build();
    behind_the_first.frame[14 + 40 + 3] = 8 | 1;
    unseen(&behind_the_first, "a fragment behind the first");
    // A header that says that it ends behind the packet, and one that is cut off.
    let mut long = Parts { extensions: &[DESTINATION_OPTIONS], ..parts.clone() }.build();
    long.frame[14 + 40 + 1] = 0xFF;
    unseen(&long, "a header that ends behind the packet");
    let whole = Parts { extensions: &[HOP_BY_HOP, DESTINATION_OPTIONS], ..parts }.build();
    for length in 14 + 40..whole.frame.len() {
        let cut = Segment { frame: whole.frame[..length].to_vec(), ..whole };
        unseen(&cut, &format!("{} of {} bytes", length, whole.frame.len()));
    }
}

/// An option's list that may make sense or not.
fn options(random: &mut Random) -> Vec<u8> {
    let mut options = Vec::new();
    let length = random.below(11) * 4;
    if random.percent(15) {
        return random.bytes(length);
    }
    while options.len() < length {
        match random.below(20) {
            0..6 => options.push(NOP),
            6..12 => options.extend(mss(*random.pick(&[0, 500, 1_220, 1_221, 1_240, 1_241, 1_460, 0xFFFF]))),
            12 => options.extend(mss(random.next() as u16)),
            13 => options.extend([WINDOW_SCALE, 3, 7]),
            14 => options.extend([SACK_PERMITTED, 2]),
            15 => {
                options.extend([TIMESTAMPS, 10]);
                options.extend(random.bytes(8));
            }
            16 => {
                let data = random.below(6);
                options.extend([random.between(5, 255) as u8, data as u8 + 2]);
                options.extend(random.bytes(data));
            }
            17 if random.percent(30) => options.push(END),
            18 if random.percent(30) => {
                let kind = *random.pick(&[WINDOW_SCALE, TIMESTAMPS, 253]);
                options.extend([kind, *random.pick(&[0, 1, 38, 41, 255])]);
            }
            _ => options.push(NOP),
        }
    }
    // What is longer than the list is cut off.
    options.truncate(length);
    options
}

#[test]
fn random_options_are_clamped_as_the_model_says() {
    const SEGMENTS: usize = 6_000;
    let bench = Bench::new(1_280);
    let mut random = Random::new(2);
    let before = counted(&bench.seed.server);
    let mut clamped = 0;
    for nth in 0..SEGMENTS {
        let source = if random.percent(50) { IPV4.service } else { IPV6.service };
        let options = options(&mut random);
        let flags = *random.pick(&[SYN, SYN, SYN | ACK, SYN | ACK | ECN, ACK, RST]);
        let data_offset = random.percent(5).then(|| random.below(16) as u8);
        let length = random.below(40);
        let data = random.bytes(length);
        let many = random.below(9);
        let extensions: Vec<u8> =
            (0..many).map(|_| *random.pick(&[ROUTING, DESTINATION_OPTIONS, FRAGMENT])).collect();
        let extensions = if random.percent(70) { &[][..] } else { &extensions };
        let parts = Parts { source, flags, options: &options, data_offset, data: &data, extensions };
        let mut segment = parts.build();
        if random.percent(5) {
            let length = random.between(segment.tcp, segment.frame.len());
            segment.frame.truncate(length);
        }
        if compare(&bench, &segment, limit(source), &format!("segment {nth}, {parts:?}")) {
            clamped += 1;
        }
        // Before the next one: after a quarter of a second without any the next hop is a dead one.
        bench.let_some_arrive();
    }
    let counted = counted(&bench.seed.server).since(before);
    assert_eq!(counted.clamped.packets, clamped);
    assert!(clamped > SEGMENTS as u64 / 5, "{clamped} of {SEGMENTS}");
}
