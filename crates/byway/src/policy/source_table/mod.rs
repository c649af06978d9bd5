//! Writes the source tables, as plain data. Pure.
//!
//! [`byway_abi::sources`] says what a table is and how a program searches it. [`lay_out`] works out a whole table. [`Table`]
//! changes one entry in one instant, in a table that packets are using. Any larger change needs a new table.

mod layout;
mod table;

pub(crate) use layout::{Layout, lay_out};
pub(crate) use table::{Table, TakesNewTable, fault};

use std::{net::IpAddr, ops::Range};

use byway_abi::{
    TARGET_GONE,
    sources::{KIND, PROBES, TableInfo, WORDS4, WORDS6, hash4, hash6, mix64},
};

use crate::model::{Family, Prefix};

/// The tables of a family.
impl Family {
    /// 64-bit words of an entry.
    pub(crate) fn words(self) -> usize {
        match self {
            Self::V4 => WORDS4,
            Self::V6 => WORDS6,
        }
    }

    /// Returns which word of an entry is its [`word`](byway_abi::sources::Entry::word).
    fn word_index(self) -> usize {
        match self {
            Self::V4 => 1,
            Self::V6 => 2,
        }
    }

    /// Returns the prefix whose address is the first bits of a number.
    fn prefix(self, bits: u128, length: u8) -> Option<Prefix> {
        let address = match self {
            Self::V4 => IpAddr::from(((bits >> 96) as u32).to_be_bytes()),
            Self::V6 => IpAddr::from(bits.to_be_bytes()),
        };
        Prefix::holding(address, length)
    }
}

/// Returns a prefix's address as the first bits of a number.
fn bits(prefix: &Prefix) -> u128 {
    match prefix.address() {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// Returns the first `length` bits.
fn cut(bits: u128, length: u8) -> u128 {
    bits & u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

fn hash(family: Family, prefix: &Prefix, seed: u64) -> u32 {
    let (bits, length) = (bits(prefix), u32::from(prefix.len()));
    match family {
        Family::V4 => hash4(((bits >> 96) as u32).to_be(), length, seed),
        Family::V6 => hash6(halves(bits), length, seed),
    }
}

/// Returns the buckets where a prefix may be, unless they wrap around the end of the table.
pub(crate) fn buckets(family: Family, info: &TableInfo, prefix: &Prefix) -> Option<Range<usize>> {
    let first = (hash(family, prefix, info.seed) & info.mask) as usize;
    let end = first + PROBES as usize;
    (end <= info.mask as usize + 1).then_some(first..end)
}

/// Returns the info to try next if a table could not be filled: with other hashes, and every fourth time with more room.
pub(crate) fn other_info(info: &TableInfo, attempt: u32) -> TableInfo {
    let mask = if attempt.is_multiple_of(4) { info.mask << 1 | 1 } else { info.mask };
    TableInfo { seed: mix64(info.seed ^ u64::from(attempt)), mask, ..*info }
}

fn is_taken(word: u64) -> bool {
    word != 0 && word & KIND != u64::from(TARGET_GONE)
}

/// Returns an IPv6 address as it is in a table: two words in network byte order.
fn halves(bits: u128) -> [u64; 2] {
    [((bits >> 64) as u64).to_be(), (bits as u64).to_be()]
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::atomic::AtomicU64};

    use byway_abi::{
        Target,
        sources::{ENTRIES, LENGTHS},
    };
    use proptest::{collection::vec, prelude::*};

    use super::{layout::MIN_BUCKETS, *};

    fn target(rule: u32) -> Target {
        Target { rule, kind: 1, on_down: 0, mss: 0, index: rule }
    }

    /// A table in memory of its own.
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

        /// Returns the part of the table where a prefix may be.
        fn part(&self, prefix: &Prefix) -> Option<Table<'_>> {
            let buckets = buckets(self.family, &self.info, prefix)?;
            let words = ENTRIES * self.family.words();
            let part = &self.words[buckets.start * words..buckets.end * words];
            Some(Table { words: part, first: buckets.start, ..self.table() })
        }
    }

    /// Addresses close together, so that prefixes nest.
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
        /// Whatever is added and removed, one by one or all at once, a program finds the longest prefix.
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
            // Often only few lengths, so that not every change needs a new one.
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
                // Most of those to remove exist.
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
                            prop_assert_eq!(owned.table().look_up(address), longest(&before, address));
                        }
                        owned = Owned::new(family, &own);
                    }
                }
                for packet in &packets {
                    let address = address(family, *packet);
                    prop_assert_eq!(owned.table().look_up(address), longest(&own, address), "{} of {:?}", address, own);
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

        /// No table that is written here has a fault in its info, and an info without a fault is safe to use.
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
