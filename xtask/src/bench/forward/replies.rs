//! Measures the means by which a router sends replies back by the link that their requests came in by.

use anyhow::Result;

use super::{
    contestant::{Contestant, Means},
    hosts::{Forwards, Hosts},
    idle,
};
use crate::bench::{
    Effort,
    figures::{Chart, Series, in_turn},
    waiting,
};

const MEANS: [Means; 4] = [Means::Plain, Means::SourceRule, Means::ReplyTo, Means::Connmark];
/// How many flows there are. The kernel's table of connections has room for more with its usual size.
const FLOWS: u32 = 10_000;

/// Measures the replies that one CPU forwards. The requests come in before that, one of each flow.
pub(in crate::bench) fn measure(effort: Effort) -> Result<Chart> {
    let contestants = MEANS.map(|means| Contestant::Replies(means, FLOWS));
    let mut hosts = Hosts::new()?;
    for contestant in contestants {
        eprintln!("setting up: {contestant}");
        hosts.add(contestant, Forwards::Apart, effort)?;
    }
    let figures = in_turn(effort.rounds, hosts.routers(), |router| hosts.measure(router, 1, effort))?;
    let (mut notes, mut busiest, mut series) = (Vec::new(), 0.0_f64, Vec::new());
    for (contestant, [rate, sent, waited]) in contestants.iter().zip(figures) {
        busiest = busiest.max(waited.median());
        notes.extend(idle(contestant, &rate, &sent));
        series.push(Series::bar("", contestant.name(), rate));
    }
    notes.extend(waiting::note(busiest));
    let title = "Small replies that one CPU forwards, of 10,000 flows at random";
    Ok(Chart { notes, ..Chart::bars("reply-to-forward", title, "packets/s", series) })
}
