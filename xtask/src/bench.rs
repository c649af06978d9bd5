//! `cargo xtask bench`: what Byway costs, as a ratio in one run.
//!
//! Contestants are measured in turn, round after round, so that what else the machine does meets all of them alike.
//! The figure is the median over the rounds; the lowest and the highest stand beside it.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aya::{
    TestRunOptions,
    programs::{SchedClassifier, TestRun},
};
use byway::{Byway, Mss, NextHopSpec, OnDown, Owner, RuleSpec, TargetSpec};
use byway_lab::seed::{Addresses, IPV4, IPV6, Seed};
use clap::{Args, Subcommand};

/// Measure what byway costs.
#[derive(Args)]
pub(crate) struct Bench {
    #[command(subcommand)]
    what: What,
    /// How many rounds
    #[arg(long, global = true, default_value_t = 7)]
    rounds: usize,
}

#[derive(Subcommand)]
enum What {
    /// Nanoseconds of the programs for one packet (BPF_PROG_TEST_RUN)
    Packet,
    /// A gigabyte over TCP: plain routing, `ip rule` and byway
    Bulk,
}

impl Bench {
    pub(crate) fn exec(self) -> Result<()> {
        ensure!(self.rounds > 0, "no rounds, no figures: give --rounds at least 1");
        match self.what {
            What::Packet => packet(self.rounds),
            What::Bulk => bulk(self.rounds),
        }
    }
}

/// A contestant's figures, one a round.
struct Figures {
    name: String,
    values: Vec<f64>,
}

impl Figures {
    fn of(name: impl Into<String>) -> Self {
        Self { name: name.into(), values: Vec::new() }
    }

    fn median(&self) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
    }
}

/// Prints a table with the ratio of each to the first.
fn print(unit: &str, all: &[Figures]) {
    println!(
        "{:34}{:>10}{:>10}{:>10}{:>8}",
        format!("median of {} ", all[0].values.len()),
        unit,
        "lowest",
        "highest",
        "ratio"
    );
    for figures in all {
        let lowest = figures.values.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = figures.values.iter().copied().fold(0.0, f64::max);
        println!(
            "{:34}{:>10.1}{:>10.1}{:>10.1}{:>8.2}",
            figures.name,
            figures.median(),
            lowest,
            highest,
            figures.median() / all[0].median()
        );
    }
}

fn add(seed: &Seed, source: &str, addresses: &Addresses) -> Result<()> {
    let spec = RuleSpec {
        selector: source.parse()?,
        target: TargetSpec::NextHop(NextHopSpec::ViaDev(addresses.router, "eth1".into())),
        on_down: OnDown::Pass,
        mss: Mss::Auto,
        owner: Owner::Api,
        name: None,
    };
    seed.server.run(|| Byway::open()?.add(&spec))?;
    Ok(())
}

/// How often the program runs in one figure.
const REPEAT: u32 = 2_000_000;
/// `TC_ACT_REDIRECT`
const REDIRECT: u32 = 7;

