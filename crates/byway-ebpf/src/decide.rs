//! The decision: from a source address to a next hop, and the count of what went there.

use core::ptr;

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_UNSPEC, bpf_redir_neigh},
    btf_maps::lpm_trie::Key,
    helpers::generated::bpf_redirect_neigh,
    programs::TcContext,
};
use byway_abi::{FAMILY_IPV4, FAMILY_IPV6, FAMILY_ON_LINK, MARK, Redirect};

use crate::{
    maps::{Address4, Address6, COUNTERS, HOSTS4, HOSTS6, PREFIXES4, PREFIXES6},
    packet::{self, ETH_P_IP, ETH_P_IPV6},
};

// What travels with a marked packet, in `skb->cb`.
/// The rule's identity.
const CB_RULE: usize = 0;
/// The twelve bytes of Ethernet addresses that the packet departed with.
const CB_ADDRESSES: usize = 1;
/// Not 0 once the packet has been redirected again.
const CB_AGAIN: usize = 4;

/// A packet that a rule redirects.
struct Match {
    redirect: &'static Redirect,
    /// [`FAMILY_IPV4`] or [`FAMILY_IPV6`].
    family: u32,
    /// As wide as the wider family, an IPv4 address in its first word.
    destination: Address6,
}

/// Redirects the packet where a rule says so; nothing where it is left to the kernel.
#[inline(always)]
pub fn depart(ctx: &TcContext) -> Option<i32> {
    let found = find(ctx)?;
    let addresses = packet::ethernet_addresses(ctx)?;
    let rule = found.redirect.rule;
    if let Some(counters) = COUNTERS.get_ptr_mut(rule) {
        // SAFETY: the entry is this CPU's own.
        let counters = unsafe { &mut *counters };
        add(ctx, &mut counters.departed_packets, &mut counters.departed_bytes);
    }
    let skb = ctx.skb.skb;
    // SAFETY: the verifier lets a classifier write these fields.
    unsafe {
        (*skb).tc_index = MARK;
        (*skb).cb[CB_RULE] = rule;
        (*skb).cb[CB_ADDRESSES] = addresses[0];
        (*skb).cb[CB_ADDRESSES + 1] = addresses[1];
        (*skb).cb[CB_ADDRESSES + 2] = addresses[2];
        (*skb).cb[CB_AGAIN] = 0;
    }
    Some(redirect(&found))
}

/// Receives a packet that was redirected to here; nothing where the packet was not. Once it is counted it is an
/// ordinary packet.
#[inline(always)]
pub fn arrive(ctx: &TcContext) -> Option<i32> {
    let skb = ctx.skb.skb;
    // SAFETY: the kernel hands a valid `__sk_buff`, whose fields the verifier checks.
    let rule = unsafe {
        if (*skb).tc_index != MARK {
            return None;
        }
        (*skb).cb[CB_RULE]
    };
    if has_old_addresses(ctx) {
        let verdict = redirect_again(skb);
        if verdict != TC_ACT_UNSPEC {
            return Some(verdict);
        }
    }
    // SAFETY: as above.
    unsafe { (*skb).tc_index = 0 };
    if let Some(counters) = COUNTERS.get_ptr_mut(rule) {
        // SAFETY: the entry is this CPU's own.
        let counters = unsafe { &mut *counters };
        add(ctx, &mut counters.arrived_packets, &mut counters.arrived_bytes);
    }
    Some(TC_ACT_UNSPEC)
}

/// Whether the packet arrives with the Ethernet addresses that it departed with.
///
/// While the next hop's neighbour is not resolved, the kernel holds the packet back. Then it sends it with the header
/// of the neighbour that the packet's *route* leads to (`neigh_update` in net/core/neighbour.c looks that one up
/// anew, and the redirect has left the route in the packet): the default gateway's, on the wrong link.
#[inline(always)]
fn has_old_addresses(ctx: &TcContext) -> bool {
    let skb = ctx.skb.skb;
    let Some(now) = packet::ethernet_addresses(ctx) else { return false };
    // SAFETY: the kernel hands a valid `__sk_buff`, whose fields the verifier checks.
    unsafe {
        (*skb).cb[CB_ADDRESSES] == now[0]
            && (*skb).cb[CB_ADDRESSES + 1] == now[1]
            && (*skb).cb[CB_ADDRESSES + 2] == now[2]
            && (*skb).cb[CB_AGAIN] == 0
    }
}

/// Sends the packet to its next hop once more, now that the neighbour is resolved. Once only: where both links have
/// the same addresses on both ends, the old header is the right one.
#[inline(never)]
fn redirect_again(skb: *mut __sk_buff) -> i32 {
    let ctx = TcContext::new(skb);
    // SAFETY: the verifier lets a classifier write this field.
    unsafe { (*skb).cb[CB_AGAIN] = 1 };
    find(&ctx).map_or(TC_ACT_UNSPEC, |found| redirect(&found))
}

/// The rule for the packet's source, unless it is a packet that no rule speaks about.
#[inline(always)]
fn find(ctx: &TcContext) -> Option<Match> {
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
            Some(Match { redirect, family: FAMILY_IPV4, destination: [destination, 0, 0, 0] })
        }
        ETH_P_IPV6 => {
            let (source, destination) = packet::ipv6(ctx)?;
            let redirect = lookup6(source)?;
            Some(Match { redirect, family: FAMILY_IPV6, destination })
        }
        _ => None,
    }
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

/// Hands the packet to its next hop. The helper always gets its neighbour from here: left to itself it would ask the
/// routing table, and leak a route on many kernels (CVE-2025-40183).
#[inline(always)]
fn redirect(found: &Match) -> i32 {
    let Match { redirect, family, destination } = found;
    let size = size_of::<bpf_redir_neigh>() as i32;
    if redirect.family == FAMILY_ON_LINK {
        let mut neighbour = [*family, 0, 0, 0, 0];
        neighbour[1..].copy_from_slice(destination);
        // SAFETY: `neighbour` lies as `struct bpf_redir_neigh` does: a family and sixteen bytes of address.
        return unsafe {
            bpf_redirect_neigh(redirect.ifindex, neighbour.as_mut_ptr().cast(), size, 0) as i32
        };
    }
    let neighbour = ptr::from_ref(&redirect.family).cast::<bpf_redir_neigh>().cast_mut();
    // SAFETY: `family` and `gateway` lie as `struct bpf_redir_neigh` does, and the helper only reads them.
    unsafe { bpf_redirect_neigh(redirect.ifindex, neighbour, size, 0) as i32 }
}

/// Counts the packet: as many as it is on the wire, and its bytes as it stands.
#[inline(always)]
fn add(ctx: &TcContext, packets: &mut u64, bytes: &mut u64) {
    // SAFETY: the kernel hands a valid `__sk_buff`, whose fields the verifier checks.
    let segments = unsafe { (*ctx.skb.skb).gso_segs };
    *packets += u64::from(if segments == 0 { 1 } else { segments });
    *bytes += u64::from(ctx.len());
}
