//! The decision: from a packet's addresses to a next hop, and the count of what went there.

use core::ptr;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_redir_neigh},
    btf_maps::lpm_trie::Key,
    helpers::generated::{bpf_redirect_neigh, bpf_skb_change_head},
    programs::TcContext,
};
use byway_abi::{
    Count, Counters, FAMILY_IPV4, FAMILY_ON_LINK, MARK, NextHop, ON_DOWN_DROP, TARGET_BY_DESTINATION,
    TARGET_DROP, TARGET_GROUP, TARGET_NEXT_HOP, TARGET_PASS, Target, class, meta,
};

use crate::{
    Header, answer, count,
    maps::{
        ATTACHMENT_COUNTERS, ATTACHMENTS, COUNTERS, DESTINATIONS4, DESTINATIONS6, HOSTS4, HOSTS6, META,
        NEXT_HOPS, PREFIXES4, PREFIXES6,
    },
    measure,
    next_hop::{self, Choice},
    packet::{self, ETHERNET_LEN, Packet},
    size::{self, Size},
};

// What travels with a marked packet, in `skb->cb`.
/// The rule's identity.
const CB_RULE: usize = 0;
/// The twelve bytes of Ethernet addresses that the packet departed with; where it had none, its length.
const CB_ADDRESSES: usize = 1;
/// The next hop's slot, and [`AGAIN`] and [`BARE`].
const CB_NEXT_HOP: usize = 4;
/// The packet has been redirected a second time.
const AGAIN: u32 = 1 << 31;
/// The packet departed from a device without an Ethernet header.
const BARE: u32 = 1 << 30;

/// Does with the packet what a rule says; nothing where it is left to the kernel.
#[inline(always)]
pub fn depart(ctx: &TcContext, header: Header) -> Option<i32> {
    // SAFETY: the kernel hands a valid `__sk_buff`, whose fields the verifier checks.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    let size = measure(ctx);
    // SAFETY: the entry is this CPU's own.
    let mut attachment = ATTACHMENT_COUNTERS.get_ptr_mut(ifindex).map(|counters| unsafe { &mut *counters });
    if let Some(attachment) = &mut attachment {
        count(&mut attachment.seen, size);
    }
    let mut left_alone = |class: usize| {
        if let Some(attachment) = &mut attachment {
            count(&mut attachment.left_alone[class], size);
        }
    };
    let packet = match packet::parse(ctx, header.len()) {
        Ok(packet) => packet,
        Err(class) => {
            left_alone(class);
            return None;
        }
    };
    // A device that moves to another network namespace may take the program along, but not the rules.
    let Some(target) = find(&packet).filter(|_| ATTACHMENTS.get_ifindex(ifindex).is_some()) else {
        left_alone(class::NOT_MATCHED);
        return None;
    };

    let counters = COUNTERS.get_ptr_mut(target.rule);
    let counted = |of: fn(&mut Counters) -> &mut Count| {
        if let Some(counters) = counters {
            // SAFETY: the entry is this CPU's own.
            count(of(unsafe { &mut *counters }), size);
        }
    };
    match target.kind {
        TARGET_NEXT_HOP | TARGET_GROUP => match next_hop::choose(ctx, &packet, target, size) {
            Choice::Live(slot, next_hop, of_next_hop) => {
                let packet = dress(ctx, packet, header)?;
                match size::judge(ctx, &packet, next_hop) {
                    Size::Fits(mtu) => {
                        mark(ctx, target.rule, slot, header)?;
                        if size::clamp_mss(ctx, &packet, target.mss, mtu) {
                            counted(|counters| &mut counters.clamped);
                            count(&mut of_next_hop.clamped, size);
                        }
                        counted(|counters| &mut counters.departed);
                        count(&mut of_next_hop.departed, size);
                        of_next_hop.outstanding = 1;
                        Some(redirect(next_hop, &packet))
                    }
                    Size::TooBig(mtu) => {
                        let (verdict, is_answered) = answer::too_big(ctx, slot, mtu);
                        if is_answered {
                            counted(|counters| &mut counters.answered);
                            count(&mut of_next_hop.answered, size);
                        } else {
                            counted(|counters| &mut counters.refused);
                            count(&mut of_next_hop.refused, size);
                        }
                        Some(verdict)
                    }
                }
            }
            Choice::Down(on_down) => {
                counted(|counters| &mut counters.down);
                (on_down == ON_DOWN_DROP).then_some(TC_ACT_SHOT)
            }
        },
        TARGET_PASS => {
            counted(|counters| &mut counters.passed);
            None
        }
        TARGET_DROP => {
            counted(|counters| &mut counters.dropped);
            Some(TC_ACT_SHOT)
        }
        _ => None,
    }
}

