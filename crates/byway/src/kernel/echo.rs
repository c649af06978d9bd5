//! ICMP echo requests by a certain next hop, and their answers (RFC 792, RFC 4443).
//!
//! A request leaves by a packet socket (packet(7)), with the gateway's Ethernet address on it. So neither the routing tables nor
//! the rules send it another way, and no firewall of this host stands in between. Its answer is heard by the same socket,
//! before `rp_filter` and the firewall look at it. The kernel itself drops it later, because nobody waits for it there.

use std::{
    io::{self, ErrorKind, Read},
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd},
};

use etherparse::{Icmpv4Type, Icmpv6Type, NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use socket2::{Domain, SockFilter, Socket, Type};

use super::sys;

/// The hop limit of the requests, that of other packets of the host (RFC 1700).
const HOP_LIMIT: u8 = 64;

/// What a request says, and its answer repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Question {
    /// A number that belongs to this question. Nobody who does not see the question knows it.
    pub(crate) secret: u64,
    /// The next hop.
    pub(crate) slot: u32,
    /// The round.
    pub(crate) round: u32,
}

/// Longer than an answer with every header that may come before it.
const LONGEST: usize = 1_500;

/// How long the content of a request is, in bytes.
const QUESTION_LEN: usize = 16;

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
        let (slot, rest) = rest.split_first_chunk()?;
        let [secret, slot, round] = [
            u64::from_be_bytes(*secret),
            u32::from_be_bytes(*slot).into(),
            u32::from_be_bytes(rest.try_into().ok()?).into(),
        ];
        Some(Self { secret, slot: slot as u32, round: round as u32 })
    }
}

/// Asks by one device, in one family, and hears the answers.
#[derive(Debug)]
pub(crate) struct Echo {
    socket: Socket,
    ifindex: u32,
    is_v4: bool,
    /// The identifier of its requests (RFC 792).
    identifier: u16,
}

impl Echo {
    /// Opens a socket for a device.
    ///
    /// # Errors
    ///
    /// `EPERM` without CAP_NET_RAW, `ENODEV` if there is no such device, and others of socket(2).
    pub(crate) fn open(ifindex: u32, is_v4: bool, identifier: u16) -> io::Result<Self> {
        // Without a protocol nothing comes in before the filter is there.
        let socket = Socket::new(Domain::PACKET, Type::DGRAM.nonblocking().cloexec(), None)?;
        socket.attach_filter(&answers(is_v4, identifier))?;
        sys::bypass_queues(socket.as_fd())?;
        socket.bind(&sys::packet_address(ifindex, ethertype(is_v4), &[]))?;
        Ok(Self { socket, ifindex, is_v4, identifier })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Asks a host, by the gateway with this link-layer address; without one if the device's packets have no such header.
    ///
    /// # Errors
    ///
    /// Those of the device, such as `ENETDOWN`.
    pub(crate) fn ask(
        &self,
        source: IpAddr,
        host: IpAddr,
        gateway: &[u8],
        question: Question,
    ) -> io::Result<()> {
        let sequence = question.round as u16;
        let mut packet = Vec::new();
        let content = question.to_bytes();
        let written = match (source, host) {
            (IpAddr::V4(source), IpAddr::V4(host)) => {
                PacketBuilder::ipv4(source.octets(), host.octets(), HOP_LIMIT)
                    .icmpv4_echo_request(self.identifier, sequence)
                    .write(&mut packet, &content)
            }
            (IpAddr::V6(source), IpAddr::V6(host)) => {
                PacketBuilder::ipv6(source.octets(), host.octets(), HOP_LIMIT)
                    .icmpv6_echo_request(self.identifier, sequence)
                    .write(&mut packet, &content)
            }
            _ => return Err(ErrorKind::InvalidInput.into()),
        };
        written.map_err(io::Error::other)?;
        let to = sys::packet_address(self.ifindex, ethertype(self.is_v4), gateway);
        self.socket.send_to(&packet, &to).map(drop)
    }

    /// Takes an answer, with the host that it comes from. Returns `None` once there are no more.
    ///
    /// # Errors
    ///
    /// Those of the device, such as `ENETDOWN`.
    pub(crate) fn answer(&self) -> io::Result<Option<(IpAddr, Question)>> {
        let mut bytes = [0; LONGEST];
        loop {
            let length = match (&self.socket).read(&mut bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                length => length?,
            };
            if let Some(answer) = bytes.get(..length).and_then(|packet| read(packet, self.identifier)) {
                return Ok(Some(answer));
            }
        }
    }
}

fn ethertype(is_v4: bool) -> u16 {
    if is_v4 { libc::ETH_P_IP as u16 } else { libc::ETH_P_IPV6 as u16 }
}

/// Reads an answer to a request with this identifier, and the host that it comes from.
fn read(packet: &[u8], identifier: u16) -> Option<(IpAddr, Question)> {
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
    (answered == identifier).then_some((source, Question::of_bytes(content)?))
}

/// A filter for echo replies with this identifier (bpf(4), linux/filter.h). It saves waking the process for every packet of
/// the device. What it lets through is read with more care.
fn answers(is_v4: bool, identifier: u16) -> Vec<SockFilter> {
    const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    const LOAD_HALF: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
    const LOAD_BYTE_BEHIND: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_IND) as u16;
    const LOAD_HALF_BEHIND: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_IND) as u16;
    const LOAD_HEADER_LEN: u16 = (libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH) as u16;
    const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const JUMP_IF_ANY: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let identifier = u32::from(identifier);
    // Each comparison jumps over the rest to the last instruction, which refuses.
    let tests: &[(u16, u32)] = if is_v4 {
        &[
            (LOAD_BYTE, 9),
            (JUMP_IF_EQUAL, libc::IPPROTO_ICMP as u32),
            (LOAD_HALF, 6),
            // Not the first fragment.
            (JUMP_IF_ANY, 0x1FFF),
            (LOAD_HEADER_LEN, 0),
            (LOAD_BYTE_BEHIND, 0),
            (JUMP_IF_EQUAL, 0),
            (LOAD_HALF_BEHIND, 4),
            (JUMP_IF_EQUAL, identifier),
        ]
    } else {
        &[
            (LOAD_BYTE, 6),
            (JUMP_IF_EQUAL, libc::IPPROTO_ICMPV6 as u32),
            (LOAD_BYTE, 40),
            (JUMP_IF_EQUAL, 129),
            (LOAD_HALF, 44),
            (JUMP_IF_EQUAL, identifier),
        ]
    };
    let length = tests.len();
    let mut filter: Vec<SockFilter> = tests
        .iter()
        .enumerate()
        .map(|(nth, (code, value))| {
            let to_the_end = (length - nth) as u8;
            match *code {
                JUMP_IF_EQUAL => SockFilter::new(*code, 0, to_the_end, *value),
                JUMP_IF_ANY => SockFilter::new(*code, to_the_end, 0, *value),
                _ => SockFilter::new(*code, 0, 0, *value),
            }
        })
        .collect();
    filter.push(SockFilter::new(RETURN, 0, 0, u32::MAX));
    filter.push(SockFilter::new(RETURN, 0, 0, 0));
    filter
}
