//! The flow that a packet belongs to: a hash of addresses, protocol and ports.
//!
//! Not `skb->hash`: that changes when TCP retransmits (`sk_rethink_txhash`),
//! and the flow would change its next hop in the middle.

use byway_abi::{Fragments, flow};

use crate::{
    clock,
    maps::{Address6, FRAGMENTED, FragmentsRow},
    packet::Packet,
    skb::Skb,
    transport::{self, Part, Transport},
};

/// How long a later fragment's hash is valid for a first fragment that comes after it, in nanoseconds.
const OUT_OF_ORDER: u64 = 1_000_000_000;

/// Returns the hash of the packet's flow. All fragments of a packet get the hash of the one that came first.
#[inline(always)]
pub fn hash(skb: &Skb, packet: &Packet) -> u32 {
    let Some(transport) = transport::find(skb, packet.family, packet.offset) else {
        return mix(packet, 0, 0);
    };
    let protocol = u32::from(transport.protocol);
    if transport.part == Part::Whole {
        return mix(packet, protocol, ports(skb, &transport));
    }
    let key = fragment_key(packet.source, packet.destination, &transport, 0);
    // Userspace creates the map with the first group. Without it, addresses alone make the hash of a fragment.
    let Some(fragments) = FRAGMENTED.get(0) else { return mix(packet, protocol, 0) };
    // SAFETY: the row has as many words. The map may give it to another packet during the read. At worst, this fragment then
    // goes where that packet goes.
    let known = fragments.get_ptr(key).map(|row| unsafe { &*row.cast::<Fragments>() });
    if transport.part == Part::FirstFragment {
        let now = clock::now();
        // A later fragment has come first and is gone. Identifications
        // repeat, so an old entry may be that of another packet.
        if let Some(known) = known
            && known.by_first == 0
            && now.saturating_sub(known.written) < OUT_OF_ORDER
        {
            return known.hash;
        }
        let hash = mix(packet, protocol, ports(skb, &transport));
        // If this fails, later fragments are hashed by addresses alone.
        let _ = fragments.insert(key, fragment_row(Fragments { written: now, hash, by_first: 1 }), 0);
        return hash;
    }
    if let Some(known) = known {
        return known.hash;
    }
    let hash = mix(packet, protocol, 0);
    let written = clock::now();
    // If this fails, the others are hashed without it.
    let _ = fragments.insert(key, fragment_row(Fragments { written, hash, by_first: 0 }), 0);
    hash
}

/// Returns the key in `FRAGMENTED` of a packet that leaves in fragments. `flags` are beside the protocol.
#[inline(always)]
pub fn fragment_key(source: Address6, destination: Address6, transport: &Transport, flags: u32) -> [u32; 10] {
    let mut key = [0; 10];
    key[..4].copy_from_slice(&source);
    key[4..8].copy_from_slice(&destination);
    key[8] = transport.identification;
    key[9] = u32::from(transport.next) | flags;
    key
}

/// Returns the value as words.
#[inline(always)]
pub fn fragment_row(fragments: Fragments) -> FragmentsRow {
    // SAFETY: both types have the same size, and `Fragments` has no padding.
    unsafe { core::mem::transmute(fragments) }
}

/// Returns both ports as one word, or 0 if the protocol has none.
#[inline(always)]
fn ports(skb: &Skb, transport: &Transport) -> u32 {
    if flow::has_ports(transport.protocol) {
        skb.load(transport.offset).map_or(0, u32::from_be_bytes)
    } else {
        0
    }
}

#[inline(always)]
fn mix(packet: &Packet, protocol: u32, ports: u32) -> u32 {
    flow::hash(packet.source, packet.destination, protocol, ports)
}
