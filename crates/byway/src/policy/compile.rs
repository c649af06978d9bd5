//! Compiles rules to what the kernel looks up: one entry for each source, and if its rules have destinations, one for each of
//! those. Pure.
//!
//! "Most specific" is over the whole rule set: if the most specific source has no rule for a destination, the next less
//! specific source that has one counts. Each source's entry therefore also contains the rules of the sources around it,
//! except where its own rules take precedence. So a packet needs only one lookup by source and one by destination.

use std::collections::BTreeMap;

use crate::model::{Prefix, Selector};

/// The entry of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry<T> {
    /// One rule for all destinations.
    All(T),
    /// The rule of the longest destination that matches, or none.
    ByDestination(BTreeMap<Prefix, T>),
}

/// The sources of rules in their order, each with its entry.
pub(crate) type Entries<T> = Vec<(Prefix, Entry<T>)>;

/// Compiles rules, which come in the order of their selectors. A `T` stands for each rule.
pub(crate) fn compile<T: Clone>(rules: Vec<(Selector, T)>) -> Entries<T> {
    if rules.iter().all(|(selector, _)| selector.destination().is_none()) {
        // The common case, in which there is nothing to inherit.
        return rules.into_iter().map(|(selector, rule)| (selector.source(), Entry::All(rule))).collect();
    }
    let mut own: BTreeMap<Prefix, BTreeMap<Prefix, T>> = BTreeMap::new();
    for (selector, rule) in rules {
        let source = selector.source();
        let destination = selector.destination().unwrap_or_else(|| Prefix::all_like(source.address()));
        own.entry(source).or_default().insert(destination, rule);
    }

    let mut entries = Vec::with_capacity(own.len());
    // The sources around the current one, widest first, each with all its rules. In the order of prefixes, a wider one comes
    // before those within it.
    let mut around: Vec<(Prefix, BTreeMap<Prefix, T>)> = Vec::new();
    for (source, own) in own {
        while around.last().is_some_and(|(wider, _)| !wider.covers(&source)) {
            around.pop();
        }
        let mut all = match around.last() {
            // It has a rule for every destination.
            _ if own.keys().next().is_some_and(Prefix::is_all) => BTreeMap::new(),
            Some((_, inherited)) => inherited
                .iter()
                .filter(|(destination, _)| !is_covered(destination, &own))
                .map(|(destination, rule)| (*destination, rule.clone()))
                .collect(),
            None => BTreeMap::new(),
        };
        all.extend(own);
        entries.push((source, entry(&all)));
        around.push((source, all));
    }
    entries
}

fn entry<T: Clone>(all: &BTreeMap<Prefix, T>) -> Entry<T> {
    match all.first_key_value() {
        Some((destination, rule)) if all.len() == 1 && destination.is_all() => Entry::All(rule.clone()),
        _ => Entry::ByDestination(all.clone()),
    }
}

/// Whether one of the prefixes covers `destination`.
fn is_covered<T>(destination: &Prefix, prefixes: &BTreeMap<Prefix, T>) -> bool {
    (0..=destination.len())
        .filter_map(|length| Prefix::holding(destination.address(), length))
        .any(|wider| prefixes.contains_key(&wider))
}

