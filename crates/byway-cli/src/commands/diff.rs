use byway::Owner;
use clap::Args;

use super::{answer, file::Configuration};
use crate::{error::Error, options::Options, output::Output, render::changes};

/// Show what `apply` would change, and change nothing
///
/// Exit code 0 if nothing differs, 3 if something does.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  byway diff
  byway diff byway.toml
  byway --json diff | jq .counts")]
pub(crate) struct Diff {
    #[command(flatten)]
    configuration: Configuration,
}

impl Diff {
    pub(crate) fn exec(&self, options: &Options) -> Result<Output, Error> {
        let (config, mut warnings) = self.configuration.inspect()?;
        let mut byway = self.configuration.open(options)?;
        let changes = byway.diff(Owner::CONFIG, &config)?;
        answer::stream(options, |out| match options.json {
            true => changes::write_json(&changes, byway.unconfirmed().unwrap_or_default(), out),
            false => changes::write_diff(&changes, out),
        })?;
        warnings.extend(answer::warnings_of(&mut byway, &changes));
        Ok(Output { exit_code: if changes.is_empty() { 0 } else { 3 }, warnings, ..Output::printed() })
    }
}
