//! Which next hop a packet gets: one that is live, of a group the one that the packet's flow belongs to.

use aya_ebpf::{helpers::bpf_ktime_get_ns, programs::TcContext};
use byway_abi::{
    BUCKETS, Count, Group, GroupKey, MAX_MEMBERS, NEXT_HOP_DOWN, NextHop, NextHopCounters, NextHopHealth,
    RETRY, SILENCE, TARGET_GROUP, Target,
};

use crate::{
    count, counts, flow,
    maps::{GROUPS, NEXT_HOP_COUNTERS, NEXT_HOP_DEVICES, NEXT_HOP_HEALTH, NEXT_HOPS},
    packet::Packet,
};

/// How often a flow's hash is hashed again for another bucket, before the members are tried in turn.
const TRIES: usize = 4;

/// The next hop that a packet gets.
pub enum Choice {
    /// The one in this slot.
    Live(u32, &'static NextHop, &'static mut NextHopCounters),
    /// None is live; what holds then is [`byway_abi::ON_DOWN_PASS`] or its like.
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
    if !is_group && let Some((next_hop, counters)) = healthy(target.index) {
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
    for attempt in 0..TRIES + MAX_MEMBERS {
        let slot = match group {
            None => target.index,
            Some(group) => {
                let member = if attempt < TRIES {
                    let bucket = hash as usize % BUCKETS;
                    hash = flow::again(hash);
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
        if is_live(slot) != 0 {
            chosen = slot;
            break;
        }
        if !is_group {
            break;
        }
    }
    if chosen != own
        && let Some(counters) = NEXT_HOP_COUNTERS.get_ptr_mut(own)
    {
        // SAFETY: the entry is this CPU's own.
        count(unsafe { &mut (*counters).skipped }, size);
    }
    match (NEXT_HOPS.get(chosen), NEXT_HOP_COUNTERS.get_ptr_mut(chosen)) {
        // SAFETY: as above.
        (Some(next_hop), Some(counters)) if chosen != 0 => {
            Choice::Live(chosen, next_hop, unsafe { &mut *counters })
        }
        _ => Choice::Down(on_down),
    }
}

/// The next hop in a slot, if nothing at all is the matter with it. This much is quick, and true of nearly all packets.
#[inline(always)]
fn healthy(slot: u32) -> Option<(&'static NextHop, &'static mut NextHopCounters)> {
    let next_hop = NEXT_HOPS.get(slot)?;
    // SAFETY: the entry is this CPU's own.
    let counters = unsafe { &mut *NEXT_HOP_COUNTERS.get_ptr_mut(slot)? };
    // SAFETY: as in `is_silent`.
    let silent_since = unsafe { (*NEXT_HOP_HEALTH.get_ptr(slot)?).silent_since };
    let is_healthy = next_hop.flags & NEXT_HOP_DOWN == 0
        && counters.outstanding == 0
        && silent_since == 0
        && NEXT_HOP_DEVICES.get_ifindex(slot).is_some();
    is_healthy.then_some((next_hop, counters))
}

/// Whether packets get to the next hop in a slot: 1 if they do.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn is_live(slot: u32) -> u32 {
    let is_live = || {
        let next_hop = NEXT_HOPS.get(slot)?;
        // SAFETY: the entry is this CPU's own.
        let counters = unsafe { &*NEXT_HOP_COUNTERS.get_ptr(slot)? };
        let is_live = next_hop.flags & NEXT_HOP_DOWN == 0
            && NEXT_HOP_DEVICES.get_ifindex(slot).is_some()
            && !is_silent(slot, counters);
        is_live.then_some(())
    };
    if is_live().is_some() { 1 } else { 0 }
}

/// Whether the next hop has let nothing arrive for too long, so that this packet should not go there. From time to time
/// one goes there all the same, to see.
///
/// A packet arrives before the next one departs on the same CPU, since the kernel redirects at once. If it has not, it
/// waits for its neighbour, or its device is down.
#[inline(always)]
fn is_silent(slot: u32, counters: &NextHopCounters) -> bool {
    let Some(health) = NEXT_HOP_HEALTH.get_ptr_mut(slot) else { return false };
    // SAFETY: the map's values live as long as the program. Another CPU may write them at the same time; a lost write
    // costs one packet that tries the next hop.
    let health: &mut NextHopHealth = unsafe { &mut *health };
    if health.silent_since == 0 && counters.outstanding == 0 {
        return false;
    }
    // SAFETY: the helper only reads the clock.
    let now = unsafe { bpf_ktime_get_ns() };
    if health.silent_since == 0 {
        health.silent_since = now;
        return false;
    }
    if now.saturating_sub(health.silent_since) < SILENCE {
        return false;
    }
    if now.saturating_sub(health.tried) >= RETRY && health.kept_away != 0 {
        health.tried = now;
        health.kept_away = 0;
        return false;
    }
    if health.kept_away == 0 {
        health.kept_away = 1;
    }
    true
}

/// Notes that a packet has arrived at the next hop in a slot.
#[inline(always)]
pub fn heard(slot: u32, size: Count) {
    if let Some(counters) = NEXT_HOP_COUNTERS.get_ptr_mut(slot) {
        // SAFETY: the entry is this CPU's own.
        let counters = unsafe { &mut *counters };
        if counts(byway_abi::counters::OF_NEXT_HOPS) {
            count(&mut counters.arrived, size);
        }
        counters.outstanding = 0;
    }
    if let Some(health) = NEXT_HOP_HEALTH.get_ptr_mut(slot) {
        // SAFETY: as in `is_silent`.
        let health = unsafe { &mut *health };
        // Written only where something changes: the line is every CPU's.
        if health.silent_since != 0 {
            health.silent_since = 0;
        }
    }
}
