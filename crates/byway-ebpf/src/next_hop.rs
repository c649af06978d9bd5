//! The choice of a next hop: one that is in service, and for a group the one that the packet's flow belongs to.
//!
//! A next hop is proven alive on a CPU for a short time after a probe has got through (`proven`), as long as each packet
//! arrives before the next one departs. The kernel redirects at once, so a packet that has not arrived is waiting for its
//! neighbour, or its device is down. Without a proof, a copy of the packet is the next [probe].

use core::cell::Cell;

use byway_abi::{
    BUCKETS, Count, DEVICE_REFUSES, DEVICE_TAKES, FAMILY_ON_LINK, Group, GroupKey, MAX_MEMBERS,
    NEXT_HOP_CHECKED, NEXT_HOP_DOWN, NextHop, NextHopCounters, OUTSTANDING, PROBE_ASKED, PROBE_DROPPED,
    PROBE_REFUSED, PROBE_SENT, PROBE_TOO_BIG, PROVEN_FOR, SILENCE, SILENCE_ON_LINK, TARGET_GROUP, Target,
    counters,
    flow::{TRIES, rehash},
};

use crate::{
    clock,
    count::{self, counts},
    flow,
    health::{self, Health},
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
    /// Its counters on this CPU.
    pub counters: &'static Cell<NextHopCounters>,
}

impl Hop {
    #[inline(always)]
    fn of(slot: u32) -> Option<Self> {
        Some(Self { slot, next_hop: NEXT_HOPS.get(slot)?, counters: NEXT_HOP_COUNTERS.mine(slot)? })
    }
}

/// Counts a packet in a counter of a next hop, if those are on.
#[inline(always)]
pub fn count(counter: &Cell<Count>, size: Count) {
    if counts(counters::OF_NEXT_HOPS) {
        count::count(counter, size);
    }
}

/// The outcome of the choice.
pub enum Choice {
    /// The packet goes to this next hop: it is live, or it is doubtful and there is no other way.
    Send(Hop),
    /// A copy of the packet has gone to this next hop, and replaces it. The flag says whether its MSS option was clamped.
    Sent(Hop, bool),
    /// No next hop is in service. The value is the target's `on_down`.
    Down(u8),
}

/// Chooses the next hop of a target that was found in this generation.
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
        // Slot 0 is always empty.
        Some(hop) if pick.slot != 0 => Choice::Send(hop),
        _ => Choice::Down(pick.on_down),
    }
}

/// Counts a packet for the next hop that it should have gone to, but did not.
#[inline(always)]
fn count_failed_over(slot: u32, size: Count) {
    if let Some(counters) = NEXT_HOP_COUNTERS.mine(slot) {
        count(field!(counters, failed_over), size);
    }
}

/// The choice for a packet whose next hop was not proven at once.
struct Pick {
    /// The slot of the next hop that the packet goes to if all are live.
    own: u32,
    /// The slot of the next hop that the packet goes to, or 0.
    slot: u32,
    /// The state of the next hop in `slot`.
    state: u32,
    /// The target's `on_down`, used if `slot` is 0.
    on_down: u8,
}

impl Pick {
    /// Packs it into the one number that a global function can return: 24 bits for each slot, 8 for each other field.
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

/// Picks a target's only next hop, unless it is dead.
#[inline(always)]
fn pick_one(skb: &Skb, target: &Target) -> Pick {
    let own = target.index;
    let state = probed_state(skb, own, target.mss.into());
    // A packet without another way waits for its neighbour, as it would with a route.
    Pick { own, slot: if state == DEAD { 0 } else { own }, state, on_down: target.on_down }
}

/// Picks a member of a group ([`pick_member`]), as a global function: the verifier checks it once, and not in each state of its
/// caller. Returns 0 if there is no such group.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn pick_of_group(skb: &Skb, group: u32, generation: u32, flow: u32, mss: u32) -> u64 {
    // SAFETY: userspace replaces a group as a whole. The memory of an old one may become that of another group during this
    // read. Any of its members is a slot, or 0.
    let group = unsafe { GROUPS.get(&GroupKey { group, generation }) };
    group.map_or(0, |group| pick_member(skb, group, flow, mss).pack())
}

