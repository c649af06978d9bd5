//! What the target `reply-to` needs: the ways that requests have come in by, and the flows that came in by them.
//!
//! The reception program notes a request's flow with the way that it came in by. The departure program finds the flow of a
//! reply, and sends the reply back that way.
//!
//! A flow is in one of four buckets of the table in `FLOWS`, and has two words there ([`Entry`]): the second one says what is
//! known, and the first one is the flow's fingerprint XOR the second. All CPUs write without a lock. A program that reads half
//! of one entry and half of another finds no fingerprint that it looks for.

/// How many ways there may be: a device and a neighbour each. The counts of the devices take places as well.
pub const MAX_WAYS: u32 = 32_768;
/// How many of them one device may have: neighbours that are made up on one link take no way of another link's. If CPUs add ways
/// at the same moment, some are not counted, so a device may get more. [`MAX_WAYS`] is exact.
pub const MAX_WAYS_OF_DEVICE: u32 = 4_096;
/// The highest number of a way. 0 is none.
pub const LAST_WAY: u32 = 0xFFFF;
/// How many numbers a way may have.
pub const WAY_PROBES: u32 = 8;

/// Value of `WAYS`, by number: how requests have come in. The programs add one. Userspace removes those of a device that is
/// gone, after the flows that have their numbers. None ever changes, so a number in a flow's entry leads nowhere else. How many
/// a device has is there as well ([`ways_key`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Way {
    /// The device.
    pub ifindex: u32,
    /// The Ethernet addresses of the requests, twelve bytes, destination first. All zeros if the device has no Ethernet header.
    pub addresses: [u32; 3],
}

impl Way {
    /// Returns the Ethernet address of the neighbour that sent the requests, or `None` if the device has no Ethernet header.
    pub fn sender(&self) -> Option<[u8; 6]> {
        (self.addresses != [0; 3]).then_some(sender(self.addresses))
    }

    /// Returns the Ethernet address that the requests were for: that of this host's device.
    pub const fn receiver(&self) -> [u8; 6] {
        let ([a, b, c, d], [e, f, _, _]) = (self.addresses[0].to_ne_bytes(), self.addresses[1].to_ne_bytes());
        [a, b, c, d, e, f]
    }
}

/// Returns the sender of a frame with these Ethernet addresses, the destination first.
#[inline(always)]
pub const fn sender([_, second, third]: [u32; 3]) -> [u8; 6] {
    let ([_, _, a, b], [c, d, e, f]) = (second.to_ne_bytes(), third.to_ne_bytes());
    [a, b, c, d, e, f]
}

/// Returns the key in `WAYS` of how many ways a device has. No way has such a number. The value is as long as a way: the count
/// (64 bits), and zeros.
#[inline(always)]
pub const fn ways_key(ifindex: u32) -> u32 {
    1 << 31 | ifindex
}

/// Returns whether requests may come from this neighbour: a group's Ethernet address is nobody's.
#[inline(always)]
pub const fn is_neighbour(sender: [u8; 6]) -> bool {
    sender[0] & 1 == 0
}

/// Returns the first number to try for a way. It is as secret as a [`fingerprint`], so nobody can make addresses whose numbers
/// are those of somebody else's.
#[inline(always)]
pub fn way_hash(way: &Way, keys: &[u32; FLOW_KEYS_LEN]) -> u32 {
    let [a, b, c] = way.addresses;
    fingerprint(&[way.ifindex, a, b, c, 0, 0, 0, 0, 0, 0], keys) as u32
}

/// Returns the number to try after so many others.
#[inline(always)]
pub const fn way_number(hash: u32, nth: u32) -> u32 {
    1 + (hash & 0xFFFF).wrapping_add(nth) % LAST_WAY
}

/// How many sets of devices rules may name, each counted once. During a change there may be twice as many.
pub const MAX_DEVICE_SETS: u32 = 127;
/// How many devices the sets may have together. `REPLY_DEVICES` has room for twice as many, for a change. A key there is a set
/// ([`Target::devices`](crate::Target::devices)) and an ifindex, and the value is the device's name in the request, padded with
/// zeros.
pub const MAX_REPLY_DEVICES: u32 = 1_024;
/// Bit of such an ifindex: the device does not exist yet, and the rest is a number.
pub const NO_DEVICE_YET: u32 = 1 << 31;

