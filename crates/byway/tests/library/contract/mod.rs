//! What Byway relies on of the kernel, and the main stories: on the oldest kernel and on newer ones, ahead of each change.

mod changing_devices;
mod classes;
mod foreign;
pub(crate) mod health_checks;
pub(crate) mod liveness;
mod loading;
mod marks;
mod migration;
mod newer;
mod next_hops;
mod replies;
mod seed;
mod sizes;
mod swap;
mod targets;
mod topologies;
mod upgrade;
mod waiting;
