//! The sentences that stand at the rules: which entry of `ip rule` each comes from, and what is not the same.

use super::{
    classes::{Cell, Class},
    differences::Difference,
    policy::{Action, LOCAL, MAIN, Policy, PolicyRule, TableRoute},
    remark::{DIFFERS, quote, some_of},
    target,
    walk::{Decided, Verdict},
    without,
};
use crate::model::TargetSpec;

/// The comment above the rule of a cell. `differences` are those of its class.
pub(crate) fn of_cell(
    class: &Class<'_>,
    cell: &Cell<'_>,
    differences: &[Difference],
    policy: &Policy,
) -> Vec<String> {
    let mut lines = origin(class, cell, policy);
    lines.extend(cell.remarks.iter().cloned());
    lines.extend(target::off_link(&cell.said.target, policy));
    if let Verdict::Route(TableRoute { table, preferred_source: Some(source), .. }) = cell.decided.verdict
        && *table != MAIN
        && class.sources.iter().any(|(source, _)| source.is_all())
    {
        lines.push(format!(
            "{DIFFERS}the route has `src {source}`: programs that bind to no address used this one, and now use the one \
             of main's route."
        ));
    }
    let of_rule = differences.iter().filter(|difference| difference.rule == Some(cell.to));
    lines.extend(of_rule.map(|difference| difference.remark.clone()));
    lines
}

/// Remarks for packets that none of the class's own rules matches.
pub(crate) fn without_rule(class: &Class<'_>, differences: &[Difference]) -> Vec<String> {
    let remarks = differences.iter().filter(|difference| difference.rule.is_none());
    let mut lines: Vec<String> = remarks.map(|difference| difference.remark.clone()).collect();
    if class.cells.is_empty() {
        lines.extend(elsewhere(class));
    }
    if !lines.is_empty() {
        let from = class.sources.iter().map(|(source, _)| source.to_string()).collect();
        lines
            .insert(0, format!("For packets from {} that no rule for these sources matches:", some_of(from)));
    }
    lines
}

fn origin(class: &Class<'_>, cell: &Cell<'_>, policy: &Policy) -> Vec<String> {
    let Some(by) = cell.decided.by else {
        let passed = cell.decided.passed.iter().map(|place| class.entries(*place, policy).join(", "));
        let passed = passed.collect::<Vec<_>>().join(", ");
        let then = if cell.said.target == TargetSpec::Pass { ": left to main." } else { "." };
        return vec![format!("No entry has a route there ({passed}){then}")];
    };
    let link = &class.chain[by];
    let deciding = class.entries(by, policy);
    if link.is_own && link.to == cell.to {
        return deciding;
    }
    let named = deciding.join(", ");
    match cell.decided.verdict {
        Verdict::Route(route) if route.destination == cell.to && route.table != MAIN => {
            let table = policy.names.name(route.table);
            let then = if cell.said.target == TargetSpec::Pass && cell.remarks.is_empty() {
                ", and so has main: left to main's routes."
            } else {
                "."
            };
            vec![format!("For {named}: table {table} has `{}`{then}", route.text())]
        }
        Verdict::Route(route) if route.destination == cell.to && !cell.to.is_all() => {
            vec![format!("For {named}: main has `{}`, and main comes first there.", route.text())]
        }
        _ => vec![behind(class, cell, by, &named, policy)],
    }
}

/// Why this entry decides, and not the one that Byway's own order would have chosen.
fn behind(class: &Class<'_>, cell: &Cell<'_>, by: usize, named: &str, policy: &Policy) -> String {
    let of_source = |place: &usize| class.chain[*place].is_own && class.chain[*place].to.covers(&cell.to);
    let later = (by + 1..class.chain.len())
        .find(|place| of_source(place) && !class.chain[by].is_own && !class.chain[*place].is_initial);
    let earlier = cell.decided.passed.iter().find(|place| of_source(place));
    if let Some(earlier) = earlier {
        let earlier = class.entries(*earlier, policy).join(", ");
        return format!("{earlier} has no route there, or a `throw` route, so the next one decides: {named}");
    }
    match later {
        Some(later) => {
            let later = class.entries(later, policy).join(", ");
            format!(
                "{named} comes before {later}, and Linux takes the first. Byway takes the more specific source \
                 first, so this rule repeats it for that source."
            )
        }
        None => match not_for(class, cell, policy) {
            Some(inverted) => {
                format!("{inverted} leaves these packets out, so the next one decides: {named}")
            }
            None => format!("Decided by {named}"),
        },
    }
}

