//! The pinned maps. What userspace alone reads is here too, so that one object makes them all.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, HashMap, LpmTrie, PerCpuHashMap},
    macros::btf_map,
};
use byway_abi::{Counters, DeviceRecord, MAX_DEVICES, MAX_RULES, NeighbourKey, RuleRecord, Target, meta};

/// One entry of headroom: a rule that replaces another is there beside it for a while, and before Linux 6.13 a full
/// trie refuses even to replace an entry in place.
const RULES_LEN: usize = MAX_RULES as usize + 1;

/// An IPv4 address in network byte order: the same four bytes as in the packet and in userspace's key.
pub type Address4 = u32;
/// An IPv6 address in network byte order, likewise. Words, because a program loads and compares words.
pub type Address6 = [u32; 4];

const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

/// Rules for single IPv4 addresses, which no prefix can be more specific than.
#[btf_map]
pub static HOSTS4: HashMap<Address4, Target, RULES_LEN, NO_PREALLOC> = HashMap::new();

/// Rules for single IPv6 addresses.
#[btf_map]
pub static HOSTS6: HashMap<Address6, Target, RULES_LEN, NO_PREALLOC> = HashMap::new();

/// Rules for shorter IPv4 prefixes.
#[btf_map]
pub static PREFIXES4: LpmTrie<Address4, Target, RULES_LEN> = LpmTrie::new();

/// Rules for shorter IPv6 prefixes.
#[btf_map]
pub static PREFIXES6: LpmTrie<Address6, Target, RULES_LEN> = LpmTrie::new();

/// Departures and arrivals by rule.
#[btf_map]
pub static COUNTERS: PerCpuHashMap<u32, Counters, RULES_LEN, NO_PREALLOC> = PerCpuHashMap::new();

/// What a listing shows of each rule.
#[btf_map]
pub static RULES: HashMap<u32, RuleRecord, RULES_LEN, NO_PREALLOC> = HashMap::new();

/// The devices that carry a program.
#[btf_map]
pub static DEVICES: HashMap<u32, DeviceRecord, { MAX_DEVICES as usize }, NO_PREALLOC> = HashMap::new();

/// The gateways that Byway made the kernel keep resolved.
#[btf_map]
pub static NEIGHBOURS: HashMap<NeighbourKey, u32, RULES_LEN, NO_PREALLOC> = HashMap::new();

/// Schema version and bookkeeping of changes.
#[btf_map]
pub static META: Array<u32, { meta::SLOTS as usize }> = Array::new();
