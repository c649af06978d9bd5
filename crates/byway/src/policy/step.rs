//! The steps of a change, as plain data.

use std::sync::Arc;

use super::{
    compile::{Entries, Entry},
    state::{Neighbour, Role},
};
use crate::model::{Action, Device, Group, NextHop, Prefix, Selector};

/// A rule of a compiled table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RuleRef {
    /// One that the kernel holds already, by its identity.
    Held(u32),
    /// One that is to be: which of the plan's records it is.
    New(u32),
}

/// From one set of rules to another, in one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Switch {
    /// Nothing but this source's entry changes, from the first to the second.
    Entry(Prefix, Option<Entry<RuleRef>>, Option<Entry<RuleRef>>),
    /// Everything that there is for everything that shall be.
    All(Entries<RuleRef>, Entries<RuleRef>),
}

/// One change. Each leaves a working data path, and can be taken back until something is forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Put a program on a device that has none.
    Attach(Device, Role),
    /// Put the other program of the same direction in place of the one that is there; the role is the new one.
    ChangeRole(Device, Role),
    /// Take the program off.
    Detach(Device, Role),
    /// Note whether the attachments follow the default route, or are named.
    SetAuto(bool),
    /// Note that an attachment waits for the device of this name.
    Await(String),
    /// Note that it no longer waits.
    StopAwaiting(String),
    /// Ask the kernel to keep a neighbour resolved.
    KeepResolved(Neighbour),
    /// Stop asking.
    LetGo(Neighbour),
    /// Make a next hop that nothing leads to yet.
    MakeNextHop(NextHop),
    /// Give a next hop the device that has come in the place of one that had gone, and the device's MTU of now.
    Renew(NextHop),
    /// Take a next hop out of service, or put it back.
    SetDown(NextHop, bool),
    /// Make a group, or change it, in the generation that is not in force.
    PrepareGroup(Group),
    /// Make a group, or change it in one instant, in the generation in force.
    PutGroup(Group),
    /// Make the record and the counters of a rule that nothing leads to yet. One that it replaces has this identity.
    Record(Selector, Arc<Action>, Option<u32>),
    /// Put the new rules in force.
    Switch(Box<Switch>),
    /// Wait until every program that may have seen the old state has ended. No step after this one is undone.
    WaitForGracePeriod,
    /// Remove the tables that no packet looks at any more.
    Clear,
    /// Forget the record and the counters of a rule that is no longer in force.
    Forget(u32),
    /// Forget a group that no rule leads to.
    ForgetGroup(String),
    /// Forget a next hop that nothing leads to.
    ForgetNextHop(NextHop),
}

impl Switch {
    /// Whether something is left afterwards that no packet looks at any more.
    pub(super) fn leaves_tables(&self) -> bool {
        match self {
            Self::Entry(_, before, _) => matches!(before, Some(Entry::ByDestination(_))),
            Self::All(before, _) => !before.is_empty(),
        }
    }
}
