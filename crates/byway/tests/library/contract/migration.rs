//! What a byway of an older schema has pinned is taken over in place, while packets go through it.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use crate::support::{
    ANSWER, hooks, on, pins,
    routers::{Routers, rule},
    rules,
};
use aya::{
    EbpfLoader,
    maps::{Array, HashMap, Map, MapData, PerCpuHashMap, PerCpuValues},
    programs::{ProgramType, SchedClassifier},
    sys::{BpfHelper, is_helper_supported},
    util::nr_cpus,
};
use byway::{Attach, Byway, Error, GroupSpec, Hook, MemberSpec, OnDown, TargetSpec};
use byway_abi::{
    Count, ExceptionCounters, MAX_PROGRAMS, ProgramKey, ProgramRecord, RuleRecord, SCHEMA, meta,
};
use byway_lab::{Traffic, wait_until};

/// Between two packets of a flow.
const PAUSE: Duration = Duration::from_micros(200);

/// What a byway of an older schema pinned.
struct Old {
    schema: u32,
    /// Its programs and maps, as the byway had them that was the last to pin it.
    object: &'static [u8],
    /// The maps that it pinned besides [`MAPS`].
    maps: &'static [&'static str],
}

static OBJECT_7: &[u8] = aya::include_bytes_aligned!("schemas/7.bpf.o");
static OBJECT_8: &[u8] = aya::include_bytes_aligned!("schemas/8.bpf.o");
static OBJECT_9: &[u8] = aya::include_bytes_aligned!("schemas/9.bpf.o");
static OBJECT_10: &[u8] = aya::include_bytes_aligned!("schemas/10.bpf.o");
static OBJECT_11: &[u8] = aya::include_bytes_aligned!("schemas/11.bpf.o");
static OBJECT_12: &[u8] = aya::include_bytes_aligned!("schemas/12.bpf.o");
static OBJECT_13: &[u8] = aya::include_bytes_aligned!("schemas/13.bpf.o");
const OLD: [Old; 7] = [
    Old { schema: 7, object: OBJECT_7, maps: &["DEVICES", "FRAGMENTS", "EXCEPTION_COUNTERS"] },
    Old {
        schema: 8,
        object: OBJECT_8,
        maps: &["DEVICES", "PROBE", "SECRET", "FRAGMENTS", "EXCEPTION_COUNTERS"],
    },
    Old {
        schema: 9,
        object: OBJECT_9,
        maps: &["DEVICES", "PROBE", "SECRET", "FRAGMENTS", "EXCEPTION_COUNTERS"],
    },
    Old {
        schema: 10,
        object: OBJECT_10,
        maps: &["PROGRAMS", "PROBE", "SECRET", "FRAGMENTS", "EXCEPTION_COUNTERS"],
    },
    Old { schema: 11, object: OBJECT_11, maps: &["PROGRAMS", "PROBE", "SECRET", "FRAGMENTED", "EXCEPTIONS"] },
    Old {
        schema: 12,
        object: OBJECT_12,
        maps: &[
            "PROGRAMS",
            "PROBE",
            "SECRET",
            "FRAGMENTED",
            "EXCEPTIONS",
            "RECEIVERS",
            "WAYS",
            "FLOWS",
            "FLOW_KEYS",
            "HEARD",
            "REPLY_DEVICES",
            "FLOW_COUNTERS",
        ],
    },
    Old {
        schema: 13,
        object: OBJECT_13,
        maps: &[
            "PROGRAMS",
            "PROBE",
            "SECRET",
            "FRAGMENTED",
            "EXCEPTIONS",
            "RECEIVERS",
            "WAYS",
            "FLOWS",
            "FLOW_KEYS",
            "HEARD",
            "REPLY_DEVICES",
            "FLOW_COUNTERS",
            "HEALTH_CHECKS",
            "VERDICTS",
        ],
    },
];

