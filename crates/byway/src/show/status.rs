//! The state and its counters, as a listing shows them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use byway_abi::{DEVICE_REFUSES, NextHopHealth, RuleRecord, SILENCE, SILENCE_ON_LINK, class};
use serde::{Serialize, Serializer};

use super::lookup::{Lookup, User};
use crate::{
    error::{Error, Result},
    kernel::{
        hook::Hook,
        map::add,
        network::Network,
        pins::Pins,
        rules::RuleCounters,
        snapshot::{Installed, installed},
        tables::Tables,
    },
    model::{Device, Group, HealthCheck, NextHop, Rule, Target},
    policy::{
        snapshot::Link,
        state::{Role, Slot},
    },
};

/// Packets and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Packets. A segmentation-offload packet counts as its segments.
    pub packets: u64,
    /// Bytes with one link-layer header. A segmentation-offload packet counts with its whole length.
    pub bytes: u64,
}

impl From<byway_abi::Count> for Count {
    fn from(count: byway_abi::Count) -> Self {
        Self { packets: count.packets, bytes: count.bytes }
    }
}

/// A rule in force, and its counters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RuleStatus {
    /// The rule.
    #[serde(flatten)]
    pub rule: Rule,
    /// Redirected packets.
    pub departed: Count,
    /// Redirected packets that reached the egress of the next hop's device. The others are lost, most
    /// often because the next hop does not answer.
    pub arrived: Count,
    /// Packets left to normal routing.
    pub passed: Count,
    /// Dropped packets.
    pub dropped: Count,
    /// Packets that found no next hop in service, and so were passed or dropped.
    pub no_next_hop: Count,
    /// Departed packets whose MSS option was clamped.
    pub clamped: Count,
    /// Packets too big for their next hop, answered with an ICMP error.
    pub icmp_sent: Count,
    /// Packets too big for their next hop, dropped without an ICMP error: none may be sent about them, or too many were.
    pub too_big_dropped: Count,
    /// The next hop's device is gone, or is not there yet.
    pub device_gone: bool,
}

impl RuleStatus {
    /// Makes the status of a rule that has matched no packet yet.
    pub fn new(rule: Rule) -> Self {
        Self {
            rule,
            departed: Count::default(),
            arrived: Count::default(),
            passed: Count::default(),
            dropped: Count::default(),
            no_next_hop: Count::default(),
            clamped: Count::default(),
            icmp_sent: Count::default(),
            too_big_dropped: Count::default(),
            device_gone: false,
        }
    }

    /// Returns everything that the rule has matched, whatever happened to it.
    pub fn matched(&self) -> Count {
        let all = [
            self.departed,
            self.passed,
            self.dropped,
            self.no_next_hop,
            self.icmp_sent,
            self.too_big_dropped,
        ];
        Count {
            packets: all.iter().fold(0, |sum, count| sum.saturating_add(count.packets)),
            bytes: all.iter().fold(0, |sum, count| sum.saturating_add(count.bytes)),
        }
    }

    /// Returns how many departed packets have not arrived.
    pub fn lost(&self) -> u64 {
        self.departed.packets.saturating_sub(self.arrived.packets)
    }
}

/// A group with a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct GroupStatus {
    /// The group.
    #[serde(flatten)]
    pub group: Group,
    /// How many rules use it.
    pub rules: usize,
}

impl GroupStatus {
    /// Makes the status of a group that `rules` rules use.
    pub fn new(group: Group, rules: usize) -> Self {
        Self { group, rules }
    }
}

/// Whether packets get through to a next hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum NextHopState {
    /// It is in service.
    Up,
    /// Somebody has taken it out of service.
    Down,
    /// Its device is gone. Another device may have its ifindex.
    DeviceGone,
    /// Its device has not been there yet, or the routing table has not led to its gateway.
    Waiting,
    /// Its health check has failed.
    Unhealthy,
    /// No packet arrives: it does not answer, or its device is down or has no carrier. Byway probes it from time to time.
    Silent,
}

