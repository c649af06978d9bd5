//! The progress of a long change, on a terminal.

use std::time::{Duration, Instant};

use byway::Byway;
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

/// A shorter change needs no progress bar.
const SOON: Duration = Duration::from_secs(1);

/// Draws a bar on standard error, if that is a terminal, for changes that take longer than a second. The bar disappears with
/// the last step, ahead of whatever the command says then.
///
/// It draws when a step is done, and has no thread of its own: a signal that waits for the end of a change would reach that
/// thread at once.
pub(crate) fn with_bar(byway: Byway) -> Byway {
    let start = Instant::now();
    let bar = ProgressBar::no_length().with_finish(ProgressFinish::AndClear);
    // If the template were wrong, the default style would do.
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {human_pos} of {human_len} steps, {eta} left")
    {
        bar.set_style(style);
    }
    byway.with_progress(move |done, steps| {
        if done == steps {
            bar.finish_and_clear();
        } else if start.elapsed() >= SOON {
            bar.set_length(steps as u64);
            bar.set_position(done as u64);
        }
    })
}
