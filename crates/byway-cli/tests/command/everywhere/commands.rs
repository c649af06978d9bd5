//! The commands, each a process of its own: what one leaves in the kernel the next one finds.

use std::{net::UdpSocket, process::Command};

use aya::maps::{Array, Map, MapData};
use byway_abi::RuleRecord;
use byway_lab::{
    seed::{IPV4, Seed},
    wait_until,
};

use crate::support::{ANSWER, SILENCE, byway, call, done, pins, refused, works};

const RULE: &str = "from 192.168.1.5 via 10.111.221.21 dev eth1";

#[test]
fn groups_and_next_hops_have_commands_of_their_own() {
    let seed = Seed::new().unwrap();
    let server = &seed.server;
    seed.router.address("eth0", "10.111.221.22/24").unwrap();
    let (one, two) = ("nexthop via 10.111.221.21 dev eth1 weight 2", "nexthop via 10.111.221.22 dev eth1");
    assert_eq!(done(server, &format!("group add up {one} {two}")), format!("added: group up {one} {two}\n"));
    let said = "no rules, attached to nothing; there are groups, which `byway group show` lists\n";
    assert_eq!(done(server, "show"), said);
    assert_eq!(
        done(server, "add from 192.168.1.5 group up"),
        "added: from 192.168.1.5 group up\nattached to eth0\n"
    );
    assert_eq!(
        done(server, "group show"),
        "GROUP  VIA                          DEV        WEIGHT  ON-DOWN  OWNER  RULES\n\
         up     10.111.221.21,10.111.221.22  eth1,eth1     2,1  pass     cli        1\n"
    );
    assert!(works(&seed, ANSWER));
    for hop in ["10.111.221.21", "10.111.221.22"] {
        assert_eq!(
            done(server, &format!("nexthop down via {hop}")),
            format!("out of service: via {hop} dev eth1\n")
        );
        let shown = done(server, "show nexthops");
        assert!(shown.contains(&format!("byway nexthop up via {hop} dev eth1` puts it back")), "{shown}");
    }
    assert!(!works(&seed, SILENCE), "nothing is in service, and normal routing loses it");
    let json: serde_json::Value = serde_json::from_str(&done(server, "--json show")).unwrap();
    assert!(json["rules"][0]["no_next_hop"]["packets"].as_u64().unwrap() > 0, "{json}");
    assert_eq!(
        done(server, "nexthop up via 10.111.221.22 dev eth1"),
        "in service: via 10.111.221.22 dev eth1\n"
    );
    assert!(works(&seed, ANSWER));
    let json: serde_json::Value = serde_json::from_str(&done(server, "--json show")).unwrap();
    let states: Vec<_> = json["nexthops"].as_array().unwrap().iter().map(|it| it["state"].clone()).collect();
    assert_eq!(states, ["down", "up"]);
    assert_eq!(json["groups"][0]["nexthops"][0]["weight"], 2);
    assert_eq!(json["groups"][0]["rules"], 1);
    assert_eq!(json["rules"][0]["target"]["group"], "up");
    let counted = &json["attachments"][0]["counters"];
    assert!(counted["seen"]["packets"].as_u64().unwrap() > 0 && counted["not_matched"]["packets"].is_u64());
    assert!(done(server, "show attachments").starts_with("PACKETS"));

    assert_eq!(
        done(server, &format!("group replace up {two} on-down drop")),
        format!("replaced: group up {two} on-down drop\n")
    );
    assert!(works(&seed, ANSWER));
    done(server, "flush");
    assert_eq!(done(server, "group del up"), format!("deleted: group up {two} on-down drop\n"));
    assert!(done(server, "group show").starts_with("no groups"));
    done(server, "detach");
    assert_eq!(pins(), Vec::<String>::new());
}

