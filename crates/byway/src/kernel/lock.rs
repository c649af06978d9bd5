//! The right to change what is pinned for one network namespace.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::stat::{major, minor},
    unistd::Uid,
};

use super::{bpffs, namespace};
use crate::error::{Error, Result};

/// How long a change waits for another one, unless it is told.
pub(crate) const WAIT: Duration = Duration::from_secs(60);
/// After how long somebody is told what it waits for.
const TELL_AFTER: Duration = Duration::from_secs(1);
/// How long it is until the next look. flock(2) cannot be told to wait for a while and no longer.
const PAUSE: Duration = Duration::from_millis(5);

/// No other Byway changes anything in this network namespace as long as this is there.
///
/// It is a lock on a folder of the namespace's own, beside its pins. So that no Byway of schema 8 or older changes anything
/// either, which locks the folder of all namespaces, that one is locked as well, for any number of newer ones.
#[derive(Debug)]
pub(crate) struct Lock {
    _all: Flock<File>,
    _own: Flock<File>,
    own: PathBuf,
    /// Another Byway had it meanwhile.
    pub(crate) has_waited: bool,
}

/// How to wait for a lock.
pub(crate) struct Wait<'a> {
    /// For how long at the most.
    pub(crate) limit: Duration,
    /// Is told who has the lock, where that takes more than a second.
    pub(crate) tell: Option<&'a dyn Fn(&str)>,
}

impl Lock {
    /// Waits for the right, and makes the folders if need be.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] where another Byway keeps it for longer.
    pub(crate) fn wait(wait: &Wait<'_>) -> Result<Self> {
        let all = bpffs::folder();
        let own = all.join(format!("lock-{}", namespace::key()?));
        let start = Instant::now();
        let mut has_waited = false;
        loop {
            bpffs::make_folder(&all)?;
            let Some(of_all) = lock(&all, FlockArg::LockSharedNonblock, start, wait, &mut has_waited)? else {
                continue;
            };
            match bpffs::make_folder(&own) {
                // Removed just now, with the folder that it is in.
                Err(_) if !all.exists() => continue,
                made => made?,
            }
            let of_own = lock(&own, FlockArg::LockExclusiveNonblock, start, wait, &mut has_waited)?;
            if let Some(of_own) = of_own
                && is_still(&of_all, &all)
            {
                return Ok(Self { _all: of_all, _own: of_own, own, has_waited });
            }
        }
    }
}

impl Drop for Lock {
    /// Leaves no empty folder behind. One with pins in it cannot be removed like this.
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.own);
        let _ = fs::remove_dir(bpffs::folder());
    }
}

/// Locks a folder, or nothing where it is removed meanwhile.
fn lock(
    path: &Path,
    how: FlockArg,
    start: Instant,
    wait: &Wait<'_>,
    has_waited: &mut bool,
) -> Result<Option<Flock<File>>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(Error::NotOurs(path.to_owned()));
        }
        Err(error) => return Err(Error::kernel(format!("open {}", path.display()), error)),
    };
    // Another user who holds the lock could keep everybody waiting.
    let owner = file.metadata().map_err(Error::io(format!("look at {}", path.display())))?.uid();
    if owner != 0 && owner != Uid::effective().as_raw() {
        return Err(Error::NotOurs(path.to_owned()));
    }
    let mut is_told = false;
    loop {
        file = match Flock::lock(file, how) {
            Ok(lock) => return Ok(is_still(&lock, path).then_some(lock)),
            Err((file, Errno::EWOULDBLOCK)) => file,
            Err((_, errno)) => return Err(Error::kernel(format!("lock {}", path.display()), errno)),
        };
        *has_waited = true;
        let waited = start.elapsed();
        if waited >= wait.limit {
            return Err(Error::Locked { holder: holder(&file), waited });
        }
        if waited >= TELL_AFTER.min(wait.limit) && !is_told {
            is_told = true;
            if let Some(tell) = wait.tell {
                tell(&holder(&file));
            }
        }
        thread::sleep(PAUSE);
    }
}

/// Whether the folder that is locked is still there. While this waited, another Byway may have removed it and a third made it
/// anew.
fn is_still(lock: &Flock<File>, path: &Path) -> bool {
    let same = |now: fs::Metadata| lock.metadata().is_ok_and(|mine| mine.ino() == now.ino());
    fs::metadata(path).is_ok_and(same)
}

/// Who holds the lock on a folder, in words.
fn holder(file: &File) -> String {
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let process = file.metadata().ok().and_then(|it| holder_in(&locks, it.dev(), it.ino()));
    let Some(process) = process else { return "a process that cannot be seen from here".to_owned() };
    let words = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    let words = String::from_utf8_lossy(&words).replace('\0', " ");
    // Whoever it is, its words are not to write on a terminal as they like.
    let words: String = words.trim().chars().filter(|it| !it.is_control()).take(80).collect();
    if words.is_empty() { format!("process {process}") } else { format!("process {process} (`{words}`)") }
}

/// The process that holds a lock of flock(2) on a file, of proc_locks(5): "1: FLOCK ADVISORY WRITE 4711 00:1d:42 0 EOF". Those
/// that wait have an arrow in front. A process of another PID namespace is 0 or less.
fn holder_in(locks: &str, device: u64, inode: u64) -> Option<u32> {
    let file = format!("{:02x}:{:02x}:{inode}", major(device), minor(device));
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [_, "FLOCK", _, _, process, of, ..] if of == file => process.parse().ok().filter(|it| *it != 0),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_holds_a_lock_is_found() {
        let locks = "1: FLOCK  ADVISORY  WRITE 4711 00:1d:42 0 EOF\n\
                     1: -> FLOCK  ADVISORY  WRITE 4712 00:1d:42 0 EOF\n\
                     2: POSIX  ADVISORY  READ 4713 00:1d:43 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE -1 00:1d:44 0 EOF\n\
                     4: FLOCK\n";
        let device = nix::sys::stat::makedev(0, 0x1d);
        assert_eq!(holder_in(locks, device, 42), Some(4711));
        for inode in [43, 44, 45] {
            assert_eq!(holder_in(locks, device, inode), None);
        }
    }
}
