//! Probes: whether a next hop takes packets, found out at nobody's cost.
//!
//! The packet at hand is sent as a copy, and what becomes of the copy is known before anything is decided about the packet
//! itself. The copy leaves by the attachment once more (`bpf_clone_redirect`), where [`hand_over`] gives it to the next hop.
//! The kernel resolves the neighbour and brings it to the next hop's device, where [`arrived`] sends one more copy through to
//! the device: only the return value of that call says whether the device takes frames, since a permanent neighbour entry
//! outlives a lost carrier. All of this happens within one call, on one CPU.
//!
//! So there are two ends. The copy has gone out: it was the packet, and the packet itself is let go of. Or it has not: then
//! the packet goes another way. So no packet is sent twice, and none is spent, unless somebody writes over the copy's mark.
//!
//! A copy that waits for its neighbour comes too late to be the packet. It is dropped where it arrives.

use core::ptr;

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::generated::{
        bpf_clone_redirect, bpf_redirect, bpf_set_hash_invalid, bpf_skb_change_tail, bpf_skb_store_bytes,
    },
    programs::TcContext,
};
use byway_abi::{
    MSS_OFF, PROBE_ASKED, PROBE_DROPPED, PROBE_REFUSED, PROBE_SENT, PROBE_TOO_BIG, PROBE_UNHEARD, Probe,
    TAKING_OVER_FROM_7, mark,
};

use crate::{
    Header, decide,
    maps::{NEXT_HOPS, PROBE},
    mark::{set_mark, taking_over, unmark},
    next_hop, packet,
    size::{self, Size},
    transport,
};

/// Sends a packet to the next hop in a slot as a copy. Returns [`PROBE_SENT`] or its like, with [`CLAMPED`] where its MSS option
/// was clamped; or [`UNPROBED`].
#[inline(always)]
pub fn send(skb: *mut __sk_buff, slot: u32, mss: u32) -> u32 {
    // The programs of schema 7 do not know probes.
    if taking_over() == TAKING_OVER_FROM_7 {
        return UNPROBED;
    }
    let Some(probe) = PROBE.get_ptr_mut(0) else { return UNPROBED };
    // SAFETY: the entry is this CPU's own; what the copy writes into it is read when the call has returned.
    unsafe {
        // The frame of a tunnel that is itself a next hop's device, while a probe is on its way through it.
        if (*probe).slot != 0 {
            return UNPROBED;
        }
        let number = (*probe).number.wrapping_add(1);
        ptr::write(probe, Probe { number, slot, mss, clamped: 0, outcome: PROBE_UNHEARD, length: 0 });
        set_mark(skb, number, 0, slot | mark::COPY);
        bpf_clone_redirect(skb, (*skb).ifindex, 0);
        unmark(skb);
        (*probe).slot = 0;
        (*probe).outcome | if (*probe).clamped != 0 { CLAMPED } else { 0 }
    }
}

/// Beside an outcome: the MSS option of the packet was clamped.
pub const CLAMPED: u32 = 1 << 8;
/// In place of an outcome: there was no probe.
pub const UNPROBED: u32 = 1 << 9;

/// Whether this CPU is just now probing the next hop in a slot.
#[inline(always)]
pub fn is_under_way(slot: u32) -> bool {
    // SAFETY: the entry is this CPU's own.
    PROBE.get_ptr(0).is_some_and(|probe| unsafe { (*probe).slot == slot })
}

/// The length of the last probe of this CPU, as it arrived.
#[inline(always)]
pub fn length() -> u32 {
    // SAFETY: the entry is this CPU's own.
    PROBE.get_ptr(0).map_or(0, |probe| unsafe { (*probe).length })
}

/// Lets go of a packet that has gone out as a copy. The sender is told that it was sent: a redirect to a device that does not
/// exist is the one verdict that does so with tcx as well as with clsact.
#[inline(always)]
pub fn let_go() -> i32 {
    // SAFETY: the helper takes numbers. No device has the ifindex 0.
    unsafe { bpf_redirect(0, 0) as i32 }
}

/// Receives a packet that a probe has made: hands it over, ends its way, or lets it pass. Returns the verdict.
#[inline(always)]
pub fn receive(ctx: &TcContext, header: Header, departs: bool, number: u32, slot: u32) -> i32 {
    let skb = ctx.skb.skb;
    if slot & mark::PASS != 0 {
        unmark(skb);
        return TC_ACT_UNSPEC;
    }
    if slot & mark::PROBE != 0 {
        return arrived(ctx, header, number, slot);
    }
    if !departs {
        return TC_ACT_SHOT;
    }
    // SAFETY: the verifier has seen the function by itself.
    unsafe { hand_over(skb, header.is_l3()) }
}

