//! A rule of a kind that this version does not know, as a newer byway of the same schema may have made it: it is shown, and
//! otherwise left alone.

use std::{fs, path::Path};

use aya::{
    Pod,
    maps::{
        Array, Map, MapData,
        lpm_trie::{Key, LpmTrie},
    },
};
use byway::{
    Error, ErrorKind, GroupSpec, MemberSpec, NextHopSpec, Owner, Prefix, RuleSpec, RuleStatus, Selector,
    Target, TargetSpec,
    config::{Config, Severity, read},
};
use byway_abi::{
    Count, Counters, NEXT_HOP_FREE, NextHop, RuleRecord, TARGET_BY_DESTINATION, TARGET_PASS, chunk_len, meta,
    sources::{ENTRIES, Entry, WORDS4, WORDS6},
};

use crate::support::{
    FAMILIES, any_hook, on, pins,
    routers::{Routers, Way, rule},
    rules,
};

/// The last bits of it, which a source table has room for, are no known kind either.
const KIND: u8 = 200;
const INDEX: u32 = 77;
/// What it has done, as far as the newer byway says.
const COUNTED: Counters =
    Counters { matched: Count { packets: 7, bytes: 700 }, arrived: Count { packets: 5, bytes: 500 } };

fn map<T: TryFrom<Map, Error: std::fmt::Debug>>(pin: &Path) -> T {
    Map::from_map_data(MapData::from_pin(pin).unwrap()).unwrap().try_into().unwrap()
}

fn records(folder: &Path) -> Array<MapData, RuleRecord> {
    map(&folder.join("rules/0"))
}

fn counters(folder: &Path) -> Array<MapData, Counters> {
    map(&folder.join("counters/0"))
}

/// The identity of the rule for exactly these packets.
fn identity(folder: &Path, selector: &Selector) -> u32 {
    let wire = |prefix: Prefix| {
        let mut wire = [0; 16];
        match prefix.address() {
            std::net::IpAddr::V4(address) => wire[..4].copy_from_slice(&address.octets()),
            std::net::IpAddr::V6(address) => wire = address.octets(),
        }
        (wire, prefix.len())
    };
    let destination = selector.destination().map_or(([0; 16], 0), wire);
    let is_it = |record: &RuleRecord| {
        record.family != 0
            && (record.source, record.source_len) == wire(selector.source())
            && (record.destination, record.destination_len) == destination
    };
    let records = records(folder);
    (1..chunk_len(0)).find(|id| is_it(&records.get(id, 0).unwrap())).unwrap()
}

/// Reads and writes all entries of the source tables, as the words that say what they are and whose.
fn each_entry(folder: &Path, mut each: impl FnMut(Entry) -> Option<Entry>) {
    fn buckets<const N: usize>(
        pin: &Path,
        word: usize,
        rule: usize,
        high: bool,
        each: &mut dyn FnMut(Entry) -> Option<Entry>,
    ) where
        [u64; N]: Pod,
    {
        // A table that has never had an entry is not there.
        if !fs::exists(pin).unwrap() {
            return;
        }
        let mut table: Array<MapData, [u64; N]> = map(pin);
        for bucket in 0..table.len() {
            let mut words = table.get(&bucket, 0).unwrap();
            for entry in words.chunks_exact_mut(N / ENTRIES).filter(|entry| entry[word] != 0) {
                let id = if high { entry[rule] >> 32 } else { entry[rule] } as u32;
                if let Some(other) = each(Entry::read(entry[word], id)) {
                    entry[word] = other.word();
                }
            }
            table.set(bucket, words, 0).unwrap();
        }
    }
    let meta: Array<MapData, u32> = map(&folder.join("META"));
    let in_force = meta.get(&meta::GENERATION, 0).unwrap() & 1;
    buckets::<{ ENTRIES * WORDS4 }>(&folder.join(format!("SOURCES4-{in_force}")), 1, 0, true, &mut each);
    buckets::<{ ENTRIES * WORDS6 }>(&folder.join(format!("SOURCES6-{in_force}")), 2, 3, false, &mut each);
}

/// What a packet finds in the sets of destinations, which are of IPv4 here, for this address.
fn in_sets(folder: &Path, destination: Prefix) -> Vec<(Key<[u8; 8]>, byway_abi::Target)> {
    let std::net::IpAddr::V4(address) = destination.address() else { return Vec::new() };
    let mut sets = Vec::new();
    each_entry(folder, |entry| {
        sets.extend((entry.target.kind == TARGET_BY_DESTINATION).then_some(entry.target.index));
        None
    });
    let table: LpmTrie<MapData, [u8; 8], byway_abi::Target> = map(&folder.join("DESTINATIONS4"));
    let found = |set: u32| {
        let mut data = [0; 8];
        data[..4].copy_from_slice(&set.to_ne_bytes());
        data[4..].copy_from_slice(&address.octets());
        let key = Key::new(32 + u32::from(destination.len()), data);
        table.get(&key, 0).ok().map(|target| (key, target))
    };
    sets.into_iter().filter_map(found).collect()
}

