//! Groups of next hops, and what picks one of them: buckets, and the flows of fragments.

/// How many groups of next hops there may be.
pub const MAX_GROUPS: u32 = 1_024;
/// How many next hops a group may have.
pub const MAX_MEMBERS: usize = 32;
/// How many buckets a group has: a flow's hash picks a bucket, and the bucket names a member.
pub const BUCKETS: usize = 4_096;
/// The longest name of a group, in bytes.
pub const GROUP_NAME_LEN: usize = 32;

/// Key of `GROUPS`: a packet finds a group in its own generation, so groups change in the same instant as the rules.
///
/// Each group is there once per generation. The two are the same except during a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C)]
pub struct GroupKey {
    /// The group's identity.
    pub group: u32,
    /// The last bit of the generation.
    pub generation: u32,
}

/// Value of `GROUPS`. The programs read it. A writer replaces all of it in one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Group {
    /// The members' slots in `NEXT_HOPS`.
    pub members: [u32; MAX_MEMBERS],
    /// Their weights. 0 for a backup.
    pub weights: [u16; MAX_MEMBERS],
    /// How many there are.
    pub count: u32,
    /// [`ON_DOWN_PASS`](crate::ON_DOWN_PASS) or [`ON_DOWN_DROP`](crate::ON_DOWN_DROP).
    pub on_down: u8,
    /// The owner: [`OWNER_CLI`](crate::OWNER_CLI) or any other number.
    pub owner: u8,
    /// How many of the members are backups, the last ones: while no other member is in service, the first of them that is gets
    /// all flows.
    pub backups: u16,
    /// The name, padded with zeros. All zeros if the group belongs to a single rule.
    pub name: [u8; GROUP_NAME_LEN],
    /// Which member gets the flows of each bucket, as an index into `members`. No backup is among them.
    pub buckets: [u8; BUCKETS],
}

/// How many fragmented packets may leave at the same time.
pub const MAX_FRAGMENTED: u32 = 4_096;

/// Value of the map in `FRAGMENTED`, keyed by addresses, identification and protocol: the flow of a fragmented packet. Only
/// its first fragment has the ports. The map is created with the first group, because only groups tell flows apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Fragments {
    /// When it was written, in nanoseconds of the kernel's monotonic clock.
    pub written: u64,
    /// The flow's hash.
    pub hash: u32,
    /// Not 0 if the first fragment has written it.
    pub by_first: u32,
}

// Free of padding: the sizes are the sums of the fields.
const _: () = {
    assert!(size_of::<Group>() == MAX_MEMBERS * (4 + 2) + 4 + 4 + GROUP_NAME_LEN + BUCKETS);
    assert!(size_of::<GroupKey>() == 2 * 4);
    assert!(size_of::<Fragments>() == 8 + 4 + 4);
};
