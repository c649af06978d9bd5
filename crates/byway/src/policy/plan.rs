//! From what the kernel holds and what it should hold to the steps between them. Pure.
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

use crate::{
    error::Error,
    model::Prefix,
    model::{Action, Device, Group, NextHop, Selector},
    policy::changes::Waiting,
    policy::compile::{Entries, Entry, compile},
    policy::merge::merged,
};

/// Which program a device carries, and so why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Its egress is watched.
    Departure,
    /// It is a next hop's.
    Arrival,
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
    /// The rules with their identities, but for those that are `unseen`.
    pub(crate) rules: BTreeMap<Selector, (u32, Arc<Action>)>,
    /// Rules that no change is asked for, and that none can concern.
    pub(crate) unseen: Unseen,
    /// The groups with a name, and their identities.
    pub(crate) groups: BTreeMap<String, (u32, Group)>,
    /// The next hops of both.
    pub(crate) next_hops: BTreeMap<NextHop, Slot>,
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

/// A rule of a compiled table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RuleRef {
    /// One that the kernel holds already, by its identity.
    Held(u32),
    /// One that is to be: which of the plan's records it is.
    New(u32),
}

/// From one set of rules to another, in one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Switch {
    /// Nothing but this source's entry changes, from the first to the second.
    Entry(Prefix, Option<Entry<RuleRef>>, Option<Entry<RuleRef>>),
    /// Everything that there is for everything that shall be.
    All(Entries<RuleRef>, Entries<RuleRef>),
}

/// One change. Each leaves a working data path, and can be taken back until something is forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Put a program on a device that has none.
    Attach(Device, Role),
    /// Put the other program of the same direction in place of the one that is there; the role is the new one.
    ChangeRole(Device, Role),
    /// Take the program off.
    Detach(Device, Role),
    /// Note that attachments are those devices that carry a default route, or that they are asked for by name.
    SetAuto(bool),
    /// Note that an attachment of this name is asked for, and waits.
    Await(String),
    /// It waits no longer.
    StopAwaiting(String),
    /// Ask the kernel to keep a neighbour resolved.
    KeepResolved(Neighbour),
    /// Stop asking.
    LetGo(Neighbour),
    /// Make a next hop that nothing leads to yet.
    MakeNextHop(NextHop),
    /// Give a next hop the device that has come in the place of one that had gone, and the device's MTU of now.
    Renew(NextHop),
    /// Take a next hop out of service, or put it back.
    SetDown(NextHop, bool),
    /// Make a group in the generation that is not in force, or let it be another there.
    PrepareGroup(Group),
    /// Make a group in the generation in force, or let it be another there from one instant to the next.
    PutGroup(Group),
    /// Make the record and the counters of a rule that nothing leads to yet. One that it replaces has this identity.
    Record(Selector, Arc<Action>, Option<u32>),
    /// Let other rules hold.
    Switch(Box<Switch>),
    /// Wait until no packet is under way any more that has seen what held before. Nothing is taken back from here on.
    WaitForGracePeriod,
    /// Remove the tables that no packet looks at any more.
    Clear,
    /// Forget the record and the counters of a rule that holds no longer.
    Forget(u32),
    /// Forget a group that no rule leads to.
    ForgetGroup(String),
    /// Forget a next hop that nothing leads to.
    ForgetNextHop(NextHop),
}

impl Desired {
    /// The attachments that are asked for and wait.
    pub(crate) fn waiting_attachments(&self) -> Vec<Waiting> {
        let waiting = |request: String, why: Error| Waiting { request, reason: why.to_string() };
        let mut all: Vec<Waiting> = self
            .awaited
            .iter()
            .map(|name| waiting(format!("attach {name}"), Error::NoSuchDevice(name.clone())))
            .collect();
        if self.is_auto && self.attachments.is_empty() {
            all.push(waiting("attach auto".to_owned(), Error::NoDefaultRoute));
        }
        all
    }

