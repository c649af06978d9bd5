//! ICMP and ICMPv6 echo, through the kernel's ping sockets (icmp(7)).

use std::{
    io::{self, Read},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    Node,
    wait::{Deadline, timed_out},
};

const PAYLOAD: &[u8] = b"a ping of byway-lab";

impl Node {
    /// Sends one echo request, from a given address or the one that the kernel chooses, and waits for the reply.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::TimedOut`] when no reply comes within `timeout`; otherwise whatever bind(2), send(2) and ICMP
    /// errors report.
    pub fn ping(&self, from: Option<IpAddr>, to: IpAddr, timeout: Duration) -> io::Result<()> {
        let deadline = Deadline::after(timeout);
        // Echo request and echo reply: RFC 792, RFC 4443.
        let (domain, protocol, request, reply) = match to {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8, 0),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129),
        };
        let socket = self.run(|| Socket::new(domain, Type::DGRAM, Some(protocol)))?;
        if let Some(from) = from {
            socket.bind(&SocketAddr::new(from, 0).into())?;
        }
        socket.connect(&SocketAddr::new(to, 0).into())?;
        // The kernel fills in the checksum and the identifier, by which it finds the socket for the reply.
        let message = [&[request, 0, 0, 0, 0, 0, 0, 1], PAYLOAD].concat();
        socket.send(&message)?;
        let mut buffer = [0; 256];
        loop {
            socket.set_read_timeout(Some(deadline.left()?))?;
            let length = (&socket).read(&mut buffer).map_err(timed_out)?;
            if buffer[0] == reply && buffer[..length].ends_with(PAYLOAD) {
                return Ok(());
            }
        }
    }
}
