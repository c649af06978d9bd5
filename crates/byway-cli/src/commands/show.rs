use std::{
    io::{self, IsTerminal, Write},
    thread,
    time::{Duration, Instant},
};

use byway::{Byway, Status};
use clap::{Args, ValueEnum};

use super::Error;
use crate::{
    answer::Answer,
    render::table::{self, Since},
};

/// Show rules with their counters, and what is attached where
#[derive(Debug, Args)]
#[command(after_help = "\
PACKETS and BYTES are what the rule has met. ARRIVED is what of it reached the
egress of the next hop's device; the rest waits for the next hop's neighbour, or
is lost because that does not answer. DOWN is what found no next hop in service.

Examples:
  byway show
  byway show nexthops
  byway show --watch            look again every second, with rates
  byway --json show --watch=5   one line of JSON every five seconds")]
pub(crate) struct Show {
    /// What to show: everything, or the next hops, or what left by the attachments
    what: Option<What>,
    /// Look again and again, and show rates between two looks
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "1",
        value_parser = clap::value_parser!(u64).range(1..=86_400))]
    watch: Option<u64>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum What {
    /// Next hops: their state, and what went there
    Nexthops,
    /// Attachments: what left by them, and why it was left alone
    Attachments,
}

impl Show {
    pub(crate) fn exec(&self, json: bool) -> Result<Answer, Error> {
        let mut byway = Byway::open()?;
        let Some(seconds) = self.watch else {
            let status = byway.status()?;
            return Ok(Answer::line(self.text(&status, None), &status));
        };
        let mut before: Option<(Status, Instant)> = None;
        loop {
            let (status, now) = (byway.status()?, Instant::now());
            let since =
                before.as_ref().map(|(status, then)| Since { status, seconds: (now - *then).as_secs_f64() });
            let look = if json {
                // Plain data always has a JSON form.
                serde_json::to_string(&status).unwrap_or_default()
            } else {
                self.text(&status, since.as_ref())
            };
            match print(&look, json) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    return Ok(Answer::printed(().into()));
                }
                printed => printed.map_err(Error::Print)?,
            }
            before = Some((status, now));
            thread::sleep(Duration::from_secs(seconds));
        }
    }

    fn text(&self, status: &Status, since: Option<&Since<'_>>) -> String {
        match self.what {
            None => table::listing(status, since),
            Some(What::Nexthops) => table::next_hops(status, since),
            Some(What::Attachments) => table::attachments(status, since),
        }
    }
}

/// Prints one look: over the one before on a terminal, else behind it.
fn print(look: &str, json: bool) -> io::Result<()> {
    let mut out = anstream::stdout();
    if json {
        writeln!(out, "{look}")?;
    } else if io::stdout().is_terminal() {
        writeln!(out, "\x1b[H\x1b[2J{look}")?;
    } else {
        write!(out, "{look}\n\n")?;
    }
    out.flush()
}
