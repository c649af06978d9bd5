//! Filters for answers (bpf(4), linux/filter.h). They save waking the process for every packet of the device. What they let
//! through is read with more care.

use socket2::SockFilter;

/// A step of a filter. Offsets are from the beginning of the packet, or from the end of its IPv4 header.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    Byte(u32),
    Half(u32),
    /// Makes the end of the IPv4 header the beginning of what is `Behind`.
    FindEnd,
    ByteBehind(u32),
    HalfBehind(u32),
    /// Goes on if what was loaded last is this.
    Is(u32),
    /// Goes on if it has none of these bits.
    HasNone(u32),
}

/// Lets through what passes all steps.
pub(super) fn filter(steps: &[Step]) -> Vec<SockFilter> {
    const LOAD: u32 = libc::BPF_LD;
    let length = steps.len();
    let mut filter: Vec<SockFilter> = steps
        .iter()
        .enumerate()
        .map(|(nth, step)| {
            // Over the rest, to the last instruction, which refuses.
            let refuse = (length - nth) as u8;
            let (code, if_true, if_false, value) = match *step {
                Step::Byte(at) => (LOAD | libc::BPF_B | libc::BPF_ABS, 0, 0, at),
                Step::Half(at) => (LOAD | libc::BPF_H | libc::BPF_ABS, 0, 0, at),
                Step::FindEnd => (libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0, 0, 0),
                Step::ByteBehind(at) => (LOAD | libc::BPF_B | libc::BPF_IND, 0, 0, at),
                Step::HalfBehind(at) => (LOAD | libc::BPF_H | libc::BPF_IND, 0, 0, at),
                Step::Is(value) => (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, refuse, value),
                Step::HasNone(bits) => (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, refuse, 0, bits),
            };
            SockFilter::new(code as u16, if_true, if_false, value)
        })
        .collect();
    let end = (libc::BPF_RET | libc::BPF_K) as u16;
    filter.push(SockFilter::new(end, 0, 0, u32::MAX));
    filter.push(SockFilter::new(end, 0, 0, 0));
    filter
}
