//! Programs that are no part of Byway: `cargo xtask bench packet` and `bench reply-to` measure Byway's own with them, and
//! beside them.
//!
//! The kernel runs a program again and again on one packet (`BPF_PROG_TEST_RUN`). `vary` gives that packet another source
//! each time, or another destination, and then calls the program to measure, so that every look-up is a different one. The
//! cost of `vary` itself is measured with `empty`, and subtracted.

#![no_std]
#![no_main]

use core::ptr;

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, TC_ACT_UNSPEC, bpf_redir_neigh},
    btf_maps::{Array, HashMap, ProgramArray},
    helpers::generated::bpf_redirect_neigh,
    macros::{btf_map, classifier},
    programs::TcContext,
};
use byway_abi::{MAX_RULES, mark};

const IN_PLACE: usize = BPF_F_MMAPABLE as usize;
const ETHERNET_LEN: usize = 14;
/// EtherType of IPv4 in network byte order, as `__sk_buff.protocol` has it.
const ETH_P_IP: u32 = (0x0800_u16).to_be() as u32;
/// EtherType of IPv6, in the same form.
const ETH_P_IPV6: u32 = (0x86DD_u16).to_be() as u32;
/// Where the source is in an IPv4 header.
const SOURCE4: usize = ETHERNET_LEN + 12;
/// Where the source is in an IPv6 header.
const SOURCE6: usize = ETHERNET_LEN + 8;
/// Where the destination is in an IPv4 header.
const DESTINATION4: usize = ETHERNET_LEN + 16;
/// Where the destination is in an IPv6 header.
const DESTINATION6: usize = ETHERNET_LEN + 24;

/// How `vary` varies.
#[repr(C)]
pub struct Plan {
    /// The next of `SOURCES`.
    next: u32,
    /// How many of them there are, minus one. Their number is a power of two.
    mask: u32,
    /// 0: each run is the departure of another packet. 1: departure and arrival of a packet take turns. 2: each run is an
    /// arrival. 3: departure and arrival take turns, whatever the programs do, so that programs which do nothing show what
    /// `vary` itself costs in turn 1.
    turn: u32,
    /// The mark of an arrival: rule and slot.
    rule: u32,
    slot: u32,
    /// Both halves of the secret in marks.
    secret: [u32; 2],
    /// 0: what varies is the packet's source. 1: it is the destination.
    place: u32,
    /// In turn 3, 1 if the last run was a departure.
    departed: u32,
}

/// The plan.
#[btf_map]
pub static PLAN: Array<Plan, 1, IN_PLACE> = Array::new();

/// The sources or destinations, in network byte order, an IPv4 address in the first word.
#[btf_map]
pub static SOURCES: Array<[u32; 4], { MAX_RULES as usize }, IN_PLACE> = Array::new();

/// The programs to measure: that for departures, and that for arrivals.
#[btf_map]
pub static MEASURED: ProgramArray<2> = ProgramArray::new();

/// A next hop of `minimal`.
#[repr(C)]
pub struct NextHop {
    ifindex: u32,
    family: u32,
    gateway: [u32; 4],
}

/// The next hops of IPv4 sources.
#[btf_map]
pub static MINIMAL4: HashMap<u32, NextHop, { MAX_RULES as usize }> = HashMap::new();

/// The next hops of IPv6 sources.
#[btf_map]
pub static MINIMAL6: HashMap<[u32; 4], NextHop, { MAX_RULES as usize }> = HashMap::new();

