//! The state and its counters, as a listing shows them.

pub(crate) mod flows;
pub(crate) mod get;
pub(crate) mod listing;
pub(crate) mod lookup;
mod order;
mod selection;
pub(crate) mod status;
