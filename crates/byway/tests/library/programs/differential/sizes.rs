//! What a packet's size, and the MSS option of TCP, mean where it has found a next hop.

use std::time::Duration;

use byway::Mss;

use super::{
    counters::is,
    parse::{AUTHENTICATION, DESTINATION, ETHERNET, FRAGMENT, HOP_BY_HOP, ICMP, ICMPV6, ROUTING, TCP, be16},
    traffic::Frame,
};

/// What becomes of a packet on its way to a next hop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fit {
    /// It departs, with its MSS option lowered where that is too large.
    Departs(Option<Clamp>),
    /// The device takes no packet of this size.
    TooBig { may_be_answered: bool },
}

/// An MSS option that is lowered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Clamp {
    /// Where in the frame its value is: there, or behind an odd option at one of these.
    options: Vec<usize>,
    /// Behind an odd option it may stay as it is.
    pub(crate) is_certain: bool,
    /// Where in the frame the TCP header begins.
    header: usize,
    mss: u16,
}

/// What a device with this MTU does to a packet, by a rule that says this about the MSS. The packet is one
/// that a rule has been found for.
pub(crate) fn fit(frame: &Frame, mtu: usize, mss: Mss) -> Fit {
    let packet = &frame.bytes[ETHERNET..];
    if packet.len() > mtu {
        return Fit::TooBig { may_be_answered: may_be_answered(packet, mtu) };
    }
    Fit::Departs(clamp(packet, mtu, mss))
}

/// What is behind the IP header, and the extension headers of IPv6.
enum Upper {
    /// The header of this protocol, which begins there.
    Header(u8, usize),
    /// A part of the payload: the header is in the first fragment.
    LaterFragment,
    CutOff,
}

/// More extension headers than this are nobody's.
const EXTENSIONS: usize = 8;

fn is_v4(packet: &[u8]) -> bool {
    packet[0] >> 4 == 4
}

fn upper(packet: &[u8]) -> Upper {
    if is_v4(packet) {
        return match be16(packet, 6).unwrap() & 0x1FFF {
            0 => Upper::Header(packet[9], usize::from(packet[0] & 0xF) * 4),
            _ => Upper::LaterFragment,
        };
    }
    let (mut next, mut at) = (packet[6], 40);
    for _ in 0..EXTENSIONS {
        if ![HOP_BY_HOP, ROUTING, DESTINATION, AUTHENTICATION, FRAGMENT].contains(&next) {
            break;
        }
        let Some(header) = packet.get(at..at + 8) else { return Upper::CutOff };
        let length = match next {
            FRAGMENT if header[2] != 0 || header[3] & 0xF8 != 0 => return Upper::LaterFragment,
            FRAGMENT => 8,
            AUTHENTICATION => 4 * (usize::from(header[1]) + 2),
            _ => 8 * (usize::from(header[1]) + 1),
        };
        (next, at) = (header[0], at + length);
        if at > packet.len() {
            return Upper::CutOff;
        }
    }
    Upper::Header(next, at)
}

/// Whether the sender may be told that its packet is too big (RFC 1122, 3.2.2; RFC 4443, 2.4 e).
fn may_be_answered(packet: &[u8], mtu: usize) -> bool {
    if is_v4(packet) {
        let is_of_a_host = !matches!(packet[12], 0 | 127 | 224..);
        let is_no_error = match upper(packet) {
            Upper::Header(ICMP, at) => packet.get(at).is_some_and(|kind| ![3, 4, 5, 11, 12].contains(kind)),
            Upper::Header(..) => true,
            Upper::LaterFragment | Upper::CutOff => false,
        };
        return packet.len() >= 68 && is_of_a_host && is_no_error;
    }
    let source = &packet[8..24];
    let is_of_a_host = (source[..15] != [0; 15] || source[15] > 1) && source[0] != 0xFF;
    let is_no_error = match upper(packet) {
        Upper::Header(ICMPV6, at) => packet.get(at).is_some_and(|kind| *kind >= 128),
        Upper::Header(..) => true,
        Upper::LaterFragment | Upper::CutOff => false,
    };
    packet.len() >= 1_232 && mtu >= 1_280 && is_of_a_host && is_no_error
}

