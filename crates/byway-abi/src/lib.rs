//! What crosses the kernel boundary between byway and its eBPF programs, and nothing else.
//!
//! Every type here is the key or the value of a pinned map. They are `#[repr(C)]` without padding, so that the
//! bytes that userspace writes are the bytes that a program reads. Addresses are in network byte order, numbers
//! in the host's. A change of any of them is a new [`SCHEMA`].

#![no_std]

pub mod sources;

/// The version of the pinned layout: of the maps' names, keys and values. Kept in [`META`](meta).
pub const SCHEMA: u32 = 10;

/// How many rules there may be.
pub const MAX_RULES: u32 = 1_048_576;

/// How many destinations the rules may tell apart, summed over their sources, those included that a source has from
/// the less specific ones around it.
pub const MAX_DESTINATIONS: u32 = 131_072;

/// How many next hops there may be, slots of [`NextHop`]. Slot 0 stays empty.
pub const MAX_NEXT_HOPS: u32 = 1_024;

/// How many groups of next hops there may be.
pub const MAX_GROUPS: u32 = 1_024;

/// How many next hops a group may have.
pub const MAX_MEMBERS: usize = 32;

/// How many devices may carry programs.
pub const MAX_DEVICES: u32 = 1_024;
/// How many programs there may be on them: one a device and direction.
pub const MAX_PROGRAMS: u32 = 2 * MAX_DEVICES;

/// The value of `skb->tc_index` between the departure of a packet and its arrival, up to [`SCHEMA`] 7. Programs believe it
/// only while they take over from those of that schema ([`TAKING_OVER_FROM_7`]).
pub const MARK_OF_7: u32 = 0xB1A7;

/// What travels with a redirected packet, in the five words of `skb->cb`.
///
/// That field survives `bpf_redirect_neigh`, `bpf_clone_redirect` and the neighbour's queue. It survives a veth, too, so that a
/// sender in a container may have written it. The mark is therefore a secret of this network namespace: whatever does not carry
/// it has not departed from here.
pub mod mark {
    /// The rule's identity; of a probe, its number ([`Probe::number`](super::Probe::number)).
    pub const RULE: usize = 0;
    /// A hash of the Ethernet addresses that the packet departed with; where it had none, its length in bytes.
    pub const HEADER: usize = 1;
    /// The lower half of the secret (map `SECRET`).
    pub const SECRET_LOW: usize = 2;
    /// The upper half.
    pub const SECRET_HIGH: usize = 3;
    /// The next hop's slot in the lower bits, and the flags below.
    pub const SLOT: usize = 4;

    /// The packet has been redirected a second time.
    pub const AGAIN: u32 = 1 << 31;
    /// The packet departed from a device without an Ethernet header.
    pub const L3: u32 = 1 << 30;
    /// A copy of a packet, on its way out of the attachment for the second time, to be handed to the next hop.
    pub const COPY: u32 = 1 << 29;
    /// The same copy, handed to the next hop.
    pub const PROBE: u32 = 1 << 28;
    /// A packet that has been received, and only has to pass.
    pub const PASS: u32 = 1 << 27;
    /// All flags.
    pub const FLAGS: u32 = AGAIN | L3 | COPY | PROBE | PASS;
}

/// Value of the programs' global `TAKING_OVER`, and the first of three rounds in which they take over from those of schema 7: they
/// write the mark of then, and take both.
pub const TAKING_OVER_FROM_7: u32 = 2;
/// The second round: they write the mark of now, and take both. In the third they take theirs alone; the value is 0.
pub const TAKING_OVER: u32 = 1;

