//! What a program says of its packet.

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::generated::bpf_redirect,
};

/// A return value of a tc program.
pub type Verdict = i32;

/// The packet is left to the next program, and to the kernel. Not `TC_ACT_OK`, which would end the chain.
pub const LEAVE: Verdict = TC_ACT_UNSPEC;
pub const DROP: Verdict = TC_ACT_SHOT;

/// `BPF_F_INGRESS` (include/uapi/linux/bpf.h).
const INGRESS: u64 = 1;

/// The packet is put into a device, as if it had come in there.
#[inline(always)]
pub fn receive_from(ifindex: u32) -> Verdict {
    // SAFETY: the helper takes numbers.
    unsafe { bpf_redirect(ifindex, INGRESS) as Verdict }
}

/// The packet is let go of, and its sender told that it was sent: a redirect to a device that does not exist is the one verdict
/// that does so with tcx as well as with clsact. No device has the ifindex 0.
#[inline(always)]
pub fn consume() -> Verdict {
    // SAFETY: the helper takes numbers.
    unsafe { bpf_redirect(0, 0) as Verdict }
}
