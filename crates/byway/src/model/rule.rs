//! Rules, and the packets that they match.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};

use super::{
    owner::Owner,
    prefix::Prefix,
    target::{Mss, OnDown, Target, TargetSpec, UnknownKind},
};

/// Longest name of a rule in bytes.
pub const RULE_NAME_MAX: usize = byway_abi::RULE_NAME_LEN;

/// The packets that a rule matches: those from a source, to a destination if one is named. No two rules have the same
/// selector.
///
/// ```
/// use byway::{Prefix, Selector};
///
/// let selector: Selector = "from 192.0.2.0/24 to 10.0.0.0/8".parse()?;
/// assert_eq!(selector.source(), "192.0.2.0/24".parse()?);
/// assert_eq!("192.0.2.7".parse::<Selector>()?.to_string(), "from 192.0.2.7");
/// # Ok::<(), byway::grammar::GrammarError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "SelectorFields", into = "SelectorFields")]
pub struct Selector {
    source: Prefix,
    destination: Option<Prefix>,
}

/// A [`Selector`] in JSON.
#[derive(Serialize, Deserialize)]
struct SelectorFields {
    from: Prefix,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    to: Option<Prefix>,
}

impl From<SelectorFields> for Selector {
    fn from(fields: SelectorFields) -> Self {
        Self::new(fields.from, fields.to)
    }
}

impl From<Selector> for SelectorFields {
    fn from(selector: Selector) -> Self {
        Self { from: selector.source, to: selector.destination }
    }
}

impl Selector {
    /// Selects the packets from a source to a destination. A destination of all addresses is the same as `None`.
    pub fn new(source: Prefix, destination: Option<Prefix>) -> Self {
        Self { source, destination: destination.filter(|destination| !destination.is_all()) }
    }

    /// Returns the prefix of the sources.
    pub fn source(&self) -> Prefix {
        self.source
    }

    /// Returns the prefix of the destinations, or `None` if all destinations match.
    pub fn destination(&self) -> Option<Prefix> {
        self.destination
    }
}

impl From<Prefix> for Selector {
    fn from(source: Prefix) -> Self {
        Self::new(source, None)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "from {}", self.source)?;
        self.destination.map_or(Ok(()), |destination| write!(f, " to {destination}"))
    }
}

/// A rule as it is asked for.
///
/// ```
/// use byway::{NextHopSpec, OnDown, Owner, RuleSpec};
///
/// let next_hop = NextHopSpec::via("10.111.221.21".parse()?).dev("eth1");
/// let spec = RuleSpec::new("192.168.1.5".parse()?, next_hop).on_down(OnDown::Drop).name("web");
/// assert_eq!(spec.to_string(), "from 192.168.1.5 via 10.111.221.21 dev eth1 on-down drop name web");
/// assert_eq!(spec.to_string().parse(), Ok(spec.clone()));
/// assert_eq!(spec.owner, Owner::API);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// In JSON it is a [`Rule`] whose next hops are [`NextHopSpec`](crate::NextHopSpec)s. Owner and defaults may be missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RuleSpec {
    /// The packets that it matches.
    #[serde(flatten)]
    pub selector: Selector,
    /// Whether replies go back the way that their requests came in: to the same device and neighbour.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub reply_to: bool,
    /// The names of the devices that the requests have to come in by, with `reply_to`. Empty means every device.
    #[serde(skip_serializing_if = "BTreeSet::is_empty", default)]
    pub reply_to_dev: BTreeSet<String>,
    /// What becomes of them, or with `reply_to` of those that are no replies.
    pub target: TargetSpec,
    /// What becomes of them while no next hop is in service. A group has its own.
    #[serde(skip_serializing_if = "OnDown::is_default", default)]
    pub on_down: OnDown,
    /// What becomes of TCP's MSS option.
    #[serde(skip_serializing_if = "Mss::is_default", default)]
    pub mss: Mss,
    /// Who asks.
    #[serde(default)]
    pub owner: Owner,
    /// What people call it, [`RULE_NAME_MAX`] bytes at the most.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<String>,
}

