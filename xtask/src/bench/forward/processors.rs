//! Measures whether two processors forward twice as much as one.

use anyhow::Result;

use super::{
    contestant::Contestant,
    hosts::{Forwards, Hosts},
};
use crate::bench::{
    Effort,
    figures::{Chart, Series, in_turn},
    waiting,
};

const NAMES: [&str; 2] = ["one CPU", "two CPUs at once"];
const RULES: u32 = 1_000;

/// Measures one processor that sends and forwards, and two at once, which share only the router.
pub(super) fn measure(effort: Effort) -> Result<Chart> {
    let contestants = [Contestant::Plain, Contestant::Byway(RULES)];
    let mut hosts = Hosts::new()?;
    for contestant in contestants {
        hosts.add(contestant, Forwards::Along(NAMES.len()), effort)?;
    }
    let turns: Vec<_> = hosts.routers().iter().flat_map(|router| [(router, 1), (router, 2)]).collect();
    let figures =
        in_turn(effort.rounds, &turns, |(router, senders)| hosts.measure(router, *senders, effort))?;
    let mut busiest = 0.0_f64;
    let mut figures = figures.into_iter();
    let mut series = Vec::new();
    for contestant in contestants {
        for (name, [rate, _, waited]) in NAMES.iter().zip(figures.by_ref()) {
            busiest = busiest.max(waited.median());
            series.push(Series::bar(contestant.name(), name, rate));
        }
    }
    let mut notes = vec!["each CPU sends as well, and that is a part of each figure".to_owned()];
    notes.extend(waiting::note(busiest));
    let title = "Small packets that CPUs send and forward, 1,000 rules";
    Ok(Chart { notes, ..Chart::bars("forward-processors", title, "packets/s", series) })
}
