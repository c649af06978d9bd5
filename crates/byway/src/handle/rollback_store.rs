//! The copy of the state before an apply, for rollback, and the note of an apply that waits to be confirmed.
//!
//! Both are files below /run, which a reboot empties like the kernel's maps:
//!
//! ```text
//! /run/byway/netns-COOKIE/
//!     before/config.toml  the configuration's part of the state before the last apply
//!     before/attached     the attachments after that apply, one interface on each line
//!     before/found        where the routing table had found gateways whose device nobody has named, a gateway a line
//!     before/auto         there where attachments were those devices that carry a default route
//!     older/              the copy before that one, while an apply is under way
//!     unfinished/         a copy that is being written
//!     gone/               a copy that is being removed
//!     unconfirmed         which apply waits, and until when, in milliseconds
//!     guard               locked (flock) by the guard of that apply while it is alive
//!     agent               locked (flock) by the process that follows devices and routes
//!     undone              what happened to an apply that nobody confirmed, in a sentence
//! ```

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    time::{ClockId, clock_gettime},
};

use crate::{
    config::{Reading, file_error::FileError, files::read_copy},
    error::{Error, Result},
    kernel::{bpffs, lock, namespace},
    policy::rollback::Saved,
};

/// The folder of one network namespace. Changes to it need the lock.
pub(crate) struct RollbackStore {
    folder: PathBuf,
}

/// An apply that waits to be confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unconfirmed {
    /// Which apply it is.
    pub(crate) token: String,
    /// When its time is over, on the clock of [`now`].
    pub(crate) until: Duration,
}

impl Unconfirmed {
    /// How long it still waits.
    pub(crate) fn time_left(&self) -> Result<Duration> {
        Ok(self.until.saturating_sub(now()?))
    }
}

/// The time since the kernel started, including sleep (`CLOCK_BOOTTIME`, clock_gettime(2)).
pub(crate) fn now() -> Result<Duration> {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME);
    now.map(Duration::from).map_err(|errno| Error::kernel("read the clock", errno))
}

impl RollbackStore {
    /// The store of the calling thread's network namespace, which may not exist yet.
    pub(crate) fn open() -> Result<Self> {
        Ok(Self { folder: Path::new(bpffs::RUN).join(namespace::key()?) })
    }

    /// Removes the store of the network namespace with this key, which is gone.
    pub(crate) fn remove_of(key: &str) -> Result<()> {
        bpffs::remove(&Path::new(bpffs::RUN).join(key))
    }

    fn before(&self) -> PathBuf {
        self.folder.join("before")
    }

    fn older(&self) -> PathBuf {
        self.folder.join("older")
    }

    fn undone(&self) -> PathBuf {
        self.folder.join("undone")
    }

    fn guard(&self) -> PathBuf {
        self.folder.join("guard")
    }

    fn note(&self) -> PathBuf {
        self.folder.join("unconfirmed")
    }

