use std::{
    env, io,
    io::Write,
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use byway::Byway;
use clap::Args;
use nix::{
    sys::signal::{SigSet, Signal},
    unistd::setsid,
};

use super::open::{ROLLED_BACK, open_as_it_is};
use crate::{error::Error, options::Options, output::Output};

/// How long to wait before it checks again whether the apply has been confirmed.
const PAUSE: Duration = Duration::from_secs(1);

/// Roll an apply back, unless it is confirmed in time
///
/// `byway apply --confirm` starts it before the change. It runs in a session of its own, so it outlives the terminal. If a
/// signal ends it, it rolls back at once. If it is killed, the next command does.
#[derive(Debug, Args)]
#[command(hide = true)]
pub(crate) struct Guard {
    /// Which apply it is
    token: String,
}

impl Guard {
    pub(crate) fn exec(&self, options: &Options) -> Result<Output, Error> {
        let mut byway = open_as_it_is(options)?;
        let signals = leave_the_terminal().map_err(Error::Guard)?;
        let _alive = byway.guarding()?;
        // The apply goes on when it reads this, and closes its end.
        writeln!(io::stdout(), "ready").map_err(Error::Print)?;
        // The time starts again when the change is done, so read it from the note of the apply each time.
        let mut at_once = false;
        loop {
            match byway.time_to_confirm(&self.token) {
                Ok(None) => return Ok(Output::printed()),
                Ok(Some(left)) if !left.is_zero() && !at_once => {
                    at_once = signals.recv_timeout(left.min(PAUSE)).is_ok();
                }
                // It is over, or nobody can tell.
                _ => match byway.rollback_unless_confirmed(&self.token, at_once) {
                    Ok(Some(_)) => return Ok(Output::changed(ROLLED_BACK)),
                    // The change has ended only now.
                    Ok(None) if !at_once && self.has_time(&byway) => {}
                    // Somebody has confirmed it, or there is nothing to go back to.
                    Ok(None) => return Ok(Output::printed()),
                    // Whatever prevents the rollback may pass, and nobody else would try again.
                    Err(_) => thread::sleep(PAUSE),
                },
            }
        }
    }

    fn has_time(&self, byway: &Byway) -> bool {
        matches!(byway.time_to_confirm(&self.token), Ok(Some(left)) if !left.is_zero())
    }
}

/// Leaves the terminal, and its signals. Signals that would end the process are passed on, so that it rolls back at once:
/// afterwards nobody may be left to do so.
fn leave_the_terminal() -> io::Result<Receiver<Signal>> {
    setsid()?;
    let mut ends = SigSet::empty();
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT].into_iter().for_each(|signal| ends.add(signal));
    let mut blocked = ends;
    blocked.add(Signal::SIGHUP);
    blocked.thread_block()?;
    // Do not keep a file system busy that somebody wants to unmount.
    env::set_current_dir("/")?;
    let (sender, signals) = mpsc::channel();
    thread::Builder::new().spawn(move || {
        while let Ok(signal) = ends.wait() {
            let _ = sender.send(signal);
        }
    })?;
    Ok(signals)
}
