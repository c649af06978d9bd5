//! The lock for changes in one network namespace.

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

/// How long a change waits for another one by default.
pub(crate) const WAIT: Duration = Duration::from_secs(60);
/// After how long the caller is told which process it waits for.
const TELL_AFTER: Duration = Duration::from_secs(1);
/// How long to sleep between two attempts, because flock(2) has no timeout.
const PAUSE: Duration = Duration::from_millis(5);

/// While this exists, no other Byway changes anything in this network namespace.
///
/// It locks a folder of the namespace's own, beside its pins. A Byway of schema 8 or older locks the folder of all
/// namespaces instead. To keep such a one out as well, this takes a shared lock on that folder, too.
#[derive(Debug)]
pub(crate) struct Lock {
    _all: Flock<File>,
    _own: Flock<File>,
    own: PathBuf,
    /// Another Byway held the lock meanwhile.
    pub(crate) has_waited: bool,
}

/// How to wait for a lock.
pub(crate) struct Wait<'a> {
    /// For how long at most.
    pub(crate) limit: Duration,
    /// Called with the holder of the lock, if the wait takes more than a second.
    pub(crate) tell: Option<&'a dyn Fn(&str)>,
}

/// What the name of a lock's folder begins with.
pub(crate) const LOCK: &str = "lock-";

impl Lock {
    /// Waits for the lock of the calling thread's network namespace, and creates the folders if need be.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] if another Byway holds it for longer.
    pub(crate) fn wait(wait: &Wait<'_>) -> Result<Self> {
        Self::of(&namespace::key()?, wait)
    }

    /// Takes the lock of the network namespace with this key, unless another Byway holds it.
    pub(crate) fn take(key: &str) -> Result<Option<Self>> {
        match Self::of(key, &Wait { limit: Duration::ZERO, tell: None }) {
            Err(Error::Locked { .. }) => Ok(None),
            taken => taken.map(Some),
        }
    }

    fn of(key: &str, wait: &Wait<'_>) -> Result<Self> {
        let all = bpffs::folder();
        let own = all.join(format!("{LOCK}{key}"));
        let start = Instant::now();
        let mut has_waited = false;
        loop {
            bpffs::make_folder(&all)?;
            let Some(of_all) = lock(&all, FlockArg::LockSharedNonblock, start, wait, &mut has_waited)? else {
                continue;
            };
            match bpffs::make_folder(&own) {
                // Someone has just removed it, with the folder around it.
                Err(error) if error.errno() == Some(libc::ENOENT) => continue,
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
    /// Removes the folders if they are empty; one with pins in it stays.
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.own);
        let _ = fs::remove_dir(bpffs::folder());
    }
}

/// Locks a folder. Returns `None` if it is removed meanwhile.
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
    // Refuse a folder of another user, who could hold the lock and keep everybody waiting.
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
        // Ahead of the end, which may be as late as this on a busy machine.
        if waited >= TELL_AFTER && wait.limit > TELL_AFTER && !is_told {
            is_told = true;
            if let Some(tell) = wait.tell {
                tell(&holder(&file));
            }
        }
        if waited >= wait.limit {
            return Err(Error::Locked { holder: holder(&file), waited });
        }
        thread::sleep(PAUSE);
    }
}

/// Whether the locked folder is still the one at this path. While this waited, another Byway may have removed it, and a third
/// created it anew.
fn is_still(lock: &Flock<File>, path: &Path) -> bool {
    let same = |now: fs::Metadata| lock.metadata().is_ok_and(|mine| mine.ino() == now.ino());
    fs::metadata(path).is_ok_and(same)
}

/// The holder of the lock on a file or folder, in words.
pub(crate) fn holder(file: &File) -> String {
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let process = file.metadata().ok().and_then(|it| holder_in(&locks, it.dev(), it.ino()));
    let Some(process) = process else { return "a process that cannot be seen from here".to_owned() };
    let words = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    let words = String::from_utf8_lossy(&words).replace('\0', " ");
    // Its command line must not send control characters to the terminal.
    let words: String = words.trim().chars().filter(|it| !it.is_control()).take(80).collect();
    if words.is_empty() { format!("process {process}") } else { format!("process {process} (`{words}`)") }
}

/// Finds the process that holds a flock(2) lock on a file, in proc_locks(5): "1: FLOCK ADVISORY WRITE 4711 00:1d:42 0 EOF".
/// Lines of waiting processes have an arrow. A process of another PID namespace has number 0 or less.
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
