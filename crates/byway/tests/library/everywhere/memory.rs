//! What Byway's maps and programs take of the kernel's memory, and that they grow with what is in them.

use std::{
    fs,
    net::Ipv4Addr,
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
};

use aya::{
    maps::{Map, MapData, PerCpuHashMap},
    util::nr_cpus,
};
use byway::{OnDown, RuleSpec, TargetSpec};
use byway_abi::{ExceptionCounters, MIN_SETS, chunk_len};

use crate::support::{
    any_hook, lacking_before, on, pins,
    routers::{Routers, rule},
    rules,
};

/// How much one rule may take on a machine with two CPUs, in bytes.
const ONE_RULE: u64 = 1_000_000;
/// And for each more.
const MORE_CPU: u64 = 205_000;

/// Returns the bytes of all pinned maps and programs, as the kernel counts them.
fn kernel_memory(folder: &Path) -> u64 {
    let mut sum = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sum += kernel_memory(&path);
            continue;
        }
        let pin = MapData::from_pin(&path).unwrap();
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pin.fd().as_fd().as_raw_fd())).unwrap();
        // Pinned links have no such line.
        let bytes = info.lines().find_map(|line| line.strip_prefix("memlock:"));
        sum += bytes.map_or(0, |bytes| bytes.trim().parse::<u64>().unwrap());
    }
    sum
}

fn folder() -> PathBuf {
    PathBuf::from(pins().remove(0))
}

/// Whether the kernel counts what maps take, and not what they could take.
fn is_exact() -> bool {
    let table = MapData::from_pin(folder().join("DESTINATIONS4")).unwrap();
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", table.fd().as_fd().as_raw_fd())).unwrap();
    info.lines().any(|line| line.replace(char::is_whitespace, "") == "memlock:0")
}

#[test]
fn one_rule_takes_less_than_a_megabyte() {
    for v6 in [false, true] {
        let hosts = Routers::new(v6);
        let spec = rule(&hosts.source(5).to_string(), None, TargetSpec::NextHop(hosts.hop(1)));
        on(&hosts.server, any_hook(), |byway| byway.add(&spec)).unwrap();
        if !is_exact() {
            return lacking_before("exact figures of maps", [6, 4]);
        }
        let more = nr_cpus().unwrap().saturating_sub(2) as u64;
        let bytes = kernel_memory(&folder());
        println!("{bytes} bytes");
        assert!(bytes < ONE_RULE + more * MORE_CPU, "{bytes} bytes");
    }
}

/// More sources with destinations than the first map of sets has room for, in one change and in several.
#[test]
fn the_map_of_sets_grows() {
    let hosts = Routers::new(false);
    let hook = any_hook();
    let room = || MapData::from_pin(folder().join("SETS")).unwrap().info().unwrap().max_entries();
    let specs: Vec<RuleSpec> = (0..6 * MIN_SETS)
        .map(|nth| Ipv4Addr::from(0x0A01_0000 + nth).to_string())
        .map(|source| rule(&source, Some("192.0.2.0/24"), TargetSpec::Pass))
        .collect();
    let (first, rest) = specs.split_at(MIN_SETS as usize);
    on(&hosts.server, hook, |byway| byway.add_all(first)).unwrap();
    assert_eq!(room(), MIN_SETS);
    on(&hosts.server, hook, |byway| byway.add(&rest[0])).unwrap();
    assert_eq!(room(), 4 * MIN_SETS);
    // Somebody has been killed while it grew.
    MapData::from_pin(folder().join("SETS")).unwrap().pin(folder().join("SETS-larger")).unwrap();
    on(&hosts.server, hook, |byway| byway.add_all(&rest[1..])).unwrap();
    assert_eq!(room(), 16 * MIN_SETS);
    assert!(!folder().join("SETS-larger").exists());
    assert_eq!(rules(&hosts.server).len(), specs.len());
    on(&hosts.server, hook, |byway| byway.flush().and_then(|_| byway.detach_all())).unwrap();
    assert_eq!(pins(), Vec::<String>::new());
}

/// A rule behind those of the first chunk has its exceptions in another map.
#[test]
fn exceptions_are_counted_of_rules_of_each_chunk() {
    let hosts = Routers::new(false);
    let hook = any_hook();
    let specs: Vec<RuleSpec> = (0..chunk_len(0) + 1)
        .map(|nth| Ipv4Addr::from(0x0A01_0000 + nth).to_string())
        .map(|source| rule(&source, None, TargetSpec::Pass))
        .collect();
    let hop = hosts.hop(1);
    let source = hosts.source(5);
    let way = rule(&source.to_string(), None, TargetSpec::NextHop(hop.clone())).on_down(OnDown::Drop);
    on(&hosts.server, hook, |byway| {
        byway.add_all(&specs).unwrap();
        byway.add(&way).unwrap();
        byway.take_out_of_service(&hop).unwrap();
    });
    assert!(folder().join("exceptions/1").exists());
    hosts.send(source, hosts.far(1));
    let rules = rules(&hosts.server);
    let rule = rules.iter().find(|it| it.rule.source.contains(source)).unwrap();
    assert_eq!(rule.no_next_hop.packets, 1, "{rule:?}");
    // They go with the rule.
    let exceptions = || {
        let map = MapData::from_pin(folder().join("exceptions/1")).and_then(Map::from_map_data).unwrap();
        let map: PerCpuHashMap<_, u32, ExceptionCounters> = map.try_into().unwrap();
        map.keys().count()
    };
    assert_eq!(exceptions(), 1);
    on(&hosts.server, hook, |byway| byway.del(&way.selector)).unwrap();
    assert_eq!(exceptions(), 0);
}