/// It goes on until its reader does not.
#[test]
fn watching_looks_again_and_again() {
    let seed = Seed::new().unwrap();
    done(&seed.server, &format!("add {RULE}"));
    let mut command = Command::new("sh");
    let watch = format!("{} --json show --watch=1 | head -n 2", env!("CARGO_BIN_EXE_byway"));
    let said = crate::support::Said::from(seed.server.output(command.args(["-c", &watch])).unwrap());
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{said:?}");
    let looks: Vec<serde_json::Value> =
        said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(looks.len(), 2);
    assert!(looks.iter().all(|look| look["rules"][0]["from"] == "192.168.1.5"));
    let watch = format!("{} show --watch=1 | grep -m 1 PACKETS/s", env!("CARGO_BIN_EXE_byway"));
    let said =
        crate::support::Said::from(seed.server.output(Command::new("sh").args(["-c", &watch])).unwrap());
    assert!(said.out.starts_with("FROM"), "the second look has rates: {said:?}");
}

#[test]
fn one_rule_is_shown_alone() {
    let seed = Seed::new().unwrap();
    let server = &seed.server;
    assert_eq!(
        refused(server, "show from 192.168.1.5"),
        "there is no rule from 192.168.1.5; `byway show` lists the rules"
    );
    done(server, &format!("add {RULE}"));
    done(server, "add from 192.168.1.0/24 pass");
    done(server, "add from 192.168.1.5 to 10.9.0.0/16 drop name near");
    assert!(works(&seed, ANSWER));
    assert_eq!(
        done(server, "show from 192.168.1.5 to 10.9.0.0/16"),
        "FROM         TO           VIA   DEV  ON-DOWN  OWNER  PACKETS  BYTES  ARRIVED  NO-NEXT-HOP  CLAMPED  \
         ICMP-SENT  TOO-BIG  MSS   NAME\n\
         192.168.1.5  10.9.0.0/16  drop  -    -        cli          0      0        -            0        0  \
         \x20       0        0  auto  near\n"
    );
    let json = |words: &str| -> serde_json::Value {
        serde_json::from_str(&done(server, &format!("--json {words}"))).unwrap()
    };
    let all = json("show");
    for (nth, words) in
        ["from 192.168.1.0/24", "from 192.168.1.5", "to 10.9.0.0/16 from 192.168.1.5"].iter().enumerate()
    {
        let mut rule = json(&format!("show {words}"));
        // Each look has its own stamp.
        for key in ["version", "time"] {
            assert!(rule.as_object_mut().unwrap().remove(key).is_some(), "{rule}");
        }
        assert_eq!(rule, all["rules"][nth], "{words}");
    }
    // Where other rules match, it says how to find them.
    done(server, "del from 192.168.1.5");
    for (words, help) in [
        ("from 192.168.1.6", "`byway get 192.168.1.6` says which one decides"),
        ("from 192.168.1.5", "`byway get 192.168.1.5` says which one decides"),
        ("from 192.168.1.6 to 10.9.0.1", "`byway get 192.168.1.6 to 10.9.0.1` says which one decides"),
        ("from 192.168.1.0/24 to 10.9.0.0/16", "`byway show covering 192.168.1.0/24` lists them"),
    ] {
        assert_eq!(
            refused(server, &format!("--json show {words}")),
            format!("there is no rule {words}, but others match such packets; {help}")
        );
    }
    done(server, "del from 192.168.1.0/24");
    for words in ["from 192.168.1.5 to 10.10.0.0/16", "from 192.168.1.0/24", "from 2001:db8:1::5"] {
        assert_eq!(
            refused(server, &format!("--json show {words}")),
            format!("there is no rule {words}; `byway show` lists the rules")
        );
    }
    done(server, &format!("add {RULE}"));
    for (words, sentence) in [
        (
            "show me",
            "`me` does not belong here; expected `rules`, `nexthops`, `groups`, `attachments`, `flows`, a rule's `from` and `to`, or a selection like `within 192.0.2.0/24`",
        ),
        (
            "show to 10.9.0.0/16",
            "a rule needs `from PREFIX`, the source of the packets, like `from 192.0.2.7`",
        ),
        ("show from 192.168.1.5 pass", "`pass` does not belong here; expected `from` or `to`"),
    ] {
        assert_eq!(refused(server, words), sentence, "byway {words}");
    }
    let watch = |json: &str, end: &str| {
        let command =
            format!("{} {json} show from 192.168.1.5 --watch=1 | {end}", env!("CARGO_BIN_EXE_byway"));
        crate::support::Said::from(server.output(Command::new("sh").args(["-c", &command])).unwrap()).out
    };
    assert!(watch("", "grep -m 1 PACKETS/s").starts_with("FROM"), "the second look has rates");
    for look in watch("--json", "head -n 2").lines() {
        assert_eq!(serde_json::from_str::<serde_json::Value>(look).unwrap()["from"], "192.168.1.5");
    }
}