/// Slots of the `META` array: the one map whose shape never changes, whatever the [`SCHEMA`].
pub mod meta {
    /// The [`SCHEMA`](super::SCHEMA) of everything pinned beside it. 0 while the pins are being made.
    pub const SCHEMA: u32 = 0;
    /// Where the search for a free identity for a rule begins. They are given away in turn.
    pub const NEXT_RULE: u32 = 1;
    /// Not 0 while a change is under way. Found not 0 by a writer that holds the lock, it says that the last
    /// one was cut off, and that there may be something to tidy.
    pub const CHANGING: u32 = 2;
    /// A fingerprint of the object that the pinned programs are from.
    pub const OBJECT: u32 = 3;
    /// The generation of the source tables and the groups that packets look at. Writing it is what swaps one set of rules for
    /// another.
    pub const GENERATION: u32 = 4;
    /// The identity that the next set of destinations, or group, gets.
    pub const NEXT_SET: u32 = 5;
    /// The slot where the search for an empty one for a next hop begins.
    pub const NEXT_HOP: u32 = 6;
    /// How many records of rules there are.
    pub const RULES: u32 = 7;
    /// How many slots there are.
    pub const SLOTS: u32 = 8;
}

/// `kind` of a [`Target`]: the next hop in slot `index`.
pub const TARGET_NEXT_HOP: u8 = 1;
/// `kind` of a [`Target`]: leave the packet to normal routing.
pub const TARGET_PASS: u8 = 2;
/// `kind` of a [`Target`]: drop the packet.
pub const TARGET_DROP: u8 = 3;
/// `kind` of a [`Target`]: a next hop of the group `index`.
pub const TARGET_GROUP: u8 = 4;
/// `kind` of a [`Target`] in a source table: the destination decides, in the set `index` of the destination tables.
pub const TARGET_BY_DESTINATION: u8 = 5;

/// What holds for a packet where no next hop is live: leave it to normal routing.
pub const ON_DOWN_PASS: u8 = 0;
/// What holds for a packet where no next hop is live: drop it.
pub const ON_DOWN_DROP: u8 = 1;

/// `kind` of a [`Target`] in a source table: no rule speaks about all of this prefix, but one does about a longer one.
pub const TARGET_LONGER: u8 = 6;
/// `kind` of a [`Target`] in a source table: an entry was here.
pub const TARGET_GONE: u8 = 7;

/// What becomes of a packet. The [source tables](sources) lead to one, and the destination tables (`DESTINATIONS4`,
/// `DESTINATIONS6`), whose key is the identity of a set and a prefix of destinations, have them as values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Target {
    /// The rule's identity. 0 where the destination decides.
    pub rule: u32,
    /// [`TARGET_NEXT_HOP`] or its like. A packet that finds any other is left alone.
    pub kind: u8,
    /// [`ON_DOWN_PASS`] or [`ON_DOWN_DROP`], for a next hop. A group has its own.
    pub on_down: u8,
    /// What the MSS option of TCP is clamped to, in bytes; [`MSS_AUTO`] or [`MSS_OFF`].
    pub mss: u16,
    /// What `kind` says: a next hop's slot, a group's identity, or a set's.
    pub index: u32,
}

/// [`Target::mss`]: clamp to what fits the MTU of the next hop's device.
pub const MSS_AUTO: u16 = 0;
/// [`Target::mss`]: leave the option as it is.
pub const MSS_OFF: u16 = 1;
/// The smallest MSS to clamp to; the kernel itself works with no smaller one (`TCP_MIN_MSS`, include/net/tcp.h).
pub const MSS_MIN: u16 = 88;
/// The largest: what fits the largest IPv4 packet. In IPv6 65,535 means something else (RFC 2675).
pub const MSS_MAX: u16 = 65_495;

/// `family` of a [`NextHop`] without a gateway: the packet's own destination is the neighbour.
pub const FAMILY_ON_LINK: u32 = 0;
/// `family` of a [`NextHop`] through an IPv4 gateway (`AF_INET`).
pub const FAMILY_IPV4: u32 = 2;
/// `family` of a [`NextHop`] through an IPv6 gateway (`AF_INET6`).
pub const FAMILY_IPV6: u32 = 10;

