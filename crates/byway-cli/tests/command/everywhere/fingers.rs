//! What iproute2's users type.

use std::{fs, process::Command, time::Duration};

use byway_lab::{Node, seed::Seed, wait_until};

use crate::support::{ANSWER, Said, call, done, pins, refused};

const RULE: &str = "from 192.168.1.5 via 10.111.221.21 dev eth1";

/// Calls a line of a shell, in which `byway` is the command.
fn shell(node: &Node, line: &str) -> Said {
    let line = format!("byway() {{ {} \"$@\"; }}; {line}", env!("CARGO_BIN_EXE_byway"));
    node.output(Command::new("bash").args(["-c", &line])).unwrap().into()
}

#[test]
fn commands_have_several_names() {
    let seed = Seed::new().unwrap();
    let server = &seed.server;
    let added = format!("added: {RULE}\nattached to eth0\n");
    assert_eq!(done(server, "a 192.168.1.5 via 10.111.221.21 dev eth1"), added);
    let table = done(server, "show");
    for words in ["s", "sh", "l", "ls", "list", "rule", "rule ls", "show rules", "-s -d -p sh", "-c=never s"]
    {
        assert_eq!(done(server, words), table, "byway {words}");
    }
    done(server, "group add up nexthop via 10.111.221.21 dev eth1");
    for words in ["show groups", "sh g", "group list", "group show up", "show groups up"] {
        assert_eq!(done(server, words), done(server, "group show"), "byway {words}");
    }
    assert_eq!(done(server, "nexthop list"), done(server, "show nexthops"));
    assert_eq!(done(server, "nexthop down 10.111.221.21"), "out of service: via 10.111.221.21 dev eth1\n");
    assert_eq!(done(server, "rule delete 192.168.1.5"), format!("deleted: {RULE}\n"));
    assert_eq!(done(server, "detach eth0"), "detached from eth0\n");
    assert_eq!(done(server, "attach eth0"), "attached to eth0\n");
    assert_eq!(done(server, "attachment del eth0"), "detached from eth0\n");
}

#[test]
fn options_are_spelled_as_by_iproute2() {
    let seed = Seed::new().unwrap();
    let server = &seed.server;
    done(server, &format!("add {RULE}"));
    done(server, "add from 2001:db8:1::5 drop name six");
    done(server, "add from 10.0.0.0/8 pass");
    let json = |words: &str| -> serde_json::Value { serde_json::from_str(&done(server, words)).unwrap() };
    for words in ["-j show", "-json show", "show -j -p", "-js s"] {
        assert_eq!(json(words)["rules"].as_array().unwrap().len(), 3, "byway {words}");
    }
    for words in ["-n server -o show", "-netns server -o show", "-o show -n server"] {
        assert_eq!(done(&seed.client, words), done(server, "-br show"), "byway {words}");
    }
    let (v4, v6) = (format!("from 10.0.0.0/8 pass\n{RULE}\n"), "from 2001:db8:1::5 drop name six\n");
    assert_eq!(done(server, "-o show"), format!("{v4}{v6}"));
    assert_eq!(done(server, "-4 -o show"), v4);
    assert_eq!(done(server, "-6 -o show"), v6);
    assert_eq!(done(server, "-o show 192.168.1.5"), format!("{RULE}\n"));
    assert_eq!(done(server, "-o show nexthops"), "via 10.111.221.21 dev eth1\n");
    assert!(
        done(server, "-6 show").contains("2001:db8:1::5") && !done(server, "-6 show").contains("192.168")
    );
    assert_eq!(json("-6 -j show")["rules"].as_array().unwrap().len(), 1);
    assert_eq!(json("-6 -j show")["nexthops"].as_array().unwrap().len(), 0);

    assert_eq!(
        refused(server, "-6 add from 192.168.1.6 drop"),
        "192.168.1.6 is IPv4, and IPv6 was asked for; name one of that family"
    );
    assert_eq!(done(server, "-4 add from all drop"), "added: from 0.0.0.0/0 drop\n");
    assert_eq!(
        done(server, "add default via 2001:db8:221::21 dev eth1"),
        "added: from ::/0 via 2001:db8:221::21 dev eth1\n"
    );
    assert_eq!(
        refused(server, "del from any"),
        "`any` is 0.0.0.0/0 or ::/0, and a rule has one source; write one of them, or say which with `-4` or `-6`; two rules cover both"
    );
    assert_eq!(done(server, "-q -4 del any"), "");
    assert_eq!(done(server, "-6 flush"), "deleted 2 rules\n");
    assert_eq!(done(server, "-o show"), v4);
    assert_eq!(done(server, "-q flush"), "");
    assert_eq!(done(server, "-q detach"), "");
    assert_eq!(pins(), Vec::<String>::new());
}

