//! The whole state, with the rules one by one.

use std::time::Duration;

use serde::{
    Serialize, Serializer,
    ser::{Error as _, SerializeSeq, SerializeStruct},
};

use super::{
    lookup::{Lookup, Order, RefCounts},
    order::Place,
    status::{
        Attachment, GroupStatus, NextHopStatus, RuleStatus, Status, attachments, next_hop_status,
        rule_status, whole_seconds,
    },
};
use crate::{
    error::Result,
    kernel::{network::Network, pins::Pins, snapshot::read_consistent},
    model::{Selection, Selector},
};

/// The most rules that a listing reads at once.
const FEW: usize = 1_000;

/// The whole state, as in [`Status`], but with the rules one by one, so each of many rules takes only some 20 bytes. Its JSON
/// is the same as that of a [`Status`].
///
/// Up to 1,000 rules are a snapshot of one instant. If there are more, it reads each rule when it is due: a rule that someone
/// adds, replaces or deletes after [`Byway::listing`](crate::Byway::listing) may be missing. No rule appears twice.
///
/// Any thread may read the rules, in whatever network namespace: they are those of the namespace of the listing.
#[derive(Default)]
pub struct Listing {
    /// The devices that carry a program, by name.
    pub attachments: Vec<Attachment>,
    /// The named groups, by name.
    pub groups: Vec<GroupStatus>,
    /// The next hops of all rules and groups.
    pub next_hops: Vec<NextHopStatus>,
    /// How long the last apply still waits to be confirmed, if it does. Zero if it is overdue.
    pub unconfirmed: Option<Duration>,
    rules: Vec<RuleStatus>,
    rule_count: usize,
    /// Used instead of `rules` if there are many.
    many: Option<Many>,
}

/// Rules that are read when they are due.
struct Many {
    pins: Pins,
    lookup: Lookup,
    order: Order,
}

impl Listing {
    /// Returns the rules, by source and destination, with their counters.
    ///
    /// # Errors
    ///
    /// Those of the kernel.
    pub fn rules(&self) -> impl Iterator<Item = Result<RuleStatus>> {
        let few = self.rules.iter().cloned().map(Ok);
        let many = self.many.iter().flat_map(|many| rules(&many.pins, &many.lookup, &many.order));
        few.chain(many)
    }

    /// Returns how many rules there are, chosen or not.
    pub fn rule_count(&self) -> usize {
        self.rule_count
    }

    /// Keeps only the rules that a selection chooses, in its order. Goes through them once. A listing knows no rates: sorted by
    /// these, rules stay in their order.
    ///
    /// # Errors
    ///
    /// Those of the kernel.
    pub fn select(&mut self, selection: &Selection) -> Result<()> {
        let few = std::mem::take(&mut self.rules);
        let positions = selection.positions(few.iter().cloned().enumerate().map(Ok), &self.groups)?;
        self.rules = chosen(&few, &positions);
        if let Some(Many { pins, lookup, order }) = &mut self.many {
            let placed = order.places.iter().enumerate();
            let rules = placed.filter_map(|(position, place)| {
                rule_at(pins, lookup, order, place).transpose().map(|rule| Ok((position, rule?)))
            });
            let positions = selection.positions(rules, &self.groups)?;
            order.places = chosen(&order.places, &positions);
        }
        Ok(())
    }
}

impl std::fmt::Debug for Listing {
    /// Without the rules.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { attachments, groups, next_hops, .. } = self;
        f.debug_struct("Listing")
            .field("attachments", attachments)
            .field("groups", groups)
            .field("next_hops", next_hops)
            .finish_non_exhaustive()
    }
}

impl Serialize for Listing {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut all = serializer.serialize_struct("Listing", 5)?;
        all.serialize_field("attachments", &self.attachments)?;
        all.serialize_field("groups", &self.groups)?;
        all.serialize_field("nexthops", &self.next_hops)?;
        if let Some(left) = self.unconfirmed {
            all.serialize_field("seconds_to_confirm", &whole_seconds(left))?;
        }
        all.serialize_field("rules", &Rules(self))?;
        all.end()
    }
}

/// The rules of a listing as a sequence.
struct Rules<'a>(&'a Listing);

impl Serialize for Rules<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut all = serializer.serialize_seq(None)?;
        for rule in self.0.rules() {
            all.serialize_element(&rule.map_err(S::Error::custom)?)?;
        }
        all.end()
    }
}

fn chosen<T: Clone>(all: &[T], positions: &[usize]) -> Vec<T> {
    positions.iter().map(|position| all[*position].clone()).collect()
}

/// Reads the whole state; of many rules, only where they are.
pub(crate) fn read(pins: Pins, network: &mut Network) -> Result<Listing> {
    let (mut listing, lookup, order) = read_consistent(Some(&pins), || read_up_to(FEW, &pins, network))?;
    if order.places.len() > FEW {
        listing.many = Some(Many { pins, lookup, order });
    }
    Ok(listing)
}

/// Reads the whole state.
pub(crate) fn status(pins: Pins, network: &mut Network) -> Result<Status> {
    let (listing, ..) = read_consistent(Some(&pins), || read_up_to(usize::MAX, &pins, network))?;
    let Listing { attachments, groups, next_hops, rules, .. } = listing;
    Ok(Status { attachments, rules, groups, next_hops, unconfirmed: None })
}

/// Reads the rule for exactly these packets, if there is one.
pub(crate) fn rule(pins: &Pins, network: &mut Network, selector: &Selector) -> Result<Option<RuleStatus>> {
    read_consistent(Some(pins), || {
        let Some((id, record)) = pins.tables.rule_of(selector)? else { return Ok(None) };
        let lookup = Lookup::read(&pins.tables, network)?;
        Ok(rule_status(&lookup, &record, pins.tables.rule_counters(id, true)?))
    })
}

/// Reads the state, including the rules if there are no more than this.
fn read_up_to(at_once: usize, pins: &Pins, network: &mut Network) -> Result<(Listing, Lookup, Order)> {
    let lookup = Lookup::read(&pins.tables, network)?;
    let (order, uses) = Order::read(&pins.tables)?;
    let links = &lookup.links;
    let listing = Listing {
        attachments: attachments(pins, network, links)?,
        groups: groups(&lookup, &uses),
        next_hops: lookup
            .next_hops(&uses)
            .into_iter()
            .map(|(next_hop, slot, user)| next_hop_status(&pins.tables, links, next_hop, slot, user))
            .collect::<Result<_>>()?,
        rules: match order.places.len() <= at_once {
            true => rules(pins, &lookup, &order).collect::<Result<_>>()?,
            false => Vec::new(),
        },
        rule_count: order.places.len(),
        unconfirmed: None,
        many: None,
    };
    Ok((listing, lookup, order))
}

fn groups(lookup: &Lookup, uses: &RefCounts) -> Vec<GroupStatus> {
    lookup.groups(uses).into_iter().map(|(group, rules)| GroupStatus { group, rules }).collect()
}

/// Reads the rules in this order, without those that are gone.
fn rules<'a>(
    pins: &'a Pins,
    lookup: &'a Lookup,
    order: &'a Order,
) -> impl Iterator<Item = Result<RuleStatus>> + 'a {
    order.places.iter().filter_map(|place| rule_at(pins, lookup, order, place).transpose())
}

/// Reads a rule, if it is still there.
fn rule_at(pins: &Pins, lookup: &Lookup, order: &Order, place: &Place) -> Result<Option<RuleStatus>> {
    let rule = order.rule(&pins.tables, place)?;
    Ok(rule.and_then(|(record, done)| rule_status(lookup, &record, done)))
}
