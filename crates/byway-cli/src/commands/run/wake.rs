//! What wakes the agent: an event of the network, a signal, or the time.

use std::{os::fd::AsFd, time::Duration};

use byway::NetworkEvents;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};

/// The signals that it takes instead of ending by them.
#[derive(Debug)]
pub(super) struct Signals(SignalFd);

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    /// Apply the configuration again (`SIGHUP`).
    Reload,
    /// End (`SIGTERM`, `SIGINT`, `SIGQUIT`).
    End,
}

impl Signals {
    pub(super) fn take_over() -> nix::Result<Self> {
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGHUP, Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
            signals.add(signal);
        }
        signals.thread_block()?;
        SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map(Self)
    }

    /// Returns what the signals since the last call ask for.
    pub(super) fn take(&self) -> nix::Result<Option<Request>> {
        let mut request = None;
        while let Some(signal) = self.0.read_signal()? {
            let is_reload = signal.ssi_signo == Signal::SIGHUP as u32;
            request = Some(match request {
                Some(Request::End) => Request::End,
                _ if is_reload => Request::Reload,
                _ => Request::End,
            });
        }
        Ok(request)
    }
}

/// Waits for a signal, for an event if `events` are given, or for the time to pass.
pub(super) fn wait(signals: &Signals, events: Option<&NetworkEvents>, time: Duration) -> nix::Result<()> {
    let mut all = vec![PollFd::new(signals.0.as_fd(), PollFlags::POLLIN)];
    all.extend(events.map(|events| PollFd::new(events.as_fd(), PollFlags::POLLIN)));
    // Rounded up: it must not come back before the time and find nothing to do.
    let time = PollTimeout::try_from(time + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX);
    match poll(&mut all, time) {
        Err(Errno::EINTR) | Ok(_) => Ok(()),
        Err(errno) => Err(errno),
    }
}
