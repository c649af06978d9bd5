//! A change in the making: a copy of the state, which requests edit, or refuse to edit. Nothing changes in the kernel until
//! it is [committed](crate::Byway).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use byway_abi::{
    MAX_DESTINATIONS, MAX_DEVICES, MAX_GROUPS, MAX_NEXT_HOPS,
    reply::{MAX_DEVICE_SETS, MAX_REPLY_DEVICES},
};

use super::{
    changes::{Changes, Waiting},
    compile::{compile, destinations},
    plan::plan,
    request::{OnConflict, Request, gateways},
    resolve::{Checks, InUse},
    snapshot::Snapshot,
    state::{Desired, Place, Role},
    step::Step,
};
use crate::{
    config::{Attach, Config},
    error::{Error, Result},
    model::{
        Action, Device, Group, GroupSpec, HealthCheck, HealthCheckSpec, NextHop, NextHopSpec, Owner, Rule,
        RuleError, Selector, Target, check_families,
    },
};

/// The actual and the desired state during a change.
#[derive(Debug, Clone)]
pub(crate) struct Transaction {
    pub(crate) snapshot: Snapshot,
    /// The actual state, as the desired state that changes nothing.
    pub(crate) held: Desired,
    /// The desired state.
    pub(crate) desired: Desired,
    pub(crate) checks: Checks,
    /// The requests of an applied configuration that wait.
    waiting: Vec<Waiting>,
}

impl Transaction {
    pub(crate) fn on(mut snapshot: Snapshot) -> Self {
        snapshot.prefer_learned_in_use();
        let held = snapshot.actual.as_desired();
        Self { desired: held.clone(), held, snapshot, checks: Checks::Full, waiting: Vec::new() }
    }

    /// Keeps a gateway out of service if the request names it in another way than before.
    pub(crate) fn keep_down(&mut self) {
        let Self { snapshot, desired, .. } = self;
        let down: BTreeSet<NextHop> = desired.down.iter().map(NextHop::named).collect();
        if down.is_empty() {
            return;
        }
        let is_new = |it: &&NextHop| !snapshot.actual.next_hops.contains_key(*it);
        let all = desired.next_hops().into_iter().filter(is_new);
        let same: Vec<NextHop> = all.filter(|it| down.contains(&it.named())).cloned().collect();
        desired.down.extend(same);
    }

    /// Whether the desired state is the actual one.
    pub(crate) fn changes_nothing(&self) -> bool {
        self.held == self.desired
    }

    /// Whether the desired state is empty.
    pub(crate) fn wants_nothing(&self) -> bool {
        self.desired == Desired::default()
    }

    /// Refuses a desired state that does not fit into the tables or cannot work.
    pub(crate) fn check(&self) -> Result<()> {
        let Self { snapshot, held, desired, checks, .. } = self;
        let programs = |desired: &Desired, next_hops: &BTreeSet<&NextHop>| {
            desired.programs_and_neighbours(next_hops, &snapshot.actual).0
        };
        let after = desired.next_hops();
        let wanted = programs(desired, &after);
        // There may be more devices than before, whatever the change is.
        let devices: BTreeSet<u32> = wanted.keys().map(|place| place.ifindex).collect();
        if devices.len() > MAX_DEVICES as usize {
            return Err(Error::TooManyDevices { wanted: devices.len(), limit: MAX_DEVICES });
        }
        if self.changes_nothing() {
            return Ok(());
        }
        let before = held.next_hops();
        check_room(desired, before.union(&after).count())?;
        if matches!(checks, Checks::GoBack { .. }) {
            return Ok(());
        }
        // What has waited until now was not in force.
        let completed = self.completed();
        let before: BTreeSet<&NextHop> =
            before.iter().filter(|it| !completed.contains(it)).copied().collect();
        let mut attached = held.attachments.clone();
        attached.retain(|index, _| !snapshot.actual.lost.contains_key(index));
        check_known(snapshot, &programs(held, &before), wanted)?;
        // Do not refuse what is stacked already: this change may be the one that ends it.
        let before = snapshot.host.stacked(&before, &attached);
        let after = snapshot.host.stacked(&after, &desired.attachments);
        match after.difference(&before).next() {
            Some((upper, lower)) => Err(Error::Stacked { upper: upper.clone(), lower: lower.clone() }),
            None => Ok(()),
        }
    }

    /// Plans the steps to the desired state.
    pub(crate) fn plan(&self) -> Vec<Step> {
        plan(&self.snapshot.actual, &self.desired)
    }

