use byway::grammar;
use clap::Args;

use super::{answer, open::open};
use crate::{error::Error, options::Options, output::Output, render};

/// Detach from interfaces
///
/// Without a name, detaches from all. Rules stay, but do nothing without an attachment. Once there are no rules, groups and
/// attachments, nothing of Byway is left in the kernel.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  byway detach
  byway detach eth1")]
pub(crate) struct Detach {
    /// [dev] IF...
    #[arg(value_name = "DEVICES", num_args = 0..)]
    devices: Vec<String>,
}

impl Detach {
    pub(crate) fn exec(&self, options: &Options) -> Result<Output, Error> {
        let devices = grammar::devices(&self.devices)?;
        let mut byway = open(options)?;
        let before = byway.attachments()?;
        let detached = if devices.is_empty() { byway.detach_all()? } else { byway.detach(&devices)? };
        let text = if detached.is_empty() {
            "nothing was attached".to_owned()
        } else {
            // The change is made, whatever can be seen of it.
            let named = answer::no_longer_by_route(&before, &byway.attachments().unwrap_or_default(), &[]);
            format!("detached from {}{named}", render::names(&detached))
        };
        Ok(Output::line(text, &detached))
    }
}