/// What was applied from a pipe is rolled back without it.
#[test]
fn a_configuration_may_come_from_a_pipe() {
    let seed = Seed::new().unwrap();
    let server = &seed.server;
    let rule = "printf '[[rule]]\\nfrom = \"192.168.1.5\"\\nvia = \"10.111.221.21\"\\ndev = \"eth1\"\\n'";
    assert_eq!(shell(server, &format!("{rule} | byway diff -")).code, Some(3));
    let added = "1 rule added, 0 changed, 0 deleted; 0 stayed as they were\n";
    let same = "nothing to do: 1 rule is as the configuration says\n";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("byway.toml").display().to_string();
    assert!(shell(server, &format!("{rule} | byway apply -")).out.ends_with(added));
    for line in [
        format!("{rule} > {file}; byway apply - < {file}"),
        format!("byway apply <({rule})"),
        format!("{rule} | byway apply /dev/stdin"),
        format!("byway apply /dev/stdin < {file}"),
        format!("byway apply /dev/fd/7 7< {file}"),
    ] {
        let said = shell(server, &line);
        assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (Some(0), same, ""), "{line}");
    }
    // A generator that has failed must not delete everything.
    for line in ["false | byway apply -", "byway apply - < /dev/null", "byway apply <(false)"] {
        let said = shell(server, line);
        assert_eq!(said.code, Some(2), "{line}: {said:?}");
        assert!(said.err.contains(" is empty; look at what should have written to it"), "{line}: {said:?}");
    }
    assert_eq!(done(server, "-o show"), format!("{RULE}\n"));
    done(server, "rollback");
    let said = shell(server, &format!("{rule} | byway apply - --confirm 1s"));
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(wait_until(ANSWER, || done(server, "-o show").is_empty()), "it was not rolled back");
}

