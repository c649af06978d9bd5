//! Plans the steps from the actual to the desired state. Pure.
//!
//! Four producers find the steps for programs, next hops, groups and rules. [`plan`] puts them in order.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    compile::{Entries, Entry, compile},
    merge::merged,
    state::{Actual, Desired, Neighbour, Place, Role},
    step::{RuleRef, Step, Switch},
};
use crate::model::{Action, Device, Group, NextHop, Prefix, Selector};

/// Plans the steps from `actual` to `desired`, in an order in which every packet finds all that it needs: what a rule needs
/// comes before the rule, and what nothing needs any more goes last.
pub(crate) fn plan(actual: &Actual, desired: &Desired) -> Vec<Step> {
    let wanted = desired.next_hops();
    let (programs, neighbours) = desired.programs_and_neighbours(&wanted, actual);
    // The producers put what rules need straight into the plan, because there may be a million records.
    let mut steps = Vec::new();
    let programs = plan_programs(actual, desired, programs, &wanted, &mut steps);
    let next_hops = plan_next_hops(actual, desired, &wanted, &neighbours, &mut steps);
    let groups = plan_groups(actual, desired, &mut steps);
    let unused_devices = plan_devices(actual, desired, &mut steps);
    let rules = plan_rules(actual, desired, groups.changed.len(), &mut steps);

    let takes_groups = matches!(rules.switch, Some(Switch::All(..)));
    // The kernel may reuse the memory of an overwritten value at the next write.
    let overwrites = !groups.changed.is_empty() || matches!(rules.switch, Some(Switch::Entry(_, Some(_), _)));
    let mut forget = rules.forget;
    // A rule of an unknown kind may use any group and any next hop: only the version that made it knows what its index means.
    if !rules.has_unknown {
        forget.extend(groups.forget);
        forget.extend(next_hops.forget);
        forget.extend(unused_devices);
    }
    let prepare = || groups.changed.iter().map(|group| Step::PrepareGroup((*group).clone()));

    // A removed attachment passes packets from now on, and a new one until everything else is in place. So each packet sees
    // either the whole old state or the whole new one.
    steps.extend(programs.detach);
    let mut attach = programs.attach;
    if actual.rules.is_empty() {
        // The first rule comes after the attachments: an interrupted change leaves no rule without an attachment.
        steps.append(&mut attach);
    }
    steps.extend(prepare());
    if !takes_groups {
        steps.extend(groups.changed.iter().map(|group| Step::PutGroup((*group).clone())));
    }
    steps.extend(rules.switch.map(Box::new).map(Step::Switch));
    steps.extend(attach);
    steps.extend(next_hops.let_go);
    let mut after = programs.after;
    if takes_groups {
        // By then, the next generation is the one that was in force before.
        after.extend(prepare());
    }
    // Packets on their way still need the arrival programs, which remove their marks.
    if overwrites || !after.is_empty() || !forget.is_empty() {
        steps.push(Step::WaitForGracePeriod);
    }
    steps.extend(after);
    steps.extend(forget);
    steps
}

/// The steps for programs and requested attachments that do not come before the rules.
#[derive(Default)]
struct Programs {
    attach: Vec<Step>,
    detach: Vec<Step>,
    after: Vec<Step>,
}

