//! What the programs count: for each rule, next hop and attachment.

use crate::CHUNK_DOUBLINGS;

/// Packets and their bytes.
///
/// A packet with segmentation offload counts as its segments. Its bytes are those of the packet as it is, with one link-layer
/// header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What a rule did on one CPU, in `COUNTERS`.
///
/// A packet is counted when it departs from an attachment and again when it arrives at the egress of the next
/// hop's device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counters {
    /// Packets that matched the rule: redirected to a next hop, left to normal routing by `pass`, or dropped by `drop`.
    pub matched: Count,
    /// Redirected packets that reached the egress of the next hop's device.
    pub arrived: Count,
}

/// Value of the per-CPU maps in `EXCEPTIONS`, keyed by a rule's identity. A program adds the entry when there is something to
/// count.
///
/// A rule's entry is in the map [`exception_map`], which has room for as many as the chunk with that number has rules. The
/// map is created with that chunk. So the maps take no more memory than the rules need.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ExceptionCounters {
    /// Packets that found no live next hop, and were passed or dropped for that reason.
    pub no_next_hop: Count,
    /// Departed packets whose MSS option was clamped.
    pub clamped: Count,
    /// Packets that were too big for their next hop, and were answered with an ICMP error.
    pub icmp_sent: Count,
    /// Packets that were too big for their next hop, and were dropped without an answer.
    pub too_big_dropped: Count,
}

/// How many maps of exception counters there may be: one for each chunk that is smaller than the largest, and one for all the
/// others.
pub const EXCEPTION_MAPS: u32 = CHUNK_DOUBLINGS + 1;

/// Returns the number of the map that a rule's exception counters are in.
#[inline(always)]
pub const fn exception_map(rule: u32) -> u32 {
    let chunk = rule >> 16;
    if chunk < CHUNK_DOUBLINGS { chunk } else { CHUNK_DOUBLINGS }
}

/// Value of the per-CPU array `NEXT_HOP_COUNTERS`, by slot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NextHopCounters {
    /// Packets that were redirected to it.
    pub departed: Count,
    /// Redirected packets that reached the egress of its device.
    pub arrived: Count,
    /// Packets that should have gone to it, but did not because it was not live.
    pub failed_over: Count,
    /// Departed packets whose MSS option was clamped.
    pub clamped: Count,
    /// Packets that were too big for it, and were answered with an ICMP error.
    pub icmp_sent: Count,
    /// Packets that were too big for it, and were dropped without an answer.
    pub too_big_dropped: Count,
    /// Until when the allowance of ICMP errors is used up, in nanoseconds of the kernel's monotonic clock. Each error uses up
    /// [`ANSWER_INTERVAL`] more.
    pub answers_until: u64,
    /// Until when the next hop is proven alive on this CPU, in ticks of the kernel's clock (`jiffies`). [`OUTSTANDING`] is
    /// set while the last departed packet has not arrived.
    pub proven: u64,
}

/// Bit of [`NextHopCounters::proven`]. It is the sign bit, so that one comparison tells whether a next hop is alive.
pub const OUTSTANDING: u64 = 1 << 63;

/// How often a next hop has packets that are too big answered on one CPU: once in so many nanoseconds. This is the rate at
/// which the kernel sends ICMP errors (`icmp_msgs_per_sec`, icmp(7)).
pub const ANSWER_INTERVAL: u64 = 1_000_000;
/// How many answers may come at once (`icmp_msgs_burst`).
pub const ANSWER_BURST: u64 = 50;

/// Slots of [`AttachmentCounters`]: why a packet is left alone before any rule is looked up, or whether a rule matched.
pub mod class {
    /// Neither IPv4 nor IPv6.
    pub const NOT_IP: usize = 0;
    /// It does not parse.
    pub const MALFORMED: usize = 1;
    /// It has a VLAN tag beside the frame.
    pub const TAGGED: usize = 2;
    /// To a multicast destination, or a multicast Ethernet address.
    pub const MULTICAST: usize = 3;
    /// To the broadcast address, or a subnet's broadcast address.
    pub const BROADCAST: usize = 4;
    /// From or to a link-local address.
    pub const LINK_LOCAL: usize = 5;
    /// IPv6 neighbour discovery.
    pub const NEIGHBOUR_DISCOVERY: usize = 6;
    /// No rule matches.
    pub const NOT_MATCHED: usize = 7;
    /// A rule matches.
    pub const MATCHED: usize = 8;
    /// How many slots there are.
    pub const COUNT: usize = 9;
}

/// Value of the per-CPU array `ATTACHMENT_COUNTERS`: what left by an attachment, except for redirected packets that arrived
/// there.
///
/// An attachment uses one of the [`ATTACHMENT_PROBES`] places from the remainder of its ifindex on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct AttachmentCounters {
    /// By [`class`].
    pub of: [Count; class::COUNT],
    /// The attachment's ifindex. 0 if the place is free.
    pub ifindex: u64,
}

/// How many places an attachment's counters may be in.
pub const ATTACHMENT_PROBES: u32 = 8;

/// The counters that a program may be loaded without, a bit each.
pub mod counters {
    /// Those of attachments.
    pub const OF_ATTACHMENTS: u32 = 1;
    /// Those of rules.
    pub const OF_RULES: u32 = 2;
    /// Those of next hops.
    pub const OF_NEXT_HOPS: u32 = 4;
}

// Free of padding: the sizes are the sums of the fields.
const _: () = {
    assert!(size_of::<Counters>() == 2 * 16);
    assert!(size_of::<ExceptionCounters>() == 4 * 16);
    assert!(size_of::<NextHopCounters>() == 6 * 16 + 2 * 8);
    assert!(size_of::<AttachmentCounters>() == class::COUNT * 16 + 8);
};
