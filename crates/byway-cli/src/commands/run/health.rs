//! How the agent is, for those who ask it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{LOOK_AGAIN, now};

/// How long after it should have looked again it counts as stuck. A change may wait for another one in between.
const PATIENCE: Duration = Duration::from_secs(90);

/// What several threads know of the agent.
#[derive(Debug, Clone, Default)]
pub(super) struct Health(Arc<Mutex<Vitals>>);

/// What there is to know.
#[derive(Debug, Clone, Default)]
pub(super) struct Vitals {
    /// When it last looked at the network (`CLOCK_MONOTONIC`).
    pub(super) looked: Duration,
    /// Why the last configuration is not in force.
    pub(super) of_configuration: Option<String>,
    /// Why an apply that nobody has confirmed in time is not rolled back.
    pub(super) of_rollback: Option<String>,
    /// What keeps it from knowing whether the pins are there.
    pub(super) of_pins: Option<String>,
    /// Why what is in force does not follow the network.
    pub(super) of_network: Option<String>,
    /// Why the health checks cannot be carried out.
    pub(super) of_health_checks: Option<String>,
    /// Why the ways of replies cannot be watched. Replies go back as they do without an agent, so this is no trouble of those who
    /// ask whether all is in force.
    pub(super) of_ways: Option<String>,
    /// Why default gateways cannot be guarded.
    pub(super) of_guard: Option<String>,
    /// How much it has changed because the network had.
    pub(super) followed: u64,
    /// How often events were lost.
    pub(super) overruns: u64,
}

impl Vitals {
    /// Returns what is wrong, if anything is.
    pub(super) fn trouble(&self) -> Option<&str> {
        let all = [
            &self.of_configuration,
            &self.of_rollback,
            &self.of_pins,
            &self.of_network,
            &self.of_health_checks,
            &self.of_guard,
        ];
        all.into_iter().find_map(Option::as_deref)
    }
}

impl Health {
    /// Gives access to it.
    pub(super) fn vitals(&self) -> MutexGuard<'_, Vitals> {
        // Nobody panics while holding it, and numbers are whole at any time.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the agent does its work, or is stuck.
    pub(super) fn is_alive(&self) -> bool {
        now().saturating_sub(self.vitals().looked) < LOOK_AGAIN + PATIENCE
    }
}
