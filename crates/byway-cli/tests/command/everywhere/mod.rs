//! Everything else: on the running kernel ahead of each change, and on all others each night.

mod commands;
mod configuration;
mod damaged;
#[cfg(feature = "demo")]
mod demo;
mod docs;
mod exit_codes;
mod faults;
mod files;
mod fingers;
mod get;
mod import;
mod interrupted;
mod json;
mod killed;
mod leftovers;
mod log;
mod metrics;
mod run;
mod warnings;
mod watch;
