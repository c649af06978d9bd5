//! The pinned maps. What userspace alone reads is here too, so that one object makes them all.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, DevMap, DevMapHash, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap},
    macros::btf_map,
};
use byway_abi::{
    AttachmentCounters, Counters, DeviceRecord, Fragments, Group, MAX_DESTINATIONS, MAX_DEVICES, MAX_GROUPS,
    MAX_NEXT_HOPS, MAX_RULES, NeighbourKey, NextHop, NextHopCounters, NextHopHealth, RuleRecord, SetRecord,
    Target, meta,
};

/// Two generations, and one entry of headroom: before Linux 6.13 a full trie refuses even to replace an entry in place.
const SOURCES_LEN: usize = 2 * MAX_RULES as usize + 1;
/// Likewise.
const DESTINATIONS_LEN: usize = 2 * MAX_DESTINATIONS as usize + 1;
/// A rule that replaces another is there beside it for a while.
const RULES_LEN: usize = 2 * MAX_RULES as usize;
/// So is a group, and there is one for each rule that has several next hops of its own.
const GROUPS_LEN: usize = 2 * MAX_GROUPS as usize;
const NEXT_HOPS_LEN: usize = MAX_NEXT_HOPS as usize;
/// Packets that leave in fragments at the same time.
const FRAGMENTS_LEN: usize = 4_096;

/// The longest such head.
pub const QUOTE_HEAD_LEN: usize = 160;

/// An IPv4 address in network byte order: the same four bytes as in the packet and in userspace's key.
pub type Address4 = u32;
/// An IPv6 address in network byte order, likewise. Words, because a program loads and compares words.
pub type Address6 = [u32; 4];
/// A generation or the identity of a set, in the host's byte order, and an IPv4 address.
pub type Key4 = [u32; 2];
/// The same with an IPv6 address.
pub type Key6 = [u32; 5];

const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

/// Single IPv4 sources, which no prefix can be more specific than.
#[btf_map]
pub static HOSTS4: HashMap<Key4, Target, SOURCES_LEN, NO_PREALLOC> = HashMap::new();

/// Single IPv6 sources.
#[btf_map]
pub static HOSTS6: HashMap<Key6, Target, SOURCES_LEN, NO_PREALLOC> = HashMap::new();

/// Shorter IPv4 prefixes of sources.
#[btf_map]
pub static PREFIXES4: LpmTrie<Key4, Target, SOURCES_LEN> = LpmTrie::new();

/// Shorter IPv6 prefixes of sources.
#[btf_map]
pub static PREFIXES6: LpmTrie<Key6, Target, SOURCES_LEN> = LpmTrie::new();

/// Sets of IPv4 destinations.
#[btf_map]
pub static DESTINATIONS4: LpmTrie<Key4, Target, DESTINATIONS_LEN> = LpmTrie::new();

/// Sets of IPv6 destinations.
#[btf_map]
pub static DESTINATIONS6: LpmTrie<Key6, Target, DESTINATIONS_LEN> = LpmTrie::new();

/// The next hops.
#[btf_map]
pub static NEXT_HOPS: Array<NextHop, NEXT_HOPS_LEN> = Array::new();

/// Their devices, which the kernel takes out when they go.
#[btf_map]
pub static NEXT_HOP_DEVICES: DevMap<NEXT_HOPS_LEN> = DevMap::new();

/// What all CPUs know of them.
#[btf_map]
pub static NEXT_HOP_HEALTH: Array<NextHopHealth, NEXT_HOPS_LEN> = Array::new();

/// What went to them.
#[btf_map]
pub static NEXT_HOP_COUNTERS: PerCpuArray<NextHopCounters, NEXT_HOPS_LEN> = PerCpuArray::new();

/// The groups of next hops.
#[btf_map]
pub static GROUPS: HashMap<u32, Group, GROUPS_LEN, NO_PREALLOC> = HashMap::new();

/// The flows of packets that leave in fragments.
#[btf_map]
pub static FRAGMENTS: LruHashMap<[u32; 10], Fragments, FRAGMENTS_LEN> = LruHashMap::new();

/// What rules did.
#[btf_map]
pub static COUNTERS: PerCpuHashMap<u32, Counters, RULES_LEN, NO_PREALLOC> = PerCpuHashMap::new();

/// The attachments themselves, which the kernel takes out when they go or move to another network namespace.
#[btf_map]
pub static ATTACHMENTS: DevMapHash<{ MAX_DEVICES as usize }> = DevMapHash::new();

/// What left by each attachment.
#[btf_map]
pub static ATTACHMENT_COUNTERS: PerCpuHashMap<
    u32,
    AttachmentCounters,
    { MAX_DEVICES as usize },
    NO_PREALLOC,
> = PerCpuHashMap::new();

/// What a listing shows of each rule.
#[btf_map]
pub static RULES: HashMap<u32, RuleRecord, RULES_LEN, NO_PREALLOC> = HashMap::new();

/// The sets of destinations that there are.
#[btf_map]
pub static SETS: HashMap<u32, SetRecord, SOURCES_LEN, NO_PREALLOC> = HashMap::new();

/// The devices that carry a program.
#[btf_map]
pub static DEVICES: HashMap<u32, DeviceRecord, { MAX_DEVICES as usize }, NO_PREALLOC> = HashMap::new();

/// The gateways that Byway made the kernel keep resolved.
#[btf_map]
pub static NEIGHBOURS: HashMap<NeighbourKey, u32, NEXT_HOPS_LEN, NO_PREALLOC> = HashMap::new();

/// Room for the head of what an ICMP error quotes, more than the stack has. Not pinned: it holds nothing between two packets.
#[btf_map]
pub static QUOTE_HEADS: PerCpuArray<[u8; QUOTE_HEAD_LEN], 1> = PerCpuArray::new();

/// Schema version and bookkeeping of changes.
#[btf_map]
pub static META: Array<u32, { meta::SLOTS as usize }> = Array::new();
