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

mod decide;
mod flow;
mod icmp_error;
mod maps;
mod mark;
mod next_hop;
mod packet;
mod probe;
mod size;
mod sources;
mod transport;

use aya_ebpf::{bindings::TC_ACT_UNSPEC, macros::classifier, programs::TcContext};
use byway_abi::Count;

/// Egress of an attachment.
#[classifier]
pub fn departure(ctx: TcContext) -> i32 {
    on_attachment(&ctx, Header::Ethernet)
}

/// Egress of an attachment without an Ethernet header.
#[classifier]
pub fn departure_l3(ctx: TcContext) -> i32 {
    on_attachment(&ctx, Header::L3)
}

/// Egress of a next hop's device.
#[classifier]
pub fn arrival(ctx: TcContext) -> i32 {
    if let Some(verdict) = decide::arrive(&ctx, Header::Ethernet, false) {
        return verdict;
    }
    probe::asked(&ctx).unwrap_or(TC_ACT_UNSPEC)
}

/// Egress of a next hop's device without an Ethernet header.
#[classifier]
pub fn arrival_l3(ctx: TcContext) -> i32 {
    decide::arrive(&ctx, Header::L3, false).unwrap_or(TC_ACT_UNSPEC)
}

#[inline(always)]
fn on_attachment(ctx: &TcContext, header: Header) -> i32 {
    // No closures: the compiler makes functions of those, and each takes a part of the stack that all calls share.
    if let Some(verdict) = decide::arrive(ctx, header, true) {
        return verdict;
    }
    match decide::depart(ctx, header) {
        Some(verdict) => verdict,
        None => TC_ACT_UNSPEC,
    }
}

/// What the packets of a device begin with.
#[derive(Clone, Copy)]
enum Header {
    Ethernet,
    /// The IP header at once.
    L3,
}

impl Header {
    #[inline(always)]
    fn len(self) -> usize {
        match self {
            Self::Ethernet => packet::ETHERNET_LEN,
            Self::L3 => 0,
        }
    }

    /// 1 where there is no Ethernet header, as an argument of functions that the verifier sees by themselves.
    #[inline(always)]
    fn is_l3(self) -> u32 {
        match self {
            Self::Ethernet => 0,
            Self::L3 => 1,
        }
    }
}

/// The packet as it is counted: as many as it is on the wire, and its bytes as it stands.
#[inline(always)]
fn measure(ctx: &TcContext) -> Count {
    // SAFETY: the kernel hands a valid `__sk_buff`, whose fields the verifier checks.
    let segments = unsafe { (*ctx.skb.skb).gso_segs };
    Count { packets: u64::from(if segments == 0 { 1 } else { segments }), bytes: u64::from(ctx.len()) }
}

/// What is not counted: of [`byway_abi::counters`]. Userspace may set it before it loads the programs, which is how a benchmark
/// learns what counters cost; the verifier takes out what never runs.
#[unsafe(no_mangle)]
static UNCOUNTED: u32 = 0;

/// Whether these counters count.
#[inline(always)]
fn counts(counters: u32) -> bool {
    // SAFETY: a static that nothing writes while the program is loaded. Volatile, since the compiler knows the 0 alone.
    unsafe { core::ptr::read_volatile(&raw const UNCOUNTED) & counters == 0 }
}

#[inline(always)]
fn count(count: &mut Count, size: Count) {
    count.packets += size.packets;
    count.bytes += size.bytes;
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
