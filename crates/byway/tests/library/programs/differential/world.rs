//! Random rules: prefixes that nest and overlap, and targets of every kind.

use std::net::IpAddr;

use byway::{
    GROUP_MAX, Group, MSS_MAX, MSS_MIN, Member, Mss, NextHop, OnDown, Prefix, Rule, RuleSpec, Selector,
    Target,
};

use super::parse::Address;
use crate::support::random::Random;

/// The addresses that rules are made around, and what they may lead to.
pub(crate) struct World {
    pub(crate) next_hops: Vec<NextHop>,
    /// By family: some addresses, which others are near.
    anchors: [Vec<Address>; 2],
}

const ANCHORS: [&[&str]; 2] = [
    &[
        "192.168.1.5",
        "10.111.222.11",
        "203.0.113.128",
        "100.64.0.0",
        "127.255.255.255",
        "172.16.0.1",
        "0.0.0.1",
    ],
    &[
        "2001:db8:1::5",
        "2001:db8:222::11",
        "2001:db8:8000::",
        "fd00:0:0:1::ffff",
        "64:ff9b::c000:201",
        "::1:0:0:1",
    ],
];

/// The named groups: for sources of every family, and with IPv4 gateways for those of IPv4 alone.
pub(crate) const GROUPS: [(&str, bool); 4] =
    [("four", true), ("any", false), ("four-b", true), ("any-b", false)];

impl World {
    pub(crate) fn new(next_hops: Vec<NextHop>) -> Self {
        Self { next_hops, anchors: [Vec::new(), Vec::new()] }
    }

    /// Chooses new addresses to make rules around.
    pub(crate) fn turn(&mut self, random: &mut Random) {
        for (anchors, texts) in self.anchors.iter_mut().zip(ANCHORS) {
            let count = random.between(1, 3);
            *anchors =
                (0..count).map(|_| Address::from(random.pick(texts).parse::<IpAddr>().unwrap())).collect();
            if random.percent(30) {
                anchors.push(anywhere(random, anchors[0].is_v4));
            }
        }
    }

    /// An address that differs from one of the anchors in a few bits.
    pub(crate) fn near(&self, random: &mut Random, is_v4: bool) -> Address {
        let mut address = *random.pick(&self.anchors[usize::from(!is_v4)]);
        for _ in 0..random.below(4) {
            let last = usize::from(address.width()) - 1;
            flip(&mut address, random.between(0, last));
        }
        address
    }

    fn prefix(&self, random: &mut Random, is_v4: bool) -> Prefix {
        let address = self.near(random, is_v4);
        let edges: &[u8] = if is_v4 {
            &[1, 8, 15, 16, 24, 25, 30, 31]
        } else {
            &[1, 16, 32, 33, 48, 63, 64, 65, 96, 126, 127]
        };
        let length = match random.below(100) {
            0..6 => 0,
            6..30 => address.width(),
            30..65 => *random.pick(edges),
            _ => random.between(0, usize::from(address.width())) as u8,
        };
        Prefix::holding(address.ip(), length).unwrap()
    }

    /// So many rules at the most: those that no rule can be are left out.
    pub(crate) fn rules(&self, random: &mut Random, count: usize) -> Vec<Rule> {
        let mut rules: Vec<Rule> = Vec::new();
        for _ in 0..count {
            // Several destinations for one source are the interesting case.
            let source = match rules.is_empty() || random.percent(50) {
                true => {
                    let is_v4 = random.percent(50);
                    self.prefix(random, is_v4)
                }
                false => random.pick(&rules).source,
            };
            let is_v4 = source.address().is_ipv4();
            let destination = random.percent(60).then(|| self.prefix(random, is_v4));
            let rule = self.rule(random, Selector::new(source, destination));
            let is_new = rules.iter().all(|other| other.selector() != rule.selector());
            if is_new && RuleSpec::try_from(&rule).unwrap().check().is_ok() {
                rules.push(rule);
            }
        }
        rules
    }

