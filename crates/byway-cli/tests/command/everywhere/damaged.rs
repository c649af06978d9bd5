//! Whatever somebody has written into the pinned maps, no command panics, hangs, or says anything but a sentence.

use std::{
    env, fs,
    io::Read,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    process::Stdio,
};

use crate::support::{ANSWER, Said, byway, done, pins, rounds};
use aya::{
    Pod,
    maps::{
        Array, HashMap, Map, MapData, PerCpuArray, PerCpuHashMap, PerCpuValues,
        lpm_trie::{Key, LpmTrie},
        xdp::{DevMap, DevMapHash},
    },
};
use byway_abi::{
    AttachmentCounters, Counters, DEVICE_NAME_LEN, ExceptionCounters, Group, GroupKey, HealthCheck,
    NeighbourKey, NextHop, NextHopCounters, NextHopHealth, ProgramKey, ProgramRecord, RuleRecord, SetRecord,
    Target, meta,
    reply::{FLOW_KEYS_LEN, FLOWS_OF_BUCKET, FlowCounters, HeardKey, LIVENESS_WORDS, Way},
    sources::{CachedSource, ENTRIES, TableInfos, WORDS4, WORDS6},
};
use byway_lab::seed::Seed;

/// What holds before anything is damaged: a rule of each kind, by the configuration and by hand.
const CONFIG: &str = r#"
attach = ["eth0"]
[group.both]
nexthops = [{ via = "10.111.221.21", dev = "eth1", weight = 2 }, { via = "10.111.221.22", dev = "eth1" }]
[[rule]]
from = "192.168.1.5"
via = "10.111.221.21"
dev = "eth1"
[[rule]]
from = "192.168.1.0/24"
group = "both"
name = "office"
[[rule]]
from = "192.168.1.0/24"
to = "203.0.113.0/24"
target = "drop"
[[rule]]
from = "192.168.0.0/16"
target = "pass"
[[rule]]
from = "2001:db8:1::5"
via = "2001:db8:221::21"
dev = "eth1"
[[rule]]
from = "2001:db8:1::/64"
to = "2001:db8:9::/64"
target = "pass"
[[rule]]
from = "2001:db8:1::/48"
target = "drop"
"#;
const BY_HAND: [&str; 5] = [
    "add from 192.168.2.7 nexthop via 10.111.221.21 dev eth1 nexthop via 10.111.221.23 dev eth1 weight 3 on-down drop",
    "group add spare nexthop via 2001:db8:221::21 dev eth1 nexthop dev eth1",
    "add from 2001:db8:2::/64 group spare",
    "add from 192.168.9.0/24 reply-to",
    "add from 192.168.10.0/24 reply-to dev eth1",
];

/// What a person may call. `FILE` and `OTHER` are two configurations.
const COMMANDS: [&str; 53] = [
    "show",
    "--json show",
    "show nexthops",
    "show attachments",
    "show from 192.168.1.5",
    "show from 192.168.1.0/24 to 203.0.113.0/24",
    "--json show from 2001:db8:1::5",
    "get 192.168.1.5 to 198.51.100.9 proto tcp sport 443 dport 5000",
    "--json get 192.168.2.7",
    "group show",
    "show within 192.168.0.0/16 sort by packets head 3",
    "show nexthops group both with loss",
    "flush within 203.0.113.0/24",
    "gc",
    "-b BATCH",
    "-o show",
    "export",
    "metrics",
    "import",
    "check FILE",
    "diff FILE",
    "--json diff OTHER",
    "add from 192.168.3.1 via 10.111.221.21 dev eth1",
    "add from 192.168.3.0/25 to 198.51.100.0/24 drop",
    "add from 2001:db8:3::1 dev eth1",
    "replace from 192.168.2.7 via 10.111.221.22 dev eth1",
    "replace from 192.168.2.0/24 pass",
    "replace from 192.168.0.0/17 drop",
    "replace from 192.168.2.0/24 to 203.0.113.0/24 nexthop via 10.111.221.21 nexthop via 10.111.221.23",
    "replace from 2001:db8:2::/64 group both",
    "replace from any reply-to",
    "replace from 192.168.10.0/24 reply-to dev eth0 dev eth1",
    "replace from 192.168.9.0/24 reply-to else dev eth1",
    "show flows",
    "flush flows dev eth1",
    "get 192.168.9.1 to 203.0.113.9 proto udp sport 1 dport 2",
    "flow del 192.168.9.1 to 203.0.113.9 proto udp sport 1 dport 2",
    "del from 192.168.9.0/24",
    "del from 192.168.1.5",
    "del from 192.168.0.0/16",
    "del from 2001:db8:1::/64 to 2001:db8:9::/64",
    "nexthop down via 10.111.221.21",
    "nexthop up via 10.111.221.21",
    "group replace spare nexthop via 10.111.221.22 dev eth1",
    "group add third nexthop via 10.111.221.22 dev eth1",
    "group del third",
    "attach dev eth1",
    "attach",
    "detach dev eth1",
    "apply OTHER",
    "apply --confirm 60s FILE",
    "confirm",
    "rollback",
];
/// What is tried in one run.
const ROUNDS: u32 = 16;

