//! Rules and groups as people write them. Plain data, without the kernel.

use std::{collections::BTreeSet, fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::prefix::{Prefix, PrefixError};

/// Longest name of a rule in bytes.
pub const RULE_NAME_MAX: usize = byway_abi::RULE_NAME_LEN;

/// Longest name of a group in bytes.
pub const GROUP_NAME_MAX: usize = byway_abi::GROUP_NAME_LEN;

/// How many next hops a group may have.
pub const GROUP_MAX: usize = byway_abi::MAX_MEMBERS;

/// The largest weight of a next hop in a group, as in ip-route(8).
pub const WEIGHT_MAX: u16 = 256;

/// A network device of the network namespace at hand.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Device {
    /// Its name now, or where it is gone the last name that is known.
    pub name: String,
    /// Its interface index (netdevice(7)), which stays when the device is renamed.
    #[serde(rename = "ifindex")]
    pub index: u32,
}

/// Where a redirected packet goes next.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NextHop {
    /// The neighbour that gets the packet; without one the packet's own destination is the neighbour (on-link).
    pub gateway: Option<IpAddr>,
    /// The device that the packet leaves by.
    pub device: Device,
}

impl fmt::Display for NextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(gateway) = self.gateway {
            write!(f, "via {gateway} ")?;
        }
        write!(f, "dev {}", self.device.name)
    }
}

/// A next hop of a group, and its share.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Member {
    /// Where its packets go.
    #[serde(flatten)]
    pub next_hop: NextHop,
    /// Its share of the flows, measured against the other members' weights; 1 to [`WEIGHT_MAX`].
    pub weight: u16,
}

/// What holds for a packet while no next hop of its target is in service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDown {
    /// It is left to normal routing.
    #[default]
    Pass,
    /// It is dropped.
    Drop,
}

impl OnDown {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for OnDown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pass => "pass",
            Self::Drop => "drop",
        })
    }
}

/// What the MSS option of TCP is clamped to in packets that a rule sends to a next hop (RFC 9293, 3.7.1): the largest
/// segment that the other side may send back. It is never raised.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mss {
    /// To what fits the MTU of the next hop's device.
    #[default]
    Auto,
    /// To nothing: it stays as it is.
    Off,
    /// To so many bytes, from [`MSS_MIN`] to [`MSS_MAX`].
    #[serde(untagged)]
    Bytes(u16),
}

/// The smallest MSS to clamp to, in bytes.
pub const MSS_MIN: u16 = byway_abi::MSS_MIN;

/// The largest MSS to clamp to, in bytes.
pub const MSS_MAX: u16 = byway_abi::MSS_MAX;

impl Mss {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Mss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.pad("auto"),
            Self::Off => f.pad("off"),
            Self::Bytes(bytes) => bytes.fmt(f),
        }
    }
}

/// What becomes of the packets that a rule speaks about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Target {
    /// They go to a next hop.
    NextHop(NextHop),
    /// Each flow goes to one of several next hops.
    NextHops(Vec<Member>),
    /// Each flow goes to one of the next hops of the group of this name.
    Group(String),
    /// They are left to normal routing: an exception from a less specific rule.
    Pass,
    /// They are dropped.
    Drop,
}

impl Target {
    /// The next hops that the target names itself. A group has its own.
    pub fn next_hops(&self) -> impl Iterator<Item = &NextHop> {
        let (one, several) = match self {
            Self::NextHop(next_hop) => (Some(next_hop), &[][..]),
            Self::NextHops(members) => (None, &members[..]),
            Self::Group(_) | Self::Pass | Self::Drop => (None, &[][..]),
        };
        one.into_iter().chain(several.iter().map(|member| &member.next_hop))
    }
}

fn write_members(members: &[Member], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (nth, member) in members.iter().enumerate() {
        write!(f, "{}nexthop {}", if nth == 0 { "" } else { " " }, member.next_hop)?;
        if member.weight != 1 {
            write!(f, " weight {}", member.weight)?;
        }
    }
    Ok(())
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NextHop(next_hop) => next_hop.fmt(f),
            Self::NextHops(members) => write_members(members, f),
            Self::Group(name) => write!(f, "group {name}"),
            Self::Pass => f.write_str("pass"),
            Self::Drop => f.write_str("drop"),
        }
    }
}

