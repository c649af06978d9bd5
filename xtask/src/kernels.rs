//! `cargo xtask kernels`: runs the workspace's tests on other kernels than the one that is running.

pub(crate) mod machine;
pub(crate) mod packages;

use std::{
    env,
    path::PathBuf,
    process::ExitCode,
    str::FromStr,
    sync::{Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::{Args, value_parser};

use crate::{
    suite::{Counts, Layer, Reader, Report, Run, Suite, deal, quoted, script},
    workspace::Workspace,
};
use machine::Job;

/// Run the tests on other kernels, in virtual machines
///
/// Debian's kernels are fetched as packages and booted under qemu with this host's files, read-only, as their
/// file system. What the tests write is gone with the machine. A kernel's tests are dealt out to as many machines, side by
/// side, as there are processors.
#[derive(Args)]
pub(crate) struct Kernels {
    /// Kernels to test on: 5.10, 6.1, 6.12 and so on, or `newest`; `6.12:tcx` tests that hook alone
    #[arg(default_values = ["5.10", "6.12:tcx"])]
    kernels: Vec<Wanted>,

    /// Which tests
    #[arg(long = "layer", value_enum, default_values_t = [Layer::Contract])]
    layers: Vec<Layer>,

    /// How long each machine may take, in minutes: one that hangs is seen then
    #[arg(long, default_value_t = 12, value_parser = value_parser!(u64).range(1..))]
    minutes: u64,

    /// Run this instead of the tests; its exit status becomes that of this command
    #[arg(last = true)]
    command: Vec<String>,
}

/// A kernel to test on, and the only hook to test there, if it is not each that there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    version: String,
    hook: Option<String>,
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (version, hook) = match text.split_once(':') {
            Some((version, hook)) => (version, Some(hook)),
            None => (text, None),
        };
        if hook.is_some_and(|hook| !["tcx", "clsact"].contains(&hook)) {
            return Err("a hook is tcx or clsact".to_owned());
        }
        Ok(Wanted { version: version.to_owned(), hook: hook.map(str::to_owned) })
    }
}

/// A kernel that is there.
pub(crate) struct Found {
    pub(crate) wanted: Wanted,
    pub(crate) kernel: packages::Kernel,
}

impl Found {
    /// What `uname -r` says in it.
    pub(crate) fn release(&self) -> &str {
        &self.kernel.release
    }
}

