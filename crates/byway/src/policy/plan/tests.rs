//! Checks plans step by step against a kernel of plain data.

use std::net::IpAddr;

use proptest::{
    collection::{btree_set, vec},
    prelude::*,
};

use super::{
    super::state::{Direction, Slot, Unseen},
    *,
};
use crate::model::{HealthCheck, Member, Mss, OnDown, Owner, Rule, Target};

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
        reply_to: false,
        reply_to_dev: BTreeSet::new(),
        target,
        on_down: OnDown::Pass,
        mss: Mss::Auto,
        owner: Owner::CLI,
        name: None,
    }
}

fn action(rule: &Rule) -> Arc<Action> {
    let Rule { source: _, destination: _, reply_to, reply_to_dev, target, on_down, mss, owner, name } =
        rule.clone();
    Arc::new(Action { reply_to, reply_to_dev, target, on_down, mss, owner, name })
}

fn group(name: &str, members: Vec<NextHop>) -> Group {
    let members = members.into_iter().map(|next_hop| Member::new(next_hop, 1)).collect();
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
        health_checks: BTreeMap::new(),
    }
}

/// A kernel of plain data, which refuses what the real one refuses.
#[derive(Default)]
struct Kernel {
    holds: Actual,
    /// The source tables in force.
    tables: BTreeMap<Prefix, Entry<u32>>,
    /// The groups of the next generation.
    next_groups: BTreeMap<String, (u32, Group)>,
    /// All records, by identity.
    records: BTreeMap<u32, Rule>,
    last_id: u32,
    /// The identities of the records that this plan has created.
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
                let index = holds.next_hops.values().map(|slot| slot.index + 1).max().unwrap_or(1);
                let slot = Slot { index, is_down: false, is_gone: false, mtu: 0 };
                assert!(holds.next_hops.insert(next_hop, slot).is_none());
            }
            Step::Renew(next_hop) => holds.next_hops.get_mut(&next_hop).unwrap().is_gone = false,
            Step::MakeDevices(devices) => {
                assert!(!holds.device_sets.values().any(|it| *it == devices));
                let free = (1..).find(|set| !holds.device_sets.contains_key(set)).unwrap();
                holds.device_sets.insert(free, devices);
            }
            Step::SetDevices(set, devices) => {
                let before = holds.device_sets.insert(set, devices.clone()).unwrap();
                assert!(before != devices && before.keys().eq(devices.keys()));
            }
            Step::ForgetDevices(set) => {
                let devices = holds.device_sets.remove(&set).unwrap();
                assert!(self.has_grace_period_ended);
                assert!(
                    !self.records.values().any(|it| it.reply_to_dev.iter().eq(devices.keys())),
                    "{set} is in use"
                );
            }
            Step::SetDown(next_hop, is_down) => holds.next_hops.get_mut(&next_hop).unwrap().is_down = is_down,
            Step::SetHealthCheck(next_hop, check) => {
                let slot = holds.next_hops[&next_hop].index;
                let before = match check.clone() {
                    Some(check) => holds.health_checks.insert(slot, check),
                    None => holds.health_checks.remove(&slot),
                };
                assert_ne!(before, check);
            }
            Step::PrepareGroup(ref group) | Step::PutGroup(ref group) => {
                let mut next_hops = group.members.iter().map(|member| &member.next_hop);
                assert!(next_hops.all(|it| holds.next_hops.contains_key(it)));
                let is_next = matches!(step, Step::PrepareGroup(_));
                let groups = if is_next { &mut self.next_groups } else { &mut holds.groups };
                groups.insert(group.name.clone(), (0, group.clone()));
            }
            Step::Record(selector, action, _) => {
                let rule = Rule::of(selector, &action);
                let names = &action.reply_to_dev;
                assert!(names.is_empty() || holds.device_sets.values().any(|it| it.keys().eq(names)));
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
                let slot = holds.next_hops.remove(&next_hop).unwrap();
                assert!(self.has_grace_period_ended);
                holds.health_checks.remove(&slot.index);
                let mut used = self.records.values().flat_map(|rule| rule.target.next_hops());
                assert!(!used.any(|used| *used == next_hop), "{next_hop} is in use");
            }
        }
        let led_to = self.records.iter().filter(|(id, _)| self.leads_to(**id));
        let rules: Vec<(u32, Rule)> = led_to.map(|(id, rule)| (*id, rule.clone())).collect();
        self.holds.rules = rules.iter().map(|(id, rule)| (rule.selector(), (*id, action(rule)))).collect();
        // A packet that departs now finds the arrival program on the device that its rule names.
        let holds = &self.holds;
        if holds.programs.values().any(|(_, role)| *role == Role::Departure) {
            let as_desired = holds.as_desired();
            if as_desired.rules.values().any(|rule| rule.reply_to) {
                for receiver in &holds.receivers {
                    let device = device(*receiver);
                    let is_ready = [Role::Arrival, Role::Reception]
                        .iter()
                        .all(|role| holds.programs.contains_key(&Place::of(&device, *role)));
                    assert!(
                        is_ready,
                        "a reply would leave by {device:?}, without a program there, after {step:?}"
                    );
                }
            }
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

    /// Returns what the kernel does with a packet that leaves by a device: it takes the longest source, then the longest
    /// destination.
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
        let group =
            if let Target::Group(name) = &target { Some(self.holds.groups[name].1.clone()) } else { None };
        Some((target, group))
    }
}