/// The maps that all pinned, by the names of now where those have the same shape.
const MAPS: [&str; 17] = [
    "SOURCES4",
    "SOURCES6",
    "TABLE_INFO",
    "SOURCE_CACHE",
    "DESTINATIONS4",
    "DESTINATIONS6",
    "NEXT_HOPS",
    "NEXT_HOP_DEVICES",
    "NEXT_HOP_HEALTH",
    "NEXT_HOP_COUNTERS",
    "GROUPS",
    "COUNTERS",
    "ATTACHMENTS",
    "ATTACHMENT_COUNTERS",
    "SETS",
    "NEIGHBOURS",
    "META",
];
/// The programs, likewise.
const PROGRAMS: [&str; 4] = ["departure", "departure_l3", "arrival", "arrival_l3"];
/// Maps that this byway opens, and that older ones did not have.
const NEW_MAPS: [&str; 13] = [
    "EXCEPTIONS",
    "FRAGMENTED",
    "RECEIVERS",
    "WAYS",
    "FLOWS",
    "FLOW_KEYS",
    "HEARD",
    "REPLY_DEVICES",
    "FLOW_COUNTERS",
    "HEALTH_CHECKS",
    "VERDICTS",
    "REPLY_HINTS",
    "WAY_LIVENESS",
];

impl Old {
    fn maps(&self) -> impl Iterator<Item = &'static str> {
        MAPS.into_iter().chain(self.maps.iter().copied())
    }

    /// Whether it counted exceptions in the map of then.
    fn counts_exceptions(&self) -> bool {
        self.maps.contains(&"EXCEPTION_COUNTERS")
    }

    /// The name of then.
    fn then(&self, name: &'static str) -> &'static str {
        match name {
            name if self.schema >= 9 => name,
            "TABLE_INFO" => "SHAPES",
            "SOURCE_CACHE" => "RECENT",
            "EXCEPTION_COUNTERS" => "RARE_COUNTERS",
            "departure_l3" => "departure_bare",
            "arrival_l3" => "arrival_bare",
            name => name,
        }
    }

    /// The name of a program in the object of then.
    fn loaded_as(&self, name: &'static str) -> &'static str {
        match name {
            name if self.schema < 10 => self.then(name),
            "departure" => "byway_departure",
            "departure_l3" => "byway_dep_l3",
            "arrival" => "byway_arrival",
            "arrival_l3" => "byway_arr_l3",
            name => name,
        }
    }

    /// The names of then that there is nothing of any more.
    fn gone(&self) -> Vec<&'static str> {
        let all = self.maps().chain(PROGRAMS).map(|name| (self.then(name), name));
        all.filter(|(then, now)| then != now)
            .map(|(then, _)| then)
            .chain(["DEVICES", "links", "FRAGMENTS"])
            .collect()
    }
}

fn open(folder: &Path, name: &str) -> Map {
    Map::from_map_data(MapData::from_pin(folder.join(name)).unwrap()).unwrap()
}

fn open_meta(folder: &Path) -> Array<MapData, u32> {
    open(folder, "META").try_into().unwrap()
}

/// Pins what this byway has pinned of programs on devices as it was up to schema 9.
fn without_direction(folder: &Path) {
    let new: HashMap<_, ProgramKey, ProgramRecord> = open(folder, "PROGRAMS").try_into().unwrap();
    let mut old: HashMap<_, u32, ProgramRecord> = open(folder, "DEVICES").try_into().unwrap();
    for entry in new.iter() {
        let (key, record) = entry.unwrap();
        old.insert(key.ifindex, record, 0).unwrap();
    }
    fs::remove_file(folder.join("PROGRAMS")).unwrap();
    fs::rename(folder.join("egress"), folder.join("links")).unwrap();
}

/// How many packets of each rule had their MSS clamped on each CPU, up to schema 10.
const CLAMPED: u64 = 7;

/// Counts them where they were counted then, for each rule.
fn count_exceptions(folder: &Path) {
    let mut counters: PerCpuHashMap<_, u32, ExceptionCounters> =
        open(folder, "EXCEPTION_COUNTERS").try_into().unwrap();
    let clamped = Count { packets: CLAMPED, bytes: 0 };
    let exceptions = ExceptionCounters { clamped, ..ExceptionCounters::default() };
    let records: Array<_, RuleRecord> = open(folder, "rules/0").try_into().unwrap();
    for (id, record) in records.iter().enumerate() {
        if record.unwrap().family != 0 {
            let cpus = vec![exceptions; nr_cpus().unwrap()];
            counters.insert(id as u32, PerCpuValues::try_from(cpus).unwrap(), 0).unwrap();
        }
    }
}

const BPF_F_NO_PREALLOC: u32 = 1;

fn program(folder: &Path, name: &str) -> u32 {
    SchedClassifier::from_pin(folder.join(name)).unwrap().info().unwrap().id()
}

