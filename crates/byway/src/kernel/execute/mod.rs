//! Carries out the steps of a plan, and undoes them.

mod recover;
mod switch;

use std::collections::{BTreeMap, BTreeSet};

use byway_abi::{
    BUCKETS, GroupKey, LAST_INDEX_OF_REPLIES, MAX_NEXT_HOPS, TARGET_DROP, TARGET_GROUP, TARGET_NEXT_HOP,
    TARGET_PASS, meta, without_reply_to,
};

use self::switch::{Stale, clear, set_source, switch_rules};
use super::{
    features,
    hook::{Attached, Hook},
    network::{NeighbourAddresses, Network},
    next_hops,
    pins::Pins,
    signals::SignalsWait,
    tables::Tables,
    wire,
};
use crate::{
    error::{Error, Result},
    model::{Action, Device, Group, HealthCheck, Member, NextHop, Prefix, Selector, Target},
    policy::{
        state::{Actual, DeviceSet, Place, Role},
        step::Step,
    },
};

/// Carries out steps. If one fails, it undoes those before it. The caller holds the lock.
pub(crate) struct Executor<'a> {
    pub(crate) pins: &'a mut Pins,
    pub(crate) network: &'a mut Network,
    /// The hook to use instead of the one that the kernel offers.
    pub(crate) hook: Option<Hook>,
    /// Called with the number of completed steps, and of all.
    pub(crate) progress: Option<&'a dyn Fn(usize, usize)>,
}

/// Steps between two reports of progress.
const REPORT: usize = 4_096;

/// What the steps of one plan share.
#[derive(Default)]
struct SoFar {
    /// The slots of next hops.
    slots: BTreeMap<NextHop, u32>,
    /// The identities of named groups.
    groups: BTreeMap<String, u32>,
    /// The numbers of the sets of devices, by their names.
    device_sets: BTreeMap<BTreeSet<String>, u8>,
    /// The targets of the recorded rules, in order.
    recorded: Vec<byway_abi::Target>,
    /// What the neighbour table had when the first receiver was attached.
    neighbours: Option<NeighbourAddresses>,
    /// The tables that no packet uses any more.
    stale: Stale,
}

impl SoFar {
    fn slot(&self, next_hop: &NextHop) -> Result<u32> {
        let slot = self.slots.get(next_hop).copied();
        slot.ok_or_else(|| Error::inconsistent(format!("find the next hop {next_hop}"), "it has no slot"))
    }

    /// Returns the slots and weights of a group's members. A backup has the weight 0.
    fn members(&self, members: &[Member]) -> Result<Vec<(u32, u16)>> {
        let weight = |member: &Member| if member.is_backup { 0 } else { member.weight };
        members.iter().map(|member| Ok((self.slot(&member.next_hop)?, weight(member)))).collect()
    }
}

/// How to undo a step.
enum Undo {
    /// Carry out another step.
    Step(Step),
    /// Free a slot.
    ForgetSlot(u32),
    /// Give a slot back the next hop and the device that it had.
    Renew(u32, Box<next_hops::Before>),
    /// Give a next hop back the health check that it had, and its verdict.
    HealthCheck(u32, Option<HealthCheck>, u64),
    /// Restore a group in a generation, or remove it if there was none.
    Group(GroupKey, Option<Box<byway_abi::Group>>),
    /// Remove the records of all recorded rules.
    ForgetRules,
    /// Restore a source's target, or remove it if there was none, and remove the tables that were created for the new one.
    Entry(Prefix, Option<byway_abi::Target>, Stale),
    /// Put the earlier generation in force again, and remove the tables of the new one.
    Generation(u32, Stale),
}

