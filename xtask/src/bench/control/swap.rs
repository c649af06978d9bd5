//! Measures what others notice while many rules are replaced all at once: packets on their way, and whoever needs a
//! processor.

use std::{
    cell::Cell,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use byway::{Byway, Mss, RuleSpec};
use byway_lab::{
    Node,
    seed::{IPV4, Seed},
};

use super::{RULES, rule, timers, traffic};
use crate::bench::{
    Effort,
    figures::{Chart, Figures, Series, in_turn, readable},
    vary::address,
};

/// The addresses of the second next hop, and of the server on the link to it.
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 111, 223, 21));
/// The destination of the packets, which both next hops take (RFC 5737).
const DESTINATION: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9));
/// How long to wait until the kernel has freed the old tables, which it does after the call.
const AFTERWARDS: Duration = Duration::from_secs(1);

/// What to do meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    Nothing,
    Replacing,
    Deleting,
}

impl Doing {
    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing changes",
            Self::Replacing => "all rules replaced",
            Self::Deleting => "all rules deleted",
        }
    }
}

pub(super) fn measure(effort: Effort) -> Result<Vec<Chart>> {
    let size = RULES[effort.choose(RULES.len(), RULES.len() - 1) - 1];
    let hosts = Hosts::new(size)?;
    // First only find out how long it takes. All then last equally long: otherwise more would be seen of the longer ones.
    let start = Instant::now();
    hosts.swap()?;
    let long = start.elapsed() + AFTERWARDS;

    let rounds = effort.rounds.min(3);
    let doings = [Doing::Nothing, Doing::Replacing];
    let of_packets: Vec<[Figures; 3]> = in_turn(rounds, &doings, |doing| hosts.packets(*doing, long))?;
    let all_doings = [Doing::Nothing, Doing::Replacing, Doing::Deleting];
    let of_timers = in_turn(rounds, &all_doings, |doing| hosts.stall(*doing, long))?;

    let (mut lost, mut gaps, mut most) = (Vec::new(), Vec::new(), 0.0_f64);
    for (doing, [packets, sent, gap]) in doings.iter().zip(of_packets) {
        most = most.max(sent.median());
        lost.push(Series::bar("", doing.name(), packets));
        gaps.push(Series::bar("", doing.name(), gap));
    }
    let stalls = all_doings.iter().zip(of_timers);
    let stalls = stalls.map(|(doing, [late])| Series::bar("", doing.name(), late)).collect();
    let (rules, sent) = (readable(size.into()), readable(most.round()));
    let title = |what: &str| format!("{what}; {rules} rules");
    let title_lost = title(&format!("Packets lost, of some {sent} that are sent meanwhile"));
    let title_gaps = title("The longest time between two packets that come");
    let title_stalls = title("The longest that a timer of 1 ms was late on any CPU");
    Ok(vec![
        Chart::bars("swap-lost", &title_lost, "packets", lost),
        Chart::bars("swap-gap", &title_gaps, "µs", gaps),
        Chart::bars("stall", &title_stalls, "µs", stalls),
    ])
}

/// The server of the seed with two next hops, and two sets of rules for the same sources: one to each.
struct Hosts {
    seed: Seed,
    other: Node,
    sets: [Vec<RuleSpec>; 2],
    /// Which of the sets is in force.
    now: Cell<usize>,
}

impl Hosts {
    fn new(size: u32) -> Result<Self> {
        let seed = Seed::new()?;
        let other = seed.lab.node("other")?;
        seed.lab.link((&seed.server, "eth2"), (&other, "eth0"))?;
        seed.server.address("eth2", "10.111.223.11/24")?;
        other.address("eth0", &format!("{OTHER}/24"))?;
        seed.server.address("lo", &format!("{}/32", address(true, 0)))?;
        for node in [&seed.router, &other] {
            node.address("lo", &format!("{DESTINATION}/32"))?;
        }
        let sets = [(IPV4.router, "eth1"), (OTHER, "eth2")]
            .map(|(gateway, device)| (0..size).map(|nth| rule(nth, gateway, device, Mss::Auto)).collect());
        let hosts = Self { seed, other, sets, now: Cell::new(0) };
        hosts.add()?;
        Ok(hosts)
    }

    fn add(&self) -> Result<()> {
        let set = &self.sets[self.now.get()];
        Ok(self.seed.server.run(|| Byway::open()?.add_all(set).map(drop))?)
    }

    fn swap(&self) -> Result<()> {
        let next = 1 - self.now.get();
        let set = &self.sets[next];
        self.seed.server.run(|| Byway::open()?.replace_all(set).map(drop))?;
        self.now.set(next);
        Ok(())
    }

    /// Does it, and then waits until `long` has passed since the beginning.
    fn work(&self, doing: Doing, long: Duration) -> Result<()> {
        let until = Instant::now() + long;
        match doing {
            Doing::Nothing => {}
            Doing::Replacing => self.swap()?,
            Doing::Deleting => self.seed.server.run(|| Byway::open()?.flush().map(drop))?,
        }
        thread::sleep(until.saturating_duration_since(Instant::now()));
        Ok(())
    }

    /// Returns how many packets are lost meanwhile, of how many, and for how many microseconds none arrives.
    fn packets(&self, doing: Doing, long: Duration) -> Result<[f64; 3]> {
        let sender = self.seed.server.run(|| UdpSocket::bind((address(true, 0), 0)))?;
        let first = self.seed.router.datagram_receiver((DESTINATION, 0).into())?;
        let to = first.local_addr()?;
        let receivers = [first, self.other.datagram_receiver(to)?];
        let before = self.now.get();
        let seen = traffic::seen(&sender, to, &receivers, || self.work(doing, long))?;
        for next_hop in [before, self.now.get()] {
            ensure!(!seen.arrivals[next_hop].is_empty(), "{doing:?}: nothing has come to a next hop");
        }
        Ok([seen.lost() as f64, seen.sent as f64, seen.longest_gap().as_secs_f64() * 1e6])
    }

    /// Returns how many microseconds a timer is late at most.
    fn stall(&self, doing: Doing, long: Duration) -> Result<[f64; 1]> {
        let late = timers::latest(|| self.work(doing, long))?;
        if doing == Doing::Deleting {
            self.add()?;
        }
        Ok([late.as_secs_f64() * 1e6])
    }
}