    /// Marks the guard of an apply as alive, as long as the lock exists.
    pub(crate) fn lock_guard(&self) -> Result<Flock<File>> {
        self.write(&self.guard(), &|_| Ok(()))?;
        let action = || format!("lock {}", self.guard().display());
        let file = open(&self.guard()).map_err(Error::io(action()))?;
        Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, errno)| Error::kernel(action(), errno))
    }

    /// Whether the guard of the last apply is alive.
    pub(crate) fn has_guard(&self) -> bool {
        let lock = |file| Flock::lock(file, FlockArg::LockSharedNonblock);
        open(&self.guard()).is_ok_and(|file| lock(file).is_err())
    }

    /// Marks this process as the one that follows devices and routes, as long as the lock exists.
    pub(crate) fn lock_agent(&self) -> Result<Flock<File>> {
        bpffs::make_folder(Path::new(bpffs::RUN))?;
        bpffs::make_folder(&self.folder)?;
        let path = self.folder.join("agent");
        let action = || format!("lock {}", path.display());
        // Never made anew: whoever has it open may have locked it.
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.map_err(Error::io(action()))?;
        Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(file, errno)| match errno {
            Errno::EWOULDBLOCK => Error::AgentRuns { holder: lock::holder(&file) },
            errno => Error::kernel(action(), errno),
        })
    }

    /// Whether a process has that lock.
    pub(crate) fn has_agent(&self) -> Result<bool> {
        let path = self.folder.join("agent");
        let action = || format!("look at the lock {}", path.display());
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            file => file.map_err(Error::io(action()))?,
        };
        match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Ok(_) => Ok(false),
            Err((_, Errno::EWOULDBLOCK)) => Ok(true),
            Err((_, errno)) => Err(Error::kernel(action(), errno)),
        }
    }

    /// Saves a copy. The one before stays until [`RollbackStore::commit`].
    pub(crate) fn save(&self, copy: &Saved) -> Result<()> {
        let Saved { config, attached, found, is_auto } = copy;
        let unfinished = self.folder.join("unfinished");
        bpffs::remove(&unfinished)?;
        let write = |name: &str, lines: &dyn Fn(&mut dyn Write) -> io::Result<()>| {
            self.write(&unfinished.join(name), lines)
        };
        let written = write("config.toml", &|out| write!(out, "{config}"))
            .and_then(|()| {
                write("attached", &|out| attached.iter().try_for_each(|name| writeln!(out, "{name}")))
            })
            .and_then(|()| {
                write("found", &|out| {
                    found.iter().try_for_each(|(gateway, device)| writeln!(out, "{gateway} {device}"))
                })
            })
            .and_then(|()| if *is_auto { write("auto", &|_| Ok(())) } else { Ok(()) });
        if let Err(error) = written {
            // A partial copy is useless; report the original error, not that of the cleanup.
            let _ = bpffs::remove(&unfinished);
            return Err(error);
        }
        // An apply that was cut off has left two copies. If it had changed nothing yet, the older one is of the last change.
        let has_older = self.older().exists();
        let is_now = |text: String| text == config.to_string();
        if has_older && read(&self.before().join("config.toml")).is_ok_and(is_now) {
            self.discard(&self.before())?;
        } else {
            self.discard(&self.older())?;
            rename(&self.before(), &self.older())?;
        }
        rename(&unfinished, &self.before())?;
        bpffs::remove(&self.undone())
    }

    /// Reads the copy, if there is one, and the one before that, if an apply was cut off.
    pub(crate) fn copies(&self) -> Result<(Option<Saved>, Option<Saved>)> {
        let older = copy(&self.older())?;
        // An apply that was cut off between the two has done nothing more.
        Ok(copy(&self.before())?.map_or((older.clone(), None), |last| (Some(last), older)))
    }

    /// Removes the older copy: the apply has been carried out.
    pub(crate) fn drop_older(&self) -> Result<()> {
        self.discard(&self.older())
    }

    /// Notes that the apply has failed, or was cut off before its change: restores the copy before it.
    pub(crate) fn abort(&self) -> Result<()> {
        self.end_wait()?;
        self.discard(&self.before())?;
        rename(&self.older(), &self.before())
    }

    /// Removes the copy: it is the current state, or nobody needs it any more.
    pub(crate) fn clear(&self) -> Result<()> {
        self.end_wait()?;
        self.discard(&self.older())?;
        self.discard(&self.before())?;
        // Removes the folder if it is empty; otherwise it stays.
        let _ = fs::remove_dir(&self.folder);
        Ok(())
    }

    /// Reads which apply waits to be confirmed, if one does.
    ///
    /// # Errors
    ///
    /// [`Error::DamagedNote`] if the note says something else. Nothing is done because of such a note.
    pub(crate) fn unconfirmed(&self) -> Result<Option<Unconfirmed>> {
        let path = self.note();
        let text = match read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(Error::kernel(format!("read {}", path.display()), error));
            }
            Err(error) => return Err(Error::DamagedNote { path, what: error.to_string() }),
        };
        let what = "it does not say which apply waits, and until when";
        parse(&text).map(Some).ok_or_else(|| Error::DamagedNote { path, what: what.to_owned() })
    }

    /// Notes that an apply waits.
    pub(crate) fn wait_for(&self, unconfirmed: &Unconfirmed) -> Result<()> {
        let Unconfirmed { token, until } = unconfirmed;
        let unfinished = self.folder.join("unfinished");
        bpffs::remove(&unfinished)?;
        self.write(&unfinished, &|out| writeln!(out, "{token} {}", until.as_millis()))?;
        rename(&unfinished, &self.note())
    }

    /// Notes that no apply waits any more.
    pub(crate) fn end_wait(&self) -> Result<()> {
        bpffs::remove(&self.undone())?;
        bpffs::remove(&self.note())?;
        // Nothing waits any more, whether or not this file stays: it only has something to lock.
        let _ = bpffs::remove(&self.guard());
        Ok(())
    }

    /// Notes what happened to an apply that nobody confirmed.
    pub(crate) fn note_undone(&self, sentence: &str) -> Result<()> {
        self.write(&self.undone(), &|out| writeln!(out, "{sentence}"))
    }

    /// Reads what happened to the last apply that nobody confirmed.
    pub(crate) fn what_was_undone(&self) -> Option<String> {
        read(&self.undone()).ok().map(|text| text.trim_end().to_owned())
    }

    /// Removes a copy as a whole.
    fn discard(&self, copy: &Path) -> Result<()> {
        let gone = self.folder.join("gone");
        bpffs::remove(&gone)?;
        rename(copy, &gone)?;
        bpffs::remove(&gone)
    }

    /// Writes a file that nobody else may read, whole or not at all.
    fn write(&self, path: &Path, write: &dyn Fn(&mut dyn Write) -> io::Result<()>) -> Result<()> {
        bpffs::make_folder(Path::new(bpffs::RUN))?;
        bpffs::make_folder(&self.folder)?;
        if let Some(folder) = path.parent() {
            bpffs::make_folder(folder)?;
        }
        bpffs::remove(path)?;
        let written =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).and_then(|file| {
                let mut out = BufWriter::new(file);
                write(&mut out)?;
                out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
            });
        written.map_err(|error| {
            // A partial copy is useless; report the original error, not that of the cleanup.
            let _ = fs::remove_file(path);
            Error::kernel(format!("keep the state of before in {}", self.folder.display()), error)
        })
    }
}

