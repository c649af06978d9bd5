//! From a packet's source to its target: the search through the [source tables](byway_abi::sources).

use byway_abi::{
    FAMILY_IPV4, TARGET_GONE, TARGET_LONGER, Target,
    sources::{
        self, CachedSource, ENTRIES, KIND, LENGTHS, PROBES, TableInfos, WORDS4, WORDS6, cache_place, hash4,
        hash6, length, target,
    },
};

use crate::{
    maps::{SOURCE_CACHE, SOURCES4, SOURCES6, TABLE_INFO},
    packet::Packet,
    read_once,
    rows::{PerCpu, field},
};

/// So many steps of a binary search are enough for [`LENGTHS`].
const STEPS: usize = 8;

/// How often a search begins anew because the entry that it found is gone by then. Of one that was replaced the next search
/// finds the new one: userspace takes no old one away before.
const SEARCHES: usize = 3;

/// The target of the most specific source that holds the packet's, in the generation whose tables are in this slot.
#[inline(always)]
pub fn find(packet: &Packet, slot: u32) -> Option<Target> {
    let infos = TABLE_INFO.get(slot)?;
    // Before the search: where something changes meanwhile, what is found is of an epoch that is over.
    let epoch = read_once(&infos.epoch);
    let is_v4 = packet.family == FAMILY_IPV4;
    let [a, b, c, d] = packet.source;
    let address = if is_v4 { [u64::from(a), 0] } else { [word(a, b), word(c, d)] };
    let place = cache_place(address) + if is_v4 { 0 } else { sources::SOURCE_CACHE_LEN };
    let cached = SOURCE_CACHE.mine(place)?;
    if field!(cached, epoch).get() != epoch || field!(cached, address).get() != address || epoch == 0 {
        let (word, rule) = if is_v4 { look4(slot, infos, a)? } else { look6(slot, infos, address)? };
        cached.set(CachedSource { address, word, rule, epoch });
    }
    let word = field!(cached, word).get();
    (word != 0).then(|| target(word, field!(cached, rule).get()))
}

/// The entry of the most specific source that holds an IPv4 address, as its word and its rule; 0 where there is none.
/// Nothing where it has gone each time that it was found.
#[inline(always)]
fn look4(slot: u32, infos: &TableInfos, address: u32) -> Option<(u64, u32)> {
    for _ in 0..SEARCHES {
        let mut place = if infos.v4.hosts == 0 { 0 } else { search4(slot, address, 32) as u32 };
        if place == 0 {
            place = prefix4(slot, address);
        }
        if place == 0 {
            return Some((0, 0));
        }
        let place = place - 1;
        let bucket = SOURCES4.get_value(slot, &(place / ENTRIES as u32))?;
        let at = place as usize % ENTRIES * WORDS4;
        // The word last: as long as it is there, so was what comes before it.
        let (first, word) = (read_once(&bucket[at]), read_once(&bucket[at + 1]));
        if is_there(word) {
            return Some((word, (first >> 32) as u32));
        }
    }
    None
}

/// The same for an IPv6 address.
#[inline(always)]
fn look6(slot: u32, infos: &TableInfos, [first, second]: [u64; 2]) -> Option<(u64, u32)> {
    for _ in 0..SEARCHES {
        let mut place = if infos.v6.hosts == 0 { 0 } else { search6(slot, first, second, 128) as u32 };
        if place == 0 {
            place = prefix6(slot, first, second);
        }
        if place == 0 {
            return Some((0, 0));
        }
        let place = place - 1;
        let bucket = SOURCES6.get_value(slot, &(place / ENTRIES as u32))?;
        let at = place as usize % ENTRIES * WORDS6;
        let (rule, word) = (read_once(&bucket[at + 3]), read_once(&bucket[at + 2]));
        if is_there(word) {
            return Some((word, rule as u32));
        }
    }
    None
}

/// Whether an entry is in force, and neither gone nor half written.
#[inline(always)]
fn is_there(word: u64) -> bool {
    word & KIND != 0 && word & KIND != u64::from(TARGET_GONE)
}

