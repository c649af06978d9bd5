//! What keeps a rule from doing its work is said by the command that makes the rule, and by the one that shows it.

use std::{net::UdpSocket, time::Duration};

use byway_lab::{seed::Seed, wait_until};

use crate::{
    support::{ANSWER, byway, call, done, works},
    terminal::{Terminal, lines},
};

const RULE: &str = "from 192.168.1.5 via 10.111.221.21 dev eth1";

/// The warnings of a command, which ends well nevertheless.
fn warnings(seed: &Seed, words: &str) -> Vec<String> {
    let said = call(&seed.server, words);
    assert!(matches!(said.code, Some(0 | 3)) && said.err.is_empty(), "byway {words}: {said:?}");
    said.warnings
}

#[test]
fn each_command_warns_of_what_is_in_the_way() {
    let seed = Seed::new().unwrap();
    let strict = "eth1 drops requests unless the route back to the sender leaves by eth1 (strict rp_filter), so there may be \
                  nothing to answer; `sysctl net.ipv4.conf.eth1.rp_filter=2` lets them in";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("byway.toml");
    let text = "[[rule]]\nfrom = \"192.168.1.0/24\"\nvia = \"10.111.221.21\"\ndev = \"eth1\"\n";
    std::fs::write(&file, text).unwrap();
    let file = file.display();

    assert_eq!(warnings(&seed, &format!("add {RULE}")), [""; 0]);
    seed.server.sysctl("net.ipv4.conf.eth1.rp_filter", "1").unwrap();
    for words in [
        &format!("replace {RULE}"),
        &format!("diff {file}"),
        &format!("apply {file}"),
        // What stays as it is does its work no better.
        &format!("diff {file}"),
        &format!("apply {file}"),
        "show",
        "show nexthops",
    ] {
        assert_eq!(warnings(&seed, words), [strict], "{words}");
    }
    for (reply_to, expected) in [("true", vec![strict]), ("[\"eth1\"]", vec![strict]), ("[\"eth0\"]", vec![])]
    {
        let replies = folder.path().join("replies.toml");
        std::fs::write(&replies, format!("[[rule]]\nfrom = \"192.168.1.0/24\"\nreply-to = {reply_to}\n"))
            .unwrap();
        assert_eq!(warnings(&seed, &format!("check {}", replies.display())), expected, "{reply_to}");
    }
    // Programs read it from another place than what they have asked for.
    let said = call(&seed.server, &format!("--json replace {RULE}"));
    assert!(serde_json::from_str::<serde_json::Value>(&said.out).is_ok(), "{said:?}");
    assert_eq!(said.warnings, [strict]);

    seed.server.sysctl("net.ipv4.conf.eth1.rp_filter", "2").unwrap();
    for words in [&format!("replace {RULE}"), &format!("apply {file}"), "show"] {
        assert_eq!(warnings(&seed, words), [""; 0], "{words}");
    }
    assert_eq!(
        warnings(&seed, "add from 192.168.1.5 to 203.0.113.0/24 via 10.111.221.99 dev eth1"),
        ["the gateway 10.111.221.99 does not answer on eth1; check its address and the link"]
    );
    seed.server.delete_route("default via 10.111.220.1").unwrap();
    for words in [&format!("replace {RULE}"), &format!("check {file}"), "show 192.168.1.5"] {
        let no_route = warnings(&seed, words);
        assert!(
            no_route[0].starts_with("there is no route for packets from 192.168.1."),
            "{words}: {no_route:?}"
        );
    }
    // Packets that leave past all attachments.
    seed.server.route("default via 10.111.221.21 dev eth1").unwrap();
    for words in [&format!("replace {RULE}"), &format!("check {file}"), "show 192.168.1.5"] {
        let past = warnings(&seed, words);
        assert!(past[0].contains(" leave by eth1, where byway is not attached"), "{words}: {past:?}");
    }
}

