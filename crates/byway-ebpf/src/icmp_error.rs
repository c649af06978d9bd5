//! The answer to a packet that is too big for its next hop: ICMP "fragmentation needed" (RFC 792, RFC 1191), ICMPv6
//! "packet too big" (RFC 4443).
//!
//! The packet itself becomes the answer. It is put into the device that it was leaving by, as if it had come in there from its
//! destination. So it takes the stack's ordinary way to the sender, which is a socket of this host or a host behind it, and
//! reverse NAT, connection tracking and `rp_filter` find what they expect.
//!
//! IPv4 packets that may be fragmented are answered as well. Only the sender can fragment them, and Linux does, once it knows
//! the size.

use byway_abi::{ANSWER_BURST, ANSWER_INTERVAL, FAMILY_IPV4};

use crate::{
    clock,
    maps::{NEXT_HOP_COUNTERS, QUOTE_HEAD_LEN, QUOTE_HEADS},
    packet::{self, ETHERNET_LEN, Packet},
    rows::{PerCpu, field},
    skb::{Skb, sum},
    transport::{self, ICMP, ICMPV6, Transport},
    verdict::{self, DROP, Verdict},
};

const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const ICMP_LEN: usize = 8;

/// How much of an IPv4 packet an answer quotes. Any host accepts an answer of that size (RFC 1812, 4.3.2.3).
const QUOTE4: usize = 576 - IPV4_LEN - ICMP_LEN;
/// How much it quotes of a smaller packet: any header with options, and eight bytes (RFC 792).
const QUOTE4_SHORT: usize = 60 + 8;
/// How much of an IPv6 packet an answer quotes. The answer has the size of the smallest MTU (RFC 4443, 2.4c).
const QUOTE6: usize = IPV6_MTU as usize - IPV6_LEN - ICMP_LEN;
const IPV6_MTU: u32 = 1_280;

/// How much of a quote `prepend` cuts off and puts back: the headers up to the transport header. That is any IPv4 header, and
/// 120 bytes of IPv6 extension headers.
const HEAD: usize = QUOTE_HEAD_LEN;
/// How much of a short quote it cuts off. The kernel requires that the length of an IPv4 header is left.
const HEAD_SHORT: usize = QUOTE4_SHORT - IPV4_LEN;

/// Makes the packet the answer, and returns the verdict that sends it off, or [`DROP`] if it may not be answered. `slot` is
/// that of the next hop.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn answer_too_big(skb: &Skb, slot: u32, mtu: u32) -> Verdict {
    match make_answer(skb, slot, mtu) {
        Some(()) => verdict::receive_from(skb.ifindex()),
        None => DROP,
    }
}

/// Makes the packet the answer, if it may be answered.
#[inline(always)]
fn make_answer(skb: &Skb, slot: u32, mtu: u32) -> Option<()> {
    let packet = packet::parse(skb, ETHERNET_LEN).ok()?;
    let transport = transport::find(skb, packet.family, packet.offset)?;
    if !may_be_answered(skb, &packet, &transport, mtu) || !is_allowed(slot)? {
        return None;
    }
    let length = skb.len() as usize - ETHERNET_LEN;
    match packet.family {
        FAMILY_IPV4 if length >= QUOTE4 => ipv4::<QUOTE4, HEAD>(skb, &packet, mtu),
        FAMILY_IPV4 if length >= QUOTE4_SHORT => ipv4::<QUOTE4_SHORT, HEAD_SHORT>(skb, &packet, mtu),
        FAMILY_IPV4 => None,
        _ if length >= QUOTE6 => ipv6(skb, &packet, mtu),
        _ => None,
    }
}

