//! `cargo xtask bench`: measures what Byway costs, and what the alternatives cost in the same run.
//!
//! It measures contestants in turn, round after round, so that other work of the machine affects all of them alike. The
//! figure is the median of the rounds, with the lowest and the highest beside it.

mod agent;
mod bulk;
mod chart;
mod compare;
mod control;
mod figures;
mod forward;
mod local;
mod minimal;
mod packet;
mod reply_to;
mod results;
mod vary;
mod waiting;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};

use figures::Chart;
use results::Results;

/// Measure what byway costs.
#[derive(Args)]
pub(crate) struct Bench {
    #[command(subcommand)]
    what: Option<What>,
    /// How many rounds (7, or 3 with --quick)
    #[arg(long, global = true)]
    rounds: Option<usize>,
    /// Short measurements, to see that all of it works
    #[arg(long, global = true)]
    quick: bool,
    /// Keep the results in FOLDER: results.json, where those of the other parts stay, and charts
    #[arg(long, global = true, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Build another revision, one with this command, and measure both in turn
    #[arg(long, global = true, value_name = "REV", conflicts_with = "out")]
    compare: Option<String>,
}

/// Without one of these: packet, control, forward, local, bulk, reply-to and agent.
#[derive(Subcommand)]
enum What {
    /// Nanoseconds of the programs for one packet (BPF_PROG_TEST_RUN)
    Packet,
    /// Packets a second through a router: byway, `ip rule`, nftables and plain routing, over the number of rules; and by
    /// two CPUs at once
    Forward,
    /// How long changes of rules take, and what memory the rules; what traffic and others notice of the largest change
    Control,
    /// Datagrams and connections a second of this host's own sockets: plain routing, `ip rule` and byway
    Local,
    /// A gigabyte over TCP, and the time of an answer: plain routing, `ip rule` and byway
    Bulk,
    /// What `reply-to` costs: nanoseconds for a packet that comes in and for its reply, over the number of flows; and replies
    /// a second through a router
    ReplyTo,
    /// How many packets are lost when a next hop dies, with another one behind it
    Agent,
    /// Measure nothing: draw the charts again from what is in --out
    Draw,
}

/// How much to measure.
#[derive(Clone, Copy)]
struct Effort {
    /// How many turns each contestant has.
    rounds: usize,
    /// Whether it is enough to see that it works.
    quick: bool,
}

impl Effort {
    /// Returns one of two values: the thorough one, or the one that takes less time.
    fn choose<T>(self, thorough: T, quick: T) -> T {
        if self.quick { quick } else { thorough }
    }
}

/// A part of the benchmark: its name, and the function that measures it.
type Part = (&'static str, fn(Effort) -> Result<Vec<Chart>>);

const PACKET: Part = ("packet", packet::measure);
const CONTROL: Part = ("control", control::measure);
const FORWARD: Part = ("forward", forward::measure);
const LOCAL: Part = ("local", local::measure);
const BULK: Part = ("bulk", bulk::measure);
const REPLY_TO: Part = ("reply-to", reply_to::measure);
const AGENT: Part = ("agent", agent::measure);

impl Bench {
    pub(crate) fn exec(self) -> Result<()> {
        let rounds = self.rounds.unwrap_or(if self.quick { 3 } else { 7 });
        ensure!(rounds > 0, "no rounds, no figures: give --rounds at least 1");
        let effort = Effort { rounds, quick: self.quick };
        let parts = match self.what {
            None => vec![PACKET, CONTROL, FORWARD, LOCAL, BULK, REPLY_TO, AGENT],
            Some(What::Packet) => vec![PACKET],
            Some(What::Control) => vec![CONTROL],
            Some(What::Forward) => vec![FORWARD],
            Some(What::Local) => vec![LOCAL],
            Some(What::Bulk) => vec![BULK],
            Some(What::ReplyTo) => vec![REPLY_TO],
            Some(What::Agent) => vec![AGENT],
            Some(What::Draw) => {
                let folder = self.out.context("draw which results? Name their folder with --out")?;
                return Results::read(&folder)?.draw(&folder);
            }
        };
        if let Some(revision) = &self.compare {
            let names: Vec<&str> = parts.iter().map(|(name, _)| *name).collect();
            return compare::with(revision, &names, effort);
        }
        // Find out now if the results cannot be kept, and not after hours.
        let mut results = self.out.as_deref().map(Results::open).transpose()?;
        for (name, measure) in parts {
            let charts = measure(effort)?;
            for chart in &charts {
                chart.print();
            }
            if let (Some(results), Some(folder)) = (&mut results, &self.out) {
                results.put(name, effort, charts)?;
                results.write(folder)?;
                results.draw(folder)?;
            }
        }
        Ok(())
    }
}
