//! The pinned maps. Those that no program reads are here too, so that one object creates all of them.

use aya_ebpf::{
    bindings::{BPF_F_INNER_MAP, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{
        Array, ArrayOfMaps, DevMap, DevMapHash, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap,
    },
    macros::btf_map,
};
use byway_abi::{
    AttachmentCounters, Counters, DEVICE_NAME_LEN, EXCEPTION_MAPS, ExceptionCounters, Fragments, Group,
    GroupKey, HealthCheck, MAX_ATTACHMENTS, MAX_CHUNKS, MAX_DESTINATIONS, MAX_DEVICES, MAX_GROUPS,
    MAX_NEXT_HOPS, MAX_PROGRAMS, MIN_SETS, NeighbourKey, NextHop, NextHopCounters, NextHopHealth, Probe,
    ProgramKey, ProgramRecord, SetRecord, Target, meta,
    reply::{FLOW_KEYS_LEN, FLOWS_OF_BUCKET, FlowCounters, HINTS, LIVENESS_WORDS, MAX_REPLY_DEVICES, Way},
    sources::{self, CachedSource, ENTRIES, TableInfos, WORDS4, WORDS6},
};

/// Each may be there twice during a change. One more: before Linux 6.13 a full trie refuses even to replace an entry in place.
const DESTINATIONS_LEN: usize = 2 * MAX_DESTINATIONS as usize + 1;
/// Each group is there once for each generation ([`GroupKey`]). The group of a single rule is there beside that of the rule
/// that it replaces for a while.
const GROUPS_LEN: usize = 4 * MAX_GROUPS as usize;
const NEXT_HOPS_LEN: usize = MAX_NEXT_HOPS as usize;

/// The longest head that `icmp_error.rs` cuts off a quote and puts back ([`QUOTE_HEADS`]).
pub const QUOTE_HEAD_LEN: usize = 160;

/// An IPv4 address in network byte order: the same four bytes as in a packet.
pub type Address4 = u32;
/// An IPv6 address in network byte order. Words, because a program loads and compares words.
pub type Address6 = [u32; 4];
/// Key of `DESTINATIONS4`: the identity of a set, in the host's byte order, and an IPv4 address.
pub type Key4 = [u32; 2];
/// Key of `DESTINATIONS6`: the same with an IPv6 address.
pub type Key6 = [u32; 5];

const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;
/// Flags of inner maps that userspace writes in place, and that may have any size.
pub const INNER: usize = (BPF_F_MMAPABLE | BPF_F_INNER_MAP) as usize;

/// A bucket of `SOURCES4`.
pub type Bucket4 = [u64; ENTRIES * WORDS4];
/// A bucket of `SOURCES6`.
pub type Bucket6 = [u64; ENTRIES * WORDS6];

/// The tables of IPv4 sources, by the last bit of the generation.
#[btf_map]
pub static SOURCES4: ArrayOfMaps<Array<Bucket4, 1, INNER>, 2> = ArrayOfMaps::new();

/// The tables of IPv6 sources, by the last bit of the generation.
#[btf_map]
pub static SOURCES6: ArrayOfMaps<Array<Bucket6, 1, INNER>, 2> = ArrayOfMaps::new();

/// How to search these tables, by the last bit of the generation.
#[btf_map]
pub static TABLE_INFO: Array<TableInfos, 2> = Array::new();

/// The results of the last searches.
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

/// The devices of the next hops. The kernel removes one when the device goes.
#[btf_map]
pub static NEXT_HOP_DEVICES: DevMap<NEXT_HOPS_LEN> = DevMap::new();

/// What all CPUs know about the next hops.
#[btf_map]
pub static NEXT_HOP_HEALTH: Array<NextHopHealth, NEXT_HOPS_LEN> = Array::new();

/// The health checks of the next hops.
#[btf_map]
pub static HEALTH_CHECKS: HashMap<u32, HealthCheck, NEXT_HOPS_LEN, NO_PREALLOC> = HashMap::new();

/// Until when the next hops are out of service, by the verdicts of their health checks.
#[btf_map]
pub static VERDICTS: Array<u64, NEXT_HOPS_LEN> = Array::new();

/// The counters of the next hops.
#[btf_map]
pub static NEXT_HOP_COUNTERS: PerCpuArray<NextHopCounters, NEXT_HOPS_LEN> = PerCpuArray::new();

/// The groups of next hops.
#[btf_map]
pub static GROUPS: HashMap<GroupKey, Group, GROUPS_LEN, NO_PREALLOC> = HashMap::new();

/// [`Fragments`] as words, for the reason that [`Row`] gives.
pub type FragmentsRow = [u64; size_of::<Fragments>() / size_of::<u64>()];

/// The flows of packets that leave in fragments.
#[btf_map]
pub static FRAGMENTED: ArrayOfMaps<LruHashMap<[u32; 10], FragmentsRow, 1>, 1> = ArrayOfMaps::new();

/// [`Counters`] as words. Userspace creates inner maps without a type for the value, and Linux 5.15 to 6.1 takes an inner map
/// whose value is a structure for a different one.
pub type Row = [u64; size_of::<Counters>() / size_of::<u64>()];

/// The counters of rules, in chunks.
#[btf_map]
pub static COUNTERS: ArrayOfMaps<Array<Row, 1, INNER>, { MAX_CHUNKS as usize }> = ArrayOfMaps::new();

/// [`ExceptionCounters`] as words, for the same reason.
pub type ExceptionRow = [u64; size_of::<ExceptionCounters>() / size_of::<u64>()];

/// The counters of exceptions of rules ([`byway_abi::exception_map`]).
#[btf_map]
pub static EXCEPTIONS: ArrayOfMaps<
    PerCpuHashMap<u32, ExceptionRow, 1, NO_PREALLOC>,
    { EXCEPTION_MAPS as usize },
> = ArrayOfMaps::new();

/// The attachments themselves. The kernel removes one when the device goes or moves to another network namespace.
#[btf_map]
pub static ATTACHMENTS: DevMapHash<{ MAX_DEVICES as usize }> = DevMapHash::new();

/// The counters of the attachments.
#[btf_map]
pub static ATTACHMENT_COUNTERS: PerCpuArray<AttachmentCounters, { MAX_ATTACHMENTS as usize }> =
    PerCpuArray::new();

/// The devices that requests come in by. The kernel removes one when the device goes or moves to another network namespace.
#[btf_map]
pub static RECEIVERS: DevMapHash<{ MAX_DEVICES as usize }> = DevMapHash::new();

/// [`Way`] as words, for the same reason as [`Row`].
pub type WayRow = [u32; size_of::<Way>() / size_of::<u32>()];

/// The ways that requests have come in by.
#[btf_map]
pub static WAYS: ArrayOfMaps<HashMap<u32, WayRow, 1, NO_PREALLOC>, 1> = ArrayOfMaps::new();

/// The flows that have come in.
#[btf_map]
pub static FLOWS: ArrayOfMaps<Array<[u64; 2 * FLOWS_OF_BUCKET], 1, INNER>, 1> = ArrayOfMaps::new();

/// The signs of life of the ways' neighbours, and which are out of service.
#[btf_map]
pub static WAY_LIVENESS: ArrayOfMaps<Array<[u64; LIVENESS_WORDS], 1, INNER>, 1> = ArrayOfMaps::new();

/// What packets need not look for.
#[btf_map]
pub static REPLY_HINTS: Array<u64, { HINTS as usize }> = Array::new();

/// The secret numbers in the fingerprints of flows.
#[btf_map]
pub static FLOW_KEYS: Array<[u32; FLOW_KEYS_LEN], 1> = Array::new();

/// What neighbours have said of themselves, by [`HeardKey`](byway_abi::reply::HeardKey) as words.
#[btf_map]
pub static HEARD: ArrayOfMaps<LruHashMap<[u32; 6], [u32; 2], 1>, 1> = ArrayOfMaps::new();

/// The devices that the requests of replies have to come in by: sets and ifindexes. The values are names, for userspace.
#[btf_map]
pub static REPLY_DEVICES: HashMap<
    [u32; 2],
    [u8; DEVICE_NAME_LEN],
    { 2 * MAX_REPLY_DEVICES as usize },
    NO_PREALLOC,
> = HashMap::new();

/// The counters of the table of flows.
#[btf_map]
pub static FLOW_COUNTERS: PerCpuArray<FlowCounters, 1> = PerCpuArray::new();

/// The records of sets of destinations.
#[btf_map]
pub static SETS: HashMap<u32, SetRecord, { MIN_SETS as usize }, NO_PREALLOC> = HashMap::new();

/// The programs on devices.
#[btf_map]
pub static PROGRAMS: HashMap<ProgramKey, ProgramRecord, { MAX_PROGRAMS as usize }, NO_PREALLOC> =
    HashMap::new();

/// The gateways that the kernel keeps resolved for Byway.
#[btf_map]
pub static NEIGHBOURS: HashMap<NeighbourKey, u32, NEXT_HOPS_LEN, NO_PREALLOC> = HashMap::new();

/// The probe that is under way on each CPU.
#[btf_map]
pub static PROBE: PerCpuArray<Probe, 1> = PerCpuArray::new();

/// The secret of this network namespace. Userspace builds it into the programs that it loads.
#[btf_map]
pub static SECRET: Array<u64, 1> = Array::new();

/// Room for the head of what an ICMP error quotes: the stack is too small. Not pinned, as it keeps nothing between packets.
#[btf_map]
pub static QUOTE_HEADS: PerCpuArray<[u8; QUOTE_HEAD_LEN], 1> = PerCpuArray::new();

/// Schema version and bookkeeping of changes.
#[btf_map]
pub static META: Array<u32, { meta::SLOTS as usize }> = Array::new();
