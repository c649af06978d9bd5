//! The BPF file system, where the pins are.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sys::statfs::{FsType, statfs},
};

use crate::error::{Error, Result};

const MOUNT_POINT: &str = "/sys/fs/bpf";
/// The folder of what outlives a command, but not a reboot. Only its owner may look into it.
pub(crate) const RUN: &str = "/run/byway";
/// `BPF_FS_MAGIC` (include/uapi/linux/magic.h).
const BPF_FS_MAGIC: FsType = FsType(0xCAFE_4A11);

/// The folder of all pins, with one folder for each network namespace.
pub(crate) fn folder() -> PathBuf {
    Path::new(MOUNT_POINT).join("byway")
}

/// Whether a BPF file system is mounted where Byway looks for one.
pub(crate) fn is_mounted() -> bool {
    statfs(MOUNT_POINT).is_ok_and(|stat| stat.filesystem_type() == BPF_FS_MAGIC)
}

/// Mounts a BPF file system if there is none, as tc(8) and systemd(1) do.
///
/// # Errors
///
/// [`Error::BpffsHidden`] under `ip netns exec`, where the mount would vanish with the command;
/// [`Error::NoBpffs`] if this process may not mount it.
pub(crate) fn ensure_mounted() -> Result<()> {
    if is_mounted() {
        return Ok(());
    }
    check_not_hidden()?;
    let _alone = alone();
    if is_mounted() {
        return Ok(());
    }
    mount(Some("bpf"), MOUNT_POINT, Some("bpf"), MsFlags::empty(), Some("mode=0700")).map_err(|errno| {
        match errno {
            Errno::EPERM | Errno::EACCES | Errno::ENOENT | Errno::ENODEV => {
                Error::NoBpffs(MOUNT_POINT.into())
            }
            errno => Error::kernel(format!("mount a BPF file system at {MOUNT_POINT}"), errno),
        }
    })
}

/// Waits until no other Byway mounts a BPF file system: the kernel would mount a second one over the first. Where there is no
/// /run, it does not wait.
fn alone() -> Option<Flock<fs::File>> {
    make_folder(Path::new(RUN)).ok()?;
    Flock::lock(fs::File::open(RUN).ok()?, FlockArg::LockExclusive).ok()
}

/// Refuses to work if `ip netns exec` hides the BPF file system.
pub(crate) fn check_not_hidden() -> Result<()> {
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo")
        .map_err(Error::io("read the mounts from /proc/thread-self/mountinfo"))?;
    netns_exec(&mounts).map_or(Ok(()), |namespace| Err(Error::BpffsHidden(namespace.to_owned())))
}

/// Returns the name of the network namespace if this process runs under `ip netns exec`. ip-netns(8) mounts a sysfs over
/// /sys, with the namespace's name as its source (iproute2, `netns_switch`); everyone else writes `sysfs` there.
fn netns_exec(mountinfo: &str) -> Option<&str> {
    // "36 35 0:33 / /sys rw - sysfs SOURCE rw", proc_pid_mountinfo(5); the last mount is the visible one.
    let (_, tail) = mountinfo
        .lines()
        .filter_map(|line| line.split_once(" - "))
        .rfind(|(head, tail)| head.split(' ').nth(4) == Some("/sys") && tail.starts_with("sysfs "))?;
    tail.split(' ').nth(1).filter(|source| !["sysfs", "sys", "none"].contains(source))
}

/// Returns the inode number of a folder, if it exists.
///
/// # Errors
///
/// [`Error::NotOurs`] if this process may not look.
pub(crate) fn identity(path: &Path) -> Result<Option<u64>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(Error::NotOurs(folder())),
        Err(error) => Err(Error::kernel(format!("look at {}", path.display()), error)),
    }
}

/// Creates a folder that only its owner may look into, unless it exists.
pub(crate) fn make_folder(path: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(Error::kernel(format!("make the folder {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

/// Removes a file, or a folder with everything in it. A missing one is not an error.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let removed = match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => fs::remove_dir_all(path),
        removed => removed,
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::kernel(format!("remove {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

/// Returns the names of what is in a folder.
pub(crate) fn names(folder: &Path) -> Result<BTreeSet<OsString>> {
    let failed = || Error::io(format!("look into {}", folder.display()));
    fs::read_dir(folder).map_err(failed())?.map(|entry| Ok(entry.map_err(failed())?.file_name())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ip_netns_exec_is_recognised() {
        let host = "22 28 0:20 / /sys rw,nosuid shared:7 - sysfs sysfs rw\n30 22 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw";
        assert_eq!(netns_exec(host), None);
        let inside = format!("{host}\n402 380 0:51 / /sys rw,relatime - sysfs blue rw\n");
        assert_eq!(netns_exec(&inside), Some("blue"));
        assert_eq!(netns_exec(""), None);
    }
}