/// What comes last, in either order.
const LAST: [&str; 2] = ["flush", "detach"];

/// Numbers that nobody can foretell who does not know the first state (Marsaglia, "Xorshift RNGs").
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    fn below(&mut self, end: usize) -> usize {
        self.next() as usize % end
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next() as u8)
    }

    /// Something else that may stand in place of these bytes: all of it, or one number of them.
    fn damage<const N: usize>(&mut self, before: [u8; N]) -> [u8; N] {
        let mut bytes = before;
        match self.below(6) {
            0 => self.bytes(),
            1 => [0xFF; N],
            2 => [0; N],
            3 => {
                let bit = self.below(N * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
                bytes
            }
            _ => {
                let at = self.below(N / 4) * 4;
                let length = [1, 2, 4, 8][self.below(4)].min(N - at);
                let extremes =
                    [0, 1, 2, 31, 33, 127, 128, 255, 0xFFFF, 0x7FFF_FFFF, 1 << 31, 1 << 63, u64::MAX];
                let number = match self.below(extremes.len() + 2) {
                    nth if nth < extremes.len() => extremes[nth],
                    _ => self.next(),
                };
                bytes[at..at + length].copy_from_slice(&number.to_ne_bytes()[..length]);
                bytes
            }
        }
    }

    /// One of these mostly, or anything.
    fn key<const K: usize>(&mut self, there: &[[u8; K]]) -> [u8; K] {
        if there.is_empty() || self.below(4) == 0 {
            return self.bytes();
        }
        let key = there[self.below(there.len())];
        if self.below(4) == 0 { self.damage(key) } else { key }
    }

    /// One of the first mostly, which are in use.
    fn index(&mut self, length: u32) -> u32 {
        let among = if self.below(8) == 0 { length } else { length.min(16) };
        self.below(among as usize) as u32
    }
}

fn open(pin: &Path) -> Map {
    Map::from_map_data(MapData::from_pin(pin).unwrap()).unwrap()
}

fn array<const N: usize>(pin: &Path, random: &mut Random) {
    let mut map: Array<_, [u8; N]> = open(pin).try_into().unwrap();
    let index = random.index(map.len());
    let value = random.damage(map.get(&index, 0).unwrap());
    map.set(index, value, 0).unwrap();
}

fn cpu_array<const N: usize>(pin: &Path, random: &mut Random) {
    let mut map: PerCpuArray<_, [u8; N]> = open(pin).try_into().unwrap();
    let index = random.index(map.len());
    let values: Vec<_> = map.get(&index, 0).unwrap().iter().map(|value| random.damage(*value)).collect();
    map.set(index, PerCpuValues::try_from(values).unwrap(), 0).unwrap();
}

