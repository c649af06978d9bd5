//! A synchronous netlink socket: one request, one answer.
//!
//! The messages are those of `netlink-packet-route`, or of another crate of that family; this crate only carries
//! them to the kernel and back (netlink(7), rtnetlink(7)). A socket belongs to the network namespace of the thread
//! that opened it, for its whole life.

#![forbid(unsafe_code)]

mod readable;

use std::{io, marker::PhantomData};

use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer,
    NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
pub use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Nla};
pub use netlink_packet_route as packet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// How often to ask for a listing again if it changes meanwhile.
const DUMP_TRIES: usize = 100;
/// Types below this are netlink's own: errors and ends (`NLMSG_MIN_TYPE`, netlink(7)).
const NLMSG_MIN_TYPE: u16 = 16;

/// Whether anything changed while the kernel listed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Consistency {
    Whole,
    Changed,
}

/// A netlink socket in the network namespace of the thread that opened it, for messages of one kind: by default
/// rtnetlink's.
#[derive(Debug)]
pub struct Netlink<T = RouteNetlinkMessage> {
    socket: Socket,
    is_route: bool,
    sequence: u32,
    messages: PhantomData<fn(T) -> T>,
}

impl Netlink {
    /// Opens an rtnetlink socket in the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// As for [`Netlink::open_protocol`].
    pub fn open() -> io::Result<Self> {
        Self::open_protocol(NETLINK_ROUTE)
    }
}

impl<T: NetlinkSerializable + NetlinkDeserializable + Clone> Netlink<T> {
    /// Opens a socket of a protocol (`NETLINK_*`, netlink(7)) in the calling thread's network namespace. The messages
    /// have to be that protocol's.
    ///
    /// The kernel checks dump requests strictly (`NETLINK_GET_STRICT_CHK`, Linux 4.20), so the fields of
    /// a dump request are a filter and not a hint.
    ///
    /// # Errors
    ///
    /// Whatever socket(2), bind(2), connect(2) and setsockopt(2) report: `EPROTONOSUPPORT` if the kernel lacks the
    /// protocol.
    pub fn open_protocol(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_netlink_get_strict_chk(true)?;
        let is_route = protocol == NETLINK_ROUTE;
        Ok(Self { socket, is_route, sequence: 0, messages: PhantomData })
    }

    /// Asks for a change and waits for the kernel's acknowledgement. `flags` are added to `NLM_F_REQUEST`
    /// and `NLM_F_ACK`: `NLM_F_CREATE`, `NLM_F_EXCL`, `NLM_F_REPLACE`.
    ///
    /// # Errors
    ///
    /// The kernel's error number as an [`io::Error`].
    pub fn change(&mut self, message: T, flags: u16) -> io::Result<()> {
        self.send(message, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        self.receive(|_| {}).map(drop)
    }

    /// Asks for one object and returns the answer.
    ///
    /// # Errors
    ///
    /// The kernel's error number as an [`io::Error`]; [`io::ErrorKind::InvalidData`] if it acknowledges
    /// without an answer.
    pub fn get(&mut self, message: T) -> io::Result<T> {
        self.send(message, NLM_F_REQUEST | NLM_F_ACK)?;
        let mut answer = None;
        self.receive(|message| answer = Some(message))?;
        answer.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is empty"))
    }

    /// Asks for every object of a kind and returns them in the kernel's order. If something changes during a listing
    /// (`NLM_F_DUMP_INTR`), objects may be missing, so it asks again. Of rtnetlink's objects, it leaves out
    /// the attributes that the messages' crate cannot read. It leaves out no object.
    ///
    /// # Errors
    ///
    /// The kernel's error number as an [`io::Error`]; [`io::ErrorKind::InvalidData`] if an object cannot be read.
    pub fn dump(&mut self, message: T) -> io::Result<Vec<T>> {
        self.dump_only(message, |_| true)
    }

    /// Does the same as [`Netlink::dump`], and keeps only what is meant: there may be a million routes.
    ///
    /// # Errors
    ///
    /// Those of [`Netlink::dump`].
    pub fn dump_only(&mut self, message: T, is_meant: impl Fn(&T) -> bool) -> io::Result<Vec<T>> {
        for _ in 0..DUMP_TRIES {
            self.send(message.clone(), NLM_F_REQUEST | NLM_F_DUMP)?;
            let mut answers = Vec::new();
            let keep = |message| {
                if is_meant(&message) {
                    answers.push(message);
                }
            };
            if self.receive(keep)? == Consistency::Whole {
                return Ok(answers);
            }
        }
        Err(io::Error::new(io::ErrorKind::ResourceBusy, "what was to be listed keeps changing"))
    }

    fn send(&mut self, message: T, flags: u16) -> io::Result<()> {
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
    fn receive(&mut self, mut answer: impl FnMut(T)) -> io::Result<Consistency> {
        let mut consistency = Consistency::Whole;
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
                let header = NetlinkBuffer::new_checked(rest).map_err(invalid)?;
                // Netlink messages are aligned to four bytes (NLMSG_ALIGN).
                let length = (header.length() as usize).next_multiple_of(4).clamp(4, rest.len());
                // Skip the rest of an answer to an earlier request that was given up.
                let is_ours = header.sequence_number() == self.sequence;
                if is_ours && header.flags() & NLM_F_DUMP_INTR != 0 {
                    consistency = Consistency::Changed;
                }
                let is_object = header.message_type() >= NLMSG_MIN_TYPE;
                let message;
                (message, rest) = rest.split_at(length);
                if !is_ours {
                    continue;
                }
                let message = match NetlinkMessage::<T>::deserialize(message) {
                    Err(error) if is_object && self.is_route => {
                        readable::read(message).ok_or_else(|| invalid(error))?
                    }
                    message => message.map_err(invalid)?,
                };
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => answer(inner),
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(done.code.wrapping_neg()));
                    }
                    NetlinkPayload::Done(_) => return Ok(consistency),
                    NetlinkPayload::Error(ErrorMessage { code: None, .. }) => return Ok(consistency),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
            }
        }
    }
}
