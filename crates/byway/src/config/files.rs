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

use super::{
    file_error::{A_TERMINAL, FILE_MAX, FileError},
    read::{Reading, read},
    trust::{self, Opened},
};

/// The path of standard input ([`read_config`], [`read_file`]).
pub const STDIN: &str = "-";

/// What standard input is called in errors and problems.
pub const STDIN_NAME: &str = "standard input";

/// What happens to a file that others may write: the error is returned, or the file is read all the same.
type Doubt<'a> = &'a mut dyn FnMut(FileError) -> Result<(), FileError>;

/// Reads a configuration: standard input ([`STDIN`]), or a file and the `*.toml` files of the folder beside it, by name
/// (`byway.d` beside `byway.toml`). It also reads the lists that these files name.
///
/// Refuses a file that somebody other than root and the caller may write or replace: that user would decide where the
/// packets go. What comes in by an open descriptor (standard input, `/dev/fd/3`) is the caller's own choice.
///
/// # Errors
///
/// Why one of the files cannot be read. Problems of their content are in the [`Reading`].
pub fn read_config(path: &Path) -> Result<Reading, FileError> {
    read_all(path, &mut Err)
}

/// Reads the same files as [`read_config`], for somebody who is not going to apply them. It does not refuse files that others
/// may write: it names them in [`Reading::unsafe_files`].
///
/// # Errors
///
/// Those of [`read_config`].
pub fn inspect_config(path: &Path) -> Result<Reading, FileError> {
    let mut unsafe_files = Vec::new();
    let reading = read_all(path, &mut |error| {
        unsafe_files.push(error);
        Ok(())
    })?;
    Ok(Reading { unsafe_files, ..reading })
}

fn read_all(path: &Path, doubt: Doubt<'_>) -> Result<Reading, FileError> {
    let name = if is_stdin(path) { Path::new(STDIN_NAME) } else { path };
    let mut texts = vec![(name.to_owned(), read_one(path, doubt)?)];
    for path in additions(path, doubt)? {
        let text = read_text(&path, FILE_MAX, doubt)?;
        texts.push((path, text));
    }
    Ok(read(texts, &mut |path| read_text(path, FILE_MAX, doubt)))
}

/// Reads the text of one file, or of standard input ([`STDIN`]), to its end. A path like `/dev/fd/3` may be a pipe. Refuses
/// the files that [`read_config`] refuses.
///
/// # Errors
///
/// Why it cannot be read.
pub fn read_file(path: &Path) -> Result<String, FileError> {
    read_one(path, &mut Err)
}

fn read_one(path: &Path, doubt: Doubt<'_>) -> Result<String, FileError> {
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
        let flags = (OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
        let file = file.map_err(|error| trust::refused(path, error))?;
        fcntl(&file, FcntlArg::F_SETFL(OFlag::empty())).map_err(io::Error::from).map_err(failed(path))?;
        return read_stream(path, &file);
    }
    read_text(path, FILE_MAX, doubt)
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
    let text = read_text(path, u64::MAX - 1, &mut Err)?;
    // A copy names no list.
    Ok(read([(path.to_owned(), text)], &mut |path| Err(FileError::Missing(path.to_owned()))))
}

/// The files that add to a configuration, by name.
fn additions(path: &Path, doubt: Doubt<'_>) -> Result<Vec<PathBuf>, FileError> {
    if path.extension().is_none_or(|extension| extension != "toml") {
        return Ok(Vec::new());
    }
    let folder = path.with_extension("d");
    let failed = |error| FileError::Io { path: folder.clone(), error };
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => {
            // Even without a file in it: somebody may have removed one.
            trust::open(&folder)?.unsafe_of(&folder).map_or(Ok(()), &mut *doubt)?;
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

/// Reads the text of one file of at most `max` bytes.
fn read_text(path: &Path, max: u64, doubt: Doubt<'_>) -> Result<String, FileError> {
    let failed = |error: io::Error| trust::refused(path, error);
    let opened = trust::open(path)?;
    let before = opened.file.metadata().map_err(failed)?;
    check(path, &before, max)?;
    opened.unsafe_of(path).map_or(Ok(()), doubt)?;
    let Opened { file, .. } = opened;
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
