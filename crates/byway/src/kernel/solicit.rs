//! Asks a link for a neighbour (RFC 826, RFC 4861). The kernel itself takes the answer, as it takes any news of a
//! neighbour that it knows.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv6Addr},
};

use etherparse::{ArpEthIpv4Packet, ArpOperation, PacketBuilder};
use socket2::{Domain, Socket, Type};

use super::sys;

/// The type of a neighbour solicitation, and of its option with the sender's own address (RFC 4861, 4.3 and 4.6.1).
const SOLICITATION: u8 = 135;
const SOURCE_ADDRESS: u8 = 1;
/// Whoever gets a solicitation with another hop limit has not got it from its link (RFC 4861, 7.1.1).
const HOP_LIMIT: u8 = 255;

/// Asks for neighbours.
#[derive(Debug)]
pub(crate) struct Solicitor(Socket);

impl Solicitor {
    /// Opens the socket.
    ///
    /// # Errors
    ///
    /// `EPERM` without CAP_NET_RAW, and others of socket(2).
    pub(crate) fn open() -> io::Result<Self> {
        // Without a protocol nothing comes in.
        Socket::new(Domain::PACKET, Type::DGRAM.nonblocking().cloexec(), None).map(Self)
    }

    /// Asks by a device, whose Ethernet address is `own`, for a neighbour. `source` is one of this host's addresses on the link. Asks
    /// everybody, or only whoever has the Ethernet address `only`.
    ///
    /// # Errors
    ///
    /// Those of the device, such as `ENETDOWN`.
    pub(crate) fn ask(
        &self,
        ifindex: u32,
        own: [u8; 6],
        source: IpAddr,
        neighbour: IpAddr,
        only: Option<[u8; 6]>,
    ) -> io::Result<()> {
        let (packet, ethertype, to) = question(own, source, neighbour, only)?;
        self.0.send_to(&packet, &sys::packet_address(ifindex, ethertype, &to)).map(drop)
    }
}

/// Returns a question for a neighbour, its EtherType, and the Ethernet address that it goes to, as [`Solicitor::ask`] sends it.
pub(super) fn question(
    own: [u8; 6],
    source: IpAddr,
    neighbour: IpAddr,
    only: Option<[u8; 6]>,
) -> io::Result<(Vec<u8>, u16, [u8; 6])> {
    match (source, neighbour) {
        (IpAddr::V4(source), IpAddr::V4(neighbour)) => {
            let arp = ArpEthIpv4Packet {
                operation: ArpOperation::REQUEST,
                sender_mac: own,
                sender_ipv4: source.octets(),
                target_mac: [0; 6],
                target_ipv4: neighbour.octets(),
            };
            Ok((arp.to_bytes().to_vec(), libc::ETH_P_ARP as u16, only.unwrap_or([0xFF; 6])))
        }
        (IpAddr::V6(source), IpAddr::V6(neighbour)) => {
            let group = if only.is_some() { neighbour } else { solicited_node(neighbour) };
            let to = only.unwrap_or_else(|| multicast(neighbour));
            Ok((solicitation(own, source, neighbour, group)?, libc::ETH_P_IPV6 as u16, to))
        }
        _ => Err(ErrorKind::InvalidInput.into()),
    }
}

fn solicitation(own: [u8; 6], source: Ipv6Addr, neighbour: Ipv6Addr, to: Ipv6Addr) -> io::Result<Vec<u8>> {
    let mut message = neighbour.octets().to_vec();
    message.extend([SOURCE_ADDRESS, 1]);
    message.extend(own);
    let mut packet = Vec::new();
    PacketBuilder::ipv6(source.octets(), to.octets(), HOP_LIMIT)
        .icmpv6_raw(SOLICITATION, 0, [0; 4])
        .write(&mut packet, &message)
        .map_err(io::Error::other)?;
    Ok(packet)
}

/// The group that a neighbour listens to for its address (RFC 4291, 2.7.1).
fn solicited_node(neighbour: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = neighbour.octets();
    Ipv6Addr::new(0xFF02, 0, 0, 0, 0, 1, 0xFF00 | u16::from(a), u16::from(b) << 8 | u16::from(c))
}

/// The Ethernet address of that group (RFC 2464, 7).
fn multicast(neighbour: Ipv6Addr) -> [u8; 6] {
    let [.., a, b, c] = neighbour.octets();
    [0x33, 0x33, 0xFF, a, b, c]
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    use super::*;

    #[test]
    fn a_solicitation_is_one_for_its_neighbour_and_has_the_right_sum() {
        let neighbour: Ipv6Addr = "2001:db8::12:3456".parse().unwrap();
        let source: Ipv6Addr = "fe80::1".parse().unwrap();
        assert_eq!(solicited_node(neighbour).to_string(), "ff02::1:ff12:3456");
        assert_eq!(multicast(neighbour), [0x33, 0x33, 0xFF, 0x12, 0x34, 0x56]);
        let bytes = solicitation([2, 0, 0, 0, 0, 9], source, neighbour, solicited_node(neighbour)).unwrap();
        let packet = SlicedPacket::from_ip(&bytes).unwrap();
        let Some(NetSlice::Ipv6(header)) = packet.net else { panic!("no IPv6") };
        assert_eq!(header.header().hop_limit(), 255);
        let Some(TransportSlice::Icmpv6(icmp)) = packet.transport else { panic!("no ICMPv6") };
        assert!(icmp.is_checksum_valid(header.header().source(), header.header().destination()));
        assert_eq!((icmp.slice()[0], &icmp.slice()[8..24]), (135, &neighbour.octets()[..]));
        assert_eq!(icmp.slice()[24..], [1, 1, 2, 0, 0, 0, 0, 9]);
    }
}