#[test]
fn a_batch_is_one_change() {
    let seed = Seed::new().unwrap();
    let server = &seed.server;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("batch");
    let file = path.display();
    let write = |text: &str| fs::write(&path, text).unwrap();
    done(server, "add from 192.168.9.9 drop");
    write(
        "# a comment\n\nflush # as often\ngroup add up nexthop via 10.111.221.21 dev eth1\n\
         rule add from 192.168.1.0/24 group up\na 192.168.1.5 via 10.111.221.21 dev eth1\n\
         replace from 192.168.1.5 drop\nadd 192.168.1.6 pass\ndel 192.168.1.6\nnexthop down 10.111.221.21\n",
    );
    let said = "deleted 1 rule\nadded: group up nexthop via 10.111.221.21 dev eth1\n\
         added: from 192.168.1.0/24 group up\nadded: from 192.168.1.5 via 10.111.221.21 dev eth1\n\
         replaced: from 192.168.1.5 drop\nadded: from 192.168.1.6 pass\ndeleted: from 192.168.1.6 pass\n\
         out of service: via 10.111.221.21 dev eth1\n";
    assert_eq!(done(server, &format!("-b {file}")), said);
    let after = "from 192.168.1.0/24 group up\nfrom 192.168.1.5 drop\n";
    assert_eq!(done(server, "-o show"), after);
    assert!(done(server, "show nexthops").contains("out of service"));
    write("group replace up nexthop via 10.111.221.21 dev eth1\nreplace 192.168.1.5 drop\n");
    assert_eq!(done(server, &format!("-q -batch {file}")), "");
    assert_eq!(done(server, "-o show"), after);

    // Whatever is wrong, nothing has changed, and the line is named.
    for (text, sentence, code) in [
        ("flush\nadd from 192.168.1.7\n", "FILE:2: the rule from 192.168.1.7 needs a target", 2),
        ("flush\n\n# x\nshow\n", "FILE:4: a batch has no `show`; write", 2),
        ("flush\ndet\n", "FILE:2: `det` is too short for `detach`", 2),
        (
            "flush\nadd 10.0.0.1 drop\nadd 10.0.0.1 pass\n",
            "FILE:3: there is already a rule for these packets",
            7,
        ),
        ("flush\ndel 192.168.1.5\n", "FILE:2: there is no rule from 192.168.1.5", 6),
        ("add 10.0.0.1 drop\nadd 10.0.0.2 dev eth7\n", "FILE:2: there is no device `eth7`", 5),
        (
            "add 10.0.0.1 drop\ngroup del up\n",
            "FILE:2: the group up is in use by the rule from 192.168.1.0/24",
            5,
        ),
        ("add 10.0.0.1 drop name a/b\n", "FILE:1: `a/b` cannot be a rule's name", 2),
        ("add from 10.0.0.1 drop metric 5\n", "FILE:1: byway has no `metric`", 2),
    ] {
        write(text);
        let said = call(server, &format!("-b {file}"));
        assert_eq!((said.code, said.out.as_str()), (Some(code), ""), "{text}: {said:?}");
        let err = said.err.replace(&file.to_string(), "FILE");
        assert!(err.starts_with(&format!("byway: {sentence}")) && err.lines().count() == 1, "{err}");
        assert_eq!(done(server, "-o show"), after, "{text}");
    }

    let said = shell(server, "printf 'del 192.168.1.5\\nadd 192.168.1.8 pass\\n' | byway -json -b -");
    let json: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((&json[0]["from"], &json[1]["from"]), (&"192.168.1.5".into(), &"192.168.1.8".into()));
    let said = shell(server, "printf '# nothing\\n' | byway -b -");
    assert_eq!((said.code, said.out.as_str()), (Some(0), "nothing to do: the batch has no command\n"));
    let said = shell(server, "printf 'x' | byway -b -");
    assert!(said.err.starts_with("byway: standard input:1: a batch has no `x`"), "{said:?}");
    // What one host has another one gets.
    let said = shell(server, "byway -o show | sed 's/^/replace /' | byway -q -b -");
    assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (Some(0), "", ""));
    // Attachments change in the same instant.
    let said = shell(server, "printf 'attach dev eth1\\ndetach eth0\\nadd 192.0.2.9 drop\\n' | byway -b -");
    assert_eq!(said.out, "attached to eth1\ndetached from eth0\nadded: from 192.0.2.9 drop\n", "{said:?}");
    let said = shell(server, "printf 'detach eth1\\nattach eth7\\n' | byway -b -");
    assert_eq!(said.code, Some(5), "{said:?}");
    assert!(done(server, "show").contains("eth1  departure"), "nothing has changed");
    // On a host with nothing of Byway, the first rule attaches.
    let said = shell(&seed.client, "printf 'add 192.0.2.1 drop\\n' | byway -b -");
    assert!(said.out.starts_with("added: from 192.0.2.1 drop\nattached to "), "{said:?}");
    assert_eq!(call(server, "-b /dev/null show").code, Some(2));
}

/// A long batch is one transaction as well, and does not take longer for each line.
#[test]
fn a_batch_may_be_long() {
    let seed = Seed::new().unwrap();
    let lines: String = (0..20_000_u32)
        .map(|nth| format!("add 10.{}.{}.{} drop\n", nth >> 16, nth >> 8 & 255, nth & 255))
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("batch");
    fs::write(&path, lines).unwrap();
    let start = std::time::Instant::now();
    assert_eq!(done(&seed.server, &format!("-q -b {}", path.display())), "");
    assert!(start.elapsed() < Duration::from_secs(60));
    assert_eq!(done(&seed.server, "-o show").lines().count(), 20_000);
    assert_eq!(done(&seed.server, "flush"), "deleted 20,000 rules\n");
}
