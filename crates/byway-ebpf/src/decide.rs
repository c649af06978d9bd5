//! The decision: from a packet's addresses to a next hop, and the count of what went there.

use core::ptr;

use aya_ebpf::{
    bindings::{BPF_NOEXIST, TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_redir_neigh},
    btf_maps::lpm_trie::Key,
    helpers::generated::{bpf_get_smp_processor_id, bpf_redirect_neigh, bpf_skb_change_head},
    programs::TcContext,
};
use byway_abi::{
    ATTACHMENT_PROBES, AttachmentCounters, Count, Counters, FAMILY_IPV4, FAMILY_ON_LINK, MARK,
    MAX_ATTACHMENTS, MSS_OFF, NextHop, ON_DOWN_DROP, RareCounters, TARGET_BY_DESTINATION, TARGET_DROP,
    TARGET_GROUP, TARGET_NEXT_HOP, TARGET_PASS, Target, chunk_len, class, counters, meta,
};

use crate::{
    Header, answer, count, counts,
    maps::{
        ATTACHMENT_COUNTERS, ATTACHMENTS, COUNTERS, DESTINATIONS4, DESTINATIONS6, META, NEXT_HOPS,
        RARE_COUNTERS,
    },
    measure,
    next_hop::{self, Choice},
    packet::{self, ETHERNET_LEN, Packet},
    size::{self, Size},
    sources,
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
    let mut attachment = if counts(counters::OF_ATTACHMENTS) { attachment_counters(ifindex) } else { None };
    let mut seen = |class: usize| {
        if let Some(attachment) = &mut attachment {
            count(&mut attachment.of[class], size);
        }
    };
    let packet = match packet::parse(ctx, header.len()) {
        Ok(packet) => packet,
        Err(class) => {
            seen(class);
            return None;
        }
    };
    // A device that moves to another network namespace may take the program along, but not the rules.
    // Once: all that the packet finds is of one generation.
    let generation = *META.get(meta::GENERATION)? & 1;
    let Some(target) = find(&packet, generation).filter(|_| ATTACHMENTS.get_ifindex(ifindex).is_some())
    else {
        seen(class::NOT_MATCHED);
        return None;
    };
    seen(class::MATCHED);

    let done = || {
        if let Some(counters) = rule_counters(target.rule) {
            // SAFETY: the row is this CPU's own.
            count(unsafe { &mut (*counters).done }, size);
        }
    };
    match target.kind {
        TARGET_NEXT_HOP | TARGET_GROUP => match next_hop::choose(ctx, &packet, &target, generation, size) {
            Choice::Live(slot, next_hop, of_next_hop) => {
                let packet = dress(ctx, packet, header)?;
                let may_be_syn = target.mss != MSS_OFF && size::may_be_syn(ctx, &packet);
                match size::judge(ctx, &packet, next_hop, may_be_syn) {
                    Size::Fits(mtu) => {
                        mark(ctx, target.rule, slot, header)?;
                        if may_be_syn && size::clamp_mss(ctx, &packet, target.mss, mtu) {
                            count_rare(target.rule, size, |rare| &mut rare.clamped);
                            count(&mut of_next_hop.clamped, size);
                        }
                        done();
                        if counts(counters::OF_NEXT_HOPS) {
                            count(&mut of_next_hop.departed, size);
                        }
                        of_next_hop.outstanding = 1;
                        Some(redirect(next_hop, &packet))
                    }
                    Size::TooBig(mtu) => {
                        let (verdict, is_answered) = answer::too_big(ctx, slot, mtu);
                        if is_answered {
                            count_rare(target.rule, size, |rare| &mut rare.answered);
                            count(&mut of_next_hop.answered, size);
                        } else {
                            count_rare(target.rule, size, |rare| &mut rare.refused);
                            count(&mut of_next_hop.refused, size);
                        }
                        Some(verdict)
                    }
                }
            }
            Choice::Down(on_down) => {
                count_rare(target.rule, size, |rare| &mut rare.down);
                (on_down == ON_DOWN_DROP).then_some(TC_ACT_SHOT)
            }
        },
        TARGET_PASS => {
            done();
            None
        }
        TARGET_DROP => {
            done();
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
    if let Some(counters) = rule_counters(rule) {
        // SAFETY: the row is this CPU's own.
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

/// What the rules of a generation say of the packet: one look-up by its source, and where destinations are told apart, one by those.
#[inline(always)]
fn find(packet: &Packet, generation: u32) -> Option<Target> {
    let target = sources::find(packet, generation)?;
    if target.kind != TARGET_BY_DESTINATION {
        return Some(target);
    }
    if packet.family == FAMILY_IPV4 {
        DESTINATIONS4.get(&Key::new(64, [target.index, packet.destination[0]])).copied()
    } else {
        let [a, b, c, d] = packet.destination;
        DESTINATIONS6.get(&Key::new(160, [target.index, a, b, c, d])).copied()
    }
}

/// What has left by an attachment, on this CPU.
#[inline(always)]
fn attachment_counters(ifindex: u32) -> Option<&'static mut AttachmentCounters> {
    for probe in 0..ATTACHMENT_PROBES {
        let place = ifindex.wrapping_add(probe) % MAX_ATTACHMENTS;
        // SAFETY: the entry is this CPU's own.
        let counters = unsafe { &mut *ATTACHMENT_COUNTERS.get_ptr_mut(place)? };
        if counters.ifindex == u64::from(ifindex) {
            return Some(counters);
        }
    }
    None
}

/// What a rule has done, on this CPU.
#[inline(always)]
fn rule_counters(rule: u32) -> Option<*mut Counters> {
    if !counts(counters::OF_RULES) {
        return None;
    }
    // SAFETY: the helper returns a number.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u32;
    let (chunk, place) = (rule >> 16, rule & 0xFFFF);
    COUNTERS.get_value_ptr_mut(chunk, &(cpu * chunk_len(chunk) + place)).map(|row| row.cast())
}

/// Counts what happens to few packets, for a rule that may have no counter for it yet.
#[inline(always)]
fn count_rare(rule: u32, size: Count, of: fn(&mut RareCounters) -> &mut Count) {
    if RARE_COUNTERS.get_ptr_mut(rule).is_none() {
        // Where this fails there are too many of them, and the next hop's counters say it alone.
        let _ = RARE_COUNTERS.insert(&rule, &RareCounters::default(), BPF_NOEXIST.into());
    }
    if let Some(counters) = RARE_COUNTERS.get_ptr_mut(rule) {
        // SAFETY: the entry is this CPU's own.
        count(of(unsafe { &mut *counters }), size);
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
