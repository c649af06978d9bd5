//! The answer to a packet that is too big for its next hop: ICMP "fragmentation needed" (RFC 792, RFC 1191), ICMPv6
//! "packet too big" (RFC 4443).
//!
//! The packet itself becomes the answer. It is turned round and put into the device that it was leaving by, as if it had
//! come in there from where it was going. So it takes the stack's ordinary way to its sender, whether that is a socket of
//! this host or a host behind it, and reverse NAT, connection tracking and `rp_filter` find what they expect.
//!
//! An IPv4 packet that may be fragmented is answered like any other. Nobody but its sender can fragment it, and Linux
//! does, once it knows to what size.

use core::ptr;

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT},
    helpers::generated::{
        bpf_csum_diff, bpf_ktime_get_ns, bpf_redirect, bpf_skb_adjust_room, bpf_skb_change_tail,
        bpf_skb_load_bytes, bpf_skb_store_bytes,
    },
    programs::TcContext,
};
use byway_abi::{ANSWER_BURST, ANSWER_INTERVAL, FAMILY_IPV4};

use crate::{
    maps::{NEXT_HOP_COUNTERS, QUOTE_HEAD_LEN, QUOTE_HEADS},
    packet::{self, ETHERNET_LEN, Packet},
    transport::{self, ICMP, ICMPV6, Transport, load},
};

const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const ICMP_LEN: usize = 8;

/// How much of a packet an answer quotes: with it, an IPv4 packet that any host takes (RFC 1812, 4.3.2.3).
const QUOTE4: usize = 576 - IPV4_LEN - ICMP_LEN;
/// Of a smaller packet than that: any header with options, and eight bytes (RFC 792).
const QUOTE4_SHORT: usize = 60 + 8;
/// With it, the smallest IPv6 MTU (RFC 4443, 2.4c).
const QUOTE6: usize = IPV6_MTU as usize - IPV6_LEN - ICMP_LEN;
const IPV6_MTU: u32 = 1_280;

/// How much of a quote is cut off and put back, which is to hold the headers up to the transport header: any of IPv4, and
/// 120 bytes of extension headers of IPv6.
const HEAD: usize = QUOTE_HEAD_LEN;
/// Of a short quote. The kernel wants an IPv4 header's length to be left.
const HEAD_SHORT: usize = QUOTE4_SHORT - IPV4_LEN;

/// `BPF_ADJ_ROOM_MAC`: room behind the Ethernet header (include/uapi/linux/bpf.h).
const BEHIND_ETHERNET: u32 = 1;
/// `BPF_F_INGRESS`.
const INGRESS: u64 = 1;

/// Makes the packet the answer and returns the verdict that sends it off. What cannot be answered is dropped. `slot` is the
/// next hop's.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn answer_too_big(skb: *mut __sk_buff, slot: u32, mtu: u32) -> i32 {
    let ctx = &TcContext::new(skb);
    let answer = || {
        let packet = packet::parse(ctx, ETHERNET_LEN).ok()?;
        let transport = transport::find(ctx, packet.family, packet.offset)?;
        if !may_be_answered(ctx, &packet, &transport, mtu) || !is_allowed(slot)? {
            return None;
        }
        let length = ctx.len() as usize - ETHERNET_LEN;
        match packet.family {
            FAMILY_IPV4 if length >= QUOTE4 => ipv4::<QUOTE4, HEAD>(ctx, &packet, mtu),
            FAMILY_IPV4 if length >= QUOTE4_SHORT => ipv4::<QUOTE4_SHORT, HEAD_SHORT>(ctx, &packet, mtu),
            FAMILY_IPV4 => None,
            _ if length >= QUOTE6 => ipv6(ctx, &packet, mtu),
            _ => None,
        }
    };
    match answer() {
        // SAFETY: the kernel hands a valid `__sk_buff`, whose fields the verifier checks; the helper takes numbers.
        Some(()) => unsafe { bpf_redirect((*skb).ifindex, INGRESS) as i32 },
        None => TC_ACT_SHOT,
    }
}

