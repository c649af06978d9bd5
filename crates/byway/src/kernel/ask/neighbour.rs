//! Answers of neighbours to ARP and neighbour discovery (RFC 826, RFC 4861). The kernel takes them as well. Whoever is on the link
//! can make them up.

use std::net::{IpAddr, Ipv6Addr};

use etherparse::{ArpOperation, ArpPacketSlice, NetSlice, SlicedPacket, TransportSlice};
use socket2::SockFilter;

use super::{
    Answer,
    filter::{Step, filter},
};

/// The type of a neighbour advertisement (RFC 4861, 4.4).
const ADVERTISEMENT: u8 = 136;
/// Whoever sends one with another hop limit is not on the link (RFC 4861, 7.1.2).
const HOP_LIMIT: u8 = 255;

/// The option with the Ethernet address of the target (RFC 4861, 4.6.1). Whoever answers a question to itself alone may leave it
/// out.
const TARGET_ADDRESS: u8 = 2;

/// Reads an answer, and the address that it is about.
pub(super) fn read(packet: &[u8], is_v4: bool) -> Option<(IpAddr, Answer)> {
    let (neighbour, lladdr) = if is_v4 { reply(packet)? } else { advertisement(packet)? };
    Some((neighbour, Answer::Neighbour(lladdr)))
}

fn reply(packet: &[u8]) -> Option<(IpAddr, Option<[u8; 6]>)> {
    let arp = ArpPacketSlice::from_slice(packet).ok()?;
    let address: [u8; 4] = arp.sender_protocol_addr().try_into().ok()?;
    let lladdr: [u8; 6] = arp.sender_hw_addr().try_into().ok()?;
    (arp.operation() == ArpOperation::REPLY).then(|| (address.into(), Some(lladdr)))
}

fn advertisement(packet: &[u8]) -> Option<(IpAddr, Option<[u8; 6]>)> {
    let packet = SlicedPacket::from_ip(packet).ok()?;
    let NetSlice::Ipv6(ip) = packet.net? else { return None };
    let TransportSlice::Icmpv6(icmp) = packet.transport? else { return None };
    let (header, message) = (ip.header(), icmp.slice());
    let is_valid = message.first() == Some(&ADVERTISEMENT)
        && header.hop_limit() == HOP_LIMIT
        && icmp.is_checksum_valid(header.source(), header.destination());
    let target: &[u8; 16] = message.get(8..)?.first_chunk()?;
    let lladdr = option(message.get(24..)?, TARGET_ADDRESS);
    is_valid.then(|| (Ipv6Addr::from(*target).into(), lladdr.and_then(|it| it.try_into().ok())))
}

/// Returns the content of the first option of this type. A length is in units of eight bytes, with the type and itself.
fn option(mut options: &[u8], wanted: u8) -> Option<&[u8]> {
    while let [kind, length, ..] = *options {
        let (option, rest) = options.split_at_checked(8 * usize::from(length))?;
        if kind == wanted || option.is_empty() {
            return option.get(2..);
        }
        options = rest;
    }
    None
}

/// A filter for answers.
pub(super) fn answers(is_v4: bool) -> Vec<SockFilter> {
    if is_v4 {
        filter(&[Step::Half(6), Step::Is(libc::ARPOP_REPLY.into())])
    } else {
        filter(&[
            Step::Byte(6),
            Step::Is(libc::IPPROTO_ICMPV6 as u32),
            Step::Byte(40),
            Step::Is(ADVERTISEMENT.into()),
        ])
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{ArpEthIpv4Packet, PacketBuilder};

    use super::*;

    #[test]
    fn a_reply_is_about_its_sender() {
        let arp = |operation| ArpEthIpv4Packet {
            operation,
            sender_mac: [2, 0, 0, 0, 0, 9],
            sender_ipv4: [192, 0, 2, 1],
            target_mac: [2, 0, 0, 0, 0, 1],
            target_ipv4: [192, 0, 2, 2],
        };
        let bytes = arp(ArpOperation::REPLY).to_bytes();
        let lladdr = Some([2, 0, 0, 0, 0, 9]);
        assert_eq!(read(&bytes, true), Some(([192, 0, 2, 1].into(), Answer::Neighbour(lladdr))));
        assert_eq!(read(&arp(ArpOperation::REQUEST).to_bytes(), true), None);
        for cut in 0..bytes.len() {
            assert_eq!(read(&bytes[..cut], true), None);
        }
    }

    #[test]
    fn an_advertisement_is_about_its_target_and_comes_from_the_link() {
        let [from, to, target] =
            ["fe80::9", "fe80::1", "2001:db8::9"].map(|it| it.parse::<Ipv6Addr>().unwrap());
        let with = |hop_limit, kind, options: &[u8]| {
            let mut packet = Vec::new();
            PacketBuilder::ipv6(from.octets(), to.octets(), hop_limit)
                .icmpv6_raw(kind, 0, [0; 4])
                .write(&mut packet, &[&target.octets()[..], options].concat())
                .unwrap();
            packet
        };
        let advertisement = |hop_limit, kind| with(hop_limit, kind, &[]);
        let bytes = advertisement(255, ADVERTISEMENT);
        assert_eq!(read(&bytes, false), Some((target.into(), Answer::Neighbour(None))));
        // Another option may come first.
        for before in [&[][..], &[14, 2, 0, 0, 0, 0, 0, 0, 2, 1, 7, 7, 7, 7, 7, 7]] {
            let options = [before, &[2, 1, 2, 0, 0, 0, 0, 9]].concat();
            let lladdr = Some([2, 0, 0, 0, 0, 9]);
            let read = read(&with(255, ADVERTISEMENT, &options), false);
            assert_eq!(read, Some((target.into(), Answer::Neighbour(lladdr))));
        }
        assert_eq!(read(&advertisement(254, ADVERTISEMENT), false), None);
        assert_eq!(read(&advertisement(255, 135), false), None);
        for place in 0..bytes.len() {
            assert_eq!(read(&bytes[..place], false), None);
        }
        let mut wrong = bytes;
        wrong[60] ^= 1;
        assert_eq!(read(&wrong, false), None, "its checksum");
    }
}
