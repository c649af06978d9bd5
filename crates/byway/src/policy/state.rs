//! The actual and the desired state, as plain data.
//!
//! Next hops, programs and neighbours follow from attachments, rules and groups:
//!
//! - each next hop of a rule or a group has a slot of its own;
//! - an attachment carries the departure program;
//! - the device of a next hop carries the arrival program, unless it is an attachment;
//! - if a rule sends replies back, each device that requests come in by carries the reception program, and the arrival program
//!   unless it is an attachment;
//! - a next hop's gateway is a neighbour that the kernel keeps resolved.
//!
//! A device carries at most one program per direction. The [`Role`] of the program says which direction that is.
//!
//! Without an attachment nothing departs, so rules then need neither programs nor neighbours.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use serde::Serialize;

use crate::model::{Action, Device, Group, HealthCheck, NextHop, Selector, moved_members};

/// Which program a device carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Role {
    /// The departure program: the device is an attachment.
    Departure,
    /// The arrival program: the device is a next hop's, or one that replies are sent back by, and no attachment.
    Arrival,
    /// The reception program: requests come in by the device, and a rule sends their replies back.
    Reception,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Departure => "departure",
            Self::Arrival => "arrival",
            Self::Reception => "reception",
        })
    }
}

impl Role {
    pub(crate) const ALL: [Self; 3] = [Self::Departure, Self::Arrival, Self::Reception];

    /// Returns the direction of the role's program.
    pub(crate) fn direction(self) -> Direction {
        match self {
            Self::Departure | Self::Arrival => Direction::Egress,
            Self::Reception => Direction::Ingress,
        }
    }
}

/// The direction of the packets that a program sees.
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

/// A device and a direction, where there is at most one program of Byway's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub(crate) ifindex: u32,
    pub(crate) direction: Direction,
}

impl Place {
    /// Returns the place of the program that has this role on the device.
    pub(crate) fn of(device: &Device, role: Role) -> Self {
        Self { ifindex: device.index, direction: role.direction() }
    }
}

/// A set of devices that rules name after `reply-to`: their names in the request, and their ifindexes, or 0 for one that does not
/// exist yet.
pub(crate) type DeviceSet = BTreeMap<String, u32>;

/// A gateway on a device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Neighbour {
    pub(crate) device: Device,
    pub(crate) gateway: IpAddr,
}

/// A next hop's slot in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Its number.
    pub(crate) index: u32,
    /// Whether somebody has taken the next hop out of service.
    pub(crate) is_down: bool,
    /// Whether the device that it was created for is gone, even if another device has its ifindex now.
    pub(crate) is_gone: bool,
    /// The MTU of the device that programs use, in bytes. 0 if they ask the kernel.
    pub(crate) mtu: u32,
}

/// The actual state: what is in the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Actual {
    /// The devices that carry a program, by its place.
    pub(crate) programs: BTreeMap<Place, (Device, Role)>,
    /// The places with a program of a newer Byway that this one does not know, and leaves alone.
    pub(crate) unknown: BTreeSet<Place>,
    /// Attachments without their program: somebody has removed it, or they have waited for their device, which exists now.
    pub(crate) lost: BTreeMap<u32, Device>,
    /// Whether the attachments are the devices that carry a default route.
    pub(crate) is_auto: bool,
    /// The names of the attachments that wait for their device, with its ifindex if it exists now.
    pub(crate) awaited: BTreeMap<String, Option<u32>>,
    /// The names in the requests for the other attachments, by ifindex. A device may have another name by now.
    pub(crate) attached_as: BTreeMap<u32, String>,
    /// The rules with their identities, except those in `unseen`.
    pub(crate) rules: BTreeMap<Selector, (u32, Arc<Action>)>,
    /// The rules that the request does not concern, and that were not read.
    pub(crate) unseen: Unseen,
    /// The groups with a name, and their identities.
    pub(crate) groups: BTreeMap<String, (u32, Group)>,
    /// The next hops of rules and groups.
    pub(crate) next_hops: BTreeMap<NextHop, Slot>,
    /// The health checks of next hops, by slot.
    pub(crate) health_checks: BTreeMap<u32, HealthCheck>,
    /// The device names in the requests for the next hops.
    pub(crate) asked_by: BTreeMap<NextHop, String>,
    /// Next hops whose device is gone, each with the next hop that its request means now.
    pub(crate) moved: BTreeMap<NextHop, NextHop>,
    /// The neighbours that the kernel was asked to keep resolved.
    pub(crate) neighbours: BTreeSet<Neighbour>,
    /// The neighbours among them that it keeps no longer, because their link was down.
    pub(crate) let_go: BTreeSet<Neighbour>,
    /// All devices, by ifindex.
    pub(crate) devices: BTreeMap<u32, Device>,
    /// Their MTUs in bytes.
    pub(crate) mtus: BTreeMap<u32, u32>,
    /// The devices that requests come in by.
    pub(crate) receivers: BTreeSet<u32>,
    /// The sets of devices that rules name after `reply-to`, by number.
    pub(crate) device_sets: BTreeMap<u8, DeviceSet>,
    /// The names in them whose device is still there, and requests still come in by it. It may have another name by now.
    pub(crate) known_as: BTreeMap<String, u32>,
}

