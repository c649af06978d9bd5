//! Puts rules in force, with new entries or generations of the source tables, and sets of destinations.

use std::collections::BTreeMap;

use byway_abi::{TARGET_BY_DESTINATION, Target};

use super::{SoFar, Undo};
use crate::{
    error::{Error, Result},
    kernel::{destinations::Set, tables::Tables},
    model::Prefix,
    policy::{
        compile::Entry,
        step::{RuleRef, Switch},
    },
};

/// Tables that no packet uses, or soon none.
#[derive(Default)]
pub(super) struct Stale {
    pub(super) generation: Option<u32>,
    pub(super) sets: Vec<Set>,
}

/// Puts the new rules in force, in one instant.
pub(super) fn switch_rules(tables: &mut Tables, so_far: &mut SoFar, switch: &Switch) -> Result<Undo> {
    // Before the switch, so that a reader during it sees that something has changed.
    tables.note_identities()?;
    match switch {
        Switch::Entry(source, before, after) => {
            let mut made = Stale::default();
            let target = match after {
                Some(entry) => Some(make_entry(tables, so_far, source, entry, &mut made)?),
                None => None,
            };
            let (old, generation) =
                set_source(tables, source, target).map_err(|error| without(tables, &made, error))?;
            // Taking an identity tells a reader that has begun after they were noted. The rule is in force, so this must not fail the
            // change.
            let _ = tables.next_set();
            made.generation = generation.map(|before| before.wrapping_add(1));
            so_far.stale.generation = generation;
            so_far.stale.sets.extend(set_of(old, before.as_ref()));
            Ok(match generation {
                Some(generation) => Undo::Generation(generation, made),
                None => Undo::Entry(*source, old, made),
            })
        }
        Switch::All(before, after) => {
            let generation = tables.generation()?;
            let in_force = tables.in_force()?;
            let by_destination = before.iter().filter(|(_, entry)| matches!(entry, Entry::ByDestination(_)));
            let sets =
                by_destination.flat_map(|(source, entry)| set_of(in_force.source(source), Some(entry)));
            let stale = Stale { generation: Some(generation), sets: sets.collect() };

            let next = generation.wrapping_add(1);
            let mut made = Stale::default();
            let targets = after
                .iter()
                .map(|(source, entry)| Ok((*source, make_entry(tables, so_far, source, entry, &mut made)?)))
                .collect::<Result<Vec<_>>>();
            let filled = targets.and_then(|targets| tables.make_generation(next, targets));
            if let Err(error) = filled.and_then(|()| tables.set_generation(next)) {
                return Err(without(tables, &made, error));
            }
            made.generation = Some(next);
            so_far.stale = stale;
            Ok(Undo::Generation(generation, made))
        }
    }
}

/// Gives a source this target, or none, in one instant. Returns its target before. If that needed new tables, also returns
/// the generation that no packet uses any more.
pub(super) fn set_source(
    tables: &mut Tables,
    source: &Prefix,
    target: Option<Target>,
) -> Result<(Option<Target>, Option<u32>)> {
    if let Ok(old) = tables.set_source(source, target)? {
        return Ok((old, None));
    }
    let generation = tables.generation()?;
    let mut sources: BTreeMap<Prefix, Target> = tables.in_force()?.sources().into_iter().collect();
    let old = match target {
        Some(target) => sources.insert(*source, target),
        None => sources.remove(source),
    };
    let next = generation.wrapping_add(1);
    tables.make_generation(next, sources.into_iter().collect())?;
    tables.set_generation(next)?;
    Ok((old, Some(generation)))
}

/// Creates the set that an entry may need, and returns the target for the source.
fn make_entry(
    tables: &mut Tables,
    so_far: &SoFar,
    source: &Prefix,
    entry: &Entry<RuleRef>,
    made: &mut Stale,
) -> Result<Target> {
    let no_record = || Error::inconsistent(format!("put a rule for {source}"), "it has no record");
    let target = |tables: &Tables, rule: &RuleRef| match rule {
        RuleRef::Held(id) => tables.target(*id),
        RuleRef::New(nth) => so_far.recorded.get(*nth as usize).copied().ok_or_else(no_record),
    };
    match entry {
        Entry::All(rule) => target(tables, rule),
        Entry::ByDestination(destinations) => {
            let targets = destinations
                .iter()
                .map(|(destination, rule)| Ok((*destination, target(tables, rule)?)))
                .collect::<Result<Vec<_>>>()?;
            let index = tables.next_set()?;
            made.sets.push(tables.destinations.make_set(index, source, &targets)?);
            Ok(Target { rule: 0, kind: TARGET_BY_DESTINATION, on_down: 0, mss: 0, index })
        }
    }
}

/// Returns the set that a source's entry leads to.
fn set_of(target: Option<Target>, entry: Option<&Entry<RuleRef>>) -> Option<Set> {
    match (target, entry) {
        (Some(target), Some(Entry::ByDestination(destinations))) if target.kind == TARGET_BY_DESTINATION => {
            Some((target.index, destinations.keys().copied().collect()))
        }
        _ => None,
    }
}

/// Removes what was created, and returns `failure`, or an error that says that this failed, too. The next change then tidies
/// up.
fn without(tables: &mut Tables, made: &Stale, failure: Error) -> Error {
    match clear(tables, made) {
        Ok(()) => failure,
        Err(undo) => Error::NotUndone { failure: Box::new(failure), undo: Box::new(undo) },
    }
}

/// Removes tables that no packet looks at any more.
pub(super) fn clear(tables: &mut Tables, stale: &Stale) -> Result<()> {
    if let Some(generation) = stale.generation {
        tables.remove_generation(generation)?;
    }
    stale.sets.iter().try_for_each(|set| tables.destinations.remove_set(set))
}
