//! The decision: what becomes of a packet that leaves by an attachment, and of one that has arrived.

use byway_abi::{
    Count, MSS_OFF, ON_DOWN_DROP, ON_DOWN_PASS, TARGET_DROP, TARGET_GROUP, TARGET_NEXT_HOP, TARGET_PASS,
    Target, class, is_reply_to, meta,
};

use crate::{
    count::{
        attachment_counters, count, count_class, count_exception, count_matched, exception, measure,
        rule_counters,
    },
    health, icmp_error, liveness, lookup,
    maps::{ATTACHMENTS, META, NEXT_HOPS, RECEIVERS},
    mark::{self, AGAIN, FLAGS, Mark, REPLY},
    next_hop::{self, Choice, Hop},
    packet::{self, Header, Packet},
    probe,
    redirect::{self, push_ethernet, redirect},
    reply,
    rows::field,
    size::{self, Size},
    skb::Skb,
    verdict::{self, DROP, LEAVE, Verdict},
    ways,
};

/// Looks up the packet's rule, and does what its target says.
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
    // Read once, so that all look-ups for this packet are in one generation.
    let Some(generation) = META.get(meta::GENERATION).map(|generation| generation & 1) else { return LEAVE };
    let Some(mut target) = lookup::find(&packet, generation).filter(|_| is_on_attachment(skb)) else {
        count_class(attachment, class::NOT_MATCHED, size);
        return LEAVE;
    };
    count_class(attachment, class::MATCHED, size);
    // Measured anew and changed in place: on Linux 5.10, all calls share a stack that has no room for more than this.
    if is_reply_to(target.kind) {
        if let Some(verdict) = send_back(skb, header, packet, &target, measure(skb)) {
            return verdict;
        }
        target = target.without_reply_to();
        // What is no reply has not found its way.
        match target.kind {
            TARGET_PASS => return fall_back(target.rule, ON_DOWN_PASS, measure(skb)),
            TARGET_DROP => return fall_back(target.rule, ON_DOWN_DROP, measure(skb)),
            _ => {}
        }
    }
    let size = measure(skb);
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

/// Leaves alone a packet that no rule may match. If it is a solicitation, tells the probe.
#[inline(always)]
fn leave(skb: &Skb, class: usize) -> Verdict {
    // A solicitation is in one of these: ARP is not IP, and IPv6's goes to a multicast address, or to the neighbour's own.
    if matches!(class, class::NOT_IP | class::NEIGHBOUR_DISCOVERY | class::MULTICAST) {
        probe::note_solicitation(skb)
    } else {
        LEAVE
    }
}

/// Returns whether the device is still an attachment. If it moves to another network namespace, it may take the program along,
/// but not the rules. Most packets find no target, so only those that do pay for this.
#[inline(always)]
fn is_on_attachment(skb: &Skb) -> bool {
    ATTACHMENTS.get_ifindex(skb.ifindex()).is_some()
}

/// Sends the packet to a next hop of its target. If none is in service, does what `on_down` says.
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

