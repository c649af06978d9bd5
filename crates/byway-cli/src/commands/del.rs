use byway::grammar::{self, GrammarError};
use clap::Args;

use super::open::open;
use crate::{error::Error, options::Options, output::Output};

/// Delete a rule
///
/// From then on, its packets follow the next less specific rule, or normal routing. Attachments stay.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  byway del 192.168.1.5
  byway del from 192.168.1.5 to 10.0.0.0/8")]
pub(crate) struct Del {
    /// [from] PREFIX [to PREFIX]
    #[arg(value_name = "SELECTOR", num_args = 0..)]
    selector: Vec<String>,
}

impl Del {
    pub(crate) fn exec(&self, options: &Options) -> Result<Output, Error> {
        let selector =
            grammar::selector_of(options.family(), &self.selector).map_err(|error| match error {
                // A whole rule, as people paste it.
                GrammarError::Unknown(word, _)
                    if grammar::rule_of(options.family(), &self.selector).is_ok() =>
                {
                    let expected =
                        "`from` and `to` alone: they name the rule, whatever it does with the packets";
                    GrammarError::Unknown(word, expected.to_owned())
                }
                error => error,
            })?;
        let rule = open(options)?.del(&selector)?;
        Ok(Output::line(format!("deleted: {rule}"), &rule))
    }
}
