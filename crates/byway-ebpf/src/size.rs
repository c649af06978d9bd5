//! Whether a packet fits the next hop's way, and the MSS option of TCP, which sees to it that the packets of a connection
//! will.
//!
//! `bpf_redirect_neigh` looks at no MTU. What is too big for the device would vanish in it, without a word to the sender.

use byway_abi::{
    FAMILY_IPV4, MSS_AUTO, NextHop,
    flow::{TCP, UDP},
};

use crate::{
    packet::{ETHERNET_LEN, Packet},
    rows::read_once,
    skb::{SEGMENTS, Skb},
    transport::{self, ICMPV6},
};

/// Not 0 where the kernel has `bpf_check_mtu` (Linux 5.12). Userspace sets it before it loads the programs; where it is
/// 0, the verifier never sees the call.
#[unsafe(no_mangle)]
static HAS_CHECK_MTU: u32 = 0;

/// `gso_size` of a packet whose segments are of several sizes (`GSO_BY_FRAGS`, include/linux/skbuff.h): SCTP's.
const BY_FRAGMENTS: u32 = 0xFFFF;

/// A packet against the MTU of its next hop's device, in bytes.
pub enum Size {
    /// It fits. The MTU is 0 where it is not known: the device has gone this very moment.
    Fits(u32),
    TooBig(u32),
}

/// What every device takes that has IPv4 (RFC 791; `inetdev_valid_mtu`, include/linux/inetdevice.h), or IPv6, which takes more.
const ALWAYS_FITS: u32 = 68;

/// Judges a packet, one of segmentation offload by its segments. The MTU is known afterwards where it has to be.
#[inline(always)]
pub fn check_mtu(skb: &Skb, packet: &Packet, next_hop: &NextHop, wants_mtu: bool) -> Size {
    let segment = skb.segment_size();
    let length = skb.len() - packet.offset;
    if length <= ALWAYS_FITS && !wants_mtu {
        return Size::Fits(0);
    }
    if read_once(&HAS_CHECK_MTU) != 0 {
        // Goes in as the length to judge, 0 for the segments', and comes out as the MTU.
        let mut mtu = if segment == 0 { length } else { 0 };
        let flags = if segment == 0 { 0 } else { SEGMENTS };
        return match skb.check_mtu(next_hop.ifindex, &mut mtu, flags) {
            0 => Size::Fits(mtu),
            1.. if segment != 0 && fits_as_jumbogram(skb, packet.family, segment, mtu) != 0 => {
                Size::Fits(mtu)
            }
            1.. => Size::TooBig(mtu),
            _ => Size::Fits(0),
        };
    }
    let mtu = next_hop.mtu;
    let longest = match segment {
        0 => length,
        // The sender has cut them to size; that they are too large here is not seen.
        BY_FRAGMENTS => 0,
        _ => length.min(segment_headers(skb, packet.family) + segment),
    };
    if longest <= mtu { Size::Fits(mtu) } else { Size::TooBig(mtu) }
}

/// Length of the hop-by-hop header that makes a jumbogram (RFC 2675).
const JUMBO_LEN: u32 = 8;

/// Whether a packet is a jumbogram (1 if it is), as TCP makes them of more than 65,535 bytes over IPv6 ("BIG TCP",
/// `ipv6_has_hopopt_jumbo` in include/net/ipv6.h), and its segments fit the MTU. They do not have the hop-by-hop header that
/// the packet has; `bpf_check_mtu` counts it all the same.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn fits_as_jumbogram(skb: &Skb, family: u32, segment: u32, mtu: u32) -> u32 {
    if family == FAMILY_IPV4 || skb.len() <= 0xFFFF {
        return 0;
    }
    // The next header, and with the hop-by-hop header's own length of 0, its one option: jumbo payload.
    let Some([0]) = skb.load::<1>(ETHERNET_LEN as u32 + 6) else { return 0 };
    let Some([_, 0, 0xC2, 4]) = skb.load::<4>(ETHERNET_LEN as u32 + 40) else { return 0 };
    let headers = segment_headers(skb, family);
    if headers.wrapping_sub(JUMBO_LEN).wrapping_add(segment) <= mtu { 1 } else { 0 }
}

/// The length of what each segment begins with, from the IP header on.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segment_headers(skb: &Skb, family: u32) -> u32 {
    let Some(transport) = transport::find(skb, family, ETHERNET_LEN as u32) else { return 0 };
    let length = match transport.protocol {
        TCP => skb.load(transport.offset + 12).map_or(0, |[word]: [u8; 1]| u32::from(word >> 4) * 4),
        UDP => 8,
        _ => 0,
    };
    transport.offset - ETHERNET_LEN as u32 + length
}

