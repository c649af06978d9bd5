//! Finds out whether a measuring thread had its processor for itself.

use std::fs;

use anyhow::{Context, Result};

/// The share of a thread's time from which on other work is worth a note.
const MUCH: f64 = 0.02;

/// Does some work. Also returns for which share of the time other work had the calling thread's processor.
pub(super) fn noting<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    let [ran_before, waited_before] = scheduled()?;
    let value = work()?;
    let [ran, waited] = scheduled()?;
    let (ran, waited) = (ran - ran_before, waited - waited_before);
    Ok((value, waited / (ran + waited)))
}

/// Returns a note on such a share of a sender's time, if it matters.
pub(super) fn note(share: f64) -> Option<String> {
    let percent = share * 100.0;
    (share > MUCH)
        .then(|| format!("for trying only: up to {percent:.0} % of the sender's CPU went to other work"))
}

/// Returns how long the calling thread has run, and how long it has waited for a processor
/// (Documentation/scheduler/sched-stats.rst in the kernel's source), in nanoseconds.
fn scheduled() -> Result<[f64; 2]> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").context("reading this thread's times")?;
    let mut numbers = text.split_whitespace().map(str::parse);
    let mut next = || numbers.next().context("this thread's times are not two numbers");
    Ok([next()??, next()??])
}
