//! Watches the neighbours that `reply-to` sends replies to, and takes their ways out of service while they do not answer.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fmt, io,
    net::IpAddr,
    os::fd::AsFd,
    time::Duration,
};

use byway_abi::reply::Way;
use ipnet::IpNet;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use serde::Serialize;

use super::{checker::now, gateway_guard::source};
use crate::{
    error::{Error, Result},
    kernel::{
        events::NetworkEvents,
        namespace,
        network::Network,
        pins::Pins,
        replies::{Liveness, Replies, WayMap},
        solicit::Solicitor,
    },
    policy::{
        snapshot::Link,
        way_watch::{QUIET, Signs, Watched},
    },
    show::flows::{Neighbours, ReplyWay, WayState, reply_way},
};

/// How often it looks for other ways and addresses, which no event tells of.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// The least time between two looks, and how many times as long as the last one took it waits.
const LOOK_AT_MOST: Duration = Duration::from_millis(100);
const SHARE: u32 = 100;
/// How long a way stays out of service if nobody renews that.
const LEASE: Duration = Duration::from_secs(5);
/// How often it is renewed.
const RENEW: Duration = Duration::from_secs(1);
/// How many neighbours it asks in one turn, so that many dead ones cause no storm.
const ASK_AT_MOST: usize = 64;
/// The least time between two turns that ask.
const PACE: Duration = Duration::from_millis(10);

/// Watches the neighbours that `reply-to` sends replies to. One process of a network namespace does, the one with
/// [`Byway::lock_agent`](crate::Byway::lock_agent).
///
/// While a device is down or has no carrier, or a neighbour is silent, what the rule says `else` holds for its replies. What comes
/// in by a way is a sign of life. If replies leave and nothing comes in for a second, it asks the neighbour by ARP or neighbour
/// discovery, three times, and for another of its addresses each time. It does not judge whoever has never answered.
///
/// A verdict holds for five seconds unless it is renewed, and ends with the first sign of life.
#[derive(Debug)]
pub struct WayWatcher {
    namespace: String,
    network: Network,
    changes: NetworkEvents,
    solicitor: Option<Solicitor>,
    /// The maps, and what tells their pins from later ones.
    maps: Option<(u64, Replies, Liveness, WayMap)>,
    ways: BTreeMap<u32, WatchedWay>,
    look_again: Duration,
    /// When the last look ended, and how long it took.
    looked: (Duration, Duration),
}

#[derive(Debug)]
struct WatchedWay {
    way: Way,
    /// How people know it.
    named: ReplyWay,
    /// What keeps its device from sending, if anything does.
    device: WayState,
    /// Addresses of the neighbour, each with one of this host to ask from.
    questions: Vec<(IpAddr, IpAddr)>,
    /// The one that was answered last. It comes first.
    good: Option<(IpAddr, IpAddr)>,
    /// How many have been asked in a row, and the last one.
    asked: (usize, Option<(IpAddr, IpAddr)>),
    answered: u64,
    watched: Watched,
    state: WayState,
    renew: Duration,
}

/// A change of whether replies go by a way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WayEvent {
    /// The way.
    #[serde(flatten)]
    pub way: ReplyWay,
    /// Whether it is in service from now on, or why it is not.
    pub state: WayState,
}

impl fmt::Display for WayEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { way, state } = self;
        match state {
            WayState::Up => write!(f, "replies go back {way} again"),
            WayState::DeviceDown => write!(f, "no replies go back {way}: the interface is down"),
            WayState::NoCarrier => write!(f, "no replies go back {way}: the interface has no carrier"),
            WayState::Silent => write!(f, "no replies go back {way}: the neighbour does not answer"),
        }
    }
}

