//! Stands in for default gateways that do not answer, so that packets reach the programs all the same.

use std::{
    collections::BTreeMap,
    fmt,
    net::IpAddr,
    os::fd::AsFd,
    thread,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use serde::Serialize;

use crate::{
    error::{Error, Result},
    kernel::{events::NetworkEvents, namespace, network::Network, pins::Pins, solicit::Solicitor},
    model::Device,
    policy::{
        guard::{Decision, Guarded},
        state::Neighbour,
    },
};

/// How often it looks for other attachments, which no event tells of.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// The least time between two looks. A look reads the routes, of which there may be a million: it waits so many times as long as
/// the last one took.
const LOOK_AT_MOST: Duration = Duration::from_secs(1);
const SHARE: u32 = 20;
/// How often it asks everybody for a gateway that it stands in for. The kernel takes no other address within a second
/// (`locktime`, arp(7)).
const ASK_AGAIN: Duration = Duration::from_millis(1_100);
/// From so many changes of neighbours at once on, it rests for a moment.
const MANY: u64 = 100;
const REST: Duration = Duration::from_millis(1);

/// Stands in for default gateways that do not answer.
///
/// A packet reaches Byway only after its ordinary route, and after the gateway of that is resolved. If the gateway does not answer,
/// the kernel drops the packet before any program sees it, although its rule sends it another way. While no default gateway
/// of a family answers that packets leave to by an attachment, this gives the kernel an address for it: that of this host's own
/// device, so that no switch sends anybody a frame without a rule. It asks the link for the gateway meanwhile, and the
/// kernel takes the answer.
///
/// The entry is an ordinary one (`STALE`, ip-neighbour(8)), which fails by itself after some seconds of use. So if this process
/// is gone, the host is soon as it is without it.
#[derive(Debug)]
pub struct GatewayGuard {
    namespace: String,
    network: Network,
    changes: NetworkEvents,
    neighbours: NetworkEvents,
    solicitor: Solicitor,
    /// The default gateways, and for each what is needed to stand in for it.
    gateways: BTreeMap<Neighbour, Link>,
    /// Those of IPv4, and those of IPv6.
    guarded: [Guarded<Neighbour>; 2],
    look_again: Instant,
    /// When the last look ended, and how long it took.
    looked: (Instant, Duration),
    ask_again: Instant,
}

/// This host's side of a link.
#[derive(Debug, Clone)]
struct Link {
    /// The Ethernet address of its device.
    own: [u8; 6],
    /// An address to ask from.
    source: Option<IpAddr>,
}

/// A change of what a [`GatewayGuard`] does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct GatewayEvent {
    /// The default gateway.
    pub gateway: IpAddr,
    /// The device that leads to it.
    pub device: Device,
    /// Whether it stands in for the gateway from now on, or no longer: the gateway answers, another one does, or it is none any more.
    pub stands_in: bool,
}

impl fmt::Display for GatewayEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { gateway, device, stands_in } = self;
        match stands_in {
            true => write!(
                f,
                "stands in for the default gateway {gateway} on {}, which does not answer",
                device.name
            ),
            false => write!(f, "no longer stands in for the default gateway {gateway} on {}", device.name),
        }
    }
}

