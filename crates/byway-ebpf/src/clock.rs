//! The kernel's clocks.

use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_ns};

/// Returns the time of the monotonic clock, in nanoseconds.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: the helper only reads the clock.
    unsafe { bpf_ktime_get_ns() }
}

/// Returns the kernel's clock in ticks, which is quick to read.
#[inline(always)]
pub fn jiffies() -> u64 {
    // SAFETY: the helper only reads a counter.
    unsafe { bpf_jiffies64() }
}
