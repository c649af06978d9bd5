//! Needs neither privilege nor kernel.

mod examples;
mod structure;
