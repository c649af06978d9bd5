//! Parses a packet: to source and destination, or to the class of packets that Byway leaves alone.

use byway_abi::{FAMILY_IPV4, FAMILY_IPV6, class};

use crate::{
    maps::{Address4, Address6},
    skb::{Plain, Skb},
    transport::ICMPV6,
};

/// The header that the packets of a device begin with.
#[derive(Clone, Copy)]
pub enum Header {
    Ethernet,
    /// None: the IP header comes first.
    L3,
}

impl Header {
    #[inline(always)]
    pub fn len(self) -> usize {
        match self {
            Self::Ethernet => ETHERNET_LEN,
            Self::L3 => 0,
        }
    }

    /// Returns 1 if there is no Ethernet header, otherwise 0: an argument for a global function.
    #[inline(always)]
    pub fn is_l3(self) -> u32 {
        match self {
            Self::Ethernet => 0,
            Self::L3 => 1,
        }
    }
}

/// A packet that rules may match.
#[derive(Clone, Copy)]
pub struct Packet {
    /// Where the IP header begins: at 0, or after the Ethernet header.
    pub offset: u32,
    /// [`FAMILY_IPV4`] or [`FAMILY_IPV6`].
    pub family: u32,
    /// In network byte order. An IPv4 address is in the first word.
    pub source: Address6,
    /// In the same form.
    pub destination: Address6,
    /// The protocol of IPv4, or the next header of IPv6, which may be an extension header.
    pub protocol: u8,
}

/// Parses the packet, whose IP header begins at `offset`. If no rule may match it, returns its [`class`].
#[inline(always)]
pub fn parse(skb: &Skb, offset: usize) -> Result<Packet, usize> {
    // A VLAN device has put the tag beside the frame by now, not into it.
    if skb.is_tagged() {
        return Err(class::TAGGED);
    }
    match skb.protocol() {
        ETH_P_IP => ipv4(skb, offset),
        ETH_P_IPV6 => ipv6(skb, offset),
        _ => Err(class::NOT_IP),
    }
}

/// EtherType of IPv4 in network byte order, as `__sk_buff.protocol` has it.
const ETH_P_IP: u32 = (0x0800_u16).to_be() as u32;
/// EtherType of IPv6, in the same form.
pub const ETH_P_IPV6: u32 = (0x86DD_u16).to_be() as u32;

/// EtherType of ARP, in the same form.
pub const ETH_P_ARP: u32 = (0x0806_u16).to_be() as u32;

const ND_NEIGHBOUR_SOLICITATION: u8 = 135;
const ND_ROUTER_SOLICITATION: u8 = 133;
const ND_REDIRECT: u8 = 137;

/// Length of an Ethernet header.
pub const ETHERNET_LEN: usize = 14;

/// An IPv4 header without options (RFC 791), addresses in network byte order.
#[repr(C)]
struct Ipv4 {
    version_ihl: u8,
    head: [u8; 8],
    protocol: u8,
    checksum: [u8; 2],
    source: Address4,
    destination: Address4,
}

/// An IPv6 header (RFC 8200), addresses in network byte order.
#[repr(C)]
struct Ipv6 {
    version: u8,
    head: [u8; 5],
    next_header: u8,
    hop_limit: u8,
    source: Address6,
    destination: Address6,
}

// SAFETY: all fields are numbers, and each begins where the one before it ends: 1 + 8 + 1 + 2 bytes, then two words.
unsafe impl Plain for Ipv4 {}
// SAFETY: all fields are numbers, and each begins where the one before it ends: 1 + 5 + 1 + 1 bytes, then eight words.
unsafe impl Plain for Ipv6 {}

#[inline(always)]
fn ipv4(skb: &Skb, offset: usize) -> Result<Packet, usize> {
    let header = skb.pull::<Ipv4>(offset).ok_or(class::MALFORMED)?;
    let header_len = (header.version_ihl & 0x0F) as usize * 4;
    let parses = header.version_ihl >> 4 == 4
        && header_len >= size_of::<Ipv4>()
        && skb.len() as usize >= offset + header_len;
    if !parses {
        return Err(class::MALFORMED);
    }
    let (source, destination, protocol) = (header.source, header.destination, header.protocol);
    // 224.0.0.0/4
    if is_within(destination, 0xE000_0000, 0xF000_0000) {
        return Err(class::MULTICAST);
    }
    if is_within(destination, LINK_LOCAL4, LINK_LOCAL4_MASK)
        || is_within(source, LINK_LOCAL4, LINK_LOCAL4_MASK)
    {
        return Err(class::LINK_LOCAL);
    }
    if destination == u32::MAX || (offset != 0 && is_multicast_mac(skb)) {
        return Err(class::BROADCAST);
    }
    Ok(Packet {
        offset: offset as u32,
        family: FAMILY_IPV4,
        source: [source, 0, 0, 0],
        destination: [destination, 0, 0, 0],
        protocol,
    })
}

