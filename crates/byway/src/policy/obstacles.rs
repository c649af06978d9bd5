//! What keeps rules from doing their work on a host, although they are in force.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use serde::Serialize;

use crate::model::{Device, Group, NextHop, Prefix, Rule, Selector, Target, in_one_sentence};

/// How many rules' routes are looked up.
pub(crate) const RULES_LOOKED_UP: usize = 256;

/// What keeps rules from doing their work on this host, although they are in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Obstacle {
    /// A next hop's device drops requests unless the route back to the sender leaves by the same device: its `rp_filter` is 1
    /// (ip-sysctl.rst).
    StrictRpFilter(Device),
    /// The routing tables send packets of these rules out of a device that is not attached.
    NotAttached {
        /// The device.
        device: Device,
        /// Whose packets.
        selectors: Vec<Selector>,
    },
    /// The routing tables have no route for packets of these rules.
    NoRoute(Vec<Selector>),
    /// This host has no address in these sources, and forwards no packets.
    NoSource(Vec<Selector>),
    /// A gateway does not answer ARP or neighbour discovery.
    NoAnswer(NextHop),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StrictRpFilter(Device { name, .. }) => write!(
                f,
                "{name} drops requests unless the route back to the sender leaves by {name} (strict rp_filter), so there may \
                 be nothing to answer"
            ),
            Self::NotAttached { device, selectors } => write!(
                f,
                "packets {} leave by {}, where byway is not attached",
                Named(selectors),
                device.name
            ),
            Self::NoRoute(selectors) => write!(
                f,
                "there is no route for packets {}, so they never leave, and byway never sees them",
                Named(selectors)
            ),
            Self::NoSource(selectors) => write!(
                f,
                "there may be no packets {}: this host has no such address, and it does not forward",
                Named(selectors)
            ),
            Self::NoAnswer(NextHop { gateway: Some(gateway), device, .. }) => {
                write!(f, "the gateway {gateway} does not answer on {}", device.name)
            }
            Self::NoAnswer(NextHop { device, .. }) => write!(f, "nobody answers on {}", device.name),
        }
    }
}

impl Obstacle {
    /// Returns what to do. It continues the sentence of [`Display`](fmt::Display), after a semicolon.
    pub fn help(&self) -> Option<String> {
        Some(match self {
            Self::StrictRpFilter(device) => format!("`sysctl {}=2` lets them in", rp_filter_of(&device.name)),
            Self::NotAttached { device, .. } => format!("attach to {} as well", device.name),
            Self::NoRoute(_) => "add a route, for example a default route".to_owned(),
            Self::NoSource(_) => "add the address, or turn forwarding on".to_owned(),
            Self::NoAnswer(_) => "check its address and the link".to_owned(),
        })
    }

    /// Returns what is in the way and what to do, in one sentence.
    pub fn sentence(&self) -> String {
        in_one_sentence(self, self.help())
    }
}

/// `from 192.0.2.1`, `from 192.0.2.1 and from 192.0.2.2`, `from 192.0.2.1 and from 3 others`
struct Named<'a>(&'a [Selector]);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("of no rule"),
            // There may be more that nobody has looked at.
            [first, others @ ..] if self.0.len() >= RULES_LOOKED_UP => {
                write!(f, "{first} and from at least {} others", others.len())
            }
            [one] => one.fmt(f),
            [first, second] => write!(f, "{first} and {second}"),
            [first, others @ ..] => write!(f, "{first} and from {} others", others.len()),
        }
    }
}

/// The setting's name. Where the device's has a dot, the parts stand between slashes (sysctl(8)).
pub(crate) fn rp_filter_of(device: &str) -> String {
    let between = if device.contains('.') { "/" } else { "." };
    ["net", "ipv4", "conf", device, "rp_filter"].join(between)
}

/// Where the packets of a rule leave, as the routing tables have it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Leaves {
    /// By these devices.
    By(BTreeSet<u32>),
    /// Nowhere: there is no route, or one that refuses.
    Nowhere,
    /// There are none: the host has no such address, and does not forward.
    NoSource,
    /// The tables alone do not say.
    #[default]
    Unknown,
}

