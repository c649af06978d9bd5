//! One file a command. Each is a small struct with one `exec`.

mod add;
mod apply;
mod attach;
mod batch;
mod check;
mod complete;
mod completion;
mod confirm;
mod del;
#[cfg(feature = "demo")]
mod demo;
mod detach;
mod diff;
mod export;
mod flush;
mod get;
mod group;
mod guard;
mod help;
mod import;
#[cfg(feature = "man")]
mod man;
mod nexthop;
mod replace;
mod rollback;
mod show;

use std::{
    io::{self, BufWriter, StdoutLock, Write},
    path::{Path, PathBuf},
    slice,
    time::Duration,
};

use byway::{
    Byway, Change, Changes, Device, ErrorKind, Family, FileError, NextHop, Obstacle, Rule, config::Config,
    grammar::GrammarError, read_config,
};
use clap::{ArgAction, Subcommand};

use crate::{
    output::Output,
    render::{self, problems},
};

/// Options of every command.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Print JSON for programs
    #[arg(short, long, global = true)]
    pub(crate) json: bool,
    /// Only IPv4: what `show` and `flush` are about, and the source that the others name
    #[arg(short = '4', global = true, overrides_with = "ipv6")]
    ipv4: bool,
    /// Only IPv6, likewise
    #[arg(short = '6', global = true, overrides_with = "ipv4")]
    ipv6: bool,
    /// Print a line for each rule, group or next hop, in the words that name it
    #[arg(short, long, global = true)]
    pub(crate) oneline: bool,
    /// Print no answer: the exit code says it
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    _understood: Understood,
    /// Wait up to this long (5s, 2m) for another byway that is changing this network namespace
    #[arg(long, global = true, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    pub(crate) wait: Duration,
}

/// Options of iproute2 that ask for what Byway does in any case.
#[derive(Debug, clap::Args)]
struct Understood {
    /// The JSON is for people as well
    #[arg(short, long, global = true, hide = true, action = ArgAction::Count)]
    pretty: u8,
    /// Counters are shown in any case
    #[arg(short, long, global = true, hide = true, action = ArgAction::Count)]
    statistics: u8,
    /// There are no other details
    #[arg(short, long, global = true, hide = true, action = ArgAction::Count)]
    details: u8,
}

impl Options {
    /// The one family that this is about.
    pub(crate) fn family(&self) -> Option<Family> {
        match (self.ipv4, self.ipv6) {
            (true, _) => Some(Family::V4),
            (_, true) => Some(Family::V6),
            _ => None,
        }
    }
}

/// The commands. Where several begin with what is typed, the first one is meant.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Add(add::Add),
    #[command(visible_aliases = ["change", "chg"])]
    Replace(replace::Replace),
    #[command(visible_alias = "delete")]
    Del(del::Del),
    #[command(visible_aliases = ["list", "ls", "lst"])]
    Show(show::Show),
    Flush(flush::Flush),
    Group(group::Group),
    Get(get::Get),
    Nexthop(nexthop::Nexthop),
    Attach(attach::Attach),
    Detach(detach::Detach),
    Check(check::Check),
    Diff(diff::Diff),
    Apply(apply::Apply),
    Confirm(confirm::Confirm),
    Rollback(rollback::Rollback),
    Export(export::Export),
    Guard(guard::Guard),
    Import(import::Import),
    Completion(completion::Completion),
    Complete(complete::Complete),
    #[cfg(feature = "man")]
    Man(man::Man),
    #[cfg(feature = "demo")]
    Demo(demo::Demo),
}

impl Command {
    /// Does the work, and says whether an apply is still waiting to be confirmed.
    pub(crate) fn exec(&self, options: &Options) -> Result<Output, Error> {
        let mut output = self.work(options)?;
        if self.edits() || matches!(self, Self::Group(_) | Self::Diff(_)) {
            say_what_waits(&mut output);
        }
        Ok(output)
    }

    /// Whether it changes something, and prints what it has changed after that.
    pub(crate) fn changes(&self) -> bool {
        self.edits() || matches!(self, Self::Apply(_) | Self::Confirm(_) | Self::Rollback(_))
    }

    /// Whether it changes something by hand.
    fn edits(&self) -> bool {
        match self {
            Self::Add(_)
            | Self::Replace(_)
            | Self::Del(_)
            | Self::Flush(_)
            | Self::Nexthop(_)
            | Self::Attach(_)
            | Self::Detach(_) => true,
            Self::Group(group) => group.changes(),
            _ => false,
        }
    }

