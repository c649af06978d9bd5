//! The mark of a redirected packet: the secret that says that it has departed from here, and what its arrival is counted by.

use byway_abi::{
    MARK_OF_7, TAKING_OVER_FROM_7,
    mark::{HEADER, RULE, SLOT},
};

use crate::{
    packet::{self, ETHERNET_LEN, Header},
    rows::read_once,
    skb::Skb,
};

pub use byway_abi::mark::{AGAIN, COPY, FLAGS, L3, PASS, PROBE, REPLY};

/// The secret of this network namespace (map `SECRET`). Userspace sets it before it loads the programs. Neither half is 0.
#[unsafe(no_mangle)]
static MARK_SECRET: u64 = 0;

/// Not 0 while these programs take over from those of schema 7 ([`byway_abi::TAKING_OVER`]). Userspace sets it as well.
#[unsafe(no_mangle)]
static TAKING_OVER: u32 = 0;

/// Returns whether these programs write the mark of schema 7, because programs of that schema have to accept it.
#[inline(always)]
pub fn is_of_7() -> bool {
    read_once(&TAKING_OVER) == TAKING_OVER_FROM_7
}

/// The content of a packet's mark.
#[derive(Clone, Copy)]
pub struct Mark {
    whose: Whose,
    /// The rule's identity, or the number of a probe.
    pub rule: u32,
    /// The next hop's slot, and flags.
    pub slot: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Ours,
    /// A program of schema 7 has written it.
    Of7,
}

impl Mark {
    /// Returns whether a probe has made the packet.
    #[inline(always)]
    pub fn is_of_probe(&self) -> bool {
        self.slot & (COPY | PROBE | PASS) != 0 && self.whose == Whose::Ours
    }
}

/// Returns the mark of a packet, unless somebody else has written it.
#[inline(always)]
pub fn read(skb: &Skb) -> Option<Mark> {
    let whose = if skb.secret() == read_once(&MARK_SECRET) {
        Whose::Ours
    } else if read_once(&TAKING_OVER) != 0 && skb.tc_index() == MARK_OF_7 {
        Whose::Of7
    } else {
        return None;
    };
    Some(Mark { whose, rule: skb.cb(RULE), slot: skb.cb(SLOT) })
}

/// Marks a packet.
#[inline(always)]
pub fn write(skb: &Skb, rule: u32, header: u32, slot: u32) {
    skb.set_cb(RULE, rule);
    skb.set_cb(HEADER, header);
    skb.set_secret(read_once(&MARK_SECRET));
    skb.set_cb(SLOT, slot);
}

/// Changes the slot and the flags of a mark.
#[inline(always)]
pub fn write_slot(skb: &Skb, slot: u32) {
    skb.set_cb(SLOT, slot);
}

/// Removes the mark.
#[inline(always)]
pub fn clear(skb: &Skb) {
    // 0 is nobody's secret.
    skb.set_secret(0);
    if read_once(&TAKING_OVER) != 0 {
        skb.set_tc_index(0);
    }
}

/// Marks a packet that departs for the next hop in a slot. `header` says whether the packet came with an Ethernet header; by
/// now it has one. Returns `None` if that cannot be read.
#[inline(always)]
pub fn write_departure(skb: &Skb, rule: u32, slot: u32, header: Header) -> Option<()> {
    let (departs_with, slot) = match header {
        Header::Ethernet => (packet::ethernet_addresses(skb)?, slot),
        Header::L3 => ([skb.len() - ETHERNET_LEN as u32, 0, 0], slot | L3),
    };
    if is_of_7() {
        skb.set_tc_index(MARK_OF_7);
        skb.set_cb(0, rule);
        skb.set_cb(1, departs_with[0]);
        skb.set_cb(2, departs_with[1]);
        skb.set_cb(3, departs_with[2]);
        skb.set_cb(4, slot);
    } else {
        write(skb, rule, hash(departs_with), slot);
    }
    Some(())
}

/// Returns a hash of Ethernet addresses. If two headers had the same hash, that would cost one more redirect, and nothing else.
#[inline(always)]
fn hash(addresses: [u32; 3]) -> u32 {
    addresses[0] ^ addresses[1] << 5 ^ addresses[2]
}

/// Returns the header that the packet departed with, if it still has that one: then it was queued for its neighbour.
///
/// The kernel holds a packet back while the next hop's neighbour is not resolved. Then
/// it sends the packet with the header of the neighbour that the packet's *route* leads
/// to: `neigh_update` in net/core/neighbour.c looks that neighbour up again, and the
/// redirect has left the route in the packet. That is the header of the default
/// gateway, on the wrong link, or no header if the route leads to a device without one.
#[inline(always)]
pub fn was_queued(skb: &Skb, mark: &Mark) -> Option<Header> {
    if mark.slot & L3 != 0 {
        return (skb.cb(HEADER) == skb.len()).then_some(Header::L3);
    }
    let now = packet::ethernet_addresses(skb)?;
    let is_same = match mark.whose {
        Whose::Ours => skb.cb(HEADER) == hash(now),
        Whose::Of7 => skb.cb(1) == now[0] && skb.cb(2) == now[1] && skb.cb(3) == now[2],
    };
    is_same.then_some(Header::Ethernet)
}