/// What the network stack says about rules.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// All devices.
    pub(crate) devices: BTreeMap<u32, Device>,
    /// Those that requests come in by.
    pub(crate) receivers: BTreeSet<u32>,
    /// Those that the departure program is on.
    pub(crate) attached: BTreeSet<u32>,
    pub(crate) strict_rp_filter: BTreeSet<u32>,
    /// The groups that rules use.
    pub(crate) groups: BTreeMap<String, Group>,
    /// The next hops whose neighbour entry has failed.
    pub(crate) unanswered: BTreeSet<NextHop>,
    pub(crate) leaves: BTreeMap<Selector, Leaves>,
}

/// Returns the next hops of a target, those of a group included.
pub(crate) fn next_hops<'a>(
    target: &'a Target,
    groups: &'a BTreeMap<String, Group>,
) -> impl Iterator<Item = &'a NextHop> {
    let group = if let Target::Group(name) = target { groups.get(name) } else { None };
    let members = group.into_iter().flat_map(|it| &it.members);
    target.next_hops().chain(members.map(|member| &member.next_hop))
}

/// Finds what is in the way of these rules, each obstacle once.
pub(crate) fn find<'a>(rules: impl IntoIterator<Item = &'a Rule>, facts: &Facts) -> Vec<Obstacle> {
    let mut strict = BTreeSet::new();
    let mut unanswered = BTreeSet::new();
    let mut elsewhere: BTreeMap<u32, Vec<Selector>> = BTreeMap::new();
    let (mut no_route, mut no_source) = (vec![], vec![]);
    for rule in rules {
        let selector = rule.selector();
        if !rule.reply_to && matches!(rule.target, Target::Pass | Target::Other { .. }) {
            continue;
        }
        if rule.reply_to && selector.source().address().is_ipv4() {
            let by_other_ways = facts.receivers.difference(&facts.attached);
            let is_meant = |index: &&u32| {
                let name = facts.devices.get(index).map(|device| &device.name);
                rule.reply_to_dev.is_empty() || name.is_some_and(|name| rule.reply_to_dev.contains(name))
            };
            let strict_ones = by_other_ways.filter(|index| facts.strict_rp_filter.contains(index));
            strict.extend(strict_ones.filter(is_meant));
        }
        for next_hop in next_hops(&rule.target, &facts.groups) {
            if selector.source().address().is_ipv4()
                && facts.strict_rp_filter.contains(&next_hop.device.index)
            {
                strict.insert(next_hop.device.index);
            }
            if facts.unanswered.contains(next_hop) {
                // Whoever has named its device, it is the same gateway.
                unanswered.insert(NextHop::new(next_hop.gateway, next_hop.device.clone()));
            }
        }
        match facts.leaves.get(&selector).unwrap_or(&Leaves::Unknown) {
            Leaves::By(devices) => {
                for device in devices.difference(&facts.attached) {
                    elsewhere.entry(*device).or_default().push(selector);
                }
            }
            Leaves::Nowhere => no_route.push(selector),
            // `from any reply-to` is for whatever addresses the host gets, of either family.
            Leaves::NoSource if rule.reply_to && selector.source().is_all() => {}
            Leaves::NoSource => no_source.push(selector),
            Leaves::Unknown => {}
        }
    }
    let device = |index: u32| facts.devices.get(&index).cloned();
    let named = |selectors: Vec<Selector>, obstacle: fn(Vec<Selector>) -> Obstacle| {
        (!selectors.is_empty()).then(|| obstacle(selectors))
    };
    let strict = strict.into_iter().filter_map(device).map(Obstacle::StrictRpFilter);
    let elsewhere = elsewhere
        .into_iter()
        .filter_map(|(index, selectors)| Some(Obstacle::NotAttached { device: device(index)?, selectors }));
    strict
        .chain(elsewhere)
        .chain(named(no_route, Obstacle::NoRoute))
        .chain(named(no_source, Obstacle::NoSource))
        .chain(unanswered.into_iter().map(Obstacle::NoAnswer))
        .collect()
}

