//! Builds a router for each contestant, between a host that sends and one that only counts.
//!
//! ```text
//!                                 eth0 ──── gwN      the default route
//!   sender ── toNa ─── aN ── router
//!                                 eth1 ──── nhN      the second link
//! ```
//!
//! With [`Forwards::Apart`], one processor only sends. Another one does the rest, in a kernel thread (threaded NAPI) that
//! takes the packets from the router's end of the veth, forwards them, and drops them at the far end. The queue between the
//! two has room for 256 packets, and the sender is faster than the thread. The kernel drops what does not fit before the
//! router sees it, so the thread always has work, and its work is the figure.
//!
//! Without the thread, packets are forwarded within the sender's system call, and the cost of the call is a part of each
//! figure. That is [`Forwards::Along`], for several processors, each with a link of its own to the router.
//!
//! A far end drops packets as cheaply as the kernel can: no device has the neighbours' Ethernet addresses.

use std::{
    panic, process,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::Ebpf;
use byway_lab::{Lab, Node, stay_on_processor, wait_until};

use super::{
    contestant::{Contestant, Way},
    traffic::Traffic,
};
use crate::bench::{Effort, waiting};

const SENDS: usize = 0;
const FORWARDS: usize = 1;

const GATEWAY: &str = "192.0.2.1";
const NEXT_HOP: &str = "198.51.100.1";
/// The Ethernet address of both neighbours: locally administered, and of no device.
const NOBODY: [u8; 6] = [2, 0, 0, 0, 0, 0xFE];

/// How long the traffic needs to reach its full speed, and the thread that of the processor.
const WARM_UP: Duration = Duration::from_millis(200);
/// How long a measurement takes.
const LONG: Duration = Duration::from_secs(2);
const SHORT: Duration = Duration::from_millis(300);
/// How long the packets of a queue may take to arrive, even by the slowest means.
const DRAINED_WITHIN: Duration = Duration::from_secs(10);

/// All routers, the host that sends and the one that counts.
pub(super) struct Hosts {
    sender: Node,
    far: Node,
    routers: Vec<Router>,
    lab: Lab,
}

/// One contestant's router.
pub(super) struct Router {
    contestant: Contestant,
    /// The means by which it sends packets by their source, if that lives in this process.
    program: Option<Ebpf>,
    node: Node,
    /// The links by which packets come in: one for each processor that sends.
    ways_in: Vec<WayIn>,
    /// The far ends of the default route's link and of the second one.
    far: [String; 2],
}

/// A link between the sender and a router.
struct WayIn {
    /// The sender's end.
    sends_by: String,
    /// The router's end.
    receives_by: String,
}

/// Who forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Forwards {
    /// A processor that does nothing else. Another one sends.
    Apart,
    /// Each of this many processors that send, within the sender's system call, which is the default for a veth.
    Along(usize),
}

/// The counts so far.
struct Counted {
    at: Instant,
    right: u64,
    wrong: u64,
    /// Packets that came faster than the router took them.
    dropped: u64,
}

impl Hosts {
    pub(super) fn new() -> Result<Self> {
        let processors = thread::available_parallelism()?.get();
        ensure!(processors >= [SENDS, FORWARDS].len(), "one CPU sends and one forwards: this takes two");
        let lab = Lab::new()?;
        let (sender, far) = (lab.node("sender")?, lab.node("far")?);
        for node in [&sender, &far] {
            disable_ipv6(node)?;
        }
        Ok(Self { sender, far, routers: Vec::new(), lab })
    }

    /// In the order in which they were added.
    pub(super) fn routers(&self) -> &[Router] {
        &self.routers
    }

