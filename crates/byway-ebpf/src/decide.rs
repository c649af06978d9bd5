//! The decision: from a packet's addresses to a next hop, and the count of what went there.

use byway_abi::{
    Count, MSS_OFF, ON_DOWN_DROP, TARGET_DROP, TARGET_GROUP, TARGET_NEXT_HOP, TARGET_PASS, Target, class,
    meta,
};

use crate::{
    count::{
        attachment_counters, count, count_class, count_exception, count_matched, exception, measure,
        rule_counters,
    },
    health, icmp_error, lookup,
    maps::{ATTACHMENTS, META, NEXT_HOPS},
    mark::{self, AGAIN, FLAGS, Mark},
    next_hop::{self, Choice, Hop},
    packet::{self, Header, Packet},
    probe,
    redirect::{push_ethernet, redirect},
    rows::field,
    size::{self, Size},
    skb::Skb,
    verdict::{self, DROP, LEAVE, Verdict},
};

/// Does with the packet what a rule says.
#[inline(always)]
pub fn depart(skb: &Skb, header: Header) -> Verdict {
    let size = measure(skb);
    let attachment = attachment_counters(skb.ifindex());
    let packet = match packet::parse(skb, header.len()) {
        Ok(packet) => packet,
        Err(class) => {
            count_class(attachment, class, size);
            return leave(skb, class);
        }
    };
    // Once: all that the packet finds is of one generation.
    let Some(generation) = META.get(meta::GENERATION).map(|generation| generation & 1) else { return LEAVE };
    let Some(target) = lookup::find(&packet, generation).filter(|_| is_on_attachment(skb)) else {
        count_class(attachment, class::NOT_MATCHED, size);
        return LEAVE;
    };
    count_class(attachment, class::MATCHED, size);
    match target.kind {
        TARGET_NEXT_HOP | TARGET_GROUP => send(skb, header, packet, &target, generation, size),
        TARGET_PASS => {
            count_matched(target.rule, size);
            LEAVE
        }
        TARGET_DROP => {
            count_matched(target.rule, size);
            DROP
        }
        _ => LEAVE,
    }
}

/// Leaves a packet of a class that no rule may speak about to the kernel, unless a probe has to know of it.
#[inline(always)]
fn leave(skb: &Skb, class: usize) -> Verdict {
    // What asks for a neighbour is one of these: IPv6 asks all that may be meant.
    if matches!(class, class::NOT_IP | class::NEIGHBOUR_DISCOVERY | class::MULTICAST) {
        probe::note_solicitation(skb)
    } else {
        LEAVE
    }
}

/// Whether the device is an attachment: one that moves to another network namespace may take the program along, but not the rules.
/// Asked only of what has found a target, since most packets find none.
#[inline(always)]
fn is_on_attachment(skb: &Skb) -> bool {
    ATTACHMENTS.get_ifindex(skb.ifindex()).is_some()
}

/// Sends the packet to a next hop of its target, or does what is to be done where none is alive.
#[inline(always)]
fn send(skb: &Skb, header: Header, packet: Packet, target: &Target, generation: u32, size: Count) -> Verdict {
    match next_hop::choose(skb, &packet, target, generation, size) {
        Choice::Send(hop) => match push_ethernet(skb, packet, header) {
            Some(packet) => send_to(skb, header, &packet, target, &hop, size),
            None => LEAVE,
        },
        Choice::Sent(hop, is_clamped) => {
            if is_clamped {
                count_clamped(target.rule, &hop, size);
            }
            count_matched(target.rule, size);
            next_hop::departed(&hop, size);
            count_arrived(target.rule, hop.slot, Count { bytes: probe::arrived_len().into(), ..size });
            verdict::consume()
        }
        Choice::Down(on_down) => fall_back(target.rule, on_down, size),
    }
}

