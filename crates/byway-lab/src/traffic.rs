//! Packets without a break while something else changes (udp(7)).

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

/// The discard service (RFC 863): nobody answers.
const DISCARD: u16 = 9;

/// Packets without a break. Threads send them until another one says that it is over.
#[derive(Debug, Default)]
pub struct Traffic {
    sent: AtomicUsize,
    is_over: AtomicBool,
}

impl Traffic {
    /// Sends a datagram from the source to the destination of each flow in turn, and again after a pause, until it is over.
    /// Returns how many it has sent. The calling thread is in the network namespace that they leave.
    ///
    /// # Errors
    ///
    /// Whatever bind(2) and sendto(2) report.
    pub fn send(&self, flows: &[(IpAddr, IpAddr)], pause: Duration) -> io::Result<usize> {
        let bound =
            |(from, to): &(IpAddr, IpAddr)| Ok((UdpSocket::bind((*from, 0))?, SocketAddr::new(*to, DISCARD)));
        let sockets = flows.iter().map(bound).collect::<io::Result<Vec<_>>>()?;
        let mut sent = 0;
        while !self.is_over.load(Ordering::Relaxed) {
            for (socket, to) in &sockets {
                socket.send_to(b"hello", to)?;
                sent += 1;
                self.sent.fetch_add(1, Ordering::Relaxed);
            }
            thread::sleep(pause);
        }
        Ok(sent)
    }

    /// Returns how many packets all threads have sent.
    pub fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }

    /// Says that it is over when the returned value is dropped: also where a test fails, whose threads would go on for ever.
    pub fn ending(&self) -> impl Drop + use<'_> {
        Ending(self)
    }
}

struct Ending<'a>(&'a Traffic);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}
