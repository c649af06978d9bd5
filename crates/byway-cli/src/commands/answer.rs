//! What the answers of several commands have in common.

use std::{
    io::{self, BufWriter, StdoutLock, Write},
    time::Duration,
};

use byway::{
    Attachment, Byway, Change, Changes, Device, Family, Mss, NextHop, NextHopSpec, Obstacle, Owner, Role,
    Rule, RuleStatus, Selection, Target,
};

use crate::{
    error::{Error, code},
    help,
    options::Options,
    render,
};

/// Says which attachments were those of the default route before, and are named now although the request has not named
/// them. A request that names one names all.
pub(super) fn no_longer_by_route(before: &[Attachment], after: &[Attachment], asked: &[Device]) -> String {
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

/// Adds to an answer what else the last change has done: which interfaces it attached to, but for those that it has `said`, and
/// which next hops have a smaller MTU.
pub(super) fn add_consequences(
    text: &mut String,
    byway: &mut Byway,
    said: &[Device],
    next_hops: &[NextHop],
    mss: Mss,
) -> Result<(), Error> {
    let attached: Vec<Device> =
        byway.newly_attached().iter().filter(|device| !said.contains(device)).cloned().collect();
    if !attached.is_empty() {
        *text += &format!("\nattached to {}", render::names(&attached));
    }
    let mismatches = byway.mtu_mismatches(next_hops);
    for mismatch in mismatches.map_err(|error| Error::from(error).after_change(text))? {
        *text += &format!("\n{}", render::mtu_mismatch(&mismatch, mss));
    }
    Ok(())
}

/// How long a gateway has to answer ARP or neighbour discovery before somebody is told. In one network that takes a millisecond.
const ANSWER_WITHIN: Duration = Duration::from_millis(250);

/// Of how many rules somebody is told why they count nothing.
pub(super) const MANY: usize = 1_000;

/// What keeps rules from doing their work on this host, in sentences. What cannot be found out is not said: the change is made.
pub(super) fn warnings(byway: &mut Byway, rules: &[Rule]) -> Vec<String> {
    let obstacles = byway.obstacles(rules, ANSWER_WITHIN).unwrap_or_default();
    obstacles.iter().map(help::of_obstacle).collect()
}

/// The same for rules that were added or replaced, and for those that use the groups.
pub(super) fn warnings_of_changed(byway: &mut Byway, mut rules: Vec<Rule>, groups: &[String]) -> Vec<String> {
    if !groups.is_empty() {
        let uses = |it: &Rule| matches!(&it.target, Target::Group(name) if groups.contains(name));
        let listing = byway.listing();
        let all = listing.iter().flat_map(|listing| listing.rules().flatten());
        rules.extend(all.map(|it| it.rule).filter(uses).take(MANY));
    }
    warnings(byway, &rules)
}

/// The same for rules with their counters. Those that have counted something have done their work, but the routes may have
/// changed since.
pub(super) fn warnings_of_listed(byway: &mut Byway, rules: Vec<RuleStatus>) -> Vec<String> {
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
pub(super) fn warnings_of(byway: &mut Byway, changes: &Changes) -> Vec<String> {
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

/// Returns the exit code after an apply or a rollback.
pub(super) fn exit_code_of(changes: &Changes) -> u8 {
    if changes.waiting().is_empty() { 0 } else { code::WAITS }
}

/// Says that a selection chooses nothing.
pub(super) fn none_matches(noun: &str, selection: &Selection) -> String {
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
pub(super) fn stream(
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
