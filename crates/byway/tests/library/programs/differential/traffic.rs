//! Random frames, most of them about the rules at hand.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use byway::{Prefix, Rule, Target};

use super::{
    MTUS,
    parse::{
        AUTHENTICATION, Address, DCCP, DESTINATION, ETHERNET, FRAGMENT, Flow, HOP_BY_HOP, ICMP, ICMPV6, IPV4,
        IPV6, ROUTING, SCTP, TCP, UDP, UDP_LITE, WITH_PORTS,
    },
    world::{World, anywhere, around},
};
use crate::support::random::Random;

/// A frame, and what comes with it.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) bytes: Vec<u8>,
    /// The attachment that it leaves by.
    pub(crate) ifindex: u32,
    /// Of a segmentation-offload packet, else 0.
    pub(crate) segments: u32,
    pub(crate) mark: u32,
    pub(crate) priority: u32,
    pub(crate) cb: [u32; 5],
}

/// Fragments of one packet that are still to come. The program need not remember a packet for ever.
struct Train {
    fragments: Vec<Vec<u8>>,
    since: Instant,
}

const TRAIN_TAKES: Duration = Duration::from_millis(300);

/// Destinations and sources with a class of their own, and their neighbours that have none.
const SPECIAL: [&[&str]; 2] = [
    &[
        "224.0.0.1",
        "239.255.255.255",
        "223.255.255.255",
        "240.0.0.0",
        "255.255.255.255",
        "255.255.255.254",
        "169.254.0.0",
        "169.254.255.255",
        "169.253.255.255",
        "169.255.0.0",
        "0.0.0.0",
        "127.0.0.1",
    ],
    &[
        "ff02::1",
        "ff0e::1",
        "ff00::",
        "feff::1",
        "fe80::1",
        "febf:ffff::1",
        "fe7f:ffff::1",
        "fec0::1",
        "::",
        "::1",
        "::ffff:192.168.1.5",
        "fd00::1",
    ],
];

/// Protocols without ports, some of which other readers take for extension headers (135, 139, 140).
const OTHERS: [u8; 14] = [1, 2, 4, 41, 47, 50, 58, 59, 88, 112, 135, 139, 140, 253];

pub(crate) struct Traffic {
    attachments: Vec<u32>,
    longest: usize,
    /// Flows whose packets come again and again.
    flows: Vec<Flow>,
    known: HashSet<Flow>,
    trains: Vec<Train>,
    /// Gives every packet an identification of its own, for as long as 16 bits last.
    next_id: u32,
}

impl Traffic {
    pub(crate) fn new(attachments: Vec<u32>, longest: usize) -> Self {
        Self {
            attachments,
            longest,
            flows: Vec::new(),
            known: HashSet::new(),
            trains: Vec::new(),
            next_id: 0,
        }
    }

    pub(crate) fn is_pooled(&self, flow: &Flow) -> bool {
        self.known.contains(flow)
    }

    /// Flows for other rules.
    pub(crate) fn turn(&mut self, random: &mut Random, world: &World, rules: &[Rule]) {
        // Some stay: they may meet the same group by way of another rule.
        self.flows.truncate(8);
        while self.flows.len() < 64 {
            self.flows.push(random_flow(random, world, rules));
        }
        random.shuffle(&mut self.flows);
        self.known = self.flows.iter().cloned().collect();
    }

    /// After a change no fragment is sent on, since its packet may have got another target.
    pub(crate) fn forget_fragments(&mut self) {
        self.trains.clear();
    }

    pub(crate) fn frame(&mut self, random: &mut Random, world: &World, rules: &[Rule]) -> Frame {
        let bytes = match self.fragment(random) {
            Some(bytes) => bytes,
            None => self.packet(random, world, rules),
        };
        // Not where the segments would decide whether it is too big. In a packet of BPF_PROG_TEST_RUN the
        // kernel does not know where the transport header is, and what it says of the segments of such a one
        // has changed: that they are too big, or since 2025 that it cannot tell (EINVAL; `bpf_skb_check_mtu`,
        // net/core/filter.c).
        let fits_everywhere = MTUS.iter().all(|(_, mtu)| bytes.len() - ETHERNET <= *mtu as usize);
        let segments = if fits_everywhere && random.percent(4) { random.between(1, 64) as u32 } else { 0 };
        let is_plain = random.percent(60);
        let mut word = || if is_plain { 0 } else { random.next() as u32 };
        let (mark, priority, cb) = (word(), word(), std::array::from_fn(|_| word()));
        Frame { bytes, ifindex: *random.pick(&self.attachments), segments, mark, priority, cb }
    }

