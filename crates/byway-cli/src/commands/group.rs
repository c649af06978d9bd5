use std::slice;

use byway::{Byway, GroupSpec, GroupStatus, Mss, NextHop, Owner, Selectable, grammar};
use clap::{Args, Subcommand};

use super::{answer, open::open};
use crate::{
    error::Error,
    options::Options,
    output::Output,
    render::{self, Reader, table},
};

/// Name next hops for rules to share
#[derive(Debug, Args)]
pub(crate) struct Group {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Add a group
    #[command(after_help = "\
A flow keeps its next hop as long as that is in service. Rules use the group by its name:
  byway group add uplinks nexthop via 10.1.0.1 dev eth1 weight 2 nexthop via 10.2.0.1 dev eth2
  byway add from 192.168.1.0/24 group uplinks")]
    Add {
        /// NAME nexthop (via ADDR [dev IF] | dev IF) [weight N | backup] nexthop ... [on-down pass|drop]
        #[arg(value_name = "GROUP", num_args = 0..)]
        group: Vec<String>,
    },
    /// Change a group, or add it
    ///
    /// Only those flows move that must: the flows of a next hop that is removed, and the share of one that is new.
    #[command(visible_aliases = ["change", "chg"])]
    Replace {
        /// NAME nexthop (via ADDR [dev IF] | dev IF) [weight N | backup] nexthop ... [on-down pass|drop]
        #[arg(value_name = "GROUP", num_args = 0..)]
        group: Vec<String>,
    },
    /// Delete a group that no rule uses
    #[command(visible_alias = "delete")]
    Del {
        /// The group
        name: String,
    },
    /// Show the groups, or one, or those that a selection chooses
    #[command(visible_aliases = ["list", "ls", "lst"])]
    #[command(after_help = "\
Examples:
  byway group show uplinks
  byway group show dev eth1            those with a next hop there
  byway group show owner cli unused    those that match both: `unused` is without a rule")]
    Show {
        /// NAME | [owner NAME] [via ADDR] [dev IF] [name PATTERN] [unused] [head N]
        #[arg(value_name = "WHICH", num_args = 0..)]
        which: Vec<String>,
    },
}

impl Group {
    pub(crate) fn changes(&self) -> bool {
        !matches!(self.verb, Verb::Show { .. })
    }

    pub(crate) fn exec(&self, options: &Options) -> Result<Output, Error> {
        let mut byway = open(options)?;
        let (said, group) = match &self.verb {
            Verb::Add { group } => ("added", byway.add_group(&spec(group)?)?),
            Verb::Replace { group } => ("replaced", byway.replace_group(&spec(group)?)?),
            Verb::Del { name } => {
                let group = byway.del_group(name)?;
                return Ok(Output::line(format!("deleted: group {group}"), &group));
            }
            Verb::Show { which } => return show(&mut byway, which, options),
        };
        let mut text = format!("{said}: group {group}");
        let next_hops: Vec<NextHop> = group.members.iter().map(|member| member.next_hop.clone()).collect();
        let mismatches = byway.mtu_mismatches(&next_hops);
        for mismatch in mismatches.map_err(|error| Error::from(error).after_change(&text))? {
            text += &format!("\n{}", render::mtu_mismatch(&mismatch, Mss::Auto));
        }
        let warnings = answer::warnings_of_changed(&mut byway, Vec::new(), slice::from_ref(&group.name));
        Ok(Output { warnings, ..Output::line(text, &group) })
    }
}

fn show(byway: &mut Byway, which: &[String], options: &Options) -> Result<Output, Error> {
    let all = byway.groups()?;
    let (rows, text) = match which {
        // A group may be called like a word that needs a value.
        [name] if name != "unused" => {
            let rows: Vec<&GroupStatus> = all.iter().filter(|it| it.group.name == *name).collect();
            if rows.is_empty() {
                return Err(byway::Error::NoSuchGroup(name.clone()).into());
            }
            let text = table::groups(&rows, rows.len(), Reader::of_stdout());
            (rows, text)
        }
        words => {
            let selection = grammar::selection(Selectable::Groups, options.family(), words)?;
            let rows = selection.groups(&all);
            let text = match rows.is_empty() && !all.is_empty() {
                true => answer::none_matches("group", &selection),
                false => table::groups(&rows, all.len(), Reader::of_stdout()),
            };
            (rows, text)
        }
    };
    let output = Output::line(text, &rows);
    if options.oneline {
        let line = |it: &&GroupStatus| format!("{}\n", GroupSpec::from(&it.group));
        return Ok(Output { text: rows.iter().map(line).collect(), ..output });
    }
    Ok(output)
}

fn spec(words: &[String]) -> Result<GroupSpec, Error> {
    Ok(grammar::group(words)?.owner(Owner::CLI))
}
