//! Works out a whole table from its prefixes, with all the markers that a search needs.

use byway_abi::{
    TARGET_LONGER, Target,
    sources::{ENTRIES, Entry, LENGTHS, TableInfo},
};

use super::{bits, cut};
use crate::model::Prefix;

/// How many buckets the smallest table has: one page of IPv4 entries.
pub(super) const MIN_BUCKETS: usize = 64;
/// At most one in this many entries of a new table is in use, so that searches stay short.
pub(super) const SPARE: usize = 2;

/// The content of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) entries: Vec<(Prefix, Entry)>,
    /// The info of a table that is large enough for the entries.
    pub(crate) info: TableInfo,
}

/// Works out the entries of a table from the prefixes of one family and their targets.
pub(crate) fn lay_out(mut own: Vec<(Prefix, Target)>) -> Layout {
    // A prefix comes before those within it.
    own.sort_unstable_by_key(|(prefix, _)| (bits(prefix), prefix.len()));
    let mut is_there = [false; LENGTHS];
    for (prefix, _) in own.iter().filter(|(prefix, _)| !prefix.is_host()) {
        is_there[usize::from(prefix.len())] = true;
    }
    let lengths: Vec<u8> = (0..LENGTHS as u8).filter(|length| is_there[usize::from(*length)]).collect();
    let paths = paths(&lengths);

    let mut entries = Vec::with_capacity(own.len());
    // The prefixes around the current one, widest first.
    let mut around: Vec<(Prefix, Target)> = Vec::new();
    // The last marker of each length: equal markers come one after the other.
    let mut last: [Option<u128>; LENGTHS] = [None; LENGTHS];
    for (prefix, target) in own {
        entries.push((prefix, Entry { target, length: prefix.len(), is_own: true }));
        if prefix.is_host() {
            continue;
        }
        while around.last().is_some_and(|(wider, _)| !wider.covers(&prefix)) {
            around.pop();
        }
        for length in &paths[usize::from(prefix.len())] {
            let first = cut(bits(&prefix), *length);
            if last[usize::from(*length)].replace(first) == Some(first) {
                continue;
            }
            let best = around.iter().rev().find(|(wider, _)| wider.len() <= *length);
            if best.is_some_and(|(wider, _)| wider.len() == *length) {
                // The prefix has an entry of its own, which serves as its marker.
                continue;
            }
            if let Some(at) = prefix.family().prefix(first, *length) {
                entries.push((at, marker(*length, best.map(|(_, target)| *target))));
            }
        }
        around.push((prefix, target));
    }

    let hosts = entries.iter().any(|(prefix, _)| prefix.is_host());
    let buckets = (entries.len() * SPARE).div_ceil(ENTRIES).next_power_of_two().max(MIN_BUCKETS);
    let mut info = TableInfo {
        mask: buckets as u32 - 1,
        used: entries.len() as u32,
        hosts: hosts.into(),
        count: lengths.len() as u32,
        ..TableInfo::EMPTY
    };
    info.lengths[..lengths.len()].copy_from_slice(&lengths);
    Layout { entries, info }
}

/// Returns for each length the shorter lengths that a search looks at on its way there.
pub(super) fn paths(lengths: &[u8]) -> Vec<Vec<u8>> {
    let mut paths = vec![Vec::new(); LENGTHS];
    for (place, length) in lengths.iter().enumerate() {
        let (mut low, mut high) = (0, lengths.len());
        while low < high {
            let middle = (low + high) / 2;
            if middle == place {
                break;
            }
            if middle < place {
                paths[usize::from(*length)].push(lengths[middle]);
                low = middle + 1;
            } else {
                high = middle;
            }
        }
    }
    paths
}

pub(super) fn marker(length: u8, best: Option<Target>) -> Entry {
    let longer = Target { rule: 0, kind: TARGET_LONGER, on_down: 0, mss: 0, index: 0 };
    Entry { target: best.unwrap_or(longer), length, is_own: false }
}