/// Picks the member of a group for a flow.
///
/// A flow's bucket names its member, and the buckets do not change when a member dies. Each flow of a dead member looks for
/// another bucket by itself, so these flows spread by weight. The flows of other members stay where they are. When the
/// member is back, its flows return to it. Backups have no buckets: while no other member is in service, all flows go to the
/// first of them that is.
#[inline(always)]
fn pick_member(skb: &Skb, group: &Group, flow: u32, mss: u32) -> Pick {
    let on_down = group.on_down;
    let mut hash = flow;
    let (mut own, mut doubtful) = (0, 0);
    let primaries = group.count.wrapping_sub(group.backups.into());
    for attempt in 0..TRIES + MAX_MEMBERS {
        // If there is but one, all buckets are its own, and the first try was enough.
        let attempt = if attempt > 0 && primaries == 1 { attempt + TRIES - 1 } else { attempt };
        let member = if attempt < TRIES {
            let bucket = hash as usize % BUCKETS;
            hash = rehash(hash);
            u32::from(group.buckets[bucket])
        } else {
            let nth = (attempt - TRIES) as u32;
            if nth >= group.count {
                break;
            }
            if nth < primaries { flow.wrapping_add(nth) % primaries } else { nth }
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
    // A doubtful member: the packet waits for its neighbour, as in `pick_one`.
    Pick { own, slot: doubtful, state: DOUBTFUL, on_down }
}

/// Returns the next hop in a slot, if it is proven alive. This is quick, and enough for nearly all packets. It does not ask
/// what other CPUs know: this CPU finds that out with its next packet, or when its own proof ends.
#[inline(always)]
fn proven(slot: u32) -> Option<Hop> {
    let hop = Hop::of(slot)?;
    // What a health check says costs a look-up, so only those that have one pay for it (`probe_if_due`).
    let is_proven = hop.next_hop.flags & (NEXT_HOP_DOWN | NEXT_HOP_CHECKED) == 0
        && is_recent(hop.counters)
        && NEXT_HOP_DEVICES.get_ifindex(slot).is_some();
    is_proven.then_some(hop)
}

/// Returns whether a probe got through a short while ago on this CPU, and each packet since then has arrived.
#[inline(always)]
fn is_recent(counters: &Cell<NextHopCounters>) -> bool {
    // Signed, because `OUTSTANDING` is the sign bit.
    field!(counters, proven).get() as i64 > clock::jiffies() as i64
}

// States of a next hop. If it is LIVE or more, the packet goes there, or has gone.
/// No packet should go there.
const DEAD: u32 = 0;
/// It has not answered yet. Only packets without another way go there.
const DOUBTFUL: u32 = 1;
const LIVE: u32 = 2;
/// It is live, and a copy of the packet has gone there in place of the packet.
const SENT: u32 = 3;
/// As [`SENT`], and the MSS option was clamped.
const SENT_CLAMPED: u32 = 4;

/// Returns the state of the next hop in a slot. If a probe is due, first sends a copy of the packet as one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn probed_state(skb: &Skb, slot: u32, mss: u32) -> u32 {
    if proven(slot).is_some() { LIVE } else { probe_if_due(skb, slot, mss).unwrap_or(DEAD) }
}

/// Returns the state of a next hop that is not proven alive, after a probe if one is due. `None` if no packet should go there.
#[inline(always)]
fn probe_if_due(skb: &Skb, slot: u32, mss: u32) -> Option<u32> {
    let next_hop = NEXT_HOPS.get(slot)?;
    if next_hop.flags & NEXT_HOP_DOWN != 0 || NEXT_HOP_DEVICES.get_ifindex(slot).is_none() {
        return None;
    }
    if next_hop.flags & NEXT_HOP_CHECKED != 0 {
        if health::is_refused(slot) {
            return None;
        }
        if is_recent(NEXT_HOP_COUNTERS.mine(slot)?) {
            return Some(LIVE);
        }
    }
    // The packet is a probe that has lost its mark on the way, and comes back like any other packet.
    if probe::is_under_way(slot) {
        return None;
    }
    let is_on_link = next_hop.family == FAMILY_ON_LINK;
    let counters = NEXT_HOP_COUNTERS.mine(slot)?;
    let health = Health::of(slot)?;
    let now = clock::now();
    // Without a gateway, each destination is a neighbour of its own, whose silence says nothing about the others. Only the
    // device's answer counts, or a long silence of all of them if the device gives none.
    let patience = if is_on_link { SILENCE_ON_LINK } else { SILENCE };
    // Before so long a silence counts, every packet is a probe: one of them makes the kernel solicit its neighbour.
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
            // The device got the copy and dropped it. The next packet is another probe.
            PROBE_DROPPED => return Some(SENT),
            // That says nothing about the next hop. The sender learns the size, unless the packet goes another way.
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

/// Counts a packet that has departed to a next hop, and expects its arrival.
#[inline(always)]
pub fn departed(hop: &Hop, size: Count) {
    count(field!(hop.counters, departed), size);
    let proven = field!(hop.counters, proven);
    proven.set(proven.get() | OUTSTANDING);
}

/// Counts a packet that has arrived at the next hop in a slot, and expects it no more.
#[inline(always)]
pub fn arrived(slot: u32, size: Count) {
    if let Some(counters) = NEXT_HOP_COUNTERS.mine(slot) {
        count(field!(counters, arrived), size);
        let proven = field!(counters, proven);
        proven.set(proven.get() & !OUTSTANDING);
    }
}
