//! Measures what configurations of many rules need from the file to the kernel: time, and memory of the process.

use std::{fmt::Write as _, fs, path::Path, time::Instant};

use anyhow::{Context, Result, ensure};
use byway::{Byway, Owner, config::Config};
use byway_lab::seed::Seed;

use super::{
    super::{
        Effort,
        figures::{Chart, Point, Shape, in_turn, line},
        vary::address,
    },
    RULES,
};

/// What to measure.
const STEPS: [&str; 6] = [
    "check a list",
    "check an array",
    "diff from nothing",
    "apply from nothing",
    "diff one rule",
    "apply one rule",
];

pub(super) fn measure(effort: Effort) -> Result<Vec<Chart>> {
    let sizes = &RULES[..effort.choose(RULES.len(), RULES.len() - 1)];
    let (mut times, mut peaks): (Vec<_>, Vec<_>) = (STEPS.map(line).into(), STEPS.map(line).into());
    for size in sizes {
        let folder = tempfile::tempdir().context("making a folder for the configurations")?;
        let [list, array, one] = write(folder.path(), *size)?;
        let seed = Seed::new()?;
        let figures = in_turn(effort.rounds.min(3), &[()], |()| {
            let steps = [
                step(&seed, |_| read(&list).map(drop))?,
                step(&seed, |_| read(&array).map(drop))?,
                step(&seed, |byway| differs(byway, &list))?,
                step(&seed, |byway| Ok(byway.apply(Owner::CONFIG, &read(&list)?).map(drop)?))?,
                step(&seed, |byway| differs(byway, &one))?,
                step(&seed, |byway| Ok(byway.apply(Owner::CONFIG, &read(&one)?).map(drop)?))?,
            ];
            step(&seed, |byway| {
                byway.apply(Owner::CONFIG, &Config::default())?;
                Ok(byway.detach_all().map(drop)?)
            })?;
            let [a, b, c, d, e, f] = steps;
            Ok([a.0, b.0, c.0, d.0, e.0, f.0, a.1, b.1, c.1, d.1, e.1, f.1])
        })?;
        let figures = figures.into_iter().next().context("there is one contestant")?;
        for (line, figures) in times.iter_mut().chain(&mut peaks).zip(figures) {
            line.points.push(Point { at: Some(*size), figures });
        }
    }
    let chart = |name: &str, title: &str, unit: &str, series| Chart {
        name: name.into(),
        title: title.into(),
        unit: unit.into(),
        shape: Shape::Lines { along: "rules".into(), logarithmic: true },
        series,
        notes: Vec::new(),
    };
    Ok(vec![
        chart("configuration", "Configurations, from the file on", "ms", times),
        chart("configuration-memory", "The most memory that the process has meanwhile", "MB", peaks),
    ])
}

/// Writes three configurations: all rules from a list, all from an array, and the latter with one rule changed.
fn write(folder: &Path, size: u32) -> Result<[std::path::PathBuf; 3]> {
    let (mut list, mut array, mut other) = (String::new(), String::new(), String::new());
    for nth in 0..size {
        let source = address(true, nth);
        writeln!(list, "{source}")?;
        writeln!(array, "    \"{source}\",")?;
        if nth != size / 2 {
            writeln!(other, "    \"{source}\",")?;
        }
    }
    let next_hop = "via = \"10.111.221.21\"\ndev = \"eth1\"\n";
    let changed = address(true, size / 2);
    let texts = [
        ("list.toml", format!("[[rule]]\nfrom-file = \"list.txt\"\n{next_hop}")),
        ("array.toml", format!("[[rule]]\nfrom = [\n{array}]\n{next_hop}")),
        (
            "one.toml",
            format!(
                "[[rule]]\nfrom = [\n{other}]\n{next_hop}[[rule]]\nfrom = \"{changed}\"\ntarget = \"drop\"\n"
            ),
        ),
    ];
    fs::write(folder.join("list.txt"), list).context("writing the list")?;
    for (name, text) in &texts {
        fs::write(folder.join(name), text).context("writing a configuration")?;
    }
    Ok(texts.map(|(name, _)| folder.join(name)))
}

fn read(path: &Path) -> Result<Config> {
    byway::read_config(path)?.config.context("the configuration is wrong")
}

fn differs(byway: &mut Byway, path: &Path) -> Result<()> {
    ensure!(byway.diff(Owner::CONFIG, &read(path)?)?.rules().count() > 0, "nothing differs");
    Ok(())
}

/// Measures milliseconds, and the peak memory of the process meanwhile in megabytes.
fn step(seed: &Seed, work: impl FnOnce(&mut Byway) -> Result<()> + Send) -> Result<(f64, f64)> {
    seed.server.run(|| {
        // Reset the peak (`clear_refs`, proc(5)).
        fs::write("/proc/self/clear_refs", "5").context("resetting the peak of this process's memory")?;
        let start = Instant::now();
        work(&mut Byway::open()?)?;
        let took = start.elapsed().as_secs_f64() * 1e3;
        let status = fs::read_to_string("/proc/self/status").context("reading this process's memory")?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = peak.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok());
        Ok((took, kilobytes.context("the kernel does not say how much memory this process has had")? / 1e3))
    })
}