impl Executor<'_> {
    /// Carries out the steps of a plan, all or none. Returns whether all is done. Otherwise the request is in force, and the
    /// next change tidies up what is left.
    pub(crate) fn carry_out(&mut self, actual: &Actual, steps: &[Step]) -> Result<bool> {
        if steps.is_empty() {
            return Ok(true);
        }
        let _quiet = SignalsWait::begin();
        self.pins.tables.meta.set(meta::CHANGING, 1)?;
        let mut so_far = SoFar {
            slots: actual.next_hops.iter().map(|(next_hop, slot)| (next_hop.clone(), slot.index)).collect(),
            groups: actual.groups.iter().map(|(name, (id, _))| (name.clone(), *id)).collect(),
            device_sets: actual.device_sets.iter().map(|(set, devices)| (names(devices), *set)).collect(),
            ..SoFar::default()
        };
        let mut undo: Vec<Undo> = Vec::new();
        let mut has_grace_period_ended = false;
        for (nth, step) in steps.iter().enumerate() {
            if let Some(progress) = self.progress.filter(|_| nth % REPORT == 0) {
                progress(nth, steps.len());
            }
            has_grace_period_ended |= *step == Step::WaitForGracePeriod;
            match self.step(step, &mut so_far) {
                Ok(back) => undo.extend(back),
                Err(_) if has_grace_period_ended => return Ok(false),
                Err(failure) => return Err(self.take_back(undo, &mut so_far, failure)),
            }
        }
        if let Some(progress) = self.progress {
            progress(steps.len(), steps.len());
        }
        // All is in force: what fails now is left to the next change.
        Ok(self.finish(steps, &so_far.stale).is_ok())
    }

    /// Removes what no packet and no undo needs any more, and marks the change as complete.
    fn finish(&mut self, steps: &[Step], stale: &Stale) -> Result<()> {
        let tables = &mut self.pins.tables;
        // A change of one entry needed new tables.
        if stale.generation.is_some() {
            tables.wait_for_grace_period();
            clear(tables, stale)?;
        }
        for step in steps {
            // Its counters stay until the change cannot be undone any more.
            if let Step::ChangeRole(device, Role::Arrival) = step {
                tables.attachments.stop_watching(device.index)?;
            }
        }
        tables.note_identities()?;
        tables.meta.set(meta::CHANGING, 0)
    }

    /// Undoes steps, the last one first. It stops at the first that fails, because the next change finds what a step has left
    /// by the records of the steps before it.
    fn take_back(&mut self, undo: Vec<Undo>, so_far: &mut SoFar, failure: Error) -> Error {
        if matches!(failure, Error::NotUndone { .. }) {
            return failure;
        }
        let undone = undo.into_iter().rev().try_for_each(|step| self.undo(step, so_far));
        let tables = &mut self.pins.tables;
        match undone.and_then(|()| tables.note_identities()).and_then(|()| tables.meta.set(meta::CHANGING, 0))
        {
            Ok(()) => failure,
            Err(undo) => Error::NotUndone { failure: Box::new(failure), undo: Box::new(undo) },
        }
    }

    /// Carries out one step, and returns how to undo it.
    fn step(&mut self, step: &Step, so_far: &mut SoFar) -> Result<Option<Undo>> {
        let Self { pins, network, .. } = self;
        let Pins { tables, programs } = &mut **pins;
        let by = |step: Step| Ok(Some(Undo::Step(step)));
        match step {
            Step::Record(selector, action, instead_of) => {
                let target = record_rule(tables, so_far, selector, action, *instead_of)?;
                // One undoes all records, of which there may be a million.
                let is_first = so_far.recorded.is_empty();
                so_far.recorded.push(target);
                Ok(is_first.then_some(Undo::ForgetRules))
            }
            Step::Switch(switch) => switch_rules(tables, so_far, switch).map(Some),
            Step::Attach(device, role) => {
                self.attach(device, *role, so_far)?;
                by(Step::Detach(device.clone(), *role))
            }
            Step::ChangeRole(device, role) => {
                self.change_role(device, *role)?;
                let other = match role {
                    Role::Departure => Role::Arrival,
                    Role::Arrival => Role::Departure,
                    // No other program is at its place.
                    Role::Reception => Role::Reception,
                };
                by(Step::ChangeRole(device.clone(), other))
            }
            Step::Detach(device, role) => {
                let attached = attached(tables, device, *role)?;
                programs.detach(network, device, *role, attached)?;
                tables.forget_program(Place::of(device, *role))?;
                by(Step::Attach(device.clone(), *role))
            }
            Step::SetAuto(is_auto) => {
                tables.attachments.set_request("", *is_auto)?;
                by(Step::SetAuto(!is_auto))
            }
            Step::Await(name) => {
                tables.attachments.set_request(name, true)?;
                by(Step::StopAwaiting(name.clone()))
            }
            Step::StopAwaiting(name) => {
                tables.attachments.set_request(name, false)?;
                by(Step::Await(name.clone()))
            }
            Step::KeepResolved(neighbour) => {
                let is_new = tables.neighbours.remember(neighbour.device.index, neighbour.gateway)?;
                let kept = network.keep_resolved(neighbour);
                if is_new && !matches!(kept, Ok(true)) {
                    tables.neighbours.forget(neighbour.device.index, neighbour.gateway)?;
                }
                if kept? && is_new { by(Step::LetGo(neighbour.clone())) } else { Ok(None) }
            }
            Step::LetGo(neighbour) => {
                network.let_go(neighbour)?;
                tables.neighbours.forget(neighbour.device.index, neighbour.gateway)?;
                by(Step::KeepResolved(neighbour.clone()))
            }
            Step::MakeNextHop(next_hop) => {
                let first = tables.meta.get(meta::NEXT_HOP)?;
                let mtu = recorded_mtu(network, &next_hop.device)?;
                let slot = tables.next_hops.make(next_hop, mtu, first)?;
                let slot = slot.ok_or(Error::TooManyNextHops { limit: MAX_NEXT_HOPS - 1 })?;
                tables.meta.set(meta::NEXT_HOP, slot + 1)?;
                so_far.slots.insert(next_hop.clone(), slot);
                Ok(Some(Undo::ForgetSlot(slot)))
            }
            Step::Renew(next_hop) => {
                let mtu = recorded_mtu(network, &next_hop.device)?;
                let slot = so_far.slot(next_hop)?;
                let before = tables.next_hops.renew(slot, next_hop, mtu)?;
                Ok(Some(Undo::Renew(slot, Box::new(before))))
            }
            Step::MakeDevices(devices) => {
                let taken = tables.replies.device_sets()?;
                let set = (1..=u8::MAX).find(|set| !taken.contains_key(set));
                // Half of them are in use at the most.
                let set = set.ok_or(Error::Busy {
                    action: "find a free number for a list of devices",
                    what: "all are in use",
                })?;
                if let Err(error) = tables.replies.set_devices(set, devices) {
                    // The next change tidies up what cannot be removed now: no rule uses it.
                    let _ = tables.replies.set_devices(set, &DeviceSet::new());
                    return Err(error);
                }
                so_far.device_sets.insert(names(devices), set);
                by(Step::ForgetDevices(set))
            }
            Step::SetDevices(set, devices) => {
                let before = tables.replies.device_sets()?.remove(set).unwrap_or_default();
                if let Err(error) = tables.replies.set_devices(*set, devices) {
                    // Only the devices that it has got already, if this fails as well.
                    let _ = tables.replies.set_devices(*set, &before);
                    return Err(error);
                }
                by(Step::SetDevices(*set, before))
            }
            Step::SetDown(next_hop, is_down) => {
                tables.next_hops.set_down(so_far.slot(next_hop)?, *is_down)?;
                by(Step::SetDown(next_hop.clone(), !is_down))
            }
            Step::SetHealthCheck(next_hop, check) => {
                let slot = so_far.slot(next_hop)?;
                let (before, verdict) =
                    (tables.next_hops.health_check(slot)?, tables.next_hops.verdict(slot)?);
                if let Err(error) = tables.next_hops.set_health_check(slot, check.as_ref()) {
                    // Only the check that it has got already, if this fails as well.
                    let _ = tables.next_hops.set_health_check(slot, before.as_ref());
                    return Err(error);
                }
                Ok(Some(Undo::HealthCheck(slot, before, verdict)))
            }
            Step::PrepareGroup(group) => {
                let next = tables.generation()? & 1 ^ 1;
                put_group(tables, so_far, group, next).map(Some)
            }
            Step::PutGroup(group) => {
                let in_force = tables.generation()? & 1;
                put_group(tables, so_far, group, in_force).map(Some)
            }
            Step::WaitForGracePeriod => {
                tables.wait_for_grace_period();
                Ok(None)
            }
            Step::Clear => {
                clear(tables, &std::mem::take(&mut so_far.stale))?;
                Ok(None)
            }
            Step::Forget(id) => {
                forget_rule(tables, *id)?;
                Ok(None)
            }
            Step::ForgetGroup(name) => {
                if let Some(id) = so_far.groups.get(name) {
                    tables.next_hops.forget_group(*id)?;
                }
                Ok(None)
            }
            Step::ForgetDevices(set) => {
                tables.replies.set_devices(*set, &DeviceSet::new())?;
                Ok(None)
            }
            Step::ForgetNextHop(next_hop) => {
                tables.next_hops.forget(so_far.slot(next_hop)?)?;
                Ok(None)
            }
        }
    }

    /// Puts a program on a device. Writes its record first, and restores that if the program cannot be attached.
    fn attach(&mut self, device: &Device, role: Role, so_far: &mut SoFar) -> Result<()> {
        self.pins.load_for(self.network, device, role)?;
        let Pins { tables, programs } = &mut *self.pins;
        match role {
            Role::Departure => tables.attachments.watch(device.index)?,
            Role::Reception => {
                tables.replies.make_flows()?;
                tables.replies.receive(device.index)?;
                // This is only so that the first change of a neighbour is noticed. It must not stop a change.
                if so_far.neighbours.is_none() {
                    so_far.neighbours = self.network.addresses_of_neighbours().ok();
                }
                if let Some(neighbours) = &so_far.neighbours {
                    let _ = tables.replies.hear(device.index, neighbours);
                }
            }
            Role::Arrival => {}
        }
        let place = Place::of(device, role);
        // A device that has lost its program still has its record.
        let before = tables.attachments.program(place)?;
        // The qdisc may have been added for the lost program or for that of the other direction. It goes with the last
        // program on the device.
        let has_qdisc = tables
            .attachments
            .programs()?
            .iter()
            .any(|(key, record)| key.ifindex == device.index && record.qdisc_added != 0);
        let record = |attached: Attached| {
            let qdisc_added = attached.qdisc_added || has_qdisc;
            let record = wire::program_record(device, role, Attached { qdisc_added, ..attached });
            tables.attachments.set_program(place, record)
        };
        let put = programs.attach(self.network, device, role, self.hook, record);
        if put.is_err() {
            match before {
                Some(record) => tables.attachments.set_program(place, record)?,
                None => tables.forget_program(place)?,
            }
        }
        put
    }

    /// Replaces the program of another role by that of this role, in one instant.
    fn change_role(&mut self, device: &Device, role: Role) -> Result<()> {
        self.pins.load_for(self.network, device, role)?;
        let Pins { tables, programs } = &mut *self.pins;
        let attached = attached(tables, device, role)?;
        let was_watched = tables.attachments.is_watched(device.index)?;
        if role == Role::Departure {
            tables.attachments.watch(device.index)?;
        }
        if let Err(error) = programs.replace(self.network, device, role, attached.hook) {
            if !was_watched {
                tables.attachments.stop_watching(device.index)?;
            }
            return Err(error);
        }
        tables.attachments.set_program(Place::of(device, role), wire::program_record(device, role, attached))
    }

    fn undo(&mut self, undo: Undo, so_far: &mut SoFar) -> Result<()> {
        let tables = &mut self.pins.tables;
        match undo {
            Undo::Step(step) => self.step(&step, so_far).map(drop),
            Undo::ForgetSlot(slot) => tables.next_hops.forget(slot),
            Undo::Renew(slot, before) => tables.next_hops.restore(slot, &before),
            Undo::HealthCheck(slot, check, verdict) => {
                tables.next_hops.set_health_check(slot, check.as_ref())?;
                tables.next_hops.set_verdict(slot, verdict)
            }
            Undo::Group(key, before) => tables.next_hops.set_group(key, before.as_deref()),
            Undo::ForgetRules => {
                so_far.recorded.iter().try_for_each(|target| forget_rule(tables, target.rule))
            }
            Undo::Entry(source, entry, stale) => {
                let mut stale = stale;
                stale.generation = set_source(tables, &source, entry)?.1;
                tables.wait_for_grace_period();
                clear(tables, &stale)
            }
            Undo::Generation(generation, stale) => {
                tables.set_generation(generation)?;
                tables.wait_for_grace_period();
                clear(tables, &stale)
            }
        }
    }
}

