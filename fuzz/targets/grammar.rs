//! Any words as a rule, a group, a next hop, devices or what is to be shown: they are understood or refused, and a rule
//! that is understood is understood from its own words as well.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[allow(dead_code, reason = "the command uses all of it")]
#[path = "../../crates/byway-cli/src/grammar.rs"]
mod grammar;

fuzz_target!(|text: &str| {
    let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    let _ = grammar::selector(&words);
    let _ = grammar::shown(&words);
    let _ = grammar::next_hop(&words);
    let _ = grammar::devices(&words);
    if let Ok(group) = grammar::group(&words) {
        let _ = group.check();
    }
    if let Ok(rule) = grammar::rule(&words) {
        let _ = rule.check();
        let selector: Vec<String> = rule.selector.to_string().split(' ').map(str::to_owned).collect();
        assert_eq!(grammar::selector(&selector), Ok(rule.selector));
    }
});
