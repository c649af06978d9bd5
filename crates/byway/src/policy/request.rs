//! The rules of a request. Many rules do the same, so each action is there only once. Each pass over a million rules reads
//! memory in order, which saves a third of the time.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use byway_abi::MAX_RULES;

use super::{resolve::Checks, snapshot::Host, state::Desired};
use crate::{
    config::{ActionSpec, Config},
    error::{Error, Result},
    model::{Action, Group, Owner, Rule, RuleSpec, Selector, Target, check_families},
};

/// Rules by source and destination, with their owner.
pub(crate) struct Request<'a> {
    actions: Vec<(Cow<'a, ActionSpec>, Owner)>,
    /// The selector of each rule, and the place of its action in `actions`.
    rules: Cow<'a, [(Selector, u32)]>,
}

/// What to do if the rule or the group exists already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnConflict {
    /// Refuse the request.
    Refuse,
    /// Replace it.
    Replace,
    /// Replace it if it belongs to the owner of the request. If another owner's is the same, keep it; otherwise refuse the
    /// request.
    ReplaceOwn,
    /// Replace it if it belongs to the owner of the request. Keep another owner's in any case.
    KeepForeign,
}

impl<'a> Request<'a> {
    /// Requests these rules, which may come in any order.
    pub(crate) fn of_specs(specs: &[RuleSpec]) -> Self {
        let (mut actions, mut places) = (Vec::new(), HashMap::new());
        let mut rules: Vec<(Selector, u32)> = specs
            .iter()
            .map(|RuleSpec { selector, reply_to, reply_to_dev, target, on_down, mss, owner, name }| {
                let said = (reply_to, reply_to_dev, target, on_down, mss, owner, name);
                let place = *places.entry(said).or_insert_with(|| {
                    let action = ActionSpec {
                        reply_to: *reply_to,
                        reply_to_dev: reply_to_dev.clone(),
                        target: target.clone(),
                        on_down: *on_down,
                        mss: *mss,
                        name: name.clone(),
                    };
                    actions.push((Cow::Owned(action), *owner));
                    actions.len() as u32 - 1
                });
                (*selector, place)
            })
            .collect();
        rules.sort_by_key(|(selector, _)| *selector);
        Self { actions, rules: rules.into() }
    }

    /// Requests the rules of a configuration.
    pub(crate) fn of_config(config: &'a Config, owner: Owner) -> Self {
        let actions = config.actions.iter().map(|action| (Cow::Borrowed(action), owner)).collect();
        Self { actions, rules: Cow::Borrowed(&config.rules) }
    }

    /// Adds the rules to the desired ones. Returns the resolved actions, by their places.
    pub(crate) fn resolve_into(
        &self,
        desired: &mut Desired,
        host: &Host,
        checks: &Checks,
        on_conflict: OnConflict,
    ) -> Result<Vec<Option<Arc<Action>>>> {
        let mut resolved: Vec<Option<Arc<Action>>> = vec![None; self.actions.len()];
        let mut new = Vec::with_capacity(self.rules.len());
        let mut room = (MAX_RULES as usize).saturating_sub(desired.rules.len() + desired.unseen.rules);
        for (selector, place) in &*self.rules {
            let existing = desired.rules.get(selector);
            match (existing, on_conflict) {
                (Some(existing), OnConflict::KeepForeign) if existing.target.is_unknown() => continue,
                (Some(existing), _) if existing.target.is_unknown() => {
                    return Err(Error::UnknownKind(Box::new(Rule::of(*selector, existing))));
                }
                (Some(existing), OnConflict::Refuse) => {
                    return Err(Error::RuleExists(Box::new(Rule::of(*selector, existing))));
                }
                (Some(existing), OnConflict::KeepForeign)
                    if existing.owner != self.actions[*place as usize].1 =>
                {
                    continue;
                }
                (Some(_), _) => {}
                (None, _) => {
                    let full = Error::TablesFull { selector: *selector, limit: MAX_RULES };
                    room = room.checked_sub(1).ok_or(full)?;
                }
            }
            let action = match &mut resolved[*place as usize] {
                Some(action) => action,
                unresolved => unresolved.insert(Arc::new(self.resolve(*place, host, checks)?)),
            };
            if let Target::Group(name) = &action.target {
                let group = desired.groups.get(name).ok_or_else(|| Error::NoSuchGroup(name.clone()))?;
                check_families(&selector.source(), gateways(group))?;
            }
            match existing {
                Some(existing) if on_conflict == OnConflict::ReplaceOwn && existing.owner != action.owner => {
                    if !existing.is_same_but_for_the_owner(action) {
                        return Err(Error::RuleOfAnother(Box::new(Rule::of(*selector, existing))));
                    }
                }
                _ => new.push((*selector, action.clone())),
            }
        }
        match &mut new[..] {
            [_] => desired.rules.extend(new),
            // A map that is built from sorted rules takes half the memory.
            _ => desired.rules.append(&mut new.into_iter().collect::<BTreeMap<_, _>>()),
        }
        Ok(resolved)
    }

    fn resolve(&self, place: u32, host: &Host, checks: &Checks) -> Result<Action> {
        let (spec, owner) = &self.actions[place as usize];
        let ActionSpec { reply_to, reply_to_dev, target, on_down, mss, name } = &**spec;
        let reply_to_dev = host.resolve_receivers(reply_to_dev, checks)?;
        let target = host.resolve(target, checks)?;
        let (reply_to, on_down, mss, owner) = (*reply_to, *on_down, *mss, *owner);
        Ok(Action { reply_to, reply_to_dev, target, on_down, mss, owner, name: name.clone() })
    }

    /// Returns the rules with the actions that [`put`](Self::put) returned.
    pub(crate) fn rules(&self, actions: &[Option<Arc<Action>>]) -> Vec<Rule> {
        let rule = |(selector, place): &(Selector, u32)| {
            actions[*place as usize].as_ref().map(|action| Rule::of(*selector, action))
        };
        self.rules.iter().filter_map(rule).collect()
    }
}

/// Returns the gateways of a group. One that is to be learned has the unspecified address.
pub(crate) fn gateways(group: &Group) -> impl Iterator<Item = IpAddr> {
    group.members.iter().filter_map(|member| member.next_hop.gateway_or_unspecified())
}