/// A next hop of a rule or a group, and its counters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct NextHopStatus {
    /// The next hop.
    #[serde(flatten)]
    pub next_hop: NextHop,
    /// Whether packets get through.
    pub state: NextHopState,
    /// Its health check, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// Its device is down.
    pub device_down: bool,
    /// Its device is up, and has no carrier.
    pub no_carrier: bool,
    /// The MTU of its device: the longest packet in bytes, without a link-layer header. `None` if the device is gone.
    pub mtu: Option<u32>,
    /// How many rules use it, directly or by a group.
    pub rules: usize,
    /// The names of the groups that it is in.
    pub groups: Vec<String>,
    /// Packets redirected to it.
    pub departed: Count,
    /// Redirected packets that reached the egress of its device. The others are lost, or wait for the neighbour entry.
    pub arrived: Count,
    /// Packets that belonged to it, but went another way because it was out of service.
    pub failed_over: Count,
    /// Packets departed to it whose MSS option was clamped.
    pub clamped: Count,
    /// Packets too big for it, answered with an ICMP error.
    pub icmp_sent: Count,
    /// Packets too big for it, dropped without an ICMP error: none may be sent about them, or too many were.
    pub too_big_dropped: Count,
}

impl NextHopStatus {
    /// Makes the status of a next hop without counters, and with nothing known about its device.
    pub fn new(next_hop: NextHop, state: NextHopState) -> Self {
        Self {
            next_hop,
            state,
            health_check: None,
            device_down: false,
            no_carrier: false,
            mtu: None,
            rules: 0,
            groups: Vec::new(),
            departed: Count::default(),
            arrived: Count::default(),
            failed_over: Count::default(),
            clamped: Count::default(),
            icmp_sent: Count::default(),
            too_big_dropped: Count::default(),
        }
    }

    /// Returns how many departed packets have not arrived.
    pub fn lost(&self) -> u64 {
        self.departed.packets.saturating_sub(self.arrived.packets)
    }
}

/// Packets that left by an attachment, and why they were left alone. Each packet counts once in `seen`, and once more here or
/// at the rule that matched it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct AttachmentCounters {
    /// All packets, except redirected ones that arrived there.
    pub seen: Count,
    /// Neither IPv4 nor IPv6.
    pub not_ip: Count,
    /// Packets that do not parse.
    pub malformed: Count,
    /// With a VLAN tag in the packet's metadata.
    pub tagged: Count,
    /// To multicast addresses.
    pub multicast: Count,
    /// To broadcast addresses.
    pub broadcast: Count,
    /// From or to link-local addresses.
    pub link_local: Count,
    /// IPv6 neighbour discovery.
    pub neighbour_discovery: Count,
    /// Packets that no rule matches.
    pub not_matched: Count,
}

/// A device that carries one of Byway's programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Attachment {
    /// The device.
    #[serde(flatten)]
    pub device: Device,
    /// Which program it is.
    pub role: Role,
    /// How the program is attached.
    pub hook: Hook,
    /// Whether the program is on the device. If not, the device is gone, or somebody has detached the program.
    pub is_installed: bool,
    /// The device is gone, or is not there yet: its index is 0 then.
    pub device_gone: bool,
    /// Nobody has named it: Byway attached to it because it carries a default route. If its name is `auto` and its index 0, the
    /// attachment waits for a default route.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub by_route: bool,
    /// Packets that left by it; `None` for [`Role::Arrival`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counters: Option<AttachmentCounters>,
}

impl Attachment {
    /// Makes an attachment that carries its program, without counters.
    pub fn new(device: Device, role: Role, hook: Hook) -> Self {
        Self { device, role, hook, is_installed: true, device_gone: false, by_route: false, counters: None }
    }

    /// Says in a sentence what keeps packets that leave by it from following the rules, if anything does.
    pub fn trouble(&self) -> Option<String> {
        let name = &self.device.name;
        Some(match self {
            Self { device_gone: true, by_route: true, device: Device { index: 0, .. }, .. } => {
                format!(
                    "{name}: there is no default route to attach to yet; byway's next change looks for one again"
                )
            }
            Self { device_gone: true, device: Device { index: 0, .. }, .. } => {
                format!("{name}: there is no such device yet; byway's next change looks for it again")
            }
            Self { device_gone: true, .. } => {
                format!("{name}: the device is gone; byway's next change looks for it again")
            }
            Self { is_installed: false, .. } => format!(
                "byway's program on {name} is missing (detached by someone else); byway's next change puts it back"
            ),
            _ => return None,
        })
    }
}

/// A next hop whose device has a smaller MTU than an attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MtuMismatch {
    /// The next hop.
    #[serde(flatten)]
    pub next_hop: NextHop,
    /// The MTU of its device, in bytes.
    pub mtu: u32,
    /// The attachment with the largest MTU.
    pub attachment: Device,
    /// The MTU of that attachment, in bytes.
    pub attachment_mtu: u32,
}

