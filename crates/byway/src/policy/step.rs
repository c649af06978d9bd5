//! The steps of a change, as plain data.

use std::sync::Arc;

use super::{
    compile::{Entries, Entry},
    state::{DeviceSet, Neighbour, Role},
};
use crate::model::{Action, Device, Group, HealthCheck, NextHop, Prefix, Selector};

/// A rule in a compiled table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RuleRef {
    /// A rule that exists in the kernel, by its identity.
    Held(u32),
    /// A new rule, by the place of its record among those of the plan.
    New(u32),
}

/// Replaces one set of rules by another in one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Switch {
    /// Changes only the entry of this source, from the first to the second.
    Entry(Prefix, Option<Entry<RuleRef>>, Option<Entry<RuleRef>>),
    /// Replaces all entries. The first are the current ones, the second the new ones.
    All(Entries<RuleRef>, Entries<RuleRef>),
}

/// A single change. Each leaves a working data path, and can be undone until [`Step::WaitForGracePeriod`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Attach a program to a device that has none.
    Attach(Device, Role),
    /// Replace the program of a device by the other one of the same direction, which has this role.
    ChangeRole(Device, Role),
    /// Detach the program.
    Detach(Device, Role),
    /// Record whether the attachments are the devices that carry a default route.
    SetAuto(bool),
    /// Record that an attachment waits for the device of this name.
    Await(String),
    /// Record that it no longer waits.
    StopAwaiting(String),
    /// Ask the kernel to keep a neighbour resolved.
    KeepResolved(Neighbour),
    /// Let the kernel forget the neighbour.
    LetGo(Neighbour),
    /// Create a next hop that nothing uses yet.
    MakeNextHop(NextHop),
    /// Update a next hop whose device was gone and exists again, or whose device has another MTU now.
    Renew(NextHop),
    /// Create a set of devices that no rule names yet.
    MakeDevices(DeviceSet),
    /// Give a set the devices that have its names now.
    SetDevices(u8, DeviceSet),
    /// Take a next hop out of service, or put it back.
    SetDown(NextHop, bool),
    /// Give a next hop this health check, or none.
    SetHealthCheck(NextHop, Option<HealthCheck>),
    /// Create or change a group in the generation that is not in force.
    PrepareGroup(Group),
    /// Create a group in the generation in force, or change it there in one instant.
    PutGroup(Group),
    /// Create the record and the counters of a rule that no packet finds yet. The identity is that of the rule that it
    /// replaces.
    Record(Selector, Arc<Action>, Option<u32>),
    /// Put the new rules in force.
    Switch(Box<Switch>),
    /// Wait until every program that may have seen the old state has ended. No step after this one is undone.
    WaitForGracePeriod,
    /// Remove the tables that no packet uses any more.
    Clear,
    /// Remove the record and the counters of a rule that is no longer in force.
    Forget(u32),
    /// Remove a group that no rule uses.
    ForgetGroup(String),
    /// Remove a set of devices that no rule names.
    ForgetDevices(u8),
    /// Remove a next hop that nothing uses.
    ForgetNextHop(NextHop),
}

impl Switch {
    /// Whether it leaves tables that no packet uses any more.
    pub(super) fn leaves_tables(&self) -> bool {
        match self {
            Self::Entry(_, before, _) => matches!(before, Some(Entry::ByDestination(_))),
            Self::All(before, _) => !before.is_empty(),
        }
    }
}