impl WayWatcher {
    /// Makes a watcher for the calling thread's network namespace, where it has to be called from then on.
    ///
    /// # Errors
    ///
    /// Those of the kernel.
    pub fn open() -> Result<Self> {
        Ok(Self {
            namespace: namespace::key()?,
            network: Network::open()?,
            changes: NetworkEvents::open(None)?,
            solicitor: None,
            maps: None,
            ways: BTreeMap::new(),
            look_again: Duration::ZERO,
            looked: (Duration::ZERO, Duration::ZERO),
        })
    }

    /// Does what is to be done by now, and then waits until something is to be done again, `longest` at the most. Returns which ways
    /// are out of service or back.
    ///
    /// # Errors
    ///
    /// [`Error::Privilege`] without CAP_NET_RAW if it has to ask somebody, and those of the kernel.
    pub fn turn(&mut self, longest: Duration) -> Result<Vec<WayEvent>> {
        let changes = self.changes.take()?;
        if changes.messages + changes.overruns > 0 {
            let (ended, took) = self.looked;
            self.look_again = self.look_again.min(ended + LOOK_AT_MOST.max(took * SHARE));
        }
        let begin = now()?;
        let mut looked = Ok(());
        if begin >= self.look_again {
            // Not at once again, if this fails.
            self.look_again = begin + QUIET;
            looked = self.look(begin);
        }
        let now = now()?;
        let (events, asked) = self.watch(now);
        if events.is_empty() {
            looked.and(asked)?;
            self.wait(now, longest)?;
        }
        Ok(events)
    }

    /// Reads which ways there are, and what is needed to ask.
    fn look(&mut self, begin: Duration) -> Result<()> {
        if namespace::key()? != self.namespace {
            return Err(Error::OtherNamespace);
        }
        let stamp = Pins::stamp()?;
        if self.maps.as_ref().map(|(stamp, ..)| *stamp) != stamp {
            self.maps = None;
            self.ways.clear();
        }
        if self.maps.is_none()
            && let Some((stamp, replies)) = Pins::replies()?
            // Until then not all maps are there.
            && replies.has_flows()
            && let Some(liveness) = replies.liveness()?
        {
            let way_map = replies.way_map()?;
            self.maps = Some((stamp, replies, liveness, way_map));
        }
        if let Some((_, replies, liveness, _)) = &self.maps {
            // Each time: whoever makes the maps anew begins without.
            replies.watch()?;
            let mut before = std::mem::take(&mut self.ways);
            let ways = replies.ways()?;
            let found =
                if ways.is_empty() { None } else { Some(Found::read(replies, &ways, &mut self.network)?) };
            for (number, way) in ways {
                let Some(found) = &found else { break };
                let Some(link) = found.links.get(&way.ifindex) else { continue };
                let same = before.remove(&number).filter(|it| it.way == way);
                let mut watched = same.unwrap_or_else(|| {
                    let is_out = liveness.out(number) > begin.as_nanos() as u64;
                    WatchedWay::new(way, found.named(&way), liveness.signs(number), is_out, begin)
                });
                watched.device = device_state(link);
                watched.named = found.named(&way);
                match found.questions(&way, &watched.named) {
                    // The map of what is heard is full of others. This one can be asked all the same.
                    Some(questions) if questions.is_empty() => {}
                    questions => watched.questions = questions.unwrap_or_default(),
                }
                self.ways.insert(number, watched);
            }
        }
        let end = now()?;
        self.looked = (end, end.saturating_sub(begin));
        self.look_again = end + LOOK_AGAIN.max(self.looked.1 * SHARE);
        Ok(())
    }

