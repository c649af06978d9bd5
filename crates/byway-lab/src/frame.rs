//! An Ethernet frame that was captured.

use std::net::IpAddr;

/// EtherType of IPv4 (IEEE 802 numbers, IANA).
pub const IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;

/// Which way a frame went, as its node sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// It came in by the device.
    Incoming,
    /// It left by the device.
    Outgoing,
}

/// An Ethernet frame that was captured. Anything that does not parse is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Which way it went.
    pub direction: Direction,
    /// The whole frame, from the destination's Ethernet address on, without the frame check sequence. An IPv4 or transport
    /// checksum may not be filled in yet: veth leaves that to real hardware, which never comes.
    pub bytes: Vec<u8>,
}

impl Frame {
    /// The Ethernet address that it is for.
    #[must_use]
    pub fn destination_mac(&self) -> Option<[u8; 6]> {
        self.array(0)
    }

    /// The Ethernet address that it is from.
    #[must_use]
    pub fn source_mac(&self) -> Option<[u8; 6]> {
        self.array(6)
    }

    /// The EtherType: [`IPV4`], [`IPV6`], [`ARP`], ….
    #[must_use]
    pub fn ether_type(&self) -> Option<u16> {
        self.array(12).map(u16::from_be_bytes)
    }

    /// What follows the Ethernet header.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.bytes.get(14..).unwrap_or_default()
    }

    /// The address that an IP packet is from.
    #[must_use]
    pub fn source(&self) -> Option<IpAddr> {
        match self.ether_type()? {
            IPV4 => self.array::<4>(14 + 12).map(IpAddr::from),
            IPV6 => self.array::<16>(14 + 8).map(IpAddr::from),
            _ => None,
        }
    }

    /// The address that an IP packet is for.
    #[must_use]
    pub fn destination(&self) -> Option<IpAddr> {
        match self.ether_type()? {
            IPV4 => self.array::<4>(14 + 16).map(IpAddr::from),
            IPV6 => self.array::<16>(14 + 24).map(IpAddr::from),
            _ => None,
        }
    }

    /// An IP packet's protocol (IANA's protocol numbers): 1 is ICMP, 6 TCP, 17 UDP, 58 ICMPv6. For IPv6, the first
    /// header's.
    #[must_use]
    pub fn protocol(&self) -> Option<u8> {
        let offset = match self.ether_type()? {
            IPV4 => 14 + 9,
            IPV6 => 14 + 6,
            _ => return None,
        };
        self.bytes.get(offset).copied()
    }

    fn array<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.bytes.get(offset..offset + N)?.try_into().ok()
    }
}