    /// The names of all attachments that are asked for, those included that wait.
    pub(crate) fn attachment_names(&self) -> BTreeSet<String> {
        let attached = self.attachments.values().map(|device| device.name.clone());
        attached.chain(self.awaited.iter().cloned()).collect()
    }

    /// Whether nothing of it needs anything in the kernel.
    pub(crate) fn is_empty(&self) -> bool {
        let asks_for_attachments = self.is_auto || !self.awaited.is_empty();
        self.rules.is_empty()
            && self.attachments.is_empty()
            && self.groups.is_empty()
            && !asks_for_attachments
    }
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
            rules: self.rules.iter().map(|(selector, (_, rule))| (*selector, rule.clone())).collect(),
            unseen: self.unseen.clone(),
            groups: self.groups.iter().map(|(name, (_, group))| (name.clone(), group.clone())).collect(),
            down: self.next_hops.iter().filter_map(is_down).collect(),
        }
    }
}

impl Desired {
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

/// The steps from `actual` to `desired`, in an order in which every packet finds all that its way needs: what a
/// rule needs comes before it, what nothing needs any more goes last.
pub(crate) fn plan(actual: &Actual, desired: &Desired) -> Vec<Step> {
    let mut before = Vec::new();
    let mut attach = Vec::new();
    let mut detach = Vec::new();
    let mut after = Vec::new();

    // A next hop's device that becomes an attachment, or is one no longer, carries the arrival program in between:
    // rules may lead there while other attachments come and go.
    let wanted_next_hops = desired.next_hops();
    let of_next_hops: BTreeSet<u32> =
        actual.next_hops.keys().chain(wanted_next_hops.iter().copied()).map(|it| it.device.index).collect();
    let is_next_hop = |place: &Place| of_next_hops.contains(&place.ifindex);
    let (mut wanted, neighbours) = desired.programs_and_neighbours(&wanted_next_hops, &actual.devices);
    wanted.retain(|place, _| !actual.unknown.contains(place));
    for (place, (device, role)) in &wanted {
        match (actual.programs.get(place).map(|(_, role)| role), role) {
            (Some(now), wanted) if now == wanted => {}
            (None, Role::Departure) if !is_next_hop(place) => {
                attach.push(Step::Attach(device.clone(), Role::Departure));
            }
            (None, Role::Departure) => {
                before.push(Step::Attach(device.clone(), Role::Arrival));
                attach.push(Step::ChangeRole(device.clone(), Role::Departure));
            }
            (None, Role::Arrival) => before.push(Step::Attach(device.clone(), Role::Arrival)),
            (Some(_), Role::Departure) => attach.push(Step::ChangeRole(device.clone(), Role::Departure)),
            (Some(_), Role::Arrival) => detach.push(Step::ChangeRole(device.clone(), Role::Arrival)),
        }
    }
    for (place, (device, role)) in actual.programs.iter().filter(|(place, _)| !wanted.contains_key(place)) {
        match role {
            Role::Departure if !is_next_hop(place) => {
                detach.push(Step::Detach(device.clone(), Role::Departure));
            }
            Role::Departure => {
                detach.push(Step::ChangeRole(device.clone(), Role::Arrival));
                after.push(Step::Detach(device.clone(), Role::Arrival));
            }
            Role::Arrival => after.push(Step::Detach(device.clone(), Role::Arrival)),
        }
    }

    // What is asked for is noted once it holds; what waits, ahead of that.
    if desired.is_auto != actual.is_auto {
        attach.push(Step::SetAuto(desired.is_auto));
    }
    let new = desired.awaited.iter().filter(|name| !actual.awaited.contains_key(*name));
    before.extend(new.cloned().map(Step::Await));
    let done = actual.awaited.keys().filter(|name| !desired.awaited.contains(*name));
    attach.extend(done.cloned().map(Step::StopAwaiting));

    let is_kept = |it: &&Neighbour| actual.neighbours.contains(*it) && !actual.let_go.contains(*it);
    before.extend(neighbours.iter().filter(|it| !is_kept(it)).cloned().map(Step::KeepResolved));
    let let_go = actual.neighbours.difference(&neighbours).cloned().map(Step::LetGo);

    for next_hop in &wanted_next_hops {
        let is_down = desired.down.contains(*next_hop);
        let was_down = match actual.next_hops.get(*next_hop) {
            Some(slot) => {
                let index = next_hop.device.index;
                let has_old_mtu = slot.mtu != 0 && actual.mtus.get(&index) != Some(&slot.mtu);
                if (slot.is_gone || has_old_mtu) && actual.devices.get(&index) == Some(&next_hop.device) {
                    before.push(Step::Renew((*next_hop).clone()));
                }
                slot.is_down
            }
            None => {
                before.push(Step::MakeNextHop((*next_hop).clone()));
                false
            }
        };
        if is_down != was_down {
            before.push(Step::SetDown((*next_hop).clone(), is_down));
        }
    }
    let mut forget = Vec::new();
    let mut groups = Vec::new();
    for (name, group) in &desired.groups {
        match actual.groups.get(name) {
            Some((_, now)) if now == group => {}
            Some(_) => groups.push(group),
            // Before the records of the rules that name it.
            None => before.extend([Step::PrepareGroup(group.clone()), Step::PutGroup(group.clone())]),
        }
    }
    let mut wanted = Vec::with_capacity(desired.rules.len());
    let mut records = 0;
    let mut has_unknown = false;
    for (selector, rule) in &desired.rules {
        has_unknown |= rule.target.is_unknown();
        wanted.push((
            *selector,
            match actual.rules.get(selector) {
                Some((id, now)) if now == rule => RuleRef::Held(*id),
                now => {
                    before.push(Step::Record(*selector, rule.clone(), now.map(|(id, _)| *id)));
                    records += 1;
                    RuleRef::New(records - 1)
                }
            },
        ));
    }
    let switch = switch(actual, wanted, groups.len());
    let takes_groups = matches!(switch, Some(Switch::All(..)));
    if switch.as_ref().is_some_and(Switch::leaves_tables) {
        forget.push(Step::Clear);
    }
    let kept = |selector: &Selector, rule: &Arc<Action>| desired.rules.get(selector) == Some(rule);
    let gone = actual.rules.iter().filter(|(selector, (_, rule))| !kept(selector, rule));
    forget.extend(gone.map(|(_, (id, _))| Step::Forget(*id)));
    // A rule of a kind that is not known may lead to any group and any next hop: only who has made it knows what its index means.
    if !has_unknown {
        let gone = actual.groups.keys().filter(|name| !desired.groups.contains_key(*name));
        forget.extend(gone.cloned().map(Step::ForgetGroup));
        let gone = actual.next_hops.keys().filter(|next_hop| !wanted_next_hops.contains(next_hop));
        forget.extend(gone.cloned().map(Step::ForgetNextHop));
    }
    if takes_groups {
        // What was the generation in force is the one to come by then.
        after.extend(groups.iter().map(|group| Step::PrepareGroup((*group).clone())));
    }
    // The kernel may use the memory of what was written over for the next thing that is written.
    let overwrites = !groups.is_empty() || matches!(switch, Some(Switch::Entry(_, Some(_), _)));
    let wait_for_grace_period = overwrites || !after.is_empty() || !forget.is_empty();

    // A device that is an attachment no longer lets packets pass from now on, and one that becomes an attachment lets them
    // pass until all else is as it shall be: each packet finds all as it was, or all as it shall be.
    let mut steps = before;
    steps.extend(detach);
    if actual.rules.is_empty() {
        // The rule comes last, so that a change that is cut off has put no rule that nobody heeds.
        steps.append(&mut attach);
    }
    steps.extend(groups.iter().map(|group| Step::PrepareGroup((*group).clone())));
    if !takes_groups {
        steps.extend(groups.iter().map(|group| Step::PutGroup((*group).clone())));
    }
    steps.extend(switch.map(Box::new).map(Step::Switch));
    steps.extend(attach);
    steps.extend(let_go);
    // Also before the arrival programs go, which take marks off.
    steps.extend(wait_for_grace_period.then_some(Step::WaitForGracePeriod));
    steps.extend(after);
    steps.extend(forget);
    steps
}

/// How the rules change, if they do, or if more than one thing changes with so many groups.
fn switch(actual: &Actual, wanted: Vec<(Selector, RuleRef)>, groups: usize) -> Option<Switch> {
    let held = actual.rules.iter().map(|(selector, (id, _))| (*selector, RuleRef::Held(*id)));
    let (before, after) = (compile(held.collect()), compile(wanted));
    let mut changed = changed(&before, &after);
    match (changed.next(), changed.next()) {
        (None, _) if groups <= 1 => None,
        (Some((source, before, after)), None) if groups == 0 => {
            Some(Switch::Entry(source, before.cloned(), after.cloned()))
        }
        _ => {
            drop(changed);
            Some(Switch::All(before, after))
        }
    }
}

/// The sources whose entries differ, with both.
fn changed<'a>(
    before: &'a Entries<RuleRef>,
    after: &'a Entries<RuleRef>,
) -> impl Iterator<Item = (Prefix, Option<&'a Entry<RuleRef>>, Option<&'a Entry<RuleRef>>)> {
    let pairs = |entries: &'a Entries<RuleRef>| entries.iter().map(|(source, entry)| (source, entry));
    merged(pairs(before), pairs(after))
        .filter(|(_, old, new)| old != new)
        .map(|(source, old, new)| (*source, old, new))
}

