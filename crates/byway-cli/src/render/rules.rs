//! The table of rules.

use std::{
    borrow::Borrow,
    collections::BTreeMap,
    fmt::{self, Write},
    io,
};

use byway::{Count, Member, Mss, OnDown, RuleStatus, Selector, Target};

use super::{
    columns::Columns,
    table::{Since, dev, rate, via},
    thousands,
};
use crate::error::Error;

/// Writes the table, without a line break at its end. Goes through the rules twice.
pub(super) fn write<I, R>(
    rules: impl Fn() -> I,
    since: Option<&Since<'_>>,
    to: &mut impl io::Write,
) -> Result<(), Error>
where
    I: Iterator<Item = byway::Result<R>>,
    R: Borrow<RuleStatus>,
{
    if rules().next().is_none() {
        return to.write_all(b"no rules").map_err(Error::Print);
    }
    columns(since).write(rules, to)
}

fn columns<'a>(since: Option<&'a Since<'_>>) -> Columns<'a, RuleStatus> {
    let mut columns = Columns::<RuleStatus>::new();
    columns
        .text("FROM", |it, to| write!(to, "{}", it.rule.source))
        .text("TO", |it, to| it.rule.destination.map_or(Ok(()), |destination| write!(to, "{destination}")))
        .only_where(|it| it.rule.destination.is_some())
        .text("VIA", |it, to| target(&it.rule.target, to))
        .text("DEV", |it, to| each(it.rule.target.next_hops(), to, dev))
        .text("ON-DOWN", |it, to| match it.rule.target.next_hops().next() {
            Some(_) => write!(to, "{}", it.rule.on_down),
            None => Ok(()),
        })
        .only_where(|it| it.rule.on_down != OnDown::Pass)
        .text("OWNER", |it, to| write!(to, "{}", it.rule.owner))
        .number("PACKETS", |it, to| match it.rule.target {
            // What such a rule has met, nobody here can say.
            Target::Other { .. } => Ok(()),
            _ => write!(to, "{}", thousands(met(it).packets)),
        })
        .number("BYTES", |it, to| match it.rule.target {
            Target::Other { .. } => Ok(()),
            _ => write!(to, "{}", thousands(met(it).bytes)),
        });
    if let Some(since) = since {
        rates(&mut columns, since);
    }
    columns.number("ARRIVED", |it, to| match it.rule.target {
        Target::Pass | Target::Drop | Target::Other { .. } => Ok(()),
        _ => write!(to, "{}", thousands(it.arrived.packets)),
    });
    // Rare events get a column only if there are any.
    columns
        .number("NO NEXT HOP", |it, to| write!(to, "{}", thousands(it.no_next_hop.packets)))
        .only_where(|it| it.no_next_hop.packets > 0)
        .number("CLAMPED", |it, to| write!(to, "{}", thousands(it.clamped.packets)))
        .only_where(|it| it.clamped.packets > 0)
        .number("ICMP SENT", |it, to| write!(to, "{}", thousands(it.icmp_sent.packets)))
        .only_where(|it| it.icmp_sent.packets > 0)
        .number("TOO BIG", |it, to| write!(to, "{}", thousands(it.too_big_dropped.packets)))
        .only_where(|it| it.too_big_dropped.packets > 0)
        .text("MSS", |it, to| write!(to, "{}", it.rule.mss))
        .only_where(|it| it.rule.mss != Mss::Auto)
        .text("NAME", |it, to| to.write_str(it.rule.name.as_deref().unwrap_or_default()))
        .only_where(|it| it.rule.name.is_some());
    columns
}

/// The rates of what the rules have matched since an earlier look.
fn rates<'a>(columns: &mut Columns<'a, RuleStatus>, since: &'a Since<'_>) {
    let before: BTreeMap<Selector, Count> =
        since.status.rules.iter().map(|it| (it.rule.selector(), met(it))).collect();
    let before = std::rc::Rc::new(before);
    for (header, of) in
        [("PACKETS/s", (|count| count.packets) as fn(Count) -> u64), ("BYTES/s", |count| count.bytes)]
    {
        let before = before.clone();
        columns.number(header, move |it, to| match before.get(&it.rule.selector()) {
            Some(before) => write!(to, "{}", rate(of(met(it)), of(*before), since.seconds)),
            None => Ok(()),
        });
    }
}

/// Everything that a rule has matched, whatever happened to it.
fn met(status: &RuleStatus) -> Count {
    let all = [
        status.departed,
        status.passed,
        status.dropped,
        status.no_next_hop,
        status.icmp_sent,
        status.too_big_dropped,
    ];
    Count {
        packets: all.iter().fold(0, |sum, count| sum.saturating_add(count.packets)),
        bytes: all.iter().fold(0, |sum, count| sum.saturating_add(count.bytes)),
    }
}

fn target(target: &Target, to: &mut dyn Write) -> fmt::Result {
    match target {
        Target::NextHop(next_hop) => via(next_hop, to),
        Target::NextHops(members) => each(members, to, |Member { next_hop, weight, .. }, to| {
            via(next_hop, to)?;
            if *weight == 1 { Ok(()) } else { write!(to, " weight {weight}") }
        }),
        other => write!(to, "{other}"),
    }
}

/// A line for each.
pub(super) fn each<T>(
    all: impl IntoIterator<Item = T>,
    to: &mut dyn Write,
    line: impl Fn(T, &mut dyn Write) -> fmt::Result,
) -> fmt::Result {
    for (nth, one) in all.into_iter().enumerate() {
        if nth > 0 {
            to.write_char('\n')?;
        }
        line(one, to)?;
    }
    Ok(())
}
