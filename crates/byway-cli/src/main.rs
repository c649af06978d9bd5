//! The `byway` command: words to the library's calls, and their results to words.

#![forbid(unsafe_code)]

mod commands;
mod output;
mod render;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;

use crate::{
    commands::{Command, Options},
    output::Output,
};

/// Send egress traffic to a next hop by its source address.
///
/// A rule says where packets from a source go: `from 192.168.1.5 via 10.111.221.21 dev eth1`. The longest matching
/// source prefix wins; order never matters. Rules live in the kernel: there is no daemon, and they stay when this
/// command ends.
#[derive(Debug, Parser)]
#[command(name = "byway", version, arg_required_else_help = true, after_help = after_help())]
struct Cli {
    /// Work in this network namespace: a name that `ip netns` knows, or a path like /proc/PID/ns/net
    #[arg(long, global = true, value_name = "NAME|PATH")]
    netns: Option<String>,
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Command,
}

fn after_help() -> String {
    let demo = if cfg!(feature = "demo") {
        "  byway demo                        see the problem and the cure on this machine\n"
    } else {
        ""
    };
    format!("{EXAMPLES}{demo}{EXIT_CODES}")
}

const EXAMPLES: &str = "\
Examples:
  byway add from 192.168.1.5 via 10.111.221.21 dev eth1
  byway add from 2001:db8:5::/64 via 2001:db8:1::1   (device from the route)
  byway add from 192.168.1.7 pass   an exception; `drop` drops
  byway show                        rules with their counters, and attachments
  byway show from 192.168.1.5       one rule with its counters
  byway --netns blue show           the same in another network namespace
  byway check                       find mistakes in /etc/byway/byway.toml
  byway diff                        show what `byway apply` would change here
";

const EXIT_CODES: &str = "
Exit codes: 0 done; 1 failed, nothing half-done; 2 usage or invalid input;
3 `diff` found differences; 4 done, and part of it waits for a device or a route.";

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(answer) => print(&answer, cli.options.json),
        Err(error) => {
            // If even this cannot be written, the exit code has to do.
            let _ = writeln!(anstream::stderr(), "byway: {}", printable(&error.to_string()));
            ExitCode::from(error.exit_code())
        }
    }
}

/// An error may quote what comes from outside, such as the name of a network namespace. Nothing of that may move the cursor.
fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|it| match it {
            it if it.is_control() && it != '\n' => it.escape_default().collect::<Vec<_>>(),
            it => vec![it],
        })
        .collect()
}

fn run(cli: &Cli) -> Result<Output, commands::Error> {
    if let Some(name) = &cli.netns {
        byway::enter_namespace(name)?;
    }
    cli.command.exec(&cli.options)
}

fn print(answer: &Output, json: bool) -> ExitCode {
    let text = match &answer.json {
        Some(value) if json => format!("{value:#}\n"),
        None if json => String::new(),
        _ => answer.text.clone(),
    };
    let mut out = anstream::stdout();
    let written = out.write_all(text.as_bytes());
    match written.and_then(|()| out.flush()) {
        Ok(()) => ExitCode::from(answer.exit_code),
        // The reader has seen enough, as with `byway show | head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::from(answer.exit_code),
        Err(_) => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn an_error_moves_no_cursor() {
        assert_eq!(super::printable("a\x1b[2Jb\u{9b}c\nd"), "a\\u{1b}[2Jb\\u{9b}c\nd");
    }

    #[test]
    fn the_command_line_is_well_formed() {
        super::Cli::command().debug_assert();
    }
}
