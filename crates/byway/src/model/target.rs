//! Where packets go: next hops, targets, and what is said of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::in_one_sentence;

/// The largest weight of a next hop in a group, as in ip-route(8).
pub const WEIGHT_MAX: u16 = 256;

/// A network device of the network namespace at hand.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Device {
    /// Its name now. If it is gone, the last name that is known.
    pub name: String,
    /// Its interface index (netdevice(7)), which stays when the device is renamed. 0 for one that is not there yet.
    #[serde(rename = "ifindex")]
    pub index: u32,
}

impl Device {
    /// A device as the kernel or a record names it. The kernel takes nearly anything for a name (`dev_valid_name`). A name that
    /// would move the cursor of a terminal is replaced by one made of the ifindex, which names no device.
    pub(crate) fn from_kernel(name: &str, index: u32) -> Self {
        let is_plain = !name.is_empty() && !name.contains(|it: char| it.is_control() || it.is_whitespace());
        Self { name: if is_plain { name.to_owned() } else { format!("if{index}") }, index }
    }
}

/// From whom the host learns a gateway: the protocol of the device's own default route, in any table (`rtm_protocol`,
/// rtnetlink(7)).
///
/// Written `dhcp` or `ra`, in JSON as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Learned {
    /// From a DHCP server, by IPv4 (`proto dhcp`).
    Dhcp,
    /// From a router advertisement, by IPv6 (`proto ra`, RFC 4861).
    Ra,
}

impl Learned {
    pub(crate) const ALL: [Self; 2] = [Self::Dhcp, Self::Ra];

    /// Reads its name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.to_string() == name)
    }

    /// An address that no gateway has, of the family of its gateways.
    pub(crate) fn unspecified(self) -> IpAddr {
        match self {
            Self::Dhcp => Ipv4Addr::UNSPECIFIED.into(),
            Self::Ra => Ipv6Addr::UNSPECIFIED.into(),
        }
    }
}

impl fmt::Display for Learned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Dhcp => "dhcp",
            Self::Ra => "ra",
        })
    }
}

/// Where a redirected packet goes next.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NextHop {
    /// The neighbour that gets the packet; without one the packet's own destination is the neighbour (on-link), unless it is to
    /// be `learned`.
    pub gateway: Option<IpAddr>,
    /// The device that the packet leaves by. Its index is 0 while the next hop waits for it, or for the gateway on it. Its name
    /// is empty as well while the routing table does not lead to the gateway.
    pub device: Device,
    /// Nobody has named the device: the routing table found the gateway there. Such a next hop may move when the routes change,
    /// so it is not equal to one with the same device by name.
    #[serde(skip_serializing_if = "is_false", default)]
    pub by_route: bool,
    /// From whom the host has learned the gateway, if nobody has named that. Such a next hop gets another gateway when the host
    /// does.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub learned: Option<Learned>,
}

fn is_false(it: &bool) -> bool {
    !*it
}

impl NextHop {
    /// Makes a next hop whose device somebody has named: a gateway on it, or the device alone.
    pub fn new(gateway: Option<IpAddr>, device: Device) -> Self {
        Self { gateway, device, by_route: false, learned: None }
    }

    /// Whether a device of this name may be waited for: it fits a record, and the kernel takes it (`dev_valid_name`).
    pub(crate) fn may_wait_for(name: &str) -> bool {
        let is_plain = |it: char| !it.is_whitespace() && !it.is_control() && !"/:".contains(it);
        (1..byway_abi::DEVICE_NAME_LEN).contains(&name.len())
            && name.chars().all(is_plain)
            && ![".", ".."].contains(&name)
    }

    /// Makes a next hop that waits for its device, or for its gateway.
    pub(crate) fn waiting(spec: &NextHopSpec) -> Self {
        let name = spec.device().unwrap_or_default().to_owned();
        Self {
            gateway: spec.gateway(),
            by_route: name.is_empty(),
            device: Device { name, index: 0 },
            learned: spec.learned(),
        }
    }

    /// Returns whether its device is not there yet, or nobody has told the host the gateway on it.
    pub fn is_waiting(&self) -> bool {
        self.device.index == 0
    }

    /// Returns the gateway. One that is to be learned has the unspecified address of its family.
    pub(crate) fn gateway_or_unspecified(&self) -> Option<IpAddr> {
        self.gateway.or(self.learned.map(Learned::unspecified))
    }

    /// The same gateway by the same device, as if somebody had named the device. One whose gateway is learned has that of another
    /// only for a time.
    pub(crate) fn named(&self) -> Self {
        Self { by_route: false, ..self.clone() }
    }
}

