//! The source tables (`SOURCES4`, `SOURCES6`): how a packet's source finds its [`Target`].
//!
//! A table is a hash table of one family's prefixes, in a plain array that userspace writes in place. Its entries are
//! in buckets of [`ENTRIES`]. A prefix is in the bucket that its hash names or in one of the next [`PROBES`] - 1; a search
//! goes on to the next bucket only where the last entry of this one is or was in use.
//!
//! Single addresses are found by one search. Shorter prefixes are found by a binary search over the lengths that there
//! are (Waldvogel et al., "Scalable High Speed IP Routing Lookups", SIGCOMM 1997): on the way to each prefix, markers
//! say at the lengths before its own that there is something longer. So the cost of a packet grows with the logarithm of
//! the number of lengths, and not with the number of rules.
//!
//! Programs read while userspace writes. An entry is in force from the instant at which its [`word`](Entry::word) is
//! written, and goes in the instant at which that becomes 0 or [`TARGET_GONE`](crate::TARGET_GONE). A free entry has an
//! address that no packet comes from ([`FREE`]), so that no half of one entry is taken for half of another.
//!
//! What a search has found is kept for the next packet from the same source ([`CachedSource`]), as long as nothing changes in the
//! tables: each change begins an epoch.

use crate::{ON_DOWN_DROP, Target};

/// Entries of a bucket.
pub const ENTRIES: usize = 4;
/// How many buckets a prefix may be in.
pub const PROBES: u32 = 8;
/// How many lengths a prefix may have that is no single address: 0 to 127.
pub const LENGTHS: usize = 128;
/// 64-bit words of an IPv4 entry: address and rule; the word of metadata. In the first half of the first word is the address.
pub const WORDS4: usize = 2;
/// 64-bit words of an IPv6 entry: both halves of the address; the word of metadata; rule.
pub const WORDS6: usize = 4;
/// Every bit of the address of a free entry.
pub const FREE: u64 = u64::MAX;
/// How many sources of each family a CPU keeps in `SOURCE_CACHE`; a power of two.
pub const SOURCE_CACHE_LEN: u32 = 256;

/// Bits of the first byte of [`Entry::word`]: the target's kind.
pub const KIND: u64 = 0x0F;
/// The target's `on_down` is [`ON_DOWN_DROP`].
pub const DROP: u64 = 0x10;
/// A rule speaks about exactly this prefix. Without it the entry is a marker, and has the target of the longest prefix
/// around it.
pub const OWN: u64 = 0x20;

/// An entry but for its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// What becomes of a packet from there.
    pub target: Target,
    /// The prefix's length in bits.
    pub length: u8,
    /// [`OWN`]
    pub is_own: bool,
}

impl Entry {
    /// All but address and rule, in one word: kind and flags (8 bits), length (8), MSS (16) and index (32), from the lowest
    /// bit on.
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

    /// What [`Entry::word`] has made, and the rule's identity.
    #[inline(always)]
    pub const fn read(word: u64, rule: u32) -> Self {
        Self { target: target(word, rule), length: (word >> 8) as u8, is_own: word & OWN != 0 }
    }
}

/// The target of an entry.
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

/// What of a [`word`](Entry::word) says which prefix it is for.
#[inline(always)]
pub const fn length(word: u64) -> u64 {
    word >> 8 & 0xFF
}

/// Value of the array `TABLE_INFO`, by the last bit of the generation: how its tables are searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct TableInfos {
    /// Of `SOURCES4`.
    pub v4: TableInfo,
    /// Of `SOURCES6`.
    pub v6: TableInfo,
    /// Since when nothing has changed in both tables: a number that no other state of any tables has had. 0 while something
    /// is changing.
    pub epoch: u32,
    /// The last epoch that there was, in the first entry of the array. It comes round after four billion changes.
    pub last_epoch: u32,
}

impl TableInfos {
    /// Of tables that have nothing.
    pub const EMPTY: Self = Self { v4: TableInfo::EMPTY, v6: TableInfo::EMPTY, epoch: 0, last_epoch: 0 };
}

/// Value of the per-CPU array `SOURCE_CACHE`: what a search has found for a source. In the first [`SOURCE_CACHE_LEN`] places are IPv4
/// addresses, in the others IPv6 addresses, each in the place that [`cache_place`] names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CachedSource {
    /// The address in network byte order: of IPv4 the first half of the first word.
    pub address: [u64; 2],
    /// [`Entry::word`] of its entry, 0 where it has none.
    pub word: u64,
    /// The rule's identity.
    pub rule: u32,
    /// The epoch in which that was so. 0 is none.
    pub epoch: u32,
}

/// The place of a source in `SOURCE_CACHE`, among those of its family.
#[inline(always)]
pub const fn cache_place(address: [u64; 2]) -> u32 {
    (mix64(address[0] ^ address[1]) >> 32) as u32 & (SOURCE_CACHE_LEN - 1)
}

/// How one table is searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct TableInfo {
    /// What the hashes begin with.
    pub seed: u64,
    /// How many buckets there are, less one; they are a power of two.
    pub mask: u32,
    /// How many entries are not free.
    pub used: u32,
    /// Not 0 where there are single addresses.
    pub hosts: u32,
    /// How many of `lengths` there are.
    pub count: u32,
    /// The lengths of the other prefixes, in ascending order.
    pub lengths: [u8; LENGTHS],
}

impl TableInfo {
    /// Of a table that has nothing.
    pub const EMPTY: Self = Self { seed: 0, mask: 0, used: 0, hosts: 0, count: 0, lengths: [0; LENGTHS] };
}

/// The number of an IPv4 prefix's first bucket, before it is cut to what there is. The address is in network byte order.
#[inline(always)]
pub const fn hash4(address: u32, length: u32, seed: u64) -> u32 {
    (mix64(mix64(seed ^ address as u64) ^ length as u64) >> 32) as u32
}

/// The same of an IPv6 prefix, whose address comes as two words in network byte order.
#[inline(always)]
pub const fn hash6(address: [u64; 2], length: u32, seed: u64) -> u32 {
    (mix64(mix64(mix64(seed ^ address[0]) ^ address[1]) ^ length as u64) >> 32) as u32
}

/// One round of a hash: an odd multiplier (2^64 divided by the golden ratio) carries every bit upwards, the shift down again.
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
