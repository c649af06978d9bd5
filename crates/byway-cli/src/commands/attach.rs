use byway::grammar;
use clap::Args;

use super::{answer, open::open};
use crate::{error::Error, options::Options, output::Output, render};

/// Attach to interfaces: packets that leave by them follow the rules
///
/// Without a name, attaches to the interfaces that carry a default route now, of either family. Once you name one, all
/// attachments count as named.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  byway attach
  byway attach eth0 eth1")]
pub(crate) struct Attach {
    /// [dev] IF...
    #[arg(value_name = "DEVICES", num_args = 0..)]
    devices: Vec<String>,
}

impl Attach {
    pub(crate) fn exec(&self, options: &Options) -> Result<Output, Error> {
        let devices = grammar::devices(&self.devices)?;
        let devices = if devices.is_empty() { byway::Attach::Auto } else { byway::Attach::devices(devices) };
        let mut byway = open(options)?;
        let before = byway.attachments()?;
        let attached = byway.attach(&devices)?;
        // The change is made, whatever can be seen of it.
        let after = byway.attachments().unwrap_or_default();
        let named = answer::no_longer_by_route(&before, &after, &attached);
        Ok(Output::line(format!("attached to {}{named}", render::names(&attached)), &attached))
    }
}
