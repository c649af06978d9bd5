//! How far a long change is, on a terminal.

use std::time::{Duration, Instant};

use byway::Byway;
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

/// What takes less is over before anybody asks.
const SOON: Duration = Duration::from_secs(1);

/// Draws a bar on standard error, if that is a terminal, for changes that take longer than a second. It goes with the
/// handle.
///
/// It draws when it is told of a step, and has no thread that draws meanwhile: a signal that waits for the end of a change
/// would come to that one at once.
pub(crate) fn with_bar(byway: Byway) -> Byway {
    let start = Instant::now();
    let bar = ProgressBar::no_length().with_finish(ProgressFinish::AndClear);
    // A template that is none would be this file's mistake; then it is the library's own.
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {human_pos} of {human_len} steps, {eta} left")
    {
        bar.set_style(style);
    }
    byway.with_progress(move |done, steps| {
        if start.elapsed() >= SOON {
            bar.set_length(steps as u64);
            bar.set_position(done as u64);
        }
    })
}
