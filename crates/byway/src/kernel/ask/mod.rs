//! Questions by a certain next hop, and their answers.
//!
//! A question leaves by a packet socket (packet(7)), with the gateway's Ethernet address on it. So neither the routing tables nor
//! the rules send it another way, and no firewall of this host stands in between. Its answer is heard by the same socket,
//! before `rp_filter` and the firewall look at it.

mod filter;
mod neighbour;
mod ping;
mod tcp;

use std::{
    io::{self, ErrorKind},
    net::IpAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{LinkAddr, recvfrom},
};
use socket2::{Domain, Socket, Type};

use super::{solicit, sys};

/// The hop limit of questions, that of other packets of the host (RFC 1700).
const HOP_LIMIT: u8 = 64;

/// Longer than an answer with every header that may come before it.
const LONGEST: usize = 1_500;

/// A question, and what its answer repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Question {
    /// A number that belongs to this question. Nobody who does not see the question knows it.
    pub(crate) secret: u64,
    /// The next hop.
    pub(crate) slot: u32,
    /// The round.
    pub(crate) round: u32,
}

/// An answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// To a ping: it repeats the question.
    Ping(Question),
    /// To a request for a TCP connection.
    Tcp(Segment),
    /// Of a neighbour, with its Ethernet address if it says that. There is no room for a question.
    Neighbour(Option<[u8; 6]>),
}

/// A TCP segment that acknowledges something. If that is a question, its connection is to be reset ([`Asker::reset`]). If not, the
/// connection is that of a host that this one forwards for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    /// The last bits of the secret of the question that it answers.
    pub(crate) secret: u32,
    /// Whether it accepts the connection. If not, it belongs to an older one that the host has not forgotten.
    pub(crate) accepts: bool,
    /// Which address and port of this host have asked.
    pub(crate) own: (IpAddr, u16),
}

/// How to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum By {
    Ping,
    /// For connections to a TCP port. The check in this slot has its own socket: two that ask the same host must not do so from the
    /// same port. Rounds that are under way at the same time must not either, so it takes as many ports as that, and one more.
    Tcp {
        port: u16,
        slot: u32,
        ports: u32,
    },
    Neighbour,
}

/// Asks by one device, in one family, and hears the answers.
#[derive(Debug)]
pub(crate) struct Asker {
    socket: Socket,
    ifindex: u32,
    is_v4: bool,
    by: By,
    /// The identifier of its ICMP echo requests.
    identifier: u16,
    /// The ports that its connections come from.
    ports: Vec<tcp::Reserved>,
}

impl Asker {
    /// Opens a socket for a device.
    ///
    /// # Errors
    ///
    /// `EPERM` without CAP_NET_RAW, `ENODEV` if there is no such device, and others of socket(2).
    pub(crate) fn open(ifindex: u32, is_v4: bool, by: By, identifier: u16) -> io::Result<Self> {
        let count = if let By::Tcp { ports, .. } = by { ports } else { 0 };
        let ports = (0..count).map(|_| tcp::Reserved::new(is_v4)).collect::<io::Result<Vec<_>>>()?;
        // Without a protocol nothing comes in before the filter is there.
        let socket = Socket::new(Domain::PACKET, Type::DGRAM.nonblocking().cloexec(), None)?;
        socket.attach_filter(&match by {
            By::Ping => ping::answers(is_v4, identifier),
            By::Tcp { port, .. } => tcp::answers(is_v4, port, &ports),
            By::Neighbour => neighbour::answers(is_v4),
        })?;
        sys::bypass_queues(socket.as_fd())?;
        let protocol = match (by, is_v4) {
            (By::Neighbour, true) => libc::ETH_P_ARP,
            (_, true) => libc::ETH_P_IP,
            (_, false) => libc::ETH_P_IPV6,
        };
        socket.bind(&sys::packet_address(ifindex, protocol as u16, &[]))?;
        Ok(Self { socket, ifindex, is_v4, by, identifier, ports })
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
        let packet = match self.by {
            By::Ping => ping::question(self.identifier, source, host, question)?,
            By::Tcp { port, .. } => {
                let own = self.port_of(question.round).ok_or(ErrorKind::InvalidInput)?;
                tcp::question((source, own), (host, port), question.secret as u32)?
            }
            By::Neighbour => return Err(ErrorKind::InvalidInput.into()),
        };
        self.send(&packet, gateway)
    }

    /// Returns the port that the connections of a round come from.
    pub(crate) fn port_of(&self, round: u32) -> Option<u16> {
        let nth = (round as usize).checked_rem(self.ports.len())?;
        self.ports.get(nth).map(|it| it.port)
    }

    /// Asks a neighbour: everybody on the link, or only whoever has the Ethernet address `only`.
    ///
    /// # Errors
    ///
    /// Those of the device, such as `ENETDOWN`.
    pub(crate) fn solicit(&self, source: IpAddr, neighbour: IpAddr, only: Option<[u8; 6]>) -> io::Result<()> {
        // That of now: whoever hears of an old one sends there.
        let own = sys::own_address(self.socket.as_fd())?.ok_or(ErrorKind::AddrNotAvailable)?;
        let (packet, ethertype, to) = solicit::question(own, source, neighbour, only)?;
        self.socket.send_to(&packet, &sys::packet_address(self.ifindex, ethertype, &to)).map(drop)
    }

    /// Resets the connection of a segment, so that the host does not wait for it. The kernel does the same, but by its routes and
    /// through the firewall.
    ///
    /// # Errors
    ///
    /// Those of the device, such as `ENETDOWN`.
    pub(crate) fn reset(&self, host: IpAddr, gateway: &[u8], segment: Segment) -> io::Result<()> {
        let By::Tcp { port, .. } = self.by else { return Ok(()) };
        self.send(&tcp::reset(segment.own, (host, port), segment.secret)?, gateway)
    }

    fn send(&self, packet: &[u8], gateway: &[u8]) -> io::Result<()> {
        let ethertype = if self.is_v4 { libc::ETH_P_IP } else { libc::ETH_P_IPV6 };
        self.socket.send_to(packet, &sys::packet_address(self.ifindex, ethertype as u16, gateway)).map(drop)
    }

    /// Takes an answer, with the host that it comes from. Returns `None` once there are no more.
    ///
    /// # Errors
    ///
    /// Those of the device, such as `ENETDOWN`.
    pub(crate) fn answer(&self) -> io::Result<Option<(IpAddr, Answer)>> {
        let mut bytes = [0; LONGEST];
        loop {
            let (length, from) = match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut bytes) {
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR) => continue,
                received => received?,
            };
            // The socket also hears what comes in by devices on top of its own, and what is for others.
            let is_its_own = |it: &LinkAddr| {
                it.ifindex() == self.ifindex as usize && it.pkttype() != libc::PACKET_OTHERHOST
            };
            if !from.as_ref().is_some_and(is_its_own) {
                continue;
            }
            let answer = bytes.get(..length).and_then(|packet| match self.by {
                By::Ping => ping::read(packet, self.identifier),
                By::Tcp { port, .. } => tcp::read(packet, port, &self.ports),
                By::Neighbour => neighbour::read(packet, self.is_v4),
            });
            if answer.is_some() {
                return Ok(answer);
            }
        }
    }
}
