//! Words that iproute2's users type, where neither privilege nor kernel is needed.

use std::{
    fs::{self, File, Permissions},
    io::Write,
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
};

use crate::support::{Said, byway};

fn call(words: &str) -> Said {
    byway(words).output().unwrap().into()
}

/// Calls `byway WORDS` with a text on standard input.
fn send(words: &str, text: &[u8]) -> Said {
    let mut child =
        byway(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // One that refuses to read closes its end.
    let _ = child.stdin.take().unwrap().write_all(text);
    child.wait_with_output().unwrap().into()
}

#[test]
fn help_is_everywhere() {
    let help = call("--help");
    assert_eq!(help.code, Some(0));
    for words in ["help", "h", "-help", "help help", "rule help"] {
        assert_eq!(call(words), help, "byway {words}");
    }
    assert_eq!(call("help -h"), call("-h"), "the short one was asked for");
    for (words, same) in [
        ("add help", "add --help"),
        ("help a", "add --help"),
        ("rule add help", "add --help"),
        ("group help", "group --help"),
        ("group add help", "group add --help"),
        ("help group add", "group add --help"),
        ("nexthop down help", "nexthop down --help"),
        ("show groups help", "group show --help"),
    ] {
        let said = call(words);
        assert!(said.code == Some(0) && said.out.contains("Usage: byway"), "byway {words}: {said:?}");
        assert_eq!(said, call(same), "byway {words}");
    }
    for words in ["-V", "-Version", "show -V"] {
        assert!(call(words).out.starts_with("byway"), "byway {words}");
    }
}

#[test]
fn what_is_too_short_is_said() {
    for (words, name) in [("f", "flush"), ("det", "detach"), ("ap", "apply"), ("ro", "rollback")] {
        let said = call(words);
        assert_eq!((said.code, said.out.as_str()), (Some(2), ""), "{said:?}");
        let sentence =
            format!("error: `{words}` is too short for `{name}`, which changes much at once; write it out\n");
        assert!(said.err.starts_with(&sentence), "{said:?}");
    }
}

#[test]
fn a_pause_that_is_none_is_answered_with_one() {
    for (words, sentence) in [
        ("show --watch 5x", "this is not a time; write it like 5, 0.5, 60s or 2m"),
        ("show --watch=soon", "this is not a time; write it like 5, 0.5, 60s or 2m"),
        ("show --wait soon", "this is not a time; write it like 5, 0.5, 60s or 2m"),
        ("apply --confirm soon", "this is not a time; write it like 5, 0.5, 60s or 2m"),
        ("apply --confirm 0.5", "the time must be from 1s to 1day"),
        ("show --watch=0.01", "the time must be from 100ms to 1day"),
    ] {
        let said = call(words);
        assert!(said.code == Some(2) && said.err.contains(sentence), "byway {words}: {said:?}");
    }
}

#[test]
fn what_is_no_command_is_answered_with_one() {
    for (words, sentence) in [
        (
            "monitor",
            "error: `monitor` is no command; `byway show --watch` shows the counters again and again",
        ),
        ("stats", "error: `stats` is no command; `byway show` has the counters"),
        (
            "nexthop del via 10.0.0.1",
            "error: `nexthop del` is no command; a next hop comes with the first rule",
        ),
        ("completion", "<bash|zsh|fish>"),
    ] {
        let said = call(words);
        assert!(said.code == Some(2) && said.err.contains(sentence), "byway {words}: {said:?}");
    }
}

#[test]
fn standard_input_is_checked_like_a_file() {
    let check = |text: &[u8]| send("check --offline -", text);
    let good = b"[[rule]]\nfrom = \"10/8\"\ntarget = \"drop\"\n";
    assert_eq!(check(good).out, "standard input: 1 rule, 0 groups\n");
    assert_eq!(send("check --offline /dev/stdin", good).out, "/dev/stdin: 1 rule, 0 groups\n");
    let said = check(b"[[rule]]\nfrom = \"192.0.2.7/33\"\ntarget = \"drop\"\n");
    assert_eq!((said.code, said.out.as_str()), (Some(2), "standard input: 1 error\n"));
    assert!(said.err.contains("standard input:2:8") && said.err.contains("32 is the longest"), "{said:?}");
    let said = check(b"");
    let empty = "byway: standard input is empty; look at what should have written to it; if nothing is meant, send a comment (`#`)\n";
    assert_eq!((said.code, said.err.as_str()), (Some(2), empty));
    assert_eq!(check(b"# nothing\n").code, Some(0));
    let said = check(b"# tw\xff");
    let invalid = "byway: standard input is not UTF-8: line 1 has an invalid byte; save it as UTF-8\n";
    assert_eq!((said.code, said.err.as_str()), (Some(2), invalid));
}

/// Whoever waits for an end that does not come is told so.
#[test]
fn what_does_not_end_is_refused() {
    let from = |path: &str| -> Said {
        let file = File::options().read(true).open(path).unwrap();
        byway("check --offline -").stdin(file).output().unwrap().into()
    };
    // The controlling end of a terminal is a terminal as well.
    let said = from("/dev/ptmx");
    let sentence =
        "byway: standard input is a terminal; name a file, or read one from standard input: `< FILE`\n";
    assert_eq!((said.code, said.err.as_str()), (Some(2), sentence));
    let said = from("/dev/zero");
    let sentence = "byway: standard input has more than the limit of 134217728 bytes; use shorter prefixes, or several files\n";
    assert_eq!((said.code, said.err.as_str()), (Some(2), sentence));
    assert_eq!(from("/").err, "byway: standard input is a folder; name a file\n");
}

/// Whoever has opened it for the command has chosen it.
#[test]
fn a_redirected_file_may_be_anybodys() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("byway.toml");
    fs::write(&path, "# nothing\n").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o646)).unwrap();
    let said = Said::from(byway("check --offline -").stdin(File::open(&path).unwrap()).output().unwrap());
    assert_eq!((said.code, said.warnings.len()), (Some(0), 0), "{said:?}");
    // Lists are looked for where the command is called.
    fs::write(folder.path().join("list.txt"), "192.0.2.1\n192.0.2.2\n").unwrap();
    let list = "printf '[[rule]]\\nfrom-file = \"list.txt\"\\ntarget = \"drop\"\\n'";
    let line = format!("{list} | {} check --offline -", env!("CARGO_BIN_EXE_byway"));
    let said =
        Said::from(Command::new("sh").args(["-c", &line]).current_dir(folder.path()).output().unwrap());
    assert_eq!(said.out, "standard input: 2 rules, 0 groups\n", "{said:?}");
}
