//! What Linux decides: the entries of `ip rule` that concern a source, one after the other, until one decides
//! (`fib_rules_lookup`, net/core/fib_rules.c).

use super::{
    policy::{Action, MAIN, Policy, Refusal, RouteKind, TableRoute},
    tables::{Found, Tables, is_ipv4},
    without,
};
use crate::model::Prefix;

/// An entry, as far as packets of one source are concerned.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Link {
    pub(crate) to: Prefix,
    /// The destinations that a `not to` leaves out.
    pub(crate) except: Option<Prefix>,
    /// What it does. A `goto` names the place in the chain instead of the priority.
    pub(crate) action: Action,
    /// The entry names exactly this source, not a less specific one.
    pub(crate) is_own: bool,
    /// It is one of the three that are always there.
    pub(crate) is_initial: bool,
    /// It asks for more than addresses, so not all packets meet it. It has no equivalent, and stays.
    pub(crate) is_conditional: bool,
}

impl Link {
    /// The table that it looks up.
    pub(crate) fn table(&self) -> Option<u32> {
        self.action.table()
    }

    pub(crate) fn speaks_of(&self, to: &Prefix) -> bool {
        self.to.covers(to) && !self.except.is_some_and(|except| except.covers(to))
    }
}

/// What an entry has decided.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Verdict<'a> {
    Route(&'a TableRoute),
    Refused(Refusal),
    /// Whatever the table of the packet's VRF says.
    Vrf,
    /// No entry has decided: there is no route.
    Nothing,
}

impl Verdict<'_> {
    /// Nothing leaves.
    pub(crate) fn is_nowhere(&self) -> bool {
        match self {
            Self::Route(route) => matches!(route.kind, RouteKind::Refuse(_)),
            Self::Refused(_) | Self::Nothing => true,
            Self::Vrf => false,
        }
    }
}

/// A verdict, and which places of the chain led to it.
#[derive(Debug)]
pub(crate) struct Decided<'a> {
    pub(crate) verdict: Verdict<'a>,
    /// The place that decided.
    pub(crate) by: Option<usize>,
    /// The places that came before it, and had no route.
    pub(crate) passed: Vec<usize>,
    /// The places that jumped over others.
    pub(crate) jumps: Vec<usize>,
    /// The routes that were found on the way. If a device is gone that none of them uses, nothing changes.
    pub(crate) met: Vec<&'a TableRoute>,
}

/// The circumstances in which Linux decides.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Case<'c> {
    /// The devices that are gone, and with them the routes out of them.
    pub(crate) gone: &'c [&'c str],
    /// The place of the entry with conditions that the packet fulfils.
    pub(crate) fulfilled: Option<usize>,
    /// Whether the imported entries have been deleted. Entries without an equivalent stay.
    pub(crate) is_moved: bool,
}

/// The places of the entries that concern packets of a source, in the order in which Linux takes them. `is_told_apart` says
/// which other sources have a class of their own.
pub(crate) fn concerned(
    source: &Prefix,
    is_told_apart: impl Fn(&Prefix) -> bool,
    policy: &Policy,
) -> Vec<usize> {
    let is_concerned = |number: &usize| {
        let rule = &policy.rules[*number];
        if is_ipv4(&rule.source) != is_ipv4(source) || !without::has_place(rule) {
            return false;
        }
        let is_around = rule.source.covers(source);
        match (without::is_followed(rule), rule.is_inverted()) {
            (true, false) => is_around,
            (true, true) => !(is_around && rule.destination.is_all()),
            (false, true) => true,
            // It concerns some packets of the source, unless a source with a class of its own lies in between.
            (false, false) => {
                let mut between = (source.len() + 1..=rule.source.len())
                    .filter_map(|length| Prefix::holding(rule.source.address(), length));
                is_around || (source.covers(&rule.source) && !between.any(|prefix| is_told_apart(&prefix)))
            }
        }
    };
    (0..policy.rules.len()).filter(is_concerned).collect()
}

/// The chain of a source, of the entries that concern it.
pub(crate) fn chain(source: &Prefix, concerned: &[usize], policy: &Policy) -> Vec<Link> {
    let rules = &policy.rules;
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
        let is_conditional = !without::is_followed(rule);
        let all = Prefix::all_like(source.address());
        let is_around = rule.source.covers(source);
        let (to, except) = match rule.is_inverted() {
            false => (rule.destination, None),
            true => (all, Some(rule.destination).filter(|_| is_around && !is_conditional)),
        };
        Link {
            to,
            except,
            action,
            is_own: rule.source == *source,
            is_initial: rule.is_initial(),
            is_conditional,
        }
    };
    concerned.iter().enumerate().map(link).collect()
}

/// What becomes of packets to the addresses of `to` that are in no longer prefix of the destinations to tell apart.
pub(crate) fn decide<'a>(chain: &[Link], tables: &Tables<'a>, to: &Prefix, case: Case<'_>) -> Decided<'a> {
    let mut decided = Decided {
        verdict: Verdict::Nothing,
        by: None,
        passed: Vec::new(),
        jumps: Vec::new(),
        met: Vec::new(),
    };
    let mut place = 0;
    while let Some(link) = chain.get(place) {
        let here = place;
        place += 1;
        let is_in_force = match link.is_conditional {
            true => case.fulfilled == Some(here),
            false => !case.is_moved || link.is_initial,
        };
        if !is_in_force || !link.speaks_of(to) {
            continue;
        }
        decided.verdict = match &link.action {
            Action::Goto(target) => {
                decided.jumps.push(here);
                place = *target as usize;
                continue;
            }
            Action::Nop => continue,
            Action::Refuse(refusal) => Verdict::Refused(*refusal),
            Action::L3mdev => Verdict::Vrf,
            // What `fib4_rule_action` (net/ipv4/fib_rules.c) does not know.
            Action::Other(_) => Verdict::Refused(Refusal::Blackhole),
            action @ Action::Lookup { .. } => {
                let Found { met, decides } = tables.look_up(action, to, case.gone);
                decided.met.extend(met);
                match decides {
                    Some(route) => Verdict::Route(route),
                    None => {
                        decided.passed.push(here);
                        continue;
                    }
                }
            }
        };
        decided.by = Some(here);
        return decided;
    }
    // Where its entry has been taken away, the text says that it has to be there before the others go.
    let has_main = chain.iter().any(|link| link.is_initial && link.table() == Some(MAIN));
    if case.is_moved
        && !has_main
        && let Some(route) = tables.route(MAIN, to, case.gone)
    {
        decided.met.push(route);
        decided.verdict = Verdict::Route(route);
    }
    decided
}
