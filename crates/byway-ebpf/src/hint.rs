//! The hints: what packets need not look for ([`byway_abi::reply::ALL_FLOWS_NEAR`] and the next).

use crate::{maps::REPLY_HINTS, rows::Shared};

/// Returns whether this hint holds.
#[inline(always)]
pub fn holds(hint: u32) -> bool {
    word(hint).is_some_and(|word| word.get() != 0)
}

/// Withdraws a hint, before what it rules out comes true.
#[inline(always)]
pub fn withdraw(hint: u32) {
    // Most often it has been withdrawn already, and then the line stays in the caches of all CPUs.
    if let Some(word) = word(hint)
        && word.get() != 0
    {
        word.set(0);
    }
}

#[inline(always)]
fn word(hint: u32) -> Option<Shared> {
    // SAFETY: all programs read and write the hints through this type.
    REPLY_HINTS.get_ptr_mut(hint).map(|word| unsafe { Shared::new(word) })
}