const SYN: u8 = 0x02;
/// Length of a TCP header without options (RFC 9293).
const TCP_LEN: u32 = 20;
/// Where its checksum is.
const TCP_CHECKSUM: u32 = 16;
/// Most options that a TCP header has room for.
const OPTIONS: usize = 40;
const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;

/// Clamps the MSS option of a SYN or SYN-ACK to what a rule says, or to what fits the MTU. It is never raised, and never
/// put where there is none. Says whether there was anything to clamp.
#[inline(always)]
pub fn clamp_mss(skb: &Skb, packet: &Packet, mss: u16, mtu: u32) -> bool {
    let headers = if packet.family == FAMILY_IPV4 { 40 } else { 60 };
    let limit = match mss {
        MSS_AUTO if mtu > headers => mtu - headers,
        MSS_AUTO => return false,
        mss => u32::from(mss),
    };
    clamp_mss_to(skb, packet.family, limit) != 0
}

/// Whether a closer look may find a SYN. Few packets have one, and this much is quick.
#[inline(always)]
pub fn may_be_syn(skb: &Skb, packet: &Packet) -> bool {
    let header = match (packet.family, packet.protocol) {
        (FAMILY_IPV4, TCP) => 20,
        (FAMILY_IPV4, _) | (_, UDP | ICMPV6) => return false,
        (_, TCP) => 40,
        // Behind extension headers.
        _ => return true,
    };
    // Where an IPv4 header has options, this is one of them.
    let Some(flags) = skb.at::<u8>(ETHERNET_LEN + header + 13) else { return true };
    let has_options = packet.family == FAMILY_IPV4 && skb.at::<u8>(ETHERNET_LEN) != Some(&0x45);
    has_options || flags & SYN != 0
}

/// Clamps the MSS option of a SYN or SYN-ACK. Says by a 1 whether there was anything to clamp.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn clamp_mss_to(skb: &Skb, family: u32, limit: u32) -> u32 {
    let clamp = || {
        let transport = transport::find(skb, family, ETHERNET_LEN as u32)?;
        if transport.protocol != TCP || !transport.is_there() {
            return None;
        }
        let start = transport.offset;
        let [length, flags] = skb.load(start + 12)?;
        if flags & SYN == 0 {
            return None;
        }
        let end = start + u32::from(length >> 4) * 4;
        if end > skb.len() {
            return None;
        }
        let at = find_mss(skb, start + TCP_LEN, end);
        if at == 0 {
            return None;
        }
        let old = skb.load(at)?;
        let exceeds = u32::from(u16::from_be_bytes(old)) > limit;
        (exceeds && replace(skb, start, at, u16::from_ne_bytes(old), (limit as u16).to_be())).then_some(())
    };
    if clamp().is_some() { 1 } else { 0 }
}

/// Where the value of the MSS option is, among options from `start` up to `end`; 0 where it is not.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_mss(skb: &Skb, start: u32, end: u32) -> u32 {
    let mut left = end.wrapping_sub(start);
    for _ in 0..OPTIONS {
        if !(4..=OPTIONS as u32).contains(&left) {
            break;
        }
        let Some([kind, length]) = skb.load(end - left) else { break };
        if kind == MAXIMUM_SEGMENT_SIZE {
            return if length == 4 { end - left + 2 } else { 0 };
        }
        // One way only leads on from here, since the verifier follows each way through each round. So no branch tells
        // apart the option that has no length, nor a length that is too short.
        let other = core::hint::black_box(u32::from(kind ^ NO_OPERATION));
        let has_length = (other + 255) >> 8;
        let length = core::hint::black_box(u32::from(length));
        // 0 for lengths of 0 and 1.
        let step = 1 - has_length + has_length * length * (((length >> 1) + 127) >> 7);
        if kind == END_OF_OPTIONS || step == 0 {
            break;
        }
        left = left.wrapping_sub(step);
    }
    0
}

/// Writes two bytes into the TCP header at `start`, and puts its checksum right. Both in network byte order.
#[inline(always)]
fn replace(skb: &Skb, start: u32, at: u32, old: u16, new: u16) -> bool {
    if !skb.store(at, &new.to_ne_bytes()) {
        return false;
    }
    // The sum is one of words: at an odd place each byte is the other half of its word (RFC 1071).
    let is_odd = (at - start) & 1 != 0;
    let (old, new) = if is_odd { (old.swap_bytes(), new.swap_bytes()) } else { (old, new) };
    // A checksum that the device is to fill in covers what it finds then; the helper leaves it.
    skb.replace_in_checksum(start + TCP_CHECKSUM, old, new)
}
