//! Finds rules that are valid but suspicious.

use super::{ActionSpec, draft::Origin};
use crate::model::{Prefix, Selector};

/// With more destinations than this around a `pass` rule, it is assumed to be an exception from one of them.
const MANY: usize = 64;

/// A source with rules, and what is known about its packets.
struct Source {
    prefix: Prefix,
    /// The destinations of its rules that do something to packets.
    led: Vec<Option<Prefix>>,
    /// One of its rules matches all destinations.
    has_all: bool,
    /// How many of its addresses have a more specific rule for all destinations: 2 to the 128th is 0.
    covered: u128,
    /// There is one such address.
    is_covered: bool,
    /// Its first rule.
    first: (Selector, Origin),
}

/// Checks rules in their order, in one pass, and reports suspicious ones: the rule, its place, what is wrong, and
/// what to do.
pub(super) fn look<'a>(
    rules: &[(Selector, u32, Origin)],
    action: impl Fn(u32) -> &'a ActionSpec,
    say: &mut dyn FnMut(Selector, Origin, &str, &str),
) {
    // The sources around the current one, widest first.
    let mut around: Vec<Source> = Vec::new();
    for (selector, number, origin) in rules {
        let prefix = selector.source();
        while around.last().is_some_and(|wider| !wider.prefix.covers(&prefix)) {
            leave(&mut around, say);
        }
        if around.last().is_none_or(|last| last.prefix != prefix) {
            around.push(Source {
                prefix,
                led: Vec::new(),
                has_all: false,
                covered: 0,
                is_covered: false,
                first: (*selector, *origin),
            });
        }
        let passes = action(*number).passes();
        if passes && !is_exception(selector, &around) {
            let message = "passes packets that no other rule matches, which byway leaves alone anyway";
            let help = "delete it, or add the rule that it is an exception from";
            say(*selector, *origin, message, help);
        }
        if let Some(own) = around.last_mut() {
            own.has_all |= selector.destination().is_none();
            if !passes {
                own.led.push(selector.destination());
            }
        }
    }
    while !around.is_empty() {
        leave(&mut around, say);
    }
}

/// Whether a less specific rule treats some of the packets differently.
fn is_exception(selector: &Selector, around: &[Source]) -> bool {
    around.iter().any(|source| {
        source.led.len() > MANY
            || source.led.iter().any(|to| match (to, selector.destination()) {
                (None, _) | (_, None) => true,
                (Some(to), Some(own)) => to.covers(&own) || own.covers(to),
            })
    })
}

/// Leaves the last source, once everything within it has been seen.
fn leave(around: &mut Vec<Source>, say: &mut dyn FnMut(Selector, Origin, &str, &str)) {
    let Some(source) = around.pop() else { return };
    let bits = if source.prefix.address().is_ipv4() { 32 } else { 128 };
    let size = 1_u128.checked_shl(bits - u32::from(source.prefix.len())).unwrap_or(0);
    if source.is_covered && source.covered == size {
        let (selector, origin) = source.first;
        let message = "never matches: more specific rules cover all of its sources";
        say(selector, origin, message, "delete it, or one of those");
    }
    if let Some(wider) = around.last_mut() {
        let (covered, is_covered) =
            if source.has_all { (size, true) } else { (source.covered, source.is_covered) };
        wider.covered = wider.covered.wrapping_add(covered);
        wider.is_covered |= is_covered;
    }
}
