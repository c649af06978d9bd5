//! A large TCP transfer whose every byte is checked.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use crate::{
    Node, Service,
    tcp::read,
    wait::{Deadline, timed_out},
};

const BLOCK: usize = 256 * 1024;

/// The result of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bulk {
    /// How many bytes were received, each the right one.
    pub bytes: u64,
    /// From the request to the last byte, without the connection's set-up.
    pub duration: Duration,
}

impl Bulk {
    /// The transfer's speed in bits a second.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a figure to read")]
    pub fn bits_per_second(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.duration.as_secs_f64()
    }
}

impl Node {
    /// Serves bulk transfers in the background: streams as many bytes as a client asks for, to as many clients as
    /// come.
    ///
    /// # Errors
    ///
    /// Whatever bind(2) and listen(2) report: the address has to be the node's.
    pub fn tcp_bulk_serve(&self, address: SocketAddr) -> io::Result<Service> {
        let pattern = Pattern::new();
        Service::tcp(self, address, move |mut connection| {
            let mut request = [0; 8];
            connection.read_exact(&mut request)?;
            let mut left = u64::from_be_bytes(request);
            while left > 0 {
                let length = usize::try_from(left).map_or(BLOCK, |left| left.min(BLOCK));
                connection.write_all(pattern.at(0, length))?;
                left -= length as u64;
            }
            Ok(())
        })
    }

    /// Asks a [`Node::tcp_bulk_serve`] for `bytes` bytes and checks that exactly these come, and nothing after them.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::TimedOut`] if the whole transfer takes longer than `timeout`; [`io::ErrorKind::InvalidData`] for a
    /// wrong byte or one too many; [`io::ErrorKind::UnexpectedEof`] for too few; otherwise whatever the connection
    /// reports.
    pub fn tcp_bulk(&self, to: SocketAddr, bytes: u64, timeout: Duration) -> io::Result<Bulk> {
        let deadline = Deadline::after(timeout);
        let stream = self.tcp_connect(None, to, deadline)?;
        let start = Instant::now();
        stream.set_write_timeout(Some(deadline.left()?))?;
        (&stream).write_all(&bytes.to_be_bytes()).map_err(timed_out)?;
        let duration = receive(&stream, bytes, deadline).map(|()| start.elapsed())?;
        match read(&stream, &mut [0], deadline)? {
            0 => Ok(Bulk { bytes, duration }),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, format!("more than {bytes} bytes came"))),
        }
    }
}

fn receive(stream: &TcpStream, bytes: u64, deadline: Deadline) -> io::Result<()> {
    let pattern = Pattern::new();
    let mut buffer = vec![0; BLOCK];
    let mut received = 0;
    while received < bytes {
        let wanted = usize::try_from(bytes - received).map_or(BLOCK, |left| left.min(BLOCK));
        let length = read(stream, &mut buffer[..wanted], deadline)?;
        if length == 0 {
            let end = format!("the stream ended after {received} of {bytes} bytes");
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, end));
        }
        if &buffer[..length] != pattern.at(received, length) {
            let wrong = format!("a wrong byte after byte {received} of {bytes}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, wrong));
        }
        received += length as u64;
    }
    Ok(())
}

/// One block of bytes, repeated.
struct Pattern(Vec<u8>);

impl Pattern {
    fn new() -> Self {
        // A linear congruential generator (Knuth's MMIX): no stretch within the block is like another.
        let mut state: u64 = 1;
        let block: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        })
        .take(BLOCK)
        .collect();
        // Twice, so that a whole block from any offset is contiguous.
        Self(block.repeat(2))
    }

    /// The `length` bytes, a block at most, from the stream's byte `offset`.
    fn at(&self, offset: u64, length: usize) -> &[u8] {
        let start = usize::try_from(offset % BLOCK as u64).unwrap_or(0);
        &self.0[start..start + length]
    }
}
