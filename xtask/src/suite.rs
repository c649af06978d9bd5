//! The workspace's test binaries: building them, running them layer by layer, and reading what they print.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    fmt::{self, Write as _},
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{run, workspace::Workspace};

/// Start the lines around the output of one run.
const BEGIN: &str = "::tests begin ";
const END: &str = "::tests end ";

/// Which tests, by where they have to run. The first part of a test's name says it, and so does the folder that it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Layer {
    /// Need no kernel of any kind; the tests beside the code are among them
    Pure,
    /// The programs on crafted packets
    Programs,
    /// What Byway relies on of the kernel, and the main stories
    Contract,
    /// All others
    Everywhere,
}

impl Layer {
    pub(crate) const ALL: [Layer; 4] = [Layer::Pure, Layer::Programs, Layer::Contract, Layer::Everywhere];

    /// The part of its tests' names. A test that says nothing belongs to the last layer, and so to those that run.
    fn prefix(self) -> &'static str {
        match self {
            Layer::Pure => "pure::",
            Layer::Programs => "programs::",
            Layer::Contract => "contract::",
            Layer::Everywhere => "",
        }
    }

    /// The layer of a test outside of the code's own modules.
    fn of(test: &str) -> Layer {
        let found = Layer::ALL.into_iter().find(|layer| test.starts_with(layer.prefix()));
        found.unwrap_or(Layer::Everywhere)
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Layer::Pure => "pure",
            Layer::Programs => "programs",
            Layer::Contract => "contract",
            Layer::Everywhere => "everywhere",
        })
    }
}

/// All tests of the workspace but those of this crate, built.
pub(crate) struct Suite {
    binaries: Vec<TestBinary>,
    /// The command that some of them call.
    pub(crate) byway: PathBuf,
}

/// A test binary, and the folder of its package, where cargo would run it.
struct TestBinary {
    name: String,
    folder: PathBuf,
    executable: PathBuf,
    /// The names of the tests of each layer.
    tests: BTreeMap<Layer, Vec<String>>,
}

/// Tests of one layer of one binary.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    name: String,
    layer: Layer,
    tests: Vec<String>,
    folder: PathBuf,
    executable: PathBuf,
}

impl Suite {
    pub(crate) fn build(workspace: &Workspace) -> Result<Suite> {
        let mut cargo = workspace.cargo();
        // With this crate, although its tests are not wanted: of other packages the dependencies would have other features, and
        // be built once more.
        cargo.args(["test", "--workspace", "--locked", "--no-run"]);
        cargo.arg("--message-format=json-render-diagnostics");
        let built = cargo.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("running cargo")?;
        if !built.status.success() {
            bail!("the tests do not build, see above");
        }
        let messages = String::from_utf8_lossy(&built.stdout);
        let mut binaries = vec![];
        for message in messages.lines() {
            binaries.extend(TestBinary::read(message)?);
        }
        if binaries.is_empty() {
            bail!("the workspace has no tests");
        }
        let byway =
            messages.lines().find_map(command).context("the tests were built without the command byway")?;
        Ok(Suite { binaries, byway })
    }

    /// What is to be run for these layers, one after the other.
    pub(crate) fn runs(&self, layers: &[Layer]) -> Vec<Run> {
        let mut runs = vec![];
        for layer in layers {
            for binary in &self.binaries {
                let Some(tests) = binary.tests.get(layer) else { continue };
                runs.push(Run {
                    name: binary.name.clone(),
                    layer: *layer,
                    tests: tests.clone(),
                    folder: binary.folder.clone(),
                    executable: binary.executable.clone(),
                });
            }
        }
        runs
    }
}

/// Deals the tests out to so many machines, as one deals cards: neighbours, which take about as long, go to different ones.
pub(crate) fn deal(runs: &[Run], machines: usize) -> Vec<Vec<Run>> {
    let mut hands = vec![vec![]; machines];
    let mut dealt = 0;
    for run in runs {
        let mut shares = vec![vec![]; machines];
        for test in &run.tests {
            shares[dealt % machines].push(test.clone());
            dealt += 1;
        }
        for (hand, tests) in hands.iter_mut().zip(shares).filter(|(_, tests)| !tests.is_empty()) {
            hand.push(Run { tests, ..run.clone() });
        }
    }
    hands
}