impl RuleSpec {
    /// Makes a rule of [`Owner::API`] without a name, whose packets pass while no next hop is in service.
    pub fn new(selector: Selector, target: impl Into<TargetSpec>) -> Self {
        Self {
            selector,
            reply_to: false,
            reply_to_dev: BTreeSet::new(),
            target: target.into(),
            on_down: OnDown::default(),
            mss: Mss::default(),
            owner: Owner::default(),
            name: None,
        }
    }

    /// Makes a rule of [`Owner::API`] without a name, which sends replies back the way that their requests came in. What is no
    /// reply passes, unless its target is another one.
    ///
    /// ```
    /// use byway::{NextHopSpec, RuleSpec};
    ///
    /// let mut spec = RuleSpec::reply_to("::/0".parse()?);
    /// assert_eq!(spec.to_string(), "from ::/0 reply-to");
    /// spec.target = NextHopSpec::on_link("wg0").into();
    /// assert_eq!(spec.to_string(), "from ::/0 reply-to else dev wg0");
    /// # Ok::<(), byway::grammar::GrammarError>(())
    /// ```
    pub fn reply_to(selector: Selector) -> Self {
        Self { reply_to: true, ..Self::new(selector, TargetSpec::Pass) }
    }

    /// Narrows a rule with [`reply_to`](Self::reply_to()) to flows whose requests come in by these devices.
    ///
    /// ```
    /// use byway::RuleSpec;
    ///
    /// let spec = RuleSpec::reply_to("0.0.0.0/0".parse()?).received_by(["eth1", "wg0"]);
    /// assert_eq!(spec.to_string(), "from 0.0.0.0/0 reply-to dev eth1 dev wg0");
    /// # Ok::<(), byway::grammar::GrammarError>(())
    /// ```
    #[must_use]
    pub fn received_by<T: Into<String>>(self, devices: impl IntoIterator<Item = T>) -> Self {
        Self { reply_to_dev: devices.into_iter().map(Into::into).collect(), ..self }
    }

    /// Narrows it to packets to these destinations.
    #[must_use]
    pub fn to(self, destination: Prefix) -> Self {
        Self { selector: Selector::new(self.selector.source, Some(destination)), ..self }
    }

    /// Sets what becomes of its packets while no next hop is in service.
    #[must_use]
    pub fn on_down(self, on_down: OnDown) -> Self {
        Self { on_down, ..self }
    }

    /// Sets what TCP's MSS option is clamped to.
    #[must_use]
    pub fn mss(self, mss: Mss) -> Self {
        Self { mss, ..self }
    }

    /// Sets who asks.
    #[must_use]
    pub fn owner(self, owner: Owner) -> Self {
        Self { owner, ..self }
    }

    /// Sets what people call it.
    #[must_use]
    pub fn name(self, name: impl Into<String>) -> Self {
        Self { name: Some(name.into()), ..self }
    }
}

/// Without the owner, which no words say.
impl fmt::Display for RuleSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.selector)?;
        if self.reply_to {
            write_reply_to(&self.reply_to_dev, f)?;
        }
        write_target(self.reply_to, &self.target, self.target == TargetSpec::Pass, f)?;
        write_said(self.on_down, self.mss, self.name.as_deref(), f)
    }
}

impl TryFrom<&Rule> for RuleSpec {
    type Error = UnknownKind;

    fn try_from(rule: &Rule) -> Result<Self, UnknownKind> {
        Ok(Self {
            selector: rule.selector(),
            reply_to: rule.reply_to,
            reply_to_dev: rule.reply_to_dev.clone(),
            target: (&rule.target).try_into()?,
            on_down: rule.on_down,
            mss: rule.mss,
            owner: rule.owner,
            name: rule.name.clone(),
        })
    }
}

/// Writes that replies go back, and which.
fn write_reply_to(devices: &BTreeSet<String>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("reply-to")?;
    devices.iter().try_for_each(|device| write!(f, " dev {device}"))
}

/// Writes a target. With `reply-to` before it, what is no reply passes if nothing else is said.
fn write_target(
    reply_to: bool,
    target: &impl fmt::Display,
    passes: bool,
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    match (reply_to, passes) {
        (false, _) => write!(f, "{target}"),
        (true, true) => Ok(()),
        (true, false) => write!(f, " else {target}"),
    }
}

