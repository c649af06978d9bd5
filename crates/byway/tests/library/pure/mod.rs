//! Needs neither privilege nor kernel.

mod examples;
