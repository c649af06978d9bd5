//! The kernel's clocks.

use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_ns};

/// The monotonic clock, in nanoseconds.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: the helper only reads the clock.
    unsafe { bpf_ktime_get_ns() }
}

/// The clock that is quick to read, in ticks.
#[inline(always)]
pub fn jiffies() -> u64 {
    // SAFETY: likewise.
    unsafe { bpf_jiffies64() }
}