/// Hands a copy to the next hop that it probes. Returns the verdict.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn hand_over(skb: *mut __sk_buff, is_l3: u32) -> i32 {
    let ctx = &TcContext::new(skb);
    let header = if is_l3 == 0 { Header::Ethernet } else { Header::L3 };
    let hand = || {
        let probe = PROBE.get_ptr_mut(0)?;
        // SAFETY: the entry is this CPU's own, and the verifier checks the fields of the packet.
        let (slot, mss, is_it) =
            unsafe { ((*probe).slot, (*probe).mss, (*skb).cb[mark::RULE] == (*probe).number) };
        if slot == 0 || !is_it {
            return None;
        }
        let next_hop = NEXT_HOPS.get(slot)?;
        let packet = packet::parse(ctx, header.len()).ok()?;
        let packet = decide::push_ethernet(ctx, packet, header)?;
        let may_be_syn = mss != u32::from(MSS_OFF) && size::may_be_syn(ctx, &packet);
        match size::check_mtu(ctx, &packet, next_hop, may_be_syn) {
            Size::Fits(mtu) => {
                if may_be_syn && size::clamp_mss(ctx, &packet, mss as u16, mtu) {
                    // SAFETY: as above.
                    unsafe { (*probe).clamped = 1 };
                }
            }
            Size::TooBig(_) => {
                // SAFETY: as above.
                unsafe { (*probe).outcome = PROBE_TOO_BIG };
                return None;
            }
        }
        // SAFETY: the verifier lets a classifier write this field.
        unsafe { (*skb).cb[mark::SLOT] = slot | mark::PROBE };
        Some(decide::redirect(next_hop, &packet))
    };
    match hand() {
        Some(verdict) => verdict,
        None => TC_ACT_SHOT,
    }
}

/// Receives a copy at the device of its next hop. Returns the verdict: it goes no further.
#[inline(always)]
fn arrived(ctx: &TcContext, header: Header, number: u32, slot: u32) -> i32 {
    let slot = slot & !mark::FLAGS;
    if let Some(probe) = PROBE.get_ptr_mut(0) {
        // SAFETY: the entry is this CPU's own.
        let is_awaited = unsafe { (*probe).slot == slot && (*probe).number == number };
        if is_awaited {
            // Before a second question changes it.
            let length = ctx.len();
            let outcome = match put_out(ctx, header) {
                Put::Taken => PROBE_SENT,
                Put::Dropped => PROBE_DROPPED,
                Put::Refused => PROBE_REFUSED,
            };
            // SAFETY: as above.
            unsafe {
                (*probe).outcome = outcome;
                (*probe).length = length;
            }
        } else {
            next_hop::neighbour_answered(slot);
        }
    }
    TC_ACT_SHOT
}

/// Hears the kernel ask for the neighbour of a probe, which says what the device does with frames although nobody has
/// answered. Returns the verdict where it has: the question has gone out as a copy.
#[inline(always)]
pub fn asked(ctx: &TcContext) -> Option<i32> {
    if !packet::is_solicitation(ctx) {
        return None;
    }
    let probe = PROBE.get_ptr_mut(0)?;
    // SAFETY: the entry is this CPU's own.
    let slot = unsafe { (*probe).slot };
    if slot == 0 {
        return None;
    }
    let skb = ctx.skb.skb;
    // SAFETY: the kernel hands a valid `__sk_buff`, whose fields the verifier checks.
    if NEXT_HOPS.get(slot)?.ifindex != unsafe { (*skb).ifindex } {
        return None;
    }
    let outcome = match put_out(ctx, Header::Ethernet) {
        Put::Taken => PROBE_ASKED,
        Put::Dropped => PROBE_UNHEARD,
        Put::Refused => PROBE_REFUSED,
    };
    // SAFETY: as above.
    unsafe { (*probe).outcome = outcome };
    Some(TC_ACT_SHOT)
}

/// What a device has done with a packet.
enum Put {
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
fn put_out(ctx: &TcContext, header: Header) -> Put {
    let first = put(ctx.skb.skb);
    if first == TAKEN {
        return Put::Taken;
    }
    if first != CONGESTED && first != DOWN {
        return Put::Dropped;
    }
    if let Header::Ethernet = header {
        // SAFETY: the verifier has seen the function by itself.
        unsafe { make_loopback_test(ctx.skb.skb) };
    }
    let second = put(ctx.skb.skb);
    if second == CONGESTED || second == DOWN { Put::Refused } else { Put::Taken }
}

// Return values of a device's transmission (include/linux/netdevice.h), and `-ENETDOWN`.
const TAKEN: i64 = 0;
const CONGESTED: i64 = 2;
const DOWN: i64 = -100;

#[inline(always)]
fn put(skb: *mut __sk_buff) -> i64 {
    set_mark(skb, 0, 0, mark::PASS);
    // SAFETY: the helper takes numbers; the verifier checks the field.
    unsafe { bpf_clone_redirect(skb, (*skb).ifindex, 0) }
}

/// Length of such a frame: no shorter than where the checksum is that a device may have been told to fill in.
const LOOPBACK_TEST_LEN: u32 = 128;

/// Makes a frame a loopback test of the device that it is leaving by (EtherType 0x9000). Where it fails, it is the frame as it was.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn make_loopback_test(skb: *mut __sk_buff) -> u32 {
    let ctx = &TcContext::new(skb);
    let Some(source) = transport::load::<6>(ctx, 6) else { return 0 };
    let nothing = [0_u8; 40];
    let protocol = 0x9000_u16.to_be();
    // SAFETY: the helpers read as many bytes as they are told, and check the bounds of the packet.
    let failed = unsafe {
        bpf_skb_change_tail(skb, LOOPBACK_TEST_LEN, 0) != 0
            || bpf_skb_store_bytes(skb.cast(), 0, source.as_ptr().cast(), 6, 0) != 0
            || bpf_skb_store_bytes(skb.cast(), 12, (&raw const protocol).cast(), 2, 0) != 0
            // A queue tells flows apart by what was the IP header.
            || bpf_skb_store_bytes(skb.cast(), 14, nothing.as_ptr().cast(), 40, 0) != 0
    };
    // SAFETY: the helper takes the packet alone.
    unsafe { bpf_set_hash_invalid(skb) };
    if failed { 0 } else { 1 }
}
