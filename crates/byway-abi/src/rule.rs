//! The records of rules, and of sets of destinations.

/// How many rules there may be.
pub const MAX_RULES: u32 = 1_048_576;
/// How many destinations the rules may have, summed over their sources. A source also inherits those of the less specific
/// sources around it, and they count.
pub const MAX_DESTINATIONS: u32 = 131_072;

/// How many rules the first chunk has room for.
///
/// The records and counters of rules are in chunks: the maps `rules/N` and `counters/N`, of which the latter is in slot N of
/// `COUNTERS`. Each chunk has twice the room of the one before, up to the largest. The upper half of a rule's identity is the
/// chunk, and the lower half is the place in it. The counters of a chunk are one row per CPU, one after the other, so that no
/// two CPUs write the same cache line.
pub const CHUNK_MIN: u32 = 1_024;
/// How many chunks are twice as large as the one before. Those after them have the same size.
pub const CHUNK_DOUBLINGS: u32 = 6;
/// How many chunks there may be: enough for [`MAX_RULES`] twice, because a rule and its replacement exist side by side for a
/// while, and for places that stay free.
pub const MAX_CHUNKS: u32 = 44;

/// Returns how many rules a chunk has room for.
#[inline(always)]
pub const fn chunk_len(chunk: u32) -> u32 {
    CHUNK_MIN << if chunk < CHUNK_DOUBLINGS { chunk } else { CHUNK_DOUBLINGS }
}

/// The longest name of a rule, in bytes.
pub const RULE_NAME_LEN: usize = 32;

/// [`RuleRecord::owner`] of a rule from the command line.
pub const OWNER_CLI: u8 = 1;
/// [`RuleRecord::owner`] of a rule from another program that uses the library.
pub const OWNER_API: u8 = 2;
/// [`RuleRecord::owner`] of a rule from the configuration.
pub const OWNER_CONFIG: u8 = 3;
/// [`RuleRecord::owner`] of a rule from a Kubernetes cluster. 5 to 15 are for later owners, 16 to 254 for other programs. 0
/// and 255 are reserved.
pub const OWNER_KUBERNETES: u8 = 4;

/// The record of a rule, in the chunk of its identity: what a listing shows. No program reads it.
///
/// A record counts only if the tables lead from its source and destination to its identity. Otherwise it is a leftover of an
/// interrupted change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct RuleRecord {
    /// The source prefix's address in network byte order. IPv4 is in the first four bytes.
    pub source: [u8; 16],
    /// The destination prefix's address in the same form and of the same family.
    pub destination: [u8; 16],
    /// The family of both: [`FAMILY_IPV4`](crate::FAMILY_IPV4) or [`FAMILY_IPV6`](crate::FAMILY_IPV6), or 0 if no rule has
    /// this identity. Written last.
    pub family: u32,
    /// A next hop's slot or a group's identity.
    pub index: u32,
    /// The source prefix's length in bits.
    pub source_len: u8,
    /// The destination prefix's length in bits; 0 for a rule without a destination.
    pub destination_len: u8,
    /// [`OWNER_CLI`] or any other number.
    pub owner: u8,
    /// [`Target::kind`](crate::Target::kind).
    pub kind: u8,
    /// [`Target::on_down`](crate::Target::on_down).
    pub on_down: u8,
    /// The set of devices that the requests of a reply have to come in by, or 0.
    pub devices: u8,
    /// [`Target::mss`](crate::Target::mss).
    pub mss: u16,
    /// The rule's name, padded with zeros. All zeros if it has none.
    pub name: [u8; RULE_NAME_LEN],
}

/// How many sets of destinations `SETS` has room for at first. Userspace replaces it by a larger one when it is full, up to
/// [`MAX_SETS`].
pub const MIN_SETS: u32 = 256;
/// How many sets of destinations there may be. A set has a destination at least, and one that replaces another is there
/// beside it for a while.
pub const MAX_SETS: u32 = 2 * MAX_DESTINATIONS;

/// Value of `SETS`, keyed by a set's identity: the source whose destinations are in the set. It is how Byway finds the sets
/// that an interrupted change has left. No program reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct SetRecord {
    /// The source prefix's address in network byte order. IPv4 is in the first four bytes.
    pub source: [u8; 16],
    /// The source's family: [`FAMILY_IPV4`](crate::FAMILY_IPV4) or [`FAMILY_IPV6`](crate::FAMILY_IPV6).
    pub family: u32,
    /// The source prefix's length in bits.
    pub source_len: u32,
}

// Free of padding: the sizes are the sums of the fields.
const _: () = {
    assert!(size_of::<RuleRecord>() == 2 * 16 + 2 * 4 + 8 + RULE_NAME_LEN);
    // Words of 64 bits, in which userspace writes it.
    assert!(size_of::<RuleRecord>() == 10 * size_of::<u64>());
    assert!(size_of::<SetRecord>() == 16 + 4 + 4);
};
