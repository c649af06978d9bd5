//! Why a file cannot be a part of a configuration.

use std::{
    io,
    path::{Path, PathBuf},
};

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
    /// Somebody other than root and the caller owns the file or a folder that it is in, and could change what this host does.
    #[error("{}{} belongs to user {owner} (mode {mode:04o}), who could change what this host does", .path.display(), which(.file.as_ref(), ","))]
    OfAnother {
        /// The file or the folder.
        path: PathBuf,
        /// The file, if `path` is a folder that it is in.
        file: Option<PathBuf>,
        /// The owner.
        owner: u32,
        /// The permissions.
        mode: u32,
    },
    /// The group or everybody may write to the file, or to a folder that it is in, and could change what this host does.
    #[error("{}", writable(.path, .file.as_ref(), *.owner, *.mode))]
    Writable {
        /// The file or the folder.
        path: PathBuf,
        /// The file, if `path` is a folder that it is in.
        file: Option<PathBuf>,
        /// The owner.
        owner: u32,
        /// The permissions.
        mode: u32,
    },
    /// A symbolic link leads to a file that its owner may not have access to.
    #[error("{} is a symbolic link that user {owner} has made to a file of user {leads_to}", .path.display())]
    LinkOfAnother {
        /// The link.
        path: PathBuf,
        /// The link's owner.
        owner: u32,
        /// The file's owner.
        leads_to: u32,
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
    /// Returns what to do, if anything can be done. It continues the sentence of [`Display`](std::fmt::Display), after a
    /// semicolon.
    pub fn help(&self) -> Option<String> {
        let help = match self {
            Self::Missing(_) => "check the path, or create the file",
            Self::NoFile { what: A_TERMINAL, .. } => "name a file, or read one from standard input: `< FILE`",
            Self::NoFile { .. } => "name a file",
            Self::Loop(_) => "point it at a file",
            Self::OfAnother { path, file: None, .. } => {
                return Some(format!("give it to root: `chown root {}`", path.display()));
            }
            Self::OfAnother { .. } => {
                "keep the file in a folder of root's such as /etc/byway, or read it from standard input: `- < FILE`"
            }
            Self::Writable { path, .. } => {
                return Some(format!("take that permission away: `chmod go-w {}`", path.display()));
            }
            Self::LinkOfAnother { .. } => "name the file itself",
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

    /// Returns what is wrong and what to do, in one sentence.
    pub fn sentence(&self) -> String {
        in_one_sentence(self, self.help())
    }
}

fn writable(path: &Path, file: Option<&PathBuf>, owner: u32, mode: u32) -> String {
    let who = if mode & 0o002 != 0 { "everybody" } else { "a group" };
    format!(
        "{who} may write to {} (user {owner}, mode {mode:04o}){}, and could change what this host does",
        path.display(),
        which(file, "")
    )
}

/// Says which file is in a folder.
fn which(file: Option<&PathBuf>, end: &str) -> String {
    file.map_or_else(String::new, |file| format!(", which {} is in{end}", file.display()))
}

/// [`FileError::NoFile`] of a terminal.
pub(super) const A_TERMINAL: &str = "a terminal";