    /// Returns what changes. `rules` is how many rules the configuration has.
    pub(crate) fn into_changes(self, rules: usize) -> Changes {
        let completed = self.completed();
        let Self { snapshot, mut held, desired, waiting, .. } = self;
        // Attachments that have lost their program get it back, so they count as added.
        held.attachments.retain(|index, _| !snapshot.actual.lost.contains_key(index));
        Changes { before: held, after: desired, rules, completed, waiting }
    }

    /// Returns the next hops that need not wait any longer, because their device exists now.
    fn completed(&self) -> Vec<NextHop> {
        let actual = &self.snapshot.actual;
        let wanted = self.desired.next_hops();
        let is_completed = |next_hop: &&NextHop| {
            actual.next_hops.get(*next_hop).is_some_and(|slot| slot.is_gone)
                && actual.devices.get(&next_hop.device.index) == Some(&next_hop.device)
        };
        wanted.into_iter().filter(is_completed).cloned().collect()
    }

    /// Adds attachments. Returns their devices, except those that do not exist yet.
    pub(crate) fn attach(&mut self, attach: &Attach) -> Result<Vec<Device>> {
        let Self { snapshot, held, desired, checks, .. } = self;
        let devices = match attach {
            Attach::Auto => {
                // Beside named attachments, these become named ones, too.
                desired.is_auto |= desired.attachments.is_empty() && desired.awaited.is_empty();
                match snapshot.host.default_gateway_devices() {
                    Err(Error::NoDefaultRoute) if checks.wait() => Vec::new(),
                    found => found?,
                }
            }
            Attach::Devices(names) => {
                desired.is_auto &= names.is_empty();
                let mut found = Vec::with_capacity(names.len());
                for name in names {
                    match snapshot.host.attachable(name) {
                        Err(Error::NoSuchDevice(_)) if checks.wait() && NextHop::may_wait_for(name) => {
                            // The device may have another name by now.
                            let asked = |index: &u32| snapshot.actual.attached_as.get(index) == Some(name);
                            match held.attachments.iter().find(|(index, _)| asked(index)) {
                                Some((_, device)) => found.push(device.clone()),
                                None => drop(desired.awaited.insert(name.clone())),
                            }
                        }
                        device => {
                            desired.awaited.remove(name);
                            found.push(device?);
                        }
                    }
                }
                found
            }
        };
        desired.attachments.extend(devices.iter().map(|device| (device.index, device.clone())));
        Ok(devices)
    }

    /// Attaches to the default-gateway devices if there is no attachment, and none was requested.
    pub(crate) fn attach_unless_attached(&mut self) -> Result<()> {
        if self.desired.asks_to_attach() { Ok(()) } else { self.attach(&Attach::Auto).map(drop) }
    }

    /// Attaches to those devices that carry a default route now, if attachments follow it. While none does, they stay.
    pub(crate) fn follow_default_routes(&mut self) {
        let Self { snapshot, desired, .. } = self;
        let Ok(devices) = snapshot.host.default_gateway_devices() else { return };
        let mut now: BTreeMap<u32, Device> =
            devices.into_iter().map(|device| (device.index, device)).collect();
        // Packets to a next hop that is stacked on one would go round.
        let stacked = snapshot.host.stacked(&desired.next_hops(), &now);
        now.retain(|_, device| !stacked.iter().any(|(_, lower)| *lower == device.name));
        if desired.is_auto && !now.is_empty() {
            desired.attachments = now;
        }
    }

    /// Removes attachments, and returns their devices. The others count as named from then on.
    pub(crate) fn detach(&mut self, names: &[&str]) -> Result<Vec<Device>> {
        let Self { snapshot, desired, .. } = self;
        let detach = |name: &&str| {
            if desired.awaited.remove(*name) {
                return Ok(Device { name: (*name).to_owned(), index: 0 });
            }
            let mut attachments = desired.attachments.iter();
            let is_it =
                |index: &u32, device: &Device| device.name == *name || snapshot.host.is_called(*index, name);
            let index = attachments.find(|(index, device)| is_it(index, device)).map(|(index, _)| *index);
            let detached = index.and_then(|index| desired.attachments.remove(&index));
            desired.is_auto &= detached.is_none();
            detached.ok_or_else(|| Error::NotAttached((*name).to_owned()))
        };
        names.iter().map(detach).collect()
    }

    /// Removes all attachments, and returns their devices.
    pub(crate) fn detach_all(&mut self) -> Vec<Device> {
        let Desired { attachments, is_auto, awaited, .. } = &mut self.desired;
        *is_auto = false;
        let waited = std::mem::take(awaited).into_iter().map(|name| Device { name, index: 0 });
        std::mem::take(attachments).into_values().chain(waited).collect()
    }

