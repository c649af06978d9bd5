//! Which next hop a packet gets: one that is alive, of a group the one that the packet's flow belongs to.
//!
//! A next hop is alive on a CPU for a moment after a probe has got through (`proven`), as long as each packet arrives before the
//! next one departs. The kernel redirects at once, so that one that has not arrived waits for its neighbour, or its device is
//! down. Otherwise the packet itself is the next [probe].

use core::cell::Cell;

use byway_abi::{
    BUCKETS, Count, DEVICE_REFUSES, DEVICE_TAKES, FAMILY_ON_LINK, Group, GroupKey, MAX_MEMBERS,
    NEXT_HOP_DOWN, NextHop, NextHopCounters, OUTSTANDING, PROBE_ASKED, PROBE_DROPPED, PROBE_REFUSED,
    PROBE_SENT, PROBE_TOO_BIG, PROVEN_FOR, SILENCE, SILENCE_ON_LINK, TARGET_GROUP, Target, counters,
    flow::{TRIES, rehash},
};

use crate::{
    clock,
    count::{self, counts},
    flow,
    health::Health,
    maps::{GROUPS, NEXT_HOP_COUNTERS, NEXT_HOP_DEVICES, NEXT_HOPS},
    packet::Packet,
    probe,
    rows::{PerCpu, field},
    skb::Skb,
};

/// A next hop.
pub struct Hop {
    pub slot: u32,
    pub next_hop: &'static NextHop,
    /// What went to it, on this CPU.
    pub counters: &'static Cell<NextHopCounters>,
}

impl Hop {
    #[inline(always)]
    fn of(slot: u32) -> Option<Self> {
        Some(Self { slot, next_hop: NEXT_HOPS.get(slot)?, counters: NEXT_HOP_COUNTERS.mine(slot)? })
    }
}

/// Counts a packet in a counter of a next hop.
#[inline(always)]
pub fn count(counter: &Cell<Count>, size: Count) {
    if counts(counters::OF_NEXT_HOPS) {
        count::count(counter, size);
    }
}

/// The next hop that a packet gets.
pub enum Choice {
    /// This one: it is alive, or it is doubtful and there is no other way.
    Send(Hop),
    /// This one, where it has gone already, as a probe; and whether its MSS option was clamped.
    Sent(Hop, bool),
    /// None is alive; what holds then is [`byway_abi::ON_DOWN_PASS`] or its like.
    Down(u8),
}

/// Picks the next hop of a target that was found in this generation.
#[inline(always)]
pub fn choose(skb: &Skb, packet: &Packet, target: &Target, generation: u32, size: Count) -> Choice {
    let pick = if target.kind == TARGET_GROUP {
        let flow = flow::hash(skb, packet);
        match pick_of_group(skb, target.index, generation, flow, target.mss.into()) {
            0 => return Choice::Down(target.on_down),
            pick => Pick::unpack(pick),
        }
    } else {
        if let Some(hop) = proven(target.index) {
            return Choice::Send(hop);
        }
        pick_one(skb, target)
    };
    if pick.slot != pick.own {
        count_failed_over(pick.own, size);
    }
    match Hop::of(pick.slot) {
        Some(hop) if pick.state >= SENT => Choice::Sent(hop, pick.state == SENT_CLAMPED),
        // Slot 0 is nobody's.
        Some(hop) if pick.slot != 0 => Choice::Send(hop),
        _ => Choice::Down(pick.on_down),
    }
}

/// Counts a packet for the next hop that should have had it, and did not get it.
#[inline(always)]
fn count_failed_over(slot: u32, size: Count) {
    if let Some(counters) = NEXT_HOP_COUNTERS.mine(slot) {
        count(field!(counters, failed_over), size);
    }
}

/// Which next hop a packet gets that does not go to a proven one at once.
struct Pick {
    /// The slot of the next hop that is the packet's own, where that is alive.
    own: u32,
    /// The slot of the one that it gets, or 0.
    slot: u32,
    /// The state of that one, where the packet has gone there.
    state: u32,
    /// What holds where it gets none: [`byway_abi::ON_DOWN_PASS`] or its like.
    on_down: u8,
}

impl Pick {
    /// What fits into the one number that a function of its own returns: 24 bits for each slot, and 8 for each of the others.
    #[inline(always)]
    fn pack(self) -> u64 {
        u64::from(self.own) << 40
            | u64::from(self.slot) << 16
            | u64::from(self.state) << 8
            | u64::from(self.on_down)
    }

    #[inline(always)]
    fn unpack(packed: u64) -> Self {
        Self {
            own: (packed >> 40) as u32,
            slot: (packed >> 16) as u32 & 0xFF_FFFF,
            state: (packed >> 8) as u32 & 0xFF,
            on_down: packed as u8,
        }
    }
}

/// The only next hop that there is.
#[inline(always)]
fn pick_one(skb: &Skb, target: &Target) -> Pick {
    let own = target.index;
    let state = probed_state(skb, own, target.mss.into());
    // Where there is no other way, a packet waits for its neighbour, as it would behind a route.
    Pick { own, slot: if state == DEAD { 0 } else { own }, state, on_down: target.on_down }
}

/// [`pick_member`] as a function that the verifier sees by itself: it follows it once, and not in each state of the packet around
/// it. Nothing where there is no such group.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn pick_of_group(skb: &Skb, group: u32, generation: u32, flow: u32, mss: u32) -> u64 {
    // SAFETY: userspace replaces groups whole. The memory of one that it takes back may be that of another group while this
    // reads: any member of it is a slot, or 0.
    let group = unsafe { GROUPS.get(&GroupKey { group, generation }) };
    group.map_or(0, |group| pick_member(skb, group, flow, mss).pack())
}