/// Pins maps and programs of an older schema for the server, with what `fill` puts there by this byway's own means: nearly all
/// maps that it writes have the same shapes. Returns the folder.
fn pin_old(old: &Old, hosts: &Routers, hook: Hook, fill: impl FnOnce(&mut Byway) + Send) -> PathBuf {
    on(&hosts.server, hook, |byway| byway.attach(&Attach::devices(["eth0"]))).unwrap();
    let folder = PathBuf::from(pins().remove(0));
    let object = open_meta(&folder).get(&meta::OBJECT, 0).unwrap();
    let new_maps: Vec<(&str, MapData)> = NEW_MAPS
        .into_iter()
        .filter(|name| !old.maps.contains(name))
        .map(|name| (name, MapData::from_pin(folder.join(name)).unwrap()))
        .collect();
    on(&hosts.server, hook, |byway| byway.detach_all()).unwrap();
    assert!(!folder.exists());

    fs::create_dir_all(folder.join("egress")).unwrap();
    let has_check_mtu =
        is_helper_supported(ProgramType::SchedClassifier, BpfHelper::BPF_FUNC_check_mtu).unwrap();
    let has_check_mtu = u32::from(has_check_mtu);
    let secret = 0x5EC2_E700_0000_0001_u64;
    let mut loader = EbpfLoader::new();
    loader.override_global("HAS_CHECK_MTU", &has_check_mtu, true);
    loader.override_global("MARK_SECRET", &secret, false);
    // Until all is there, they pass for this byway's, and have the names of now.
    for name in old.maps() {
        loader.map_pin_path(old.then(name), folder.join(name));
    }
    let mut loaded = loader.load(old.object).unwrap();
    for name in PROGRAMS {
        let program: &mut SchedClassifier =
            loaded.program_mut(old.loaded_as(name)).unwrap().try_into().unwrap();
        program.load().unwrap();
        program.pin(folder.join(name)).unwrap();
    }
    for (name, map) in &new_maps {
        map.pin(folder.join(name)).unwrap();
    }
    if old.schema < 10 {
        let programs: HashMap<MapData, ProgramKey, ProgramRecord> =
            HashMap::create(MAX_PROGRAMS, BPF_F_NO_PREALLOC).unwrap();
        programs.pin(folder.join("PROGRAMS")).unwrap();
    }
    if old.maps.contains(&"SECRET") {
        let mut map: Array<MapData, u64> = open(&folder, "SECRET").try_into().unwrap();
        map.set(0, secret, 0).unwrap();
    }
    let mut meta = open_meta(&folder);
    meta.set(meta::OBJECT, object, 0).unwrap();
    meta.set(meta::SCHEMA, SCHEMA, 0).unwrap();
    let before = program(&folder, "departure");
    on(&hosts.server, hook, fill);
    assert_eq!(program(&folder, "departure"), before);
    for (name, _) in &new_maps {
        fs::remove_file(folder.join(name)).unwrap();
    }
    if old.counts_exceptions() {
        count_exceptions(&folder);
        fs::remove_file(folder.join("FRAGMENTED-0")).unwrap();
        fs::remove_dir_all(folder.join("exceptions")).unwrap();
    }
    for name in old.maps().chain(PROGRAMS).filter(|name| old.then(name) != *name) {
        fs::rename(folder.join(name), folder.join(old.then(name))).unwrap();
    }
    if old.schema < 10 {
        without_direction(&folder);
    }
    meta.set(meta::OBJECT, 7, 0).unwrap();
    meta.set(meta::SCHEMA, old.schema, 0).unwrap();
    folder
}