impl TestBinary {
    /// Reads one of cargo's messages, which may be about a test binary.
    fn read(message: &str) -> Result<Option<TestBinary>> {
        let Ok(message) = serde_json::from_str::<Value>(message) else { return Ok(None) };
        let is_test = message["profile"]["test"] == true;
        let Some(executable) = message["executable"].as_str().filter(|_| is_test) else { return Ok(None) };
        let path = |value: &Value| value.as_str().map(PathBuf::from).context("cargo's message lacks a path");
        let manifest = path(&message["manifest_path"])?;
        let folder = manifest.parent().context("a package has no folder")?.to_owned();
        let source = path(&message["target"]["src_path"])?;
        let package = folder.file_name().unwrap_or_default().to_string_lossy();
        if package == env!("CARGO_PKG_NAME") {
            return Ok(None);
        }
        let name = format!("{package}/{}", source.strip_prefix(&folder).unwrap_or(&source).display());

        let listed = run::output(Command::new(executable).arg("--list").current_dir(&folder), "")?;
        let is_beside_the_code = message["target"]["kind"][0] != "test";
        let tests = tests_by_layer(&listed, is_beside_the_code)?;
        Ok(Some(TestBinary { name, folder, executable: executable.into(), tests }))
    }
}

/// The tests of each layer that a binary lists. A test belongs to one layer only: whoever filters by a layer's name, as
/// libtest does, finds it anywhere in a test's name.
fn tests_by_layer(listed: &str, is_beside_the_code: bool) -> Result<BTreeMap<Layer, Vec<String>>> {
    let mut tests: BTreeMap<Layer, Vec<String>> = BTreeMap::new();
    for test in listed.lines().filter_map(|line| line.strip_suffix(": test")) {
        let layer = if is_beside_the_code { Layer::Pure } else { Layer::of(test) };
        let others = Layer::ALL.into_iter().filter(|other| *other != layer && *other != Layer::Everywhere);
        for other in others.filter(|_| !is_beside_the_code) {
            if test.contains(other.prefix()) {
                bail!(
                    "the test {test} is one of {layer} and would run with {other}: call its module something else"
                );
            }
        }
        tests.entry(layer).or_default().push(test.to_owned());
    }
    Ok(tests)
}

/// Reads one of cargo's messages, which may be about the command.
fn command(message: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    let is_it = message["target"]["name"] == "byway" && message["target"]["kind"][0] == "bin";
    let is_test = message["profile"]["test"] == true;
    Some(message["executable"].as_str().filter(|_| is_it && !is_test)?.into())
}

/// The part of a shell script that runs them one after the other.
pub(crate) fn script(runs: &[Run]) -> String {
    let mut script = String::new();
    for (number, run) in runs.iter().enumerate() {
        let folder = quoted(&run.folder.to_string_lossy());
        let executable = quoted(&run.executable.to_string_lossy());
        let _ = writeln!(
            script,
            "echo '{BEGIN}{number}'\n\
             (cd {folder} && CARGO_MANIFEST_DIR={folder} exec {executable} --exact {})\n\
             printf '\\n{END}%s\\n' $?",
            run.tests.join(" ")
        );
    }
    script
}

/// A word as a shell takes it literally.
pub(crate) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// What tests came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    pub(crate) seconds: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { passed, failed, seconds } = self;
        write!(f, "{} tests run, {passed} passed, {failed} failed ({seconds} s)", passed + failed)
    }
}

/// How many parts of the tests are named as the slowest.
const SLOWEST: usize = 8;

/// What the tests printed, and what that comes to.
pub(crate) struct Reader<'a> {
    runs: &'a [Run],
    begun: usize,
    running: Option<(&'a Run, Instant)>,
    last: Instant,
    output: Vec<String>,
    took: BTreeMap<String, Duration>,
    layers: BTreeMap<Layer, (u32, u32, Duration)>,
    /// One text for each run that failed.
    failures: Vec<String>,
}

