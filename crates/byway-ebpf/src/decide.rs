//! The decision: from a source address to a next hop, and the count of what went there.

use core::ptr;

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_redir_neigh},
    btf_maps::lpm_trie::Key,
    helpers::generated::bpf_redirect_neigh,
    programs::TcContext,
};
use byway_abi::{
    FAMILY_IPV4, FAMILY_IPV6, FAMILY_ON_LINK, MARK, TARGET_DROP, TARGET_NEXT_HOP, TARGET_PASS, Target,
};

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

/// A packet that a rule speaks about.
struct Match {
    target: &'static Target,
    /// [`FAMILY_IPV4`] or [`FAMILY_IPV6`].
    family: u32,
    /// As wide as the wider family, an IPv4 address in its first word.
    destination: Address6,
}

/// Does with the packet what a rule says; nothing where it is left to the kernel.
#[inline(always)]
pub fn depart(ctx: &TcContext) -> Option<i32> {
    let found = find(ctx)?;
    // SAFETY: the entry is this CPU's own.
    let counters = COUNTERS.get_ptr_mut(found.target.rule).map(|counters| unsafe { &mut *counters });
    match found.target.kind {
        TARGET_NEXT_HOP => {
            let addresses = packet::ethernet_addresses(ctx)?;
            if let Some(counters) = counters {
                add(ctx, &mut counters.departed_packets, &mut counters.departed_bytes);
            }
            mark(ctx.skb.skb, found.target.rule, addresses);
            Some(redirect(&found))
        }
        TARGET_PASS => {
            if let Some(counters) = counters {
                add(ctx, &mut counters.passed_packets, &mut counters.passed_bytes);
            }
            None
        }
        TARGET_DROP => {
            if let Some(counters) = counters {
                add(ctx, &mut counters.dropped_packets, &mut counters.dropped_bytes);
            }
            Some(TC_ACT_SHOT)
        }
        _ => None,
    }
}

/// Gives the packet what it needs to be received where it arrives.
#[inline(always)]
fn mark(skb: *mut __sk_buff, rule: u32, addresses: [u32; 3]) {
    // SAFETY: the verifier lets a classifier write these fields.
    unsafe {
        (*skb).tc_index = MARK;
        (*skb).cb[CB_RULE] = rule;
        (*skb).cb[CB_ADDRESSES] = addresses[0];
        (*skb).cb[CB_ADDRESSES + 1] = addresses[1];
        (*skb).cb[CB_ADDRESSES + 2] = addresses[2];
        (*skb).cb[CB_AGAIN] = 0;
    }
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
// Inlined like all the rest: a function's own symbol carries a hash of the folder that it was built in, and the
// object would not be the same everywhere.
#[inline(always)]
fn redirect_again(skb: *mut __sk_buff) -> i32 {
    let ctx = TcContext::new(skb);
    // SAFETY: the verifier lets a classifier write this field.
    unsafe { (*skb).cb[CB_AGAIN] = 1 };
    match find(&ctx) {
        Some(found) if found.target.kind == TARGET_NEXT_HOP => redirect(&found),
        _ => TC_ACT_UNSPEC,
    }
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
            let target = lookup4(source)?;
            Some(Match { target, family: FAMILY_IPV4, destination: [destination, 0, 0, 0] })
        }
        ETH_P_IPV6 => {
            let (source, destination) = packet::ipv6(ctx)?;
            let target = lookup6(source)?;
            Some(Match { target, family: FAMILY_IPV6, destination })
        }
        _ => None,
    }
}

#[inline(always)]
fn lookup4(source: Address4) -> Option<&'static Target> {
    // SAFETY: userspace replaces entries whole, and one that is removed outlives the program's run (RCU).
    unsafe { HOSTS4.get(&source) }.or_else(|| PREFIXES4.get(&Key::new(32, source)))
}

#[inline(always)]
fn lookup6(source: Address6) -> Option<&'static Target> {
    // SAFETY: as in `lookup4`.
    unsafe { HOSTS6.get(&source) }.or_else(|| PREFIXES6.get(&Key::new(128, source)))
}

/// Hands the packet to its next hop. The helper always gets its neighbour from here: left to itself it would ask the
/// routing table, and leak a route on many kernels (CVE-2025-40183).
#[inline(always)]
fn redirect(found: &Match) -> i32 {
    let Match { target, family, destination } = found;
    let size = size_of::<bpf_redir_neigh>() as i32;
    if target.family == FAMILY_ON_LINK {
        let mut neighbour = [*family, 0, 0, 0, 0];
        neighbour[1..].copy_from_slice(destination);
        // SAFETY: `neighbour` lies as `struct bpf_redir_neigh` does: a family and sixteen bytes of address.
        return unsafe { bpf_redirect_neigh(target.ifindex, neighbour.as_mut_ptr().cast(), size, 0) as i32 };
    }
    let neighbour = ptr::from_ref(&target.family).cast::<bpf_redir_neigh>().cast_mut();
    // SAFETY: `family` and `gateway` lie as `struct bpf_redir_neigh` does, and the helper only reads them.
    unsafe { bpf_redirect_neigh(target.ifindex, neighbour, size, 0) as i32 }
}

/// Counts the packet: as many as it is on the wire, and its bytes as it stands.
#[inline(always)]
fn add(ctx: &TcContext, packets: &mut u64, bytes: &mut u64) {
    // SAFETY: the kernel hands a valid `__sk_buff`, whose fields the verifier checks.
    let segments = unsafe { (*ctx.skb.skb).gso_segs };
    *packets += u64::from(if segments == 0 { 1 } else { segments });
    *bytes += u64::from(ctx.len());
}
