//! Measures one connection: its speed, and the time of an answer.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use byway::{Byway, NextHopSpec, RuleSpec};
use byway_lab::{
    Service,
    seed::{Addresses, IPV4, IPV6, Seed},
};

use super::{
    Effort,
    figures::{Chart, Figures, Series, in_turn},
};

const GIGABYTE: u64 = 1_000_000_000;
/// How many questions to ask in one round, one after the other.
const QUESTIONS: usize = 20_000;
/// The questions, and the answers.
const QUESTION: [u8; 64] = [0x42; 64];
const TIMEOUT: Duration = Duration::from_secs(120);
pub(super) const FAMILIES: [(&str, Addresses); 2] = [("IPv4", IPV4), ("IPv6", IPV6)];
/// What makes replies leave through the router.
pub(super) const WAYS: [&str; 3] = ["plain routing", "byway", "ip rule"];

/// Sends a gigabyte from server to client, and small questions with small answers, in both families.
pub(super) fn measure(effort: Effort) -> Result<Vec<Chart>> {
    let (mut speeds, mut medians, mut tails) = (Vec::new(), Vec::new(), Vec::new());
    for (family, addresses) in FAMILIES {
        let hosts = Hosts::new(&addresses)?;

        let address = SocketAddr::new(addresses.service, 30100);
        let services = hosts.serve(|seed| seed.server.tcp_bulk_serve(address))?;
        let bytes = effort.choose(GIGABYTE, GIGABYTE / 4);
        let figures = in_turn(effort.rounds, &hosts.all(), |seed| {
            let bulk = seed.client.tcp_bulk(address, bytes, TIMEOUT)?;
            Ok([bulk.bits_per_second() / 1e9])
        })?;
        speeds.extend(WAYS.iter().zip(figures).map(|(way, [speed])| Series::bar(family, way, speed)));
        drop(services);

        let address = SocketAddr::new(addresses.service, 30101);
        let services = hosts.serve(|seed| seed.server.tcp_serve(address))?;
        let questions = effort.choose(QUESTIONS, QUESTIONS / 10);
        let figures: Vec<[Figures; 2]> = in_turn(effort.rounds, &hosts.all(), |seed| {
            let mut took = seed.client.tcp_round_trips(address, &QUESTION, questions, TIMEOUT)?;
            ensure!(!took.is_empty(), "no questions, no answers");
            took.sort();
            let percentile = |part: usize| took[(took.len() * part / 100).min(took.len() - 1)];
            Ok([50, 99].map(|part| percentile(part).as_secs_f64() * 1e6))
        })?;
        for (way, [median, tail]) in WAYS.iter().zip(figures) {
            medians.push(Series::bar(family, way, median));
            tails.push(Series::bar(family, way, tail));
        }
        drop(services);
    }
    Ok(vec![
        Chart::bars(
            "bulk",
            "A gigabyte over TCP from server to client, segmentation offload on",
            "Gbit/s",
            speeds,
        ),
        Chart::bars("latency", "The time of an answer of 64 bytes over TCP, median", "µs", medians),
        Chart::bars(
            "latency-p99",
            "The time of an answer of 64 bytes over TCP, 99th percentile",
            "µs",
            tails,
        ),
    ])
}

/// Three sets of the same hosts, one for each of [`WAYS`]. A lab inside another one must end before it, and fields are
/// dropped from the first to the last.
pub(super) struct Hosts {
    byway: Seed,
    rule: Seed,
    plain: Seed,
}

impl Hosts {
    pub(super) fn new(addresses: &Addresses) -> Result<Self> {
        let host = if addresses.service.is_ipv4() { 32 } else { 128 };
        let plain = Seed::new()?;
        plain.server.route(&format!("{}/{host} via {}", addresses.client, addresses.router))?;
        let rule = Seed::new()?;
        rule.server.route(&format!("default via {} dev eth1 table 100", addresses.router))?;
        rule.server.rule(&format!("from {} lookup 100", addresses.service))?;
        let byway = Seed::new()?;
        add(&byway, &addresses.service.to_string(), addresses)?;
        Ok(Self { byway, rule, plain })
    }

    /// In the order of [`WAYS`].
    pub(super) fn all(&self) -> [&Seed; 3] {
        [&self.plain, &self.byway, &self.rule]
    }

    fn serve(&self, start: impl Fn(&Seed) -> std::io::Result<Service>) -> Result<Vec<Service>> {
        Ok(self.all().into_iter().map(start).collect::<std::io::Result<_>>()?)
    }
}

/// Adds a rule on the server: packets from `source` go to the router.
pub(super) fn add(seed: &Seed, source: &str, addresses: &Addresses) -> Result<()> {
    let spec = RuleSpec::new(source.parse()?, NextHopSpec::via(addresses.router).dev("eth1"));
    seed.server.run(|| Byway::open()?.add(&spec))?;
    Ok(())
}