/// A next hop as it is asked for, before the device is looked up.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum NextHopSpec {
    /// A gateway, on the device where the routing table finds it.
    Via(IpAddr),
    /// A gateway on a device.
    ViaDev(IpAddr, String),
    /// A device: the packet's own destination is the neighbour.
    Dev(String),
}

impl NextHopSpec {
    /// The gateway, if there is one.
    pub fn gateway(&self) -> Option<IpAddr> {
        match self {
            Self::Via(gateway) | Self::ViaDev(gateway, _) => Some(*gateway),
            Self::Dev(_) => None,
        }
    }

    /// The device, if it is named.
    pub fn device(&self) -> Option<&str> {
        match self {
            Self::Via(_) => None,
            Self::ViaDev(_, device) | Self::Dev(device) => Some(device),
        }
    }
}

impl From<&NextHop> for NextHopSpec {
    fn from(next_hop: &NextHop) -> Self {
        let device = next_hop.device.name.clone();
        match next_hop.gateway {
            Some(gateway) => Self::ViaDev(gateway, device),
            None => Self::Dev(device),
        }
    }
}

impl fmt::Display for NextHopSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Via(gateway) => write!(f, "via {gateway}"),
            Self::ViaDev(gateway, device) => write!(f, "via {gateway} dev {device}"),
            Self::Dev(device) => write!(f, "dev {device}"),
        }
    }
}

/// A next hop of a group, as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MemberSpec {
    /// Where its packets go.
    pub next_hop: NextHopSpec,
    /// As in [`Member`].
    pub weight: u16,
}

/// A target as it is asked for, before the devices are looked up.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TargetSpec {
    /// [`Target::NextHop`]
    NextHop(NextHopSpec),
    /// [`Target::NextHops`]
    NextHops(Vec<MemberSpec>),
    /// [`Target::Group`]
    Group(String),
    /// [`Target::Pass`]
    Pass,
    /// [`Target::Drop`]
    Drop,
}

/// Who put a rule in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Owner {
    /// A person, with the command line.
    Cli,
    /// Another program, with this library.
    Api,
    /// The configuration.
    Config,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Cli => "cli",
            Self::Api => "api",
            Self::Config => "config",
        })
    }
}

/// What a rule speaks about, and what no two rules have in common: packets from a source, to a destination where one is
/// named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    source: Prefix,
    destination: Option<Prefix>,
}

impl Selector {
    /// A destination of all addresses is none.
    pub fn new(source: Prefix, destination: Option<Prefix>) -> Self {
        Self { source, destination: destination.filter(|destination| !destination.is_all()) }
    }

    /// The sources.
    pub fn source(&self) -> Prefix {
        self.source
    }

    /// The destinations, unless they are all.
    pub fn destination(&self) -> Option<Prefix> {
        self.destination
    }
}

impl From<Prefix> for Selector {
    fn from(source: Prefix) -> Self {
        Self::new(source, None)
    }
}

impl FromStr for Selector {
    type Err = PrefixError;

    /// A source alone.
    fn from_str(text: &str) -> Result<Self, PrefixError> {
        text.parse().map(|source| Self::new(source, None))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "from {}", self.source)?;
        self.destination.map_or(Ok(()), |destination| write!(f, " to {destination}"))
    }
}

/// A rule as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleSpec {
    /// The packets that it speaks about.
    pub selector: Selector,
    /// What becomes of them.
    pub target: TargetSpec,
    /// What becomes of them while no next hop is in service. A group has its own.
    pub on_down: OnDown,
    /// What becomes of TCP's MSS option.
    pub mss: Mss,
    /// Who asks.
    pub owner: Owner,
    /// What people call it, [`RULE_NAME_MAX`] bytes at the most.
    pub name: Option<String>,
}

/// A rule: what becomes of packets from a source, to a destination where one is named.
///
/// Of all rules that speak about a packet those with the longest source count, and of those the one with the longest
/// destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// The sources that it speaks about.
    #[serde(rename = "from")]
    pub source: Prefix,
    /// The destinations, unless they are all.
    #[serde(rename = "to", skip_serializing_if = "Option::is_none")]
    pub destination: Option<Prefix>,
    /// What becomes of their packets.
    pub target: Target,
    /// What becomes of them while no next hop is in service.
    #[serde(skip_serializing_if = "OnDown::is_default", default)]
    pub on_down: OnDown,
    /// What becomes of TCP's MSS option.
    #[serde(skip_serializing_if = "Mss::is_default", default)]
    pub mss: Mss,
    /// Who put it in.
    pub owner: Owner,
    /// What people call it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Rule {
    pub(crate) fn new(selector: Selector, action: &Action) -> Self {
        let Action { target, on_down, mss, owner, name } = action.clone();
        let (source, destination) = (selector.source(), selector.destination());
        Self { source, destination, target, on_down, mss, owner, name }
    }

    /// The packets that it speaks about.
    pub fn selector(&self) -> Selector {
        Selector::new(self.source, self.destination)
    }
}