/// One name makes all attachments named, and somebody who relies on the default route has to know.
#[test]
fn attachments_that_are_no_longer_by_the_default_route_are_said() {
    let seed = Seed::new().unwrap();
    let server = &seed.server;
    let again = "; to change that: `byway detach`, then `byway attach`\n";
    assert_eq!(done(server, "attach"), "attached to eth0\n");
    let said = "attached to eth1\neth0 stays attached, now by name and no longer by the default route";
    assert_eq!(done(server, "attach eth1"), format!("{said}{again}"));
    assert_eq!(done(server, "detach eth1"), "detached from eth1\n");
    assert_eq!(done(server, "detach"), "detached from eth0\n");
    assert_eq!(done(server, "attach"), "attached to eth0\n");
    assert_eq!(done(server, "detach"), "detached from eth0\n");

    server.route("default via 10.111.221.21 metric 9").unwrap();
    assert_eq!(done(server, "attach"), "attached to eth0 and eth1\n");
    let said = "detached from eth1\neth0 stays attached, now by name and no longer by the default route";
    assert_eq!(done(server, "detach eth1"), format!("{said}{again}"));
}

#[test]
fn some_are_shown_and_some_are_deleted() {
    let seed = Seed::new().unwrap();
    let server = &seed.server;
    done(server, "group add up nexthop via 10.111.221.21 dev eth1");
    done(server, &format!("add {RULE} name web-1"));
    done(server, "add from 192.168.1.6 group up name web-2");
    done(server, "add from 192.168.0.0/16 pass");
    done(server, "add from 2001:db8:1::5 drop");
    assert!(works(&seed, ANSWER));
    let lines = |words: &str| -> Vec<String> {
        let said = done(server, &format!("-o {words}"));
        said.lines().map(|line| line.split_whitespace().nth(1).unwrap().to_owned()).collect()
    };
    for (words, sources) in [
        ("show within 192.168.0.0/16", &["192.168.0.0/16", "192.168.1.5", "192.168.1.6"][..]),
        ("show covering 192.168.1.5", &["192.168.0.0/16", "192.168.1.5"]),
        ("show rules group up", &["192.168.1.6"]),
        ("show via 10.111.221.21", &["192.168.1.5", "192.168.1.6"]),
        ("show name web-*", &["192.168.1.5", "192.168.1.6"]),
        ("-6 show unused", &["2001:db8:1::5"]),
        ("show sort by packets head 1", &["192.168.1.5"]),
        ("show sort by rate head 1", &["192.168.1.5"]),
        ("show owner api", &[]),
    ] {
        assert_eq!(lines(words), sources, "{words}");
        if !words.starts_with('-') {
            let json: serde_json::Value =
                serde_json::from_str(&done(server, &format!("--json {words}"))).unwrap();
            let rules = json["rules"].as_array().unwrap();
            let of_json: Vec<&str> = rules.iter().map(|rule| rule["from"].as_str().unwrap()).collect();
            assert_eq!(of_json, sources, "{words}");
            assert_eq!((&json["version"], json["time"].is_string()), (&1.into(), true), "{words}");
        }
    }
    assert!(done(server, "show nexthops dev eth1").starts_with("VIA"));
    assert_eq!(done(server, "show nexthops dev eth7"), "no next hop matches `dev eth7`\n");
    assert_eq!(done(server, "show owner api"), "no rule matches `owner api`\n");
    assert_eq!(done(server, "group show unused"), "no group matches `unused`\n");
    assert_eq!(done(server, "group show via 10.111.221.21"), done(server, "group show up"));
    for (words, sentence) in [
        ("show nexthops owner cli", "`owner` is for rules or groups, not for next hops; leave it out"),
        ("flush name nothing", "no rule matches `name nothing`; `byway show` lists the rules"),
        (
            "flush head 1",
            "`head` does not belong here; expected words that say which rules, like `within PREFIX`: `flush` deletes all that match",
        ),
    ] {
        assert_eq!(refused(server, words), sentence, "byway {words}");
    }
    assert_eq!(call(server, "flush name nothing").code, Some(6));
    assert_eq!(done(server, "flush name web-* unused"), "deleted 1 rule\n");
    assert_eq!(done(server, "flush within 192.168.1.0/24"), "deleted 1 rule\n");
    assert_eq!(lines("show"), ["192.168.0.0/16", "2001:db8:1::5"]);
}

