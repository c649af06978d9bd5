//! The edge: everything that speaks to the kernel, and nothing that decides.

pub(crate) mod actual;
pub(crate) mod bpffs;
mod clsact;
pub(crate) mod execute;
mod features;
pub(crate) mod hook;
pub(crate) mod listing;
pub(crate) mod migrate;
pub(crate) mod namespace;
pub(crate) mod network;
mod next_hops;
pub(crate) mod order;
pub(crate) mod pins;
pub(crate) mod policy;
pub(crate) mod privilege;
pub(crate) mod rollback_store;
pub(crate) mod rules;
mod sources;
#[allow(unsafe_code)]
mod sys;
pub(crate) mod tables;
mod wire;
