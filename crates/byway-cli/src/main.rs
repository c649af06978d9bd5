//! The `byway` command: words to the library's calls, and their results to words.

#![forbid(unsafe_code)]

mod commands;
mod error;
mod help;
mod log;
mod options;
mod output;
mod render;
mod words;

use std::{
    env,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    sync::LazyLock,
};

use clap::{CommandFactory, FromArgMatches, Parser, error::ErrorKind};

use crate::{
    commands::Command,
    error::Error,
    options::Options,
    output::{Output, printable},
};

/// Send egress traffic to a next hop by its source address.
///
/// A rule says where packets from a source go: `from 192.168.1.5 via 10.111.221.21 dev eth1`. The longest matching
/// source prefix wins; order never matters. Rules live in the kernel, and stay when this command ends.
#[derive(Debug, Parser)]
#[command(name = "byway", version = version(), propagate_version = true, args_override_self = true)]
#[command(arg_required_else_help = true, after_help = after_help())]
struct Cli {
    /// Work in this network namespace: a name that `ip netns` knows, or a path like /proc/PID/ns/net
    #[arg(short, long, global = true, value_name = "NAME|PATH")]
    netns: Option<String>,
    /// Make the changes that a file lists, one command on each line, in one instant; `-` is standard input
    #[arg(short, long, value_name = "FILE")]
    batch: Option<PathBuf>,
    /// When to use colours; by default, on a terminal
    #[arg(short, long, global = true, value_name = "WHEN", num_args = 0..=1, require_equals = true,
        default_missing_value = "always")]
    color: Option<Colour>,
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Option<Command>,
}

impl Cli {
    /// Whether it changes something. Without a command it is a batch, which does.
    fn changes(&self) -> bool {
        self.command.as_ref().is_none_or(Command::changes)
    }
}

/// When to use colours.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Colour {
    Always,
    Auto,
    Never,
}

impl Colour {
    fn set(self) {
        match self {
            Self::Always => anstream::ColorChoice::Always,
            Self::Auto => anstream::ColorChoice::Auto,
            Self::Never => anstream::ColorChoice::Never,
        }
        .write_global();
    }
}

/// The version of the command, and that of the pins that it makes and reads.
fn version() -> &'static str {
    static VERSION: LazyLock<String> =
        LazyLock::new(|| format!("{} (schema {})", env!("CARGO_PKG_VERSION"), byway::SCHEMA));
    &VERSION
}

fn after_help() -> String {
    let demo = if cfg!(feature = "demo") {
        "  byway demo                        see the problem and the cure on this machine\n"
    } else {
        ""
    };
    format!("{EXAMPLES}{demo}{REST}")
}

const EXAMPLES: &str = "\
Examples:
  byway add from 192.168.1.5 via 10.111.221.21 dev eth1
  byway add from 2001:db8:5::/64 via 2001:db8:1::1   (device from the route)
  byway add from 192.168.1.7 pass   an exception; `drop` drops
  byway show                        rules with their counters, and attachments
  byway show 192.168.1.5            one rule with its counters
  byway --netns blue show           the same in another network namespace
  byway get 192.168.1.5 to 8.8.8.8  what becomes of a packet, and why
  byway check                       find mistakes in /etc/byway/byway.toml
  byway diff                        show what `byway apply` would change here
  byway -b FILE                     many changes at once
";

const REST: &str = "
Commands may be cut short: `byway a` is add, `d` del, `s` and `l` show, `r` replace.
What changes everything at once (flush, detach, apply, rollback) is written out.

Exit codes: 0 done; 1 failed, nothing half-done unless it says so;
2 usage or invalid input; 3 `diff` found differences;
4 done, and part of it waits for a device or a route;
5 not possible on this host as it is; 6 not found; 7 already there; 8 no privilege;
9 done, but what came of it could not be read or printed.";