/// Returns which of these next hops have a device with a smaller MTU than an attachment.
pub(crate) fn mtu_mismatches(
    pins: &Pins,
    network: &mut Network,
    next_hops: &[NextHop],
) -> Result<Vec<MtuMismatch>> {
    let links = network.links()?;
    let attachments = installed(pins, network, &links)?;
    let widest = attachments
        .iter()
        .filter(|installed| installed.role == Role::Departure)
        .filter_map(|installed| links.get(&installed.device.index))
        .max_by_key(|link| link.mtu);
    let mtu_mismatches = |next_hop: &NextHop| {
        let (widest, mtu) = (widest?, links.get(&next_hop.device.index)?.mtu);
        (mtu < widest.mtu).then(|| MtuMismatch {
            next_hop: next_hop.clone(),
            mtu,
            attachment: widest.device.clone(),
            attachment_mtu: widest.mtu,
        })
    };
    Ok(next_hops.iter().filter_map(mtu_mismatches).collect())
}

/// Everything that Byway has in one network namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// The devices that carry a program, by name.
    pub attachments: Vec<Attachment>,
    /// The rules, by source and destination.
    pub rules: Vec<RuleStatus>,
    /// The named groups, by name.
    pub groups: Vec<GroupStatus>,
    /// The next hops of all rules and groups.
    #[serde(rename = "nexthops")]
    pub next_hops: Vec<NextHopStatus>,
    /// How long the last apply still waits to be confirmed, if it does. Zero if it is overdue.
    #[serde(
        rename = "seconds_to_confirm",
        skip_serializing_if = "Option::is_none",
        serialize_with = "seconds"
    )]
    pub unconfirmed: Option<Duration>,
}

fn seconds<S: Serializer>(time: &Option<Duration>, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    time.map(whole_seconds).serialize(serializer)
}

/// Rounds up to whole seconds.
pub(super) fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// Reads the devices that carry a program, by name.
pub(crate) fn read_attachments(pins: &Pins, network: &mut Network) -> Result<Vec<Attachment>> {
    let links = network.links()?;
    attachments(pins, network, &links)
}

/// The devices that carry a program, and those that should carry one, by name.
pub(super) fn attachments(
    pins: &Pins,
    network: &mut Network,
    links: &BTreeMap<u32, Link>,
) -> Result<Vec<Attachment>> {
    let requests: BTreeSet<String> = pins.tables.attachments.requests()?.into_values().collect();
    let is_auto = requests.contains("");
    let all = installed(pins, network, links)?;
    let there: Result<Vec<Attachment>> =
        all.into_iter().map(|installed| attachment_status(pins, installed, is_auto)).collect();
    let mut there = there?;
    let is_there =
        |name: &String| there.iter().any(|it| it.role == Role::Departure && it.device.name == *name);
    let waits = |name: String, by_route: bool| Attachment {
        is_installed: false,
        device_gone: true,
        by_route,
        counters: Some(AttachmentCounters::default()),
        ..Attachment::new(Device { name, index: 0 }, Role::Departure, Hook::Tcx)
    };
    let is_auto_there = there.iter().any(|it| it.by_route);
    let waiting: Vec<Attachment> = requests
        .into_iter()
        .filter(|name| !name.is_empty() && !is_there(name))
        .map(|name| waits(name, false))
        .chain((is_auto && !is_auto_there).then(|| waits("auto".to_owned(), true)))
        .collect();
    there.extend(waiting);
    there.sort_by(|a, b| (&a.device, a.role).cmp(&(&b.device, b.role)));
    Ok(there)
}

/// Returns the rule in a record and its counters, or `None` if the record is invalid.
pub(crate) fn rule_status(
    lookup: &Lookup,
    record: &RuleRecord,
    counters: RuleCounters,
) -> Option<RuleStatus> {
    let rule = lookup.rule(record)?;
    let RuleCounters { matched, arrived, exceptions } = counters;
    let of = |is_it: bool| if is_it { matched.into() } else { Count::default() };
    Some(RuleStatus {
        device_gone: lookup.is_gone(record),
        // If the kind of a rule is not known, neither is what it did.
        departed: of(
            rule.reply_to || !matches!(rule.target, Target::Pass | Target::Drop | Target::Other { .. })
        ),
        arrived: arrived.into(),
        passed: of(!rule.reply_to && rule.target == Target::Pass),
        dropped: of(!rule.reply_to && rule.target == Target::Drop),
        no_next_hop: exceptions.no_next_hop.into(),
        clamped: exceptions.clamped.into(),
        icmp_sent: exceptions.icmp_sent.into(),
        too_big_dropped: exceptions.too_big_dropped.into(),
        rule,
    })
}