/// Lets a rule that passes its packets be one of the other kind, in its record, in its counters and in what packets find.
fn make_unknown(folder: &Path, selector: &Selector) {
    let id = identity(folder, selector);
    let mut records = records(folder);
    let record = records.get(&id, 0).unwrap();
    assert_eq!(record.kind, TARGET_PASS);
    records.set(id, RuleRecord { kind: KIND, index: INDEX, ..record }, 0).unwrap();
    counters(folder).set(id, COUNTED, 0).unwrap();
    let other = |target| byway_abi::Target { kind: KIND, index: INDEX, ..target };
    match selector.destination() {
        None => each_entry(folder, |entry| {
            (entry.target.rule == id && entry.is_own).then(|| Entry { target: other(entry.target), ..entry })
        }),
        Some(destination) => {
            let mut table: LpmTrie<MapData, [u8; 8], byway_abi::Target> = map(&folder.join("DESTINATIONS4"));
            for (key, target) in in_sets(folder, destination).iter().filter(|(_, it)| it.rule == id) {
                table.insert(key, other(*target), 0).unwrap();
            }
        }
    }
}

/// Its record, its counters, and how many packets find it, each with what.
fn state(folder: &Path, selector: &Selector) -> (u32, RuleRecord, Counters, Vec<(u8, u32)>) {
    let id = identity(folder, selector);
    let mut found = Vec::new();
    match selector.destination() {
        None => each_entry(folder, |entry| {
            found.extend((entry.target.rule == id).then_some((entry.target.kind, entry.target.index)));
            None
        }),
        Some(destination) => {
            let of_it = in_sets(folder, destination).into_iter().filter(|(_, it)| it.rule == id);
            found.extend(of_it.map(|(_, it)| (it.kind, it.index)));
        }
    }
    (id, records(folder).get(&id, 0).unwrap(), counters(folder).get(&id, 0).unwrap(), found)
}

fn next_hops(folder: &Path) -> usize {
    let slots: Array<MapData, NextHop> = map(&folder.join("NEXT_HOPS"));
    let in_use = |slot: &u32| {
        let next_hop = slots.get(slot, 0).unwrap();
        next_hop.ifindex != 0 && next_hop.flags & NEXT_HOP_FREE == 0
    };
    (1..8).filter(in_use).count()
}

