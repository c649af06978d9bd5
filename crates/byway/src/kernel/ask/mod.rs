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
    io::{self, ErrorKind, Read},
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd},
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

/// What an answer says about its question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// All of it.
    Question(Question),
    /// The last bits of its secret, and which address of this host has asked. The connection is to be reset ([`Asker::reset`]).
    Secret(u32, IpAddr),
    /// Nothing: ARP and neighbour discovery have no room for it.
    Any,
}

/// How to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum By {
    Ping,
    /// A TCP port.
    Tcp(u16),
    Neighbour,
}

/// Asks by one device, in one family, and hears the answers.
#[derive(Debug)]
pub(crate) struct Asker {
    socket: Socket,
    ifindex: u32,
    is_v4: bool,
    by: By,
    /// The identifier of its ICMP echo requests, or the port that its connections come from.
    identifier: u16,
    #[expect(dead_code, reason = "while it is open, nobody else gets its port")]
    port: Option<Socket>,
}

impl Asker {
    /// Opens a socket for a device.
    ///
    /// # Errors
    ///
    /// `EPERM` without CAP_NET_RAW, `ENODEV` if there is no such device, and others of socket(2).
    pub(crate) fn open(ifindex: u32, is_v4: bool, by: By, identifier: u16) -> io::Result<Self> {
        let port = if let By::Tcp(_) = by { Some(tcp::reserve(is_v4)?) } else { None };
        let identifier = match &port {
            Some(reserved) => {
                reserved.local_addr()?.as_socket().map(|it| it.port()).ok_or(ErrorKind::AddrNotAvailable)?
            }
            None => identifier,
        };
        // Without a protocol nothing comes in before the filter is there.
        let socket = Socket::new(Domain::PACKET, Type::DGRAM.nonblocking().cloexec(), None)?;
        socket.attach_filter(&match by {
            By::Ping => ping::answers(is_v4, identifier),
            By::Tcp(port) => tcp::answers(is_v4, port, identifier),
            By::Neighbour => neighbour::answers(is_v4),
        })?;
        sys::bypass_queues(socket.as_fd())?;
        let protocol = match (by, is_v4) {
            (By::Neighbour, true) => libc::ETH_P_ARP,
            (_, true) => libc::ETH_P_IP,
            (_, false) => libc::ETH_P_IPV6,
        };
        socket.bind(&sys::packet_address(ifindex, protocol as u16, &[]))?;
        Ok(Self { socket, ifindex, is_v4, by, identifier, port })
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
            By::Tcp(port) => tcp::question((source, self.identifier), (host, port), question.secret as u32)?,
            By::Neighbour => return Err(ErrorKind::InvalidInput.into()),
        };
        self.send(&packet, gateway)
    }

    /// Asks a neighbour by a device, whose Ethernet address is `own`: everybody on the link, or only whoever has the Ethernet
    /// address `only`.
    ///
    /// # Errors
    ///
    /// Those of the device, such as `ENETDOWN`.
    pub(crate) fn solicit(
        &self,
        own: [u8; 6],
        source: IpAddr,
        neighbour: IpAddr,
        only: Option<[u8; 6]>,
    ) -> io::Result<()> {
        let (packet, ethertype, to) = solicit::question(own, source, neighbour, only)?;
        self.socket.send_to(&packet, &sys::packet_address(self.ifindex, ethertype, &to)).map(drop)
    }

    /// Resets a connection that a host has accepted, so that it does not wait for it. `secret` is that of the [`Answer`]. The
    /// kernel does the same, but by its routes and through the firewall.
    ///
    /// # Errors
    ///
    /// Those of the device, such as `ENETDOWN`.
    pub(crate) fn reset(&self, source: IpAddr, host: IpAddr, gateway: &[u8], secret: u32) -> io::Result<()> {
        let By::Tcp(port) = self.by else { return Ok(()) };
        self.send(&tcp::reset((source, self.identifier), (host, port), secret)?, gateway)
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
            let length = match (&self.socket).read(&mut bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                length => length?,
            };
            let answer = bytes.get(..length).and_then(|packet| match self.by {
                By::Ping => ping::read(packet, self.identifier),
                By::Tcp(port) => tcp::read(packet, port, self.identifier),
                By::Neighbour => neighbour::read(packet, self.is_v4),
            });
            if answer.is_some() {
                return Ok(answer);
            }
        }
    }
}
