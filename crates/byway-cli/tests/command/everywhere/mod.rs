//! Everything else: on the running kernel ahead of each change, and on all others each night.

mod commands;
mod configuration;
mod damaged;
mod import;
mod interrupted;
mod killed;
mod warnings;
