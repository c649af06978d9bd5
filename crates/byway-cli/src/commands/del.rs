use byway::Byway;
use clap::Args;

use super::Error;
use crate::{answer::Answer, grammar};

/// Delete the rule for a source
///
/// Its packets go by the next less specific rule from then on, or by the routing table. Attachments stay.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  byway del from 192.168.1.5")]
pub(crate) struct Del {
    /// from PREFIX
    #[arg(value_name = "SOURCE", num_args = 0..)]
    source: Vec<String>,
}

impl Del {
    pub(crate) fn exec(&self) -> Result<Answer, Error> {
        let source = grammar::source(&self.source)?;
        let rule = Byway::open()?.del(&source)?;
        Ok(Answer::line(format!("deleted: {rule}"), &rule))
    }
}
