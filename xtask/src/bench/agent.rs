//! Measures how many packets are lost when a next hop dies, with another one behind it: as the programs notice it by themselves,
//! and by the health checks of the agent.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
        mpsc::{Receiver, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use byway::{
    Asked, Attach, Byway, Checker, HealthCheck, HealthCheckSpec, MemberSpec, NextHopSpec, Owner, RuleSpec,
    Verdict, config::Config,
};
use byway_lab::{Capture, Frame, Lab, Node, wait_until};

use super::{
    Effort,
    figures::{Chart, Series, in_turn},
};

/// From one packet to the next.
const PAUSE: Duration = Duration::from_millis(1);
/// Longer than anything takes that is measured.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long packets have to go by the second next hop until nothing more is lost.
const SETTLED: u32 = 200;

const SERVICE: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 5);
const FAR: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const BEHIND: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 1);

/// How the first next hop dies, and what notices it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    /// This host's own link is down.
    LinkDown,
    /// The other end of the link is down.
    NoCarrier,
    /// The gateway answers nothing any more, on a link that is up. It is pinged, every so many milliseconds.
    Gateway(u64),
    /// The same, and it is asked by ARP.
    GatewayByArp(u64),
    /// The gateway is there, and nothing behind it.
    Network,
}

impl Death {
    const ALL: [Self; 7] = [
        Self::LinkDown,
        Self::NoCarrier,
        Self::Gateway(10),
        Self::GatewayByArp(10),
        Self::Gateway(50),
        Self::GatewayByArp(50),
        Self::Network,
    ];

    fn name(self) -> String {
        match self {
            Self::LinkDown => "link down".to_owned(),
            Self::NoCarrier => "no carrier".to_owned(),
            Self::Gateway(interval) => format!("silent gateway, ping, {interval} ms x 3"),
            Self::GatewayByArp(interval) => format!("silent gateway, ARP, {interval} ms x 3"),
            Self::Network => "nothing behind the gateway, 100 ms x 3".to_owned(),
        }
    }

    /// What notices it.
    fn by(self) -> &'static str {
        if self.check().is_some() { "health check" } else { "programs" }
    }

    fn check(self) -> Option<HealthCheck> {
        let every =
            |interval, asked| HealthCheck::new(asked).interval(Duration::from_millis(interval)).rounds(3, 1);
        let ping = |host: Ipv4Addr, interval| every(interval, Asked::Ping(vec![host.into()]));
        match self {
            Self::LinkDown | Self::NoCarrier => None,
            Self::Gateway(interval) => Some(ping(ROUTER, interval)),
            Self::GatewayByArp(interval) => Some(every(interval, Asked::Neighbour)),
            Self::Network => Some(ping(BEHIND, 100)),
        }
    }
}

/// Measures the lost packets.
pub(super) fn measure(effort: Effort) -> Result<Vec<Chart>> {
    let figures = in_turn(effort.rounds, &Death::ALL, |death| Hosts::new(*death)?.lost().map(|lost| [lost]))?;
    let series = Death::ALL
        .iter()
        .zip(figures)
        .map(|(death, [lost])| Series::bar(death.by(), &death.name(), lost))
        .collect();
    let title = "Lost packets of 1,000 a second when a next hop dies, with a backup behind it";
    Ok(vec![Chart::bars("agent-fail-over", title, "packets", series)])
}

/// A server with two routers, one of them a backup.
struct Hosts {
    death: Death,
    server: Node,
    router: Node,
    /// What the second router gets.
    heard: Capture,
    sender: Sender,
    checks: Option<Checks>,
    _lab: Lab,
}

