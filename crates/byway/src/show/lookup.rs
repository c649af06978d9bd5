//! Reads rules for a listing: one of them, or one by one.

use std::collections::{BTreeMap, BTreeSet};

use byway_abi::{MAX_RULES, RuleRecord, TARGET_GROUP, TARGET_NEXT_HOP, without_reply_to};

use super::order::{Place, sort};
use crate::{
    error::Result,
    kernel::{
        network::Network,
        next_hops,
        rules::RuleCounters,
        snapshot::{groups_of_now, next_hops_of_now, target},
        tables::Tables,
        wire,
    },
    model::{Group, NextHop, Rule},
    policy::{
        snapshot::Link,
        state::{DeviceSet, Slot},
    },
};

/// What the records of rules refer to.
pub(crate) struct Lookup {
    /// Every device, by ifindex.
    pub(crate) links: BTreeMap<u32, Link>,
    /// The next hops by their slots.
    next_hops: BTreeMap<u32, NextHop>,
    /// More about the next hops, by their slots.
    slots: BTreeMap<u32, Slot>,
    /// The groups by their identities, including those of a single rule.
    groups: BTreeMap<u32, byway_abi::Group>,
    /// The sets of devices that rules name after `reply-to`.
    device_sets: BTreeMap<u8, DeviceSet>,
}

/// What uses a next hop.
#[derive(Default)]
pub(crate) struct User {
    pub(crate) rules: usize,
    pub(crate) groups: Vec<String>,
}

/// How many rules use each next hop directly, by its slot, and each group, by its identity.
#[derive(Default)]
pub(crate) struct RefCounts {
    of_slots: BTreeMap<u32, usize>,
    of_groups: BTreeMap<u32, usize>,
}

impl Lookup {
    pub(crate) fn read(tables: &Tables, network: &mut Network) -> Result<Self> {
        let links = network.links()?;
        let (mut next_hops, mut slots) = (BTreeMap::new(), BTreeMap::new());
        for (next_hop, slot) in next_hops_of_now(tables, &links)? {
            next_hops.insert(slot.index, next_hop);
            slots.insert(slot.index, slot);
        }
        let groups = groups_of_now(tables, &next_hops)?;
        let device_sets = tables.replies.device_sets()?;
        Ok(Self { links, next_hops, slots, groups, device_sets })
    }

    /// Returns the rule in a record, or `None` if the record is invalid.
    pub(crate) fn rule(&self, record: &RuleRecord) -> Option<Rule> {
        let target = target(record.kind, record.index, &self.next_hops, &self.groups)?;
        wire::rule(record, target, &self.device_sets)
    }

    /// Whether requests that come in by a device are meant, of this set of devices.
    pub(crate) fn is_of(&self, set: u32, index: u32) -> bool {
        let devices = u8::try_from(set).ok().and_then(|set| self.device_sets.get(&set));
        set == 0 || devices.is_some_and(|devices| devices.values().any(|it| *it == index))
    }

    /// Returns the next hop in a slot.
    pub(crate) fn next_hop(&self, slot: u32) -> Option<(&NextHop, Slot)> {
        Some((self.next_hops.get(&slot)?, *self.slots.get(&slot)?))
    }

    /// Whether a record directly uses a next hop whose device is gone.
    pub(crate) fn is_gone(&self, record: &RuleRecord) -> bool {
        without_reply_to(record.kind) == TARGET_NEXT_HOP
            && self.slots.get(&record.index).is_some_and(|slot| slot.is_gone)
    }

    /// Returns the named groups, by name, with the number of rules that use each.
    pub(crate) fn groups(&self, uses: &RefCounts) -> Vec<(Group, usize)> {
        let named = |(id, wire): (&u32, &byway_abi::Group)| {
            Some((next_hops::read_group(wire, &self.next_hops)?, uses.of_group(*id)))
        };
        let mut groups: Vec<(Group, usize)> = self.groups.iter().filter_map(named).collect();
        groups.sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
        groups
    }

    /// Returns the next hops that are in use, with what uses them.
    pub(crate) fn next_hops(&self, uses: &RefCounts) -> Vec<(&NextHop, Slot, User)> {
        let mut users: BTreeMap<u32, User> = BTreeMap::new();
        for (slot, rules) in &uses.of_slots {
            users.entry(*slot).or_default().rules += rules;
        }
        for (id, group) in &self.groups {
            let (name, rules) = (wire::read_name(&group.name), uses.of_group(*id));
            // A leftover of a rule that had a group of its own.
            if name.is_empty() && rules == 0 {
                continue;
            }
            for slot in group.members.iter().take(group.count as usize) {
                let user = users.entry(*slot).or_default();
                user.rules += rules;
                user.groups.extend((!name.is_empty()).then(|| name.clone()));
            }
        }
        let of_slot = |(index, mut user): (u32, User)| {
            user.groups.sort();
            Some((self.next_hops.get(&index)?, *self.slots.get(&index)?, user))
        };
        let mut next_hops: Vec<_> = users.into_iter().filter_map(of_slot).collect();
        next_hops.sort_by_key(|(next_hop, ..)| *next_hop);
        next_hops
    }
}

impl RefCounts {
    fn count(&mut self, record: &RuleRecord) {
        let of = match without_reply_to(record.kind) {
            TARGET_NEXT_HOP => &mut self.of_slots,
            TARGET_GROUP => &mut self.of_groups,
            _ => return,
        };
        *of.entry(record.index).or_default() += 1;
    }

    fn of_group(&self, id: u32) -> usize {
        self.of_groups.get(&id).copied().unwrap_or(0)
    }
}

/// The rules in force, in the order of a listing.
pub(crate) struct Order {
    pub(crate) places: Vec<Place>,
    /// The rules that had exception counters when they were found. Few rules have them, and each look-up is a call to the kernel.
    exceptions: BTreeSet<u32>,
}

impl Order {
    /// Finds the rules, and what they use.
    pub(crate) fn read(tables: &Tables) -> Result<(Self, RefCounts)> {
        let mut places = Vec::with_capacity(tables.noted_rules()?.min(MAX_RULES) as usize);
        let mut uses = RefCounts::default();
        for record in tables.held()? {
            let (id, record) = record?;
            uses.count(&record);
            places.push(Place::new(id, &record));
        }
        sort(&mut places, &|id| tables.rule_record(id))?;
        Ok((Self { places, exceptions: tables.exceptions()? }, uses))
    }

    /// Reads the record of a rule and its counters; `None` if the rule is gone.
    pub(crate) fn rule(&self, tables: &Tables, place: &Place) -> Result<Option<(RuleRecord, RuleCounters)>> {
        match tables.rule_record(place.id)?.filter(|record| place.is_of(record)) {
            Some(record) => {
                Ok(Some((record, tables.rule_counters(place.id, self.exceptions.contains(&place.id))?)))
            }
            None => Ok(None),
        }
    }
}
