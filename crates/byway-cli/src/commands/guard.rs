use std::{
    env, io,
    io::Write,
    thread,
    time::{Duration, Instant},
};

use byway::Byway;
use clap::Args;
use nix::{
    sys::signal::{SigSet, Signal},
    unistd::setsid,
};

use super::Error;
use crate::answer::Answer;

/// How often it looks whether the apply has been confirmed.
const PAUSE: Duration = Duration::from_secs(1);

/// Take an apply back, unless it is confirmed in time
///
/// `byway apply --confirm` starts it ahead of the change. It has a session of its own, so that it outlives the terminal.
#[derive(Debug, Args)]
#[command(hide = true)]
pub(crate) struct Guard {
    /// Which apply it is
    token: String,
    /// How long to wait
    milliseconds: u64,
}

impl Guard {
    pub(crate) fn exec(&self) -> Result<Answer, Error> {
        let until = Instant::now() + Duration::from_millis(self.milliseconds);
        let mut byway = Byway::open()?;
        leave_the_terminal().map_err(Error::Guard)?;
        // The apply goes on when it reads this, and closes its end.
        writeln!(io::stdout(), "ready").map_err(Error::Print)?;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            // Whatever keeps it from going back may pass, and there is nobody else who would.
            let is_over = left.is_zero() && byway.rollback_unless_confirmed(&self.token).is_ok();
            if is_over || matches!(byway.is_unconfirmed(&self.token), Ok(false)) {
                return Ok(Answer::printed());
            }
            thread::sleep(if left.is_zero() { PAUSE } else { left.min(PAUSE) });
        }
    }
}

fn leave_the_terminal() -> io::Result<()> {
    setsid()?;
    let mut hang_up = SigSet::empty();
    hang_up.add(Signal::SIGHUP);
    hang_up.thread_block()?;
    // Not to hold on to a file system that somebody wants to unmount.
    env::set_current_dir("/")
}
