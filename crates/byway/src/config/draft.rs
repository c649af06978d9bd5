//! What the files of a configuration have said so far, each thing with its place.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ActionSpec, Attach,
    problem::{File, Place, Problems, token},
};
use crate::model::{GroupSpec, HealthCheck, HealthCheckSpec, NextHopSpec, Selector};

/// Something of the host that a configuration names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum HostRef {
    /// An interface of a next hop.
    Device(String),
    /// A next hop.
    NextHop(NextHopSpec),
    /// An interface that requests come in by.
    Receiver(String),
    /// An interface to watch.
    Attach(String),
    /// The interfaces that carry a default route, to watch them.
    AttachAuto,
}

/// Where a source was written: in which file, from which byte on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) file: u32,
    pub(super) start: u32,
}

/// What has been read so far.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) files: Vec<File>,
    pub(super) problems: Problems,
    pub(super) attach: Option<(Attach, Place)>,
    pub(super) groups: BTreeMap<String, (GroupSpec, Place)>,
    /// The names of all groups, including those whose tables are wrong.
    pub(super) named: BTreeSet<String>,
    /// What the files say of the host.
    pub(super) host_refs: Vec<(HostRef, Place)>,
    /// The groups that rules lead to.
    pub(super) uses: Vec<(String, Place)>,
    pub(super) health_checks: Vec<(HealthCheckSpec, Place)>,
    /// The health checks for all next hops of a file that have none of their own, at most one for each file.
    pub(super) default_health_checks: Vec<(HealthCheck, Place)>,
    pub(super) actions: Vec<(ActionSpec, Place)>,
    /// The rules, with their actions.
    pub(super) rules: Vec<(Selector, u32, Origin)>,
}

impl Draft {
    /// Gives an action a number.
    pub(super) fn action(&mut self, action: ActionSpec, place: Place) -> u32 {
        self.actions.push((action, place));
        self.actions.len() as u32 - 1
    }

    pub(super) fn place(&self, origin: Origin) -> Place {
        let (file, start) = (origin.file as usize, origin.start as usize);
        let text = self.files.get(file).map_or("", |file| &file.text);
        Place { file, span: token(text, start) }
    }
}