    /// Builds a contestant's router, and checks that it does what it should.
    pub(super) fn add(&mut self, contestant: Contestant, forwards: Forwards, effort: Effort) -> Result<()> {
        let nth = self.routers.len();
        let node = self.lab.node(&format!("router{nth}"))?;
        disable_ipv6(&node)?;
        node.forwarding()?;
        let ways_in = match forwards {
            Forwards::Apart => 1,
            Forwards::Along(processors) => processors,
        };
        let ways_in = ('a'..).take(ways_in).map(|way| WayIn {
            sends_by: format!("to{nth}{way}"),
            // The kernel's thread has the device's name in its own, of which older kernels keep ten letters. So the name is
            // short.
            receives_by: format!("{way}{nth}x{:x}", process::id()),
        });
        let far = [format!("gw{nth}"), format!("nh{nth}")];
        let mut router = Router { contestant, program: None, ways_in: ways_in.collect(), far, node };
        let node = &router.node;
        for WayIn { sends_by, receives_by } in &router.ways_in {
            self.lab.link((&self.sender, sends_by), (node, receives_by))?;
            if forwards == Forwards::Apart {
                self.sender.set_offload(sends_by, byway_lab::Offload::TcpSegmentation, false)?;
                node.receive_on_processor(receives_by, FORWARDS)?;
            }
        }
        self.lab.link((node, "eth0"), (&self.far, &router.far[0]))?;
        self.lab.link((node, "eth1"), (&self.far, &router.far[1]))?;
        node.address("eth0", "192.0.2.11/24")?;
        node.address("eth1", "198.51.100.11/24")?;
        node.permanent_neighbour("eth0", GATEWAY.parse()?, NOBODY)?;
        node.permanent_neighbour("eth1", NEXT_HOP.parse()?, NOBODY)?;
        node.route(&format!("default via {GATEWAY} dev eth0"))?;
        let program = contestant.set_up(node, "eth0", NEXT_HOP.parse()?, "eth1");
        router.program = program.with_context(|| contestant.to_string())?;
        if contestant.has_requests() {
            self.request(&router).with_context(|| contestant.to_string())?;
        }
        for way in &router.ways_in {
            self.check(&router, way, effort).with_context(|| contestant.to_string())?;
        }
        self.routers.push(router);
        Ok(())
    }

    /// Sends a request to every source by the second link, from the neighbour that the replies should go to. The router
    /// forwards it by the default route.
    fn request(&self, router: &Router) -> Result<()> {
        let [default, second] = &router.far;
        let sources = router.contestant.sources();
        let mut traffic =
            Traffic::requests(self.far.frame_sender(second)?, NOBODY, router.node.mac("eth1")?, sources);
        let came = || Ok(self.far.counters(default)?.rx_packets);
        let before = came()?;
        let mut to = 0;
        while to < sources {
            to = traffic.send_from(to, sources)?;
            let mut now = anyhow::Ok(before);
            let _ = wait_until(DRAINED_WITHIN, || {
                now = came();
                !matches!(now, Ok(now) if now < before + u64::from(to))
            });
            let arrived = now? - before;
            ensure!(arrived == u64::from(to), "{arrived} of {to} requests came through");
        }
        Ok(())
    }

    /// Sends a packet from every source, and checks that each arrives at the right place.
    fn check(&self, router: &Router, way: &WayIn, effort: Effort) -> Result<()> {
        let sources = effort.choose(u32::MAX, 1_000).min(router.contestant.sources());
        let mut traffic = router.traffic(way, &self.sender)?;
        let before = self.count(router)?;
        let mut sent = 0;
        let mut from = 0;
        while from < sources {
            from = traffic.send_from(from, sources)?;
            sent = u64::from(from);
            let mut counted = Ok(before.right);
            let _ = wait_until(DRAINED_WITHIN, || {
                counted = self.count(router).map(|now| now.right);
                !matches!(counted, Ok(right) if right < before.right + sent)
            });
            let arrived = counted? - before.right;
            ensure!(arrived == sent, "{arrived} of {sent} packets came out where they should");
        }
        let wrong = self.count(router)?.wrong - before.wrong;
        ensure!(wrong == 0, "{wrong} of {sent} packets came out where they should not");
        Ok(())
    }