    /// Adds the rules of a request. Returns their resolved actions, by their places in the request.
    pub(crate) fn put_rules(
        &mut self,
        request: &Request<'_>,
        on_conflict: OnConflict,
    ) -> Result<Vec<Option<Arc<Action>>>> {
        request.resolve_into(&mut self.desired, &self.snapshot.host, &self.checks, on_conflict)
    }

    /// Deletes the rule for exactly these packets, and returns it.
    pub(crate) fn delete_rule(&mut self, selector: &Selector) -> Result<Rule> {
        let action = self.desired.rules.get(selector).ok_or(Error::NoSuchRule(*selector))?;
        let rule = Rule::of(*selector, action);
        if rule.target.is_unknown() {
            return Err(Error::UnknownKind(Box::new(rule)));
        }
        self.desired.rules.remove(selector);
        Ok(rule)
    }

    /// Deletes the rules that are meant and whose kind is known, and returns them.
    pub(crate) fn flush(&mut self, is_meant: impl Fn(&Selector, &Action) -> bool) -> Vec<Rule> {
        let all = std::mem::take(&mut self.desired.rules);
        let (flushed, kept) = all
            .into_iter()
            .partition(|(selector, action)| !action.target.is_unknown() && is_meant(selector, action));
        self.desired.rules = kept;
        flushed.iter().map(|(selector, action)| Rule::of(*selector, action)).collect()
    }

    /// Adds a group, or replaces the one of that name. A group keeps its owner, who could otherwise
    /// neither correct nor delete it while rules of that owner use it.
    pub(crate) fn put_group(&mut self, spec: &GroupSpec, on_conflict: OnConflict) -> Result<Group> {
        let Self { snapshot, desired, checks, .. } = self;
        let members = snapshot.host.resolve_members(&spec.members, checks)?;
        let mut group = Group { name: spec.name.clone(), members, on_down: spec.on_down, owner: spec.owner };
        match (desired.groups.get(&spec.name), on_conflict) {
            (Some(existing), OnConflict::Refuse) => return Err(Error::GroupExists(existing.clone())),
            (Some(existing), OnConflict::ReplaceOwn | OnConflict::KeepForeign)
                if existing.owner != group.owner =>
            {
                if *existing == (Group { owner: existing.owner, ..group.clone() }) {
                    return Ok(existing.clone());
                }
                return Err(Error::GroupOfAnother(existing.clone()));
            }
            (Some(existing), _) => group.owner = existing.owner,
            (None, _) => {}
        }
        for selector in users(desired, &group.name) {
            check_families(&selector.source(), gateways(&group))?;
        }
        desired.groups.insert(group.name.clone(), group.clone());
        Ok(group)
    }

    /// Deletes a group that no rule uses, and returns it.
    pub(crate) fn delete_group(&mut self, name: &str) -> Result<Group> {
        check_unused(&self.desired, name)?;
        self.desired.groups.remove(name).ok_or_else(|| Error::NoSuchGroup(name.to_owned()))
    }

    /// Gives a next hop its health check.
    fn put_health_check(
        &mut self,
        spec: &HealthCheckSpec,
        owner: Owner,
        on_conflict: OnConflict,
    ) -> Result<()> {
        let HealthCheckSpec { next_hop: named, check } = spec;
        let check = HealthCheck { owner, ..check.clone() };
        let next_hop = self.snapshot.host.resolve_next_hop(named, &self.checks)?;
        if !self.desired.next_hops().contains(&next_hop) {
            return match on_conflict {
                // Another owner has taken the place of the rule that led there.
                OnConflict::KeepForeign => Ok(()),
                _ => Err(RuleError::CheckOfNothing(named.clone()).into()),
            };
        }
        match self.desired.health_checks.get(&next_hop) {
            Some(existing) if existing.owner != owner && on_conflict == OnConflict::KeepForeign => {}
            Some(existing) if HealthCheck { owner, ..existing.clone() } == check => {}
            Some(existing) if existing.owner != owner => {
                let spec = HealthCheckSpec::new(named.clone(), existing.clone());
                return Err(Error::HealthCheckOfAnother(Box::new(spec)));
            }
            _ => drop(self.desired.health_checks.insert(next_hop, check)),
        }
        Ok(())
    }