/// Gives a packet without one an Ethernet header, which `bpf_redirect_neigh` takes off again. It drops what has none.
#[inline(always)]
fn dress(ctx: &TcContext, packet: Packet, header: Header) -> Option<Packet> {
    if let Header::None = header
        // SAFETY: the helper takes numbers.
        && unsafe { bpf_skb_change_head(ctx.skb.skb, ETHERNET_LEN as u32, 0) } != 0
    {
        return None;
    }
    Some(Packet { offset: ETHERNET_LEN as u32, ..packet })
}

/// Gives the packet what it needs to be received where it arrives.
#[inline(always)]
fn mark(ctx: &TcContext, rule: u32, slot: u32, header: Header) -> Option<()> {
    let addresses = match header {
        Header::Ethernet => packet::ethernet_addresses(ctx)?,
        Header::None => [ctx.len() - ETHERNET_LEN as u32, 0, 0],
    };
    let bare = if let Header::None = header { BARE } else { 0 };
    let skb = ctx.skb.skb;
    // SAFETY: the verifier lets a classifier write these fields.
    unsafe {
        (*skb).tc_index = MARK;
        (*skb).cb[CB_RULE] = rule;
        (*skb).cb[CB_ADDRESSES] = addresses[0];
        (*skb).cb[CB_ADDRESSES + 1] = addresses[1];
        (*skb).cb[CB_ADDRESSES + 2] = addresses[2];
        (*skb).cb[CB_NEXT_HOP] = slot | bare;
    }
    Some(())
}

/// Receives a packet that was redirected to here; nothing where the packet was not. Once it is counted it is an
/// ordinary packet.
#[inline(always)]
pub fn arrive(ctx: &TcContext, header: Header) -> Option<i32> {
    let skb = ctx.skb.skb;
    // SAFETY: the kernel hands a valid `__sk_buff`, whose fields the verifier checks.
    let (rule, slot) = unsafe {
        if (*skb).tc_index != MARK {
            return None;
        }
        ((*skb).cb[CB_RULE], (*skb).cb[CB_NEXT_HOP])
    };
    // A device without an Ethernet header has no neighbours to wait for.
    if let Header::Ethernet = header
        && slot & AGAIN == 0
        && let Some(found) = waited(ctx, slot)
    {
        let verdict = redirect_again(ctx, slot, found);
        if verdict != TC_ACT_UNSPEC {
            return Some(verdict);
        }
    }
    // SAFETY: as above.
    unsafe { (*skb).tc_index = 0 };
    let size = measure(ctx);
    if let Some(counters) = COUNTERS.get_ptr_mut(rule) {
        // SAFETY: the entry is this CPU's own.
        count(unsafe { &mut (*counters).arrived }, size);
    }
    next_hop::heard(slot & !(AGAIN | BARE), size);
    Some(TC_ACT_UNSPEC)
}

/// Whether the packet has waited for its neighbour, which shows in its header: it is the one that the packet departed
/// with. Returns what header that is.
///
/// While the next hop's neighbour is not resolved, the kernel holds the packet back. Then it sends it with the header
/// of the neighbour that the packet's *route* leads to (`neigh_update` in net/core/neighbour.c looks that one up
/// anew, and the redirect has left the route in the packet): the default gateway's, on the wrong link; or none, where
/// the route leads to a device that has none.
#[inline(always)]
fn waited(ctx: &TcContext, slot: u32) -> Option<Header> {
    let skb = ctx.skb.skb;
    if slot & BARE != 0 {
        // SAFETY: the kernel hands a valid `__sk_buff`, whose fields the verifier checks.
        return (ctx.len() == unsafe { (*skb).cb[CB_ADDRESSES] }).then_some(Header::None);
    }
    let now = packet::ethernet_addresses(ctx)?;
    // SAFETY: as above.
    let is_old = unsafe {
        (*skb).cb[CB_ADDRESSES] == now[0]
            && (*skb).cb[CB_ADDRESSES + 1] == now[1]
            && (*skb).cb[CB_ADDRESSES + 2] == now[2]
    };
    is_old.then_some(Header::Ethernet)
}

/// Sends the packet to its next hop once more, now that the neighbour is resolved. Once only: where both links have
/// the same addresses on both ends, the old header is the right one.
// Inlined like all the rest: a function's own symbol carries a hash of the folder that it was built in, and the
// object would not be the same everywhere.
#[inline(always)]
fn redirect_again(ctx: &TcContext, slot: u32, found: Header) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: the verifier lets a classifier write this field.
    unsafe { (*skb).cb[CB_NEXT_HOP] = slot | AGAIN };
    let packet = packet::parse(ctx, found.len()).ok().and_then(|packet| dress(ctx, packet, found));
    match (packet, NEXT_HOPS.get(slot & !BARE)) {
        (Some(packet), Some(next_hop)) => redirect(next_hop, &packet),
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