/// What a rule says of its packets: everything but which they are. Many rules say the same, and share it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Action {
    /// As in [`Rule`].
    pub(crate) target: Target,
    /// As in [`Rule`].
    pub(crate) on_down: OnDown,
    /// As in [`Rule`].
    pub(crate) mss: Mss,
    /// As in [`Rule`].
    pub(crate) owner: Owner,
    /// As in [`Rule`].
    pub(crate) name: Option<String>,
}

impl Action {
    /// Whether another one says the same, whoever put it in.
    pub(crate) fn is_same_but_for_the_owner(&self, other: &Self) -> bool {
        let Self { target, on_down, mss, owner: _, name } = self;
        (target, on_down, mss, name) == (&other.target, &other.on_down, &other.mss, &other.name)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.selector(), self.target)?;
        if !self.on_down.is_default() {
            write!(f, " on-down {}", self.on_down)?;
        }
        if !self.mss.is_default() {
            write!(f, " mss {}", self.mss)?;
        }
        self.name.as_ref().map_or(Ok(()), |name| write!(f, " name {name}"))
    }
}

/// A group as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSpec {
    /// What rules call it, [`GROUP_NAME_MAX`] bytes at the most.
    pub name: String,
    /// Its next hops, [`GROUP_MAX`] at the most.
    pub members: Vec<MemberSpec>,
    /// What becomes of packets while none is in service.
    pub on_down: OnDown,
    /// Who asks.
    pub owner: Owner,
}

/// Next hops that rules share by name. A flow keeps its next hop for its life: as long as that one is in service and a
/// member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// What rules call it.
    pub name: String,
    /// Its next hops.
    #[serde(rename = "nexthops")]
    pub members: Vec<Member>,
    /// What becomes of packets while none is in service.
    pub on_down: OnDown,
    /// Who put it in.
    pub owner: Owner,
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.name)?;
        write_members(&self.members, f)?;
        if !self.on_down.is_default() {
            write!(f, " on-down {}", self.on_down)?;
        }
        Ok(())
    }
}

/// What is wrong with a rule in itself, whatever the kernel holds.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RuleError {
    /// An IPv6 source with an IPv4 gateway. The other way round works (RFC 8950).
    #[error(
        "the gateway {gateway} is IPv4, but packets from {source_prefix} are IPv6, which an IPv4 gateway cannot take; name an IPv6 gateway"
    )]
    FamilyMismatch {
        /// The rule's source.
        source_prefix: Prefix,
        /// The gateway asked for.
        gateway: IpAddr,
    },
    /// Source and destination are of two families.
    #[error(
        "no packet goes from {source_prefix} to {destination}: one is IPv4 and the other IPv6; name two of the same family"
    )]
    TwoFamilies {
        /// The rule's source.
        source_prefix: Prefix,
        /// Its destination.
        destination: Prefix,
    },
    /// Packets to there are never redirected.
    #[error("packets to {0} are never redirected: it is {1}; name a unicast destination")]
    NeverRedirectedTo(Prefix, &'static str),
    /// `on-down` beside something that has no next hop of its own.
    #[error(
        "`on-down` says what holds while no next hop is in service, and `{0}` has none of its own; leave it out{1}"
    )]
    OnDown(String, &'static str),
    /// `mss` beside something that leads to no next hop.
    #[error(
        "`mss` says what becomes of TCP's MSS option on the way to a next hop, and `{0}` leads to none; leave it out"
    )]
    MssOfNothing(&'static str),
    /// An MSS that no TCP works with.
    #[error("an MSS is {MSS_MIN} to {MSS_MAX} bytes, and this one is {0}; say `mss off` to leave it alone")]
    Mss(u16),
    /// A weight that is 0, or too large.
    #[error("the weight of {next_hop} is {weight}; a weight is 1 to {WEIGHT_MAX}")]
    Weight {
        /// The next hop.
        next_hop: NextHopSpec,
        /// Its weight.
        weight: u16,
    },
    /// No next hop at all, or too many.
    #[error("a group has 1 to {GROUP_MAX} next hops, and here are {0}; name as many")]
    MemberCount(usize),
    /// A next hop twice in a group.
    #[error("the next hop {0} is there twice; name it once, with a weight for a larger share")]
    Twice(NextHopSpec),
    /// The name is empty, too long, or would not survive a table.
    #[error(
        "`{0}` cannot be a group's name; use 1 to {GROUP_NAME_MAX} letters, digits, `-`, `_`, `.` or `:`"
    )]
    GroupName(String),
    /// The gateway is no address that a host can have.
    #[error("{0} cannot be a gateway: it is {1}; name the address of the next router")]
    NotAGateway(IpAddr, &'static str),
    /// Packets from there are never redirected.
    #[error(
        "packets from {0} are never redirected: it is {1}; name the global addresses that the host answers from"
    )]
    NeverRedirected(Prefix, &'static str),
    /// The name is empty, too long, or would not survive a table.
    #[error("`{0}` cannot be a rule's name; use 1 to {RULE_NAME_MAX} letters, digits, `-`, `_`, `.` or `:`")]
    Name(String),
}

