//! Which Ethernet address a neighbour has now, by what it says of itself on the devices that requests come in by: ARP (RFC 826)
//! and neighbour discovery (RFC 4861).
//!
//! A way has the Ethernet address that its requests came from. A router may get another one, and no request may follow that
//! shows it. So [`note`] notes which Ethernet address each address has. If that of a neighbour's first address changes, the new
//! Ethernet address has taken the place of the old one. First, because an address may be shared, or answered for by another.
//! Whoever is heard, or sends a request that is noted, has no successor.

use aya_ebpf::bindings::BPF_NOEXIST;
use byway_abi::reply::{
    self, HEARD_ETHERNET, HEARD_FIRST, HEARD_IPV4, HEARD_IPV6, HeardKey, NO_SUCCESSORS, NOT_WATCHED, Way,
    address_digest, ethernet_words, is_neighbour,
};

use crate::{
    hint, liveness,
    maps::HEARD,
    packet::{self, ETH_P_ARP, ETH_P_IPV6, ETHERNET_LEN},
    skb::Skb,
    transport::ICMPV6,
    ways,
};

/// The operation of an ARP message that is an answer (RFC 826).
const ARP_REPLY: u8 = 2;
/// The type of the message of neighbour discovery that is one (RFC 4861).
const ND_NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// An Ethernet address: its first two bytes, and then the rest.
pub type Ethernet = [u32; 2];

/// Notes what an ARP message or one of neighbour discovery says of its sender.
#[inline(always)]
pub fn note(skb: &Skb) {
    let is_of_neighbour = match skb.protocol() {
        ETH_P_ARP => true,
        ETH_P_IPV6 => packet::may_be_icmpv6(skb),
        _ => false,
    };
    if is_of_neighbour && !skb.is_tagged() {
        hear(skb);
    }
}

/// Does the work of [`note`], as a global function.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn hear(skb: &Skb) -> u32 {
    match heard(skb) {
        Some(()) => 1,
        None => 0,
    }
}

#[inline(always)]
fn heard(skb: &Skb) -> Option<()> {
    let addresses = packet::ethernet_addresses(skb)?;
    if !is_neighbour(reply::sender(addresses)) {
        return None;
    }
    let sender = sender(addresses);
    let (kind, address, is_answer) =
        if skb.protocol() == ETH_P_ARP { arp(skb, sender)? } else { discovery(skb)? };
    let ifindex = skb.ifindex();
    let map = HEARD.get(0)?;
    is_alive(ifindex, sender);
    let [first, second, third] = addresses;
    // What goes to everybody comes by no way: its destination is no receiver's address.
    if !hint::holds(NOT_WATCHED) && first.to_ne_bytes()[0] & 1 == 0 {
        match ways::known_number(ifindex, first, second, third) {
            0 => {}
            way if is_answer => liveness::answered(way),
            way => liveness::seen(way),
        }
    }
    let by_address = HeardKey { ifindex, kind, address };
    // If one of the insertions fails, replies go where they went.
    let _ = map.insert(first_key(ifindex, kind, sender).words(), address_digest(address), BPF_NOEXIST.into());
    // SAFETY: a row has as many words. The map may give it to another key during the read, which costs one more note.
    let before = map.get_ptr(by_address.words()).map(|row| unsafe { *row });
    if before == Some(sender) {
        return None;
    }
    let _ = map.insert(by_address.words(), sender, 0);
    let before = before?;
    // SAFETY: as above: at worst, replies follow an address that is not the first one.
    let first = map.get_ptr(first_key(ifindex, kind, before).words()).map(|row| unsafe { *row });
    if first == Some(address_digest(address)) {
        hint::withdraw(NO_SUCCESSORS);
        let _ = map.insert(ethernet_key(ifindex, before).words(), sender, 0);
    }
    Some(())
}