/// More than are read at once, and more than a pipe holds.
#[test]
fn a_long_listing_is_printed_on_the_way() {
    let seed = Seed::new().unwrap();
    let server = &seed.server;
    let rule = |nth: u16| {
        let source = byway::Prefix::from(std::net::IpAddr::from([10, 128, (nth >> 8) as u8, nth as u8]));
        let spec = byway::RuleSpec::new(source.into(), byway::TargetSpec::Pass);
        if nth == 2_999 { spec.name("the-last-one") } else { spec }
    };
    let rules: Vec<_> = (0..3_000).rev().map(rule).collect();
    server.run(|| byway::Byway::open().unwrap().add_all(&rules)).unwrap();

    let shown = done(server, "show");
    let lines: Vec<&str> = shown.split("\n\n").nth(1).unwrap().lines().collect();
    assert_eq!(lines.len(), 3_001);
    assert!(
        lines[0].starts_with("FROM           TO  VIA   DEV  ON-DOWN  OWNER  PACKETS  BYTES"),
        "{}",
        lines[0]
    );
    assert!(
        lines[1].starts_with("10.128.0.0     -   pass  -    -        api          0      0"),
        "{}",
        lines[1]
    );
    assert!(lines[3_000].starts_with("10.128.11.183  -   pass") && lines[3_000].ends_with("  the-last-one"));
    assert_eq!(shown.split("\n\n").nth(2), Some("3000 rules, 0 packets, 0 bytes\n"));
    let some = done(server, "show within 10.128.11.0/24 name the-*");
    assert!(
        some.contains("\n10.128.11.183  -   pass")
            && some.ends_with("\n\n1 of 3000 rules, 0 packets, 0 bytes\n")
    );
    let json: serde_json::Value = serde_json::from_str(&done(server, "--json show")).unwrap();
    assert_eq!(json["rules"].as_array().unwrap().len(), 3_000);
    assert_eq!(json["rules"][2_999]["name"], "the-last-one");

    for json in ["", "--json"] {
        let head = format!("set -o pipefail; {} {json} show | head -n 1", env!("CARGO_BIN_EXE_byway"));
        let said =
            crate::support::Said::from(server.output(Command::new("bash").args(["-c", &head])).unwrap());
        assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{said:?}");
        assert_eq!(said.out, if json.is_empty() { "DEV     ROLE       HOOK\n" } else { "{\n" });
    }
}