    /// Returns how many packets per second arrive at the right place while this many processors send more than the router can
    /// forward, how many per second they send, and for which share of the time other work had a sender's processor.
    pub(super) fn measure(&self, router: &Router, senders: usize, effort: Effort) -> Result<[f64; 3]> {
        let (sender, stop) = (&self.sender, AtomicBool::new(false));
        let (counts, waited) = thread::scope(|scope| {
            let sending: Vec<_> = router.ways_in[..senders]
                .iter()
                .enumerate()
                .map(|(nth, way)| {
                    let traffic = || router.traffic(way, sender);
                    let stop = &stop;
                    scope.spawn(move || send_until(stop, SENDS + nth, traffic))
                })
                .collect();
            let counts = self.count_a_while(router, effort.choose(LONG, SHORT));
            stop.store(true, Ordering::Relaxed);
            let mut most = 0.0_f64;
            for sending in sending {
                most = most.max(sending.join().unwrap_or_else(|cause| panic::resume_unwind(cause))?);
            }
            anyhow::Ok((counts?, most))
        })?;
        let (contestant, [start, end]) = (router.contestant, counts);
        let drained = self.drain(router)?;
        ensure!(drained.wrong == start.wrong, "{contestant}: packets came out where they should not");
        let packets = end.right - start.right;
        ensure!(packets > 0, "{contestant}: nothing came out where it should");
        let seconds = (end.at - start.at).as_secs_f64();
        let sent = packets + end.dropped - start.dropped;
        Ok([packets as f64 / seconds, sent as f64 / seconds, waited])
    }

    /// Counts at the beginning and at the end of a period of full traffic, which is longer if nothing arrives.
    fn count_a_while(&self, router: &Router, long: Duration) -> Result<[Counted; 2]> {
        thread::sleep(WARM_UP);
        let start = self.count(router)?;
        loop {
            thread::sleep(long);
            let now = self.count(router)?;
            if now.right > start.right || now.at - start.at > DRAINED_WITHIN {
                return Ok([start, now]);
            }
        }
    }

    /// Waits until no packet is on its way any more, so that the next contestant has the processors for itself.
    fn drain(&self, router: &Router) -> Result<Counted> {
        let until = Instant::now() + DRAINED_WITHIN;
        let mut last = self.count(router)?;
        loop {
            // The slowest takes less than a millisecond for a packet.
            thread::sleep(Duration::from_millis(20));
            let now = self.count(router)?;
            if now.right == last.right {
                return Ok(now);
            }
            ensure!(Instant::now() < until, "packets are still coming out after {DRAINED_WITHIN:?}");
            last = now;
        }
    }

    fn count(&self, router: &Router) -> Result<Counted> {
        let [default, second] = &router.far;
        let at = Instant::now();
        let [default, second] =
            [self.far.counters(default)?, self.far.counters(second)?].map(|c| c.rx_packets);
        let (right, wrong) = match router.contestant.way() {
            Way::Default => (default, second),
            Way::Second => (second, default),
        };
        let mut dropped = 0;
        for way in &router.ways_in {
            dropped += self.sender.counters(&way.sends_by)?.tx_dropped;
        }
        Ok(Counted { at, right, wrong, dropped })
    }
}

impl Router {
    /// Returns the traffic from `sender` to the router. It stays on the calling thread.
    fn traffic(&self, way: &WayIn, sender: &Node) -> Result<Traffic> {
        let to = self.node.mac(&way.receives_by)?;
        let from = sender.mac(&way.sends_by)?;
        Ok(Traffic::new(sender.frame_sender(&way.sends_by)?, from, to, self.contestant.sources()))
    }
}

/// Sends with one processor as fast as possible. Returns for which share of the time other work had the processor.
fn send_until(stop: &AtomicBool, processor: usize, traffic: impl FnOnce() -> Result<Traffic>) -> Result<f64> {
    stay_on_processor(processor)?;
    let mut traffic = traffic()?;
    let ((), waited) = waiting::noting(|| {
        while !stop.load(Ordering::Relaxed) {
            traffic.send_at_random()?;
        }
        Ok(())
    })?;
    Ok(waited)
}

/// Neighbour discovery would send packets of its own to the far ends.
fn disable_ipv6(node: &Node) -> Result<()> {
    for devices in ["all", "default"] {
        node.sysctl(&format!("net.ipv6.conf.{devices}.disable_ipv6"), "1")?;
    }
    Ok(())
}