/// The end of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Report {
    pub(crate) layers: BTreeMap<Layer, Counts>,
    pub(crate) failures: Vec<String>,
    /// How long each part of the tests took.
    took: BTreeMap<String, Duration>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(runs: &'a [Run]) -> Reader<'a> {
        Reader {
            runs,
            begun: 0,
            running: None,
            last: Instant::now(),
            output: vec![],
            took: BTreeMap::new(),
            layers: BTreeMap::new(),
            failures: vec![],
        }
    }

    /// Takes the next line of the script's output.
    pub(crate) fn read(&mut self, line: &str) {
        if let Some(number) = line.strip_prefix(BEGIN) {
            let run = number.parse().ok().and_then(|number: usize| self.runs.get(number));
            self.running = run.map(|run| (run, Instant::now()));
            self.last = Instant::now();
            self.begun += 1;
            self.output.clear();
        } else if let Some(status) = line.strip_prefix(END) {
            self.ended(Some(status));
        } else {
            self.account(line);
            self.output.push(line.to_owned());
        }
    }

    /// Notes the time since the last test that ended, as that of the part of the tests that this one is in. Where tests run
    /// side by side that is right on the whole, and adds up.
    fn account(&mut self, line: &str) {
        let Some((test, _)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) else {
            return;
        };
        let part = test.split("::").nth(1).unwrap_or(test);
        *self.took.entry(part.to_owned()).or_default() += self.last.elapsed();
        self.last = Instant::now();
    }

    /// What it all comes to. A run that was cut off has failed, and so have those that never began.
    pub(crate) fn finish(mut self) -> Report {
        self.ended(None);
        let never_begun = self.runs.get(self.begun..).unwrap_or_default();
        for run in never_begun {
            let tests = run.tests.len();
            self.layers.entry(run.layer).or_default().1 += tests as u32;
            self.failures.push(format!("--- {} {}: {tests} tests were not run", run.name, run.layer));
        }
        let counts =
            |(passed, failed, time): (u32, u32, Duration)| Counts { passed, failed, seconds: time.as_secs() };
        Report {
            layers: self.layers.into_iter().map(|(layer, sums)| (layer, counts(sums))).collect(),
            failures: self.failures,
            took: self.took,
        }
    }

    /// The run under way has ended with a status, or was cut off.
    fn ended(&mut self, status: Option<&str>) {
        let Some((run, start)) = self.running.take() else { return };
        let counted = self.output.iter().rev().find_map(|line| counts(line));
        let passed = counted.map_or_else(
            || {
                self.output
                    .iter()
                    .filter(|line| line.starts_with("test ") && line.ends_with(" ... ok"))
                    .count() as u32
            },
            |(passed, _)| passed,
        );
        // Of one that crashed or was cut off all the others are missing.
        let failed = counted
            .map_or_else(|| (run.tests.len() as u32).saturating_sub(passed).max(1), |(_, failed)| failed);
        let sums = self.layers.entry(run.layer).or_default();
        *sums = (sums.0 + passed, sums.1 + failed, sums.2 + start.elapsed());
        if status != Some("0") || failed > 0 {
            let start = match counted {
                Some(_) => self.output.iter().position(|line| line == "failures:").unwrap_or(0),
                None => 0,
            };
            // Without the counts, which whoever sums up this command's output would take twice.
            let lines = self.output[start..].iter().filter(|line| counts(line).is_none());
            let output = lines.map(String::as_str).collect::<Vec<_>>().join("\n");
            let how = status.map_or("cut off".to_owned(), |status| format!("exit status {status}"));
            self.failures.push(format!("--- {} {} ({how})\n{}", run.name, run.layer, output.trim_end()));
        }
    }
}

impl Report {
    /// Adds what another machine's share of the same tests came to. Seconds of layers are those of the machines, together.
    pub(crate) fn add(&mut self, other: Report) {
        for (layer, counts) in other.layers {
            let sum = self.layers.entry(layer).or_default();
            sum.passed += counts.passed;
            sum.failed += counts.failed;
            sum.seconds += counts.seconds;
        }
        self.failures.extend(other.failures);
        for (part, time) in other.took {
            *self.took.entry(part).or_default() += time;
        }
    }

    /// The sum over all layers. It takes as long as the caller says, who has also seen what comes before and after the tests.
    pub(crate) fn sum(&self, took: Duration) -> Counts {
        let sum = self.layers.values().fold(Counts::default(), |sum, layer| Counts {
            passed: sum.passed + layer.passed,
            failed: sum.failed + layer.failed,
            seconds: 0,
        });
        Counts { seconds: took.as_secs(), ..sum }
    }

