//! This revision beside another one: both built, and measured in turn, round after round.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::{
    Effort,
    figures::{Chart, readable},
    results::Results,
};
use crate::{run, workspace::Workspace};

/// Measures these parts of both revisions, and prints the figures beside each other.
pub(super) fn with(revision: &str, parts: &[&str], effort: Effort) -> Result<()> {
    let workspace = Workspace::find()?;
    let folder = workspace.target.join("bench");
    let theirs = build(&workspace, revision, &folder)?;
    let ours = env::current_exe().context("where is this program?")?;
    for part in parts {
        let mut all = [Vec::new(), Vec::new()];
        for round in 0..effort.rounds {
            // Each round begins with the other one.
            for turn in 0..all.len() {
                let nth = (round + turn) % all.len();
                let program = if nth == 0 { &theirs } else { &ours };
                all[nth].push(measure(program, part, effort, &folder.join("round"))?);
            }
        }
        let [theirs, ours] = all.map(joined);
        for (theirs, ours) in theirs.iter().zip(&ours) {
            print(revision, theirs, ours);
        }
    }
    Ok(())
}

/// Builds a revision's own benchmark in a clone, and says where it is.
fn build(workspace: &Workspace, revision: &str, folder: &Path) -> Result<PathBuf> {
    let git = || {
        let mut git = Command::new("git");
        git.arg("-C").arg(&workspace.root);
        git
    };
    let commit = format!("{revision}^{{commit}}");
    let commit =
        run::output(git().args(["rev-parse", "--verify", &commit]), "Name a revision that git knows.")?;
    let clone = folder.join(commit.trim());
    if !clone.exists() {
        run::output(git().args(["clone", "--quiet", "--shared", "--no-checkout", "."]).arg(&clone), "")?;
        run::output(
            Command::new("git").arg("-C").arg(&clone).args(["checkout", "--quiet", commit.trim()]),
            "",
        )?;
    }
    let mut cargo = workspace.cargo();
    cargo.current_dir(&clone).args(["build", "--release", "--locked", "--package", "xtask"]);
    run::visibly(cargo.env("CARGO_TARGET_DIR", clone.join("target")), "")?;
    Ok(clone.join("target/release/xtask"))
}

/// One round of one part, by the program of a revision.
fn measure(program: &Path, part: &str, effort: Effort, folder: &Path) -> Result<Vec<Chart>> {
    let mut command = Command::new(program);
    command.args(["bench", part, "--rounds", "1", "--out"]).arg(folder);
    if effort.quick {
        command.arg("--quick");
    }
    run::output(&mut command, "")?;
    let mut results = Results::read(folder)?;
    results.take(part).with_context(|| format!("{} has measured no {part}", program.display()))
}

/// The rounds of one revision as one.
fn joined(rounds: Vec<Vec<Chart>>) -> Vec<Chart> {
    let mut rounds = rounds.into_iter();
    let mut all = rounds.next().unwrap_or_default();
    for round in rounds {
        for (chart, other) in all.iter_mut().zip(round) {
            for (series, other) in chart.series.iter_mut().zip(other.series) {
                for (point, other) in series.points.iter_mut().zip(other.points) {
                    point.figures.join(other.figures);
                }
            }
        }
    }
    all
}

fn print(revision: &str, theirs: &Chart, ours: &Chart) {
    println!("\n{}", ours.title);
    println!("{:38}{:>12}{:>14}{:>12}{:>8}", "", ours.unit, revision, "here", "ratio");
    for series in &ours.series {
        let before = theirs.series.iter().find(|other| other.label() == series.label());
        for point in &series.points {
            let at = point.at.map(|at| readable(at.into())).unwrap_or_default();
            let before = before.and_then(|series| series.points.iter().find(|other| other.at == point.at));
            let before = before.map_or(f64::NAN, |point| point.figures.median());
            let now = point.figures.median();
            println!(
                "{:38}{at:>12}{:>14}{:>12}{:>8.2}",
                series.label(),
                readable(before),
                readable(now),
                now / before
            );
        }
    }
}
