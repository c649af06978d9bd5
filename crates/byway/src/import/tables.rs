//! Looking a destination up in one table, as Linux does: the longest prefix, and of one prefix the smallest metric.

use std::collections::{BTreeSet, HashMap};

use super::policy::{Action, Policy, RouteKind, TableRoute};
use crate::model::Prefix;

/// The routes of all tables, by their destination. Routes that Linux skips are not among them.
#[derive(Debug)]
pub(crate) struct Tables<'a> {
    /// The routes, those of one prefix by their metric.
    routes: HashMap<(u32, Prefix), Vec<&'a TableRoute>>,
    /// The lengths of the prefixes in a table of a family (`true` for IPv4).
    lengths: HashMap<(u32, bool), BTreeSet<u8>>,
    destinations: HashMap<(u32, bool), Vec<Prefix>>,
}

impl<'a> Tables<'a> {
    pub(crate) fn of(policy: &'a Policy) -> Self {
        let mut tables =
            Self { routes: HashMap::new(), lengths: HashMap::new(), destinations: HashMap::new() };
        for route in policy.routes.iter().filter(|route| route.only.is_none() && route.is_alive()) {
            let (to, of) = (route.destination, (route.table, is_ipv4(&route.destination)));
            let same = tables.routes.entry((route.table, to)).or_default();
            if same.is_empty() {
                tables.lengths.entry(of).or_default().insert(to.len());
                tables.destinations.entry(of).or_default().push(to);
            }
            same.push(route);
        }
        tables.routes.values_mut().for_each(|same| same.sort_by_key(|route| route.metric));
        tables
    }

    /// The destinations that a table tells apart.
    pub(crate) fn destinations(&self, table: u32, ipv4: bool) -> &[Prefix] {
        self.destinations.get(&(table, ipv4)).map_or(&[], Vec::as_slice)
    }

    /// The table's route for the addresses of `to` that no longer prefix contains, once these devices are gone.
    pub(crate) fn route(&self, table: u32, to: &Prefix, gone: &[&str]) -> Option<&'a TableRoute> {
        let lengths = self.lengths.get(&(table, is_ipv4(to)))?;
        lengths.range(..=to.len()).rev().find_map(|length| {
            let same = self.routes.get(&(table, Prefix::holding(to.address(), *length)?))?;
            same.iter().find(|route| route.is_there_without(gone)).copied()
        })
    }

    /// What a `lookup` finds, and the route. `None` if the next entry decides.
    pub(crate) fn look_up(&self, action: &Action, to: &Prefix, gone: &[&str]) -> Found<'a> {
        let Action::Lookup { table, suppress_length, suppress_group } = action else {
            return Found::default();
        };
        let Some(route) = self.route(*table, to, gone) else { return Found::default() };
        let is_suppressed = match &route.kind {
            RouteKind::Throw => true,
            // Only what leads somewhere is suppressed (`fib_rules_lookup`, net/core/fib_rules.c).
            RouteKind::Refuse(_) => false,
            kind => {
                let short =
                    suppress_length.is_some_and(|length| u32::from(route.destination.len()) <= length);
                let group = match kind {
                    RouteKind::Unicast(hops) => hops.first().map(|hop| hop.group),
                    _ => None,
                };
                short || (suppress_group.is_some() && *suppress_group == group)
            }
        };
        Found { met: Some(route), decides: (!is_suppressed).then_some(route) }
    }
}

/// What a `lookup` has found.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Found<'a> {
    pub(crate) met: Option<&'a TableRoute>,
    /// The route that the `lookup` found, unless that route was thrown back.
    pub(crate) decides: Option<&'a TableRoute>,
}

/// Whether a prefix is of IPv4.
pub(crate) fn is_ipv4(prefix: &Prefix) -> bool {
    prefix.address().is_ipv4()
}
