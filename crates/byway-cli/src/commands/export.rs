use std::io::Write;

use byway::Byway;
use clap::Args;

use super::Error;
use crate::output::Output;

/// Print what holds as a configuration
///
/// All rules, groups and attachments, whoever put them in. To apply it changes nothing, as long as its next hops can be
/// reached.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  byway export > byway.toml")]
pub(crate) struct Export {}

impl Export {
    pub(crate) fn exec(&self) -> Result<Output, Error> {
        let config = Byway::open()?.export()?;
        super::print(|out| write!(out, "{config}").map_err(Error::Print))?;
        Ok(Output::printed())
    }
}
