//! What a packet finds in the pinned maps, by the same look-ups as those of the programs (`crates/byway-ebpf/src/lookup.rs`).
//!
//! The programs themselves are not run for that (BPF_PROG_TEST_RUN): they would count the packet, and probe next hops with it.

use std::net::IpAddr;

use byway_abi::{Group, GroupKey, RuleRecord, TARGET_BY_DESTINATION, TARGET_GROUP, Target};

use super::tables::Tables;
use crate::{
    error::Result,
    model::{Prefix, Selector},
};

/// What the rules say of a packet.
pub(crate) enum Found {
    /// No rule matches it.
    Nothing,
    /// Its destination decides, and that is not known.
    ByDestination,
    /// This.
    Target {
        target: Target,
        /// The group that the target leads to, if it leads to one that is there.
        group: Option<Box<Group>>,
    },
}

/// Looks up what becomes of a packet.
pub(crate) fn look_up(tables: &Tables, source: IpAddr, destination: Option<IpAddr>) -> Result<Found> {
    // Once, as in the programs.
    let generation = tables.generation()?;
    let found = match (tables.source_around(generation, source)?, destination) {
        (Some(target), None) if target.kind == TARGET_BY_DESTINATION => return Ok(Found::ByDestination),
        (Some(target), Some(destination)) if target.kind == TARGET_BY_DESTINATION => {
            tables.destinations.target(target.index, &Prefix::from(destination))?
        }
        (found, _) => found,
    };
    let Some(target) = found else { return Ok(Found::Nothing) };
    let leads = target.without_reply_to();
    let group = match leads.kind {
        TARGET_GROUP => {
            tables.next_hops.group(GroupKey { group: leads.index, generation: generation & 1 })?
        }
        _ => None,
    };
    Ok(Found::Target { target, group: group.map(Box::new) })
}

/// The rules that match a packet, with their identities. If its destination is not known, these are the rules for its source
/// and any destination. The most specific rule comes first, and the first one that matches decides.
pub(crate) fn rules(
    tables: &Tables,
    source: IpAddr,
    destination: Option<IpAddr>,
) -> Result<Vec<(u32, RuleRecord)>> {
    let speaks = |selector: &Selector| {
        selector.source().contains(source)
            && match (selector.destination(), destination) {
                (Some(own), Some(destination)) => own.contains(destination),
                _ => true,
            }
    };
    let mut rules: Vec<(u32, RuleRecord)> = tables.held_of(speaks)?.collect::<Result<_>>()?;
    rules.sort_by_key(|(_, record)| {
        // Those of one length are in the order of a listing.
        let lengths = std::cmp::Reverse((record.source_len, record.destination_len));
        (lengths, record.destination)
    });
    Ok(rules)
}
