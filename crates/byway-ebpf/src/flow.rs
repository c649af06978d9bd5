//! Which flow a packet belongs to: a hash of addresses, protocol and ports.
//!
//! Our own hash and not `skb->hash`: that one changes when TCP retransmits (`sk_rethink_txhash`), and a flow would
//! change its next hop in the middle.

use aya_ebpf::{
    helpers::{bpf_ktime_get_ns, generated::bpf_skb_load_bytes},
    programs::TcContext,
};
use byway_abi::{FAMILY_IPV4, Fragments};

use crate::{
    maps::FRAGMENTS,
    packet::{ETHERNET_LEN, Packet},
};

// Protocol numbers, and IPv6 next headers.
const HOP_BY_HOP: u8 = 0;
const TCP: u8 = 6;
const UDP: u8 = 17;
const DCCP: u8 = 33;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
const SCTP: u8 = 132;
const UDP_LITE: u8 = 136;

/// How many extension headers are passed over. What has more is told apart by its addresses alone.
const EXTENSION_HEADERS: usize = 8;

/// How long a fragment that came before the first one speaks for its packet, in nanoseconds.
const OUT_OF_ORDER: u64 = 1_000_000_000;

/// What follows the addresses.
struct Transport {
    protocol: u8,
    /// Where its header begins.
    offset: u32,
    fragment: Option<Fragment>,
}

/// What makes the packet a fragment.
struct Fragment {
    identification: u32,
    /// What the fragmented part begins with, which all fragments say alike; not the protocol where that comes behind
    /// more headers.
    next: u8,
    is_first: bool,
}

/// The hash of the packet's flow. All fragments of a packet have that of the first.
#[inline(always)]
pub fn hash(ctx: &TcContext, packet: &Packet) -> u32 {
    let transport = if packet.family == FAMILY_IPV4 { ipv4(ctx) } else { ipv6(ctx) };
    let Some(transport) = transport else { return mix(packet, 0, 0) };
    let protocol = u32::from(transport.protocol);
    match transport.fragment {
        None => mix(packet, protocol, ports(ctx, &transport)),
        Some(Fragment { identification, next, is_first }) => {
            let mut key = [0; 10];
            key[..4].copy_from_slice(&packet.source);
            key[4..8].copy_from_slice(&packet.destination);
            key[8] = identification;
            key[9] = u32::from(next);
            // SAFETY: what another CPU writes meanwhile is another fragment of the same packet.
            let known = unsafe { FRAGMENTS.get(&key) };
            if is_first {
                // SAFETY: the helper only reads the clock.
                let now = unsafe { bpf_ktime_get_ns() };
                // A later fragment has come first and gone its way. Identifications come round again, so that an old
                // entry may be another packet's.
                if let Some(known) = known
                    && known.by_first == 0
                    && now.saturating_sub(known.written) < OUT_OF_ORDER
                {
                    return known.hash;
                }
                let hash = mix(packet, protocol, ports(ctx, &transport));
                // Where this fails, later fragments go by their addresses.
                let _ = FRAGMENTS.insert(&key, &Fragments { written: now, hash, by_first: 1 }, 0);
                return hash;
            }
            if let Some(known) = known {
                return known.hash;
            }
            let hash = mix(packet, protocol, 0);
            // SAFETY: the helper only reads the clock.
            let written = unsafe { bpf_ktime_get_ns() };
            // Where this fails, each fragment goes by its addresses.
            let _ = FRAGMENTS.insert(&key, &Fragments { written, hash, by_first: 0 }, 0);
            hash
        }
    }
}

#[inline(always)]
fn ipv4(ctx: &TcContext) -> Option<Transport> {
    let header: [u8; 20] = load(ctx, ETHERNET_LEN as u32)?;
    let fragment = u16::from_be_bytes([header[6], header[7]]);
    let (more, offset) = (fragment & 0x2000 != 0, fragment & 0x1FFF);
    let identification = u32::from(u16::from_be_bytes([header[4], header[5]]));
    Some(Transport {
        protocol: header[9],
        offset: ETHERNET_LEN as u32 + u32::from(header[0] & 0x0F) * 4,
        fragment: (more || offset != 0).then_some(Fragment {
            identification,
            next: header[9],
            is_first: offset == 0,
        }),
    })
}

#[inline(always)]
fn ipv6(ctx: &TcContext) -> Option<Transport> {
    let [mut next]: [u8; 1] = load(ctx, ETHERNET_LEN as u32 + 6)?;
    let mut offset = ETHERNET_LEN as u32 + 40;
    let mut fragment = None;
    for _ in 0..EXTENSION_HEADERS {
        let header: [u8; 8] = match next {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | AUTHENTICATION | FRAGMENT => load(ctx, offset)?,
            _ => break,
        };
        let length = match next {
            FRAGMENT => {
                let position = u16::from_be_bytes([header[2], header[3]]);
                let identification = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
                // A packet in one fragment (RFC 6946) is as good as none.
                if position & 0xFFF9 != 0 {
                    let is_first = position & 0xFFF8 == 0;
                    fragment = Some(Fragment { identification, next: header[0], is_first });
                }
                8
            }
            AUTHENTICATION => (u32::from(header[1]) + 2) * 4,
            _ => (u32::from(header[1]) + 1) * 8,
        };
        next = header[0];
        offset += length;
        // What follows the header of a later fragment is the middle of the packet.
        if let Some(Fragment { is_first: false, .. }) = fragment {
            break;
        }
    }
    Some(Transport { protocol: next, offset, fragment })
}

/// Both ports as one word, or 0 where the protocol has none.
#[inline(always)]
fn ports(ctx: &TcContext, transport: &Transport) -> u32 {
    match transport.protocol {
        TCP | UDP | DCCP | SCTP | UDP_LITE => load(ctx, transport.offset).map_or(0, u32::from_be_bytes),
        _ => 0,
    }
}

/// Bytes of the frame, wherever they lie; nothing where it is shorter.
#[inline(always)]
fn load<const N: usize>(ctx: &TcContext, offset: u32) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    // SAFETY: the helper writes `N` bytes to `bytes`, or fails.
    let failed =
        unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), offset, bytes.as_mut_ptr().cast(), N as u32) };
    (failed == 0).then_some(bytes)
}

#[inline(always)]
fn mix(packet: &Packet, protocol: u32, ports: u32) -> u32 {
    // Words in an array and a plain loop: the verifier loses track of an iterator over several.
    let [a, b, c, d] = packet.source;
    let [e, f, g, h] = packet.destination;
    let mut hash = 0;
    for word in [a, b, c, d, e, f, g, h, protocol, ports] {
        hash = stir(hash ^ u64::from(word));
    }
    (hash >> 32) as u32
}

/// One round: an odd multiplier (2^64 divided by the golden ratio) carries every bit upwards, the shift down again.
#[inline(always)]
fn stir(word: u64) -> u64 {
    let word = word.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    word ^ word >> 32
}

/// Another hash of the same flow.
#[inline(always)]
pub fn again(hash: u32) -> u32 {
    (stir(u64::from(hash) ^ 0xB1A7_0000_0000) >> 16) as u32
}
