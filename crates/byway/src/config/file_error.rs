//! Why a file cannot be a part of a configuration.

use std::{io, path::PathBuf};

use thiserror::Error;

use crate::model::in_one_sentence;

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
            Self::Missing(_) => "check the path, or create the file",
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

/// [`FileError::NoFile`] of a terminal.
pub(super) const A_TERMINAL: &str = "a terminal";
