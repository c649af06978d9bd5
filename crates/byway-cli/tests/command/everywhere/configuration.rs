//! Configurations as people use them: what `diff` shows is what `apply` does, and back again.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use crate::support::{
    ANSWER, ConfigFile, SILENCE, Said, VIP, call, done, json, pins, refused, start, waiting, works,
};
use aya::programs::tc::{TcAttachType, qdisc_detach_program};
use byway_lab::{seed::Seed, wait_until};
use nix::{
    fcntl::{Flock, FlockArg},
    libc::{SIGCONT, SIGSTOP},
    mount::{MsFlags, mount, umount},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

fn diff(seed: &Seed, file: &ConfigFile) -> Said {
    call(&seed.server, &file.words("diff"))
}

fn rules(seed: &Seed) -> usize {
    json(seed, "--json show")["rules"].as_array().unwrap().len()
}

#[test]
fn what_diff_shows_apply_does() {
    let seed = Seed::new().unwrap();
    let file = ConfigFile::new(VIP);
    let shown = "+ attach (eth0)\n\
                 + from 192.168.1.5 via 10.111.221.21 dev eth1\n\n\
                 1 rule to add, 0 to change, 0 to delete; 0 stay as they are\n";
    assert_eq!(diff(&seed, &file), Said::of(Some(3), shown.into(), ""));
    assert!(pins().is_empty(), "diff has changed something");
    assert!(!works(&seed, SILENCE));

    assert_eq!(
        done(&seed.server, &file.words("apply")),
        "+ attach (eth0)\n1 rule added, 0 changed, 0 deleted; 0 stayed as they were\n"
    );
    assert!(works(&seed, ANSWER));
    let said = diff(&seed, &file);
    assert_eq!(
        (said.code, said.out.as_str()),
        (Some(0), "nothing differs: 1 rule is as the configuration says\n")
    );
    assert_eq!(
        done(&seed.server, &file.words("apply")),
        "nothing to do: 1 rule is as the configuration says\n"
    );

    // What stays keeps its counters; what is changed does not touch the rest.
    let packets = |seed: &Seed| json(seed, "--json show from 192.168.1.5")["departed"]["packets"].clone();
    assert_eq!(packets(&seed), 1);
    file.write(&format!(
        "{VIP}name = \"vip\"\n[[rule]]\nfrom = [\"192.168.1.6\", \"192.168.1.7\"]\ntarget = \"drop\"\n"
    ));
    assert_eq!(
        diff(&seed, &file).out,
        "- from 192.168.1.5 via 10.111.221.21 dev eth1\n\
         + from 192.168.1.5 via 10.111.221.21 dev eth1 name vip\n\
         + from 192.168.1.6 drop\n\
         + from 192.168.1.7 drop\n\n\
         2 rules to add, 1 to change, 0 to delete; 0 stay as they are\n"
    );
    file.write(&format!("{VIP}[[rule]]\nfrom = [\"192.168.1.6\", \"192.168.1.7\"]\ntarget = \"drop\"\n"));
    done(&seed.server, &file.words("apply"));
    assert_eq!(packets(&seed), 1, "the rule that stayed has lost its counters");

    // Without a rule in it, none of the configuration's is left.
    file.write("");
    let counts = call(&seed.server, &file.words("--json diff"));
    let counts: serde_json::Value = serde_json::from_str(&counts.out).unwrap();
    assert_eq!(counts["counts"], serde_json::json!({ "added": 0, "removed": 3, "changed": 0, "kept": 0 }));
    assert_eq!(counts["rules"][0]["removed"]["from"], "192.168.1.5");
    done(&seed.server, &file.words("apply"));
    assert!(!works(&seed, SILENCE));
    done(&seed.server, "detach");
    assert!(pins().is_empty());
}

#[test]
fn rules_and_groups_of_others_stay() {
    let seed = Seed::new().unwrap();
    done(&seed.server, "add from 192.168.1.6 drop");
    done(&seed.server, "group add hand nexthop via 10.111.221.21 dev eth1");
    let file = ConfigFile::new(VIP);
    done(&seed.server, &file.words("apply"));
    file.write("");
    done(&seed.server, &file.words("apply"));
    assert_eq!(rules(&seed), 1, "the rule put by hand has gone with the configuration's");

    // One that says the same is left to whoever put it in.
    file.write("[[rule]]\nfrom = \"192.168.1.6\"\ntarget = \"drop\"\n");
    let said = diff(&seed, &file);
    assert_eq!(said.code, Some(0));
    assert_eq!(said.out, "nothing differs: 1 rule is as the configuration says\n");
    // One that says something else is refused.
    file.write("[[rule]]\nfrom = \"192.168.1.6\"\ndev = \"eth1\"\n");
    let sentence = "there is already a rule for these packets (from 192.168.1.6 drop), which belongs to cli; delete it \
                    first: `byway del from 192.168.1.6`";
    assert_eq!(refused(&seed.server, &file.words("diff")), sentence);
    assert_eq!(refused(&seed.server, &file.words("apply")), sentence);

    // A group that somebody else's rule leads to cannot go.
    file.write("[group.up]\nnexthops = [{ via = \"10.111.221.21\", dev = \"eth1\" }]\n[[rule]]\nfrom = \"192.168.1.5\"\ngroup = \"up\"\n");
    done(&seed.server, &file.words("apply"));
    assert!(works(&seed, ANSWER));
    done(&seed.server, "add from 192.168.1.7 group up");
    file.write("");
    assert_eq!(
        refused(&seed.server, &file.words("apply")),
        "the group up is in use by the rule from 192.168.1.7; delete that rule first, or give it another target"
    );
    assert_eq!(rules(&seed), 3, "a refused apply has changed something");
    done(&seed.server, "del from 192.168.1.7");
    done(&seed.server, &file.words("apply"));
    assert_eq!(done(&seed.server, "group show").matches("up").count(), 0);
}

#[test]
fn one_wrong_rule_and_nothing_changes() {
    let seed = Seed::new().unwrap();
    let file = ConfigFile::new(VIP);
    done(&seed.server, &file.words("apply"));
    file.write("[[rule]]\nfrom = \"192.168.1.6\"\ntarget = \"drop\"\n[[rule]]\nfrom = \"192.168.1.7\"\nvia = \"192.168.1.5\"\ndev = \"eth1\"\n");
    let before = done(&seed.server, "export");
    refused(&seed.server, &file.words("apply"));
    assert_eq!(done(&seed.server, "export"), before);
    assert!(works(&seed, ANSWER));
}

#[test]
fn attachments_are_as_the_file_says_if_it_says_so() {
    let seed = Seed::new().unwrap();
    let watched = |seed: &Seed| {
        let shown = json(seed, "--json show");
        let departures =
            shown["attachments"].as_array().unwrap().iter().filter(|it| it["role"] == "departure");
        departures.map(|it| it["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let file = ConfigFile::new(&format!("attach = [\"eth1\"]\n{VIP}"));
    done(&seed.server, &file.words("apply"));
    assert_eq!(watched(&seed), ["eth1"]);
    file.write(&format!("attach = \"auto\"\n{VIP}"));
    assert_eq!(
        diff(&seed, &file).out.lines().take(2).collect::<Vec<_>>(),
        ["+ attach (eth0)", "- attach eth1"]
    );
    done(&seed.server, &file.words("apply"));
    assert_eq!(watched(&seed), ["eth0"]);
    // Where it says nothing, they are left alone.
    done(&seed.server, "attach dev eth1");
    file.write(VIP);
    assert_eq!(diff(&seed, &file).code, Some(0));
    assert_eq!(watched(&seed), ["eth0", "eth1"]);
}

#[test]
fn rollback_goes_back_one_apply() {
    let seed = Seed::new().unwrap();
    assert_eq!(
        refused(&seed.server, "rollback"),
        "there is nothing to go back to: no apply has changed anything since the host started or the last rollback"
    );
    let file = ConfigFile::new(VIP);
    done(&seed.server, &file.words("apply"));
    done(&seed.server, "add from 192.168.1.99 drop");
    let before = done(&seed.server, "export");
    file.write("attach = [\"eth0\", \"eth1\"]\n[group.up]\nnexthops = [{ via = \"10.111.221.21\" }]\n[[rule]]\nfrom = \"192.168.1.6\"\ngroup = \"up\"\n");
    done(&seed.server, &file.words("apply"));
    assert!(!works(&seed, SILENCE));
    // An apply that changes nothing is none, and neither is one that is refused.
    done(&seed.server, &file.words("apply"));
    file.write("[[rule]]\nfrom = \"192.168.1.7\"\ndev = \"nowhere\"\n");
    refused(&seed.server, &file.words("apply --strict"));

    assert_eq!(
        done(&seed.server, "rollback").lines().last().unwrap(),
        "1 rule added, 0 changed, 1 deleted; 0 stayed as they were"
    );
    assert!(works(&seed, ANSWER));
    assert_eq!(done(&seed.server, "export"), before, "what was put by hand meanwhile included");
    refused(&seed.server, "rollback");
}

/// What somebody says by hand in between stays, and the rest comes back.
#[test]
fn rollback_leaves_what_others_have_said_meanwhile() {
    let seed = Seed::new().unwrap();
    let file = ConfigFile::new(&format!(
        "attach = [\"eth0\"]\n{VIP}[[rule]]\nfrom = \"192.168.1.6\"\ntarget = \"drop\"\n[[rule]]\nfrom = \"192.168.1.7\"\ndev = \"eth5\"\n"
    ));
    seed.lab.link((&seed.server, "eth5"), (&seed.router, "eth5")).unwrap();
    seed.server.set_up("eth5", true).unwrap();
    done(&seed.server, &file.words("apply"));
    file.write(
        "[group.up]\nnexthops = [{ via = \"10.111.221.21\" }]\n[[rule]]\nfrom = \"192.168.1.9\"\ngroup = \"up\"\n",
    );
    done(&seed.server, &file.words("apply"));
    done(&seed.server, "add from 192.168.1.6 pass");
    done(&seed.server, "add from 192.168.1.8 group up");
    // A device that is gone takes no other rule with it.
    seed.server.delete_link("eth5").unwrap();
    let said = waiting(&seed.server, "rollback");
    assert!(
        said.ends_with("waiting: dev eth5: there is no device `eth5` in this network namespace\n"),
        "{said}"
    );
    assert!(works(&seed, ANSWER));
    let exported = done(&seed.server, "export");
    assert!(exported.contains("[group.up]") && exported.contains("dev = \"eth5\""), "{exported}");
    assert_eq!(json(&seed, "--json show from 192.168.1.6")["target"], "pass");
    assert_eq!(json(&seed, "--json show from 192.168.1.7")["target"]["nexthop"]["device"]["ifindex"], 0);
    assert_eq!(rules(&seed), 4);
}

/// Also where the configuration's rules lead to a group that was made by hand, and is left to whoever made it.
#[test]
fn rollback_knows_the_groups_of_others() {
    let seed = Seed::new().unwrap();
    done(&seed.server, "group add up nexthop via 10.111.221.21 dev eth1");
    let file = ConfigFile::new(
        "[group.up]\nnexthops = [{ via = \"10.111.221.21\", dev = \"eth1\" }]\n\
         [[rule]]\nfrom = \"192.168.1.5\"\ngroup = \"up\"\n",
    );
    done(&seed.server, &file.words("apply"));
    let before = done(&seed.server, "--json group show");
    file.write("");
    done(&seed.server, &file.words("apply"));
    done(&seed.server, "rollback");
    assert!(works(&seed, ANSWER));
    assert_eq!(done(&seed.server, "--json group show"), before);
}

/// A rule of whose next hops some are gone has the others, and one of which all wait does what it says for when none is in
/// service: packets that were kept from the default route are kept from it.
#[test]
fn rollback_opens_nothing_that_was_closed() {
    let seed = Seed::new().unwrap();
    for device in ["eth5", "eth6"] {
        seed.lab.link((&seed.server, device), (&seed.router, device)).unwrap();
        seed.server.set_up(device, true).unwrap();
    }
    let file = ConfigFile::new(
        "[group.lost]\nnexthops = [{ dev = \"eth5\" }]\non-down = \"drop\"\n\
         [group.half]\nnexthops = [{ dev = \"eth5\" }, { dev = \"eth6\", weight = 3 }]\n\
         [[rule]]\nfrom = \"192.168.1.5\"\nnexthops = [{ via = \"10.111.221.21\", dev = \"eth1\" }, { dev = \"eth5\" }]\n\
         [[rule]]\nfrom = \"192.168.1.6\"\ndev = \"eth5\"\non-down = \"drop\"\nmss = 1400\n\
         [[rule]]\nfrom = \"192.168.1.7\"\ndev = \"eth5\"\n\
         [[rule]]\nfrom = \"192.168.1.8\"\ngroup = \"lost\"\n\
         [[rule]]\nfrom = \"192.168.1.9\"\ngroup = \"half\"\n",
    );
    done(&seed.server, &file.words("apply"));
    file.write("");
    done(&seed.server, &file.words("apply"));
    seed.server.delete_link("eth5").unwrap();
    let said = waiting(&seed.server, "rollback");
    assert!(said.contains("5 rules added, 0 changed, 0 deleted; 0 stayed as they were\n"), "{said}");
    assert!(works(&seed, ANSWER));
    // The socket of a packet that is dropped is told so.
    let is_let_by = |last: u8| {
        let from = std::net::IpAddr::from([192, 168, 1, last]);
        seed.server.address("lo", &format!("{from}/32")).unwrap();
        seed.server.run(|| {
            let socket = std::net::UdpSocket::bind((from, 0)).unwrap();
            socket.send_to(b"hello", "203.0.113.1:9").unwrap_or(0);
        });
        let rule = json(&seed, &format!("--json show from {from}"));
        assert_eq!(rule["no_next_hop"]["packets"], 1, "{rule}");
        rule["on_down"] != "drop"
    };
    assert_eq!([6, 7].map(is_let_by), [false, true]);
    let exported = done(&seed.server, "export");
    assert!(
        exported.contains("[group.half]") && exported.contains("{ dev = \"eth6\", weight = 3 }"),
        "{exported}"
    );
    assert!(exported.contains("{ dev = \"eth5\" }"), "{exported}");
}

/// Of the attachments those come and go that the apply has taken off and put on.
#[test]
fn rollback_leaves_attachments_that_were_made_by_hand() {
    let seed = Seed::new().unwrap();
    let attached = |device: &str| {
        let exported = done(&seed.server, "export");
        assert!(exported.contains(&format!("attach = [\"{device}\"]\n")), "{exported}");
    };
    // One that attaches where nothing was.
    let file = ConfigFile::new(VIP);
    done(&seed.server, &file.words("apply"));
    done(&seed.server, "attach dev eth1");
    done(&seed.server, "rollback");
    attached("eth1");
    // One that says where.
    file.write("attach = [\"eth0\"]\n");
    done(&seed.server, &file.words("apply"));
    done(&seed.server, "detach dev eth0");
    done(&seed.server, "rollback");
    attached("eth1");
}

/// What held before holds again, also where somebody has made another group of that name.
#[test]
fn rollback_sends_nothing_where_it_never_went() {
    let seed = Seed::new().unwrap();
    let file = ConfigFile::new(
        "[group.up]\nnexthops = [{ via = \"10.111.221.21\", dev = \"eth1\" }]\n\
         [[rule]]\nfrom = \"192.168.1.5\"\ngroup = \"up\"\n",
    );
    done(&seed.server, &file.words("apply"));
    file.write("");
    done(&seed.server, &file.words("apply"));
    done(&seed.server, "group add up nexthop dev eth1");
    done(&seed.server, "rollback");
    assert!(works(&seed, ANSWER));
    assert_eq!(json(&seed, "--json show from 192.168.1.5")["target"]["nexthop"]["gateway"], "10.111.221.21");
}

/// Somebody has replaced a group of the configuration by hand: that is a difference, and no more.
#[test]
fn a_group_of_the_configuration_stays_the_configurations() {
    let seed = Seed::new().unwrap();
    let file = ConfigFile::new(
        "[group.up]\nnexthops = [{ via = \"10.111.221.21\", dev = \"eth1\" }]\n\
         [[rule]]\nfrom = \"192.168.1.5\"\ngroup = \"up\"\n",
    );
    done(&seed.server, &file.words("apply"));
    done(&seed.server, "group replace up nexthop dev eth1");
    assert!(!works(&seed, SILENCE));
    assert_eq!(diff(&seed, &file).code, Some(3));
    done(&seed.server, &file.words("apply"));
    assert!(works(&seed, ANSWER));
}

/// A program applies the file every minute, and a link is down: nothing differs for that, and what else the file says is done.
#[test]
fn a_link_that_is_down_keeps_nothing_from_being_applied() {
    let seed = Seed::new().unwrap();
    for via in ["via = \"10.111.221.21\"", "via = \"10.111.221.21\"\ndev = \"eth1\""] {
        let file = ConfigFile::new(&format!("[[rule]]\nfrom = \"192.168.1.5\"\n{via}\n"));
        done(&seed.server, &file.words("apply"));
        seed.server.set_up("eth1", false).unwrap();
        assert_eq!(diff(&seed, &file).code, Some(0));
        file.write(&format!("[[rule]]\nfrom = [\"192.168.1.5\", \"192.168.1.6\"]\n{via}\n"));
        let added = "1 rule added, 0 changed, 0 deleted; 1 stayed as they were\n";
        let said = waiting(&seed.server, &file.words("apply"));
        assert!(said.starts_with(added) && said.contains("\nwaiting: via 10.111.221.21"), "{said}");
        // One that nothing leads to yet is another matter.
        file.write("[[rule]]\nfrom = \"192.168.1.5\"\nvia = \"10.111.221.22\"\ndev = \"eth1\"\n");
        assert!(refused(&seed.server, &file.words("apply --strict")).contains("is down"));
        seed.server.set_up("eth1", true).unwrap();
        assert!(works(&seed, ANSWER));
        file.write("");
        done(&seed.server, &file.words("apply"));
    }
}

/// Somebody has taken the program off. The rules are as they should be, and nothing works.
#[test]
fn diff_sees_that_the_program_is_off() {
    let seed = Seed::new().unwrap();
    let file = ConfigFile::new(VIP);
    done(&seed.server, &file.words("apply"));
    let link =
        format!("/sys/fs/bpf/byway/{}/egress/{}", pins().remove(0), seed.server.ifindex("eth0").unwrap());
    seed.server.run(|| match Path::new(&link).exists() {
        true => fs::remove_file(&link).unwrap(),
        false => qdisc_detach_program("eth0", TcAttachType::Egress, "byway_departure").unwrap(),
    });
    let said = diff(&seed, &file);
    assert_eq!((said.code, said.out.lines().next()), (Some(3), Some("+ attach (eth0)")), "{said:?}");
    assert!(done(&seed.server, &file.words("apply")).starts_with("+ attach (eth0)\n"));
    assert!(works(&seed, ANSWER));
}

/// Also where the way to the next hop is broken by then: what held before holds again.
#[test]
fn rollback_asks_no_questions() {
    let seed = Seed::new().unwrap();
    let file = ConfigFile::new(VIP);
    done(&seed.server, &file.words("apply"));
    file.write("");
    done(&seed.server, &file.words("apply"));
    seed.server.set_up("eth1", false).unwrap();
    assert!(call(&seed.server, "add from 192.168.1.6 via 10.111.221.21 dev eth1").err.contains("is down"));
    done(&seed.server, "rollback");
    assert_eq!(rules(&seed), 1);
}

#[test]
fn what_is_confirmed_stays() {
    let seed = Seed::new().unwrap();
    let file = ConfigFile::new(VIP);
    assert_eq!(done(&seed.server, "confirm"), "no apply is waiting to be confirmed\n");
    let said = done(&seed.server, &file.words("apply --confirm 5m"));
    assert_eq!(said.lines().last().unwrap(), "rolls back in 5m, unless `byway confirm` comes first");
    // The next one has to wait, but not what is done by hand.
    file.write("");
    let sentence = "the last apply is still waiting to be confirmed; confirm it with `byway confirm`, or roll it back with `byway rollback`";
    assert_eq!(refused(&seed.server, &file.words("apply")), sentence);
    done(&seed.server, "add from 192.168.1.6 drop");
    assert_eq!(done(&seed.server, "confirm"), "confirmed: the last apply stays\n");
    assert_eq!(done(&seed.server, "confirm"), "no apply is waiting to be confirmed\n");
    assert!(wait_until(ANSWER, || guards().is_empty()), "the guard stays: {:?}", guards());
    assert!(works(&seed, ANSWER));
    done(&seed.server, "rollback");
    assert!(!works(&seed, SILENCE));

    // Or it is taken back at once, and the guard goes as well.
    file.write(VIP);
    done(&seed.server, &file.words("apply --confirm 5m"));
    done(&seed.server, "rollback");
    assert!(!works(&seed, SILENCE));
    assert!(wait_until(ANSWER, || guards().is_empty()), "the guard stays: {:?}", guards());
    // Where nothing changes nothing waits.
    file.write("");
    assert_eq!(
        done(&seed.server, &file.words("apply --confirm 5m")),
        "nothing to do: 0 rules are as the configuration says\n"
    );
    assert!(guards().is_empty());
    done(&seed.server, "confirm");
}

/// Once all steps are done, the change is in force. What cannot be tidied up after that is no failure: the apply still waits to be
/// confirmed, and can be rolled back.
#[test]
fn pins_that_cannot_be_removed_do_not_end_the_wait() {
    let seed = Seed::new().unwrap();
    let file = ConfigFile::new(VIP);
    done(&seed.server, &file.words("apply"));
    let pinned = format!("/sys/fs/bpf/byway/{}", pins().remove(0));
    // A mount point cannot be renamed (EBUSY, rename(2)).
    mount(Some(pinned.as_str()), pinned.as_str(), None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    file.write("attach = []\n");
    let said = done(&seed.server, &file.words("apply --confirm 5m"));
    assert_eq!(said.lines().last().unwrap(), "rolls back in 5m, unless `byway confirm` comes first");
    assert!(!works(&seed, SILENCE));
    umount(pinned.as_str()).unwrap();
    assert_eq!(pins().len(), 1);
    done(&seed.server, "rollback");
    assert!(works(&seed, ANSWER));
    assert!(wait_until(ANSWER, || guards().is_empty()), "the guard stays: {:?}", guards());
    // The next change removes what one like this has left.
    done(&seed.server, &file.words("apply"));
    assert_eq!(pins(), Vec::<String>::new());
}

/// The terminal goes, and with it all that runs in it. Nobody confirms.
#[test]
fn what_nobody_confirms_is_taken_back() {
    let seed = Seed::new().unwrap();
    let file = ConfigFile::new(VIP);
    let command =
        format!("{} & wait", file.words(&format!("{} apply --confirm 2s", env!("CARGO_BIN_EXE_byway"))));
    let mut shell = std::process::Command::new("setsid");
    // A session of its own, as a terminal's is, which is killed behind the apply.
    shell.args(["sh", "-c", &format!("{command}; kill -HUP 0; kill -KILL 0")]);
    let start = Instant::now();
    let ended = seed.server.output(&mut shell).unwrap();
    assert!(!ended.status.success(), "the session should have been killed");
    // Whether it holds still when this looks depends on the machine, and so what the apply has said has to do.
    let said = Said::from(ended);
    let [.., applied, waits] = &said.out.lines().collect::<Vec<_>>()[..] else { panic!("{said:?}") };
    assert_eq!(*applied, "1 rule added, 0 changed, 0 deleted; 0 stayed as they were", "{said:?}");
    assert_eq!(*waits, "rolls back in 2s, unless `byway confirm` comes first");

    assert!(wait_until(ANSWER, || rules(&seed) == 0), "it was not rolled back");
    assert!(start.elapsed() >= Duration::from_secs(2));
    assert!(wait_until(ANSWER, || guards().is_empty()));
    assert_eq!(
        refused(&seed.server, "confirm"),
        "no apply is waiting to be confirmed: the last one was rolled back, because nobody confirmed it in time"
    );
    refused(&seed.server, "rollback");
    assert!(pins().is_empty(), "as before");
}

/// A service manager or a logout ends the guard: nobody is left to roll back later, and so it does at once.
#[test]
fn a_guard_that_is_ended_rolls_back_at_once() {
    let seed = Seed::new().unwrap();
    let file = ConfigFile::new(VIP);
    done(&seed.server, &file.words("apply --confirm 1h"));
    // Each command says so that shows what is in force, or changes it, in whatever form.
    for words in [
        "show",
        "-o show",
        "--json show",
        "show nexthops",
        "show 192.168.1.5",
        "show attachments",
        &file.words("diff"),
        &file.words("--json diff"),
        "add from 192.168.1.6 drop",
        "-q add from 192.168.1.7 drop",
        "--json nexthop down 10.111.221.21",
    ] {
        let said = call(&seed.server, words);
        let waits = said.warnings.iter().any(|it| {
            it.contains("the last apply is still waiting to be confirmed, 3")
                && it.ends_with(" s left; `byway confirm` keeps it")
        });
        assert!(waits, "{words}: {said:?}");
    }
    assert!(json(&seed, "--json show")["seconds_to_confirm"].as_u64().unwrap() > 3_000);
    let diff = json(&seed, &file.words("--json diff"));
    assert!(diff["seconds_to_confirm"].as_u64().unwrap() > 3_000, "{diff}");
    signal_guard(Signal::SIGTERM);
    assert!(wait_until(ANSWER, || rules(&seed) == 2), "it was not rolled back");
    assert!(wait_until(ANSWER, || guards().is_empty()));
    assert!(!done(&seed.server, "show").contains("confirm"));
}

/// Where the guard is killed, the next command does its work, whatever it is.
#[test]
fn a_guard_that_is_killed_is_missed() {
    let seed = Seed::new().unwrap();
    let file = ConfigFile::new(VIP);
    for words in ["show", "diff", "add from 192.168.1.6 drop", "confirm"] {
        done(&seed.server, &file.words("apply --confirm 1s"));
        let is_over = Instant::now() + Duration::from_secs(1);
        signal_guard(Signal::SIGKILL);
        assert!(wait_until(ANSWER, || guards().is_empty()));
        assert!(wait_until(ANSWER, || Instant::now() > is_over));
        let words = if words == "diff" { file.words(words) } else { words.to_owned() };
        let said = call(&seed.server, &words);
        let sentence = "byway: nobody confirmed the last apply in time, so it was rolled back\n";
        assert!(said.err.starts_with(sentence), "byway {words}: {said:?}");
        let left = json(&seed, "--json show");
        assert!(left.get("seconds_to_confirm").is_none() && rules(&seed) <= 1, "{left}");
        assert!(left["rules"].as_array().unwrap().iter().all(|it| it["owner"] == "cli"), "{left}");
        done(&seed.server, "flush");
    }
}

/// Sends a signal to the guard of this lab.
fn signal_guard(signal: Signal) {
    let [guard] = &guards()[..] else { panic!("one guard: {:?}", guards()) };
    let process = guard.rsplit('/').next().unwrap().parse().unwrap();
    kill(Pid::from_raw(process), signal).unwrap();
}

/// A change that waits for another one says for whom, and does so no longer than it is told. Readers do not wait, and no
/// network namespace for another.
#[test]
fn a_change_waits_for_another_one_and_says_so() {
    let seed = Seed::new().unwrap();
    done(&seed.server, "add from 192.168.1.5 via 10.111.221.21 dev eth1");
    // As a byway of schema 8 does; a newer one shares this with those of other network namespaces.
    let folder = fs::File::open("/sys/fs/bpf/byway").unwrap();
    let other = Flock::lock(folder, FlockArg::LockSharedNonblock).unwrap();
    done(&seed.server, "add from 192.168.1.6 drop");
    drop(other);
    let folder = fs::File::open("/sys/fs/bpf/byway").unwrap();
    let lock = Flock::lock(folder, FlockArg::LockExclusiveNonblock).unwrap();
    let own = std::process::id();
    for words in ["add from 192.168.1.7 drop", "confirm", "rollback"] {
        let said = call(&seed.server, &format!("--wait 1500ms {words}"));
        let [waits, busy] = &said.err.lines().collect::<Vec<_>>()[..] else { panic!("{words}: {said:?}") };
        assert!(waits.starts_with(&format!("byway: process {own} (`")), "{said:?}");
        assert!(waits.ends_with("waiting for it, up to 1s 500ms (`--wait`)"), "{said:?}");
        let sentence = "byway: another byway is changing this network namespace, and did not end within ";
        assert!(busy.starts_with(sentence) && busy.contains(&own.to_string()), "{said:?}");
        assert_eq!(said.code, Some(1));
    }
    assert_eq!(rules(&seed), 2);
    // And goes on when the other one is done.
    let waits = start(&seed.server, "add from 192.168.1.7 drop");
    drop(lock);
    let mut waits = waits;
    assert!(waits.wait_for(ANSWER).unwrap().success());
    assert_eq!(rules(&seed), 3);
}

/// However long the change takes, there is the whole time to confirm it.
#[test]
fn the_time_to_confirm_begins_when_the_change_is_done() {
    const TIME: Duration = Duration::from_secs(1);
    let seed = Seed::new().unwrap();
    let file = ConfigFile::new(VIP);
    let mut apply = start(&seed.server, &file.words("apply --confirm 1s"));
    assert!(wait_until(ANSWER, || !guards().is_empty()));
    apply.signal(SIGSTOP).unwrap();
    thread::sleep(TIME); // which is over now, had it begun ahead of the change
    let goes_on = Instant::now();
    apply.signal(SIGCONT).unwrap();
    assert!(apply.wait_for(ANSWER).unwrap().success());
    assert!(wait_until(ANSWER, || rules(&seed) == 0), "it was not rolled back");
    assert!(goes_on.elapsed() >= TIME);
    assert!(wait_until(ANSWER, || guards().is_empty()));
}

/// The guards of this lab: those that see its BPF file system.
fn guards() -> Vec<String> {
    let own = fs::read_link("/proc/thread-self/ns/mnt").unwrap();
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    let of_this_lab = processes.filter(|process| {
        let same = fs::read_link(process.join("ns/mnt")).is_ok_and(|theirs| theirs == own);
        let words = fs::read(process.join("cmdline")).unwrap_or_default();
        same && words.split(|byte| *byte == 0).nth(1) == Some(b"guard")
    });
    of_this_lab.map(|process| process.display().to_string()).collect()
}

#[test]
fn export_and_apply_change_nothing() {
    let seed = Seed::new().unwrap();
    for words in [
        "add from 192.168.1.5 via 10.111.221.21 dev eth1 name vip mss 1400",
        "group add up.links nexthop via 10.111.221.21 dev eth1 weight 2 nexthop dev eth1 on-down drop",
        "add from 192.168.1.0/24 group up.links",
        "add from 192.168.1.0/24 to 10.0.0.0/8 pass",
        "add from 2001:db8::/32 drop",
        "add from 192.168.1.7 nexthop via 10.111.221.21 dev eth1 nexthop dev eth1 weight 9 on-down drop mss off",
    ] {
        done(&seed.server, words);
    }
    let exported = done(&seed.server, "export");
    let file = ConfigFile::new(&exported);
    assert_eq!(diff(&seed, &file).code, Some(0), "{exported}");
    assert_eq!(call(&seed.server, &file.words("check --offline")).code, Some(0));
    // And on a host where nothing holds it makes the same.
    for words in ["flush", "group del up.links", "detach"] {
        done(&seed.server, words);
    }
    done(&seed.server, &file.words("apply"));
    assert_eq!(done(&seed.server, "export"), exported);
}

/// Someone changes the kernel's state by hand in between: `diff` says so, and `apply` puts it right.
#[test]
fn changes_by_hand_are_seen_and_put_right() {
    let seed = Seed::new().unwrap();
    let file = ConfigFile::new(&format!("{VIP}[[rule]]\nfrom = \"192.168.1.6\"\ntarget = \"drop\"\n"));
    done(&seed.server, &file.words("apply"));
    done(&seed.server, "del from 192.168.1.5");
    done(&seed.server, "detach");
    assert_eq!(
        diff(&seed, &file).out,
        "+ attach (eth0)\n\
         + from 192.168.1.5 via 10.111.221.21 dev eth1\n\n\
         1 rule to add, 0 to change, 0 to delete; 1 stay as they are\n"
    );
    done(&seed.server, &file.words("apply"));
    assert!(works(&seed, ANSWER));
}

#[test]
fn applies_at_the_same_time_come_one_after_the_other() {
    let seed = Seed::new().unwrap();
    let texts: Vec<String> = (0..8)
        .map(|nth| {
            let hosts: Vec<String> = (1..200).map(|host| format!("\"192.168.{nth}.{host}\"")).collect();
            format!("[[rule]]\nfrom = [{}]\nvia = \"10.111.221.21\"\ndev = \"eth1\"\n", hosts.join(", "))
        })
        .collect();
    let files: Vec<ConfigFile> = texts.iter().map(|text| ConfigFile::new(text)).collect();
    let all: Vec<_> = files.iter().map(|file| start(&seed.server, &file.words("apply"))).collect();
    // The first one that is asked may be the last one that has its turn.
    let time = ANSWER * all.len() as u32;
    for mut one in all {
        assert!(one.wait_for(time).unwrap().success());
    }
    // The last one holds, and no other does.
    assert_eq!(rules(&seed), 199);
    assert_eq!(files.iter().filter(|file| diff(&seed, file).code == Some(0)).count(), 1);
    // And one can go back one apply.
    done(&seed.server, "rollback");
    assert_eq!(files.iter().filter(|file| diff(&seed, file).code == Some(0)).count(), 1);
}

#[test]
fn without_room_for_the_copy_nothing_changes() {
    let seed = Seed::new().unwrap();
    let kept = Path::new("/run/byway");
    fs::create_dir(kept).unwrap();
    let file = ConfigFile::new(&format!(
        "{VIP}[[rule]]\nfrom = [{}]\ntarget = \"drop\"\n",
        (0..4_000).map(|nth| format!("\"10.9.{}.{}\"", nth / 256, nth % 256)).collect::<Vec<_>>().join(",")
    ));
    done(&seed.server, &file.words("apply"));
    // A full disk: a few pages, and four thousand rules do not fit.
    mount(Some("tmpfs"), kept, Some("tmpfs"), MsFlags::empty(), Some("size=16k,mode=0700")).unwrap();
    let before = done(&seed.server, "export");
    file.write("");
    let said = call(&seed.server, &file.words("apply"));
    assert_eq!((said.code, said.out.as_str()), (Some(1), ""), "{said:?}");
    assert!(
        said.err.starts_with("byway: cannot keep the state of before in /run/byway/netns-")
            && said.err.contains("No space left"),
        "{said:?}"
    );
    assert_eq!(done(&seed.server, "export"), before);
    assert!(works(&seed, ANSWER));
}

/// What only the host knows is a warning, and takes no privilege.
#[test]
fn check_looks_at_the_host() {
    let seed = Seed::new().unwrap();
    let file = ConfigFile::new(
        "attach = [\"eth7\"]\n[[rule]]\nfrom = \"192.168.1.5\"\nvia = \"10.111.221.21\"\ndev = \"eth1\"\n\
         [[rule]]\nfrom = \"192.168.1.6\"\nvia = \"203.0.113.1\"\n",
    );
    let check = |seed: &Seed, words: &str| {
        let said = call(&seed.server, &file.words(words));
        assert_eq!(said.code, Some(0), "{said:?}");
        let warnings = said.err.lines().filter(|line| line.starts_with("warning: "));
        warnings.map(str::to_owned).collect::<Vec<_>>()
    };
    seed.server.sysctl("net.ipv4.conf.eth1.rp_filter", "1").unwrap();
    assert_eq!(
        check(&seed, "check"),
        [
            "warning: on this host there is no device `eth7` in this network namespace",
            "warning: eth1 drops requests unless the route back to the sender leaves by eth1 (strict rp_filter), so there may be nothing to answer",
            "warning: on this host no device leads straight to the gateway 203.0.113.1: no connected route covers it",
        ]
    );
    seed.server.sysctl("net.ipv4.conf.all.rp_filter", "2").unwrap();
    assert_eq!(check(&seed, "check").len(), 2, "loose for all is loose");
    assert_eq!(check(&seed, "check --offline"), Vec::<String>::new());
}
