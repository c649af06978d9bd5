//! Measures how long changes of many rules take: the whole call, from opening Byway to its answer. What others notice of the
//! largest changes is in [`swap`].

mod configuration;
mod swap;
mod timers;
mod traffic;

use std::{
    fs,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use aya::maps::MapData;
use byway::{Byway, Mss, NextHopSpec, RuleSpec};
use byway_lab::seed::{IPV4, Seed};

use super::{
    Effort,
    figures::{Chart, Point, Shape, in_turn, line},
    vary::address,
};

/// The numbers of rules to measure with.
const RULES: [u32; 5] = [1, 1_000, 10_000, 100_000, 1_000_000];

/// The calls to measure.
const CALLS: [&str; 5] = ["add one rule", "delete it", "list all", "replace all", "delete all"];

/// Measures everything of this part.
pub(super) fn measure(effort: Effort) -> Result<Vec<Chart>> {
    // First do what may not be allowed here.
    let swap = swap::measure(effort)?;
    Ok([over_rules(effort)?, configuration::measure(effort)?, swap].concat())
}

/// Measures how long calls take, and how much memory rules need.
fn over_rules(effort: Effort) -> Result<Vec<Chart>> {
    let sizes = &RULES[..effort.choose(RULES.len(), RULES.len() - 1)];
    let names = std::iter::once("add all").chain(CALLS);
    let mut lines: Vec<_> = names.map(line).collect();
    let mut memory = line("kernel memory");
    for size in sizes {
        let seed = Seed::new()?;
        let specs: Vec<RuleSpec> = (0..*size).map(|nth| spec(nth, 0)).collect();
        let others: Vec<RuleSpec> = (0..*size).map(|nth| spec(nth, 1)).collect();
        let one = spec(RULES[RULES.len() - 1], 0);
        let figures = in_turn(effort.rounds.min(3), &[()], |()| {
            let all = timed(&seed, |byway| byway.add_all(&specs).map(drop))?;
            let bytes = kernel_memory(Path::new("/sys/fs/bpf/byway"))?;
            let calls = [
                timed(&seed, |byway| byway.add(&one).map(drop))?,
                timed(&seed, |byway| byway.del(&one.selector).map(drop))?,
                timed(&seed, |byway| byway.rules().map(drop))?,
                timed(&seed, |byway| byway.replace_all(&others).map(drop))?,
                timed(&seed, |byway| byway.flush().map(drop))?,
            ];
            timed(&seed, |byway| byway.detach_all().map(drop))?;
            let [add, del, list, replace, flush] = calls.map(|call| call.as_secs_f64() * 1e3);
            Ok([all.as_secs_f64() * 1e3, add, del, list, replace, flush, bytes / 1e6])
        })?;
        let [all, add, del, list, replace, flush, bytes] =
            figures.into_iter().next().context("there is one contestant")?;
        for (line, figures) in lines.iter_mut().zip([all, add, del, list, replace, flush]) {
            line.points.push(Point { at: Some(*size), figures });
        }
        memory.points.push(Point { at: Some(*size), figures: bytes });
    }
    Ok(vec![
        Chart {
            name: "control".into(),
            title: "Changes and listings, the whole call".into(),
            unit: "ms".into(),
            shape: Shape::Lines { along: "rules".into(), logarithmic: true },
            series: lines,
            notes: Vec::new(),
        },
        Chart {
            name: "memory".into(),
            title: "The kernel's memory for all maps and programs of a network namespace".into(),
            unit: "MB".into(),
            shape: Shape::Lines { along: "rules".into(), logarithmic: true },
            series: vec![memory],
            notes: Vec::new(),
        },
    ])
}

/// Returns a rule for one address. With `other`, it is a different one for the same address.
fn spec(nth: u32, other: u32) -> RuleSpec {
    rule(nth, IPV4.router, "eth1", if other == 0 { Mss::Auto } else { Mss::Off })
}

fn rule(nth: u32, gateway: IpAddr, device: &str, mss: Mss) -> RuleSpec {
    RuleSpec::new(
        byway::Selector::new(address(true, nth).into(), None),
        NextHopSpec::via(gateway).dev(device),
    )
    .mss(mss)
}

fn timed(seed: &Seed, call: impl FnOnce(&mut Byway) -> byway::Result<()> + Send) -> Result<Duration> {
    Ok(seed.server.run(|| {
        let start = Instant::now();
        call(&mut Byway::open()?)?;
        byway::Result::Ok(start.elapsed())
    })?)
}

/// Returns the bytes of all pinned maps and programs, as the kernel counts them (`memlock` in proc_pid_fdinfo(5); exact from
/// Linux 6.4 on).
fn kernel_memory(folder: &Path) -> Result<f64> {
    let mut sum = 0.0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sum += kernel_memory(&entry.path())?;
            continue;
        }
        let map = MapData::from_pin(entry.path())?;
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd()))?;
        let memlock = info.lines().find_map(|line| line.strip_prefix("memlock:"));
        // Pinned links have no such line.
        sum += memlock.map_or(Ok(0.0), |bytes| bytes.trim().parse::<f64>())?;
    }
    Ok(sum)
}
