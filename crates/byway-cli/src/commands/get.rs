use byway::grammar;
use clap::Args;

use super::open::open;
use crate::{error::Error, options::Options, output::Output, render::get};

/// Show what becomes of a packet, and why
///
/// Like `ip route get`, but the source comes first. Byway looks up what its programs look up, and asks the kernel for the
/// route. It sends no packet and changes no counter.
#[derive(Debug, Args)]
#[command(after_help = "\
SRC is the packet's source as it leaves, after NAT. A flow of several next hops goes
to one of them by its addresses, its protocol and its ports. Where something is left
out that matters, the answer says so.

Examples:
  byway get 192.168.1.5 to 198.51.100.9
  byway get 192.168.1.5 to 198.51.100.9 proto tcp sport 443 dport 50000
  byway get 10.0.0.7 to 198.51.100.9 iif eth2   a packet that this host forwards
  byway --json get 192.168.1.5")]
pub(crate) struct Get {
    /// SRC [to DST] [proto P] [sport N] [dport N] [iif IF]
    #[arg(value_name = "FLOW", num_args = 0..)]
    flow: Vec<String>,
}

impl Get {
    pub(crate) fn exec(&self, options: &Options) -> Result<Output, Error> {
        let flow = grammar::flow(&self.flow)?;
        let decision = open(options)?.get(&flow)?;
        Ok(Output::line(get::decision(&decision), &decision))
    }
}
