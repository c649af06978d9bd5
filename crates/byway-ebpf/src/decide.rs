//! The decision: from a packet's addresses to a next hop, and the count of what went there.

use core::ptr;

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_redir_neigh},
    btf_maps::lpm_trie::Key,
    helpers::generated::bpf_redirect_neigh,
    programs::TcContext,
};
use byway_abi::{
    FAMILY_IPV4, FAMILY_ON_LINK, MARK, NextHop, ON_DOWN_DROP, TARGET_BY_DESTINATION, TARGET_DROP,
    TARGET_GROUP, TARGET_NEXT_HOP, TARGET_PASS, Target, class, meta,
};

use crate::{
    count,
    maps::{
        ATTACHMENT_COUNTERS, COUNTERS, DESTINATIONS4, DESTINATIONS6, HOSTS4, HOSTS6, META, NEXT_HOPS,
        PREFIXES4, PREFIXES6,
    },
    next_hop::{self, Choice},
    packet::{self, Packet},
};

// What travels with a marked packet, in `skb->cb`.
/// The rule's identity.
const CB_RULE: usize = 0;
/// The twelve bytes of Ethernet addresses that the packet departed with.
const CB_ADDRESSES: usize = 1;
/// The next hop's slot, and [`AGAIN`].
const CB_NEXT_HOP: usize = 4;
/// The packet has been redirected a second time.
const AGAIN: u32 = 1 << 31;

/// Does with the packet what a rule says; nothing where it is left to the kernel.
#[inline(always)]
pub fn depart(ctx: &TcContext) -> Option<i32> {
    // SAFETY: the kernel hands a valid `__sk_buff`, whose fields the verifier checks.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    // SAFETY: the entry is this CPU's own.
    let mut attachment = ATTACHMENT_COUNTERS.get_ptr_mut(ifindex).map(|counters| unsafe { &mut *counters });
    if let Some(attachment) = &mut attachment {
        count(ctx, &mut attachment.seen);
    }
    let mut left_alone = |class: usize| {
        if let Some(attachment) = &mut attachment {
            count(ctx, &mut attachment.left_alone[class]);
        }
    };
    let packet = match packet::parse(ctx) {
        Ok(packet) => packet,
        Err(class) => {
            left_alone(class);
            return None;
        }
    };
    let Some(target) = find(&packet) else {
        left_alone(class::NOT_MATCHED);
        return None;
    };

    // SAFETY: the entry is this CPU's own.
    let mut counters = COUNTERS.get_ptr_mut(target.rule).map(|counters| unsafe { &mut *counters });
    match target.kind {
        TARGET_NEXT_HOP | TARGET_GROUP => {
            let addresses = packet::ethernet_addresses(ctx)?;
            match next_hop::choose(ctx, &packet, target) {
                Choice::Live(slot, next_hop, of_next_hop) => {
                    if let Some(counters) = &mut counters {
                        count(ctx, &mut counters.departed);
                    }
                    count(ctx, &mut of_next_hop.departed);
                    of_next_hop.outstanding = 1;
                    mark(ctx.skb.skb, target.rule, slot, addresses);
                    Some(redirect(next_hop, &packet))
                }
                Choice::Down(on_down) => {
                    if let Some(counters) = &mut counters {
                        count(ctx, &mut counters.down);
                    }
                    (on_down == ON_DOWN_DROP).then_some(TC_ACT_SHOT)
                }
            }
        }
        TARGET_PASS => {
            if let Some(counters) = &mut counters {
                count(ctx, &mut counters.passed);
            }
            None
        }
        TARGET_DROP => {
            if let Some(counters) = &mut counters {
                count(ctx, &mut counters.dropped);
            }
            Some(TC_ACT_SHOT)
        }
        _ => None,
    }
}

/// Gives the packet what it needs to be received where it arrives.
#[inline(always)]
fn mark(skb: *mut __sk_buff, rule: u32, slot: u32, addresses: [u32; 3]) {
    // SAFETY: the verifier lets a classifier write these fields.
    unsafe {
        (*skb).tc_index = MARK;
        (*skb).cb[CB_RULE] = rule;
        (*skb).cb[CB_ADDRESSES] = addresses[0];
        (*skb).cb[CB_ADDRESSES + 1] = addresses[1];
        (*skb).cb[CB_ADDRESSES + 2] = addresses[2];
        (*skb).cb[CB_NEXT_HOP] = slot;
    }
}

