//! The source tables (`SOURCES4`, `SOURCES6`): how the programs find the [`Target`] of a packet's source.
//!
//! A table is a hash table of one family's prefixes, in a plain array that userspace writes in place. Its entries are in
//! buckets of [`ENTRIES`]. A prefix is in the bucket of its hash or in one of the next [`PROBES`] - 1. A search goes on to
//! the next bucket only if the last entry of this one is or was in use.
//!
//! One search finds a single address. A binary search over the lengths in use finds shorter prefixes (Waldvogel et al.,
//! "Scalable High Speed IP Routing Lookups", SIGCOMM 1997): on the way to each prefix, markers at shorter lengths say that
//! there is something longer. So the cost of a packet grows with the logarithm of the number of lengths, and not with the
//! number of rules.
//!
//! Programs read while userspace writes. An entry is in force from the instant when its [`word`](Entry::word) is written
//! until the instant when that becomes 0 or [`TARGET_GONE`](crate::TARGET_GONE). A free entry has an address that no packet
//! comes from ([`FREE`]), so that no program mistakes half of one entry for half of another.
//!
//! Each CPU keeps the result of a search for the next packet from the same source ([`CachedSource`]) until the tables change:
//! each change begins a new epoch.

use crate::{ON_DOWN_DROP, Target};

/// Entries of a bucket.
pub const ENTRIES: usize = 4;
/// How many buckets a prefix may be in.
pub const PROBES: u32 = 8;
/// How many lengths there are for a prefix that is not a single address: 0 to 127.
pub const LENGTHS: usize = 128;
/// 64-bit words of an IPv4 entry: address and rule, then the metadata. The address is in the first half of the first word.
pub const WORDS4: usize = 2;
/// 64-bit words of an IPv6 entry: both halves of the address, then the metadata, then the rule.
pub const WORDS6: usize = 4;
/// Every bit of the address of a free entry.
pub const FREE: u64 = u64::MAX;
/// How many sources of each family a CPU keeps in `SOURCE_CACHE`; a power of two.
pub const SOURCE_CACHE_LEN: u32 = 256;

/// Bits of the first byte of [`Entry::word`]: the target's kind.
pub const KIND: u64 = 0x0F;
/// The target's `on_down` is [`ON_DOWN_DROP`].
pub const DROP: u64 = 0x10;
/// A rule has exactly this prefix. Without this bit the entry is a marker, with the target of the longest prefix around it.
pub const OWN: u64 = 0x20;

/// An entry without its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// What becomes of a packet from there.
    pub target: Target,
    /// The prefix's length in bits.
    pub length: u8,
    /// Whether the entry has [`OWN`].
    pub is_own: bool,
}

impl Entry {
    /// Returns all except address and rule in one word: kind and flags (8 bits), length (8), MSS (16) and index (32), from
    /// the lowest bit on.
    #[inline(always)]
    pub const fn word(&self) -> u64 {
        let Target { kind, on_down, mss, index, .. } = self.target;
        let drop = if on_down == ON_DOWN_DROP { DROP } else { 0 };
        let own = if self.is_own { OWN } else { 0 };
        (kind as u64 & KIND)
            | drop
            | own
            | (self.length as u64) << 8
            | (mss as u64) << 16
            | (index as u64) << 32
    }

    /// Reads what [`Entry::word`] returned, together with the rule's identity.
    #[inline(always)]
    pub const fn read(word: u64, rule: u32) -> Self {
        Self { target: target(word, rule), length: (word >> 8) as u8, is_own: word & OWN != 0 }
    }
}

/// Returns the target of an entry.
#[inline(always)]
pub const fn target(word: u64, rule: u32) -> Target {
    Target {
        rule,
        kind: (word & KIND) as u8,
        on_down: (word >> 4) as u8 & ON_DOWN_DROP,
        mss: (word >> 16) as u16,
        index: (word >> 32) as u32,
    }
}

/// Returns the part of a [`word`](Entry::word) that identifies the prefix: its length.
#[inline(always)]
pub const fn length(word: u64) -> u64 {
    word >> 8 & 0xFF
}

/// Value of the array `TABLE_INFO`, by the last bit of the generation: how to search its tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct TableInfos {
    /// For `SOURCES4`.
    pub v4: TableInfo,
    /// For `SOURCES6`.
    pub v6: TableInfo,
    /// Identifies the state of both tables: no other state has had the same number. 0 during a change.
    pub epoch: u32,
    /// The last epoch so far. Only the one in the first entry of the array counts. It wraps after four billion changes.
    pub last_epoch: u32,
}

impl TableInfos {
    /// For empty tables.
    pub const EMPTY: Self = Self { v4: TableInfo::EMPTY, v6: TableInfo::EMPTY, epoch: 0, last_epoch: 0 };
}

/// Value of the per-CPU array `SOURCE_CACHE`: the result of a search for a source. The first [`SOURCE_CACHE_LEN`] places are
/// for IPv4 addresses, the others for IPv6 addresses, each in the place that [`cache_place`] returns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CachedSource {
    /// The address in network byte order. IPv4 is in the first half of the first word.
    pub address: [u64; 2],
    /// [`Entry::word`] of its entry, or 0 if it has none.
    pub word: u64,
    /// The rule's identity.
    pub rule: u32,
    /// The epoch of the search. 0 if there was none.
    pub epoch: u32,
}

/// Returns the place of a source in `SOURCE_CACHE`, among those of its family.
#[inline(always)]
pub const fn cache_place(address: [u64; 2]) -> u32 {
    (mix64(address[0] ^ address[1]) >> 32) as u32 & (SOURCE_CACHE_LEN - 1)
}

/// How to search one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct TableInfo {
    /// The start value of the hashes.
    pub seed: u64,
    /// How many buckets there are, minus one. Their number is a power of two.
    pub mask: u32,
    /// How many entries are not free.
    pub used: u32,
    /// Not 0 if there are single addresses.
    pub hosts: u32,
    /// How many of `lengths` are in use.
    pub count: u32,
    /// The lengths of the other prefixes, in ascending order.
    pub lengths: [u8; LENGTHS],
}

impl TableInfo {
    /// For an empty table.
    pub const EMPTY: Self = Self { seed: 0, mask: 0, used: 0, hosts: 0, count: 0, lengths: [0; LENGTHS] };
}

/// Returns the hash of an IPv4 prefix. Masked by [`TableInfo::mask`], it is the number of its first bucket. The address is in
/// network byte order.
#[inline(always)]
pub const fn hash4(address: u32, length: u32, seed: u64) -> u32 {
    (mix64(mix64(seed ^ address as u64) ^ length as u64) >> 32) as u32
}

/// Returns the same of an IPv6 prefix, whose address is two words in network byte order.
#[inline(always)]
pub const fn hash6(address: [u64; 2], length: u32, seed: u64) -> u32 {
    (mix64(mix64(mix64(seed ^ address[0]) ^ address[1]) ^ length as u64) >> 32) as u32
}

/// Does one round of a hash: an odd multiplier (2^64 divided by the golden ratio) carries every bit upwards, and the shift
/// carries it down again.
#[inline(always)]
pub const fn mix64(word: u64) -> u64 {
    let word = word.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    word ^ word >> 32
}

// Free of padding: the sizes are the sums of the fields.
const _: () = {
    assert!(size_of::<TableInfo>() == 8 + 4 * 4 + LENGTHS);
    assert!(size_of::<TableInfos>() == 2 * size_of::<TableInfo>() + 2 * 4);
    assert!(size_of::<CachedSource>() == 3 * 8 + 2 * 4);
};