#[inline(always)]
fn ipv6(skb: &Skb, offset: usize) -> Result<Packet, usize> {
    let header = skb.pull::<Ipv6>(offset).ok_or(class::MALFORMED)?;
    if header.version >> 4 != 6 {
        return Err(class::MALFORMED);
    }
    let (source, destination, protocol) = (header.source, header.destination, header.next_header);
    // ff00::/8
    if is_within(destination[0], 0xFF00_0000, 0xFF00_0000) {
        return Err(class::MULTICAST);
    }
    if is_within(destination[0], LINK_LOCAL6, LINK_LOCAL6_MASK)
        || is_within(source[0], LINK_LOCAL6, LINK_LOCAL6_MASK)
    {
        return Err(class::LINK_LOCAL);
    }
    if offset != 0 && is_multicast_mac(skb) {
        return Err(class::MULTICAST);
    }
    // Neighbour discovery belongs to this link, also between global addresses. Its messages have no extension header that
    // would hide it (RFC 4861, RFC 6980).
    if protocol == ICMPV6 {
        let kind = skb.pull::<u8>(offset + size_of::<Ipv6>()).ok_or(class::MALFORMED)?;
        if is_neighbour_discovery(*kind) {
            return Err(class::NEIGHBOUR_DISCOVERY);
        }
    }
    Ok(Packet { offset: offset as u32, family: FAMILY_IPV6, source, destination, protocol })
}

/// Returns whether the frame may be a solicitation: any ARP packet (RFC 826), or IPv6's neighbour solicitation (RFC 4861).
#[inline(always)]
pub fn is_solicitation(skb: &Skb) -> bool {
    // All bytes of the kernel's own solicitations are in the linear part of the frame.
    match skb.protocol() {
        ETH_P_ARP => true,
        ETH_P_IPV6 => {
            skb.at::<Ipv6>(ETHERNET_LEN).is_some_and(|header| header.next_header == ICMPV6)
                && skb.at(ETHERNET_LEN + size_of::<Ipv6>()) == Some(&ND_NEIGHBOUR_SOLICITATION)
        }
        _ => false,
    }
}

/// Returns whether an IPv6 packet in an Ethernet frame may be one of ICMPv6 without extension headers.
#[inline(always)]
pub fn may_be_icmpv6(skb: &Skb) -> bool {
    skb.at::<Ipv6>(ETHERNET_LEN).is_none_or(|header| header.next_header == ICMPV6)
}

/// 169.254.0.0/16 (RFC 3927).
const LINK_LOCAL4: u32 = 0xA9FE_0000;
const LINK_LOCAL4_MASK: u32 = 0xFFFF_0000;
/// The first word of fe80::/10 (RFC 4291).
const LINK_LOCAL6: u32 = 0xFE80_0000;
const LINK_LOCAL6_MASK: u32 = 0xFFC0_0000;

/// Returns whether a word in network byte order is in a prefix that is written in the host's byte order.
#[inline(always)]
fn is_within(word: u32, prefix: u32, mask: u32) -> bool {
    word & mask.to_be() == prefix.to_be()
}

/// Returns the twelve bytes of Ethernet addresses, destination first.
#[inline(always)]
pub fn ethernet_addresses(skb: &Skb) -> Option<[u32; 3]> {
    skb.at(0).copied()
}

/// Returns whether a type of ICMPv6 is one of neighbour discovery (RFC 4861).
#[inline(always)]
pub fn is_neighbour_discovery(kind: u8) -> bool {
    (ND_ROUTER_SOLICITATION..=ND_REDIRECT).contains(&kind)
}

/// Returns whether the frame goes to a broadcast or multicast MAC address. The IPv4 header does not show whether its
/// destination is a subnet's broadcast address, but the stack has resolved that to such a MAC address by now.
#[inline(always)]
fn is_multicast_mac(skb: &Skb) -> bool {
    skb.at::<u8>(0).is_none_or(|first| first & 1 != 0)
}
