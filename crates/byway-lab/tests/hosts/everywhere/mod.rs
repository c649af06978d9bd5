//! On the running kernel ahead of each change, and on all others each night.

mod devices;
mod hosts;
