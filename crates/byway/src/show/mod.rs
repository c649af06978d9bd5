//! What there is and what it did, as a listing shows it.

pub(crate) mod listing;
mod lookup;
mod order;
pub(crate) mod status;
