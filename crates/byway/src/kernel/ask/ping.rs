//! ICMP echo requests, and the replies to them (RFC 792, RFC 4443). The kernel itself drops a reply later, because nobody waits
//! for it there.

use std::{
    io::{self, ErrorKind},
    net::IpAddr,
};

use etherparse::{Icmpv4Type, Icmpv6Type, NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use socket2::SockFilter;

use super::{
    Answer, HOP_LIMIT, Question,
    filter::{Step, filter},
};

/// How long the content of a request is, in bytes.
const QUESTION_LEN: usize = 16;

/// The type of a reply in ICMPv6.
const ECHO_REPLY: u32 = 129;

impl Question {
    fn to_bytes(self) -> [u8; QUESTION_LEN] {
        let mut bytes = [0; QUESTION_LEN];
        bytes[..8].copy_from_slice(&self.secret.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.slot.to_be_bytes());
        bytes[12..].copy_from_slice(&self.round.to_be_bytes());
        bytes
    }

    fn of_bytes(bytes: &[u8]) -> Option<Self> {
        let (secret, rest) = bytes.split_first_chunk()?;
        let (slot, round) = rest.split_first_chunk()?;
        Some(Self {
            secret: u64::from_be_bytes(*secret),
            slot: u32::from_be_bytes(*slot),
            round: u32::from_be_bytes(round.try_into().ok()?),
        })
    }
}

/// Returns a request.
pub(super) fn question(
    identifier: u16,
    source: IpAddr,
    host: IpAddr,
    question: Question,
) -> io::Result<Vec<u8>> {
    let (sequence, content) = (question.round as u16, question.to_bytes());
    let mut packet = Vec::new();
    let written = match (source, host) {
        (IpAddr::V4(source), IpAddr::V4(host)) => {
            PacketBuilder::ipv4(source.octets(), host.octets(), HOP_LIMIT)
                .icmpv4_echo_request(identifier, sequence)
                .write(&mut packet, &content)
        }
        (IpAddr::V6(source), IpAddr::V6(host)) => {
            PacketBuilder::ipv6(source.octets(), host.octets(), HOP_LIMIT)
                .icmpv6_echo_request(identifier, sequence)
                .write(&mut packet, &content)
        }
        _ => return Err(ErrorKind::InvalidInput.into()),
    };
    written.map_err(io::Error::other)?;
    Ok(packet)
}

/// Reads a reply to a request with this identifier, and the host that it comes from.
pub(super) fn read(packet: &[u8], identifier: u16) -> Option<(IpAddr, Answer)> {
    let packet = SlicedPacket::from_ip(packet).ok()?;
    let source: IpAddr = match packet.net? {
        NetSlice::Ipv4(it) => it.header().source_addr().into(),
        NetSlice::Ipv6(it) => it.header().source_addr().into(),
        _ => return None,
    };
    let (answered, content) = match packet.transport? {
        TransportSlice::Icmpv4(it) => match it.icmp_type() {
            Icmpv4Type::EchoReply(header) => (header.id, it.payload()),
            _ => return None,
        },
        TransportSlice::Icmpv6(it) => match it.icmp_type() {
            Icmpv6Type::EchoReply(header) => (header.id, it.payload()),
            _ => return None,
        },
        _ => return None,
    };
    (answered == identifier).then_some((source, Answer::Ping(Question::of_bytes(content)?)))
}

/// A filter for replies with this identifier.
pub(super) fn answers(is_v4: bool, identifier: u16) -> Vec<SockFilter> {
    let identifier = identifier.into();
    if is_v4 {
        filter(&[
            Step::Byte(9),
            Step::Is(libc::IPPROTO_ICMP as u32),
            Step::Half(6),
            // Not the first fragment.
            Step::HasNone(0x1FFF),
            Step::FindEnd,
            Step::ByteBehind(0),
            Step::Is(0),
            Step::HalfBehind(4),
            Step::Is(identifier),
        ])
    } else {
        filter(&[
            Step::Byte(6),
            Step::Is(libc::IPPROTO_ICMPV6 as u32),
            Step::Byte(40),
            Step::Is(ECHO_REPLY),
            Step::Half(44),
            Step::Is(identifier),
        ])
    }
}
