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
    net::IpAddr,
    path::Path,
    sync::atomic::{Ordering, fence},
};

use aya::maps::{
    Array, HashMap, MapData, MapError, PerCpuArray, PerCpuValues,
    lpm_trie::{Key, LpmTrie},
    xdp::{DevMapHash, XdpMapError},
};
use byway_abi::{
    ATTACHMENT_PROBES, AttachmentCounters, DIRECTION_NONE, Group, GroupKey, MAX_ATTACHMENTS, MAX_CHUNKS,
    ProgramKey, ProgramRecord, RuleRecord, SetRecord, TARGET_BY_DESTINATION, Target, meta,
};

use super::{
    grace_period,
    map::{add, failed, ignore_missing, map, open, optional, retry_enomem},
    next_hops::NextHops,
    rules::{RuleCounters, Rules},
    sources::{Generation, Sources},
    wire,
};
use crate::{
    error::{Error, Result},
    model::Prefix,
    model::{Action, Selector},
    policy::source_table::TakesNewTable,
    policy::state::{Direction, Place},
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

/// A set, and an IPv4 address.
type Key4 = [u8; 8];
/// The same with an IPv6 address.
type Key6 = [u8; 20];

/// The open maps of one network namespace.
pub(crate) struct Tables {
    sources: Sources,
    rules: Rules,
    destinations4: LpmTrie<MapData, Key4, Target>,
    destinations6: LpmTrie<MapData, Key6, Target>,
    sets: HashMap<MapData, u32, SetRecord>,
    attachments: DevMapHash<MapData>,
    attachment_counters: PerCpuArray<MapData, AttachmentCounters>,
    programs: HashMap<MapData, ProgramKey, ProgramRecord>,
    neighbours: HashMap<MapData, byway_abi::NeighbourKey, u32>,
    meta: Array<MapData, u32>,
    pub(crate) next_hops: NextHops,
    /// How many CPUs a per-CPU value has room for.
    cpus: usize,
    /// Identities of rules, while there are some to write down.
    identities: Option<Identities>,
}

/// Which identities are in use.
#[derive(Debug, Clone, Copy)]
struct Identities {
    /// Where the search for a free one begins.
    next: u32,
    /// How many there are.
    used: u32,
}

/// What the records of rules say.
pub(crate) struct Records {
    /// Those of the rules that hold, by identity.
    pub(crate) held: BTreeMap<u32, RuleRecord>,
    /// The leftovers, likewise.
    pub(crate) leftover: BTreeMap<u32, RuleRecord>,
}

/// A set of destinations: its identity, and what it has.
pub(crate) type Set = (u32, Vec<Prefix>);

/// Reads one slot of `META` without touching any other map, whose info may be another version's.
pub(crate) fn read_meta(folder: &Path, slot: u32) -> Result<u32> {
    let meta: Array<MapData, u32> =
        open(folder, "META")?.try_into().map_err(|error| failed("open the map", "META", error))?;
    meta.get(&slot, 0).map_err(|error| failed("read the map", "META", error))
}

/// Writes one slot of `META`, likewise.
pub(super) fn write_meta(folder: &Path, slot: u32, value: u32) -> Result<()> {
    let mut meta: Array<MapData, u32> =
        open(folder, "META")?.try_into().map_err(|error| failed("open the map", "META", error))?;
    meta.set(slot, value, 0).map_err(|error| failed("write the map", "META", error))
}

/// Whether a number serves as the secret: neither half is 0, which is what a packet without a mark often has there.
pub(super) fn is_secret(number: u64) -> bool {
    number as u32 != 0 && number >> 32 != 0
}

/// The secret that the marks of packets hold ([`byway_abi::mark`]), if there is one yet.
pub(super) fn read_secret(folder: &Path) -> Result<Option<u64>> {
    if !folder.join("SECRET").exists() {
        return Ok(None);
    }
    let secret: Array<MapData, u64> =
        open(folder, "SECRET")?.try_into().map_err(|error| failed("open the map", "SECRET", error))?;
    let secret = secret.get(&0, 0).map_err(|error| failed("read the map", "SECRET", error))?;
    if !is_secret(secret) {
        let what = "half of the secret is 0".to_owned();
        return Err(Error::Damaged { path: folder.to_owned(), map: "SECRET", what });
    }
    Ok(Some(secret))
}

/// Makes the map of the secret, filled.
pub(super) fn make_secret(folder: &Path, secret: u64) -> Result<()> {
    let making = |error| failed("make the map", "SECRET", error);
    let mut map: Array<MapData, u64> = Array::create(1, 0).map_err(making)?;
    map.set(0, secret, 0).map_err(making)?;
    map.pin(folder.join("SECRET")).map_err(|error| Error::kernel("pin the map SECRET", error))
}

impl Tables {
    /// Opens the maps that are pinned in `folder`.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let cpus =
            aya::util::nr_cpus().map_err(|(file, error)| Error::kernel(format!("read {file}"), error))?;
        Ok(Self {
            sources: Sources::open(folder)?,
            rules: Rules::open(folder, cpus)?,
            destinations4: map!(folder, "DESTINATIONS4"),
            destinations6: map!(folder, "DESTINATIONS6"),
            sets: map!(folder, "SETS"),
            attachments: map!(folder, "ATTACHMENTS"),
            attachment_counters: map!(folder, "ATTACHMENT_COUNTERS"),
            programs: map!(folder, "PROGRAMS"),
            neighbours: map!(folder, "NEIGHBOURS"),
            meta: map!(folder, "META"),
            next_hops: NextHops::open(folder, cpus)?,
            cpus,
            identities: None,
        })
    }

    pub(crate) fn meta(&self, slot: u32) -> Result<u32> {
        self.meta.get(&slot, 0).map_err(|error| failed("read the map", "META", error))
    }

    pub(crate) fn set_meta(&mut self, slot: u32, value: u32) -> Result<()> {
        self.meta.set(slot, value, 0).map_err(|error| failed("write the map", "META", error))
    }

    /// The next number from a slot of `META` that is not in use. It is never 0.
    fn next(&mut self, slot: u32, is_used: impl Fn(&Self, u32) -> bool) -> Result<u32> {
        let mut id = self.meta(slot)?.max(1);
        while is_used(self, id) {
            id = id.wrapping_add(1).max(1);
        }
        self.set_meta(slot, id.wrapping_add(1).max(1))?;
        Ok(id)
    }

    /// An identity that no set and no group has.
    pub(crate) fn next_set(&mut self) -> Result<u32> {
        self.next(meta::NEXT_SET, |tables, id| {
            tables.sets.get(&id, 0).is_ok() || tables.next_hops.has_group(id)
        })
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
        let id = self.free_identity()?;
        let record = wire::rule_record(selector, action, kind, index);
        self.rules.write(id, record)?;
        Ok(wire::target(id, &record))
    }

    /// How many records of rules there are, as the last change has noted it: counted where there is no room for so many.
    pub(crate) fn noted_rules(&self) -> Result<u32> {
        let noted = self.meta(meta::RULES)?;
        if noted <= self.rules.room() { Ok(noted) } else { self.count_rules() }
    }

    fn count_rules(&self) -> Result<u32> {
        self.rules.records().try_fold(0, |count, record| record.map(|_| count + 1))
    }

    fn identities(&mut self) -> Result<&mut Identities> {
        let now = match self.identities {
            Some(now) => now,
            None => Identities { next: self.meta(meta::NEXT_RULE)?, used: self.noted_rules()? },
        };
        Ok(self.identities.insert(now))
    }

    /// An identity that no rule has. They are given away in turn: packets may be under way still of the rule that had one
    /// before, so that it is long after.
    fn free_identity(&mut self) -> Result<u32> {
        let Identities { mut next, used } = *self.identities()?;
        // An eighth stays free, so that a free one is never far.
        let room = self.rules.room();
        if room.saturating_sub(used + 1) <= room / 8 && self.rules.chunks() < MAX_CHUNKS {
            next = self.rules.chunks() << 16;
            self.rules.add_chunk()?;
        }
        let mut free = self.rules.free(next)?;
        if free.is_none() && self.rules.chunks() < MAX_CHUNKS {
            // There are more than were noted.
            next = self.rules.chunks() << 16;
            self.rules.add_chunk()?;
            free = self.rules.free(next)?;
        }
        let free = free.ok_or_else(|| Error::Busy {
            action: "find a free identity for a rule",
            what: "all are in use",
        })?;
        *self.identities()? = Identities { next: free + 1, used: used + 1 };
        Ok(free)
    }

    /// Writes down which identities are in use, for the next change to know, and readers to see that there was one.
    pub(crate) fn note_identities(&mut self) -> Result<()> {
        if let Some(Identities { next, used }) = self.identities.take() {
            self.set_meta(meta::NEXT_RULE, next)?;
            self.set_meta(meta::RULES, used)?;
        }
        Ok(())
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
            let identities = self.identities()?;
            identities.used = identities.used.saturating_sub(1);
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
        self.meta(meta::GENERATION)
    }

    /// Makes packets look at another generation, from this instant on.
    pub(crate) fn set_generation(&mut self, generation: u32) -> Result<()> {
        // Its tables first, also for CPUs that do not see writes in their order.
        fence(Ordering::SeqCst);
        self.set_meta(meta::GENERATION, generation)
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
        self.identities()?.used = self.count_rules()?;
        Ok(())
    }

    /// The entry of a set for a destination, or for one around it.
    fn destination(&self, set: u32, destination: &Prefix) -> Result<Option<Target>> {
        optional(match key(set, destination) {
            AnyKey::V4(bits, key) => self.destinations4.get(&Key::new(bits, key), 0),
            AnyKey::V6(bits, key) => self.destinations6.get(&Key::new(bits, key), 0),
        })
        .map_err(|error| failed("read the destinations", &destination.to_string(), error))
    }

    /// Makes a set of a source's destinations, which nothing leads to yet. Where that fails nothing is left of it.
    pub(crate) fn make_set(&mut self, source: &Prefix, destinations: &[(Prefix, Target)]) -> Result<Set> {
        let id = self.next_set()?;
        retry_enomem(|| self.sets.insert(id, wire::set_record(source), 0))
            .map_err(|error| failed("write the map", "SETS", error))?;
        let set = (id, destinations.iter().map(|(destination, _)| *destination).collect());
        for (destination, target) in destinations {
            let put = retry_enomem(|| match key(id, destination) {
                AnyKey::V4(bits, key) => self.destinations4.insert(&Key::new(bits, key), *target, 0),
                AnyKey::V6(bits, key) => self.destinations6.insert(&Key::new(bits, key), *target, 0),
            });
            if let Err(error) = put {
                // Nothing leads there yet; what cannot be removed now is tidied by the next change.
                let _ = self.remove_set(&set);
                return Err(failed("write the destinations", &destination.to_string(), error));
            }
        }
        Ok(set)
    }

    /// Removes a set that no packet looks at any more.
    pub(crate) fn remove_set(&mut self, (id, destinations): &Set) -> Result<()> {
        for destination in destinations {
            ignore_missing(match key(*id, destination) {
                AnyKey::V4(bits, key) => self.destinations4.remove(&Key::new(bits, key)),
                AnyKey::V6(bits, key) => self.destinations6.remove(&Key::new(bits, key)),
            })
            .map_err(|error| failed("write the destinations", &destination.to_string(), error))?;
        }
        ignore_missing(self.sets.remove(id)).map_err(|error| failed("write the map", "SETS", error))
    }

    /// Whether any source has a set.
    pub(crate) fn has_sets(&self) -> Result<bool> {
        let first = self.sets.keys().next().transpose();
        first.map(|first| first.is_some()).map_err(|error| failed("read the map", "SETS", error))
    }

    /// Whether a rule besides this one leads to the next hop in a slot, by itself and not by a group; or may do so, since nobody
    /// here knows its kind.
    pub(crate) fn leads_elsewhere(&self, slot: u32, id: u32) -> Result<bool> {
        self.rules.leads_elsewhere(slot, id)
    }

    /// Every set there is, with the source that it was made for, or nothing where its record makes no sense.
    pub(crate) fn sets(&self) -> Result<Vec<(u32, Option<Prefix>)>> {
        let sets: std::result::Result<Vec<_>, _> = self.sets.iter().collect();
        let sets = sets.map_err(|error| failed("read the map", "SETS", error))?;
        Ok(sets.iter().map(|(id, record)| (*id, wire::read_set(record))).collect())
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
                self.destination(entry.index, &selector.destination().unwrap_or(all))
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

    /// Lets the rules speak about what leaves by a device, and begins to count that, from zero, unless it is counted already.
    pub(crate) fn watch(&mut self, index: u32) -> Result<()> {
        if self.attachment_place(index)?.is_none() {
            let free = self.attachment_place_of(index, 0)?;
            let place = free.ok_or(Error::TooManyAttachments { limit: MAX_ATTACHMENTS })?;
            let counters = AttachmentCounters { ifindex: index.into(), ..Default::default() };
            self.set_attachment_counters(place, counters)?;
        }
        self.attachments.insert(index, index, None, 0).map_err(|error| match error {
            XdpMapError::MapError(error) => failed("write the map", "ATTACHMENTS", error),
            error => Error::kernel("write the map ATTACHMENTS", error),
        })
    }

    /// Where the counters of an attachment are.
    fn attachment_place(&self, index: u32) -> Result<Option<u32>> {
        self.attachment_place_of(index, index)
    }

    /// Of the places where the counters of an attachment may be, the first that has those of `owner`.
    fn attachment_place_of(&self, index: u32, owner: u32) -> Result<Option<u32>> {
        for probe in 0..ATTACHMENT_PROBES {
            let place = index.wrapping_add(probe) % MAX_ATTACHMENTS;
            let values = self.read_attachment_counters(place)?;
            if values.first().is_some_and(|counters| counters.ifindex == u64::from(owner)) {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    fn read_attachment_counters(&self, place: u32) -> Result<PerCpuValues<AttachmentCounters>> {
        self.attachment_counters
            .get(&place, 0)
            .map_err(|error| failed("read the map", "ATTACHMENT_COUNTERS", error))
    }

    fn set_attachment_counters(&mut self, place: u32, counters: AttachmentCounters) -> Result<()> {
        PerCpuValues::try_from(vec![counters; self.cpus])
            .map_err(MapError::from)
            .and_then(|values| self.attachment_counters.set(place, values, 0))
            .map_err(|error| failed("write the map", "ATTACHMENT_COUNTERS", error))
    }

    /// The counters of an attachment, summed over the CPUs. All zero where there is none.
    pub(crate) fn attachment_counters(&self, index: u32) -> Result<AttachmentCounters> {
        let mut sum = AttachmentCounters::default();
        let Some(place) = self.attachment_place(index)? else { return Ok(sum) };
        for cpu in self.read_attachment_counters(place)?.iter() {
            for (sum, count) in sum.of.iter_mut().zip(cpu.of) {
                add(sum, count);
            }
        }
        Ok(sum)
    }

    /// The records of programs, whatever they say.
    pub(crate) fn programs(&self) -> Result<Vec<(ProgramKey, ProgramRecord)>> {
        self.programs
            .iter()
            .collect::<std::result::Result<_, _>>()
            .map_err(|error| failed("read the map", "PROGRAMS", error))
    }

    /// The record of the program at a place.
    pub(crate) fn program(&self, place: Place) -> Result<Option<ProgramRecord>> {
        optional(self.programs.get(&wire::program_key(place), 0))
            .map_err(|error| failed("read the map", "PROGRAMS", error))
    }

    pub(crate) fn set_program(&mut self, place: Place, record: ProgramRecord) -> Result<()> {
        self.programs
            .insert(wire::program_key(place), record, 0)
            .map_err(|error| failed("write the map", "PROGRAMS", error))
    }

    /// The attachments that are asked for beside those that are there, by number: their names, and an empty one for those that
    /// carry a default route.
    pub(crate) fn requests(&self) -> Result<BTreeMap<u32, String>> {
        let all = self.programs()?;
        let requests = all.into_iter().filter(|(key, _)| key.direction == DIRECTION_NONE);
        Ok(requests.map(|(key, record)| (key.ifindex, wire::read_request(&record.name))).collect())
    }

    /// Notes such a request, unless it is noted already, or forgets it.
    pub(crate) fn set_request(&mut self, name: &str, is_asked: bool) -> Result<()> {
        let requests = self.requests()?;
        let key = |ifindex| ProgramKey { ifindex, direction: DIRECTION_NONE };
        let noted: Vec<u32> =
            requests.iter().filter(|(_, it)| *it == name).map(|(number, _)| *number).collect();
        let written = match (is_asked, noted.first()) {
            (true, Some(_)) => Ok(()),
            (true, None) => {
                let free = (0..).find(|number| !requests.contains_key(number)).unwrap_or_default();
                self.programs.insert(key(free), wire::request(name), 0)
            }
            (false, _) => {
                noted.iter().try_for_each(|number| ignore_missing(self.programs.remove(&key(*number))))
            }
        };
        written.map_err(|error| failed("write the map", "PROGRAMS", error))
    }

    /// Whether the rules speak about what leaves by a device. The kernel ends that when the device goes or moves to another
    /// network namespace, from which it may have come back.
    pub(crate) fn is_watched(&self, index: u32) -> Result<bool> {
        let device = optional(self.attachments.get(index, 0));
        device.map(|device| device.is_some()).map_err(|error| failed("read the map", "ATTACHMENTS", error))
    }

    /// Forgets the program at a place, and with that of its egress that a device is an attachment.
    pub(crate) fn forget_program(&mut self, place: Place) -> Result<()> {
        if place.direction == Direction::Egress {
            self.stop_watching(place.ifindex)?;
        }
        ignore_missing(self.programs.remove(&wire::program_key(place)))
            .map_err(|error| failed("write the map", "PROGRAMS", error))
    }

    fn stop_watching(&mut self, index: u32) -> Result<()> {
        ignore_missing(self.attachments.remove(index))
            .map_err(|error| failed("write the map", "ATTACHMENTS", error))?;
        match self.attachment_place(index)? {
            Some(place) => self.set_attachment_counters(place, AttachmentCounters::default()),
            None => Ok(()),
        }
    }

    /// The neighbours that Byway keeps, as ifindex and gateway.
    pub(crate) fn neighbours(&self) -> Result<Vec<(u32, IpAddr)>> {
        let mut neighbours = Vec::new();
        for key in self.neighbours.keys() {
            let key = key.map_err(|error| failed("read the map", "NEIGHBOURS", error))?;
            neighbours.extend(wire::read_neighbour(&key));
        }
        Ok(neighbours)
    }

    pub(crate) fn remember_neighbour(&mut self, index: u32, gateway: IpAddr) -> Result<()> {
        self.neighbours
            .insert(wire::neighbour_key(index, gateway), 1, 0)
            .map_err(|error| failed("write the map", "NEIGHBOURS", error))
    }

    pub(crate) fn forget_neighbour(&mut self, index: u32, gateway: IpAddr) -> Result<()> {
        ignore_missing(self.neighbours.remove(&wire::neighbour_key(index, gateway)))
            .map_err(|error| failed("write the map", "NEIGHBOURS", error))
    }
}

/// A key of a set, and how many of its bits count.
enum AnyKey {
    V4(u32, Key4),
    V6(u32, Key6),
}

fn key(set: u32, prefix: &Prefix) -> AnyKey {
    let bits = 32 + u32::from(prefix.len());
    match prefix.address() {
        IpAddr::V4(address) => {
            let mut key = [0; 8];
            key[..4].copy_from_slice(&set.to_ne_bytes());
            key[4..].copy_from_slice(&address.octets());
            AnyKey::V4(bits, key)
        }
        IpAddr::V6(address) => {
            let mut key = [0; 20];
            key[..4].copy_from_slice(&set.to_ne_bytes());
            key[4..].copy_from_slice(&address.octets());
            AnyKey::V6(bits, key)
        }
    }
}
