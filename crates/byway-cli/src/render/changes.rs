//! What an apply changes, or would change.

use std::{
    fmt::Display,
    io::{self, Write},
    time::Duration,
};

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use byway::{Change, Changes, Counts, Device, Waiting};
use serde::Serialize;

use super::{count, thousands, whole_seconds};
use crate::{error::Error, output::Stamped};

const ADDED: Style = AnsiColor::Green.on_default();
const REMOVED: Style = AnsiColor::Red.on_default();

/// Writes a diff: removals after `-`, additions after `+`, and a summary line.
pub(crate) fn write_diff(changes: &Changes, out: &mut impl Write) -> Result<(), Error> {
    write_attachments_and_groups(changes, out)?;
    for change in changes.rules() {
        write_change(&change, "", out)?;
    }
    let Counts { added, removed, changed, kept, .. } = changes.counts();
    if changes.is_empty() {
        writeln!(out, "nothing differs: {} as the configuration says", are(kept)).map_err(Error::Print)?;
        return write_waiting(changes, out);
    }
    writeln!(
        out,
        "\n{} to add, {} to change, {} to delete; {} stay as they are",
        count(added as u64, "rule"),
        thousands(changed as u64),
        thousands(removed as u64),
        thousands(kept as u64)
    )
    .map_err(Error::Print)?;
    write_waiting(changes, out)
}

/// Writes what has been done, in a line or two. `how` describes the rules if there was nothing to do.
pub(crate) fn write_done(changes: &Changes, how: &str, out: &mut impl Write) -> Result<(), Error> {
    let Counts { added, removed, changed, kept, .. } = changes.counts();
    if changes.is_empty() {
        writeln!(out, "nothing to do: {} {how}", are(kept)).map_err(Error::Print)?;
        return write_waiting(changes, out);
    }
    write_attachments_and_groups(changes, out)?;
    writeln!(
        out,
        "{} added, {} changed, {} deleted; {} stayed as they were",
        count(added as u64, "rule"),
        thousands(changed as u64),
        thousands(removed as u64),
        thousands(kept as u64)
    )
    .map_err(Error::Print)?;
    write_waiting(changes, out)
}

/// The same as plain text.
pub(crate) fn done(changes: &Changes, how: &str) -> String {
    let mut text = Vec::new();
    // Nothing goes wrong in memory.
    let _ = write_done(changes, how, &mut text);
    anstream::adapter::strip_str(&String::from_utf8_lossy(&text)).to_string()
}

/// What cannot hold yet, and why.
fn write_waiting(changes: &Changes, out: &mut impl Write) -> Result<(), Error> {
    for Waiting { request, reason, .. } in changes.waiting() {
        writeln!(out, "waiting: {request}: {reason}").map_err(Error::Print)?;
    }
    Ok(())
}

/// Changes, and how long they still wait to be confirmed.
#[derive(Serialize)]
struct Unconfirmed<'a> {
    #[serde(flatten)]
    changes: &'a Changes,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds_to_confirm: Option<u64>,
}

/// Writes one JSON value. `unconfirmed` says how long an apply still waits to be confirmed, if one does.
pub(crate) fn write_json(
    changes: &Changes,
    unconfirmed: Option<Duration>,
    out: &mut impl Write,
) -> Result<(), Error> {
    let seconds_to_confirm = unconfirmed.map(whole_seconds);
    serde_json::to_writer_pretty(&mut *out, &Stamped::now(&Unconfirmed { changes, seconds_to_confirm }))
        .map_err(|error| Error::Print(error.into()))?;
    out.write_all(b"\n").map_err(Error::Print)
}

fn write_attachments_and_groups(changes: &Changes, out: &mut impl Write) -> Result<(), Error> {
    let [was_auto, is_auto] = changes.auto();
    let attachments = changes.attachments();
    for change in &attachments {
        let (style, sign, name, by_route) = match change {
            Change::Added(Device { name, .. }) => (ADDED, '+', name, is_auto),
            Change::Removed(Device { name, .. }) => (REMOVED, '-', name, was_auto),
            _ => continue,
        };
        // As in the tables, one that nobody has named stands in brackets.
        let line = if by_route { format!("attach ({name})") } else { format!("attach {name}") };
        write_line(style, sign, &line, out)?;
    }
    if attachments.is_empty() && was_auto != is_auto {
        let (style, sign) = if is_auto { (ADDED, '+') } else { (REMOVED, '-') };
        write_line(style, sign, &"attach auto", out)?;
    }
    changes.groups().iter().try_for_each(|change| write_change(change, "group ", out))?;
    changes.health_checks().iter().try_for_each(|change| write_change(change, "health-check ", out))?;
    for next_hop in changes.completed() {
        let why =
            if next_hop.learned.is_some() { "as the host has learned by now" } else { "which has waited" };
        write_line(ADDED, '+', &format_args!("nexthop {next_hop}, {why}"), out)?;
    }
    Ok(())
}

fn write_change(change: &Change<impl Display>, what: &str, out: &mut impl Write) -> Result<(), Error> {
    let (before, after) = match change {
        Change::Added(after) => (None, Some(after)),
        Change::Removed(before) => (Some(before), None),
        Change::Changed { before, after } => (Some(before), Some(after)),
        _ => (None, None),
    };
    if let Some(before) = before {
        write_line(REMOVED, '-', &format_args!("{what}{before}"), out)?;
    }
    if let Some(after) = after {
        write_line(ADDED, '+', &format_args!("{what}{after}"), out)?;
    }
    Ok(())
}

fn write_line(style: Style, sign: char, line: &dyn Display, out: &mut impl Write) -> Result<(), Error> {
    // Ask standard output directly: stripping colours from a million lines takes time.
    let style = match AutoStream::choice(&io::stdout()) {
        ColorChoice::Never => Style::new(),
        _ => style,
    };
    writeln!(out, "{style}{sign} {line}{style:#}").map_err(Error::Print)
}

/// `1 rule is`, `1,204 rules are`
fn are(rules: usize) -> String {
    format!("{} {}", count(rules as u64, "rule"), if rules == 1 { "is" } else { "are" })
}
