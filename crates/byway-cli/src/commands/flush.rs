use clap::Args;

use super::{Error, Options};
use crate::{output::Output, render::count};

/// Delete all rules
///
/// Attachments and groups stay; `byway detach` and `byway group del` remove them.
#[derive(Debug, Args)]
pub(crate) struct Flush {}

impl Flush {
    pub(crate) fn exec(&self, options: &Options) -> Result<Output, Error> {
        let rules = super::open(options)?.flush()?;
        Ok(Output::line(format!("deleted {}", count(rules.len() as u64, "rule")), &rules))
    }
}
