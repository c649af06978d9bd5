//! Needs neither privilege nor kernel.

mod check;