/// A device or a gateway that nobody has named stands in brackets.
impl fmt::Display for NextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.learned, self.gateway) {
            (Some(learned), Some(gateway)) => write!(f, "via {learned} ({gateway}) ")?,
            (Some(learned), None) => write!(f, "via {learned} ")?,
            (None, Some(gateway)) => write!(f, "via {gateway} ")?,
            (None, None) => {}
        }
        match &self.device.name {
            _ if self.by_route && self.is_waiting() => f.write_str("(no device yet)"),
            name if self.by_route => write!(f, "(dev {name})"),
            name => write!(f, "dev {name}"),
        }
    }
}

/// A next hop of a group, and its share.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Member {
    /// Where its packets go.
    #[serde(flatten)]
    pub next_hop: NextHop,
    /// Its share of the flows, measured against the other members' weights; 1 to [`WEIGHT_MAX`].
    pub weight: u16,
    /// Whether it gets flows only while no member is in service that is no backup. Of several backups, the first one that is in
    /// service gets them all. Backups come last.
    #[serde(rename = "backup", default, skip_serializing_if = "std::ops::Not::not")]
    pub is_backup: bool,
}

impl Member {
    /// Makes a member with this share of the flows.
    pub fn new(next_hop: NextHop, weight: u16) -> Self {
        Self { next_hop, weight, is_backup: false }
    }
}

/// What becomes of a packet while no next hop of its target is in service.
///
/// Written `pass` or `drop`, in JSON as well.
///
/// ```
/// use byway::OnDown;
///
/// assert_eq!(("drop".parse(), OnDown::default()), (Ok(OnDown::Drop), OnDown::Pass));
/// let error = "fail".parse::<OnDown>().unwrap_err();
/// assert_eq!(error.sentence(), "`on-down` cannot be `fail`; write `pass` or `drop`");
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
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

/// The limit of TCP's MSS option in packets that a rule sends to a next hop (RFC 9293, 3.7.1). The option tells the other side
/// how large a segment it may send back. Byway lowers it to the limit, and never raises it.
///
/// Written `auto`, `off` or a number of bytes, which is a number in JSON as well.
///
/// ```
/// use byway::{Mss, RuleSpec};
///
/// assert_eq!(("off".parse(), "1400".parse()), (Ok(Mss::Off), Ok(Mss::Bytes(1400))));
/// assert_eq!(serde_json::json!([Mss::Auto, Mss::Bytes(1400)]), serde_json::json!(["auto", 1400]));
/// // Whoever checks the rule finds a number that is out of range.
/// let rule: RuleSpec = "from 192.0.2.7 dev wg0 mss 40".parse()?;
/// assert_eq!(rule.check().unwrap_err().to_string(), "an MSS is 88 to 65495 bytes, and this one is 40");
/// # Ok::<(), byway::grammar::GrammarError>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Mss {
    /// What fits the MTU of the next hop's device.
    #[default]
    Auto,
    /// No limit: the option stays as it is.
    Off,
    /// This many bytes, from [`MSS_MIN`] to [`MSS_MAX`].
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

/// What becomes of the packets that a rule matches.
///
/// ```
/// use byway::{Device, NextHop, Target, TargetSpec};
///
/// let eth1 = Device { name: "eth1".into(), index: 3 };
/// let target = Target::NextHop(NextHop::new(Some("192.0.2.1".parse()?), eth1));
/// assert_eq!(target.to_string(), "via 192.0.2.1 dev eth1");
/// // To ask for the same again.
/// assert_eq!(TargetSpec::try_from(&target)?, "via 192.0.2.1 dev eth1".parse()?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
    /// Something that only another version of Byway knows. This one leaves the packets to normal routing, and the rule as it is.
    Other {
        /// The number that the other Byway has for it.
        kind: u8,
        /// A number whose meaning only the other Byway knows.
        index: u32,
    },
}

impl Target {
    /// Whether it is of a kind that this version does not know.
    pub(crate) fn is_unknown(&self) -> bool {
        matches!(self, Self::Other { .. })
    }

    /// Returns the next hops that the target names itself. Those of a group are not among them.
    pub fn next_hops(&self) -> impl Iterator<Item = &NextHop> {
        let (one, several) = match self {
            Self::NextHop(next_hop) => (Some(next_hop), &[][..]),
            Self::NextHops(members) => (None, &members[..]),
            Self::Group(_) | Self::Pass | Self::Drop | Self::Other { .. } => (None, &[][..]),
        };
        one.into_iter().chain(several.iter().map(|member| &member.next_hop))
    }
}

