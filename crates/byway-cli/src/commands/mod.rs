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
mod gc;
mod get;
mod group;
mod guard;
mod import;
#[cfg(feature = "man")]
mod man;
mod nexthop;
mod replace;
mod rollback;
mod show;

use std::{
    io::{self, BufWriter, StdoutLock, Write},
    path::Path,
    slice,
    time::Duration,
};

use byway::{
    Attachment, Byway, Change, Changes, Device, Family, Mss, NextHop, NextHopSpec, Obstacle, Owner, Role,
    Rule, RuleStatus, Selection, Target,
    config::{Config, Reading},
    inspect_config, read_config,
};
use clap::{ArgAction, Subcommand};

use crate::{
    error::{Error, code, name},
    help, log,
    output::{Output, printable},
    render::{self, problems},
};

/// Options of every command.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Print JSON for programs
    #[arg(short, long, global = true)]
    pub(crate) json: bool,
    /// Only IPv4: `show` and `flush` leave out IPv6, and other commands refuse an IPv6 source
    #[arg(short = '4', global = true, overrides_with = "ipv6")]
    ipv4: bool,
    /// Only IPv6, in the same way
    #[arg(short = '6', global = true, overrides_with = "ipv4")]
    ipv6: bool,
    /// Print a line for each rule, group or next hop, in the words that name it
    #[arg(short, long, global = true)]
    pub(crate) oneline: bool,
    /// Print no answer; the exit code says whether it worked
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Log what is changed, and by whom, to the journal or syslog
    #[arg(long, global = true)]
    pub(crate) log: bool,
    #[command(flatten)]
    _understood: Understood,
    /// Wait up to this long (5s, 2m) for another byway that is changing this network namespace
    #[arg(long, global = true, value_name = "TIME", default_value = "60s", value_parser = time)]
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

/// A time. A number alone is in seconds, as for watch(1) and timeout(1).
fn time(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let time = seconds.or_else(|| humantime::parse_duration(text).ok());
    time.ok_or_else(|| "this is not a time; write it like 5, 0.5, 60s or 2m".to_owned())
}

/// A time from this one up to a day.
fn time_from(least: Duration, text: &str) -> Result<Duration, String> {
    let most = Duration::from_secs(86_400);
    match time(text)? {
        time if (least..=most).contains(&time) => Ok(time),
        _ => Err(format!("the time must be from {} to 1day", humantime::format_duration(least))),
    }
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
    Gc(gc::Gc),
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
        if self.edits() || matches!(self, Self::Group(_) | Self::Diff(_) | Self::Show(_)) {
            say_what_waits(&mut output);
        }
        Ok(output)
    }

    /// Whether it changes something, and prints what it has changed after that.
    pub(crate) fn changes(&self) -> bool {
        self.edits()
            || matches!(
                self,
                Self::Apply(_) | Self::Confirm(_) | Self::Rollback(_) | Self::Guard(_) | Self::Gc(_)
            )
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
            Self::Gc(command) => command.exec(options),
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
        output.warnings.push(render::unconfirmed(left));
    }
}

/// Opens Byway. If nobody confirmed the last apply in time and its guard has died, rolls it back first.
fn open(options: &Options) -> Result<Byway, Error> {
    let mut byway = open_as_it_is(options)?;
    match byway.rollback_if_overdue() {
        Ok(None) => {}
        Ok(Some(_)) => {
            anstream::eprintln!("byway: nobody confirmed the last apply in time, so it was rolled back");
            if options.log {
                log::changed(ROLLED_BACK);
            }
        }
        // Nobody knows whether one waits. Who is asked decides, and not whoever has written to the note.
        Err(error @ byway::Error::DamagedNote { .. }) => {
            anstream::eprintln!("byway: warning: {}", printable(&help::sentence(&error)));
        }
        Err(error) => anstream::eprintln!(
            "byway: nobody confirmed the last apply in time, and rolling it back failed: {}",
            printable(&help::sentence(&error))
        ),
    }
    Ok(byway)
}

/// What the log says of an apply that nobody has confirmed.
const ROLLED_BACK: &str = "nobody confirmed the last apply in time, so it was rolled back";

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
    let mut text = format!("{said}: {rule}");
    let next_hops: Vec<NextHop> = rule.target.next_hops().cloned().collect();
    add_consequences(&mut text, &mut byway, &before, &next_hops, rule.mss)?;
    let warnings = warnings(&mut byway, slice::from_ref(&rule));
    Ok(Output { warnings, ..Output::line(text, &rule) })
}

/// Says which attachments were those of the default route before, and are named now although the request has not named
/// them. A request that names one names all.
fn no_longer_by_route(before: &[Attachment], after: &[Attachment], asked: &[Device]) -> String {
    let was_by_route = |it: &&Attachment| before.iter().any(|then| then.by_route && then.device == it.device);
    let named: Vec<Device> = after
        .iter()
        .filter(|it| it.role == Role::Departure && !it.by_route && !asked.contains(&it.device))
        .filter(was_by_route)
        .map(|it| it.device.clone())
        .collect();
    if named.is_empty() {
        let waits = |all: &[Attachment]| all.iter().any(|it| it.by_route && it.device.index == 0);
        let waits_no_longer = waits(before) && !waits(after) && !after.is_empty();
        let text = "\nno longer waits for a default route to attach to; to change that: `byway detach`, then `byway attach`";
        return if waits_no_longer { text.to_owned() } else { String::new() };
    }
    format!(
        "\n{} {} attached, now by name and no longer by the default route; to change that: `byway detach`, then \
         `byway attach`",
        render::names(&named),
        if named.len() == 1 { "stays" } else { "stay" },
    )
}

