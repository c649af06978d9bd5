use byway::{RuleStatus, Target};
use clap::Args;

use super::{Error, Options};
use crate::{output::Output, render::count};

/// Delete all rules
///
/// Attachments and groups stay; `byway detach` and `byway group del` remove them. So do rules of a kind that only a newer
/// byway knows.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  byway flush
  byway -6 flush    those with an IPv6 source")]
pub(crate) struct Flush {}

impl Flush {
    pub(crate) fn exec(&self, options: &Options) -> Result<Output, Error> {
        let mut byway = super::open(options)?;
        let rules = match options.family() {
            Some(family) => byway.flush_family(family)?,
            None => byway.flush()?,
        };
        let mut text = format!("deleted {}", count(rules.len() as u64, "rule"));
        let is_unknown = |it: &&RuleStatus| matches!(it.rule.target, Target::Other { .. });
        // The flush is done, whether or not this can be read.
        for left in byway.rules().unwrap_or_default().iter().filter(is_unknown) {
            text += &format!("\nleft alone, since this byway does not know its kind: {}", left.rule);
        }
        Ok(Output::line(text, &rules))
    }
}
