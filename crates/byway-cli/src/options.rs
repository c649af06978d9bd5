//! The options of every command.

use std::time::Duration;

use byway::Family;
use clap::ArgAction;

/// Options of every command.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Print JSON for programs
    #[arg(short, long, global = true)]
    pub(crate) json: bool,
    /// Only IPv4: `show` and `flush` leave out IPv6, and other commands refuse an IPv6 source
    #[arg(short = '4', global = true, overrides_with = "ipv6")]
    ipv4: bool,
    /// Only IPv6, in the same way
    #[arg(short = '6', global = true, overrides_with = "ipv4")]
    ipv6: bool,
    /// Print a line for each rule, group or next hop, in the words that name it
    #[arg(short, long, global = true)]
    pub(crate) oneline: bool,
    /// Print no answer; the exit code says whether it worked
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Log what is changed, and by whom, to the journal or syslog
    #[arg(long, global = true)]
    pub(crate) log: bool,
    #[command(flatten)]
    _understood: Understood,
    /// Wait up to this long (5s, 2m) for another byway that is changing this network namespace
    #[arg(long, global = true, value_name = "TIME", default_value = "60s", value_parser = time)]
    pub(crate) wait: Duration,
}

/// Options of iproute2 that ask for what Byway does in any case.
#[derive(Debug, clap::Args)]
struct Understood {
    /// The JSON is for people as well
    #[arg(short, long, global = true, hide = true, action = ArgAction::Count)]
    pretty: u8,
    /// Counters are shown in any case
    #[arg(short, long, global = true, hide = true, action = ArgAction::Count)]
    statistics: u8,
    /// There are no other details
    #[arg(short, long, global = true, hide = true, action = ArgAction::Count)]
    details: u8,
}

/// A time. A number alone is in seconds, as for watch(1) and timeout(1).
fn time(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let time = seconds.or_else(|| humantime::parse_duration(text).ok());
    time.ok_or_else(|| "this is not a time; write it like 5, 0.5, 60s or 2m".to_owned())
}

/// A time from this one up to a day.
pub(crate) fn time_from(least: Duration, text: &str) -> Result<Duration, String> {
    let most = Duration::from_secs(86_400);
    match time(text)? {
        time if (least..=most).contains(&time) => Ok(time),
        _ => Err(format!("the time must be from {} to 1day", humantime::format_duration(least))),
    }
}

impl Options {
    /// The one family that this is about.
    pub(crate) fn family(&self) -> Option<Family> {
        match (self.ipv4, self.ipv6) {
            (true, _) => Some(Family::V4),
            (_, true) => Some(Family::V6),
            _ => None,
        }
    }
}
