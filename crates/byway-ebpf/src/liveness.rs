//! The signs of life of the neighbours that replies go to, and which of them are out of service. An agent watches them
//! (`byway run`); without one, nothing is written.

use byway_abi::reply::{
    LIVENESS_WORDS, NOT_WATCHED, WAY_ANSWERED, WAY_OUT, WAY_SEEN, WAY_USED, liveness_ticks,
};

use crate::{clock, hint, maps::WAY_LIVENESS, rows::Shared};

/// Notes that a packet of a known flow has come in by a way.
#[inline(always)]
pub fn seen(way: u32) {
    if !hint::holds(NOT_WATCHED) {
        is_alive(way, WAY_SEEN);
    }
}

/// Notes that the neighbour of a way has answered a question for its Ethernet address.
#[inline(always)]
pub fn answered(way: u32) {
    is_alive(way, WAY_ANSWERED);
}

/// Returns whether a way is out of service.
#[inline(always)]
pub fn is_out(way: u32) -> bool {
    !hint::holds(NOT_WATCHED) && row(way).is_some_and(is_out_by)
}

#[inline(always)]
fn is_out_by(row: &[u64; LIVENESS_WORDS]) -> bool {
    let until = word(row, WAY_OUT).get();
    until != 0 && until > clock::now()
}

/// Notes a sign of life. It ends a verdict.
#[inline(always)]
fn is_alive(way: u32, sign: usize) {
    let Some(row) = row(way) else { return };
    note(row, sign);
    let out = word(row, WAY_OUT);
    if out.get() != 0 {
        out.set(0);
    }
}

/// Returns whether a reply may leave by a way, and notes that one is to.
#[inline(always)]
pub fn use_way(way: u32) -> bool {
    hint::holds(NOT_WATCHED) || use_watched(way) != 0
}

/// Does the work of [`use_way`] where somebody watches, as a global function.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn use_watched(way: u32) -> u32 {
    let Some(row) = row(way) else { return 1 };
    // Also while it is out of service: somebody would use it.
    note(row, WAY_USED);
    if is_out_by(row) { 0 } else { 1 }
}

#[inline(always)]
fn note(row: &[u64; LIVENESS_WORDS], which: usize) {
    let (word, now) = (word(row, which), liveness_ticks(clock::jiffies()));
    // Most packets only read: the line stays in the caches of all CPUs.
    if word.get() != now {
        word.set(now);
    }
}

#[inline(always)]
fn row(way: u32) -> Option<&'static [u64; LIVENESS_WORDS]> {
    WAY_LIVENESS.get(0)?.get(way)
}

#[inline(always)]
fn word(row: &[u64; LIVENESS_WORDS], which: usize) -> Shared {
    // SAFETY: all programs read and write the words of a row through this type.
    unsafe { Shared::new((&raw const row[which]).cast_mut()) }
}
