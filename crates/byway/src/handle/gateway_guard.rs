//! Stands in for a default gateway that does not answer, so that packets reach the programs all the same.

use std::{
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
        guard::{Decision, Guarded, Seen},
        state::Neighbour,
    },
};

/// How often it looks for other attachments and next hops, which no event tells of.
const LOOK_AGAIN: Duration = Duration::from_secs(3);
/// The least time between two looks. A look reads the routes, of which there may be a million: it waits so many times as long as
/// the last one took.
const LOOK_AT_MOST: Duration = Duration::from_secs(1);
const SHARE: u32 = 40;
/// How often it looks at a gateway that does not answer: no event tells that the kernel has begun to ask for it.
const LOOK_AT_SILENT: Duration = Duration::from_millis(100);
/// How often it asks the link for a gateway that it stands in for. The kernel takes no other address within a second
/// (`locktime`, arp(7)).
const ASK_AGAIN: Duration = Duration::from_millis(1_100);
/// How often, and for how long, it lets the kernel ask by itself. Packets wait in the meantime, of which the kernel keeps some
/// hundreds.
const LET_ASK: Duration = Duration::from_secs(10);
const LET_ASK_FOR: Duration = LOOK_AT_SILENT;
/// Of how many times once for longer with IPv6, and for how long. The kernel does not take the answer of a proxy in place of an
/// address that it has, and a proxy may take its time (RFC 4861, 7.2.4 and 7.2.8).
const LONG_ONE_OF: u32 = 6;
const LET_ASK_LONG: Duration = Duration::from_secs(1);
/// How long it rests after each change of the network.
const REST: Duration = Duration::from_millis(2);

/// Stands in for a default gateway that does not answer.
///
/// A packet reaches Byway only after its ordinary route, and after the gateway of that is resolved. If the gateway does not answer,
/// the kernel drops the packet before any program sees it, although its rule sends it another way. So this gives the kernel an
/// address for the gateway: that of this host's own device, which no switch sends on to anybody. It asks the link for the
/// gateway meanwhile, and the kernel takes the answer.
///
/// It does so only for a gateway that is the only default route of its family in the main table, on an attachment with Ethernet: where
/// there are several, the kernel may prefer one that answers, and must not be misled. It leaves a gateway alone that is also
/// a next hop of Byway's, whose flows have to go elsewhere when it dies, and one behind a macvlan or ipvlan, which would take
/// such packets for its own.
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
    /// IPv4's, and IPv6's.
    families: [Guarding; 2],
    look_again: Instant,
    /// When the last look ended, and how long it took.
    looked: (Instant, Duration),
}