/// Answers a packet, or drops it. Returns the verdict, and whether it was answered.
#[inline(always)]
pub fn too_big(ctx: &TcContext, slot: u32, mtu: u32) -> (i32, bool) {
    // SAFETY: the verifier has seen the function by itself.
    let verdict = unsafe { answer_too_big(ctx.skb.skb, slot, mtu) };
    (verdict, verdict != TC_ACT_SHOT)
}

/// Whether an error may be sent about the packet (RFC 1122, 3.2.2; RFC 4443, 2.4e).
#[inline(always)]
fn may_be_answered(ctx: &TcContext, packet: &Packet, transport: &Transport, mtu: u32) -> bool {
    // Nor where the headers run beyond the packet.
    if !transport.is_there() || transport.offset > ctx.len() {
        return false;
    }
    if packet.family == FAMILY_IPV4 {
        let source = u32::from_be(packet.source[0]);
        // 0.0.0.0/8, 127.0.0.0/8, and 224.0.0.0 and above: no single host.
        if source >> 24 == 0 || source >> 24 == 127 || source >> 29 == 7 {
            return false;
        }
        if transport.protocol != ICMP {
            return true;
        }
        // Unreachable, source quench, redirect, time exceeded, parameter problem: errors are not answered.
        return !matches!(load(ctx, transport.offset), None | Some([3 | 4 | 5 | 11 | 12]));
    }
    let source = packet.source;
    // The unspecified address, ::1, and ff00::/8.
    let is_single = source[0] | source[1] | source[2] | source[3] & !1_u32.to_be() != 0
        && u32::from_be(source[0]) >> 24 != 0xFF;
    if !is_single || mtu < IPV6_MTU {
        // A smaller MTU than IPv6's smallest is no news to a host (RFC 8200, 5).
        return false;
    }
    // Below 128 are the errors.
    transport.protocol != ICMPV6 || load(ctx, transport.offset).is_some_and(|[kind]: [u8; 1]| kind >= 128)
}

/// Takes an answer from the allowance of this next hop on this CPU, if there is one left.
#[inline(always)]
fn is_allowed(slot: u32) -> Option<bool> {
    // SAFETY: the entry is this CPU's own.
    let counters = unsafe { &mut *NEXT_HOP_COUNTERS.get_ptr_mut(slot)? };
    // SAFETY: the helper only reads the clock.
    let now = unsafe { bpf_ktime_get_ns() };
    let earliest = now.saturating_sub(ANSWER_BURST * ANSWER_INTERVAL);
    let until = counters.answers_until.max(earliest) + ANSWER_INTERVAL;
    if until > now {
        return Some(false);
    }
    counters.answers_until = until;
    Some(true)
}

#[inline(always)]
fn ipv4<const QUOTE: usize, const HEAD: usize>(ctx: &TcContext, packet: &Packet, mtu: u32) -> Option<()> {
    let addresses = packet::ethernet_addresses(ctx)?;
    let quoted = shorten::<QUOTE>(ctx)?;

    const LEN: usize = IPV4_LEN + ICMP_LEN;
    let mut headers = [0_u8; LEN];
    let (ip, icmp) = headers.split_at_mut(IPV4_LEN);
    // TOS: internetwork control, as the kernel has it (`icmp_send`, net/ipv4/icmp.c). Do not fragment; TTL 64.
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
    prepend::<LEN, HEAD>(ctx, addresses, 0x0800, &headers)
}

#[inline(always)]
fn ipv6(ctx: &TcContext, packet: &Packet, mtu: u32) -> Option<()> {
    let addresses = packet::ethernet_addresses(ctx)?;
    let quoted = shorten::<QUOTE6>(ctx)?;

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
    prepend::<LEN, { self::HEAD }>(ctx, addresses, 0x86DD, &headers)
}

