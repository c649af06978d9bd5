//! Which next hop a packet gets: one that is alive, of a group the one that the packet's flow belongs to.
//!
//! A next hop is alive on a CPU for a moment after a probe has got through (`proven`), as long as each packet arrives before the
//! next one departs. The kernel redirects at once, so that one that has not arrived waits for its neighbour, or its device is
//! down. Otherwise the packet itself is the next [probe].

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_jiffies64, bpf_ktime_get_ns},
    programs::TcContext,
};
use byway_abi::{
    BUCKETS, Count, DEVICE_REFUSES, DEVICE_TAKES, FAMILY_ON_LINK, Group, GroupKey, MAX_MEMBERS,
    NEXT_HOP_DOWN, NextHop, NextHopCounters, NextHopHealth, OUTSTANDING, PROBE_AFTER_MAX, PROBE_AFTER_MIN,
    PROBE_ASKED, PROBE_DROPPED, PROBE_REFUSED, PROBE_SENT, PROBE_TOO_BIG, PROVEN_FOR, SILENCE,
    SILENCE_ON_LINK, TARGET_GROUP, Target,
};

use crate::{
    count, counts, flow,
    maps::{GROUPS, NEXT_HOP_COUNTERS, NEXT_HOP_DEVICES, NEXT_HOP_HEALTH, NEXT_HOPS},
    packet::Packet,
    probe,
};

/// How often a flow's hash is hashed again for another bucket, before the members are tried in turn.
const TRIES: usize = 4;

