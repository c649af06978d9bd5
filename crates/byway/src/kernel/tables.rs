//! The pinned maps: which record is where, and in which order it is written.
//!
//! A rule is spread over several maps: its record and its counters, in the chunk of its identity, and what packets find: an
//! entry in a source table, which leads to the rule, or to a set of destinations that does. Records, counters and sets are
//! written before the entry and removed after it, so that the entry alone decides whether the rule holds. A
//! record that the entry of its source does not lead to is a leftover.
//!
//! Packets look at the source tables and the groups of one generation only (`META`). Where more than one entry or group has to
//! change, those of the next one are made, and packets see them from one instant to the next.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::atomic::{Ordering, fence},
};

use byway_abi::{Group, GroupKey, RuleRecord, TARGET_BY_DESTINATION, Target, meta};

use super::{
    attachments::Attachments,
    destinations::Destinations,
    grace_period,
    identities::{self, Identities},
    meta::Meta,
    neighbours::Neighbours,
    next_hops::NextHops,
    rules::{RuleCounters, Rules},
    sources::{Generation, Sources},
    wire,
};
use crate::{
    error::{Error, Result},
    model::{Action, Prefix, Selector},
    policy::source_table::TakesNewTable,
};

/// The names of the maps: in the object, and of their pins.
pub(crate) const NAMES: [&str; 22] = [
    "SOURCES4",
    "SOURCES6",
    "TABLE_INFO",
    "SOURCE_CACHE",
    "DESTINATIONS4",
    "DESTINATIONS6",
    "NEXT_HOPS",
    "NEXT_HOP_DEVICES",
    "NEXT_HOP_HEALTH",
    "NEXT_HOP_COUNTERS",
    "GROUPS",
    "FRAGMENTS",
    "COUNTERS",
    "EXCEPTION_COUNTERS",
    "ATTACHMENTS",
    "ATTACHMENT_COUNTERS",
    "SETS",
    "PROGRAMS",
    "NEIGHBOURS",
    "PROBE",
    "SECRET",
    "META",
];

/// The open maps of one network namespace.
pub(crate) struct Tables {
    sources: Sources,
    rules: Rules,
    pub(crate) destinations: Destinations,
    pub(crate) attachments: Attachments,
    pub(crate) neighbours: Neighbours,
    pub(crate) meta: Meta,
    pub(crate) next_hops: NextHops,
    identities: Identities,
}

/// What the records of rules say.
pub(crate) struct Records {
    /// Those of the rules that hold, by identity.
    pub(crate) held: BTreeMap<u32, RuleRecord>,
    /// The leftovers, likewise.
    pub(crate) leftover: BTreeMap<u32, RuleRecord>,
}

