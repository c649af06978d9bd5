//! Where Byway does not do what Linux did, at each step of the move. Packets may meet the conditions of entries that have no
//! rule, and devices may go.
//!
//! Each cell is decided again in every such case: packets that meet the conditions of one entry, or of none; without each
//! device that a route on the way leads out of, or with all of them. Devices of other routes change nothing. If packets meet
//! the conditions of several entries, one of these decides, and it would decide alone as well.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    classes::{Class, Said, is_same},
    policy::{Action, MAIN, Policy, RouteKind, TableRoute},
    remark::{DIFFERS, quote, some_of},
    tables::Tables,
    target::{Leads, Main, devices, next_hops},
    walk::{Case, Decided, Verdict, decide},
};
use crate::{
    model::Prefix,
    model::{MemberSpec, OnDown, TargetSpec, WEIGHT_MAX},
};

/// Where Byway and Linux differ for the packets of a class.
#[derive(Debug)]
pub(crate) struct Differences {
    pub(crate) remarks: Vec<Difference>,
    /// The places of the chain that decide only while devices are gone: which devices, and whether Byway does the same then.
    pub(crate) standing_by: BTreeMap<usize, (String, bool)>,
}

/// A remark on packets for which Byway does not do what Linux did.
#[derive(Debug)]
pub(crate) struct Difference {
    /// The destination of the rule that decides for them, if it is one of the class. A rule of a less specific source may decide.
    pub(crate) rule: Option<Prefix>,
    pub(crate) remark: String,
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate<'a> {
    Nowhere,
    /// To next hops with these weights.
    Leaves(Vec<(Option<IpAddr>, &'a str, u16)>),
    /// By a route that Byway's next hops cannot express.
    Foreign(&'a TableRoute),
    Vrf,
    /// One of two things: some of the packets leave by an attachment.
    Either,
}

/// Finds the differences of the class at this place.
pub(crate) fn differences<'a>(
    classes: &[Class<'a>],
    place: usize,
    policy: &Policy,
    tables: &Tables<'a>,
    main: &Main<'a>,
) -> Differences {
    let class = &classes[place];
    let mut remarks = BTreeMap::<(Option<Prefix>, String), Vec<Prefix>>::new();
    let mut standing_by = BTreeMap::<usize, (String, bool)>::new();
    for to in class.destinations.iter().copied() {
        let rule = class.rule_for(&to);
        let here = Here { class, said: class.said(&to, classes), to, policy, tables, main };
        here.find(&mut |remark| remarks.entry((rule, remark)).or_default().push(to), &mut standing_by);
    }
    let said = remarks.into_iter().map(|((rule, remark), to)| {
        let remark = match rule.is_some_and(|rule| to.contains(&rule)) || to.iter().any(Prefix::is_all) {
            true => format!("{DIFFERS}{remark}"),
            false => {
                let to = to.iter().map(Prefix::to_string).collect();
                format!("{DIFFERS}to {}: {remark}", some_of(to))
            }
        };
        Difference { rule, remark }
    });
    Differences { remarks: said.chain(jumps(class, policy)).collect(), standing_by }
}

/// Remarks on jumps that only some packets make, and on jumps over entries that stay.
fn jumps(class: &Class<'_>, policy: &Policy) -> Vec<Difference> {
    let rule = class.cells.first().map(|cell| cell.to);
    let quoted = |place: usize| class.entries(place, policy).join(", ");
    let mut found = Vec::new();
    for (place, link) in class.chain.iter().enumerate() {
        let Action::Goto(target) = link.action else { continue };
        let over = class.chain.iter().enumerate().take(target as usize).skip(place + 1);
        let over = over.filter(|(_, over)| over.is_conditional && !link.is_conditional).map(|(over, _)| over);
        let remark = match (link.is_conditional, over.map(&quoted).collect::<Vec<_>>()) {
            (true, _) => format!(
                "{DIFFERS}{} jumps over entries for some packets, and Byway treats all packets alike. If there are such \
                 packets, keep the entries from there to the target of the jump, and leave out the rules for them.",
                quoted(place)
            ),
            (false, over) if over.is_empty() => continue,
            (false, over) => format!(
                "{DIFFERS}once the entries are gone, nothing jumps over {} as {} does. If there are packets that it \
                 matches, keep the entry that jumps, and the target of the jump.",
                some_of(over),
                quoted(place)
            ),
        };
        found.push(Difference { rule, remark });
    }
    found
}

/// The packets of a class to a destination.
struct Here<'x> {
    class: &'x Class<'x>,
    said: &'x Said,
    to: Prefix,
    policy: &'x Policy,
    tables: &'x Tables<'x>,
    main: &'x Main<'x>,
}

/// What Linux decides for some packets once some devices are gone: with the entries in place, and without them.
struct Outcome<'x> {
    gone: Vec<&'x str>,
    fulfilled: Option<usize>,
    there: Decided<'x>,
    moved: Decided<'x>,
}

impl<'x> Here<'x> {
    fn decide(&self, gone: Vec<&'x str>, fulfilled: Option<usize>) -> Outcome<'x> {
        let decide = |is_moved| {
            decide(&self.class.chain, self.tables, &self.to, Case { gone: &gone, fulfilled, is_moved })
        };
        let (there, moved) = (decide(false), decide(true));
        Outcome { gone, fulfilled, there, moved }
    }

    fn find(&self, differs: &mut impl FnMut(String), standing_by: &mut BTreeMap<usize, (String, bool)>) {
        let now = self.decide(Vec::new(), None);
        let is_unsaid = self.is_unsaid(&now);
        if !is_unsaid {
            self.compare(&now, &now).into_iter().for_each(&mut *differs);
        }
        for gone in self.may_go(&now) {
            let without = self.decide(gone, None);
            if is_unsaid {
                continue;
            }
            let found = self.compare(&now, &without);
            if let Some(by) = without.there.by.filter(|by| !self.class.deciding.contains(by)) {
                let (_, is_same) = standing_by.entry(by).or_insert_with(|| (names(&without.gone), true));
                *is_same &= found.is_none();
            }
            found.into_iter().for_each(&mut *differs);
        }
        for (place, link) in self.class.chain.iter().enumerate() {
            if !link.is_conditional || matches!(link.action, Action::Goto(_)) || !link.speaks_of(&self.to) {
                continue;
            }
            // Packets for which it does not decide are like those that do not fulfil its conditions.
            let compare = |case: &Outcome<'x>| {
                let decides = [case.there.by, case.moved.by].contains(&Some(place));
                if decides { self.compare(&now, case) } else { None }
            };
            let fulfilled = self.decide(Vec::new(), Some(place));
            match compare(&fulfilled) {
                Some(remark) => differs(remark),
                None => {
                    let without = |gone| compare(&self.decide(gone, Some(place)));
                    self.may_go(&fulfilled).into_iter().filter_map(without).for_each(&mut *differs);
                }
            }
        }
    }

