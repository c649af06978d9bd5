//! From what the kernel holds and what it should hold to the steps between them. Pure.
//!
//! The programs and the neighbours follow from attachments and rules:
//!
//! - an attachment carries the departure program;
//! - the device of a rule's next hop carries the arrival program, unless it is an attachment;
//! - a rule's gateway is a neighbour that the kernel keeps resolved.
//!
//! Without an attachment nothing departs, so then rules ask for neither programs nor neighbours.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::rule::{Device, Prefix, Rule};

/// Which program a device carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Role {
    /// Its egress is watched.
    Departure,
    /// It is a next hop's.
    Arrival,
}

/// A gateway on a device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Neighbour {
    pub(crate) device: Device,
    pub(crate) gateway: IpAddr,
}

/// What the kernel holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Actual {
    /// The devices that carry a program, by ifindex.
    pub(crate) programs: BTreeMap<u32, (Device, Role)>,
    /// Attachments that have lost their program: somebody has taken it off.
    pub(crate) lost: BTreeMap<u32, Device>,
    /// The rules with their identities.
    pub(crate) rules: BTreeMap<Prefix, (u32, Rule)>,
    /// The neighbours that Byway has asked the kernel to keep resolved.
    pub(crate) neighbours: BTreeSet<Neighbour>,
    /// Every device there is, by ifindex.
    pub(crate) devices: BTreeMap<u32, Device>,
}

/// What the kernel should hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Desired {
    /// The devices whose egress is watched, by ifindex.
    pub(crate) attachments: BTreeMap<u32, Device>,
    /// The rules.
    pub(crate) rules: BTreeMap<Prefix, Rule>,
}

/// One change. Each leaves a working data path, and can be taken back until something is forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Put a program on a device that has none.
    Attach(Device, Role),
    /// Put the other program in place of the one that is there; the role is the new one.
    ChangeRole(Device, Role),
    /// Take the program off.
    Detach(Device, Role),
    /// Ask the kernel to keep a neighbour resolved.
    KeepResolved(Neighbour),
    /// Stop asking.
    LetGo(Neighbour),
    /// Let a rule hold, in place of the one with this identity where there is one.
    Put(Rule, Option<u32>),
    /// Let a rule hold no longer.
    Withdraw(Rule, u32),
    /// Let a rule hold again that has been replaced or withdrawn, but not forgotten. No plan has this step: it
    /// takes others back.
    Restore(Rule, u32),
    /// Forget the record and the counters of a rule that holds no longer.
    Forget(u32),
}

impl Actual {
    /// What should hold when nothing is to change.
    pub(crate) fn as_desired(&self) -> Desired {
        let attachments = self
            .programs
            .iter()
            .filter(|(_, (_, role))| *role == Role::Departure)
            .map(|(index, (device, _))| (*index, device.clone()))
            .chain(self.lost.clone())
            .collect();
        let rules = self.rules.iter().map(|(source, (_, rule))| (*source, rule.clone())).collect();
        Desired { attachments, rules }
    }
}

impl Desired {
    /// The program that each device should carry, of those devices that exist.
    fn programs(&self, existing: &BTreeMap<u32, Device>) -> BTreeMap<u32, (Device, Role)> {
        let mut programs = BTreeMap::new();
        if self.attachments.is_empty() {
            return programs;
        }
        for rule in self.rules.values() {
            let device = rule.target.next_hop().and_then(|next_hop| existing.get(&next_hop.device.index));
            if let Some(device) = device {
                programs.insert(device.index, (device.clone(), Role::Arrival));
            }
        }
        for (index, device) in &self.attachments {
            programs.insert(*index, (device.clone(), Role::Departure));
        }
        programs
    }

