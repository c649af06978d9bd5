//! The target `reply-to`: which way a flow came in by, and so which way its replies leave by.
//!
//! [`note`] runs for each packet that comes in, and [`way`] for each that a rule sends back ([`byway_abi::reply`]).
//!
//! A spoofed request must not move the replies of anybody else. So a flow that is not confirmed steers only the answers to
//! its first packet, a flow is confirmed by the number that acknowledges the SYN-ACK, and it moves to another way only when
//! two packets in a row have come in by that one.

use byway_abi::{
    FAMILY_IPV4, Fragments,
    flow::{TCP, has_ports},
    is_reply_to, meta,
    reply::{
        Entry, FLOW_ANSWERED, FLOW_ANSWERED_SYN, FLOW_CONFIRMED, FLOW_FREE, FLOW_IN_BOTH, FLOW_NEW,
        FLOW_OF_HOST, FLOW_REQUESTED, KEY_WORDS, Way, fingerprint, flow_ticks,
    },
};

use crate::{
    clock, flow, flow_table, heard, liveness, lookup,
    maps::{FLOW_KEYS, FRAGMENTED, META, REPLY_DEVICES},
    packet::{self, Header, Packet},
    skb::Skb,
    socket,
    transport::{self, ICMP, ICMPV6, Part},
    ways,
};

/// What a packet is to its flow: its transport header, as one number, which is all that a global function can return. From the
/// lowest bit on: ports (32 bits), number or protocol (24), kind (3), and part (2). 0 if the packet has no flow.
#[derive(Clone, Copy)]
struct Segment(u64);

impl Segment {
    /// TCP's first packet.
    const SYN: u64 = 1;
    /// TCP's answer to that, whose number the client has to acknowledge.
    const SYN_ACK: u64 = 2;
    const RESET: u64 = 3;
    /// Any other packet of TCP.
    const OTHER: u64 = 4;
    /// ICMP's echo request.
    const REQUEST: u64 = 5;
    /// ICMP's echo reply, or any packet that an ICMP error quotes.
    const REPLY: u64 = 6;
    /// Any other packet, which does not say who began the flow.
    const DATAGRAM: u64 = 7;
    /// Instead of a kind, an ICMP error that leaves: its number is where the packet begins that it quotes.
    const ERROR: u64 = 0;

    const WHOLE: u64 = 1;
    const FIRST_FRAGMENT: u64 = 2;
    const LATER_FRAGMENT: u64 = 3;

    /// `number` is the acknowledged number of an incoming segment of TCP, or the number that acknowledges an outgoing SYN-ACK:
    /// its last 24 bits. For another protocol it is that protocol.
    #[inline(always)]
    fn new(kind: u64, ports: u32, number: u32, part: u64) -> Self {
        Self(u64::from(ports) | u64::from(number & NUMBER) << 32 | kind << 56 | part << 59)
    }

    #[inline(always)]
    fn kind(self) -> u64 {
        self.0 >> 56 & 7
    }

    #[inline(always)]
    fn part(self) -> u64 {
        self.0 >> 59 & 3
    }

    #[inline(always)]
    fn number(self) -> u32 {
        (self.0 >> 32) as u32 & NUMBER
    }

    #[inline(always)]
    fn protocol(self) -> u32 {
        if self.kind() <= Self::OTHER { TCP.into() } else { self.number() }
    }
}

// How a packet goes, for `segment` and `fingerprint_of`.
const COMES_IN: u32 = 0;
const LEAVES: u32 = 1;
/// It came in, and is quoted by an ICMP error.
const IS_QUOTED: u32 = 2;

/// Notes the flow of a packet that has come in, and the way that it came in by.
#[inline(always)]
pub fn note(skb: &Skb, header: Header) {
    if let Header::Ethernet = header {
        heard::note(skb);
    }
    // `PACKET_HOST`: to this host, not one that a bridge or a sniffer gets to see.
    if skb.packet_type() == 0 {
        let _ = note_packet(skb, header);
    }
}

