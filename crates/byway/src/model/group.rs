//! Next hops that rules share by name.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    owner::Owner,
    target::{Member, MemberSpec, OnDown, write_members},
};

/// Longest name of a group in bytes.
pub const GROUP_NAME_MAX: usize = byway_abi::GROUP_NAME_LEN;

/// How many next hops a group may have.
pub const GROUP_MAX: usize = byway_abi::MAX_MEMBERS;

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