/// An entry for all packets but these.
fn not_for(class: &Class<'_>, cell: &Cell<'_>, policy: &Policy) -> Option<String> {
    let (source, _) = class.sources.first()?;
    let is_it = |rule: &&PolicyRule| {
        let covers = rule.source.covers(source) && rule.destination.covers(&cell.to);
        covers && rule.is_inverted() && without::is_followed(rule)
    };
    policy.rules.iter().find(is_it).map(|rule| quote(&rule.text(&policy.names)))
}

/// The remark on packets that Byway never sees.
pub(crate) fn elsewhere(class: &Class<'_>) -> Option<String> {
    if class.elsewhere.is_empty() {
        return None;
    }
    let routes = class.elsewhere.values().map(|route| format!("`{}`", route.text())).collect();
    Some(format!(
        "{DIFFERS}packets that main routes past the attachments ({}) followed the entries here, too, and follow main's \
         routes once the entries are gone. If you do not want that, name the devices of these routes in `attach`.",
        some_of(routes)
    ))
}

/// Remarks on the tables that a class's own entries look up: routes that are out of service, and routes for some packets only.
pub(crate) fn of_tables(class: &Class<'_>, policy: &Policy) -> Vec<String> {
    let mut tables: Vec<u32> = class
        .chain
        .iter()
        .filter(|link| link.is_own && !link.is_initial)
        .filter_map(|link| link.table().filter(|table| *table != MAIN))
        .collect();
    tables.sort_unstable();
    tables.dedup();
    tables.into_iter().flat_map(|table| of_table(table, policy)).collect()
}

/// The remarks on one table.
pub(crate) fn of_table(table: u32, policy: &Policy) -> Vec<String> {
    let name = policy.names.name(table);
    let texts = |wanted: fn(&TableRoute) -> bool| -> Vec<String> {
        let routes = policy.routes.iter().filter(|route| route.table == table && wanted(route));
        routes.map(|route| format!("`{}`", route.text())).collect()
    };
    let mut lines = Vec::new();
    let dead = texts(|route| !route.is_alive());
    if !dead.is_empty() {
        lines.push(format!(
            "Table {name} has routes that are out of service now, and Linux skips them: {}. Import again once they are back.",
            some_of(dead)
        ));
    }
    let only = texts(|route| route.only.is_some());
    if !only.is_empty() {
        lines.push(format!(
            "{DIFFERS}table {name} has routes for some packets only, which have no equivalent here: {}.",
            some_of(only)
        ));
    }
    lines
}

/// Why an entry that decides nothing is left out. `place` is its place in the chain of its class.
pub(crate) fn left_out(class: &Class<'_>, decided: &Decided<'_>, place: usize, policy: &Policy) -> String {
    let link = &class.chain[place];
    let passed = &decided.passed;
    match decided.by {
        _ if link.table() == Some(LOCAL) => {
            "Nothing to import here, but keep it: the host needs it to look up its own addresses.".to_owned()
        }
        Some(by) if by < place => {
            let other = class.entries(by, policy).join(", ");
            let first = &class.chain[by];
            let how = match first.is_own && first.to == link.to {
                true => "matches the same packets and comes first",
                false => "comes first and decides for all its packets",
            };
            format!("Left out, because Linux never gets to it: {other} {how}.")
        }
        _ if !passed.contains(&place) => {
            "Left out, because Linux never gets to it: a `goto` jumps over it.".to_owned()
        }
        _ => {
            let name = link.table().map(|table| policy.names.name(table)).unwrap_or_default();
            format!("Left out: no route of table {name} decides for its packets, so the next entry does.")
        }
    }
}

/// Whether it is the idiom of VPNs: main's more specific routes first.
pub(crate) fn is_main_first(action: &Action) -> bool {
    matches!(action, Action::Lookup { table: MAIN, suppress_length: Some(_), suppress_group: None })
}
