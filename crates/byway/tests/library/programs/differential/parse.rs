//! What the model reads in a frame: addresses, and what makes a flow or the fragments of one packet.

use std::{fmt, net::IpAddr};

use byway_abi::class;

pub(crate) const ETHERNET: usize = 14;
pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const IPV6: u16 = 0x86DD;

pub(crate) const HOP_BY_HOP: u8 = 0;
pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const DCCP: u8 = 33;
pub(crate) const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
pub(crate) const AUTHENTICATION: u8 = 51;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const DESTINATION: u8 = 60;
pub(crate) const SCTP: u8 = 132;
pub(crate) const UDP_LITE: u8 = 136;
pub(crate) const WITH_PORTS: [u8; 5] = [TCP, UDP, DCCP, SCTP, UDP_LITE];

/// An address as the bits that a prefix counts, from the left.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Address {
    pub(crate) is_v4: bool,
    pub(crate) bits: u128,
}

impl Address {
    pub(crate) fn width(&self) -> u8 {
        if self.is_v4 { 32 } else { 128 }
    }

    /// From its bytes in network order.
    fn read(bytes: &[u8]) -> Self {
        let mut all = [0; 16];
        all[..bytes.len()].copy_from_slice(bytes);
        Self { is_v4: bytes.len() == 4, bits: u128::from_be_bytes(all) }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.bits.to_be_bytes()[..usize::from(self.width() / 8)].to_vec()
    }

    pub(crate) fn ip(&self) -> IpAddr {
        if self.is_v4 {
            ((self.bits >> 96) as u32).to_be_bytes().into()
        } else {
            self.bits.to_be_bytes().into()
        }
    }

    /// Whether the first bits of both are the same.
    pub(crate) fn agrees(&self, other: &Self, length: u8) -> bool {
        self.is_v4 == other.is_v4
            && (length == 0 || (self.bits ^ other.bits) >> (128 - u32::from(length)) == 0)
    }

    fn is_in(&self, text: &str) -> bool {
        let (address, length) = text.split_once('/').unwrap();
        self.agrees(&Self::from(address.parse::<IpAddr>().unwrap()), length.parse().unwrap())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ip().fmt(f)
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::read(&v4.octets()),
            IpAddr::V6(v6) => Self::read(&v6.octets()),
        }
    }
}

/// What the packets of a flow have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Flow {
    pub(crate) source: Address,
    pub(crate) destination: Address,
    pub(crate) protocol: u8,
    /// Those of a protocol that has any.
    pub(crate) ports: Option<[u8; 4]>,
}

/// What the fragments of a packet have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Whole {
    source: Address,
    destination: Address,
    id: u32,
    protocol: u8,
}

/// What decides about the choice of a group's member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Identity {
    Flow(Flow),
    /// A fragment, with the flow where it is the first one and says so.
    Fragment(Whole, Option<Flow>),
    /// The contract says nothing about what cannot be read: extension headers or ports that are cut off.
    Unclear,
}

/// What rules speak about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) source: Address,
    pub(crate) destination: Address,
    pub(crate) identity: Identity,
}

pub(crate) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().unwrap()))
}

pub(crate) fn ether_type(frame: &[u8]) -> Option<u16> {
    be16(frame, 12)
}

/// Reads a frame, or says of which [`class`] it is before any rule is asked. VLAN tags are no part of it:
/// BPF_PROG_TEST_RUN has no way to give a packet one, and a tag in the frame's bytes is an EtherType like any other.
pub(crate) fn parse(frame: &[u8]) -> Result<Packet, usize> {
    let packet = &frame[ETHERNET..];
    let is_to_many = frame[0] & 1 != 0;
    match ether_type(frame) {
        Some(IPV4) => parse_v4(packet, is_to_many),
        Some(IPV6) => parse_v6(packet, is_to_many),
        _ => Err(class::NOT_IP),
    }
}