/// Adds to an answer what else a change has done: which interfaces it attached to, and which next hops have a smaller MTU.
fn add_consequences(
    text: &mut String,
    byway: &mut Byway,
    before: &[Device],
    next_hops: &[NextHop],
    mss: Mss,
) -> Result<(), Error> {
    let read = byway.attachments().and_then(|it| Ok((it, byway.mtu_mismatches(next_hops)?)));
    let (attachments, mismatches) = read.map_err(|error| Error::from(error).after_change(text))?;
    let attached: Vec<Device> =
        render::watched(&attachments).into_iter().filter(|device| !before.contains(device)).collect();
    if !attached.is_empty() {
        *text += &format!("\nattached to {}", render::names(&attached));
    }
    for mismatch in mismatches {
        *text += &format!("\n{}", render::mtu_mismatch(&mismatch, mss));
    }
    Ok(())
}

/// How long a gateway has to answer ARP or neighbour discovery before somebody is told. In one network that takes a millisecond.
const ANSWER_WITHIN: Duration = Duration::from_millis(250);

/// What keeps rules from doing their work on this host, in sentences. What cannot be found out is not said: the change is made.
fn warnings(byway: &mut Byway, rules: &[Rule]) -> Vec<String> {
    let obstacles = byway.obstacles(rules, ANSWER_WITHIN).unwrap_or_default();
    obstacles.iter().map(help::of_obstacle).collect()
}

/// The same for rules that were put, and for those that use groups that were put.
fn warnings_of_put(byway: &mut Byway, put: Vec<Rule>, groups: &[String]) -> Vec<String> {
    let mut rules = put;
    if !groups.is_empty() {
        let uses = |it: &Rule| matches!(&it.target, Target::Group(name) if groups.contains(name));
        let listing = byway.listing();
        let all = listing.iter().flat_map(|listing| listing.rules().flatten());
        rules.extend(all.map(|it| it.rule).filter(uses).take(show::MANY));
    }
    warnings(byway, &rules)
}

/// The same for rules with their counters. Those that have counted something have done their work, but the routes may have
/// changed since.
fn warnings_of_listed(byway: &mut Byway, rules: Vec<RuleStatus>) -> Vec<String> {
    let is_of_routes = |it: &Obstacle| matches!(it, Obstacle::NotAttached { .. } | Obstacle::NoRoute(_));
    let unused = rules.iter().filter(|it| **it == RuleStatus::new(it.rule.clone()));
    let unused: Vec<Rule> = unused.map(|it| it.rule.clone()).collect();
    let all: Vec<Rule> = rules.into_iter().map(|it| it.rule).collect();
    let mut obstacles = byway.obstacles(&all, ANSWER_WITHIN).unwrap_or_default();
    if unused.len() < all.len() {
        obstacles.retain(is_of_routes);
        let of_unused = byway.obstacles(&unused, ANSWER_WITHIN).unwrap_or_default();
        obstacles.extend(of_unused.into_iter().filter(|it| !is_of_routes(it)));
    }
    obstacles.iter().map(help::of_obstacle).collect()
}

/// The same for the rules of a configuration: for those that change, and for those that stay.
fn warnings_of(byway: &mut Byway, changes: &Changes) -> Vec<String> {
    let obstacles = byway.obstacles(&changes.sample(Owner::CONFIG), ANSWER_WITHIN).unwrap_or_default();
    let attached = changes.attachments();
    let is_said = |obstacle: &&Obstacle| match obstacle {
        // What will be attached to is no obstacle.
        Obstacle::NotAttached { device, .. } => !attached.contains(&Change::Added(device.clone())),
        // What waits has its own line.
        Obstacle::NoAnswer(next_hop) => {
            let request = NextHopSpec::from(next_hop).to_string();
            !changes.waiting().iter().any(|waiting| waiting.request == request)
        }
        _ => true,
    };
    obstacles.iter().filter(is_said).map(help::of_obstacle).collect()
}

fn waits(changes: &Changes) -> u8 {
    if changes.waiting().is_empty() { 0 } else { code::WAITS }
}

/// The configuration, unless another file is named.
const FILE: &str = "/etc/byway/byway.toml";

/// Reads a configuration to apply it, with warnings for behind the answer. Prints its errors.
fn read(path: &Path) -> Result<(Config, Vec<String>), Error> {
    config_of(path, read_config(path)?)
}

/// Reads a configuration to look at it, likewise.
fn inspect(path: &Path) -> Result<(Config, Vec<String>), Error> {
    config_of(path, inspect_config(path)?)
}

fn config_of(path: &Path, mut reading: Reading) -> Result<(Config, Vec<String>), Error> {
    let counted = problems::counted(&reading);
    let Some(config) = reading.config.take() else {
        problems::print(&reading).map_err(Error::Print)?;
        return Err(Error::Config { path: path.to_owned(), problems: counted });
    };
    let mut warnings = problems::of_unsafe_files(&reading);
    if !reading.problems.is_empty() {
        let (name, path) = (name(path), path.display());
        warnings.push(printable(&format!("{name} has {counted}; `byway check {path}` shows details")));
    }
    Ok((config, warnings))
}

/// Says that a selection chooses nothing.
fn none_matches(noun: &str, selection: &Selection) -> String {
    let family = match selection.family {
        Some(Family::V4) => "-4 ",
        Some(Family::V6) => "-6 ",
        None => "",
    };
    format!("no {noun} matches `{}`", format!("{family}{selection}").trim_end())
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