    /// A rule for these packets, that does something at random with them.
    pub(crate) fn rule(&self, random: &mut Random, selector: Selector) -> Rule {
        let is_v4 = selector.source().address().is_ipv4();
        let target = match random.below(100) {
            0..30 => Target::NextHop(self.next_hop(random, is_v4)),
            30..50 => Target::NextHops(self.members(random, is_v4, 2)),
            50..70 => {
                let groups: Vec<_> = GROUPS.iter().filter(|(_, for_v4)| is_v4 || !for_v4).collect();
                Target::Group(random.pick(&groups).0.to_owned())
            }
            70..86 => Target::Pass,
            _ => Target::Drop,
        };
        let has_next_hop = matches!(target, Target::NextHop(_) | Target::NextHops(_));
        let on_down = if has_next_hop && random.percent(50) { OnDown::Drop } else { OnDown::Pass };
        let leads_on = !matches!(target, Target::Pass | Target::Drop);
        let mut rule = Rule::new(selector, target);
        rule.on_down = on_down;
        rule.mss = if leads_on { mss(random) } else { Mss::Auto };
        rule.name = random.percent(10).then(|| format!("r{}", random.below(1_000)));
        rule
    }

    pub(crate) fn group(&self, random: &mut Random, name: &str, for_v4: bool) -> Group {
        let on_down = if random.percent(50) { OnDown::Drop } else { OnDown::Pass };
        let mut group = Group::new(name, self.members(random, for_v4, 1));
        group.on_down = on_down;
        group
    }

    /// An IPv4 packet may go to a gateway of either family, an IPv6 packet to one of its own (RFC 8950).
    fn usable(&self, for_v4: bool) -> Vec<NextHop> {
        let is_usable =
            |next_hop: &&NextHop| for_v4 || next_hop.gateway.is_none_or(|gateway| gateway.is_ipv6());
        self.next_hops.iter().filter(is_usable).cloned().collect()
    }

    fn next_hop(&self, random: &mut Random, for_v4: bool) -> NextHop {
        random.pick(&self.usable(for_v4)).clone()
    }

    /// At least so many: a rule with a single one in its list leads to that alone.
    fn members(&self, random: &mut Random, for_v4: bool, least: usize) -> Vec<Member> {
        let mut usable = self.usable(for_v4);
        random.shuffle(&mut usable);
        let most = if random.percent(10) { usable.len().min(GROUP_MAX) } else { 8 };
        usable.truncate(random.between(least, most));
        let backups = if random.percent(40) { random.between(0, usable.len() - 1) } else { 0 };
        let primaries = usable.len() - backups;
        let mut weight = || if random.percent(60) { 1 } else { random.between(1, 256) as u16 };
        let mut members: Vec<Member> =
            usable.into_iter().map(|next_hop| Member::new(next_hop, weight())).collect();
        for backup in &mut members[primaries..] {
            (backup.weight, backup.is_backup) = (1, true);
        }
        members
    }
}

pub(crate) fn mss(random: &mut Random) -> Mss {
    match random.below(100) {
        0..55 => Mss::Auto,
        55..70 => Mss::Off,
        70..90 => Mss::Bytes(*random.pick(&[MSS_MIN, 536, 1_200, 1_240, 1_460, MSS_MAX])),
        _ => Mss::Bytes(random.between(MSS_MIN.into(), MSS_MAX.into()) as u16),
    }
}

pub(crate) fn anywhere(random: &mut Random, is_v4: bool) -> Address {
    let bits = u128::from(random.next()) << 64 | u128::from(random.next());
    Address { is_v4, bits: if is_v4 { bits >> 96 << 96 } else { bits } }
}

/// The other value of a bit, counted from the left.
pub(crate) fn flip(address: &mut Address, bit: usize) {
    address.bits ^= 1 << (127 - bit);
}

/// One of a prefix's addresses, or one just beside it.
pub(crate) fn around(random: &mut Random, prefix: &Prefix) -> Address {
    let mut address = Address::from(prefix.address());
    let (length, width) = (usize::from(prefix.len()), usize::from(address.width()));
    let last_ones = if length == width { 0 } else { (u128::MAX >> length) >> (128 - width) << (128 - width) };
    match random.below(4) {
        0 => {}
        1 => address.bits |= last_ones,
        _ => address.bits |= anywhere(random, address.is_v4).bits & last_ones,
    }
    if random.percent(15) && length > 0 {
        flip(&mut address, random.between(length.saturating_sub(3), length - 1));
    }
    address
}
