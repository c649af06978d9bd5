//! What a selection chooses. Pure.

use std::cmp::Reverse;

use super::status::{Count, GroupStatus, NextHopStatus, RuleStatus, Status};
use crate::{
    error::Result,
    model::{Family, NextHop, Rule, Selection, SortBy, Target},
};

impl Selection {
    /// Chooses from the rules of a status. An earlier one tells the rates; without one, they are all the same.
    pub fn rules<'a>(&self, status: &'a Status, earlier: Option<&Status>) -> Vec<&'a RuleStatus> {
        let before = |it: &RuleStatus| {
            let rules = &earlier?.rules;
            let selector = it.rule.selector();
            // A status has them in this order.
            let at = rules.binary_search_by_key(&selector, |it| it.rule.selector()).ok()?;
            Some(rules[at].matched())
        };
        let chosen = status.rules.iter().filter(|it| self.chooses_rule(it, &status.groups));
        self.sorted(chosen.collect(), |sort, it| sort.of(it.matched(), it.lost(), || before(it)))
    }

    /// Chooses from the next hops of a status. An earlier one tells the rates; without one, they are all the same.
    pub fn next_hops<'a>(
        &self,
        all: &'a [NextHopStatus],
        earlier: &[NextHopStatus],
    ) -> Vec<&'a NextHopStatus> {
        let before = |it: &NextHopStatus| {
            earlier.iter().find(|then| then.next_hop == it.next_hop).map(|it| it.departed)
        };
        let chosen = all.iter().filter(|it| self.chooses_next_hop(it));
        self.sorted(chosen.collect(), |sort, it| sort.of(it.departed, it.lost(), || before(it)))
    }

    /// Chooses from the groups. They have no counters to sort them by.
    pub fn groups<'a>(&self, all: &'a [GroupStatus]) -> Vec<&'a GroupStatus> {
        self.sorted(all.iter().filter(|it| self.chooses_group(it)).collect(), |_, _| (0, 0))
    }

    /// Chooses by position, from rules that come one by one, each with its position.
    pub(super) fn positions(
        &self,
        rules: impl Iterator<Item = Result<(usize, RuleStatus)>>,
        groups: &[GroupStatus],
    ) -> Result<Vec<usize>> {
        let mut chosen: Vec<(usize, (u64, u64))> = Vec::new();
        for rule in rules {
            let (position, rule) = rule?;
            if self.chooses_rule(&rule, groups) {
                let value = self.sort.map(|sort| sort.of(rule.matched(), rule.lost(), || None));
                chosen.push((position, value.unwrap_or_default()));
                // Without an order to look for, the first ones are the ones.
                if self.sort.is_none() && Some(chosen.len()) == self.head {
                    break;
                }
            }
        }
        let sorted = self.sorted(chosen, |_, (_, value)| *value);
        Ok(sorted.into_iter().map(|(position, _)| position).collect())
    }

    /// Sorts, the largest first, and keeps as many as are asked for. Equal ones stay in their order.
    fn sorted<T>(&self, mut chosen: Vec<T>, value: impl Fn(SortBy, &T) -> (u64, u64)) -> Vec<T> {
        if let Some(sort) = self.sort {
            chosen.sort_by_cached_key(|it| Reverse(value(sort, it)));
        }
        chosen.truncate(self.head.unwrap_or(usize::MAX));
        chosen
    }

    /// Whether this rule is one of them, without regard to their order.
    pub(crate) fn chooses_rule(&self, status: &RuleStatus, groups: &[GroupStatus]) -> bool {
        let Rule { source, target, owner, name, .. } = &status.rule;
        let group = match target {
            Target::Group(name) => Some(name),
            _ => None,
        };
        let of_group = groups.iter().find(|it| Some(&it.group.name) == group);
        let members = of_group.into_iter().flat_map(|it| &it.group.members).map(|member| &member.next_hop);
        self.family.is_none_or(|family| source.family() == family)
            && self.within.is_none_or(|prefix| prefix.covers(source))
            && self.covering.is_none_or(|prefix| source.covers(&prefix))
            && self.owner.is_none_or(|it| it == *owner)
            && self.group.as_ref().is_none_or(|it| Some(it) == group)
            && self.chooses_one_of(target.next_hops().chain(members))
            && self.chooses_name(name.as_deref())
            && (!self.with_loss || status.lost() > 0)
            // If the kind of a rule is not known, neither is what it matched.
            && (!self.unused || status.matched().packets == 0 && !target.is_unknown())
    }

    fn chooses_next_hop(&self, status: &NextHopStatus) -> bool {
        self.is_of_family(&status.next_hop)
            && self.group.as_ref().is_none_or(|it| status.groups.contains(it))
            && self.chooses_one_of(std::iter::once(&status.next_hop))
            && (!self.with_loss || status.lost() > 0)
            && (!self.unused || status.departed.packets == 0)
    }

    fn chooses_group(&self, status: &GroupStatus) -> bool {
        let next_hops = || status.group.members.iter().map(|member| &member.next_hop);
        next_hops().any(|it| self.is_of_family(it))
            && self.owner.is_none_or(|it| it == status.group.owner)
            && self.chooses_one_of(next_hops())
            && self.chooses_name(Some(&status.group.name))
            && (!self.unused || status.rules == 0)
    }

    /// A next hop without a gateway takes packets of both families.
    fn is_of_family(&self, next_hop: &NextHop) -> bool {
        let gateway = next_hop.gateway_or_unspecified();
        let of_family = |family| gateway.is_none_or(|gateway| Family::of(gateway) == family);
        self.family.is_none_or(of_family)
    }

    /// Whether one of these next hops has the gateway and the device.
    fn chooses_one_of<'a>(&self, mut next_hops: impl Iterator<Item = &'a NextHop>) -> bool {
        let Self { gateway, device, .. } = self;
        let is_it = |it: &NextHop| {
            gateway.is_none_or(|gateway| it.gateway == Some(gateway))
                && device.as_ref().is_none_or(|name| it.device.name == *name)
        };
        gateway.is_none() && device.is_none() || next_hops.any(is_it)
    }

    fn chooses_name(&self, name: Option<&str>) -> bool {
        self.name.as_ref().is_none_or(|pattern| name.is_some_and(|name| matches(pattern, name)))
    }
}