fn names(devices: &DeviceSet) -> BTreeSet<String> {
    devices.keys().cloned().collect()
}

/// Returns the MTU for the record of a next hop: 0 if programs ask the kernel, or if the device does not exist yet.
fn recorded_mtu(network: &mut Network, device: &Device) -> Result<u32> {
    if device.index == 0 || features::has_check_mtu()? { Ok(0) } else { Ok(network.link(device)?.mtu) }
}

fn attached(tables: &Tables, device: &Device, role: Role) -> Result<Attached> {
    let record = tables.attachments.program(Place::of(device, role))?;
    record.map(|record| wire::attached(&record)).ok_or_else(|| Error::NotAttached(device.name.clone()))
}

/// Creates or replaces a group in one generation. Flows keep their next hops if possible.
fn put_group(tables: &mut Tables, so_far: &mut SoFar, group: &Group, generation: u32) -> Result<Undo> {
    let id = match so_far.groups.get(&group.name) {
        Some(id) => *id,
        None => tables.next_set()?,
    };
    let buckets = tables.group(id)?.as_ref().map(next_hops::slots);
    let members = so_far.members(&group.members)?;
    let wire = next_hops::group(&group.name, &members, group.on_down, group.owner, buckets.as_ref());
    let key = GroupKey { group: id, generation };
    let before = tables.next_hops.group(key)?;
    tables.next_hops.set_group(key, Some(&wire))?;
    so_far.groups.insert(group.name.clone(), id);
    Ok(Undo::Group(key, before.map(Box::new)))
}

