//! Any text as a configuration: it is read or refused, each problem is about a part of the text, and what was read survives
//! its own text.
#![no_main]

use byway::config::{Reading, read};
use libfuzzer_sys::fuzz_target;

/// What lies behind the first of these is a list file, if anything asks for one.
const NEXT_FILE: char = '\u{1}';

fn reading(text: &str) -> Reading {
    let (text, list) = text.split_once(NEXT_FILE).unwrap_or((text, ""));
    read([("byway.toml".into(), text.to_owned())], &mut |_| Ok(list.to_owned()))
}

fuzz_target!(|text: &str| {
    let first = reading(text);
    for problem in &first.problems {
        for place in std::iter::once(&problem.place).chain(problem.also.as_ref().map(|(place, _)| place)) {
            let file = &first.files[place.file];
            assert!(file.text.get(place.span.clone()).is_some(), "{problem:?}");
            file.line_and_column(place.span.start);
        }
    }
    if let Some(config) = first.config {
        let text = config.to_string();
        let second = reading(&text);
        let again = second.config.unwrap_or_else(|| panic!("{text}\n{:?}", second.problems));
        assert_eq!(again.attach, config.attach, "{text}");
        assert_eq!(again.groups, config.groups, "{text}");
        assert!(again.rules().eq(config.rules()), "{text}");
    }
});
