//! The source tables, as plain data: which prefixes have entries, and where those are. Pure.
//!
//! [`byway_abi::sources`] says what a table is and how a program searches it. Here it is written: [`lay_out`] works a
//! whole table out, with all its markers, and [`Table`] changes one that packets are looking at, one entry in one
//! instant. What takes more than that takes a new table.

use std::{
    net::IpAddr,
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

use byway_abi::{
    TARGET_GONE, TARGET_LONGER, Target,
    sources::{
        ENTRIES, Entry, FREE, KIND, LENGTHS, PROBES, TableInfo, WORDS4, WORDS6, hash4, hash6, length, mix64,
    },
};

use crate::model::Prefix;

/// Buckets of the smallest table: a page of the smaller family's.
const MIN_BUCKETS: usize = 64;
/// Of so many entries, in all, a table has one at the most that is not free: searches stay short.
const SPARE: usize = 2;

/// Whose table it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) fn of(prefix: &Prefix) -> Self {
        if prefix.address().is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// 64-bit words of an entry.
    pub(crate) fn words(self) -> usize {
        match self {
            Self::V4 => WORDS4,
            Self::V6 => WORDS6,
        }
    }

    /// Which word of an entry is its [`word`](Entry::word).
    fn word_index(self) -> usize {
        match self {
            Self::V4 => 1,
            Self::V6 => 2,
        }
    }

    /// A prefix with its address as the first bits of a number.
    fn prefix(self, bits: u128, length: u8) -> Option<Prefix> {
        let address = match self {
            Self::V4 => IpAddr::from(((bits >> 96) as u32).to_be_bytes()),
            Self::V6 => IpAddr::from(bits.to_be_bytes()),
        };
        Prefix::holding(address, length)
    }
}

