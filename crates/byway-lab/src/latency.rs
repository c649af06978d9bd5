//! Measures how long an answer takes.

use std::{
    io::{self, Write},
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::{
    Node,
    tcp::read_exact,
    wait::{Deadline, timed_out},
};

impl Node {
    /// Connects to a [`Node::tcp_serve`], sends `payload` to it `count` times, each after the answer to the one before,
    /// and returns how long each answer took.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::TimedOut`] if the whole exchange takes longer than `timeout`; [`io::ErrorKind::InvalidData`] for an
    /// answer that is not the payload; otherwise whatever connect(2) and the connection report.
    pub fn tcp_round_trips(
        &self,
        to: SocketAddr,
        payload: &[u8],
        count: usize,
        timeout: Duration,
    ) -> io::Result<Vec<Duration>> {
        let deadline = Deadline::after(timeout);
        let stream = self.tcp_connect(None, to, deadline)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(deadline.left()?))?;
        let mut answer = vec![0; payload.len()];
        let mut took = Vec::with_capacity(count);
        for _ in 0..count {
            let start = Instant::now();
            (&stream).write_all(payload).map_err(timed_out)?;
            read_exact(&stream, &mut answer, deadline)?;
            took.push(start.elapsed());
            if answer != payload {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is not what was sent"));
            }
        }
        Ok(took)
    }
}