#[inline(always)]
fn note_packet(skb: &Skb, header: Header) -> Option<()> {
    let packet = packet::parse(skb, header.len()).ok()?;
    let segment = Segment(segment(skb, packet.family, packet.offset, COMES_IN));
    if matches!(segment.part(), 0 | Segment::LATER_FRAGMENT) {
        return None;
    }
    let fingerprint = fingerprint_of(skb, packet.offset, COMES_IN, segment.0 as u32, segment.protocol());
    let way = Way { ifindex: skb.ifindex(), addresses: addresses(skb, header)? };
    let now = flow_ticks(clock::jiffies());
    let before = Entry::read(flow_table::find(fingerprint));
    let mut entry = before;
    match before.state {
        FLOW_NEW | FLOW_ANSWERED_SYN => {
            if ways::is_same(before.way, &way) {
                liveness::seen(before.way.into());
            }
            let is_answer = segment.kind() == Segment::OTHER && before.state == FLOW_ANSWERED_SYN;
            if is_answer && segment.number() == before.number {
                entry.state = FLOW_CONFIRMED;
            } else if segment.kind() == Segment::SYN && !ways::is_same(before.way, &way) {
                entry.state = FLOW_NEW;
            } else {
                return None;
            }
            entry.way = ways::number(&way)?;
        }
        FLOW_CONFIRMED | FLOW_REQUESTED | FLOW_ANSWERED | FLOW_IN_BOTH => {
            if ways::is_same(before.way, &way) {
                entry.is_moving = false;
                liveness::seen(before.way.into());
            } else {
                // TCP alone has numbers that tell. If the old way is dead, a client may begin anew.
                let begins_anew = segment.kind() == Segment::SYN && liveness::is_out(before.way.into());
                if before.state == FLOW_CONFIRMED
                    && !begins_anew
                    && socket::may_have_sent(skb, packet.family, packet.offset) == 0
                {
                    return None;
                }
                let other = ways::number(&way)?;
                if before.is_moving && before.number == u32::from(other) {
                    entry.way = other;
                    entry.is_moving = false;
                } else {
                    entry.is_moving = true;
                    entry.number = other.into();
                }
            }
            if before.state == FLOW_ANSWERED && before.age != now {
                entry.state = FLOW_IN_BOTH;
            } else if entry == before && before.idle(now) <= before.timeout() / 4 {
                return None;
            }
        }
        FLOW_OF_HOST if before.rank(now) != 0 => return None,
        _ => {
            entry.state = match segment.kind() {
                Segment::SYN => FLOW_NEW,
                Segment::REQUEST | Segment::DATAGRAM => FLOW_REQUESTED,
                _ => return None,
            };
            if !is_asked_for(&packet) {
                return None;
            }
            entry.way = ways::number(&way)?;
            entry.is_moving = false;
        }
    }
    entry.age = now;
    flow_table::put(fingerprint, entry.word(), now);
    if entry.way != before.way {
        liveness::seen(entry.way.into());
    }
    if let Header::Ethernet = header {
        heard::is_alive(way.ifindex, heard::sender(way.addresses));
    }
    Some(())
}

/// Returns whether a rule sends the replies to a packet back.
#[inline(always)]
fn is_asked_for(packet: &Packet) -> bool {
    let reply = Packet { source: packet.destination, destination: packet.source, ..*packet };
    let Some(generation) = META.get(meta::GENERATION) else { return false };
    lookup::find(&reply, generation & 1).is_some_and(|target| is_reply_to(target.kind))
}

/// Returns 1 if a set of devices has this one, and 0 if it has not. Set 0 has all.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn is_of(set: u32, ifindex: u32) -> u32 {
    (set == 0 || REPLY_DEVICES.get_ptr(&[set, ifindex]).is_some()).into()
}

/// Returns the number of the way that a reply leaves by, or 0 if the packet is no reply of a known flow.
#[inline(always)]
pub fn way(skb: &Skb, packet: &Packet) -> u32 {
    let (family, mut offset, mut goes) = (packet.family, packet.offset, LEAVES);
    let mut segment = Segment(self::segment(skb, family, offset, goes));
    if segment.part() == Segment::WHOLE && segment.kind() == Segment::ERROR {
        (offset, goes) = (segment.number(), IS_QUOTED);
        segment = Segment(self::segment(skb, family, offset, goes));
    }
    if segment.part() == 0 {
        return 0;
    }
    if segment.part() == Segment::LATER_FRAGMENT {
        return way_of_fragment(skb, family, offset, 0);
    }
    let fingerprint = fingerprint_of(skb, offset, goes, segment.0 as u32, segment.protocol());
    let way = way_of_flow(fingerprint, segment.0);
    if way != 0 && segment.part() == Segment::FIRST_FRAGMENT && goes == LEAVES {
        way_of_fragment(skb, family, offset, way);
    }
    way
}

