//! Next hops that rules share by name.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    owner::Owner,
    target::{Member, MemberSpec, OnDown, write_all},
};

/// Longest name of a group in bytes.
pub const GROUP_NAME_MAX: usize = byway_abi::GROUP_NAME_LEN;

/// How many next hops a group may have.
pub const GROUP_MAX: usize = byway_abi::MAX_MEMBERS;

/// A group as it is asked for.
///
/// ```
/// use byway::{GroupSpec, MemberSpec, NextHopSpec};
///
/// let one = MemberSpec::new(NextHopSpec::via("10.1.0.1".parse()?)).weight(2);
/// let other = NextHopSpec::on_link("wg0").into();
/// let spec = GroupSpec::new("uplinks", [one, other]);
/// assert_eq!(spec.to_string(), "uplinks nexthop via 10.1.0.1 weight 2 nexthop dev wg0");
/// assert_eq!(spec.to_string().parse(), Ok(spec));
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
///
/// In JSON it is a [`Group`] with [`MemberSpec`]s; `on_down` and `owner` may be missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GroupSpec {
    /// What rules call it, [`GROUP_NAME_MAX`] bytes at the most.
    pub name: String,
    /// Its next hops, [`GROUP_MAX`] at the most.
    #[serde(rename = "nexthops")]
    pub members: Vec<MemberSpec>,
    /// What becomes of packets while none is in service.
    #[serde(default)]
    pub on_down: OnDown,
    /// Who asks.
    #[serde(default)]
    pub owner: Owner,
}

impl GroupSpec {
    /// Makes a group of [`Owner::API`], whose packets pass while no next hop is in service.
    pub fn new(name: impl Into<String>, members: impl IntoIterator<Item = MemberSpec>) -> Self {
        Self {
            name: name.into(),
            members: members.into_iter().collect(),
            on_down: OnDown::default(),
            owner: Owner::default(),
        }
    }

    /// Sets what becomes of packets while no next hop is in service.
    #[must_use]
    pub fn on_down(self, on_down: OnDown) -> Self {
        Self { on_down, ..self }
    }

    /// Sets who asks.
    #[must_use]
    pub fn owner(self, owner: Owner) -> Self {
        Self { owner, ..self }
    }
}

/// Without the owner, which no words say.
impl fmt::Display for GroupSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_group(&self.name, &self.members, self.on_down, f)
    }
}

impl From<&Group> for GroupSpec {
    fn from(group: &Group) -> Self {
        Self {
            name: group.name.clone(),
            members: group.members.iter().map(MemberSpec::from).collect(),
            on_down: group.on_down,
            owner: group.owner,
        }
    }
}

fn write_group(
    name: &str,
    members: &[impl fmt::Display],
    on_down: OnDown,
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    write!(f, "{name} ")?;
    write_all(members, f)?;
    if on_down.is_default() { Ok(()) } else { write!(f, " on-down {on_down}") }
}

/// Next hops that rules share by name. A flow keeps its next hop for its life: as long as that one is in service and a
/// member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
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

impl Group {
    /// Makes a group of [`Owner::API`], whose packets pass while no next hop is in service.
    pub fn new(name: impl Into<String>, members: Vec<Member>) -> Self {
        Self { name: name.into(), members, on_down: OnDown::default(), owner: Owner::default() }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_group(&self.name, &self.members, self.on_down, f)
    }
}