/// Gives the packet its next source or destination, and calls the program to measure.
#[classifier]
pub fn vary(ctx: TcContext) -> i32 {
    let Some(plan) = PLAN.get_ptr_mut(0) else { return TC_ACT_UNSPEC };
    // SAFETY: the map's value lives as long as the program, and one program runs at a time.
    let plan = unsafe { &mut *plan };
    let skb = ctx.skb.skb;
    // SAFETY: the kernel hands a valid `__sk_buff`, whose fields the verifier checks.
    let is_marked = unsafe { [(*skb).cb[mark::SECRET_LOW], (*skb).cb[mark::SECRET_HIGH]] } == plan.secret;
    let arrives = match plan.turn {
        1 => is_marked,
        3 => {
            plan.departed ^= 1;
            plan.departed == 0
        }
        _ => false,
    };
    if arrives {
        // The kernel would have written another Ethernet header by now.
        let Some(header) = at::<[u8; ETHERNET_LEN]>(&ctx, 0) else { return TC_ACT_UNSPEC };
        // SAFETY: `at` has checked that the bytes are there.
        unsafe { (*header)[0] ^= 2 };
        // SAFETY: a tail call does not return, and nothing here has a destructor that it would skip.
        unsafe { MEASURED.tail_call(&ctx, 1) };
        return TC_ACT_UNSPEC;
    }
    let Some(source) = SOURCES.get(plan.next & plan.mask) else { return TC_ACT_UNSPEC };
    plan.next = plan.next.wrapping_add(1);
    // SAFETY: the kernel hands a valid `__sk_buff`, and a classifier may read this field.
    let protocol = unsafe { (*skb).protocol };
    if protocol == ETH_P_IP {
        let place = at::<u32>(&ctx, if plan.place == 0 { SOURCE4 } else { DESTINATION4 });
        let Some(place) = place else { return TC_ACT_UNSPEC };
        // SAFETY: `at` has checked that it is there; the header begins at an odd half-word.
        unsafe { ptr::write_unaligned(place, source[0]) };
    } else {
        let place = at::<[u32; 4]>(&ctx, if plan.place == 0 { SOURCE6 } else { DESTINATION6 });
        let Some(place) = place else { return TC_ACT_UNSPEC };
        // SAFETY: `at` has checked that it is there; the header begins at an odd half-word.
        unsafe { ptr::write_unaligned(place, *source) };
    }
    if plan.turn == 2 {
        let (rule, slot, secret) = (plan.rule, plan.slot, plan.secret);
        // SAFETY: the kernel hands a valid `__sk_buff`, and a classifier may write these fields.
        unsafe {
            (*skb).cb[mark::RULE] = rule;
            (*skb).cb[mark::HEADER] = 0;
            (*skb).cb[mark::SECRET_LOW] = secret[0];
            (*skb).cb[mark::SECRET_HIGH] = secret[1];
            (*skb).cb[mark::SLOT] = slot;
        }
        // SAFETY: a tail call does not return, and nothing here has a destructor that it would skip.
        unsafe { MEASURED.tail_call(&ctx, 1) };
        return TC_ACT_UNSPEC;
    }
    // SAFETY: the kernel hands a valid `__sk_buff`, and a classifier may write this field.
    unsafe { (*skb).cb[mark::SECRET_LOW] = 0 };
    // SAFETY: a tail call does not return, and nothing here has a destructor that it would skip.
    unsafe { MEASURED.tail_call(&ctx, 0) };
    TC_ACT_UNSPEC
}

/// Does nothing.
#[classifier]
pub fn empty(_: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// Does the least that a redirect by source needs: read the address, look it up, and call the helper.
#[classifier]
pub fn minimal(ctx: TcContext) -> i32 {
    // SAFETY: the kernel hands a valid `__sk_buff`, whose fields the verifier checks.
    let protocol = unsafe { (*ctx.skb.skb).protocol };
    let next_hop = if protocol == ETH_P_IP {
        let Some(source) = at::<u32>(&ctx, SOURCE4) else { return TC_ACT_UNSPEC };
        // SAFETY: `at` has checked that it is there; nobody changes the map meanwhile.
        unsafe { MINIMAL4.get(&ptr::read_unaligned(source)) }
    } else if protocol == ETH_P_IPV6 {
        let Some(source) = at::<[u32; 4]>(&ctx, SOURCE6) else { return TC_ACT_UNSPEC };
        // SAFETY: `at` has checked that it is there; nobody changes the map meanwhile.
        unsafe { MINIMAL6.get(&ptr::read_unaligned(source)) }
    } else {
        None
    };
    let Some(next_hop) = next_hop else { return TC_ACT_UNSPEC };
    let neighbour = ptr::from_ref(&next_hop.family).cast::<bpf_redir_neigh>().cast_mut();
    // SAFETY: `family` and `gateway` have the layout of `struct bpf_redir_neigh`, and the helper only reads them.
    unsafe { bpf_redirect_neigh(next_hop.ifindex, neighbour, size_of::<bpf_redir_neigh>() as i32, 0) as i32 }
}

/// Returns a place in the packet, if all of it is there.
#[inline(always)]
fn at<T>(ctx: &TcContext, offset: usize) -> Option<*mut T> {
    let (start, end) = (ctx.data(), ctx.data_end());
    (start + offset + size_of::<T>() <= end).then_some((start + offset) as *mut T)
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: nothing in these programs panics, and the verifier refuses a program that could read or write out of bounds.
    unsafe { core::hint::unreachable_unchecked() }
}