/// Rules that were not read, because the change does not concern them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Unseen {
    /// How many there are.
    pub(crate) rules: usize,
    /// The next hops of their targets.
    pub(crate) next_hops: BTreeSet<NextHop>,
    /// Whether one of them sends replies back.
    pub(crate) sends_back: bool,
    /// The sets of devices that they name after `reply-to`.
    pub(crate) device_sets: BTreeSet<BTreeSet<String>>,
}

/// The desired state: what should be in the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Desired {
    /// The attachments, by ifindex.
    pub(crate) attachments: BTreeMap<u32, Device>,
    /// Whether they are the devices that carry a default route. Otherwise a request named each.
    pub(crate) is_auto: bool,
    /// The names of requested attachments whose device does not exist yet.
    pub(crate) awaited: BTreeSet<String>,
    /// The rules.
    pub(crate) rules: BTreeMap<Selector, Arc<Action>>,
    /// The rules that were not read, and stay as they are.
    pub(crate) unseen: Unseen,
    /// The groups with a name.
    pub(crate) groups: BTreeMap<String, Group>,
    /// The next hops that are out of service.
    pub(crate) down: BTreeSet<NextHop>,
    /// The health checks.
    pub(crate) health_checks: BTreeMap<NextHop, HealthCheck>,
}

impl Actual {
    /// Returns the attachments.
    pub(crate) fn attachments(&self) -> impl Iterator<Item = &Device> {
        let departures = self.programs.values().filter(|(_, role)| *role == Role::Departure);
        departures.map(|(device, _)| device)
    }

    /// Whether the device is an attachment.
    pub(crate) fn is_attached(&self, index: u32) -> bool {
        self.attachments().any(|device| device.index == index)
    }

    /// Returns the desired state that changes nothing.
    pub(crate) fn as_desired(&self) -> Desired {
        let attached = self.attachments().map(|device| (device.index, device.clone()));
        let attachments = attached.chain(self.lost.clone()).collect();
        let is_down = |(next_hop, slot): (&NextHop, &Slot)| slot.is_down.then(|| next_hop.clone());
        // Of two next hops that are the same now, the one that stays counts.
        let checked = |(next_hop, slot): (&NextHop, &Slot)| {
            let now = self.moved.get(next_hop).unwrap_or(next_hop);
            Some((now.clone(), self.health_checks.get(&slot.index)?.clone()))
        };
        let (moved, others): (Vec<_>, Vec<_>) =
            self.next_hops.iter().partition(|(next_hop, _)| self.moved.contains_key(*next_hop));
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
            health_checks: moved.into_iter().chain(others).filter_map(checked).collect(),
        }
    }

    fn rules_as_desired(&self) -> BTreeMap<Selector, Arc<Action>> {
        let all = self.rules.iter();
        if self.moved.is_empty() {
            return all.map(|(selector, (_, rule))| (*selector, rule.clone())).collect();
        }
        // Many rules have the same action, and go on sharing it.
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

    /// Returns the devices that a rule names after `reply-to`: those of these names, and others that had them when they were
    /// named. No device is there twice.
    pub(crate) fn device_set(&self, names: &BTreeSet<String>) -> DeviceSet {
        let receivers = self.receivers.iter().filter_map(|index| self.devices.get(index));
        let by_name: BTreeMap<&str, u32> =
            receivers.map(|device| (device.name.as_str(), device.index)).collect();
        let mut set: DeviceSet = names
            .iter()
            .map(|name| (name.clone(), by_name.get(name.as_str()).copied().unwrap_or(0)))
            .collect();
        let mut taken: BTreeSet<u32> = set.values().copied().collect();
        for (name, index) in set.iter_mut().filter(|(_, index)| **index == 0) {
            *index = self.known_as.get(name).copied().filter(|known| taken.insert(*known)).unwrap_or(0);
        }
        set
    }

    fn moved_group(&self, group: &Group) -> Group {
        let members = moved_members(&group.members, &self.moved);
        Group { members: members.unwrap_or_else(|| group.members.clone()), ..group.clone() }
    }
}

