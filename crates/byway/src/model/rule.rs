//! Rules, and the packets that they speak about.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{
    owner::Owner,
    prefix::{Prefix, PrefixError},
    target::{Mss, OnDown, Target, TargetSpec},
};

/// Longest name of a rule in bytes.
pub const RULE_NAME_MAX: usize = byway_abi::RULE_NAME_LEN;

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