impl SortBy {
    /// The value to sort by; equal ones are sorted by packets.
    fn of(self, now: Count, lost: u64, before: impl Fn() -> Option<Count>) -> (u64, u64) {
        let value = match self {
            Self::Packets => now.packets,
            Self::Bytes => now.bytes,
            Self::Loss => lost,
            // The counters of a replaced rule start again.
            Self::Rate => before().map_or(0, |before| now.packets.saturating_sub(before.packets)),
        };
        (value, now.packets)
    }
}

/// Whether a pattern of `*` (any characters) and `?` (one character) is that of the whole name.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut here) = (0, 0);
    // Where the last `*` is, and where what it stands for ends so far.
    let mut star: Option<(usize, usize)> = None;
    while here < name.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, here));
                at += 1;
            }
            Some(one) if *one == '?' || *one == name[here] => (at, here) = (at + 1, here + 1),
            _ => match &mut star {
                Some((of_star, end)) => {
                    *end += 1;
                    (at, here) = (*of_star + 1, *end);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|it| *it == '*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        model::{Device, Group, Member, OnDown, Owner},
        show::status::NextHopState,
    };

    fn count(packets: u64) -> Count {
        Count { packets, bytes: 100 * packets }
    }

    fn next_hop(gateway: &str, device: &str) -> NextHop {
        NextHop::new(Some(gateway.parse().unwrap()), Device { name: device.into(), index: 3 })
    }

    fn rule(source: &str, target: Target, departed: u64, arrived: u64) -> RuleStatus {
        let mut status = RuleStatus::new(Rule::new(source.parse().unwrap(), target));
        (status.departed, status.arrived) = (count(departed), count(arrived));
        status
    }

    fn status() -> Status {
        let up =
            vec![Member::new(next_hop("10.1.0.1", "eth1"), 1), Member::new(next_hop("10.2.0.1", "eth2"), 1)];
        let own = vec![Member::new(next_hop("10.3.0.1", "eth1"), 1)];
        let group = Group { name: "up".into(), members: up, on_down: OnDown::Pass, owner: Owner::CONFIG };
        let mut named = rule("10.0.0.0/8", Target::Pass, 0, 0);
        (named.rule.name, named.rule.owner) = (Some("web-1".into()), Owner::CLI);
        named.passed = count(7);
        let rules = vec![
            named,
            rule("10.0.0.5", Target::Group("up".into()), 5, 5),
            rule("10.0.1.0/24", Target::NextHop(next_hop("10.1.0.1", "eth1")), 9, 6),
            rule("192.168.0.0/16", Target::NextHops(own), 0, 0),
            rule("192.168.0.1", Target::Other { kind: 200, index: 0 }, 0, 0),
            rule("2001:db8::/32", Target::Drop, 0, 0),
        ];
        Status { groups: vec![GroupStatus::new(group, 1)], rules, ..Status::default() }
    }

    #[track_caller]
    fn chooses(words: &str, sources: &[&str]) {
        let (status, selection): (_, Selection) = (status(), words.parse().unwrap());
        let chosen: Vec<String> =
            selection.rules(&status, None).iter().map(|it| it.rule.source.to_string()).collect();
        assert_eq!(chosen, sources, "{words}");
        // A listing chooses the same.
        let rules = status.rules.iter().cloned().enumerate().map(Ok);
        let positions = selection.positions(rules, &status.groups).unwrap();
        let listed: Vec<String> =
            positions.iter().map(|at| status.rules[*at].rule.source.to_string()).collect();
        assert_eq!(listed, sources, "{words}");
    }

    #[test]
    fn rules_are_chosen_by_all_that_is_said() {
        chooses("within 10.0.0.0/8", &["10.0.0.0/8", "10.0.0.5", "10.0.1.0/24"]);
        chooses("within 10.0.0.0/16 head 1", &["10.0.0.5"]);
        chooses("covering 10.0.1.7", &["10.0.0.0/8", "10.0.1.0/24"]);
        chooses("covering 10.0.0.0/8", &["10.0.0.0/8"]);
        chooses("owner cli", &["10.0.0.0/8"]);
        chooses("group up", &["10.0.0.5"]);
        chooses("via 10.1.0.1", &["10.0.0.5", "10.0.1.0/24"]);
        // One next hop has to be both.
        chooses("via 10.1.0.1 dev eth2", &[]);
        chooses("dev eth1", &["10.0.0.5", "10.0.1.0/24", "192.168.0.0/16"]);
        chooses("name web-?", &["10.0.0.0/8"]);
        chooses("name web", &[]);
        chooses("with loss", &["10.0.1.0/24"]);
        chooses("unused", &["192.168.0.0/16", "2001:db8::/32"]);
        chooses("sort by packets head 3", &["10.0.1.0/24", "10.0.0.0/8", "10.0.0.5"]);
        chooses("sort by loss head 2", &["10.0.1.0/24", "10.0.0.0/8"]);
        chooses("within 10.0.0.0/8 sort by bytes", &["10.0.1.0/24", "10.0.0.0/8", "10.0.0.5"]);
        let v6 = Selection { family: Some(Family::V6), ..Selection::default() };
        assert_eq!(v6.rules(&status(), None).len(), 1);
    }

    #[test]
    fn a_rate_is_what_has_come_since() {
        let (now, mut before) = (status(), status());
        before.rules[1].departed = count(1);
        before.rules.remove(5);
        let by_rate: Selection = "sort by rate head 2".parse().unwrap();
        let chosen = by_rate.rules(&now, Some(&before));
        assert_eq!(chosen, [&now.rules[1], &now.rules[2]]);
    }

    #[test]
    fn next_hops_and_groups_are_chosen_as_well() {
        let of = |gateway, departed, arrived| {
            let mut status = NextHopStatus::new(next_hop(gateway, "eth1"), NextHopState::Up);
            (status.departed, status.arrived) = (count(departed), count(arrived));
            status
        };
        let mut all = vec![of("10.1.0.1", 4, 4), of("10.2.0.1", 9, 3), of("2001:db8::1", 0, 0)];
        all[0].groups = vec!["up".into()];
        let chosen = |words: &str| -> Vec<String> {
            let selection: Selection = words.parse().unwrap();
            let before = [of("10.1.0.1", 1, 1), of("10.2.0.1", 8, 3)];
            let chosen = selection.next_hops(&all, &before);
            chosen.iter().map(|it| it.next_hop.gateway.unwrap().to_string()).collect()
        };
        assert_eq!(chosen("with loss"), ["10.2.0.1"]);
        assert_eq!(chosen("unused"), ["2001:db8::1"]);
        assert_eq!(chosen("group up"), ["10.1.0.1"]);
        assert_eq!(chosen("sort by loss head 1"), ["10.2.0.1"]);
        assert_eq!(chosen("sort by rate head 2"), ["10.1.0.1", "10.2.0.1"]);
        let of_groups = |words: &str| words.parse::<Selection>().unwrap().groups(&status().groups).len();
        let words = ["owner config", "name u*", "dev eth2", "via 10.2.0.1", "head 1", "unused", "dev eth3"];
        assert_eq!(words.map(of_groups), [1, 1, 1, 1, 1, 0, 0]);
    }

    /// What a pattern means, by its own words.
    fn matches_slowly(pattern: &[char], name: &[char]) -> bool {
        match pattern {
            [] => name.is_empty(),
            ['*', rest @ ..] => (0..=name.len()).any(|at| matches_slowly(rest, &name[at..])),
            [one, rest @ ..] => {
                name.first().is_some_and(|it| *one == '?' || one == it) && matches_slowly(rest, &name[1..])
            }
        }
    }

    proptest! {
        #[test]
        fn a_pattern_is_that_of_the_whole_name(pattern in "[ab*?]{0,8}", name in "[ab]{0,10}") {
            let slowly = matches_slowly(
                &pattern.chars().collect::<Vec<_>>(),
                &name.chars().collect::<Vec<_>>(),
            );
            prop_assert_eq!(matches(&pattern, &name), slowly);
        }
    }
}