/// Returns how many destinations the entries contain.
pub(crate) fn destinations<T>(entries: &Entries<T>) -> usize {
    let of_entry = |entry: &Entry<T>| match entry {
        Entry::All(_) => 0,
        Entry::ByDestination(destinations) => destinations.len(),
    };
    entries.iter().map(|(_, entry)| of_entry(entry)).sum()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// Does what the kernel does with the entries: takes the longest source, then the longest destination.
    fn looked_up(
        entries: &BTreeMap<Prefix, Entry<usize>>,
        source: IpAddr,
        destination: IpAddr,
    ) -> Option<usize> {
        let longest = |prefixes: Vec<&Prefix>, address| {
            let holding = prefixes.into_iter().filter(|prefix| prefix.contains(address));
            holding.max_by_key(|prefix| prefix.len()).copied()
        };
        match &entries[&longest(entries.keys().collect(), source)?] {
            Entry::All(rule) => Some(*rule),
            Entry::ByDestination(destinations) => {
                let found = longest(destinations.keys().collect(), destination)?;
                Some(destinations[&found])
            }
        }
    }

    /// Finds the rule for a packet by looking at every rule, bit by bit and without the arithmetic of `Prefix`.
    fn meant(rules: &[(Selector, usize)], source: IpAddr, destination: IpAddr) -> Option<usize> {
        let bits = |address: IpAddr| -> Vec<bool> {
            let octets = match address {
                IpAddr::V4(v4) => v4.octets().to_vec(),
                IpAddr::V6(v6) => v6.octets().to_vec(),
            };
            octets.iter().flat_map(|octet| (0..8).rev().map(move |bit| octet >> bit & 1 == 1)).collect()
        };
        let holds = |prefix: Prefix, address: IpAddr| {
            let length = usize::from(prefix.len());
            prefix.address().is_ipv4() == address.is_ipv4()
                && bits(prefix.address())[..length] == bits(address)[..length]
        };
        let mut best: Option<(u8, u8, usize)> = None;
        for (selector, rule) in rules {
            let to_length = match selector.destination() {
                Some(prefix) if holds(prefix, destination) => prefix.len(),
                Some(_) => continue,
                None => 0,
            };
            if !holds(selector.source(), source) {
                continue;
            }
            let candidate = (selector.source().len(), to_length, *rule);
            if best.is_none_or(|best| (best.0, best.1) < (candidate.0, candidate.1)) {
                best = Some(candidate);
            }
        }
        best.map(|(_, _, rule)| rule)
    }

    /// Addresses from a small space in both families, so that prefixes nest and overlap.
    fn address(v4: bool, last: u8) -> IpAddr {
        if v4 { [10, 0, 0, last].into() } else { [0x2001, 0xDB8, 0, 0, 0, 0, 0, u16::from(last)].into() }
    }

    fn prefix(v4: bool, last: u8, bits: u8) -> Prefix {
        let longest = if v4 { 32 } else { 128 };
        // A prefix that leaves open 0 to 6 of the last bits, or all.
        let length = if bits > 6 { 0 } else { longest - bits };
        Prefix::holding(address(v4, last), length).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]
        #[test]
        fn the_entries_say_what_the_rules_mean(
            rules in vec((any::<bool>(), 0..64_u8, 0..8_u8, proptest::option::weighted(0.7, (0..64_u8, 0..8_u8))), 0..40),
            packets in vec((any::<bool>(), 0..64_u8, 0..64_u8), 64),
        ) {
            let mut unique = BTreeMap::new();
            for (v4, source, bits, to) in rules {
                let destination = to.map(|(last, bits)| prefix(v4, last, bits));
                let id = unique.len();
                unique.entry(Selector::new(prefix(v4, source, bits), destination)).or_insert(id);
            }
            let rules: Vec<(Selector, usize)> = unique.into_iter().collect();
            let entries = compile(rules.clone()).into_iter().collect();
            for (v4, source, destination) in packets {
                let (source, destination) = (address(v4, source), address(v4, destination));
                prop_assert_eq!(
                    looked_up(&entries, source, destination), meant(&rules, source, destination),
                    "{} to {} by {:?}", source, destination, rules
                );
            }
            // A source's own rules are always in its entry: that tells their records from leftovers.
            for (selector, rule) in &rules {
                let destination = selector.destination().unwrap_or(Prefix::all_like(selector.source().address()));
                let found = match &entries[&selector.source()] {
                    Entry::All(rule) => Some(rule),
                    Entry::ByDestination(destinations) => destinations.get(&destination),
                };
                prop_assert_eq!(found, Some(rule));
            }
        }
    }

    #[test]
    fn a_source_falls_back_to_the_one_around_it() {
        let selector = |source: &str, destination: Option<&str>| {
            Selector::new(source.parse().unwrap(), destination.map(|text| text.parse().unwrap()))
        };
        let rules = [
            (selector("192.168.0.0/16", None), "net"),
            (selector("192.168.0.0/16", Some("10.1.0.0/16")), "net to 10.1"),
            (selector("192.168.1.5", Some("10.0.0.0/8")), "host to 10"),
        ];
        let entries: BTreeMap<Prefix, _> = compile(rules.into()).into_iter().collect();
        let host: Prefix = "192.168.1.5".parse().unwrap();
        let Entry::ByDestination(destinations) = &entries[&host] else { panic!("{entries:?}") };
        let shown: Vec<String> =
            destinations.iter().map(|(destination, rule)| format!("{destination}: {rule}")).collect();
        assert_eq!(
            shown,
            ["0.0.0.0/0: net", "10.0.0.0/8: host to 10"],
            "the network's 10.1.0.0/16 is within the host's 10.0.0.0/8"
        );
    }
}
