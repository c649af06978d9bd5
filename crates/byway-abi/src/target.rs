//! What becomes of a packet, as the source and destination tables say it.

/// `kind` of a [`Target`]: the next hop in slot `index`.
pub const TARGET_NEXT_HOP: u8 = 1;
/// `kind` of a [`Target`]: leave the packet to normal routing.
pub const TARGET_PASS: u8 = 2;
/// `kind` of a [`Target`]: drop the packet.
pub const TARGET_DROP: u8 = 3;
/// `kind` of a [`Target`]: a next hop of the group `index`.
pub const TARGET_GROUP: u8 = 4;
/// `kind` of a [`Target`] in a source table: the destination decides, in the set `index` of the destination tables.
pub const TARGET_BY_DESTINATION: u8 = 5;
/// `kind` of a [`Target`] in a source table: no rule has this prefix, but one has a longer one.
pub const TARGET_LONGER: u8 = 6;
/// `kind` of a [`Target`] in a source table: an entry was here.
pub const TARGET_GONE: u8 = 7;
/// Bit of the `kind` of a [`Target`], beside a next hop, `pass`, `drop` or a group: a reply goes back the way that its flow came
/// in ([`reply`](crate::reply)), and the rest says what becomes of other packets.
pub const TARGET_REPLY_TO: u8 = 8;

/// Returns whether a kind is [`TARGET_REPLY_TO`] beside one that may stand there.
#[inline(always)]
pub const fn is_reply_to(kind: u8) -> bool {
    kind & TARGET_REPLY_TO != 0
        && matches!(kind & !TARGET_REPLY_TO, TARGET_NEXT_HOP | TARGET_PASS | TARGET_DROP | TARGET_GROUP)
}

/// Returns a kind without [`TARGET_REPLY_TO`]: what becomes of packets that are no replies.
#[inline(always)]
pub const fn without_reply_to(kind: u8) -> u8 {
    if is_reply_to(kind) { kind & !TARGET_REPLY_TO } else { kind }
}

/// If no next hop is live: leave the packet to normal routing.
pub const ON_DOWN_PASS: u8 = 0;
/// If no next hop is live: drop the packet.
pub const ON_DOWN_DROP: u8 = 1;

/// What becomes of a packet. The [source tables](crate::sources) lead to one. It is the value of the destination tables
/// (`DESTINATIONS4`, `DESTINATIONS6`), whose key is the identity of a set and a prefix of destinations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Target {
    /// The rule's identity. 0 if the destination decides.
    pub rule: u32,
    /// One of the kinds above, maybe with [`TARGET_REPLY_TO`]. A program leaves a packet alone if it does not know the kind.
    pub kind: u8,
    /// [`ON_DOWN_PASS`] or [`ON_DOWN_DROP`], for a next hop. A group has its own.
    pub on_down: u8,
    /// What to clamp TCP's MSS option to, in bytes, or [`MSS_AUTO`] or [`MSS_OFF`].
    pub mss: u16,
    /// By `kind`: a next hop's slot, a group's identity, or a set's identity. With [`TARGET_REPLY_TO`], its first byte is the
    /// number of a set of devices instead.
    pub index: u32,
}

/// The largest index with [`TARGET_REPLY_TO`].
pub const LAST_INDEX_OF_REPLIES: u32 = 0xFF_FFFF;

impl Target {
    /// Returns the set of devices that the requests of replies have to come in by, a part of the keys of `REPLY_DEVICES`. 0 means
    /// every device. Only for a kind with [`TARGET_REPLY_TO`].
    #[inline(always)]
    pub const fn devices(&self) -> u32 {
        self.index >> 24
    }

    /// Returns what becomes of packets that are no replies.
    #[inline(always)]
    pub const fn without_reply_to(self) -> Self {
        if is_reply_to(self.kind) {
            Self { kind: without_reply_to(self.kind), index: self.index & LAST_INDEX_OF_REPLIES, ..self }
        } else {
            self
        }
    }
}

/// [`Target::mss`]: clamp to what fits the MTU of the next hop's device.
pub const MSS_AUTO: u16 = 0;
/// [`Target::mss`]: leave the option as it is.
pub const MSS_OFF: u16 = 1;
/// The smallest MSS to clamp to; the kernel itself works with no smaller one (`TCP_MIN_MSS`, include/net/tcp.h).
pub const MSS_MIN: u16 = 88;
/// The largest: what fits the largest IPv4 packet. In IPv6 65,535 means something else (RFC 2675).
pub const MSS_MAX: u16 = 65_495;

// Free of padding: the sizes are the sums of the fields.
const _: () = {
    assert!(size_of::<Target>() == 3 * 4);
};