/// Bit of [`NextHop::flags`]: somebody has taken the next hop out of service.
pub const NEXT_HOP_DOWN: u32 = 1;
/// Bit of [`NextHop::flags`]: nothing leads to the slot, and another next hop may have it. What it held is there still, for
/// packets that wait for their neighbour.
pub const NEXT_HOP_FREE: u32 = 2;
/// Bit of [`NextHop::flags`]: nobody has named the device, and the routing table has found the gateway there. No program reads it.
pub const NEXT_HOP_BY_ROUTE: u32 = 4;
/// Bit of [`NextHop::flags`]: there is no such device yet, and `ifindex` is 0. No program reads it: the slot of `NEXT_HOP_DEVICES` is
/// empty.
pub const NEXT_HOP_WAITING: u32 = 8;

/// Value of the array `NEXT_HOPS`, by slot. Programs read it.
///
/// `family` and `gateway` lie as the kernel's `struct bpf_redir_neigh` has them (include/uapi/linux/bpf.h), so
/// that the program hands a pointer to them to `bpf_redirect_neigh` without a copy. Beside it, the slot of the array
/// `NEXT_HOP_DEVICES` holds the device itself: the kernel empties it when the device goes (kernel/bpf/devmap.c), so
/// that another device with the same ifindex is not taken for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct NextHop {
    /// The device that packets leave by; 0 where the slot has never been used, and where the next hop waits for it.
    pub ifindex: u32,
    /// [`NEXT_HOP_DOWN`], [`NEXT_HOP_FREE`], [`NEXT_HOP_BY_ROUTE`] and [`NEXT_HOP_WAITING`].
    pub flags: u32,
    /// [`FAMILY_ON_LINK`], [`FAMILY_IPV4`] or [`FAMILY_IPV6`].
    pub family: u32,
    /// The gateway in network byte order; an IPv4 address in the first four bytes, the rest 0.
    pub gateway: [u8; 16],
    /// The device's MTU in bytes when the next hop was made, or at the last change since. Read only where the kernel does
    /// not tell a program the MTU of now (`bpf_check_mtu`, Linux 5.12); 0 elsewhere.
    pub mtu: u32,
    /// The device's name when the next hop was made, filled up with zeros; all zero where the routes have not told it yet.
    pub device: [u8; DEVICE_NAME_LEN],
}

/// How long a gateway may be without an answer, in nanoseconds, before its next hop counts as dead. Until then the kernel may
/// still be asking for its address, and packets that have no other way wait for it.
pub const SILENCE: u64 = 250_000_000;
/// How long a device may take no frame at all, in nanoseconds, before a next hop without a gateway counts as dead there. It is
/// longer than the kernel takes to give a neighbour up, which tells nothing of the device.
pub const SILENCE_ON_LINK: u64 = 4_000_000_000;

/// How long it is in nanoseconds until a next hop that did not answer is probed again: an eighth of the time since it last did,
/// but not less than this,
pub const PROBE_AFTER_MIN: u64 = 10_000_000;
/// and not more than this.
pub const PROBE_AFTER_MAX: u64 = 1_000_000_000;
/// How long one probe that was answered speaks for a next hop, on one CPU, in ticks of the kernel's clock (`jiffies`): a quarter of
/// a second at 100 Hz, and less where there are more.
pub const PROVEN_FOR: u64 = 25;

/// Value of the array `NEXT_HOP_HEALTH`, by slot: what all CPUs know of a next hop. The programs write it, and seldom: only
/// when they probe, and when a packet comes that has waited for its neighbour. Times are the kernel's monotonic clock in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NextHopHealth {
    /// Since when no probe has got through; 0 where the last one did.
    pub silent_since: u64,
    /// When it was last probed.
    pub probed: u64,
    /// [`DEVICE_TAKES`] or [`DEVICE_REFUSES`]: what the device last did with a frame.
    pub device: u64,
    /// When the device last took a frame that a probe has led to.
    pub taken: u64,
    /// One next hop a cache line.
    pub reserved: [u64; 4],
}

