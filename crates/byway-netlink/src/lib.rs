//! A synchronous rtnetlink socket: one request, one answer.
//!
//! The messages are those of `netlink-packet-route`; this crate only carries them to the kernel and back
//! (rtnetlink(7), netlink(7)). A socket belongs to the network namespace of the thread that opened it, for its
//! whole life.

#![forbid(unsafe_code)]

use std::io;

use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
pub use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
pub use netlink_packet_route as packet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// An rtnetlink socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// The kernel checks dump requests strictly (`NETLINK_GET_STRICT_CHK`, Linux 4.20), so that what a dump
    /// request names is a filter and not a hint.
    ///
    /// # Errors
    ///
    /// Whatever socket(2), bind(2), connect(2) and setsockopt(2) report.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_netlink_get_strict_chk(true)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Asks for a change and waits for the kernel's acknowledgement. `flags` are added to `NLM_F_REQUEST`
    /// and `NLM_F_ACK`: `NLM_F_CREATE`, `NLM_F_EXCL`, `NLM_F_REPLACE`.
    ///
    /// # Errors
    ///
    /// The kernel's error number as an [`io::Error`].
    pub fn change(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(message, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        self.receive(|_| {})
    }

    /// Asks for one object and returns the answer.
    ///
    /// # Errors
    ///
    /// The kernel's error number as an [`io::Error`]; [`io::ErrorKind::InvalidData`] where it acknowledges
    /// without an answer.
    pub fn get(&mut self, message: RouteNetlinkMessage) -> io::Result<RouteNetlinkMessage> {
        self.send(message, NLM_F_REQUEST | NLM_F_ACK)?;
        let mut answer = None;
        self.receive(|message| answer = Some(message))?;
        answer.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is empty"))
    }

    /// Asks for every object of a kind and returns them in the kernel's order.
    ///
    /// # Errors
    ///
    /// The kernel's error number as an [`io::Error`].
    pub fn dump(&mut self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.send(message, NLM_F_REQUEST | NLM_F_DUMP)?;
        let mut answers = Vec::new();
        self.receive(|message| answers.push(message))?;
        Ok(answers)
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        request.finalize();
        let mut buffer = vec![0; request.buffer_len()];
        request.serialize(&mut buffer);
        let sent = self.socket.send(&buffer, 0)?;
        if sent == buffer.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// Hands each answer to `answer` until the kernel says that there are no more.
    fn receive(&mut self, mut answer: impl FnMut(RouteNetlinkMessage)) -> io::Result<()> {
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                // Netlink messages are aligned to four bytes (NLMSG_ALIGN).
                let length = (message.header.length as usize).next_multiple_of(4).clamp(4, rest.len());
                rest = &rest[length..];
                if message.header.sequence_number != self.sequence {
                    continue; // the tail of an answer to an earlier request that was given up
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => answer(inner),
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(-done.code));
                    }
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(ErrorMessage { code: None, .. }) => return Ok(()),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
            }
        }
    }
}
