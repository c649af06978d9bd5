//! Carries out the health checks of next hops, and writes the verdicts where the programs read them.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    fmt,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    time::Duration,
};

use ipnet::IpNet;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use serde::Serialize;

use super::{Byway, gateway_guard};
use crate::{
    error::{Error, Result},
    kernel::{
        ask::{Answer, Asker, By, Question},
        namespace,
        network::Network,
        next_hops::NextHops,
        pins::Pins,
    },
    model::{Asked, HealthCheck, NextHop, ROUNDS_MAX},
    policy::{rounds::Rounds, snapshot::Header, state::Neighbour},
    show::status::monotonic_now,
};

/// How often it looks for other health checks, and for other addresses of the devices.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How long a verdict holds that nobody renews. When this process is gone, its verdicts end so soon.
const LEASE: Duration = Duration::from_secs(5);

/// How long before its end a verdict is renewed.
const RENEW: Duration = Duration::from_secs(4);

/// How soon it tries again what it could not ask.
const ASK_AGAIN: Duration = Duration::from_millis(10);

/// How often in a row a check may find nobody to ask before that is worth a word.
const PATIENCE: u32 = 5;

/// Rounds begin at most a tenth of an interval early.
const JITTER: u32 = 10;

/// How many rounds back a host may still wait for a connection: it tells an old one from somebody else's.
const REMEMBERED: u32 = 256;

/// How often a question for a gateway may go to everybody on the link. The others go to the gateway alone.
const ASK_EVERYBODY: Duration = Duration::from_secs(1);

/// Carries out the health checks of all next hops ([`HealthCheck`]), those of every owner. One process of a network namespace
/// does, the one with [`Byway::lock_agent`].
///
/// Its verdicts are in the kernel, and hold for five seconds unless it renews them. So when the process is gone, each next hop
/// is soon judged by its own answers again. One that starts goes on from the verdicts that it finds.
///
/// What this host itself cannot ask, without an address or a socket, says nothing about a next hop.
#[derive(Debug)]
pub struct Checker {
    namespace: String,
    network: Network,
    /// The maps of next hops, and what tells their pins from later ones.
    next_hops: Option<(u64, NextHops)>,
    /// The checks, by slot.
    checks: BTreeMap<u32, Checked>,
    sockets: Sockets,
    look_again: Duration,
    /// Makes the secret of each question.
    secrets: RandomState,
}

/// The sockets, by device, whether they are for IPv4, and how they ask.
type Sockets = BTreeMap<(u32, bool, By), Asker>;

/// A next hop with a health check.
#[derive(Debug)]
struct Checked {
    next_hop: NextHop,
    rounds: Rounds,
    /// Where the packets of its device begin.
    header: Header,
    /// Whether its device is up.
    is_up: bool,
    /// The Ethernet address that the kernel had for the gateway when this last asked it.
    known: Option<[u8; 6]>,
    /// Whom it asks.
    hosts: Vec<IpAddr>,
    /// The source address for each of them, if the device has one.
    sources: Vec<Option<IpAddr>>,
    /// The questions of the last round that could not be asked yet, by the place of their host.
    unasked: Vec<usize>,
    round: u32,
    /// Until when the verdict holds, if it is out of service.
    until: Duration,
    /// How often in a row it could ask nobody when the checker looked.
    idle: u32,
}

impl Checked {
    /// Returns which socket asks a host for the check in this slot.
    fn socket(&self, slot: u32, host: IpAddr) -> (u32, bool, By) {
        let check = self.rounds.check();
        let by = match check.asked {
            Asked::Ping(_) => By::Ping,
            Asked::Tcp(_, port) => {
                let rounds = check.timeout.as_nanos().div_ceil(check.interval.as_nanos().max(1));
                By::Tcp { port, slot, ports: (rounds as u32).clamp(1, ROUNDS_MAX) + 1 }
            }
            Asked::Neighbour => By::Neighbour,
        };
        (self.next_hop.device.index, host.is_ipv4(), by)
    }

    fn asks_gateway(&self) -> bool {
        self.rounds.check().asked == Asked::Neighbour
    }

    /// Returns whether packets of its device begin in a way that lets it ask.
    fn has_fit_header(&self) -> bool {
        if self.asks_gateway() { self.header == Header::Ethernet } else { self.header != Header::Other }
    }