/// How many addresses of neighbours are known, and Ethernet addresses that are no longer in use.
pub const MAX_HEARD: u32 = 4_096;
/// [`HeardKey::kind`]: the key is an Ethernet address, and the value is the one that has taken its place.
pub const HEARD_ETHERNET: u32 = 0;
/// [`HeardKey::kind`]: the key is an IPv4 address, and the value is its Ethernet address.
pub const HEARD_IPV4: u32 = 4;
/// [`HeardKey::kind`]: the same for an IPv6 address.
pub const HEARD_IPV6: u32 = 6;
/// Bit of [`HeardKey::kind`]: the key is an Ethernet address, and the value stands for the first IPv4 or IPv6 address that it was
/// heard with.
pub const HEARD_FIRST: u32 = 1;

/// Key of `HEARD`: what neighbours have said of themselves. The value is an Ethernet address ([`ethernet_words`]), but for
/// [`HEARD_FIRST`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct HeardKey {
    /// The device that the neighbour is on.
    pub ifindex: u32,
    /// One of the kinds above.
    pub kind: u32,
    /// The address in network byte order, padded with zeros. An Ethernet address is [`ethernet_words`].
    pub address: [u32; 4],
}

impl HeardKey {
    /// Returns it as words, as the programs have it.
    #[inline(always)]
    pub const fn words(self) -> [u32; 6] {
        let [a, b, c, d] = self.address;
        [self.ifindex, self.kind, a, b, c, d]
    }
}

/// Returns an Ethernet address as two words: its first two bytes, padded with zeros, and the rest.
#[inline(always)]
pub const fn ethernet_words([a, b, c, d, e, f]: [u8; 6]) -> [u32; 2] {
    [u32::from_ne_bytes([a, b, 0, 0]), u32::from_ne_bytes([c, d, e, f])]
}

/// Returns the Ethernet address that [`ethernet_words`] made two words of.
#[inline(always)]
pub const fn ethernet_bytes([first, second]: [u32; 2]) -> [u8; 6] {
    let ([a, b, _, _], [c, d, e, f]) = (first.to_ne_bytes(), second.to_ne_bytes());
    [a, b, c, d, e, f]
}

/// Returns an address in two words, for the value of [`HEARD_FIRST`].
#[inline(always)]
pub const fn address_digest([a, b, c, d]: [u32; 4]) -> [u32; 2] {
    [a ^ c.rotate_left(16), b ^ d]
}

/// Words of the key of a flow: the remote address, the local one, the ports, and family and protocol.
pub const KEY_WORDS: usize = 10;

/// Returns the key of a flow, for its [`fingerprint`]. The addresses are the remote one and the local one, in network byte order,
/// an IPv4 address in the first word. The ports are in the same order, and 0 if the protocol has none; ICMP has the identifier of
/// an echo in the second one. `version` is that of IP. (The programs make the same words without a copy of the addresses.)
pub const fn flow_key(
    [remote, local]: [[u32; 4]; 2],
    [remote_port, local_port]: [u16; 2],
    version: u8,
    protocol: u8,
) -> [u32; KEY_WORDS] {
    let ports = (remote_port as u32) << 16 | local_port as u32;
    let ([a, b, c, d], [e, f, g, h]) = (remote, local);
    [a, b, c, d, e, f, g, h, ports, (version as u32) << 8 | protocol as u32]
}

/// How many random numbers `FLOW_KEYS` has: one for each word of a key, for each of the two sums of a fingerprint.
pub const FLOW_KEYS_LEN: usize = 2 * KEY_WORDS;

/// Returns the fingerprint of a flow: two sums of products with secret random numbers (NH, Black et al., "UMAC", CRYPTO 1999).
/// Nobody can find two flows with the same one without knowing the numbers.
#[inline(always)]
pub fn fingerprint(words: &[u32; KEY_WORDS], keys: &[u32; FLOW_KEYS_LEN]) -> u64 {
    let (mut first, mut second) = (0_u64, 0_u64);
    let mut nth = 0;
    while nth < KEY_WORDS {
        let (a, b) = (words[nth], words[nth + 1]);
        let product = |offset: usize| {
            u64::from(a.wrapping_add(keys[nth + offset])) * u64::from(b.wrapping_add(keys[nth + 1 + offset]))
        };
        first = first.wrapping_add(product(0));
        second = second.wrapping_add(product(KEY_WORDS));
        nth += 2;
    }
    crate::sources::mix64(crate::sources::mix64(first) ^ second)
}

