//! Needs neither privilege nor kernel.

mod check;
mod fingers;
