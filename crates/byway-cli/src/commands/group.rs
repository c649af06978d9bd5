use byway::{GroupSpec, GroupStatus, Mss, NextHop, Owner, grammar};
use clap::{Args, Subcommand};

use super::{Error, Options};
use crate::{
    output::Output,
    render::{self, table},
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
        /// NAME nexthop (via ADDR [dev IF] | dev IF) [weight N] nexthop ... [on-down pass|drop]
        #[arg(value_name = "GROUP", num_args = 0..)]
        group: Vec<String>,
    },
    /// Change a group, or add it
    ///
    /// Only those flows move that must: the flows of a next hop that is removed, and the share of one that is new.
    #[command(visible_aliases = ["change", "chg"])]
    Replace {
        /// NAME nexthop (via ADDR [dev IF] | dev IF) [weight N] nexthop ... [on-down pass|drop]
        #[arg(value_name = "GROUP", num_args = 0..)]
        group: Vec<String>,
    },
    /// Delete a group that no rule uses
    #[command(visible_alias = "delete")]
    Del {
        /// The group
        name: String,
    },
    /// Show the groups, or one
    #[command(visible_aliases = ["list", "ls", "lst"])]
    Show {
        /// The group
        name: Option<String>,
    },
}

impl Group {
    pub(crate) fn changes(&self) -> bool {
        !matches!(self.verb, Verb::Show { .. })
    }

    pub(crate) fn exec(&self, options: &Options) -> Result<Output, Error> {
        let mut byway = super::open(options)?;
        let (said, group) = match &self.verb {
            Verb::Add { group } => ("added", byway.add_group(&spec(group)?)?),
            Verb::Replace { group } => ("replaced", byway.replace_group(&spec(group)?)?),
            Verb::Del { name } => {
                let group = byway.del_group(name)?;
                return Ok(Output::line(format!("deleted: group {group}"), &group));
            }
            Verb::Show { name } => {
                let mut groups = byway.groups()?;
                if let Some(name) = name {
                    groups.retain(|it| it.group.name == *name);
                    if groups.is_empty() {
                        return Err(byway::Error::NoSuchGroup(name.clone()).into());
                    }
                }
                let output = Output::line(table::groups(&groups), &groups);
                if options.oneline {
                    let line = |it: &GroupStatus| format!("{}\n", GroupSpec::from(&it.group));
                    return Ok(Output { text: groups.iter().map(line).collect(), ..output });
                }
                return Ok(output);
            }
        };
        let mut text = format!("{said}: group {group}");
        let next_hops: Vec<NextHop> = group.members.iter().map(|member| member.next_hop.clone()).collect();
        for mismatch in byway.mtu_mismatches(&next_hops)? {
            text += &format!("\n{}", render::mtu_mismatch(&mismatch, Mss::Auto));
        }
        Ok(Output::line(text, &group))
    }
}

fn spec(words: &[String]) -> Result<GroupSpec, Error> {
    Ok(grammar::group(words)?.owner(Owner::CLI))
}
