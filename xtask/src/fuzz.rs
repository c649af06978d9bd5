//! `cargo xtask fuzz`: gives texts that nobody would write to the reader of configurations and to the grammar.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};
use clap::Args;

use crate::{run, workspace::Workspace};

/// Shows libFuzzer which branches a text takes, and what it is compared with (LLVM's SanitizerCoverage). No sanitizer is
/// needed: the fuzzed code has no unsafe code.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing";

const TARGETS: [&str; 2] = ["config", "grammar"];

/// Look for texts that make the configuration's reader or the grammar fail
///
/// What it finds is in target/fuzz/found, and comes to fuzz/corpus when it is mended. It takes g++.
#[derive(Args)]
pub(crate) struct Fuzz {
    /// What to fuzz: config, grammar; both, where none is named
    pub(crate) targets: Vec<String>,
    /// For how long each, in seconds
    #[arg(long, default_value_t = 60)]
    pub(crate) seconds: u32,
}

impl Fuzz {
    pub(crate) fn exec(self) -> Result<()> {
        let workspace = Workspace::find()?;
        let folder = workspace.root.join("fuzz");
        let results = workspace.target.join("fuzz");
        let host = host()?;
        let mut cargo = workspace.cargo();
        cargo.current_dir(&folder).args(["build", "--release", "--locked", "--target", &host]);
        cargo.env("RUSTFLAGS", COVERAGE).env("CARGO_TARGET_DIR", &results);
        run::visibly(&mut cargo, "It takes a C++ compiler: apt-get install g++")?;

        let named = self.targets.iter().map(String::as_str);
        let targets: Vec<&str> = if self.targets.is_empty() { TARGETS.into() } else { named.collect() };
        for target in targets {
            let binary = results.join(&host).join("release").join(target);
            self.run(target, &binary, &folder, &results)?;
        }
        Ok(())
    }

    fn run(&self, target: &str, binary: &Path, folder: &Path, results: &Path) -> Result<()> {
        // The first folder gets new texts. The second one is the corpus.
        let (new, found) = (results.join("corpus").join(target), results.join("found/"));
        for folder in [&new, &found] {
            fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        }
        println!("fuzzing {target} for {} s", self.seconds);
        let mut fuzzer = Command::new(binary);
        fuzzer.arg(&new).arg(folder.join("corpus").join(target));
        fuzzer.arg(format!("-max_total_time={}", self.seconds));
        fuzzer.arg(format!("-artifact_prefix={}", found.display()));
        fuzzer.args(["-max_len=4096", "-timeout=10", "-print_final_stats=1", "-verbosity=0"]);
        run::visibly(&mut fuzzer, &format!("The text that it failed with is in {}.", found.display()))
    }
}

/// The platform to build for. If it is named, the flags do not apply to build scripts.
fn host() -> Result<String> {
    let version = run::output(Command::new("rustc").arg("-vV"), "Install Rust with rustup.")?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not say which host it is for")?.to_owned())
}
