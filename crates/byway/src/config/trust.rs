//! Opens a file together with the folders that it is in, and tells who may write to them.
//!
//! The custom is that of sshd (`StrictModes`, sshd_config(5)): the file and each folder above it belong to root or the
//! caller, or to the user who runs this by sudo(8), and nobody else may write to them. A folder with the sticky bit, such as
//! /tmp, is an exception: there only the owner of a file may replace it.

use std::{
    env,
    ffi::OsString,
    fs::{self, File, Metadata},
    io,
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, OFlag, openat, readlinkat},
    sys::stat::{Mode, fstat},
    unistd::Uid,
};

use super::file_error::FileError;

/// How many symbolic links lead to a file at most, as in the kernel (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// An open file.
pub(super) struct Opened {
    pub(super) file: File,
    /// The folder that it is in. Every folder that has a link to it comes before.
    folders: Vec<File>,
}

/// Opens a file or a folder. Does not wait for the other end of a pipe.
///
/// Opens each folder first and the file from there, so that what is checked later is what was opened.
pub(super) fn open(path: &Path) -> Result<Opened, FileError> {
    let failed = |errno: Errno| refused(path, errno.into());
    let mut folders = Vec::new();
    let mut links = Vec::new();
    let mut at = path.to_owned();
    for _ in 0..=LINKS_MAX {
        // A path like `..` has no name, and is a folder.
        let (parent, name) = match (at.parent(), at.file_name()) {
            (Some(parent), Some(name)) if parent == Path::new("") => (Path::new("."), name.to_owned()),
            (Some(parent), Some(name)) => (parent, name.to_owned()),
            _ => (at.as_path(), OsString::from(".")),
        };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let folder = match folders.last() {
            Some(last) => openat(last, parent, flags, Mode::empty()),
            None => openat(AT_FDCWD, parent, flags, Mode::empty()),
        };
        let folder = File::from(folder.map_err(failed)?);
        let target = readlinkat(&folder, name.as_os_str());
        if let Ok(target) = target {
            links.push(owner_of_link(&folder, &name).map_err(failed)?);
            folders.push(folder);
            at = PathBuf::from(target);
            continue;
        }
        let flags =
            OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&folder, name.as_os_str(), flags, Mode::empty()).map_err(failed)?;
        let file = File::from(file);
        let owner = file.metadata().map_err(|error| refused(path, error))?.uid();
        // Or else somebody could have root read, and print, a file that only root may read.
        if let Some(of_link) = links.into_iter().find(|link| !is_trusted(*link) && *link != owner) {
            return Err(FileError::LinkOfAnother { path: path.to_owned(), owner: of_link, leads_to: owner });
        }
        folders.push(folder);
        return Ok(Opened { file, folders });
    }
    Err(failed(Errno::ELOOP))
}

/// Why a file does not open.
pub(super) fn refused(path: &Path, error: io::Error) -> FileError {
    let path = path.to_owned();
    match error.raw_os_error() {
        Some(libc::ENOENT) => FileError::Missing(path),
        Some(libc::ELOOP) => FileError::Loop(path),
        // A socket cannot be opened at all.
        Some(libc::ENXIO) => FileError::NoFile { path, what: "a socket" },
        _ => FileError::Io { path, error },
    }
}

fn owner_of_link(folder: &File, name: &OsString) -> nix::Result<u32> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let link = File::from(openat(folder, name.as_os_str(), flags, Mode::empty())?);
    Ok(fstat(&link)?.st_uid)
}

impl Opened {
    /// What is unsafe about the file, if anything is: somebody other than root and the caller may write or replace it.
    pub(super) fn unsafe_of(&self, path: &Path) -> Option<FileError> {
        self.find_unsafe(path).unwrap_or_else(|error| Some(refused(path, error)))
    }

    fn find_unsafe(&self, path: &Path) -> io::Result<Option<FileError>> {
        let metadata = self.file.metadata()?;
        if let Some(error) = unsafe_one(&metadata, path.to_owned(), None) {
            return Ok(Some(error));
        }
        for folder in &self.folders {
            let mut folder = folder.try_clone()?;
            loop {
                let metadata = folder.metadata()?;
                // The sticky bit (inode(7)).
                if metadata.mode() & 0o1000 == 0 || !may_decide(metadata.uid()) {
                    let name = || name_of(&folder).unwrap_or_else(|_| path.with_file_name(""));
                    if let Some(error) = unsafe_one(&metadata, name(), Some(path.to_owned())) {
                        return Ok(Some(error));
                    }
                }
                let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
                let above = File::from(openat(&folder, "..", flags, Mode::empty())?);
                let is_root =
                    |above: &Metadata| (above.dev(), above.ino()) == (metadata.dev(), metadata.ino());
                if is_root(&above.metadata()?) {
                    break;
                }
                folder = above;
            }
        }
        Ok(None)
    }
}

/// The path of an open folder, as this process sees it (proc_pid_fd(5)).
fn name_of(folder: &File) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/self/fd/{}", folder.as_raw_fd()))
}

fn unsafe_one(metadata: &Metadata, path: PathBuf, file: Option<PathBuf>) -> Option<FileError> {
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    if !may_decide(owner) {
        return Some(FileError::OfAnother { path, file, owner, mode });
    }
    (mode & 0o022 != 0).then_some(FileError::Writable { path, file, owner, mode })
}

/// Whether this user may name files: root or the caller.
fn is_trusted(user: u32) -> bool {
    user == 0 || user == Uid::effective().as_raw()
}

/// Whether this user may decide where packets go: one of these, or the one who runs this by sudo(8).
fn may_decide(user: u32) -> bool {
    let by_sudo = || env::var("SUDO_UID").is_ok_and(|uid| uid.parse() == Ok(user));
    is_trusted(user) || (Uid::effective().is_root() && by_sudo())
}