/// Value of `FLOW_COUNTERS`, on each CPU: what has become of flows that were not in the table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FlowCounters {
    /// Flows that got a place.
    pub noted: u64,
    /// Those of them that took the place of a flow that was not idle yet.
    pub evicted: u64,
    /// How often a flow found no place, because those of other flows may not be taken. Its next packet tries again.
    pub refused: u64,
}

impl FlowCounters {
    /// Returns the counters of all CPUs together.
    pub fn sum<'a>(of_cpus: impl IntoIterator<Item = &'a Self>) -> Self {
        of_cpus.into_iter().fold(Self::default(), |sum, it| Self {
            noted: sum.noted.wrapping_add(it.noted),
            evicted: sum.evicted.wrapping_add(it.evicted),
            refused: sum.refused.wrapping_add(it.refused),
        })
    }
}

/// Entries of a bucket of `FLOWS`.
pub const FLOWS_OF_BUCKET: usize = 4;
/// How many buckets the table has: 32 MiB.
pub const FLOW_BUCKETS: u32 = 1 << 19;
/// How many flows it has room for.
pub const MAX_FLOWS: u32 = FLOW_BUCKETS * FLOWS_OF_BUCKET as u32;

/// How many of the buckets, at the beginning of the table, are near: 512 KiB, which stay in a processor's cache. A flow is there
/// as long as it finds a place.
pub const NEAR_BUCKETS: u32 = 1 << 13;
/// The part of the table with the near buckets.
pub const NEAR: u32 = 0;
/// The other part.
pub const FAR: u32 = 1;

/// Returns both buckets of a part of the table ([`NEAR`] or [`FAR`]) that a flow may be in.
#[inline(always)]
pub const fn flow_buckets(fingerprint: u64, part: u32) -> [u32; 2] {
    [bucket(fingerprint as u32, part), bucket((fingerprint >> 32) as u32, part)]
}

#[inline(always)]
const fn bucket(hash: u32, part: u32) -> u32 {
    if part == NEAR {
        return hash & (NEAR_BUCKETS - 1);
    }
    let number = hash & (FLOW_BUCKETS - 1);
    // A near one would be the same as for the other part, and full: instead it is one in the middle.
    if number < NEAR_BUCKETS { number | (FLOW_BUCKETS / 2) } else { number }
}

/// Slot of `REPLY_HINTS`: not 0 if each flow in the table is in one of its near buckets. A hint says what packets need not look
/// for, so 0 is always right, but costs time. Userspace gives the hints when it creates the maps, and the programs withdraw them.
pub const ALL_FLOWS_NEAR: u32 = 0;
/// Slot of `REPLY_HINTS`: not 0 if no Ethernet address in `HEARD` has taken the place of another one.
pub const NO_SUCCESSORS: u32 = 1;
/// Slot of `REPLY_HINTS`: not 0 if nobody watches the ways, so that nothing need be noted in `WAY_LIVENESS` or looked for there.
/// Whoever watches takes it away and never gives it back: what is in force may outlive him.
pub const NOT_WATCHED: u32 = 2;
/// How many hints there are.
pub const HINTS: u32 = 3;

/// Words of a value of `WAY_LIVENESS`, by the number of a way: the signs of life of its neighbour, for whoever watches it.
pub const LIVENESS_WORDS: usize = 4;
/// When a packet of a known flow last came in by the way, in [`liveness_ticks`].
pub const WAY_SEEN: usize = 0;
/// When its neighbour last answered a question for its Ethernet address, by ARP or neighbour discovery. 0 if it never has.
pub const WAY_ANSWERED: usize = 1;
/// When a reply was last to leave by it.
pub const WAY_USED: usize = 2;
/// Until when it is out of service, in nanoseconds of the monotonic clock. Userspace writes it, and a sign of life clears it.
pub const WAY_OUT: usize = 3;
/// How many ways have a place there.
pub const LIVENESS_LEN: u32 = LAST_WAY + 1;