/// Destinations that stand for all others if a rule names none. There is one in each half of the addresses, so that a tunnel's
/// routes to 0.0.0.0/1 and 128.0.0.0/1 are seen. None is likely to have a route of its own. Nothing is sent there.
pub(crate) fn far_away(source: &Prefix) -> [IpAddr; 2] {
    let far = if source.address().is_ipv4() {
        ["9.255.255.254", "223.255.254.254"]
    } else {
        ["2fff:fffe::1", "3ffe:fffe::1"]
    };
    far.map(|address| address.parse().unwrap_or_else(|_| source.address()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Member;

    fn facts() -> Facts {
        let devices = ["eth0", "eth1", "tun0"];
        let devices = (1..).zip(devices).map(|(index, name)| (index, Device { name: name.into(), index }));
        Facts { devices: devices.collect(), attached: [1].into(), ..Facts::default() }
    }

    fn rule(from: &str) -> Rule {
        let eth1 = Device { name: "eth1".into(), index: 2 };
        let next_hop = NextHop::new(Some("10.1.0.1".parse().unwrap()), eth1);
        Rule::new(Selector::new(from.parse().unwrap(), None), Target::NextHop(next_hop))
    }

    fn said(rules: &[Rule], facts: &Facts) -> Vec<String> {
        find(rules, facts).iter().map(Obstacle::sentence).collect()
    }

    #[test]
    fn nothing_is_said_where_nothing_is_in_the_way() {
        let mut facts = facts();
        facts.leaves.insert(rule("192.0.2.1").selector(), Leaves::By([1].into()));
        assert_eq!(said(&[rule("192.0.2.1"), rule("192.0.2.2")], &facts), [""; 0]);
    }

    #[test]
    fn each_obstacle_is_said_once() {
        let rules = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1"].map(rule);
        let mut facts = facts();
        facts.strict_rp_filter.insert(2);
        facts.unanswered.extend(rules[0].target.next_hops().cloned());
        for rule in &rules[..3] {
            facts.leaves.insert(rule.selector(), Leaves::By([1, 3].into()));
        }
        facts.leaves.insert(rules[3].selector(), Leaves::Nowhere);
        assert_eq!(
            said(&rules, &facts),
            [
                "eth1 drops requests unless the route back to the sender leaves by eth1 (strict rp_filter), so there may be \
                 nothing to answer; `sysctl net.ipv4.conf.eth1.rp_filter=2` lets them in",
                "packets from 192.0.2.1 and from 2 others leave by tun0, where byway is not attached; attach to tun0 \
                 as well",
                "there is no route for packets from 2001:db8::1, so they never leave, and byway never sees them; add a \
                 route, for example a default route",
                "the gateway 10.1.0.1 does not answer on eth1; check its address and the link",
            ]
        );
    }

    #[test]
    fn a_group_has_the_obstacles_of_its_next_hops() {
        let next_hops = rule("192.0.2.1");
        let members = next_hops.target.next_hops().cloned().map(|next_hop| Member::new(next_hop, 1));
        let group = Group::new("up", members.collect());
        let mut facts = facts();
        facts.strict_rp_filter.insert(2);
        facts.groups.insert("up".into(), group);
        let of_group = |name: &str| Rule::new(rule("192.0.2.1").selector(), Target::Group(name.into()));
        assert_eq!(said(&[of_group("up")], &facts), said(&[next_hops], &facts));
        assert_eq!(said(&[of_group("other")], &facts), [""; 0]);
    }

    #[test]
    fn a_reply_has_the_obstacles_of_all_ways_in() {
        let mut facts = facts();
        facts.receivers = [1, 2].into();
        facts.strict_rp_filter = [1, 2, 3].into();
        let replies = |from: &str| Rule { reply_to: true, ..Rule::new(rule(from).selector(), Target::Pass) };
        assert_eq!(said(&[replies("192.0.2.1")], &facts), said(&[rule("192.0.2.1")], &facts));
        assert_eq!(said(&[replies("2001:db8::1")], &facts), [""; 0]);
    }

    #[test]
    fn replies_of_all_addresses_need_none() {
        let mut facts = facts();
        for from in ["::/0", "2001:db8::1"] {
            facts.leaves.insert(rule(from).selector(), Leaves::NoSource);
        }
        let replies = |from: &str| Rule { reply_to: true, ..Rule::new(rule(from).selector(), Target::Pass) };
        assert_eq!(said(&[replies("::/0")], &facts), [""; 0]);
        assert_eq!(said(&[replies("2001:db8::1")], &facts).len(), 1);
        assert_eq!(said(&[rule("::/0")], &facts).len(), 1);
    }

    #[test]
    fn strict_rp_filter_is_no_matter_of_ipv6_or_of_exceptions() {
        let mut facts = facts();
        facts.strict_rp_filter.insert(2);
        let pass = Rule::new(rule("192.0.2.1").selector(), Target::Pass);
        assert_eq!(said(&[rule("2001:db8::1"), pass], &facts), [""; 0]);
    }
}