impl Target {
    /// Replaces next hops by others. Returns `None` if the target names none of them itself.
    pub(crate) fn moved(&self, moved: &BTreeMap<NextHop, NextHop>) -> Option<Self> {
        match self {
            Self::NextHop(next_hop) => moved.get(next_hop).cloned().map(Self::NextHop),
            Self::NextHops(members) => moved_members(members, moved).map(Self::NextHops),
            _ => None,
        }
    }
}

/// Replaces next hops among the members of a group. If two members become the same, the first one stays.
pub(crate) fn moved_members(members: &[Member], moved: &BTreeMap<NextHop, NextHop>) -> Option<Vec<Member>> {
    if !members.iter().any(|member| moved.contains_key(&member.next_hop)) {
        return None;
    }
    let mut seen = BTreeSet::new();
    let of_now = members.iter().map(|member| {
        let next_hop = moved.get(&member.next_hop).unwrap_or(&member.next_hop).clone();
        Member { next_hop, ..member.clone() }
    });
    Some(of_now.filter(|member| seen.insert(member.next_hop.named())).collect())
}

/// Writes things with a space between each two.
pub(super) fn write_all(all: &[impl fmt::Display], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (nth, one) in all.iter().enumerate() {
        write!(f, "{}{one}", if nth == 0 { "" } else { " " })?;
    }
    Ok(())
}

fn write_member(
    next_hop: &impl fmt::Display,
    weight: u16,
    is_backup: bool,
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    write!(f, "nexthop {next_hop}")?;
    if weight != 1 {
        write!(f, " weight {weight}")?;
    }
    if is_backup { f.write_str(" backup") } else { Ok(()) }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_member(&self.next_hop, self.weight, self.is_backup, f)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NextHop(next_hop) => next_hop.fmt(f),
            Self::NextHops(members) => write_all(members, f),
            Self::Group(name) => write!(f, "group {name}"),
            Self::Pass => f.write_str("pass"),
            Self::Drop => f.write_str("drop"),
            Self::Other { kind, .. } => write!(f, "kind {kind}"),
        }
    }
}

/// A next hop as it is asked for, before the device is looked up.
///
/// ```
/// use byway::{Learned, NextHopSpec};
///
/// let gateway = "192.0.2.1".parse()?;
/// assert_eq!(NextHopSpec::via(gateway).to_string(), "via 192.0.2.1");
/// assert_eq!(NextHopSpec::via(gateway).dev("eth1").to_string(), "via 192.0.2.1 dev eth1");
/// assert_eq!(NextHopSpec::on_link("wg0").to_string(), "dev wg0");
/// assert_eq!(NextHopSpec::learned_from(Learned::Dhcp, "eth1").to_string(), "via dhcp dev eth1");
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
///
/// In JSON an object with one or both of the keys `gateway` and `device`, a device being its name. The gateway is `dhcp` or `ra`
/// if the host learns it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "NextHopFields", into = "NextHopFields")]
#[non_exhaustive]
pub enum NextHopSpec {
    /// A gateway, on the device where the routing table finds it.
    Via(IpAddr),
    /// A gateway on a device.
    ViaDev(IpAddr, String),
    /// A device: the packet's own destination is the neighbour.
    Dev(String),
    /// The gateway that the host learns on a device.
    Learned(Learned, String),
}

/// The gateway of a [`NextHopSpec`] in JSON.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum GatewayField {
    Address(IpAddr),
    Learned(Learned),
}

/// A [`NextHopSpec`] in JSON.
#[derive(Serialize, Deserialize)]
struct NextHopFields {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    gateway: Option<GatewayField>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    device: Option<String>,
}

impl From<NextHopSpec> for NextHopFields {
    fn from(spec: NextHopSpec) -> Self {
        let learned = || spec.learned().map(GatewayField::Learned);
        Self {
            gateway: spec.gateway().map(GatewayField::Address).or_else(learned),
            device: spec.device().map(str::to_owned),
        }
    }
}

impl TryFrom<NextHopFields> for NextHopSpec {
    type Error = &'static str;

    fn try_from(fields: NextHopFields) -> Result<Self, &'static str> {
        match (fields.gateway, fields.device) {
            (Some(GatewayField::Address(gateway)), Some(device)) => Ok(Self::ViaDev(gateway, device)),
            (Some(GatewayField::Address(gateway)), None) => Ok(Self::Via(gateway)),
            (Some(GatewayField::Learned(learned)), Some(device)) => Ok(Self::Learned(learned, device)),
            (Some(GatewayField::Learned(_)), None) => Err("a gateway that the host learns needs a `device`"),
            (None, Some(device)) => Ok(Self::Dev(device)),
            (None, None) => Err("a next hop needs a `gateway`, a `device` or both"),
        }
    }
}

