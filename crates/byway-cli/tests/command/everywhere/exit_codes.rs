//! The exit codes, each provoked: a script decides by them.

use std::{fs, process::Command};

use byway_lab::{Node, seed::Seed};

use crate::support::{Said, byway_as_nobody, call, done};

/// Calls `byway WORDS` with a redirection.
fn shell(node: &Node, words: &str) -> Said {
    let command = format!("{} {words}", env!("CARGO_BIN_EXE_byway"));
    node.output(Command::new("bash").args(["-c", &command])).unwrap().into()
}

#[test]
fn each_exit_code_is_provoked() {
    let seed = Seed::new().unwrap();
    let server = &seed.server;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("byway.toml");
    fs::write(&path, "[[rule]]\nfrom = \"192.168.1.9\"\ndev = \"eth7\"\n").unwrap();
    let file = path.display();
    let rule = "from 192.168.1.5 via 10.111.221.21 dev eth1";
    for (words, code) in [
        ("rollback", 6),
        ("detach eth0", 6),
        (&format!("add {rule}"), 0),
        (&format!("add {rule}"), 7),
        ("group add up nexthop via 10.111.221.21", 0),
        ("group add up nexthop via 10.111.221.21", 7),
        ("add from web drop", 2),
        ("add from 192.168.1.6 prio 100 drop", 2),
        ("add from 2001:db8::1 via 10.111.221.21", 2),
        ("-4 add from 2001:db8::1 drop", 2),
        ("add from all drop", 2),
        ("frobnicate", 2),
        ("--frobnicate show", 2),
        ("det", 2),
        ("check /nowhere", 6),
        ("add from 192.168.1.6 dev eth7", 5),
        ("add from 192.168.1.6 via 10.111.222.21 dev eth1", 5),
        ("attach eth7", 5),
        ("--netns nowhere show", 5),
        ("del 192.168.1.9", 6),
        ("show 192.168.1.9", 6),
        ("group del none", 6),
        ("group show none", 6),
        ("add from 192.168.1.6 group none", 6),
        ("nexthop down 10.111.221.99", 6),
        (&format!("diff {file}"), 3),
        (&format!("apply --strict {file}"), 5),
        (&format!("apply {file}"), 4),
        ("show", 0),
    ] {
        let said = call(server, words);
        assert_eq!(said.code, Some(code), "byway {words}: {said:?}");
        assert_eq!(said.err.is_empty(), [0, 3, 4].contains(&code), "byway {words}: {said:?}");
    }
    server.set_up("eth1", false).unwrap();
    assert_eq!(call(server, "add from 192.168.1.6 via 10.111.221.21 dev eth1").code, Some(5), "it is down");
    for words in ["show", "add from 192.168.1.6 drop"] {
        let said = Said::from(server.output(&mut byway_as_nobody(words)).unwrap());
        assert_eq!(said.code, Some(8), "byway {words}: {said:?}");
    }
}

/// An answer that nobody gets is no failure of the change, and a script must not make it again.
#[test]
fn a_change_that_cannot_be_told_is_made() {
    let seed = Seed::new().unwrap();
    let server = &seed.server;
    let full = "No space left on device (os error 28)";
    let said = shell(server, "add from 10.9.9.10 pass > /dev/full");
    assert_eq!(
        said.err,
        format!(
            "byway: it is done, but this cannot be printed ({full}): added: from 10.9.9.10 pass; attached to eth0\n"
        )
    );
    assert_eq!(said.code, Some(9));
    assert!(done(server, "-o show").contains("from 10.9.9.10 pass\n"));

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("byway.toml");
    fs::write(&path, "[[rule]]\nfrom = \"10.9.9.11\"\ntarget = \"drop\"\n").unwrap();
    let file = path.display();
    for (words, what) in [
        (format!("apply {file}"), "the configuration is applied"),
        (format!("--json apply {file}"), "the configuration is applied"),
        ("rollback".to_owned(), "rolled back"),
    ] {
        let said = shell(server, &format!("{words} > /dev/full"));
        assert_eq!(
            (said.code, said.err),
            (Some(9), format!("byway: it is done, but this cannot be printed ({full}): {what}\n")),
            "byway {words}"
        );
    }
    // What only looks has failed.
    for words in [
        "show",
        "-o show",
        "show 10.9.9.10",
        "group show",
        "export",
        "metrics",
        &format!("diff {file}"),
        &format!("check {file}"),
    ] {
        let said = shell(server, &format!("{words} > /dev/full"));
        assert_eq!(
            (said.code, said.err),
            (Some(1), format!("byway: cannot print: {full}\n")),
            "byway {words}"
        );
    }
    // Standard output that is closed takes what it is given, like /dev/null: Rust's runtime opens that in its place.
    for words in ["add from 10.9.9.12 pass", "show", "flush"] {
        let said = shell(server, &format!("{words} >&-"));
        assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "byway {words}");
    }
    assert_eq!(done(server, "-o show"), "", "the last of them was done");
}