    /// Looks at the signs of all ways, asks those in doubt, and writes the verdicts. Goes on with the others if one cannot be asked,
    /// and returns why.
    fn watch(&mut self, now: Duration) -> (Vec<WayEvent>, Result<()>) {
        let Self { maps, ways, solicitor, network, .. } = self;
        let (mut events, mut done, mut asked) = (Vec::new(), Ok(()), 0);
        let Some((_, _, liveness, way_map)) = maps else { return (events, done) };
        let mut devices = BTreeSet::new();
        ways.retain(|number, it| {
            let signs = liveness.signs(*number);
            let before = it.watched.clone();
            if it.device != WayState::Up || it.questions.is_empty() {
                it.watched.rest(signs, now);
            } else if it.watched.look(signs, now, asked < ASK_AT_MOST) {
                asked += 1;
                let question = it.question(before.is_asked());
                // Old kernels tell nobody that a device has another Ethernet address. The next look may find questions again.
                let own = network.own_address(it.way.ifindex);
                match own.map(|own| own == Some(it.way.receiver())) {
                    Ok(true) => match ask(solicitor, &it.way, question) {
                        Ok(true) => {}
                        // A question that has not been asked proves nothing.
                        Ok(false) => it.watched = before.clone(),
                        Err(error) => {
                            it.watched = before.clone();
                            done = Err(error);
                        }
                    },
                    not_own => {
                        it.questions.clear();
                        it.watched.rest(signs, now);
                        if let Err(error) = not_own {
                            done = Err(error);
                        }
                    }
                }
            }
            if before.is_asked() && signs.answered != it.answered {
                it.good = it.asked.1;
            }
            it.answered = signs.answered;
            let state = if it.device == WayState::Up && it.watched.is_silent() {
                WayState::Silent
            } else {
                it.device
            };
            let has_changed = (state == WayState::Up) != (it.state == WayState::Up);
            if !has_changed && (state == WayState::Up || now < it.renew) {
                it.state = state;
                return true;
            }
            // The number may be another way's by now.
            match way_map.get(*number) {
                Ok(way) if way == Some(it.way) => {}
                Ok(_) => return false,
                Err(error) => {
                    done = Err(error);
                    return true;
                }
            }
            let until = if state == WayState::Up { Duration::ZERO } else { now + LEASE };
            liveness.set_out(*number, until.as_nanos() as u64);
            let after = liveness.signs(*number);
            if state == WayState::Silent && (after.seen, after.answered) != (signs.seen, signs.answered) {
                // A sign of life must not be lost. The next turn sees it.
                liveness.set_out(*number, 0);
            }
            // All ways of a device come and go together.
            let is_of_device =
                [it.state, state].iter().any(|it| !matches!(it, WayState::Up | WayState::Silent));
            (it.state, it.renew) = (state, now + RENEW);
            let way = if is_of_device { ReplyWay::new(it.named.device.clone()) } else { it.named.clone() };
            if has_changed && (!is_of_device || devices.insert(it.way.ifindex)) {
                events.push(WayEvent { way, state });
            }
            true
        });
        (events, done)
    }

    fn wait(&self, now: Duration, longest: Duration) -> Result<()> {
        let due = self.ways.values().map(|it| it.watched.look_again(now).min(now + RENEW)).min();
        let until = due.unwrap_or(self.look_again).min(self.look_again).max(now + PACE);
        // Rounded up, because otherwise it would wake too early and wait again.
        let time = until.saturating_sub(now).min(longest).as_micros().div_ceil(1_000);
        let mut socket = [PollFd::new(self.changes.as_fd(), PollFlags::POLLIN)];
        match poll(&mut socket, PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(Error::kernel("wait for changes of the network", errno)),
        }
    }
}

impl WatchedWay {
    /// Begins with a way. If it is out of service, somebody else has found that its neighbour does not answer.
    fn new(way: Way, named: ReplyWay, signs: Signs, is_out: bool, now: Duration) -> Self {
        Self {
            way,
            named,
            device: WayState::Up,
            questions: Vec::new(),
            good: None,
            asked: (0, None),
            answered: signs.answered,
            watched: Watched::new(signs, is_out, now),
            state: if is_out { WayState::Silent } else { WayState::Up },
            renew: now,
        }
    }
}

