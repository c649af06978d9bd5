//! Measures the nanoseconds that the programs need for a packet ([`vary`](super::vary)), each time from another source.

mod counters;

use std::{cell::RefCell, collections::HashSet, net::IpAddr, panic, sync::Barrier, thread};

use anyhow::{Context, Result, ensure};
use aya::programs::ProgramFd;
use byway::{Byway, GroupSpec, MemberSpec, NextHopSpec, Prefix, RuleSpec, Selector, TargetSpec};
use byway_lab::seed::{Addresses, IPV4, IPV6, Seed};

use super::{
    Effort,
    figures::{Chart, Figures, Point, Series, Shape, in_turn, line},
    minimal,
    vary::{
        REDIRECT, REPEAT, SHOT, SkBuff, Turn, UNSPEC, Varies, Vary, address, end, folder, frame, on_device,
        program, prove_next_hops, shuffle,
    },
};

/// The numbers of rules to measure with.
const RULES: [u32; 4] = [1, 1_000, 100_000, 1_000_000];

/// The lengths of mixed prefixes.
const LENGTHS4: [u8; 12] = [32, 16, 18, 20, 22, 23, 24, 25, 26, 27, 28, 29];
const LENGTHS6: [u8; 12] = [128, 36, 40, 44, 48, 52, 56, 60, 64, 72, 96, 112];

/// A kind of rules, and the packets for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    /// Rules for single addresses, to a next hop.
    Hosts,
    /// Rules for prefixes of many lengths, to a next hop.
    Prefixes,
    /// The rules of `Hosts`, and packets that none of them matches.
    Miss,
    Pass,
    Drop,
    Group,
}

impl Case {
    fn verdict(self) -> u32 {
        match self {
            Self::Hosts | Self::Prefixes | Self::Group => REDIRECT,
            Self::Miss | Self::Pass => UNSPEC,
            Self::Drop => SHOT,
        }
    }
}

/// Measures everything of this part.
pub(super) fn measure(effort: Effort) -> Result<Vec<Chart>> {
    let families = [("IPv4", IPV4), ("IPv6", IPV6)];
    let mut charts = Vec::new();
    let (mut targets, mut counted) = (Vec::new(), Vec::new());
    for (family, addresses) in families {
        charts.push(over_rules(effort, family, addresses)?);
        targets.extend(by_target(effort, family, addresses)?);
        counted.extend(counters::measure(effort, family, addresses)?);
    }
    let title = "One packet by what a rule does with it, 1,000 rules";
    charts.push(Chart::bars("packet-targets", title, "ns", targets));
    let title = "One packet with counters and without, 1,000 rules";
    charts.push(Chart::bars("packet-counters", title, "ns", counted));
    charts.push(over_processors(effort)?);
    Ok(charts)
}

/// Measures what a packet costs while other processors do the same. It costs the same unless they get in each other's way.
fn over_processors(effort: Effort) -> Result<Chart> {
    const NAMES: [&str; 2] = ["one CPU", "two CPUs at once"];
    let rules = Rules::new(Case::Hosts, IPV4, 1_000);
    let contestant = Contestant::byway(IPV4, &rules)?;
    let folder = folder()?;
    let (mut one, mut other) = (Vary::for_pins(&folder)?, Vary::for_pins(&folder)?);
    for vary in [&mut one, &mut other] {
        vary.set_addresses(Varies::Source, &rules.sources)?;
    }
    let repeat = effort.choose(REPEAT, REPEAT / 10);
    let mut varies = [one, other];
    let Contestant { seed, departure, arrival, frame, context, .. } = &contestant;
    let arrival = arrival.as_ref().context("a hit arrives")?;
    let mut at_once = |processors: usize| -> Result<[f64; 1]> {
        let empty = varies[0].empty()?;
        let mut nanoseconds = [0.0; 2];
        for (nth, programs, turn) in
            [(0, [&empty, &empty], Turn::First), (1, [departure, arrival], Turn::Both)]
        {
            for vary in &mut varies {
                vary.go_over_to(programs)?;
                vary.set_turn(turn)?;
            }
            let start = Barrier::new(processors);
            let took = thread::scope(|scope| {
                let threads: Vec<_> = varies[..processors]
                    .iter()
                    .enumerate()
                    .map(|(processor, vary)| {
                        let (server, start) = (seed.server.clone(), &start);
                        scope.spawn(move || -> Result<f64> {
                            start.wait();
                            Ok(vary.run_on(processor, &server, context, frame, repeat)?.nanoseconds)
                        })
                    })
                    .collect();
                threads
                    .into_iter()
                    .map(|thread| thread.join().unwrap_or_else(|cause| panic::resume_unwind(cause)))
                    .collect::<Result<Vec<f64>>>()
            })?;
            nanoseconds[nth] = took.iter().sum::<f64>() / took.len() as f64;
        }
        Ok([2.0 * (nanoseconds[1] - nanoseconds[0])])
    };
    let figures = in_turn(effort.rounds, &[1, 2], |processors| at_once(*processors))?;
    let title = "One IPv4 packet while others are on their way, 1,000 rules";
    let series = NAMES.iter().zip(figures).map(|(name, [ns])| Series::bar("", name, ns)).collect();
    Ok(Chart::bars("packet-processors", title, "ns", series))
}

