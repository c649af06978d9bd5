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
/// `EINVAL` if there is no such processor, or the process may not use it.
pub fn stay_on_processor(processor: usize) -> io::Result<()> {
    pin(Pid::from_raw(0), processor)
}

/// From now on, runs the calling thread, and what it starts, before everything that is not real-time (SCHED_FIFO; sched(7)).
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
    /// Makes a kernel thread on one processor receive the packets that come in by a veth, and do all work that follows, such
    /// as forwarding. Otherwise the sending processor does this as well, within its system call.
    ///
    /// This is threaded NAPI (Documentation/networking/napi.rst in the kernel's source; Linux 5.13 for a veth). Packets
    /// that come faster than the thread takes them are dropped, and the other end counts them as dropped. A veth has NAPI where
    /// it has [`Offload::GenericReceive`], and uses it for frames from an end without [`Offload::TcpSegmentation`].
    ///
    /// The thread is found by its name, so no other device on the machine should have the same name.
    ///
    /// # Errors
    ///
    /// [`crate::Error::System`] if there is no such device or processor, where the kernel cannot do it, and where the
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
