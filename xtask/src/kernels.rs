//! `cargo xtask kernels`: runs the workspace's tests on other kernels than the one that is running.

mod machine;
mod packages;
mod suite;

use std::{
    env,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{run, workspace::Workspace};
use machine::{Job, quoted};
use suite::{Report, TestBinary};

/// A kernel that hangs must not hold up the others for long. On an emulated machine of two cores the tests of both hooks take
/// most of this.
const TIME_LIMIT: Duration = Duration::from_secs(30 * 60);

/// Run the tests on other kernels, in virtual machines
///
/// Debian's kernels are fetched as packages and booted under qemu with this host's files, read-only, as their
/// file system. What the tests write is gone with the machine.
#[derive(Args)]
pub(crate) struct Kernels {
    /// Kernels to test on: 5.10, 6.1, 6.12 and so on, or `newest`
    #[arg(default_values = ["6.1", "6.12"])]
    versions: Vec<String>,

    /// Run this instead of the tests; its exit status becomes that of this command
    #[arg(last = true)]
    command: Vec<String>,
}

impl Kernels {
    pub(crate) fn exec(self) -> Result<ExitCode> {
        let workspace = Workspace::find()?;
        machine::install_tools()?;
        let cache = workspace.target.join("kernels");
        let fetched = self.versions.iter().map(|version| {
            packages::fetch(version, &cache).with_context(|| format!("finding a kernel {version}"))
        });
        let kernels = fetched.collect::<Result<Vec<_>>>()?;

        if !self.command.is_empty() {
            return run_command(&workspace, &kernels, &self.command);
        }
        let (binaries, byway) = suite::build(&workspace)?;
        let mut failed = vec![];
        for kernel in &kernels {
            if !run_tests(&workspace, kernel, &binaries, &byway)? {
                failed.push(kernel.release.as_str());
            }
        }
        if !failed.is_empty() {
            bail!("tests failed on {}", failed.join(", "));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Runs a command on each kernel, in the folder where this one was started.
fn run_command(workspace: &Workspace, kernels: &[packages::Kernel], command: &[String]) -> Result<ExitCode> {
    let folder = env::current_dir().context("finding the current folder")?;
    let words: Vec<String> = command.iter().map(|word| quoted(word)).collect();
    let script = format!("cd {}\n{}\n", quoted(&folder.to_string_lossy()), words.join(" "));
    let shared = [workspace.root.as_path(), &workspace.target, &folder];

    let mut worst = 0;
    for kernel in kernels {
        let job = Job { kernel, script: &script, shared: &shared, limit: TIME_LIMIT };
        worst = worst.max(job.run(|line| println!("{line}"))?);
    }
    Ok(ExitCode::from(worst))
}

/// Runs all tests on one kernel, prints the line about it, and says whether all is well.
fn run_tests(
    workspace: &Workspace,
    kernel: &packages::Kernel,
    binaries: &[TestBinary],
    byway: &Path,
) -> Result<bool> {
    let start = Instant::now();
    let script = suite::script(binaries, byway);
    let shared = [workspace.root.as_path(), &workspace.target];
    let mut report = Report::new(binaries);
    let job = Job { kernel, script: &script, shared: &shared, limit: TIME_LIMIT };
    let ran = job.run(|line| report.read(line));

    report.finish();
    for failure in &report.failures {
        println!("{failure}");
    }
    println!(
        "kernel {}: {} tests run, {} passed, {} failed ({} s)",
        kernel.release,
        report.passed + report.failed,
        report.passed,
        report.failed,
        start.elapsed().as_secs()
    );
    println!("  slowest, in seconds: {}", report.slowest());
    match ran {
        Ok(0) => Ok(report.failures.is_empty()),
        Ok(status) => bail!("the machine's script ended with status {status}"),
        // The other kernels still get their turn.
        Err(error) => {
            println!("kernel {}: {error:#}", kernel.release);
            Ok(false)
        }
    }
}

/// Installs the packages whose program is not there.
fn install_missing(wanted: &[(&str, &str)]) -> Result<()> {
    let missing = wanted.iter().filter(|(program, _)| run::find(program).is_none());
    let packages: Vec<&str> = missing.map(|(_, package)| *package).collect();
    if packages.is_empty() { Ok(()) } else { run::install(&packages) }
}
