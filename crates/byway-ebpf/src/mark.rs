//! The mark of a redirected packet: what says that it has departed from here, and what it needs to be received.

use aya_ebpf::bindings::__sk_buff;
use byway_abi::{MARK_OF_7, mark};

/// The secret of this network namespace (map `SECRET`). Userspace sets it before it loads the programs; neither half is 0.
#[unsafe(no_mangle)]
static MARK_SECRET: u64 = 0;

/// Whether these programs are taking over from those of schema 7: [`byway_abi::TAKING_OVER`] or its like, or 0. Likewise.
#[unsafe(no_mangle)]
static TAKING_OVER: u32 = 0;

#[inline(always)]
fn secret() -> u64 {
    // SAFETY: a static that nothing writes while the program is loaded. Volatile, since the compiler knows the 0 alone.
    unsafe { core::ptr::read_volatile(&raw const MARK_SECRET) }
}

#[inline(always)]
pub fn taking_over() -> u32 {
    // SAFETY: as in `secret`.
    unsafe { core::ptr::read_volatile(&raw const TAKING_OVER) }
}

/// Whose mark a packet carries.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    Ours,
    /// A program's of schema 7.
    Of7,
}

/// The mark of a packet. One that was written by somebody else is none.
#[inline(always)]
pub fn mark(skb: *mut __sk_buff) -> Option<Mark> {
    let secret = secret();
    // SAFETY: the kernel hands a valid `__sk_buff`, whose fields the verifier checks.
    unsafe {
        if (*skb).cb[mark::SECRET_LOW] == secret as u32
            && (*skb).cb[mark::SECRET_HIGH] == (secret >> 32) as u32
        {
            return Some(Mark::Ours);
        }
    }
    // SAFETY: as above.
    if taking_over() != 0 && unsafe { (*skb).tc_index } == MARK_OF_7 {
        return Some(Mark::Of7);
    }
    None
}

/// Marks a packet.
#[inline(always)]
pub fn set_mark(skb: *mut __sk_buff, rule: u32, header: u32, slot: u32) {
    let secret = secret();
    // SAFETY: the verifier lets a classifier write these fields.
    unsafe {
        (*skb).cb[mark::RULE] = rule;
        (*skb).cb[mark::HEADER] = header;
        (*skb).cb[mark::SECRET_LOW] = secret as u32;
        (*skb).cb[mark::SECRET_HIGH] = (secret >> 32) as u32;
        (*skb).cb[mark::SLOT] = slot;
    }
}

/// Marks a packet as the programs of schema 7 do.
#[inline(always)]
pub fn set_mark_of_7(skb: *mut __sk_buff, rule: u32, header: [u32; 3], slot: u32) {
    // SAFETY: the verifier lets a classifier write these fields.
    unsafe {
        (*skb).tc_index = MARK_OF_7;
        (*skb).cb[0] = rule;
        (*skb).cb[1] = header[0];
        (*skb).cb[2] = header[1];
        (*skb).cb[3] = header[2];
        (*skb).cb[4] = slot;
    }
}

/// Takes the mark off.
#[inline(always)]
pub fn unmark(skb: *mut __sk_buff) {
    // SAFETY: the verifier lets a classifier write these fields.
    unsafe {
        // Neither half of the secret is 0.
        (*skb).cb[mark::SECRET_LOW] = 0;
        if taking_over() != 0 {
            (*skb).tc_index = 0;
        }
    }
}
