//! Needs neither privilege nor kernel.

mod architecture;
mod circles;
mod examples;
mod fuzz;
mod public_api;
mod rustdoc;
mod structure;
