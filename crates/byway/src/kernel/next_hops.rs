//! The pinned maps of next hops and groups.
//!
//! A next hop has a slot of its own as long as anything uses it, and keeps its gateway all that time, unless the host learns that
//! (`via dhcp`). The content of a free slot stays until the slot is given out again, which is as late as possible, because
//! packets may still wait for their neighbour.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use aya::maps::{
    Array, ArrayOfMaps, HashMap, MapData, MapError, PerCpuArray, PerCpuValues, xdp::DevMap, xdp::XdpMapError,
};
use aya_obj::generated::bpf_map_type;
use byway_abi::{
    BUCKETS, Fragments, Group, GroupKey, MAX_FRAGMENTED, MAX_MEMBERS, MAX_NEXT_HOPS, NEXT_HOP_CHECKED,
    NEXT_HOP_DOWN, NEXT_HOP_FREE, NextHopCounters, NextHopHealth,
};

use super::{
    map::{Within, add, cannot_read, cannot_write, ignore_missing, map, optional, retry_enomem},
    wire,
};
use crate::{
    error::{Error, Result},
    model::{HealthCheck, Member, NextHop, OnDown, Owner},
    policy::buckets,
    policy::state::Slot,
};

/// What a slot has had.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Before {
    next_hop: byway_abi::NextHop,
    device: Option<u32>,
    verdict: u64,
    health: NextHopHealth,
}

/// The open maps.
pub(crate) struct NextHops {
    next_hops: Array<MapData, byway_abi::NextHop>,
    devices: DevMap<MapData>,
    health: Array<MapData, NextHopHealth>,
    health_checks: HashMap<MapData, u32, byway_abi::HealthCheck>,
    verdicts: Array<MapData, u64>,
    counters: PerCpuArray<MapData, NextHopCounters>,
    groups: HashMap<MapData, GroupKey, Group>,
    fragmented: ArrayOfMaps<MapData>,
    /// The pin of the map in it, which exists as soon as there has been a group.
    fragments_pin: PathBuf,
    cpus: usize,
}

impl fmt::Debug for NextHops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NextHops")
    }
}

impl NextHops {
    /// Opens the maps that are pinned in `folder`.
    pub(super) fn open(folder: &Path, cpus: usize) -> Result<Self> {
        Ok(Self {
            next_hops: map!(folder, "NEXT_HOPS"),
            devices: map!(folder, "NEXT_HOP_DEVICES"),
            health: map!(folder, "NEXT_HOP_HEALTH"),
            health_checks: map!(folder, "HEALTH_CHECKS"),
            verdicts: map!(folder, "VERDICTS"),
            counters: map!(folder, "NEXT_HOP_COUNTERS"),
            groups: map!(folder, "GROUPS"),
            fragmented: map!(folder, "FRAGMENTED"),
            fragments_pin: folder.join("FRAGMENTED-0"),
            cpus,
        })
    }

    fn read(&self, slot: u32) -> Result<byway_abi::NextHop> {
        self.next_hops.get(&slot, 0).map_err(cannot_read("NEXT_HOPS"))
    }

    fn write(&mut self, slot: u32, next_hop: byway_abi::NextHop) -> Result<()> {
        self.next_hops.set(slot, next_hop, 0).map_err(cannot_write("NEXT_HOPS"))
    }

    fn set_device(&mut self, slot: u32, ifindex: u32) -> Result<()> {
        self.devices.set(slot, ifindex, None, 0).map_err(|error| match error {
            XdpMapError::MapError(error) => cannot_write("NEXT_HOP_DEVICES")(error),
            error => Error::kernel("write the map NEXT_HOP_DEVICES", error),
        })
    }

    /// Returns the next hops with their slots. The device of each is the one recorded when the next hop was created or
    /// renewed.
    pub(crate) fn all(&self) -> Result<Vec<(NextHop, Slot)>> {
        let mut all = Vec::new();
        for index in 1..MAX_NEXT_HOPS {
            let wire = self.read(index)?;
            if is_new(&wire) {
                // Slots are given out in order, so no later one has ever been used.
                break;
            }
            if wire.flags & NEXT_HOP_FREE != 0 {
                continue;
            }
            let device = self.device(index)?;
            let is_down = wire.flags & NEXT_HOP_DOWN != 0;
            let slot = Slot { index, is_down, is_gone: device.is_none(), mtu: wire.mtu };
            all.extend(wire::read_next_hop(&wire).map(|next_hop| (next_hop, slot)));
        }
        Ok(all)
    }

