//! The rule that `add` and `replace` are given.

use std::slice;

use byway::{Byway, NextHop, Owner, Rule, RuleSpec, grammar};
use clap::Args;

use super::{answer, open::open};
use crate::{error::Error, options::Options, output::Output, render};

/// A rule, in words.
#[derive(Debug, Args)]
pub(super) struct RuleWords {
    /// from PREFIX [to PREFIX] TARGET [on-down pass|drop] [mss N|off] [name NAME]
    ///
    /// TARGET is `via ADDR [dev IF]`, `dev IF`, `nexthop (via ADDR [dev IF] | dev IF) [weight N] nexthop ...`, `group NAME`,
    /// `pass` or `drop`. `mss` clamps TCP's MSS option, by default to what fits the next hop's device.
    #[arg(value_name = "RULE", num_args = 0..)]
    words: Vec<String>,
}

impl RuleWords {
    /// Adds or replaces the rule, and says which interfaces this attached to.
    pub(super) fn change(
        &self,
        options: &Options,
        said: &str,
        change: fn(&mut Byway, &RuleSpec) -> byway::Result<Rule>,
    ) -> Result<Output, Error> {
        let spec = grammar::rule_of(options.family(), &self.words)?.owner(Owner::CLI);
        let mut byway = open(options)?;
        let before = render::watched(&byway.attachments()?);
        let rule = change(&mut byway, &spec)?;
        let mut text = format!("{said}: {rule}");
        let next_hops: Vec<NextHop> = rule.target.next_hops().cloned().collect();
        answer::add_consequences(&mut text, &mut byway, &before, &next_hops, rule.mss)?;
        let warnings = answer::warnings(&mut byway, slice::from_ref(&rule));
        Ok(Output { warnings, ..Output::line(text, &rule) })
    }
}