/// The member of a group that a flow gets.
///
/// A flow's bucket names its member, and the buckets do not change when a member dies. The flows of a dead one look
/// for another bucket each by itself, so that they spread by weight; the flows of the others stay where they are, and when
/// the member is back, so are its flows.
#[inline(always)]
fn pick_member(skb: &Skb, group: &Group, flow: u32, mss: u32) -> Pick {
    let on_down = group.on_down;
    let mut hash = flow;
    let (mut own, mut doubtful) = (0, 0);
    for attempt in 0..TRIES + MAX_MEMBERS {
        let member = if attempt < TRIES {
            let bucket = hash as usize % BUCKETS;
            hash = rehash(hash);
            u32::from(group.buckets[bucket])
        } else {
            let nth = (attempt - TRIES) as u32;
            if nth >= group.count {
                break;
            }
            // The count is not 0 here.
            flow.wrapping_add(nth) % group.count
        };
        let slot = group.members[member as usize % MAX_MEMBERS];
        if attempt == 0 {
            own = slot;
        }
        let state = probed_state(skb, slot, mss);
        if state >= LIVE {
            return Pick { own, slot, state, on_down };
        }
        if state == DOUBTFUL && doubtful == 0 {
            doubtful = slot;
        }
    }
    // As above: it waits.
    Pick { own, slot: doubtful, state: DOUBTFUL, on_down }
}

/// The next hop in a slot, if it is proven to be alive. This much is quick, and true of nearly all packets. What other CPUs know
/// is not asked: this one finds it out with its next packet, or when its own proof ends.
#[inline(always)]
fn proven(slot: u32) -> Option<Hop> {
    let hop = Hop::of(slot)?;
    let is_proven = hop.next_hop.flags & NEXT_HOP_DOWN == 0
        && is_recent(hop.counters)
        && NEXT_HOP_DEVICES.get_ifindex(slot).is_some();
    is_proven.then_some(hop)
}

/// Whether a probe got through a short while ago on this CPU, and everything has arrived since.
#[inline(always)]
fn is_recent(counters: &Cell<NextHopCounters>) -> bool {
    // Signed: what is outstanding has the sign.
    field!(counters, proven).get() as i64 > clock::jiffies() as i64
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
extern "C" fn probed_state(skb: &Skb, slot: u32, mss: u32) -> u32 {
    if proven(slot).is_some() { LIVE } else { probe_if_due(skb, slot, mss).unwrap_or(DEAD) }
}

/// The same of one that is not proven to be alive; nothing where no packet should go there.
#[inline(always)]
fn probe_if_due(skb: &Skb, slot: u32, mss: u32) -> Option<u32> {
    let next_hop = NEXT_HOPS.get(slot)?;
    if next_hop.flags & NEXT_HOP_DOWN != 0 || NEXT_HOP_DEVICES.get_ifindex(slot).is_none() {
        return None;
    }
    // A probe that has lost its mark on its way, and comes back as a packet like any other.
    if probe::is_under_way(slot) {
        return None;
    }
    let is_on_link = next_hop.family == FAMILY_ON_LINK;
    let counters = NEXT_HOP_COUNTERS.mine(slot)?;
    let health = Health::of(slot)?;
    let now = clock::now();
    // Without a gateway, each destination is a neighbour of its own, whose silence is nobody else's. Only the device's own
    // word counts, and if that cannot be had at all, a long silence of everybody.
    let patience = if is_on_link { SILENCE_ON_LINK } else { SILENCE };
    // Before that counts, each of its packets is a probe: one of them makes the kernel ask for its neighbour.
    let is_urgent = is_on_link && health.silence(is_on_link, now) > patience / 2;
    if health.silent_since.get() == 0 || is_urgent || health.is_due(now) {
        let before = health.probed.get();
        health.probed.set(now);
        let outcome = probe::send(skb, slot, mss);
        match outcome & !probe::CLAMPED {
            PROBE_SENT => {
                health.silent_since.set(0);
                health.device.set(DEVICE_TAKES);
                health.taken.set(now);
                field!(counters, proven).set(clock::jiffies() + PROVEN_FOR);
                return Some(if outcome & probe::CLAMPED != 0 { SENT_CLAMPED } else { SENT });
            }
            // It got there, and no further; the next packet is another probe.
            PROBE_DROPPED => return Some(SENT),
            // It tells nothing. Whoever sent it is told of the size, unless there is another way.
            PROBE_TOO_BIG => {
                health.probed.set(before);
                return Some(if health.silent_since.get() == 0 { LIVE } else { DOUBTFUL });
            }
            probe::UNPROBED if health.silent_since.get() == 0 => return Some(LIVE),
            PROBE_REFUSED => health.device.set(DEVICE_REFUSES),
            PROBE_ASKED => {
                health.device.set(DEVICE_TAKES);
                health.taken.set(now);
            }
            _ => {}
        }
        if health.silent_since.get() == 0 {
            health.silent_since.set(now);
        }
    }
    let is_dead = health.device.get() == DEVICE_REFUSES || health.silence(is_on_link, now) >= patience;
    Some(if is_dead { DEAD } else { DOUBTFUL })
}

/// Notes that a packet has departed to a next hop.
#[inline(always)]
pub fn departed(hop: &Hop, size: Count) {
    count(field!(hop.counters, departed), size);
    let proven = field!(hop.counters, proven);
    proven.set(proven.get() | OUTSTANDING);
}

/// Notes that a packet has arrived at the next hop in a slot.
#[inline(always)]
pub fn arrived(slot: u32, size: Count) {
    if let Some(counters) = NEXT_HOP_COUNTERS.mine(slot) {
        count(field!(counters, arrived), size);
        let proven = field!(counters, proven);
        proven.set(proven.get() & !OUTSTANDING);
    }
}