/// Sends the packet, which has an Ethernet header by now, to this next hop, if it fits its way.
#[inline(always)]
fn send_to(skb: &Skb, header: Header, packet: &Packet, target: &Target, hop: &Hop, size: Count) -> Verdict {
    let may_be_syn = target.mss != MSS_OFF && size::may_be_syn(skb, packet);
    let mtu = match size::check_mtu(skb, packet, hop.next_hop, may_be_syn) {
        Size::Fits(mtu) => mtu,
        Size::TooBig(mtu) => return refuse_too_big(skb, target.rule, hop, mtu, size),
    };
    if mark::write_departure(skb, target.rule, hop.slot, header).is_none() {
        return LEAVE;
    }
    if may_be_syn && size::clamp_mss(skb, packet, target.mss, mtu) {
        count_clamped(target.rule, hop, size);
    }
    count_matched(target.rule, size);
    next_hop::departed(hop, size);
    redirect(hop.next_hop, packet)
}

/// Answers a packet that is too big for its next hop, or drops it.
#[inline(always)]
fn refuse_too_big(skb: &Skb, rule: u32, hop: &Hop, mtu: u32, size: Count) -> Verdict {
    let verdict = icmp_error::answer_too_big(skb, hop.slot, mtu);
    if verdict != DROP {
        count_exception(rule, exception::ICMP_SENT, size);
        next_hop::count(field!(hop.counters, icmp_sent), size);
    } else {
        count_exception(rule, exception::TOO_BIG_DROPPED, size);
        next_hop::count(field!(hop.counters, too_big_dropped), size);
    }
    verdict
}

/// Does with the packet what holds where no next hop is alive.
#[inline(always)]
fn fall_back(rule: u32, on_down: u8, size: Count) -> Verdict {
    count_exception(rule, exception::NO_NEXT_HOP, size);
    if on_down == ON_DOWN_DROP { DROP } else { LEAVE }
}

/// Receives a packet that was redirected to here; nothing where the packet was not. Once it is counted it is an
/// ordinary packet. `departs` says whether this is an attachment, where probes come by twice.
#[inline(always)]
pub fn arrive(skb: &Skb, header: Header, departs: bool) -> Option<Verdict> {
    let mark = mark::read(skb)?;
    if mark.is_of_probe() {
        return Some(probe::receive(skb, header, departs, &mark));
    }
    let is_again = mark.slot & AGAIN != 0;
    // A device without an Ethernet header has no neighbours to wait for.
    if let Header::Ethernet = header
        && !is_again
        && let Some(found) = mark::was_queued(skb, &mark)
    {
        let verdict = redirect_again(skb, &mark, found);
        if verdict != LEAVE {
            return Some(verdict);
        }
    }
    mark::clear(skb);
    let slot = mark.slot & !FLAGS;
    if is_again {
        health::neighbour_answered(slot);
    }
    count_arrived(mark.rule, slot, measure(skb));
    Some(LEAVE)
}

/// Sends the packet to its next hop once more, now that the neighbour is resolved. Once only: where both links have
/// the same addresses on both ends, the old header is the right one.
// Inlined like all the rest: a function's own symbol carries a hash of the folder that it was built in, and the
// object would not be the same everywhere.
#[inline(always)]
fn redirect_again(skb: &Skb, mark: &Mark, found: Header) -> Verdict {
    mark::write_slot(skb, mark.slot | AGAIN);
    let packet = packet::parse(skb, found.len()).ok().and_then(|packet| push_ethernet(skb, packet, found));
    match (packet, NEXT_HOPS.get(mark.slot & !FLAGS)) {
        (Some(packet), Some(next_hop)) => redirect(next_hop, &packet),
        _ => LEAVE,
    }
}

/// Counts a packet that has arrived.
#[inline(always)]
fn count_arrived(rule: u32, slot: u32, size: Count) {
    if let Some(row) = rule_counters(rule) {
        count(field!(row, arrived), size);
    }
    next_hop::arrived(slot, size);
}

/// Counts a packet whose MSS option was clamped.
#[inline(always)]
fn count_clamped(rule: u32, hop: &Hop, size: Count) {
    count_exception(rule, exception::CLAMPED, size);
    next_hop::count(field!(hop.counters, clamped), size);
}