    /// Returns the next hops that somebody means.
    fn meant(&self, spec: &NextHopSpec) -> impl Iterator<Item = &NextHop> {
        let host = &self.snapshot.host;
        self.desired.next_hops().into_iter().filter(move |next_hop| {
            let device = &next_hop.device;
            let has_gateway = match spec.learned() {
                None => next_hop.gateway == spec.gateway(),
                learned => next_hop.learned == learned,
            };
            has_gateway
                && spec.device().is_none_or(|name| device.name == name || host.is_called(device.index, name))
        })
    }

    /// Takes a next hop out of service, or puts it back. Returns it.
    pub(crate) fn set_down(&mut self, spec: &NextHopSpec, is_down: bool) -> Result<NextHop> {
        let meant: Vec<NextHop> = self.meant(spec).cloned().collect();
        let desired = &mut self.desired;
        match &meant[..] {
            [] => Err(Error::NoSuchNextHop(spec.clone())),
            // One request named the device, and for another the routing table found it.
            [next_hop, others @ ..] if others.iter().all(|other| other.device == next_hop.device) => {
                if is_down {
                    desired.down.extend(meant.iter().cloned());
                } else {
                    desired.down.retain(|it| !meant.contains(it));
                }
                Ok(next_hop.clone())
            }
            several => Err(Error::AmbiguousNextHop {
                spec: spec.clone(),
                devices: several
                    .iter()
                    .map(|it| {
                        if it.device.name.is_empty() {
                            "no device yet".into()
                        } else {
                            it.device.name.clone()
                        }
                    })
                    .collect(),
            }),
        }
    }

    /// Replaces all rules and groups of an owner by those of a configuration, and the attachments if the configuration names
    /// them. Those of other owners stay. A next hop that cannot work now waits, or is refused if `is_strict` is set.
    pub(crate) fn apply(&mut self, owner: Owner, config: &Config, is_strict: bool) -> Result<()> {
        self.checks = Checks::Apply { in_use: self.in_use(), is_strict };
        self.replace_all(owner, config)?;
        self.waiting = self.snapshot.host.waiting(config.next_hops());
        self.waiting.extend(waiting_devices(&self.snapshot, &self.desired));
        Ok(())
    }

    /// Does the same with a configuration that was in force before. `found` is for [`Checks::GoBack`]. `is_auto` says whether
    /// its attachments were the devices that carry a default route, although the configuration names them.
    pub(crate) fn go_back_to(
        &mut self,
        owner: Owner,
        config: &Config,
        found: BTreeMap<IpAddr, String>,
        is_auto: bool,
    ) -> Result<()> {
        self.checks = Checks::GoBack { in_use: self.in_use(), found };
        self.replace_all(owner, config)?;
        if config.attach.is_some() {
            self.desired.is_auto = is_auto;
            if is_auto {
                self.desired.awaited.clear();
            }
        }
        let wait = self.desired.next_hops().into_iter().filter(|it| it.is_waiting());
        let specs: Vec<NextHopSpec> = wait.map(NextHopSpec::from).collect();
        self.waiting = self.snapshot.host.waiting(&specs);
        self.waiting.extend(waiting_devices(&self.snapshot, &self.desired));
        Ok(())
    }

    fn in_use(&self) -> InUse {
        let asked_by = &self.snapshot.actual.asked_by;
        let name = |it: &NextHop| asked_by.get(it).unwrap_or(&it.device.name).clone();
        self.desired.next_hops().into_iter().map(|it| (it.clone(), name(it))).collect()
    }

