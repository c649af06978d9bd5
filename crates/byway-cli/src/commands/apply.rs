use std::{
    env,
    io::{self, BufRead, BufReader, Write},
    process::{Command, Stdio},
    time::Duration,
};

use byway::Owner;
use clap::Args;

use super::{
    answer,
    file::{AS_FILE, Configuration},
};
use crate::{
    error::Error,
    options::{Options, time_from},
    output::Output,
    render::{changes, progress::with_bar},
};

/// Apply a configuration
///
/// Makes the changes that `byway diff` shows, all in one instant, or none if anything goes wrong. Rules and groups that
/// were added by hand stay.
///
/// A next hop that cannot work yet waits: its device is not there or down, or its gateway is not on-link. Its flows go to the
/// other next hops of the group, or do what `on-down` says. The next change that finds the device completes it. Exit code 4
/// says that something waits.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  byway apply
  byway apply byway.toml
  byway apply --confirm 60s    rolled back after a minute, unless `byway confirm` comes
  byway apply --strict         nothing may wait
  generate | byway apply -     from standard input")]
pub(crate) struct Apply {
    /// Roll back after this time (60s, 5m), unless `byway confirm` comes first
    ///
    /// This works even if the terminal, the ssh session or this command is gone by then.
    #[arg(long, value_name = "TIME", value_parser = time_to_confirm)]
    confirm: Option<Duration>,
    #[command(flatten)]
    configuration: Configuration,
}

impl Apply {
    pub(crate) fn exec(&self, options: &Options) -> Result<Output, Error> {
        let (config, mut warnings) = self.configuration.read()?;
        let mut byway = with_bar(self.configuration.open(options)?);
        let mut unconfirmed = None;
        let changes = match self.confirm {
            None => byway.apply(Owner::CONFIG, &config)?,
            Some(within) => byway.apply_until_confirmed(&config, within, |token| {
                unconfirmed = Some(within);
                start_guard(token, options.log)
            })?,
        };
        answer::stream(options, |out| {
            if options.json {
                return changes::write_json(&changes, unconfirmed, out);
            }
            changes::write_done(&changes, AS_FILE, out)?;
            match unconfirmed {
                Some(within) => writeln!(
                    out,
                    "rolls back in {}, unless `byway confirm` comes first",
                    humantime::format_duration(within)
                )
                .map_err(Error::Print),
                None => Ok(()),
            }
        })
        .map_err(|error| error.after_change("the configuration is applied"))?;
        let done = (!changes.is_empty()).then(|| changes::done(&changes, AS_FILE));
        warnings.extend(answer::warnings_of(&mut byway, &changes));
        if !config.health_checks.is_empty() && matches!(byway.has_agent(), Ok(false)) {
            warnings.push(
                "nobody carries out the health checks; `byway run` does, or byway-agent.service".to_owned(),
            );
        }
        Ok(Output { exit_code: answer::exit_code_of(&changes), done, warnings, ..Output::printed() })
    }
}

/// Nobody can confirm in less than a second.
fn time_to_confirm(text: &str) -> Result<Duration, String> {
    time_from(Duration::from_secs(1), text)
}

/// Starts the process that rolls the apply back, and waits until it no longer depends on this one.
fn start_guard(token: &str, log: bool) -> io::Result<()> {
    let mut guard = Command::new(env::current_exe()?);
    guard.args(["guard", token]).args(log.then_some("--log"));
    let mut guard = guard.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut ready = String::new();
    if let Some(output) = guard.stdout.take() {
        BufReader::new(output).read_line(&mut ready)?;
    }
    if ready.is_empty() { Err(io::Error::other("it ended at once")) } else { Ok(()) }
}
