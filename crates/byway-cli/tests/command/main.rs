//! The command, each call a process of its own, on the kernel that is running, as root.
//!
//! The first part of a test's name is its layer, which says where it runs: see `How it is tested` in ARCHITECTURE.md.

// A test that cannot go on has failed.
#![allow(clippy::unwrap_used)]

mod contract;
mod everywhere;
mod pure;
mod support;
mod terminal;
