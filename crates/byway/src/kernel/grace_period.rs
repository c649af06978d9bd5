//! The grace period: the time in which programs may still run that have seen the state before a change.

use std::{thread, time::Duration};

use super::sys;

/// Waits until every program that was running at the call has ended.
pub(super) fn wait() {
    if sys::wait_for_programs().is_err() {
        // The kernel refuses this with `nohz_full` CPUs. A program runs for less than a thousandth of this time.
        thread::sleep(Duration::from_millis(10));
    }
}