/// Returns what should happen to the packet, by looking at every rule.
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
            Target::NextHops(members.map(|next_hop| Member::new(next_hop, 1)).collect())
        }),
        (0..2_u8).prop_map(|nth| Target::Group(format!("group{nth}"))),
    ]
}

fn any_desired() -> impl Strategy<Value = Desired> {
    let destination = proptest::option::of((0..4_u8, 30..=32_u8));
    let replies = proptest::option::of(btree_set("eth[1-6]", 0..3));
    let rules = vec((0..16_u8, 26..=32_u8, destination, any_target(), replies), 0..12);
    let groups = vec((0..2_u8, vec((1..6_u32, 1..4_u8), 1..4)), 0..3);
    let asked = (any::<bool>(), vec("eth[7-9]", 0..3));
    (
        vec(1..5_u32, 0..3),
        rules,
        groups,
        vec(any::<prop::sample::Index>(), 0..3),
        vec((any::<prop::sample::Index>(), 1..3_u8), 0..3),
        asked,
    )
        .prop_map(|(attachments, rules, groups, down, checked, (is_auto, awaited))| {
            type Said = (u8, u8, Option<(u8, u8)>, Target, Option<BTreeSet<String>>);
            let nested = |(last, len, to, target, replies): Said| Rule {
                reply_to: replies.is_some(),
                reply_to_dev: replies.unwrap_or_default(),
                source: Prefix::holding([192, 0, 2, last].into(), len).unwrap(),
                destination: to.map(|(last, len)| Prefix::holding([198, 51, 100, last].into(), len).unwrap()),
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
                let check = |last| HealthCheck::ping([IpAddr::from([203, 0, 113, last])]);
                goal.health_checks =
                    checked.into_iter().map(|(nth, last)| (nth.get(&all).clone(), check(last))).collect();
            }
            goal
        })
}

proptest! {
    #[test]
    fn the_steps_lead_from_anything_to_anything_and_then_end(first in any_desired(), second in any_desired()) {
        // Device 5 is gone, but rules may still name it.
        let devices = (1..5).map(|i| (i, device(i))).collect();
        let receivers = [1, 2, 4].into();
        let holds = Actual { devices, receivers, ..Actual::default() };
        let mut kernel = Kernel { holds, ..Kernel::default() };
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
        prop_assert!(kernel.holds.device_sets.is_empty() && kernel.holds.health_checks.is_empty());
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
        matches!(&steps[..], [Step::Record(..), Step::Switch(_), Step::WaitForGracePeriod, Step::Forget(1)]),
        "{steps:?}"
    );
}