impl Hosts {
    fn new(death: Death) -> Result<Self> {
        let lab = Lab::new()?;
        let (server, gateway) = (lab.node("server")?, lab.node("gateway")?);
        let routers = [lab.node("r1")?, lab.node("r2")?];
        for (nth, node) in [&gateway, &routers[0], &routers[1]].into_iter().enumerate() {
            let device = format!("eth{nth}");
            lab.link((&server, &device), (node, "eth0"))?;
            server.address(&device, &format!("10.0.{nth}.2/24"))?;
            node.address("eth0", &format!("10.0.{nth}.1/24"))?;
        }
        server.route("default via 10.0.0.1")?;
        server.address("lo", &format!("{SERVICE}/32"))?;
        let [router, second] = routers;
        router.address("lo", &format!("{BEHIND}/32"))?;
        let hop = |nth: u8| NextHopSpec::via([10, 0, nth, 1].into()).dev(format!("eth{nth}"));
        let members = vec![MemberSpec::new(hop(1)), MemberSpec::new(hop(2)).backup()];
        let rule = RuleSpec::new(SERVICE.to_string().parse()?, byway::TargetSpec::NextHops(members));
        let mut config = Config::new(Some(Attach::devices(["eth0"])), vec![], [rule]);
        config.health_checks =
            death.check().map(|check| HealthCheckSpec::new(hop(1), check)).into_iter().collect();
        server.run(|| Byway::open()?.apply(Owner::API, &config))?;
        let heard = second.capture("eth0")?;
        let by_first = router.capture("eth0")?;
        let checks = death.check().map(|_| Checks::start(&server));
        let sender = Sender::start(&server);
        let comes = |frame: &Frame| number(frame).is_some();
        ensure!(by_first.wait_for(PATIENCE, comes).is_some(), "no packet comes to the first router");
        // The second is known to the kernel as well, and the proof of the first one is some time old.
        thread::sleep(Duration::from_secs(1));
        Ok(Self { death, server, router, heard, sender, checks, _lab: lab })
    }

    /// Lets the first next hop die. Returns how many packets have come to neither router since.
    fn lost(self) -> Result<f64> {
        let Self { death, server, router, heard, sender, checks, _lab } = &self;
        let first = sender.number.load(Relaxed) + 1;
        match death {
            Death::LinkDown => server.set_up("eth1", false)?,
            Death::NoCarrier => router.set_up("eth0", false)?,
            Death::Gateway(_) | Death::GatewayByArp(_) => {
                router.delete_address("eth0", &format!("{ROUTER}/24"))?
            }
            Death::Network => router.delete_address("lo", &format!("{BEHIND}/32"))?,
        }
        if let Some(checks) = checks {
            let verdict = checks.verdicts.recv_timeout(PATIENCE).context("no verdict")?;
            ensure!(!verdict.is_healthy, "{verdict}");
        }
        let numbers = || heard.frames().iter().filter_map(number).collect::<BTreeSet<u32>>();
        let came = || numbers().range(first..).count() as u32;
        ensure!(wait_until(PATIENCE, || came() > SETTLED), "no packet comes to the second router");
        let came = numbers();
        let last = came.last().copied().unwrap_or(first);
        Ok(f64::from(last + 1 - first) - came.range(first..).count() as f64)
    }
}

/// The number in a packet from the service address.
fn number(frame: &Frame) -> Option<u32> {
    if frame.source() != Some(IpAddr::V4(SERVICE)) {
        return None;
    }
    // Behind the headers of IPv4 and UDP.
    frame.payload().get(28..32)?.try_into().ok().map(u32::from_be_bytes)
}

/// Sends numbered packets from the service address.
struct Sender {
    number: Arc<AtomicU32>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sender {
    fn start(server: &Node) -> Self {
        let (number, ends) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
        let (counter, is_over) = (number.clone(), ends.clone());
        let send = move || {
            let Ok(socket) = UdpSocket::bind((SERVICE, 0)) else { return };
            let begin = Instant::now();
            for nth in 0_u32.. {
                if is_over.load(Relaxed) {
                    return;
                }
                counter.store(nth, Relaxed);
                // One that a queue drops is lost like any other.
                let _ = socket.send_to(&nth.to_be_bytes(), (FAR, 9));
                // Not slower because the machine is.
                thread::sleep((PAUSE * (nth + 1)).saturating_sub(begin.elapsed()));
            }
        };
        Self { number, ends, thread: Some(server.spawn(send)) }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.ends.store(true, Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

/// Carries out the health checks, as the agent does.
struct Checks {
    verdicts: Receiver<Verdict>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Checks {
    fn start(server: &Node) -> Self {
        let (said, verdicts) = channel();
        let ends = Arc::new(AtomicBool::new(false));
        let is_over = ends.clone();
        let check = move || {
            let Ok(mut checker) = Checker::open() else { return };
            while !is_over.load(Relaxed) {
                let Ok(changed) = checker.turn(Duration::from_secs(1)) else { return };
                for verdict in changed {
                    let _ = said.send(verdict);
                }
            }
        };
        Self { verdicts, ends, thread: Some(server.spawn(check)) }
    }
}

impl Drop for Checks {
    fn drop(&mut self) {
        self.ends.store(true, Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}
