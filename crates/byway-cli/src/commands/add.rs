use clap::Args;

use super::Error;
use crate::{answer::Answer, grammar};

/// Add a rule: what becomes of packets from a source
///
/// Where nothing is attached yet, this attaches to the default-gateway interfaces as well.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  byway add from 192.168.1.5 via 10.111.221.21 dev eth1
  byway add from 192.168.1.0/24 via 10.111.221.21 name office
  byway add from 2001:db8:5::1 dev wg0
  byway add from 192.168.1.7 pass                  an exception: by normal routing
  byway add from 192.168.1.8 drop")]
pub(crate) struct Add {
    /// from PREFIX (via ADDR [dev IF] | dev IF | pass | drop) [name NAME]
    #[arg(value_name = "RULE", num_args = 0..)]
    rule: Vec<String>,
}

impl Add {
    pub(crate) fn exec(&self) -> Result<Answer, Error> {
        let spec = grammar::rule(&self.rule)?;
        super::put("added", |byway| byway.add(&spec))
    }
}