impl NextHopSpec {
    /// Asks for a gateway, on the device where the routing table finds it.
    pub fn via(gateway: IpAddr) -> Self {
        Self::Via(gateway)
    }

    /// Asks for a device without a gateway: the packet's own destination is the neighbour.
    pub fn on_link(device: impl Into<String>) -> Self {
        Self::Dev(device.into())
    }

    /// Asks for the gateway that the host learns on a device.
    pub fn learned_from(learned: Learned, device: impl Into<String>) -> Self {
        Self::Learned(learned, device.into())
    }

    /// Names the device.
    #[must_use]
    pub fn dev(self, device: impl Into<String>) -> Self {
        match self {
            Self::Via(gateway) | Self::ViaDev(gateway, _) => Self::ViaDev(gateway, device.into()),
            Self::Dev(_) => Self::Dev(device.into()),
            Self::Learned(learned, _) => Self::Learned(learned, device.into()),
        }
    }

    /// Returns the gateway, if it is named.
    pub fn gateway(&self) -> Option<IpAddr> {
        match self {
            Self::Via(gateway) | Self::ViaDev(gateway, _) => Some(*gateway),
            Self::Dev(_) | Self::Learned(..) => None,
        }
    }

    /// Returns from whom the host learns the gateway, if it does.
    pub fn learned(&self) -> Option<Learned> {
        match self {
            Self::Learned(learned, _) => Some(*learned),
            _ => None,
        }
    }

    /// Returns the gateway. One that is to be learned has the unspecified address of its family.
    pub(crate) fn gateway_or_unspecified(&self) -> Option<IpAddr> {
        self.gateway().or(self.learned().map(Learned::unspecified))
    }

    /// Returns the device, if it is named.
    pub fn device(&self) -> Option<&str> {
        match self {
            Self::Via(_) => None,
            Self::ViaDev(_, device) | Self::Dev(device) | Self::Learned(_, device) => Some(device),
        }
    }
}

/// What was asked for, by the name that the device has now.
impl From<&NextHop> for NextHopSpec {
    fn from(next_hop: &NextHop) -> Self {
        let device = || next_hop.device.name.clone();
        match (next_hop.learned, next_hop.gateway) {
            (Some(learned), _) => Self::Learned(learned, device()),
            (None, Some(gateway)) if next_hop.by_route => Self::Via(gateway),
            (None, Some(gateway)) => Self::ViaDev(gateway, device()),
            (None, None) => Self::Dev(device()),
        }
    }
}

impl fmt::Display for NextHopSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Via(gateway) => write!(f, "via {gateway}"),
            Self::ViaDev(gateway, device) => write!(f, "via {gateway} dev {device}"),
            Self::Dev(device) => write!(f, "dev {device}"),
            Self::Learned(learned, device) => write!(f, "via {learned} dev {device}"),
        }
    }
}

/// A next hop of a group, as it is asked for.
///
/// ```
/// use byway::{MemberSpec, NextHopSpec};
///
/// let member = MemberSpec::new(NextHopSpec::via("192.0.2.1".parse()?)).weight(2);
/// assert_eq!(member.to_string(), "nexthop via 192.0.2.1 weight 2");
/// assert_eq!("nexthop weight 2 via 192.0.2.1".parse(), Ok(member));
///
/// let backup = MemberSpec::new(NextHopSpec::on_link("wwan0")).backup();
/// assert_eq!(backup.to_string(), "nexthop dev wwan0 backup");
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MemberSpec {
    /// Where its packets go.
    #[serde(flatten)]
    pub next_hop: NextHopSpec,
    /// Its share of the flows, measured against the other members' weights; 1 to [`WEIGHT_MAX`], by default 1.
    #[serde(default = "one")]
    pub weight: u16,
    /// Whether it gets flows only while no member is in service that is no backup. Of several backups, the first one that is in
    /// service gets them all.
    #[serde(rename = "backup", default, skip_serializing_if = "std::ops::Not::not")]
    pub is_backup: bool,
}

fn one() -> u16 {
    1
}

impl MemberSpec {
    /// Makes a member of weight 1.
    pub fn new(next_hop: NextHopSpec) -> Self {
        Self { next_hop, weight: 1, is_backup: false }
    }

    /// Sets the weight.
    #[must_use]
    pub fn weight(self, weight: u16) -> Self {
        Self { weight, ..self }
    }

    /// Makes it a backup.
    #[must_use]
    pub fn backup(self) -> Self {
        Self { is_backup: true, ..self }
    }
}