/// What is in the way of a write that the kernel refuses does not matter: the map is full, or has no such key.
fn hash<const K: usize, const N: usize>(pin: &Path, random: &mut Random)
where
    [u8; K]: Pod,
{
    let mut map: HashMap<_, [u8; K], [u8; N]> = open(pin).try_into().unwrap();
    let keys: Vec<_> = map.keys().map(Result::unwrap).collect();
    let key = random.key(&keys);
    if random.below(8) == 0 {
        let _ = map.remove(&key);
        return;
    }
    let value = random.damage(map.get(&key, 0).unwrap_or([0; N]));
    let _ = map.insert(key, value, 0);
}

fn cpu_hash<const K: usize, const N: usize>(pin: &Path, random: &mut Random) {
    let mut map: PerCpuHashMap<_, [u8; K], [u8; N]> = open(pin).try_into().unwrap();
    let mut keys: Vec<_> = map.keys().map(Result::unwrap).collect();
    // The identities of the first rules.
    keys.extend((1..12_u32).map(|id| std::array::from_fn(|nth| id.to_ne_bytes()[nth])));
    let values: Vec<_> = (0..aya::util::nr_cpus().unwrap()).map(|_| random.damage([7; N])).collect();
    let _ = map.insert(random.key(&keys), PerCpuValues::try_from(values).unwrap(), 0);
}

fn trie<const K: usize>(pin: &Path, random: &mut Random) {
    let mut map: LpmTrie<_, [u8; K], [u8; size_of::<Target>()]> = open(pin).try_into().unwrap();
    let keys: Vec<_> = map.keys().map(Result::unwrap).collect();
    let (bits, data) = match keys.is_empty() || random.below(4) == 0 {
        true => (random.below(K * 8 + 1) as u32, random.bytes()),
        false => {
            let key = &keys[random.below(keys.len())];
            (key.prefix_len(), key.data())
        }
    };
    let key = Key::new(bits, data);
    let value = random.damage(map.get(&key, 0).unwrap_or([0; size_of::<Target>()]));
    let _ = map.insert(&key, value, 0);
}

