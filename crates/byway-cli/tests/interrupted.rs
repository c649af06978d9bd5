//! Commands that are cut off at any moment, and several at the same time.

// A test that cannot go on has failed.
#![allow(clippy::unwrap_used)]

mod support;

use std::{thread, time::Duration};

use aya::maps::{Array, Map, MapData};
use byway_lab::seed::Seed;
use nix::libc::{SIGINT, SIGKILL};
use support::{ANSWER, SILENCE, byway, call, done, pins, works};

const RULE: &str = "from 192.168.1.5 via 10.111.221.21 dev eth1";

/// How many rules hold.
fn rules(seed: &Seed) -> usize {
    let json: serde_json::Value = serde_json::from_str(&done(&seed.server, "--json show")).unwrap();
    json["rules"].as_array().unwrap().len()
}

/// Cuts `byway WORDS` off after `delay`, if it still runs then.
fn cut_off(seed: &Seed, words: &str, delay: Duration, signal: i32) {
    let mut process = seed.server.start(&mut byway(words)).unwrap();
    thread::sleep(delay); // the moment of the cut, not a wait for anything
    let _ = process.signal(signal); // it may have ended
    process.wait_for(ANSWER).unwrap();
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
        let there = json["attachments"].as_array().unwrap().iter().filter(|it| it["is_there"] == true);
        there.map(|it| format!("{} {}", it["name"], it["watches"])).collect::<Vec<_>>()
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

#[test]
fn commands_at_the_same_time_wait_for_each_other() {
    let seed = Seed::new().unwrap();
    let start = |words: String| seed.server.start(&mut byway(&words)).unwrap();
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
        assert_eq!(codes, [Some(0), Some(2)]);
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
