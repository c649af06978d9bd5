//! Tables that are full, and counters that come round. The table of rules is in `refused.rs`.

use std::net::{IpAddr, Ipv4Addr};

use aya::{
    maps::{Array, Map, MapData, PerCpuArray, PerCpuValues},
    util::nr_cpus,
};
use byway::{
    Attach, Byway, Error, GroupSpec, MemberSpec, NextHopSpec, OnDown, Owner, RuleSpec, TargetSpec,
    config::Config,
};
use byway_abi::{CHUNK_MIN, Counters, NextHopCounters, RuleRecord};

use crate::support::{
    any_hook, on, pins,
    routers::{Routers, Way, rule},
    rules,
};

/// The `nth` neighbour of a network that is wide enough.
fn hop(nth: u32) -> NextHopSpec {
    NextHopSpec::ViaDev(IpAddr::from(Ipv4Addr::from(0x0A40_0000 + 2 + nth)), "eth1".into())
}

fn source(nth: u32) -> String {
    Ipv4Addr::from(0xC0A8_0000 + nth).to_string()
}

fn hosts() -> Routers {
    let hosts = Routers::new(false);
    hosts.server.address("eth1", "10.64.0.1/16").unwrap();
    hosts
}

fn call<T: Send>(hosts: &Routers, call: impl FnOnce(&mut Byway) -> T + Send) -> T {
    on(&hosts.server, any_hook(), call)
}

#[test]
fn a_thousand_next_hops_fit_and_one_more_is_refused() {
    let hosts = hosts();
    // Fixed ones: the kernel's table of neighbours that come and go is shared by all namespaces, and about as large.
    for nth in (0..1_023).chain(2_000..2_003) {
        let gateway = hop(nth).gateway().unwrap();
        hosts.server.permanent_neighbour("eth1", gateway, [2, 0, 0, 0, 0, 9]).unwrap();
    }
    let spec = |nth: u32, at: u32| rule(&source(nth), None, TargetSpec::NextHop(hop(at)));
    let all: Vec<RuleSpec> = (0..1_022).map(|nth| spec(nth, nth)).collect();
    call(&hosts, |byway| byway.add_all(&all)).unwrap();
    let (last, too_many) = (spec(2_000, 1_022), spec(2_001, 1_023));
    call(&hosts, |byway| byway.add(&last)).unwrap();
    let error = call(&hosts, |byway| byway.add(&too_many)).unwrap_err();
    assert!(matches!(error, Error::TooManyNextHops { limit: 1_023 }), "{error}");
    assert_eq!(rules(&hosts.server).len(), 1_023);
    // One that goes makes room, and the slots are given away again.
    for round in 0..3 {
        call(&hosts, |byway| byway.del(&spec(round, 0).selector)).unwrap();
        let other = spec(3_000 + round, 2_000 + round);
        call(&hosts, |byway| byway.add(&other)).unwrap();
    }
    let next_hops = call(&hosts, |byway| byway.next_hops()).unwrap();
    assert_eq!(next_hops.len(), 1_023);
    assert!(next_hops.iter().all(|it| it.rules == 1), "each has its own");
    call(&hosts, |byway| byway.flush().and_then(|_| byway.detach_all())).unwrap();
    assert_eq!(pins(), Vec::<String>::new());
}

#[test]
fn a_thousand_groups_fit_and_one_more_is_refused() {
    let hosts = hosts();
    let members = || (0..2).map(|nth| MemberSpec::new(hop(nth))).collect::<Vec<_>>();
    let spec = |nth: u32| rule(&source(nth), None, TargetSpec::NextHops(members()));
    let all: Vec<RuleSpec> = (0..1_023).map(spec).collect();
    call(&hosts, |byway| byway.add_all(&all)).unwrap();
    let group = |name: &str| GroupSpec::new(name, members());
    call(&hosts, |byway| byway.add_group(&group("last"))).unwrap();
    for error in [
        call(&hosts, |byway| byway.add_group(&group("more"))).unwrap_err(),
        call(&hosts, |byway| byway.add(&spec(5_000))).unwrap_err(),
    ] {
        assert!(matches!(error, Error::TooManyGroups { limit: 1_024 }), "{error}");
    }
    // All of them are replaced at once, when old and new are there together.
    let dropping: Vec<RuleSpec> = all.iter().map(|spec| spec.clone().on_down(OnDown::Drop)).collect();
    call(&hosts, |byway| byway.replace_all(&dropping)).unwrap();
    assert!(rules(&hosts.server).iter().all(|status| status.rule.on_down == OnDown::Drop));
}

