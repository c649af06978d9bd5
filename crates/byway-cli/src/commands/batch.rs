//! `byway --batch`: commands from a file, as with `ip -batch`, but all at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use byway::{Attach, Device, Edit, EditError, Edited, Mss, NextHop, Owner, Rule, grammar};
use clap::CommandFactory;

use super::{answer, open::open};
use crate::{Cli, error::Error, options::Options, output::Output, render, words};

/// Makes the changes that a file lists, all in one instant, or none of them.
pub(super) fn exec(file: &Path, options: &Options) -> Result<Output, Error> {
    let wrong = |line, error: Error| Error::Batch { path: file.to_owned(), line, error: Box::new(error) };
    let text = byway::read_file(file)?;
    let cli = Cli::command();
    let mut edits = Vec::new();
    let mut lines = Vec::new();
    for (nth, line) in text.lines().enumerate() {
        let words: Vec<&str> = line.split_whitespace().take_while(|word| !word.starts_with('#')).collect();
        if !words.is_empty() {
            edits.push(edit(&words, &cli, options).map_err(|error| wrong(Some(nth + 1), error))?);
            lines.push(nth + 1);
        }
    }
    let mut byway = open(options)?;
    let edited = byway.edit(&edits).map_err(|EditError { nth, error, .. }| {
        wrong(nth.and_then(|nth| lines.get(nth).copied()), error.into())
    })?;
    let mut text: Vec<String> = edits.iter().zip(&edited).map(|(edit, edited)| said(edit, edited)).collect();
    if edits.is_empty() {
        text.push("nothing to do: the batch has no command".to_owned());
    }
    let mut text = text.join("\n");
    let said_of: Vec<Device> = edited.iter().flat_map(devices).cloned().collect();
    answer::add_consequences(&mut text, &mut byway, &said_of, &clamped(&edited), Mss::Auto)?;
    let (rules, groups) = left_at_end(&edits, &edited);
    let warnings = answer::warnings_of_changed(&mut byway, rules, &groups);
    Ok(Output { warnings, ..Output::line(text, &edited) })
}

/// One line of a batch.
fn edit(words: &[&str], cli: &clap::Command, options: &Options) -> Result<Edit, Error> {
    let family = options.family();
    let meaning = words::meaning(words, cli).map_err(Error::TooShort)?;
    let rest = &words[meaning.instead_of..];
    let command: Vec<&str> = meaning.words.iter().map(String::as_str).collect();
    let group = || grammar::group(rest).map(|spec| spec.owner(Owner::CLI));
    let rule = || grammar::rule_of(family, rest).map(|spec| spec.owner(Owner::CLI));
    Ok(match command[..] {
        _ if meaning.wants_help => return Err(Error::NoChange("help".to_owned())),
        ["add"] => Edit::Add(rule()?),
        ["replace"] => Edit::Replace(rule()?),
        ["del"] => Edit::Del(grammar::selector_of(family, rest)?),
        ["flush"] if rest.is_empty() => Edit::Flush,
        ["group", "add"] => Edit::AddGroup(group()?),
        ["group", "replace"] => Edit::ReplaceGroup(group()?),
        ["group", "del"] if rest.len() == 1 => Edit::DelGroup(rest[0].to_owned()),
        ["nexthop", "down"] => Edit::TakeOutOfService(grammar::next_hop(rest)?),
        ["nexthop", "up"] => Edit::PutInService(grammar::next_hop(rest)?),
        ["attach"] => Edit::Attach(match &grammar::devices(rest)?[..] {
            [] => Attach::Auto,
            names => Attach::devices(names.iter().copied()),
        }),
        ["detach"] => match &grammar::devices(rest)?[..] {
            [] => Edit::DetachAll,
            names => Edit::Detach(names.iter().map(|name| (*name).to_owned()).collect()),
        },
        _ => return Err(Error::NoChange(words.join(" "))),
    })
}

