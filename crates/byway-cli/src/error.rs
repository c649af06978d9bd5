//! Why a command did not do its work, and its exit code.

use std::{
    io,
    path::{Path, PathBuf},
};

use byway::{ErrorKind, FileError, Selector, grammar::GrammarError};

use crate::{help, log::shortened};

/// Why a command did not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{}", help::of_words(.0))]
    Grammar(#[from] GrammarError),
    #[error("{}", help::sentence(.0))]
    Byway(#[from] byway::Error),
    #[cfg(feature = "demo")]
    #[error(transparent)]
    Lab(#[from] byway_lab::Error),
    #[cfg(feature = "demo")]
    #[error("the demo could not go on: {0}")]
    Demo(std::io::Error),
    #[error("{}", .0.sentence())]
    File(#[from] FileError),
    #[error("{}: {problems}; nothing has been changed", name(.path))]
    Config { path: PathBuf, problems: String },
    #[error("{}: {error}", place(.path, *.line))]
    Batch { path: PathBuf, line: Option<usize>, error: Box<Error> },
    #[error(
        "a batch has no `{0}`; write `add`, `replace`, `del`, `flush` (all rules), `group`, `nexthop`, `attach` or `detach`, without `byway`"
    )]
    NoChange(String),
    #[error("{0}; `byway show` lists the rules")]
    NothingChosen(String),
    #[error("there is no rule {0}, but others match such packets; {help}", help = help::of_others(.0))]
    OnlyOthers(Selector),
    #[error("{0}")]
    TooShort(String),
    #[error("cannot wait for changes of the network: {0}")]
    Agent(std::io::Error),
    #[error("cannot answer HTTP there: {0}")]
    Http(std::io::Error),
    #[error("cannot leave the terminal: {0}")]
    Guard(std::io::Error),
    #[error("cannot print: {0}")]
    Print(std::io::Error),
    #[error("it is done, but this cannot be printed ({error}): {done}")]
    PrintChange { done: String, error: std::io::Error },
    #[error("it is done, but what has come of it cannot be read ({error}): {done}")]
    Unread { done: String, error: Box<Error> },
    #[cfg(feature = "demo")]
    #[error("the hosts of an earlier `byway demo --keep` are still up; remove them: `byway demo --clean`")]
    DemoStays,
}

/// `FILE:LINE`, or the file alone.
fn place(path: &Path, line: Option<usize>) -> String {
    match line {
        Some(line) => format!("{}:{line}", name(path)),
        None => name(path).to_string(),
    }
}

/// The exit codes beside 0 (done) and 3 (`diff` found differences). docs/iproute2.md lists them.
pub(crate) mod code {
    pub(super) const FAILED: u8 = 1;
    pub(super) const INVALID: u8 = 2;
    /// Something of a configuration waits: it is in force as far as it can be.
    pub(crate) const WAITS: u8 = 4;
    pub(super) const REFUSED: u8 = 5;
    pub(super) const NOT_FOUND: u8 = 6;
    pub(super) const EXISTS: u8 = 7;
    pub(super) const PRIVILEGE: u8 = 8;
    pub(super) const NOT_PRINTED: u8 = 9;
}

impl Error {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::File(FileError::Io { error, .. }) if error.kind() == io::ErrorKind::PermissionDenied => {
                code::PRIVILEGE
            }
            Self::File(FileError::Missing(_)) => code::NOT_FOUND,
            Self::Grammar(_) | Self::File(_) | Self::Config { .. } => code::INVALID,
            Self::NoChange(_) | Self::TooShort(_) => code::INVALID,
            Self::NothingChosen(_) | Self::OnlyOthers(_) => code::NOT_FOUND,
            Self::Batch { error, .. } => error.exit_code(),
            Self::Byway(error) => match error.kind() {
                ErrorKind::Invalid => code::INVALID,
                ErrorKind::Refused => code::REFUSED,
                ErrorKind::NotFound => code::NOT_FOUND,
                ErrorKind::Exists => code::EXISTS,
                ErrorKind::Privilege => code::PRIVILEGE,
                _ => code::FAILED,
            },
            Self::PrintChange { .. } | Self::Unread { .. } => code::NOT_PRINTED,
            #[cfg(feature = "demo")]
            Self::DemoStays => code::REFUSED,
            #[cfg(feature = "demo")]
            Self::Lab(byway_lab::Error::Privilege { .. }) => code::PRIVILEGE,
            #[cfg(feature = "demo")]
            Self::Lab(_) | Self::Demo(_) => code::FAILED,
            Self::Agent(_) | Self::Http(_) | Self::Guard(_) | Self::Print(_) => code::FAILED,
        }
    }

    /// The same error after a change, with what is done.
    pub(crate) fn after_change(self, done: &str) -> Self {
        let done = shortened(done);
        match self {
            Self::Print(error) => Self::PrintChange { done, error },
            error => Self::Unread { done, error: Box::new(error) },
        }
    }
}

/// What a file is called.
pub(crate) fn name(path: &Path) -> impl std::fmt::Display {
    if path == Path::new(byway::STDIN) { Path::new(byway::STDIN_NAME).display() } else { path.display() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_change_the_change_is_said() {
        let failed = || Error::from(byway::Error::NoSuchDevice("eth1".into()));
        assert_eq!(failed().exit_code(), code::REFUSED);
        let after = failed().after_change("added: from 192.0.2.7 drop\nattached to eth0");
        assert_eq!(after.exit_code(), code::NOT_PRINTED);
        let said = after.to_string();
        assert!(
            said.starts_with("it is done, but what has come of it cannot be read (there is no device `eth1`"),
            "{said}"
        );
        assert!(said.ends_with("): added: from 192.0.2.7 drop; attached to eth0"), "{said}");
    }
}
