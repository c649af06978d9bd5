//! The counters of attachments and rules. Those of next hops are in [`crate::next_hop`].

use core::cell::Cell;

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::generated::bpf_get_smp_processor_id};
use byway_abi::{
    ATTACHMENT_PROBES, AttachmentCounters, Count, Counters, ExceptionCounters, MAX_ATTACHMENTS, chunk_len,
    counters, exception_map,
};

use crate::{
    maps::{ATTACHMENT_COUNTERS, COUNTERS, EXCEPTIONS, ExceptionRow},
    rows::{PerCpu, field, read_once},
    skb::Skb,
};

/// Returns what the packet counts as: its segments as packets, and its bytes as it is now.
#[inline(always)]
pub fn measure(skb: &Skb) -> Count {
    let segments = skb.segments();
    Count { packets: u64::from(if segments == 0 { 1 } else { segments }), bytes: u64::from(skb.len()) }
}

/// The counters that are off: bits of [`byway_abi::counters`]. Userspace may set it before it loads the programs, which is
/// how a benchmark learns what counters cost. The verifier removes code that never runs.
#[unsafe(no_mangle)]
static UNCOUNTED: u32 = 0;

/// Returns whether these counters are on.
#[inline(always)]
pub fn counts(counters: u32) -> bool {
    read_once(&UNCOUNTED) & counters == 0
}

/// Counts a packet, without asking whether the counter is on.
#[inline(always)]
pub fn count(count: &Cell<Count>, size: Count) {
    let (packets, bytes) = (field!(count, packets), field!(count, bytes));
    packets.set(packets.get() + size.packets);
    bytes.set(bytes.get() + size.bytes);
}

/// Returns the counters of an attachment on this CPU, if they are on.
#[inline(always)]
pub fn attachment_counters(ifindex: u32) -> Option<&'static Cell<AttachmentCounters>> {
    if !counts(counters::OF_ATTACHMENTS) {
        return None;
    }
    for nth in 0..ATTACHMENT_PROBES {
        let row = ATTACHMENT_COUNTERS.mine(ifindex.wrapping_add(nth) % MAX_ATTACHMENTS)?;
        if field!(row, ifindex).get() == u64::from(ifindex) {
            return Some(row);
        }
    }
    None
}

/// Counts a packet that leaves by an attachment, by its [`byway_abi::class`].
#[inline(always)]
pub fn count_class(row: Option<&Cell<AttachmentCounters>>, class: usize, size: Count) {
    if let Some(row) = row {
        count(&field!(row, of).as_array_of_cells()[class], size);
    }
}

/// Returns the counters of a rule on this CPU, if they are on.
#[inline(always)]
pub fn rule_counters(rule: u32) -> Option<&'static Cell<Counters>> {
    if !counts(counters::OF_RULES) {
        return None;
    }
    // SAFETY: the helper returns a number.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u32;
    let (chunk, place) = (rule >> 16, rule & 0xFFFF);
    let row = COUNTERS.get_value_ptr_mut(chunk, &(cpu * chunk_len(chunk) + place))?;
    // SAFETY: each CPU has rows of its own in a chunk, and a row has as many words as the counters.
    Some(unsafe { &*row.cast() })
}

/// Counts a packet that was redirected, passed or dropped, as its rule says.
#[inline(always)]
pub fn count_matched(rule: u32, size: Count) {
    if let Some(row) = rule_counters(rule) {
        count(field!(row, matched), size);
    }
}

/// Counts a packet as one of a rule's exceptions. The rule may not have counters for them yet.
#[inline(always)]
pub fn count_exception(rule: u32, exception: u32, size: Count) {
    if counts(counters::OF_RULES) {
        count_exception_of(rule, exception, size.packets, size.bytes);
    }
}

/// Does the work of [`count_exception`], as a global function: the verifier checks it once, and not in each state of its
/// callers. It returns a number because the verifier refuses a global function that returns none.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_exception_of(rule: u32, exception: u32, packets: u64, bytes: u64) -> u32 {
    let Some(map) = EXCEPTIONS.get(exception_map(rule)) else { return 0 };
    if map.get_ptr_mut(rule).is_none() {
        // If this fails, the map is full, and only the next hop's counters count the packet.
        let _ = map.insert(rule, ExceptionRow::default(), BPF_NOEXIST.into());
    }
    if let Some(row) = map.get_ptr_mut(rule) {
        // SAFETY: the row is this CPU's alone, and has as many words as the counters.
        let row: &Cell<ExceptionCounters> = unsafe { &*row.cast() };
        let counter = match exception {
            exception::NO_NEXT_HOP => field!(row, no_next_hop),
            exception::CLAMPED => field!(row, clamped),
            exception::ICMP_SENT => field!(row, icmp_sent),
            _ => field!(row, too_big_dropped),
        };
        count(counter, Count { packets, bytes });
    }
    0
}

/// The numbers of the counters in [`ExceptionCounters`].
pub mod exception {
    pub const NO_NEXT_HOP: u32 = 0;
    pub const CLAMPED: u32 = 1;
    pub const ICMP_SENT: u32 = 2;
    pub const TOO_BIG_DROPPED: u32 = 3;
}
