//! What holds for any text. The fuzz targets ask it of texts that libFuzzer thinks of, and a test of the library, which has this
//! file as a module, of the corpus.

use byway::{
    FlowSpec, GroupSpec, MemberSpec, NextHopSpec, RuleSpec, Selector, TargetSpec,
    config::{Reading, read},
    grammar,
};

/// What lies behind the first of these is a list file, if a configuration asks for one.
const NEXT_FILE: char = '\u{1}';

/// Any text as a configuration: it is read or refused, each problem is about a part of the text, and what was read survives
/// its own text.
pub fn as_config(text: &str) {
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
}

fn reading(text: &str) -> Reading {
    let (text, list) = text.split_once(NEXT_FILE).unwrap_or((text, ""));
    read([("byway.toml".into(), text.to_owned())], &mut |_| Ok(list.to_owned()))
}

/// Any words as a rule, a group, a next hop, a flow or devices: they are understood or refused, and what is understood is
/// understood from its own words as well.
pub fn as_words(text: &str) {
    let words: Vec<&str> = text.split_whitespace().collect();
    let _ = grammar::devices(&words);
    if let Ok(selector) = text.parse::<Selector>() {
        assert_eq!(selector.to_string().parse(), Ok(selector));
    }
    if let Ok(next_hop) = text.parse::<NextHopSpec>() {
        assert_eq!(next_hop.to_string().parse(), Ok(next_hop));
    }
    if let Ok(member) = text.parse::<MemberSpec>() {
        assert_eq!(member.to_string().parse(), Ok(member));
    }
    if let Ok(target) = text.parse::<TargetSpec>() {
        assert_eq!(target.to_string().parse(), Ok(target));
    }
    if let Ok(group) = text.parse::<GroupSpec>() {
        let _ = group.check();
        assert_eq!(group.to_string().parse(), Ok(group));
    }
    if let Ok(flow) = text.parse::<FlowSpec>() {
        assert_eq!(flow.to_string().parse(), Ok(flow));
    }
    if let Ok(rule) = text.parse::<RuleSpec>() {
        let _ = rule.check();
        assert_eq!(rule.to_string().parse(), Ok(rule));
    }
}
