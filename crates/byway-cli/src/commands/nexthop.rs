use byway::grammar;
use clap::{Args, Subcommand};

use super::open::open;
use crate::{error::Error, options::Options, output::Output};

/// Take a next hop out of service, or put it back
///
/// This applies to every rule and group that uses it. Its flows move to the other next hops of the rule or group. If none
/// is in service, `on-down` decides.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  byway nexthop down via 10.1.0.1 dev eth1
  byway nexthop up 10.1.0.1
  byway nexthop show                   as `byway show nexthops`
  byway nexthop show dev eth1          those by this device")]
pub(crate) struct Nexthop {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Take a next hop out of service
    Down {
        /// [via] ADDR [dev IF] | dev IF
        #[arg(value_name = "NEXTHOP", num_args = 0..)]
        next_hop: Vec<String>,
    },
    /// Put a next hop back into service
    Up {
        /// [via] ADDR [dev IF] | dev IF
        #[arg(value_name = "NEXTHOP", num_args = 0..)]
        next_hop: Vec<String>,
    },
}

impl Nexthop {
    pub(crate) fn exec(&self, options: &Options) -> Result<Output, Error> {
        let (said, next_hop) = match &self.verb {
            Verb::Down { next_hop } => {
                ("out of service", open(options)?.take_out_of_service(&grammar::next_hop(next_hop)?)?)
            }
            Verb::Up { next_hop } => {
                ("in service", open(options)?.put_in_service(&grammar::next_hop(next_hop)?)?)
            }
        };
        Ok(Output::line(format!("{said}: {next_hop}"), &next_hop))
    }
}