    /// Whether the rule that decides for them already has the remark that no next hop can express the route.
    fn is_unsaid(&self, now: &Outcome<'x>) -> bool {
        self.class.rule_for(&self.to).is_some_and(|rule| {
            let mut cells = self.class.cells.iter().filter(|cell| cell.to == rule);
            cells.any(|cell| match (cell.decided.verdict, now.there.verdict) {
                (Verdict::Route(said), Verdict::Route(route)) => {
                    said == route && cell.said.target == TargetSpec::Pass && !cell.remarks.is_empty()
                }
                _ => false,
            })
        })
    }

    /// Whether the comment on main's routes past the attachments already says it.
    fn is_elsewhere(&self, now: &Outcome<'x>, case: &Outcome<'x>) -> bool {
        self.main.past_attachments(&self.to).is_some_and(|past| {
            let is_by_main = matches!(case.moved.verdict, Verdict::Route(route) if route == past);
            is_by_main && !is_same(now.there.verdict, past)
        })
    }

    /// The sets of devices whose loss changes something: single ones, and all devices of a route or of the rule.
    fn may_go(&self, case: &Outcome<'x>) -> BTreeSet<Vec<&'x str>> {
        let met = case.there.met.iter().chain(&case.moved.met);
        let of_routes = met.map(|route| devices(route).collect::<BTreeSet<&str>>());
        let of_rule =
            next_hops(&self.said.target).into_iter().filter_map(|next_hop| next_hop.device()).collect();
        let mut may_go = BTreeSet::new();
        for all in of_routes.chain([of_rule]).filter(|all| !all.is_empty()) {
            may_go.extend(all.iter().map(|device| vec![*device]));
            may_go.insert(all.into_iter().collect());
        }
        may_go
    }

    /// What becomes of packets that Linux would send by this verdict, if they may pass an attachment.
    fn with_byway(&self, verdict: Verdict<'x>, gone: &[&str]) -> Fate<'x> {
        let by_linux = fate(verdict, gone);
        let leads = self.main.leads(verdict, gone);
        if leads == Leads::Past {
            return by_linux;
        }
        let members = match &self.said.target {
            // An imported rule names all of its gateways.
            TargetSpec::NextHop(next_hop) => vec![(next_hop.gateway(), next_hop.device(), 1)],
            TargetSpec::NextHops(members) => {
                let member = |it: &'x MemberSpec| (it.next_hop.gateway(), it.next_hop.device(), it.weight);
                members.iter().map(member).collect()
            }
            TargetSpec::Group(_) | TargetSpec::Pass | TargetSpec::Drop => Vec::new(),
        };
        let members = members.into_iter().filter_map(|(gateway, device, weight)| {
            device.filter(|device| !gone.contains(device)).map(|device| (gateway, device, weight))
        });
        let by_byway = match (leaves(members), &self.said) {
            (Some(leaves), _) => leaves,
            (None, Said { target: TargetSpec::Drop, .. } | Said { on_down: OnDown::Drop, .. }) => {
                Fate::Nowhere
            }
            (None, _) => by_linux.clone(),
        };
        if leads == Leads::Through || by_byway == by_linux { by_byway } else { Fate::Either }
    }

    /// The remark if Byway does something else than Linux did. `now` is what Linux does with most packets.
    fn compare(&self, now: &Outcome<'x>, case: &Outcome<'x>) -> Option<String> {
        let gone = &case.gone;
        let there = fate(case.there.verdict, gone);
        let applied = self.with_byway(case.there.verdict, gone);
        let moved = self.with_byway(case.moved.verdict, gone);
        let quoted = |by: usize| self.class.entries(by, self.policy).join(", ");
        let (step, other) = match (applied == there, moved == there) {
            (false, _) => ("from the apply on", &applied),
            (true, false) if !self.is_said_of_all(now, case) && !self.is_elsewhere(now, case) => {
                ("once the entries are gone", &moved)
            }
            _ => return None,
        };
        let mut remark = step.to_owned();
        if !gone.is_empty() {
            remark += &format!(", without {}", names(gone));
        }
        if let Some(place) = case.fulfilled {
            remark += &format!(", for packets that {} matches", quoted(place));
        }
        let by = match case.there.by {
            None => " (no entry decides)".to_owned(),
            by if by == case.fulfilled => String::new(),
            Some(by) => format!(" ({})", quoted(by)),
        };
        let instead = match case.fulfilled.filter(|place| case.there.by != Some(*place)) {
            Some(place) => format!("{} ({})", other.text(), quoted(place)),
            None => other.text(),
        };
        remark += &format!(": Linux sends them {}{by}, but then they go {instead}.", there.text());
        // To go on as before, the entry that decides has to stay. If Byway would come first, its rule has to go.
        let jumps = now.there.jumps.iter().chain(&case.there.jumps).copied();
        let deciding: BTreeSet<usize> =
            [now.there.by, case.there.by].into_iter().flatten().chain(jumps).collect();
        let goes = |by: &&usize| !self.class.chain[**by].is_initial && !self.class.chain[**by].is_conditional;
        let entries: Vec<String> = deciding.iter().filter(goes).map(|by| quoted(*by)).collect();
        let mut to_do = match entries.is_empty() {
            true => "keep the entries".to_owned(),
            false => format!("keep {}", entries.join(" and ")),
        };
        if self.said.target != TargetSpec::Pass && (applied != there || !gone.is_empty()) {
            to_do += match self.class.rule_for(&self.to) {
                Some(_) => ", and leave out this rule",
                None => ", and leave out the rule that they follow",
            };
        }
        Some(format!("{remark} If that matters, {to_do}."))
    }

    /// Whether the remark at the top already says it: without main's last default route, no packet reaches Byway.
    fn is_said_of_all(&self, now: &Outcome<'x>, case: &Outcome<'x>) -> bool {
        let is_mains_own = matches!(
            now.there.verdict, Verdict::Route(route) if route.table == MAIN && !route.destination.is_all()
        );
        matches!(case.moved.verdict, Verdict::Nothing)
            && !case.gone.is_empty()
            && self.main.leads(now.moved.verdict, &[]) != Leads::Past
            && (is_mains_own || !next_hops(&self.said.target).is_empty())
    }
}

fn fate<'x>(verdict: Verdict<'x>, gone: &[&str]) -> Fate<'x> {
    match verdict {
        Verdict::Vrf => Fate::Vrf,
        Verdict::Refused(_) | Verdict::Nothing => Fate::Nowhere,
        Verdict::Route(route) => match &route.kind {
            RouteKind::Unicast(hops) => {
                let there = hops.iter().filter(|hop| hop.is_there_without(gone));
                let members =
                    there.map(|hop| (hop.gateway, hop.device.as_deref().unwrap_or_default(), hop.weight));
                leaves(members).unwrap_or(Fate::Nowhere)
            }
            RouteKind::Foreign(_) => Fate::Foreign(route),
            RouteKind::Throw | RouteKind::Refuse(_) => Fate::Nowhere,
        },
    }
}

/// To these next hops, or `None` if there are none.
fn leaves<'x>(members: impl Iterator<Item = (Option<IpAddr>, &'x str, u16)>) -> Option<Fate<'x>> {
    let mut weights = BTreeMap::<(Option<IpAddr>, &str), u16>::new();
    for (gateway, device, weight) in members {
        let sum = weights.entry((gateway, device)).or_default();
        *sum = sum.saturating_add(weight).min(WEIGHT_MAX);
    }
    // A weight says nothing where there is no other.
    let is_one = weights.len() == 1;
    let weight = |weight| if is_one { 1 } else { weight };
    let members = weights.into_iter().map(|((gateway, device), it)| (gateway, device, weight(it)));
    let members: Vec<_> = members.collect();
    (!members.is_empty()).then_some(Fate::Leaves(members))
}

impl Fate<'_> {
    /// In words that follow "packets go".
    fn text(&self) -> String {
        match self {
            Self::Nowhere => "nowhere".to_owned(),
            Self::Leaves(members) => {
                let member = |(gateway, device, _): &(Option<IpAddr>, &str, u16)| match gateway {
                    Some(gateway) => quote(&format!("via {gateway} dev {device}")),
                    None => quote(&format!("dev {device}")),
                };
                let members: Vec<String> = members.iter().map(member).collect();
                members.join(" and ")
            }
            Self::Foreign(route) => quote(&route.text()),
            Self::Vrf => "by the table of their VRF".to_owned(),
            Self::Either => "partly by Linux's routes and partly by the rule".to_owned(),
        }
    }
}

fn names(devices: &[&str]) -> String {
    let names: Vec<String> = devices.iter().map(|device| quote(device)).collect();
    names.join(" and ")
}
