//! UDP: an echo server and its client.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::AsFd,
    time::Duration,
};

use nix::poll::PollFlags;

use crate::{
    Node, Service,
    service::Background,
    wait::{Deadline, timed_out},
};

/// The largest datagram that IP can carry.
const LARGEST: usize = 65_535;

impl Node {
    /// Serves UDP echo (RFC 862) in the background. Name an address: from a wildcard address the kernel answers with
    /// the address that its route prefers, not with the one that was asked.
    ///
    /// # Errors
    ///
    /// Whatever bind(2) reports: the address has to be the node's.
    pub fn udp_serve(&self, address: SocketAddr) -> io::Result<Service> {
        let socket = self.run(|| UdpSocket::bind(address))?;
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        let background = Background::start(move |stop| {
            let mut buffer = vec![0; LARGEST];
            while stop.wait(socket.as_fd(), PollFlags::POLLIN).is_ok() {
                // An error here is an ICMP error about an earlier answer, which shows at the client.
                if let Ok((length, client)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&buffer[..length], client);
                }
            }
        })?;
        Ok(Service::new(address, background))
    }

    /// Sends one datagram to an echo server, from a given address or the one that the kernel chooses, and returns the
    /// first that comes back from there. Nothing is sent twice.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::TimedOut`] if nothing comes back within `timeout`; otherwise whatever bind(2), send(2) and
    /// ICMP errors report.
    pub fn udp_echo(
        &self,
        from: Option<IpAddr>,
        to: SocketAddr,
        payload: &[u8],
        timeout: Duration,
    ) -> io::Result<Vec<u8>> {
        let deadline = Deadline::after(timeout);
        let any: IpAddr =
            if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = self.run(|| UdpSocket::bind((from.unwrap_or(any), 0)))?;
        socket.connect(to)?;
        socket.send(payload)?;
        socket.set_read_timeout(Some(deadline.left()?))?;
        let mut buffer = vec![0; LARGEST];
        let length = socket.recv(&mut buffer).map_err(timed_out)?;
        buffer.truncate(length);
        Ok(buffer)
    }
}