    /// Where the time went.
    pub(crate) fn details(&self) -> String {
        let mut text = String::new();
        for (layer, counts) in &self.layers {
            let _ = writeln!(text, "  {layer}: {counts}");
        }
        let mut took: Vec<_> = self.took.iter().collect();
        took.sort_by_key(|(_, time)| Reverse(**time));
        let slowest = took.iter().take(SLOWEST).map(|(part, time)| format!("{part} {}", time.as_secs()));
        let _ = write!(text, "  slowest, in seconds: {}", slowest.collect::<Vec<_>>().join(", "));
        text
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

    fn runs(tests: &[u32]) -> Vec<Run> {
        let run = |(nth, tests): (usize, &u32)| Run {
            name: ["a", "b", "c"][nth].to_owned(),
            layer: Layer::Contract,
            tests: (0..*tests).map(|test| format!("{}::{test}", ["a", "b", "c"][nth])).collect(),
            folder: "/x".into(),
            executable: "/x/y".into(),
        };
        tests.iter().enumerate().map(run).collect()
    }

    fn report(runs: &[Run], output: &str) -> Report {
        let mut reader = Reader::new(runs);
        output.lines().for_each(|line| reader.read(line));
        reader.finish()
    }

    fn sums(report: &Report) -> (u32, u32, usize) {
        let counts = report.sum(Duration::ZERO);
        (counts.passed, counts.failed, report.failures.len())
    }

    #[test]
    fn passed_tests_are_counted_over_all_runs() {
        let runs = runs(&[2, 3]);
        let ok = |passed: u32| format!("test result: ok. {passed} passed; 0 failed; 1 ignored; 0 measured");
        let output = format!("{BEGIN}0\n{}\n{END}0\n{BEGIN}1\n{}\n\n{END}0\n", ok(2), ok(3));
        assert_eq!(sums(&report(&runs, &output)), (5, 0, 0));
    }

    #[test]
    fn time_is_that_of_the_part_that_a_test_is_in() {
        let runs = runs(&[3]);
        let output = format!("{BEGIN}0\ntest contract::a::x ... ok\ntest contract::b::y ... ok\n{END}0\n");
        let report = report(&runs, &output);
        assert_eq!(report.took.keys().collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn dealt_out_each_test_runs_once_and_the_reports_add_up() {
        let runs = runs(&[3, 1, 4]);
        let hands = deal(&runs, 2);
        let names = |runs: &[Run]| runs.iter().flat_map(|run| run.tests.clone()).collect::<Vec<_>>();
        assert_eq!(names(&hands[0]), ["a::0", "a::2", "c::0", "c::2"]);
        assert_eq!(names(&hands[1]), ["a::1", "b::0", "c::1", "c::3"]);

        let ok = format!("{BEGIN}0\ntest result: ok. 2 passed; 0 failed; 0 ignored\n{END}0\n");
        let mut sum = report(&hands[0], &ok);
        sum.add(report(&hands[1], ""));
        assert_eq!(sums(&sum), (2, 6, 4));
    }

    #[test]
    fn of_a_failed_run_the_failures_are_shown() {
        let runs = runs(&[5]);
        let output = format!(
            "{BEGIN}0\ntest x ... FAILED\nfailures:\nwhy\ntest result: FAILED. 4 passed; 1 failed; 0 ignored\n{END}101\n"
        );
        let report = report(&runs, &output);
        assert_eq!(sums(&report), (4, 1, 1));
        assert_eq!(report.failures, ["--- a contract (exit status 101)\nfailures:\nwhy"]);
    }

    #[test]
    fn a_crash_a_cut_and_what_never_began_are_failures_and_add_up() {
        let runs = runs(&[3, 4, 5]);
        let output = format!("{BEGIN}0\nboom\n{END}139\n{BEGIN}1\ntest contract::a::x ... ok\nhangs\n");
        let report = report(&runs, &output);
        assert_eq!(sums(&report), (1, 11, 3));
        assert!(report.failures[0].contains("boom") && report.failures[1].contains("hangs"));
        assert!(report.failures[2].contains("5 tests were not run"));
    }

    #[test]
    fn each_test_belongs_to_one_layer() {
        let listed = "pure::a: test\nprograms::b: test\ncontract::c::d: test\nelsewhere::e: test\n5 tests, 0 benchmarks";
        let tests = tests_by_layer(listed, false).unwrap();
        assert!(Layer::ALL.into_iter().all(|layer| tests[&layer].len() == 1));
        assert_eq!(tests_by_layer(listed, true).unwrap()[&Layer::Pure].len(), 4);
        assert!(tests_by_layer("contract::foreign_programs::a: test", false).is_err());
    }
}