/// Writes something into a map that nobody would have written.
fn damage(pin: &Path, random: &mut Random) {
    let path = pin.display().to_string();
    let name = path.rsplit('/').next().unwrap().split('-').next().unwrap();
    match name {
        _ if path.contains("/rules/") => array::<{ size_of::<RuleRecord>() }>(pin, random),
        _ if path.contains("/counters/") => array::<{ size_of::<Counters>() }>(pin, random),
        _ if path.contains("/exceptions/") => cpu_hash::<4, { size_of::<ExceptionCounters>() }>(pin, random),
        // In the outer maps there are these, and what else the kernel takes is another Byway's.
        "SOURCES4" => array::<{ ENTRIES * WORDS4 * 8 }>(pin, random),
        "SOURCES6" => array::<{ ENTRIES * WORDS6 * 8 }>(pin, random),
        "TABLE_INFO" => array::<{ size_of::<TableInfos>() }>(pin, random),
        "NEXT_HOPS" => array::<{ size_of::<NextHop>() }>(pin, random),
        "NEXT_HOP_HEALTH" => array::<{ size_of::<NextHopHealth>() }>(pin, random),
        "HEALTH_CHECKS" => hash::<4, { size_of::<HealthCheck>() }>(pin, random),
        "VERDICTS" => array::<8>(pin, random),
        "META" => {
            let mut map: Array<_, [u8; 4]> = open(pin).try_into().unwrap();
            // Another schema is refused, and that is all.
            let slot = match random.below(16) {
                0 => meta::SCHEMA,
                _ => 1 + random.below(meta::SLOTS as usize - 1) as u32,
            };
            let value = random.damage(map.get(&slot, 0).unwrap());
            map.set(slot, value, 0).unwrap();
        }
        // Of schema 8.
        "SECRET" => array::<8>(pin, random),
        "PROBE" => cpu_array::<24>(pin, random),
        "SOURCE_CACHE" => cpu_array::<{ size_of::<CachedSource>() }>(pin, random),
        "NEXT_HOP_COUNTERS" => cpu_array::<{ size_of::<NextHopCounters>() }>(pin, random),
        "ATTACHMENT_COUNTERS" => cpu_array::<{ size_of::<AttachmentCounters>() }>(pin, random),
        "GROUPS" => hash::<{ size_of::<GroupKey>() }, { size_of::<Group>() }>(pin, random),
        "SETS" => hash::<4, { size_of::<SetRecord>() }>(pin, random),
        "PROGRAMS" => hash::<{ size_of::<ProgramKey>() }, { size_of::<ProgramRecord>() }>(pin, random),
        "NEIGHBOURS" => hash::<{ size_of::<NeighbourKey>() }, 4>(pin, random),
        "FRAGMENTED" => hash::<40, 16>(pin, random),
        "WAYS" => hash::<4, { size_of::<Way>() }>(pin, random),
        "HEARD" => hash::<{ size_of::<HeardKey>() }, { size_of::<[u32; 2]>() }>(pin, random),
        "REPLY_DEVICES" => hash::<8, DEVICE_NAME_LEN>(pin, random),
        "FLOWS" => array::<{ 2 * FLOWS_OF_BUCKET * size_of::<u64>() }>(pin, random),
        "FLOW_KEYS" => array::<{ FLOW_KEYS_LEN * size_of::<u32>() }>(pin, random),
        "WAY_LIVENESS" => array::<{ LIVENESS_WORDS * size_of::<u64>() }>(pin, random),
        "REPLY_HINTS" => array::<8>(pin, random),
        "FLOW_COUNTERS" => cpu_array::<{ size_of::<FlowCounters>() }>(pin, random),
        "DESTINATIONS4" => trie::<8>(pin, random),
        "DESTINATIONS6" => trie::<20>(pin, random),
        // The kernel takes devices that there are, and no others.
        "NEXT_HOP_DEVICES" | "NAMESPACE" => {
            let mut map: DevMap<_> = open(pin).try_into().unwrap();
            let _ = map.set(random.index(map.len()), random.below(4) as u32, None, 0);
        }
        "ATTACHMENTS" | "RECEIVERS" => {
            let mut map: DevMapHash<_> = open(pin).try_into().unwrap();
            let key = if random.below(2) == 0 { random.below(4) as u32 } else { random.next() as u32 };
            let _ = match random.below(2) {
                0 => map.remove(key).is_ok(),
                _ => map.insert(key, 1 + random.below(3) as u32, None, 0).is_ok(),
            };
        }
        // No maps of values: the maps within are there under names of their own.
        "COUNTERS" | "EXCEPTIONS" => {}
        name => panic!("what is in the map {name}?"),
    }
}

/// All pinned maps.
fn maps(folder: &Path) -> Vec<PathBuf> {
    let files = |folder: &Path| -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().path()).filter(|path| !path.is_dir()).collect()
    };
    let is_map = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        // Without the outer maps whose names begin like those within, and the programs.
        name.starts_with(|first: char| first.is_ascii_uppercase() || first.is_ascii_digit())
            && !["SOURCES4", "SOURCES6", "FRAGMENTED", "WAYS", "HEARD", "FLOWS", "WAY_LIVENESS"]
                .contains(&name)
    };
    let mut all: Vec<_> = ["", "rules", "counters", "exceptions"]
        .iter()
        .flat_map(|within| files(&folder.join(within)))
        .filter(is_map)
        .collect();
    all.sort();
    all
}

/// Calls `byway WORDS`, which has to end in time.
fn call(seed: &Seed, words: &str) -> Said {
    let mut command = byway(words);
    let mut process = seed.server.start(command.stdout(Stdio::piped()).stderr(Stdio::piped())).unwrap();
    let status = process.wait_for(ANSWER).unwrap_or_else(|error| panic!("byway {words}: {error}"));
    let (mut out, mut err) = (Vec::new(), Vec::new());
    process.stdout.take().unwrap().read_to_end(&mut out).unwrap();
    process.stderr.take().unwrap().read_to_end(&mut err).unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap_or_else(|error| panic!("byway {words}: {error}"));
    Said::of(status.code(), text(out), &text(err))
}