fn parse_v4(packet: &[u8], is_to_many: bool) -> Result<Packet, usize> {
    let header = usize::from(packet.first().map_or(0, |first| first & 0xF)) * 4;
    if packet.is_empty() || packet[0] >> 4 != 4 || header < 20 || packet.len() < header {
        return Err(class::MALFORMED);
    }
    let (source, destination) = (Address::read(&packet[12..16]), Address::read(&packet[16..20]));
    let link_local = |address: &Address| address.is_in("169.254.0.0/16");
    if destination.is_in("224.0.0.0/4") {
        return Err(class::MULTICAST);
    } else if link_local(&source) || link_local(&destination) {
        return Err(class::LINK_LOCAL);
    } else if destination.is_in("255.255.255.255/32") || is_to_many {
        return Err(class::BROADCAST);
    }
    let end = usize::from(be16(packet, 2).unwrap());
    let (id, fragment, protocol) = (be16(packet, 4).unwrap(), be16(packet, 6).unwrap(), packet[9]);
    let flow = || flow(source, destination, protocol, packet, header, end);
    let whole = Whole { source, destination, id: id.into(), protocol };
    let identity = match (fragment & 0x1FFF, fragment & 0x2000 != 0) {
        (0, false) => flow().map_or(Identity::Unclear, Identity::Flow),
        (0, true) => Identity::Fragment(whole, flow()),
        _ => Identity::Fragment(whole, None),
    };
    Ok(Packet { source, destination, identity })
}

fn parse_v6(packet: &[u8], is_to_many: bool) -> Result<Packet, usize> {
    if packet.len() < 40 || packet[0] >> 4 != 6 {
        return Err(class::MALFORMED);
    }
    let (source, destination) = (Address::read(&packet[8..24]), Address::read(&packet[24..40]));
    let link_local = |address: &Address| address.is_in("fe80::/10");
    if destination.is_in("ff00::/8") {
        return Err(class::MULTICAST);
    } else if link_local(&source) || link_local(&destination) {
        return Err(class::LINK_LOCAL);
    } else if is_to_many {
        return Err(class::MULTICAST);
    } else if packet[6] == ICMPV6 && packet.len() < 41 {
        // Only where its kind matters: the addresses speak first.
        return Err(class::MALFORMED);
    } else if packet[6] == ICMPV6 && (133..=137).contains(&packet[40]) {
        return Err(class::NEIGHBOUR_DISCOVERY);
    }
    Ok(Packet { source, destination, identity: identity_v6(packet, source, destination) })
}

/// Goes through the extension headers (RFC 8200, section 4; RFC 4302).
fn identity_v6(packet: &[u8], source: Address, destination: Address) -> Identity {
    let end = 40 + usize::from(be16(packet, 4).unwrap());
    let (mut next, mut at, mut whole) = (packet[6], 40, None);
    let flow = loop {
        let length = |unit: usize, more: usize| Some((usize::from(*packet.get(at + 1)?) + more) * unit);
        let length = match next {
            // It has its place at the beginning and nowhere else.
            HOP_BY_HOP if at != 40 => break None,
            HOP_BY_HOP | ROUTING | DESTINATION => length(8, 1),
            AUTHENTICATION => length(4, 2),
            FRAGMENT => Some(8),
            _ => break flow(source, destination, next, packet, at, end),
        };
        let Some(length) = length.filter(|length| at + length <= packet.len().min(end)) else { break None };
        if next == FRAGMENT {
            if whole.is_some() {
                break None;
            }
            let (offset, is_more) = (packet[at + 2..at + 4].to_vec(), packet[at + 3] & 1 != 0);
            let is_first = offset[0] == 0 && offset[1] & 0xF8 == 0;
            let id = u32::from_be_bytes(packet[at + 4..at + 8].try_into().unwrap());
            let fragment = Whole { source, destination, id, protocol: packet[at] };
            if !is_first {
                return Identity::Fragment(fragment, None);
            }
            // The one fragment of a packet is a packet (RFC 6946).
            whole = is_more.then_some(fragment);
        }
        (next, at) = (packet[at], at + length);
    };
    match whole {
        Some(whole) => Identity::Fragment(whole, flow),
        None => flow.map_or(Identity::Unclear, Identity::Flow),
    }
}

/// The flow of a packet whose transport header begins at `at`, by a length field that says where it ends.
fn flow(
    source: Address,
    destination: Address,
    protocol: u8,
    packet: &[u8],
    at: usize,
    end: usize,
) -> Option<Flow> {
    let ports = if WITH_PORTS.contains(&protocol) {
        let ports = packet.get(at..at + 4).filter(|_| at + 4 <= end)?;
        Some(ports.try_into().unwrap())
    } else {
        None
    };
    Some(Flow { source, destination, protocol, ports })
}
