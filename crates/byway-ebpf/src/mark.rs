//! The mark of a redirected packet: what says that it has departed from here, and what it needs to be received.

use byway_abi::{
    MARK_OF_7, TAKING_OVER_FROM_7,
    mark::{HEADER, RULE, SLOT},
};

use crate::{
    packet::{self, ETHERNET_LEN, Header},
    rows::read_once,
    skb::Skb,
};

pub use byway_abi::mark::{AGAIN, COPY, FLAGS, L3, PASS, PROBE};

/// The secret of this network namespace (map `SECRET`). Userspace sets it before it loads the programs; neither half is 0.
#[unsafe(no_mangle)]
static MARK_SECRET: u64 = 0;

/// Whether these programs are taking over from those of schema 7: [`byway_abi::TAKING_OVER`] or its like, or 0. Likewise.
#[unsafe(no_mangle)]
static TAKING_OVER: u32 = 0;

/// Whether the packets of these programs have to be known to those of schema 7.
#[inline(always)]
pub fn is_of_7() -> bool {
    read_once(&TAKING_OVER) == TAKING_OVER_FROM_7
}

/// What a packet's mark says.
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
    /// A program's of schema 7.
    Of7,
}

impl Mark {
    /// Whether a probe has made the packet.
    #[inline(always)]
    pub fn is_of_probe(&self) -> bool {
        self.slot & (COPY | PROBE | PASS) != 0 && self.whose == Whose::Ours
    }
}

/// The mark of a packet. One that was written by somebody else is none.
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

/// Writes the slot and the flags of a mark anew.
#[inline(always)]
pub fn write_slot(skb: &Skb, slot: u32) {
    skb.set_cb(SLOT, slot);
}

/// Takes the mark off.
#[inline(always)]
pub fn clear(skb: &Skb) {
    // Neither half of the secret is 0.
    skb.set_secret(0);
    if read_once(&TAKING_OVER) != 0 {
        skb.set_tc_index(0);
    }
}

/// Marks a packet that departs for the next hop in a slot. Nothing where it has no Ethernet header; by now it has one, also
/// where it came without.
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

/// Two headers with the same hash would cost a packet one redirect more, and nothing else.
#[inline(always)]
fn hash(addresses: [u32; 3]) -> u32 {
    addresses[0] ^ addresses[1] << 5 ^ addresses[2]
}

/// Whether the packet was queued for its neighbour, which shows in its header: it is the one that the packet departed
/// with. Returns what header that is.
///
/// While the next hop's neighbour is not resolved, the kernel holds the packet back. Then it sends it with the header
/// of the neighbour that the packet's *route* leads to (`neigh_update` in net/core/neighbour.c looks that one up
/// anew, and the redirect has left the route in the packet): the default gateway's, on the wrong link; or none, where
/// the route leads to a device that has none.
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