    /// Returns whether there is anybody that the check in this slot could ask.
    fn can_ask(&self, slot: u32, sockets: &Sockets) -> bool {
        let mut hosts = self.hosts.iter().zip(&self.sources);
        let has_socket = |host: &IpAddr| sockets.contains_key(&self.socket(slot, *host));
        self.has_fit_header() && hosts.any(|(host, source)| source.is_some() && has_socket(host))
    }

    /// Says why it asks nobody.
    fn why_idle(&self) -> String {
        let device = &self.next_hop.device.name;
        match self.rounds.check() {
            HealthCheck { asked: Asked::Neighbour, src: Some(src), .. } if self.has_fit_header() => {
                format!("this host does not have the address {src} to ask the gateway from")
            }
            _ if self.has_fit_header() => format!("{device} has no address to ask from"),
            HealthCheck { asked: Asked::Neighbour, .. } => {
                format!("packets of {device} have no Ethernet header")
            }
            _ => format!("packets of {device} have a header that byway does not know"),
        }
    }
}

/// Who gets a question for a gateway.
#[derive(Debug, PartialEq, Eq)]
enum Whom {
    /// Only the one with this Ethernet address.
    Gateway([u8; 6]),
    Everybody,
    Nobody,
}

impl Whom {
    /// Returns who does in this round. The kernel has the Ethernet address `known` for the gateway. Everybody gets a question now
    /// and then while that does not answer: another machine may be the gateway by now.
    fn of(known: Option<[u8; 6]>, is_in_doubt: bool, round: u32, interval: Duration) -> Self {
        let rounds = ASK_EVERYBODY.as_nanos().div_ceil(interval.as_nanos().max(1)).max(1);
        let may_ask_everybody = u128::from(round.wrapping_sub(1)) % rounds == 0;
        match known {
            Some(known) if !may_ask_everybody || !is_in_doubt => Self::Gateway(known),
            _ if may_ask_everybody => Self::Everybody,
            _ => Self::Nobody,
        }
    }
}

/// What a health check has found out about a next hop: that it is out of service from now on, or back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Verdict {
    /// The next hop.
    pub next_hop: NextHop,
    /// Its health check.
    pub health_check: HealthCheck,
    /// Whether enough hosts answer.
    pub is_healthy: bool,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { next_hop, health_check: HealthCheck { asked, quorum, fall, rise, .. }, is_healthy } = self;
        let hosts: Vec<String> = asked.hosts().iter().map(IpAddr::to_string).collect();
        let mut hosts = hosts.join(", ");
        if let Asked::Tcp(_, port) = asked {
            hosts = format!("{hosts} (TCP port {port})");
        }
        let rounds =
            |count: u8| if count == 1 { "in a round".to_owned() } else { format!("{count} rounds in a row") };
        if *is_healthy {
            return write!(f, "{next_hop} is back in service: its health check was good, {}", rounds(*rise));
        }
        let who = match (asked, asked.hosts().len(), quorum) {
            (Asked::Neighbour, ..) => {
                let is_v4 = next_hop.gateway.is_some_and(|it| it.is_ipv4());
                let by = if is_v4 { "ARP" } else { "neighbour discovery" };
                format!("the gateway has not answered {by}")
            }
            (_, 1, _) => format!("{hosts} has not answered through it"),
            (_, _, 1) => format!("none of {hosts} has answered through it"),
            _ => format!("fewer than {quorum} of {hosts} have answered through it"),
        };
        write!(f, "{next_hop} is out of service: {who}, {}", rounds(*fall))
    }
}

impl Checker {
    /// Makes a checker for the calling thread's network namespace, where it has to be called from then on.
    ///
    /// # Errors
    ///
    /// Those of the kernel.
    pub fn open() -> Result<Self> {
        Ok(Self {
            namespace: namespace::key()?,
            network: Network::open()?,
            next_hops: None,
            checks: BTreeMap::new(),
            sockets: Sockets::new(),
            look_again: Duration::ZERO,
            secrets: RandomState::new(),
        })
    }

