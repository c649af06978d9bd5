//! The transport header of a packet: its protocol, where it begins, and whether the packet is a fragment.

use byway_abi::FAMILY_IPV4;

use crate::skb::Skb;

// Protocol numbers, and IPv6 next headers.
const HOP_BY_HOP: u8 = 0;
pub const ICMP: u8 = 1;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
pub const ICMPV6: u8 = 58;
const DESTINATION_OPTIONS: u8 = 60;

/// How many extension headers the search for the transport header skips.
const EXTENSION_HEADERS: usize = 8;

/// A packet's transport header.
pub struct Transport {
    /// The first protocol that is not an extension header of IPv6.
    pub protocol: u8,
    /// Where the header begins.
    pub offset: u32,
    pub part: Part,
    /// That of a fragment, else 0. Not in [`Part`]: before Linux 6.3 the verifier refuses to copy a field that is not set.
    pub identification: u32,
    /// The protocol that the fragmented part begins with, otherwise 0. All fragments have the same. It is not `protocol` if
    /// more headers come first.
    pub next: u8,
}

/// Which part of a packet a fragment is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Whole,
    FirstFragment,
    LaterFragment,
}

impl Transport {
    /// Returns whether the packet contains the header: a later fragment does not.
    #[inline(always)]
    pub fn is_there(&self) -> bool {
        self.part != Part::LaterFragment
    }
}

/// Finds the transport header after the IP header that begins at `start`. Returns `None` if the packet ends before it.
#[inline(always)]
pub fn find(skb: &Skb, family: u32, start: u32) -> Option<Transport> {
    if family == FAMILY_IPV4 { ipv4(skb, start) } else { ipv6(skb, start) }
}

#[inline(always)]
fn ipv4(skb: &Skb, start: u32) -> Option<Transport> {
    let [first, second, third, _, _]: [u32; 5] = skb.words(start)?;
    let (first, second, third) = (u32::from_be(first), u32::from_be(second), u32::from_be(third));
    let protocol = (third >> 16) as u8;
    Some(Transport {
        protocol,
        offset: start + (first >> 24 & 0x0F) * 4,
        part: match (second & 0x1FFF, second & 0x2000 != 0) {
            (0, false) => Part::Whole,
            (0, true) => Part::FirstFragment,
            _ => Part::LaterFragment,
        },
        identification: second >> 16,
        next: protocol,
    })
}

#[inline(always)]
fn ipv6(skb: &Skb, start: u32) -> Option<Transport> {
    let [_, second]: [u32; 2] = skb.words(start)?;
    let mut next = (u32::from_be(second) >> 8) as u8;
    let mut offset = start + 40;
    let mut part = Part::Whole;
    let mut identification = 0;
    let mut of_fragment = 0;
    for _ in 0..EXTENSION_HEADERS {
        let header: [u8; 8] = match next {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | AUTHENTICATION | FRAGMENT => skb.load(offset)?,
            _ => break,
        };
        let length = match next {
            FRAGMENT => {
                let position = u16::from_be_bytes([header[2], header[3]]);
                // A packet in a single fragment (RFC 6946) counts as whole.
                if position & 0xFFF9 != 0 {
                    identification = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
                    of_fragment = header[0];
                    part = if position & 0xFFF8 == 0 { Part::FirstFragment } else { Part::LaterFragment };
                }
                8
            }
            AUTHENTICATION => (u32::from(header[1]) + 2) * 4,
            _ => (u32::from(header[1]) + 1) * 8,
        };
        next = header[0];
        offset += length;
        // After the header of a later fragment comes the middle of the packet.
        if part == Part::LaterFragment {
            break;
        }
    }
    Some(Transport { protocol: next, offset, part, identification, next: of_fragment })
}
