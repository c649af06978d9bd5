//! What the kernel holds, and what it should hold, as plain data.
//!
//! Next hops, programs and neighbours follow from attachments, rules and groups:
//!
//! - what a rule or a group sends packets to is a next hop with a slot of its own;
//! - an attachment carries the departure program;
//! - the device of a next hop carries the arrival program, unless it is an attachment;
//! - a next hop's gateway is a neighbour that the kernel keeps resolved.
//!
//! A device carries at most one program a direction. Whatever wants one yields a [`Role`], and the role says in which direction.
//!
//! Without an attachment nothing departs, so then rules ask for neither programs nor neighbours.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use serde::Serialize;

use crate::model::{Action, Device, Group, NextHop, Selector, moved_members};

/// Which program a device carries, and so why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Role {
    /// Its egress is watched.
    Departure,
    /// It is a next hop's.
    Arrival,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Departure => "departure",
            Self::Arrival => "arrival",
        })
    }
}

impl Role {
    /// The direction in which its program is.
    pub(crate) fn direction(self) -> Direction {
        match self {
            Self::Departure | Self::Arrival => Direction::Egress,
        }
    }
}

/// Which packets of a device a program sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Direction {
    /// Those that come in.
    Ingress,
    /// Those that leave.
    Egress,
}

impl Direction {
    pub(crate) const ALL: [Self; 2] = [Self::Ingress, Self::Egress];
}

/// Where a program of Byway's may be. There is one at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub(crate) ifindex: u32,
    pub(crate) direction: Direction,
}

impl Place {
    /// Where a device carries the program of a role.
    pub(crate) fn of(device: &Device, role: Role) -> Self {
        Self { ifindex: device.index, direction: role.direction() }
    }
}

/// A gateway on a device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Neighbour {
    pub(crate) device: Device,
    pub(crate) gateway: IpAddr,
}

/// A next hop that the kernel holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Which it is.
    pub(crate) index: u32,
    /// Somebody has taken the next hop out of service.
    pub(crate) is_down: bool,
    /// The device that it was made for is gone, whatever has its ifindex now.
    pub(crate) is_gone: bool,
    /// The MTU that programs take its device to have, in bytes; 0 where they ask the kernel.
    pub(crate) mtu: u32,
}

/// What the kernel holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Actual {
    /// The devices that carry a program, by where it is.
    pub(crate) programs: BTreeMap<Place, (Device, Role)>,
    /// Where a newer byway has put a program that this one does not know. It is left alone.
    pub(crate) unknown: BTreeSet<Place>,
    /// Attachments without a program: somebody has taken it off, or they have waited for their device, which is there now.
    pub(crate) lost: BTreeMap<u32, Device>,
    /// The attachments are those devices that carry a default route.
    pub(crate) is_auto: bool,
    /// The names of attachments that wait for their device, and the ifindex of one that is there now.
    pub(crate) awaited: BTreeMap<String, Option<u32>>,
    /// The names by which those that are there were asked for, by ifindex. A device may have another name by now.
    pub(crate) attached_as: BTreeMap<u32, String>,
    /// The rules with their identities, but for those that are `unseen`.
    pub(crate) rules: BTreeMap<Selector, (u32, Arc<Action>)>,
    /// Rules that no change is asked for, and that none can concern.
    pub(crate) unseen: Unseen,
    /// The groups with a name, and their identities.
    pub(crate) groups: BTreeMap<String, (u32, Group)>,
    /// The next hops of both.
    pub(crate) next_hops: BTreeMap<NextHop, Slot>,
    /// The names by which their devices were asked for, likewise.
    pub(crate) asked_by: BTreeMap<NextHop, String>,
    /// Next hops whose device is gone, and which now mean the same as another one.
    pub(crate) moved: BTreeMap<NextHop, NextHop>,
    /// The neighbours that Byway has asked the kernel to keep resolved.
    pub(crate) neighbours: BTreeSet<Neighbour>,
    /// Those of them that it does not keep any more: their link was down.
    pub(crate) let_go: BTreeSet<Neighbour>,
    /// Every device there is, by ifindex.
    pub(crate) devices: BTreeMap<u32, Device>,
    /// Their MTUs in bytes.
    pub(crate) mtus: BTreeMap<u32, u32>,
}

/// Rules that were not read, since there are many and a change concerns one of the others alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Unseen {
    /// How many they are.
    pub(crate) rules: usize,
    /// What they send packets to.
    pub(crate) next_hops: BTreeSet<NextHop>,
}

/// What the kernel should hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Desired {
    /// The devices whose egress is watched, by ifindex.
    pub(crate) attachments: BTreeMap<u32, Device>,
    /// They are those that carry a default route. Else each is asked for by name.
    pub(crate) is_auto: bool,
    /// The names of those that are not there yet.
    pub(crate) awaited: BTreeSet<String>,
    /// The rules.
    pub(crate) rules: BTreeMap<Selector, Arc<Action>>,
    /// Those that stay as they are, whatever they are.
    pub(crate) unseen: Unseen,
    /// The groups with a name.
    pub(crate) groups: BTreeMap<String, Group>,
    /// The next hops that are out of service.
    pub(crate) down: BTreeSet<NextHop>,
}