    /// Does what is to be done by now: asks, hears answers, writes verdicts. Then waits until something is to be done again,
    /// `longest` at the most. Returns the verdicts that have changed.
    ///
    /// Once a second it looks for other health checks. If that fails, or if one cannot ask anybody, it goes on with the
    /// others, and says so once a second.
    ///
    /// # Errors
    ///
    /// [`Error::Privilege`] without CAP_NET_RAW, [`Error::CannotCheck`], and those of the kernel.
    pub fn turn(&mut self, longest: Duration) -> Result<Vec<Verdict>> {
        let begin = now()?;
        let mut looked = Ok(());
        if begin >= self.look_again {
            // Not at once again, if this fails.
            self.look_again = begin + LOOK_AGAIN;
            looked = self.look();
        }
        let mut changed = self.hear();
        // Only now: what has been in the sockets is in time, even if this process is late.
        let now = now()?;
        for (slot, checked) in &mut self.checks {
            if let Some(is_healthy) = checked.rounds.expire(now) {
                changed.insert(*slot, is_healthy);
            }
        }
        let asked = self.ask(now);
        let verdicts = self.judge(now, &changed)?;
        if verdicts.is_empty() {
            looked.and(asked)?;
            self.wait(now, longest)?;
        }
        Ok(verdicts)
    }

    /// Reads which health checks there are, and what is needed to ask.
    fn look(&mut self) -> Result<()> {
        if namespace::key()? != self.namespace {
            return Err(Error::OtherNamespace);
        }
        let stamp = Pins::stamp()?;
        if self.next_hops.as_ref().map(|(stamp, _)| *stamp) != stamp {
            self.next_hops = Pins::next_hops()?;
        }
        let Some((_, next_hops)) = &self.next_hops else {
            self.checks.clear();
            self.sockets.clear();
            return Ok(());
        };
        let mut health_checks = next_hops.health_checks()?;
        let all = if health_checks.is_empty() { Vec::new() } else { next_hops.all()? };
        let addresses = if all.is_empty() { BTreeMap::new() } else { self.network.source_addresses()? };
        let is_from_somewhere = |it: &HealthCheck| it.asked == Asked::Neighbour && it.src.is_some();
        let own = match health_checks.values().any(is_from_somewhere) {
            true => self.network.addresses()?,
            false => BTreeSet::new(),
        };
        let now = now()?;
        let mut before = std::mem::take(&mut self.checks);
        for (next_hop, slot) in all.into_iter().filter(|(_, slot)| !slot.is_gone) {
            let Some(check) = health_checks.remove(&slot.index) else { continue };
            let Ok(link) = self.network.link(&next_hop.device) else { continue };
            let hosts = match check.asked {
                Asked::Neighbour => next_hop.gateway.into_iter().collect(),
                _ => check.asked.hosts().to_vec(),
            };
            let index = link.device.index;
            let sources =
                hosts.iter().map(|host| source(&check, &next_hop, *host, index, &addresses, &own)).collect();
            let next_hop = NextHop { device: link.device, ..next_hop };
            let same = before.remove(&slot.index);
            let same = same.filter(|it| it.next_hop == next_hop && *it.rounds.check() == check);
            let checked = match same {
                Some(same) => Checked { header: link.header, is_up: link.is_up, hosts, sources, ..same },
                None => {
                    let until = Duration::from_nanos(next_hops.verdict(slot.index)?);
                    let rounds = Rounds::new(check, until <= now, now);
                    let (unasked, round, idle) = (Vec::new(), 0, 0);
                    let (header, is_up) = (link.header, link.is_up);
                    Checked {
                        next_hop,
                        rounds,
                        header,
                        is_up,
                        known: None,
                        hosts,
                        sources,
                        unasked,
                        round,
                        until,
                        idle,
                    }
                }
            };
            self.checks.insert(slot.index, checked);
        }
        let opened = self.open_sockets();
        for (slot, checked) in &mut self.checks {
            // Whose device is down is known anyway.
            let is_idle = checked.is_up && !checked.can_ask(*slot, &self.sockets);
            checked.idle = if is_idle { checked.idle.saturating_add(1) } else { 0 };
        }
        opened?;
        // A device that has just come gets its addresses a little later.
        match self.checks.values().find(|checked| checked.idle > PATIENCE) {
            Some(checked) => Err(Error::CannotCheck {
                next_hop: Box::new(checked.next_hop.clone()),
                why: checked.why_idle(),
            }),
            None => Ok(()),
        }
    }

