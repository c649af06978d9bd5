use byway::Byway;
use clap::Args;

use super::Error;
use crate::{
    output::Output,
    render::{changes, progress::with_bar},
};

/// Go back to what held before the last apply
///
/// That is the configuration's rules and groups, and the attachments if they changed with it. It works once: then there is
/// nothing to go back to until the next apply.
#[derive(Debug, Args)]
pub(crate) struct Rollback {}

impl Rollback {
    pub(crate) fn exec(&self, json: bool) -> Result<Output, Error> {
        let changes = with_bar(Byway::open()?).rollback()?;
        super::print(|out| {
            if json {
                changes::write_json(&changes, out)
            } else {
                changes::write_done(&changes, "as before", out)
            }
        })?;
        Ok(Output::printed())
    }
}
