//! Changes a table in memory that programs may be reading, one entry in one instant.

use std::{
    net::IpAddr,
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

use byway_abi::{
    TARGET_GONE, TARGET_LONGER, Target,
    sources::{ENTRIES, Entry, FREE, LENGTHS, PROBES, TableInfo, length},
};

use super::{
    Family, bits, halves, hash, is_taken,
    layout::{Layout, SPARE, marker, paths},
};
use crate::model::Prefix;

/// Finds what is wrong with the info of a table with this many buckets. Everything that [`Table`] does relies on the info,
/// while the content of the table may be anything.
pub(crate) fn fault(family: Family, info: &TableInfo, buckets: u32) -> Option<String> {
    let bits = match family {
        Family::V4 => 32,
        Family::V6 => 128,
    };
    let Some(lengths) = info.lengths.get(..info.count as usize) else {
        return Some(format!("it has {} lengths of prefixes", info.count));
    };
    if u64::from(info.mask) + 1 != u64::from(buckets) || !buckets.is_power_of_two() {
        return Some(format!("it has a mask of {:#x} for a table of {buckets} buckets", info.mask));
    }
    if u64::from(info.used) > u64::from(buckets) * ENTRIES as u64 {
        return Some(format!("it counts {} entries in {buckets} buckets", info.used));
    }
    if let Some(length) = lengths.iter().find(|length| **length >= bits) {
        return Some(format!("it has prefixes of {length} bits among those that are shorter than {bits}"));
    }
    let is_sorted = lengths.is_sorted_by(|one, next| one < next);
    (!is_sorted).then(|| "the lengths of its prefixes are out of order".to_owned())
}

/// Says that a change needs a new table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TakesNewTable;

/// A table in memory that programs may be reading, or a part of one.
pub(crate) struct Table<'a> {
    pub(crate) family: Family,
    /// Its info, without a [`fault`].
    pub(crate) info: TableInfo,
    /// Its buckets, one after the other.
    pub(crate) words: &'a [AtomicU64],
    /// The number of the first of these buckets. A part of a table is only for a single address, and contains all
    /// [`buckets`](super::buckets) of it.
    pub(crate) first: usize,
}

