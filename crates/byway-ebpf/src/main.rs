//! The programs of Byway, all of type `sched_cls`.
//!
//! [`byway_departure`] is on the attachments. It looks up a packet's source, and redirects the packet on a match.
//! [`byway_arrival`] is on the devices of next hops that are no attachments. It counts the packets that get there.
//! [`byway_reception`] is on the ingress of the devices that requests come in by, if a rule has the target `reply-to`. It notes
//! which way each flow came in by, changes no packet, and ends no chain. The others are on egress.
//! Each has a second form (`_l3`) for devices whose packets have no Ethernet header (tun, WireGuard, most IP tunnels).
//!
//! A redirected packet also passes the egress hook of its new device, which may be an attachment as well. So it travels
//! with a [mark]. The first program that meets the mark removes it, counts the arrival and lets the packet go. So a packet
//! departs at most once. (One that had to wait for its neighbour is redirected once more, on arrival: `redirect_again`.)
//! The mark contains a secret of this network namespace, so nobody outside can forge it, and no other Byway accepts it.

#![no_std]
#![no_main]

mod clock;
mod count;
mod decide;
mod flow;
mod flow_table;
mod health;
mod heard;
mod hint;
mod icmp_error;
mod liveness;
mod lookup;
mod maps;
mod mark;
mod next_hop;
mod packet;
mod probe;
mod redirect;
mod reply;
mod rows;
mod size;
mod skb;
mod socket;
mod sources;
mod transport;
mod verdict;
mod ways;

use aya_ebpf::{macros::classifier, programs::TcContext};
use packet::Header;
use skb::Skb;
use verdict::{LEAVE, Verdict};

/// Runs on the egress of an attachment.
#[classifier]
pub fn byway_departure(ctx: TcContext) -> i32 {
    on_attachment(Skb::of(&ctx), Header::Ethernet)
}

/// Runs on the egress of an attachment without an Ethernet header.
#[classifier]
pub fn byway_dep_l3(ctx: TcContext) -> i32 {
    on_attachment(Skb::of(&ctx), Header::L3)
}

/// Runs on the egress of a next hop's device.
#[classifier]
pub fn byway_arrival(ctx: TcContext) -> i32 {
    let skb = Skb::of(&ctx);
    if let Some(verdict) = decide::arrive(skb, Header::Ethernet, false) {
        return verdict;
    }
    probe::note_solicitation(skb)
}

/// Runs on the egress of a next hop's device without an Ethernet header.
#[classifier]
pub fn byway_arr_l3(ctx: TcContext) -> i32 {
    decide::arrive(Skb::of(&ctx), Header::L3, false).unwrap_or(LEAVE)
}

/// Runs on the ingress of a device that requests come in by.
#[classifier]
pub fn byway_reception(ctx: TcContext) -> i32 {
    reply::note(Skb::of(&ctx), Header::Ethernet);
    LEAVE
}

/// Runs on the ingress of such a device without an Ethernet header.
#[classifier]
pub fn byway_rec_l3(ctx: TcContext) -> i32 {
    reply::note(Skb::of(&ctx), Header::L3);
    LEAVE
}

#[inline(always)]
fn on_attachment(skb: &Skb, header: Header) -> Verdict {
    // Not `unwrap_or_else`: the compiler makes its closure a function, and each function takes a part of the stack that all
    // calls share.
    match decide::arrive(skb, header, true) {
        Some(verdict) => verdict,
        None => decide::depart(skb, header),
    }
}

// `bpf_redirect_neigh` is only for programs under a licence that the kernel accepts as compatible with the GPL.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: nothing in these programs panics. The compiler takes a panic for impossible,
    // and the verifier refuses a program that could read or write out of bounds.
    unsafe { core::hint::unreachable_unchecked() }
}
