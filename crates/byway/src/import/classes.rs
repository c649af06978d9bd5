//! Sources that Linux treats alike, and the rules of Byway that treat them so.
//!
//! The prefixes that the entries of `ip rule` and the routes of their tables name cut all packets into cells: a source
//! and a destination, each without the longer prefixes within. Entries and routes tell no two packets of a cell apart,
//! so Linux decides once for each, whatever the priorities are, and one rule of Byway's for this source and destination
//! says the same. Rules that would only repeat what less specific ones say are not written.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    iter,
};

use super::{
    policy::{MAIN, Policy, RouteKind, TableRoute},
    remark::{NAMED, quote, some_of},
    tables::{Tables, is_ipv4},
    target::{self, Leads, Main, target},
    walk::{self, Case, Decided, Link, Verdict},
    without,
};
use crate::{
    model::Prefix,
    model::{OnDown, Selector, TargetSpec},
};

/// Sources with the same entries of `ip rule`, except for the sources that these name.
#[derive(Debug)]
pub(crate) struct Class<'a> {
    /// The class of the next less specific source.
    parent: Option<usize>,
    pub(crate) chain: Vec<Link>,
    /// With the entries that the chain is made of.
    pub(crate) sources: Vec<(Prefix, Vec<usize>)>,
    /// The rules to write, the shortest destination first.
    pub(crate) cells: Vec<Cell<'a>>,
    said: BTreeMap<Prefix, Said>,
    /// The destinations that are told apart, the shortest first.
    pub(crate) destinations: Vec<Prefix>,
    /// Main's routes past the attachments, for packets that Linux has sent elsewhere so far.
    pub(crate) elsewhere: BTreeMap<Prefix, &'a TableRoute>,
    /// Which places of the chain decide anything.
    pub(crate) deciding: BTreeSet<usize>,
}

/// What Byway does with packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) target: TargetSpec,
    pub(crate) on_down: OnDown,
}

impl Said {
    /// What Byway does with packets that no rule matches.
    pub(crate) const NOTHING: Self = Self { target: TargetSpec::Pass, on_down: OnDown::Pass };
}

/// A rule of Byway's for all sources of a class.
#[derive(Debug)]
pub(crate) struct Cell<'a> {
    pub(crate) to: Prefix,
    pub(crate) decided: Decided<'a>,
    pub(crate) said: Said,
    pub(crate) remarks: Vec<String>,
}

/// The classes of all entries. A class comes behind those of less specific sources.
pub(crate) fn classes<'a>(policy: &'a Policy, tables: &Tables<'a>, main: &Main<'a>) -> Vec<Class<'a>> {
    let mut told_apart = BTreeSet::<(u8, Prefix)>::new();
    for rule in policy.rules.iter().filter(|rule| without::is_followed(rule)) {
        let all = Prefix::all_like(rule.source.address());
        // What `not from` leaves out differs from all others.
        let sources = if rule.is_inverted() { vec![all, rule.source] } else { vec![rule.source] };
        let may_be_spoken_of = |source: &Prefix| Selector::new(*source, None).check().is_ok();
        told_apart.extend(sources.into_iter().filter(may_be_spoken_of).map(|source| (source.len(), source)));
    }
    let mut classes = Vec::<Class<'a>>::new();
    let mut class_of = HashMap::<Prefix, usize>::new();
    let mut places = HashMap::<(Option<usize>, Vec<Link>), usize>::new();
    for (length, source) in &told_apart {
        let mut around = (0..*length).rev().filter_map(|length| Prefix::holding(source.address(), length));
        let parent = around.find_map(|prefix| class_of.get(&prefix)).copied();
        let is_told_apart = |prefix: &Prefix| told_apart.contains(&(prefix.len(), *prefix));
        let concerned = walk::concerned(source, is_told_apart, policy);
        let chain = walk::chain(source, &concerned, policy);
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
        destinations: Vec::new(),
        elsewhere: BTreeMap::new(),
        deciding: BTreeSet::new(),
    };
    class.destinations = destinations(&class, source, tables, classes);
    for to in class.destinations.clone() {
        let decided = walk::decide(chain, tables, &to, Case::default());
        class.deciding.extend(decided.by);
        let past = main.past_attachments(&to);
        if let Some(route) = past
            && !is_same(decided.verdict, route)
        {
            class.elsewhere.insert(route.destination, route);
        }
        let is_asked_for = decided.by.is_some_and(|by| {
            let Link { to: of, except, is_own, is_initial, .. } = &chain[by];
            *is_own && !is_initial && *of == to && except.is_none()
        });
        let (said, remarks) = said_of(&decided, chain, tables, main, &to);
        // Packets that Byway does not see need a rule in three cases only: a table has a route of its own for them, none may leak
        // once main's route is gone, or they are an exception to that.
        let is_idle = past.is_some()
            && said.target != TargetSpec::Drop
            && class.said(&to, classes).target != TargetSpec::Drop
            && said.on_down != OnDown::Drop
            && !is_of_its_own(decided.verdict)
            && main.leads(decided.verdict, &[]) == Leads::Past;
        if is_asked_for || (!is_idle && said != *class.said(&to, classes)) {
            class.said.insert(to, said.clone());
            class.cells.push(Cell { to, decided, said, remarks });
        }
    }
    class
}