/// Measures how the cost of a packet grows with the number of rules.
fn over_rules(effort: Effort, family: &str, addresses: Addresses) -> Result<Chart> {
    let sizes = &RULES[..effort.choose(RULES.len(), RULES.len() - 1)];
    let names = ["minimal program", "byway, hosts", "byway, mixed prefixes", "byway, miss"];
    let mut lines = names.map(line);
    for size in sizes {
        let contestants = [
            Contestant::minimal(addresses, &Rules::new(Case::Hosts, addresses, *size))?,
            Contestant::byway(addresses, &Rules::new(Case::Hosts, addresses, *size))?,
            Contestant::byway(addresses, &Rules::new(Case::Prefixes, addresses, *size))?,
            Contestant::byway(addresses, &Rules::new(Case::Miss, addresses, *size))?,
        ];
        for (line, [figures]) in lines.iter_mut().zip(measured(effort, &contestants)?) {
            line.points.push(Point { at: Some(*size), figures });
        }
        end(contestants);
    }
    Ok(Chart {
        name: format!("packet-{}", family.to_lowercase()),
        title: format!("One {family} packet from ever another source: departure and arrival"),
        unit: "ns".into(),
        shape: Shape::Lines { along: "rules".into(), logarithmic: false },
        series: lines.into(),
        notes: Vec::new(),
    })
}

/// Measures what each kind of target costs.
fn by_target(effort: Effort, family: &str, addresses: Addresses) -> Result<Vec<Series>> {
    let cases = [
        ("next hop", Case::Hosts),
        ("group", Case::Group),
        ("pass", Case::Pass),
        ("drop", Case::Drop),
        ("miss", Case::Miss),
    ];
    let contestants = cases
        .iter()
        .map(|(_, case)| Contestant::byway(addresses, &Rules::new(*case, addresses, 1_000)))
        .collect::<Result<Vec<_>>>()?;
    let figures = measured(effort, &contestants)?;
    end(contestants);
    let bars = cases.iter().zip(figures).map(|((name, _), [figures])| Series::bar(family, name, figures));
    Ok(bars.collect())
}

/// Returns rules, and the sources of packets for them.
struct Rules {
    case: Case,
    specs: Vec<RuleSpec>,
    sources: Vec<IpAddr>,
}

