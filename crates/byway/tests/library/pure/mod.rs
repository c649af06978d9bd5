//! Needs neither privilege nor kernel.

mod examples;
mod public_api;