/// Writes what a rule says besides its packets and its target, without the defaults.
fn write_said(on_down: OnDown, mss: Mss, name: Option<&str>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if !on_down.is_default() {
        write!(f, " on-down {on_down}")?;
    }
    if !mss.is_default() {
        write!(f, " mss {mss}")?;
    }
    name.map_or(Ok(()), |name| write!(f, " name {name}"))
}

/// A rule: what becomes of packets from a source, to a destination if one is named.
///
/// Several rules may match a packet. The one with the longest source decides, and of several with the same source the one with
/// the longest destination.
///
/// ```
/// use byway::{Rule, RuleSpec, Target};
///
/// let rule = Rule::new("192.0.2.7".parse()?, Target::Drop);
/// assert_eq!(rule.to_string(), "from 192.0.2.7 drop");
/// // To ask for the same again, but with a name.
/// let spec = RuleSpec::try_from(&rule)?.name("bad-host");
/// assert_eq!(spec.to_string(), "from 192.0.2.7 drop name bad-host");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Rule {
    /// The sources that it matches.
    #[serde(rename = "from")]
    pub source: Prefix,
    /// The destinations, unless they are all.
    #[serde(rename = "to", skip_serializing_if = "Option::is_none")]
    pub destination: Option<Prefix>,
    /// Whether replies go back the way that their requests came in: to the same device and neighbour.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub reply_to: bool,
    /// The names of the devices that the requests have to come in by, with `reply_to`. Empty means every device.
    #[serde(skip_serializing_if = "BTreeSet::is_empty", default)]
    pub reply_to_dev: BTreeSet<String>,
    /// What becomes of their packets, or with `reply_to` of those that are no replies.
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
    /// Makes a rule of [`Owner::API`] without a name, whose packets pass while no next hop is in service.
    pub fn new(selector: Selector, target: Target) -> Self {
        Self {
            source: selector.source(),
            destination: selector.destination(),
            reply_to: false,
            reply_to_dev: BTreeSet::new(),
            target,
            on_down: OnDown::default(),
            mss: Mss::default(),
            owner: Owner::default(),
            name: None,
        }
    }

    pub(crate) fn of(selector: Selector, action: &Action) -> Self {
        let Action { reply_to, reply_to_dev, target, on_down, mss, owner, name } = action.clone();
        let (source, destination) = (selector.source(), selector.destination());
        Self { source, destination, reply_to, reply_to_dev, target, on_down, mss, owner, name }
    }

    /// Returns the packets that it matches.
    pub fn selector(&self) -> Selector {
        Selector::new(self.source, self.destination)
    }
}

/// What a rule does with its packets: everything but its selector. Many rules share one action.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Action {
    /// Whether replies go back the way that their requests came in.
    pub(crate) reply_to: bool,
    /// The names of the devices that the requests have to come in by. Empty means every device.
    pub(crate) reply_to_dev: BTreeSet<String>,
    /// Where the packets go, or with `reply_to` those that are no replies.
    pub(crate) target: Target,
    /// What becomes of them while no next hop is in service.
    pub(crate) on_down: OnDown,
    /// What becomes of TCP's MSS option.
    pub(crate) mss: Mss,
    /// Who put it in.
    pub(crate) owner: Owner,
    /// What people call it.
    pub(crate) name: Option<String>,
}

impl Action {
    /// Whether another action is the same, whoever put it in.
    pub(crate) fn is_same_but_for_the_owner(&self, other: &Self) -> bool {
        let Self { reply_to, reply_to_dev, target, on_down, mss, owner: _, name } = self;
        (reply_to, reply_to_dev, target, on_down, mss, name)
            == (&other.reply_to, &other.reply_to_dev, &other.target, &other.on_down, &other.mss, &other.name)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.selector())?;
        if self.reply_to {
            write_reply_to(&self.reply_to_dev, f)?;
        }
        write_target(self.reply_to, &self.target, self.target == Target::Pass, f)?;
        write_said(self.on_down, self.mss, self.name.as_deref(), f)
    }
}