    /// The next fragment of a packet under way.
    fn fragment(&mut self, random: &mut Random) -> Option<Vec<u8>> {
        self.trains.retain(|train| !train.fragments.is_empty() && train.since.elapsed() < TRAIN_TAKES);
        if self.trains.is_empty() || random.percent(40) {
            return None;
        }
        let nth = random.below(self.trains.len());
        let mut fragment = self.trains[nth].fragments.pop()?;
        if random.percent(10) {
            self.grow(random, &mut fragment);
        }
        Some(fragment)
    }

    fn packet(&mut self, random: &mut Random, world: &World, rules: &[Rule]) -> Vec<u8> {
        let flow = match random.percent(50) {
            true => random.pick(&self.flows).clone(),
            false => random_flow(random, world, rules),
        };
        if random.percent(8) {
            let train = self.train(random, &flow);
            self.trains.push(train);
        }
        let mut bytes = self.whole(random, &flow);
        if random.percent(15) {
            self.grow(random, &mut bytes);
        }
        if random.percent(30) {
            self.spoil(random, &mut bytes);
        }
        bytes
    }

    /// Makes the payload longer, so that the packet is about as long as some device takes.
    fn grow(&self, random: &mut Random, bytes: &mut Vec<u8>) {
        let (_, mtu) = *random.pick(&MTUS);
        let length = match random.below(100) {
            0..30 => mtu as usize,
            30..60 => mtu as usize + 1,
            60..70 => mtu as usize - 1,
            _ => random.between(600, self.longest - ETHERNET),
        };
        let more = length.min(self.longest - ETHERNET).saturating_sub(bytes.len() - ETHERNET);
        let is_v4 = bytes[12..ETHERNET] == IPV4.to_be_bytes();
        bytes.extend(random.bytes(more));
        let (at, length) = if is_v4 { (2, bytes.len() - ETHERNET) } else { (4, bytes.len() - ETHERNET - 40) };
        bytes[ETHERNET + at..ETHERNET + at + 2].copy_from_slice(&(length as u16).to_be_bytes());
        if !is_v4 && [ROUTING, DESTINATION].contains(&bytes[ETHERNET + 6]) && random.percent(15) {
            // What follows the first extension header is in the midst of the payload, or beyond it.
            bytes[ETHERNET + 41] = random.next() as u8;
        }
    }

    fn id(&mut self) -> u32 {
        self.next_id = self.next_id.wrapping_add(1);
        self.next_id
    }

    /// An unfragmented packet of a flow, in one of its many forms.
    fn whole(&mut self, random: &mut Random, flow: &Flow) -> Vec<u8> {
        let room = self.longest - ETHERNET - 400;
        let payload = transport(random, flow, room);
        if flow.source.is_v4 {
            let options = if random.percent(20) { random.between(1, 10) } else { 0 };
            return ipv4(random, flow, options, self.id(), 0, &payload);
        }
        // With the fragment header eight, the most that the program follows to the ports.
        let mut chain = extensions(random, 7);
        if random.percent(4) {
            // An "atomic" fragment: the first and last of its packet.
            chain.push(fragment_header(self.id(), 0, false));
        }
        ipv6(random, flow, &chain, flow.protocol, &payload)
    }

