//! Which rules, next hops or groups somebody asks for.

use std::{fmt, net::IpAddr};

use super::{Family, Owner, Prefix};

/// Chooses some of the rules, next hops or groups, and their order. What is chosen meets every condition that is set; without
/// conditions, everything is chosen.
///
/// ```
/// use byway::{Owner, Selection, SortBy};
///
/// let selection: Selection = "within 192.0.2.0/24 owner cli sort by loss head 10".parse()?;
/// assert_eq!((selection.owner, selection.sort), (Some(Owner::CLI), Some(SortBy::Loss)));
/// # Ok::<(), byway::grammar::GrammarError>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Selection {
    /// Rules with a source of this family; next hops with a gateway of it, or with none; groups with such a next hop.
    pub family: Option<Family>,
    /// Rules whose source lies in this prefix.
    pub within: Option<Prefix>,
    /// Rules whose source contains this prefix.
    pub covering: Option<Prefix>,
    /// Rules and groups of this owner.
    pub owner: Option<Owner>,
    /// Rules that use the group of this name, and the next hops in it.
    pub group: Option<String>,
    /// Next hops with this gateway; rules and groups with such a next hop, the rules directly or by a group.
    pub gateway: Option<IpAddr>,
    /// Next hops on the device of this name; rules and groups with such a next hop, the rules directly or by a group.
    pub device: Option<String>,
    /// Rules and groups whose whole name matches this pattern: `*` stands for any characters, `?` for one.
    pub name: Option<String>,
    /// Rules and next hops with lost packets: departed ones that have not arrived.
    pub with_loss: bool,
    /// Rules that have matched no packet, next hops that no packet has departed to, and groups that no rule uses.
    pub unused: bool,
    /// What to sort by, the largest first. By default, the order is that of a listing.
    pub sort: Option<SortBy>,
    /// How many to choose at most: the first ones in this order.
    pub head: Option<usize>,
}

/// What rules and next hops are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SortBy {
    /// Packets that a rule has matched, or that have departed to a next hop.
    Packets,
    /// The bytes of these packets.
    Bytes,
    /// Departed packets that have not arrived.
    Loss,
    /// Packets since an earlier look.
    Rate,
}

/// What a [`Selection`] chooses from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selectable {
    /// Rules.
    Rules,
    /// Next hops.
    NextHops,
    /// Groups.
    Groups,
}

impl Selection {
    /// Returns whether the selection chooses everything, or everything of one family, in the order of a listing.
    pub fn is_all(&self) -> bool {
        *self == Self { family: self.family, ..Self::default() }
    }
}

/// In the words that it is read from, without the family.
impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said =
            |word: &str, value: Option<&dyn fmt::Display>| value.map(|value| format!("{word} {value}"));
        let alone = |word: &str, is_said: bool| is_said.then(|| word.to_owned());
        let words = [
            said("within", self.within.as_ref().map(|it| it as _)),
            said("covering", self.covering.as_ref().map(|it| it as _)),
            said("owner", self.owner.as_ref().map(|it| it as _)),
            said("group", self.group.as_ref().map(|it| it as _)),
            said("via", self.gateway.as_ref().map(|it| it as _)),
            said("dev", self.device.as_ref().map(|it| it as _)),
            said("name", self.name.as_ref().map(|it| it as _)),
            alone("with loss", self.with_loss),
            alone("unused", self.unused),
            said("sort by", self.sort.as_ref().map(|it| it as _)),
            said("head", self.head.as_ref().map(|it| it as _)),
        ];
        f.write_str(&words.into_iter().flatten().collect::<Vec<_>>().join(" "))
    }
}

impl fmt::Display for SortBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Packets => "packets",
            Self::Bytes => "bytes",
            Self::Loss => "loss",
            Self::Rate => "rate",
        })
    }
}

impl fmt::Display for Selectable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Rules => "rules",
            Self::NextHops => "next hops",
            Self::Groups => "groups",
        })
    }
}
