use std::io::Write;

use clap::Args;

use super::{answer, open::open};
use crate::{error::Error, options::Options, output::Output};

/// Print the current state as a configuration
///
/// Prints all rules, groups and attachments, of every owner. Applying it changes nothing, as long as devices and routes
/// stay as they are.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  byway export > byway.toml")]
pub(crate) struct Export {}

impl Export {
    pub(crate) fn exec(&self, options: &Options) -> Result<Output, Error> {
        let config = open(options)?.export()?;
        answer::stream(options, |out| write!(out, "{config}").map_err(Error::Print))?;
        Ok(Output::printed())
    }
}
