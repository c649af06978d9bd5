//! The table of flows: each has a word ([`Entry`]) in one of its buckets.

use core::cell::Cell;

use byway_abi::reply::{
    ALL_FLOWS_NEAR, Entry, FAR, FLOW_IN_BOTH, FLOWS_OF_BUCKET, FlowCounters, LAST_TICK, NEAR, flow_buckets,
};

use crate::{
    hint,
    maps::{FLOW_COUNTERS, FLOWS},
    rows::{PerCpu, Shared, field},
};

/// Returns what is known about a flow ([`Entry::word`]), or 0.
#[inline(always)]
pub fn find(fingerprint: u64) -> u64 {
    match find_in(fingerprint, NEAR) {
        0 if !hint::holds(ALL_FLOWS_NEAR) => find_in(fingerprint, FAR),
        word => word,
    }
}

/// Does the work of [`find`] in a part of the table, as a global function: the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_in(fingerprint: u64, part: u32) -> u64 {
    let Some(flows) = FLOWS.get(0) else { return 0 };
    let [first, second] = flow_buckets(fingerprint, part);
    // Both before the first read: the processor fetches the second bucket while it waits for the first.
    let (Some(first), Some(second)) = (flows.get(first), flows.get(second)) else { return 0 };
    let mut found = 0;
    for bucket in [first, second] {
        for nth in 0..FLOWS_OF_BUCKET {
            let word = shared(bucket, 2 * nth + 1).get();
            let difference = shared(bucket, 2 * nth).get() ^ word ^ fingerprint;
            // No branch: where in a bucket a flow is cannot be predicted. The mask has all bits if there is no difference.
            let mask = ((difference | difference.wrapping_neg()) >> 63).wrapping_sub(1);
            found = found & !mask | word & mask;
        }
    }
    found
}

/// Notes what is known about a flow, or forgets it if `word` is 0: in each of its entries, of which two CPUs may have made two,
/// or else in the place that is easiest to take, near rather than far. Returns 1, or 0 if the place of no other flow may be taken.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn put(fingerprint: u64, word: u64, now: u32) -> u32 {
    let near = put_in(fingerprint, word, now, NEAR);
    let far = put_in(fingerprint, word, now, FAR);
    if near == IS_KNOWN || far == IS_KNOWN {
        return 1;
    }
    let (place, part) = if far >> RANK < near >> RANK { (far, FAR) } else { (near, NEAR) };
    let rank = place >> RANK;
    let counters = FLOW_COUNTERS.mine(0);
    let count = |counter: fn(&Cell<FlowCounters>) -> &Cell<u64>| {
        if let Some(counter) = counters.map(counter) {
            counter.set(counter.get() + 1);
        }
    };
    if rank >= u32::from(FLOW_IN_BOTH) {
        count(|it| field!(it, refused));
        return 0;
    }
    count(|it| field!(it, noted));
    if rank != 0 {
        count(|it| field!(it, evicted));
    }
    if part == FAR {
        hint::withdraw(ALL_FLOWS_NEAR);
    }
    let bucket = flow_buckets(fingerprint, part)[place as usize & 1];
    let Some(bucket) = FLOWS.get(0).and_then(|flows| flows.get(bucket)) else { return 0 };
    write(bucket, (place >> 1) as usize % FLOWS_OF_BUCKET, fingerprint, word);
    1
}

/// What [`put_in`] returns if the flow has an entry there.
const IS_KNOWN: u32 = u32::MAX;
/// Where the rank begins in what it returns otherwise.
const RANK: u32 = 22;

/// Writes to each entry of a flow in a part of the table. If there is none, returns the place that is easiest to take: its rank,
/// how recent it is (19 bits), its place (2) and its bucket (1), from the highest bit on. The lowest number is the best. Of two
/// buckets with free places it is the emptier one, whose first free place comes first.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn put_in(fingerprint: u64, word: u64, now: u32, part: u32) -> u32 {
    let Some(flows) = FLOWS.get(0) else { return IS_KNOWN };
    let mut best = IS_KNOWN - 1;
    let buckets = flow_buckets(fingerprint, part);
    for side in 0..2_u32 {
        let Some(bucket) = flows.get(buckets[side as usize]) else { return IS_KNOWN };
        for nth in 0..FLOWS_OF_BUCKET {
            let found = shared(bucket, 2 * nth + 1).get();
            if found != 0 && shared(bucket, 2 * nth).get() ^ found == fingerprint {
                write(bucket, nth, fingerprint, word);
                best = IS_KNOWN;
            }
            let entry = Entry::read(found);
            let place = u32::from(entry.rank(now)) << RANK
                | (LAST_TICK - entry.idle(now)) << 3
                | (nth as u32) << 1
                | side;
            if place < best && best != IS_KNOWN {
                best = place;
            }
        }
    }
    best
}

#[inline(always)]
fn write(bucket: &[u64; 2 * FLOWS_OF_BUCKET], nth: usize, fingerprint: u64, word: u64) {
    // A free place has no fingerprint: it would hide an entry in another place.
    shared(bucket, 2 * nth).set(if word == 0 { 0 } else { fingerprint ^ word });
    shared(bucket, 2 * nth + 1).set(word);
}

#[inline(always)]
fn shared(bucket: &[u64; 2 * FLOWS_OF_BUCKET], word: usize) -> Shared {
    // SAFETY: all programs read and write the words of a bucket through this type.
    unsafe { Shared::new((&raw const bucket[word]).cast_mut()) }
}
