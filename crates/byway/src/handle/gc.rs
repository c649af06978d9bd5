//! What network namespaces that are gone have left in the BPF file system.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{Byway, rollback_store::RollbackStore};
use crate::{
    error::Result,
    kernel::{
        bpffs, lifetime,
        lock::{LOCK, Lock},
        namespace::{self, KEY},
        pins::UNFINISHED,
    },
};

/// What [`Byway::gc`] has found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Leftovers {
    /// The folders of pins that it has removed, because their network namespaces are gone.
    pub removed: Vec<PathBuf>,
    /// The folders that stay, because it is not certain whether their network namespaces exist.
    pub unknown: Vec<Unknown>,
}

/// A folder of pins whose network namespace may be gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Unknown {
    /// The folder.
    pub path: PathBuf,
    /// Why it is not certain, in half a sentence.
    pub reason: String,
}

impl Byway {
    /// Removes the pins of network namespaces that are gone, with their rollback copies. Every change does this as well.
    ///
    /// It leaves the pins of a namespace that exists alone, whatever keeps that namespace: a process in it, a mount, a
    /// descriptor or a socket. It also leaves a folder alone if it cannot tell ([`Leftovers::unknown`]).
    ///
    /// # Errors
    ///
    /// [`Error::BpffsHidden`](crate::Error::BpffsHidden), and those of the file system.
    pub fn gc(&mut self) -> Result<Leftovers> {
        self.check_namespace()?;
        if !bpffs::is_mounted() {
            return bpffs::check_not_hidden().map(|()| Leftovers::default());
        }
        if bpffs::identity(&bpffs::folder())?.is_none() {
            return Ok(Leftovers::default());
        }
        remove(None)
    }
}

/// Removes them. The caller holds the lock of the network namespace with the key `locked`.
pub(super) fn remove(locked: Option<&str>) -> Result<Leftovers> {
    let own = namespace::key()?;
    let mut leftovers = Leftovers::default();
    for name in bpffs::names(&bpffs::folder())? {
        let Some(name) = name.to_str() else { continue };
        let of_lock = name.strip_prefix(LOCK);
        let key = of_lock.or(name.strip_prefix(UNFINISHED)).unwrap_or(name);
        let path = bpffs::folder().join(name);
        let is_settled = || matches!(lifetime::exists(&path), Ok(Some(true)));
        if !key.starts_with(KEY) || (of_lock.is_none() && is_settled()) {
            continue;
        }
        // If somebody holds it, somebody is in that namespace. A lock that nobody holds goes when it is dropped.
        let _lock = match locked {
            Some(locked) if locked == key => None,
            _ => match Lock::take(key) {
                Ok(Some(lock)) => Some(lock),
                Ok(None) => continue,
                Err(error) => {
                    leftovers.unknown.push(Unknown { path, reason: error.to_string() });
                    continue;
                }
            },
        };
        if of_lock.is_some() || !path.exists() {
            continue;
        }
        let reason = match lifetime::exists(&path) {
            Ok(Some(true)) => continue,
            Ok(Some(false)) => match remove_of(key, &path) {
                Ok(()) => {
                    leftovers.removed.push(path);
                    continue;
                }
                Err(error) => error.to_string(),
            },
            // That of the calling thread exists. A folder that was removed almost to the end is empty.
            Ok(None) if key == own || fs::remove_dir(&path).is_ok() => continue,
            Ok(None) => {
                "an older byway made it, and did not note which network namespace it belongs to".into()
            }
            Err(error) => error.to_string(),
        };
        leftovers.unknown.push(Unknown { path, reason });
    }
    Ok(leftovers)
}

/// Removes what a network namespace that is gone has left. The pins go last, because only they tell that it is gone.
fn remove_of(key: &str, pins: &Path) -> Result<()> {
    RollbackStore::remove_of(key)?;
    lifetime::remove(pins)
}