/// [`NextHopHealth::device`]: as far as is known the device sends frames.
pub const DEVICE_TAKES: u64 = 0;
/// [`NextHopHealth::device`]: it is down or has no carrier. Not 1, which the programs of schema 7 have written there, of
/// something else.
pub const DEVICE_REFUSES: u64 = 2;

/// Value of the per-CPU array `PROBE`: the probe that is under way on this CPU, and what has become of it. All of that
/// happens within one call of `bpf_clone_redirect`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Probe {
    /// The number of the last probe, which travels with it.
    pub number: u32,
    /// The next hop's slot while a probe is under way, else 0.
    pub slot: u32,
    /// The [`Target::mss`] of the packet that is the probe.
    pub mss: u32,
    /// Not 0 where its MSS option was clamped.
    pub clamped: u32,
    /// [`PROBE_UNHEARD`] or its like.
    pub outcome: u32,
    /// Its length in bytes at the next hop's device.
    pub length: u32,
}

/// [`Probe::outcome`]: it has not arrived at the next hop's device.
pub const PROBE_UNHEARD: u32 = 0;
/// [`Probe::outcome`]: the device has taken it.
pub const PROBE_SENT: u32 = 1;
/// [`Probe::outcome`]: it is too big for the next hop, so that it tells nothing.
pub const PROBE_TOO_BIG: u32 = 2;
/// [`Probe::outcome`]: the neighbour is not known, but the device has taken the question for it.
pub const PROBE_ASKED: u32 = 3;
/// [`Probe::outcome`]: the device takes nothing.
pub const PROBE_REFUSED: u32 = 4;
/// [`Probe::outcome`]: the device, or its queue, has dropped it. That says nothing of other packets.
pub const PROBE_DROPPED: u32 = 5;

/// How often a next hop has packets that are too big answered on one CPU: once in so many nanoseconds. This is the rate at
/// which the kernel sends ICMP errors (`icmp_msgs_per_sec`, icmp(7)).
pub const ANSWER_INTERVAL: u64 = 1_000_000;
/// How many answers may come at once (`icmp_msgs_burst`).
pub const ANSWER_BURST: u64 = 50;

/// Packets and their bytes.
///
/// A segmentation-offload packet counts as its segments; its bytes count whole, as the packet stands, with one
/// link-layer header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Value of the per-CPU array `NEXT_HOP_COUNTERS`, by slot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NextHopCounters {
    /// What was redirected to it.
    pub departed: Count,
    /// What of it reached the egress of its device.
    pub arrived: Count,
    /// What it should have had, and did not get because it was not live.
    pub failed_over: Count,
    /// What of the departed had its MSS option clamped.
    pub clamped: Count,
    /// What was too big for it, and was answered with an ICMP error.
    pub icmp_sent: Count,
    /// What was too big for it, and was dropped without an answer.
    pub too_big_dropped: Count,
    /// Up to when the allowance of ICMP errors is used up, on the kernel's monotonic clock in nanoseconds: each takes
    /// [`ANSWER_INTERVAL`] of it.
    pub answers_until: u64,
    /// Up to when the next hop is proven to be alive on this CPU, in ticks of the kernel's clock (`jiffies`), with
    /// [`OUTSTANDING`] set while the packet that departed last has not arrived.
    pub proven: u64,
}

/// Bit of [`NextHopCounters::proven`]. It is the sign, so that one comparison tells whether a next hop is alive.
pub const OUTSTANDING: u64 = 1 << 63;

/// Rules share maps of records (`rules/N`) and of counters (`counters/N`, in the slot N of `COUNTERS`) by chunks. The first
/// is for few rules, and each has twice the room of the one before, up to the largest. In a rule's identity the upper half is
/// the chunk, the lower half the place in it. The counters are one row of a chunk for each CPU, one after the other, so that
/// no two CPUs write the same cache line.
pub const CHUNK_MIN: u32 = 1_024;
/// How many times a chunk is twice as large as the one before.
pub const CHUNK_DOUBLINGS: u32 = 6;
/// How many chunks there may be: enough for twice as many rules as there may be, since one that replaces another is there
/// beside it for a while, and for those that stay free.
pub const MAX_CHUNKS: u32 = 44;

