//! The parts of the text, by the priorities of the entries that they are about.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    classes::{Class, classes},
    comments,
    differences::{Difference, Differences, differences},
    policy::{Action, Policy},
    remark::quote,
    tables::{Tables, is_ipv4},
    target::{Main, target},
    walk::{Case, Verdict, decide},
    without,
};
use crate::{
    model::Prefix,
    model::{OnDown, Selector, TargetSpec},
};

/// A part of the text: a comment, and rules with comments of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Section {
    pub(crate) is_ipv4: bool,
    /// The priority of the first entry that it is about.
    pub(crate) priority: u32,
    pub(crate) comment: Vec<String>,
    pub(crate) rules: Vec<Written>,
}

/// Rules of Byway's that say the same of several sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) comment: Vec<String>,
    pub(crate) from: Vec<Prefix>,
    pub(crate) to: Option<Prefix>,
    pub(crate) target: TargetSpec,
    pub(crate) on_down: OnDown,
    /// The table that the target comes from.
    pub(crate) table: Option<u32>,
    /// The rule is a comment, and not in force.
    pub(crate) is_commented_out: bool,
}

/// What has become of the entries of `ip rule`, besides the three that are always there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) imported: usize,
    pub(crate) left_out: usize,
    pub(crate) without_equivalent: usize,
}

/// All parts, and what has become of the entries.
pub(crate) fn sections(policy: &Policy, tables: &Tables<'_>, main: &Main<'_>) -> (Vec<Section>, Counted) {
    let classes = classes(policy, tables, main);
    let (mut sections, mut counted) = (Vec::new(), Counted::default());
    let mut named = BTreeSet::new();
    let differences: Vec<Differences> =
        (0..classes.len()).map(|place| differences(&classes, place, policy, tables, main)).collect();
    for (class, differences) in classes.iter().zip(&differences) {
        if let Some(section) = of_class(class, &differences.remarks, policy) {
            sections.push(section);
        }
        named.extend(named_by(class));
    }
    let deciding: BTreeSet<usize> = classes
        .iter()
        .flat_map(|class| {
            class.sources.iter().flat_map(|(_, rules)| class.deciding.iter().map(|place| rules[*place]))
        })
        .collect();
    let mut standing_by = BTreeMap::<usize, (&str, bool)>::new();
    for (class, differences) in classes.iter().zip(&differences) {
        for (place, (without, is_same)) in &differences.standing_by {
            for (_, rules) in &class.sources {
                standing_by.entry(rules[*place]).or_insert((without, true)).1 &= is_same;
            }
        }
    }
    for (number, rule) in policy.rules.iter().enumerate().filter(|(_, rule)| !rule.is_initial()) {
        if let Some(why) = without::why(rule) {
            counted.without_equivalent += 1;
            sections.push(alone(number, policy, vec![why]));
        } else if comments::is_main_first(&rule.action) {
            counted.imported += 1;
            sections.push(alone(number, policy, vec![MAIN_FIRST.to_owned()]));
        } else if !deciding.contains(&number) {
            match standing_by.get(&number) {
                Some((without, true)) => {
                    counted.imported += 1;
                    sections.push(alone(number, policy, vec![stood_in_for(without)]));
                }
                Some((without, false)) => {
                    counted.left_out += 1;
                    sections.push(alone(number, policy, vec![standby(without)]));
                }
                None => {
                    counted.left_out += 1;
                    sections.push(left_out(number, policy, tables, &classes));
                }
            }
        } else {
            counted.imported += 1;
            if !named.contains(&number) {
                sections.push(alone(number, policy, vec![REPEATED.to_owned()]));
            }
        }
    }
    sections.sort_by_key(|section| (!section.is_ipv4, section.priority));
    (sections, counted)
}

const MAIN_FIRST: &str = "Main's routes come first, and only what they have no more specific route for goes on to the \
                          entries below. So it is with Byway: what main routes past the attachments, Byway does not \
                          see. Where main's routes lead out of an attachment, rules with target = \"pass\" say so.";

const FOR_NONE: &str = "Left out: it is for no packet that Byway's rules may speak about.";

const REPEATED: &str = "No rule of its own: for the packets for which it decides, the other rules here and main's \
                        routes say the same.";