/// Returns the clock of the signs of life: the kernel's clock (`jiffies`) divided by 64. So a sign is written at most 16 times a
/// second at 1,000 Hz.
#[inline(always)]
pub const fn liveness_ticks(jiffies: u64) -> u64 {
    jiffies >> 6
}

/// [`Entry::state`]: the place is free.
pub const FLOW_FREE: u8 = 0;
/// [`Entry::state`]: a SYN has come in.
pub const FLOW_NEW: u8 = 1;
/// [`Entry::state`]: its SYN-ACK has left.
pub const FLOW_ANSWERED_SYN: u8 = 2;
/// [`Entry::state`]: something other than TCP has come in.
pub const FLOW_REQUESTED: u8 = 3;
/// [`Entry::state`]: an answer to that has left.
pub const FLOW_ANSWERED: u8 = 4;
/// [`Entry::state`]: another request has come in, at least one tick after the answer.
pub const FLOW_IN_BOTH: u8 = 5;
/// [`Entry::state`]: the client has acknowledged the number of the SYN-ACK.
pub const FLOW_CONFIRMED: u8 = 6;
/// [`Entry::state`]: the host began the flow, which is not TCP's.
pub const FLOW_OF_HOST: u8 = 7;

/// What is known about a flow: the second word of its entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The number of its way.
    pub way: u16,
    /// When the flow was last noticed, in [`flow_ticks`].
    pub age: u32,
    /// One of the states above.
    pub state: u8,
    /// Whether `number` is the way that the last packet came by, instead of `way`.
    pub is_moving: bool,
    /// 24 bits: that way, or before the flow is confirmed the number that acknowledges the SYN-ACK.
    pub number: u32,
}

impl Entry {
    /// Returns it as a word: way (16 bits), the lower bits of the age (16), state (4), whether it is moving (1), the higher bits
    /// of the age (3), and number (24, the highest).
    #[inline(always)]
    pub const fn word(&self) -> u64 {
        self.way as u64
            | (self.age as u64 & 0xFFFF) << 16
            | (self.state as u64 & 0xF) << 32
            | (self.is_moving as u64) << 36
            | (self.age as u64 >> 16 & 7) << 37
            | (self.number as u64) << 40
    }

    /// Reads what [`Entry::word`] returned.
    #[inline(always)]
    pub const fn read(word: u64) -> Self {
        Self {
            way: word as u16,
            age: (word >> 16) as u32 & 0xFFFF | ((word >> 37) as u32 & 7) << 16,
            state: (word >> 32) as u8 & 0xF,
            is_moving: word >> 36 & 1 != 0,
            number: (word >> 40) as u32,
        }
    }

    /// Returns how long ago the flow was last noticed, in [`flow_ticks`].
    #[inline(always)]
    pub const fn idle(&self, now: u32) -> u32 {
        now.wrapping_sub(self.age) & LAST_TICK
    }

    /// Returns how long the flow may be idle before another may take its place, in [`flow_ticks`].
    #[inline(always)]
    pub const fn timeout(&self) -> u32 {
        match self.state {
            FLOW_CONFIRMED => 9_000,
            FLOW_NEW | FLOW_ANSWERED_SYN => 60,
            _ => 180,
        }
    }

    /// Returns how hard it is to take the place: 0 if it is free or its flow is idle, and [`FLOW_IN_BOTH`] or more if that
    /// is not allowed.
    #[inline(always)]
    pub const fn rank(&self, now: u32) -> u8 {
        if self.state == FLOW_FREE || self.idle(now) > self.timeout() { 0 } else { self.state }
    }
}

/// Returns the clock of [`Entry::age`]: the kernel's clock (`jiffies`) divided by 1,024. So one tick is a second at 1,000 Hz,
/// and four seconds at 250 Hz. After [`LAST_TICK`] it begins anew: a flow that has been idle for six days looks young again, for
/// as long as its time-out.
#[inline(always)]
pub const fn flow_ticks(jiffies: u64) -> u32 {
    (jiffies >> 10) as u32 & LAST_TICK
}

/// The last of the [`flow_ticks`], of 19 bits.
pub const LAST_TICK: u32 = (1 << 19) - 1;

// Free of padding: the sizes are the sums of the fields.
const _: () = {
    assert!(size_of::<Way>() == 4 * 4);
    assert!(size_of::<FlowCounters>() == 3 * 8);
    assert!(size_of::<HeardKey>() == 6 * 4);
};
