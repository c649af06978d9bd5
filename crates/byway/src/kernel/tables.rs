//! The pinned maps together: where each record is, and in which order records are written.
//!
//! A rule is in several maps. Its record and counters are in the chunk of its identity. Packets find it by an entry in a
//! source table, which leads to the rule itself or to a set of destinations. Records, counters and sets are written before
//! the entry and removed after it, so the entry alone decides whether the rule is in force. A record that the entry of its
//! source does not lead to is a leftover.
//!
//! Packets use the source tables and groups of one generation only (`META`). To change more than one entry or group, Byway
//! prepares the next generation, and switches packets to it in one instant.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
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
    replies::Replies,
    rules::{RuleCounters, Rules},
    sources::{Generation, Sources},
    wire,
};
use crate::{
    error::{Error, Result},
    model::{Action, Prefix, Selector},
    policy::{
        source_table::TakesNewTable,
        state::{Direction, Place},
    },
};

/// The names of the maps, in the object and as pins.
pub(crate) const NAMES: [&str; 33] = [
    "SOURCES4",
    "SOURCES6",
    "TABLE_INFO",
    "SOURCE_CACHE",
    "DESTINATIONS4",
    "DESTINATIONS6",
    "NEXT_HOPS",
    "NEXT_HOP_DEVICES",
    "NEXT_HOP_HEALTH",
    "HEALTH_CHECKS",
    "VERDICTS",
    "NEXT_HOP_COUNTERS",
    "GROUPS",
    "FRAGMENTED",
    "COUNTERS",
    "EXCEPTIONS",
    "ATTACHMENTS",
    "ATTACHMENT_COUNTERS",
    "RECEIVERS",
    "WAYS",
    "FLOWS",
    "FLOW_KEYS",
    "REPLY_HINTS",
    "WAY_LIVENESS",
    "HEARD",
    "REPLY_DEVICES",
    "FLOW_COUNTERS",
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
    pub(crate) replies: Replies,
    identities: Identities,
}

