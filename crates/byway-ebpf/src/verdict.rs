//! Return values of the programs.

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::generated::bpf_redirect,
};

/// A return value of a tc program.
pub type Verdict = i32;

/// Leaves the packet to the next tc program, and then to the kernel. Not `TC_ACT_OK`, which would end the chain.
pub const LEAVE: Verdict = TC_ACT_UNSPEC;
pub const DROP: Verdict = TC_ACT_SHOT;

/// `BPF_F_INGRESS` (include/uapi/linux/bpf.h).
const INGRESS: u64 = 1;

/// Puts the packet into a device, as if it had come in there.
#[inline(always)]
pub fn receive_from(ifindex: u32) -> Verdict {
    // SAFETY: the helper takes two numbers.
    unsafe { bpf_redirect(ifindex, INGRESS) as Verdict }
}

/// Frees the packet, and tells its sender that it was sent. With tcx as well as with clsact, only a redirect to a device that
/// does not exist does so. No device has the ifindex 0.
#[inline(always)]
pub fn consume() -> Verdict {
    // SAFETY: the helper takes two numbers.
    unsafe { bpf_redirect(0, 0) as Verdict }
}
