//! What an apply changes, or would change.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Serialize, Serializer, ser::SerializeStruct};

use crate::{
    model::{Device, Group, HealthCheck, HealthCheckSpec, NextHop, Owner, Rule, Target},
    policy::{merge::merged, obstacles::RULES_LOOKED_UP, state::Desired},
};

/// What an apply changes, or would change.
///
/// ```no_run
/// use byway::{Byway, Change, Owner, read_config};
///
/// let config = read_config("/etc/byway/byway.toml".as_ref())?.config.ok_or("it has mistakes")?;
/// let changes = Byway::open()?.diff(Owner::CONFIG, &config)?;
/// for change in changes.rules() {
///     match change {
///         Change::Added(rule) => println!("+ {rule}"),
///         Change::Removed(rule) => println!("- {rule}"),
///         Change::Changed { before, after } => println!("- {before}\n+ {after}"),
///         _ => println!("something that this program does not know"),
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub(super) before: Desired,
    pub(super) after: Desired,
    /// How many rules the configuration has.
    pub(super) rules: usize,
    pub(super) completed: Vec<NextHop>,
    pub(super) waiting: Vec<Waiting>,
}

/// A request of a configuration that cannot be fulfilled yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Waiting {
    /// The request, such as `via 192.0.2.1 dev eth7`.
    pub request: String,
    /// Why it waits.
    pub reason: String,
}

/// One thing that changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Change<T> {
    /// It is new.
    Added(T),
    /// It is removed.
    Removed(T),
    /// It is replaced by another one.
    Changed {
        /// What it was.
        before: T,
        /// What it is then.
        after: T,
    },
}

/// How many rules change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Counts {
    /// How many are new.
    pub added: usize,
    /// How many are removed.
    pub removed: usize,
    /// How many are replaced by others.
    pub changed: usize,
    /// How many of the configuration's rules stay as they are, with their counters. This includes equal rules of other
    /// owners.
    pub kept: usize,
}

impl Changes {
    /// Returns whether nothing changes, and no next hop is completed.
    pub fn is_empty(&self) -> bool {
        self.before == self.after && self.completed.is_empty()
    }

    /// Returns the next hops that have waited for their device, which exists now, and those whose gateway the host has learned.
    pub fn completed(&self) -> &[NextHop] {
        &self.completed
    }

    /// Returns the requests that cannot be fulfilled yet. The next change that finds it possible completes them.
    pub fn waiting(&self) -> &[Waiting] {
        &self.waiting
    }

    /// Returns whether the attachments are the devices that carry a default route: before and after the change.
    pub fn auto(&self) -> [bool; 2] {
        [self.before.is_auto, self.after.is_auto]
    }

    /// Returns the attachments that are added and removed, by name. One that waits for its device has the index 0.
    pub fn attachments(&self) -> Vec<Change<Device>> {
        let all = |desired: &Desired| -> BTreeMap<(u32, String), Device> {
            let waits = desired.awaited.iter().map(|name| Device { name: name.clone(), index: 0 });
            let all = desired.attachments.values().cloned().chain(waits);
            // Only the name tells waiting ones apart, and only the index the others.
            let key = |it: &Device| (it.index, if it.index == 0 { it.name.clone() } else { String::new() });
            all.map(|device| (key(&device), device)).collect()
        };
        let (before, after) = (all(&self.before), all(&self.after));
        let gone = before.iter().filter(|(index, _)| !after.contains_key(index));
        let new = after.iter().filter(|(index, _)| !before.contains_key(index));
        let mut changes: Vec<(&Device, Change<Device>)> = gone
            .map(|(_, device)| (device, Change::Removed(device.clone())))
            .chain(new.map(|(_, device)| (device, Change::Added(device.clone()))))
            .collect();
        changes.sort_by_key(|(device, _)| *device);
        changes.into_iter().map(|(_, change)| change).collect()
    }

    /// Returns the groups that change, by name.
    pub fn groups(&self) -> Vec<Change<Group>> {
        merged(self.before.groups.iter(), self.after.groups.iter())
            .filter(|(_, before, after)| before != after)
            .filter_map(|(_, before, after)| change(before.cloned(), after.cloned()))
            .collect()
    }