    /// Gives a next hop a free slot, and returns it, or `None` if there is none. `mtu` is for [`byway_abi::NextHop::mtu`].
    /// The search begins at `first`.
    pub(crate) fn make(&mut self, next_hop: &NextHop, mtu: u32, first: u32) -> Result<Option<u32>> {
        let last = MAX_NEXT_HOPS - 1;
        let slots = (0..last).map(|nth| 1 + ((first.max(1) - 1) % last + nth) % last);
        for slot in slots {
            let wire = self.read(slot)?;
            if !is_new(&wire) && wire.flags & NEXT_HOP_FREE == 0 {
                continue;
            }
            self.set_health(slot, NextHopHealth::default())?;
            PerCpuValues::try_from(vec![NextHopCounters::default(); self.cpus])
                .map_err(MapError::from)
                .and_then(|zero| self.counters.set(slot, zero, 0))
                .map_err(cannot_write("NEXT_HOP_COUNTERS"))?;
            self.write(slot, wire::next_hop(next_hop, 0, mtu))?;
            if let Err(error) = self.set_device(slot, next_hop.device.index) {
                self.forget(slot)?;
                return Err(error);
            }
            return Ok(Some(slot));
        }
        Ok(None)
    }

    /// Gives a slot the current device, gateway and MTU of its next hop. Returns what the slot had before. What is known of the
    /// way by another device or gateway is forgotten.
    ///
    /// A program that reads an IPv6 gateway at the moment when another one is written may see a part of each. A packet is lost
    /// then, but more would go wrong if the next hop were out of service meanwhile.
    pub(crate) fn renew(&mut self, slot: u32, next_hop: &NextHop, mtu: u32) -> Result<Before> {
        let before = Before {
            next_hop: self.read(slot)?,
            device: self.device(slot)?,
            verdict: self.verdicts.get(&slot, 0).map_err(cannot_read("VERDICTS"))?,
            health: self.health(slot)?,
        };
        let wire = wire::next_hop(next_hop, before.next_hop.flags, mtu);
        let has_gateway = (wire.family, wire.gateway) == (before.next_hop.family, before.next_hop.gateway);
        let mut renew = || {
            self.write(slot, wire)?;
            self.set_device(slot, next_hop.device.index)?;
            if before.verdict != 0 && !(has_gateway && before.device == Some(next_hop.device.index)) {
                self.set_verdict(slot, 0)?;
            }
            match has_gateway {
                true => Ok(()),
                // Whether the other one answered says nothing of it.
                false => self.set_health(slot, NextHopHealth::default()),
            }
        };
        if let Err(error) = renew() {
            self.restore(slot, &before)?;
            return Err(error);
        }
        Ok(before)
    }

    fn set_health(&mut self, slot: u32, health: NextHopHealth) -> Result<()> {
        self.health.set(slot, health, 0).map_err(cannot_write("NEXT_HOP_HEALTH"))
    }

    /// Gives a slot back what it had before [`renew`](Self::renew). Without a device its next hop is out of service.
    pub(crate) fn restore(&mut self, slot: u32, before: &Before) -> Result<()> {
        // The device first: without one, no packet goes there.
        self.set_device(slot, before.device.unwrap_or(0))?;
        self.set_verdict(slot, before.verdict)?;
        if before.next_hop.gateway != self.read(slot)?.gateway {
            self.set_health(slot, before.health)?;
        }
        self.write(slot, before.next_hop)
    }

    /// Returns the ifindex of the device in a slot, or `None` if the device is gone or does not exist yet.
    fn device(&self, slot: u32) -> Result<Option<u32>> {
        let device = optional(self.devices.get(slot, 0));
        device.map(|device| device.map(|device| device.if_index)).map_err(cannot_read("NEXT_HOP_DEVICES"))
    }

    /// Takes the next hop in a slot out of service, or puts it back.
    pub(crate) fn set_down(&mut self, slot: u32, is_down: bool) -> Result<()> {
        let wire = self.read(slot)?;
        let flags = if is_down { wire.flags | NEXT_HOP_DOWN } else { wire.flags & !NEXT_HOP_DOWN };
        self.write(slot, byway_abi::NextHop { flags, ..wire })
    }

    /// Frees a slot that nothing uses.
    pub(crate) fn forget(&mut self, slot: u32) -> Result<()> {
        self.set_device(slot, 0)?;
        let wire = self.read(slot)?;
        self.write(slot, byway_abi::NextHop { flags: NEXT_HOP_FREE, ..wire })?;
        self.drop_health_check(slot)
    }

    /// Returns the health checks, by slot.
    pub(crate) fn health_checks(&self) -> Result<BTreeMap<u32, HealthCheck>> {
        let mut all = BTreeMap::new();
        for entry in self.health_checks.iter() {
            let (slot, wire) = entry.map_err(cannot_read("HEALTH_CHECKS"))?;
            // One that an interrupted change has left is none.
            if slot < MAX_NEXT_HOPS && is_checked(&self.read(slot)?) {
                all.extend(wire::read_health_check(&wire).map(|check| (slot, check)));
            }
        }
        Ok(all)
    }