/// Expects that a command has done its work, or has said in one sentence why not.
fn judge(words: &str, said: &Said) {
    let Said { code, out, err, .. } = said;
    let is_plain = |text: &str| !text.contains(|it: char| it.is_control() && it != '\n');
    assert!(is_plain(out) && is_plain(err), "byway {words}: {said:?}");
    match code {
        // With 4 something waits: a damaged record may ask for an attachment that there is not.
        Some(0) | Some(3) | Some(4) => {
            if words.starts_with("--json") {
                assert!(serde_json::from_str::<serde_json::Value>(out).is_ok(), "byway {words}: {said:?}");
            }
        }
        Some(1 | 2 | 5..=8) => {
            let lines: Vec<_> = err.lines().collect();
            assert!(matches!(lines[..], [it] if it.starts_with("byway: ")), "byway {words}: {said:?}");
        }
        _ => panic!("byway {words}: {said:?}"),
    }
}

/// Puts rules of all kinds where there is nothing.
fn set_up(seed: &Seed, file: &str) {
    let said = call(seed, &format!("apply {file}"));
    assert_eq!(said.code, Some(0), "{said:?}");
    for words in BY_HAND {
        done(&seed.server, words);
    }
}

fn shuffled(random: &mut Random) -> Vec<&'static str> {
    let mut commands: Vec<_> = COMMANDS.to_vec();
    for nth in (1..commands.len()).rev() {
        commands.swap(nth, random.below(nth + 1));
    }
    let first = random.below(2);
    commands.extend([LAST[first], LAST[1 - first]]);
    commands
}

/// Damages some maps, and runs every command. In so many rounds one after the other each map has its turn.
fn round(seed: &Seed, files: &[String; 3], nth: usize, random: &mut Random) {
    set_up(seed, &files[0]);
    let folder = PathBuf::from(format!("/sys/fs/bpf/byway/{}", pins().remove(0)));
    let turns = rounds(ROUNDS) as usize;
    for (_, map) in maps(&folder).iter().enumerate().filter(|(place, _)| place % turns == nth % turns) {
        for _ in 0..1 + random.below(8) {
            damage(map, random);
        }
    }
    for words in shuffled(random) {
        // A command may have removed some of them, or all.
        let maps = maps(&folder);
        if !maps.is_empty() && random.below(3) == 0 {
            damage(&maps[random.below(maps.len())], random);
        }
        let [file, other, batch] = files;
        let words = words.replace("FILE", file).replace("OTHER", other).replace("BATCH", batch);
        judge(&words, &call(seed, &words));
    }
    // Whatever waits to be confirmed waits no longer.
    let _ = fs::remove_dir_all("/run/byway");
}

#[test]
fn no_command_panics_whatever_the_maps_say() {
    let number = |name: &str, otherwise: u64| {
        env::var(name).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} is {text}")))
    };
    let first = number("BYWAY_SEED", u64::from(std::process::id()));
    let many = number("BYWAY_ROUNDS", rounds(ROUNDS).into());
    let configs = tempfile::tempdir().unwrap();
    let files = ["one.toml", "two.toml", "batch"].map(|name| configs.path().join(name).display().to_string());
    fs::write(&files[0], CONFIG).unwrap();
    fs::write(&files[2], "replace from 192.168.4.1 drop\ndetach eth1\nattach eth1\n").unwrap();
    let other = CONFIG.replace("192.168.1.5", "192.168.1.6").replace("weight = 2", "weight = 5");
    fs::write(&files[1], other.replace("2001:db8:1::/48", "2001:db8:1::/49")).unwrap();
    let mut failed: Vec<u64> = Vec::new();
    for nth in first..first + many {
        let mut random = Random(nth.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        // What was damaged may not be taken away any more.
        let seed = Seed::new().unwrap();
        // Nobody is waited for.
        for host in [22, 23] {
            seed.router.address("eth0", &format!("10.111.221.{host}/24")).unwrap();
        }
        let done = AssertUnwindSafe(|| round(&seed, &files, nth as usize, &mut random));
        if panic::catch_unwind(done).is_err() {
            println!("to see it again: BYWAY_SEED={nth} BYWAY_ROUNDS=1");
            failed.push(nth);
        }
    }
    assert!(failed.is_empty(), "{failed:?} of {many} rounds from {first} on");
}