fn main() -> ExitCode {
    let cli = parsed().unwrap_or_else(|error| error.exit());
    if let Some(colour) = cli.color {
        colour.set();
    }
    let answer = run(&cli);
    if cli.options.log {
        note(&cli, &answer);
    }
    let printed = answer.and_then(|answer| {
        let exit_code = print(&cli, &answer)?;
        for warning in &answer.warnings {
            // The answer is out, and no warning is worth another exit code.
            let _ = writeln!(anstream::stderr(), "byway: warning: {warning}");
        }
        Ok(exit_code)
    });
    match printed {
        Ok(exit_code) => ExitCode::from(exit_code),
        Err(error) => {
            // If even this cannot be written, the exit code has to do.
            let _ = writeln!(anstream::stderr(), "byway: {}", printable(&error.to_string()));
            ExitCode::from(error.exit_code())
        }
    }
}

/// The command line. Its description is made once, and never freed: making it costs more than parsing, and so does
/// freeing it.
fn parsed() -> Result<Cli, clap::Error> {
    let command = Box::leak(Box::new(Cli::command()));
    let arguments = words::translated(env::args_os().skip(1).collect(), command)
        .map_err(|sentence| command.error(ErrorKind::InvalidSubcommand, sentence))?;
    let all = env::args_os().take(1).chain(arguments);
    let mut matches = command.try_get_matches_from_mut(all)?;
    Cli::from_arg_matches_mut(&mut matches).map_err(|error| error.format(command))
}

/// Logs what has been changed, if anything was.
fn note(cli: &Cli, answer: &Result<Output, Error>) {
    if !cli.changes() {
        return;
    }
    match answer {
        Ok(Output { done: Some(done), .. }) if done.is_empty() => {}
        Ok(Output { done: Some(done), .. }) => log::changed(done),
        Ok(answer) if !answer.text.is_empty() => log::changed(&answer.text),
        Err(Error::PrintChange { done, .. } | Error::Unread { done, .. }) => log::changed(done),
        _ => {}
    }
}

fn run(cli: &Cli) -> Result<Output, Error> {
    let wrong = |kind, sentence| Cli::command().error(kind, sentence).exit();
    let enter = || cli.netns.as_deref().map_or(Ok(()), byway::enter_namespace);
    match (&cli.command, &cli.batch) {
        (Some(command), None) => enter().map_err(Into::into).and_then(|()| command.exec(&cli.options)),
        (None, Some(file)) => enter().map_err(Into::into).and_then(|()| commands::batch(file, &cli.options)),
        (Some(_), Some(_)) => wrong(
            ErrorKind::ArgumentConflict,
            "with `--batch`, the commands are in the file; leave out the command after it",
        ),
        (None, None) => wrong(ErrorKind::MissingSubcommand, "a command is missing; `byway help` lists them"),
    }
}

/// Prints an answer, and returns the exit code.
fn print(cli: &Cli, answer: &Output) -> Result<u8, Error> {
    let text = match &answer.json {
        _ if cli.options.quiet => String::new(),
        Some(value) if cli.options.json => format!("{value:#}\n"),
        None if cli.options.json => String::new(),
        _ => answer.text.clone(),
    };
    let mut out = anstream::stdout();
    let written = out.write_all(text.as_bytes());
    match written.and_then(|()| out.flush()) {
        Ok(()) => Ok(answer.exit_code),
        // The reader has seen enough, as with `byway show | head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(answer.exit_code),
        Err(error) => {
            let error = Error::Print(error);
            Err(if cli.changes() { error.after_change(&answer.text) } else { error })
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_version_says_the_schema_in_one_line() {
        let expected = format!("byway {} (schema {})\n", env!("CARGO_PKG_VERSION"), byway::SCHEMA);
        assert_eq!(super::Cli::command().render_version(), expected);
    }

    #[test]
    fn the_command_line_is_well_formed() {
        super::Cli::command().debug_assert();
    }
}