/// The next hop that a packet gets.
pub enum Choice {
    /// The one in this slot.
    Live(u32, &'static NextHop, *mut NextHopCounters),
    /// The one in this slot, where it has gone already, as a probe; and whether its MSS option was clamped.
    Sent(u32, *mut NextHopCounters, bool),
    /// None is alive; what holds then is [`byway_abi::ON_DOWN_PASS`] or its like.
    Down(u8),
}

/// Picks the next hop of a target that was found in this generation.
///
/// A flow's bucket names its member, and the buckets do not change when a member dies. The flows of a dead one look
/// for another bucket each by itself, so that they spread by weight; the flows of the others stay where they are, and when
/// the member is back, so are its flows.
#[inline(always)]
pub fn choose(ctx: &TcContext, packet: &Packet, target: &Target, generation: u32, size: Count) -> Choice {
    let is_group = target.kind == TARGET_GROUP;
    if !is_group && let Some((next_hop, counters)) = proven(target.index) {
        return Choice::Live(target.index, next_hop, counters);
    }
    let mut group: Option<&'static Group> = None;
    let mut hash = 0;
    if is_group {
        // SAFETY: userspace replaces groups whole, and waits for the program's run before it uses their memory again.
        group = unsafe { GROUPS.get(&GroupKey { group: target.index, generation }) };
        if group.is_none() {
            return Choice::Down(target.on_down);
        }
        hash = flow::hash(ctx, packet);
    }
    let on_down = group.map_or(target.on_down, |group| group.on_down);
    let start = hash;
    let mut own = 0;
    // Slot 0 is nobody's.
    let mut chosen = 0;
    let mut doubtful = 0;
    let mut state = DEAD;
    for attempt in 0..TRIES + MAX_MEMBERS {
        let slot = match group {
            None => target.index,
            Some(group) => {
                let member = if attempt < TRIES {
                    let bucket = hash as usize % BUCKETS;
                    hash = flow::rehash(hash);
                    u32::from(group.buckets[bucket])
                } else {
                    let nth = (attempt - TRIES) as u32;
                    if nth >= group.count {
                        break;
                    }
                    // The count is not 0 here.
                    start.wrapping_add(nth) % group.count
                };
                group.members[member as usize % MAX_MEMBERS]
            }
        };
        if attempt == 0 {
            own = slot;
        }
        // SAFETY: the verifier has seen the function by itself.
        state = unsafe { state_of(ctx.skb.skb, slot, target.mss.into()) };
        if state >= LIVE {
            chosen = slot;
            break;
        }
        if state == DOUBTFUL && doubtful == 0 {
            doubtful = slot;
        }
        if !is_group {
            break;
        }
    }
    // Where there is no other way, it waits for its neighbour, as it would behind a route.
    if chosen == 0 {
        chosen = doubtful;
    }
    if chosen != own
        && let Some(counters) = NEXT_HOP_COUNTERS.get_ptr_mut(own)
    {
        // SAFETY: the entry is this CPU's own.
        count(unsafe { &mut (*counters).failed_over }, size);
    }
    match (NEXT_HOPS.get(chosen), NEXT_HOP_COUNTERS.get_ptr_mut(chosen)) {
        (Some(_), Some(counters)) if state == SENT || state == SENT_CLAMPED => {
            Choice::Sent(chosen, counters, state == SENT_CLAMPED)
        }
        (Some(next_hop), Some(counters)) if chosen != 0 => Choice::Live(chosen, next_hop, counters),
        _ => Choice::Down(on_down),
    }
}

/// The next hop in a slot, if it is proven to be alive. This much is quick, and true of nearly all packets. What other CPUs know
/// is not asked: this one finds it out with its next packet, or when its own proof ends.
#[inline(always)]
fn proven(slot: u32) -> Option<(&'static NextHop, *mut NextHopCounters)> {
    let next_hop = NEXT_HOPS.get(slot)?;
    let counters = NEXT_HOP_COUNTERS.get_ptr_mut(slot)?;
    let is_proven = next_hop.flags & NEXT_HOP_DOWN == 0
        && is_recent(counters)
        && NEXT_HOP_DEVICES.get_ifindex(slot).is_some();
    is_proven.then_some((next_hop, counters))
}

/// Whether a probe got through a short while ago on this CPU, and everything has arrived since.
#[inline(always)]
fn is_recent(counters: *const NextHopCounters) -> bool {
    // Signed: what is outstanding has the sign.
    // SAFETY: the entry is this CPU's own; the helper only reads the clock.
    unsafe { (*counters).proven as i64 > bpf_jiffies64() as i64 }
}

// States of a next hop. From LIVE on the packet goes there, or has gone.
/// No packet should go there.
const DEAD: u32 = 0;
/// It has not answered, and may yet: packets go there that have no other way.
const DOUBTFUL: u32 = 1;
const LIVE: u32 = 2;
/// It is alive, and the packet has gone there.
const SENT: u32 = 3;
/// Likewise, with its MSS option clamped.
const SENT_CLAMPED: u32 = 4;

/// The state of the next hop in a slot. Where it is time for a probe, the packet is one.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn state_of(skb: *mut __sk_buff, slot: u32, mss: u32) -> u32 {
    if proven(slot).is_some() {
        return LIVE;
    }
    let state = || {
        let next_hop = NEXT_HOPS.get(slot)?;
        if next_hop.flags & NEXT_HOP_DOWN != 0 || NEXT_HOP_DEVICES.get_ifindex(slot).is_none() {
            return None;
        }
        // A probe that has lost its mark on its way, and comes back as a packet like any other.
        if probe::is_under_way(slot) {
            return None;
        }
        let is_on_link = next_hop.family == FAMILY_ON_LINK;
        let counters = NEXT_HOP_COUNTERS.get_ptr_mut(slot)?;
        let health = NEXT_HOP_HEALTH.get_ptr_mut(slot)?;
        // SAFETY: the map's values live as long as the program. Another CPU may write them at the same time; what is
        // lost then costs one probe more or less.
        let health: &mut NextHopHealth = unsafe { &mut *health };
        // SAFETY: the helper only reads the clock.
        let now = unsafe { bpf_ktime_get_ns() };
        // Without a gateway, each destination is a neighbour of its own, whose silence is nobody else's. Only the device's own
        // word counts, and if that cannot be had at all, a long silence of everybody.
        let patience = if is_on_link { SILENCE_ON_LINK } else { SILENCE };
        let silence = |health: &NextHopHealth| {
            let is_later = is_on_link && health.taken > health.silent_since;
            now.saturating_sub(if is_later { health.taken } else { health.silent_since })
        };
        // Before that counts, none of its packets is let go unheard: one of them makes the kernel ask for its neighbour.
        let is_urgent = is_on_link && silence(health) > patience / 2;
        if health.silent_since == 0 || is_urgent || is_due(health, now) {
            let before = health.probed;
            health.probed = now;
            let outcome = probe::send(skb, slot, mss);
            match outcome & !probe::CLAMPED {
                PROBE_SENT => {
                    health.silent_since = 0;
                    health.device = DEVICE_TAKES;
                    health.taken = now;
                    // SAFETY: the entry is this CPU's own; the helper only reads the clock.
                    unsafe { (*counters).proven = bpf_jiffies64() + PROVEN_FOR };
                    return Some(if outcome & probe::CLAMPED != 0 { SENT_CLAMPED } else { SENT });
                }
                // It got there, and no further; the next packet is another probe.
                PROBE_DROPPED => return Some(SENT),
                // It tells nothing. Whoever sent it is told of the size, unless there is another way.
                PROBE_TOO_BIG => {
                    health.probed = before;
                    return Some(if health.silent_since == 0 { LIVE } else { DOUBTFUL });
                }
                probe::UNPROBED if health.silent_since == 0 => return Some(LIVE),
                PROBE_REFUSED => health.device = DEVICE_REFUSES,
                PROBE_ASKED => {
                    health.device = DEVICE_TAKES;
                    health.taken = now;
                }
                _ => {}
            }
            if health.silent_since == 0 {
                health.silent_since = now;
            }
        }
        let is_dead = health.device == DEVICE_REFUSES || silence(health) >= patience;
        Some(if is_dead { DEAD } else { DOUBTFUL })
    };
    state().unwrap_or(DEAD)
}

