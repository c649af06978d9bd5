//! Everything else on the kernel: on the running one ahead of each change, and on all others each night.

mod bulk;
mod configure;
mod destinations;
mod devices;
mod devices_without_ethernet;
mod flow_offload;
mod flows;
mod forwarded;
mod get;
mod groups;
mod ipsec;
mod leftovers;
mod limits;
mod listing;
mod liveness;
mod many_rules;
mod memory;
mod obstacles;
mod offloads;
mod prefixes;
mod refused;
mod replies;
mod sizes;
mod swap;
mod unknown_kind;
mod waiting;