impl Table<'_> {
    /// Fills a table that no program reads yet.
    pub(crate) fn fill(&mut self, layout: &Layout) -> Result<(), TakesNewTable> {
        self.info = TableInfo { seed: self.info.seed, mask: self.info.mask, ..layout.info };
        let (words, word_index) = (self.family.words(), self.family.word_index());
        for (place, word) in self.words.iter().enumerate() {
            let is_address = place % words < word_index;
            word.store(if is_address { FREE } else { 0 }, Ordering::Relaxed);
        }
        // In the order of the buckets: at random, each write would miss the caches.
        let mut in_order: Vec<(u32, &(Prefix, Entry))> = layout
            .entries
            .iter()
            .map(|entry| (hash(self.family, &entry.0, self.info.seed) & self.info.mask, entry))
            .collect();
        in_order.sort_unstable_by_key(|(bucket, _)| *bucket);
        in_order.iter().try_for_each(|(_, (prefix, entry))| self.insert(prefix, *entry).map(drop))
    }

    /// Returns all places.
    fn all_places(&self) -> Range<usize> {
        let first = self.first * ENTRIES;
        first..first + self.words.len() / self.family.words()
    }

    /// Returns the places where a prefix may be, in the order of a search.
    fn places(&self, prefix: &Prefix) -> impl Iterator<Item = usize> {
        let (hash, mask) = (hash(self.family, prefix, self.info.seed), self.info.mask);
        let all = self.all_places();
        (0..PROBES)
            .flat_map(move |probe| {
                let bucket = (hash.wrapping_add(probe) & mask) as usize;
                (0..ENTRIES).map(move |entry| bucket * ENTRIES + entry)
            })
            .filter(move |place| all.contains(place))
    }

    fn word(&self, place: usize, word: usize) -> &AtomicU64 {
        &self.words[(place - self.first * ENTRIES) * self.family.words() + word]
    }

    fn load(&self, place: usize, word: usize) -> u64 {
        self.word(place, word).load(Ordering::Acquire)
    }

    /// Whether the entry at this place has this address.
    fn is_at(&self, place: usize, bits: u128) -> bool {
        match self.family {
            Family::V4 => self.load(place, 0) as u32 == ((bits >> 96) as u32).to_be(),
            Family::V6 => [self.load(place, 0), self.load(place, 1)] == halves(bits),
        }
    }

    fn entry(&self, place: usize) -> Entry {
        let rule = match self.family {
            Family::V4 => self.load(place, 0) >> 32,
            Family::V6 => self.load(place, 3),
        };
        Entry::read(self.load(place, self.family.word_index()), rule as u32)
    }

    /// Finds the entry of exactly this prefix, as a program does. Returns its place and the entry.
    pub(super) fn find(&self, prefix: &Prefix) -> Option<(usize, Entry)> {
        for place in self.places(prefix) {
            let word = self.load(place, self.family.word_index());
            if length(word) == u64::from(prefix.len()) && is_taken(word) && self.is_at(place, bits(prefix)) {
                return Some((place, self.entry(place)));
            }
            if word == 0 && place % ENTRIES == ENTRIES - 1 {
                break;
            }
        }
        None
    }

    /// Returns the target for exactly this source.
    pub(crate) fn source(&self, prefix: &Prefix) -> Option<Target> {
        self.find(prefix).filter(|(_, entry)| entry.is_own).map(|(_, entry)| entry.target)
    }

    /// The target of the most specific source that holds an address, by the same search as the programs'
    /// (`crates/byway-ebpf/src/sources.rs`): for the address itself, and then a binary search over the lengths.
    pub(crate) fn look_up(&self, address: IpAddr) -> Option<Target> {
        if self.info.hosts != 0
            && let Some((_, entry)) = self.find(&Prefix::from(address))
        {
            return Some(entry.target);
        }
        let (mut low, mut high, mut best) = (0, self.lengths().len(), None);
        while low < high {
            let middle = (low + high) / 2;
            let prefix = Prefix::holding(address, self.lengths()[middle])?;
            match self.find(&prefix) {
                Some((_, entry)) => {
                    low = middle + 1;
                    best = Some(entry.target).filter(|target| target.kind != TARGET_LONGER);
                }
                None => high = middle,
            }
        }
        best
    }

    /// Returns all entries, with their places.
    fn entries(&self) -> impl Iterator<Item = (usize, Prefix, Entry)> {
        self.all_places().filter_map(|place| {
            let word = self.load(place, self.family.word_index());
            if !is_taken(word) {
                return None;
            }
            let bits = match self.family {
                Family::V4 => u128::from(u32::from_be(self.load(place, 0) as u32)) << 96,
                Family::V6 => {
                    u128::from(u64::from_be(self.load(place, 0))) << 64
                        | u128::from(u64::from_be(self.load(place, 1)))
                }
            };
            let prefix = self.family.prefix(bits, length(word) as u8)?;
            Some((place, prefix, self.entry(place)))
        })
    }

    /// Returns the sources of rules, and their targets.
    pub(crate) fn sources(&self) -> Vec<(Prefix, Target)> {
        let own = self.entries().filter(|(place, prefix, entry)| {
            // An interrupted change may have left two entries for one prefix. The first one counts.
            entry.is_own && self.find(prefix).is_some_and(|(first, _)| first == *place)
        });
        own.map(|(_, prefix, entry)| (prefix, entry.target)).collect()
    }

    /// Puts an entry in the first free place, in one instant.
    fn insert(&self, prefix: &Prefix, entry: Entry) -> Result<usize, TakesNewTable> {
        let word_index = self.family.word_index();
        let is_free = |place: &usize| !is_taken(self.load(*place, word_index));
        let place = self.places(prefix).find(is_free).ok_or(TakesNewTable)?;
        let (bits, rule) = (bits(prefix), u64::from(entry.target.rule));
        match self.family {
            Family::V4 => {
                let address = u64::from(((bits >> 96) as u32).to_be());
                self.word(place, 0).store(address | rule << 32, Ordering::Release);
            }
            Family::V6 => {
                let [first, second] = halves(bits);
                self.word(place, 0).store(first, Ordering::Relaxed);
                self.word(place, 1).store(second, Ordering::Relaxed);
                self.word(place, 3).store(rule, Ordering::Release);
            }
        }
        self.word(place, word_index).store(entry.word(), Ordering::Release);
        Ok(place)
    }

    /// Removes an entry in one instant. If it was the last of its bucket, searches still go on to the next bucket.
    fn remove(&mut self, place: usize) {
        let word_index = self.family.word_index();
        let is_last = place % ENTRIES == ENTRIES - 1;
        let gone = Target { rule: 0, kind: TARGET_GONE, on_down: 0, mss: 0, index: 0 };
        let gone = Entry { target: gone, length: u8::MAX, is_own: false };
        self.word(place, word_index).store(if is_last { gone.word() } else { 0 }, Ordering::Release);
        for word in 0..word_index {
            self.word(place, word).store(FREE, Ordering::Release);
        }
        self.info.used = self.info.used.saturating_sub(1);
    }

    pub(super) fn lengths(&self) -> &[u8] {
        let count = (self.info.count as usize).min(LENGTHS);
        &self.info.lengths[..count]
    }

    /// Returns the target of the longest source, of at most `longest` bits, that covers a prefix.
    fn around(&self, prefix: &Prefix, longest: u8) -> Option<Target> {
        let lengths = self.lengths().iter().rev().filter(|length| **length <= longest);
        lengths
            .filter_map(|length| Prefix::holding(prefix.address(), *length))
            .find_map(|wider| self.source(&wider))
    }

    /// Gives a source this target, or none, in one instant. Returns its target before. `wait_for_grace_period` waits until
    /// all searches that are under way have ended: one that has passed the place of the new entry still needs the old one.
    ///
    /// # Errors
    ///
    /// [`TakesNewTable`] if more than one entry would change that a packet could see, or if there is no room. No packet sees
    /// a change then.
    pub(crate) fn set(
        &mut self,
        prefix: &Prefix,
        target: Option<Target>,
        wait_for_grace_period: impl FnOnce(),
    ) -> Result<Option<Target>, TakesNewTable> {
        let before = self.find(prefix);
        let had = before.filter(|(_, entry)| entry.is_own).map(|(_, entry)| entry.target);
        let mut after = target.map(|target| Entry { target, length: prefix.len(), is_own: true });
        if prefix.is_host() {
            if after.is_some() && self.info.hosts == 0 {
                return Err(TakesNewTable);
            }
        } else {
            if !self.lengths().contains(&prefix.len()) {
                return if after.is_some() || had.is_some() { Err(TakesNewTable) } else { Ok(None) };
            }
            let (has_longer, has_markers) = self.within(prefix);
            if has_markers {
                // Their target may be that of this prefix.
                return Err(TakesNewTable);
            }
            if after.is_none() && had.is_some() && has_longer {
                let around = prefix.len().checked_sub(1).and_then(|longest| self.around(prefix, longest));
                after = Some(marker(prefix.len(), around));
            }
            if target.is_some() {
                self.mark_path_to(prefix)?;
            }
        }
        if let Some(entry) = after {
            let room = (self.info.mask as usize + 1) * ENTRIES;
            if (self.info.used as usize + 1) * SPARE * 4 > room * 5 {
                return Err(TakesNewTable);
            }
            self.insert(prefix, entry)?;
            self.info.used += 1;
            if before.is_some() {
                wait_for_grace_period();
            }
        } else if had.is_none() {
            return Ok(None);
        }
        if let Some((place, _)) = before {
            self.remove(place);
        }
        Ok(had)
    }

    /// Returns whether there are longer prefixes within this one, except single addresses, and whether any of them is a
    /// marker.
    fn within(&self, prefix: &Prefix) -> (bool, bool) {
        if self.lengths().last().is_none_or(|longest| *longest <= prefix.len()) {
            return (false, false);
        }
        let (mut has_longer, mut has_markers) = (false, false);
        for (_, other, entry) in self.entries() {
            if other.len() > prefix.len() && !other.is_host() && prefix.covers(&other) {
                has_longer = true;
                has_markers |= !entry.is_own;
            }
        }
        (has_longer, has_markers)
    }

    /// Adds the markers that a prefix needs. Each has the target that packets find there anyway, so no packet sees a
    /// difference.
    fn mark_path_to(&mut self, prefix: &Prefix) -> Result<(), TakesNewTable> {
        let path = paths(self.lengths()).swap_remove(usize::from(prefix.len()));
        for length in path {
            let Some(at) = Prefix::holding(prefix.address(), length) else { continue };
            if self.find(&at).is_none() {
                self.insert(&at, marker(length, self.around(&at, length)))?;
                self.info.used += 1;
            }
        }
        Ok(())
    }

    /// Removes what an interrupted change has left: half an entry, and the second of two for one prefix. Counts the entries
    /// anew.
    pub(crate) fn tidy(&mut self) {
        let word_index = self.family.word_index();
        for place in self.all_places().filter(|place| !is_taken(self.load(*place, word_index))) {
            for word in 0..word_index {
                self.word(place, word).store(FREE, Ordering::Release);
            }
        }
        let doubles: Vec<usize> = self
            .entries()
            .filter(|(place, prefix, _)| self.find(prefix).is_some_and(|(first, _)| first != *place))
            .map(|(place, ..)| place)
            .collect();
        doubles.into_iter().for_each(|place| self.remove(place));
        self.info.used = self.entries().count() as u32;
    }
}
