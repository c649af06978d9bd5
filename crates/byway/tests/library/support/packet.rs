//! Packets built byte by byte, independently of the code under test.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use byway_lab::{Frame, frame};

/// The length of an Ethernet header.
pub(crate) const ETHERNET: usize = 14;

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const SCTP: u8 = 132;

/// IPv6 extension headers (RFC 8200).
pub(crate) const HOP_BY_HOP: u8 = 0;
pub(crate) const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
pub(crate) const DESTINATION_OPTIONS: u8 = 60;

/// An Ethernet frame around `payload`, to a unicast address.
pub(crate) fn ethernet(ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x02, 0, 0, 0, 0, 0x01, 0x02, 0, 0, 0, 0, 0x02];
    frame.extend(ether_type.to_be_bytes());
    frame.extend(payload);
    frame
}

/// An IPv4 header without options (RFC 791) and `payload`.
pub(crate) fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend((20 + payload.len() as u16).to_be_bytes());
    packet.extend([0, 1, 0, 0, 64, protocol, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    fill_in_ipv4(&mut packet);
    packet.extend(payload);
    packet
}

/// An IPv6 header (RFC 8200) and `payload`.
pub(crate) fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next_header, 64]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}

/// What is behind an IPv6 header: extension headers of these types and lengths, and what is of this protocol. Also says what the
/// first of it is.
pub(crate) fn behind(extensions: &[(u8, usize)], protocol: u8, payload: Vec<u8>) -> (u8, Vec<u8>) {
    let mut bytes = payload;
    let mut next = protocol;
    for (kind, length) in extensions.iter().rev() {
        let mut header = vec![0; *length];
        header[0] = next;
        match *kind {
            // The first of several.
            FRAGMENT => header[3] = 1,
            // Nowhere left to go.
            ROUTING => header[1] = (*length / 8 - 1) as u8,
            // PadN over all of it.
            _ => {
                header[1] = (*length / 8 - 1) as u8;
                header[2..4].copy_from_slice(&[1, (*length - 4) as u8]);
            }
        }
        header.extend(bytes);
        (bytes, next) = (header, *kind);
    }
    (next, bytes)
}

/// A frame with an IP packet, from one host to another.
pub(crate) fn ip(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            ethernet(0x0800, &ipv4(source, destination, protocol, payload))
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            ethernet(0x86DD, &ipv6(source, destination, protocol, payload))
        }
        _ => panic!("{source} and {destination} are of two families"),
    }
}

/// A frame, from one Ethernet address to another.
pub(crate) fn addressed(mut frame: Vec<u8>, sender: [u8; 6], receiver: [u8; 6]) -> Vec<u8> {
    frame[..6].copy_from_slice(&receiver);
    frame[6..12].copy_from_slice(&sender);
    frame
}

/// Gives the packet of a frame another TTL or hop limit.
pub(crate) fn set_ttl(frame: &mut [u8], ttl: u8) {
    let packet = &mut frame[ETHERNET..];
    if packet[0] >> 4 == 4 {
        packet[8] = ttl;
        fill_in_ipv4(packet);
    } else {
        packet[7] = ttl;
    }
}

/// Gives the packet of a frame another type of service or traffic class, with ECN in its last two bits.
pub(crate) fn set_class(frame: &mut [u8], class: u8) {
    let packet = &mut frame[ETHERNET..];
    if packet[0] >> 4 == 4 {
        packet[1] = class;
        fill_in_ipv4(packet);
    } else {
        packet[0] = 0x60 | class >> 4;
        packet[1] = class << 4;
    }
}