/// Returns whether an error may be sent about the packet (RFC 1122, 3.2.2; RFC 4443, 2.4e).
#[inline(always)]
fn may_be_answered(skb: &Skb, packet: &Packet, transport: &Transport, mtu: u32) -> bool {
    // Later fragments may not be answered, nor packets that end within their headers.
    if !transport.is_there() || transport.offset > skb.len() {
        return false;
    }
    if packet.family == FAMILY_IPV4 {
        let source = u32::from_be(packet.source[0]);
        // 0.0.0.0/8, 127.0.0.0/8, and 224.0.0.0 and above are not the address of a single host.
        if source >> 24 == 0 || source >> 24 == 127 || source >> 29 == 7 {
            return false;
        }
        if transport.protocol != ICMP {
            return true;
        }
        // Errors are not answered: unreachable, source quench, redirect, time exceeded, parameter problem.
        return !matches!(skb.load(transport.offset), None | Some([3 | 4 | 5 | 11 | 12]));
    }
    let source = packet.source;
    // The unspecified address, ::1, and ff00::/8.
    let is_single = source[0] | source[1] | source[2] | source[3] & !1_u32.to_be() != 0
        && u32::from_be(source[0]) >> 24 != 0xFF;
    if !is_single || mtu < IPV6_MTU {
        // A host does nothing about an MTU below IPv6's smallest (RFC 8200, 5).
        return false;
    }
    // Errors are below 128.
    transport.protocol != ICMPV6 || skb.load(transport.offset).is_some_and(|[kind]: [u8; 1]| kind >= 128)
}

/// Uses up one answer of the next hop's allowance on this CPU. Returns whether there was one left.
#[inline(always)]
fn is_allowed(slot: u32) -> Option<bool> {
    let answers_until = field!(NEXT_HOP_COUNTERS.mine(slot)?, answers_until);
    let now = clock::now();
    let earliest = now.saturating_sub(ANSWER_BURST * ANSWER_INTERVAL);
    let until = answers_until.get().max(earliest) + ANSWER_INTERVAL;
    if until > now {
        return Some(false);
    }
    answers_until.set(until);
    Some(true)
}

#[inline(always)]
fn ipv4<const QUOTE: usize, const HEAD: usize>(skb: &Skb, packet: &Packet, mtu: u32) -> Option<()> {
    let addresses = packet::ethernet_addresses(skb)?;
    let quoted = shorten::<QUOTE>(skb)?;

    const LEN: usize = IPV4_LEN + ICMP_LEN;
    let mut headers = [0_u8; LEN];
    let (ip, icmp) = headers.split_at_mut(IPV4_LEN);
    // TOS: internetwork control, like the kernel's own errors (`icmp_send`, net/ipv4/icmp.c). Do not fragment. TTL 64.
    let total = ((LEN + QUOTE) as u16).to_be_bytes();
    ip.copy_from_slice(&[
        0x45, 0xC0, total[0], total[1], 0, 0, 0x40, 0, 64, ICMP, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ]);
    ip[12..16].copy_from_slice(&packet.destination[0].to_ne_bytes());
    ip[16..20].copy_from_slice(&packet.source[0].to_ne_bytes());
    let mtu = (if mtu > 0xFFFF { 0xFFFF } else { mtu as u16 }).to_be_bytes();
    // Destination unreachable, fragmentation needed.
    icmp.copy_from_slice(&[3, 4, 0, 0, 0, 0, mtu[0], mtu[1]]);
    let of_ip = !fold(sum(ip, 0)?);
    ip[10..12].copy_from_slice(&of_ip.to_ne_bytes());
    let of_icmp = !fold(sum(icmp, u32::from(quoted))?);
    icmp[2..4].copy_from_slice(&of_icmp.to_ne_bytes());
    prepend::<LEN, HEAD>(skb, addresses, 0x0800, &headers)
}