    /// Opens the sockets that the checks need, and closes the others.
    fn open_sockets(&mut self) -> Result<()> {
        let needed = self
            .checks
            .iter()
            .flat_map(|(slot, checked)| checked.hosts.iter().map(|host| checked.socket(*slot, *host)));
        let needed: BTreeSet<(u32, bool, By)> = needed.collect();
        self.sockets.retain(|key, _| needed.contains(key));
        let identifier = self.secrets.hash_one(()) as u16;
        let mut opened = Ok(());
        for (index, is_v4, by) in needed {
            if self.sockets.contains_key(&(index, is_v4, by)) {
                continue;
            }
            let error = match Asker::open(index, is_v4, by, identifier) {
                Ok(asker) => {
                    self.sockets.insert((index, is_v4, by), asker);
                    continue;
                }
                // The device has gone meanwhile.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENXIO)) => continue,
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => Error::Privilege("CAP_NET_RAW"),
                Err(error) => Error::kernel("open a socket for a health check", error),
            };
            // The others go on.
            opened = Err(error);
        }
        opened
    }

    /// Takes the answers that have come in. Returns the verdicts that they change, by slot.
    fn hear(&mut self) -> BTreeMap<u32, bool> {
        let Self { checks, sockets, secrets, network, .. } = self;
        let mut changed = BTreeMap::new();
        sockets.retain(|key, asker| {
            loop {
                let (host, answer) = match asker.answer() {
                    Ok(Some(answer)) => answer,
                    Ok(None) => return true,
                    // The device is down, or gone. A socket that has lost its device never hears it again, even if it comes
                    // back, so the next look opens another one.
                    Err(_) => return false,
                };
                for slot in asked_by(checks, key, host, answer) {
                    let Some(checked) = checks.get_mut(&slot) else { continue };
                    let place = checked.hosts.iter().position(|asked| *asked == host);
                    let Some(place) = place.filter(|_| checked.socket(slot, host) == *key) else { continue };
                    let secret_of = |round| secrets.hash_one((slot, round, host));
                    let round = match answer {
                        Answer::Ping(it) => (it.secret == secret_of(it.round)).then_some(it.round),
                        Answer::Tcp(segment) => {
                            let (source, port) = segment.own;
                            let mut rounds = (0..REMEMBERED).map(|back| checked.round.wrapping_sub(back));
                            let is_of = |it: &u32| {
                                asker.port_of(*it) == Some(port) && secret_of(*it) as u32 == segment.secret
                            };
                            let is_ours = checked.sources.get(place) == Some(&Some(source));
                            let round = if is_ours { rounds.find(is_of) } else { None };
                            if round.is_some()
                                && let Ok(Some(gateway)) = address_for(network, checked, host)
                            {
                                // Otherwise the kernel does.
                                let _ = asker.reset(host, &gateway, segment);
                            }
                            round.filter(|_| segment.accepts)
                        }
                        // Packets go to the address that the kernel has, whoever else answers. That the gateway is alive is no
                        // less true if it was asked before.
                        Answer::Neighbour(lladdr) => {
                            let is_known =
                                lladdr.is_none() || checked.known.is_none() || lladdr == checked.known;
                            is_known.then_some(checked.round)
                        }
                    };
                    if let Some(is_healthy) = round.and_then(|it| checked.rounds.answer(it, place)) {
                        changed.insert(slot, is_healthy);
                    }
                }
            }
        });
        changed
    }

    /// Begins the rounds that are due, and asks what could not be asked before. Goes on if a device refuses a question, and
    /// returns why.
    fn ask(&mut self, now: Duration) -> Result<()> {
        let Self { checks, sockets, secrets, network, .. } = self;
        let mut refused = Ok(());
        for (slot, checked) in checks {
            if !checked.can_ask(*slot, sockets) {
                // Whatever it knew is old by the time that it can ask again.
                checked.rounds.begin_anew(checked.until <= now, now);
                continue;
            }
            let longest = checked.rounds.check().interval / JITTER;
            let jitter = longest.mul_f64(f64::from(random()) / f64::from(u32::MAX));
            if let Some(round) = checked.rounds.begin(now, jitter) {
                checked.round = round;
                checked.unasked = (0..checked.hosts.len()).collect();
            }
            let round = checked.round;
            for place in std::mem::take(&mut checked.unasked) {
                let (Some(host), Some(Some(source))) =
                    (checked.hosts.get(place).copied(), checked.sources.get(place).copied())
                else {
                    continue;
                };
                let Some(asker) = sockets.get(&checked.socket(*slot, host)) else { continue };
                let address = address_for(network, checked, host).ok().flatten();
                let asked = if checked.asks_gateway() {
                    checked.known = address.and_then(|it| it.try_into().ok());
                    let interval = checked.rounds.check().interval;
                    match Whom::of(checked.known, checked.rounds.is_in_doubt(), round, interval) {
                        Whom::Gateway(only) => asker.solicit(source, host, Some(only)),
                        Whom::Everybody => asker.solicit(source, host, None),
                        Whom::Nobody => continue,
                    }
                } else if let Some(address) = address {
                    let secret = secrets.hash_one((*slot, round, host));
                    asker.ask(source, host, &address, Question { secret, slot: *slot, round })
                } else {
                    // Other packets wait for their neighbour as well.
                    checked.unasked.push(place);
                    continue;
                };
                let Err(error) = asked else { continue };
                match error.raw_os_error() {
                    // The device is down: nobody answers.
                    Some(libc::ENETDOWN) => {}
                    // Its queue is full, which other packets wait for. Without a carrier that lasts, and the round fails once the next
                    // one begins.
                    Some(libc::ENOBUFS) => {
                        checked.rounds.asked_late(round, now);
                        checked.unasked.push(place);
                    }
                    _ => {
                        checked.rounds.forget(round);
                        refused =
                            Err(Error::kernel(format!("ask {host} through {}", checked.next_hop), error));
                    }
                }
            }
        }
        refused
    }

