use byway::{Byway, grammar};
use clap::{Args, Subcommand};

use super::Error;
use crate::output::Output;

/// Take a next hop out of service, or put it back
///
/// It is out of service in every rule and group that has it. Its flows go to the other next hops of their group, or
/// where there is none, by what `on-down` says.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  byway nexthop down via 10.1.0.1 dev eth1
  byway nexthop up via 10.1.0.1")]
pub(crate) struct Nexthop {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Take a next hop out of service
    Down {
        /// via ADDR [dev IF] | dev IF
        #[arg(value_name = "NEXTHOP", num_args = 0..)]
        next_hop: Vec<String>,
    },
    /// Put a next hop back into service
    Up {
        /// via ADDR [dev IF] | dev IF
        #[arg(value_name = "NEXTHOP", num_args = 0..)]
        next_hop: Vec<String>,
    },
}

impl Nexthop {
    pub(crate) fn exec(&self) -> Result<Output, Error> {
        let (words, is_down) = match &self.verb {
            Verb::Down { next_hop } => (next_hop, true),
            Verb::Up { next_hop } => (next_hop, false),
        };
        let next_hop = Byway::open()?.set_next_hop_down(&grammar::next_hop(words)?, is_down)?;
        let said = if is_down { "out of service" } else { "in service" };
        Ok(Output::line(format!("{said}: {next_hop}"), &next_hop))
    }
}
