//! Which flow a packet belongs to: a hash of addresses, protocol and ports.
//!
//! Our own hash and not `skb->hash`: that one changes when TCP retransmits (`sk_rethink_txhash`), and a flow would
//! change its next hop in the middle.

use byway_abi::{Fragments, flow};

use crate::{
    clock,
    maps::{FRAGMENTED, FragmentsRow},
    packet::Packet,
    skb::Skb,
    transport::{self, Part, Transport},
};

/// How long a fragment that came before the first one speaks for its packet, in nanoseconds.
const OUT_OF_ORDER: u64 = 1_000_000_000;

/// The hash of the packet's flow. All fragments of a packet have that of the first.
#[inline(always)]
pub fn hash(skb: &Skb, packet: &Packet) -> u32 {
    let Some(transport) = transport::find(skb, packet.family, packet.offset) else {
        return mix(packet, 0, 0);
    };
    let protocol = u32::from(transport.protocol);
    if transport.part == Part::Whole {
        return mix(packet, protocol, ports(skb, &transport));
    }
    let mut key = [0; 10];
    key[..4].copy_from_slice(&packet.source);
    key[4..8].copy_from_slice(&packet.destination);
    key[8] = transport.identification;
    key[9] = u32::from(transport.next);
    // Without the map, which comes with the first group, all fragments go by their addresses.
    let Some(fragments) = FRAGMENTED.get(0) else { return mix(packet, protocol, 0) };
    // SAFETY: the row is words enough for it. The map may give it to another packet meanwhile. At worst, this fragment then
    // goes where that packet goes.
    let known = fragments.get_ptr(key).map(|row| unsafe { &*row.cast::<Fragments>() });
    if transport.part == Part::FirstFragment {
        let now = clock::now();
        // A later fragment has come first and gone its way. Identifications come round again, so that an old
        // entry may be another packet's.
        if let Some(known) = known
            && known.by_first == 0
            && now.saturating_sub(known.written) < OUT_OF_ORDER
        {
            return known.hash;
        }
        let hash = mix(packet, protocol, ports(skb, &transport));
        // Where this fails, later fragments go by their addresses.
        let _ = fragments.insert(key, row(Fragments { written: now, hash, by_first: 1 }), 0);
        return hash;
    }
    if let Some(known) = known {
        return known.hash;
    }
    let hash = mix(packet, protocol, 0);
    let written = clock::now();
    // Where this fails, each fragment goes by its addresses.
    let _ = fragments.insert(key, row(Fragments { written, hash, by_first: 0 }), 0);
    hash
}

/// The same as words.
#[inline(always)]
fn row(fragments: Fragments) -> FragmentsRow {
    // SAFETY: it is as long as its words, and free of padding.
    unsafe { core::mem::transmute(fragments) }
}

/// Both ports as one word, or 0 where the protocol has none.
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
