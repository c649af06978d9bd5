//! The programs of Byway, all of type `sched_cls` and on egress.
//!
//! `departure` sits on the attachments: it looks a packet's source up and redirects the packet on a match.
//! `arrival` sits on the devices of next hops that are no attachments: it counts what got there. Each comes twice, for
//! devices whose frames have an Ethernet header, and for those whose packets are bare (tun, WireGuard, most IP tunnels).
//!
//! A redirected packet passes the egress hook of its new device as well, which may be an attachment or even the
//! very device that it departed from. It therefore travels with a [mark], and whichever program meets the mark
//! first takes it off, counts the arrival and lets the packet go. So a packet is redirected once at the most. The mark is
//! a secret of this network namespace, so that nobody outside can put it on a packet, and no other Byway takes it for its own.

#![no_std]
#![no_main]

mod clock;
mod count;
mod decide;
mod flow;
mod health;
mod icmp_error;
mod lookup;
mod maps;
mod mark;
mod next_hop;
mod packet;
mod probe;
mod redirect;
mod rows;
mod size;
mod skb;
mod sources;
mod transport;
mod verdict;

use aya_ebpf::{macros::classifier, programs::TcContext};
use packet::Header;
use skb::Skb;
use verdict::{LEAVE, Verdict};

/// Egress of an attachment.
#[classifier]
pub fn byway_departure(ctx: TcContext) -> i32 {
    on_attachment(Skb::of(&ctx), Header::Ethernet)
}

/// Egress of an attachment without an Ethernet header.
#[classifier]
pub fn byway_dep_l3(ctx: TcContext) -> i32 {
    on_attachment(Skb::of(&ctx), Header::L3)
}

/// Egress of a next hop's device.
#[classifier]
pub fn byway_arrival(ctx: TcContext) -> i32 {
    let skb = Skb::of(&ctx);
    if let Some(verdict) = decide::arrive(skb, Header::Ethernet, false) {
        return verdict;
    }
    probe::note_solicitation(skb)
}

/// Egress of a next hop's device without an Ethernet header.
#[classifier]
pub fn byway_arr_l3(ctx: TcContext) -> i32 {
    decide::arrive(Skb::of(&ctx), Header::L3, false).unwrap_or(LEAVE)
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

// `bpf_redirect_neigh` is for programs under the GPL, or under a licence that the kernel takes as such.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: nothing in these programs panics; where the compiler cannot see that, the verifier refuses the
    // program, since this would be an unknown instruction.
    unsafe { core::hint::unreachable_unchecked() }
}