/// The records of rules.
pub(crate) struct Records {
    /// The records of the rules in force, by identity.
    pub(crate) held: BTreeMap<u32, RuleRecord>,
    /// The leftovers, by identity.
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
            replies: Replies::open(folder)?,
            identities: Identities::default(),
        })
    }

    /// Refuses pins that lack the last chunk of records. The rules in it would not be shown, and the next change would drop
    /// them.
    pub(crate) fn check_chunks(&self, folder: &Path) -> Result<()> {
        let lacks = || -> Result<Option<String>> {
            let has_rules = self.rules.chunks() == 0 && !self.in_force()?.sources().is_empty();
            self.rules.lacks(has_rules)
        };
        // A change that is under way, was interrupted, or has just ended may be the reason.
        if lacks()?.is_none() || self.meta.get(meta::CHANGING)? != 0 {
            return Ok(());
        }
        match lacks()? {
            Some(name) => Err(Error::MissingPin { folder: folder.to_owned(), name }),
            None => Ok(()),
        }
    }

    /// Creates the maps that the rules and groups of an older Byway need besides those that it made. No program may have found
    /// their places empty.
    pub(super) fn complete(&mut self) -> Result<()> {
        self.rules.complete()?;
        if self.replies.has_flows() {
            self.replies.make_flows()?;
        }
        self.next_hops.complete()
    }

    /// Returns an identity that no set and no group has.
    pub(crate) fn next_set(&mut self) -> Result<u32> {
        identities::next_set(&mut self.meta, &self.destinations, &self.next_hops)
    }

    /// Creates the record and the counters of a rule under a free identity. No packet finds it yet. `devices` is the set of
    /// those that it names after `reply-to`. Returns the target for its packets.
    pub(crate) fn record(
        &mut self,
        selector: &Selector,
        action: &Action,
        devices: u8,
        (kind, index): (u8, u32),
    ) -> Result<Target> {
        let id = self.identities.next_rule(&self.meta, &mut self.rules)?;
        let record = wire::rule_record(selector, action, devices, (kind, index));
        self.rules.write(id, record)?;
        Ok(wire::target(id, &record))
    }

    /// Returns how many rule records there are, as the last change wrote it down. Counts them if there is no room for so
    /// many.
    pub(crate) fn noted_rules(&self) -> Result<u32> {
        identities::noted_rules(&self.meta, &self.rules)
    }

    /// Writes down which identities are in use. This tells the next change, and shows readers that there was a change.
    pub(crate) fn note_identities(&mut self) -> Result<()> {
        self.identities.note(&mut self.meta)
    }

    /// Returns the target for the packets of a rule.
    pub(crate) fn target(&self, id: u32) -> Result<Target> {
        let record = self.rule_record(id)?;
        let record =
            record.ok_or_else(|| Error::inconsistent("read the record of a rule", "it is not there"))?;
        Ok(wire::target(id, &record))
    }

    pub(crate) fn rule_record(&self, id: u32) -> Result<Option<RuleRecord>> {
        self.rules.record(id)
    }

    /// Removes the record of a rule that is no longer in force. A missing one is not an error.
    pub(crate) fn forget(&mut self, id: u32) -> Result<()> {
        if self.rules.has(id)? {
            self.rules.remove(id)?;
            self.identities.rule_is_gone(&self.meta, &self.rules)?;
        }
        Ok(())
    }

    /// Removes the record of the program at a place. Its device is then no attachment any more, or no receiver.
    pub(crate) fn forget_program(&mut self, place: Place) -> Result<()> {
        match place.direction {
            Direction::Egress => self.attachments.stop_watching(place.ifindex)?,
            Direction::Ingress => self.replies.stop_receiving(place.ifindex)?,
        }
        self.attachments.forget_program(place)
    }

    /// Waits until all programs that may have seen the old state have ended.
    pub(crate) fn wait_for_grace_period(&mut self) {
        grace_period::wait();
        self.rules.grace_period_ended();
    }

    /// Returns the groups of the generation in force, by identity: named ones, and those of a single rule.
    pub(crate) fn groups(&self) -> Result<BTreeMap<u32, Group>> {
        let in_force = self.generation()? & 1;
        let all = self.next_hops.groups()?;
        Ok(all
            .into_iter()
            .filter(|(key, _)| key.generation == in_force)
            .map(|(key, it)| (key.group, it))
            .collect())
    }

    /// Returns the group with this identity in the generation in force.
    pub(crate) fn group(&self, group: u32) -> Result<Option<Group>> {
        self.next_hops.group(GroupKey { group, generation: self.generation()? & 1 })
    }

    /// Copies the groups of the generation in force to the next one. The two differ only during a change.
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

    /// Returns the generation in force: the one that packets use.
    pub(crate) fn generation(&self) -> Result<u32> {
        self.meta.get(meta::GENERATION)
    }

    /// Puts another generation in force, in one instant.
    pub(crate) fn set_generation(&mut self, generation: u32) -> Result<()> {
        // CPUs that reorder writes must see the tables first, too.
        fence(Ordering::SeqCst);
        self.meta.set(meta::GENERATION, generation)
    }

    /// Returns the source tables of the generation in force.
    pub(crate) fn in_force(&self) -> Result<Generation> {
        self.sources.generation(self.generation()?)
    }

    /// The target of the most specific source that holds an address, in a generation.
    pub(crate) fn source_around(&self, generation: u32, address: IpAddr) -> Result<Option<Target>> {
        Ok(self.sources.generation(generation)?.look_up(address))
    }

    /// Returns the target for exactly this source.
    pub(crate) fn source(&self, source: &Prefix) -> Result<Option<Target>> {
        self.sources.source(self.generation()?, source)
    }

    /// Gives a source this target, or none, in one instant. Returns its target before, or that this needs new tables.
    pub(crate) fn set_source(
        &mut self,
        source: &Prefix,
        target: Option<Target>,
    ) -> Result<std::result::Result<Option<Target>, TakesNewTable>> {
        let generation = self.generation()?;
        self.sources.set(generation, source, target)
    }

    /// Creates the source tables of a generation that is not in force. If that fails, nothing is left of them.
    pub(crate) fn make_generation(&mut self, generation: u32, sources: Vec<(Prefix, Target)>) -> Result<()> {
        let made = self.sources.make(generation, sources);
        if made.is_err() {
            // The next change tidies up what cannot be removed now.
            let _ = self.sources.remove(generation);
        }
        made
    }

    /// Removes the source tables of a generation that is not in force.
    pub(crate) fn remove_generation(&mut self, generation: u32) -> Result<()> {
        self.sources.remove(generation)
    }

    /// Corrects the source tables in force and the count of rules after an interrupted change.
    pub(crate) fn tidy_sources(&mut self) -> Result<()> {
        let generation = self.generation()?;
        self.sources.tidy(generation)?;
        self.identities.count_again(&self.meta, &self.rules)
    }

    /// Whether another rule than this one uses the next hop in a slot directly, without a group. Counts rules of an unknown
    /// kind, because they may.
    pub(crate) fn leads_elsewhere(&self, slot: u32, id: u32) -> Result<bool> {
        self.rules.leads_elsewhere(slot, id)
    }

    /// Reads all records. The caller holds the lock, so nobody changes the rules meanwhile.
    pub(crate) fn rules(&self) -> Result<Records> {
        let generation = self.in_force()?;
        let mut records = Records { held: BTreeMap::new(), leftover: BTreeMap::new() };
        for record in self.rules.records()? {
            let (id, record) = record?;
            let holds = match wire::selector(&record) {
                Some(selector) => self.leads_to(&generation, &selector, id)?,
                None => false,
            };
            if holds { &mut records.held } else { &mut records.leftover }.insert(id, record);
        }
        Ok(records)
    }

    /// Reads the records of the rules in force, with their identities and in the order of these. If another change switches
    /// rules meanwhile, the result mixes old and new ones.
    pub(crate) fn held(&self) -> Result<impl Iterator<Item = Result<(u32, RuleRecord)>>> {
        self.held_of(|_| true)
    }

    /// The same of those that speak about some packets: whether they hold takes longer to find out than what they speak about.
    pub(crate) fn held_of(
        &self,
        is_meant: impl Fn(&Selector) -> bool,
    ) -> Result<impl Iterator<Item = Result<(u32, RuleRecord)>>> {
        let generation = self.in_force()?;
        let holds = move |id, record: &RuleRecord| match wire::selector(record) {
            Some(selector) if is_meant(&selector) => self.leads_to(&generation, &selector, id),
            _ => Ok(false),
        };
        Ok(self.rules.records()?.filter_map(move |record| match record {
            Ok((id, record)) => holds(id, &record).map(|holds| holds.then_some((id, record))).transpose(),
            Err(error) => Some(Err(error)),
        }))
    }

    /// Returns the record of the rule for exactly these packets, with its identity, if there is one in force.
    pub(crate) fn rule_of(&self, selector: &Selector) -> Result<Option<(u32, RuleRecord)>> {
        let of_source = self.source(&selector.source())?;
        let Some(entry) = self.entry(of_source, selector)? else { return Ok(None) };
        let record = self.rule_record(entry.rule)?;
        // The entry may be that of another rule: one for all destinations, or for a less specific one.
        let record = record.filter(|record| wire::selector(record).as_ref() == Some(selector));
        Ok(record.map(|record| (entry.rule, record)))
    }

    /// Whether the tables lead packets of this selector to the rule with this identity.
    fn leads_to(&self, generation: &Generation, selector: &Selector, id: u32) -> Result<bool> {
        let of_source = generation.source(&selector.source());
        Ok(self.entry(of_source, selector)?.is_some_and(|entry| entry.rule == id))
    }

    /// Returns the target that the tables have for this selector, given the entry of its source. It is that of the rule with
    /// this selector, or without such a rule perhaps that of another one.
    fn entry(&self, of_source: Option<Target>, selector: &Selector) -> Result<Option<Target>> {
        match of_source {
            Some(entry) if entry.kind == TARGET_BY_DESTINATION => {
                let all = Prefix::all_like(selector.source().address());
                self.destinations.target(entry.index, &selector.destination().unwrap_or(all))
            }
            entry => Ok(entry),
        }
    }

    /// Returns the counters of a rule, summed over the CPUs, with exceptions or without. All are zero if the rule is gone.
    pub(crate) fn rule_counters(&self, id: u32, with_exceptions: bool) -> Result<RuleCounters> {
        self.rules.counters(id, with_exceptions)
    }

    /// Returns the rules that have exception counters.
    pub(crate) fn exceptions(&self) -> Result<BTreeSet<u32>> {
        self.rules.exceptions()
    }
}
