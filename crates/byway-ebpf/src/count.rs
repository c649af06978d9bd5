//! The counters of attachments and rules. Those of next hops are in `next_hop.rs`.

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

/// The packet as it is counted: as many as it is on the wire, and its bytes as it stands.
#[inline(always)]
pub fn measure(skb: &Skb) -> Count {
    let segments = skb.segments();
    Count { packets: u64::from(if segments == 0 { 1 } else { segments }), bytes: u64::from(skb.len()) }
}

/// What is not counted: of [`byway_abi::counters`]. Userspace may set it before it loads the programs, which is how a benchmark
/// learns what counters cost; the verifier takes out what never runs.
#[unsafe(no_mangle)]
static UNCOUNTED: u32 = 0;

/// Whether these counters count.
#[inline(always)]
pub fn counts(counters: u32) -> bool {
    read_once(&UNCOUNTED) & counters == 0
}

/// Counts a packet. Whether it is to be counted has been asked.
#[inline(always)]
pub fn count(count: &Cell<Count>, size: Count) {
    let (packets, bytes) = (field!(count, packets), field!(count, bytes));
    packets.set(packets.get() + size.packets);
    bytes.set(bytes.get() + size.bytes);
}

/// What has left by an attachment, on this CPU.
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

/// Counts a packet that leaves by an attachment, by what became of it there.
#[inline(always)]
pub fn count_class(row: Option<&Cell<AttachmentCounters>>, class: usize, size: Count) {
    if let Some(row) = row {
        count(&field!(row, of).as_array_of_cells()[class], size);
    }
}

/// What a rule has done, on this CPU.
#[inline(always)]
pub fn rule_counters(rule: u32) -> Option<&'static Cell<Counters>> {
    if !counts(counters::OF_RULES) {
        return None;
    }
    // SAFETY: the helper returns a number.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u32;
    let (chunk, place) = (rule >> 16, rule & 0xFFFF);
    let row = COUNTERS.get_value_ptr_mut(chunk, &(cpu * chunk_len(chunk) + place))?;
    // SAFETY: the row is this CPU's alone by the place that it is in, and words enough for the counters.
    Some(unsafe { &*row.cast() })
}

/// Counts a packet that had its rule's target done to it.
#[inline(always)]
pub fn count_matched(rule: u32, size: Count) {
    if let Some(row) = rule_counters(rule) {
        count(field!(row, matched), size);
    }
}

/// Counts what happens to few packets, for a rule that may have no counter for it yet.
#[inline(always)]
pub fn count_exception(rule: u32, exception: u32, size: Count) {
    if counts(counters::OF_RULES) {
        count_exception_of(rule, exception, size.packets, size.bytes);
    }
}

/// The same as a function that the verifier sees by itself: it follows it once, and not in each state of the packets around its
/// callers.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_exception_of(rule: u32, exception: u32, packets: u64, bytes: u64) -> u32 {
    let Some(map) = EXCEPTIONS.get(exception_map(rule)) else { return 0 };
    if map.get_ptr_mut(rule).is_none() {
        // Where this fails there are too many of them, and the next hop's counters say it alone.
        let _ = map.insert(rule, ExceptionRow::default(), BPF_NOEXIST.into());
    }
    if let Some(row) = map.get_ptr_mut(rule) {
        // SAFETY: the row is this CPU's alone, and words enough for the counters.
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

/// What happens to few packets, as a number: of [`ExceptionCounters`].
pub mod exception {
    pub const NO_NEXT_HOP: u32 = 0;
    pub const CLAMPED: u32 = 1;
    pub const ICMP_SENT: u32 = 2;
    pub const TOO_BIG_DROPPED: u32 = 3;
}
