//! The names of network namespaces, in a private `/run/netns` or the host's.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    unistd::{chroot, fchdir},
};

use crate::error::{Doing, Result};

/// Where `ip netns` and `--netns NAME` look names up (ip-netns(8)).
pub(crate) const NETNS: &str = "/run/netns";

/// A mount namespace of the calling thread's own, which the thread leaves when this is dropped
/// (mount_namespaces(7)). The kernel undoes its mounts with its last thread or process, also after SIGKILL.
#[derive(Debug)]
pub(crate) struct PrivateMounts {
    previous: File,
    /// The thread's root directory. setns(2) moves the thread to that of the namespace, which is another one in a chroot.
    root: File,
    directory: File,
}

impl PrivateMounts {
    pub(crate) fn enter() -> Result<Self> {
        let open = |path| File::open(path).doing(|| format!("opening {path}"));
        let mounts =
            Self { previous: open("/proc/thread-self/ns/mnt")?, root: open("/")?, directory: open(".")? };
        unshare_mounts()?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("tmpfs"), "/run", Some("tmpfs"), flags, Some("mode=0755"))
            .doing(|| "mounting a tmpfs on /run")?;
        fs::create_dir(NETNS).doing(|| format!("making {NETNS}"))?;
        mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), flags | MsFlags::MS_NOEXEC, Some("mode=0700"))
            .doing(|| "mounting a bpffs on /sys/fs/bpf")?;
        Ok(mounts)
    }
}

/// Gives the calling thread a mount namespace of its own, whose mounts show nowhere else.
fn unshare_mounts() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).doing(|| "making a mount namespace")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .doing(|| "making the mounts of the new mount namespace private")
}

/// Runs `work` with a `/sys` that shows the devices of the calling thread's network namespace. A sysfs shows those of the
/// thread that mounted it. The mount stays until the thread ends, so use a thread for this alone.
pub(crate) fn with_own_sysfs<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    unshare_mounts()?;
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), None::<&str>)?;
    work()
}

impl PrivateMounts {
    /// Threads share the root and working directory with the thread that started them, and setns(2) refuses a mount
    /// namespace to a thread that shares them.
    fn leave(&self) -> nix::Result<()> {
        unshare(CloneFlags::CLONE_FS)?;
        setns(&self.previous, CloneFlags::CLONE_NEWNS)?;
        fchdir(&self.root)?;
        chroot(".")?;
        fchdir(&self.directory)
    }
}

impl Drop for PrivateMounts {
    fn drop(&mut self) {
        // Nobody can handle a failure here. The kernel cleans up when the thread ends.
        let _ = self.leave();
    }
}

/// Makes the host's `/run/netns` a shared mount point, so that every mount namespace sees the names come and go:
/// what `ip netns add` does (iproute2, ip/ipnetns.c, `netns_add`).
pub(crate) fn share_names() -> Result<()> {
    fs::create_dir_all(NETNS).doing(|| format!("making {NETNS}"))?;
    let none = None::<&str>;
    let share = || mount(none, NETNS, none, MsFlags::MS_SHARED | MsFlags::MS_REC, none);
    match share() {
        // Not a mount point yet.
        Err(Errno::EINVAL) => {
            mount(Some(NETNS), NETNS, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)
                .doing(|| format!("making {NETNS} a mount point"))?;
            share()
        }
        result => result,
    }
    .doing(|| format!("making {NETNS} a shared mount point"))
}

/// Removes a name, mounted or not.
pub(crate) fn remove_name(path: &Path) -> io::Result<()> {
    // A process that was killed between making the file and mounting on it leaves a file without a mount.
    match umount2(path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(Errno::EINVAL) => fs::remove_file(path),
        Err(error) => Err(error.into()),
    }
}
