//! Sends small UDP packets from many sources.

use std::net::Ipv4Addr;

use anyhow::Result;
use byway_lab::FrameSender;

/// An Ethernet frame of the smallest size, without the frame check sequence that hardware adds (IEEE 802.3).
const LENGTH: usize = 60;
/// For benchmarks (RFC 2544).
const DESTINATION: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 9);
/// Where the IPv4 header begins.
const HEADER: usize = 14;
/// Where the addresses and the header checksum are.
const SOURCE: usize = HEADER + 12;
const DESTINATION_PLACE: usize = HEADER + 16;
const CHECKSUM: usize = HEADER + 10;

/// Where all sources are.
pub(super) const SOURCES: &str = "10.0.0.0/8";

/// Returns a source address by its number, anywhere in [`SOURCES`].
pub(super) fn source(number: u32) -> Ipv4Addr {
    // An odd multiplier (Knuth's golden ratio) keeps all 2^24 different.
    let host = number.wrapping_mul(0x9E_37_79_B1) & 0x00FF_FFFF;
    Ipv4Addr::from_bits(0x0A00_0000 | host)
}

/// Packets for one router.
pub(super) struct Traffic {
    sender: FrameSender,
    frames: Vec<[u8; LENGTH]>,
    /// How many of the frames have been sent.
    gone: usize,
    sources: u32,
    /// Where the address is that varies.
    place: usize,
    random: u64,
}

impl Traffic {
    pub(super) fn new(sender: FrameSender, from: [u8; 6], to: [u8; 6], sources: u32) -> Self {
        let frames = vec![frame(from, to); FrameSender::BATCH];
        Self { sender, gone: frames.len(), frames, sources, place: SOURCE, random: 1 }
    }

    /// Packets whose replies are those of [`Traffic::new`]: from the same destination to as many sources.
    pub(super) fn requests(sender: FrameSender, from: [u8; 6], to: [u8; 6], sources: u32) -> Self {
        let mut traffic = Self::new(sender, from, to, sources);
        for frame in &mut traffic.frames {
            frame[SOURCE..SOURCE + 4].copy_from_slice(&DESTINATION.octets());
        }
        Self { place: DESTINATION_PLACE, ..traffic }
    }

    /// Sends up to one batch. Each packet comes from a random source, so that no cache can predict the order.
    pub(super) fn send_at_random(&mut self) -> Result<()> {
        if self.gone >= self.frames.len() {
            for frame in &mut self.frames {
                set_address(frame, self.place, source(random(&mut self.random, self.sources)));
            }
            self.gone = 0;
        }
        let left = &self.frames[self.gone..];
        let sent = self.sender.send(left)?;
        // The first unsent one is dropped.
        self.gone += left.len().min(sent + 1);
        Ok(())
    }

    /// Sends one packet from each source, or to it, from number `from` on, up to `end` or to a full batch. Returns the next number.
    pub(super) fn send_from(&mut self, from: u32, end: u32) -> Result<u32> {
        let numbers = from..end;
        let count = self.frames.len().min(numbers.len());
        for (frame, number) in self.frames.iter_mut().zip(numbers) {
            set_address(frame, self.place, source(number));
        }
        Ok(from + u32::try_from(self.sender.send(&self.frames[..count])?)?)
    }
}

/// Returns a random number below `end`, from the high bits of a linear congruential generator (Knuth's MMIX).
fn random(state: &mut u64, end: u32) -> u32 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (((*state >> 32) * u64::from(end)) >> 32) as u32
}

/// Returns an IPv4 header for UDP with 64 hops, without the source address and the checksum (RFC 791).
const IPV4_HEADER: [u8; 20] = {
    let [high, low] = ((LENGTH - HEADER) as u16).to_be_bytes();
    let [a, b, c, d] = DESTINATION.octets();
    [0x45, 0, high, low, 0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, a, b, c, d]
};

/// Returns a UDP header from and to port 9, `discard`, without a checksum (RFC 768).
const UDP_HEADER: [u8; 8] = {
    let [high, low] = ((LENGTH - HEADER - IPV4_HEADER.len()) as u16).to_be_bytes();
    [0, 9, 0, 9, high, low, 0, 0]
};

/// Returns a packet without a source address.
fn frame(from: [u8; 6], to: [u8; 6]) -> [u8; LENGTH] {
    let mut frame = [0; LENGTH];
    let parts: [&[u8]; 5] = [&to, &from, &[0x08, 0x00], &IPV4_HEADER, &UDP_HEADER];
    for (place, byte) in frame.iter_mut().zip(parts.into_iter().flatten()) {
        *place = *byte;
    }
    frame
}

/// Writes one of the two addresses. The header's sum does not change but for that.
fn set_address(frame: &mut [u8; LENGTH], place: usize, address: Ipv4Addr) {
    const REST: u32 = header_sum();
    let bits = address.to_bits();
    let checksum = !fold(REST + (bits >> 16) + (bits & 0xFFFF));
    frame[place..place + 4].copy_from_slice(&address.octets());
    frame[CHECKSUM..CHECKSUM + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// Returns the sum of the header's 16-bit words (RFC 1071).
const fn header_sum() -> u32 {
    let (mut sum, mut at) = (0, 0);
    while at < IPV4_HEADER.len() {
        sum += u16::from_be_bytes([IPV4_HEADER[at], IPV4_HEADER[at + 1]]) as u32;
        at += 2;
    }
    sum
}

/// A sum in ones' complement, of fewer than 2^16 words.
fn fold(sum: u32) -> u16 {
    let once = (sum & 0xFFFF) + (sum >> 16);
    ((once & 0xFFFF) + (once >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_source_is_there_twice() {
        let sources: HashSet<Ipv4Addr> = (0..1_000_000).map(source).collect();
        assert_eq!(sources.len(), 1_000_000);
        assert!(sources.iter().all(|source| source.octets()[0] == 10));
    }

    #[test]
    fn a_packet_has_a_good_checksum() {
        let mut frame = frame([2; 6], [4; 6]);
        for number in [0, 1, 4_711, 65_535] {
            set_address(&mut frame, SOURCE, source(number));
            let words =
                frame[HEADER..HEADER + 20].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
            assert_eq!(fold(words.sum()), 0xFFFF);
        }
    }

    #[test]
    fn random_numbers_reach_all_and_no_more() {
        let mut state = 1;
        let numbers: HashSet<u32> = (0..10_000).map(|_| random(&mut state, 10)).collect();
        assert_eq!(numbers, (0..10).collect());
    }
}
