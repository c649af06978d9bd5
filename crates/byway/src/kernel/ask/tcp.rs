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
    Answer, HOP_LIMIT, Segment,
    filter::{Step, filter},
};

/// What a host says whose packets fit any link (RFC 8200, 5). No data ever comes.
const WINDOW: u16 = 64_240;
const LARGEST_SEGMENT: u16 = 1_220;

/// The flag of whatever acknowledges something.
const ACK: u32 = 0x10;

/// A port that nobody else on this host uses meanwhile. Nobody listens there, so the kernel resets what comes in.
#[derive(Debug)]
pub(super) struct Reserved {
    pub(super) port: u16,
    #[expect(dead_code, reason = "while it is open, nobody else gets the port")]
    socket: Socket,
}

impl Reserved {
    pub(super) fn new(is_v4: bool) -> io::Result<Self> {
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
        let own = socket.local_addr()?.as_socket().ok_or(ErrorKind::AddrNotAvailable)?;
        Ok(Self { port: own.port(), socket })
    }
}

/// Returns a request for a connection. `secret` is its sequence number.
pub(super) fn question(from: (IpAddr, u16), to: (IpAddr, u16), secret: u32) -> io::Result<Vec<u8>> {
    let mut header = TcpHeader::new(from.1, to.1, secret, WINDOW);
    header.syn = true;
    header.set_options(&[TcpOptionElement::MaximumSegmentSize(LARGEST_SEGMENT)]).map_err(io::Error::other)?;
    packet(from.0, to.0, header)
}

/// Returns what resets a connection, once its host has acknowledged the request with this secret.
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

/// Reads a segment that acknowledges something that one of these ports has sent to `port`, and the host that it comes from.
pub(super) fn read(packet: &[u8], port: u16, own: &[Reserved]) -> Option<(IpAddr, Answer)> {
    let packet = SlicedPacket::from_ip(packet).ok()?;
    let (source, destination): (IpAddr, IpAddr) = match packet.net? {
        NetSlice::Ipv4(it) => (it.header().source_addr().into(), it.header().destination_addr().into()),
        NetSlice::Ipv6(it) => (it.header().source_addr().into(), it.header().destination_addr().into()),
        _ => return None,
    };
    let TransportSlice::Tcp(tcp) = packet.transport? else { return None };
    let to = tcp.destination_port();
    let is_ours = tcp.source_port() == port && own.iter().any(|it| it.port == to);
    let segment = Segment {
        secret: tcp.acknowledgment_number().wrapping_sub(1),
        accepts: tcp.syn(),
        own: (destination, to),
    };
    (is_ours && tcp.ack() && !tcp.rst()).then_some((source, Answer::Tcp(segment)))
}

/// A filter for segments from `port` to one of these that acknowledge something.
pub(super) fn answers(is_v4: bool, port: u16, own: &[Reserved]) -> Vec<SockFilter> {
    let own = Step::IsOneOf(own.iter().map(|it| it.port.into()).collect());
    let port = port.into();
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
            own,
            Step::ByteBehind(13),
            Step::Has(ACK),
        ])
    } else {
        filter(&[
            Step::Byte(6),
            Step::Is(TCP.0.into()),
            Step::Half(40),
            Step::Is(port),
            Step::Half(42),
            own,
            Step::Byte(53),
            Step::Has(ACK),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: u16 = 443;

    /// An answer with these flags to a request with this number.
    fn answer(
        host: IpAddr,
        (own, to): (IpAddr, u16),
        flags: impl Fn(&mut TcpHeader),
        secret: u32,
    ) -> Vec<u8> {
        let mut header = TcpHeader::new(PORT, to, 7, WINDOW);
        header.acknowledgment_number = secret.wrapping_add(1);
        flags(&mut header);
        packet(host, own, header).unwrap()
    }

    #[test]
    fn what_acknowledges_something_is_an_answer() {
        for (own, host) in [("192.0.2.1", "198.51.100.1"), ("2001:db8::1", "2001:db8:1::1")] {
            let [own, host] = [own, host].map(|it| it.parse::<IpAddr>().unwrap());
            let reserved = [0; 2].map(|_| Reserved::new(own.is_ipv4()).unwrap());
            for (secret, to) in [(0, &reserved[0]), (7, &reserved[1]), (u32::MAX, &reserved[1])] {
                let own = (own, to.port);
                let segment = |accepts| Some((host, Answer::Tcp(Segment { secret, accepts, own })));
                let accepted = answer(host, own, |it| (it.syn, it.ack) = (true, true), secret);
                assert_eq!(read(&accepted, PORT, &reserved), segment(true));
                assert_eq!((read(&accepted, PORT, &[]), read(&accepted, 1, &reserved)), (None, None));
                for cut in 0..accepted.len() {
                    assert_eq!(read(&accepted[..cut], PORT, &reserved), None);
                }
                let of_an_older_one = answer(host, own, |it| it.ack = true, secret);
                assert_eq!(read(&of_an_older_one, PORT, &reserved), segment(false));
            }
            let refused = answer(host, (own, reserved[0].port), |it| (it.rst, it.ack) = (true, true), 7);
            assert_eq!(read(&refused, PORT, &reserved), None);
        }
        let families = ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        assert!(question((families.0, 1), (families.1, PORT), 7).is_err());
    }

    #[test]
    fn a_port_is_taken_from_everybody() {
        for (is_v4, any) in [(true, "0.0.0.0:0"), (false, "[::]:0")] {
            let reserved = Reserved::new(is_v4).unwrap();
            let mut at: SocketAddr = any.parse().unwrap();
            at.set_port(reserved.port);
            assert!(std::net::TcpListener::bind(at).is_err());
        }
    }
}