    /// Writes the verdicts that have changed, and renews the others that keep a next hop out of service.
    fn judge(&mut self, now: Duration, changed: &BTreeMap<u32, bool>) -> Result<Vec<Verdict>> {
        let Some((_, next_hops)) = &mut self.next_hops else { return Ok(Vec::new()) };
        let (mut verdicts, mut gone) = (Vec::new(), Vec::new());
        for (slot, checked) in &mut self.checks {
            let (is_healthy, check) = (checked.rounds.is_alive(), checked.rounds.check());
            let has_changed = changed.contains_key(slot);
            // One that can ask nobody lets its verdict end.
            let is_renewed =
                !is_healthy && checked.until < now + RENEW && checked.can_ask(*slot, &self.sockets);
            if !has_changed && !is_renewed {
                continue;
            }
            // The slot may have another next hop or another check by now. That gets no verdict of this one, but for an instant.
            if !next_hops.is_checked(*slot, &checked.next_hop, check)? {
                gone.push(*slot);
                continue;
            }
            checked.until = if is_healthy { Duration::ZERO } else { now + LEASE };
            next_hops.set_verdict(*slot, checked.until.as_nanos() as u64)?;
            if has_changed {
                let (next_hop, health_check) = (checked.next_hop.clone(), check.clone());
                verdicts.push(Verdict { next_hop, health_check, is_healthy });
            }
        }
        for slot in gone {
            self.checks.remove(&slot);
        }
        Ok(verdicts)
    }

    fn wait(&self, now: Duration, longest: Duration) -> Result<()> {
        let due =
            self.checks.iter().filter(|(slot, it)| it.can_ask(**slot, &self.sockets)).map(|(_, checked)| {
                let renewal = (!checked.rounds.is_alive()).then(|| checked.until.saturating_sub(RENEW));
                let unasked = (!checked.unasked.is_empty()).then(|| now + ASK_AGAIN);
                [Some(checked.rounds.due()), renewal, unasked].into_iter().flatten().min()
            });
        let until = due.flatten().min().unwrap_or(self.look_again).min(self.look_again);
        // Rounded up, because otherwise it would wake too early and wait again.
        let time = until.saturating_sub(now).min(longest).as_micros().div_ceil(1_000);
        let mut sockets: Vec<PollFd<'_>> =
            self.sockets.values().map(|asker| PollFd::new(asker.fd(), PollFlags::POLLIN)).collect();
        match poll(&mut sockets, PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(Error::kernel("wait for answers", errno)),
        }
    }
}

/// Returns the slots of the checks that an answer may be for.
fn asked_by(
    checks: &BTreeMap<u32, Checked>,
    (index, _, by): &(u32, bool, By),
    host: IpAddr,
    answer: Answer,
) -> Vec<u32> {
    match (answer, by) {
        (Answer::Ping(question), _) => vec![question.slot],
        (Answer::Tcp(_), By::Tcp { slot, .. }) => vec![*slot],
        (Answer::Tcp(_), _) => Vec::new(),
        (Answer::Neighbour(_), _) => {
            let is_of = |it: &Checked| {
                it.next_hop.device.index == *index && it.next_hop.gateway == Some(host) && it.asks_gateway()
            };
            checks.iter().filter(|(_, it)| is_of(it)).map(|(slot, _)| *slot).collect()
        }
    }
}

