use byway::{Owner, grammar};
use clap::Args;

use super::answer;
use crate::{error::Error, options::Options, output::Output};

/// Change a rule, or add it
///
/// Each packet sees either the old rule or the new one. The counters of a changed rule start at zero.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  byway replace from 192.168.1.5 via 10.111.221.22 dev eth1")]
pub(crate) struct Replace {
    /// from PREFIX [to PREFIX] TARGET [on-down pass|drop] [mss N|off] [name NAME]
    ///
    /// TARGET is `via ADDR [dev IF]`, `dev IF`, `nexthop (via ADDR [dev IF] | dev IF) [weight N] nexthop ...`, `group NAME`,
    /// `pass` or `drop`. `mss` clamps TCP's MSS option, by default to what fits the next hop's device.
    #[arg(value_name = "RULE", num_args = 0..)]
    rule: Vec<String>,
}

impl Replace {
    pub(crate) fn exec(&self, options: &Options) -> Result<Output, Error> {
        let spec = grammar::rule_of(options.family(), &self.rule)?.owner(Owner::CLI);
        answer::change_rule(options, "replaced", |byway| byway.replace(&spec))
    }
}