/// How many rules a chunk has room for.
#[inline(always)]
pub const fn chunk_len(chunk: u32) -> u32 {
    CHUNK_MIN << if chunk < CHUNK_DOUBLINGS { chunk } else { CHUNK_DOUBLINGS }
}

/// What a rule did on one CPU, in `COUNTERS`.
///
/// A packet is counted when it departs from an attachment and again when it arrives at the egress of the next
/// hop's device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counters {
    /// What had the rule's target done to it: was redirected to a next hop, left to normal routing by a `pass`, or dropped by
    /// a `drop`.
    pub matched: Count,
    /// What of the redirected reached the egress of the next hop's device.
    pub arrived: Count,
}

/// Value of the per-CPU map `EXCEPTION_COUNTERS`, keyed by a rule's identity. A program makes it when there is something to count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ExceptionCounters {
    /// What found no live next hop, and was passed or dropped for that.
    pub no_next_hop: Count,
    /// What of the departed had its MSS option clamped.
    pub clamped: Count,
    /// What was too big for its next hop, and was answered with an ICMP error.
    pub icmp_sent: Count,
    /// What was too big for its next hop, and was dropped without an answer.
    pub too_big_dropped: Count,
}

/// For how many rules such counters are kept.
pub const MAX_EXCEPTIONS: u32 = 65_536;

/// The counters that a program may be loaded without, a bit each.
pub mod counters {
    /// What left by attachments, and why it was left alone.
    pub const OF_ATTACHMENTS: u32 = 1;
    /// What rules did.
    pub const OF_RULES: u32 = 2;
    /// What went to next hops.
    pub const OF_NEXT_HOPS: u32 = 4;
}

/// Slots of [`AttachmentCounters`]: why a packet is left alone before a rule speaks, or that one does.
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
    /// No rule speaks about it.
    pub const NOT_MATCHED: usize = 7;
    /// A rule does.
    pub const MATCHED: usize = 8;
    /// How many slots there are.
    pub const COUNT: usize = 9;
}

/// Value of the per-CPU array `ATTACHMENT_COUNTERS`: what left by an attachment, but for what arrived there redirected.
///
/// An attachment has one of the [`ATTACHMENT_PROBES`] places that follow the remainder of its ifindex.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct AttachmentCounters {
    /// By [`class`].
    pub of: [Count; class::COUNT],
    /// Whose they are; 0 where they are nobody's.
    pub ifindex: u64,
}

/// How many attachments there may be.
pub const MAX_ATTACHMENTS: u32 = 256;
/// In how many places an attachment's counters may be.
pub const ATTACHMENT_PROBES: u32 = 8;

/// How many buckets a group has: a flow's hash picks one, and the bucket names a member.
pub const BUCKETS: usize = 4_096;
/// Longest name of a group.
pub const GROUP_NAME_LEN: usize = 32;

/// Key of `GROUPS`: a packet finds what a group is in the generation that it looks at, so that groups change with the rules,
/// in the same instant.
///
/// A group is there twice, the same each time, but while a change is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C)]
pub struct GroupKey {
    /// The group's identity.
    pub group: u32,
    /// The last bit of the generation.
    pub generation: u32,
}

/// Value of `GROUPS`. The programs read it; a writer replaces it whole, in one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Group {
    /// The members' slots in `NEXT_HOPS`.
    pub members: [u32; MAX_MEMBERS],
    /// Their weights.
    pub weights: [u16; MAX_MEMBERS],
    /// How many there are.
    pub count: u32,
    /// [`ON_DOWN_PASS`] or [`ON_DOWN_DROP`].
    pub on_down: u8,
    /// [`OWNER_CLI`] or another number, whichever it is.
    pub owner: u8,
    /// Keeps the record free of padding.
    pub reserved: u16,
    /// The name, filled up with zeros; all zero where the group is one rule's own.
    pub name: [u8; GROUP_NAME_LEN],
    /// Which member gets the flows of each bucket, as an index into `members`.
    pub buckets: [u8; BUCKETS],
}

