//! Probes: whether a next hop takes packets, found out at nobody's cost.
//!
//! The packet at hand is sent as a copy, and what becomes of the copy is known before anything is decided about the packet
//! itself. The copy leaves by the attachment once more (`bpf_clone_redirect`), where [`hand_over`] gives it to the next hop.
//! The kernel resolves the neighbour and brings it to the next hop's device, where [`note_arrival`] sends one more copy through to
//! the device: only the return value of that call says whether the device takes frames, since a permanent neighbour entry
//! outlives a lost carrier. All of this happens within one call, on one CPU.
//!
//! So there are two ends. The copy has gone out: it was the packet, and the packet itself is let go of. Or it has not: then
//! the packet goes another way. So no packet is sent twice, and none is spent, unless somebody writes over the copy's mark.
//!
//! A copy that waits for its neighbour comes too late to be the packet. It is dropped where it arrives.

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

/// What this CPU knows of its probe.
#[inline(always)]
fn probe() -> Option<&'static Cell<Probe>> {
    maps::PROBE.mine(0)
}

/// Sends a packet to the next hop in a slot as a copy. Returns [`PROBE_SENT`] or its like, with [`CLAMPED`] where its MSS option
/// was clamped; or [`UNPROBED`].
#[inline(always)]
pub fn send(skb: &Skb, slot: u32, mss: u32) -> u32 {
    // The programs of schema 7 do not know probes.
    if mark::is_of_7() {
        return UNPROBED;
    }
    let Some(probe) = probe() else { return UNPROBED };
    // The frame of a tunnel that is itself a next hop's device, while a probe is on its way through it.
    if field!(probe, slot).get() != 0 {
        return UNPROBED;
    }
    let number = field!(probe, number).get().wrapping_add(1);
    probe.set(Probe { number, slot, mss, clamped: 0, outcome: PROBE_UNHEARD, length: 0 });
    mark::write(skb, number, 0, slot | mark::COPY);
    // Before this call returns, the programs that the copy meets have written what has become of it.
    skb.send_copy();
    mark::clear(skb);
    field!(probe, slot).set(0);
    field!(probe, outcome).get() | if field!(probe, clamped).get() != 0 { CLAMPED } else { 0 }
}

/// Beside an outcome: the MSS option of the packet was clamped.
pub const CLAMPED: u32 = 1 << 8;
/// In place of an outcome: there was no probe.
pub const UNPROBED: u32 = 1 << 9;

/// Whether this CPU is just now probing the next hop in a slot.
#[inline(always)]
pub fn is_under_way(slot: u32) -> bool {
    probe().is_some_and(|probe| field!(probe, slot).get() == slot)
}

/// The length of the last probe of this CPU, as it arrived.
#[inline(always)]
pub fn arrived_len() -> u32 {
    probe().map_or(0, |probe| field!(probe, length).get())
}

/// Receives a packet that a probe has made: hands it over, ends its way, or lets it pass.
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

/// Hands the copy of this number to the next hop that it probes.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn hand_over(skb: &Skb, is_l3: u32, number: u32) -> Verdict {
    let header = if is_l3 == 0 { Header::Ethernet } else { Header::L3 };
    match hand_over_as(skb, header, number) {
        Some(verdict) => verdict,
        None => DROP,
    }
}

/// The same; nothing where it goes no further.
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
    let mtu = match size::check_mtu(skb, &packet, next_hop, may_be_syn) {
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

/// Notes that the copy of this number has arrived at the device of its next hop, and what that does with it. It goes no further.
#[inline(always)]
fn note_arrival(skb: &Skb, header: Header, number: u32, slot: u32) {
    let Some(probe) = probe() else { return };
    if field!(probe, slot).get() != slot || field!(probe, number).get() != number {
        health::neighbour_answered(slot);
        return;
    }
    // Before a second question changes it.
    let length = skb.len();
    field!(probe, outcome).set(match transmit(skb, header) {
        Transmitted::Taken => PROBE_SENT,
        Transmitted::Dropped => PROBE_DROPPED,
        Transmitted::Refused => PROBE_REFUSED,
    });
    field!(probe, length).set(length);
}

/// Notes that the kernel asks for the neighbour of a probe, which says what the device does with frames although nobody has
/// answered. The question itself then goes out as a copy; any other packet is left alone.
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

/// What a device has done with a packet.
enum Transmitted {
    Taken,
    /// It, or its queue, has dropped this packet, which says nothing of others: the queue is full, or a tunnel knows no way.
    Dropped,
    /// It takes none.
    Refused,
}

/// Sends a copy of the packet out of the device that it is leaving by, and says what that did with it.
///
/// A device that is down or without carrier has the queueing discipline `noop`, which says `NET_XMIT_CN` to everything. A full
/// one of another kind says so as well, to a packet of the flow that fills it (fq_codel, sfq, cake). Then the device is asked
/// once more, with a frame of no flow: from the device to itself, of the protocol that Ethernet has for loopback tests, so
/// that nobody takes it in. The packet is not fit for anything afterwards.
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

/// Length of such a frame: no shorter than where the checksum is that a device may have been told to fill in.
const LOOPBACK_TEST_LEN: u32 = 128;

/// Makes a frame a loopback test of the device that it is leaving by (EtherType 0x9000). Where it fails, it is the frame as it was.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn make_loopback_test(skb: &Skb) -> u32 {
    let Some(source) = skb.load::<6>(6) else { return 0 };
    let is_made = skb.set_len(LOOPBACK_TEST_LEN)
        && skb.store(0, &source)
        && skb.store(12, &0x9000_u16.to_be_bytes())
        // A queue tells flows apart by what was the IP header.
        && skb.store(14, &[0; 40]);
    skb.forget_hash();
    if is_made { 1 } else { 0 }
}
