//! What crosses the kernel boundary between byway and its eBPF programs, and nothing else.
//!
//! Every type here is the key or the value of a pinned map. All are `#[repr(C)]` without padding, so a program reads the very
//! bytes that userspace writes. Addresses are in network byte order, numbers in the host's. Any change to them needs a new
//! [`SCHEMA`].

#![no_std]

mod count;
pub mod flow;
mod group;
mod health;
pub mod mark;
pub mod meta;
mod next_hop;
#[cfg(feature = "user")]
mod pod;
mod program;
pub mod reply;
mod rule;
pub mod sources;
mod target;

pub use count::*;
pub use group::*;
pub use health::*;
pub use next_hop::*;
pub use program::*;
pub use rule::*;
pub use target::*;

/// The version of the pinned layout: of the names, keys and values of the maps. Stored in [`META`](meta).
pub const SCHEMA: u32 = 14;

/// The value of `skb->tc_index` between the departure of a packet and its arrival, up to [`SCHEMA`] 7. Programs trust it only
/// while they take over from those of that schema ([`TAKING_OVER_FROM_7`]).
pub const MARK_OF_7: u32 = 0xB1A7;
/// The first value of the programs' global `TAKING_OVER`, for the first of three rounds in which they take over from those of
/// schema 7: they write the old mark, and accept both.
pub const TAKING_OVER_FROM_7: u32 = 2;
/// The value for the second round: they write the new mark, and accept both. In the third round the value is 0, and they
/// accept only the new mark.
pub const TAKING_OVER: u32 = 1;
