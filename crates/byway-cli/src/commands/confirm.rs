use byway::Byway;
use clap::Args;

use super::Error;
use crate::answer::Answer;

/// Keep what `byway apply --confirm` has changed
#[derive(Debug, Args)]
pub(crate) struct Confirm {}

impl Confirm {
    pub(crate) fn exec(&self) -> Result<Answer, Error> {
        Byway::open()?.confirm()?;
        Ok(Answer::line("confirmed: the last apply stays", serde_json::json!({ "confirmed": true })))
    }
}
