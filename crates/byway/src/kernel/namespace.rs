//! Network namespaces: identifies this one, and enters others.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use nix::sched::{CloneFlags, setns};

use super::sys;
use crate::error::{Error, Result};

/// Where ip-netns(8) keeps the named namespaces.
const NAMED: &str = "/run/netns";

/// What the name of each namespace's folder begins with.
pub(crate) const KEY: &str = "netns-";

/// Returns a folder name that is unique to the calling thread's network namespace.
///
/// It contains the namespace's cookie (Linux 5.14). Before that it contains the inode number, which the kernel may
/// give to another namespace once this one is gone.
pub(crate) fn key() -> Result<String> {
    match sys::netns_cookie() {
        Ok(cookie) => Ok(format!("{KEY}{cookie}")),
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => {
            let namespace = fs::metadata("/proc/thread-self/ns/net")
                .map_err(Error::io("look at this network namespace in /proc/thread-self/ns/net"))?;
            Ok(format!("{KEY}inode-{}", namespace.ino()))
        }
        Err(error) => Err(Error::kernel("ask for the number of this network namespace", error)),
    }
}

/// Moves the calling thread into a network namespace: a name that `ip netns` knows, or a path such as
/// `/proc/1234/ns/net` (anything with a `/`). The mount namespace stays, so pins stay visible, unlike with
/// `ip netns exec` (ip-netns(8)).
///
/// # Errors
///
/// [`Error::NoSuchNamespace`] if there is none, [`Error::Privilege`] without `CAP_SYS_ADMIN`.
pub fn enter_namespace(name: &str) -> Result<()> {
    let path = if name.contains('/') { Path::new(name).to_owned() } else { Path::new(NAMED).join(name) };
    let no_such = || Error::NoSuchNamespace(name.to_owned());
    // A named pipe would not open before somebody writes to it.
    let file = match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(Error::Privilege("CAP_SYS_ADMIN"));
        }
        Err(_) => return Err(no_such()),
    };
    setns(file, CloneFlags::CLONE_NEWNET).map_err(|errno| match errno {
        nix::Error::EPERM => Error::Privilege("CAP_SYS_ADMIN"),
        nix::Error::EINVAL => no_such(), // a file, but not a network namespace
        errno => Error::kernel(format!("enter the network namespace {name}"), errno),
    })
}