/// What kind of address can never be another host's, in words.
fn unusable(address: IpAddr) -> Option<&'static str> {
    match address {
        _ if address.is_unspecified() => Some("the unspecified address"),
        _ if address.is_loopback() => Some("a loopback address"),
        _ if address.is_multicast() => Some("a multicast address"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast address"),
        _ => None,
    }
}

/// What kind of prefix it is that no rule can ever speak about, in words.
fn never(prefix: &Prefix) -> Option<&'static str> {
    match prefix.address() {
        address if address.is_unspecified() && prefix.is_host() => Some("the unspecified address"),
        address if address.is_loopback() && prefix.len() >= 8 => Some("loopback"),
        address if address.is_multicast() && prefix.len() >= if address.is_ipv4() { 4 } else { 8 } => {
            Some("multicast")
        }
        IpAddr::V4(v4) if v4.is_link_local() && prefix.len() >= 16 => Some("link-local"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() && prefix.len() >= 10 => Some("link-local"),
        IpAddr::V4(v4) if v4.is_broadcast() && prefix.is_host() => Some("the broadcast address"),
        _ => None,
    }
}

/// Refuses a gateway that no host can be.
pub(crate) fn check_gateway(next_hop: &NextHopSpec) -> Result<(), RuleError> {
    let Some(gateway) = next_hop.gateway() else { return Ok(()) };
    unusable(gateway).map_or(Ok(()), |kind| Err(RuleError::NotAGateway(gateway, kind)))
}

fn check_members(members: &[MemberSpec]) -> Result<(), RuleError> {
    if !(1..=GROUP_MAX).contains(&members.len()) {
        return Err(RuleError::MemberCount(members.len()));
    }
    for member in members {
        check_gateway(&member.next_hop)?;
        check_weight(member)?;
    }
    Ok(())
}

/// Refuses a weight that is 0, or too large.
pub(crate) fn check_weight(member: &MemberSpec) -> Result<(), RuleError> {
    let MemberSpec { next_hop, weight } = member;
    match weight {
        1..=WEIGHT_MAX => Ok(()),
        _ => Err(RuleError::Weight { next_hop: next_hop.clone(), weight: *weight }),
    }
}

/// Refuses a next hop that is there twice, which shows when the devices are known.
pub(crate) fn check_distinct(members: &[Member]) -> Result<(), RuleError> {
    let mut seen = BTreeSet::new();
    members
        .iter()
        .find(|member| !seen.insert(&member.next_hop))
        .map_or(Ok(()), |member| Err(RuleError::Twice(NextHopSpec::from(&member.next_hop))))
}

/// Refuses IPv4 gateways for packets from an IPv6 source.
pub(crate) fn check_families<'a>(
    source: &Prefix,
    gateways: impl IntoIterator<Item = &'a IpAddr>,
) -> Result<(), RuleError> {
    let wrong = gateways.into_iter().find(|gateway| gateway.is_ipv4() && source.address().is_ipv6());
    wrong.map_or(Ok(()), |gateway| {
        Err(RuleError::FamilyMismatch { source_prefix: *source, gateway: *gateway })
    })
}