/// What the command of a line would say.
fn said(edit: &Edit, edited: &Edited) -> String {
    let verb = match edit {
        Edit::Add(_) | Edit::AddGroup(_) => "added",
        Edit::Replace(_) | Edit::ReplaceGroup(_) => "replaced",
        Edit::TakeOutOfService(_) => "out of service",
        Edit::PutInService(_) => "in service",
        Edit::Attach(_) => "attached to",
        Edit::Detach(_) | Edit::DetachAll => "detached from",
        _ => "deleted",
    };
    match edited {
        Edited::Rule(rule) => format!("{verb}: {rule}"),
        Edited::Group(group) => format!("{verb}: group {group}"),
        Edited::NextHop(next_hop) => format!("{verb}: {next_hop}"),
        Edited::Devices(devices) => format!("{verb} {}", render::names(devices)),
        Edited::Rules(rules) => format!("{verb} {}", render::count(rules.len() as u64, "rule")),
        other => format!("{verb}: {other:?}"),
    }
}

/// The devices that a line of a batch says something about.
fn devices(edited: &Edited) -> &[Device] {
    match edited {
        Edited::Devices(devices) => devices,
        _ => &[],
    }
}

/// The rules and the groups that a batch has added or replaced, and not deleted again.
fn left_at_end(edits: &[Edit], edited: &[Edited]) -> (Vec<Rule>, Vec<String>) {
    let (mut rules, mut groups) = (BTreeMap::new(), BTreeSet::new());
    for (edit, edited) in edits.iter().zip(edited) {
        match (edit, edited) {
            (Edit::Add(_) | Edit::Replace(_), Edited::Rule(rule)) => {
                rules.insert(rule.selector(), rule.clone());
            }
            (Edit::Del(selector), _) => drop(rules.remove(selector)),
            (Edit::Flush, _) => rules.clear(),
            (Edit::DelGroup(name), _) => drop(groups.remove(name)),
            (_, Edited::Group(group)) => drop(groups.insert(group.name.clone())),
            _ => {}
        }
    }
    (rules.into_values().collect(), groups.into_iter().collect())
}

/// The next hops that TCP's MSS is clamped for, each once.
fn clamped(edited: &[Edited]) -> Vec<NextHop> {
    let mut next_hops = BTreeSet::new();
    for edited in edited {
        match edited {
            Edited::Rule(rule) if rule.mss == Mss::Auto => next_hops.extend(rule.target.next_hops().cloned()),
            Edited::Group(group) => {
                next_hops.extend(group.members.iter().map(|member| member.next_hop.clone()));
            }
            _ => {}
        }
    }
    next_hops.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn read(line: &str) -> Result<Edit, String> {
        let options = Cli::try_parse_from(["byway", "show"]).unwrap().options;
        let words: Vec<&str> = line.split_whitespace().collect();
        edit(&words, &Cli::command(), &options).map_err(|error| error.to_string())
    }

    #[test]
    fn a_line_is_a_command_that_changes_something() {
        let rule = |text: &str| text.parse::<byway::RuleSpec>().unwrap().owner(Owner::CLI);
        let group = |text: &str| text.parse::<byway::GroupSpec>().unwrap().owner(Owner::CLI);
        let drop = "from 192.0.2.7 drop";
        for (line, edit) in [
            ("add from 192.0.2.7 drop", Edit::Add(rule(drop))),
            ("rule add 192.0.2.7 drop", Edit::Add(rule(drop))),
            ("chg 192.0.2.7 drop", Edit::Replace(rule(drop))),
            ("d 192.0.2.7", Edit::Del("192.0.2.7".parse().unwrap())),
            ("flush", Edit::Flush),
            ("group add up nexthop dev eth1", Edit::AddGroup(group("up nexthop dev eth1"))),
            ("group replace up nexthop dev eth1", Edit::ReplaceGroup(group("up nexthop dev eth1"))),
            ("group delete up", Edit::DelGroup("up".into())),
            ("nexthop down 10.0.0.1", Edit::TakeOutOfService("via 10.0.0.1".parse().unwrap())),
            ("nexthop up dev wg0", Edit::PutInService("dev wg0".parse().unwrap())),
            ("attach", Edit::Attach(Attach::Auto)),
            ("attach dev eth0 eth1", Edit::Attach(Attach::devices(["eth0", "eth1"]))),
            ("detach eth1", Edit::Detach(vec!["eth1".into()])),
            ("detach", Edit::DetachAll),
        ] {
            assert_eq!(read(line), Ok(edit), "{line}");
        }
        for line in ["show", "apply", "attach help", "add help", "group del", "group show", "flush all", "x"]
        {
            assert!(read(line).unwrap_err().contains("a batch has no `"), "{line}");
        }
        assert!(read("add from 192.0.2.7").unwrap_err().contains("needs a target"));
    }
}