/// Notes the way of a packet that leaves in fragments, for the later ones. If it is 0, returns the noted one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn way_of_fragment(skb: &Skb, family: u32, offset: u32, way: u32) -> u32 {
    let found = || {
        let transport = transport::find(skb, family, offset)?;
        let mut addresses = [[0; 4]; 2];
        if family == FAMILY_IPV4 {
            let bytes: [u8; 8] = skb.load(offset + 12)?;
            let [a, b, c, d, e, f, g, h] = bytes;
            addresses =
                [[u32::from_ne_bytes([a, b, c, d]), 0, 0, 0], [u32::from_ne_bytes([e, f, g, h]), 0, 0, 0]];
        } else {
            let bytes: [u8; 32] = skb.load(offset + 8)?;
            for (nth, bytes) in bytes.as_chunks::<4>().0.iter().enumerate() {
                addresses[nth / 4][nth % 4] = u32::from_ne_bytes(*bytes);
            }
        }
        let key = flow::fragment_key(addresses[0], addresses[1], &transport, OF_REPLY);
        let fragments = FRAGMENTED.get(0)?;
        if way != 0 {
            let noted = Fragments { written: clock::now(), hash: way, by_first: 1 };
            // If this fails, the later fragments are no replies.
            let _ = fragments.insert(key, flow::fragment_row(noted), 0);
            return None;
        }
        // SAFETY: the row has as many words. The map may give it to another packet during the read. At worst, this fragment
        // then goes where that packet goes.
        fragments.get_ptr(key).map(|row| unsafe { (*row.cast::<Fragments>()).hash })
    };
    match found() {
        Some(way) => way,
        None => 0,
    }
}

/// Tells the fragments of replies from those that groups have noted.
const OF_REPLY: u32 = 1 << 8;

/// Finds the way of a flow that a segment leaves by, and notes that it does. Returns 0 if there is none.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn way_of_flow(fingerprint: u64, segment: u64) -> u32 {
    let segment = Segment(segment);
    if segment.kind() == Segment::REQUEST {
        return 0;
    }
    let now = flow_ticks(clock::jiffies());
    let before = Entry::read(flow_table::find(fingerprint));
    let mut entry = before;
    match before.state {
        FLOW_CONFIRMED if segment.kind() == Segment::SYN => {
            // The host itself begins another connection between the same ports, so this one is over.
            flow_table::put(fingerprint, 0, now);
            return 0;
        }
        FLOW_NEW | FLOW_ANSWERED_SYN => match segment.kind() {
            Segment::SYN_ACK => {
                entry.state = FLOW_ANSWERED_SYN;
                entry.number = segment.number();
            }
            Segment::RESET | Segment::REPLY => {}
            _ => return 0,
        },
        FLOW_REQUESTED => entry.state = FLOW_ANSWERED,
        FLOW_CONFIRMED | FLOW_ANSWERED | FLOW_IN_BOTH | FLOW_OF_HOST => {
            if before.idle(now) > before.timeout() / 2 {
                entry.age = now;
            }
        }
        FLOW_FREE if segment.kind() == Segment::DATAGRAM => entry.state = FLOW_OF_HOST,
        _ => return 0,
    }
    if entry != before {
        entry.age = now;
        flow_table::put(fingerprint, entry.word(), now);
    }
    before.way.into()
}

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
/// The last 24 bits of a sequence number.
const NUMBER: u32 = 0xFF_FFFF;

// Types of ICMP messages (RFC 792, RFC 4443).
const ECHO_REPLY: u8 = 0;
const UNREACHABLE: u8 = 3;
const ECHO_REQUEST: u8 = 8;
const TIME_EXCEEDED: u8 = 11;
const PARAMETER_PROBLEM: u8 = 12;
const ECHO_REQUEST6: u8 = 128;
const ECHO_REPLY6: u8 = 129;