#[test]
fn json_is_for_programs() {
    let seed = Seed::new().unwrap();
    let json = |words: &str| -> serde_json::Value {
        serde_json::from_str(&done(&seed.server, &format!("--json {words}"))).unwrap()
    };
    let rule = serde_json::json!({
        "from": "192.168.1.5",
        "target": { "nexthop": {
            "gateway": "10.111.221.21",
            "device": { "name": "eth1", "ifindex": seed.server.ifindex("eth1").unwrap() },
        } },
        "owner": "cli",
        "name": "web",
    });
    assert_eq!(json(&format!("add {RULE} name web")), rule);
    assert!(works(&seed, ANSWER));
    let shown = json("show");
    let of_rule = &shown["rules"][0];
    for key in ["from", "target", "owner", "name"] {
        assert_eq!(of_rule[key], rule[key]);
    }
    assert_eq!(of_rule["departed"], of_rule["arrived"]);
    assert_eq!(of_rule["departed"]["packets"], 1);
    assert_eq!(of_rule["device_gone"], false);
    let attachments = shown["attachments"].as_array().unwrap();
    let roles: Vec<_> =
        attachments.iter().map(|it| (it["name"].as_str().unwrap(), it["role"].as_str().unwrap())).collect();
    assert_eq!(roles, [("eth0", "departure"), ("eth1", "arrival")]);
    assert!(
        attachments
            .iter()
            .all(|it| it["is_installed"] == true && it["ifindex"].is_u64() && it["hook"].is_string())
    );
    assert_eq!(json("flush")[0], rule);
    assert_eq!(json("detach")[0]["name"], "eth0");
}

#[test]
fn each_mistake_is_one_sentence() {
    let seed = Seed::new().unwrap();
    let server = &seed.server;
    for (words, sentence) in [
        (
            "add from web via 10.111.221.21",
            "`web` is not an IPv4 or IPv6 address or prefix; write it like 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32",
        ),
        (
            "add from 192.168.1.5/24 via 10.111.221.21",
            "`192.168.1.5/24` has bits set beyond its length of 24; did you mean 192.168.1.0/24?",
        ),
        (
            "add from 2001:db8:1::5 via 10.111.221.21",
            "the gateway 10.111.221.21 is IPv4, but packets from 2001:db8:1::5 are IPv6, which an IPv4 gateway cannot take; name an IPv6 gateway",
        ),
        (
            "add from 192.168.1.5 via 10.111.221.21 dev eth7",
            "there is no device `eth7` in this network namespace; `ip link` lists them",
        ),
        (
            "add from 192.168.1.5 via 10.111.222.21 dev eth1",
            "the gateway 10.111.222.21 is not on-link on eth1: no connected route of eth1 covers it; check the address and the device, or add a route: `ip route add ADDR dev IF scope link`",
        ),
        (
            "add from 192.168.1.5",
            "the rule from 192.168.1.5 needs a target: `via ADDR`, `via ADDR dev IF`, `dev IF`, `nexthop ...`, `group NAME`, `reply-to`, `pass` or `drop`",
        ),
        ("add from 192.168.1.5 pass drop", "a rule has one target: `pass` cannot be combined with `drop`"),
        (
            "add from 192.168.1.5 drop via 10.111.221.21",
            "a rule has one target: `drop` cannot be combined with `via`",
        ),
        ("del from 192.168.1.5", "there is no rule from 192.168.1.5; `byway show` lists the rules"),
        ("attach dev eth7", "there is no device `eth7` in this network namespace; `ip link` lists them"),
        ("detach dev eth0", "byway is not attached to eth0; `byway show` lists attachments as `departure`"),
        (
            "--netns nowhere show",
            "there is no network namespace `nowhere`; `ip netns list` lists the named ones, and a path like /proc/PID/ns/net works too",
        ),
        (
            "--netns /proc/self/status show",
            "there is no network namespace `/proc/self/status`; `ip netns list` lists the named ones, and a path like /proc/PID/ns/net works too",
        ),
    ] {
        assert_eq!(refused(server, words), sentence, "byway {words}");
        assert_eq!(pins(), Vec::<String>::new(), "byway {words} has left something");
    }
    done(server, &format!("add {RULE}"));
    assert_eq!(
        refused(server, &format!("add {RULE}")),
        format!("there is already a rule for these packets ({RULE}); use `replace` to change it")
    );
    // What clap says of words that are no command is its own, but the exit code is the same.
    for words in ["", "frobnicate", "--frobnicate show", "show me"] {
        assert_eq!(call(server, words).code, Some(2), "byway {words}");
    }
}

