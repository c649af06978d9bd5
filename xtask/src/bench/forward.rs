//! Measures packets per second through a router that sends them by their source: with Byway, and with other means.
//!
//! Every contestant has a router of its own. One processor sends, another one forwards ([`hosts`]). Packets are counted at
//! the far ends of the router's links. A packet at the wrong end is an error and never a figure. [`processors`] measures
//! several processors that forward at once, and [`replies`] the means to send replies back.

mod contestant;
mod hosts;
mod processors;
pub(super) mod replies;
mod traffic;

use anyhow::Result;

use super::{
    Effort,
    figures::{Chart, Figures, Point, Series, Shape, in_turn},
    waiting,
};
use contestant::Contestant;
use hosts::{Forwards, Hosts};

/// How many rules Byway has.
const BYWAY_SIZES: &[u32] = &[1, 10, 100, 1_000, 10_000, 100_000, 1_000_000];
/// How many sources the minimal program knows.
const MINIMAL_SIZES: &[u32] = &[1, 1_000, 1_000_000];
/// How many `ip rule`s there are. With ten times as many, one packet takes milliseconds.
const IP_RULE_SIZES: &[u32] = &[1, 10, 100, 1_000, 10_000];
/// How many elements the set of nftables has.
const NFTABLES_SIZES: &[u32] = &[10_000];

/// How many times as much must be sent as is forwarded. With less, the router may have had time for more.
const ENOUGH: f64 = 1.02;

/// Measures everything of this part.
pub(super) fn measure(effort: Effort) -> Result<Vec<Chart>> {
    Ok(vec![over_rules(effort)?, processors::measure(effort)?])
}

/// Measures the routers of all contestants in turn.
fn over_rules(effort: Effort) -> Result<Chart> {
    let sizes = |sizes: &[u32], kind: fn(u32) -> Contestant| sizes.iter().copied().map(kind).collect();
    let lines: [(&str, Vec<Contestant>); 5] = [
        ("plain routing", vec![Contestant::Plain]),
        ("byway", sizes(BYWAY_SIZES, Contestant::Byway)),
        ("minimal program", sizes(MINIMAL_SIZES, Contestant::Minimal)),
        ("ip rule", sizes(IP_RULE_SIZES, Contestant::IpRule)),
        ("nftables set and mark", sizes(NFTABLES_SIZES, Contestant::Nftables)),
    ];
    let mut hosts = Hosts::new()?;
    for contestant in lines.iter().flat_map(|(_, contestants)| contestants) {
        eprintln!("setting up: {contestant}");
        hosts.add(*contestant, Forwards::Apart, effort)?;
    }
    let figures = in_turn(effort.rounds, hosts.routers(), |router| hosts.measure(router, 1, effort))?;
    Ok(chart(&lines, figures))
}

/// Returns a note on a router that might have forwarded more than it got.
fn idle(contestant: &Contestant, rate: &Figures, sent: &Figures) -> Option<String> {
    (sent.median() < rate.median() * ENOUGH)
        .then(|| format!("{contestant}: the sender hardly keeps the router busy, which may do more"))
}

/// Sorts the figures, which come in the order of the contestants, into lines.
fn chart(lines: &[(&str, Vec<Contestant>)], figures: Vec<[Figures; 3]>) -> Chart {
    let (mut notes, mut busiest, mut offered) = (Vec::new(), 0.0_f64, None);
    let mut figures = figures.into_iter();
    let mut series = Vec::new();
    for (name, contestants) in lines {
        let mut points = Vec::new();
        for (contestant, [rate, sent, waited]) in contestants.iter().zip(figures.by_ref()) {
            busiest = busiest.max(waited.median());
            notes.extend(idle(contestant, &rate, &sent));
            if *contestant == Contestant::Plain {
                offered = Some(sent);
            }
            points.push(Point { at: contestant.rules(), figures: rate });
        }
        series.push(Series { group: None, name: (*name).to_owned(), points });
    }
    // The sender outruns the fastest router by the least.
    series.extend(offered.map(|sent| Series {
        group: None,
        name: "sent to plain routing".to_owned(),
        points: vec![Point { at: None, figures: sent }],
    }));
    notes.extend(waiting::note(busiest));
    Chart {
        name: "forward".into(),
        title: "Small packets that one CPU forwards, from random sources of all that have a rule".into(),
        unit: "packets/s".into(),
        shape: Shape::Lines { along: "rules".into(), logarithmic: true },
        series,
        notes,
    }
}
