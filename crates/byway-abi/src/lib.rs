//! What crosses the kernel boundary between byway and its eBPF programs, and nothing else.
//!
//! Every type here is the key or the value of a pinned map. They are `#[repr(C)]` without padding, so that the
//! bytes that userspace writes are the bytes that a program reads. Addresses are in network byte order, numbers
//! in the host's. A change of any of them is a new [`SCHEMA`].

#![no_std]

/// The version of the pinned layout: of the maps' names, keys and values. Kept in [`META`](meta).
pub const SCHEMA: u32 = 1;

/// How many rules the tables hold.
pub const MAX_RULES: u32 = 65_536;

/// How many devices may carry a program.
pub const MAX_DEVICES: u32 = 1_024;

/// The value of `skb->tc_index` between the departure of a packet and its arrival.
///
/// `tc_index` is the field of a packet that survives `bpf_redirect_neigh`; nothing else in a current kernel
/// writes it since the tcindex classifier was removed (Linux 6.3). The rule's identity travels beside it in
/// `skb->cb[0]`.
pub const MARK: u32 = 0xB1A7;

/// Slots of the `META` array: the one map whose shape never changes, whatever the [`SCHEMA`].
pub mod meta {
    /// The [`SCHEMA`](super::SCHEMA) of everything pinned beside it. 0 while the pins are being made.
    pub const SCHEMA: u32 = 0;
    /// The identity that the next rule gets. Identities are never used again.
    pub const NEXT_RULE: u32 = 1;
    /// Not 0 while a change is under way. Found not 0 by a writer that holds the lock, it says that the last
    /// one was cut off, and that there may be something to tidy.
    pub const CHANGING: u32 = 2;
    /// A fingerprint of the object that the pinned programs are from.
    pub const OBJECT: u32 = 3;
    /// How many slots there are.
    pub const SLOTS: u32 = 8;
}

/// `kind` of a [`Target`]: a next hop.
pub const TARGET_NEXT_HOP: u32 = 1;
/// `kind` of a [`Target`]: leave the packet to normal routing.
pub const TARGET_PASS: u32 = 2;
/// `kind` of a [`Target`]: drop the packet.
pub const TARGET_DROP: u32 = 3;

/// `family` of a [`Target`] without a gateway: the packet's own destination is the neighbour.
pub const FAMILY_ON_LINK: u32 = 0;
/// `family` of a [`Target`] through an IPv4 gateway (`AF_INET`).
pub const FAMILY_IPV4: u32 = 2;
/// `family` of a [`Target`] through an IPv6 gateway (`AF_INET6`).
pub const FAMILY_IPV6: u32 = 10;

/// Value of the source tables `HOSTS4`, `HOSTS6`, `PREFIXES4` and `PREFIXES6`: what becomes of packets of a source.
///
/// `family` and `gateway` lie as the kernel's `struct bpf_redir_neigh` has them (include/uapi/linux/bpf.h), so
/// that the program hands a pointer to them to `bpf_redirect_neigh` without a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Target {
    /// The rule's identity: key of `RULES` and `COUNTERS`.
    pub rule: u32,
    /// [`TARGET_NEXT_HOP`], [`TARGET_PASS`] or [`TARGET_DROP`]. A packet that finds any other is left alone.
    pub kind: u32,
    /// The next hop's device; 0 where there is no next hop.
    pub ifindex: u32,
    /// [`FAMILY_ON_LINK`], [`FAMILY_IPV4`] or [`FAMILY_IPV6`].
    pub family: u32,
    /// The gateway in network byte order; an IPv4 address in the first four bytes, the rest 0.
    pub gateway: [u8; 16],
}

/// Value of the per-CPU map `COUNTERS`, keyed by a rule's identity.
///
/// A packet is counted when it departs from an attachment and again when it arrives at the egress of the next
/// hop's device. A segmentation-offload packet counts as its segments; its bytes count whole, as the packet
/// stands, with one link-layer header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counters {
    /// Packets that were redirected.
    pub departed_packets: u64,
    /// Their bytes.
    pub departed_bytes: u64,
    /// Packets that reached the egress of the next hop's device.
    pub arrived_packets: u64,
    /// Their bytes.
    pub arrived_bytes: u64,
    /// Packets that the rule left to normal routing.
    pub passed_packets: u64,
    /// Their bytes.
    pub passed_bytes: u64,
    /// Packets that the rule dropped.
    pub dropped_packets: u64,
    /// Their bytes.
    pub dropped_bytes: u64,
}

