//! Requests for a TCP connection, and the answers that accept one (RFC 9293). This host resets a connection once it is accepted.
//! So the service behind the port never hears of it.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use etherparse::{
    NetSlice, PacketBuilder, SlicedPacket, TcpHeader, TcpOptionElement, TransportSlice, ip_number::TCP,
};
use socket2::{Domain, SockFilter, Socket, Type};

use super::{
    Answer, HOP_LIMIT,
    filter::{Step, filter},
};

/// What a host says whose packets fit any link (RFC 8200, 5). No data ever comes.
const WINDOW: u16 = 64_240;
const LARGEST_SEGMENT: u16 = 1_220;

/// Both flags of the answer that accepts a connection.
const SYN_ACK: u32 = 0x12;

/// Takes a port that nobody else on this host uses meanwhile. Nobody listens there, so the kernel resets what comes in.
pub(super) fn reserve(is_v4: bool) -> io::Result<Socket> {
    let (domain, any): (Domain, IpAddr) = if is_v4 {
        (Domain::IPV4, Ipv4Addr::UNSPECIFIED.into())
    } else {
        (Domain::IPV6, Ipv6Addr::UNSPECIFIED.into())
    };
    let socket = Socket::new(domain, Type::STREAM.cloexec(), None)?;
    if !is_v4 {
        socket.set_only_v6(true)?;
    }
    socket.bind(&SocketAddr::new(any, 0).into())?;
    Ok(socket)
}

/// Returns a request for a connection. `secret` is its sequence number.
pub(super) fn question(from: (IpAddr, u16), to: (IpAddr, u16), secret: u32) -> io::Result<Vec<u8>> {
    let mut header = TcpHeader::new(from.1, to.1, secret, WINDOW);
    header.syn = true;
    header.set_options(&[TcpOptionElement::MaximumSegmentSize(LARGEST_SEGMENT)]).map_err(io::Error::other)?;
    packet(from.0, to.0, header)
}

/// Returns what resets a connection that a host has accepted.
pub(super) fn reset(from: (IpAddr, u16), to: (IpAddr, u16), secret: u32) -> io::Result<Vec<u8>> {
    let mut header = TcpHeader::new(from.1, to.1, secret.wrapping_add(1), 0);
    header.rst = true;
    packet(from.0, to.0, header)
}

fn packet(source: IpAddr, host: IpAddr, header: TcpHeader) -> io::Result<Vec<u8>> {
    let mut packet = Vec::new();
    let written = match (source, host) {
        (IpAddr::V4(source), IpAddr::V4(host)) => {
            PacketBuilder::ipv4(source.octets(), host.octets(), HOP_LIMIT)
                .tcp_header(header)
                .write(&mut packet, &[])
        }
        (IpAddr::V6(source), IpAddr::V6(host)) => {
            PacketBuilder::ipv6(source.octets(), host.octets(), HOP_LIMIT)
                .tcp_header(header)
                .write(&mut packet, &[])
        }
        _ => return Err(ErrorKind::InvalidInput.into()),
    };
    written.map_err(io::Error::other)?;
    Ok(packet)
}

/// Reads an answer that accepts a connection from `own` to `port`, and the host that it comes from.
pub(super) fn read(packet: &[u8], port: u16, own: u16) -> Option<(IpAddr, Answer)> {
    let packet = SlicedPacket::from_ip(packet).ok()?;
    let (source, destination): (IpAddr, IpAddr) = match packet.net? {
        NetSlice::Ipv4(it) => (it.header().source_addr().into(), it.header().destination_addr().into()),
        NetSlice::Ipv6(it) => (it.header().source_addr().into(), it.header().destination_addr().into()),
        _ => return None,
    };
    let TransportSlice::Tcp(tcp) = packet.transport? else { return None };
    let is_accepted = tcp.syn() && tcp.ack() && !tcp.rst();
    let is_ours = (tcp.source_port(), tcp.destination_port()) == (port, own);
    let secret = tcp.acknowledgment_number().wrapping_sub(1);
    (is_accepted && is_ours).then_some((source, Answer::Secret(secret, destination)))
}

/// A filter for answers that accept a connection from `own` to `port`.
pub(super) fn answers(is_v4: bool, port: u16, own: u16) -> Vec<SockFilter> {
    let (port, own) = (port.into(), own.into());
    if is_v4 {
        filter(&[
            Step::Byte(9),
            Step::Is(TCP.0.into()),
            Step::Half(6),
            // Not the first fragment.
            Step::HasNone(0x1FFF),
            Step::FindEnd,
            Step::HalfBehind(0),
            Step::Is(port),
            Step::HalfBehind(2),
            Step::Is(own),
            Step::ByteBehind(13),
            Step::Is(SYN_ACK),
        ])
    } else {
        filter(&[
            Step::Byte(6),
            Step::Is(TCP.0.into()),
            Step::Half(40),
            Step::Is(port),
            Step::Half(42),
            Step::Is(own),
            Step::Byte(53),
            Step::Is(SYN_ACK),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: u16 = 40_000;
    const PORT: u16 = 443;

    /// An answer with these flags to a request with this number.
    fn answer(host: IpAddr, own: IpAddr, flags: impl Fn(&mut TcpHeader), secret: u32) -> Vec<u8> {
        let mut header = TcpHeader::new(PORT, OWN, 7, WINDOW);
        header.acknowledgment_number = secret.wrapping_add(1);
        flags(&mut header);
        packet(host, own, header).unwrap()
    }

    #[test]
    fn only_what_accepts_a_connection_is_an_answer() {
        for (own, host) in [("192.0.2.1", "198.51.100.1"), ("2001:db8::1", "2001:db8:1::1")] {
            let [own, host] = [own, host].map(|it| it.parse::<IpAddr>().unwrap());
            for secret in [0, 7, u32::MAX] {
                let accepted = answer(host, own, |it| (it.syn, it.ack) = (true, true), secret);
                assert_eq!(read(&accepted, PORT, OWN), Some((host, Answer::Secret(secret, own))));
                assert_eq!((read(&accepted, PORT, 1), read(&accepted, 1, OWN)), (None, None));
                for cut in 0..accepted.len() {
                    assert_eq!(read(&accepted[..cut], PORT, OWN), None);
                }
            }
            let refused = answer(host, own, |it| (it.rst, it.ack) = (true, true), 7);
            let data = answer(host, own, |it| it.ack = true, 7);
            assert_eq!([refused, data].map(|it| read(&it, PORT, OWN)), [None, None]);
        }
        let families = ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        assert!(question((families.0, OWN), (families.1, PORT), 7).is_err());
    }

    #[test]
    fn a_port_is_taken_from_everybody() {
        for (is_v4, any) in [(true, "0.0.0.0:0"), (false, "[::]:0")] {
            let reserved = reserve(is_v4).unwrap();
            let mut at: SocketAddr = any.parse().unwrap();
            at.set_port(reserved.local_addr().unwrap().as_socket().unwrap().port());
            assert!(std::net::TcpListener::bind(at).is_err());
        }
    }
}
