//! The look-up: from a packet's addresses to its target.

use aya_ebpf::btf_maps::lpm_trie::Key;
use byway_abi::{FAMILY_IPV4, TARGET_BY_DESTINATION, Target};

use crate::{
    maps::{DESTINATIONS4, DESTINATIONS6},
    packet::Packet,
    sources,
};

/// Looks the packet up in a generation by its source and, if rules for that source differ by destination, by its destination.
#[inline(always)]
pub fn find(packet: &Packet, generation: u32) -> Option<Target> {
    let target = sources::find(packet, generation)?;
    if target.kind != TARGET_BY_DESTINATION {
        return Some(target);
    }
    if packet.family == FAMILY_IPV4 {
        DESTINATIONS4.get(&Key::new(64, [target.index, packet.destination[0]])).copied()
    } else {
        let [a, b, c, d] = packet.destination;
        DESTINATIONS6.get(&Key::new(160, [target.index, a, b, c, d])).copied()
    }
}