#[test]
fn an_older_schema_is_taken_over_under_traffic() {
    let cases = hooks().iter().flat_map(|hook| [(*hook, false), (*hook, true)]);
    let all = cases.flat_map(|case| OLD.iter().enumerate().map(move |(nth, old)| (nth, old, case)));
    // An emulated kernel is slow: there each schema is taken over in one family, with each hook.
    let is_emulated = std::env::var_os("BYWAY_EMULATED").is_some();
    for (_, old, (hook, v6)) in all.filter(|(nth, _, (_, v6))| !is_emulated || (nth % 2 == 1) == *v6) {
        let hosts = Routers::new(v6);
        let (far, single, grouped) = (hosts.far(1), hosts.source(5), hosts.source(900));
        let member = MemberSpec::new(hosts.hop(2));
        let group = GroupSpec::new("both", [member]).on_down(OnDown::Drop);
        let specs = [
            rule(&single.to_string(), None, TargetSpec::NextHop(hosts.hop(1))),
            rule(&grouped.to_string(), None, TargetSpec::Group("both".into())),
        ];
        let folder = pin_old(old, &hosts, hook, |byway| {
            byway.add_group(&group).unwrap();
            byway.add_all(&specs).unwrap();
            // The device of a next hop that is an attachment as well.
            byway.attach(&Attach::devices(["eth1"])).unwrap();
        });
        let programs = PROGRAMS.map(|name| program(&folder, old.then(name)));
        // The neighbours are known before packets are counted.
        for source in [single, grouped] {
            hosts.way(source, far);
        }

        let traffic = Traffic::default();
        let (refused, sent) = thread::scope(|scope| {
            let ending = traffic.ending();
            let senders = [single, grouped].map(|source| {
                let (hosts, traffic) = (hosts.server.clone(), &traffic);
                scope.spawn(move || hosts.run(|| traffic.send(&[(source, far)], PAUSE)))
            });
            thread::sleep(Duration::from_millis(200)); // traffic ahead of the change
            let refused = on(&hosts.server, hook, |byway| byway.status());
            on(&hosts.server, hook, |byway| byway.attach(&Attach::Auto)).unwrap();
            thread::sleep(Duration::from_millis(200)); // and behind it
            drop(ending);
            (refused, senders.map(|sender| sender.join().unwrap().unwrap() as u64 + 1))
        });
        // Whoever reads only is told what to do.
        let refused = refused.unwrap_err();
        assert!(matches!(refused, Error::OlderSchema { found, .. } if found == old.schema), "{refused}");
        assert_eq!(
            refused.sentence(),
            format!(
                "an older byway made the pins in {}, with schema {}, and this byway uses schema {SCHEMA}; the next change takes them over with all rules and counters",
                folder.display(),
                old.schema
            )
        );

        assert_eq!(open_meta(&folder).get(&meta::SCHEMA, 0).unwrap(), SCHEMA);
        let new = PROGRAMS.map(|name| program(&folder, name));
        assert!(programs.iter().all(|old| !new.contains(old)), "{programs:?} {new:?}");
        assert!(folder.join("FRAGMENTED-0").exists(), "there is a group");
        let left: Vec<_> = old.gone().into_iter().filter(|name| folder.join(name).exists()).collect();
        assert_eq!(left, Vec::<&str>::new());
        for (source, router, sent) in [(single, 1, sent[0]), (grouped, 2, sent[1])] {
            let arrived = || hosts.counts(source, far);
            assert!(wait_until(ANSWER, || arrived()[router] as u64 == sent), "{:?} of {sent}", arrived());
            assert_eq!(arrived().iter().sum::<usize>() as u64, sent, "some went elsewhere as well");
            let rules = rules(&hosts.server);
            let rule = rules.iter().find(|it| it.rule.source.contains(source)).unwrap();
            assert_eq!((rule.departed.packets, rule.arrived.packets), (sent, sent), "{hook} {rule:?}");
            let clamped = if old.counts_exceptions() { CLAMPED * nr_cpus().unwrap() as u64 } else { 0 };
            assert_eq!(rule.clamped.packets, clamped, "{hook} {rule:?}");
        }
        // What was there before is there still, and is changed as ever.
        on(&hosts.server, hook, |byway| {
            assert_eq!(byway.groups().unwrap().len(), 1);
            assert!(byway.attachments().unwrap().iter().all(|it| it.is_installed));
            byway.flush().unwrap();
            byway.del_group("both").unwrap();
            byway.detach_all().unwrap();
        });
        assert_eq!(pins(), Vec::<String>::new());
    }
}

/// A newer byway's pins are left alone, and so are those that are too old to be known.
#[test]
fn what_is_newer_or_too_old_is_refused() {
    let hosts = Routers::new(false);
    on(&hosts.server, hooks()[0], |byway| byway.attach(&Attach::devices(["eth0"]))).unwrap();
    let folder = PathBuf::from(pins().remove(0));
    for found in [SCHEMA + 1, 6, 0, u32::MAX] {
        open_meta(&folder).set(meta::SCHEMA, found, 0).unwrap();
        for call in [
            |byway: &mut Byway| byway.attach(&Attach::Auto).map(drop),
            |byway: &mut Byway| byway.status().map(drop),
        ] {
            let refused = on(&hosts.server, hooks()[0], call).unwrap_err();
            assert!(matches!(refused, Error::Schema { .. }), "{refused}");
        }
    }
}