/// Longest name of a device, with the closing zero (`IFNAMSIZ`).
pub const DEVICE_NAME_LEN: usize = 16;
/// Longest name of a rule.
pub const RULE_NAME_LEN: usize = 32;

/// [`RuleRecord::owner`] of a rule from the command line.
pub const OWNER_CLI: u8 = 1;
/// [`RuleRecord::owner`] of a rule from another program that uses the library.
pub const OWNER_API: u8 = 2;

/// Value of `RULES`, keyed by a rule's identity: what a listing shows. No program reads it.
///
/// A record counts only when the source table's entry for its prefix carries its identity; any other is the
/// leftover of a change that was cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct RuleRecord {
    /// The source prefix's address in network byte order; IPv4 in the first four bytes.
    pub source: [u8; 16],
    /// The gateway, as in [`Target`].
    pub gateway: [u8; 16],
    /// The next hop's device, as in [`Target`].
    pub ifindex: u32,
    /// The gateway's family, as in [`Target`].
    pub family: u32,
    /// The source's family: [`FAMILY_IPV4`] or [`FAMILY_IPV6`].
    pub source_family: u32,
    /// The source prefix's length in bits.
    pub source_len: u8,
    /// [`OWNER_CLI`] or [`OWNER_API`].
    pub owner: u8,
    /// [`Target::kind`].
    pub target: u8,
    /// Keeps the record free of padding.
    pub reserved: u8,
    /// The device's name when the rule was made, filled up with zeros.
    pub device: [u8; DEVICE_NAME_LEN],
    /// The rule's name, filled up with zeros; all zero where it has none.
    pub name: [u8; RULE_NAME_LEN],
}

/// Key of `NEIGHBOURS`: a gateway that Byway made the kernel keep resolved, and so has to let go of. The value
/// is a 1. No program reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct NeighbourKey {
    /// The device that the gateway is on.
    pub ifindex: u32,
    /// The gateway's family, as in [`Target`].
    pub family: u32,
    /// The gateway, as in [`Target`].
    pub gateway: [u8; 16],
}

/// [`DeviceRecord::role`] of an attachment: its egress is watched.
pub const ROLE_DEPARTURE: u8 = 1;
/// [`DeviceRecord::role`] of a next hop's device that is no attachment.
pub const ROLE_ARRIVAL: u8 = 2;

/// [`DeviceRecord::hook`] of a pinned tcx link.
pub const HOOK_TCX: u8 = 1;
/// [`DeviceRecord::hook`] of a filter in the egress chain of a clsact qdisc.
pub const HOOK_CLSACT: u8 = 2;

/// Value of `DEVICES`, keyed by ifindex: a device that carries one of the programs. No program reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct DeviceRecord {
    /// The device's name when the program was attached, filled up with zeros.
    pub name: [u8; DEVICE_NAME_LEN],
    /// [`ROLE_DEPARTURE`] or [`ROLE_ARRIVAL`].
    pub role: u8,
    /// [`HOOK_TCX`] or [`HOOK_CLSACT`].
    pub hook: u8,
    /// 1 where Byway added the clsact qdisc, and so has to remove it.
    pub qdisc_added: u8,
    /// Keeps the record free of padding.
    pub reserved: u8,
}

// Free of padding: the sizes are the sums of the fields.
const _: () = {
    assert!(size_of::<Target>() == 4 * 4 + 16);
    assert!(size_of::<Counters>() == 8 * 8);
    assert!(size_of::<RuleRecord>() == 16 + 16 + 3 * 4 + 4 + DEVICE_NAME_LEN + RULE_NAME_LEN);
    assert!(size_of::<NeighbourKey>() == 4 + 4 + 16);
    assert!(size_of::<DeviceRecord>() == DEVICE_NAME_LEN + 4);
};

#[cfg(feature = "user")]
mod pod {
    // SAFETY: `#[repr(C)]`, free of padding (asserted above), and any bytes make a valid value.
    unsafe impl aya::Pod for super::Target {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Counters {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::RuleRecord {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::NeighbourKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::DeviceRecord {}
}