#[test]
fn another_network_namespace_is_named_or_given_by_path() {
    let seed = Seed::new().unwrap();
    // From the client's side: only the network namespace is entered, so that the pins are the same.
    done(&seed.client, &format!("--netns server add {RULE}"));
    assert!(works(&seed, ANSWER));
    let path = seed.server.path().display().to_string();
    assert_eq!(
        done(&seed.client, &format!("--netns {path} del from 192.168.1.5")),
        format!("deleted: {RULE}\n")
    );
    assert!(!works(&seed, SILENCE));
    assert!(done(&seed.client, "show").starts_with("no rules"), "the client has nothing of this");
}

#[test]
fn a_missing_capability_is_named() {
    let seed = Seed::new().unwrap();
    let with = |capabilities: &str, words: &str| {
        // util-linux's setpriv takes capabilities away for one command.
        let mut command = Command::new("setpriv");
        command
            .args(["--bounding-set", capabilities, "--inh-caps", capabilities])
            .arg(env!("CARGO_BIN_EXE_byway"))
            .args(words.split(' '));
        crate::support::Said::from(seed.server.output(&mut command).unwrap())
    };
    let said = with("-net_admin", "show");
    assert_eq!(said.code, Some(8), "{said:?}");
    assert_eq!(
        said.err,
        "byway: byway needs the capability CAP_NET_ADMIN; run it as root, or give it that capability\n"
    );
    // CAP_SYS_ADMIN includes CAP_BPF, so both have to be missing.
    let said = with("-sys_admin,-bpf", "show");
    assert_eq!(said.code, Some(8), "{said:?}");
    assert_eq!(
        said.err,
        "byway: byway needs the capability CAP_BPF; run it as root, or give it that capability\n"
    );
    let add = format!("add {RULE}");
    let said = with("-all,+net_admin,+bpf", &add);
    assert_eq!(said.code, Some(8), "{said:?}");
    assert_eq!(
        said.err,
        "byway: byway needs the capability CAP_PERFMON; run it as root, or give it that capability\n"
    );
    assert!(done(&seed.server, "show").starts_with("no rules"), "nothing has changed");
    // Before Linux 5.11 maps count as locked memory, and to lift that limit takes one more.
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let locks = if release.starts_with("5.10.") { ",+sys_resource" } else { "" };
    let said = with(&format!("-all,+net_admin,+bpf,+perfmon{locks}"), &add);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(works(&seed, ANSWER));
}

/// The pins are root's. Whoever else has the capabilities is told so, and neither hangs nor sees an empty host.
#[test]
fn pins_of_another_user_are_said() {
    let seed = Seed::new().unwrap();
    // The lab's BPF file system is everybody's to look at, as systemd's is not.
    let as_nobody = |words: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--clear-groups", "--inh-caps=+net_admin,+bpf"]);
        command
            .args(["--ambient-caps=+net_admin,+bpf"])
            .arg(env!("CARGO_BIN_EXE_byway"))
            .args(words.split(' '));
        crate::support::Said::from(seed.server.output(&mut command).unwrap())
    };
    done(&seed.server, &format!("add {RULE}"));
    for words in ["show", "add from 192.168.1.6 dev eth1", "flush"] {
        let said = as_nobody(words);
        assert_eq!(said.code, Some(8), "{said:?}");
        assert_eq!(
            said.err,
            "byway: /sys/fs/bpf/byway belongs to another user; run byway as that user, or as root\n"
        );
    }
}

#[test]
fn looking_and_changing_do_not_disturb_each_other() {
    let seed = Seed::new().unwrap();
    let looking = seed.server.spawn(|| {
        // Until the other thread has made a rule that stays.
        loop {
            let said = crate::support::Said::from(byway("--json show").output().unwrap());
            assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{said:?}");
            if said.out.contains("the-end") {
                break;
            }
        }
    });
    for _ in 0..15 {
        done(&seed.server, &format!("add {RULE}"));
        done(&seed.server, "flush");
        done(&seed.server, "detach");
    }
    done(&seed.server, &format!("add {RULE} name the-end"));
    looking.join().unwrap();
}

