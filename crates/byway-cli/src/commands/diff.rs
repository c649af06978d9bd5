use std::path::PathBuf;

use byway::Owner;
use clap::Args;

use super::{
    answer,
    file::{self, FILE},
    open::open,
};
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
    /// The configuration; `-` is standard input
    #[arg(value_name = "FILE", default_value = FILE)]
    file: PathBuf,
    /// Refuse the configuration where something would wait
    #[arg(long)]
    strict: bool,
}

impl Diff {
    pub(crate) fn exec(&self, options: &Options) -> Result<Output, Error> {
        let (config, mut warnings) = file::inspect(&self.file)?;
        let mut byway = open(options)?;
        if self.strict {
            byway = byway.with_strict();
        }
        let changes = byway.diff(Owner::CONFIG, &config)?;
        answer::stream(options, |out| match options.json {
            true => changes::write_json(&changes, byway.unconfirmed().unwrap_or_default(), out),
            false => changes::write_diff(&changes, out),
        })?;
        warnings.extend(answer::warnings_of(&mut byway, &changes));
        Ok(Output { exit_code: if changes.is_empty() { 0 } else { 3 }, warnings, ..Output::printed() })
    }
}