/// A prefix's address as the first bits of a number.
fn bits(prefix: &Prefix) -> u128 {
    match prefix.address() {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The first so many bits.
fn cut(bits: u128, length: u8) -> u128 {
    bits & u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

/// All that a table is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) entries: Vec<(Prefix, Entry)>,
    /// The info of a table that is large enough.
    pub(crate) info: TableInfo,
}

/// Works out the entries of a table from the prefixes of one family and their targets.
pub(crate) fn lay_out(mut own: Vec<(Prefix, Target)>) -> Layout {
    // Prefixes before those within them.
    own.sort_unstable_by_key(|(prefix, _)| (bits(prefix), prefix.len()));
    let mut is_there = [false; LENGTHS];
    for (prefix, _) in own.iter().filter(|(prefix, _)| !prefix.is_host()) {
        is_there[usize::from(prefix.len())] = true;
    }
    let lengths: Vec<u8> = (0..LENGTHS as u8).filter(|length| is_there[usize::from(*length)]).collect();
    let paths = paths(&lengths);

    let mut entries = Vec::with_capacity(own.len());
    // The prefixes around the one at hand, widest first.
    let mut around: Vec<(Prefix, Target)> = Vec::new();
    // Of each length the last marker: those of one prefix come one after the other.
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
                // It has an entry of its own.
                continue;
            }
            if let Some(at) = Family::of(&prefix).prefix(first, *length) {
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

/// For each length, at which others a search for it comes by before, on the way to longer ones.
fn paths(lengths: &[u8]) -> Vec<Vec<u8>> {
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

fn marker(length: u8, best: Option<Target>) -> Entry {
    let longer = Target { rule: 0, kind: TARGET_LONGER, on_down: 0, mss: 0, index: 0 };
    Entry { target: best.unwrap_or(longer), length, is_own: false }
}

/// What is wrong with a info that stands beside a table of so many buckets, if anything is: all that is done with a [`Table`]
/// relies on its info. What the table itself has may be anything.
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

/// What cannot be done in the table that there is, and takes a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TakesNewTable;

fn hash(family: Family, prefix: &Prefix, seed: u64) -> u32 {
    let (bits, length) = (bits(prefix), u32::from(prefix.len()));
    match family {
        Family::V4 => hash4(((bits >> 96) as u32).to_be(), length, seed),
        Family::V6 => hash6(halves(bits), length, seed),
    }
}

/// The buckets where a prefix may be, if they do not go on at the first one behind the last.
pub(crate) fn buckets(family: Family, info: &TableInfo, prefix: &Prefix) -> Option<Range<usize>> {
    let first = (hash(family, prefix, info.seed) & info.mask) as usize;
    let end = first + PROBES as usize;
    (end <= info.mask as usize + 1).then_some(first..end)
}

/// A table in memory, which programs may be reading; or a part of it.
pub(crate) struct Table<'a> {
    pub(crate) family: Family,
    /// Without a [`fault`].
    pub(crate) info: TableInfo,
    /// The buckets, one after the other.
    pub(crate) words: &'a [AtomicU64],
    /// Which bucket is the first of them. In a part of a table only a single address is found, and changed, whose
    /// [`buckets`] all are there.
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
        // From the first bucket to the last: each one at random would be out of every cache.
        let mut in_order: Vec<(u32, &(Prefix, Entry))> = layout
            .entries
            .iter()
            .map(|entry| (hash(self.family, &entry.0, self.info.seed) & self.info.mask, entry))
            .collect();
        in_order.sort_unstable_by_key(|(bucket, _)| *bucket);
        in_order.iter().try_for_each(|(_, (prefix, entry))| self.insert(prefix, *entry).map(drop))
    }

    /// The places that there are.
    fn all_places(&self) -> Range<usize> {
        let first = self.first * ENTRIES;
        first..first + self.words.len() / self.family.words()
    }

    /// The places where a prefix may be, in the order of a search.
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

    /// What makes up the address of an entry, in the words before its metadata.
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

    /// The entry of exactly this prefix, and its place: the one that a program finds.
    fn find(&self, prefix: &Prefix) -> Option<(usize, Entry)> {
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

    /// The target of the rule, or the rules, for exactly this source.
    pub(crate) fn source(&self, prefix: &Prefix) -> Option<Target> {
        self.find(prefix).filter(|(_, entry)| entry.is_own).map(|(_, entry)| entry.target)
    }

    /// All entries, with their places.
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

    /// The sources that rules speak about, and their targets.
    pub(crate) fn sources(&self) -> Vec<(Prefix, Target)> {
        let own = self.entries().filter(|(place, prefix, entry)| {
            // Of two entries for one prefix, one that a change has left which was cut off, the first holds.
            entry.is_own && self.find(prefix).is_some_and(|(first, _)| first == *place)
        });
        own.map(|(_, prefix, entry)| (prefix, entry.target)).collect()
    }

    /// Puts an entry in the first free place, from one instant to the next.
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

    /// Takes an entry away, from one instant to the next. A search goes on behind the last place of a bucket, as before.
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

    fn lengths(&self) -> &[u8] {
        let count = (self.info.count as usize).min(LENGTHS);
        &self.info.lengths[..count]
    }

    /// The target of the longest of the sources that rules speak about which hold a prefix.
    fn around(&self, prefix: &Prefix, longest: u8) -> Option<Target> {
        let lengths = self.lengths().iter().rev().filter(|length| **length <= longest);
        lengths
            .filter_map(|length| Prefix::holding(prefix.address(), *length))
            .find_map(|wider| self.source(&wider))
    }

    /// Lets a source have this target from one instant to the next, or none. Returns what it had. `wait_for_grace_period` waits until no
    /// search is under way that began before: one that has passed the new entry's place has to find the old one still.
    ///
    /// # Errors
    ///
    /// Where that takes more than one entry that a packet could see, or there is no room. No packet sees a change then.
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
            let (has_longer, has_guideposts) = self.within(prefix);
            if has_guideposts {
                // They may have the target of this one.
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

    /// Whether there are longer prefixes within one, single addresses aside, and whether there are markers among them.
    fn within(&self, prefix: &Prefix) -> (bool, bool) {
        if self.lengths().last().is_none_or(|longest| *longest <= prefix.len()) {
            return (false, false);
        }
        let (mut has_longer, mut has_guideposts) = (false, false);
        for (_, other, entry) in self.entries() {
            if other.len() > prefix.len() && !other.is_host() && prefix.covers(&other) {
                has_longer = true;
                has_guideposts |= !entry.is_own;
            }
        }
        (has_longer, has_guideposts)
    }

    /// Puts the markers that a prefix needs. They say what replaced: no packet sees a difference.
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

    /// Takes away what a change has left that was cut off: half an entry, and the second of two for one prefix. Counts the
    /// metadata.
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

/// The info to try next where a table could not be filled: with other hashes, and at last with more room.
pub(crate) fn other_info(info: &TableInfo, attempt: u32) -> TableInfo {
    let mask = if attempt.is_multiple_of(4) { info.mask << 1 | 1 } else { info.mask };
    TableInfo { seed: mix64(info.seed ^ u64::from(attempt)), mask, ..*info }
}

fn is_taken(word: u64) -> bool {
    word != 0 && word & KIND != u64::from(TARGET_GONE)
}

/// An IPv6 address as a table has it: two words in network byte order.
fn halves(bits: u128) -> [u64; 2] {
    [((bits >> 64) as u64).to_be(), (bits as u64).to_be()]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn target(rule: u32) -> Target {
        Target { rule, kind: 1, on_down: 0, mss: 0, index: rule }
    }

    /// A table with memory of its own.
    struct Owned {
        family: Family,
        info: TableInfo,
        words: Vec<AtomicU64>,
    }

    impl Owned {
        fn new(family: Family, own: &BTreeMap<Prefix, Target>) -> Self {
            let layout = lay_out(own.iter().map(|(prefix, target)| (*prefix, *target)).collect());
            let mut info = layout.info;
            for attempt in 1.. {
                let buckets = info.mask as usize + 1;
                let words =
                    (0..buckets * ENTRIES * family.words()).map(|_| AtomicU64::new(7)).collect::<Vec<_>>();
                let mut table = Table { family, info, words: &words, first: 0 };
                if table.fill(&layout).is_ok() {
                    return Self { family, info: table.info, words };
                }
                info = other_info(&info, attempt);
            }
            unreachable!("a table without end has room")
        }

        fn table(&self) -> Table<'_> {
            Table { family: self.family, info: self.info, words: &self.words, first: 0 }
        }

        /// The part of the table where a prefix may be.
        fn part(&self, prefix: &Prefix) -> Option<Table<'_>> {
            let buckets = buckets(self.family, &self.info, prefix)?;
            let words = ENTRIES * self.family.words();
            let part = &self.words[buckets.start * words..buckets.end * words];
            Some(Table { words: part, first: buckets.start, ..self.table() })
        }

        /// What a program does.
        fn look_up(&self, address: IpAddr) -> Option<Target> {
            let table = self.table();
            let host = Prefix::from(address);
            if self.info.hosts != 0
                && let Some((_, entry)) = table.find(&host)
            {
                return Some(entry.target);
            }
            let (mut low, mut high, mut best) = (0, table.lengths().len(), None);
            while low < high {
                let middle = (low + high) / 2;
                let prefix = Prefix::holding(address, table.lengths()[middle]).unwrap();
                match table.find(&prefix) {
                    Some((_, entry)) => {
                        low = middle + 1;
                        best = Some(entry.target).filter(|target| target.kind != TARGET_LONGER);
                    }
                    None => high = middle,
                }
            }
            best
        }
    }

    /// Addresses that lie close together, so that prefixes nest.
    fn address(family: Family, bits: u16) -> IpAddr {
        // Four bits here and there.
        let spread = |shift: u32| u128::from(bits >> shift & 0xF);
        match family {
            Family::V4 => {
                let [a, b, c, d] = [12, 8, 4, 0].map(|shift| spread(shift) as u8);
                IpAddr::from([a << 4, b, c << 4, d])
            }
            Family::V6 => IpAddr::from(
                (spread(12) << 124 | spread(8) << 64 | spread(4) << 60 | spread(0)).to_be_bytes(),
            ),
        }
    }

    fn lengths(family: Family) -> &'static [u8] {
        match family {
            Family::V4 => &[0, 1, 4, 8, 12, 16, 20, 24, 28, 30, 31, 32, 32, 32],
            Family::V6 => &[0, 3, 4, 32, 48, 60, 63, 64, 65, 96, 124, 127, 128, 128],
        }
    }

    fn family(v4: bool) -> Family {
        if v4 { Family::V4 } else { Family::V6 }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        /// Whatever is put and taken away, one by one or all at once, a program finds the longest prefix.
        #[test]
        fn a_search_finds_the_longest_prefix(
            v4: bool,
            is_part: bool,
            few in proptest::option::of(0..4_usize),
            first in vec((any::<u16>(), 0..14_usize), 0..60),
            changes in vec((any::<u16>(), 0..14_usize, proptest::option::weighted(0.6, Just(()))), 0..60),
            packets in vec(any::<u16>(), 40),
        ) {
            let family = family(v4);
            // Often only few lengths, so that not every change brings a new one.
            let prefix = |bits, length: usize| {
                let length = few.map_or(length, |few| 13 - (length % (few + 1)) * 2);
                Prefix::holding(address(family, bits), lengths(family)[length]).unwrap()
            };
            let mut own: BTreeMap<Prefix, Target> = BTreeMap::new();
            for (nth, (bits, length)) in first.into_iter().enumerate() {
                own.insert(prefix(bits, length), target(nth as u32 + 1));
            }
            let mut owned = Owned::new(family, &own);
            for (nth, (bits, length, is_put)) in changes.into_iter().enumerate() {
                // Of those taken away most are there.
                let source = match own.keys().nth(usize::from(bits) % own.len().max(1)) {
                    Some(there) if is_put.is_none() => *there,
                    _ => prefix(bits, length),
                };
                let after = is_put.map(|()| target(1_000 + nth as u32));
                let had = match after {
                    Some(target) => own.insert(source, target),
                    None => own.remove(&source),
                };
                let part = owned.part(&source).filter(|_| is_part && source.is_host());
                let mut table = part.unwrap_or(owned.table());
                prop_assert_eq!(table.source(&source), had);
                match table.set(&source, after, || ()) {
                    Ok(found) => {
                        prop_assert_eq!(found, had);
                        owned.info = table.info;
                    }
                    Err(TakesNewTable) => {
                        for packet in &packets {
                            let address = address(family, *packet);
                            let mut before = own.clone();
                            match had {
                                Some(had) => before.insert(source, had),
                                None => before.remove(&source),
                            };
                            prop_assert_eq!(owned.look_up(address), longest(&before, address));
                        }
                        owned = Owned::new(family, &own);
                    }
                }
                for packet in &packets {
                    let address = address(family, *packet);
                    prop_assert_eq!(owned.look_up(address), longest(&own, address), "{} of {:?}", address, own);
                }
                let sources: BTreeMap<Prefix, Target> = owned.table().sources().into_iter().collect();
                prop_assert_eq!(&sources, &own);
                let mut tidied = owned.table();
                tidied.tidy();
                prop_assert_eq!(tidied.info, owned.info, "nothing is left over");
            }
        }

        /// Whatever is in the memory, reading it ends, and so does changing it.
        #[test]
        fn no_table_makes_the_reader_panic(
            v4: bool,
            words in vec(any::<u64>(), 64 * 4 * 4),
            zeros in 0..1_000_usize,
            used in 0..=256_u32,
            hosts: u32,
            seed: u64,
            lengths in proptest::collection::btree_set(0..32_u8, 0..20),
            bits: u16,
            length in 0..14_usize,
        ) {
            let family = family(v4);
            let words: Vec<AtomicU64> = words
                .into_iter()
                .take(64 * ENTRIES * family.words())
                .enumerate()
                .map(|(nth, word)| AtomicU64::new(if nth < zeros { 0 } else { word }))
                .collect();
            let mut info = TableInfo { seed, mask: 63, used, hosts, count: lengths.len() as u32, lengths: [200; LENGTHS] };
            for (to, length) in info.lengths.iter_mut().zip(lengths) {
                *to = length;
            }
            prop_assert_eq!(fault(family, &info, 64), None);
            let mut table = Table { family, info, words: &words, first: 0 };
            let _ = table.sources();
            let prefix = Prefix::holding(address(family, bits), self::lengths(family)[length]).unwrap();
            let _ = table.set(&prefix, Some(target(1)), || ());
            let _ = table.set(&prefix, None, || ());
            lay_out(table.sources());
            table.tidy();
        }

        /// The infos of tables that are written here are without a fault, and of others no more gets by than a table takes.
        #[test]
        fn table_infos_are_checked(v4: bool, number: u32, at in 0..36_usize, own in vec((any::<u16>(), 0..14_usize), 1..60)) {
            let family = family(v4);
            let own = own.into_iter().map(|(bits, length)| {
                (Prefix::holding(address(family, bits), lengths(family)[length]).unwrap(), target(1))
            });
            let owned = Owned::new(family, &own.collect());
            let buckets = owned.info.mask + 1;
            prop_assert_eq!(fault(family, &owned.info, buckets), None);
            for number in [number, 0, 1, 127, 128, 200 << 8, u32::MAX] {
                let mut info = owned.info;
                match at {
                    0 => info.mask = number,
                    1 => info.used = number,
                    2 => info.hosts = number,
                    3 => info.count = number,
                    _ => info.lengths[at * 4 - 16..][..4].copy_from_slice(&number.to_ne_bytes()),
                }
                if fault(family, &info, buckets).is_none() {
                    let mut table = Table { info, ..owned.table() };
                    let _ = table.set(&Prefix::holding(address(family, 7), 31).unwrap(), Some(target(1)), || ());
                    table.tidy();
                }
            }
        }
    }

    fn longest(own: &BTreeMap<Prefix, Target>, address: IpAddr) -> Option<Target> {
        own.iter()
            .filter(|(prefix, _)| prefix.contains(address))
            .max_by_key(|(prefix, _)| prefix.len())
            .map(|(_, target)| *target)
    }

    #[test]
    fn a_new_host_and_one_that_goes_are_one_entry() {
        for family in [Family::V4, Family::V6] {
            let host = |nth| Prefix::from(address(family, nth));
            let owned = Owned::new(family, &BTreeMap::from([(host(1), target(1))]));
            let mut table = owned.table();
            assert_eq!(table.set(&host(2), Some(target(2)), || ()), Ok(None));
            assert_eq!(table.set(&host(2), Some(target(3)), || ()), Ok(Some(target(2))));
            assert_eq!(table.set(&host(1), None, || ()), Ok(Some(target(1))));
            assert_eq!(table.sources(), [(host(2), target(3))]);
        }
    }

    #[test]
    fn so_is_a_prefix_with_nothing_longer_within() {
        let prefix = |text: &str| text.parse::<Prefix>().unwrap();
        let own = ["10.0.0.0/8", "10.1.0.0/16", "10.1.1.0/24"].map(|text| (prefix(text), target(1)));
        let owned = Owned::new(Family::V4, &BTreeMap::from(own));
        let mut table = owned.table();
        assert_eq!(table.set(&prefix("10.2.1.0/24"), Some(target(2)), || ()), Ok(None));
        assert_eq!(table.set(&prefix("10.3.0.0/16"), Some(target(3)), || ()), Ok(None));
        assert_eq!(table.set(&prefix("10.1.0.0/16"), Some(target(4)), || ()), Ok(Some(target(1))));
        assert_eq!(
            table.set(&prefix("10.0.0.0/8"), None, || ()),
            Err(TakesNewTable),
            "markers have its target"
        );
        assert_eq!(
            table.set(&prefix("10.4.0.0/20"), Some(target(5)), || ()),
            Err(TakesNewTable),
            "a new length"
        );
        assert_eq!(table.source(&prefix("10.2.0.0/16")), None, "a marker is no source");
    }

    #[test]
    fn a_table_that_is_filling_up_asks_for_a_larger_one() {
        let hosts: Vec<Prefix> = (0..=u16::MAX).map(|nth| Prefix::from(address(Family::V4, nth))).collect();
        let owned = Owned::new(Family::V4, &BTreeMap::from([(hosts[0], target(1))]));
        let mut table = owned.table();
        let put =
            hosts[1..].iter().take_while(|host| table.set(host, Some(target(1)), || ()).is_ok()).count();
        assert_eq!(put + 1, MIN_BUCKETS * ENTRIES * 5 / 8);
    }
}