    fn work(&self, options: &Options) -> Result<Output, Error> {
        match self {
            Self::Add(command) => command.exec(options),
            Self::Replace(command) => command.exec(options),
            Self::Del(command) => command.exec(options),
            Self::Show(command) => command.exec(options),
            Self::Get(command) => command.exec(options),
            Self::Flush(command) => command.exec(options),
            Self::Group(command) => command.exec(options),
            Self::Nexthop(command) => command.exec(options),
            Self::Attach(command) => command.exec(options),
            Self::Detach(command) => command.exec(options),
            Self::Check(command) => command.exec(options),
            Self::Diff(command) => command.exec(options),
            Self::Apply(command) => command.exec(options),
            Self::Confirm(command) => command.exec(options),
            Self::Rollback(command) => command.exec(options),
            Self::Export(command) => command.exec(options),
            Self::Guard(command) => command.exec(options),
            Self::Import(command) => command.exec(),
            Self::Completion(command) => command.exec(options),
            Self::Complete(command) => command.exec(options),
            #[cfg(feature = "man")]
            Self::Man(command) => command.exec(),
            #[cfg(feature = "demo")]
            Self::Demo(command) => command.exec(options.json),
        }
    }
}

/// Makes the changes that a file lists, all in one instant.
pub(crate) fn batch(file: &Path, options: &Options) -> Result<Output, Error> {
    let mut output = batch::exec(file, options)?;
    say_what_waits(&mut output);
    Ok(output)
}

fn say_what_waits(output: &mut Output) {
    if let Ok(Some(left)) = Byway::open().and_then(|byway| byway.unconfirmed()) {
        output.text += &format!("{}\n", render::unconfirmed(left));
    }
}

/// Opens Byway. If nobody confirmed the last apply in time and its guard has died, rolls it back first.
fn open(options: &Options) -> Result<Byway, Error> {
    let mut byway = open_as_it_is(options)?;
    match byway.rollback_if_overdue() {
        Ok(None) => {}
        Ok(Some(_)) => {
            anstream::eprintln!("byway: nobody confirmed the last apply in time, so it was rolled back")
        }
        Err(error) => anstream::eprintln!(
            "byway: nobody confirmed the last apply in time, and rolling it back failed: {error}"
        ),
    }
    Ok(byway)
}

fn open_as_it_is(options: &Options) -> Result<Byway, Error> {
    let limit = humantime::format_duration(options.wait).to_string();
    Ok(Byway::open()?.with_wait(options.wait).with_on_wait(move |holder| {
        anstream::eprintln!(
            "byway: {holder} is changing this network namespace; waiting for it, up to {limit} (`--wait`)"
        );
    }))
}

/// Puts a rule, and says which interfaces this attached to.
fn put(
    options: &Options,
    said: &str,
    put: impl FnOnce(&mut Byway) -> Result<Rule, byway::Error>,
) -> Result<Output, Error> {
    let mut byway = open(options)?;
    let before = render::watched(&byway.attachments()?);
    let rule = put(&mut byway)?;
    let attached: Vec<Device> = render::watched(&byway.attachments()?)
        .into_iter()
        .filter(|device| !before.contains(device))
        .collect();
    let mut text = format!("{said}: {rule}");
    if !attached.is_empty() {
        text += &format!("\nattached to {}", render::names(&attached));
    }
    let next_hops: Vec<NextHop> = rule.target.next_hops().cloned().collect();
    for mismatch in byway.mtu_mismatches(&next_hops)? {
        text += &format!("\n{}", render::mtu_mismatch(&mismatch, rule.mss));
    }
    warn(&mut byway, slice::from_ref(&rule), ANSWER_WITHIN);
    Ok(Output::line(text, &rule))
}

/// How long a gateway has to answer ARP or neighbour discovery before somebody is told. In one network that takes a millisecond.
const ANSWER_WITHIN: Duration = Duration::from_millis(250);

/// Says what keeps rules from doing their work on this host. What cannot be found out is not said: the change is made.
fn warn(byway: &mut Byway, rules: &[Rule], patience: Duration) {
    say(byway.obstacles(rules, patience).unwrap_or_default());
}

fn say(obstacles: impl IntoIterator<Item = Obstacle>) {
    for obstacle in obstacles {
        anstream::eprintln!("byway: warning: {}", help::of_obstacle(&obstacle));
    }
}

/// The rules that an apply adds, or makes others of.
fn coming(changes: &Changes) -> Vec<Rule> {
    let coming = changes.rules().filter_map(|change| match change {
        Change::Added(rule) | Change::Changed { after: rule, .. } => Some(rule),
        Change::Removed(_) => None,
    });
    coming.take(RULES_WARNED_OF).collect()
}

/// Of how many rules of a large change somebody is told what is in their way.
const RULES_WARNED_OF: usize = 256;

/// The exit code where something of a configuration waits: it is in force as far as it can be.
const WAITS: u8 = 4;

fn waits(changes: &Changes) -> u8 {
    if changes.waiting().is_empty() { 0 } else { WAITS }
}

/// The configuration, unless another file is named.
const FILE: &str = "/etc/byway/byway.toml";

/// Reads a configuration, and prints what is wrong with it.
fn read(path: &Path) -> Result<Config, Error> {
    let mut reading = read_config(path)?;
    let counted = problems::counted(&reading);
    if let Some(config) = reading.config.take() {
        if !reading.problems.is_empty() {
            let (name, path) = (name(path), path.display());
            anstream::eprintln!("byway: {name}: {counted}; `byway check {path}` shows details");
        }
        return Ok(config);
    }
    problems::print(&reading).map_err(Error::Print)?;
    Err(Error::Config { path: path.to_owned(), problems: counted })
}

