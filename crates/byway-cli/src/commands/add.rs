use byway::Byway;
use clap::Args;

use super::rule::RuleWords;
use crate::{error::Error, options::Options, output::Output};

/// Add a rule: where packets from a source go
///
/// If nothing is attached yet, it also attaches to the interfaces that carry a default route.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  byway add from any reply-to                      replies leave the way their requests came in
  byway add from any reply-to dev eth1 dev wg0     only for requests that came in there
  byway add from 192.168.1.5 reply-to else via 10.111.221.21 dev eth1
  byway add from 192.168.1.5 via 10.111.221.21 dev eth1
  byway add from 192.168.1.0/24 via 10.111.221.21 name office
  byway add from 2001:db8:5::1 dev wg0
  byway add from 192.168.1.5 to 10.0.0.0/8 pass    an exception: normal routing
  byway add from 192.168.1.8 drop
  byway add from 192.168.1.9 nexthop via 10.1.0.1 weight 2 nexthop via 10.2.0.1
  byway add from 192.168.1.9 group uplinks         `byway group add uplinks ...` adds it")]
pub(crate) struct Add {
    #[command(flatten)]
    rule: RuleWords,
}

impl Add {
    pub(crate) fn exec(&self, options: &Options) -> Result<Output, Error> {
        self.rule.change(options, "added", Byway::add_all)
    }
}