/// A group's next hops are those of its rules. A dead one is said whenever somebody asks, and once.
#[test]
fn a_dead_next_hop_is_said_once_by_each_command() {
    let seed = Seed::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("byway.toml");
    let text = "[group.up]\nnexthops = [{ via = \"10.111.221.99\", dev = \"eth1\" }]\n\
                [[rule]]\nfrom = \"192.168.1.5\"\ngroup = \"up\"\n";
    std::fs::write(&file, text).unwrap();
    let (apply, diff) = (format!("apply {}", file.display()), format!("diff {}", file.display()));
    let dead = "the gateway 10.111.221.99 does not answer on eth1; check its address and the link";
    // The kernel asks for it every few seconds, and waits for seconds.
    let batch = format!("-b {}", folder.path().join("batch").display());
    std::fs::write(folder.path().join("batch"), "replace from 192.168.1.5 group up\n").unwrap();
    let group = "group replace up nexthop via 10.111.221.99 dev eth1";
    let by_file = [&apply, &diff, &apply, "show", "show 192.168.1.5"].repeat(3);
    for words in by_file.into_iter().chain([&batch, group, "show"].repeat(2)) {
        assert_eq!(warnings(&seed, words), [dead], "{words}");
        std::thread::sleep(Duration::from_millis(400));
    }
    assert!(done(&seed.server, "get 192.168.1.5 to 203.0.113.9").contains(dead));
    // Whoever asks for the rule alone sees what its packets meet.
    seed.server.run(|| {
        let socket = UdpSocket::bind(("192.168.1.5", 0)).unwrap();
        socket.send_to(b"hello", ("203.0.113.9", 9)).unwrap();
    });
    assert!(wait_until(ANSWER, || done(&seed.server, "show 192.168.1.5").contains("answer on eth1")));
    // It is the same gateway by whichever name.
    done(&seed.server, "replace from 192.168.1.5 to 203.0.113.0/24 via 10.111.221.99");
    assert_eq!(warnings(&seed, "show nexthops"), [dead]);
    done(&seed.server, "flush");
    done(&seed.server, "group del up");
    warnings(&seed, &apply);
    seed.server.set_up("eth1", false).unwrap();
    let waiting = "waiting: via 10.111.221.99 dev eth1: eth1 is down, so the gateway 10.111.221.99 cannot be on-link there\n";
    for words in [&diff, &apply] {
        let said = call(&seed.server, words);
        assert!(said.out.ends_with(waiting), "{said:?}");
        assert_eq!(said.warnings, [""; 0], "{words}");
    }
}

#[test]
fn the_answer_comes_ahead_of_the_warnings() {
    let seed = Seed::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("byway.toml");
    std::fs::write(&file, "[[rule]]\nfrom = \"192.168.1.0/24\"\nvia = \"10.111.221.21\"\ndev = \"eth1\"\n")
        .unwrap();
    let file = file.display();
    seed.server.sysctl("net.ipv4.conf.eth1.rp_filter", "1").unwrap();
    for (words, answer) in [
        (format!("add {RULE}"), "added: "),
        (format!("replace {RULE}"), "replaced: "),
        (format!("diff {file}"), "1 rule to add"),
        (format!("apply {file}"), "1 rule added"),
        ("show".to_owned(), "2 rules"),
    ] {
        let printed = Terminal::start(&seed.server, &mut byway(&words), (200, 50)).until(None);
        let lines = lines(&printed);
        let at = |text: &str| lines.iter().position(|line| line.starts_with(text));
        let (answer, warning) = (at(answer), at("byway: warning: eth1 drops requests"));
        assert!(answer.is_some() && warning.is_some() && answer < warning, "byway {words}:\n{printed}");
    }
}

/// What is attached to elsewhere is a command away.
#[test]
fn packets_that_leave_past_byway_are_said_with_the_command_that_mends_it() {
    let seed = Seed::new().unwrap();
    seed.lab.link((&seed.server, "eth2"), (&seed.gateway, "eth2")).unwrap();
    seed.server.address("eth2", "10.111.225.11/24").unwrap();
    assert_eq!(warnings(&seed, &format!("add {RULE}")), [""; 0]);
    // A rule that has done its work may do so no longer.
    assert!(works(&seed, ANSWER));
    assert_eq!(warnings(&seed, "show"), [""; 0]);
    for half in ["0.0.0.0/1", "128.0.0.0/1"] {
        seed.server.route(&format!("{half} via 10.111.225.1")).unwrap();
    }
    let past = "packets from 192.168.1.5 leave by eth2, where byway is not attached; attach there as well: \
                `byway attach dev eth2`";
    assert_eq!(warnings(&seed, "show"), [past]);
    assert_eq!(warnings(&seed, "attach dev eth2"), [""; 0]);
    assert_eq!(warnings(&seed, "show"), [""; 0]);
}