impl GatewayGuard {
    /// Makes a guard for the calling thread's network namespace, where it has to be called from then on.
    ///
    /// # Errors
    ///
    /// [`Error::Privilege`] without CAP_NET_RAW, and those of the kernel.
    pub fn open() -> Result<Self> {
        let solicitor = Solicitor::open().map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM) => Error::Privilege("CAP_NET_RAW"),
            _ => Error::kernel("open a socket to ask for default gateways", error),
        })?;
        let now = Instant::now();
        Ok(Self {
            namespace: namespace::key()?,
            network: Network::open()?,
            changes: NetworkEvents::open(None)?,
            neighbours: NetworkEvents::of_neighbours()?,
            solicitor,
            gateways: BTreeMap::new(),
            guarded: Default::default(),
            look_again: now,
            looked: (now, Duration::ZERO),
            ask_again: now,
        })
    }

    /// Does what is to be done by now, and then waits until something changes, `longest` at the most. Returns what it does
    /// differently now.
    ///
    /// # Errors
    ///
    /// Those of the kernel.
    pub fn turn(&mut self, longest: Duration) -> Result<Vec<GatewayEvent>> {
        let counts = self.changes.take()?;
        if counts.messages + counts.overruns > 0 {
            let (ended, took) = self.looked;
            self.look_again = self.look_again.min(ended + LOOK_AT_MOST.max(took * SHARE));
        }
        if Instant::now() >= self.look_again {
            self.look()?;
        }
        // Before it looks at them: what changes afterwards wakes it.
        let many = self.neighbours.take()?.messages > MANY;
        let mut events = Vec::new();
        for (nth, is_v4) in [true, false].into_iter().enumerate() {
            let decision = self.decide(nth, is_v4)?;
            let event = |stands_in: bool| {
                move |it: Neighbour| GatewayEvent { gateway: it.gateway, device: it.device, stands_in }
            };
            events.extend(decision.engaged.into_iter().map(event(true)));
            events.extend(decision.released.into_iter().map(event(false)));
        }
        self.ask();
        if many {
            thread::sleep(REST);
        }
        if events.is_empty() {
            self.wait(longest)?;
        }
        Ok(events)
    }

    /// Reads which default gateways there are on attachments.
    fn look(&mut self) -> Result<()> {
        if namespace::key()? != self.namespace {
            return Err(Error::OtherNamespace);
        }
        let begin = Instant::now();
        // Not at once again, if this fails.
        self.look_again = begin + LOOK_AT_MOST;
        self.gateways = self.read_gateways()?;
        let end = Instant::now();
        let took = end - begin;
        self.looked = (end, took);
        self.look_again = end + LOOK_AGAIN.max(took * SHARE);
        Ok(())
    }

    fn read_gateways(&mut self) -> Result<BTreeMap<Neighbour, Link>> {
        let mut gateways = BTreeMap::new();
        let Some(pins) = Pins::open()? else { return Ok(gateways) };
        let all = self.network.default_gateways()?;
        let addresses = if all.is_empty() { BTreeMap::new() } else { self.network.source_addresses()? };
        for (index, gateway) in all {
            if !pins.tables.attachments.is_watched(index)? {
                continue;
            }
            let Some((device, own)) = self.network.ethernet_address(index)? else { continue };
            let of_device = addresses.get(&index).map(Vec::as_slice).unwrap_or_default();
            let source = source(gateway, of_device);
            gateways.insert(Neighbour { device, gateway }, Link { own, source });
        }
        Ok(gateways)
    }

    /// Decides about the gateways of one family, and stands in for those that need it.
    fn decide(&mut self, nth: usize, is_v4: bool) -> Result<Decision<Neighbour>> {
        let mut seen = BTreeMap::new();
        for (gateway, link) in self.gateways.iter().filter(|(it, _)| it.gateway.is_ipv4() == is_v4) {
            seen.insert(gateway.clone(), self.network.seen(gateway, &link.own)?);
        }
        let decision = self.guarded[nth].decide(&seen);
        if !decision.engaged.is_empty() {
            self.ask_again = Instant::now() + ASK_AGAIN;
        }
        for gateway in &decision.write {
            if let Some(link) = self.gateways.get(gateway) {
                self.network.stand_in(gateway, &link.own)?;
            }
        }
        Ok(decision)
    }

    /// Asks the link for the gateways that it stands in for, if it is time.
    fn ask(&mut self) {
        if Instant::now() < self.ask_again {
            return;
        }
        self.ask_again = Instant::now() + ASK_AGAIN;
        for gateway in self.guarded.iter().flat_map(Guarded::engaged) {
            if let Some(Link { own, source: Some(source) }) = self.gateways.get(gateway) {
                // A device that is down takes nothing, and then nobody could answer either.
                let _ = self.solicitor.ask(gateway.device.index, *own, *source, gateway.gateway);
            }
        }
    }

    fn wait(&self, longest: Duration) -> Result<()> {
        let stands_in = self.guarded.iter().any(|it| it.engaged().next().is_some());
        let until = if stands_in { self.look_again.min(self.ask_again) } else { self.look_again };
        let time = until.saturating_duration_since(Instant::now()).min(longest);
        // Rounded up, because otherwise it would wake too early and wait again.
        let time = PollTimeout::try_from(time.as_micros().div_ceil(1_000)).unwrap_or(PollTimeout::MAX);
        let mut sockets =
            [&self.changes, &self.neighbours].map(|it| PollFd::new(it.as_fd(), PollFlags::POLLIN));
        match poll(&mut sockets, time) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(Error::kernel("wait for changes of neighbours", errno)),
        }
    }
}

/// An address to ask for the gateway from: at best of the network that the gateway is in.
fn source(gateway: IpAddr, of_device: &[IpNet]) -> Option<IpAddr> {
    let mut usable: Vec<&IpNet> =
        of_device.iter().filter(|net| net.addr().is_ipv4() == gateway.is_ipv4()).collect();
    usable.sort_by_key(|net| !net.contains(&gateway));
    usable.first().map(|net| net.addr())
}
