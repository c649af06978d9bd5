//! Filters for answers (bpf(4), linux/filter.h). They save waking the process for every packet of the device. What they let
//! through is read with more care.

use socket2::SockFilter;

/// A step of a filter. Offsets are from the beginning of the packet, or from the end of its IPv4 header.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Byte(u32),
    Half(u32),
    /// Makes the end of the IPv4 header the beginning of what is `Behind`.
    FindEnd,
    ByteBehind(u32),
    HalfBehind(u32),
    /// Goes on if what was loaded last is this.
    Is(u32),
    /// Goes on if it is one of these.
    IsOneOf(Vec<u32>),
    /// Goes on if it has one of these bits.
    Has(u32),
    /// Goes on if it has none of these bits.
    HasNone(u32),
}

/// Where an instruction goes on.
#[derive(Debug, Clone, Copy)]
enum Next {
    /// Over so many instructions.
    Over(usize),
    /// To the last instruction, which refuses.
    Refuse,
}

/// Lets through what passes all steps.
pub(super) fn filter(steps: &[Step]) -> Vec<SockFilter> {
    const LOAD: u32 = libc::BPF_LD;
    const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const BITS: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
    const ON: Next = Next::Over(0);
    let load = |code, at| vec![(LOAD | code, ON, ON, at)];
    let instructions: Vec<(u32, Next, Next, u32)> = steps
        .iter()
        .flat_map(|step| match step {
            Step::Byte(at) => load(libc::BPF_B | libc::BPF_ABS, *at),
            Step::Half(at) => load(libc::BPF_H | libc::BPF_ABS, *at),
            Step::FindEnd => vec![(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, ON, ON, 0)],
            Step::ByteBehind(at) => load(libc::BPF_B | libc::BPF_IND, *at),
            Step::HalfBehind(at) => load(libc::BPF_H | libc::BPF_IND, *at),
            Step::Is(value) => vec![(EQUAL, ON, Next::Refuse, *value)],
            Step::IsOneOf(values) => {
                let others = |nth: usize| values.len() - 1 - nth;
                let is = |(nth, value): (usize, &u32)| {
                    let not = if others(nth) == 0 { Next::Refuse } else { ON };
                    (EQUAL, Next::Over(others(nth)), not, *value)
                };
                values.iter().enumerate().map(is).collect()
            }
            Step::Has(bits) => vec![(BITS, ON, Next::Refuse, *bits)],
            Step::HasNone(bits) => vec![(BITS, Next::Refuse, ON, *bits)],
        })
        .collect();
    let length = instructions.len();
    let mut filter: Vec<SockFilter> = instructions
        .into_iter()
        .enumerate()
        .map(|(nth, (code, if_true, if_false, value))| {
            let over = |next| match next {
                Next::Over(instructions) => instructions as u8,
                Next::Refuse => (length - nth) as u8,
            };
            SockFilter::new(code as u16, over(if_true), over(if_false), value)
        })
        .collect();
    let end = (libc::BPF_RET | libc::BPF_K) as u16;
    filter.push(SockFilter::new(end, 0, 0, u32::MAX));
    filter.push(SockFilter::new(end, 0, 0, 0));
    filter
}
