//! Errors while a topology is built.

use std::{fmt, io};

use byway_netlink::packet::RouteNetlinkMessage;

/// A lab's [`std::result::Result`].
pub type Result<T> = std::result::Result<T, Error>;

/// Why a part of a topology could not be built. Traffic helpers report [`io::Error`] instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The process may not do this (capabilities(7)).
    #[error("{doing} needs {capability}, which this process lacks: run it as root")]
    Privilege {
        /// What was being done.
        doing: &'static str,
        /// The capability, as in capabilities(7).
        capability: &'static str,
    },
    /// The kernel refused.
    #[error("{doing}: {source}")]
    System {
        /// What was being done, on which node and device.
        doing: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel has no devices of this kind: it was built without them, or their module is missing.
    #[error("this kernel has no {kind} devices: load the module, or use a kernel that is built with them")]
    KernelLacks {
        /// The kind, as in ip-link(8).
        kind: String,
    },
    /// The caller's text is not an address, a route or a name.
    #[error("`{text}` is not {expected}")]
    Invalid {
        /// What was given.
        text: String,
        /// What it should have been.
        expected: &'static str,
    },
}

impl Error {
    pub(crate) fn invalid(text: impl fmt::Display, expected: &'static str) -> Self {
        Self::Invalid { text: text.to_string(), expected }
    }

    /// For answers of another kind than the one that was asked for; the kernel gives none.
    pub(crate) fn unexpected(doing: String, answer: &RouteNetlinkMessage) -> Self {
        Self::System { doing, source: io::Error::other(format!("unexpected answer {answer:?}")) }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Privilege { .. } => io::ErrorKind::PermissionDenied,
            Error::System { source, .. } => source.kind(),
            Error::KernelLacks { .. } => io::ErrorKind::Unsupported,
            Error::Invalid { .. } => io::ErrorKind::InvalidInput,
        };
        Self::new(kind, error)
    }
}

/// Says what was being done when a system call failed.
pub(crate) trait Doing<T> {
    /// Wraps the error in [`Error::System`] with `doing`.
    fn doing<D: fmt::Display>(self, doing: impl FnOnce() -> D) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing<D: fmt::Display>(self, doing: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|source| Error::System { doing: doing().to_string(), source: source.into() })
    }
}
