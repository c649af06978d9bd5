//! The size of a packet, compared with the next hop's MTU, and TCP's MSS option, which limits the size of a connection's
//! packets.
//!
//! `bpf_redirect_neigh` ignores MTUs. A packet that is too big for the device would be lost, and its sender not told.

use byway_abi::{
    FAMILY_IPV4, MSS_AUTO, MSS_OFF,
    flow::{TCP, UDP},
};

use crate::{
    packet::{ETHERNET_LEN, Packet},
    rows::read_once,
    skb::{SEGMENTS, Skb},
    transport::{self, ICMPV6},
};

/// Not 0 if the kernel has `bpf_check_mtu` (Linux 5.12). Userspace sets it before it loads the programs. If it is 0, the
/// verifier never sees the call.
#[unsafe(no_mangle)]
static HAS_CHECK_MTU: u32 = 0;

/// `gso_size` of a packet whose segments have different sizes (`GSO_BY_FRAGS`, include/linux/skbuff.h), as SCTP's have.
const BY_FRAGMENTS: u32 = 0xFFFF;

/// The result of the comparison, with the MTU of the next hop's device in bytes.
pub enum Size {
    /// The packet fits. The MTU is 0 if nobody asked for it, or if the device has just gone.
    Fits(u32),
    TooBig(u32),
}

/// The smallest MTU of a device with IPv4 (RFC 791; `inetdev_valid_mtu`, include/linux/inetdevice.h). That of IPv6 is larger.
const ALWAYS_FITS: u32 = 68;

/// Compares the packet, or its segments, with the MTU of a device. `noted` is that MTU for kernels that do not tell it. If
/// `wants_mtu`, asks for the MTU even if any MTU would do.
#[inline(always)]
pub fn check_mtu(skb: &Skb, packet: &Packet, ifindex: u32, noted: u32, wants_mtu: bool) -> Size {
    let segment = skb.segment_size();
    let length = skb.len() - packet.offset;
    if length <= ALWAYS_FITS && !wants_mtu {
        return Size::Fits(0);
    }
    if read_once(&HAS_CHECK_MTU) != 0 {
        // In: the length to compare, or 0 to compare the segments. Out: the MTU.
        let mut mtu = if segment == 0 { length } else { 0 };
        let flags = if segment == 0 { 0 } else { SEGMENTS };
        return match skb.check_mtu(ifindex, &mut mtu, flags) {
            0 => Size::Fits(mtu),
            1.. if segment != 0 && fits_as_jumbogram(skb, packet.family, segment, mtu) != 0 => {
                Size::Fits(mtu)
            }
            1.. => Size::TooBig(mtu),
            _ => Size::Fits(0),
        };
    }
    let longest = match segment {
        0 => length,
        // The sender has chosen their sizes. If they are too large here, nobody notices.
        BY_FRAGMENTS => 0,
        _ => length.min(segment_headers(skb, packet.family) + segment),
    };
    if longest <= noted { Size::Fits(noted) } else { Size::TooBig(noted) }
}

/// Compares a reply with the MTU of a device, and clamps its MSS option, as a global function. `packet` is [`kind_of`] the
/// packet, and `noted` as for [`check_mtu`]. Returns the MTU, with [`TOO_BIG`] or [`CLAMPED`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn fit(skb: &Skb, packet: u32, ifindex: u32, noted: u32, mss: u32) -> u64 {
    let packet = Packet {
        offset: ETHERNET_LEN as u32,
        family: packet >> 8,
        protocol: packet as u8,
        source: [0; 4],
        destination: [0; 4],
    };
    let may_be_syn = mss != u32::from(MSS_OFF) && may_be_syn(skb, &packet);
    match check_mtu(skb, &packet, ifindex, noted, may_be_syn) {
        Size::Fits(mtu) if may_be_syn && clamp_mss(skb, &packet, mss as u16, mtu) => CLAMPED | u64::from(mtu),
        Size::Fits(mtu) => mtu.into(),
        Size::TooBig(mtu) => TOO_BIG | u64::from(mtu),
    }
}

/// Bit of what [`fit`] returns: the packet does not fit.
pub const TOO_BIG: u64 = 1 << 32;
/// Bit of what [`fit`] returns: the MSS option was clamped.
pub const CLAMPED: u64 = 1 << 33;