/// Reads the transport header of the packet whose IP header begins at `offset` ([`Segment`]).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segment(skb: &Skb, family: u32, offset: u32, goes: u32) -> u64 {
    let Some(transport) = transport::find(skb, family, offset) else { return 0 };
    let part = match transport.part {
        Part::Whole => Segment::WHOLE,
        Part::FirstFragment => Segment::FIRST_FRAGMENT,
        Part::LaterFragment => return Segment::new(Segment::DATAGRAM, 0, 0, Segment::LATER_FRAGMENT).0,
    };
    let protocol = transport.protocol;
    let start = transport.offset;
    let is_v4 = family == FAMILY_IPV4;
    let (kind, ports, number) = if (is_v4 && protocol == ICMP) || (!is_v4 && protocol == ICMPV6) {
        let Some([first, second]) = skb.words(start) else { return 0 };
        let kind = match (is_v4, (u32::from_be(first) >> 24) as u8) {
            (true, ECHO_REQUEST) | (false, ECHO_REQUEST6) => Segment::REQUEST,
            (true, ECHO_REPLY) | (false, ECHO_REPLY6) => Segment::REPLY,
            (true, UNREACHABLE | TIME_EXCEEDED | PARAMETER_PROBLEM) | (false, 1..=4) if goes == LEAVES => {
                return Segment::new(Segment::ERROR, 0, start + 8, Segment::WHOLE).0;
            }
            _ => return 0,
        };
        (kind, u32::from_be(second) >> 16, protocol.into())
    } else if has_ports(protocol) {
        let Some([ports]) = skb.words(start) else { return 0 };
        // The remote port comes first.
        let ports = u32::from_be(ports).rotate_left(if goes == LEAVES { 16 } else { 0 });
        if protocol != TCP || goes == IS_QUOTED {
            (Segment::DATAGRAM, ports, protocol.into())
        } else {
            let Some(words) = skb.words(start + 4) else { return 0 };
            let [sequence, acknowledged, flags]: [u32; 3] = words;
            let flags = (u32::from_be(flags) >> 16) as u8;
            let kind = match flags & (SYN | RST | ACK) {
                // The host forwards this one. Its sender is unknown, so it ends no connection.
                SYN if goes == LEAVES && skb.ingress_ifindex() != 0 => Segment::OTHER,
                SYN => Segment::SYN,
                flags if flags & RST != 0 => Segment::RESET,
                flags if flags == SYN | ACK => Segment::SYN_ACK,
                _ => Segment::OTHER,
            };
            let number = match goes {
                COMES_IN => u32::from_be(acknowledged),
                _ => u32::from_be(sequence).wrapping_add(1),
            };
            (kind, ports, number)
        }
    } else {
        (Segment::DATAGRAM, 0, protocol.into())
    };
    // Whatever an error quotes, the error is an answer to it.
    let kind = if goes == IS_QUOTED { Segment::REPLY } else { kind };
    Segment::new(kind, ports, number, part).0
}

/// Returns the fingerprint of the flow of a packet whose IP header begins at `offset`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn fingerprint_of(skb: &Skb, offset: u32, goes: u32, ports: u32, protocol: u32) -> u64 {
    let Some(keys) = FLOW_KEYS.get(0) else { return 0 };
    let Some([first]) = skb.words(offset) else { return 0 };
    let version = u32::from_be(first) >> 28;
    let mut words = [0; KEY_WORDS];
    // The remote address comes first.
    if version == 4 {
        let Some([source, destination]) = skb.words(offset + 12) else { return 0 };
        (words[0], words[4]) = if goes == LEAVES { (destination, source) } else { (source, destination) };
    } else {
        let Some(addresses) = skb.words::<8>(offset + 8) else { return 0 };
        for nth in 0..8 {
            words[nth] = if goes == LEAVES { addresses[(nth + 4) % 8] } else { addresses[nth] };
        }
    }
    words[8] = ports;
    words[9] = version << 8 | protocol;
    fingerprint(&words, keys)
}

/// Returns the Ethernet addresses of a packet, or zeros if it has none.
#[inline(always)]
fn addresses(skb: &Skb, header: Header) -> Option<[u32; 3]> {
    match header {
        Header::Ethernet => packet::ethernet_addresses(skb),
        Header::L3 => Some([0; 3]),
    }
}
