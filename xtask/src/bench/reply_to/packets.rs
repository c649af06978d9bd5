//! Measures the nanoseconds that the programs need for a packet ([`vary`](crate::bench::vary)), each time of another flow.

use anyhow::{Context, Result, ensure};
use byway_lab::seed::Addresses;

use super::host::{Host, Rule};
use crate::bench::{
    Effort,
    figures::{Chart, Figures, Point, Series, Shape, in_turn, readable},
    vary::{REPEAT, end},
};

/// The numbers of flows to measure with.
const FLOWS: [u32; 3] = [1, 10_000, 1_000_000];
/// How many flows a host does not know yet. It is a power of two, so that none of them comes twice.
const NEW_FLOWS: u32 = 1 << 18;

/// A packet, and the programs that it passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    /// A packet of a connection that the table knows comes in.
    Known,
    /// The first packet of a connection comes in, and is noted.
    First,
    /// A packet of a connection comes in whose replies no rule sends back.
    UnaskedTcp,
    /// A datagram does.
    UnaskedUdp,
    /// A reply of a known connection leaves and arrives.
    Reply,
    /// The same packet does, by a host rule.
    HostRule,
    /// The same packet leaves, and no rule matches it.
    NoRule,
}

impl Case {
    const ALL: [Self; 7] = [
        Self::HostRule,
        Self::Known,
        Self::First,
        Self::UnaskedTcp,
        Self::UnaskedUdp,
        Self::Reply,
        Self::NoRule,
    ];

    /// Returns its name, among packets that go the same way.
    fn name(self) -> &'static str {
        match self {
            Self::Known => "known flow",
            Self::First => "first packet of a flow",
            Self::UnaskedTcp => "no rule for its replies, TCP",
            Self::UnaskedUdp => "no rule for its replies, UDP",
            Self::Reply => "reply-to",
            Self::HostRule => "host rule",
            Self::NoRule => "no rule",
        }
    }
}

/// All hosts whose packets are of so many flows.
struct Hosts {
    flows: u32,
    /// How many of them found a place in the table.
    known: usize,
    /// Has the rule `from any reply-to`, and knows the flows.
    replies: Host,
    /// Has the same rule. It gets to know the flows, and then others as well, in each round.
    learns: Host,
    /// Has a rule for the service address, to a next hop.
    host_rule: Host,
    /// Has a rule with `reply-to` for addresses of nobody.
    other: Host,
}

/// The nanoseconds for a packet that leaves and arrives, and those of the departure alone. For one that comes in, both are the
/// same.
type Nanoseconds = [f64; 2];

/// Measures packets that come in, and packets that leave, in one run.
pub(super) fn measure(effort: Effort, family: &str, addresses: Addresses) -> Result<Vec<Chart>> {
    let mut all = Vec::new();
    for flows in FLOWS {
        eprintln!("setting up: {family}, flows: {flows}");
        all.push(Hosts::new(addresses, flows)?);
    }
    let turns: Vec<(&Hosts, Case)> =
        all.iter().flat_map(|hosts| Case::ALL.map(|case| (hosts, case))).collect();
    let figures = in_turn(effort.rounds, &turns, |(hosts, case)| {
        hosts
            .measure(*case, effort)
            .with_context(|| format!("{family}, flows: {}, {}", hosts.flows, case.name()))
    })?;
    let measured: Vec<Measured> = turns
        .iter()
        .zip(figures)
        .map(|((hosts, case), [whole, departure])| Measured {
            flows: hosts.flows,
            case: *case,
            whole,
            departure,
        })
        .collect();
    let notes = all.iter().flat_map(Hosts::without_place).collect();
    end(all.into_iter().flat_map(|hosts| [hosts.replies, hosts.learns, hosts.host_rule, hosts.other]));
    Ok(charts(family, &measured, notes))
}

/// What has been measured of a case.
struct Measured {
    flows: u32,
    case: Case,
    whole: Figures,
    departure: Figures,
}