/// A number for the jitter.
fn random() -> u32 {
    // Without any, rounds begin on time.
    getrandom::u32().unwrap_or(0)
}

impl Byway {
    /// Returns whether a process is the agent of the network namespace ([`Byway::lock_agent`]).
    ///
    /// # Errors
    ///
    /// Those of the kernel.
    pub fn has_agent(&self) -> Result<bool> {
        self.check_namespace()?;
        super::rollback_store::RollbackStore::open()?.has_agent()
    }
}

/// The link-layer address that a question to a host has to have. `None` if it is not known yet.
fn address_for(network: &mut Network, checked: &Checked, host: IpAddr) -> Result<Option<Vec<u8>>> {
    if checked.header != Header::Ethernet {
        return Ok(Some(Vec::new()));
    }
    let neighbour = |gateway: IpAddr| Neighbour { device: checked.next_hop.device.clone(), gateway };
    match checked.next_hop.gateway {
        Some(gateway) => network.link_layer_address(&neighbour(gateway)),
        // Without a gateway, the host itself is the neighbour.
        None => network.link_layer_address(&neighbour(host)),
    }
}

/// The source address of the questions to a host: the one that is asked for, or one of the device's. At best it is of the network
/// that the gateway is in, and otherwise the one most like the host's: of several prefixes, the host may know only one
/// (RFC 6724, 5).
fn source(
    check: &HealthCheck,
    next_hop: &NextHop,
    host: IpAddr,
    index: u32,
    addresses: &BTreeMap<u32, Vec<IpNet>>,
    own: &BTreeSet<IpAddr>,
) -> Option<IpAddr> {
    if let Some(src) = check.src {
        // Whoever is asked by ARP or neighbour discovery takes this host for the one with that address.
        let may_ask = check.asked != Asked::Neighbour || own.contains(&src);
        return (src.is_ipv4() == host.is_ipv4() && may_ask).then_some(src);
    }
    let of_device = addresses.get(&index).map(Vec::as_slice).unwrap_or_default();
    if check.asked == Asked::Neighbour {
        let others = addresses.iter().filter(|(other, _)| **other != index);
        let others: Vec<IpNet> = others.flat_map(|(_, nets)| nets).copied().collect();
        return gateway_guard::source(host, of_device, &others);
    }
    let is_global = |net: &&IpNet| match net.addr() {
        IpAddr::V4(_) => true,
        IpAddr::V6(v6) => !v6.is_unicast_link_local(),
    };
    let mut usable: Vec<&IpNet> =
        of_device.iter().filter(|net| net.addr().is_ipv4() == host.is_ipv4()).filter(is_global).collect();
    let gateway = next_hop.gateway.unwrap_or(host);
    // The sort is stable: of several, the kernel's first one stays first.
    usable.sort_by_key(|net| (!net.contains(&gateway), Reverse(common_bits(net.addr(), host))));
    usable.first().map(|net| net.addr())
}

/// How many bits two addresses of a family begin with in common.
fn common_bits(one: IpAddr, other: IpAddr) -> u32 {
    match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        _ => 0,
    }
}

