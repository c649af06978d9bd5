//! One file a command. Each is a small struct with one `exec`.

mod add;
mod apply;
mod attach;
mod check;
mod confirm;
mod del;
#[cfg(feature = "demo")]
mod demo;
mod detach;
mod diff;
mod export;
mod flush;
mod group;
mod guard;
mod help;
mod import;
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
    Byway, Change, Changes, Device, NextHop, Obstacle, Rule, config::Config, grammar::GrammarError,
    read_config,
};
use clap::Subcommand;

use crate::{
    output::Output,
    render::{self, problems},
};

/// Options of every command.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Print JSON for programs
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Wait up to this long (5s, 2m) for another byway that is changing this network namespace
    #[arg(long, global = true, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    pub(crate) wait: Duration,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Add(add::Add),
    Replace(replace::Replace),
    Del(del::Del),
    Show(show::Show),
    Flush(flush::Flush),
    Group(group::Group),
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
    #[cfg(feature = "demo")]
    Demo(demo::Demo),
}

impl Command {
    /// Does the work, and says whether an apply is still waiting to be confirmed.
    pub(crate) fn exec(&self, options: &Options) -> Result<Output, Error> {
        let mut output = self.work(options)?;
        let says_what_waits = matches!(
            self,
            Self::Add(_)
                | Self::Replace(_)
                | Self::Del(_)
                | Self::Flush(_)
                | Self::Group(_)
                | Self::Nexthop(_)
                | Self::Attach(_)
                | Self::Detach(_)
                | Self::Diff(_)
        );
        if says_what_waits && let Ok(Some(left)) = Byway::open().and_then(|byway| byway.unconfirmed()) {
            output.text += &format!("{}\n", render::unconfirmed(left));
        }
        Ok(output)
    }

    fn work(&self, options: &Options) -> Result<Output, Error> {
        match self {
            Self::Add(command) => command.exec(options),
            Self::Replace(command) => command.exec(options),
            Self::Del(command) => command.exec(options),
            Self::Show(command) => command.exec(options),
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
            #[cfg(feature = "demo")]
            Self::Demo(command) => command.exec(options.json),
        }
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
    if let Some(config) = reading.config.take() {
        if !reading.problems.is_empty() {
            let (counted, path) = (problems::counted(&reading), path.display());
            anstream::eprintln!("byway: {path}: {counted}; `byway check {path}` shows details");
        }
        return Ok(config);
    }
    problems::print(&reading).map_err(Error::Print)?;
    Err(Error::Config { path: path.to_owned(), problems: problems::counted(&reading) })
}

/// Bytes that are printed at a time.
const AT_A_TIME: usize = 64 * 1024;

/// Prints something long. Returns false if the reader has seen enough, as with `byway show | head`.
fn print(write: impl FnOnce(&mut BufWriter<StdoutLock<'_>>) -> Result<(), Error>) -> Result<bool, Error> {
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
    File(#[from] byway::FileError),
    #[error("{}: {problems}; nothing has been changed", .path.display())]
    Config { path: PathBuf, problems: String },
    #[error("cannot leave the terminal: {0}")]
    Guard(std::io::Error),
    #[error("cannot print: {0}")]
    Print(std::io::Error),
    #[cfg(feature = "demo")]
    #[error("the hosts of an earlier `byway demo --keep` are still up; remove them: `byway demo --clean`")]
    DemoStays,
}

impl Error {
    /// 1 failed, 2 usage or invalid input.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Grammar(_) | Self::File(_) | Self::Config { .. } => 2,
            Self::Byway(error) if error.is_bad_request() => 2,
            #[cfg(feature = "demo")]
            Self::DemoStays | Self::Lab(byway_lab::Error::Privilege { .. }) => 2,
            #[cfg(feature = "demo")]
            Self::Lab(_) | Self::Demo(_) => 1,
            Self::Byway(_) | Self::Guard(_) | Self::Print(_) => 1,
        }
    }
}
