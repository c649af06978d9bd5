//! The state and its counters, as a listing shows them.

pub(crate) mod get;
pub(crate) mod listing;
mod lookup;
mod order;
mod selection;
pub(crate) mod status;
