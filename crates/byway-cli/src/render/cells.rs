//! What stands in a cell of several tables.

use std::fmt;

use byway::{NextHop, RuleStatus, Status};

/// An earlier look, for rates.
pub(crate) struct Since<'a> {
    pub(crate) status: &'a Status,
    pub(crate) seconds: f64,
}

impl Since<'_> {
    /// The same rule then. A status has its rules in this order.
    pub(super) fn rule(&self, now: &RuleStatus) -> Option<&RuleStatus> {
        let rules = &self.status.rules;
        let selector = now.rule.selector();
        Some(&rules[rules.binary_search_by_key(&selector, |it| it.rule.selector()).ok()?])
    }
}

pub(super) fn rate(now: u64, before: u64, seconds: f64) -> u64 {
    // The counters of a replaced rule start again.
    (now.saturating_sub(before) as f64 / seconds).round() as u64
}

/// A gateway that nobody has named stands in brackets.
pub(super) fn via(next_hop: &NextHop, to: &mut dyn fmt::Write) -> fmt::Result {
    match (next_hop.learned, next_hop.gateway) {
        (Some(_), Some(gateway)) => write!(to, "({gateway})"),
        (Some(learned), None) => write!(to, "{learned}"),
        (None, Some(gateway)) => write!(to, "{gateway}"),
        (None, None) => to.write_str("on-link"),
    }
}

/// A device that nobody has named stands in brackets.
pub(super) fn dev(next_hop: &NextHop, to: &mut dyn fmt::Write) -> fmt::Result {
    match &next_hop.device.name {
        _ if next_hop.by_route && next_hop.is_waiting() => to.write_char('-'),
        name if next_hop.by_route => write!(to, "({name})"),
        name => to.write_str(name),
    }
}

/// A line for each.
pub(super) fn each<T>(
    all: impl IntoIterator<Item = T>,
    to: &mut dyn fmt::Write,
    line: impl Fn(T, &mut dyn fmt::Write) -> fmt::Result,
) -> fmt::Result {
    for (nth, one) in all.into_iter().enumerate() {
        if nth > 0 {
            to.write_char('\n')?;
        }
        line(one, to)?;
    }
    Ok(())
}
