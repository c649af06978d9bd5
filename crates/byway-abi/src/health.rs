//! Whether a next hop is alive: what all CPUs know about it, the probe that finds it out, and the health check that asks hosts
//! behind it.

/// How long a gateway may not answer, in nanoseconds, before its next hop counts as dead. Until then the kernel may still be
/// resolving it, and packets without another way wait for it.
pub const SILENCE: u64 = 250_000_000;
/// How long a device may take no frame, in nanoseconds, before a next hop without a gateway counts as dead there. It is
/// longer than the kernel needs to give up on a neighbour, because that says nothing about the device.
pub const SILENCE_ON_LINK: u64 = 4_000_000_000;

/// The shortest time in nanoseconds until a silent next hop is probed again. Otherwise it is an eighth of the time since the
/// last answer.
pub const PROBE_AFTER_MIN: u64 = 10_000_000;
/// The longest time in nanoseconds until a silent next hop is probed again.
pub const PROBE_AFTER_MAX: u64 = 1_000_000_000;
/// How long an answered probe is valid on one CPU, in ticks of the kernel's clock (`jiffies`): a quarter of a second at 100
/// Hz, and less at higher rates.
pub const PROVEN_FOR: u64 = 25;

/// Value of the array `NEXT_HOP_HEALTH`, by slot: what all CPUs know about a next hop. The programs write it rarely: when
/// they probe, and when a packet arrives that has waited for its neighbour. Times are in nanoseconds of the kernel's
/// monotonic clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NextHopHealth {
    /// Since when no probe has got through. 0 if the last one did.
    pub silent_since: u64,
    /// When it was last probed.
    pub probed: u64,
    /// [`DEVICE_TAKES`] or [`DEVICE_REFUSES`]: what the device last did with a frame.
    pub device: u64,
    /// When the device last took a frame that a probe caused.
    pub taken: u64,
    /// Fills a cache line, so that no two next hops share one.
    pub reserved: [u64; 4],
}

/// [`NextHopHealth::device`]: the device sends frames, as far as is known.
pub const DEVICE_TAKES: u64 = 0;
/// [`NextHopHealth::device`]: it is down or has no carrier. Not 1, which the programs of schema 7 wrote there with another
/// meaning.
pub const DEVICE_REFUSES: u64 = 2;

/// Value of the per-CPU array `PROBE`: the probe that is under way on this CPU, and its outcome. All of it happens
/// within one call of `bpf_clone_redirect`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Probe {
    /// The number of the last probe. Each probe carries its own.
    pub number: u32,
    /// The next hop's slot while a probe is under way, otherwise 0.
    pub slot: u32,
    /// The [`Target::mss`](crate::Target::mss) of the packet that is the probe.
    pub mss: u32,
    /// Not 0 if its MSS option was clamped.
    pub clamped: u32,
    /// One of the outcomes below.
    pub outcome: u32,
    /// Its length in bytes at the next hop's device.
    pub length: u32,
}

/// [`Probe::outcome`]: it has not arrived at the next hop's device.
pub const PROBE_UNHEARD: u32 = 0;
/// [`Probe::outcome`]: the device has taken it.
pub const PROBE_SENT: u32 = 1;
/// [`Probe::outcome`]: it is too big for the next hop, so it says nothing.
pub const PROBE_TOO_BIG: u32 = 2;
/// [`Probe::outcome`]: the neighbour is unknown, but the device has taken the solicitation for it.
pub const PROBE_ASKED: u32 = 3;
/// [`Probe::outcome`]: the device takes nothing.
pub const PROBE_REFUSED: u32 = 4;
/// [`Probe::outcome`]: the device, or its queue, has dropped it. That says nothing about other packets.
pub const PROBE_DROPPED: u32 = 5;

/// How many hosts a health check may ask.
pub const MAX_ASKED: usize = 4;

/// Value of `HEALTH_CHECKS`, by a next hop's slot: the health check of the next hop. No program reads it. The verdict is in the
/// same slot of the array `VERDICTS`: until when the next hop is out of service, in nanoseconds of the kernel's monotonic clock,
/// or 0. So a verdict ends by itself unless somebody renews it.
///
/// Addresses are in network byte order, IPv4 ones in the form of IPv6 (RFC 4291, 2.5.5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct HealthCheck {
    /// The hosts to ask. Those from `count` on are 0.
    pub asked: [[u8; 16]; MAX_ASKED],
    /// The source address of the questions, or 0 for one of the device's own.
    pub source: [u8; 16],
    /// The time from one round of questions to the next, in milliseconds.
    pub interval: u32,
    /// How long an answer may take, in milliseconds.
    pub timeout: u32,
    /// How many hosts it asks.
    pub count: u8,
    /// How many of them have to answer.
    pub quorum: u8,
    /// After how many failed rounds in a row the next hop is out of service.
    pub fall: u8,
    /// After how many good rounds in a row it is back.
    pub rise: u8,
    /// Who asks for the check ([`RuleRecord::owner`](crate::RuleRecord::owner)).
    pub owner: u8,
    /// What it asks: [`ASKED_PING`] and so on.
    pub kind: u8,
    /// The TCP port that it asks for, in the host's byte order, or 0.
    pub port: u16,
}

/// [`HealthCheck::kind`]: ICMP echo requests to the hosts.
pub const ASKED_PING: u8 = 0;
/// [`HealthCheck::kind`]: TCP connections to a port of the hosts.
pub const ASKED_TCP: u8 = 1;
/// [`HealthCheck::kind`]: ARP or neighbour discovery for the gateway. There are no hosts.
pub const ASKED_NEIGHBOUR: u8 = 2;

// Free of padding: the sizes are the sums of the fields.
const _: () = {
    assert!(size_of::<HealthCheck>() == MAX_ASKED * 16 + 16 + 2 * 4 + 6 + 2);
    assert!(size_of::<NextHopHealth>() == 8 * 8);
    assert!(size_of::<Probe>() == 6 * 4);
};
