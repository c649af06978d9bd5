use byway::{Owner, grammar};
use clap::Args;

use super::answer;
use crate::{error::Error, options::Options, output::Output};

/// Add a rule: where packets from a source go
///
/// If nothing is attached yet, it also attaches to the interfaces that carry a default route.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  byway add from 192.168.1.5 via 10.111.221.21 dev eth1
  byway add from 192.168.1.0/24 via 10.111.221.21 name office
  byway add from 2001:db8:5::1 dev wg0
  byway add from 192.168.1.5 to 10.0.0.0/8 pass    an exception: normal routing
  byway add from 192.168.1.8 drop
  byway add from 192.168.1.9 nexthop via 10.1.0.1 weight 2 nexthop via 10.2.0.1
  byway add from 192.168.1.9 group uplinks         `byway group add uplinks ...` adds it")]
pub(crate) struct Add {
    /// from PREFIX [to PREFIX] TARGET [on-down pass|drop] [mss N|off] [name NAME]
    ///
    /// TARGET is `via ADDR [dev IF]`, `dev IF`, `nexthop (via ADDR [dev IF] | dev IF) [weight N] nexthop ...`, `group NAME`,
    /// `pass` or `drop`. `mss` clamps TCP's MSS option, by default to what fits the next hop's device.
    #[arg(value_name = "RULE", num_args = 0..)]
    rule: Vec<String>,
}

impl Add {
    pub(crate) fn exec(&self, options: &Options) -> Result<Output, Error> {
        let spec = grammar::rule_of(options.family(), &self.rule)?.owner(Owner::CLI);
        answer::change_rule(options, "added", |byway| byway.add(&spec))
    }
}
