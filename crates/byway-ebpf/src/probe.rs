//! Probes: they find out whether a next hop takes packets, and cost nobody a packet.
//!
//! A probe is a copy of the packet at hand. The program knows what has become of the copy before it decides about the packet
//! itself. The copy leaves by the attachment once more (`bpf_clone_redirect`), where [`hand_over`] redirects it to the next
//! hop. The kernel resolves the neighbour and brings the copy to the next hop's device. There [`note_arrival`] sends a copy
//! of it to the device: only the return value of that call says whether the device takes frames, because a permanent
//! neighbour entry outlives the carrier. All of this happens within one call, on one CPU.
//!
//! If the copy has gone out, it replaces the packet, and the packet itself is freed. If not, the packet goes another way. So no
//! packet is sent twice, and none is lost, unless somebody overwrites the copy's mark.
//!
//! A copy that has to wait for its neighbour comes too late to replace the packet. It is dropped where it arrives.

use core::cell::Cell;

use byway_abi::{
    MSS_OFF, PROBE_ASKED, PROBE_DROPPED, PROBE_REFUSED, PROBE_SENT, PROBE_TOO_BIG, PROBE_UNHEARD, Probe,
};

use crate::{
    health,
    maps::{self, NEXT_HOPS},
    mark::{self, Mark},
    packet::{self, Header},
    redirect,
    rows::{PerCpu, field},
    size::{self, Size},
    skb::Skb,
    verdict::{DROP, LEAVE, Verdict},
};

/// Returns the state of this CPU's probe.
#[inline(always)]
fn probe() -> Option<&'static Cell<Probe>> {
    maps::PROBE.mine(0)
}

/// Sends a copy of the packet to the next hop in a slot. Returns the outcome ([`PROBE_SENT`] and so on, or [`UNPROBED`]), with
/// the bit [`CLAMPED`] if the copy's MSS option was clamped.
#[inline(always)]
pub fn send(skb: &Skb, slot: u32, mss: u32) -> u32 {
    // The programs of schema 7 do not know probes.
    if mark::is_of_7() {
        return UNPROBED;
    }
    let Some(probe) = probe() else { return UNPROBED };
    // A probe is under way through a tunnel, and this packet is the tunnel's own.
    if field!(probe, slot).get() != 0 {
        return UNPROBED;
    }
    let number = field!(probe, number).get().wrapping_add(1);
    probe.set(Probe { number, slot, mss, clamped: 0, outcome: PROBE_UNHEARD, length: 0 });
    mark::write(skb, number, 0, slot | mark::COPY);
    // When this call returns, the programs that the copy has met have written the outcome.
    skb.send_copy();
    mark::clear(skb);
    field!(probe, slot).set(0);
    field!(probe, outcome).get() | if field!(probe, clamped).get() != 0 { CLAMPED } else { 0 }
}

/// Bit beside an outcome: the MSS option was clamped.
pub const CLAMPED: u32 = 1 << 8;
/// Outcome: there was no probe.
pub const UNPROBED: u32 = 1 << 9;

/// Returns whether this CPU is probing the next hop in a slot.
#[inline(always)]
pub fn is_under_way(slot: u32) -> bool {
    probe().is_some_and(|probe| field!(probe, slot).get() == slot)
}

/// Returns the length that the last probe of this CPU had on arrival.
#[inline(always)]
pub fn arrived_len() -> u32 {
    probe().map_or(0, |probe| field!(probe, length).get())
}

/// Receives a copy that a probe has sent: redirects it to the next hop, ends its way there, or lets it pass to the device.
#[inline(always)]
pub fn receive(skb: &Skb, header: Header, departs: bool, mark: &Mark) -> Verdict {
    if mark.slot & mark::PASS != 0 {
        mark::clear(skb);
        return LEAVE;
    }
    if mark.slot & mark::PROBE != 0 {
        note_arrival(skb, header, mark.rule, mark.slot & !mark::FLAGS);
        return DROP;
    }
    if !departs {
        return DROP;
    }
    hand_over(skb, header.is_l3(), mark.rule)
}

/// Redirects the copy with this number to the next hop that it probes, or drops it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn hand_over(skb: &Skb, is_l3: u32, number: u32) -> Verdict {
    let header = if is_l3 == 0 { Header::Ethernet } else { Header::L3 };
    match hand_over_as(skb, header, number) {
        Some(verdict) => verdict,
        None => DROP,
    }
}