fn stood_in_for(without: &str) -> String {
    format!(
        "Linux gets to it without {without}. No rule of its own: the rules here and main's routes do the same then."
    )
}

fn standby(without: &str) -> String {
    format!(
        "Left out: Linux gets to it only without {without}. The remarks that name it say what Byway does then."
    )
}

/// The entries that the comments of the class's rules name.
fn named_by<'c>(class: &'c Class<'_>) -> impl Iterator<Item = usize> + 'c {
    let places = class.cells.iter().filter_map(|cell| cell.decided.by);
    places.flat_map(|place| class.sources.iter().map(move |(_, rules)| rules[place]))
}

fn of_class(class: &Class<'_>, differences: &[Difference], policy: &Policy) -> Option<Section> {
    let (first, _) = class.sources.first()?;
    // Where it stands in `ip rule`, or at least where the first stands that names these sources.
    let is_own = |place: &usize| class.chain[*place].is_own && !class.chain[*place].is_initial;
    let deciding = class.cells.first().and_then(|cell| cell.decided.by).filter(is_own);
    let place = deciding.or_else(|| (0..class.chain.len()).find(is_own)).unwrap_or_default();
    let priorities = class.sources.iter().map(|(_, rules)| policy.rules[rules[place]].priority);
    let priority = priorities.min().unwrap_or_default();
    let from: Vec<Prefix> = class.sources.iter().map(|(source, _)| *source).collect();
    let written = |cell: &super::classes::Cell<'_>| Written {
        comment: comments::of_cell(class, cell, differences, policy),
        from: from.clone(),
        to: Selector::new(*first, Some(cell.to)).destination(),
        target: cell.said.target.clone(),
        on_down: cell.said.on_down,
        table: match cell.decided.verdict {
            Verdict::Route(route) => Some(route.table),
            _ => None,
        },
        is_commented_out: false,
    };
    let mut rules: Vec<Written> = class.cells.iter().map(written).collect();
    if let Some(first) = rules.first_mut() {
        first.comment.extend(comments::of_tables(class, policy));
        first.comment.extend(comments::elsewhere(class));
    }
    let comment = comments::without_rule(class, differences);
    let says_something = !comment.is_empty() || !rules.is_empty();
    says_something.then(|| Section { is_ipv4: is_ipv4(first), priority, comment, rules })
}

/// A comment on one entry.
fn alone(number: usize, policy: &Policy, said: Vec<String>) -> Section {
    let rule = &policy.rules[number];
    let quoted = quote(&rule.text(&policy.names));
    Section {
        is_ipv4: is_ipv4(&rule.source),
        priority: rule.priority,
        comment: [quoted].into_iter().chain(said).collect(),
        rules: Vec::new(),
    }
}

/// An entry that decides nothing, with the rule that it would have been.
fn left_out(number: usize, policy: &Policy, tables: &Tables<'_>, classes: &[Class<'_>]) -> Section {
    let rule = &policy.rules[number];
    let place_in = |class: &Class<'_>| {
        let (_, rules) = class.sources.iter().find(|(source, _)| *source == rule.source)?;
        rules.iter().position(|it| *it == number)
    };
    let found = classes.iter().find_map(|class| place_in(class).map(|place| (class, place)));
    let mut section = alone(number, policy, Vec::new());
    let Some((class, place)) = found else {
        section.comment.push(FOR_NONE.to_owned());
        return section;
    };
    let to = class.chain[place].to;
    let decided = decide(&class.chain, tables, &to, Case::default());
    section.comment.push(comments::left_out(class, &decided, place, policy));
    if let Some(table) = rule.action.table() {
        section.comment.extend(comments::of_table(table, policy));
    }
    let verdict = match &rule.action {
        Action::Refuse(refusal) => Some(Verdict::Refused(*refusal)),
        action => tables.look_up(action, &rule.destination, &[]).decides.map(Verdict::Route),
    };
    if let Some(verdict) = verdict.filter(|_| !rule.is_inverted()) {
        section.rules.push(Written {
            comment: Vec::new(),
            from: vec![rule.source],
            to: Selector::new(rule.source, Some(rule.destination)).destination(),
            target: target(verdict).0,
            on_down: OnDown::Pass,
            table: rule.action.table(),
            is_commented_out: true,
        });
    }
    section
}