    /// Returns the health checks that change, by next hop.
    pub fn health_checks(&self) -> Vec<Change<HealthCheckSpec>> {
        let of = |desired: &Desired| -> BTreeMap<NextHop, HealthCheck> {
            // A check ends with its next hop.
            let used = desired.next_hops();
            let all = desired.health_checks.iter().filter(|(next_hop, _)| used.contains(next_hop));
            all.map(|(next_hop, check)| (next_hop.clone(), check.clone())).collect()
        };
        let spec =
            |next_hop: &NextHop, check: &HealthCheck| HealthCheckSpec::new(next_hop.into(), check.clone());
        merged(of(&self.before).iter(), of(&self.after).iter())
            .filter(|(_, before, after)| before != after)
            .filter_map(|(next_hop, before, after)| {
                change(before.map(|it| spec(next_hop, it)), after.map(|it| spec(next_hop, it)))
            })
            .collect()
    }

    /// Returns the rules that change, by source and destination.
    pub fn rules(&self) -> impl Iterator<Item = Change<Rule>> {
        merged(self.before.rules.iter(), self.after.rules.iter())
            .filter(|(_, before, after)| before != after)
            .filter_map(|(selector, before, after)| {
                change(before.map(|it| Rule::of(*selector, it)), after.map(|it| Rule::of(*selector, it)))
            })
    }

    /// Returns rules of an owner that stand for all that are in force after the change, for
    /// [`Byway::obstacles`](crate::Byway::obstacles). Few rules are all there, those that change first. Of many rules, the first
    /// that change are there, and one for each target.
    pub fn sample(&self, owner: Owner) -> Vec<Rule> {
        let (mut changed, mut targets, mut others) = (vec![], vec![], vec![]);
        let mut seen: BTreeSet<&Target> = BTreeSet::new();
        let mut last = None;
        for (selector, before, after) in merged(self.before.rules.iter(), self.after.rules.iter()) {
            let Some(action) = after.filter(|it| it.owner == owner) else { continue };
            // A million rules have few targets, often the same many times in a row.
            let is_new_target = last != Some(&action.target) && seen.insert(&action.target);
            last = Some(&action.target);
            let rules = if before != after && changed.len() < RULES_LOOKED_UP {
                &mut changed
            } else if is_new_target {
                &mut targets
            } else if others.len() < RULES_LOOKED_UP {
                &mut others
            } else {
                continue;
            };
            rules.push(Rule::of(*selector, action));
        }
        [changed, targets, others].concat()
    }

    /// Counts the rules that change, and those of the configuration that stay.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for (_, before, after) in merged(self.before.rules.iter(), self.after.rules.iter()) {
            match (before, after) {
                (None, None) => {}
                (None, Some(_)) => counts.added += 1,
                (Some(_), None) => counts.removed += 1,
                (Some(before), Some(after)) if before != after => counts.changed += 1,
                (Some(_), Some(_)) => {}
            }
        }
        counts.kept = self.rules.saturating_sub(counts.added + counts.changed);
        counts
    }
}

fn change<T>(before: Option<T>, after: Option<T>) -> Option<Change<T>> {
    match (before, after) {
        (None, None) => None,
        (None, Some(after)) => Some(Change::Added(after)),
        (Some(before), None) => Some(Change::Removed(before)),
        (Some(before), Some(after)) => Some(Change::Changed { before, after }),
    }
}

impl Serialize for Changes {
    /// Writes the rules one by one, so that many need no memory of their own.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Rules<'a>(&'a Changes);
        impl Serialize for Rules<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_seq(self.0.rules())
            }
        }
        let mut all = serializer.serialize_struct("Changes", 8)?;
        all.serialize_field("attachments", &self.attachments())?;
        all.serialize_field("auto", &self.auto())?;
        all.serialize_field("groups", &self.groups())?;
        all.serialize_field("health_checks", &self.health_checks())?;
        all.serialize_field("rules", &Rules(self))?;
        all.serialize_field("counts", &self.counts())?;
        all.serialize_field("completed", &self.completed)?;
        all.serialize_field("waiting", &self.waiting)?;
        all.end()
    }
}
