//! TCP: an echo server and its client.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use socket2::{Domain, Socket, Type};

use crate::{
    Node, Service,
    wait::{Deadline, timed_out},
};

impl Node {
    /// Serves TCP echo (RFC 862) in the background: whatever a client sends comes back.
    ///
    /// # Errors
    ///
    /// Whatever bind(2) and listen(2) report: the address has to be the node's.
    pub fn tcp_serve(&self, address: SocketAddr) -> io::Result<Service> {
        Service::tcp(self, address, |mut connection| {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                match connection.read(&mut buffer)? {
                    0 => return Ok(()),
                    length => connection.write_all(&buffer[..length])?,
                }
            }
        })
    }

    /// Connects to an echo server, from a given address or the one that the kernel chooses, sends `payload` and
    /// returns as many bytes as come back for it.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::TimedOut`] if the whole exchange takes longer than `timeout`; otherwise whatever bind(2), connect(2)
    /// and the connection report.
    pub fn tcp_echo(
        &self,
        from: Option<IpAddr>,
        to: SocketAddr,
        payload: &[u8],
        timeout: Duration,
    ) -> io::Result<Vec<u8>> {
        let deadline = Deadline::after(timeout);
        let stream = self.tcp_connect(from, to, deadline)?;
        stream.set_write_timeout(Some(deadline.left()?))?;
        // A payload larger than the buffers on the way comes back before all of it was sent.
        thread::scope(|scope| {
            let writer = scope.spawn(|| (&stream).write_all(payload));
            let mut answer = vec![0; payload.len()];
            let read = read_exact(&stream, &mut answer, deadline);
            writer.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into())).map_err(timed_out)?;
            read.map(|()| answer)
        })
    }

    pub(crate) fn tcp_connect(
        &self,
        from: Option<IpAddr>,
        to: SocketAddr,
        deadline: Deadline,
    ) -> io::Result<TcpStream> {
        let socket = self.run(|| Socket::new(Domain::for_address(to), Type::STREAM, None))?;
        if let Some(from) = from {
            socket.bind(&SocketAddr::new(from, 0).into())?;
        }
        socket.connect_timeout(&to.into(), deadline.left()?).map_err(timed_out)?;
        Ok(socket.into())
    }
}

/// Reads until `buffer` is full or the deadline has passed.
pub(crate) fn read_exact(stream: &TcpStream, buffer: &mut [u8], deadline: Deadline) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        match read(stream, &mut buffer[filled..], deadline)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => filled += length,
        }
    }
    Ok(())
}

/// Reads once.
pub(crate) fn read(mut stream: &TcpStream, buffer: &mut [u8], deadline: Deadline) -> io::Result<usize> {
    stream.set_read_timeout(Some(deadline.left()?))?;
    stream.read(buffer).map_err(timed_out)
}
