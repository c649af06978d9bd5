//! The pinned maps. What userspace alone reads is here too, so that one object makes them all.

use aya_ebpf::{
    bindings::{BPF_F_INNER_MAP, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{
        Array, ArrayOfMaps, DevMap, DevMapHash, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap,
    },
    macros::btf_map,
};
use byway_abi::{
    AttachmentCounters, Counters, EXCEPTION_MAPS, ExceptionCounters, Fragments, Group, GroupKey,
    MAX_ATTACHMENTS, MAX_CHUNKS, MAX_DESTINATIONS, MAX_DEVICES, MAX_GROUPS, MAX_NEXT_HOPS, MAX_PROGRAMS,
    MIN_SETS, NeighbourKey, NextHop, NextHopCounters, NextHopHealth, Probe, ProgramKey, ProgramRecord,
    SetRecord, Target, meta,
    sources::{self, CachedSource, ENTRIES, TableInfos, WORDS4, WORDS6},
};

/// One entry of headroom: before Linux 6.13 a full trie refuses even to replace an entry in place.
const DESTINATIONS_LEN: usize = 2 * MAX_DESTINATIONS as usize + 1;
/// Each is there twice ([`GroupKey`]), and that of a rule that has several next hops of its own beside that of the rule
/// that it replaces for a while.
const GROUPS_LEN: usize = 4 * MAX_GROUPS as usize;
const NEXT_HOPS_LEN: usize = MAX_NEXT_HOPS as usize;

/// The longest such head.
pub const QUOTE_HEAD_LEN: usize = 160;

/// An IPv4 address in network byte order: the same four bytes as in the packet and in userspace's key.
pub type Address4 = u32;
/// An IPv6 address in network byte order, likewise. Words, because a program loads and compares words.
pub type Address6 = [u32; 4];
/// The identity of a set, in the host's byte order, and an IPv4 address.
pub type Key4 = [u32; 2];
/// The same with an IPv6 address.
pub type Key6 = [u32; 5];

const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;
/// Of maps within maps that userspace writes in place, and that are of any size.
pub const INNER: usize = (BPF_F_MMAPABLE | BPF_F_INNER_MAP) as usize;

/// A bucket of `SOURCES4`.
pub type Bucket4 = [u64; ENTRIES * WORDS4];
/// A bucket of `SOURCES6`.
pub type Bucket6 = [u64; ENTRIES * WORDS6];

/// The tables of IPv4 sources, by the last bit of the generation.
#[btf_map]
pub static SOURCES4: ArrayOfMaps<Array<Bucket4, 1, INNER>, 2> = ArrayOfMaps::new();

/// The tables of IPv6 sources, likewise.
#[btf_map]
pub static SOURCES6: ArrayOfMaps<Array<Bucket6, 1, INNER>, 2> = ArrayOfMaps::new();

/// How they are searched, likewise.
#[btf_map]
pub static TABLE_INFO: Array<TableInfos, 2> = Array::new();

/// What the last searches have found.
#[btf_map]
pub static SOURCE_CACHE: PerCpuArray<CachedSource, { 2 * sources::SOURCE_CACHE_LEN as usize }> =
    PerCpuArray::new();

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
pub static GROUPS: HashMap<GroupKey, Group, GROUPS_LEN, NO_PREALLOC> = HashMap::new();

/// [`Fragments`] as words, as [`Row`] has those of a rule.
pub type FragmentsRow = [u64; size_of::<Fragments>() / size_of::<u64>()];

/// The flows of packets that leave in fragments.
#[btf_map]
pub static FRAGMENTED: ArrayOfMaps<LruHashMap<[u32; 10], FragmentsRow, 1>, 1> = ArrayOfMaps::new();

/// [`Counters`] as words: of maps within maps, Linux 5.15 to 6.1 takes those with a structure's type for others than those
/// without, and userspace makes them without.
pub type Row = [u64; size_of::<Counters>() / size_of::<u64>()];

/// What rules did, by chunks of rules.
#[btf_map]
pub static COUNTERS: ArrayOfMaps<Array<Row, 1, INNER>, { MAX_CHUNKS as usize }> = ArrayOfMaps::new();

/// [`ExceptionCounters`] as words, likewise.
pub type ExceptionRow = [u64; size_of::<ExceptionCounters>() / size_of::<u64>()];

/// What they seldom do.
#[btf_map]
pub static EXCEPTIONS: ArrayOfMaps<
    PerCpuHashMap<u32, ExceptionRow, 1, NO_PREALLOC>,
    { EXCEPTION_MAPS as usize },
> = ArrayOfMaps::new();

/// The attachments themselves, which the kernel takes out when they go or move to another network namespace.
#[btf_map]
pub static ATTACHMENTS: DevMapHash<{ MAX_DEVICES as usize }> = DevMapHash::new();

/// What left by each attachment.
#[btf_map]
pub static ATTACHMENT_COUNTERS: PerCpuArray<AttachmentCounters, { MAX_ATTACHMENTS as usize }> =
    PerCpuArray::new();

/// The sets of destinations that there are.
#[btf_map]
pub static SETS: HashMap<u32, SetRecord, { MIN_SETS as usize }, NO_PREALLOC> = HashMap::new();

/// The programs on devices.
#[btf_map]
pub static PROGRAMS: HashMap<ProgramKey, ProgramRecord, { MAX_PROGRAMS as usize }, NO_PREALLOC> =
    HashMap::new();

/// The gateways that Byway made the kernel keep resolved.
#[btf_map]
pub static NEIGHBOURS: HashMap<NeighbourKey, u32, NEXT_HOPS_LEN, NO_PREALLOC> = HashMap::new();

/// The probe that is under way on each CPU.
#[btf_map]
pub static PROBE: PerCpuArray<Probe, 1> = PerCpuArray::new();

/// The secret of this network namespace, for userspace to load the next programs with.
#[btf_map]
pub static SECRET: Array<u64, 1> = Array::new();

/// Room for the head of what an ICMP error quotes, more than the stack has. Not pinned: it holds nothing between two packets.
#[btf_map]
pub static QUOTE_HEADS: PerCpuArray<[u8; QUOTE_HEAD_LEN], 1> = PerCpuArray::new();

/// Schema version and bookkeeping of changes.
#[btf_map]
pub static META: Array<u32, { meta::SLOTS as usize }> = Array::new();