impl Kernels {
    pub(crate) fn exec(self) -> Result<ExitCode> {
        let workspace = Workspace::find()?;
        let kernels = find(&self.kernels)?;
        let limit = Duration::from_secs(self.minutes * 60);
        if !self.command.is_empty() {
            return run_command(&workspace, &kernels, &self.command, limit);
        }
        let suite = Suite::build(&workspace)?;
        let runs = suite.runs(&self.layers);
        let mut failed = vec![];
        run_tests(&workspace, &suite, &runs, kernels.iter().collect(), limit, |kernel, tested| {
            tested.print();
            if !tested.is_good() {
                failed.push(kernel.release().to_owned());
            }
            Ok(())
        })?;
        if !failed.is_empty() {
            bail!("tests failed on {}", failed.join(", "));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Finds the kernels, and what it takes to run them.
pub(crate) fn find(wanted: &[Wanted]) -> Result<Vec<Found>> {
    machine::install_tools()?;
    let cache = cache("kernels")?;
    let find = |wanted: &Wanted| {
        let kernel = packages::fetch(&wanted.version, &cache);
        let kernel = kernel.with_context(|| format!("finding a kernel {}", wanted.version))?;
        Ok(Found { wanted: wanted.clone(), kernel })
    };
    wanted.iter().map(find).collect()
}

/// Where kernels and other things are kept: beside what else programs keep for this user, so that each clone finds them.
pub(crate) fn cache(kind: &str) -> Result<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    Ok(folder.context("neither XDG_CACHE_HOME nor HOME says where to keep things")?.join("byway").join(kind))
}

/// Runs a command on each kernel, in the folder where this one was started.
fn run_command(
    workspace: &Workspace,
    kernels: &[Found],
    command: &[String],
    limit: Duration,
) -> Result<ExitCode> {
    let folder = env::current_dir().context("finding the current folder")?;
    let words: Vec<String> = command.iter().map(|word| quoted(word)).collect();
    let script = format!("cd {}\n{}\n", quoted(&folder.to_string_lossy()), words.join(" "));
    let shared = [workspace.root.as_path(), &workspace.target, &folder];

    let mut worst = 0;
    for found in kernels {
        let job = Job { kernel: &found.kernel, script: &script, shared: &shared, limit };
        worst = worst.max(job.run(|line| println!("{line}"))?);
    }
    Ok(ExitCode::from(worst))
}

/// What the tests on one kernel came to.
pub(crate) struct Tested {
    release: String,
    pub(crate) report: Report,
    /// From the start of the first machine to the end of the last one.
    took: Duration,
    /// What went wrong with the machines themselves.
    broken: Vec<String>,
}

impl Tested {
    fn nothing(found: &Found) -> Tested {
        let release = found.release().to_owned();
        Tested { release, report: Report::default(), took: Duration::ZERO, broken: vec![] }
    }

    pub(crate) fn is_good(&self) -> bool {
        self.broken.is_empty() && self.report.failures.is_empty()
    }

    pub(crate) fn counts(&self) -> Counts {
        self.report.sum(self.took)
    }

    /// Prints the line about it, and what belongs to that.
    pub(crate) fn print(&self) {
        for failure in &self.report.failures {
            println!("{failure}");
        }
        println!("kernel {}: {}\n{}", self.release, self.counts(), self.report.details());
        for broken in &self.broken {
            println!("kernel {}: {broken}", self.release);
        }
    }
}

/// Runs the tests on these kernels, one kernel after the other, and hands on what each came to. A processor that has nothing
/// left to do for one kernel begins with the next.
pub(crate) fn run_tests(
    workspace: &Workspace,
    suite: &Suite,
    runs: &[Run],
    kernels: Vec<&Found>,
    limit: Duration,
    mut on_done: impl FnMut(&Found, &Tested) -> Result<()>,
) -> Result<()> {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let hands: Vec<_> = deal(runs, processors).into_iter().filter(|hand| !hand.is_empty()).collect();
    let shares = (0..kernels.len()).flat_map(|number| hands.iter().map(move |hand| (number, hand)));
    let (take, (done, results)) = (Mutex::new(shares), mpsc::channel());
    thread::scope(|scope| {
        for _ in 0..processors {
            let (take, done, kernels) = (&take, done.clone(), &kernels);
            scope.spawn(move || {
                loop {
                    let next = take.lock().ok().and_then(|mut shares| shares.next());
                    let Some((number, hand)) = next else { break };
                    let start = Instant::now();
                    let came_to = run_on(workspace, suite, hand, kernels[number], limit);
                    if done.send((number, start, came_to)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(done);
        let mut sums: Vec<_> =
            kernels.iter().map(|found| (0, Instant::now(), Tested::nothing(found))).collect();
        for (number, start, (report, broken)) in results {
            let (shares, first, sum) = &mut sums[number];
            *first = start.min(*first);
            sum.report.add(report);
            sum.broken.extend(broken);
            *shares += 1;
            if *shares == hands.len() {
                sum.took = first.elapsed();
                on_done(kernels[number], sum)?;
            }
        }
        Ok(())
    })
}

/// Runs one machine's share of the tests. Returns what they came to, and what went wrong with the machine itself.
fn run_on(
    workspace: &Workspace,
    suite: &Suite,
    runs: &[Run],
    found: &Found,
    limit: Duration,
) -> (Report, Option<String>) {
    let script = machine_script(suite, runs, found.wanted.hook.as_deref());
    let shared = [workspace.root.as_path(), &workspace.target];
    let mut reader = Reader::new(runs);
    let job = Job { kernel: &found.kernel, script: &script, shared: &shared, limit };
    let broken = match job.run(|line| reader.read(line)) {
        Ok(0) => None,
        Ok(status) => Some(format!("the machine's script ended with status {status}")),
        Err(error) => Some(format!("{error:#}")),
    };
    (reader.finish(), broken)
}

/// The shell script that runs them all. The machine has every module that they want, so a kind of device that is missing
/// is a failure; and it is slow, so that what the tests do a thousand times is done less often there.
///
/// Tests wait for packets and for the clock much of the time, so two run side by side on the machine's one processor.
fn machine_script(suite: &Suite, runs: &[Run], hook: Option<&str>) -> String {
    let hook = hook.map(|hook| format!("export BYWAY_HOOK={hook}\n")).unwrap_or_default();
    let byway = quoted(&suite.byway.to_string_lossy());
    format!(
        "export RUST_TEST_THREADS=2 RUST_BACKTRACE=0 BYWAY_ALL_DEVICES=1 BYWAY_EMULATED=1\n{hook}\
         {byway} --version >/dev/null || exit 1\n{}",
        script(runs)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_may_name_its_only_hook() {
        let wanted = |version: &str, hook: Option<&str>| {
            Ok(Wanted { version: version.to_owned(), hook: hook.map(str::to_owned) })
        };
        assert_eq!("5.10".parse(), wanted("5.10", None));
        assert_eq!("6.12:tcx".parse(), wanted("6.12", Some("tcx")));
        assert!("6.12:xdp".parse::<Wanted>().is_err());
    }
}