#[test]
fn a_rule_of_an_unknown_kind_stays_as_it_is_whatever_is_asked() {
    for v6 in FAMILIES {
        let (hosts, hook) = (Routers::new(v6), any_hook());
        let (own, near) = (hosts.source(7), hosts.far(1));
        let around = hosts.around(own, 8);
        let pass = |source: &str, to: Option<&str>| rule(source, to, TargetSpec::Pass).owner(Owner::CONFIG);
        let by = |last: u16, router| {
            rule(&hosts.source(last).to_string(), None, TargetSpec::NextHop(hosts.hop(router)))
        };
        // With many rules one alone is read only where nobody tells destinations apart.
        let mut unknown = vec![pass(&own.to_string(), None)];
        if !v6 {
            unknown.push(pass(&hosts.source(8).to_string(), Some(&hosts.around(near, 8))));
        }
        let selectors: Vec<Selector> = unknown.iter().map(|it| it.selector).collect();
        let wide = rule(&around, None, TargetSpec::NextHop(hosts.hop(1))).owner(Owner::CLI);
        on(&hosts.server, hook, |byway| byway.add_all(&unknown)).unwrap();
        on(&hosts.server, hook, |byway| byway.add(&wide)).unwrap();
        let folder = pins().remove(0);
        let folder = Path::new(&folder);
        selectors.iter().for_each(|selector| make_unknown(folder, selector));
        let before: Vec<_> = selectors.iter().map(|selector| state(folder, selector)).collect();
        let is_unknown = |it: &&RuleStatus| it.rule.target == Target::Other { kind: KIND, index: INDEX };
        let stays = |when: &str| {
            let now: Vec<_> = selectors.iter().map(|selector| state(folder, selector)).collect();
            assert_eq!(now, before, "after {when}");
            let all = rules(&hosts.server);
            let shown: Vec<Selector> = all.iter().filter(is_unknown).map(|it| it.rule.selector()).collect();
            assert_eq!(shown, selectors, "after {when}");
        };
        assert_eq!(
            before.iter().map(|(.., found)| found.len()).collect::<Vec<_>>(),
            vec![1; selectors.len()]
        );
        stays("it was made");
        let alone = on(&hosts.server, hook, |byway| byway.rule(&selectors[0])).unwrap();
        assert_eq!(alone.rule.to_string(), format!("from {own} kind {KIND}"));
        assert_eq!(alone.departed, byway::Count::default());
        let passes = || {
            assert_eq!(hosts.way(own, near), Way::Gateway);
            assert_eq!(hosts.way(hosts.source(9), near), Way::Router1);
        };
        passes();

        // Nobody takes its place.
        let config = |rules: &[RuleSpec]| Config::new(None, vec![], rules.to_vec());
        for selector in &selectors {
            let spec = RuleSpec::new(*selector, TargetSpec::Drop);
            let refused: [Result<(), Error>; 4] = on(&hosts.server, hook, |byway| {
                [
                    byway.add(&spec).map(drop),
                    byway.replace(&spec).map(drop),
                    byway.del(selector).map(drop),
                    byway.apply(Owner::CONFIG, &config(std::slice::from_ref(&spec))).map(drop),
                ]
            });
            for refused in refused {
                let error = refused.unwrap_err();
                assert!(
                    matches!(error, Error::UnknownKind(_)) && error.kind() == ErrorKind::Refused,
                    "{error}"
                );
            }
        }
        let error = on(&hosts.server, hook, |byway| byway.del(&selectors[0])).unwrap_err();
        assert_eq!(
            error.sentence(),
            format!(
                "the rule for these packets (from {own} kind {KIND}) is of a kind that this byway does not know, so it stays as it is; change or delete it with the byway that has made it"
            )
        );
        stays("what was refused");

        // What others do around it. What it may lead to stays as well.
        let guest = by(20, 2);
        on(&hosts.server, hook, |byway| {
            byway.add(&guest).unwrap();
            byway.replace(&RuleSpec::new(guest.selector, TargetSpec::Drop)).unwrap();
            byway.del(&guest.selector).unwrap();
        });
        assert_eq!(next_hops(folder), 2);
        let up = GroupSpec::new("up", vec![MemberSpec::new(hosts.hop(1))]).owner(Owner::CONFIG);
        on(&hosts.server, hook, |byway| {
            byway.add_group(&up).unwrap();
            let error = byway.del_group("up").unwrap_err();
            assert!(
                matches!(error, Error::GroupMayBeInUse { .. }) && error.kind() == ErrorKind::Refused,
                "{error}"
            );
        });
        stays("a rule came and went");
        let others: Vec<RuleSpec> = (0..40)
            .flat_map(|last: u16| {
                let verdict = |source: String| rule(&source, None, TargetSpec::Drop);
                [verdict(format!("192.168.9.{last}")), verdict(format!("2001:db8:59::{last:x}"))]
            })
            .collect();
        on(&hosts.server, hook, |byway| {
            let changes = byway.apply(Owner::CONFIG, &config(&others)).unwrap();
            assert_eq!((changes.counts().added, changes.counts().removed), (80, 0));
        });
        stays("an apply of many rules");
        passes();
        on(&hosts.server, hook, |byway| byway.rollback()).unwrap();
        stays("its rollback");
        on(&hosts.server, hook, |byway| {
            byway.apply(Owner::CONFIG, &config(&others)).unwrap();
            assert_eq!(byway.diff(Owner::CONFIG, &config(&[])).unwrap().counts().removed, 80);
            byway.apply(Owner::CONFIG, &config(&[])).unwrap();
            assert!(byway.diff(Owner::CONFIG, &config(&[])).unwrap().is_empty());
        });
        stays("an apply of nothing");
        assert_eq!(on(&hosts.server, hook, |byway| byway.groups()).unwrap().len(), 1);

        // A change that was cut off.
        let mut meta: Array<MapData, u32> = map(&folder.join("META"));
        meta.set(meta::CHANGING, 1, 0).unwrap();
        let late = rule(&hosts.source(21).to_string(), None, NextHopSpec::on_link("eth2").into());
        on(&hosts.server, hook, |byway| byway.add(&late)).unwrap();
        assert_eq!(meta.get(&meta::CHANGING, 0).unwrap(), 0);
        stays("what was left was tidied");
        passes();

        // Among many, of which a change reads one alone.
        let many =
            (0..1_200).map(|nth| rule(&format!("10.{}.{}.1", nth / 250, nth % 250), None, TargetSpec::Pass));
        let many: Vec<RuleSpec> = many.collect();
        on(&hosts.server, hook, |byway| {
            byway.add_all(&many).unwrap();
            byway.del(&late.selector).unwrap();
            let error = byway.add(&RuleSpec::new(selectors[0], TargetSpec::Drop)).unwrap_err();
            assert!(matches!(error, Error::UnknownKind(_)), "{error}");
        });
        assert_eq!(next_hops(folder), 3);
        stays("one of many went");

        let text = on(&hosts.server, hook, |byway| byway.export()).unwrap().to_string();
        for selector in &selectors {
            let comment =
                format!("# Left out, since this byway does not know its kind: {selector} kind {KIND}\n");
            assert!(text.contains(&comment), "{text}");
        }
        let reading = read([("export.toml".into(), text.clone())], &mut |path| {
            Err(byway::FileError::Missing(path.to_owned()))
        });
        assert!(reading.problems.iter().all(|it| it.severity != Severity::Error), "{text}");
        assert_eq!(reading.config.unwrap().rule_count(), many.len() + 1);

        on(&hosts.server, hook, |byway| {
            assert_eq!(byway.flush().unwrap().len(), many.len() + 1);
            byway.detach_all().unwrap();
        });
        stays("everything else went");
        assert_eq!(rules(&hosts.server).len(), selectors.len());
        assert!(fs::exists(folder).unwrap());
    }
}
