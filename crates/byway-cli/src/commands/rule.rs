//! The rule that `add` and `replace` are given.

use byway::{Byway, Mss, NextHop, Owner, Rule, RuleSpec, grammar};
use clap::Args;

use super::{answer, open::open};
use crate::{error::Error, options::Options, output::Output};

/// A rule, in words.
#[derive(Debug, Args)]
pub(super) struct RuleWords {
    /// from PREFIX [to PREFIX] (TARGET | reply-to [dev IF]... [else TARGET]) [on-down pass|drop] [mss N|off] [name NAME]
    ///
    /// TARGET is `via ADDR [dev IF]`, `dev IF`, `nexthop (via ADDR [dev IF] | dev IF) [weight N | backup] nexthop ...`, `group NAME`,
    /// `pass` or `drop`. `via dhcp dev IF` and `via ra dev IF` mean the gateway that the host learns there. `reply-to` sends
    /// replies back the way that their requests came in, or only those of requests that came in by the interfaces that `dev`
    /// names, and leaves the rest to TARGET, or to normal routing. `mss` clamps TCP's MSS option, by default to what fits the
    /// next hop's device.
    #[arg(value_name = "RULE", num_args = 0..)]
    words: Vec<String>,
}

impl RuleWords {
    /// Adds or replaces the rule, or for `from any reply-to` the two of both families, and says which interfaces this attached
    /// to.
    pub(super) fn change(
        &self,
        options: &Options,
        said: &str,
        change: fn(&mut Byway, &[RuleSpec]) -> byway::Result<Vec<Rule>>,
    ) -> Result<Output, Error> {
        let specs = grammar::rules_of(options.family(), &self.words)?;
        let specs: Vec<RuleSpec> = specs.into_iter().map(|spec| spec.owner(Owner::CLI)).collect();
        let mut byway = open(options)?;
        let rules = change(&mut byway, &specs)?;
        let lines: Vec<String> = rules.iter().map(|rule| format!("{said}: {rule}")).collect();
        let mut text = lines.join("\n");
        let next_hops: Vec<NextHop> =
            rules.iter().flat_map(|rule| rule.target.next_hops()).cloned().collect();
        let mss = rules.first().map_or(Mss::Auto, |rule| rule.mss);
        answer::add_consequences(&mut text, &mut byway, &[], &next_hops, mss)?;
        let warnings = answer::warnings(&mut byway, &rules);
        let answer = match &rules[..] {
            [rule] => Output::line(text, rule),
            several => Output::line(text, several),
        };
        Ok(Output { warnings, ..answer })
    }
}