/// Whether a silent next hop is to be probed again.
#[inline(always)]
fn is_due(health: &NextHopHealth, now: u64) -> bool {
    let after = now.saturating_sub(health.silent_since) / 8;
    let after = if after < PROBE_AFTER_MIN {
        PROBE_AFTER_MIN
    } else if after > PROBE_AFTER_MAX {
        PROBE_AFTER_MAX
    } else {
        after
    };
    now.saturating_sub(health.probed) >= after
}

/// Notes that a packet has departed to a next hop.
#[inline(always)]
pub fn departed(counters: *mut NextHopCounters, size: Count) {
    // SAFETY: the entry is this CPU's own.
    unsafe {
        if counts(byway_abi::counters::OF_NEXT_HOPS) {
            count(&mut (*counters).departed, size);
        }
        (*counters).proven |= OUTSTANDING;
    }
}

/// Notes that a packet has arrived at the next hop in a slot.
#[inline(always)]
pub fn arrived(slot: u32, size: Count) {
    if let Some(counters) = NEXT_HOP_COUNTERS.get_ptr_mut(slot) {
        // SAFETY: the entry is this CPU's own.
        unsafe {
            if counts(byway_abi::counters::OF_NEXT_HOPS) {
                count(&mut (*counters).arrived, size);
            }
            (*counters).proven &= !OUTSTANDING;
        }
    }
}

/// Notes that a packet has arrived at the next hop in a slot that had to wait for its neighbour: it has answered.
#[inline(always)]
pub fn neighbour_answered(slot: u32) {
    if let Some(health) = NEXT_HOP_HEALTH.get_ptr_mut(slot) {
        // SAFETY: as in `state_of`.
        let health = unsafe { &mut *health };
        health.silent_since = 0;
        health.device = DEVICE_TAKES;
    }
}