impl Rules {
    fn new(case: Case, addresses: Addresses, size: u32) -> Self {
        let is_v4 = addresses.router.is_ipv4();
        let target = match case {
            Case::Pass => TargetSpec::Pass,
            Case::Drop => TargetSpec::Drop,
            Case::Group => TargetSpec::Group(GROUP.into()),
            _ => TargetSpec::NextHop(next_hop(addresses)),
        };
        let (mut specs, mut sources, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
        for nth in 0..size {
            let address = address(is_v4, nth);
            // The same number of each length. There are not enough short ones, so there are more hosts.
            let length = match (case, is_v4) {
                (Case::Prefixes, true) => LENGTHS4[nth as usize % LENGTHS4.len()],
                (Case::Prefixes, false) => LENGTHS6[nth as usize % LENGTHS6.len()],
                (_, true) => 32,
                (_, false) => 128,
            };
            let source = Prefix::holding(address, length).filter(|prefix| seen.insert(*prefix));
            specs.push(RuleSpec::new(Selector::new(source.unwrap_or(address.into()), None), target.clone()));
            sources.push(match case {
                // Sources in the same networks, but none of the addresses.
                Case::Miss => self::address(is_v4, nth + RULES[RULES.len() - 1]),
                _ => address,
            });
        }
        shuffle(&mut sources);
        Self { case, specs, sources }
    }
}

/// The name of the group.
const GROUP: &str = "uplinks";

fn next_hop(addresses: Addresses) -> NextHopSpec {
    NextHopSpec::ViaDev(addresses.router, "eth1".into())
}

/// A program with all that it needs, in hosts of its own.
struct Contestant {
    seed: Seed,
    case: Case,
    vary: RefCell<Vary>,
    /// The measured programs: for departures, and for arrivals, if it has any.
    departure: ProgramFd,
    arrival: Option<ProgramFd>,
    frame: Vec<u8>,
    context: SkBuff,
}

impl Contestant {
    fn new(
        seed: Seed,
        case: Case,
        mut vary: Vary,
        sources: &[IpAddr],
        departure: ProgramFd,
        arrival: Option<ProgramFd>,
    ) -> Result<Self> {
        vary.set_addresses(Varies::Source, sources)?;
        let context = on_device(seed.server.ifindex("eth0")?);
        let from = *sources.first().context("no sources")?;
        let to = if from.is_ipv4() { "203.0.113.9" } else { "2001:db8:f::9" };
        // The smallest UDP header.
        let frame = frame(from, to.parse()?, byway_abi::flow::UDP, &[0; 8]);
        Ok(Self { seed, case, vary: RefCell::new(vary), departure, arrival, frame, context })
    }

    /// Returns Byway with these rules.
    fn byway(addresses: Addresses, rules: &Rules) -> Result<Self> {
        let seed = Seed::new()?;
        let (case, specs) = (rules.case, &rules.specs);
        seed.server.run(|| -> Result<()> {
            let mut byway = Byway::open()?;
            if case == Case::Group {
                byway.add_group(&GroupSpec::new(GROUP, [MemberSpec::new(next_hop(addresses))]))?;
            }
            byway.add_all(specs)?;
            Ok(())
        })?;
        let folder = folder()?;
        let arrival = if case.verdict() == REDIRECT { Some(program(&folder, "arrival")?) } else { None };
        prove_next_hops(&folder)?;
        let vary = Vary::for_pins(&folder)?;
        Self::new(seed, case, vary, &rules.sources, program(&folder, "departure")?, arrival)
    }

    /// Returns a program that does no more than it must.
    fn minimal(addresses: Addresses, rules: &Rules) -> Result<Self> {
        let seed = Seed::new()?;
        let mut vary = Vary::load(rules.specs.len() as u32)?;
        let sources = rules.sources.iter().copied();
        minimal::know(vary.object(), seed.server.ifindex("eth1")?, addresses.router, sources)?;
        let minimal = vary.program("minimal")?.fd()?.try_clone()?;
        Self::new(seed, rules.case, vary, &rules.sources, minimal, None)
    }

    /// Measures the nanoseconds for a packet, without those to vary packets.
    fn measure(&self, repeat: u32) -> Result<f64> {
        let mut vary = self.vary.borrow_mut();
        let empty = vary.empty()?;
        let mut run = |programs: [&ProgramFd; 2], turn| {
            vary.go_over_to(programs)?;
            vary.set_turn(turn)?;
            vary.run(&self.seed.server, &self.context, &self.frame, repeat)
        };
        let without = run([&empty, &empty], Turn::First)?.nanoseconds;
        if let Some(arrival) = &self.arrival {
            let with = run([&self.departure, arrival], Turn::Both)?;
            // Every second run is an arrival, and the last one is: they come in pairs.
            ensure!(with.verdict == UNSPEC, "{:?}: the arrival says {}", self.case, with.verdict);
            return Ok(2.0 * (with.nanoseconds - without));
        }
        let with = run([&self.departure, &empty], Turn::First)?;
        ensure!(with.verdict == self.case.verdict(), "{:?}: the program says {}", self.case, with.verdict);
        Ok(with.nanoseconds - without)
    }
}

fn measured(effort: Effort, contestants: &[Contestant]) -> Result<Vec<[Figures; 1]>> {
    let repeat = effort.choose(REPEAT, REPEAT / 10);
    in_turn(effort.rounds, contestants, |contestant| Ok([contestant.measure(repeat)?]))
}