/// Lists of devices after `reply-to` may all be replaced at once, and one more than fit are refused before anything changes.
#[test]
fn a_hundred_lists_of_devices_fit_and_more_are_refused() {
    let hosts = hosts();
    let config = |lists: u32, devices: u32, suffix: &str| {
        let spec = |nth: u32| {
            let names = (0..devices).map(|device| format!("d{nth}-{device}{suffix}"));
            RuleSpec::reply_to(source(nth).parse::<byway::Prefix>().unwrap().into()).received_by(names)
        };
        Config::new(Some(Attach::devices(["eth0"])), vec![], (0..lists).map(spec))
    };
    let apply = |config: &Config| call(&hosts, |byway| byway.apply(Owner::CONFIG, config));
    for suffix in ["a", "b", "c"] {
        let changes = apply(&config(127, 8, suffix)).unwrap();
        assert_eq!(changes.waiting().len(), 127 * 8);
    }
    let exported = || call(&hosts, |byway| byway.export()).unwrap().to_string();
    let before = exported();
    for (lists, devices) in [(128, 1), (60, 18)] {
        let error = apply(&config(lists, devices, "d")).unwrap_err();
        assert!(matches!(error, Error::TooManyReplyDevices { .. }), "{error}");
    }
    assert_eq!(exported(), before);
}

/// After 2^64 packets counters begin again at zero. Nothing else happens.
#[test]
fn counters_come_round() {
    let hosts = Routers::new(false);
    let (from, to) = (hosts.source(5), hosts.far(1));
    let spec = rule(&from.to_string(), None, TargetSpec::NextHop(hosts.hop(1)));
    call(&hosts, |byway| byway.add(&spec)).unwrap();
    let folder = pins().remove(0);
    let map =
        |name: &str| Map::from_map_data(MapData::from_pin(format!("{folder}/{name}")).unwrap()).unwrap();
    let full = byway_abi::Count { packets: u64::MAX, bytes: u64::MAX };
    let mut of_rules: Array<_, Counters> = map("counters/0").try_into().unwrap();
    let mut of_next_hops: PerCpuArray<_, NextHopCounters> = map("NEXT_HOP_COUNTERS").try_into().unwrap();
    let records: Array<_, RuleRecord> = map("rules/0").try_into().unwrap();
    let id = records.iter().position(|record| record.unwrap().family != 0).unwrap() as u32;
    for cpu in 0..nr_cpus().unwrap() as u32 {
        of_rules.set(cpu * CHUNK_MIN + id, Counters { matched: full, arrived: full }, 0).unwrap();
    }
    let counters = vec![
        NextHopCounters {
            departed: full,
            arrived: full,
            failed_over: full,
            ..NextHopCounters::default()
        };
        nr_cpus().unwrap()
    ];
    of_next_hops.set(1, PerCpuValues::try_from(counters).unwrap(), 0).unwrap();

    let cpus = nr_cpus().unwrap() as u64;
    let before = rules(&hosts.server)[0].departed.packets;
    assert_eq!(before, 0_u64.wrapping_sub(cpus), "the sum comes round as well");
    for sent in 1..=2 * cpus {
        assert_eq!(hosts.way(from, to), Way::Router1);
        let status = &rules(&hosts.server)[0];
        assert_eq!(status.departed.packets, before.wrapping_add(sent));
        assert_eq!(status.departed, status.arrived);
    }
    let status = call(&hosts, |byway| byway.status()).unwrap();
    assert_eq!(status.next_hops[0].departed, status.rules[0].departed);
}
