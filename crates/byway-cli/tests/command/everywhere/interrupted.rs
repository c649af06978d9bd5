//! Commands that are cut off at any moment, and several at the same time.

use std::{
    fs,
    net::IpAddr,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use aya::maps::{Array, HashMap, Map, MapData};
use byway_abi::{Group, GroupKey, RuleRecord, SetRecord, sources::OWN};
use byway_lab::{Traffic, seed::Seed, wait_until};
use nix::libc::{SIGINT, SIGKILL};

use crate::support::{ANSWER, SILENCE, Said, byway, call, done, pins, rounds, start, works};

const RULE: &str = "from 192.168.1.5 via 10.111.221.21 dev eth1";

/// How many rules hold.
fn rules(seed: &Seed) -> usize {
    let json: serde_json::Value = serde_json::from_str(&done(&seed.server, "--json show")).unwrap();
    json["rules"].as_array().unwrap().len()
}

/// Cuts `byway WORDS` off after `delay`, if it still runs then.
fn cut_off(seed: &Seed, words: &str, delay: Duration, signal: i32) {
    let mut process = start(&seed.server, words);
    thread::sleep(delay); // the moment of the cut, not a wait for anything
    let _ = process.signal(signal); // it may have ended
    process.wait_for(ANSWER).unwrap();
}

/// No thread begins whose stack has no room. A change needs none, and an apply whose guard cannot work changes nothing.
#[test]
fn a_host_with_no_thread_to_spare() {
    let seed = Seed::new().unwrap();
    let call = |words: &str| -> Said {
        let mut command = byway(words);
        seed.server.output(command.env("RUST_MIN_STACK", (1_u64 << 46).to_string())).unwrap().into()
    };
    let said = call(&format!("add {RULE}"));
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{said:?}");
    assert!(works(&seed, ANSWER));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("byway.toml");
    fs::write(&file, "[[rule]]\nfrom = \"192.168.1.6\"\ntarget = \"drop\"\n").unwrap();
    let said = call(&format!("apply --confirm 60s {}", file.display()));
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(
        said.err.starts_with("byway: cannot start the guard") && said.err.lines().count() == 1,
        "{said:?}"
    );
    assert_eq!(rules(&seed), 1);
    assert_eq!(done(&seed.server, "confirm"), "no apply is waiting to be confirmed\n");
}

/// A change that finds no descriptor to spare changes nothing and says so, whenever that happens.
#[test]
fn a_host_with_no_descriptor_to_spare() {
    let seed = Seed::new().unwrap();
    let with = |limit: u32, words: &str| -> Said {
        let byway = byway(words);
        let mut command = Command::new("prlimit");
        command.arg(format!("--nofile={limit}")).arg(byway.get_program()).args(byway.get_args());
        seed.server.output(&mut command).unwrap().into()
    };
    let refused = |said: &Said| {
        assert_eq!((said.code, said.out.as_str()), (Some(1), ""), "{said:?}");
        let sentence = "Too many open files (os error 24); allow more open files: `ulimit -n`, or LimitNOFILE= of a unit\n";
        assert!(said.err.ends_with(sentence), "{said:?}");
    };
    // The first change makes all maps, and the later ones open them.
    let (mut limits, mut before) = ((5..).step_by(2), 0);
    while before < 2 {
        let limit = limits.next().unwrap();
        let said = with(limit, &format!("add from 192.168.1.{} via 10.111.221.21 dev eth1", 5 + before));
        if said.code == Some(0) {
            (limits, before) = ((5..).step_by(2), before + 1);
            assert_eq!(said.err, "");
        } else {
            refused(&said);
        }
        assert!(limit < 1_000, "{said:?}");
        assert_eq!(rules(&seed), before);
        assert!(before == 0 || works(&seed, ANSWER));
    }
}

/// Before Linux 5.11, maps count as locked memory of their user, whoever of that user's processes made them. Root may lift the
/// limit, which has to happen before the first map of all, and also where only the maps of more rules are made.
#[test]
fn a_host_with_no_locked_memory_to_spare() {
    let seed = Seed::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("batch");
    let lines = (0..4_000_u32).map(|nth| format!("add from 192.168.{}.{} drop\n", 64 + nth / 256, nth % 256));
    fs::write(&file, lines.collect::<String>()).unwrap();
    let batch = format!("-b {}", file.display());
    for words in [&format!("add {RULE}"), &batch, "group add uplinks nexthop via 10.111.221.21 dev eth1"] {
        let byway = byway(words);
        let mut command = Command::new("prlimit");
        command.arg("--memlock=0").arg(byway.get_program()).args(byway.get_args());
        let said: Said = seed.server.output(&mut command).unwrap().into();
        assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{words}: {said:?}");
    }
    assert_eq!(rules(&seed), 4_001);
    assert!(works(&seed, ANSWER));
}

/// Whatever the moment: the rule holds or it does not, `show` says which, the next command works, and nothing is left.
fn cut_off_at_any_moment(signal: i32) {
    let seed = Seed::new().unwrap();
    let took = {
        let start = std::time::Instant::now();
        done(&seed.server, &format!("add {RULE}"));
        start.elapsed()
    };
    for round in 0..25_u32 {
        // From the command's start to a little behind its end.
        let delay = took * round / 20;
        if rules(&seed) == 0 {
            cut_off(&seed, &format!("add {RULE}"), delay, signal);
        } else {
            cut_off(&seed, "del from 192.168.1.5", delay, signal);
        }
        match rules(&seed) {
            0 => assert!(round % 8 != 0 || !works(&seed, SILENCE), "round {round}: no rule, but it works"),
            1 => assert!(works(&seed, ANSWER), "round {round}: a rule, but it does not work"),
            more => panic!("{more} rules"),
        }
        if round % 5 == 0 {
            // Also the making and removing of everything.
            done(&seed.server, "flush");
            cut_off(&seed, "detach", delay, signal);
        }
    }
    done(&seed.server, "flush");
    done(&seed.server, &format!("add {RULE}"));
    assert!(works(&seed, ANSWER));
    done(&seed.server, "flush");
    done(&seed.server, "detach");
    assert_eq!(pins(), Vec::<String>::new());
    let neighbour = seed.server.neighbour("eth1", [10, 111, 221, 21].into()).unwrap();
    assert!(
        !neighbour.is_some_and(|neighbour| neighbour.managed),
        "the neighbour should have been let go of"
    );
}

#[test]
fn killed_at_any_moment() {
    cut_off_at_any_moment(SIGKILL);
}

#[test]
fn interrupted_at_any_moment() {
    cut_off_at_any_moment(SIGINT);
}

/// The first change by another build of Byway renews the programs. Cut off at any moment, it has lost no attachment and
/// no rule, and the next change completes it.
#[test]
fn killed_while_renewing_the_programs() {
    let seed = Seed::new().unwrap();
    done(&seed.server, &format!("add {RULE}"));
    let folder = format!("/sys/fs/bpf/byway/{}", pins().remove(0));
    let outdate = || {
        // The fingerprint of the build that has pinned the programs (`META`, slot 3).
        let meta = Map::from_map_data(MapData::from_pin(format!("{folder}/META")).unwrap()).unwrap();
        let mut meta: Array<_, u32> = meta.try_into().unwrap();
        meta.set(3, 0, 0).unwrap();
    };
    let attachments = || {
        let json: serde_json::Value = serde_json::from_str(&done(&seed.server, "--json show")).unwrap();
        let there = json["attachments"].as_array().unwrap().iter().filter(|it| it["is_installed"] == true);
        there.map(|it| format!("{} {}", it["name"], it["role"])).collect::<Vec<_>>()
    };
    let before = attachments();
    outdate();
    let took = {
        let start = std::time::Instant::now();
        done(&seed.server, "attach");
        start.elapsed()
    };
    for round in 0..16_u32 {
        outdate();
        cut_off(&seed, "attach", took * round / 13, SIGKILL);
        assert_eq!(attachments(), before, "round {round}");
        assert!(works(&seed, ANSWER), "round {round}");
        if round % 3 == 0 {
            done(&seed.server, "attach");
            assert_eq!(attachments(), before, "round {round}");
            assert!(works(&seed, ANSWER), "round {round}");
        }
    }
    done(&seed.server, "flush");
    done(&seed.server, "detach");
    assert_eq!(pins(), Vec::<String>::new());
}

/// A thousand commands that change many entries at once are killed, each at another moment, while packets flow. None of
/// those takes a way that neither the old rules nor the new ones give it, none is lost, and the next change leaves
/// nothing of the others behind.
#[test]
fn a_thousand_kills_under_traffic() {
    let kills = rounds(1_000);
    let seed = Seed::new().unwrap();
    let second = seed.lab.node("second").unwrap();
    seed.lab.link((&seed.server, "eth2"), (&second, "eth0")).unwrap();
    seed.server.address("eth2", "10.111.225.11/24").unwrap();
    second.address("eth0", "10.111.225.21/24").unwrap();
    seed.server.route("local 192.168.9.0/24 dev lo").unwrap();
    let (by_first, by_second) = ("via 10.111.221.21 dev eth1", "via 10.111.225.21 dev eth2");
    // Eight hosts say something of one destination each, and for all others fall back to their network: a change
    // of the network's rule is a change of nine entries.
    for host in 1..=8 {
        done(&seed.server, &format!("add from 192.168.9.{host} to 203.0.113.1 {by_first}"));
    }
    done(&seed.server, &format!("group add uplinks nexthop {by_first} nexthop {by_second}"));
    done(&seed.server, &format!("add from 192.168.9.0/24 {by_first}"));
    done(&seed.server, "add from 192.168.9.99 group uplinks");
    let changes = [
        format!("replace from 192.168.9.0/24 {by_second}"),
        format!("replace from 192.168.9.0/24 {by_first}"),
        format!("replace from 192.168.9.0/24 to 203.0.113.128/25 {by_second}"),
        "del from 192.168.9.0/24 to 203.0.113.128/25".to_owned(),
        format!("replace from 192.168.9.0/24 nexthop {by_first} nexthop {by_second}"),
        format!("group replace uplinks nexthop {by_second}"),
        format!("group replace uplinks nexthop {by_first} nexthop {by_second} weight 3"),
        "replace from 192.168.9.0/24 group uplinks".to_owned(),
    ];

    let heard = [&seed.gateway, &seed.router, &second].map(|node| node.capture("eth0").unwrap());
    let flows: Vec<(IpAddr, IpAddr)> = [(1, 1), (1, 2), (8, 200), (50, 1), (50, 200), (99, 7)]
        .map(|(from, to)| (IpAddr::from([192, 168, 9, from]), IpAddr::from([203, 0, 113, to])))
        .to_vec();
    let folder = format!("/sys/fs/bpf/byway/{}", pins().remove(0));
    let map =
        |name: &str| Map::from_map_data(MapData::from_pin(format!("{folder}/{name}")).unwrap()).unwrap();
    let meta: Array<_, u32> = map("META").try_into().unwrap();
    let mut in_the_middle = 0;
    let traffic = Traffic::default();
    let sent = thread::scope(|scope| {
        let ending = traffic.ending();
        let sender = scope.spawn(|| seed.server.run(|| traffic.send(&flows, Duration::from_millis(2))));
        let took = {
            let start = Instant::now();
            done(&seed.server, &changes[0]);
            start.elapsed()
        };
        for kill in 0..kills {
            // The moments are spread over the command and a little more, in an order that repeats none.
            let delay = took * (kill * 617 % kills) / kills * 11 / 10;
            cut_off(&seed, &changes[kill as usize % changes.len()], delay, SIGKILL);
            in_the_middle += meta.get(&byway_abi::meta::CHANGING, 0).unwrap();
        }
        drop(ending);
        sender.join().unwrap().unwrap()
    });

    println!("{in_the_middle} of {kills} kills came while something changed");

    let count = |place: usize, is_it: &dyn Fn(IpAddr, IpAddr) -> bool| {
        heard[place].count(|frame| match (frame.source(), frame.destination()) {
            (Some(from), Some(to)) => flows.contains(&(from, to)) && is_it(from, to),
            _ => false,
        })
    };
    let arrived = || (0..3).map(|place| count(place, &|_, _| true)).sum::<usize>();
    assert!(wait_until(ANSWER, || arrived() == sent), "{} of {sent} packets arrived", arrived());
    assert_eq!(count(0, &|_, _| true), 0, "packets have gone to the gateway");
    assert_eq!(count(2, &|from, to| (from, to) == flows[0]), 0, "a host's own rule did not hold");
    assert!(count(1, &|_, _| true) > 0 && count(2, &|_, _| true) > 0);

    // The next change tidies up.
    done(&seed.server, "replace from 192.168.9.77 pass");
    let folder = format!("/sys/fs/bpf/byway/{}", pins().remove(0));
    let map =
        |name: &str| Map::from_map_data(MapData::from_pin(format!("{folder}/{name}")).unwrap()).unwrap();
    let records: Array<_, RuleRecord> = map("rules/0").try_into().unwrap();
    let records = records.iter().filter(|record| record.as_ref().unwrap().family != 0).count();
    let sets: HashMap<_, u32, SetRecord> = map("SETS").try_into().unwrap();
    let groups: HashMap<_, GroupKey, Group> = map("GROUPS").try_into().unwrap();
    assert_eq!(records, rules(&seed));
    assert_eq!(meta.get(&byway_abi::meta::RULES, 0).unwrap() as usize, rules(&seed));
    let in_force = meta.get(&byway_abi::meta::GENERATION, 0).unwrap() % 2;
    let tables = |generation| {
        let is_there = |family: &u8| Path::new(&format!("{folder}/SOURCES{family}-{generation}")).exists();
        [4, 6].iter().filter(|family| is_there(family)).count()
    };
    assert_eq!((tables(in_force), tables(1 - in_force)), (1, 0));
    let table: Array<_, [u64; 8]> = map(&format!("SOURCES4-{in_force}")).try_into().unwrap();
    let own = |bucket: [u64; 8]| bucket.iter().skip(1).step_by(2).filter(|rest| **rest & OWN != 0).count();
    let sources: usize = table.iter().map(|bucket| own(bucket.unwrap())).sum();
    assert_eq!(sources, 11, "eight hosts and two, and their network");
    let shown: serde_json::Value = serde_json::from_str(&done(&seed.server, "--json show")).unwrap();
    let network_tells_apart = shown["rules"]
        .as_array()
        .unwrap()
        .iter()
        .any(|it| it["from"] == "192.168.9.0/24" && it["to"].is_string());
    assert_eq!(sets.keys().count(), if network_tells_apart { 9 } else { 8 });
    let own =
        shown["rules"].as_array().unwrap().iter().filter(|it| it["target"]["nexthops"].is_array()).count();
    assert_eq!(groups.keys().count(), 2 * (1 + own), "each is there for both generations");
    for words in ["flush", "group del uplinks", "detach"] {
        done(&seed.server, words);
    }
    assert_eq!(pins(), Vec::<String>::new());
}

#[test]
fn commands_at_the_same_time_wait_for_each_other() {
    let seed = Seed::new().unwrap();
    let start = |words: String| start(&seed.server, &words);
    let rule = |index: u32| format!("from 192.168.9.{index} via 10.111.221.21 dev eth1");
    for _ in 0..3 {
        let adds: Vec<_> = (1..=8).map(|index| start(format!("add {}", rule(index)))).collect();
        for mut process in adds {
            assert!(process.wait_for(ANSWER).unwrap().success());
        }
        assert_eq!(rules(&seed), 8, "each of them has added its rule");
        let dels: Vec<_> = (1..=8).map(|index| start(format!("del from 192.168.9.{index}"))).collect();
        for mut process in dels {
            assert!(process.wait_for(ANSWER).unwrap().success());
        }
        // Of two that cannot both be done, one says why.
        let twice: Vec<_> = (0..2).map(|_| start(format!("add {}", rule(1)))).collect();
        let mut codes: Vec<_> =
            twice.into_iter().map(|mut process| process.wait_for(ANSWER).unwrap().code()).collect();
        codes.sort();
        assert_eq!(codes, [Some(0), Some(7)]);
        // Both may come to remove what is left; each is done all the same.
        done(&seed.server, "flush");
        let detaches: Vec<_> = (0..2).map(|_| start("detach".to_owned())).collect();
        for mut process in detaches {
            assert!(process.wait_for(ANSWER).unwrap().success());
        }
        assert_eq!(pins(), Vec::<String>::new());
    }
    assert_eq!(call(&seed.server, "show").code, Some(0));
}