/// Fills in the checksum of an IPv4 header without options.
fn fill_in_ipv4(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let sum = checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// A frame with a UDP datagram of 8 bytes of data.
pub(crate) fn udp(source: IpAddr, destination: IpAddr) -> Vec<u8> {
    ip(source, destination, UDP, &[0x30, 0x39, 0x00, 0x35, 0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8])
}

/// A UDP datagram, with its checksum (RFC 768).
pub(crate) fn datagram(from: SocketAddr, to: SocketAddr, data: &[u8]) -> Vec<u8> {
    let length = 8 + data.len() as u16;
    let header = [from.port(), to.port(), length, 0].map(u16::to_be_bytes);
    let mut datagram = [header.as_flattened(), data].concat();
    let sum = transport_checksum(from.ip(), to.ip(), UDP, &datagram);
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    datagram
}

/// Frames with a UDP datagram in fragments of so many bytes (RFC 791, RFC 8200).
pub(crate) fn fragments(from: SocketAddr, to: SocketAddr, data: &[u8], size: usize, id: u16) -> Vec<Vec<u8>> {
    let datagram = datagram(from, to, data);
    let last = (datagram.len() - 1) / size;
    let fragment = |(nth, payload): (usize, &[u8])| {
        let (offset, more) = ((nth * size / 8) as u16, nth < last);
        if from.is_ipv4() {
            let mut frame = ip(from.ip(), to.ip(), UDP, payload);
            let packet = &mut frame[ETHERNET..];
            packet[4..6].copy_from_slice(&id.to_be_bytes());
            packet[6..8].copy_from_slice(&(offset | if more { 0x2000 } else { 0 }).to_be_bytes());
            fill_in_ipv4(packet);
            frame
        } else {
            let field = (offset << 3 | u16::from(more)).to_be_bytes();
            let id = u32::from(id).to_be_bytes();
            ip(from.ip(), to.ip(), FRAGMENT, &[&[UDP, 0][..], &field, &id, payload].concat())
        }
    };
    datagram.chunks(size).enumerate().map(fragment).collect()
}

/// Whether a captured packet is a fragment of a larger one.
pub(crate) fn is_fragment(frame: &Frame) -> bool {
    let packet = frame.payload();
    match frame.ether_type() {
        Some(frame::IPV4) => u16::from_be_bytes([packet[6], packet[7]]) & 0x3FFF != 0,
        _ => frame.protocol() == Some(FRAGMENT),
    }
}

/// A frame with a TCP segment without data, with its sequence number and the acknowledged one (RFC 9293). The options are whole
/// words.
pub(crate) fn tcp(from: SocketAddr, to: SocketAddr, numbers: [u32; 2], flags: u8, options: &[u8]) -> Vec<u8> {
    let ports = [from.port(), to.port()].map(u16::to_be_bytes);
    let length = (5 + options.len() as u8 / 4) << 4;
    let numbers = numbers.map(u32::to_be_bytes);
    let rest = [length, flags, 0xFF, 0xFF, 0, 0, 0, 0];
    let mut segment = [ports.as_flattened(), numbers.as_flattened(), &rest, options].concat();
    let sum = transport_checksum(from.ip(), to.ip(), TCP, &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    ip(from.ip(), to.ip(), TCP, &segment)
}

/// The Internet checksum (RFC 1071).
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !(sum as u16)
}

/// The Internet checksum of a transport's header and data with its pseudo header (RFC 9293, RFC 768, RFC 8200): 0 where the
/// checksum in it is right.
pub(crate) fn transport_checksum(source: IpAddr, destination: IpAddr, protocol: u8, transport: &[u8]) -> u16 {
    let mut summed = Vec::new();
    for address in [source, destination] {
        match address {
            IpAddr::V4(v4) => summed.extend(v4.octets()),
            IpAddr::V6(v6) => summed.extend(v6.octets()),
        }
    }
    summed.extend((transport.len() as u32).to_be_bytes());
    summed.extend([0, 0, 0, protocol]);
    summed.extend(transport);
    checksum(&summed)
}

/// Whether the transport checksum of a captured TCP segment or UDP datagram without IP options or extension headers
/// is right, by the bytes that were captured (RFC 9293, RFC 768, RFC 8200).
pub(crate) fn transport_checksum_is_right(frame: &Frame) -> bool {
    let packet = frame.payload();
    let (addresses, transport) = match frame.ether_type() {
        Some(frame::IPV4) => {
            (&packet[12..20], &packet[20..u16::from_be_bytes([packet[2], packet[3]]).into()])
        }
        _ => (&packet[8..40], &packet[40..40 + usize::from(u16::from_be_bytes([packet[4], packet[5]]))]),
    };
    let mut summed = addresses.to_vec();
    summed.extend((transport.len() as u32).to_be_bytes());
    summed.extend([0, 0, 0, frame.protocol().unwrap()]);
    summed.extend(transport);
    checksum(&summed) == 0
}

/// The MSS option of a SYN whose only option before it is none, as everybody sends it.
pub(crate) fn mss(frame: &Frame) -> Option<u16> {
    let tcp = frame.payload().get(if frame.ether_type() == Some(0x0800) { 20 } else { 40 }..)?;
    let is_syn = frame.protocol() == Some(TCP) && tcp[13] & 2 != 0;
    (is_syn && tcp[20..22] == [2, 4]).then(|| u16::from_be_bytes([tcp[22], tcp[23]]))
}
