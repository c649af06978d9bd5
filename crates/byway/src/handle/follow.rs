//! Keeps what was asked for true while devices and routes change.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
};

use nix::fcntl::Flock;

use super::{Byway, rollback_store::RollbackStore};
use crate::{
    error::{Error, Result},
    kernel::{
        bpffs,
        pins::Remembered,
        snapshot::{Scope, read_consistent, read_to_follow},
    },
    policy::{
        followed::Followed,
        snapshot::Snapshot,
        state::{Actual, Unseen},
        step::Step,
    },
};

/// What decides whether there is anything to do: everything but the rules, and the devices that carry a default route.
pub(super) type Seen = (Actual, BTreeSet<u32>);

/// While this exists, no other process is the agent of this network namespace.
#[derive(Debug)]
pub struct AgentLock {
    _file: Flock<File>,
}

impl Byway {
    /// Fits what is in force to the devices and routes of now. Attachments that follow the default route move with it, next hops
    /// without a named device go where the routing tables find their gateways, and what has waited for a device or has lost its
    /// program gets it. Rules, groups and their counters stay. Returns what has changed.
    ///
    /// A call that finds everything as the last one has found it, which had nothing to change, reads no rules and takes no lock.
    ///
    /// # Errors
    ///
    /// Those of [`Byway::add`] for attachments, and those of the kernel. Nothing has changed then.
    pub fn follow(&mut self) -> Result<Vec<Followed>> {
        match self.seen() {
            // A change takes them over.
            Err(Error::OlderSchema { .. }) => {}
            Ok(None) => return Ok(Vec::new()),
            Ok(seen) if seen == self.followed => return Ok(Vec::new()),
            Ok(_) => {}
            Err(error) => return Err(error),
        }
        self.followed = None;
        let mut change = self.begin(&Scope::follow(), |transaction| {
            transaction.follow_default_routes();
            Ok(())
        })?;
        let steps = self.commit(&mut change)?;
        let Snapshot { mut actual, host } = change.transaction.snapshot;
        let followed = Followed::of(&actual, &steps);
        // Where the kernel keeps no neighbour resolved, it is asked to each time.
        if steps.iter().all(|step| matches!(step, Step::KeepResolved(_))) {
            // What was found, and not what is there by now: what has changed meanwhile differs from it.
            (actual.rules, actual.unseen) = (BTreeMap::new(), Unseen::default());
            let default_routes = if actual.is_auto { host.default_routes } else { BTreeSet::new() };
            self.followed = Some((actual, default_routes));
        }
        Ok(followed)
    }

    /// Returns whether the pins have gone since the last call, and with them all rules, although no Byway has removed them:
    /// somebody has deleted them or unmounted their file system.
    ///
    /// # Errors
    ///
    /// Those of [`Byway::add`] for the lock, and those of the kernel.
    pub fn has_lost_pins(&mut self) -> Result<bool> {
        self.check_namespace()?;
        match &self.remembered {
            Some(before) if before.are_there()? => Ok(false),
            Some(before) => {
                // A change may be about to remove them. Nobody changes anything where their file system is gone.
                let _lock = if bpffs::is_mounted() { Some(self.lock()?) } else { None };
                let has_lost = !before.are_removed()?;
                self.remembered = Remembered::now()?;
                Ok(has_lost)
            }
            None => {
                self.remembered = Remembered::now()?;
                Ok(false)
            }
        }
    }

    fn seen(&mut self) -> Result<Option<Seen>> {
        let Some(pins) = self.pins()? else { return Ok(None) };
        let network = &mut self.network;
        read_consistent(Some(&pins), || read_to_follow(&pins, network)).map(Some)
    }

    /// Makes this process the agent of the network namespace, as long as the lock exists: the one that calls [`Byway::follow`].
    ///
    /// # Errors
    ///
    /// [`Error::AgentRuns`](crate::Error::AgentRuns) names the process that is it already.
    pub fn lock_agent(&self) -> Result<AgentLock> {
        self.check_namespace()?;
        RollbackStore::open()?.lock_agent().map(|_file| AgentLock { _file })
    }
}
