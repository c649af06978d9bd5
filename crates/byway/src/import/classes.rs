//! Sources that Linux treats alike, and the rules of Byway that treat them so.
//!
//! The prefixes that the entries of `ip rule` and the routes of their tables name cut all packets into cells: a source
//! and a destination, each without the longer prefixes within. Entries and routes tell no two packets of a cell apart,
//! so Linux decides once for each, whatever the priorities are, and one rule of Byway's for this source and destination
//! says the same. Rules that would only repeat what less specific ones say are not written.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{
    policy::{MAIN, Policy, RouteKind, TableRoute},
    tables::{Tables, is_ipv4},
    target::{Main, target},
    walk::{self, Decided, Link, Verdict},
};
use crate::model::{Prefix, Selector, TargetSpec};

/// Sources with the same entries of `ip rule`, except for the sources that these name.
#[derive(Debug)]
pub(crate) struct Class<'a> {
    /// The class of the next less specific source.
    parent: Option<usize>,
    pub(crate) chain: Vec<Link>,
    /// With the entries that the chain is made of.
    pub(crate) sources: Vec<(Prefix, Vec<usize>)>,
    /// What is written, the shortest destination first.
    pub(crate) cells: Vec<Cell<'a>>,
    said: BTreeMap<Prefix, TargetSpec>,
    /// The routes of main by which packets pass Byway by that Linux has sent elsewhere.
    pub(crate) elsewhere: BTreeMap<Prefix, &'a TableRoute>,
    /// Which places of the chain decide anything.
    pub(crate) deciding: BTreeSet<usize>,
}

/// A rule of Byway's for all sources of a class.
#[derive(Debug)]
pub(crate) struct Cell<'a> {
    pub(crate) to: Prefix,
    pub(crate) decided: Decided<'a>,
    pub(crate) target: TargetSpec,
    pub(crate) remarks: Vec<String>,
}

/// The classes of these entries. A class comes behind those of less specific sources.
pub(crate) fn classes<'a>(
    policy: &'a Policy,
    importable: &[usize],
    tables: &Tables<'a>,
    main: &Main<'a>,
) -> Vec<Class<'a>> {
    let mut by_source = BTreeMap::<(u8, Prefix), Vec<usize>>::new();
    for rule in importable {
        let source = policy.rules[*rule].source;
        by_source.entry((source.len(), source)).or_default().push(*rule);
    }
    let mut classes = Vec::<Class<'a>>::new();
    let mut class_of = HashMap::<Prefix, usize>::new();
    let mut places = HashMap::<(Option<usize>, Vec<Link>), usize>::new();
    for (length, source) in by_source.keys() {
        let around: Vec<Prefix> = (0..=*length)
            .filter_map(|length| Prefix::holding(source.address(), length))
            .filter(|prefix| by_source.contains_key(&(prefix.len(), *prefix)))
            .collect();
        let mut concerned: Vec<usize> =
            around.iter().flat_map(|prefix| &by_source[&(prefix.len(), *prefix)]).copied().collect();
        concerned.sort_unstable();
        let parent = around.iter().rev().find_map(|prefix| class_of.get(prefix)).copied();
        let chain = walk::chain(source, &concerned, &policy.rules);
        let place = *places.entry((parent, chain)).or_insert_with_key(|(parent, chain)| {
            let class = class(*parent, chain, source, tables, main, &classes);
            classes.push(class);
            classes.len() - 1
        });
        classes[place].sources.push((*source, concerned));
        class_of.insert(*source, place);
    }
    classes
}

fn class<'a>(
    parent: Option<usize>,
    chain: &[Link],
    source: &Prefix,
    tables: &Tables<'a>,
    main: &Main<'a>,
    classes: &[Class<'a>],
) -> Class<'a> {
    let mut class = Class {
        parent,
        chain: chain.to_vec(),
        sources: Vec::new(),
        cells: Vec::new(),
        said: BTreeMap::new(),
        elsewhere: BTreeMap::new(),
        deciding: BTreeSet::new(),
    };
    for to in destinations(chain, source, tables) {
        let decided = walk::decide(chain, tables, &to);
        class.deciding.extend(decided.by);
        let past = main.past_attachments(&to);
        if let Some(route) = past
            && !is_same(decided.verdict, route)
        {
            class.elsewhere.insert(route.destination, route);
        }
        let is_asked_for = decided.by.is_some_and(|by| {
            let Link { to: of, is_own, is_initial, .. } = &chain[by];
            *is_own && !is_initial && *of == to
        });
        let (target, remarks) = said_of(decided.verdict, main.route(&to));
        // What Byway does not see needs a rule only where a table says something of its own.
        let is_idle = past.is_some() && !is_of_its_own(decided.verdict);
        if is_asked_for || (!is_idle && target != *inherited(&class, &to, classes)) {
            class.said.insert(to, target.clone());
            class.cells.push(Cell { to, decided, target, remarks });
        }
    }
    class
}

/// The destinations to tell apart, the shortest first.
fn destinations(chain: &[Link], source: &Prefix, tables: &Tables<'_>) -> Vec<Prefix> {
    let ipv4 = is_ipv4(source);
    let looked_up: BTreeSet<u32> = chain.iter().filter_map(Link::table).chain([MAIN]).collect();
    let routes = looked_up.iter().flat_map(|table| tables.destinations(*table, ipv4)).copied();
    let all = Prefix::all_like(source.address());
    let destinations: BTreeSet<(u8, Prefix)> = chain
        .iter()
        .map(|link| link.to)
        .chain(routes)
        .chain([all])
        .filter(|to| Selector::new(*source, Some(*to)).check().is_ok())
        .map(|to| (to.len(), to))
        .collect();
    destinations.into_iter().map(|(_, to)| to).collect()
}

/// What Byway does at this place by the rules so far.
fn inherited<'c>(class: &'c Class<'_>, to: &Prefix, classes: &'c [Class<'_>]) -> &'c TargetSpec {
    let mut class = Some(class);
    while let Some(here) = class {
        let around = (0..=to.len()).rev().filter_map(|length| Prefix::holding(to.address(), length));
        if let Some(target) = around.into_iter().find_map(|prefix| here.said.get(&prefix)) {
            return target;
        }
        class = here.parent.map(|parent| &classes[parent]);
    }
    &TargetSpec::Pass
}

/// What Byway should do: where a table's more specific route is main's as well, leave it to main.
fn said_of(verdict: Verdict<'_>, main: Option<&TableRoute>) -> (TargetSpec, Vec<String>) {
    match main {
        Some(route) if is_of_its_own(verdict) && !route.destination.is_all() && is_same(verdict, route) => {
            (TargetSpec::Pass, Vec::new())
        }
        _ => target(verdict),
    }
}

/// Whether a table other than main says it by a more specific route.
fn is_of_its_own(verdict: Verdict<'_>) -> bool {
    matches!(verdict, Verdict::Route(route) if route.table != MAIN && !route.destination.is_all())
}

/// Whether the verdict is what the main table's route does.
pub(crate) fn is_same(verdict: Verdict<'_>, route: &TableRoute) -> bool {
    match verdict {
        Verdict::Route(other) => other.kind == route.kind,
        Verdict::Refused(refusal) => RouteKind::Refuse(refusal) == route.kind,
        Verdict::Nothing => false,
    }
}