/// Does the work of [`hand_over`]. Returns `None` for a copy that goes no further.
#[inline(always)]
fn hand_over_as(skb: &Skb, header: Header, number: u32) -> Option<Verdict> {
    let probe = probe()?;
    let (slot, mss) = (field!(probe, slot).get(), field!(probe, mss).get());
    if slot == 0 || field!(probe, number).get() != number {
        return None;
    }
    let next_hop = NEXT_HOPS.get(slot)?;
    let packet = packet::parse(skb, header.len()).ok()?;
    let packet = redirect::push_ethernet(skb, packet, header)?;
    let may_be_syn = mss != u32::from(MSS_OFF) && size::may_be_syn(skb, &packet);
    let mtu = match size::check_mtu(skb, &packet, next_hop.ifindex, next_hop.mtu, may_be_syn) {
        Size::Fits(mtu) => mtu,
        Size::TooBig(_) => {
            field!(probe, outcome).set(PROBE_TOO_BIG);
            return None;
        }
    };
    if may_be_syn && size::clamp_mss(skb, &packet, mss as u16, mtu) {
        field!(probe, clamped).set(1);
    }
    mark::write_slot(skb, slot | mark::PROBE);
    Some(redirect::redirect(next_hop, &packet))
}

/// Notes that the copy with this number has arrived, and what the device does with a frame. The copy goes no further.
#[inline(always)]
fn note_arrival(skb: &Skb, header: Header, number: u32, slot: u32) {
    let Some(probe) = probe() else { return };
    if field!(probe, slot).get() != slot || field!(probe, number).get() != number {
        health::neighbour_answered(slot);
        return;
    }
    // Read now: `transmit` may change it.
    let length = skb.len();
    field!(probe, outcome).set(match transmit(skb, header) {
        Transmitted::Taken => PROBE_SENT,
        Transmitted::Dropped => PROBE_DROPPED,
        Transmitted::Refused => PROBE_REFUSED,
    });
    field!(probe, length).set(length);
}

/// Notes a solicitation for the neighbour of a probe. A copy of it goes out, which shows what the device does with frames
/// although nobody has answered yet. Leaves any other packet alone.
#[inline(always)]
pub fn note_solicitation(skb: &Skb) -> Verdict {
    if !packet::is_solicitation(skb) {
        return LEAVE;
    }
    let Some(probe) = probe() else { return LEAVE };
    let slot = field!(probe, slot).get();
    if slot == 0 || NEXT_HOPS.get(slot).is_none_or(|next_hop| next_hop.ifindex != skb.ifindex()) {
        return LEAVE;
    }
    field!(probe, outcome).set(match transmit(skb, Header::Ethernet) {
        Transmitted::Taken => PROBE_ASKED,
        Transmitted::Dropped => PROBE_UNHEARD,
        Transmitted::Refused => PROBE_REFUSED,
    });
    DROP
}

/// What a device has done with a copy.
enum Transmitted {
    Taken,
    /// The device or its queue has dropped it, which says nothing about others: the queue is full, or a tunnel has no route.
    Dropped,
    /// The device takes no packets.
    Refused,
}

/// Sends a copy of the packet out of the device that it is leaving by. Returns what the device did with it.
///
/// A device that is down or has no carrier has the queueing discipline `noop`, which answers everything with `NET_XMIT_CN`. A
/// full queue of another kind gives the same answer to packets of the flow that fills it (fq_codel, sfq, cake). In that case
/// this tries again with a frame that belongs to no flow: from the device to itself, with Ethernet's protocol for loopback
/// tests, so that nobody accepts it. The packet is of no more use afterwards.
#[inline(always)]
fn transmit(skb: &Skb, header: Header) -> Transmitted {
    let first = transmit_copy(skb);
    if first == TAKEN {
        return Transmitted::Taken;
    }
    if first != CONGESTED && first != DOWN {
        return Transmitted::Dropped;
    }
    if let Header::Ethernet = header {
        make_loopback_test(skb);
    }
    let second = transmit_copy(skb);
    if second == CONGESTED || second == DOWN { Transmitted::Refused } else { Transmitted::Taken }
}

// Return values of a device's transmission (include/linux/netdevice.h), and `-ENETDOWN`.
const TAKEN: i64 = 0;
const CONGESTED: i64 = 2;
const DOWN: i64 = -100;

#[inline(always)]
fn transmit_copy(skb: &Skb) -> i64 {
    mark::write(skb, 0, 0, mark::PASS);
    skb.send_copy()
}

/// Length of a loopback test in bytes. It is long enough to contain any checksum that the device has to fill in.
const LOOPBACK_TEST_LEN: u32 = 128;

/// Makes the frame a loopback test of the device that it is leaving by (EtherType 0x9000). If that fails, it stays as it is.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn make_loopback_test(skb: &Skb) -> u32 {
    let Some(source) = skb.load::<6>(6) else { return 0 };
    let is_made = skb.set_len(LOOPBACK_TEST_LEN)
        && skb.store(0, &source)
        && skb.store(12, &0x9000_u16.to_be_bytes())
        // A queue tells flows apart by the bytes of the former IP header.
        && skb.store(14, &[0; 40]);
    skb.forget_hash();
    if is_made { 1 } else { 0 }
}