/// Creates the record of a rule, and a group of its own if it has several next hops. Flows of the rule that it replaces keep
/// their next hops if possible. Returns the target for its packets.
fn record_rule(
    tables: &mut Tables,
    so_far: &SoFar,
    selector: &Selector,
    action: &Action,
    instead_of: Option<u32>,
) -> Result<byway_abi::Target> {
    if action.reply_to {
        tables.replies.make_flows()?;
        tables.next_hops.make_fragments()?;
    }
    let devices = match &action.reply_to_dev {
        devices if devices.is_empty() => 0,
        devices => *so_far.device_sets.get(devices).ok_or_else(|| {
            Error::inconsistent(format!("make the rule {selector}"), "there is no such set of devices")
        })?,
    };
    let mut record = |kind, index| {
        if action.reply_to && index > LAST_INDEX_OF_REPLIES {
            // A group that an older Byway has made. Those of this one leave room for the devices.
            return Err(Error::inconsistent(
                format!("make the rule {selector}"),
                "the identity of its group is too large",
            ));
        }
        tables.record(selector, action, devices, (kind, index))
    };
    match &action.target {
        Target::NextHop(next_hop) => record(TARGET_NEXT_HOP, so_far.slot(next_hop)?),
        Target::Group(name) => {
            let id = so_far.groups.get(name).copied();
            record(TARGET_GROUP, id.ok_or_else(|| Error::NoSuchGroup(name.clone()))?)
        }
        Target::NextHops(all) => {
            let before = match instead_of {
                Some(id) => buckets(tables, id)?,
                None => None,
            };
            let members = so_far.members(all)?;
            let id = tables.next_set()?;
            let group = next_hops::group("", &members, action.on_down, action.owner, before.as_ref());
            let made = tables.next_hops.make_group(id, &group);
            let recorded = made.and_then(|()| tables.record(selector, action, devices, (TARGET_GROUP, id)));
            if recorded.is_err() {
                // Nothing uses it. The next change tidies up what cannot be removed now.
                let _ = tables.next_hops.forget_group(id);
            }
            recorded
        }
        Target::Pass => record(TARGET_PASS, 0),
        Target::Drop => record(TARGET_DROP, 0),
        // Existing rules of such a kind stay, and no request can add one.
        Target::Other { .. } => {
            Err(Error::inconsistent(format!("make the rule {selector}"), "its kind is not known"))
        }
    }
}

/// Returns the slot of each bucket of a rule's flows, if it has next hops.
fn buckets(tables: &Tables, rule: u32) -> Result<Option<[u32; BUCKETS]>> {
    let Some(record) = tables.rule_record(rule)? else { return Ok(None) };
    Ok(match without_reply_to(record.kind) {
        TARGET_NEXT_HOP => Some([record.index; BUCKETS]),
        TARGET_GROUP => tables.group(record.index)?.as_ref().map(next_hops::slots),
        _ => None,
    })
}

/// Removes a rule that is no longer in force, with the group of its own.
fn forget_rule(tables: &mut Tables, id: u32) -> Result<()> {
    if let Some(record) = tables.rule_record(id)?
        && without_reply_to(record.kind) == TARGET_GROUP
        && tables.group(record.index)?.is_some_and(|group| wire::read_name(&group.name).is_empty())
    {
        tables.next_hops.forget_group(record.index)?;
    }
    tables.forget(id)
}
