//! From a packet's source to its target: the search through the [source tables](byway_abi::sources).

use aya_ebpf::btf_maps::{Array, ArrayOfMaps};
use byway_abi::{
    FAMILY_IPV4, TARGET_GONE, TARGET_LONGER, Target,
    sources::{
        self, CachedSource, ENTRIES, KIND, LENGTHS, PROBES, TableInfo, TableInfos, WORDS4, WORDS6,
        cache_place, hash4, hash6, length, target,
    },
};

use crate::{
    maps::{Bucket4, Bucket6, INNER, SOURCE_CACHE, SOURCES4, SOURCES6, TABLE_INFO},
    packet::Packet,
    rows::{PerCpu, field, read_once},
};

/// How many steps a binary search over [`LENGTHS`] needs at most.
const STEPS: usize = 8;

/// How many times to search, because the entry that a search has found may be gone by the time it is read. If it was replaced,
/// the next search finds the new one: userspace writes that before it removes the old one.
const SEARCHES: usize = 3;

/// Finds the target of the longest prefix that contains the packet's source. `generation` is the last bit of its number.
#[inline(always)]
pub fn find(packet: &Packet, generation: u32) -> Option<Target> {
    let infos = TABLE_INFO.get(generation)?;
    // Read before the search. If the tables change during it, the cached result has an epoch that is over.
    let epoch = read_once(&infos.epoch);
    let is_v4 = packet.family == FAMILY_IPV4;
    let [a, b, c, d] = packet.source;
    let address = if is_v4 { [u64::from(a), 0] } else { [word(a, b), word(c, d)] };
    let place = cache_place(address) + if is_v4 { 0 } else { sources::SOURCE_CACHE_LEN };
    let cached = SOURCE_CACHE.mine(place)?;
    if field!(cached, epoch).get() != epoch || field!(cached, address).get() != address || epoch == 0 {
        let (word, rule) =
            if is_v4 { look::<V4>(generation, infos, a)? } else { look::<V6>(generation, infos, address)? };
        cached.set(CachedSource { address, word, rule, epoch });
    }
    let word = field!(cached, word).get();
    (word != 0).then(|| target(word, field!(cached, rule).get()))
}

/// What the search needs to know about a family. Its entries consist of words ([`WORDS4`], [`WORDS6`]).
trait Family {
    type Address: Copy;
    type Bucket: AsRef<[u64]> + 'static;

    /// How many words an entry has.
    const WORDS: usize;
    /// Which of them is the word of metadata.
    const META: usize;
    /// How many bits an address has.
    const BITS: u32;

    fn tables() -> &'static ArrayOfMaps<Array<Self::Bucket, 1, INNER>, 2>;
    fn info(infos: &TableInfos) -> &TableInfo;
    fn hash(address: Self::Address, length: u32, seed: u64) -> u32;
    /// Returns the first `length` bits of an address, and zeros after them. `length` is less than [`Family::BITS`].
    fn cut(address: Self::Address, length: u32) -> Self::Address;
    /// Returns whether an entry has this address.
    fn is_of(entry: &[u64], address: Self::Address) -> bool;
    /// Returns the rule of an entry.
    fn rule(entry: &[u64]) -> u32;
    /// Calls [`search`] as a global function, as the next one calls [`longest`]:
    /// the verifier checks each of them once, and not in each state of its callers.
    fn search(generation: u32, address: Self::Address, length: u32) -> u64;
    fn longest(generation: u32, address: Self::Address) -> u32;
}

struct V4;

impl Family for V4 {
    type Address = u32;
    type Bucket = Bucket4;

    const WORDS: usize = WORDS4;
    const META: usize = 1;
    const BITS: u32 = 32;