impl Class<'_> {
    /// What Byway does with packets to a destination, by the rules so far.
    pub(crate) fn said<'c>(&'c self, to: &Prefix, classes: &'c [Class<'_>]) -> &'c Said {
        let mut class = Some(self);
        while let Some(here) = class {
            if let Some(prefix) = here.rule_for(to) {
                return &here.said[&prefix];
            }
            class = here.parent.map(|parent| &classes[parent]);
        }
        &Said::NOTHING
    }

    /// The destination of the class's own rule for packets to a destination.
    pub(crate) fn rule_for(&self, to: &Prefix) -> Option<Prefix> {
        let mut around = (0..=to.len()).rev().filter_map(|length| Prefix::holding(to.address(), length));
        around.find(|prefix| self.said.contains_key(prefix))
    }

    /// The entries at a place of the chain, in quotes. There is one for each source.
    pub(crate) fn entries(&self, place: usize, policy: &Policy) -> Vec<String> {
        let mut rules: Vec<usize> = self.sources.iter().map(|(_, rules)| rules[place]).collect();
        rules.sort_unstable();
        rules.dedup();
        let more = rules.len().saturating_sub(NAMED);
        let quoted = rules.iter().take(NAMED).map(|rule| quote(&policy.rules[*rule].text(&policy.names)));
        let mut texts: Vec<String> = quoted.collect();
        if more > 0 {
            texts.push(format!("and {more} more that say the same for other sources"));
        }
        texts
    }
}

/// The destinations to tell apart, the shortest first.
fn destinations(
    class: &Class<'_>,
    source: &Prefix,
    tables: &Tables<'_>,
    classes: &[Class<'_>],
) -> Vec<Prefix> {
    let chain = &class.chain;
    let parents = iter::successors(class.parent, |parent| classes[*parent].parent);
    let inherited = parents.flat_map(|parent| classes[parent].said.keys()).copied();
    let ipv4 = is_ipv4(source);
    let looked_up: BTreeSet<u32> = chain.iter().filter_map(Link::table).chain([MAIN]).collect();
    let routes = looked_up.iter().flat_map(|table| tables.destinations(*table, ipv4)).copied();
    let all = Prefix::all_like(source.address());
    let destinations: BTreeSet<(u8, Prefix)> = chain
        .iter()
        .flat_map(|link| [Some(link.to), link.except])
        .flatten()
        .chain(routes)
        .chain(inherited)
        .chain([all])
        .filter(|to| Selector::new(*source, Some(*to)).check().is_ok())
        .map(|to| (to.len(), to))
        .collect();
    destinations.into_iter().map(|(_, to)| to).collect()
}

/// What Byway should do. If main has a table's more specific route as well, it is left to main.
fn said_of(
    decided: &Decided<'_>,
    chain: &[Link],
    tables: &Tables<'_>,
    main: &Main<'_>,
    to: &Prefix,
) -> (Said, Vec<String>) {
    let verdict = decided.verdict;
    let is_mains = main.route(to).is_some_and(|route| {
        is_of_its_own(verdict) && !route.destination.is_all() && is_same(verdict, route)
    });
    let without = |gone: &[&str], is_moved| {
        walk::decide(chain, tables, to, Case { gone, is_moved, fulfilled: None }).verdict.is_nowhere()
    };
    if main.past_attachments(to).is_some_and(|past| is_same(verdict, past)) {
        let devices = main.devices_past_attachments(to);
        let case = Case { gone: &devices, is_moved: true, fulfilled: None };
        let moved = walk::decide(chain, tables, to, case).verdict;
        if without(&devices, false) && main.leads(moved, &devices) != Leads::Past {
            let names = devices.iter().map(|device| quote(device)).collect();
            let remark = format!(
                "Byway sees these packets only without {}. Linux sends them nowhere then, and so does this rule.",
                some_of(names)
            );
            return (Said { target: TargetSpec::Drop, on_down: OnDown::Pass }, vec![remark]);
        }
    }
    if is_mains || (matches!(verdict, Verdict::Nothing) && without(&[], true)) {
        return (Said::NOTHING, Vec::new());
    }
    let (target, remarks) = target(verdict);
    let devices: Vec<&str> =
        target::next_hops(&target).iter().filter_map(|next_hop| next_hop.device()).collect();
    // Nothing leaves without these devices, and nothing should by main's routes.
    let is_kill_switch = !devices.is_empty() && without(&devices, false) && !without(&devices, true);
    let on_down = if is_kill_switch { OnDown::Drop } else { OnDown::Pass };
    (Said { target, on_down }, remarks)
}

/// Whether a more specific route of a table other than main decides.
fn is_of_its_own(verdict: Verdict<'_>) -> bool {
    matches!(verdict, Verdict::Route(route) if route.table != MAIN && !route.destination.is_all())
}

/// Whether the verdict is what the main table's route does.
pub(crate) fn is_same(verdict: Verdict<'_>, route: &TableRoute) -> bool {
    match verdict {
        Verdict::Route(other) => other.kind == route.kind,
        Verdict::Refused(refusal) => RouteKind::Refuse(refusal) == route.kind,
        Verdict::Vrf | Verdict::Nothing => false,
    }
}