/// What a file is called.
fn name(path: &Path) -> impl std::fmt::Display {
    if path == Path::new(byway::STDIN) { Path::new(byway::STDIN_NAME).display() } else { path.display() }
}

/// Bytes that are printed at a time.
const AT_A_TIME: usize = 64 * 1024;

/// Prints something long, unless nothing is to be printed. Returns false if the reader has seen enough, as with
/// `byway show | head`.
fn print(
    options: &Options,
    write: impl FnOnce(&mut BufWriter<StdoutLock<'_>>) -> Result<(), Error>,
) -> Result<bool, Error> {
    if options.quiet {
        return Ok(true);
    }
    let mut out = BufWriter::with_capacity(AT_A_TIME, io::stdout().lock());
    let written = write(&mut out).and_then(|()| out.flush().map_err(Error::Print));
    match written {
        Ok(()) => Ok(true),
        Err(Error::Print(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            // Otherwise dropping this would write the rest.
            let _ = out.into_parts();
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Why a command did not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{}", help::of_words(.0))]
    Grammar(#[from] GrammarError),
    #[error("{}", help::sentence(.0))]
    Byway(#[from] byway::Error),
    #[cfg(feature = "demo")]
    #[error(transparent)]
    Lab(#[from] byway_lab::Error),
    #[cfg(feature = "demo")]
    #[error("the demo could not go on: {0}")]
    Demo(std::io::Error),
    #[error("{}", .0.sentence())]
    File(#[from] FileError),
    #[error("{}: {problems}; nothing has been changed", name(.path))]
    Config { path: PathBuf, problems: String },
    #[error("{}: {error}", place(.path, *.line))]
    Batch { path: PathBuf, line: Option<usize>, error: Box<Error> },
    #[error("`{0}` is no change; a batch has `add`, `replace`, `del`, `flush`, `group` and `nexthop`")]
    NoChange(String),
    #[error("{0}")]
    TooShort(String),
    #[error("cannot leave the terminal: {0}")]
    Guard(std::io::Error),
    #[error("cannot print: {0}")]
    Print(std::io::Error),
    #[error("it is done, but this cannot be printed ({error}): {done}")]
    PrintChange { done: String, error: std::io::Error },
    #[cfg(feature = "demo")]
    #[error("the hosts of an earlier `byway demo --keep` are still up; remove them: `byway demo --clean`")]
    DemoStays,
}

/// `FILE:LINE`, or the file alone.
fn place(path: &Path, line: Option<usize>) -> String {
    match line {
        Some(line) => format!("{}:{line}", name(path)),
        None => name(path).to_string(),
    }
}

/// How many lines of an answer an error repeats.
const LINES: usize = 3;

/// The exit codes beside 0 (done), 3 (`diff` found differences) and 4 ([`WAITS`]). docs/iproute2.md lists them.
mod code {
    pub(super) const FAILED: u8 = 1;
    pub(super) const INVALID: u8 = 2;
    pub(super) const REFUSED: u8 = 5;
    pub(super) const NOT_FOUND: u8 = 6;
    pub(super) const EXISTS: u8 = 7;
    pub(super) const PRIVILEGE: u8 = 8;
    pub(super) const NOT_PRINTED: u8 = 9;
}

impl Error {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::File(FileError::Io { error, .. }) if error.kind() == io::ErrorKind::PermissionDenied => {
                code::PRIVILEGE
            }
            Self::Grammar(_) | Self::File(_) | Self::Config { .. } => code::INVALID,
            Self::NoChange(_) | Self::TooShort(_) => code::INVALID,
            Self::Batch { error, .. } => error.exit_code(),
            Self::Byway(error) => match error.kind() {
                ErrorKind::Invalid => code::INVALID,
                ErrorKind::Refused => code::REFUSED,
                ErrorKind::NotFound => code::NOT_FOUND,
                ErrorKind::Exists => code::EXISTS,
                ErrorKind::Privilege => code::PRIVILEGE,
                _ => code::FAILED,
            },
            Self::PrintChange { .. } => code::NOT_PRINTED,
            #[cfg(feature = "demo")]
            Self::DemoStays => code::REFUSED,
            #[cfg(feature = "demo")]
            Self::Lab(byway_lab::Error::Privilege { .. }) => code::PRIVILEGE,
            #[cfg(feature = "demo")]
            Self::Lab(_) | Self::Demo(_) => code::FAILED,
            Self::Guard(_) | Self::Print(_) => code::FAILED,
        }
    }

    /// The same error, if it comes after a change, with what is done.
    pub(crate) fn after_change(self, done: &str) -> Self {
        match self {
            Self::Print(error) => {
                let (lines, all) = (done.lines().take(LINES).collect::<Vec<_>>(), done.lines().count());
                let more = if all > LINES { format!("; and {} more", all - LINES) } else { String::new() };
                Self::PrintChange { done: lines.join("; ") + &more, error }
            }
            error => error,
        }
    }
}
