//! Any text as a configuration: [`byway_fuzz::as_config`].
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| byway_fuzz::as_config(text));