fn plan_programs(
    actual: &Actual,
    desired: &Desired,
    mut wanted: BTreeMap<Place, (Device, Role)>,
    next_hops: &BTreeSet<&NextHop>,
    before: &mut Vec<Step>,
) -> Programs {
    let mut steps = Programs::default();
    // A device of next hops or replies that becomes an attachment, or is no longer one, carries the arrival program in between:
    // packets may leave by it while other attachments come and go.
    let next_hops = actual.next_hops.keys().chain(next_hops.iter().copied()).map(|it| it.device.index);
    let receivers = actual.programs.iter().chain(&wanted).filter(|(_, (_, role))| *role == Role::Reception);
    let arrived_by: BTreeSet<u32> = next_hops.chain(receivers.map(|(place, _)| place.ifindex)).collect();
    let is_arrived_by = |place: &Place| arrived_by.contains(&place.ifindex);
    wanted.retain(|place, _| !actual.unknown.contains(place));
    for (place, (device, role)) in &wanted {
        match (actual.programs.get(place).map(|(_, role)| role), role) {
            (Some(now), wanted) if now == wanted => {}
            (None, Role::Departure) if !is_arrived_by(place) => {
                steps.attach.push(Step::Attach(device.clone(), Role::Departure));
            }
            (None, Role::Departure) => {
                before.push(Step::Attach(device.clone(), Role::Arrival));
                steps.attach.push(Step::ChangeRole(device.clone(), Role::Departure));
            }
            (None, Role::Arrival | Role::Reception) => before.push(Step::Attach(device.clone(), *role)),
            (Some(_), Role::Departure) => {
                steps.attach.push(Step::ChangeRole(device.clone(), Role::Departure));
            }
            (Some(_), Role::Arrival | Role::Reception) => {
                steps.detach.push(Step::ChangeRole(device.clone(), *role))
            }
        }
    }
    for (place, (device, role)) in actual.programs.iter().filter(|(place, _)| !wanted.contains_key(place)) {
        match role {
            Role::Departure if !is_arrived_by(place) => {
                steps.detach.push(Step::Detach(device.clone(), Role::Departure));
            }
            Role::Departure => {
                steps.detach.push(Step::ChangeRole(device.clone(), Role::Arrival));
                steps.after.push(Step::Detach(device.clone(), Role::Arrival));
            }
            Role::Arrival | Role::Reception => steps.after.push(Step::Detach(device.clone(), *role)),
        }
    }

    // Record a request once it is in force, but one that waits before that.
    if desired.is_auto != actual.is_auto {
        steps.attach.push(Step::SetAuto(desired.is_auto));
    }
    let new = desired.awaited.iter().filter(|name| !actual.awaited.contains_key(*name));
    before.extend(new.cloned().map(Step::Await));
    let done = actual.awaited.keys().filter(|name| !desired.awaited.contains(*name));
    steps.attach.extend(done.cloned().map(Step::StopAwaiting));
    steps
}

/// The steps for next hops and neighbours that do not come before the rules.
#[derive(Default)]
struct NextHops {
    let_go: Vec<Step>,
    forget: Vec<Step>,
}

fn plan_next_hops(
    actual: &Actual,
    desired: &Desired,
    wanted: &BTreeSet<&NextHop>,
    neighbours: &BTreeSet<Neighbour>,
    before: &mut Vec<Step>,
) -> NextHops {
    let mut steps = NextHops::default();
    let is_kept = |it: &&Neighbour| actual.neighbours.contains(*it) && !actual.let_go.contains(*it);
    before.extend(neighbours.iter().filter(|it| !is_kept(it)).cloned().map(Step::KeepResolved));
    steps.let_go.extend(actual.neighbours.difference(neighbours).cloned().map(Step::LetGo));

    for next_hop in wanted {
        let is_down = desired.down.contains(*next_hop);
        let health_check = desired.health_checks.get(*next_hop);
        let (was_down, had) = match actual.next_hops.get(*next_hop) {
            Some(slot) => {
                let index = next_hop.device.index;
                let has_old_mtu = slot.mtu != 0 && actual.mtus.get(&index) != Some(&slot.mtu);
                if (slot.is_gone || has_old_mtu) && actual.devices.get(&index) == Some(&next_hop.device) {
                    before.push(Step::Renew((*next_hop).clone()));
                }
                (slot.is_down, actual.health_checks.get(&slot.index))
            }
            None => {
                before.push(Step::MakeNextHop((*next_hop).clone()));
                (false, None)
            }
        };
        if health_check != had {
            before.push(Step::SetHealthCheck((*next_hop).clone(), health_check.cloned()));
        }
        if is_down != was_down {
            before.push(Step::SetDown((*next_hop).clone(), is_down));
        }
    }
    let gone = actual.next_hops.keys().filter(|next_hop| !wanted.contains(next_hop));
    steps.forget.extend(gone.cloned().map(Step::ForgetNextHop));
    steps
}