impl Switch {
    /// Whether something is left afterwards that no packet looks at any more.
    fn leaves_tables(&self) -> bool {
        match self {
            Self::Entry(_, before, _) => matches!(before, Some(Entry::ByDestination(_))),
            Self::All(before, _) => !before.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::model::{Member, Mss, OnDown, Owner, Rule, Target};

    fn device(index: u32) -> Device {
        Device { name: format!("eth{index}"), index }
    }

    fn next_hop(device_index: u32, gateway: Option<u8>) -> NextHop {
        NextHop::new(gateway.map(|last| [10, 0, 0, last].into()), device(device_index))
    }

    fn rule(source: u8, target: Target) -> Rule {
        Rule {
            source: Prefix::holding([192, 0, 2, source].into(), 32).unwrap(),
            destination: None,
            target,
            on_down: OnDown::Pass,
            mss: Mss::Auto,
            owner: Owner::CLI,
            name: None,
        }
    }

    fn action(rule: &Rule) -> Arc<Action> {
        let Rule { source: _, destination: _, target, on_down, mss, owner, name } = rule.clone();
        Arc::new(Action { target, on_down, mss, owner, name })
    }

    fn group(name: &str, members: Vec<NextHop>) -> Group {
        let members = members.into_iter().map(|next_hop| Member { next_hop, weight: 1 }).collect();
        Group { name: name.into(), members, on_down: OnDown::Pass, owner: Owner::CLI }
    }

    fn desired(attachments: &[u32], rules: Vec<Rule>, groups: Vec<Group>) -> Desired {
        Desired {
            unseen: Unseen::default(),
            attachments: attachments.iter().map(|index| (*index, device(*index))).collect(),
            is_auto: false,
            awaited: BTreeSet::new(),
            rules: rules.into_iter().map(|rule| (rule.selector(), action(&rule))).collect(),
            groups: groups.into_iter().map(|group| (group.name.clone(), group)).collect(),
            down: BTreeSet::new(),
        }
    }

    /// A kernel of plain data, which refuses what the real one would.
    #[derive(Default)]
    struct Kernel {
        holds: Actual,
        /// What packets look at, besides the groups.
        tables: BTreeMap<Prefix, Entry<u32>>,
        /// The groups of the generation to come.
        next_groups: BTreeMap<String, (u32, Group)>,
        /// Every record there is, by identity.
        records: BTreeMap<u32, Rule>,
        last_id: u32,
        /// The identities of the records that this plan has made.
        made: Vec<u32>,
        has_grace_period_ended: bool,
    }

    impl Kernel {
        fn resolve(&self, entry: &Entry<RuleRef>) -> Entry<u32> {
            let id = |rule: &RuleRef| match rule {
                RuleRef::Held(id) => *id,
                RuleRef::New(nth) => self.made[*nth as usize],
            };
            match entry {
                Entry::All(rule) => Entry::All(id(rule)),
                Entry::ByDestination(all) => {
                    Entry::ByDestination(all.iter().map(|(prefix, rule)| (*prefix, id(rule))).collect())
                }
            }
        }

        fn leads_to(&self, id: u32) -> bool {
            self.tables.values().any(|entry| match entry {
                Entry::All(rule) => *rule == id,
                Entry::ByDestination(all) => all.values().any(|rule| *rule == id),
            })
        }

        fn carry_out(&mut self, step: &Step) {
            let holds = &mut self.holds;
            match step.clone() {
                Step::Attach(device, role) => {
                    assert!(holds.programs.insert(Place::of(&device, role), (device, role)).is_none());
                }
                Step::ChangeRole(device, role) => {
                    let place = Place::of(&device, role);
                    let (_, old) = holds.programs.insert(place, (device, role)).unwrap();
                    assert_ne!(old, role);
                }
                Step::Detach(device, role) => {
                    assert_eq!(holds.programs.remove(&Place::of(&device, role)), Some((device, role)));
                }
                Step::SetAuto(is_auto) => assert_ne!(std::mem::replace(&mut holds.is_auto, is_auto), is_auto),
                Step::Await(name) => assert_eq!(holds.awaited.insert(name, None), None),
                Step::StopAwaiting(name) => assert!(holds.awaited.remove(&name).is_some()),
                Step::KeepResolved(neighbour) => assert!(holds.neighbours.insert(neighbour)),
                Step::LetGo(neighbour) => assert!(holds.neighbours.remove(&neighbour)),
                Step::MakeNextHop(next_hop) => {
                    let slot = Slot { index: 0, is_down: false, is_gone: false, mtu: 0 };
                    assert!(holds.next_hops.insert(next_hop, slot).is_none());
                }
                Step::Renew(next_hop) => holds.next_hops.get_mut(&next_hop).unwrap().is_gone = false,
                Step::SetDown(next_hop, is_down) => {
                    holds.next_hops.get_mut(&next_hop).unwrap().is_down = is_down
                }
                Step::PrepareGroup(ref group) | Step::PutGroup(ref group) => {
                    let mut next_hops = group.members.iter().map(|member| &member.next_hop);
                    assert!(next_hops.all(|it| holds.next_hops.contains_key(it)));
                    let is_next = matches!(step, Step::PrepareGroup(_));
                    let groups = if is_next { &mut self.next_groups } else { &mut holds.groups };
                    groups.insert(group.name.clone(), (0, group.clone()));
                }
                Step::Record(selector, action, _) => {
                    let rule = Rule::new(selector, &action);
                    assert!(rule.target.next_hops().all(|next_hop| holds.next_hops.contains_key(next_hop)));
                    if let Target::Group(name) = &rule.target {
                        assert!(holds.groups.contains_key(name));
                    }
                    self.last_id += 1;
                    self.made.push(self.last_id);
                    self.records.insert(self.last_id, rule);
                }
                Step::Switch(switch) => {
                    match *switch {
                        Switch::Entry(source, before, after) => {
                            assert_eq!(
                                self.tables.get(&source),
                                before.map(|entry| self.resolve(&entry)).as_ref()
                            );
                            match after {
                                Some(entry) => self.tables.insert(source, self.resolve(&entry)),
                                None => self.tables.remove(&source),
                            };
                        }
                        Switch::All(_, after) => {
                            std::mem::swap(&mut holds.groups, &mut self.next_groups);
                            self.tables =
                                after.iter().map(|(source, entry)| (*source, self.resolve(entry))).collect();
                        }
                    }
                    self.has_grace_period_ended = false;
                }
                Step::WaitForGracePeriod => self.has_grace_period_ended = true,
                Step::Clear => assert!(self.has_grace_period_ended),
                Step::Forget(id) => {
                    assert!(self.has_grace_period_ended && !self.leads_to(id));
                    assert!(self.records.remove(&id).is_some());
                }
                Step::ForgetGroup(name) => {
                    assert!(self.has_grace_period_ended && holds.groups.remove(&name).is_some());
                    assert!(self.next_groups.remove(&name).is_some());
                    let is_user = |rule: &Rule| rule.target == Target::Group(name.clone());
                    assert!(!self.records.values().any(is_user), "{name} is in use");
                }
                Step::ForgetNextHop(next_hop) => {
                    assert!(self.has_grace_period_ended && holds.next_hops.remove(&next_hop).is_some());
                    let mut used = self.records.values().flat_map(|rule| rule.target.next_hops());
                    assert!(!used.any(|used| *used == next_hop), "{next_hop} is in use");
                }
            }
            let led_to = self.records.iter().filter(|(id, _)| self.leads_to(**id));
            let rules: Vec<(u32, Rule)> = led_to.map(|(id, rule)| (*id, rule.clone())).collect();
            self.holds.rules =
                rules.iter().map(|(id, rule)| (rule.selector(), (*id, action(rule)))).collect();
            // A packet that departs now finds the arrival program where its rule sends it.
            let holds = &self.holds;
            if holds.programs.values().any(|(_, role)| *role == Role::Departure) {
                let as_desired = holds.as_desired();
                let leading = as_desired.rules.values().flat_map(|rule| match &rule.target {
                    Target::Group(name) => {
                        as_desired.groups[name].members.iter().map(|it| &it.next_hop).collect()
                    }
                    target => target.next_hops().collect::<Vec<_>>(),
                });
                for next_hop in leading {
                    let is_ready = holds.programs.contains_key(&Place::of(&next_hop.device, Role::Arrival))
                        || !holds.devices.contains_key(&next_hop.device.index);
                    assert!(
                        is_ready,
                        "a packet would depart to {next_hop}, without a program there, after {step:?}"
                    );
                }
            }
        }

        /// What becomes of a packet that leaves by a device: the longest source, then the longest destination.
        fn way(&self, device: u32, source: IpAddr, destination: IpAddr) -> Option<(Target, Option<Group>)> {
            let egress = Place { ifindex: device, direction: Direction::Egress };
            self.holds.programs.get(&egress).filter(|(_, role)| *role == Role::Departure)?;
            let longest = |prefixes: Vec<&Prefix>, address| {
                prefixes.into_iter().filter(|it| it.contains(address)).max_by_key(|it| it.len()).copied()
            };
            let id = match &self.tables[&longest(self.tables.keys().collect(), source)?] {
                Entry::All(id) => *id,
                Entry::ByDestination(all) => all[&longest(all.keys().collect(), destination)?],
            };
            let target = self.records[&id].target.clone();
            let group = if let Target::Group(name) = &target {
                Some(self.holds.groups[name].1.clone())
            } else {
                None
            };
            Some((target, group))
        }
    }

    /// What should become of it, found by looking at every rule.
    fn meant(
        goal: &Desired,
        device: u32,
        source: IpAddr,
        destination: IpAddr,
    ) -> Option<(Target, Option<Group>)> {
        goal.attachments.get(&device)?;
        let holding = goal.rules.iter().filter(|(it, _)| {
            it.source().contains(source) && it.destination().is_none_or(|prefix| prefix.contains(destination))
        });
        let longest =
            holding.max_by_key(|(it, _)| (it.source().len(), it.destination().map_or(0, |to| to.len())));
        let target = longest?.1.target.clone();
        let group = if let Target::Group(name) = &target { Some(goal.groups[name].clone()) } else { None };
        Some((target, group))
    }

    fn any_target() -> impl Strategy<Value = Target> {
        let any_next_hop = || (1..6_u32, proptest::option::of(1..4_u8));
        prop_oneof![
            Just(Target::Pass),
            Just(Target::Drop),
            any_next_hop().prop_map(|(device, gateway)| Target::NextHop(next_hop(device, gateway))),
            vec(any_next_hop(), 2..4).prop_map(|members| {
                let members = members.into_iter().map(|(device, gateway)| next_hop(device, gateway));
                Target::NextHops(members.map(|next_hop| Member { next_hop, weight: 1 }).collect())
            }),
            (0..2_u8).prop_map(|nth| Target::Group(format!("group{nth}"))),
        ]
    }

    fn any_desired() -> impl Strategy<Value = Desired> {
        let destination = proptest::option::of((0..4_u8, 30..=32_u8));
        let rules = vec((0..16_u8, 26..=32_u8, destination, any_target()), 0..12);
        let groups = vec((0..2_u8, vec((1..6_u32, 1..4_u8), 1..4)), 0..3);
        let asked = (any::<bool>(), vec("eth[7-9]", 0..3));
        (vec(1..5_u32, 0..3), rules, groups, vec(any::<prop::sample::Index>(), 0..3), asked).prop_map(
            |(attachments, rules, groups, down, (is_auto, awaited))| {
                let nested = |(last, len, to, target): (u8, u8, Option<(u8, u8)>, Target)| Rule {
                    source: Prefix::holding([192, 0, 2, last].into(), len).unwrap(),
                    destination: to
                        .map(|(last, len)| Prefix::holding([198, 51, 100, last].into(), len).unwrap()),
                    ..rule(last, target)
                };
                let mut groups: BTreeMap<String, Group> = groups
                    .into_iter()
                    .map(|(nth, members)| {
                        let members = members.into_iter().map(|(device, last)| next_hop(device, Some(last)));
                        (format!("group{nth}"), group(&format!("group{nth}"), members.collect()))
                    })
                    .collect();
                let rules: Vec<Rule> = rules.into_iter().map(nested).collect();
                for name in ["group0", "group1"] {
                    if rules.iter().any(|rule| rule.target == Target::Group(name.into())) {
                        groups.entry(name.into()).or_insert_with(|| group(name, vec![next_hop(1, Some(9))]));
                    }
                }
                let mut goal = desired(&attachments, rules, groups.into_values().collect());
                (goal.is_auto, goal.awaited) = (is_auto, awaited.into_iter().collect());
                let all: Vec<NextHop> = goal.next_hops().into_iter().cloned().collect();
                if !all.is_empty() {
                    goal.down = down.into_iter().map(|nth| nth.get(&all).clone()).collect();
                }
                goal
            },
        )
    }

    proptest! {
        #[test]
        fn the_steps_lead_from_anything_to_anything_and_then_end(first in any_desired(), second in any_desired()) {
            // Device 5 is gone: rules may still name it.
            let devices = (1..5).map(|i| (i, device(i))).collect();
            let mut kernel = Kernel { holds: Actual { devices, ..Actual::default() }, ..Kernel::default() };
            for goal in [&first, &second, &Desired::default()] {
                let before = kernel.holds.as_desired();
                kernel.made.clear();
                for step in plan(&kernel.holds.clone(), goal) {
                    kernel.carry_out(&step);
                    let devices = || goal.attachments.keys().chain(before.attachments.keys()).copied();
                    for (source, destination) in (0..16).flat_map(|source| (0..5).map(move |to| (source, to))) {
                        let (source, destination) = ([192, 0, 2, source].into(), [198, 51, 100, destination].into());
                        for device in devices() {
                            let now = kernel.way(device, source, destination);
                            let right = [&before, goal].map(|it| meant(it, device, source, destination));
                            prop_assert!(right.contains(&now), "{} goes {:?}, not {:?}, after {:?}", source, now, right, step);
                        }
                    }
                }
                prop_assert_eq!(&kernel.holds.as_desired(), goal);
                prop_assert_eq!(&kernel.next_groups, &kernel.holds.groups);
                prop_assert_eq!(plan(&kernel.holds, goal), vec![]);
                prop_assert_eq!(kernel.records.len(), goal.rules.len(), "no record is left over");
            }
            prop_assert!(kernel.holds.programs.is_empty() && kernel.holds.neighbours.is_empty());
            prop_assert!(kernel.holds.next_hops.is_empty() && kernel.tables.is_empty());
        }

        #[test]
        fn a_rule_of_an_unknown_kind_stays_whatever_changes_and_all_that_it_may_lead_to(
            goals in [any_desired(), any_desired()],
            last in 0..16_u8,
            to in proptest::option::of(0..4_u8),
        ) {
            let destination = to.map(|last| Prefix::holding([198, 51, 100, last].into(), 32).unwrap());
            let unknown = Rule { destination, ..rule(last, Target::Other { kind: 200, index: 4 }) };
            let held = (1, action(&unknown));
            let devices = (1..5).map(|i| (i, device(i))).collect();
            let rules = [(unknown.selector(), held.clone())].into();
            let mut kernel = Kernel {
                holds: Actual { devices, rules, ..Actual::default() },
                tables: compile(vec![(unknown.selector(), 1)]).into_iter().collect(),
                records: [(1, unknown.clone())].into(),
                last_id: 1,
                ..Kernel::default()
            };
            for mut goal in goals.into_iter().chain([Desired::default()]) {
                goal.rules.insert(unknown.selector(), held.1.clone());
                kernel.made.clear();
                for step in plan(&kernel.holds.clone(), &goal) {
                    let forgets = matches!(step, Step::Forget(1) | Step::ForgetGroup(_) | Step::ForgetNextHop(_));
                    prop_assert!(!forgets, "{:?}", step);
                    kernel.carry_out(&step);
                    prop_assert_eq!(kernel.holds.rules.get(&unknown.selector()), Some(&held), "after {:?}", step);
                }
                prop_assert_eq!(&kernel.holds.as_desired().rules, &goal.rules);
                prop_assert_eq!(plan(&kernel.holds, &goal), vec![]);
            }
        }
    }

    #[test]
    fn the_first_rule_comes_last() {
        let actual = Actual { devices: (1..3).map(|i| (i, device(i))).collect(), ..Actual::default() };
        let rule = rule(5, Target::NextHop(next_hop(2, Some(1))));
        let neighbour = Neighbour { device: device(2), gateway: [10, 0, 0, 1].into() };
        let reference = RuleRef::New(0);
        assert_eq!(
            plan(&actual, &desired(&[1], vec![rule.clone()], vec![])),
            [
                Step::Attach(device(2), Role::Arrival),
                Step::KeepResolved(neighbour),
                Step::MakeNextHop(next_hop(2, Some(1))),
                Step::Record(rule.selector(), action(&rule), None),
                Step::Attach(device(1), Role::Departure),
                Step::Switch(Box::new(Switch::Entry(rule.source, None, Some(Entry::All(reference))))),
            ]
        );
    }

    #[test]
    fn a_program_that_is_not_known_stays() {
        let place = |ifindex, direction| Place { ifindex, direction };
        let actual = Actual {
            devices: (1..3).map(|i| (i, device(i))).collect(),
            unknown: [place(1, Direction::Ingress), place(2, Direction::Egress)].into(),
            ..Actual::default()
        };
        let steps = plan(&actual, &desired(&[1, 2], vec![], vec![]));
        assert_eq!(steps, [Step::Attach(device(1), Role::Departure)]);
    }

    #[test]
    fn another_name_changes_no_other_rule() {
        let rules = |name: &str| {
            let named = Rule { name: Some(name.into()), ..rule(5, Target::Drop) };
            desired(&[], vec![named, rule(6, Target::Drop)], vec![])
        };
        let mut kernel = Kernel::default();
        for step in plan(&kernel.holds.clone(), &rules("a")) {
            kernel.carry_out(&step);
        }
        kernel.made.clear();
        let steps = plan(&kernel.holds, &rules("b"));
        assert!(
            matches!(
                &steps[..],
                [Step::Record(..), Step::Switch(_), Step::WaitForGracePeriod, Step::Forget(1)]
            ),
            "{steps:?}"
        );
    }
}
