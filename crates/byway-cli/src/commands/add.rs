use byway::Byway;
use clap::Args;

use super::Error;
use crate::{answer::Answer, grammar};

/// Add a rule: packets from a source go to a next hop
///
/// Where nothing is attached yet, this attaches to the default-gateway interfaces as well.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  byway add from 192.168.1.5 via 10.111.221.21 dev eth1
  byway add from 192.168.1.0/24 via 10.111.221.21 name office
  byway add from 2001:db8:5::1 dev wg0")]
pub(crate) struct Add {
    /// from PREFIX (via ADDR [dev IF] | dev IF) [name NAME]
    #[arg(value_name = "RULE", num_args = 0..)]
    rule: Vec<String>,
}

impl Add {
    pub(crate) fn exec(&self) -> Result<Answer, Error> {
        let spec = grammar::rule(&self.rule)?;
        let rule = Byway::open()?.add(&spec)?;
        Ok(Answer::line(format!("added: {rule}"), &rule))
    }
}
