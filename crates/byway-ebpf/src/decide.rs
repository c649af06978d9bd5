//! The decision: from a packet's addresses to a next hop, and the count of what went there.

use core::ptr;

use aya_ebpf::{
    bindings::{BPF_NOEXIST, TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_redir_neigh},
    btf_maps::lpm_trie::Key,
    helpers::generated::{bpf_get_smp_processor_id, bpf_redirect_neigh, bpf_skb_change_head},
    programs::TcContext,
};
use byway_abi::{
    ATTACHMENT_PROBES, AttachmentCounters, Count, Counters, ExceptionCounters, FAMILY_IPV4, FAMILY_ON_LINK,
    MAX_ATTACHMENTS, MSS_OFF, NextHop, NextHopCounters, ON_DOWN_DROP, TAKING_OVER_FROM_7,
    TARGET_BY_DESTINATION, TARGET_DROP, TARGET_GROUP, TARGET_NEXT_HOP, TARGET_PASS, Target, chunk_len, class,
    counters,
    mark::{self, AGAIN, COPY, FLAGS, L3, PASS, PROBE},
    meta,
};

use crate::{
    Header, count, counts, icmp_error,
    maps::{
        ATTACHMENT_COUNTERS, ATTACHMENTS, COUNTERS, DESTINATIONS4, DESTINATIONS6, EXCEPTION_COUNTERS, META,
        NEXT_HOPS,
    },
    mark::{Mark, mark as mark_of, set_mark, set_mark_of_7, taking_over, unmark},
    measure,
    next_hop::{self, Choice},
    packet::{self, ETHERNET_LEN, Packet},
    probe,
    size::{self, Size},
    sources,
};

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
            // What asks for a neighbour is one of these: IPv6 asks all that may be meant.
            return if matches!(class, class::NOT_IP | class::NEIGHBOUR_DISCOVERY | class::MULTICAST) {
                probe::asked(ctx)
            } else {
                None
            };
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
            count(unsafe { &mut (*counters).matched }, size);
        }
    };
    match target.kind {
        TARGET_NEXT_HOP | TARGET_GROUP => match next_hop::choose(ctx, &packet, &target, generation, size) {
            Choice::Live(slot, next_hop, of_next_hop) => {
                let packet = push_ethernet(ctx, packet, header)?;
                let may_be_syn = target.mss != MSS_OFF && size::may_be_syn(ctx, &packet);
                match size::check_mtu(ctx, &packet, next_hop, may_be_syn) {
                    Size::Fits(mtu) => {
                        mark(ctx, target.rule, slot, header)?;
                        if may_be_syn && size::clamp_mss(ctx, &packet, target.mss, mtu) {
                            count_clamped(target.rule, of_next_hop, size);
                        }
                        done();
                        next_hop::departed(of_next_hop, size);
                        Some(redirect(next_hop, &packet))
                    }
                    Size::TooBig(mtu) => {
                        let (verdict, is_answered) = icmp_error::too_big(ctx, slot, mtu);
                        // SAFETY: the entry is this CPU's own.
                        let of_next_hop = unsafe { &mut *of_next_hop };
                        if is_answered {
                            count_exception(target.rule, size, |exceptions| &mut exceptions.icmp_sent);
                            count(&mut of_next_hop.icmp_sent, size);
                        } else {
                            count_exception(target.rule, size, |exceptions| &mut exceptions.too_big_dropped);
                            count(&mut of_next_hop.too_big_dropped, size);
                        }
                        Some(verdict)
                    }
                }
            }
            Choice::Sent(slot, of_next_hop, is_clamped) => {
                if is_clamped {
                    count_clamped(target.rule, of_next_hop, size);
                }
                done();
                next_hop::departed(of_next_hop, size);
                receive(target.rule, slot, Count { bytes: probe::length().into(), ..size });
                Some(probe::let_go())
            }
            Choice::Down(on_down) => {
                count_exception(target.rule, size, |exceptions| &mut exceptions.no_next_hop);
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

/// Counts a packet whose MSS option was clamped.
#[inline(always)]
fn count_clamped(rule: u32, of_next_hop: *mut NextHopCounters, size: Count) {
    count_exception(rule, size, |exceptions| &mut exceptions.clamped);
    // SAFETY: the entry is this CPU's own.
    count(unsafe { &mut (*of_next_hop).clamped }, size);
}

/// Counts a packet that has arrived.
#[inline(always)]
fn receive(rule: u32, slot: u32, size: Count) {
    if let Some(counters) = rule_counters(rule) {
        // SAFETY: the row is this CPU's own.
        count(unsafe { &mut (*counters).arrived }, size);
    }
    next_hop::arrived(slot, size);
}

/// Gives a packet without one an Ethernet header, which `bpf_redirect_neigh` takes off again. It drops what has none.
#[inline(always)]
pub fn push_ethernet(ctx: &TcContext, packet: Packet, header: Header) -> Option<Packet> {
    if let Header::L3 = header
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
        Header::L3 => [ctx.len() - ETHERNET_LEN as u32, 0, 0],
    };
    let slot = slot | if let Header::L3 = header { L3 } else { 0 };
    if taking_over() == TAKING_OVER_FROM_7 {
        set_mark_of_7(ctx.skb.skb, rule, addresses, slot);
    } else {
        set_mark(ctx.skb.skb, rule, hash_of(addresses), slot);
    }
    Some(())
}

/// Two headers with the same hash would cost a packet one redirect more, and nothing else.
#[inline(always)]
fn hash_of(addresses: [u32; 3]) -> u32 {
    addresses[0] ^ addresses[1] << 5 ^ addresses[2]
}

/// Receives a packet that was redirected to here; nothing where the packet was not. Once it is counted it is an
/// ordinary packet. `departs` says whether this is an attachment, where probes come by twice.
#[inline(always)]
pub fn arrive(ctx: &TcContext, header: Header, departs: bool) -> Option<i32> {
    let skb = ctx.skb.skb;
    let whose = mark_of(skb)?;
    // SAFETY: the kernel hands a valid `__sk_buff`, whose fields the verifier checks.
    let (rule, slot) = unsafe { ((*skb).cb[mark::RULE], (*skb).cb[mark::SLOT]) };
    if slot & (COPY | PROBE | PASS) != 0 && whose == Mark::Ours {
        return Some(probe::receive(ctx, header, departs, rule, slot));
    }
    // A device without an Ethernet header has no neighbours to wait for.
    if let Header::Ethernet = header
        && slot & AGAIN == 0
        && let Some(found) = was_queued(ctx, slot, whose)
    {
        let verdict = redirect_again(ctx, slot, found);
        if verdict != TC_ACT_UNSPEC {
            return Some(verdict);
        }
    }
    unmark(skb);
    if slot & AGAIN != 0 {
        next_hop::neighbour_answered(slot & !FLAGS);
    }
    receive(rule, slot & !FLAGS, measure(ctx));
    Some(TC_ACT_UNSPEC)
}

/// Whether the packet has was_queued for its neighbour, which shows in its header: it is the one that the packet departed
/// with. Returns what header that is.
///
/// While the next hop's neighbour is not resolved, the kernel holds the packet back. Then it sends it with the header
/// of the neighbour that the packet's *route* leads to (`neigh_update` in net/core/neighbour.c looks that one up
/// anew, and the redirect has left the route in the packet): the default gateway's, on the wrong link; or none, where
/// the route leads to a device that has none.
#[inline(always)]
fn was_queued(ctx: &TcContext, slot: u32, whose: Mark) -> Option<Header> {
    // SAFETY: the kernel hands a valid `__sk_buff`, whose fields the verifier checks.
    let cb = unsafe { &(*ctx.skb.skb).cb };
    if slot & L3 != 0 {
        let length = cb[mark::HEADER];
        let length = if whose == Mark::Ours { length } else { hash_of([length, 0, 0]) };
        return (hash_of([ctx.len(), 0, 0]) == length).then_some(Header::L3);
    }
    let now = packet::ethernet_addresses(ctx)?;
    let is_old = match whose {
        Mark::Ours => cb[mark::HEADER] == hash_of(now),
        Mark::Of7 => cb[1] == now[0] && cb[2] == now[1] && cb[3] == now[2],
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
    unsafe { (*skb).cb[mark::SLOT] = slot | AGAIN };
    let packet = packet::parse(ctx, found.len()).ok().and_then(|packet| push_ethernet(ctx, packet, found));
    match (packet, NEXT_HOPS.get(slot & !FLAGS)) {
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
fn count_exception(rule: u32, size: Count, of: fn(&mut ExceptionCounters) -> &mut Count) {
    if EXCEPTION_COUNTERS.get_ptr_mut(rule).is_none() {
        // Where this fails there are too many of them, and the next hop's counters say it alone.
        let _ = EXCEPTION_COUNTERS.insert(&rule, &ExceptionCounters::default(), BPF_NOEXIST.into());
    }
    if let Some(counters) = EXCEPTION_COUNTERS.get_ptr_mut(rule) {
        // SAFETY: the entry is this CPU's own.
        count(of(unsafe { &mut *counters }), size);
    }
}

/// Hands the packet to a next hop. The helper always gets its neighbour from here: left to itself it would ask the
/// routing table, and leak a route on many kernels (CVE-2025-40183).
#[inline(always)]
pub fn redirect(next_hop: &NextHop, packet: &Packet) -> i32 {
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