fn packet(rounds: usize) -> Result<()> {
    let seed = Seed::new()?;
    for addresses in [IPV4, IPV6] {
        add(&seed, &addresses.service.to_string(), &addresses)?;
    }
    for prefix in ["10.80.0.0/16", "2001:db8:80::/48"] {
        add(&seed, prefix, if prefix.contains(':') { &IPV6 } else { &IPV4 })?;
    }
    let folder = fs::read_dir("/sys/fs/bpf/byway")?.next().context("nothing is pinned")??.path();
    let departure = SchedClassifier::from_pin(folder.join("departure"))?;
    // `struct __sk_buff` (include/uapi/linux/bpf.h), of which the program needs the device alone.
    let mut context = [0; 192];
    context[40..44].copy_from_slice(&seed.server.ifindex("eth0")?.to_ne_bytes());
    let contestants: [(&str, &str, &str); 6] = [
        ("miss, IPv4", "10.99.0.1", "203.0.113.9"),
        ("miss, IPv6", "2001:db8:99::1", "2001:db8:f::9"),
        ("hit by host rule, IPv4", "192.168.1.5", "203.0.113.9"),
        ("hit by host rule, IPv6", "2001:db8:1::5", "2001:db8:f::9"),
        ("hit by prefix rule, IPv4", "10.80.1.1", "203.0.113.9"),
        ("hit by prefix rule, IPv6", "2001:db8:80::1", "2001:db8:f::9"),
    ];
    let mut figures: Vec<Figures> = contestants.iter().map(|(name, ..)| Figures::of(*name)).collect();
    for _ in 0..rounds {
        for (figures, (name, source, destination)) in figures.iter_mut().zip(contestants) {
            let frame = udp_frame(source.parse()?, destination.parse()?);
            let options = TestRunOptions {
                data_in: Some(&frame),
                ctx_in: Some(&context),
                repeat: REPEAT,
                ..TestRunOptions::default()
            };
            // The kernel looks for the device in the network namespace of the caller.
            let ran = seed.server.run(|| departure.test_run(options))?;
            let nanoseconds = ran.duration.as_nanos() as f64;
            // The kernel runs the program on one packet again and again, and the mark and the Ethernet addresses stay
            // on it: a hit is a departure, a second redirect as after a wait for the neighbour, and an arrival. The last
            // run here is a second redirect.
            let is_hit = name.starts_with("hit");
            ensure!(
                is_hit == (ran.return_value == REDIRECT),
                "{name}: the program says {}",
                ran.return_value
            );
            figures.values.push(if is_hit { nanoseconds * 3.0 } else { nanoseconds });
        }
    }
    println!("One packet through byway's programs; a hit is departure, second redirect and arrival.");
    print("ns", &figures);
    Ok(())
}

/// The smallest UDP frame: it is looked at, never sent.
fn udp_frame(source: IpAddr, destination: IpAddr) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            frame.extend([0x08, 0x00, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            frame.extend([0x86, 0xDD, 0x60, 0, 0, 0, 0, 8, 17, 64]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        _ => {}
    }
    frame.extend([0; 8]);
    frame
}

const GIGABYTE: u64 = 1_000_000_000;

fn bulk(rounds: usize) -> Result<()> {
    for (family, addresses) in [("IPv4", IPV4), ("IPv6", IPV6)] {
        let address = SocketAddr::new(addresses.service, 30100);
        let host = if addresses.service.is_ipv4() { 32 } else { 128 };
        let plain = Seed::new()?;
        plain.server.route(&format!("{}/{host} via {}", addresses.client, addresses.router))?;
        let rule = Seed::new()?;
        rule.server.route(&format!("default via {} dev eth1 table 100", addresses.router))?;
        rule.server.rule(&format!("from {} lookup 100", addresses.service))?;
        let byway = Seed::new()?;
        add(&byway, &addresses.service.to_string(), &addresses)?;

        let hosts = [plain, rule, byway];
        let services = hosts
            .iter()
            .map(|seed| seed.server.tcp_bulk_serve(address))
            .collect::<std::io::Result<Vec<_>>>()?;
        let names = ["plain routing", "ip rule", "byway"];
        let mut figures: Vec<Figures> =
            names.iter().map(|name| Figures::of(format!("{family}, {name}"))).collect();
        for _ in 0..rounds {
            for (seed, figures) in hosts.iter().zip(&mut figures) {
                let bulk = seed.client.tcp_bulk(address, GIGABYTE, Duration::from_secs(120))?;
                figures.values.push(bulk.bits_per_second() / 1e9);
            }
        }
        println!("A gigabyte over TCP from server to client, segmentation offload on.");
        print("Gbit/s", &figures);
        drop(services);
        // A lab inside another one ends before it.
        let [plain, rule, byway] = hosts;
        drop(byway);
        drop(rule);
        drop(plain);
    }
    Ok(())
}
