//! Compares this revision with another one: builds both, and measures them in turn, round after round.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::{
    Effort,
    figures::{Chart, ratio, readable},
    results::Results,
};
use crate::{run, workspace::Workspace};

/// Measures these parts of both revisions, and prints the figures side by side.
pub(super) fn with(revision: &str, parts: &[&str], effort: Effort) -> Result<()> {
    let workspace = Workspace::find()?;
    let folder = workspace.target.join("bench");
    let clone = clone(&workspace, revision, &folder)?;
    let theirs = build(&workspace, &clone, &clone.join("target"))?;
    // Do not use the running program, which may be no release build. Copy the built one, so that another build meanwhile
    // does not change it.
    let ours = folder.join("here");
    let built = build(&workspace, &workspace.root, &workspace.target)?;
    fs::copy(&built, &ours).with_context(|| format!("copying {} to {}", built.display(), ours.display()))?;
    for part in parts {
        if !has(&theirs, part)? {
            println!("\n{part}: {revision} does not have it");
            continue;
        }
        let mut all = [Vec::new(), Vec::new()];
        for round in 0..effort.rounds {
            eprintln!("{part}: round {} of {}", round + 1, effort.rounds);
            // Let the two take turns at beginning a round.
            for turn in 0..all.len() {
                let nth = (round + turn) % all.len();
                let program = if nth == 0 { &theirs } else { &ours };
                all[nth].push(measure(program, part, effort, &folder)?);
            }
        }
        let [theirs, ours] = all.map(joined);
        for ours in &ours {
            match theirs.iter().find(|theirs| theirs.name == ours.name) {
                Some(theirs) => print(revision, theirs, ours),
                None => println!("\n{}: {revision} does not have it", ours.name),
            }
        }
    }
    Ok(())
}

/// Checks out a revision in a clone of its own, and returns the clone's folder.
fn clone(workspace: &Workspace, revision: &str, folder: &Path) -> Result<PathBuf> {
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
    }
    // Check out even if the clone exists, because it may be incomplete or changed. With its folders named, git does not go on
    // to the repository around it, which is this one.
    let mut checkout = Command::new("git");
    checkout.current_dir(&clone).args(["--git-dir", ".git", "--work-tree", "."]);
    checkout.args(["checkout", "--quiet", "--force", commit.trim()]);
    run::output(&mut checkout, &format!("Remove {} and try again.", clone.display()))?;
    Ok(clone)
}

/// Builds the benchmark in a folder, and returns the path of the program.
fn build(workspace: &Workspace, folder: &Path, target: &Path) -> Result<PathBuf> {
    let mut cargo = workspace.cargo();
    cargo.current_dir(folder).args(["build", "--quiet", "--release", "--locked", "--package", "xtask"]);
    eprintln!("building {}", folder.display());
    run::visibly(cargo.env("CARGO_TARGET_DIR", target), "")?;
    Ok(target.join("release/xtask"))
}

/// Whether a revision knows this part.
fn has(program: &Path, part: &str) -> Result<bool> {
    let mut help = Command::new(program);
    let output = help.args(["bench", part, "--help"]).output();
    Ok(output.with_context(|| run::cannot_start(&help, ""))?.status.success())
}

/// Measures one round of one part with the program of a revision.
fn measure(program: &Path, part: &str, effort: Effort, folder: &Path) -> Result<Vec<Chart>> {
    // Begin with an empty folder, because this version may not be able to read the results of another one.
    let folder = tempfile::tempdir_in(folder).context("making a folder for a round's results")?;
    let mut command = Command::new(program);
    command.args(["bench", part, "--rounds", "1", "--out"]).arg(folder.path());
    if effort.quick {
        command.arg("--quick");
    }
    run::output(&mut command, "")?;
    let mut results = Results::read(folder.path())?;
    results.take(part).with_context(|| format!("{} has measured no {part}", program.display()))
}

/// Combines the rounds of one revision.
fn joined(rounds: Vec<Vec<Chart>>) -> Vec<Chart> {
    let mut rounds = rounds.into_iter();
    let mut all = rounds.next().unwrap_or_default();
    for round in rounds {
        for (chart, other) in all.iter_mut().zip(round) {
            for note in other.notes {
                if !chart.notes.contains(&note) {
                    chart.notes.push(note);
                }
            }
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
    println!("\n{}, {}", ours.title, ours.unit);
    println!("{:38}{:>12}{revision:>14.13}{:>12}{:>8}", "", ours.along(), "here", "ratio");
    for series in &ours.series {
        let before = theirs.series.iter().find(|other| other.label() == series.label());
        for point in &series.points {
            let at = point.at.map(|at| readable(at.into())).unwrap_or_default();
            let before = before.and_then(|series| series.points.iter().find(|other| other.at == point.at));
            let before = before.map_or(f64::NAN, |point| point.figures.median());
            let now = point.figures.median();
            println!(
                "{:38}{at:>12}{:>14}{:>12}{:>8}",
                series.label(),
                readable(before),
                readable(now),
                ratio(now, before)
            );
        }
    }
    for (whose, chart) in [(revision, theirs), ("here", ours)] {
        for note in &chart.notes {
            println!("! {whose}: {note}");
        }
    }
}