/// Value of `FRAGMENTS`, keyed by addresses, identification and protocol: the flow that a fragmented packet belongs to. Only
/// its first fragment has the ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Fragments {
    /// When it was written, on the kernel's monotonic clock in nanoseconds.
    pub written: u64,
    /// The flow's hash.
    pub hash: u32,
    /// Not 0 where the first fragment has written it.
    pub by_first: u32,
}

/// Longest name of a device, with the closing zero (`IFNAMSIZ`).
pub const DEVICE_NAME_LEN: usize = 16;
/// Longest name of a rule.
pub const RULE_NAME_LEN: usize = 32;

/// [`RuleRecord::owner`] of a rule from the command line.
pub const OWNER_CLI: u8 = 1;
/// [`RuleRecord::owner`] of a rule from another program that uses the library.
pub const OWNER_API: u8 = 2;
/// [`RuleRecord::owner`] of a rule from the configuration.
pub const OWNER_CONFIG: u8 = 3;
/// [`RuleRecord::owner`] of a rule from a Kubernetes cluster. 5 to 15 are for owners to come, 16 to 254 for the programs of others;
/// 0 and 255 are reserved.
pub const OWNER_KUBERNETES: u8 = 4;

/// The record of a rule, in the chunk of its identity: what a listing shows. No program reads it.
///
/// A record counts only when the tables lead from its source and destination to its identity; any other is the
/// leftover of a change that was cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct RuleRecord {
    /// The source prefix's address in network byte order; IPv4 in the first four bytes.
    pub source: [u8; 16],
    /// The destination prefix's address, likewise and of the same family.
    pub destination: [u8; 16],
    /// The family of both: [`FAMILY_IPV4`] or [`FAMILY_IPV6`]; 0 where no rule has this identity. Written last.
    pub family: u32,
    /// As in [`Target`]: a next hop's slot or a group's identity.
    pub index: u32,
    /// The source prefix's length in bits.
    pub source_len: u8,
    /// The destination prefix's length in bits; 0 for a rule that says nothing of destinations.
    pub destination_len: u8,
    /// [`OWNER_CLI`] or another number, whichever it is.
    pub owner: u8,
    /// [`Target::kind`].
    pub kind: u8,
    /// [`Target::on_down`].
    pub on_down: u8,
    /// Keeps the record free of padding.
    pub reserved: u8,
    /// [`Target::mss`].
    pub mss: u16,
    /// The rule's name, filled up with zeros; all zero where it has none.
    pub name: [u8; RULE_NAME_LEN],
}

/// Value of `SETS`, keyed by a set's identity: the source whose destinations it holds, so that a set is found again that a
/// change has left which was cut off. No program reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct SetRecord {
    /// The source prefix's address in network byte order; IPv4 in the first four bytes.
    pub source: [u8; 16],
    /// The source's family: [`FAMILY_IPV4`] or [`FAMILY_IPV6`].
    pub family: u32,
    /// The source prefix's length in bits.
    pub source_len: u32,
}

/// Key of `NEIGHBOURS`: a gateway that Byway made the kernel keep resolved, and so has to let go of. The value
/// is a 1. No program reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct NeighbourKey {
    /// The device that the gateway is on.
    pub ifindex: u32,
    /// The gateway's family, as in [`NextHop`].
    pub family: u32,
    /// The gateway, as in [`NextHop`].
    pub gateway: [u8; 16],
}

