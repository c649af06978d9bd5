use std::path::PathBuf;

use byway::{inspect_config, lint_host};
use clap::Args;
use serde_json::{Value, json};

use super::file::FILE;
use crate::{
    error::{Error, name},
    help,
    options::Options,
    output::Output,
    render::{count, problems},
};

/// Check a configuration, and show every mistake in it
///
/// Shows all mistakes at once, each with its place and the fix. Needs no privilege, and runs on any kernel.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  byway check
  byway check --offline byway.toml      a file for another host
  byway --json check byway.toml | jq '.problems[].message'

Exit codes: 0 if there are no errors, even with warnings; 2 if there are errors.")]
pub(crate) struct Check {
    /// The configuration; `*.toml` in the folder beside it belong to it (`byway.d` for `byway.toml`). `-` is standard input
    #[arg(value_name = "FILE", default_value = FILE)]
    file: PathBuf,
    /// Do not compare it with this host: its devices, next hops, routes and `rp_filter`
    #[arg(long)]
    offline: bool,
}

impl Check {
    pub(crate) fn exec(&self, options: &Options) -> Result<Output, Error> {
        let mut reading = inspect_config(&self.file)?;
        let obstacles = if self.offline { Vec::new() } else { lint_host(&mut reading)? };
        if !options.json {
            for warning in problems::of_unsafe_files(&reading) {
                anstream::eprintln!("byway: warning: {warning}");
            }
            problems::print(&reading).map_err(Error::Print)?;
        }
        // With many problems in a large file this takes a moment.
        let problems = if options.json { problems::json(&reading, &obstacles) } else { Value::Null };
        let Some(config) = &reading.config else {
            let text = format!("{}: {}\n", name(&self.file), problems::counted(&reading));
            let json = Some(json!({ "rules": null, "groups": null, "problems": problems }));
            return Ok(Output { text, json, exit_code: 2, ..Output::printed() });
        };
        let (rules, groups) = (config.rule_count(), config.groups.len());
        let mut text = format!(
            "{}: {}, {}",
            name(&self.file),
            count(rules as u64, "rule"),
            count(groups as u64, "group")
        );
        if !reading.problems.is_empty() || !reading.unsafe_files.is_empty() {
            text += &format!(", {}", problems::counted(&reading));
        }
        // They are in the JSON.
        let warnings = match options.json {
            true => Vec::new(),
            false => obstacles.iter().map(help::of_obstacle).collect(),
        };
        let json = json!({ "rules": rules, "groups": groups, "problems": problems });
        Ok(Output { warnings, ..Output::line(text, json) })
    }
}
