//! Which processor does what, for measurements.

use std::{fs, io, process::Command, time::Duration};

use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::{Pid, gettid},
};

use crate::{
    Node, Offload,
    error::{Doing, Result},
    mounts,
    wait::wait_until,
};

/// How long the kernel may take to start a thread.
const STARTED_WITHIN: Duration = Duration::from_secs(5);

/// Keeps the calling thread on one processor from now on (sched_setaffinity(2)).
///
/// # Errors
///
/// `EINVAL` where there is no such processor, or the process may not use it.
pub fn stay_on_processor(processor: usize) -> io::Result<()> {
    pin(Pid::from_raw(0), processor)
}

/// Lets the calling thread, and what it starts, run before all that is not real-time from now on (SCHED_FIFO; sched(7)).
/// It has to sleep most of the time.
///
/// # Errors
///
/// An error without chrt(1), of util-linux, and where the kernel does not let this process do it.
pub fn run_before_others() -> io::Result<()> {
    let thread = gettid().to_string();
    let mut chrt = Command::new("chrt");
    let output = chrt.args(["--fifo", "--pid", "50", &thread]).output().map_err(|error| {
        io::Error::new(error.kind(), format!("running chrt, which is in the package util-linux: {error}"))
    })?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

fn pin(thread: Pid, processor: usize) -> io::Result<()> {
    let mut processors = CpuSet::new();
    processors.set(processor)?;
    Ok(sched_setaffinity(thread, &processors)?)
}

impl Node {
    /// Has a kernel thread on one processor receive what comes in by a veth, and do all that follows from it, as
    /// forwarding does. Otherwise the processor that sends does this as well, within its system call.
    ///
    /// This is threaded NAPI (Documentation/networking/napi.rst in the kernel's source; Linux 5.13 for a veth). What
    /// comes faster than the thread takes it is dropped, and counts as that at the other end. A veth has NAPI where
    /// it has [`Offload::GenericReceive`], and uses it for frames from an end without [`Offload::TcpSegmentation`].
    ///
    /// The thread is found by its name, so the device's name should be no other's on the machine.
    ///
    /// # Errors
    ///
    /// [`crate::Error::System`] where there is no such device or processor, where the kernel cannot do it, and where the
    /// process does not see the kernel's threads.
    pub fn receive_on_processor(&self, device: &str, processor: usize) -> Result<()> {
        let doing = || format!("receiving from {device} on {} with processor {processor}", self.name());
        self.set_offload(device, Offload::GenericReceive, true)?;
        self.run(|| mounts::with_own_sysfs(|| fs::write(format!("/sys/class/net/{device}/threaded"), "1")))
            .doing(doing)?;
        let mut threads = Ok(Vec::new());
        let _ = wait_until(STARTED_WITHIN, || {
            threads = napi_threads(device);
            !matches!(&threads, Ok(threads) if threads.is_empty())
        });
        let threads = threads.doing(doing)?;
        if threads.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "the kernel's thread for it is not to be seen",
            ))
            .doing(doing);
        }
        threads.into_iter().try_for_each(|thread| pin(thread, processor)).doing(doing)
    }
}

/// The kernel threads of a device's queues: `napi/DEVICE-NUMBER` (`napi_kthread_create`, net/core/dev.c).
fn napi_threads(device: &str) -> io::Result<Vec<Pid>> {
    let beginning = format!("napi/{device}-");
    let mut threads = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process may have ended since.
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if name.starts_with(&beginning) {
            threads.push(Pid::from_raw(number));
        }
    }
    Ok(threads)
}