/// [`ProgramKey::direction`] of no program: the record is an attachment that is asked for, beside those that are there. It waits for
/// the device of its name; where it has no name, attachments are those devices that carry a default route. The key's ifindex
/// is a number that tells such records apart.
pub const DIRECTION_NONE: u32 = 0;
/// [`ProgramKey::direction`] of a program that sees what comes in.
pub const DIRECTION_INGRESS: u32 = 1;
/// [`ProgramKey::direction`] of a program that sees what leaves.
pub const DIRECTION_EGRESS: u32 = 2;

/// Key of `PROGRAMS`: a device, and a direction in which it carries a program. It carries one at most in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct ProgramKey {
    /// The device.
    pub ifindex: u32,
    /// [`DIRECTION_INGRESS`] or [`DIRECTION_EGRESS`]; or [`DIRECTION_NONE`].
    pub direction: u32,
}

/// [`ProgramRecord::role`] on the egress of an attachment.
pub const ROLE_DEPARTURE: u8 = 1;
/// [`ProgramRecord::role`] on the egress of a next hop's device that is no attachment.
pub const ROLE_ARRIVAL: u8 = 2;

/// [`ProgramRecord::hook`] of a pinned tcx link.
pub const HOOK_TCX: u8 = 1;
/// [`ProgramRecord::hook`] of a filter in that direction's chain of a clsact qdisc.
pub const HOOK_CLSACT: u8 = 2;

/// Value of `PROGRAMS`: which program is there, and how. No program reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct ProgramRecord {
    /// The device's name when the program was attached, filled up with zeros.
    pub name: [u8; DEVICE_NAME_LEN],
    /// [`ROLE_DEPARTURE`] or [`ROLE_ARRIVAL`]. A byway leaves alone what has any other.
    pub role: u8,
    /// [`HOOK_TCX`] or [`HOOK_CLSACT`].
    pub hook: u8,
    /// 1 where Byway added the device's clsact qdisc, and so has to remove it with the last of its programs there.
    pub qdisc_added: u8,
    /// Keeps the record free of padding.
    pub reserved: u8,
}

// Free of padding: the sizes are the sums of the fields.
const _: () = {
    assert!(size_of::<Target>() == 3 * 4);
    assert!(size_of::<NextHop>() == 3 * 4 + 16 + 4 + DEVICE_NAME_LEN);
    assert!(size_of::<NextHopHealth>() == 8 * 8);
    assert!(size_of::<Probe>() == 6 * 4);
    assert!(size_of::<NextHopCounters>() == 6 * 16 + 2 * 8);
    assert!(size_of::<Counters>() == 2 * 16);
    assert!(size_of::<ExceptionCounters>() == 4 * 16);
    // Words of 64 bits, in which userspace writes it.
    assert!(size_of::<RuleRecord>() == 10 * size_of::<u64>());
    assert!(size_of::<AttachmentCounters>() == class::COUNT * 16 + 8);
    assert!(size_of::<Group>() == MAX_MEMBERS * (4 + 2) + 4 + 4 + GROUP_NAME_LEN + BUCKETS);
    assert!(size_of::<GroupKey>() == 2 * 4);
    assert!(size_of::<Fragments>() == 8 + 4 + 4);
    assert!(size_of::<RuleRecord>() == 2 * 16 + 2 * 4 + 8 + RULE_NAME_LEN);
    assert!(size_of::<SetRecord>() == 16 + 4 + 4);
    assert!(size_of::<NeighbourKey>() == 4 + 4 + 16);
    assert!(size_of::<ProgramKey>() == 2 * 4);
    assert!(size_of::<ProgramRecord>() == DEVICE_NAME_LEN + 4);
};

#[cfg(feature = "user")]
mod pod {
    // SAFETY: `#[repr(C)]`, free of padding (asserted above), and any bytes make a valid value.
    unsafe impl aya::Pod for super::Target {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::GroupKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::NextHop {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::NextHopHealth {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::NextHopCounters {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Counters {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::ExceptionCounters {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::sources::TableInfos {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::AttachmentCounters {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Group {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::RuleRecord {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::SetRecord {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::NeighbourKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::ProgramKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::ProgramRecord {}
}
