//! The decision: from a source address to a next hop, and the count of what went there.

use core::ptr;

use aya_ebpf::{
    bindings::bpf_redir_neigh, btf_maps::lpm_trie::Key, helpers::generated::bpf_redirect_neigh,
    programs::TcContext,
};
use byway_abi::{Counters, FAMILY_IPV4, FAMILY_IPV6, FAMILY_ON_LINK, MARK, Redirect};

use crate::{
    maps::{Address4, Address6, COUNTERS, HOSTS4, HOSTS6, PREFIXES4, PREFIXES6},
    packet::{self, ETH_P_IP, ETH_P_IPV6},
};

/// Redirects the packet where a rule says so; nothing where it is left to the kernel.
#[inline(always)]
pub fn depart(ctx: &TcContext) -> Option<i32> {
    // SAFETY: the kernel hands a valid `__sk_buff`, whose fields the verifier checks.
    let (protocol, vlan_present) = unsafe { ((*ctx.skb.skb).protocol, (*ctx.skb.skb).vlan_present) };
    // The tag of a VLAN device's packet is beside the frame by now, not in it.
    if vlan_present != 0 {
        return None;
    }
    match protocol {
        ETH_P_IP => {
            let (source, destination) = packet::ipv4(ctx)?;
            let redirect = lookup4(source)?;
            Some(send(ctx, redirect, FAMILY_IPV4, [destination, 0, 0, 0]))
        }
        ETH_P_IPV6 => {
            let (source, destination) = packet::ipv6(ctx)?;
            let redirect = lookup6(source)?;
            Some(send(ctx, redirect, FAMILY_IPV6, destination))
        }
        _ => None,
    }
}

/// Whether the packet was redirected to here. If so it is counted, and is an ordinary packet from now on.
#[inline(always)]
pub fn arrive(ctx: &TcContext) -> bool {
    let skb = ctx.skb.skb;
    // SAFETY: the kernel hands a valid `__sk_buff`, whose fields the verifier checks.
    let rule = unsafe {
        if (*skb).tc_index != MARK {
            return false;
        }
        (*skb).tc_index = 0;
        (*skb).cb[0]
    };
    if let Some(counters) = COUNTERS.get_ptr_mut(rule) {
        // SAFETY: the entry is this CPU's own.
        unsafe {
            (*counters).arrived_packets += packets(ctx);
            (*counters).arrived_bytes += u64::from(ctx.len());
        }
    }
    true
}

#[inline(always)]
fn lookup4(source: Address4) -> Option<&'static Redirect> {
    // SAFETY: userspace replaces entries whole, and one that is removed outlives the program's run (RCU).
    unsafe { HOSTS4.get(&source) }.or_else(|| PREFIXES4.get(&Key::new(32, source)))
}

#[inline(always)]
fn lookup6(source: Address6) -> Option<&'static Redirect> {
    // SAFETY: as in `lookup4`.
    unsafe { HOSTS6.get(&source) }.or_else(|| PREFIXES6.get(&Key::new(128, source)))
}

/// Marks, counts and redirects the packet. The helper always gets its neighbour from here: left to itself it
/// would ask the routing table, and leak a route on many kernels (CVE-2025-40183).
#[inline(always)]
fn send(ctx: &TcContext, redirect: &Redirect, family: u32, destination: Address6) -> i32 {
    let skb = ctx.skb.skb;
    if let Some(counters) = COUNTERS.get_ptr_mut(redirect.rule) {
        count_departure(ctx, counters);
    }
    // SAFETY: the verifier lets a classifier write these fields.
    unsafe {
        (*skb).tc_index = MARK;
        (*skb).cb[0] = redirect.rule;
    }
    let size = size_of::<bpf_redir_neigh>() as i32;
    if redirect.family == FAMILY_ON_LINK {
        let mut neighbour = [family, 0, 0, 0, 0];
        neighbour[1..].copy_from_slice(&destination);
        // SAFETY: `neighbour` lies as `struct bpf_redir_neigh` does: a family and sixteen bytes of address.
        return unsafe {
            bpf_redirect_neigh(redirect.ifindex, neighbour.as_mut_ptr().cast(), size, 0) as i32
        };
    }
    let neighbour = ptr::from_ref(&redirect.family).cast::<bpf_redir_neigh>().cast_mut();
    // SAFETY: `family` and `gateway` lie as `struct bpf_redir_neigh` does, and the helper only reads them.
    unsafe { bpf_redirect_neigh(redirect.ifindex, neighbour, size, 0) as i32 }
}

#[inline(always)]
fn count_departure(ctx: &TcContext, counters: *mut Counters) {
    // SAFETY: the entry is this CPU's own.
    unsafe {
        (*counters).departed_packets += packets(ctx);
        (*counters).departed_bytes += u64::from(ctx.len());
    }
}

/// How many packets this one is on the wire.
#[inline(always)]
fn packets(ctx: &TcContext) -> u64 {
    // SAFETY: the kernel hands a valid `__sk_buff`, whose fields the verifier checks.
    let segments = unsafe { (*ctx.skb.skb).gso_segs };
    u64::from(if segments == 0 { 1 } else { segments })
}