/// The default route of one family.
#[derive(Debug)]
struct Guarding {
    is_v4: bool,
    only: Option<(Neighbour, Link)>,
    guarded: Guarded<Neighbour>,
    /// Whether the gateway answers, as far as is known.
    answers: bool,
    ask_again: Instant,
    let_ask: Instant,
    /// How often it has let the kernel ask.
    times: u32,
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
    /// Whether it stands in for the gateway from now on, or no longer: the gateway answers, or is not the only one any more.
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
        let guarding = |is_v4| Guarding {
            is_v4,
            only: None,
            guarded: Guarded::default(),
            answers: true,
            ask_again: now,
            let_ask: now,
            times: 0,
        };
        Ok(Self {
            namespace: namespace::key()?,
            network: Network::open()?,
            changes: NetworkEvents::open(None)?,
            neighbours: NetworkEvents::of_neighbours()?,
            solicitor,
            families: [guarding(true), guarding(false)],
            look_again: now,
            looked: (now, Duration::ZERO),
        })
    }

    /// Does what is to be done by now, and then waits until something changes, `longest` at the most. Returns what it does
    /// differently now.
    ///
    /// # Errors
    ///
    /// Those of the kernel.
    pub fn turn(&mut self, longest: Duration) -> Result<Vec<GatewayEvent>> {
        let changes = self.changes.take()?;
        if changes.messages + changes.overruns > 0 {
            let (ended, took) = self.looked;
            self.look_again = self.look_again.min(ended + LOOK_AT_MOST.max(took * SHARE));
        }
        let mut done = if Instant::now() >= self.look_again { self.look() } else { Ok(()) };
        // Before it looks at them: what changes afterwards wakes it.
        let neighbours = self.neighbours.take()?;
        let mut events = Vec::new();
        let Self { network, solicitor, families, .. } = self;
        for family in families {
            match family.turn(network, solicitor) {
                Ok(Decision { engaged, released, .. }) => {
                    let event = |stands_in: bool| {
                        move |it: Neighbour| GatewayEvent {
                            gateway: it.gateway,
                            device: it.device,
                            stands_in,
                        }
                    };
                    events.extend(engaged.map(event(true)));
                    events.extend(released.map(event(false)));
                }
                Err(error) => done = done.and(Err(error)),
            }
        }
        if !events.is_empty() {
            return Ok(events);
        }
        done?;
        if changes.messages + neighbours.messages > 0 {
            thread::sleep(REST);
        }
        self.wait(longest)?;
        Ok(events)
    }

    /// Reads which default gateways there are to guard.
    fn look(&mut self) -> Result<()> {
        if namespace::key()? != self.namespace {
            return Err(Error::OtherNamespace);
        }
        let begin = Instant::now();
        // Not at once again, if this fails.
        self.look_again = begin + LOOK_AT_MOST;
        let pins = Pins::open()?;
        for nth in 0..self.families.len() {
            let is_v4 = self.families[nth].is_v4;
            self.families[nth].only = match &pins {
                Some(pins) => only_gateway(pins, &mut self.network, is_v4)?,
                None => None,
            };
        }
        let (end, took) = (Instant::now(), begin.elapsed());
        self.looked = (end, took);
        self.look_again = end + LOOK_AGAIN.max(took * SHARE);
        Ok(())
    }

    fn wait(&self, longest: Duration) -> Result<()> {
        let now = Instant::now();
        let silent = self.families.iter().any(|it| it.only.is_some() && !it.answers);
        let until = if silent { self.look_again.min(now + LOOK_AT_SILENT) } else { self.look_again };
        let time = until.saturating_duration_since(now).min(longest);
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

impl Guarding {
    /// Decides about the gateway, stands in for it, and asks for it.
    fn turn(&mut self, network: &mut Network, solicitor: &Solicitor) -> Result<Decision<Neighbour>> {
        let now = Instant::now();
        let seen = match &self.only {
            Some((gateway, link)) => network.seen(gateway, &link.own)?,
            None => Seen::Answers,
        };
        self.answers = seen == Seen::Answers;
        if now < self.let_ask
            && !matches!(seen, Seen::Answers | Seen::StoodIn)
            && self.guarded.engaged().is_some()
        {
            return Ok(Decision { write: None, engaged: None, released: None });
        }
        let decision = self.guarded.decide(self.only.as_ref().map(|(gateway, _)| (gateway.clone(), seen)));
        if let (Some(gateway), Some((_, link))) = (&decision.write, &self.only) {
            network.stand_in(gateway, &link.own)?;
        }
        if decision.engaged.is_some() {
            (self.ask_again, self.let_ask) = (now + ASK_AGAIN, now);
        }
        if let Some(gateway) = &decision.released {
            // What stands in must not mislead the kernel when there is another way.
            network.stop_standing_in(gateway)?;
        }
        if self.guarded.engaged().is_some() && now >= self.ask_again {
            self.ask_again = now + ASK_AGAIN;
            self.ask(network, solicitor, now)?;
        }
        Ok(decision)
    }

    /// Asks the link for the gateway, or lets the kernel do that.
    fn ask(&mut self, network: &mut Network, solicitor: &Solicitor, now: Instant) -> Result<()> {
        let Some((gateway, Link { own, source })) = &self.only else { return Ok(()) };
        if now >= self.let_ask + LET_ASK {
            self.times = self.times.wrapping_add(1);
            let is_long = !self.is_v4 && self.times.is_multiple_of(LONG_ONE_OF);
            self.let_ask = now + if is_long { LET_ASK_LONG } else { LET_ASK_FOR };
            return network.ask_anew(gateway);
        }
        if let Some(source) = source {
            // A device that is down takes nothing, and then nobody could answer either.
            let _ = solicitor.ask(gateway.device.index, *own, *source, gateway.gateway, None);
        }
        Ok(())
    }
}

/// Returns the only default gateway of a family, if it is one to guard.
fn only_gateway(pins: &Pins, network: &mut Network, is_v4: bool) -> Result<Option<(Neighbour, Link)>> {
    let Some((index, gateway)) = network.only_default_gateway(is_v4)? else { return Ok(None) };
    let is_next_hop =
        |(it, _): &(crate::model::NextHop, _)| it.gateway == Some(gateway) && it.device.index == index;
    if !pins.tables.attachments.is_watched(index)? || pins.tables.next_hops.all()?.iter().any(is_next_hop) {
        return Ok(None);
    }
    let Some((device, own)) = network.ethernet_address(index)? else { return Ok(None) };
    let mut addresses = network.source_addresses()?;
    let of_device = addresses.remove(&index).unwrap_or_default();
    let others: Vec<IpNet> = addresses.into_values().flatten().collect();
    let source = source(gateway, &of_device, &others);
    Ok(Some((Neighbour { device, gateway }, Link { own, source })))
}

/// An address to ask for the gateway from: of the network that the gateway is in, or another one of the device, or with IPv4
/// one of this host, as the kernel does.
pub(super) fn source(gateway: IpAddr, of_device: &[IpNet], others: &[IpNet]) -> Option<IpAddr> {
    let of_family = |net: &&IpNet| net.addr().is_ipv4() == gateway.is_ipv4();
    let own = || of_device.iter().filter(of_family);
    own()
        .find(|net| net.contains(&gateway))
        .or_else(|| own().next())
        .or_else(|| others.iter().filter(of_family).find(|_| gateway.is_ipv4()))
        .map(IpNet::addr)
}