/// Sends the packet to this next hop, if it fits the MTU. The packet has an Ethernet header by now.
#[inline(always)]
fn send_to(skb: &Skb, header: Header, packet: &Packet, target: &Target, hop: &Hop, size: Count) -> Verdict {
    let may_be_syn = target.mss != MSS_OFF && size::may_be_syn(skb, packet);
    let mtu = match size::check_mtu(skb, packet, hop.next_hop.ifindex, hop.next_hop.mtu, may_be_syn) {
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

/// Sends a reply back by the way that its flow came in by. Returns `None` if the packet is no reply of a known flow, if the
/// device of its way is gone or the way out of service, or if the rule is for flows of other devices.
#[inline(always)]
fn send_back(skb: &Skb, header: Header, packet: Packet, target: &Target, size: Count) -> Option<Verdict> {
    let number = reply::way(skb, &packet);
    let way = ways::known_way(number).filter(|way| RECEIVERS.get_ifindex(way.ifindex).is_some())?;
    if reply::is_of(target.devices(), way.ifindex) == 0 || !liveness::use_way(number) {
        return None;
    }
    let rule = target.rule;
    if way.ifindex == skb.ifindex() {
        if way.addresses != [0; 3] && redirect::write_addresses(skb, way).is_none() {
            return Some(LEAVE);
        }
        count_matched(rule, size);
        count_arrived(rule, NO_SLOT, size);
        return Some(LEAVE);
    }
    let Some(packet) = push_ethernet(skb, packet, header) else { return Some(LEAVE) };
    let fits = size::fit(skb, size::kind_of(&packet), way.ifindex, ANY_MTU, target.mss.into());
    if fits & size::TOO_BIG != 0 {
        let verdict = icmp_error::answer_too_big(skb, NO_SLOT, fits as u32);
        count_exception(rule, exception_of(verdict), size);
        return Some(verdict);
    }
    if fits & size::CLAMPED != 0 {
        count_exception(rule, exception::CLAMPED, size);
    }
    mark::write(skb, rule, 0, NO_SLOT | REPLY);
    // It has room for an Ethernet header by now.
    let Some(verdict) = redirect::send_back(skb, way) else { return Some(DROP) };
    count_matched(rule, size);
    Some(verdict)
}

/// The slot of replies, which have no next hop. It is always empty. Its counters are shown nowhere, and its allowance of ICMP
/// errors is that of all replies.
const NO_SLOT: u32 = 0;
/// The MTU of a way's device on kernels that do not tell it.
const ANY_MTU: u32 = u32::MAX;

/// Answers a packet that is too big for its next hop, or drops it.
#[inline(always)]
fn refuse_too_big(skb: &Skb, rule: u32, hop: &Hop, mtu: u32, size: Count) -> Verdict {
    let verdict = icmp_error::answer_too_big(skb, hop.slot, mtu);
    count_exception(rule, exception_of(verdict), size);
    if verdict != DROP {
        next_hop::count(field!(hop.counters, icmp_sent), size);
    } else {
        next_hop::count(field!(hop.counters, too_big_dropped), size);
    }
    verdict
}

/// Returns the exception that a packet counts as which is too big and gets this verdict.
#[inline(always)]
fn exception_of(verdict: Verdict) -> u32 {
    if verdict == DROP { exception::TOO_BIG_DROPPED } else { exception::ICMP_SENT }
}

/// Counts the packet, then passes or drops it as `on_down` says.
#[inline(always)]
fn fall_back(rule: u32, on_down: u8, size: Count) -> Verdict {
    count_exception(rule, exception::NO_NEXT_HOP, size);
    if on_down == ON_DOWN_DROP { DROP } else { LEAVE }
}

/// Counts a redirected packet that has arrived. Returns `None` for any other packet. `departs` says whether the device is an
/// attachment, where probes pass twice.
#[inline(always)]
pub fn arrive(skb: &Skb, header: Header, departs: bool) -> Option<Verdict> {
    let mark = mark::read(skb)?;
    if mark.is_of_probe() {
        return Some(probe::receive(skb, header, departs, &mark));
    }
    let is_again = mark.slot & AGAIN != 0;
    // A device without an Ethernet header has no neighbours that a packet could wait for.
    if let Header::Ethernet = header
        && mark.slot & (AGAIN | REPLY) == 0
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

/// Sends the packet to its next hop once more, now that the neighbour is resolved. Never twice: if both links have the same
/// addresses on both ends, the old header is the right one.
// Inlined like everything else: a function's symbol contains a hash of the folder that it was built in, so the object would
// not be the same everywhere.
#[inline(always)]
fn redirect_again(skb: &Skb, mark: &Mark, found: Header) -> Verdict {
    mark::write_slot(skb, mark.slot | AGAIN);
    let packet = packet::parse(skb, found.len()).ok().and_then(|packet| push_ethernet(skb, packet, found));
    match (packet, NEXT_HOPS.get(mark.slot & !FLAGS)) {
        (Some(packet), Some(next_hop)) => redirect(next_hop, &packet),
        _ => LEAVE,
    }
}

/// Counts a packet that has arrived, for its rule and its next hop.
#[inline(always)]
fn count_arrived(rule: u32, slot: u32, size: Count) {
    if let Some(row) = rule_counters(rule) {
        count(field!(row, arrived), size);
    }
    next_hop::arrived(slot, size);
}

/// Counts a packet whose MSS option was clamped, for its rule and its next hop.
#[inline(always)]
fn count_clamped(rule: u32, hop: &Hop, size: Count) {
    count_exception(rule, exception::CLAMPED, size);
    next_hop::count(field!(hop.counters, clamped), size);
}