/// Returns the family and the protocol of a packet as one number, for [`fit`].
#[inline(always)]
pub fn kind_of(packet: &Packet) -> u32 {
    packet.family << 8 | u32::from(packet.protocol)
}

/// Length of the hop-by-hop header that makes a jumbogram (RFC 2675).
const JUMBO_LEN: u32 = 8;

/// Returns 1 if the packet is a jumbogram whose segments fit the MTU. TCP makes jumbograms of more than 65,535 bytes over IPv6
/// ("BIG TCP", `ipv6_has_hopopt_jumbo` in include/net/ipv6.h). Their segments do not have the packet's hop-by-hop header, but
/// `bpf_check_mtu` counts it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn fits_as_jumbogram(skb: &Skb, family: u32, segment: u32, mtu: u32) -> u32 {
    if family == FAMILY_IPV4 || skb.len() <= 0xFFFF {
        return 0;
    }
    // The next header is hop-by-hop. That has the length 0 and one option: jumbo payload.
    let Some([0]) = skb.load::<1>(ETHERNET_LEN as u32 + 6) else { return 0 };
    let Some([_, 0, 0xC2, 4]) = skb.load::<4>(ETHERNET_LEN as u32 + 40) else { return 0 };
    let headers = segment_headers(skb, family);
    if headers.wrapping_sub(JUMBO_LEN).wrapping_add(segment) <= mtu { 1 } else { 0 }
}

/// Returns the length of the headers that each segment begins with, from the IP header on.
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
/// Where the checksum is in a TCP header.
const TCP_CHECKSUM: u32 = 16;
/// Room for options in a TCP header, in bytes.
const OPTIONS: usize = 40;
const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;

/// Clamps the MSS option of a SYN or SYN-ACK to what a rule says, or to what fits the MTU. Never raises or adds one. Returns
/// whether it has changed the option.
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

/// Returns whether a closer look may find a SYN. This is quick, and enough for nearly all packets.
#[inline(always)]
pub fn may_be_syn(skb: &Skb, packet: &Packet) -> bool {
    let header = match (packet.family, packet.protocol) {
        (FAMILY_IPV4, TCP) => 20,
        (FAMILY_IPV4, _) | (_, UDP | ICMPV6) => return false,
        (_, TCP) => 40,
        // It may be behind extension headers.
        _ => return true,
    };
    // If an IPv4 header has options, this byte is in them.
    let Some(flags) = skb.at::<u8>(ETHERNET_LEN + header + 13) else { return true };
    let has_options = packet.family == FAMILY_IPV4 && skb.at::<u8>(ETHERNET_LEN) != Some(&0x45);
    has_options || flags & SYN != 0
}

/// Clamps the MSS option of a SYN or SYN-ACK to a limit. Returns 1 if it has changed the option.
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

/// Finds the value of the MSS option among the options from `start` up to `end`. Returns where it is, or 0.
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
        // The verifier follows every path through every round. So there is only one path from here on: no branch for the option
        // without a length, and none for a length that is too short.
        let other = core::hint::black_box(u32::from(kind ^ NO_OPERATION));
        let has_length = (other + 255) >> 8;
        let length = core::hint::black_box(u32::from(length));
        // 0 if the length is 0 or 1.
        let step = 1 - has_length + has_length * length * (((length >> 1) + 127) >> 7);
        if kind == END_OF_OPTIONS || step == 0 {
            break;
        }
        left = left.wrapping_sub(step);
    }
    0
}

/// Writes two bytes into the TCP header at `start`, and corrects its checksum. Both values are in network byte order.
#[inline(always)]
fn replace(skb: &Skb, start: u32, at: u32, old: u16, new: u16) -> bool {
    if !skb.store(at, &new.to_ne_bytes()) {
        return false;
    }
    // The checksum is a sum of words. At an odd place, each byte is in the other half of its word (RFC 1071).
    let is_odd = (at - start) & 1 != 0;
    let (old, new) = if is_odd { (old.swap_bytes(), new.swap_bytes()) } else { (old, new) };
    // If the device will fill in the checksum, it will find the new bytes, and the helper changes nothing.
    skb.replace_in_checksum(start + TCP_CHECKSUM, old, new)
}
