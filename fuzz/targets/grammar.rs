//! Any words as a rule, a group, a next hop, a flow or devices: they are understood or refused, and what is understood is
//! understood from its own words as well.
#![no_main]

use byway::{FlowSpec, GroupSpec, MemberSpec, NextHopSpec, RuleSpec, Selector, TargetSpec, grammar};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
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
});
