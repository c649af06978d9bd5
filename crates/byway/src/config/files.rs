//! Reads configurations from the file system, and refuses unsafe files.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, IsTerminal, Read},
    os::{
        fd::AsFd,
        unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use thiserror::Error;

use crate::{
    config::{self, Reading},
    model::in_one_sentence,
};

/// The path of standard input ([`read_config`], [`read_file`]).
pub const STDIN: &str = "-";

/// What standard input is called in errors and problems.
pub const STDIN_NAME: &str = "standard input";

/// The largest file that is read, in bytes: three times the size of a list of a million sources.
pub const FILE_MAX: u64 = 128 * 1024 * 1024;

/// Why a file cannot be a part of a configuration.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FileError {
    /// The file does not exist.
    #[error("there is no file {}", .0.display())]
    Missing(PathBuf),
    /// It is a folder, a pipe, a device or a socket.
    #[error("{} is {what}", .path.display())]
    NoFile {
        /// The path.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// A symbolic link leads to itself.
    #[error("{} is a symbolic link that leads to itself", .0.display())]
    Loop(PathBuf),
    /// Everybody could change what this host does.
    #[error("everybody may write to {}", .0.display())]
    WorldWritable(PathBuf),
    /// Somebody else could add to the configuration.
    #[error("{} and {} belong to different users", .folder.display(), .file.display())]
    FolderOfAnother {
        /// The folder.
        folder: PathBuf,
        /// The configuration beside it.
        file: PathBuf,
    },
    /// It is larger than [`FILE_MAX`].
    #[error("{} has {size} bytes, more than the limit of {FILE_MAX}", .path.display())]
    TooLarge {
        /// The path.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// It is a pipe that has more than [`FILE_MAX`] bytes.
    #[error("{} has more than the limit of {FILE_MAX} bytes", .0.display())]
    Endless(PathBuf),
    /// It is a pipe that ends before its first byte: what should have written to it has most likely failed.
    #[error("{} is empty", .0.display())]
    Empty(PathBuf),
    /// It is not UTF-8.
    #[error("{} is not UTF-8: line {line} has an invalid byte", .path.display())]
    NotText {
        /// The path.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// Somebody wrote to it meanwhile, so the text may be a mixture of old and new.
    #[error("{} was changed while it was read", .0.display())]
    Changed(PathBuf),
    /// The file system reported an error.
    #[error("cannot read {}: {error}", .path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// Its error.
        error: io::Error,
    },
}

impl FileError {
    /// What to do, if anything can be done. It reads as a continuation of [`Display`](std::fmt::Display), after a semicolon.
    pub fn help(&self) -> Option<String> {
        let help = match self {
            Self::Missing(_) => "name the configuration, or write one there",
            Self::NoFile { what: A_TERMINAL, .. } => "name a file, or send one in: `< FILE`",
            Self::NoFile { .. } => "name a file",
            Self::Loop(_) => "point it at a file",
            Self::WorldWritable(path) => {
                return Some(format!("take that permission away: `chmod o-w {}`", path.display()));
            }
            Self::FolderOfAnother { .. } => "give both to the same user, or move the files of the folder",
            Self::Empty(_) => {
                "look at what should have written to it; if nothing is meant, send a comment (`#`)"
            }
            Self::TooLarge { .. } | Self::Endless(_) => "use shorter prefixes, or several files",
            Self::NotText { .. } => "save it as UTF-8",
            Self::Changed(_) => "try again",
            Self::Io { .. } => return None,
        };
        Some(help.to_owned())
    }

    /// What is wrong and what to do, in one sentence.
    pub fn sentence(&self) -> String {
        in_one_sentence(self, self.help())
    }
}

const A_TERMINAL: &str = "a terminal";

/// Reads a configuration: standard input ([`STDIN`]), or a file, the `*.toml` files of the folder beside it (`byway.d` beside `byway.toml`), by name, and
/// the lists that these files name.
///
/// # Errors
///
/// Why one of the files cannot be read. Problems of their content are in the [`Reading`].
pub fn read_config(path: &Path) -> Result<Reading, FileError> {
    let name = if is_stdin(path) { Path::new(STDIN_NAME) } else { path };
    let mut texts = vec![(name.to_owned(), read_file(path)?)];
    for path in additions(path)? {
        let text = read_text(&path, FILE_MAX)?;
        texts.push((path, text));
    }
    Ok(config::read(texts, &mut |path| read_text(path, FILE_MAX)))
}

/// Reads the text of one file, or of standard input ([`STDIN`]), to its end. A path like `/dev/fd/3` may be a pipe.
///
/// # Errors
///
/// Why it cannot be read.
pub fn read_file(path: &Path) -> Result<String, FileError> {
    let failed = |name: &Path| {
        let path = name.to_owned();
        |error| FileError::Io { path, error }
    };
    if is_stdin(path) {
        let name = Path::new(STDIN_NAME);
        let stdin = io::stdin().as_fd().try_clone_to_owned().map_err(failed(name))?;
        return read_stream(name, &File::from(stdin));
    }
    if path.starts_with("/dev/fd") || path.starts_with("/proc/self/fd") {
        // A named pipe whose writer has gone would not open otherwise.
        let file = open(path)?;
        if !file.metadata().map_err(failed(path))?.is_file() {
            fcntl(&file, FcntlArg::F_SETFL(OFlag::empty())).map_err(io::Error::from).map_err(failed(path))?;
            return read_stream(path, &file);
        }
    }
    read_text(path, FILE_MAX)
}

fn is_stdin(path: &Path) -> bool {
    [STDIN, "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"].iter().any(|name| path == Path::new(name))
}

/// Reads what comes in, once and to its end.
fn read_stream(name: &Path, file: &File) -> Result<String, FileError> {
    let path = || name.to_owned();
    let failed = |error| FileError::Io { path: path(), error };
    if file.is_terminal() {
        return Err(FileError::NoFile { path: path(), what: A_TERMINAL });
    }
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_file() || metadata.is_dir() {
        check(name, &metadata, FILE_MAX)?;
    }
    let mut bytes = Vec::new();
    Read::by_ref(&mut &*file).take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    match bytes.len() as u64 {
        0 => Err(FileError::Empty(path())),
        length if length > FILE_MAX => Err(FileError::Endless(path())),
        _ => as_text(name, bytes),
    }
}

/// Reads a configuration that Byway has written, of any size.
pub(crate) fn read_copy(path: &Path) -> Result<Reading, FileError> {
    let text = read_text(path, u64::MAX - 1)?;
    // A copy names no list.
    Ok(config::read([(path.to_owned(), text)], &mut |path| Err(FileError::Missing(path.to_owned()))))
}

/// The files that add to a configuration, by name.
fn additions(path: &Path) -> Result<Vec<PathBuf>, FileError> {
    if path.extension().is_none_or(|extension| extension != "toml") {
        return Ok(Vec::new());
    }
    let folder = path.with_extension("d");
    let failed = |error| FileError::Io { path: folder.clone(), error };
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => {
            check_folder(&folder, path).map_err(failed)??;
            entries
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(failed(error)),
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>();
    let mut paths = paths.map_err(failed)?;
    // As with the shell's `*.toml`: names that begin with a dot belong to editors.
    let is_hidden =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml") && !is_hidden(path));
    paths.sort();
    Ok(paths)
}

/// Refuses a folder that others can add files to than those who may write the configuration.
fn check_folder(folder: &Path, file: &Path) -> io::Result<Result<(), FileError>> {
    let metadata = fs::metadata(folder)?;
    if metadata.mode() & 0o002 != 0 {
        return Ok(Err(FileError::WorldWritable(folder.to_owned())));
    }
    if ![0, fs::metadata(file)?.uid()].contains(&metadata.uid()) {
        return Ok(Err(FileError::FolderOfAnother { folder: folder.to_owned(), file: file.to_owned() }));
    }
    Ok(Ok(()))
}

/// Opens a file. Does not wait for the other end of a pipe.
fn open(path: &Path) -> Result<File, FileError> {
    let flags = (OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    opened.map_err(|error| match error.raw_os_error() {
        Some(libc::ENOENT) => FileError::Missing(path.to_owned()),
        Some(libc::ELOOP) => FileError::Loop(path.to_owned()),
        // A socket cannot be opened at all.
        Some(libc::ENXIO) => FileError::NoFile { path: path.to_owned(), what: "a socket" },
        _ => FileError::Io { path: path.to_owned(), error },
    })
}

/// Reads the text of one file of at most `max` bytes. Refuses one that everybody may write to.
fn read_text(path: &Path, max: u64) -> Result<String, FileError> {
    let failed = |error: io::Error| match error.raw_os_error() {
        Some(libc::ENOENT) => FileError::Missing(path.to_owned()),
        _ => FileError::Io { path: path.to_owned(), error },
    };
    let file = open(path)?;
    let before = file.metadata().map_err(failed)?;
    check(path, &before, max)?;
    let mut bytes = Vec::with_capacity(before.len() as usize + 1);
    // A file that keeps growing is noticed below, and must not be read forever.
    Read::by_ref(&mut &file).take(max + 1).read_to_end(&mut bytes).map_err(failed)?;
    if has_changed(path, &file, &before, bytes.len()).map_err(failed)? {
        return Err(FileError::Changed(path.to_owned()));
    }
    as_text(path, bytes)
}

fn as_text(path: &Path, bytes: Vec<u8>) -> Result<String, FileError> {
    String::from_utf8(bytes).map_err(|error| {
        let right = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = right.iter().filter(|byte| **byte == b'\n').count() + 1;
        FileError::NotText { path: path.to_owned(), line }
    })
}

fn check(path: &Path, metadata: &fs::Metadata, max: u64) -> Result<(), FileError> {
    let path = path.to_owned();
    let kind = metadata.file_type();
    let what = match () {
        () if kind.is_dir() => "a folder",
        () if kind.is_fifo() => "a pipe",
        () if !kind.is_file() => "a device",
        () => "",
    };
    if !what.is_empty() {
        return Err(FileError::NoFile { path, what });
    }
    if metadata.mode() & 0o002 != 0 {
        return Err(FileError::WorldWritable(path));
    }
    if metadata.len() > max {
        return Err(FileError::TooLarge { path, size: metadata.len() });
    }
    Ok(())
}

/// Whether somebody has written to the file, or replaced it.
fn has_changed(path: &Path, file: &File, before: &fs::Metadata, length: usize) -> io::Result<bool> {
    let state = |of: &fs::Metadata| {
        (of.dev(), of.ino(), of.len(), of.mtime(), of.mtime_nsec(), of.ctime(), of.ctime_nsec())
    };
    let after = file.metadata()?;
    let now = fs::metadata(path)?;
    Ok(state(&after) != state(before) || state(&now) != state(before) || length as u64 != before.len())
}
