//! Hosts in, texts out; and a model of Linux that random hosts are compared with.

// A test that cannot go on has failed.
#![allow(clippy::unwrap_used)]

mod host;
mod hosts;
mod same;
