//! Slots of the `META` array, the only map whose form never changes, whatever the [`SCHEMA`](crate::SCHEMA) is.

/// The [`SCHEMA`](crate::SCHEMA) of all pins beside it. 0 while the pins are being created, and once Byway has removed them.
pub const SCHEMA: u32 = 0;
/// Where the search for a free rule identity begins. Identities are given out in turn.
pub const NEXT_RULE: u32 = 1;
/// Not 0 while a change is under way. If a writer takes the lock and finds it not 0, the last change was interrupted, and
/// there may be something to tidy up.
pub const CHANGING: u32 = 2;
/// A fingerprint of the eBPF object that the pinned programs come from.
pub const OBJECT: u32 = 3;
/// The generation of the source tables and groups that packets use. Writing it puts one set of rules in place of another.
pub const GENERATION: u32 = 4;
/// The identity that the next set of destinations, or group, gets.
pub const NEXT_SET: u32 = 5;
/// Where the search for a free slot for a next hop begins.
pub const NEXT_HOP: u32 = 6;
/// How many rule records there are.
pub const RULES: u32 = 7;
/// How many slots `META` has.
pub const SLOTS: u32 = 8;
