//! `cargo xtask nightly`: everything everywhere, one part after the other, and a report that adds up.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::{
    boot::Boot,
    fuzz::Fuzz,
    fuzz_datapath::FuzzDatapath,
    kernels::{self, Wanted},
    run,
    suite::{Counts, Layer, Reader, Run, Suite, script},
    workspace::Workspace,
};

/// All tests here, those that need a kernel on each of these too, long fuzzing, a million random packets, and the package on a
/// Debian that boots
///
/// What is finished is noted below target/nightly, by commit, and passed over when this is started again: a run that was cut
/// off goes on where it was. With changes that are not committed nothing is noted.
#[derive(Args)]
pub(crate) struct Nightly {
    /// Kernels to test on, beside the running one
    #[arg(default_values = ["5.10", "6.1", "6.12", "newest"])]
    kernels: Vec<Wanted>,

    /// How long each kernel may take, in minutes
    #[arg(long, default_value_t = 150)]
    minutes: u64,

    /// How long each of the two readers is fuzzed, in seconds
    #[arg(long, default_value_t = 1_800)]
    seconds: u32,

    /// How many random packets go through the programs
    #[arg(long, default_value_t = 1_000_000)]
    packets: u64,

    /// Begin anew, whatever is finished
    #[arg(long)]
    again: bool,
}

/// What one part of the night came to.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Part {
    is_good: bool,
    all: Counts,
    layers: BTreeMap<Layer, Counts>,
}

/// The parts that are finished, each a file.
struct Finished {
    /// Nothing where there are changes that are not committed.
    folder: Option<PathBuf>,
    parts: Vec<(String, Part)>,
}

impl Nightly {
    pub(crate) fn exec(self) -> Result<ExitCode> {
        let workspace = Workspace::find()?;
        let mut finished = Finished::find(&workspace, self.again)?;

        let found = kernels::find(&self.kernels)?;
        let name = |release: &str| format!("kernel {release}");
        let left: Vec<_> = found.iter().filter(|kernel| !finished.has(&name(kernel.release()))).collect();
        let is_here_left = !finished.has("here");
        if !left.is_empty() || is_here_left {
            let suite = Suite::build(&workspace)?;
            if is_here_left {
                let part = here(&suite.runs(&Layer::ALL), self.minutes)?;
                finished.note("here", part)?;
            }
            // What is pure is the same on every kernel, and took half of each one's time.
            let of_kernel = Layer::ALL.into_iter().filter(|layer| *layer != Layer::Pure).collect::<Vec<_>>();
            let runs = suite.runs(&of_kernel);
            let limit = Duration::from_secs(self.minutes * 60);
            kernels::run_tests(&workspace, &suite, &runs, left, limit, |kernel, tested| {
                tested.print();
                let layers = tested.report.layers.clone();
                let part = Part { is_good: tested.is_good(), all: tested.counts(), layers };
                finished.note(&name(kernel.release()), part)
            })?;
        }
        let fuzzing = |seconds| Fuzz { targets: vec![], seconds }.exec();
        finished.step(&format!("fuzz --seconds {}", self.seconds), || fuzzing(self.seconds))?;
        let packets = self.packets;
        let compare = || FuzzDatapath { packets, seed: None }.exec();
        finished.step(&format!("fuzz-datapath --packets {packets}"), compare)?;
        finished.step("boot", || Boot::default().exec())?;

        finished.print();
        Ok(if finished.parts.iter().all(|(_, part)| part.is_good) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

/// Runs the tests on the running kernel, for so many minutes at most.
fn here(runs: &[Run], minutes: u64) -> Result<Part> {
    let start = Instant::now();
    let mut reader = Reader::new(runs);
    let mut shell = Command::new("timeout");
    shell.args(["--kill-after=10", &format!("{minutes}m"), "sh", "-c"]);
    shell.arg(format!("exec 2>&1\n{}", script(runs))).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = shell.spawn().context("running sh")?;
    let output = child.stdout.take().context("sh has no output")?;
    for line in BufReader::new(output).split(b'\n') {
        reader.read(&String::from_utf8_lossy(&line.context("reading what the tests print")?));
    }
    child.wait().context("waiting for sh")?;
    let report = reader.finish();
    report.failures.iter().for_each(|failure| println!("{failure}"));
    let all = report.sum(start.elapsed());
    println!("here: {all}\n{}", report.details());
    Ok(Part { is_good: report.failures.is_empty(), all, layers: report.layers })
}

impl Finished {
    fn find(workspace: &Workspace, again: bool) -> Result<Finished> {
        let git = |arguments: &[&str]| {
            run::output(
                Command::new("git").args(arguments).current_dir(&workspace.root),
                "Run it in a clone.",
            )
        };
        if !git(&["status", "--porcelain"])?.is_empty() {
            println!("there are changes that are not committed: what is finished is not noted");
            return Ok(Finished { folder: None, parts: vec![] });
        }
        let commit = git(&["rev-parse", "HEAD"])?;
        let folder = workspace.target.join("nightly").join(commit.trim());
        if again && folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
        }
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(Finished { folder: Some(folder), parts: vec![] })
    }

    fn file(folder: &Path, name: &str) -> PathBuf {
        folder.join(format!("{}.json", name.replace(' ', "_")))
    }

    /// Whether a part is finished, which then counts.
    fn has(&mut self, name: &str) -> bool {
        let Some(folder) = &self.folder else { return false };
        let noted = fs::read(Self::file(folder, name)).ok();
        let Some(part) = noted.and_then(|text| serde_json::from_slice(&text).ok()) else { return false };
        println!("{name} is finished");
        self.parts.push((name.to_owned(), part));
        true
    }

    fn note(&mut self, name: &str, part: Part) -> Result<()> {
        if let Some(folder) = &self.folder {
            let file = Self::file(folder, name);
            let text = serde_json::to_vec(&part).context("writing what a part came to")?;
            fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
        }
        self.parts.push((name.to_owned(), part));
        Ok(())
    }

    /// A part that is one thing, and good or not.
    fn step(&mut self, name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        if self.has(name) {
            return Ok(());
        }
        let start = Instant::now();
        let done = work();
        if let Err(error) = &done {
            println!("{name}: {error:#}");
        }
        let all = Counts {
            passed: done.is_ok().into(),
            failed: done.is_err().into(),
            seconds: start.elapsed().as_secs(),
        };
        self.note(name, Part { is_good: done.is_ok(), all, layers: BTreeMap::new() })
    }

    /// Prints each part with its layers, and the sum of all.
    fn print(&self) {
        let mut sum = Counts::default();
        println!();
        for (name, part) in &self.parts {
            println!("{name}: {}{}", part.all, if part.is_good { "" } else { ", and that is not good" });
            part.layers.iter().for_each(|(layer, counts)| println!("  {layer:10}  {counts}"));
            sum.passed += part.all.passed;
            sum.failed += part.all.failed;
            sum.seconds += part.all.seconds;
        }
        println!("all: {sum}");
    }
}
