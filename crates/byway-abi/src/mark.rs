//! What travels with a redirected packet, in the five words of `skb->cb`.
//!
//! That field survives `bpf_redirect_neigh`, `bpf_clone_redirect` and the neighbour's queue. It also survives a veth, so a
//! sender in a container may have written it. Therefore the mark contains a secret of this network namespace: a packet
//! without it has not departed from here.

/// The rule's identity, or the number of a probe ([`Probe::number`](crate::Probe::number)).
pub const RULE: usize = 0;
/// A hash of the Ethernet addresses that the packet departed with, or its length in bytes if it had none.
pub const HEADER: usize = 1;
/// The lower half of the secret (map `SECRET`).
pub const SECRET_LOW: usize = 2;
/// The upper half.
pub const SECRET_HIGH: usize = 3;
/// The next hop's slot in the lower bits, and the flags below.
pub const SLOT: usize = 4;

/// The packet has been redirected a second time.
pub const AGAIN: u32 = 1 << 31;
/// The packet departed from a device without an Ethernet header.
pub const L3: u32 = 1 << 30;
/// A copy of a packet that leaves by the attachment once more, for the program there to hand to the next hop.
pub const COPY: u32 = 1 << 29;
/// The same copy on its way to the next hop.
pub const PROBE: u32 = 1 << 28;
/// A received packet that only has to pass.
pub const PASS: u32 = 1 << 27;
/// A reply on the way that its request came in by. It has the Ethernet addresses of that way already.
pub const REPLY: u32 = 1 << 26;
/// All flags.
pub const FLAGS: u32 = AGAIN | L3 | COPY | PROBE | PASS | REPLY;