impl Tables {
    /// Opens the maps that are pinned in `folder`.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let cpus =
            aya::util::nr_cpus().map_err(|(file, error)| Error::kernel(format!("read {file}"), error))?;
        Ok(Self {
            sources: Sources::open(folder)?,
            rules: Rules::open(folder, cpus)?,
            destinations: Destinations::open(folder)?,
            attachments: Attachments::open(folder, cpus)?,
            neighbours: Neighbours::open(folder)?,
            meta: Meta::open(folder)?,
            next_hops: NextHops::open(folder, cpus)?,
            identities: Identities::default(),
        })
    }

    /// Returns an identity that no set and no group has.
    pub(crate) fn next_set(&mut self) -> Result<u32> {
        identities::next_set(&mut self.meta, &self.destinations, &self.next_hops)
    }

    /// Makes the record and the counters of a rule, under an identity that is free. Nothing leads to it yet. Returns what a
    /// packet that it speaks about is to find.
    pub(crate) fn record(
        &mut self,
        selector: &Selector,
        action: &Action,
        kind: u8,
        index: u32,
    ) -> Result<Target> {
        let id = self.identities.next_rule(&self.meta, &mut self.rules)?;
        let record = wire::rule_record(selector, action, kind, index);
        self.rules.write(id, record)?;
        Ok(wire::target(id, &record))
    }

    /// How many records of rules there are, as the last change has noted it: counted where there is no room for so many.
    pub(crate) fn noted_rules(&self) -> Result<u32> {
        identities::noted_rules(&self.meta, &self.rules)
    }

    /// Writes down which identities are in use, for the next change to know, and readers to see that there was one.
    pub(crate) fn note_identities(&mut self) -> Result<()> {
        self.identities.note(&mut self.meta)
    }

    /// What a packet that a rule speaks about finds.
    pub(crate) fn target(&self, id: u32) -> Result<Target> {
        let record = self.rule_record(id)?;
        let record =
            record.ok_or_else(|| Error::inconsistent("read the record of a rule", "it is not there"))?;
        Ok(wire::target(id, &record))
    }

    pub(crate) fn rule_record(&self, id: u32) -> Result<Option<RuleRecord>> {
        self.rules.record(id)
    }

    /// Removes the record of a rule that holds no longer. What is not there is no error.
    pub(crate) fn forget(&mut self, id: u32) -> Result<()> {
        if self.rules.has(id)? {
            self.rules.remove(id)?;
            self.identities.rule_is_gone(&self.meta, &self.rules)?;
        }
        Ok(())
    }

    /// Waits until no packet is under way any more that has seen what held before.
    pub(crate) fn wait_for_grace_period(&mut self) {
        grace_period::wait();
        self.rules.grace_period_ended();
    }

    /// The groups of the generation in force, by identity: those with a name, and those of one rule each.
    pub(crate) fn groups(&self) -> Result<BTreeMap<u32, Group>> {
        let in_force = self.generation()? & 1;
        let all = self.next_hops.groups()?;
        Ok(all
            .into_iter()
            .filter(|(key, _)| key.generation == in_force)
            .map(|(key, it)| (key.group, it))
            .collect())
    }

    /// The group of the generation in force that has this identity.
    pub(crate) fn group(&self, group: u32) -> Result<Option<Group>> {
        self.next_hops.group(GroupKey { group, generation: self.generation()? & 1 })
    }

    /// Lets the groups of the generation to come be those of the one in force, as they are but while a change is under
    /// way.
    pub(crate) fn tidy_groups(&mut self) -> Result<()> {
        let in_force = self.generation()? & 1;
        let all = self.next_hops.groups()?;
        let ids: BTreeSet<u32> = all.keys().map(|key| key.group).collect();
        for group in ids {
            let [now, next] = [in_force, 1 - in_force].map(|generation| GroupKey { group, generation });
            if all.get(&now) != all.get(&next) {
                self.next_hops.set_group(next, all.get(&now))?;
            }
        }
        Ok(())
    }

    /// The generation that packets look at.
    pub(crate) fn generation(&self) -> Result<u32> {
        self.meta.get(meta::GENERATION)
    }

    /// Makes packets look at another generation, from this instant on.
    pub(crate) fn set_generation(&mut self, generation: u32) -> Result<()> {
        // Its tables first, also for CPUs that do not see writes in their order.
        fence(Ordering::SeqCst);
        self.meta.set(meta::GENERATION, generation)
    }

    /// The source tables of the generation in force.
    pub(crate) fn in_force(&self) -> Result<Generation> {
        self.sources.generation(self.generation()?)
    }

    /// The target of the rule, or the rules, for exactly this source.
    pub(crate) fn source(&self, source: &Prefix) -> Result<Option<Target>> {
        self.sources.source(self.generation()?, source)
    }

    /// Lets a source have this target, or none, from one instant to the next. Returns what it had, or that it takes
    /// new tables.
    pub(crate) fn set_source(
        &mut self,
        source: &Prefix,
        target: Option<Target>,
    ) -> Result<std::result::Result<Option<Target>, TakesNewTable>> {
        let generation = self.generation()?;
        self.sources.set(generation, source, target)
    }

    /// Makes the source tables of a generation that is not in force. Where that fails nothing is left of them.
    pub(crate) fn make_generation(&mut self, generation: u32, sources: Vec<(Prefix, Target)>) -> Result<()> {
        let made = self.sources.make(generation, sources);
        if made.is_err() {
            // What cannot be removed now is tidied by the next change.
            let _ = self.sources.remove(generation);
        }
        made
    }

    /// Removes the source tables of a generation that is not in force.
    pub(crate) fn remove_generation(&mut self, generation: u32) -> Result<()> {
        self.sources.remove(generation)
    }

    /// Puts right what a change has left that was cut off: in the source tables in force and in the count of rules.
    pub(crate) fn tidy_sources(&mut self) -> Result<()> {
        let generation = self.generation()?;
        self.sources.tidy(generation)?;
        self.identities.count_again(&self.meta, &self.rules)
    }

    /// Whether a rule besides this one leads to the next hop in a slot, by itself and not by a group; or may do so, since nobody
    /// here knows its kind.
    pub(crate) fn leads_elsewhere(&self, slot: u32, id: u32) -> Result<bool> {
        self.rules.leads_elsewhere(slot, id)
    }

    /// What the records say. The caller holds the lock, so that nobody changes the rules meanwhile.
    pub(crate) fn rules(&self) -> Result<Records> {
        let generation = self.in_force()?;
        let mut records = Records { held: BTreeMap::new(), leftover: BTreeMap::new() };
        for record in self.rules.records() {
            let (id, record) = record?;
            let holds = match wire::selector(&record) {
                Some(selector) => self.leads_to(&generation, &selector, id)?,
                None => false,
            };
            if holds { &mut records.held } else { &mut records.leftover }.insert(id, record);
        }
        Ok(records)
    }

    /// The records of the rules that hold, with their identities, in the order of those. Where somebody lets other rules hold
    /// meanwhile, some of both.
    pub(crate) fn held(&self) -> Result<impl Iterator<Item = Result<(u32, RuleRecord)>>> {
        let generation = self.in_force()?;
        let holds = move |id, record: &RuleRecord| match wire::selector(record) {
            Some(selector) => self.leads_to(&generation, &selector, id),
            None => Ok(false),
        };
        Ok(self.rules.records().filter_map(move |record| match record {
            Ok((id, record)) => holds(id, &record).map(|holds| holds.then_some((id, record))).transpose(),
            Err(error) => Some(Err(error)),
        }))
    }

    /// The record of the rule for exactly these packets, with its identity, if it holds.
    pub(crate) fn rule_of(&self, selector: &Selector) -> Result<Option<(u32, RuleRecord)>> {
        let of_source = self.source(&selector.source())?;
        let Some(entry) = self.entry(of_source, selector)? else { return Ok(None) };
        let record = self.rule_record(entry.rule)?;
        // The entry may be another rule's: one for all destinations, or for destinations around this one.
        let record = record.filter(|record| wire::selector(record).as_ref() == Some(selector));
        Ok(record.map(|record| (entry.rule, record)))
    }

    /// Whether the tables lead from what a rule speaks about to its identity.
    fn leads_to(&self, generation: &Generation, selector: &Selector, id: u32) -> Result<bool> {
        let of_source = generation.source(&selector.source());
        Ok(self.entry(of_source, selector)?.is_some_and(|entry| entry.rule == id))
    }

    /// What the tables lead to from what a rule speaks about, by way of the entry of its source: if there is such a rule, to
    /// that, and else perhaps to another.
    fn entry(&self, of_source: Option<Target>, selector: &Selector) -> Result<Option<Target>> {
        match of_source {
            Some(entry) if entry.kind == TARGET_BY_DESTINATION => {
                let all = Prefix::all_like(selector.source().address());
                self.destinations.target(entry.index, &selector.destination().unwrap_or(all))
            }
            entry => Ok(entry),
        }
    }

    /// What a rule did, summed over the CPUs, with exceptions or without. All zero where the rule is gone.
    pub(crate) fn rule_counters(&self, id: u32, with_exceptions: bool) -> Result<RuleCounters> {
        self.rules.counters(id, with_exceptions)
    }

    /// The rules that have exception counters.
    pub(crate) fn exceptions(&self) -> Result<BTreeSet<u32>> {
        self.rules.exceptions()
    }
}
