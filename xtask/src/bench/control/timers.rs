//! Finds out with timers whether the kernel keeps a processor for itself, like cyclictest(8).

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

/// Returns how late a timer of a millisecond is at most, on any processor, while something is done.
///
/// Its thread runs before everything that is not real-time. So no other thread makes it late, but the kernel does if it keeps
/// the processor, and so does the host of a virtual machine.
pub(super) fn latest(doing: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let processors = thread::available_parallelism()?.get();
    let (stop, ready) = (AtomicBool::new(false), Barrier::new(processors + 1));
    thread::scope(|scope| {
        let timers: Vec<_> = (0..processors)
            .map(|processor| {
                let (stop, ready) = (&stop, &ready);
                scope.spawn(move || {
                    let prepared = stay_on_processor(processor).and_then(|()| run_before_others());
                    // A thread that fails must not make the others wait.
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
        // Do not make up for missed timers, which would count the same delay again.
        next = now.max(next) + TICK;
    }
    latest
}
