//! Sends steady traffic from one source, to the next hop of its rule.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    panic,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use byway_lab::run_before_others;

/// How long the sender sleeps between two packets.
const PERIOD: Duration = Duration::from_micros(100);
/// After how long without a packet no more will come.
const SILENCE: Duration = Duration::from_millis(200);

/// The packets seen while something was done.
pub(super) struct AttachmentCounters {
    pub(super) sent: usize,
    /// When packets arrived at each receiver.
    pub(super) arrivals: [Vec<Instant>; 2],
}

/// Sends from one socket and records what arrives at the receivers, while something is done. The sender runs before
/// everything that is not real-time.
pub(super) fn seen(
    sender: &UdpSocket,
    to: SocketAddr,
    receivers: &[UdpSocket; 2],
    doing: impl FnOnce() -> Result<()>,
) -> Result<AttachmentCounters> {
    let [stop, all_sent] = [const { AtomicBool::new(false) }; 2];
    thread::scope(|scope| {
        let receiving =
            receivers.each_ref().map(|receiver| scope.spawn(|| receive_until(&all_sent, receiver)));
        let sending = scope.spawn(|| send_until(&stop, sender, to));
        let done = doing();
        stop.store(true, Relaxed);
        let sent = sending.join().unwrap_or_else(|cause| panic::resume_unwind(cause));
        all_sent.store(true, Relaxed);
        let [one, other] =
            receiving.map(|thread| thread.join().unwrap_or_else(|cause| panic::resume_unwind(cause)));
        done?;
        Ok(AttachmentCounters { sent: sent?, arrivals: [one?, other?] })
    })
}

impl AttachmentCounters {
    pub(super) fn lost(&self) -> usize {
        self.sent.saturating_sub(self.arrivals.iter().map(Vec::len).sum())
    }

    /// Returns the longest time between two packets, at any receiver.
    pub(super) fn longest_gap(&self) -> Duration {
        let mut all = self.arrivals.concat();
        all.sort();
        all.windows(2).map(|two| two[1] - two[0]).max().unwrap_or_default()
    }
}

fn send_until(stop: &AtomicBool, sender: &UdpSocket, to: SocketAddr) -> Result<usize> {
    run_before_others().context("sending before all else")?;
    let mut sent = 0;
    while !stop.load(Relaxed) {
        sender.send_to(b"swap", to).context("sending a packet")?;
        sent += 1;
        thread::sleep(PERIOD);
    }
    Ok(sent)
}

fn receive_until(all_sent: &AtomicBool, receiver: &UdpSocket) -> Result<Vec<Instant>> {
    run_before_others().context("receiving before all else")?;
    receiver.set_read_timeout(Some(SILENCE))?;
    let mut arrivals = Vec::new();
    loop {
        match receiver.recv(&mut [0; 16]) {
            Ok(_) => arrivals.push(Instant::now()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if all_sent.load(Relaxed) {
                    return Ok(arrivals);
                }
            }
            Err(error) => return Err(error).context("receiving packets"),
        }
    }
}