#[inline(always)]
fn bytes(address: [u32; 4]) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (nth, word) in address.iter().enumerate() {
        bytes[nth * 4..nth * 4 + 4].copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

/// Cuts the packet off behind what is quoted, and returns the sum of that.
#[inline(always)]
fn shorten<const QUOTE: usize>(ctx: &TcContext) -> Option<u16> {
    // This ends the packet's being one of segmentation offload, too, and makes it one piece.
    // SAFETY: the helper checks the length.
    if unsafe { bpf_skb_change_tail(ctx.skb.skb, (ETHERNET_LEN + QUOTE) as u32, 0) } != 0 {
        return None;
    }
    let start = ctx.data() + ETHERNET_LEN;
    if start + QUOTE > ctx.data_end() {
        return None;
    }
    let mut total = 0;
    let mut at = 0;
    // The helper sums up 512 bytes at a time.
    for _ in 0..QUOTE.div_ceil(512) {
        let length = if QUOTE - at < 512 { QUOTE - at } else { 512 };
        let from = (start + at) as *mut u32;
        // SAFETY: the bytes are there, as checked above.
        let sum = unsafe { bpf_csum_diff(ptr::null_mut(), 0, from, length as u32, total) };
        total = u32::try_from(sum).ok()?;
        at += length;
    }
    Some(fold(total))
}

/// Puts headers ahead of what is quoted, and turns the Ethernet addresses round.
///
/// The transport checksum of the quoted packet may be one that is left to the device (`CHECKSUM_PARTIAL`), which a program
/// cannot see. Whoever filled it in on the answer's way would make the answer's own checksum wrong. The kernel gives that up
/// when the transport header is cut off (`skb_postpull_rcsum`, include/linux/skbuff.h). So the head of what is quoted is cut
/// off and put back.
#[inline(always)]
fn prepend<const LEN: usize, const QUOTE_HEAD: usize>(
    ctx: &TcContext,
    addresses: [u32; 3],
    ether_type: u16,
    headers: &[u8; LEN],
) -> Option<()> {
    let skb = ctx.skb.skb;
    let [a, b, c] = addresses.map(u32::to_ne_bytes);
    let [high, low] = ether_type.to_be_bytes();
    let ethernet = [b[2], b[3], c[0], c[1], c[2], c[3], a[0], a[1], a[2], a[3], b[0], b[1], high, low];
    let head = QUOTE_HEADS.get_ptr_mut(0)?;
    let (start, head_len) = (ETHERNET_LEN as u32, QUOTE_HEAD as u32);
    // SAFETY: the entry is this CPU's own, and at least as long as `QUOTE_HEAD`. The helpers read and write as many bytes as
    // they are told, and check the bounds of the packet.
    let failed = unsafe {
        bpf_skb_load_bytes(skb.cast(), start, head.cast(), head_len) != 0
            || bpf_skb_adjust_room(skb, -(QUOTE_HEAD as i32), BEHIND_ETHERNET, 0) != 0
            || bpf_skb_adjust_room(skb, (LEN + QUOTE_HEAD) as i32, BEHIND_ETHERNET, 0) != 0
            || bpf_skb_store_bytes(skb.cast(), 0, ethernet.as_ptr().cast(), start, 0) != 0
            || bpf_skb_store_bytes(skb.cast(), start, headers.as_ptr().cast(), LEN as u32, 0) != 0
            || bpf_skb_store_bytes(skb.cast(), start + LEN as u32, head.cast(), head_len, 0) != 0
    };
    (!failed).then_some(())
}

/// The sum of bytes, four at a time, not folded yet.
#[inline(always)]
fn sum(bytes: &[u8], seed: u32) -> Option<u32> {
    // SAFETY: the helper reads as many bytes as there are.
    let sum = unsafe {
        bpf_csum_diff(ptr::null_mut(), 0, bytes.as_ptr().cast_mut().cast(), bytes.len() as u32, seed)
    };
    u32::try_from(sum).ok()
}

/// A sum in 16 bits (RFC 1071), in the byte order of what was summed up.
#[inline(always)]
fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xFFFF) + (sum >> 16);
    let sum = (sum & 0xFFFF) + (sum >> 16);
    sum as u16
}
