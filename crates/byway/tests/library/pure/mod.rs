//! Needs neither privilege nor kernel.

mod architecture;
mod examples;
mod structure;
