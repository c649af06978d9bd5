//! The grace period: how long a program may still run that has seen what held before a change.

use std::{thread, time::Duration};

use super::sys;

/// Waits until no program runs any more that was running at the call.
pub(super) fn wait() {
    if sys::wait_for_programs().is_err() {
        // CPUs that are set apart do not take part. A program runs for less than a thousandth of this.
        thread::sleep(Duration::from_millis(10));
    }
}