/// The MSS option of a SYN that says more than the next hop takes (RFC 9293, 3.7.1).
fn clamp(packet: &[u8], mtu: usize, mss: Mss) -> Option<Clamp> {
    let most = match mss {
        Mss::Auto => mtu - if is_v4(packet) { 40 } else { 60 },
        Mss::Bytes(bytes) => bytes.into(),
        Mss::Off => return None,
        other => panic!("mss {other}"),
    };
    let Upper::Header(TCP, at) = upper(packet) else { return None };
    let header = packet.get(at..at + 20)?;
    let is_syn = header[13] & 0x02 != 0;
    let end = at + usize::from(header[12] >> 4) * 4;
    let mut options = packet.get(at + 20..end)?;
    let clamp = |options, is_certain| Clamp { options, is_certain, header: ETHERNET + at, mss: most as u16 };
    let value_of = |options: &[u8]| ETHERNET + end - options.len() + 2;
    let is_larger = |options: &[u8]| match options {
        [2, 4, high, low, ..] => usize::from(u16::from_be_bytes([*high, *low])) > most,
        _ => false,
    };
    if !is_syn {
        return None;
    }
    loop {
        let length = match options {
            // The end of the options, whatever follows.
            [] | [0, ..] => return None,
            [1, ..] => 1,
            [2, 4, _, _, ..] => return is_larger(options).then(|| clamp(vec![value_of(options)], true)),
            // Where the next option begins is anybody's guess. Linux as a receiver looks no further where
            // this one has no length (`tcp_parse_options`, net/ipv4/tcp_input.c), and on the way takes it for
            // one byte (xt_TCPMSS).
            [2, ..] | [_] | [_, 0 | 1, ..] => {
                let rest = (1..options.len()).map(|from| &options[from..]);
                let values: Vec<usize> = rest.filter(|rest| is_larger(rest)).map(value_of).collect();
                return (!values.is_empty()).then(|| clamp(values, false));
            }
            [_, length, ..] => usize::from(*length),
        };
        options = options.get(length..)?;
    }
}

impl Clamp {
    /// What is wrong with a frame that should have been changed thus: its new MSS, and a checksum as right as
    /// it was.
    pub(crate) fn check(&self, before: &[u8], after: &[u8]) -> Result<(), String> {
        is("the frame's length", before.len(), after.len())?;
        let checksum = self.header + 16;
        let lowered = |option: &usize| {
            let mut expected = before.to_vec();
            expected[*option..option + 2].copy_from_slice(&self.mss.to_be_bytes());
            expected[checksum..checksum + 2].copy_from_slice(&after[checksum..checksum + 2]);
            expected == after
        };
        if !self.options.iter().any(lowered) {
            return Err("more has changed, or less, than the MSS and the checksum".to_owned());
        }
        let (before, after) = (sum(&before[self.header..]), sum(&after[self.header..]));
        if before != after {
            return Err(format!("the sum that the checksum is part of was {before:#x} and is {after:#x}"));
        }
        Ok(())
    }
}

/// The sum that a checksum makes 0, but for the pseudo header (RFC 1071). As long as it stays the same, a
/// checksum that was right is right, and a wrong one as wrong.
fn sum(bytes: &[u8]) -> u64 {
    let word = |pair: &[u8]| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
    bytes.chunks(2).map(word).sum::<u64>() % 0xFFFF
}

/// A next hop answers once in so much time on one CPU.
const INTERVAL: Duration = Duration::from_millis(1);
/// How much of that it may have saved up: 50 answers.
const BURST: Duration = Duration::from_millis(50);

/// Up to when answers have used the allowance up. When precisely a packet was judged is not to be seen from
/// here, only that it was within a time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Allowance {
    earliest: Duration,
    latest: Duration,
}

impl Allowance {
    /// Takes in whether a packet was answered that may be, between `before` and `after`.
    pub(crate) fn judge(&mut self, answered: bool, before: Duration, after: Duration) -> Result<(), String> {
        // With less than one whole answer left either is right.
        if answered && self.earliest >= after + BURST {
            return Err("answered, with the allowance used up".to_owned());
        }
        if !answered && self.latest + INTERVAL <= before + BURST {
            return Err("not answered, with something left of the allowance".to_owned());
        }
        if answered {
            self.earliest = self.earliest.max(before) + INTERVAL;
            self.latest = self.latest.max(after) + INTERVAL;
        }
        Ok(())
    }
}
