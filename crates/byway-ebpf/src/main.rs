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
mod decide;
mod flow;
mod health;
mod icmp_error;
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

use core::{cell::Cell, ptr};

use aya_ebpf::{macros::classifier, programs::TcContext};
use byway_abi::Count;
use rows::field;
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
fn measure(skb: &Skb) -> Count {
    let segments = skb.segments();
    Count { packets: u64::from(if segments == 0 { 1 } else { segments }), bytes: u64::from(skb.len()) }
}

/// What is not counted: of [`byway_abi::counters`]. Userspace may set it before it loads the programs, which is how a benchmark
/// learns what counters cost; the verifier takes out what never runs.
#[unsafe(no_mangle)]
static UNCOUNTED: u32 = 0;

/// Whether these counters count.
#[inline(always)]
fn counts(counters: u32) -> bool {
    read_once(&UNCOUNTED) & counters == 0
}

/// Counts a packet. Whether it is to be counted has been asked.
#[inline(always)]
fn count(count: &Cell<Count>, size: Count) {
    let (packets, bytes) = (field!(count, packets), field!(count, bytes));
    packets.set(packets.get() + size.packets);
    bytes.set(bytes.get() + size.bytes);
}

/// Reads all of a value at once, and once: userspace writes it, at the same time or before it loads the programs. Of a static the
/// compiler knows no other value than the 0 here.
#[inline(always)]
fn read_once<T: Copy>(value: &T) -> T {
    // SAFETY: a reference is good to read from.
    unsafe { ptr::read_volatile(value) }
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