fn charts(family: &str, measured: &[Measured], notes: Vec<String>) -> Vec<Chart> {
    let comes_in = [Case::HostRule, Case::Known, Case::First, Case::UnaskedTcp, Case::UnaskedUdp];
    let lines = comes_in.map(|case| {
        let of_case = measured.iter().filter(|it| it.case == case);
        Series {
            group: None,
            name: match case {
                Case::HostRule => "a host rule's packet leaves".to_owned(),
                _ => case.name().to_owned(),
            },
            points: of_case.map(|it| Point { at: Some(it.flows), figures: it.whole.clone() }).collect(),
        }
    });
    let bars = |cases: &[Case], which: fn(&Measured) -> &Figures| -> Vec<Series> {
        let bar = |it: &Measured| {
            let flows = readable(it.flows.into());
            let group = if it.flows == 1 { "1 flow".to_owned() } else { format!("{flows} flows") };
            Series::bar(&group, it.case.name(), which(it).clone())
        };
        measured.iter().filter(|it| cases.contains(&it.case)).map(bar).collect()
    };
    let name = |part: &str| format!("reply-to-{part}-{}", family.to_lowercase());
    vec![
        Chart {
            name: name("ingress"),
            title: format!("One {family} packet that comes in, of ever another flow"),
            unit: "ns".into(),
            shape: Shape::Lines { along: "flows".into(), logarithmic: false },
            series: lines.into(),
            notes,
        },
        Chart::bars(
            &name("egress"),
            &format!("One {family} packet that leaves, of ever another flow: departure and arrival"),
            "ns",
            bars(&[Case::HostRule, Case::Reply, Case::NoRule], |it| &it.whole),
        ),
        Chart::bars(
            &name("departure"),
            &format!("One {family} packet that leaves, of ever another flow: departure alone"),
            "ns",
            bars(&[Case::HostRule, Case::Reply], |it| &it.departure),
        ),
    ]
}

impl Hosts {
    fn new(addresses: Addresses, flows: u32) -> Result<Self> {
        let mut replies = Host::new(addresses, Rule::ReplyTo, flows)?;
        let known = replies.establish_for_good()?;
        Ok(Self {
            flows,
            known,
            replies,
            learns: Host::new(addresses, Rule::ReplyTo, flows)?.and_new_flows(NEW_FLOWS)?,
            host_rule: Host::new(addresses, Rule::Host, flows)?,
            other: Host::new(addresses, Rule::Other, flows)?,
        })
    }

    /// Returns notes on flows that found no place in the table.
    fn without_place(&self) -> Vec<String> {
        let (flows, without) = (readable(self.flows.into()), self.flows as usize - self.known);
        let refused = self.learns.refused();
        let mut notes = Vec::new();
        if without > 0 {
            notes.push(format!("{without} of {flows} flows found no place in the table, and take no part"));
        }
        if refused > 0.0 {
            let percent = 100.0 * refused;
            notes.push(format!("beside {flows} flows, up to {percent:.1} % of the new ones found no place"));
        }
        notes
    }

    fn measure(&self, case: Case, effort: Effort) -> Result<Nanoseconds> {
        let repeat = effort.choose(REPEAT, REPEAT / 10);
        match case {
            Case::Known => {
                let before = self.replies.table()?.counters()?;
                let took = self.replies.reception(&self.replies.frames.request, repeat)?;
                let after = self.replies.table()?.counters()?;
                ensure!(
                    after == before,
                    "flows were to be known, and have been noted: {before:?}, {after:?}"
                );
                Ok([took; 2])
            }
            Case::First => {
                self.learns.establish()?;
                Ok([self.learns.first_packets(effort.choose(NEW_FLOWS, NEW_FLOWS / 4))?; 2])
            }
            Case::UnaskedTcp => Ok([self.other.reception(&self.other.frames.request, repeat)?; 2]),
            Case::UnaskedUdp => Ok([self.other.reception(&self.other.frames.datagram, repeat)?; 2]),
            Case::Reply => self.replies.departure_and_arrival(repeat),
            Case::HostRule => self.host_rule.departure_and_arrival(repeat),
            Case::NoRule => Ok([self.other.departure(repeat)?; 2]),
        }
    }
}