pub(crate) fn next_hop_status(
    tables: &Tables,
    links: &BTreeMap<u32, Link>,
    next_hop: &NextHop,
    slot: Slot,
    user: User,
) -> Result<NextHopStatus> {
    let counters = tables.next_hops.counters(slot.index)?;
    let link = links.get(&next_hop.device.index).filter(|_| !slot.is_gone);
    let health = tables.next_hops.health(slot.index)?;
    Ok(NextHopStatus {
        state: state(next_hop, slot, &health, tables.next_hops.verdict(slot.index)?, monotonic_now()?),
        health_check: tables.next_hops.health_check(slot.index)?,
        device_down: link.is_some_and(|link| !link.is_up),
        no_carrier: link.is_some_and(|link| link.is_up && !link.has_carrier),
        mtu: link.map(|link| link.mtu),
        rules: user.rules,
        groups: user.groups,
        departed: counters.departed.into(),
        arrived: counters.arrived.into(),
        failed_over: counters.failed_over.into(),
        clamped: counters.clamped.into(),
        icmp_sent: counters.icmp_sent.into(),
        too_big_dropped: counters.too_big_dropped.into(),
        next_hop: next_hop.clone(),
    })
}

/// Whether packets get through to a next hop, from what all CPUs know about it, and until when the verdict of its health check
/// keeps it out of service.
pub(super) fn state(
    next_hop: &NextHop,
    slot: Slot,
    health: &NextHopHealth,
    verdict: u64,
    now: u64,
) -> NextHopState {
    match slot {
        Slot { is_down: true, .. } => NextHopState::Down,
        // It waits also where its device is there again: for the gateway on it.
        Slot { is_gone: true, .. } if next_hop.is_waiting() || next_hop.learned.is_some() => {
            NextHopState::Waiting
        }
        Slot { is_gone: true, .. } => NextHopState::DeviceGone,
        _ if verdict > now => NextHopState::Unhealthy,
        _ if is_silent(health, next_hop.gateway.is_none(), now) => NextHopState::Silent,
        _ => NextHopState::Up,
    }
}

/// Whether the programs consider a next hop dead (`probed_state`).
fn is_silent(health: &NextHopHealth, is_on_link: bool, now: u64) -> bool {
    if health.silent_since == 0 {
        return false;
    }
    let (heard, patience) = if is_on_link {
        (health.silent_since.max(health.taken), SILENCE_ON_LINK)
    } else {
        (health.silent_since, SILENCE)
    };
    health.device == DEVICE_REFUSES || now.saturating_sub(heard) >= patience
}

fn attachment_status(pins: &Pins, installed: Installed, is_auto: bool) -> Result<Attachment> {
    let departs = installed.role == Role::Departure;
    let counters = pins.tables.attachments.counters(installed.device.index)?;
    Ok(Attachment {
        role: installed.role,
        hook: installed.attached.hook,
        is_installed: installed.is_installed,
        device_gone: installed.is_gone,
        device: installed.device,
        by_route: departs && is_auto,
        counters: departs.then(|| seen(&counters)),
    })
}

fn seen(counters: &byway_abi::AttachmentCounters) -> AttachmentCounters {
    let of = |class: usize| counters.of[class].into();
    let mut seen = byway_abi::Count::default();
    counters.of.iter().for_each(|count| add(&mut seen, *count));
    AttachmentCounters {
        seen: seen.into(),
        not_ip: of(class::NOT_IP),
        malformed: of(class::MALFORMED),
        tagged: of(class::TAGGED),
        multicast: of(class::MULTICAST),
        broadcast: of(class::BROADCAST),
        link_local: of(class::LINK_LOCAL),
        neighbour_discovery: of(class::NEIGHBOUR_DISCOVERY),
        not_matched: of(class::NOT_MATCHED),
    }
}

/// The clock that the programs read, in nanoseconds.
pub(crate) fn monotonic_now() -> Result<u64> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map_err(|error| Error::kernel("read the clock", error))?;
    Ok(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}