impl RuleSpec {
    /// Checks what can be checked without the kernel.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), RuleError> {
        self.selector.check()?;
        check_families(&self.selector.source(), &self.target.gateways())?;
        check_treatment(&self.target, self.on_down, self.mss, self.name.as_deref())
    }
}

impl Selector {
    /// Refuses packets that no rule can speak about.
    pub(crate) fn check(&self) -> Result<(), RuleError> {
        let source = self.source();
        if let Some(kind) = never(&source) {
            return Err(RuleError::NeverRedirected(source, kind));
        }
        let Some(destination) = self.destination() else { return Ok(()) };
        if destination.address().is_ipv4() != source.address().is_ipv4() {
            return Err(RuleError::TwoFamilies { source_prefix: source, destination });
        }
        never(&destination).map_or(Ok(()), |kind| Err(RuleError::NeverRedirectedTo(destination, kind)))
    }
}

impl TargetSpec {
    /// The gateways that it names itself.
    pub(crate) fn gateways(&self) -> Vec<IpAddr> {
        match self {
            Self::NextHop(next_hop) => next_hop.gateway().into_iter().collect(),
            Self::NextHops(members) => members.iter().filter_map(|it| it.next_hop.gateway()).collect(),
            Self::Group(_) | Self::Pass | Self::Drop => Vec::new(),
        }
    }
}

/// Refuses what no rule can say of its packets, whichever they are.
pub(crate) fn check_treatment(
    target: &TargetSpec,
    on_down: OnDown,
    mss: Mss,
    name: Option<&str>,
) -> Result<(), RuleError> {
    match target {
        TargetSpec::NextHop(next_hop) => check_gateway(next_hop)?,
        TargetSpec::NextHops(members) => check_members(members)?,
        TargetSpec::Group(_) | TargetSpec::Pass | TargetSpec::Drop => {}
    }
    check_on_down(target, on_down)?;
    check_mss(target, mss)?;
    name.map_or(Ok(()), check_name)
}

/// Refuses `on-down` beside what has no next hop of its own.
pub(crate) fn check_on_down(target: &TargetSpec, on_down: OnDown) -> Result<(), RuleError> {
    let (verdict, hint) = match target {
        _ if on_down.is_default() => return Ok(()),
        TargetSpec::NextHop(_) | TargetSpec::NextHops(_) => return Ok(()),
        TargetSpec::Group(name) => (format!("group {name}"), ", and say it where the group is made"),
        TargetSpec::Pass => ("pass".to_owned(), ""),
        TargetSpec::Drop => ("drop".to_owned(), ""),
    };
    Err(RuleError::OnDown(verdict, hint))
}

/// Refuses an MSS that no TCP works with, and any beside what leads to no next hop.
pub(crate) fn check_mss(target: &TargetSpec, mss: Mss) -> Result<(), RuleError> {
    match mss {
        Mss::Auto => Ok(()),
        _ if *target == TargetSpec::Pass => Err(RuleError::MssOfNothing("pass")),
        _ if *target == TargetSpec::Drop => Err(RuleError::MssOfNothing("drop")),
        Mss::Bytes(bytes) if !(MSS_MIN..=MSS_MAX).contains(&bytes) => Err(RuleError::Mss(bytes)),
        Mss::Bytes(_) | Mss::Off => Ok(()),
    }
}

/// Refuses a name that is empty, too long, or would not survive a table.
pub(crate) fn check_name(name: &str) -> Result<(), RuleError> {
    if is_name(name, RULE_NAME_MAX) { Ok(()) } else { Err(RuleError::Name(name.to_owned())) }
}

impl GroupSpec {
    /// Checks what can be checked without the kernel.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), RuleError> {
        if !is_name(&self.name, GROUP_NAME_MAX) {
            return Err(RuleError::GroupName(self.name.clone()));
        }
        check_members(&self.members)
    }
}