    fn neighbours(&self, existing: &BTreeMap<u32, Device>) -> BTreeSet<Neighbour> {
        if self.attachments.is_empty() {
            return BTreeSet::new();
        }
        let of_rule = |rule: &Rule| {
            let next_hop = rule.target.next_hop()?;
            let device = existing.get(&next_hop.device.index)?.clone();
            Some(Neighbour { device, gateway: next_hop.gateway? })
        };
        self.rules.values().filter_map(of_rule).collect()
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
    let is_next_hop = |index: &u32| {
        let now = actual.rules.values().map(|(_, rule)| rule);
        let next_hops = now.chain(desired.rules.values()).filter_map(|rule| rule.target.next_hop());
        next_hops.into_iter().any(|next_hop| next_hop.device.index == *index)
    };
    let wanted = desired.programs(&actual.devices);
    for (index, (device, role)) in &wanted {
        match (actual.programs.get(index).map(|(_, role)| role), role) {
            (Some(now), wanted) if now == wanted => {}
            (None, Role::Departure) if !is_next_hop(index) => {
                attach.push(Step::Attach(device.clone(), Role::Departure));
            }
            (None, role) => {
                before.push(Step::Attach(device.clone(), Role::Arrival));
                if *role == Role::Departure {
                    attach.push(Step::ChangeRole(device.clone(), Role::Departure));
                }
            }
            (Some(_), Role::Departure) => attach.push(Step::ChangeRole(device.clone(), Role::Departure)),
            (Some(_), Role::Arrival) => detach.push(Step::ChangeRole(device.clone(), Role::Arrival)),
        }
    }
    for (index, (device, role)) in actual.programs.iter().filter(|(index, _)| !wanted.contains_key(index)) {
        match role {
            Role::Departure if !is_next_hop(index) => {
                detach.push(Step::Detach(device.clone(), Role::Departure));
            }
            Role::Departure => {
                detach.push(Step::ChangeRole(device.clone(), Role::Arrival));
                after.push(Step::Detach(device.clone(), Role::Arrival));
            }
            Role::Arrival => after.push(Step::Detach(device.clone(), Role::Arrival)),
        }
    }

    let neighbours = desired.neighbours(&actual.devices);
    before.extend(neighbours.difference(&actual.neighbours).cloned().map(Step::KeepResolved));
    let let_go = actual.neighbours.difference(&neighbours).cloned().map(Step::LetGo);

    // A packet finds its old rule or its new one, never a third: a new rule comes before those of the prefixes around
    // it change, most specific first, and an old one goes after they have, least specific first. In the order of
    // prefixes the one around comes before the ones within.
    let mut put = Vec::new();
    let mut withdraw = Vec::new();
    let mut forget = Vec::new();
    for (source, rule) in desired.rules.iter().rev() {
        match actual.rules.get(source) {
            Some((_, now)) if now == rule => {}
            Some((id, _)) => {
                put.push(Step::Put(rule.clone(), Some(*id)));
                forget.push(Step::Forget(*id));
            }
            None => put.push(Step::Put(rule.clone(), None)),
        }
    }
    for (_, (id, rule)) in actual.rules.iter().filter(|(source, _)| !desired.rules.contains_key(source)) {
        withdraw.push(Step::Withdraw(rule.clone(), *id));
        forget.push(Step::Forget(*id));
    }

    let mut steps = before;
    if desired.attachments.is_empty() {
        // Nothing departs any more, so that nothing needs to be ready for the rules that are put.
        steps.append(&mut detach);
    }
    if actual.rules.is_empty() {
        // The rule comes last, so that a change that is cut off has put no rule that nobody heeds.
        steps.append(&mut attach);
    }
    steps.extend(put);
    steps.extend(withdraw);
    steps.extend(attach);
    steps.extend(detach);
    steps.extend(let_go);
    steps.extend(after);
    steps.extend(forget);
    steps
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::rule::{NextHop, Owner, Target};

    fn device(index: u32) -> Device {
        Device { name: format!("eth{index}"), index }
    }

    fn rule(source: u8, device_index: u32, gateway: Option<u8>) -> Rule {
        Rule {
            source: Prefix::holding([192, 0, 2, source].into(), 32).unwrap(),
            target: match device_index {
                0 => Target::Pass,
                index => Target::NextHop(NextHop {
                    gateway: gateway.map(|last| [10, 0, 0, last].into()),
                    device: device(index),
                }),
            },
            owner: Owner::Cli,
            name: None,
        }
    }

    fn desired(attachments: &[u32], rules: Vec<Rule>) -> Desired {
        Desired {
            attachments: attachments.iter().map(|index| (*index, device(*index))).collect(),
            rules: rules.into_iter().map(|rule| (rule.source, rule)).collect(),
        }
    }

    /// A kernel of plain data, which refuses what the real one would.
    fn carry_out(actual: &mut Actual, steps: &[Step]) {
        let mut next_id = 1 + actual.rules.values().map(|(id, _)| *id).max().unwrap_or(0);
        let mut forgotten = BTreeSet::new();
        for step in steps {
            match step.clone() {
                Step::Attach(device, role) => {
                    assert!(actual.programs.insert(device.index, (device, role)).is_none());
                }
                Step::ChangeRole(device, role) => {
                    let (_, old) = actual.programs.insert(device.index, (device, role)).unwrap();
                    assert_ne!(old, role);
                }
                Step::Detach(device, role) => {
                    assert_eq!(actual.programs.remove(&device.index), Some((device, role)));
                }
                Step::KeepResolved(neighbour) => assert!(actual.neighbours.insert(neighbour)),
                Step::LetGo(neighbour) => assert!(actual.neighbours.remove(&neighbour)),
                Step::Put(rule, instead_of) => {
                    let old = actual.rules.insert(rule.source, (next_id, rule)).map(|(id, _)| id);
                    assert_eq!(old, instead_of);
                    next_id += 1;
                }
                Step::Withdraw(rule, id) => assert_eq!(actual.rules.remove(&rule.source), Some((id, rule))),
                Step::Restore(..) => panic!("a plan takes nothing back"),
                Step::Forget(id) => {
                    assert!(actual.rules.values().all(|(held, _)| *held != id));
                    assert!(forgotten.insert(id));
                }
            }
            // A packet that departs now finds the arrival program where its rule sends it.
            if actual.programs.values().any(|(_, role)| *role == Role::Departure) {
                for (_, rule) in actual.rules.values() {
                    let Some(index) = rule.target.next_hop().map(|next_hop| next_hop.device.index) else {
                        continue;
                    };
                    let ready = actual.programs.contains_key(&index) || !actual.devices.contains_key(&index);
                    assert!(ready, "{rule} would depart to a device without a program after {step:?}");
                }
            }
        }
    }

    /// What becomes of packets from `source`, found by looking at every rule.
    fn way<'a>(rules: impl Iterator<Item = &'a Rule>, source: IpAddr) -> Option<Target> {
        let holding = rules.filter(|rule| rule.source.contains(source));
        holding.max_by_key(|rule| rule.source.len()).map(|rule| rule.target.clone())
    }