/// The steps for named groups that do not come before the rules.
#[derive(Default)]
struct Groups<'a> {
    /// The groups that change together with the rules.
    changed: Vec<&'a Group>,
    forget: Vec<Step>,
}

fn plan_groups<'a>(actual: &Actual, desired: &'a Desired, before: &mut Vec<Step>) -> Groups<'a> {
    let mut steps = Groups::default();
    for (name, group) in &desired.groups {
        match actual.groups.get(name) {
            Some((_, now)) if now == group => {}
            Some(_) => steps.changed.push(group),
            None => before.extend([Step::PrepareGroup(group.clone()), Step::PutGroup(group.clone())]),
        }
    }
    let gone = actual.groups.keys().filter(|name| !desired.groups.contains_key(*name));
    steps.forget.extend(gone.cloned().map(Step::ForgetGroup));
    steps
}

/// Returns the steps for devices after `reply-to` that do not come before the rules.
fn plan_devices(actual: &Actual, desired: &Desired, before: &mut Vec<Step>) -> Vec<Step> {
    let mut unused = actual.device_sets.clone();
    for names in desired.device_sets() {
        let devices = actual.device_set(names);
        let made = actual.device_sets.iter().find(|(_, made)| made.keys().eq(names));
        match made {
            Some((set, now)) => {
                unused.remove(set);
                before.extend((*now != devices).then_some(Step::SetDevices(*set, devices)));
            }
            None => before.push(Step::MakeDevices(devices)),
        }
    }
    unused.into_keys().map(Step::ForgetDevices).collect()
}

/// The steps for rules, except for their records.
struct Rules {
    switch: Option<Switch>,
    forget: Vec<Step>,
    /// Whether there is a rule of a kind that this version does not know.
    has_unknown: bool,
}

fn plan_rules(actual: &Actual, desired: &Desired, changed_groups: usize, before: &mut Vec<Step>) -> Rules {
    let mut wanted = Vec::with_capacity(desired.rules.len());
    let mut records = 0;
    let mut has_unknown = false;
    for (selector, rule) in &desired.rules {
        has_unknown |= rule.target.is_unknown();
        let reference = match actual.rules.get(selector) {
            Some((id, now)) if now == rule => RuleRef::Held(*id),
            now => {
                before.push(Step::Record(*selector, rule.clone(), now.map(|(id, _)| *id)));
                records += 1;
                RuleRef::New(records - 1)
            }
        };
        wanted.push((*selector, reference));
    }
    let switch = switch(actual, wanted, changed_groups);
    let mut forget = Vec::new();
    if switch.as_ref().is_some_and(Switch::leaves_tables) {
        forget.push(Step::Clear);
    }
    let kept = |selector: &Selector, rule: &Arc<Action>| desired.rules.get(selector) == Some(rule);
    let gone = actual.rules.iter().filter(|(selector, (_, rule))| !kept(selector, rule));
    forget.extend(gone.map(|(_, (id, _))| Step::Forget(*id)));
    Rules { switch, forget, has_unknown }
}

/// Returns how the rules change. Several groups that change together with nothing else also need a switch, so that all change
/// in one instant.
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

/// Returns the sources whose entries differ, each with both entries.
fn changed<'a>(
    before: &'a Entries<RuleRef>,
    after: &'a Entries<RuleRef>,
) -> impl Iterator<Item = (Prefix, Option<&'a Entry<RuleRef>>, Option<&'a Entry<RuleRef>>)> {
    let pairs = |entries: &'a Entries<RuleRef>| entries.iter().map(|(source, entry)| (source, entry));
    merged(pairs(before), pairs(after))
        .filter(|(_, old, new)| old != new)
        .map(|(source, old, new)| (*source, old, new))
}

#[cfg(test)]
mod tests;