impl Actual {
    /// The devices whose egress is watched.
    pub(crate) fn attachments(&self) -> impl Iterator<Item = &Device> {
        let departures = self.programs.values().filter(|(_, role)| *role == Role::Departure);
        departures.map(|(device, _)| device)
    }

    /// Whether the egress of a device is watched.
    pub(crate) fn is_attached(&self, index: u32) -> bool {
        self.attachments().any(|device| device.index == index)
    }

    /// What should hold when nothing is to change.
    pub(crate) fn as_desired(&self) -> Desired {
        let attached = self.attachments().map(|device| (device.index, device.clone()));
        let attachments = attached.chain(self.lost.clone()).collect();
        let is_down = |(next_hop, slot): (&NextHop, &Slot)| slot.is_down.then(|| next_hop.clone());
        let waits = |(name, there): (&String, &Option<u32>)| there.is_none().then(|| name.clone());
        Desired {
            attachments,
            is_auto: self.is_auto,
            awaited: self.awaited.iter().filter_map(waits).collect(),
            rules: self.rules_as_desired(),
            unseen: self.unseen.clone(),
            groups: self
                .groups
                .iter()
                .map(|(name, (_, group))| (name.clone(), self.moved_group(group)))
                .collect(),
            down: self.next_hops.iter().filter_map(is_down).collect(),
        }
    }

    fn rules_as_desired(&self) -> BTreeMap<Selector, Arc<Action>> {
        let all = self.rules.iter();
        if self.moved.is_empty() {
            return all.map(|(selector, (_, rule))| (*selector, rule.clone())).collect();
        }
        // Many rules say the same.
        let mut said: BTreeMap<&Action, Arc<Action>> = BTreeMap::new();
        all.map(|(selector, (_, rule))| {
            let now = said.entry(&**rule).or_insert_with(|| match rule.target.moved(&self.moved) {
                Some(target) => Arc::new(Action { target, ..(**rule).clone() }),
                None => rule.clone(),
            });
            (*selector, now.clone())
        })
        .collect()
    }

    fn moved_group(&self, group: &Group) -> Group {
        let members = moved_members(&group.members, &self.moved);
        Group { members: members.unwrap_or_else(|| group.members.clone()), ..group.clone() }
    }
}

impl Desired {
    /// The names of all attachments that are asked for, those included that wait.
    pub(crate) fn attachment_names(&self) -> BTreeSet<String> {
        let attached = self.attachments.values().map(|device| device.name.clone());
        attached.chain(self.awaited.iter().cloned()).collect()
    }

    /// Whether nothing of it needs anything in the kernel.
    pub(crate) fn is_empty(&self) -> bool {
        let Self { attachments, is_auto, awaited, rules, groups, .. } = self;
        rules.is_empty() && groups.is_empty() && attachments.is_empty() && awaited.is_empty() && !is_auto
    }

    /// The next hops of all rules and groups.
    pub(crate) fn next_hops(&self) -> BTreeSet<&NextHop> {
        let of_groups = self.groups.values().flat_map(|group| &group.members).map(|member| &member.next_hop);
        let mut all: BTreeSet<&NextHop> = of_groups.chain(&self.unseen.next_hops).collect();
        let mut last = None;
        for next_hop in self.rules.values().flat_map(|rule| rule.target.next_hops()) {
            // A million rules have few next hops, and often the same one after the other.
            if last != Some(next_hop) {
                all.insert(next_hop);
                last = Some(next_hop);
            }
        }
        all
    }

    /// The program that should be at each place, and the neighbours that the kernel should keep resolved, for these next
    /// hops, as far as their devices are there still.
    pub(crate) fn programs_and_neighbours(
        &self,
        next_hops: &BTreeSet<&NextHop>,
        existing: &BTreeMap<u32, Device>,
    ) -> (BTreeMap<Place, (Device, Role)>, BTreeSet<Neighbour>) {
        let is_there = |next_hop: &&&NextHop| existing.get(&next_hop.device.index) == Some(&next_hop.device);
        let is_any_attached = !self.attachments.is_empty();
        let next_hops = || next_hops.iter().filter(is_there).filter(|_| is_any_attached);
        let arrivals = next_hops().map(|next_hop| (&next_hop.device, Role::Arrival));
        let departures = self.attachments.values().map(|device| (device, Role::Departure));
        // Of two for the same place the later one holds.
        let programs = arrivals.chain(departures);
        let neighbour = |next_hop: &&NextHop| {
            Some(Neighbour { device: next_hop.device.clone(), gateway: next_hop.gateway? })
        };
        (
            programs.map(|(device, role)| (Place::of(device, role), (device.clone(), role))).collect(),
            next_hops().filter_map(neighbour).collect(),
        )
    }
}
