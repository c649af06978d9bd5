//! The ways that requests come in by, each with a number.

use aya_ebpf::bindings::BPF_NOEXIST;
use byway_abi::reply::{
    MAX_WAYS_OF_DEVICE, WAY_PROBES, Way, is_neighbour, sender, way_hash, way_number, ways_key,
};

use crate::{
    maps::{FLOW_KEYS, RECEIVERS, WAYS},
    rows::Shared,
};

/// Returns the way with this number.
#[inline(always)]
pub fn known_way(number: u32) -> Option<&'static Way> {
    // SAFETY: a row has as many words. No program changes a way, and userspace removes one only when no flow has its number.
    WAYS.get(0)?.get_ptr(number).map(|row| unsafe { &*row.cast() })
}

/// Returns whether the way with this number is this one.
#[inline(always)]
pub fn is_same(number: u16, way: &Way) -> bool {
    known_way(number.into()).is_some_and(|known| known == way)
}

/// Returns the number of a way, which it gets now if it has none. `None` if there is no room.
#[inline(always)]
pub fn number(way: &Way) -> Option<u16> {
    // A device that moves to another network namespace may take the program along.
    RECEIVERS.get_ifindex(way.ifindex)?;
    let Way { ifindex, addresses: [first, second, third] } = *way;
    let known = known_number(ifindex, first, second, third);
    if known != 0 {
        return Some(known as u16);
    }
    if !is_neighbour(sender(way.addresses)) {
        return None;
    }
    match add_way(ifindex, first, second, third) {
        0 => None,
        number => Some(number as u16),
    }
}

/// Returns the number of a way, or 0 if it has none.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn known_number(ifindex: u32, first: u32, second: u32, third: u32) -> u32 {
    let way = Way { ifindex, addresses: [first, second, third] };
    let Some(keys) = FLOW_KEYS.get(0) else { return 0 };
    let hash = way_hash(&way, keys);
    for nth in 0..WAY_PROBES {
        let number = way_number(hash, nth);
        if is_same(number as u16, &way) {
            return number;
        }
    }
    0
}

/// Gives a way one of its numbers. Returns 0 if there is no room.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn add_way(ifindex: u32, first: u32, second: u32, third: u32) -> u32 {
    let way = Way { ifindex, addresses: [first, second, third] };
    let Some(keys) = FLOW_KEYS.get(0) else { return 0 };
    let hash = way_hash(&way, keys);
    let Some(ways) = WAYS.get(0) else { return 0 };
    let mut count = ways.get_ptr_mut(ways_key(ifindex));
    if count.is_none() {
        // If this fails, another CPU has done it, or no way can be added either.
        let _ = ways.insert(ways_key(ifindex), [0; 4], BPF_NOEXIST.into());
        count = ways.get_ptr_mut(ways_key(ifindex));
    }
    let Some(count) = count else { return 0 };
    // SAFETY: the programs use the first word of this row through this type. A row has the alignment of a word.
    let count = unsafe { Shared::new(count.cast()) };
    if count.get() >= MAX_WAYS_OF_DEVICE.into() {
        return 0;
    }
    for nth in 0..WAY_PROBES {
        let number = way_number(hash, nth);
        // Of two CPUs with different ways for one number, one adds its way, and the other one sees that.
        let is_added = ways.insert(number, [ifindex, first, second, third], BPF_NOEXIST.into()).is_ok();
        if is_same(number as u16, &way) {
            if is_added {
                count.set(count.get() + 1);
            }
            return number;
        }
    }
    0
}
