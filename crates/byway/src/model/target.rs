//! Where packets go: next hops, targets, and what is said of them.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

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

pub(super) fn write_members(members: &[Member], f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