    /// All fragments of a packet of a flow, in the order of their going, the last one first.
    fn train(&mut self, random: &mut Random, flow: &Flow) -> Train {
        let id = self.id();
        let count = random.between(2, 5);
        let (mut fragments, mut offset) = (Vec::new(), 0_u16);
        // Behind the fragment header, so a part of what is fragmented.
        let inner = if random.percent(25) { vec![extension(random, DESTINATION)] } else { Vec::new() };
        let outer = extensions(random, 2);
        for nth in 0..count {
            let is_last = nth + 1 == count;
            // At the place of the ports of all but the first is whatever the packet carries.
            let mut payload = if nth == 0 { transport(random, flow, 200) } else { random.bytes(200) };
            payload.resize(8 * random.between(1, 6).max(payload.len() / 8), 0xA5);
            let bytes = if flow.source.is_v4 {
                let options = if random.percent(20) { random.between(1, 10) } else { 0 };
                let flags = offset | if is_last { 0 } else { 0x2000 };
                ipv4(random, flow, options, id, flags, &payload)
            } else {
                let mut chain = outer.clone();
                chain.push(fragment_header(id, offset, !is_last));
                let behind = inner.first().map_or(flow.protocol, |_| DESTINATION);
                if nth == 0 {
                    chain.extend(inner.clone());
                    ipv6(random, flow, &chain, flow.protocol, &payload)
                } else {
                    ipv6(random, flow, &chain, behind, &payload)
                }
            };
            offset += (payload.len() / 8) as u16;
            fragments.push(bytes);
        }
        if random.percent(50) {
            fragments.reverse();
        } else {
            random.shuffle(&mut fragments);
        }
        Train { fragments, since: Instant::now() }
    }

    /// Damages a frame, or makes it something that no rule is for.
    fn spoil(&self, random: &mut Random, bytes: &mut Vec<u8>) {
        let is_v4 = bytes[12..ETHERNET] == IPV4.to_be_bytes();
        match random.below(11) {
            0..3 => bytes.truncate(random.between(ETHERNET, bytes.len())),
            3 => bytes[ETHERNET] = bytes[ETHERNET] & 0xF | (random.below(16) << 4) as u8,
            4 => bytes[ETHERNET] = random.next() as u8,
            5 => {
                let at = ETHERNET + if is_v4 { 2 } else { 4 };
                bytes[at..at + 2].copy_from_slice(&random.bytes(2));
            }
            6 => {
                let types = [0x0806, 0x8100, 0x88A8, 0x8847, 0x88CC, 0x0000, 0x0100, IPV4, IPV6];
                let other = if random.percent(80) { *random.pick(&types) } else { random.next() as u16 };
                bytes[12..ETHERNET].copy_from_slice(&other.to_be_bytes());
            }
            7 => {
                let groups =
                    [[0xFF; 6], [0x01, 0, 0x5E, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1], [0x03, 0, 0, 0, 0, 9]];
                bytes[..6].copy_from_slice(&groups[random.below(groups.len())]);
            }
            8 => {
                let special: Address =
                    (*random.pick(SPECIAL[usize::from(!is_v4)])).parse::<std::net::IpAddr>().unwrap().into();
                let source = ETHERNET + if is_v4 { 12 } else { 8 };
                let length = special.bytes().len();
                let at = if random.percent(70) { source + length } else { source };
                bytes[at..at + length].copy_from_slice(&special.bytes());
            }
            9 if !is_v4 => {
                // Around neighbour discovery, its type included that is cut off.
                bytes.truncate(ETHERNET + 40);
                bytes[ETHERNET + 6] = ICMPV6;
                if random.percent(85) {
                    bytes.push(random.between(128, 140) as u8);
                    bytes.extend(random.bytes(7));
                }
            }
            9 => {
                let padding = random.below(self.longest - bytes.len() + 1);
                bytes.extend(random.bytes(padding));
            }
            _ => {
                for _ in 0..random.between(1, 3) {
                    let at = random.between(ETHERNET, bytes.len().min(ETHERNET + 60) - 1);
                    bytes[at] ^= 1 << random.below(8);
                }
            }
        }
    }
}

