//! TCP connections by the thousand, one after the other, for measurements.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use nix::poll::PollFlags;
use socket2::{Domain, Socket, Type};

use crate::{
    Node, Service,
    service::{Background, Connection},
    wait::timed_out,
};

/// How long each step of a connection may take.
const TIMEOUT: Duration = Duration::from_secs(5);

impl Node {
    /// Serves the connections of [`Node::tcp_connections`] in the background, one after the other and all in one
    /// thread. It sends back the one byte that comes. The client closes.
    ///
    /// # Errors
    ///
    /// Whatever bind(2) and listen(2) report: the address has to be the node's.
    pub fn tcp_serve_in_turn(&self, address: SocketAddr) -> io::Result<Service> {
        let listener = self.run(|| TcpListener::bind(address))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let background = Background::start(move |stop| {
            while stop.wait(listener.as_fd(), PollFlags::POLLIN).is_ok() {
                // A failing connection shows at the client.
                if let Ok(mut connection) = Connection::accept(&listener, stop) {
                    let _ = answer(&mut connection);
                }
            }
        })?;
        Ok(Service::new(address, background))
    }

    /// Connects to a [`Node::tcp_serve_in_turn`] from a given address, sends a byte, waits for it to come back and
    /// closes, as often as possible within `long`. Returns how often, and how long that has taken.
    ///
    /// Each connection ends with a reset (`SO_LINGER` of zero), so nothing waits in `TIME_WAIT`, and the ports do not run
    /// out.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::TimedOut`] when a step takes longer than five seconds; [`io::ErrorKind::InvalidData`] for another
    /// byte than the one that was sent; otherwise whatever the connection reports.
    pub fn tcp_connections(
        &self,
        from: IpAddr,
        to: SocketAddr,
        long: Duration,
    ) -> io::Result<(u64, Duration)> {
        self.run(|| {
            let (start, mut count) = (Instant::now(), 0_u64);
            while start.elapsed() < long {
                ask(from, to, count.to_le_bytes()[0]).map_err(timed_out)?;
                count += 1;
            }
            Ok((count, start.elapsed()))
        })
    }
}

fn ask(from: IpAddr, to: SocketAddr, byte: u8) -> io::Result<()> {
    let mut socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    // This applies to connect(2), too (socket(7)).
    socket.set_write_timeout(Some(TIMEOUT))?;
    socket.bind(&SocketAddr::new(from, 0).into())?;
    socket.connect(&to.into()).map_err(in_progress)?;
    socket.write_all(&[byte])?;
    let mut answer = [0];
    socket.read_exact(&mut answer)?;
    if answer != [byte] {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is not what was sent"));
    }
    Ok(())
}

/// Maps the timeout error of connect(2) to that of other calls.
fn in_progress(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EINPROGRESS) => io::ErrorKind::TimedOut.into(),
        _ => error,
    }
}

fn answer(connection: &mut Connection<'_>) -> io::Result<()> {
    let mut byte = [0];
    connection.read_exact(&mut byte)?;
    connection.write_all(&byte)?;
    // The end that closes first keeps the port in TIME_WAIT, which should not be this one.
    connection.read(&mut byte).map(drop)
}