    fn replace_all(&mut self, owner: Owner, config: &Config) -> Result<()> {
        let is_going_back = matches!(self.checks, Checks::GoBack { .. });
        self.desired.rules.retain(|_, rule| rule.owner != owner || rule.target.is_unknown());
        let named: BTreeSet<&str> = config.groups.iter().map(|group| group.name.as_str()).collect();
        let is_gone = |group: &&Group| group.owner == owner && !named.contains(group.name.as_str());
        let gone: Vec<String> =
            self.desired.groups.values().filter(is_gone).map(|group| group.name.clone()).collect();
        for name in gone {
            match check_unused(&self.desired, &name) {
                Ok(()) => drop(self.desired.groups.remove(&name)),
                // A rule of another owner uses it by now.
                Err(_) if is_going_back => {}
                // Otherwise no apply would work while that rule exists.
                Err(Error::GroupMayBeInUse { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.desired.health_checks.retain(|_, check| check.owner != owner);
        for spec in &config.groups {
            self.put_group(&GroupSpec { owner, ..spec.clone() }, OnConflict::ReplaceOwn)?;
        }
        let on_conflict = if is_going_back { OnConflict::KeepForeign } else { OnConflict::ReplaceOwn };
        self.put_rules(&Request::of_config(config, owner), on_conflict)?;
        for spec in &config.health_checks {
            self.put_health_check(spec, owner, on_conflict)?;
        }
        match &config.attach {
            Some(attach) => {
                let attached = std::mem::take(&mut self.desired.attachments);
                self.detach_all();
                self.attach(attach)?;
                // Attachments outlast a default route that is gone for a while.
                if *attach == Attach::Auto && self.desired.attachments.is_empty() {
                    self.desired.attachments = attached;
                }
                Ok(())
            }
            // Going back restores the attachments, and adds no others.
            None if config.rules.is_empty() || is_going_back => Ok(()),
            None => self.attach_unless_attached(),
        }
    }
}

/// Returns the requested attachments, and the devices after `reply-to`, that wait.
fn waiting_devices(snapshot: &Snapshot, desired: &Desired) -> Vec<Waiting> {
    let waiting = |request: String, why: Error| Waiting { request, reason: why.to_string() };
    let mut all: Vec<Waiting> = desired
        .awaited
        .iter()
        .map(|name| waiting(format!("attach {name}"), Error::NoSuchDevice(name.clone())))
        .collect();
    if desired.is_auto && desired.attachments.is_empty() {
        all.push(waiting("attach auto".to_owned(), Error::NoDefaultRoute));
    }
    let sets = desired.device_sets().into_iter().flat_map(|names| snapshot.actual.device_set(names));
    let absent: BTreeSet<String> = sets.filter(|(_, index)| *index == 0).map(|(name, _)| name).collect();
    all.extend(absent.into_iter().filter_map(|name| {
        let why = snapshot.host.receiver(&name).err()?;
        Some(waiting(format!("reply-to dev {name}"), why))
    }));
    all
}

/// Returns the rules that use a group.
fn users<'a>(desired: &'a Desired, name: &'a str) -> impl Iterator<Item = &'a Selector> {
    let leads_there = move |rule: &Action| matches!(&rule.target, Target::Group(of_rule) if of_rule == name);
    desired.rules.iter().filter(move |(_, rule)| leads_there(rule)).map(|(selector, _)| selector)
}

fn check_unused(desired: &Desired, name: &str) -> Result<()> {
    if let Some(first) = users(desired, name).next() {
        let rules = users(desired, name).count();
        return Err(Error::GroupInUse { name: name.to_owned(), rules, first: *first });
    }
    match desired.rules.iter().find(|(_, action)| action.target.is_unknown()) {
        Some((selector, action)) => {
            let rule = Box::new(Rule::of(*selector, action));
            Err(Error::GroupMayBeInUse { name: name.to_owned(), rule })
        }
        None => Ok(()),
    }
}

/// Refuses a new program at a place with a program that this Byway does not know.
fn check_known(
    snapshot: &Snapshot,
    before: &BTreeMap<Place, (Device, Role)>,
    after: BTreeMap<Place, (Device, Role)>,
) -> Result<()> {
    let is_new = |place: &Place, wanted: &(Device, Role)| before.get(place) != Some(wanted);
    let unknown = &snapshot.actual.unknown;
    match after.into_iter().find(|(place, wanted)| unknown.contains(place) && is_new(place, wanted)) {
        Some((_, (device, _))) => Err(Error::UnknownProgram(device.name)),
        None => Ok(()),
    }
}

/// Refuses what does not fit into the tables. `next_hops` also counts those that the change removes, because they exist until
/// the new ones are in use.
fn check_room(desired: &Desired, next_hops: usize) -> Result<()> {
    if next_hops >= MAX_NEXT_HOPS as usize {
        return Err(Error::TooManyNextHops { limit: MAX_NEXT_HOPS - 1 });
    }
    let own = desired.rules.values().filter(|rule| matches!(rule.target, Target::NextHops(_))).count();
    if own + desired.groups.len() > MAX_GROUPS as usize {
        return Err(Error::TooManyGroups { limit: MAX_GROUPS });
    }
    let device_sets = desired.device_sets();
    let devices = device_sets.iter().map(|set| set.len()).sum();
    if devices > MAX_REPLY_DEVICES as usize || device_sets.len() > MAX_DEVICE_SETS as usize {
        return Err(Error::TooManyReplyDevices { devices, lists: device_sets.len() });
    }
    if desired.rules.keys().any(|selector| selector.destination().is_some()) {
        let wanted = destinations(&compile(desired.rules.keys().map(|selector| (*selector, ())).collect()));
        if wanted > MAX_DESTINATIONS as usize {
            return Err(Error::TooManyDestinations { wanted, limit: MAX_DESTINATIONS });
        }
    }
    Ok(())
}
