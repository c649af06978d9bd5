//! Needs neither privilege nor kernel.

mod architecture;
mod examples;
mod public_api;
mod structure;
