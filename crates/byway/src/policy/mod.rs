//! The desired state, and how to get there. Pure: plain data comes in and goes out, and no decision asks the kernel.
//!
//! [`Snapshot`](snapshot::Snapshot) -> [`Transaction`](transaction::Transaction) -> [`plan`](plan::plan) -> steps.

pub(crate) mod again;
pub(crate) mod buckets;
pub(crate) mod changes;
pub(crate) mod compile;
pub(crate) mod followed;
pub(crate) mod guard;
mod lint_host;
pub(crate) mod merge;
pub(crate) mod obstacles;
pub(crate) mod plan;
pub(crate) mod request;
pub(crate) mod resolve;
pub(crate) mod rollback;
pub(crate) mod rounds;
pub(crate) mod snapshot;
pub(crate) mod source_table;
pub(crate) mod state;
pub(crate) mod step;
pub(crate) mod transaction;
pub(crate) mod way_watch;