impl From<NextHopSpec> for MemberSpec {
    fn from(next_hop: NextHopSpec) -> Self {
        Self::new(next_hop)
    }
}

impl From<&Member> for MemberSpec {
    fn from(member: &Member) -> Self {
        let Member { next_hop, weight, is_backup } = member;
        Self { next_hop: NextHopSpec::from(next_hop), weight: *weight, is_backup: *is_backup }
    }
}

impl fmt::Display for MemberSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_member(&self.next_hop, self.weight, self.is_backup, f)
    }
}

/// A target as it is asked for, before the devices are looked up.
///
/// ```
/// use byway::{MemberSpec, NextHopSpec, TargetSpec};
///
/// let one = MemberSpec::new(NextHopSpec::via("192.0.2.1".parse()?)).weight(2);
/// let both = TargetSpec::NextHops(vec![one, NextHopSpec::on_link("wg0").into()]);
/// assert_eq!(both.to_string(), "nexthop via 192.0.2.1 weight 2 nexthop dev wg0");
/// assert_eq!("group uplinks".parse(), Ok(TargetSpec::Group("uplinks".into())));
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum TargetSpec {
    /// The packets go to a next hop.
    NextHop(NextHopSpec),
    /// Each flow goes to one of several next hops.
    NextHops(Vec<MemberSpec>),
    /// Each flow goes to one of the next hops of the group of this name.
    Group(String),
    /// The packets are left to normal routing: an exception from a less specific rule.
    Pass,
    /// The packets are dropped.
    Drop,
}

impl TargetSpec {
    /// Returns the next hops that the target names itself. Those of a group are not among them.
    pub fn next_hops(&self) -> impl Iterator<Item = &NextHopSpec> {
        let (one, several) = match self {
            Self::NextHop(next_hop) => (Some(next_hop), &[][..]),
            Self::NextHops(members) => (None, &members[..]),
            Self::Group(_) | Self::Pass | Self::Drop => (None, &[][..]),
        };
        one.into_iter().chain(several.iter().map(|member| &member.next_hop))
    }
}

impl From<NextHopSpec> for TargetSpec {
    fn from(next_hop: NextHopSpec) -> Self {
        Self::NextHop(next_hop)
    }
}

impl From<Vec<MemberSpec>> for TargetSpec {
    fn from(members: Vec<MemberSpec>) -> Self {
        Self::NextHops(members)
    }
}

/// A target that cannot be asked for: this version does not know its kind, which has this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("this byway does not know targets of kind {0}")]
pub struct UnknownKind(pub u8);

impl UnknownKind {
    /// Returns what to do, if anything can be done. It continues the sentence of [`Display`](std::fmt::Display), after a
    /// semicolon.
    pub fn help(&self) -> Option<String> {
        Some("use the byway that made it".to_owned())
    }

    /// Returns what is wrong and what to do, in one sentence.
    pub fn sentence(&self) -> String {
        in_one_sentence(self, self.help())
    }
}

impl TryFrom<&Target> for TargetSpec {
    type Error = UnknownKind;

    fn try_from(target: &Target) -> Result<Self, UnknownKind> {
        Ok(match target {
            Target::NextHop(next_hop) => Self::NextHop(next_hop.into()),
            Target::NextHops(members) => Self::NextHops(members.iter().map(MemberSpec::from).collect()),
            Target::Group(name) => Self::Group(name.clone()),
            Target::Pass => Self::Pass,
            Target::Drop => Self::Drop,
            Target::Other { kind, .. } => return Err(UnknownKind(*kind)),
        })
    }
}

impl fmt::Display for TargetSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NextHop(next_hop) => next_hop.fmt(f),
            Self::NextHops(members) => write_all(members, f),
            Self::Group(name) => write!(f, "group {name}"),
            Self::Pass => f.write_str("pass"),
            Self::Drop => f.write_str("drop"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_that_is_not_known_is_its_number() {
        let target = Target::Other { kind: 200, index: 4 };
        assert_eq!(target.to_string(), "kind 200");
        let json = serde_json::to_value(&target).unwrap();
        assert_eq!(json, serde_json::json!({ "other": { "kind": 200, "index": 4 } }));
        assert_eq!(serde_json::from_value::<Target>(json).unwrap(), target);
        let error = TargetSpec::try_from(&target).unwrap_err();
        assert_eq!(error, UnknownKind(200));
        assert_eq!(
            error.sentence(),
            "this byway does not know targets of kind 200; use the byway that made it"
        );
        assert_eq!(target.next_hops().count(), 0);
    }
}
