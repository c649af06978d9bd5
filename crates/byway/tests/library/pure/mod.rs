//! Needs neither privilege nor kernel.

mod architecture;
mod circles;
mod examples;
mod public_api;
mod structure;