    fn any_desired() -> impl Strategy<Value = Desired> {
        let rules = vec((0..16_u8, 26..=32_u8, 0..6_u32, proptest::option::of(1..4_u8)), 0..12);
        (vec(1..5_u32, 0..3), rules).prop_map(|(attachments, rules)| {
            let nested = |(last, len, device, gateway)| {
                let source = Prefix::holding([192, 0, 2, last].into(), len).unwrap();
                Rule { source, ..rule(last, device, gateway) }
            };
            desired(&attachments, rules.into_iter().map(nested).collect())
        })
    }

    proptest! {
        #[test]
        fn the_steps_lead_from_anything_to_anything_and_then_end(first in any_desired(), second in any_desired()) {
            // Device 5 is gone: rules may still name it.
            let mut actual = Actual { devices: (1..5).map(|i| (i, device(i))).collect(), ..Actual::default() };
            for goal in [&first, &second, &Desired::default()] {
                let before = actual.as_desired().rules;
                for step in plan(&actual, goal) {
                    carry_out(&mut actual, std::slice::from_ref(&step));
                    for last in 0..16 {
                        let source = [192, 0, 2, last].into();
                        let now = way(actual.rules.values().map(|(_, rule)| rule), source);
                        let right = [way(before.values(), source), way(goal.rules.values(), source)];
                        prop_assert!(right.contains(&now), "{} goes {:?}, not {:?}, after {:?}", source, now, right, step);
                    }
                }
                prop_assert_eq!(&actual.as_desired(), goal);
                prop_assert_eq!(plan(&actual, goal), vec![]);
            }
            prop_assert!(actual.programs.is_empty() && actual.neighbours.is_empty());
        }
    }

    #[test]
    fn the_first_rule_comes_last() {
        let actual = Actual { devices: (1..3).map(|i| (i, device(i))).collect(), ..Actual::default() };
        let rule = rule(5, 2, Some(1));
        let neighbour = Neighbour { device: device(2), gateway: [10, 0, 0, 1].into() };
        assert_eq!(
            plan(&actual, &desired(&[1], vec![rule.clone()])),
            [
                Step::Attach(device(2), Role::Arrival),
                Step::KeepResolved(neighbour),
                Step::Attach(device(1), Role::Departure),
                Step::Put(rule, None),
            ]
        );
    }
}
