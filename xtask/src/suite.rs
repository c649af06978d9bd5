//! The workspace's test binaries: building them, running them one after another in a machine, and reading what
//! they print.

use std::{
    cmp::Reverse,
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::machine::quoted;
use crate::workspace::Workspace;

/// Start the lines around the output of the binary of that number.
const BEGIN: &str = "::tests begin ";
const END: &str = "::tests end ";

/// A test binary, and the folder of its package, where cargo would run it.
pub(crate) struct TestBinary {
    name: String,
    folder: PathBuf,
    executable: PathBuf,
}

/// Builds the tests of all crates but this one, which is not about kernels, and the command that they call.
pub(crate) fn build(workspace: &Workspace) -> Result<(Vec<TestBinary>, PathBuf)> {
    let mut cargo = workspace.cargo();
    cargo.args(["test", "--workspace", "--exclude", "xtask", "--locked", "--no-run"]);
    cargo.arg("--message-format=json-render-diagnostics");
    let built = cargo.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("running cargo")?;
    if !built.status.success() {
        bail!("the tests do not build, see above");
    }
    let messages = String::from_utf8_lossy(&built.stdout);
    let binaries: Vec<_> = messages.lines().filter_map(test_binary).collect();
    if binaries.is_empty() {
        bail!("the workspace has no tests");
    }
    let byway =
        messages.lines().find_map(command).context("the tests were built without the command byway")?;
    Ok((binaries, byway))
}

/// Reads one of cargo's messages, which may be about the command.
fn command(message: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    let is_it = message["target"]["name"] == "byway" && message["target"]["kind"][0] == "bin";
    let is_test = message["profile"]["test"] == true;
    Some(message["executable"].as_str().filter(|_| is_it && !is_test)?.into())
}

/// Reads one of cargo's messages, which may be about a test binary.
fn test_binary(message: &str) -> Option<TestBinary> {
    let message: Value = serde_json::from_str(message).ok()?;
    if message["profile"]["test"] != true {
        return None;
    }
    let executable = message["executable"].as_str()?.into();
    let folder = Path::new(message["manifest_path"].as_str()?).parent()?.to_owned();
    let source = Path::new(message["target"]["src_path"].as_str()?);
    let package = folder.file_name()?.to_string_lossy();
    let name = format!("{package}/{}", source.strip_prefix(&folder).unwrap_or(source).display());
    Some(TestBinary { name, folder, executable })
}

/// The shell script that runs them all. The machine has every module that they want, so a kind of device that is missing
/// is a failure; and it is slow, so that what the tests do a thousand times is done less often there.
///
/// Where the first program of all comes to a hook, or the last one goes, the kernel writes over its own code in every
/// packet's path (static keys). qemu's emulation of several processors at times runs the breakpoint that is there in
/// between after it has gone, and the kernel dies of it. So something stays attached for as long as the machine runs, in
/// the one network namespace that no test has to do with.
pub(crate) fn script(binaries: &[TestBinary], byway: &Path) -> String {
    let byway = quoted(&byway.to_string_lossy());
    let mut script = format!(
        "export RUST_TEST_THREADS=2 RUST_BACKTRACE=0 BYWAY_ALL_DEVICES=1 BYWAY_EMULATED=1\n\
         busybox ip link add held type dummy && busybox ip link set held up && {byway} attach dev held || exit 1\n"
    );
    for (number, binary) in binaries.iter().enumerate() {
        let folder = quoted(&binary.folder.to_string_lossy());
        let executable = quoted(&binary.executable.to_string_lossy());
        let _ = writeln!(
            script,
            "echo '{BEGIN}{number}'\n\
             (cd {folder} && CARGO_MANIFEST_DIR={folder} exec {executable})\n\
             printf '\\n{END}%s\\n' $?"
        );
    }
    script
}

/// How many of the binaries are named as the slowest.
const SLOWEST: usize = 8;

/// What the tests printed, and what that comes to.
pub(crate) struct Report<'a> {
    binaries: &'a [TestBinary],
    running: Option<(&'a TestBinary, Instant)>,
    took: Vec<(&'a TestBinary, Duration)>,
    output: Vec<String>,
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    /// One text for each binary that failed.
    pub(crate) failures: Vec<String>,
}

impl<'a> Report<'a> {
    pub(crate) fn new(binaries: &'a [TestBinary]) -> Report<'a> {
        Report {
            binaries,
            running: None,
            took: vec![],
            output: vec![],
            passed: 0,
            failed: 0,
            failures: vec![],
        }
    }

    /// Takes the next line of the script's output.
    pub(crate) fn read(&mut self, line: &str) {
        if let Some(number) = line.strip_prefix(BEGIN) {
            let binary = number.parse().ok().and_then(|number: usize| self.binaries.get(number));
            self.running = binary.map(|binary| (binary, Instant::now()));
            self.output.clear();
        } else if let Some(status) = line.strip_prefix(END) {
            self.ended(status);
        } else {
            self.output.push(line.to_owned());
        }
    }

    /// Counts a binary that was cut off.
    pub(crate) fn finish(&mut self) {
        if self.running.is_some() {
            self.ended("none: it was cut off");
        }
    }

    /// Where the time went: the binaries that took longest, with their seconds.
    pub(crate) fn slowest(&self) -> String {
        let mut took: Vec<_> = self.took.iter().collect();
        took.sort_by_key(|(_, time)| Reverse(*time));
        let shown = took.iter().take(SLOWEST);
        let shown: Vec<_> =
            shown.map(|(binary, time)| format!("{} {}", binary.name, time.as_secs())).collect();
        shown.join(", ")
    }

    fn ended(&mut self, status: &str) {
        let Some((binary, start)) = self.running.take() else { return };
        self.took.push((binary, start.elapsed()));
        let counted = self.output.iter().rev().find_map(|line| counts(line));
        // One that crashed or has no harness counts as one test.
        let (passed, failed) = counted.unwrap_or(if status == "0" { (1, 0) } else { (0, 1) });
        self.passed += passed;
        self.failed += failed;
        if status != "0" || failed > 0 {
            let start = match counted {
                Some(_) => self.output.iter().position(|line| line == "failures:").unwrap_or(0),
                None => 0,
            };
            // Without the counts, which whoever sums up this command's output would take twice.
            let lines = self.output[start..].iter().filter(|line| counts(line).is_none());
            let output = lines.map(String::as_str).collect::<Vec<_>>().join("\n");
            self.failures.push(format!("--- {} (exit status {status})\n{}", binary.name, output.trim_end()));
        }
    }
}

/// The tests passed and failed, from the line that ends a test binary's output.
fn counts(line: &str) -> Option<(u32, u32)> {
    let counts = line.strip_prefix("test result: ")?;
    let count = |what: &str| {
        let words: Vec<&str> = counts.split([' ', ';']).collect();
        let place = words.iter().position(|word| *word == what)?;
        words.get(place.checked_sub(1)?)?.parse().ok()
    };
    Some((count("passed")?, count("failed")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binary(name: &str) -> TestBinary {
        TestBinary { name: name.to_owned(), folder: "/x".into(), executable: "/x/y".into() }
    }

    fn report<'a>(binaries: &'a [TestBinary], output: &str) -> Report<'a> {
        let mut report = Report::new(binaries);
        output.lines().for_each(|line| report.read(line));
        report.finish();
        report
    }

    #[test]
    fn passed_tests_are_counted_over_all_binaries() {
        let binaries = [binary("a"), binary("b")];
        let ok = |passed: u32| format!("test result: ok. {passed} passed; 0 failed; 1 ignored; 0 measured");
        let output = format!("{BEGIN}0\n{}\n{END}0\n{BEGIN}1\n{}\n\n{END}0\n", ok(2), ok(3));
        let report = report(&binaries, &output);
        assert_eq!((report.passed, report.failed, report.failures.len()), (5, 0, 0));
    }

    #[test]
    fn the_slowest_are_named_with_their_seconds() {
        let binaries = [binary("a"), binary("b")];
        let mut report = report(&binaries, &format!("{BEGIN}0\n{END}0\n{BEGIN}1\n{END}0\n"));
        // What they took here is next to nothing, and either may be the slower one.
        assert_eq!(report.took.len(), 2);
        for ((_, took), seconds) in report.took.iter_mut().zip([3, 7]) {
            *took = Duration::from_secs(seconds);
        }
        assert_eq!(report.slowest(), "b 7, a 3");
    }

    #[test]
    fn of_a_failed_binary_the_failures_are_shown() {
        let binaries = [binary("a")];
        let output = format!(
            "{BEGIN}0\ntest x ... FAILED\nfailures:\nwhy\ntest result: FAILED. 4 passed; 1 failed; 0 ignored\n{END}101\n"
        );
        let report = report(&binaries, &output);
        assert_eq!((report.passed, report.failed), (4, 1));
        assert_eq!(report.failures, ["--- a (exit status 101)\nfailures:\nwhy"]);
    }

    #[test]
    fn a_crash_and_a_cut_are_failures() {
        let binaries = [binary("a"), binary("b")];
        let report = report(&binaries, &format!("{BEGIN}0\nboom\n{END}139\n{BEGIN}1\nhangs\n"));
        assert_eq!((report.passed, report.failed, report.failures.len()), (0, 2, 2));
        assert!(report.failures[0].contains("boom") && report.failures[1].contains("hangs"));
    }
}
