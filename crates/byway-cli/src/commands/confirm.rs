use clap::Args;

use super::open::open;
use crate::{error::Error, options::Options, output::Output};

/// Keep what `byway apply --confirm` has changed
#[derive(Debug, Args)]
pub(crate) struct Confirm {}

impl Confirm {
    pub(crate) fn exec(&self, options: &Options) -> Result<Output, Error> {
        let has_waited = open(options)?.confirm()?;
        let line = if has_waited {
            "confirmed: the last apply stays"
        } else {
            "no apply is waiting to be confirmed"
        };
        Ok(Output::line(line, serde_json::json!({ "confirmed": has_waited })))
    }
}