/// The note of [`RollbackStore::wait_for`].
fn parse(text: &str) -> Option<Unconfirmed> {
    let (token, until) = text.strip_suffix('\n')?.split_once(' ')?;
    Some(Unconfirmed { token: token.to_owned(), until: Duration::from_millis(until.parse().ok()?) })
}

/// Opens a file. Does not wait for the other end of a pipe.
fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no file")) }
}

fn read(path: &Path) -> io::Result<String> {
    io::read_to_string(open(path)?)
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::kernel(format!("rename {} to {}", from.display(), to.display()), error))
        }
        _ => Ok(()),
    }
}

/// Reads the copy in a folder, if there is one.
fn copy(folder: &Path) -> Result<Option<Saved>> {
    let path = folder.join("config.toml");
    let damaged = |what: String| Error::DamagedCopy { path: path.clone(), what };
    let reading = match read_copy(&path) {
        Err(FileError::Missing(_)) => return Ok(None),
        reading => reading.map_err(|error| damaged(error.to_string()))?,
    };
    let Reading { config: Some(config), .. } = reading else {
        let message = reading.problems.into_iter().next().map_or_else(String::new, |problem| problem.message);
        return Err(damaged(message));
    };
    let lines = |name: &str| match read(&folder.join(name)) {
        // A byway up to schema 9 has kept none, since its copies name each device.
        Err(error) if error.kind() == io::ErrorKind::NotFound && name == "found" => Ok(String::new()),
        text => text.map_err(|error| damaged(format!("{name} beside it: {error}"))),
    };
    let found = |line: &str| {
        let (gateway, device) = line.split_once(' ')?;
        Some((gateway.parse().ok()?, device.to_owned()))
    };
    Ok(Some(Saved {
        config,
        attached: lines("attached")?.lines().map(str::to_owned).collect(),
        found: lines("found")?.lines().filter_map(found).collect(),
        is_auto: folder.join("auto").exists(),
    }))
}
