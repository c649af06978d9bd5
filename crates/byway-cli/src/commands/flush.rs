use byway::{RuleStatus, Target};
use clap::Args;

use super::{Error, Options};
use crate::{output::Output, render::count};

/// Delete all rules
///
/// Attachments and groups stay; `byway detach` and `byway group del` remove them. Rules that a newer byway has made of a kind of its own stay as well.
#[derive(Debug, Args)]
pub(crate) struct Flush {}

impl Flush {
    pub(crate) fn exec(&self, options: &Options) -> Result<Output, Error> {
        let mut byway = super::open(options)?;
        let rules = byway.flush()?;
        let mut text = format!("deleted {}", count(rules.len() as u64, "rule"));
        let is_unknown = |it: &&RuleStatus| matches!(it.rule.target, Target::Other { .. });
        for left in byway.rules()?.iter().filter(is_unknown) {
            text += &format!("\nleft alone, since this byway does not know its kind: {}", left.rule);
        }
        Ok(Output::line(text, &rules))
    }
}
