//! A screen of its own on a terminal, as less(1) and watch(1) have one.

use std::{
    io::{self, Write},
    sync::mpsc::{self, Receiver},
    thread,
    time::Instant,
};

use nix::sys::signal::{SigSet, Signal, raise};

/// The alternate screen, with the cursor hidden, and back (xterm's `ctlseqs`, DECSET 1049 and 25).
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// The signals of a terminal that is resized, stopped, or closed, and those that end a program.
const SIGNALS: [Signal; 6] =
    [Signal::SIGWINCH, Signal::SIGTSTP, Signal::SIGINT, Signal::SIGTERM, Signal::SIGQUIT, Signal::SIGHUP];

/// A screen of its own. When it goes, the terminal has back what it showed before.
pub(crate) struct Window {
    signals: Receiver<Signal>,
}

impl Window {
    pub(crate) fn open() -> io::Result<Self> {
        let signals: SigSet = SIGNALS.into_iter().collect();
        signals.thread_block()?;
        let (sender, receiver) = mpsc::channel();
        thread::Builder::new().spawn(move || {
            while let Ok(signal) = signals.wait() {
                let _ = sender.send(signal);
            }
        })?;
        write(ENTER)?;
        Ok(Self { signals: receiver })
    }

    /// Waits, and returns whether all has to be drawn again before the time is over. A signal that ends the program does so
    /// here, with the terminal as it was. If the program ignores it, the screen comes back.
    pub(crate) fn wait(&self, until: Instant) -> io::Result<bool> {
        match self.signals.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Err(_) => return Ok(false),
            Ok(Signal::SIGWINCH) => {}
            Ok(Signal::SIGTSTP) => {
                write(LEAVE)?;
                raise(Signal::SIGSTOP)?;
                write(ENTER)?;
            }
            Ok(signal) => {
                write(LEAVE)?;
                let signal_alone = SigSet::from(signal);
                signal_alone.thread_unblock()?;
                raise(signal)?;
                // Whoever started this has it ignore the signal, as a shell does for a command behind `&`.
                signal_alone.thread_block()?;
                write(ENTER)?;
            }
        }
        Ok(true)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // If the terminal is gone, there is nothing to give back.
        let _ = write(LEAVE);
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
