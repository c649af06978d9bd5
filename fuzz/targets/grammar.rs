//! Any words of the command line: [`byway_fuzz::as_words`].
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| byway_fuzz::as_words(text));