#[inline(always)]
fn ipv6(skb: &Skb, packet: &Packet, mtu: u32) -> Option<()> {
    let addresses = packet::ethernet_addresses(skb)?;
    let quoted = shorten::<QUOTE6>(skb)?;

    const LEN: usize = IPV6_LEN + ICMP_LEN;
    let mut headers = [0_u8; LEN];
    let (ip, icmp) = headers.split_at_mut(IPV6_LEN);
    let length = ((ICMP_LEN + QUOTE6) as u16).to_be_bytes();
    ip[8..24].copy_from_slice(&bytes(packet.destination));
    ip[24..40].copy_from_slice(&bytes(packet.source));
    // The sum covers the addresses, the length and the protocol (RFC 8200, 8.1).
    ip[..8].copy_from_slice(&[0, 0, length[0], length[1], 0, 0, 0, ICMPV6]);
    let pseudo = fold(sum(ip, u32::from(quoted))?);
    // Packet too big.
    let mtu = mtu.to_be_bytes();
    icmp.copy_from_slice(&[2, 0, 0, 0, mtu[0], mtu[1], mtu[2], mtu[3]]);
    let of_icmp = !fold(sum(icmp, u32::from(pseudo))?);
    icmp[2..4].copy_from_slice(&of_icmp.to_ne_bytes());
    ip[..8].copy_from_slice(&[0x60, 0, 0, 0, length[0], length[1], ICMPV6, 64]);
    prepend::<LEN, { self::HEAD }>(skb, addresses, 0x86DD, &headers)
}

#[inline(always)]
fn bytes(address: [u32; 4]) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (nth, word) in address.iter().enumerate() {
        bytes[nth * 4..nth * 4 + 4].copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

/// Cuts the packet off after the quoted part, and returns the sum of that part.
#[inline(always)]
fn shorten<const QUOTE: usize>(skb: &Skb) -> Option<u16> {
    // This also ends segmentation offload for the packet.
    if !skb.set_len((ETHERNET_LEN + QUOTE) as u32) {
        return None;
    }
    let mut total = 0;
    let mut at = 0;
    // The helper accepts at most 512 bytes at a time.
    for _ in 0..QUOTE.div_ceil(512) {
        let length = if QUOTE - at < 512 { QUOTE - at } else { 512 };
        total = skb.sum(ETHERNET_LEN + at, length, total)?;
        at += length;
    }
    Some(fold(total))
}

/// Adds the headers before the quote, and swaps the Ethernet addresses.
///
/// The device may have to fill in the transport checksum of the quoted packet (`CHECKSUM_PARTIAL`), and a program cannot see
/// that. If a device did so on the answer's way, the answer's own checksum would be wrong. The kernel cancels it when the
/// transport header is cut off (`skb_postpull_rcsum`, include/linux/skbuff.h). So this cuts off the head of the quote, and
/// puts it back.
#[inline(always)]
fn prepend<const LEN: usize, const QUOTE_HEAD: usize>(
    skb: &Skb,
    addresses: [u32; 3],
    ether_type: u16,
    headers: &[u8; LEN],
) -> Option<()> {
    let [a, b, c] = addresses.map(u32::to_ne_bytes);
    let [high, low] = ether_type.to_be_bytes();
    let ethernet = [b[2], b[3], c[0], c[1], c[2], c[3], a[0], a[1], a[2], a[3], b[0], b[1], high, low];
    let head = &QUOTE_HEADS.mine(0)?.as_array_of_cells()[..QUOTE_HEAD];
    let start = ETHERNET_LEN as u32;
    let is_done = skb.load_into(start, head)
        && skb.adjust_room(-(QUOTE_HEAD as i32))
        && skb.adjust_room((LEN + QUOTE_HEAD) as i32)
        && skb.store(0, &ethernet)
        && skb.store(start, headers)
        && skb.store_from(start + LEN as u32, head);
    is_done.then_some(())
}

/// Folds a sum into 16 bits (RFC 1071), in the byte order of the summed bytes.
#[inline(always)]
fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xFFFF) + (sum >> 16);
    let sum = (sum & 0xFFFF) + (sum >> 16);
    sum as u16
}
