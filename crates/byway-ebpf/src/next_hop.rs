//! Which next hop a packet gets: one that is live, of a group the one that the packet's flow belongs to.

use aya_ebpf::{helpers::bpf_ktime_get_ns, programs::TcContext};
use byway_abi::{
    BUCKETS, Group, MAX_MEMBERS, NEXT_HOP_DOWN, NextHop, NextHopCounters, NextHopHealth, RETRY, SILENCE,
    TARGET_GROUP, Target,
};

use crate::{
    count, flow,
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

/// Picks the next hop of a target.
///
/// A flow's bucket names its member, and the buckets do not change when a member dies. The flows of a dead one look
/// for another bucket each by itself, so that they spread by weight; the flows of the others stay where they are, and when
/// the member is back, so are its flows.
#[inline(always)]
pub fn choose(ctx: &TcContext, packet: &Packet, target: &Target) -> Choice {
    let is_group = target.kind == TARGET_GROUP;
    let mut group: Option<&'static Group> = None;
    let mut hash = 0;
    if is_group {
        // SAFETY: userspace replaces groups whole, and waits for the program's run before it uses their memory again.
        group = unsafe { GROUPS.get(&target.index) };
        if group.is_none() {
            return Choice::Down(target.on_down);
        }
        hash = flow::hash(ctx, packet);
    }
    let on_down = group.map_or(target.on_down, |group| group.on_down);
    let start = hash;
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
        if let Some((next_hop, counters)) = live(ctx, slot, attempt == 0) {
            return Choice::Live(slot, next_hop, counters);
        }
        if !is_group {
            break;
        }
    }
    Choice::Down(on_down)
}

/// The next hop in a slot, if packets get there. If not, this one is counted as skipped where it is the next hop's own.
#[inline(always)]
fn live(
    ctx: &TcContext,
    slot: u32,
    is_own: bool,
) -> Option<(&'static NextHop, &'static mut NextHopCounters)> {
    let next_hop = NEXT_HOPS.get(slot)?;
    // SAFETY: the entry is this CPU's own.
    let counters = unsafe { &mut *NEXT_HOP_COUNTERS.get_ptr_mut(slot)? };
    let is_live = next_hop.flags & NEXT_HOP_DOWN == 0
        && NEXT_HOP_DEVICES.get_ifindex(slot).is_some()
        && !is_silent(slot, counters);
    if !is_live {
        if is_own {
            count(ctx, &mut counters.skipped);
        }
        return None;
    }
    Some((next_hop, counters))
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
pub fn heard(ctx: &TcContext, slot: u32) {
    if let Some(counters) = NEXT_HOP_COUNTERS.get_ptr_mut(slot) {
        // SAFETY: the entry is this CPU's own.
        let counters = unsafe { &mut *counters };
        count(ctx, &mut counters.arrived);
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
