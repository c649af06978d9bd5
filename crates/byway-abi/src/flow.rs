//! The hash of a flow, which picks a bucket of a group: of addresses, protocol and ports. The programs compute it for each
//! packet, and userspace for a packet that somebody asks about.

use crate::sources::mix64;

/// How often a flow's hash is hashed again for another bucket, before the members are tried in turn.
pub const TRIES: usize = 4;

/// The number of TCP (IANA).
pub const TCP: u8 = 6;
/// The number of UDP.
pub const UDP: u8 = 17;
/// The number of DCCP.
pub const DCCP: u8 = 33;
/// The number of SCTP.
pub const SCTP: u8 = 132;
/// The number of UDP-Lite.
pub const UDP_LITE: u8 = 136;

/// Returns whether a protocol's header begins with a source port and a destination port.
#[inline(always)]
pub const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | DCCP | SCTP | UDP_LITE)
}

/// Returns the hash of a flow. Addresses are words in network byte order, an IPv4 address in the first of them. The ports are
/// in the host's byte order, with the source port in the upper half. They are 0 if the protocol has none.
#[inline(always)]
pub fn hash(source: [u32; 4], destination: [u32; 4], protocol: u32, ports: u32) -> u32 {
    // Words in an array and a plain loop: the verifier loses track of an iterator over several.
    let [a, b, c, d] = source;
    let [e, f, g, h] = destination;
    let mut hash = 0;
    for word in [a, b, c, d, e, f, g, h, protocol, ports] {
        hash = mix64(hash ^ word as u64);
    }
    (hash >> 32) as u32
}

/// Returns another hash of the same flow.
#[inline(always)]
pub const fn rehash(hash: u32) -> u32 {
    (mix64(hash as u64 ^ 0xB1A7_0000_0000) >> 16) as u32
}