/// Receives a packet that was redirected to here; nothing where the packet was not. Once it is counted it is an
/// ordinary packet.
#[inline(always)]
pub fn arrive(ctx: &TcContext) -> Option<i32> {
    let skb = ctx.skb.skb;
    // SAFETY: the kernel hands a valid `__sk_buff`, whose fields the verifier checks.
    let (rule, slot) = unsafe {
        if (*skb).tc_index != MARK {
            return None;
        }
        ((*skb).cb[CB_RULE], (*skb).cb[CB_NEXT_HOP])
    };
    if slot & AGAIN == 0 && has_old_addresses(ctx) {
        let verdict = redirect_again(skb, slot);
        if verdict != TC_ACT_UNSPEC {
            return Some(verdict);
        }
    }
    // SAFETY: as above.
    unsafe { (*skb).tc_index = 0 };
    if let Some(counters) = COUNTERS.get_ptr_mut(rule) {
        // SAFETY: the entry is this CPU's own.
        let counters = unsafe { &mut *counters };
        count(ctx, &mut counters.arrived);
    }
    next_hop::heard(ctx, slot & !AGAIN);
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
    }
}

/// Sends the packet to its next hop once more, now that the neighbour is resolved. Once only: where both links have
/// the same addresses on both ends, the old header is the right one.
// Inlined like all the rest: a function's own symbol carries a hash of the folder that it was built in, and the
// object would not be the same everywhere.
#[inline(always)]
fn redirect_again(skb: *mut __sk_buff, slot: u32) -> i32 {
    // SAFETY: the verifier lets a classifier write this field.
    unsafe { (*skb).cb[CB_NEXT_HOP] = slot | AGAIN };
    match (packet::parse(&TcContext::new(skb)), NEXT_HOPS.get(slot)) {
        (Ok(packet), Some(next_hop)) => redirect(next_hop, &packet),
        _ => TC_ACT_UNSPEC,
    }
}

/// What the rules say of the packet: one look-up by its source, and where destinations are told apart, one by those.
#[inline(always)]
fn find(packet: &Packet) -> Option<&'static Target> {
    let generation = *META.get(meta::GENERATION)?;
    let target = if packet.family == FAMILY_IPV4 {
        let key = [generation, packet.source[0]];
        // SAFETY: userspace replaces entries whole, and waits for the program's run before it uses their memory again.
        unsafe { HOSTS4.get(&key) }.or_else(|| PREFIXES4.get(&Key::new(64, key)))?
    } else {
        let [a, b, c, d] = packet.source;
        let key = [generation, a, b, c, d];
        // SAFETY: as above.
        unsafe { HOSTS6.get(&key) }.or_else(|| PREFIXES6.get(&Key::new(160, key)))?
    };
    if target.kind != TARGET_BY_DESTINATION {
        return Some(target);
    }
    if packet.family == FAMILY_IPV4 {
        DESTINATIONS4.get(&Key::new(64, [target.index, packet.destination[0]]))
    } else {
        let [a, b, c, d] = packet.destination;
        DESTINATIONS6.get(&Key::new(160, [target.index, a, b, c, d]))
    }
}

/// Hands the packet to a next hop. The helper always gets its neighbour from here: left to itself it would ask the
/// routing table, and leak a route on many kernels (CVE-2025-40183).
#[inline(always)]
fn redirect(next_hop: &NextHop, packet: &Packet) -> i32 {
    let size = size_of::<bpf_redir_neigh>() as i32;
    if next_hop.family == FAMILY_ON_LINK {
        let mut neighbour = [packet.family, 0, 0, 0, 0];
        neighbour[1..].copy_from_slice(&packet.destination);
        // SAFETY: `neighbour` lies as `struct bpf_redir_neigh` does: a family and sixteen bytes of address.
        return unsafe {
            bpf_redirect_neigh(next_hop.ifindex, neighbour.as_mut_ptr().cast(), size, 0) as i32
        };
    }
    let neighbour = ptr::from_ref(&next_hop.family).cast::<bpf_redir_neigh>().cast_mut();
    // SAFETY: `family` and `gateway` lie as `struct bpf_redir_neigh` does, and the helper only reads them.
    unsafe { bpf_redirect_neigh(next_hop.ifindex, neighbour, size, 0) as i32 }
}
