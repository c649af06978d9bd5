//! What Linux decides: the entries of `ip rule` that concern a source, one after the other, until one decides
//! (`fib_rules_lookup`, net/core/fib_rules.c).

use super::{
    policy::{Action, PolicyRule, Refusal, TableRoute},
    tables::{Tables, is_ipv4},
};
use crate::model::Prefix;

/// An entry, as far as packets of one source are concerned. It applies to all of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Link {
    pub(crate) to: Prefix,
    /// Of a `goto` it names the place in the chain, in place of the priority.
    pub(crate) action: Action,
    /// The entry names this very source, and none around it.
    pub(crate) is_own: bool,
    /// It is one of the three that are always there.
    pub(crate) is_initial: bool,
}

impl Link {
    /// The table that it looks up.
    pub(crate) fn table(&self) -> Option<u32> {
        self.action.table()
    }
}

/// What an entry has decided.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Verdict<'a> {
    Route(&'a TableRoute),
    Refused(Refusal),
    /// No entry has decided: there is no route.
    Nothing,
}

/// A verdict, and which places of the chain led to it.
#[derive(Debug)]
pub(crate) struct Decided<'a> {
    pub(crate) verdict: Verdict<'a>,
    /// Who decided.
    pub(crate) by: Option<usize>,
    /// Who would have, and had no route.
    pub(crate) passed: Vec<usize>,
}

/// The chain of a source: `concerned` are the entries whose sources hold it, in the order in which Linux takes them.
pub(crate) fn chain(source: &Prefix, concerned: &[usize], rules: &[PolicyRule]) -> Vec<Link> {
    let link = |(place, rule): (usize, &usize)| {
        let rule = &rules[*rule];
        let action = match rule.action {
            Action::Goto(priority) => {
                let is_there = rules.iter().any(|other| {
                    other.priority == priority && is_ipv4(&other.source) == is_ipv4(&rule.source)
                });
                let target = concerned.iter().position(|other| rules[*other].priority >= priority);
                // Without a target Linux goes on with the next entry.
                let to = if is_there { target.unwrap_or(concerned.len()) } else { place + 1 };
                Action::Goto(u32::try_from(to.max(place + 1)).unwrap_or(u32::MAX))
            }
            ref other => other.clone(),
        };
        Link { to: rule.destination, action, is_own: rule.source == *source, is_initial: rule.is_initial() }
    };
    concerned.iter().enumerate().map(link).collect()
}

/// What becomes of the packets that are to go to an address of `to`, and of no longer prefix that is told apart.
pub(crate) fn decide<'a>(chain: &[Link], tables: &Tables<'a>, to: &Prefix) -> Decided<'a> {
    let (mut place, mut passed) = (0, Vec::new());
    while let Some(link) = chain.get(place) {
        let here = place;
        place += 1;
        if !link.to.covers(to) {
            continue;
        }
        let verdict = match &link.action {
            Action::Goto(target) => {
                place = *target as usize;
                continue;
            }
            Action::Refuse(refusal) => Verdict::Refused(*refusal),
            action => match tables.look_up(action, to) {
                Some(route) => Verdict::Route(route),
                None => {
                    passed.push(here);
                    continue;
                }
            },
        };
        return Decided { verdict, by: Some(here), passed };
    }
    Decided { verdict: Verdict::Nothing, by: None, passed }
}
