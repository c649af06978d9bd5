//! One network namespace, held by a file descriptor (network_namespaces(7), setns(2)).

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, RawFd},
    panic,
    path::Path,
    thread,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
};

/// A network namespace. It exists as long as this value, a socket or a process in it, or a mount of its file.
#[derive(Debug)]
pub(crate) struct Namespace(File);

impl Namespace {
    /// Makes a namespace without touching the calling thread's own.
    pub(crate) fn create() -> io::Result<Self> {
        in_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net").map(Self)
        })
    }

    /// Gives the namespace a name in the file system, as `ip netns add` does. `file` must exist.
    pub(crate) fn mount_on(&self, file: &Path) -> io::Result<()> {
        let source = format!("/proc/self/fd/{}", self.0.as_raw_fd());
        Ok(mount(Some(source.as_str()), file, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
    }

    /// Runs `work` in a thread that has entered the namespace; a panic goes on in the caller.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        in_thread(|| {
            self.enter();
            work()
        })
    }

    /// Moves the calling thread into the namespace, for good.
    ///
    /// # Panics
    ///
    /// If setns(2) fails, because the process has lost `CAP_SYS_ADMIN` since the namespace was made.
    pub(crate) fn enter(&self) {
        setns(&self.0, CloneFlags::CLONE_NEWNET).expect("entering a network namespace needs CAP_SYS_ADMIN");
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn in_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(value) => value,
        Err(cause) => panic::resume_unwind(cause),
    })
}
