//! What the command relies on of the kernel: on the oldest kernel and on newer ones, ahead of each change.

pub(crate) mod killed;
mod story;