impl Desired {
    /// Whether there are attachments, or anything was asked to be one.
    pub(crate) fn asks_to_attach(&self) -> bool {
        !self.attachments.is_empty() || !self.awaited.is_empty() || self.is_auto
    }

    /// Returns the names of all requested attachments, including those that wait.
    pub(crate) fn attachment_names(&self) -> BTreeSet<String> {
        let attached = self.attachments.values().map(|device| device.name.clone());
        attached.chain(self.awaited.iter().cloned()).collect()
    }

    /// Whether it needs nothing in the kernel.
    pub(crate) fn is_empty(&self) -> bool {
        let Self { attachments, is_auto, awaited, rules, groups, .. } = self;
        rules.is_empty() && groups.is_empty() && attachments.is_empty() && awaited.is_empty() && !is_auto
    }

    /// Returns the next hops of all rules and groups.
    pub(crate) fn next_hops(&self) -> BTreeSet<&NextHop> {
        let of_groups = self.groups.values().flat_map(|group| &group.members).map(|member| &member.next_hop);
        let mut all: BTreeSet<&NextHop> = of_groups.chain(&self.unseen.next_hops).collect();
        let mut last = None;
        for next_hop in self.rules.values().flat_map(|rule| rule.target.next_hops()) {
            // A million rules have few next hops, often the same many times in a row.
            if last != Some(next_hop) {
                all.insert(next_hop);
                last = Some(next_hop);
            }
        }
        all
    }

    /// Whether a rule sends replies back.
    fn sends_back(&self) -> bool {
        self.unseen.sends_back || self.rules.values().any(|rule| rule.reply_to)
    }

    /// Returns the sets of devices that rules name after `reply-to`.
    pub(crate) fn device_sets(&self) -> BTreeSet<&BTreeSet<String>> {
        let seen = self.rules.values().map(|rule| &rule.reply_to_dev);
        seen.chain(&self.unseen.device_sets).filter(|names| !names.is_empty()).collect()
    }

    /// Returns the program for each place, and the neighbours that the kernel should keep resolved, for these next hops. It
    /// skips next hops whose device no longer exists.
    pub(crate) fn programs_and_neighbours(
        &self,
        next_hops: &BTreeSet<&NextHop>,
        actual: &Actual,
    ) -> (BTreeMap<Place, (Device, Role)>, BTreeSet<Neighbour>) {
        let is_there =
            |next_hop: &&&NextHop| actual.devices.get(&next_hop.device.index) == Some(&next_hop.device);
        let is_any_attached = !self.attachments.is_empty();
        let next_hops = || next_hops.iter().filter(is_there).filter(|_| is_any_attached);
        let receivers =
            if is_any_attached && self.sends_back() { &actual.receivers } else { &BTreeSet::new() };
        let receivers = || receivers.iter().filter_map(|index| actual.devices.get(index));
        let replies = receivers().flat_map(|device| [(device, Role::Reception), (device, Role::Arrival)]);
        let arrivals = next_hops().map(|next_hop| (&next_hop.device, Role::Arrival)).chain(replies);
        let departures = self.attachments.values().map(|device| (device, Role::Departure));
        // If two are for the same place, the later one counts.
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
