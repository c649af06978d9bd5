//! Rules as they are asked for, put among those that should hold.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use byway_abi::MAX_RULES;

use crate::{
    config::ActionSpec,
    error::{Error, Result},
    model::{Action, Group, Owner, Rule, RuleSpec, Selector, Target, check_families},
    plan::Desired,
    resolve::View,
};

/// Rules by source and destination, and what they say, each once: many say the same, and to resolve a target asks the
/// kernel for its routes. From here on each pass over a million rules goes through memory from one end to the other, which
/// saves a third of the time.
pub(crate) struct Asked<'a> {
    actions: Vec<(Said<'a>, Owner)>,
    rules: Rules<'a>,
}

/// What a rule says of its packets.
enum Said<'a> {
    Rule(&'a RuleSpec),
    Config(&'a ActionSpec),
}

/// Which packets, and which of the actions those get.
enum Rules<'a> {
    Own(Vec<(Selector, u32)>),
    Config(&'a [(Selector, u32)]),
}

/// What becomes of a rule in whose place another one is put.
#[derive(Clone, Copy)]
pub(crate) enum Existing {
    /// It goes.
    Goes,
    /// It stays, whoever put it in, as long as the other one says the same.
    IsTheSame,
    /// It stays.
    Stays,
}

impl<'a> Asked<'a> {
    /// Rules in any order.
    pub(crate) fn from_specs(specs: &'a [RuleSpec]) -> Self {
        let (mut actions, mut places) = (Vec::new(), HashMap::new());
        let mut rules: Vec<(Selector, u32)> = specs
            .iter()
            .map(|spec| {
                let said = (&spec.target, spec.on_down, spec.mss, spec.owner, &spec.name);
                let place = *places.entry(said).or_insert_with(|| {
                    actions.push((Said::Rule(spec), spec.owner));
                    actions.len() as u32 - 1
                });
                (spec.selector, place)
            })
            .collect();
        rules.sort_by_key(|(selector, _)| *selector);
        Self { actions, rules: Rules::Own(rules) }
    }

    /// The rules of a configuration.
    pub(crate) fn from_config(actions: &'a [ActionSpec], rules: &'a [(Selector, u32)]) -> Self {
        let actions = actions.iter().map(|it| (Said::Config(it), Owner::CONFIG)).collect();
        Self { actions, rules: Rules::Config(rules) }
    }

    fn all(&self) -> &[(Selector, u32)] {
        match &self.rules {
            Rules::Own(rules) => rules,
            Rules::Config(rules) => rules,
        }
    }

    /// Puts the rules among the others, and returns what they say. `on_existing` may refuse.
    pub(crate) fn put(
        &self,
        view: &mut View<'_>,
        desired: &mut Desired,
        on_existing: impl Fn(&Selector, &Action) -> Result<Existing>,
    ) -> Result<Vec<Option<Arc<Action>>>> {
        let mut resolved: Vec<Option<Arc<Action>>> = vec![None; self.actions.len()];
        let mut new = Vec::with_capacity(self.all().len());
        let mut room = (MAX_RULES as usize).saturating_sub(desired.rules.len() + desired.unseen.rules);
        for (selector, place) in self.all() {
            let existing = desired.rules.get(selector);
            let fate = existing.map(|existing| on_existing(selector, existing)).transpose()?;
            if existing.is_none() {
                room =
                    room.checked_sub(1).ok_or(Error::TablesFull { selector: *selector, limit: MAX_RULES })?;
            }
            if matches!(fate, Some(Existing::Stays)) {
                continue;
            }
            let action = match &mut resolved[*place as usize] {
                Some(action) => action,
                unresolved => unresolved.insert(Arc::new(self.resolve(*place, view)?)),
            };
            if let Target::Group(name) = &action.target {
                let group = desired.groups.get(name).ok_or_else(|| Error::NoSuchGroup(name.clone()))?;
                check_families(&selector.source(), gateways(group))?;
            }
            match (existing, fate) {
                (Some(existing), Some(Existing::IsTheSame)) if same_action(existing, action) => {}
                (Some(existing), Some(Existing::IsTheSame)) => {
                    return Err(Error::RuleOfAnother(Box::new(Rule::new(*selector, existing))));
                }
                _ => new.push((*selector, action.clone())),
            }
        }
        match &mut new[..] {
            [_] => desired.rules.extend(new),
            // Built from sorted ones, which takes half the memory.
            _ => desired.rules.append(&mut new.into_iter().collect::<BTreeMap<_, _>>()),
        }
        Ok(resolved)
    }

    fn resolve(&self, place: u32, view: &mut View<'_>) -> Result<Action> {
        let (said, owner) = &self.actions[place as usize];
        let (target, on_down, mss, name) = match said {
            Said::Rule(RuleSpec { target, on_down, mss, name, .. })
            | Said::Config(ActionSpec { target, on_down, mss, name }) => (target, *on_down, *mss, name),
        };
        Ok(Action { target: view.resolve(target)?, on_down, mss, owner: *owner, name: name.clone() })
    }

    /// The rules with what they say, as [`put`](Self::put) has returned it.
    pub(crate) fn rules(&self, actions: &[Option<Arc<Action>>]) -> Vec<Rule> {
        let rule = |(selector, place): &(Selector, u32)| {
            actions[*place as usize].as_ref().map(|action| Rule::new(*selector, action))
        };
        self.all().iter().filter_map(rule).collect()
    }
}

/// Whether two rules are the same, whoever put them in.
fn same_action(one: &Action, other: &Action) -> bool {
    *one == Action { owner: one.owner, ..other.clone() }
}

/// That there is a rule already.
pub(crate) fn exists(selector: &Selector, existing: &Action) -> Error {
    Error::RuleExists(Box::new(Rule::new(*selector, existing)))
}

/// Attaches to the default-gateway devices where nothing is attached.
pub(crate) fn attach_where_nothing_is(view: &mut View<'_>, desired: &mut Desired) -> Result<()> {
    if desired.attachments.is_empty() {
        let found = view.default_gateway_devices()?;
        desired.attachments.extend(found.into_iter().map(|device| (device.index, device)));
    }
    Ok(())
}

/// The rules that lead to a group.
pub(crate) fn users<'a>(desired: &'a Desired, name: &'a str) -> impl Iterator<Item = &'a Selector> {
    let leads_there = move |rule: &Action| matches!(&rule.target, Target::Group(of_rule) if of_rule == name);
    desired.rules.iter().filter(move |(_, rule)| leads_there(rule)).map(|(selector, _)| selector)
}

/// The gateways of a group.
pub(crate) fn gateways(group: &Group) -> impl Iterator<Item = &IpAddr> {
    group.members.iter().filter_map(|member| member.next_hop.gateway.as_ref())
}
