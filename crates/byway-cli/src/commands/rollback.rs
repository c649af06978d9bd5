use clap::Args;

use super::{answer, open::open_as_it_is};
use crate::{
    error::Error,
    options::Options,
    output::Output,
    render::{changes, progress::with_bar},
};

/// Undo the last apply
///
/// Restores the configuration's rules and groups, and the attachments if the apply changed them. It works once: after that
/// there is nothing to go back to until the next apply.
#[derive(Debug, Args)]
pub(crate) struct Rollback {}

impl Rollback {
    pub(crate) fn exec(&self, options: &Options) -> Result<Output, Error> {
        let changes = with_bar(open_as_it_is(options)?).rollback()?;
        answer::stream(options, |out| {
            if options.json {
                changes::write_json(&changes, None, out)
            } else {
                changes::write_done(&changes, "as before", out)
            }
        })
        .map_err(|error| error.after_change("rolled back"))?;
        let done = (!changes.is_empty()).then(|| changes::done(&changes, "as before"));
        Ok(Output { exit_code: answer::exit_code_of(&changes), done, ..Output::printed() })
    }
}
