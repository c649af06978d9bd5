use std::{env, io, io::Write, thread, time::Duration};

use byway::Byway;
use clap::Args;
use nix::{
    sys::signal::{SigSet, Signal},
    unistd::setsid,
};

use super::Error;
use crate::output::Output;

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
}

impl Guard {
    pub(crate) fn exec(&self) -> Result<Output, Error> {
        let mut byway = Byway::open()?;
        leave_the_terminal().map_err(Error::Guard)?;
        // The apply goes on when it reads this, and closes its end.
        writeln!(io::stdout(), "ready").map_err(Error::Print)?;
        // The time begins anew when the change is done, and so the note of the apply is asked for it each time.
        loop {
            match byway.time_to_confirm(&self.token) {
                Ok(None) => return Ok(Output::printed()),
                Ok(Some(left)) if !left.is_zero() => thread::sleep(left.min(PAUSE)),
                // It is over, or nobody can tell.
                _ => match byway.rollback_unless_confirmed(&self.token, false) {
                    Ok(Some(_)) => return Ok(Output::printed()),
                    // The change has ended only now. Or there is nothing to go back to.
                    Ok(None) if !self.is_over(&byway) => {}
                    Ok(None) => return Ok(Output::printed()),
                    // Whatever keeps it from going back may pass, and there is nobody else who would.
                    Err(_) => thread::sleep(PAUSE),
                },
            }
        }
    }

    fn is_over(&self, byway: &Byway) -> bool {
        matches!(byway.time_to_confirm(&self.token), Ok(Some(Duration::ZERO)))
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