#[test]
fn a_missing_bpf_file_system_is_mounted_or_said() {
    let seed = Seed::new().unwrap();
    nix::mount::umount("/sys/fs/bpf").unwrap();
    // Where the host has one it is underneath the lab's.
    while nix::mount::umount("/sys/fs/bpf").is_ok() {}

    // Under `ip netns exec` /sys is another sysfs, whose mount is called like the namespace.
    let (flags, none): (_, Option<&str>) = (nix::mount::MsFlags::empty(), None);
    seed.server.run(|| nix::mount::mount(Some("server"), "/sys", Some("sysfs"), flags, none)).unwrap();
    for words in ["show", &format!("add {RULE}")] {
        assert_eq!(
            refused(&seed.server, words),
            "`ip netns exec` hides the BPF file system, and what is pinned here would be lost when this command ends; run it outside instead: `byway --netns server ...`"
        );
    }
    nix::mount::umount2("/sys", nix::mount::MntFlags::MNT_DETACH).unwrap();

    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"]);
    command.arg(env!("CARGO_BIN_EXE_byway")).arg("add").args(RULE.split(' '));
    let said = crate::support::Said::from(seed.server.output(&mut command).unwrap());
    assert_eq!(said.code, Some(8), "{said:?}");
    assert_eq!(
        said.err,
        "byway: no BPF file system is mounted at /sys/fs/bpf, and this process may not mount one; mount it as root: `mount -t bpf bpf /sys/fs/bpf`\n"
    );
    done(&seed.server, &format!("add {RULE}"));
    assert!(works(&seed, ANSWER), "byway has mounted it");
}

#[test]
fn a_narrower_next_hop_is_told_and_what_came_of_it_has_columns() {
    let seed = Seed::new().unwrap();
    let server = &seed.server;
    let set_mtu = |mtu| {
        server.set_mtu("eth1", mtu).unwrap();
        seed.router.set_mtu("eth0", mtu).unwrap();
    };
    set_mtu(1_280);
    let told = |tcp: &str| {
        format!(
            "eth1 takes packets of 1280 bytes, eth0 of 1500: {tcp}, and packets that are too big get an ICMP error\n"
        )
    };
    assert_eq!(
        done(server, &format!("add {RULE}")),
        format!("added: {RULE}\nattached to eth0\n{}", told("TCP's MSS is clamped to fit"))
    );
    // Those that say something of the only rule or next hop.
    let columns = |words: &str| {
        let shown = done(server, words);
        let mut lines = shown.lines().skip_while(|line| !line.contains("CLAMPED"));
        let [header, row] = [(); 2].map(|()| lines.next().unwrap().split_whitespace().collect::<Vec<_>>());
        assert_eq!(header.len(), row.len(), "{shown}");
        let of = ["MTU", "CLAMPED", "ICMP-SENT", "TOO-BIG"].into_iter();
        let says = |name: &&str| header.iter().zip(&row).any(|(it, cell)| it == name && *cell != "0");
        of.filter(says).collect::<Vec<_>>()
    };
    assert_eq!(columns("show"), Vec::<&str>::new());
    assert_eq!(columns("show nexthops"), ["MTU"]);

    let service = server.tcp_bulk_serve((IPV4.service, 30100).into()).unwrap();
    seed.client.tcp_bulk(service.address(), 1_000_000, ANSWER).unwrap();
    assert_eq!(columns("show"), ["CLAMPED", "ICMP-SENT"]);
    assert_eq!(columns("show nexthops"), ["MTU", "CLAMPED", "ICMP-SENT"]);

    // The first fragment to an address that the server knows nothing about is answered, and the second is refused.
    seed.client.address("eth0", "10.111.222.12/24").unwrap();
    let socket = server.run(|| UdpSocket::bind((IPV4.service, 0))).unwrap();
    let _ = socket.send_to(&[0; 4_700], "10.111.222.12:9");
    assert!(wait_until(ANSWER, || columns("show") == ["CLAMPED", "ICMP-SENT", "TOO-BIG"]));
    assert_eq!(columns("show nexthops"), ["MTU", "CLAMPED", "ICMP-SENT", "TOO-BIG"]);
    let json: serde_json::Value = serde_json::from_str(&done(server, "--json show")).unwrap();
    for of in [&json["rules"][0], &json["nexthops"][0]] {
        assert_eq!(
            (&of["clamped"]["packets"], &of["too_big_dropped"]["packets"]),
            (&1.into(), &1.into()),
            "{json}"
        );
        assert!(of["icmp_sent"]["packets"].as_u64().unwrap() > 1, "{json}");
    }
    assert_eq!(json["nexthops"][0]["mtu"], 1_280);

    for (mss, tcp) in [("off", "TCP's MSS is left alone"), ("1000", "TCP's MSS is clamped to 1000")] {
        let rule = format!("{RULE} mss {mss}");
        assert_eq!(done(server, &format!("replace {rule}")), format!("replaced: {rule}\n{}", told(tcp)));
    }
    set_mtu(1_500);
    assert_eq!(done(server, &format!("replace {RULE}")), format!("replaced: {RULE}\n"));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let seed = Seed::new().unwrap();
    let mut command = byway("show");
    command.stdout(std::process::Stdio::piped());
    let mut process = seed.server.start(&mut command).unwrap();
    drop(process.stdout.take());
    assert_eq!(process.wait_for(ANSWER).unwrap().code(), Some(0));
}

