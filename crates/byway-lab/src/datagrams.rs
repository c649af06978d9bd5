//! UDP datagrams by the million, for measurements (udp(7), sendmmsg(2)).

use std::{
    fmt,
    io::{self, IoSlice},
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
};

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg, setsockopt, sockopt::RcvBufForce};

use crate::Node;

/// The size of a receive buffer, in bytes.
const WAITING: usize = 16 * 1024 * 1024;

impl Node {
    /// Opens a sender of many datagrams from one of the node's addresses, for the calling thread. A `connected` sender looks
    /// up the route once. Any other looks it up for each datagram, like a server with many clients.
    ///
    /// # Errors
    ///
    /// Whatever bind(2) and connect(2) report: the address has to be the node's, and there has to be a route.
    pub fn datagram_sender(
        &self,
        from: IpAddr,
        to: SocketAddr,
        connected: bool,
    ) -> io::Result<DatagramSender> {
        let socket = self.run(|| UdpSocket::bind((from, 0)))?;
        if connected {
            socket.connect(to)?;
        }
        let to = (!connected).then(|| to.into());
        Ok(DatagramSender { socket, headers: MultiHeaders::preallocate(DatagramSender::BATCH, None), to })
    }

    /// Opens a socket with room for many datagrams.
    ///
    /// # Errors
    ///
    /// Whatever bind(2) reports, and setsockopt(2), which needs `CAP_NET_ADMIN`.
    pub fn datagram_receiver(&self, address: SocketAddr) -> io::Result<UdpSocket> {
        let socket = self.run(|| UdpSocket::bind(address))?;
        setsockopt(&socket, RcvBufForce, &WAITING)?;
        Ok(socket)
    }
}

/// Sends datagrams from one address to another one, many with one system call.
pub struct DatagramSender {
    socket: UdpSocket,
    headers: MultiHeaders<SockaddrStorage>,
    /// The destination, unless the socket is connected.
    to: Option<SockaddrStorage>,
}

impl DatagramSender {
    /// How many datagrams go out with one call at most.
    pub const BATCH: usize = 64;

    /// Sends a batch of copies of a datagram, and returns how many the kernel accepted.
    ///
    /// # Errors
    ///
    /// Whatever sendmmsg(2) reports about the first of them, or has to report of earlier ones.
    pub fn send(&mut self, payload: &[u8]) -> io::Result<usize> {
        let slices = [[IoSlice::new(payload)]; Self::BATCH];
        let to = [self.to; Self::BATCH];
        let flags = MsgFlags::empty();
        let sent = sendmmsg(self.socket.as_raw_fd(), &mut self.headers, &slices, to, [], flags)?;
        Ok(sent.count())
    }
}

impl fmt::Debug for DatagramSender {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("DatagramSender").field("socket", &self.socket).finish_non_exhaustive()
    }
}