fn random_flow(random: &mut Random, world: &World, rules: &[Rule]) -> Flow {
    // Groups have the most to go wrong.
    let of_groups: Vec<&Rule> =
        rules.iter().filter(|rule| matches!(rule.target, Target::NextHops(_) | Target::Group(_))).collect();
    let rule = match random.below(100) {
        0..35 if !of_groups.is_empty() => Some(*random.pick(&of_groups)),
        0..80 if !rules.is_empty() => Some(random.pick(rules)),
        _ => None,
    };
    let is_v4 = rule.map_or_else(|| random.percent(50), |rule| rule.source.address().is_ipv4());
    let address = |random: &mut Random, prefix: Option<&Prefix>| match (random.below(100), prefix) {
        (0..75, Some(prefix)) => around(random, prefix),
        (0..92, _) => world.near(random, is_v4),
        _ => anywhere(random, is_v4),
    };
    let source = address(random, rule.map(|rule| &rule.source));
    let destination = address(random, rule.and_then(|rule| rule.destination.as_ref()));
    let protocol = match random.below(100) {
        0..40 => UDP,
        40..60 => TCP,
        60..66 => SCTP,
        66..70 => DCCP,
        70..74 => UDP_LITE,
        // In IPv4 it is a protocol as any other.
        74..76 if is_v4 => AUTHENTICATION,
        76..80 => {
            if is_v4 {
                ICMP
            } else {
                ICMPV6
            }
        }
        _ => *random.pick(&OTHERS),
    };
    let ports = WITH_PORTS.contains(&protocol).then(|| random.bytes(4).try_into().unwrap());
    Flow { source, destination, protocol, ports }
}

/// A transport header with the flow's ports, and what follows it.
fn transport(random: &mut Random, flow: &Flow, room: usize) -> Vec<u8> {
    if flow.protocol == TCP && random.percent(50) {
        return tcp(random, flow);
    }
    let length = match random.below(100) {
        0..92 => random.between(8, 80),
        92..96 => random.between(4, 8),
        _ => random.between(8, room),
    };
    let mut bytes = random.bytes(length);
    if let Some(ports) = flow.ports {
        bytes[..4].copy_from_slice(&ports);
    }
    match flow.protocol {
        // The errors among them, and what is next to an error.
        ICMP if random.percent(60) => bytes[0] = random.between(0, 13) as u8,
        ICMPV6 if random.percent(60) => bytes[0] = *random.pick(&[0, 1, 2, 3, 4, 127, 128, 129]),
        _ => {}
    }
    if flow.protocol == ICMPV6 && (133..=137).contains(&bytes[0]) && random.percent(90) {
        bytes[0] = 128;
    }
    bytes
}

/// A TCP segment, most of them a SYN (RFC 9293, 3.1 and 3.2), with an option for the MSS in one of many
/// places. Its checksum is any: what a lower MSS has to leave as it is, is how far off it is.
fn tcp(random: &mut Random, flow: &Flow) -> Vec<u8> {
    let mut options = Vec::new();
    for _ in 0..random.below(6) {
        match random.below(100) {
            0..45 => {
                let mss = match random.below(100) {
                    0..60 => {
                        let (_, mtu) = *random.pick(&MTUS);
                        mtu as usize - random.pick(&[40, 60]) + random.below(3) - 1
                    }
                    60..80 => *random.pick(&[0, 87, 88, 89, 536, 1_200, 1_240, 65_495, 65_535]),
                    _ => random.next() as u16 as usize,
                };
                let length = if random.percent(92) { 4 } else { *random.pick(&[0, 1, 2, 3, 5, 6, 255]) };
                options.extend([2, length]);
                options.extend((mss as u16).to_be_bytes());
                // Where the length is wrong, the next option begins there all the same, half of the time.
                if random.percent(50) {
                    options.extend(random.bytes(usize::from(length.clamp(4, 6)) - 4));
                }
            }
            45..65 => options.push(1), // no operation
            65..75 => options.extend([3, 3, 7]),
            75..82 => options.extend([4, 2]),
            82..90 => {
                options.extend([8, 10]);
                options.extend(random.bytes(8));
            }
            90..94 => options.push(0), // the end
            94..96 => options.extend([random.between(2, 30) as u8, random.below(3) as u8]),
            _ => options.extend(random.bytes(4)),
        }
    }
    options.truncate(40);
    // With no word of padding where the last option fills it.
    options.resize(options.len().next_multiple_of(4), u8::from(random.percent(50)));
    let words = if random.percent(92) { 5 + options.len() / 4 } else { random.below(16) };
    let mut bytes = random.bytes(20);
    bytes[..4].copy_from_slice(&flow.ports.unwrap());
    bytes[12] = (words << 4) as u8 | bytes[12] & 0xF;
    bytes[13] = if random.percent(85) { *random.pick(&[0x02, 0x12, 0xC2, 0x06]) } else { bytes[13] };
    if random.percent(20) {
        bytes[16..18].fill(*random.pick(&[0, 0xFF]));
    }
    bytes.extend(options);
    let payload = if random.percent(70) { 0 } else { random.below(9) };
    bytes.extend(random.bytes(payload));
    bytes
}

