use byway::grammar;
use clap::Args;

use super::{Error, Options};
use crate::{output::Output, render};

/// Attach to interfaces: packets that leave by them follow the rules
///
/// Without a name, attaches to the interfaces that carry a default route now, of either family.
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
        let attached = super::open(options)?.attach(&devices)?;
        Ok(Output::line(format!("attached to {}", render::names(&attached)), &attached))
    }
}
