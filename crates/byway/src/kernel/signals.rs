//! The signals that end a command, held off for as long as a change takes.

use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};

/// Holds off the signals that end a command, so that a Ctrl-C comes before a change or after it. What cannot be
/// held off (`SIGKILL`) is what [`Executor::tidy`](super::execute::Executor::tidy) is for.
pub(super) struct SignalsWait(Option<SigSet>);

impl SignalsWait {
    pub(super) fn begin() -> Self {
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGPIPE] {
            signals.add(signal);
        }
        let mut before = SigSet::empty();
        let held = pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&signals), Some(&mut before));
        Self(held.is_ok().then_some(before))
    }
}

impl Drop for SignalsWait {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // Cannot fail: it puts back what the kernel gave.
            let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(before), None);
        }
    }
}