fn ethernet(random: &mut Random, ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = random.bytes(12);
    frame[0] &= !1;
    frame.extend(ether_type.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A frame with an IPv4 header with so many words of options (RFC 791). The checksum is none: nothing on the way looks at it.
fn ipv4(random: &mut Random, flow: &Flow, options: usize, id: u32, flags: u16, payload: &[u8]) -> Vec<u8> {
    let header = 20 + 4 * options;
    let mut packet = vec![0x40 | (header / 4) as u8, random.next() as u8];
    packet.extend(((header + payload.len()) as u16).to_be_bytes());
    packet.extend((id as u16).to_be_bytes());
    // "Don't fragment" or not.
    let flags = if flags == 0 && random.percent(50) { 0x4000 } else { flags };
    packet.extend(flags.to_be_bytes());
    packet.extend([random.next() as u8, flow.protocol]);
    packet.extend(random.bytes(2));
    packet.extend(flow.source.bytes());
    packet.extend(flow.destination.bytes());
    packet.extend(random.bytes(4 * options));
    packet.extend(payload);
    ethernet(random, IPV4, &packet)
}

/// An extension header: its number, and its bytes, the first of which will say what follows.
type Extension = (u8, Vec<u8>);

/// A frame with an IPv6 header (RFC 8200), extension headers, and behind them what is of this protocol.
fn ipv6(random: &mut Random, flow: &Flow, chain: &[Extension], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut behind = Vec::new();
    for (nth, (_, header)) in chain.iter().enumerate() {
        let at = behind.len();
        behind.extend(header);
        behind[at] = chain.get(nth + 1).map_or(protocol, |(number, _)| *number);
    }
    behind.extend(payload);
    let mut packet = random.bytes(4);
    packet[0] = 0x60 | packet[0] & 0xF;
    packet.extend((behind.len() as u16).to_be_bytes());
    packet.extend([chain.first().map_or(protocol, |(number, _)| *number), random.next() as u8]);
    packet.extend(flow.source.bytes());
    packet.extend(flow.destination.bytes());
    packet.extend(behind);
    ethernet(random, IPV6, &packet)
}

fn extensions(random: &mut Random, most: usize) -> Vec<Extension> {
    if random.percent(60) {
        return Vec::new();
    }
    let mut chain: Vec<Extension> = (0..random.between(1, most))
        .map(|_| {
            let number = *random.pick(&[ROUTING, DESTINATION, AUTHENTICATION]);
            extension(random, number)
        })
        .collect();
    if random.percent(40) {
        chain[0] = extension(random, HOP_BY_HOP);
    }
    chain
}

fn extension(random: &mut Random, number: u8) -> Extension {
    let (count, length) = match number {
        // In words of four bytes, less two (RFC 4302).
        AUTHENTICATION => {
            let count = random.between(1, 5);
            (count, 4 * (count + 2))
        }
        _ => {
            let count = random.below(4);
            (count, 8 * (count + 1))
        }
    };
    let mut bytes = random.bytes(length);
    bytes[1] = count as u8;
    (number, bytes)
}

fn fragment_header(id: u32, offset: u16, is_more: bool) -> Extension {
    let mut bytes = vec![0, 0];
    bytes.extend((offset << 3 | u16::from(is_more)).to_be_bytes());
    bytes.extend(id.to_be_bytes());
    (FRAGMENT, bytes)
}