    #[inline(always)]
    fn tables() -> &'static ArrayOfMaps<Array<Bucket4, 1, INNER>, 2> {
        &SOURCES4
    }

    #[inline(always)]
    fn info(infos: &TableInfos) -> &TableInfo {
        &infos.v4
    }

    #[inline(always)]
    fn hash(address: u32, length: u32, seed: u64) -> u32 {
        hash4(address, length, seed)
    }

    #[inline(always)]
    fn cut(address: u32, length: u32) -> u32 {
        // In 64 bits, because length 0 shifts by 32.
        address & ((u64::from(u32::MAX) << (32 - (length & 31))) as u32).to_be()
    }

    #[inline(always)]
    fn is_of(entry: &[u64], address: u32) -> bool {
        read_once(&entry[0]) as u32 == address
    }

    #[inline(always)]
    fn rule(entry: &[u64]) -> u32 {
        (read_once(&entry[0]) >> 32) as u32
    }

    #[inline(always)]
    fn search(generation: u32, address: u32, length: u32) -> u64 {
        search4(generation, address, length)
    }

    #[inline(always)]
    fn longest(generation: u32, address: u32) -> u32 {
        longest4(generation, address)
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn search4(generation: u32, address: u32, length: u32) -> u64 {
    search::<V4>(generation, address, length)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn longest4(generation: u32, address: u32) -> u32 {
    longest::<V4>(generation, address)
}

struct V6;

impl Family for V6 {
    type Address = [u64; 2];
    type Bucket = Bucket6;

    const WORDS: usize = WORDS6;
    const META: usize = 2;
    const BITS: u32 = 128;

    #[inline(always)]
    fn tables() -> &'static ArrayOfMaps<Array<Bucket6, 1, INNER>, 2> {
        &SOURCES6
    }

    #[inline(always)]
    fn info(infos: &TableInfos) -> &TableInfo {
        &infos.v6
    }

    #[inline(always)]
    fn hash(address: [u64; 2], length: u32, seed: u64) -> u32 {
        hash6(address, length, seed)
    }

    #[inline(always)]
    fn cut([first, second]: [u64; 2], length: u32) -> [u64; 2] {
        let mask = |length: u32| if length == 0 { 0 } else { (u64::MAX << (64 - length & 63)).to_be() };
        let masks = if length < 64 { [mask(length), 0] } else { [u64::MAX, mask(length - 64)] };
        [first & masks[0], second & masks[1]]
    }

    #[inline(always)]
    fn is_of(entry: &[u64], [first, second]: [u64; 2]) -> bool {
        read_once(&entry[0]) == first && read_once(&entry[1]) == second
    }

    #[inline(always)]
    fn rule(entry: &[u64]) -> u32 {
        read_once(&entry[3]) as u32
    }

    #[inline(always)]
    fn search(generation: u32, [first, second]: [u64; 2], length: u32) -> u64 {
        search6(generation, first, second, length)
    }

    #[inline(always)]
    fn longest(generation: u32, [first, second]: [u64; 2]) -> u32 {
        longest6(generation, first, second)
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn search6(generation: u32, first: u64, second: u64, length: u32) -> u64 {
    search::<V6>(generation, [first, second], length)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn longest6(generation: u32, first: u64, second: u64) -> u32 {
    longest::<V6>(generation, [first, second])
}

/// Finds the entry of the longest prefix that contains an address. Returns its word and its rule, which are 0 if there is none.
/// Returns `None` if each search found an entry that was gone when it was read.
#[inline(always)]
fn look<F: Family>(generation: u32, infos: &TableInfos, address: F::Address) -> Option<(u64, u32)> {
    for _ in 0..SEARCHES {
        let mut place =
            if F::info(infos).hosts == 0 { 0 } else { F::search(generation, address, F::BITS) as u32 };
        if place == 0 {
            place = F::longest(generation, address);
        }
        if place == 0 {
            return Some((0, 0));
        }
        let place = place - 1;
        let bucket = F::tables().get_value(generation, &(place / ENTRIES as u32))?;
        let entry = &bucket.as_ref()[place as usize % ENTRIES * F::WORDS..][..F::WORDS];
        // The word is read last. If it is in force, so was the rule that was read before it.
        let (rule, word) = (F::rule(entry), read_once(&entry[F::META]));
        if is_there(word) {
            return Some((word, rule));
        }
    }
    None
}

/// Returns whether an entry is in force: neither gone nor half written.
#[inline(always)]
fn is_there(word: u64) -> bool {
    word & KIND != 0 && word & KIND != u64::from(TARGET_GONE)
}

/// Finds the entry of the longest prefix that contains an address, apart from the address itself. Returns its place, counted
/// from 1, or 0 if there is none.
#[inline(always)]
fn longest<F: Family>(generation: u32, address: F::Address) -> u32 {
    let Some(infos) = TABLE_INFO.get(generation) else { return 0 };
    let (mut low, mut high, mut best) = (0, F::info(infos).count, 0);
    for _ in 0..STEPS {
        if low >= high {
            break;
        }
        let middle = (low + high) / 2;
        let length = u32::from(F::info(infos).lengths[middle as usize % LENGTHS]);
        let found = F::search(generation, F::cut(address, length), length);
        if found == 0 {
            high = middle;
        } else {
            low = middle + 1;
            best = if found & LONGER != 0 { 0 } else { found as u32 };
        }
    }
    best
}

/// Bit of what [`search`] returns: the entry is a marker, and no rule's prefix contains the marker's.
const LONGER: u64 = 1 << 32;

/// Finds the entry of exactly this prefix. Returns its place, counted from 1, with the bit [`LONGER`], or 0 if there is none.
#[inline(always)]
fn search<F: Family>(generation: u32, address: F::Address, len: u32) -> u64 {
    let Some(infos) = TABLE_INFO.get(generation) else { return 0 };
    let Some(table) = F::tables().get(generation) else { return 0 };
    let hash = F::hash(address, len, F::info(infos).seed);
    for step in 0..PROBES {
        let number = hash.wrapping_add(step) & F::info(infos).mask;
        let Some(bucket) = table.get(number) else { return 0 };
        let words = bucket.as_ref();
        for nth in 0..ENTRIES {
            let entry = &words[nth * F::WORDS..][..F::WORDS];
            if F::is_of(entry, address) {
                let word = read_once(&entry[F::META]);
                if length(word) == u64::from(len) && word & KIND != 0 {
                    return found(number, nth, word);
                }
            }
        }
        if read_once(&words[(ENTRIES - 1) * F::WORDS + F::META]) == 0 {
            break;
        }
    }
    0
}

/// Returns what [`search`] returns for an entry.
#[inline(always)]
fn found(bucket: u32, entry: usize, word: u64) -> u64 {
    let longer = if word & KIND == u64::from(TARGET_LONGER) { LONGER } else { 0 };
    longer | u64::from(bucket * ENTRIES as u32 + entry as u32 + 1)
}

/// Returns two words of a packet as one word of a table.
#[inline(always)]
fn word(first: u32, second: u32) -> u64 {
    u64::from(first) | u64::from(second) << 32
}