/// The place of the entry of the longest prefix that holds an IPv4 address and is longer than none, counted from 1; 0 where
/// there is none.
// Functions of their own are verified once, and not in each state of the packet around them.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn prefix4(slot: u32, address: u32) -> u32 {
    let Some(infos) = TABLE_INFO.get(slot) else { return 0 };
    let (mut low, mut high, mut best) = (0, infos.v4.count, 0);
    for _ in 0..STEPS {
        if low >= high {
            break;
        }
        let middle = (low + high) / 2;
        let length = u32::from(infos.v4.lengths[middle as usize % LENGTHS]);
        // By 64 bits, since length 0 shifts all of them out.
        let mask = ((u64::from(u32::MAX) << (32 - (length & 31))) as u32).to_be();
        let found = search4(slot, address & mask, length);
        if found == 0 {
            high = middle;
        } else {
            low = middle + 1;
            best = if found & LONGER != 0 { 0 } else { found as u32 };
        }
    }
    best
}

/// The same for an IPv6 address.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn prefix6(slot: u32, first: u64, second: u64) -> u32 {
    let Some(infos) = TABLE_INFO.get(slot) else { return 0 };
    let (mut low, mut high, mut best) = (0, infos.v6.count, 0);
    for _ in 0..STEPS {
        if low >= high {
            break;
        }
        let middle = (low + high) / 2;
        let length = u32::from(infos.v6.lengths[middle as usize % LENGTHS]);
        let mask = |length: u32| if length == 0 { 0 } else { (u64::MAX << (64 - length & 63)).to_be() };
        let masks = if length < 64 { [mask(length), 0] } else { [u64::MAX, mask(length - 64)] };
        let found = search6(slot, first & masks[0], second & masks[1], length);
        if found == 0 {
            high = middle;
        } else {
            low = middle + 1;
            best = if found & LONGER != 0 { 0 } else { found as u32 };
        }
    }
    best
}

/// Bit of what a search gives: a marker is there, and no rule speaks about all of its prefix.
const LONGER: u64 = 1 << 32;

/// The place of the entry of exactly this IPv4 prefix, counted from 1, and [`LONGER`]; 0 where there is none.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn search4(slot: u32, address: u32, len: u32) -> u64 {
    let Some(infos) = TABLE_INFO.get(slot) else { return 0 };
    let Some(table) = SOURCES4.get(slot) else { return 0 };
    let hash = hash4(address, len, infos.v4.seed);
    for probe in 0..PROBES {
        let number = hash.wrapping_add(probe) & infos.v4.mask;
        let Some(bucket) = table.get(number) else { return 0 };
        for entry in 0..ENTRIES {
            if read_once(&bucket[entry * WORDS4]) as u32 == address {
                let word = read_once(&bucket[entry * WORDS4 + 1]);
                if length(word) == u64::from(len) && word & KIND != 0 {
                    return found(number, entry, word);
                }
            }
        }
        if read_once(&bucket[ENTRIES * WORDS4 - 1]) == 0 {
            break;
        }
    }
    0
}

/// The same of an IPv6 prefix.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn search6(slot: u32, first: u64, second: u64, len: u32) -> u64 {
    let Some(infos) = TABLE_INFO.get(slot) else { return 0 };
    let Some(table) = SOURCES6.get(slot) else { return 0 };
    let hash = hash6([first, second], len, infos.v6.seed);
    for probe in 0..PROBES {
        let number = hash.wrapping_add(probe) & infos.v6.mask;
        let Some(bucket) = table.get(number) else { return 0 };
        for entry in 0..ENTRIES {
            let at = entry * WORDS6;
            if read_once(&bucket[at]) == first && read_once(&bucket[at + 1]) == second {
                let word = read_once(&bucket[at + 2]);
                if length(word) == u64::from(len) && word & KIND != 0 {
                    return found(number, entry, word);
                }
            }
        }
        if read_once(&bucket[ENTRIES * WORDS6 - 2]) == 0 {
            break;
        }
    }
    0
}

/// What a search gives for an entry.
#[inline(always)]
fn found(bucket: u32, entry: usize, word: u64) -> u64 {
    let longer = if word & KIND == u64::from(TARGET_LONGER) { LONGER } else { 0 };
    longer | u64::from(bucket * ENTRIES as u32 + entry as u32 + 1)
}

/// Two words of a packet as one of a table.
#[inline(always)]
fn word(first: u32, second: u32) -> u64 {
    u64::from(first) | u64::from(second) << 32
}