    /// Returns the health check of the next hop in a slot.
    pub(crate) fn health_check(&self, slot: u32) -> Result<Option<HealthCheck>> {
        if !is_checked(&self.read(slot)?) {
            return Ok(None);
        }
        let wire = optional(self.health_checks.get(&slot, 0)).map_err(cannot_read("HEALTH_CHECKS"))?;
        Ok(wire.and_then(|wire| wire::read_health_check(&wire)))
    }

    /// Gives the next hop in a slot a health check, or none.
    pub(crate) fn set_health_check(&mut self, slot: u32, check: Option<&HealthCheck>) -> Result<()> {
        let wire = self.read(slot)?;
        match check {
            Some(check) => {
                let before = self.health_check(slot)?;
                let asks_the_same = before.is_some_and(|before| {
                    (&before.asked, before.quorum, before.src) == (&check.asked, check.quorum, check.src)
                });
                let said = wire::health_check(check);
                retry_enomem(|| self.health_checks.insert(slot, said, 0))
                    .map_err(cannot_write("HEALTH_CHECKS"))?;
                // One that asks others knows nothing yet.
                if !asks_the_same {
                    self.set_verdict(slot, 0)?;
                }
                self.write(slot, byway_abi::NextHop { flags: wire.flags | NEXT_HOP_CHECKED, ..wire })
            }
            None => {
                self.write(slot, byway_abi::NextHop { flags: wire.flags & !NEXT_HOP_CHECKED, ..wire })?;
                self.drop_health_check(slot)
            }
        }
    }

    fn drop_health_check(&mut self, slot: u32) -> Result<()> {
        ignore_missing(self.health_checks.remove(&slot)).map_err(cannot_write("HEALTH_CHECKS"))
    }

    /// Returns until when the verdict of a health check keeps the next hop in a slot out of service, by the clock of the programs.
    /// 0 without a health check.
    pub(crate) fn verdict(&self, slot: u32) -> Result<u64> {
        if !is_checked(&self.read(slot)?) {
            return Ok(0);
        }
        self.verdicts.get(&slot, 0).map_err(cannot_read("VERDICTS"))
    }

    /// Keeps a next hop with a health check out of service until then.
    pub(crate) fn set_verdict(&mut self, slot: u32, until: u64) -> Result<()> {
        self.verdicts.set(slot, until, 0).map_err(cannot_write("VERDICTS"))
    }

    /// Whether a slot has this next hop, and this health check.
    pub(crate) fn is_checked(&self, slot: u32, next_hop: &NextHop, check: &HealthCheck) -> Result<bool> {
        let wire = self.read(slot)?;
        let is_it = |it: NextHop| it.gateway == next_hop.gateway && it.device.index == next_hop.device.index;
        Ok(wire::read_next_hop(&wire).is_some_and(is_it) && self.health_check(slot)?.as_ref() == Some(check))
    }

    /// Returns the counters of a next hop, summed over the CPUs.
    pub(crate) fn counters(&self, slot: u32) -> Result<NextHopCounters> {
        let values = self.counters.get(&slot, 0).map_err(cannot_read("NEXT_HOP_COUNTERS"))?;
        let mut sum = NextHopCounters::default();
        for cpu in values.iter() {
            add(&mut sum.departed, cpu.departed);
            add(&mut sum.arrived, cpu.arrived);
            add(&mut sum.failed_over, cpu.failed_over);
            add(&mut sum.clamped, cpu.clamped);
            add(&mut sum.icmp_sent, cpu.icmp_sent);
            add(&mut sum.too_big_dropped, cpu.too_big_dropped);
        }
        Ok(sum)
    }

    /// Returns what the programs know about a next hop.
    pub(crate) fn health(&self, slot: u32) -> Result<NextHopHealth> {
        self.health.get(&slot, 0).map_err(cannot_read("NEXT_HOP_HEALTH"))
    }

    pub(super) fn has_group(&self, group: u32) -> bool {
        [0, 1].into_iter().any(|generation| self.groups.get(&GroupKey { group, generation }, 0).is_ok())
    }

    /// Returns all groups: named ones, and those of a single rule.
    pub(super) fn groups(&self) -> Result<BTreeMap<GroupKey, Group>> {
        self.groups.iter().collect::<std::result::Result<_, _>>().map_err(cannot_read("GROUPS"))
    }

    pub(crate) fn group(&self, key: GroupKey) -> Result<Option<Group>> {
        optional(self.groups.get(&key, 0)).map_err(cannot_read("GROUPS"))
    }

