//! Measures the nanoseconds that the programs need for a packet (`BPF_PROG_TEST_RUN`), each time from another source.
//!
//! The kernel runs a program again and again on one packet. `vary` (crates/byway-ebpf/src/bench.rs) gives it the next source
//! of a list in random order, and tail-calls the measured program. The cost of `vary` with a program that does nothing is
//! subtracted.

mod counters;

use std::{
    cell::RefCell,
    collections::HashSet,
    fs,
    net::IpAddr,
    panic,
    path::{Path, PathBuf},
    sync::Barrier,
    thread,
};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf, TestRunOptions,
    maps::{Array, Map, MapData, PerCpuArray, PerCpuValues, ProgramArray},
    programs::{ProgramFd, SchedClassifier, TestRun},
    util::nr_cpus,
};
use byway::{Byway, GroupSpec, MemberSpec, NextHopSpec, Prefix, RuleSpec, Selector, TargetSpec};
use byway_abi::NextHopCounters;
use byway_lab::{
    seed::{Addresses, IPV4, IPV6, Seed},
    stay_on_processor,
};

use super::{
    Effort,
    figures::{Chart, Figures, Point, Series, Shape, in_turn, line},
    minimal,
};

/// How many runs of the program one figure is the mean of.
const REPEAT: u32 = 2_000_000;
/// `TC_ACT_REDIRECT`
const REDIRECT: u32 = 7;
/// `TC_ACT_SHOT`
const SHOT: u32 = 2;
/// `TC_ACT_UNSPEC`, -1
const UNSPEC: u32 = u32::MAX;

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
    let (mut one, mut other) = (Vary::load(1)?, Vary::load(1)?);
    for vary in [&mut one, &mut other] {
        vary.set_secret(secret(&folder()?)?)?;
        vary.set_sources(&rules.sources)?;
    }
    let repeat = effort.choose(REPEAT, REPEAT / 10);
    let mut varies = [one, other];
    let Contestant { seed, departure, arrival, frame, context, .. } = &contestant;
    let arrival = arrival.as_ref().context("a hit arrives")?;
    let mut at_once = |processors: usize| -> Result<[f64; 1]> {
        let empty = varies[0].program("empty")?.fd()?.try_clone()?;
        let mut nanoseconds = [0.0; 2];
        for (nth, programs, turn) in [(0, [&empty, &empty], 0), (1, [departure, arrival], 1)] {
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
                            stay_on_processor(processor)?;
                            let program = vary.program("vary")?;
                            let options = TestRunOptions {
                                data_in: Some(frame),
                                ctx_in: Some(context),
                                repeat,
                                ..TestRunOptions::default()
                            };
                            start.wait();
                            Ok(server.run(|| program.test_run(options))?.duration.as_nanos() as f64)
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

/// Returns the `nth` of many different addresses.
pub(super) fn address(is_v4: bool, nth: u32) -> IpAddr {
    // An odd factor spreads them.
    let spread = nth.wrapping_mul(0x9E37_79B1);
    if is_v4 {
        // In 64.0.0.0/3, which has no special addresses.
        IpAddr::from((0x4000_0000_u32 | spread & 0x1FFF_FFFF).to_be_bytes())
    } else {
        IpAddr::from((0x2400_0000_u128 << 96 | u128::from(spread) << 64 | u128::from(nth)).to_be_bytes())
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
    /// `struct __sk_buff` (include/uapi/linux/bpf.h), of which the programs need only the device.
    context: [u8; 192],
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
        vary.set_sources(sources)?;
        let mut context = [0; 192];
        context[40..44].copy_from_slice(&seed.server.ifindex("eth0")?.to_ne_bytes());
        let from = *sources.first().context("no sources")?;
        let to = if from.is_ipv4() { "203.0.113.9" } else { "2001:db8:f::9" };
        let frame = udp_frame(from, to.parse()?);
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
        let program = |name: &str| -> Result<ProgramFd> {
            Ok(SchedClassifier::from_pin(folder.join(name))?.fd()?.try_clone()?)
        };
        let arrival = if case.verdict() == REDIRECT { Some(program("arrival")?) } else { None };
        prove_next_hops(&folder)?;
        let mut vary = Vary::load(1)?;
        vary.set_secret(secret(&folder)?)?;
        Self::new(seed, case, vary, &rules.sources, program("departure")?, arrival)
    }

    /// Returns a program that does no more than it must.
    fn minimal(addresses: Addresses, rules: &Rules) -> Result<Self> {
        let seed = Seed::new()?;
        let mut vary = Vary::load(rules.specs.len() as u32)?;
        let sources = rules.sources.iter().copied();
        minimal::know(&mut vary.object, seed.server.ifindex("eth1")?, addresses.router, sources)?;
        let minimal = vary.program("minimal")?.fd()?.try_clone()?;
        Self::new(seed, rules.case, vary, &rules.sources, minimal, None)
    }

    /// Measures the nanoseconds for a packet, without those to vary packets.
    fn measure(&self, repeat: u32) -> Result<f64> {
        let mut vary = self.vary.borrow_mut();
        let empty = vary.program("empty")?.fd()?.try_clone()?;
        let (without, _) = self.run(&mut vary, [&empty, &empty], false, repeat)?;
        let arrival = self.arrival.as_ref();
        let programs = [&self.departure, arrival.unwrap_or(&empty)];
        let (with, verdict) = self.run(&mut vary, programs, arrival.is_some(), repeat)?;
        if arrival.is_some() {
            // Every second run is an arrival, and the last one is: they come in pairs.
            ensure!(verdict == UNSPEC, "{:?}: the arrival says {verdict}", self.case);
            return Ok(2.0 * (with - without));
        }
        ensure!(verdict == self.case.verdict(), "{:?}: the program says {verdict}", self.case);
        Ok(with - without)
    }

    fn run(
        &self,
        vary: &mut Vary,
        programs: [&ProgramFd; 2],
        has_arrivals: bool,
        repeat: u32,
    ) -> Result<(f64, u32)> {
        vary.go_over_to(programs)?;
        vary.set_turn(u32::from(has_arrivals))?;
        let options = TestRunOptions {
            data_in: Some(&self.frame),
            ctx_in: Some(&self.context),
            repeat,
            ..TestRunOptions::default()
        };
        let vary = vary.program("vary")?;
        // The kernel looks for the device in the network namespace of the caller. If the runs moved to another processor
        // between a departure and its arrival, the next departure on the first processor would be a probe.
        let ran = self.seed.server.run(|| -> Result<_> {
            stay_on_processor(0)?;
            Ok(vary.test_run(options)?)
        })?;
        Ok((ran.duration.as_nanos() as f64, ran.return_value))
    }
}

fn measured(effort: Effort, contestants: &[Contestant]) -> Result<Vec<[Figures; 1]>> {
    let repeat = effort.choose(REPEAT, REPEAT / 10);
    in_turn(effort.rounds, contestants, |contestant| Ok([contestant.measure(repeat)?]))
}

/// Returns the folder of Byway's pins. Each contestant has a BPF file system of its own.
fn folder() -> Result<PathBuf> {
    Ok(fs::read_dir("/sys/fs/bpf/byway")?.next().context("nothing is pinned")??.path())
}

/// Reads the secret of these pins, which marks contain.
fn secret(folder: &Path) -> Result<u64> {
    let map: Array<MapData, u64> =
        Map::from_map_data(MapData::from_pin(folder.join("SECRET"))?)?.try_into()?;
    Ok(map.get(&0, 0)?)
}

/// Marks the next hops as proven alive for good, so that no packet is a probe: the kernel runs the program on one packet,
/// whose departures and arrivals must take turns. Under traffic, about one packet in a tenth of a second is a probe.
fn prove_next_hops(folder: &Path) -> Result<()> {
    let map = Map::from_map_data(MapData::from_pin(folder.join("NEXT_HOP_COUNTERS"))?)?;
    let mut counters: PerCpuArray<MapData, NextHopCounters> = map.try_into()?;
    // Slots are given out in order, and there are at most two next hops.
    for slot in 1..=2 {
        let proven = NextHopCounters { proven: i64::MAX as u64, ..NextHopCounters::default() };
        let of_each = vec![proven; nr_cpus().map_err(|(_, error)| error)?];
        counters.set(slot, PerCpuValues::try_from(of_each)?, 0)?;
    }
    Ok(())
}

/// Hosts inside others end before those.
fn end(contestants: impl IntoIterator<Item = Contestant>) {
    let mut contestants: Vec<Contestant> = contestants.into_iter().collect();
    while contestants.pop().is_some() {}
}

/// The programs that measure, and their maps.
struct Vary {
    object: Ebpf,
}

impl Vary {
    /// Loads them with room for this many sources of `minimal`.
    fn load(entries: u32) -> Result<Self> {
        Ok(Self { object: minimal::load(entries, &["vary", "empty", "minimal"])? })
    }

    fn program(&self, name: &str) -> Result<&SchedClassifier> {
        Ok(self.object.program(name).context("the object lacks a program")?.try_into()?)
    }

    fn go_over_to(&mut self, programs: [&ProgramFd; 2]) -> Result<()> {
        let map = self.object.map_mut("MEASURED").context("the object lacks a map")?;
        let mut measured: ProgramArray<&mut MapData> = map.try_into()?;
        for (nth, program) in programs.into_iter().enumerate() {
            measured.set(nth as u32, program, 0)?;
        }
        Ok(())
    }

    fn set_turn(&mut self, turn: u32) -> Result<()> {
        let map = self.object.map_mut("PLAN").context("the object lacks a map")?;
        let mut plan: Array<&mut MapData, [u32; 7]> = map.try_into()?;
        let mut now = plan.get(&0, 0)?;
        now[2] = turn;
        plan.set(0, now, 0)?;
        Ok(())
    }

    fn set_sources(&mut self, sources: &[IpAddr]) -> Result<()> {
        let count = sources.len().next_power_of_two();
        let map = self.object.map_mut("SOURCES").context("the object lacks a map")?;
        let mut all: Array<&mut MapData, [u32; 4]> = map.try_into()?;
        for nth in 0..count {
            all.set(nth as u32, minimal::words(sources[nth % sources.len()]), 0)?;
        }
        let map = self.object.map_mut("PLAN").context("the object lacks a map")?;
        let mut plan: Array<&mut MapData, [u32; 7]> = map.try_into()?;
        let mut now = plan.get(&0, 0)?;
        now[..5].copy_from_slice(&[0, count as u32 - 1, 0, 0, 0]);
        plan.set(0, now, 0)?;
        Ok(())
    }

    /// Gives it the secret of these pins.
    fn set_secret(&mut self, secret: u64) -> Result<()> {
        let map = self.object.map_mut("PLAN").context("the object lacks a map")?;
        let mut plan: Array<&mut MapData, [u32; 7]> = map.try_into()?;
        let mut now = plan.get(&0, 0)?;
        now[5..].copy_from_slice(&[secret as u32, (secret >> 32) as u32]);
        plan.set(0, now, 0)?;
        Ok(())
    }
}

/// Shuffles a list, so that no cache can predict the order. The order is the same each time.
fn shuffle<T>(list: &mut [T]) {
    let mut state: u64 = 1;
    for last in (1..list.len()).rev() {
        // A linear congruential generator (Knuth's MMIX).
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        list.swap(last, (state >> 33) as usize % (last + 1));
    }
}

/// The smallest UDP frame. Programs read it, and nobody sends it.
fn udp_frame(source: IpAddr, destination: IpAddr) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            frame.extend([0x08, 0x00, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            frame.extend([0x86, 0xDD, 0x60, 0, 0, 0, 0, 8, 17, 64]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        _ => {}
    }
    frame.extend([0; 8]);
    frame
}
