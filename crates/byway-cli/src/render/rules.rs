//! The table of rules.

use std::{
    borrow::Borrow,
    cell::Cell,
    fmt::{self, Write},
    io,
};

use byway::{Count, Member, Mss, OnDown, Rule, RuleStatus, Target};

use super::{
    Reader,
    cells::{Since, dev, each, rate, via},
    columns::Columns,
};
use crate::error::Error;

/// Writes the table, and what its rows are in all, without a line break at its end. Goes through the rules twice. `all` is how
/// many rules there are.
pub(super) fn write<I, R>(
    rules: impl Fn() -> I,
    all: usize,
    since: Option<&Since<'_>>,
    reader: Reader,
    to: &mut impl io::Write,
) -> Result<(), Error>
where
    I: Iterator<Item = byway::Result<R>>,
    R: Borrow<RuleStatus>,
{
    if rules().next().is_none() {
        let none = if all == 0 { "no rules" } else { "no such rules" };
        return to.write_all(none.as_bytes()).map_err(Error::Print);
    }
    let totals = Cell::new(Totals::default());
    let counted = || {
        totals.set(Totals::default());
        rules().inspect(|rule| {
            if let Ok(rule) = rule {
                totals.set(totals.get().with(rule.borrow()));
            }
        })
    };
    columns(since, reader).write(counted, to)?;
    match totals.get().said(all, reader) {
        Some(said) => write!(to, "\n\n{said}").map_err(Error::Print),
        None => Ok(()),
    }
}

/// What the rows of a table are in all.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Totals {
    rows: usize,
    packets: u64,
    bytes: u64,
    lost: u64,
}

impl Totals {
    pub(super) fn of(rules: &[&RuleStatus]) -> Self {
        rules.iter().fold(Self::default(), |totals, rule| totals.with(rule))
    }

    fn with(self, rule: &RuleStatus) -> Self {
        let Count { packets, bytes } = rule.matched();
        Self {
            rows: self.rows + 1,
            packets: self.packets.saturating_add(packets),
            bytes: self.bytes.saturating_add(bytes),
            lost: self.lost.saturating_add(rule.lost()),
        }
    }

    /// One row that is all there is says it itself.
    pub(super) fn said(self, all: usize, reader: Reader) -> Option<String> {
        let Self { rows, packets, bytes, lost } = self;
        if rows == all && rows < 2 {
            return None;
        }
        let mut said = format!(
            "{}, {}, {}",
            reader.count_of(rows, all, "rule"),
            reader.count(packets, "packet"),
            reader.count(bytes, "byte")
        );
        if lost > 0 {
            said += &format!(", {} not arrived", reader.number(lost));
        }
        Some(said)
    }
}

pub(super) fn columns<'a>(since: Option<&'a Since<'_>>, reader: Reader) -> Columns<'a, RuleStatus> {
    let mut columns = Columns::<RuleStatus>::new(reader);
    columns
        .text("FROM", |it, to| write!(to, "{}", it.rule.source))
        .text("TO", |it, to| it.rule.destination.map_or(Ok(()), |destination| write!(to, "{destination}")))
        .only_where(|it| it.rule.destination.is_some())
        .text("VIA", |it, to| target(&it.rule, to))
        .text("DEV", |it, to| {
            let mut next_hops = it.rule.target.next_hops().peekable();
            // Beside `reply-to`.
            let receivers: Vec<&str> = it.rule.reply_to_dev.iter().map(String::as_str).collect();
            to.write_str(&receivers.join(", "))?;
            if it.rule.reply_to && next_hops.peek().is_some() {
                to.write_str("\n")?;
            }
            each(next_hops, to, dev)
        })
        .text("ON-DOWN", |it, to| {
            if it.rule.target.next_hops().next().is_some() {
                write!(to, "{}", it.rule.on_down)
            } else {
                Ok(())
            }
        })
        .only_where(|it| it.rule.on_down != OnDown::Pass)
        .text("OWNER", |it, to| write!(to, "{}", it.rule.owner))
        // What a rule of an unknown kind has met, nobody here can say.
        .count("PACKETS", |it| is_known(it).then(|| it.matched().packets))
        .count("BYTES", |it| is_known(it).then(|| it.matched().bytes));
    if let Some(since) = since {
        for (header, of) in
            [("PACKETS/s", (|count| count.packets) as fn(Count) -> u64), ("BYTES/s", |count| count.bytes)]
        {
            columns.count(header, move |it| {
                let before = since.rule(it)?;
                Some(rate(of(it.matched()), of(before.matched()), since.seconds))
            });
        }
    }
    columns.count("ARRIVED", |it| match it.rule.target {
        _ if it.rule.reply_to => Some(it.arrived.packets),
        Target::Pass | Target::Drop | Target::Other { .. } => None,
        _ => Some(it.arrived.packets),
    });
    // Rare events get a column only if there are any.
    columns
        .count("NO NEXT HOP", |it| Some(it.no_next_hop.packets))
        .only_where(|it| it.no_next_hop.packets > 0)
        .count("CLAMPED", |it| Some(it.clamped.packets))
        .only_where(|it| it.clamped.packets > 0)
        .count("ICMP SENT", |it| Some(it.icmp_sent.packets))
        .only_where(|it| it.icmp_sent.packets > 0)
        .count("TOO BIG", |it| Some(it.too_big_dropped.packets))
        .only_where(|it| it.too_big_dropped.packets > 0)
        .text("MSS", |it, to| write!(to, "{}", it.rule.mss))
        .only_where(|it| it.rule.mss != Mss::Auto)
        .text("NAME", |it, to| to.write_str(it.rule.name.as_deref().unwrap_or_default()))
        .only_where(|it| it.rule.name.is_some());
    columns
}

fn is_known(status: &RuleStatus) -> bool {
    !matches!(status.rule.target, Target::Other { .. })
}

/// `reply-to`, and on the next line what becomes of the rest.
fn target(rule: &Rule, to: &mut dyn Write) -> fmt::Result {
    match &rule.target {
        Target::Pass if rule.reply_to => return to.write_str("reply-to"),
        _ if rule.reply_to => to.write_str("reply-to\n")?,
        _ => {}
    }
    match &rule.target {
        Target::NextHop(next_hop) => via(next_hop, to),
        Target::NextHops(members) => each(members, to, |Member { next_hop, weight, is_backup, .. }, to| {
            via(next_hop, to)?;
            match is_backup {
                true => to.write_str(" backup"),
                false if *weight == 1 => Ok(()),
                false => write!(to, " weight {weight}"),
            }
        }),
        other => write!(to, "{other}"),
    }
}
