use std::io::{self, Write};

use byway::Byway;
use clap::Args;

use super::{answer, open::open};
use crate::{
    error::Error,
    options::Options,
    output::Output,
    render::metrics::{self, Measured},
};

/// Print the counters and states for Prometheus
///
/// They are in Prometheus's text format. The textfile collector of node_exporter reads them from a file whose name ends in
/// `.prom`. The table of flows is read as well, if there is one, which takes some milliseconds.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  byway metrics > /var/lib/prometheus/node-exporter/byway.prom.new &&
    mv /var/lib/prometheus/node-exporter/byway.prom.new \\
      /var/lib/prometheus/node-exporter/byway.prom
  byway metrics --most 100")]
pub(crate) struct Metrics {
    /// Show at most so many rules, the first ones of `byway show`
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    most: usize,
}

impl Metrics {
    pub(crate) fn exec(&self, options: &Options) -> Result<Output, Error> {
        let text = text(read(&mut open(options)?, self.most)?)?;
        answer::stream(options, |out| out.write_all(text.as_bytes()).map_err(Error::Print))?;
        Ok(Output::printed())
    }
}

/// Reads everything that is measured, of the first `most` rules.
pub(super) fn read(byway: &mut Byway, most: usize) -> Result<metrics::Metrics, Error> {
    let listing = byway.listing()?;
    let flows = byway.flows(None)?;
    let mut all = metrics::Metrics::new();
    for rule in listing.rules().take(most) {
        all.rule(&rule?);
    }
    all.rest(&Measured {
        rules: listing.rule_count(),
        attachments: &listing.attachments,
        groups: &listing.groups,
        next_hops: &listing.next_hops,
        flows: &flows,
        unconfirmed: listing.unconfirmed,
    });
    Ok(all)
}

/// Writes it as text.
pub(super) fn text(all: metrics::Metrics) -> Result<String, Error> {
    metrics::text(all).map_err(|error| Error::Print(io::Error::other(error)))
}