pub(super) fn now() -> Result<Duration> {
    monotonic_now().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Device;

    fn hop(gateway: &str) -> NextHop {
        NextHop::new(Some(gateway.parse().unwrap()), Device { name: "eth1".into(), index: 3 })
    }

    #[test]
    fn the_source_is_the_one_asked_for_or_one_by_the_gateway() {
        let nets = ["192.0.2.1/24", "10.0.0.1/24", "fe80::1/64", "2001:db8::1/64"];
        let nets = nets.map(|net| net.parse::<IpNet>().unwrap());
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let check = HealthCheck::ping([ip("198.51.100.1")]);
        let with = |check: &HealthCheck, gateway: &str, host: &str, nets: &[IpNet]| {
            let own = nets.iter().map(IpNet::addr).collect();
            source(check, &hop(gateway), ip(host), 3, &BTreeMap::from([(3, nets.to_vec())]), &own)
        };
        let of = |gateway: &str, host: &str| with(&check, gateway, host, &nets);
        assert_eq!(of("10.0.0.9", "198.51.100.1"), Some(ip("10.0.0.1")));
        assert_eq!(of("203.0.113.9", "198.51.100.1"), Some(ip("192.0.2.1")));
        // An IPv4 packet by an IPv6 gateway, and the other way round.
        assert_eq!(of("fe80::9", "198.51.100.1"), Some(ip("192.0.2.1")));
        assert_eq!(of("10.0.0.9", "2001:db8:1::1"), Some(ip("2001:db8::1")));
        // Of two prefixes, the one that the host knows.
        let both = ["fd00::1/64", "2001:db8:5::1/64"].map(|net| net.parse::<IpNet>().unwrap());
        let host = ip("2001:db8:1::1");
        assert_eq!(with(&check, "fe80::9", &host.to_string(), &both), Some(ip("2001:db8:5::1")));
        let said = HealthCheck { src: Some(ip("192.168.1.5")), ..check.clone() };
        assert_eq!(with(&said, "10.0.0.9", "198.51.100.1", &nets), Some(ip("192.168.1.5")));
        assert_eq!(with(&check, "10.0.0.9", "198.51.100.1", &nets[2..]), None);
        // A gateway is asked from its own link, and never from an address that this host does not have.
        let neighbour = HealthCheck::new(Asked::Neighbour);
        for (src, may_ask) in [("192.0.2.1", true), ("192.168.1.5", false)] {
            let said = HealthCheck { src: Some(ip(src)), ..neighbour.clone() };
            assert_eq!(with(&said, "10.0.0.9", "10.0.0.9", &nets), may_ask.then(|| ip(src)));
        }
        assert_eq!(with(&neighbour, "fe80::9", "fe80::9", &nets), Some(ip("fe80::1")));
        assert_eq!(with(&neighbour, "10.0.0.9", "10.0.0.9", &nets), Some(ip("10.0.0.1")));
    }

    #[test]
    fn a_gateway_is_asked_alone_but_for_one_question_a_second_while_it_does_not_answer() {
        let known = Some([2, 0, 0, 0, 0, 9]);
        for (interval, each) in [(10, 100), (200, 5), (600, 2), (1_000, 1), (5_000, 1)] {
            let of = |known, is_in_doubt, round| {
                Whom::of(known, is_in_doubt, round, Duration::from_millis(interval))
            };
            for round in 1..=201 {
                let alone = Whom::Gateway([2, 0, 0, 0, 0, 9]);
                assert_eq!(of(known, false, round), alone);
                let is_turn = (round - 1) % each == 0;
                assert_eq!(of(known, true, round), if is_turn { Whom::Everybody } else { alone });
                let unknown = if is_turn { Whom::Everybody } else { Whom::Nobody };
                assert_eq!(of(None, true, round), unknown);
            }
        }
    }

    #[test]
    fn a_verdict_is_a_sentence() {
        let ping = ["198.51.100.1", "198.51.100.2"].map(|host| host.parse().unwrap());
        let said = |hosts: &[IpAddr], is_healthy| {
            let health_check = HealthCheck::ping(hosts.iter().copied());
            Verdict { next_hop: hop("10.0.0.9"), health_check, is_healthy }.to_string()
        };
        assert_eq!(
            said(&ping[..1], false),
            "via 10.0.0.9 dev eth1 is out of service: 198.51.100.1 has not answered through it, 3 rounds in a row"
        );
        assert_eq!(
            said(&ping, false),
            "via 10.0.0.9 dev eth1 is out of service: none of 198.51.100.1, 198.51.100.2 has answered through it, 3 rounds in a row"
        );
        let said_of = |asked: Asked, gateway: &str| {
            let health_check = HealthCheck::new(asked).rounds(1, 1);
            Verdict { next_hop: hop(gateway), health_check, is_healthy: false }.to_string()
        };
        assert_eq!(
            said_of(Asked::Tcp(ping.to_vec(), 443), "10.0.0.9"),
            "via 10.0.0.9 dev eth1 is out of service: none of 198.51.100.1, 198.51.100.2 (TCP port 443) has answered through it, \
             in a round"
        );
        for (gateway, by) in [("10.0.0.9", "ARP"), ("fe80::9", "neighbour discovery")] {
            assert_eq!(
                said_of(Asked::Neighbour, gateway),
                format!(
                    "via {gateway} dev eth1 is out of service: the gateway has not answered {by}, in a round"
                )
            );
        }
        assert_eq!(
            said(&ping, true),
            "via 10.0.0.9 dev eth1 is back in service: its health check was good, 3 rounds in a row"
        );
    }
}