impl WatchedWay {
    /// Returns the next question: the one that was answered last, and then the others. `is_again` says that the one before was not
    /// answered.
    fn question(&mut self, is_again: bool) -> Option<(IpAddr, IpAddr)> {
        let nth = if is_again { self.asked.0 + 1 } else { 0 };
        let mut in_turn: Vec<(IpAddr, IpAddr)> = self.good.into_iter().collect();
        in_turn.extend(self.questions.iter().filter(|it| self.good != Some(**it)));
        let question = in_turn.get(nth % in_turn.len().max(1)).copied();
        self.asked = (nth, question);
        question
    }
}

/// What the network stack and the programs know of all ways.
struct Found {
    links: BTreeMap<u32, Link>,
    neighbours: Neighbours,
    addresses: BTreeMap<u32, Vec<IpNet>>,
    /// The Ethernet addresses of this host, by device.
    own: BTreeMap<u32, [u8; 6]>,
}

impl Found {
    fn read(replies: &Replies, ways: &BTreeMap<u32, Way>, network: &mut Network) -> Result<Self> {
        let mut own = BTreeMap::new();
        for way in ways.values() {
            if let Entry::Vacant(place) = own.entry(way.ifindex) {
                place.insert(network.own_address(way.ifindex)?);
            }
        }
        Ok(Self {
            links: network.links()?,
            neighbours: Neighbours::heard(replies)?,
            addresses: network.source_addresses()?,
            own: own.into_iter().filter_map(|(index, own)| Some((index, own?))).collect(),
        })
    }

    fn named(&self, way: &Way) -> ReplyWay {
        reply_way(way, &self.links, &self.neighbours)
    }

    /// Returns the addresses of a way's neighbour that the programs have heard, each with one of this host to ask from. None if
    /// either side has another Ethernet address by now: then nothing comes in by this way, and nobody must hear of the old one.
    fn questions(&self, way: &Way, named: &ReplyWay) -> Option<Vec<(IpAddr, IpAddr)>> {
        if named.lladdr.map(|it| it.0) != way.sender() || self.own.get(&way.ifindex) != Some(&way.receiver())
        {
            return None;
        }
        let own = self.addresses.get(&way.ifindex).map(Vec::as_slice).unwrap_or_default();
        let of_others = self.addresses.iter().filter(|(index, _)| **index != way.ifindex);
        let others: Vec<IpNet> = of_others.flat_map(|(_, nets)| nets).copied().collect();
        let with_source = |it: &IpAddr| source(*it, own, &others).map(|source| (*it, source));
        Some(named.addresses.iter().filter_map(with_source).collect())
    }
}

/// Asks for the neighbour of a way. Returns whether the question is out.
fn ask(solicitor: &mut Option<Solicitor>, way: &Way, question: Option<(IpAddr, IpAddr)>) -> Result<bool> {
    let (Some(sender), Some((neighbour, source))) = (way.sender(), question) else { return Ok(false) };
    let failed = |error: io::Error| match error.raw_os_error() {
        Some(libc::EPERM) => Error::Privilege("CAP_NET_RAW"),
        _ => Error::kernel("ask a neighbour that replies go to", error),
    };
    if solicitor.is_none() {
        *solicitor = Some(Solicitor::open().map_err(failed)?);
    }
    let Some(solicitor) = solicitor else { return Ok(false) };
    match solicitor.ask(way.ifindex, way.receiver(), source, neighbour, Some(sender)) {
        Ok(()) => Ok(true),
        // It is down or about to go, which the next look knows, or its queue is full.
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV | libc::ENOBUFS | libc::EAGAIN)
            ) =>
        {
            Ok(false)
        }
        Err(error) => Err(failed(error)),
    }
}

fn device_state(link: &Link) -> WayState {
    match (link.is_up, link.has_carrier) {
        (false, _) => WayState::DeviceDown,
        (true, false) => WayState::NoCarrier,
        (true, true) => WayState::Up,
    }
}