/// Notes that a neighbour is there: nothing has taken its place.
#[inline(always)]
pub fn is_alive(ifindex: u32, neighbour: Ethernet) {
    if hint::holds(NO_SUCCESSORS) {
        return;
    }
    let Some(map) = HEARD.get(0) else { return };
    let key = ethernet_key(ifindex, neighbour).words();
    if map.get_ptr(key).is_some() {
        let _ = map.remove(key);
    }
}

/// Reads the sender of an ARP message for IPv4 over Ethernet: a kind and an address for [`HeardKey`], and whether it is an answer.
#[inline(always)]
fn arp(skb: &Skb, sender: Ethernet) -> Option<(u32, [u32; 4], bool)> {
    let bytes: [u8; 18] = skb.load(ETHERNET_LEN as u32)?;
    let [0, 1, 8, 0, 6, 4, _, operation, hardware @ .., a, b, c, d] = bytes else { return None };
    let is_its_own = ethernet_words(hardware) == sender;
    // A probe for a free address has 0.0.0.0 (RFC 5227).
    let is_unicast = a != 0 && a < 224;
    let address = [u32::from_ne_bytes([a, b, c, d]), 0, 0, 0];
    (is_its_own && is_unicast).then_some((HEARD_IPV4, address, operation == ARP_REPLY))
}

/// Reads the sender of a message of neighbour discovery, as [`arp`] does. No router has forwarded it: its hop limit is 255.
#[inline(always)]
fn discovery(skb: &Skb) -> Option<(u32, [u32; 4], bool)> {
    let bytes: [u8; 20] = skb.load(ETHERNET_LEN as u32 + 4)?;
    let [_, _, ICMPV6, 255, address @ ..] = bytes else { return None };
    let [kind]: [u8; 1] = skb.load(ETHERNET_LEN as u32 + 40)?;
    // The unspecified address, and a multicast address.
    if !packet::is_neighbour_discovery(kind) || address[0] == 0 || address[0] == 0xFF {
        return None;
    }
    let mut words = [0; 4];
    for (nth, bytes) in address.as_chunks::<4>().0.iter().enumerate() {
        words[nth] = u32::from_ne_bytes(*bytes);
    }
    Some((HEARD_IPV6, words, kind == ND_NEIGHBOUR_ADVERTISEMENT))
}

/// Returns the Ethernet address that has taken the place of a way's neighbour. `None` if nothing has.
#[inline(always)]
pub fn successor(way: &Way) -> Option<Ethernet> {
    if hint::holds(NO_SUCCESSORS) {
        return None;
    }
    let [first, second] = sender(way.addresses);
    match successor_of(way.ifindex, first, second) {
        0 => None,
        found => Some([(found >> 32) as u32, found as u32]),
    }
}

/// Does the work of [`successor`], as a global function. Returns 0 if there is none.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn successor_of(ifindex: u32, first: u32, second: u32) -> u64 {
    let Some(map) = HEARD.get(0) else { return 0 };
    let mut found = 0;
    let mut now = [first, second];
    // It may have a successor as well.
    for _ in 0..2 {
        let Some(row) = map.get_ptr(ethernet_key(ifindex, now).words()) else { break };
        // SAFETY: as in `heard`: at worst, this reply goes to another neighbour on the same link.
        now = unsafe { *row };
        found = u64::from(now[0]) << 32 | u64::from(now[1]);
    }
    found
}

/// Returns the key of the first address of a neighbour, of the same family as an address of this kind.
#[inline(always)]
fn first_key(ifindex: u32, kind: u32, [first, second]: Ethernet) -> HeardKey {
    HeardKey { ifindex, kind: kind | HEARD_FIRST, address: [first, second, 0, 0] }
}

/// Returns the sender of a frame with these Ethernet addresses.
#[inline(always)]
pub fn sender(addresses: [u32; 3]) -> Ethernet {
    ethernet_words(reply::sender(addresses))
}

#[inline(always)]
fn ethernet_key(ifindex: u32, [first, second]: Ethernet) -> HeardKey {
    HeardKey { ifindex, kind: HEARD_ETHERNET, address: [first, second, 0, 0] }
}