    /// Creates, replaces or removes a group in one generation, in one instant.
    pub(crate) fn set_group(&mut self, key: GroupKey, group: Option<&Group>) -> Result<()> {
        match group {
            Some(group) => {
                self.make_fragments()?;
                retry_enomem(|| self.groups.insert(key, group, 0))
            }
            None => ignore_missing(self.groups.remove(&key)),
        }
        .map_err(cannot_write("GROUPS"))
    }

    /// Creates the map of the flows of fragmented packets, unless it exists.
    pub(crate) fn make_fragments(&mut self) -> Result<()> {
        if self.fragments_pin.exists() {
            return Ok(());
        }
        let map = Within {
            kind: bpf_map_type::BPF_MAP_TYPE_LRU_HASH,
            key: size_of::<[u32; 10]>(),
            value: size_of::<Fragments>(),
            entries: MAX_FRAGMENTED,
            flags: 0,
        };
        map.make("fragments", &mut self.fragmented, &self.fragments_pin)
    }

    /// Creates what an older Byway did not create with its groups.
    pub(super) fn complete(&mut self) -> Result<()> {
        if self.groups()?.is_empty() { Ok(()) } else { self.make_fragments() }
    }

    /// Creates a group in both generations, which nothing uses yet. If that fails, [`forget_group`](Self::forget_group)
    /// removes what is left.
    pub(crate) fn make_group(&mut self, group: u32, wire: &Group) -> Result<()> {
        [0, 1]
            .into_iter()
            .try_for_each(|generation| self.set_group(GroupKey { group, generation }, Some(wire)))
    }

    /// Removes a group that no rule uses. A missing one is not an error.
    pub(crate) fn forget_group(&mut self, group: u32) -> Result<()> {
        [0, 1].into_iter().try_for_each(|generation| self.set_group(GroupKey { group, generation }, None))
    }
}

/// Whether the next hop in a slot has a health check.
fn is_checked(wire: &byway_abi::NextHop) -> bool {
    wire.flags & (NEXT_HOP_CHECKED | NEXT_HOP_FREE) == NEXT_HOP_CHECKED
}

/// Whether a slot has never been used.
fn is_new(wire: &byway_abi::NextHop) -> bool {
    wire.ifindex == 0 && wire.flags == 0
}

/// Returns a group as it is in the map. The members come with their weights, and the backups last, with the weight 0. `before` are the slots that the buckets of its flows had, if it replaces something.
pub(super) fn group(
    name: &str,
    members: &[(u32, u16)],
    on_down: OnDown,
    owner: Owner,
    before: Option<&[u32; BUCKETS]>,
) -> Group {
    let mut group = Group {
        members: [0; MAX_MEMBERS],
        weights: [0; MAX_MEMBERS],
        count: members.len() as u32,
        on_down: wire::on_down(on_down),
        owner: owner.number(),
        backups: members.iter().filter(|(_, weight)| *weight == 0).count() as u16,
        name: wire::name(name),
        buckets: buckets::assign(members, before),
    };
    for (nth, (slot, weight)) in members.iter().enumerate().take(MAX_MEMBERS) {
        group.members[nth] = *slot;
        group.weights[nth] = *weight;
    }
    group
}

/// Returns the slot of each bucket of a group.
pub(super) fn slots(group: &Group) -> [u32; BUCKETS] {
    group.buckets.map(|member| group.members.get(usize::from(member)).copied().unwrap_or(0))
}

/// Returns the members of a group, or `None` if one is invalid.
pub(super) fn members(group: &Group, slots: &BTreeMap<u32, NextHop>) -> Option<Vec<Member>> {
    let member = |nth: usize| {
        let next_hop = slots.get(group.members.get(nth)?)?.clone();
        let is_backup = group.weights[nth] == 0;
        Some(Member { next_hop, weight: group.weights[nth].max(1), is_backup })
    };
    (0..group.count as usize).map(member).collect::<Option<Vec<_>>>().filter(|members| !members.is_empty())
}

/// Whether a group is valid, with a name or without.
pub(super) fn makes_sense(wire: &Group, slots: &BTreeMap<u32, NextHop>) -> bool {
    let is_own = wire::read_name(&wire.name).is_empty();
    if is_own { members(wire, slots).is_some() } else { read_group(wire, slots).is_some() }
}

/// Returns a named group, or `None` if it belongs to a single rule or is invalid.
pub(crate) fn read_group(wire: &Group, slots: &BTreeMap<u32, NextHop>) -> Option<crate::model::Group> {
    let name = wire::read_name(&wire.name);
    Some(crate::model::Group {
        name: (!name.is_empty()).then_some(name)?,
        members: members(wire, slots)?,
        on_down: wire::read_on_down(wire.on_down),
        owner: Owner::new(wire.owner),
    })
}