pub(crate) fn is_name(name: &str, longest: usize) -> bool {
    (1..=longest).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(source: &str, target: TargetSpec) -> RuleSpec {
        RuleSpec {
            selector: source.parse().unwrap(),
            target,
            on_down: OnDown::Pass,
            mss: Mss::Auto,
            owner: Owner::Cli,
            name: None,
        }
    }

    fn via(gateway: &str) -> TargetSpec {
        TargetSpec::NextHop(NextHopSpec::Via(gateway.parse().unwrap()))
    }

    fn to(source: &str, destination: &str) -> RuleSpec {
        let selector = Selector::new(source.parse().unwrap(), Some(destination.parse().unwrap()));
        RuleSpec { selector, ..spec(source, TargetSpec::Pass) }
    }

    fn several(gateways: &[(&str, u16)]) -> TargetSpec {
        let member = |(gateway, weight): &(&str, u16)| MemberSpec {
            next_hop: NextHopSpec::Via(gateway.parse().unwrap()),
            weight: *weight,
        };
        TargetSpec::NextHops(gateways.iter().map(member).collect())
    }

    #[test]
    fn a_rule_that_can_never_work_is_refused() {
        let cases = [
            (
                spec("2001:db8::7", via("192.0.2.1")),
                "the gateway 192.0.2.1 is IPv4, but packets from 2001:db8::7 are IPv6, which an IPv4 gateway cannot take; name an IPv6 gateway",
            ),
            (
                spec("2001:db8::7", several(&[("2001:db8::1", 1), ("192.0.2.1", 1)])),
                "the gateway 192.0.2.1 is IPv4, but packets from 2001:db8::7 are IPv6, which an IPv4 gateway cannot take; name an IPv6 gateway",
            ),
            (
                to("192.0.2.7", "2001:db8::/32"),
                "no packet goes from 192.0.2.7 to 2001:db8::/32: one is IPv4 and the other IPv6; name two of the same family",
            ),
            (
                to("192.0.2.7", "224.0.0.0/8"),
                "packets to 224.0.0.0/8 are never redirected: it is multicast; name a unicast destination",
            ),
            (
                spec("192.0.2.7", several(&[("10.0.0.1", 1), ("10.0.0.2", 0)])),
                "the weight of via 10.0.0.2 is 0; a weight is 1 to 256",
            ),
            (
                spec("192.0.2.7", several(&[("10.0.0.1", 1); 33])),
                "a group has 1 to 32 next hops, and here are 33; name as many",
            ),
            (
                RuleSpec { on_down: OnDown::Drop, ..spec("192.0.2.7", TargetSpec::Pass) },
                "`on-down` says what holds while no next hop is in service, and `pass` has none of its own; leave it out",
            ),
            (
                RuleSpec { on_down: OnDown::Drop, ..spec("192.0.2.7", TargetSpec::Group("up".into())) },
                "`on-down` says what holds while no next hop is in service, and `group up` has none of its own; leave it out, and say it where the group is made",
            ),
            (
                spec("192.0.2.7", via("224.0.0.1")),
                "224.0.0.1 cannot be a gateway: it is a multicast address; name the address of the next router",
            ),
            (
                spec("192.0.2.7", via("127.0.0.1")),
                "127.0.0.1 cannot be a gateway: it is a loopback address; name the address of the next router",
            ),
            (
                spec("fe80::1", via("2001:db8::1")),
                "packets from fe80::1 are never redirected: it is link-local; name the global addresses that the host answers from",
            ),
        ];
        for (spec, sentence) in cases {
            assert_eq!(spec.check().unwrap_err().to_string(), sentence);
        }
        for source in ["0.0.0.0", "127.0.0.0/8", "127.0.0.1", "::", "::1", "224.0.0.0/4", "ff02::/16"] {
            let gateway = if source.contains(':') { "2001:db8::1" } else { "10.0.0.1" };
            let refused = spec(source, via(gateway)).check();
            assert!(matches!(refused, Err(RuleError::NeverRedirected(..))), "{source}");
        }
        for source in ["0.0.0.0/0", "0.0.0.0/1", "126.0.0.0/7", "224.0.0.0/3"] {
            assert!(spec(source, via("10.0.0.1")).check().is_ok(), "{source}");
        }
        assert!(spec("192.0.2.7", via("2001:db8::1")).check().is_ok(), "RFC 8950");
        let named = |name: &str| RuleSpec { name: Some(name.into()), ..spec("192.0.2.7", via("10.0.0.1")) };
        assert!(named("web-1").check().is_ok());
        for name in ["", "two words", &"x".repeat(33), "tab\t"] {
            assert!(matches!(named(name).check(), Err(RuleError::Name(_))));
        }
    }
}
