use byway::Byway;
use clap::Args;

use super::rule::RuleWords;
use crate::{error::Error, options::Options, output::Output};

/// Change a rule, or add it
///
/// Each packet sees either the old rule or the new one. The counters of a changed rule start at zero.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  byway replace from 192.168.1.5 via 10.111.221.22 dev eth1")]
pub(crate) struct Replace {
    #[command(flatten)]
    rule: RuleWords,
}

impl Replace {
    pub(crate) fn exec(&self, options: &Options) -> Result<Output, Error> {
        self.rule.change(options, "replaced", Byway::replace_all)
    }
}
