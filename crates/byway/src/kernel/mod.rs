//! The edge: everything that calls the kernel, and nothing that decides.

pub(crate) mod attachments;
pub(crate) mod bpffs;
mod clsact;
pub(crate) mod decision;
pub(crate) mod destinations;
pub(crate) mod echo;
pub(crate) mod events;
pub(crate) mod execute;
mod features;
mod grace_period;
pub(crate) mod hook;
mod identities;
pub(crate) mod ip_rules;
pub(crate) mod leaves;
pub(crate) mod lifetime;
pub(crate) mod lock;
pub(crate) mod map;
mod meta;
pub(crate) mod migrate;
mod migrations;
pub(crate) mod namespace;
pub(crate) mod neighbours;
pub(crate) mod network;
pub(crate) mod next_hops;
pub(crate) mod pins;
pub(crate) mod privilege;
pub(crate) mod replies;
pub(crate) mod route_get;
pub(crate) mod rules;
mod secret;
mod signals;
pub(crate) mod snapshot;
mod sources;
#[allow(unsafe_code)]
mod sys;
pub(crate) mod tables;
pub(crate) mod wire;