/// As a newer byway of the same schema may have made it.
#[test]
fn a_rule_of_an_unknown_kind_is_a_number_that_no_command_deletes() {
    let seed = Seed::new().unwrap();
    let server = &seed.server;
    for words in ["add from 192.168.1.6 drop", "add from 192.168.1.7 pass"] {
        done(server, words);
    }
    let pin = format!("/sys/fs/bpf/byway/{}/rules/0", pins().remove(0));
    let map = Map::from_map_data(MapData::from_pin(pin).unwrap()).unwrap();
    let mut records: Array<_, RuleRecord> = map.try_into().unwrap();
    let record = records.get(&2, 0).unwrap();
    records.set(2, RuleRecord { kind: 200, index: 4, ..record }, 0).unwrap();

    let shown = done(server, "show");
    let row = |source: &str| -> Vec<&str> {
        let row = shown.lines().find(|line| line.starts_with(source)).unwrap();
        row.split_whitespace().take(9).collect()
    };
    assert_eq!(row("192.168.1.6"), ["192.168.1.6", "-", "drop", "-", "-", "cli", "0", "0", "-"]);
    assert_eq!(row("192.168.1.7"), ["192.168.1.7", "-", "kind-200", "-", "-", "cli", "-", "-", "-"]);
    let shown: serde_json::Value =
        serde_json::from_str(&done(server, "--json show from 192.168.1.7")).unwrap();
    assert_eq!(shown["target"], serde_json::json!({ "other": { "kind": 200, "index": 4 } }));
    for words in ["del from 192.168.1.7", "replace from 192.168.1.7 drop", "add from 192.168.1.7 pass"] {
        let sentence = "the rule for these packets (from 192.168.1.7 kind 200) is of a kind that this byway does not know, so it stays as it is; change or delete it with the byway that has made it";
        assert_eq!(refused(server, words), sentence, "byway {words}");
    }
    assert!(done(server, "export").starts_with("# Left out, "));
    assert_eq!(
        done(server, "flush"),
        "deleted 1 rule\nleft alone, since this byway does not know its kind: from 192.168.1.7 kind 200\n"
    );
    assert_eq!(
        done(server, "flush within 192.168.1.7"),
        "deleted 0 rules\nleft alone, since this byway does not know its kind: from 192.168.1.7 kind 200\n"
    );
    done(server, "detach");
    assert!(done(server, "show").contains("kind-200"));
}
