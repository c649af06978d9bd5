//! Timers that find out whether the kernel keeps a processor for itself: what cyclictest(8) does.

use std::{
    panic,
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use byway_lab::{run_before_others, stay_on_processor};

const TICK: Duration = Duration::from_millis(1);

/// How late a timer of a millisecond was at most, on any processor, while something is done.
///
/// Its thread goes before everything that is not real-time. So other threads do not make it late, but the kernel does,
/// while it does not let go of the processor; and a virtual machine's host.
pub(super) fn latest(doing: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let processors = thread::available_parallelism()?.get();
    let (stop, ready) = (AtomicBool::new(false), Barrier::new(processors + 1));
    thread::scope(|scope| {
        let timers: Vec<_> = (0..processors)
            .map(|processor| {
                let (stop, ready) = (&stop, &ready);
                scope.spawn(move || {
                    let prepared = stay_on_processor(processor).and_then(|()| run_before_others());
                    // Whoever fails must not let the others wait.
                    ready.wait();
                    prepared
                        .with_context(|| format!("running a timer on CPU {processor} before all else"))?;
                    Ok(tick_until(stop))
                })
            })
            .collect();
        ready.wait();
        let done = doing();
        stop.store(true, Relaxed);
        let mut latest = Duration::ZERO;
        for timer in timers {
            let late: Result<Duration> = timer.join().unwrap_or_else(|cause| panic::resume_unwind(cause));
            latest = latest.max(late?);
        }
        done.map(|()| latest)
    })
}

fn tick_until(stop: &AtomicBool) -> Duration {
    let (mut next, mut latest) = (Instant::now() + TICK, Duration::ZERO);
    while !stop.load(Relaxed) {
        thread::sleep(next.saturating_duration_since(Instant::now()));
        let now = Instant::now();
        latest = latest.max(now - next);
        // What was missed is not made up for: that would be the same delay once more.
        next = now.max(next) + TICK;
    }
    latest
}
