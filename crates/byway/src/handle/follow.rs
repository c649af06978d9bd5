//! Keeps what was asked for true while devices and routes change.

use std::{collections::BTreeSet, fs::File};

use nix::fcntl::Flock;

use super::{Byway, rollback_store::RollbackStore};
use crate::{
    error::Result,
    kernel::snapshot::{Scope, read_consistent, read_to_follow},
    policy::{followed::Followed, state::Actual},
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
        let seen = self.seen()?;
        if seen.is_none() || seen == self.followed {
            self.followed = seen;
            return Ok(Vec::new());
        }
        self.followed = None;
        let mut change = self.begin(&Scope::follow(), |transaction| {
            transaction.follow_default_routes();
            Ok(())
        })?;
        let steps = self.commit(&mut change)?;
        if steps.is_empty() {
            // Read before the decision: what has changed since then differs from it, and is followed by the next call.
            self.followed = seen;
        }
        Ok(Followed::of(&change.transaction.snapshot.actual, &steps))
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
