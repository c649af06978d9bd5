//! `byway gc`, and what is in the way of a command where a file should be.

use std::fs;

use byway_lab::{Lab, Node, seed::Seed, wait_until};
use nix::{
    mount::{MntFlags, umount2},
    sys::stat::Mode,
    unistd::mkfifo,
};

use crate::support::{ANSWER, call, done, pins, refused};

/// Ends a network namespace: takes its name away, and what the lab has of it.
fn end(node: Node) {
    umount2(node.path(), MntFlags::MNT_DETACH).unwrap();
    fs::remove_file(node.path()).unwrap();
}

#[test]
fn gc_says_what_it_has_removed_and_what_it_leaves_alone() {
    let lab = Lab::new().unwrap();
    let (caller, old) = (lab.node("caller").unwrap(), lab.node("old").unwrap());
    let nothing = "nothing to remove: no deleted network namespace has left anything\n";
    assert_eq!(done(&caller, "gc"), nothing, "there are no pins at all");
    lab.link((&old, "eth0"), (&caller, "eth0")).unwrap();
    done(&old, "attach eth0");
    assert_eq!(done(&caller, "gc"), nothing);
    let note = format!("/sys/fs/bpf/byway/{}/NAMESPACE", pins()[0]);
    fs::remove_file(note).unwrap();
    assert_eq!(
        done(&caller, "gc"),
        format!(
            "{nothing}left alone: /sys/fs/bpf/byway/{}, since nobody knows whether its network namespace exists: \
             an older byway made it, and did not note which network namespace it belongs to\n",
            pins()[0]
        )
    );
    done(&old, "attach eth0");
    let path = format!("/sys/fs/bpf/byway/{}", pins()[0]);
    end(old);
    let mut said = String::new();
    assert!(
        wait_until(ANSWER, || {
            said = done(&caller, "--json gc");
            pins().is_empty()
        }),
        "{said}"
    );
    let json: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(json, serde_json::json!({ "removed": [path], "unknown": [] }));
}

#[test]
fn no_command_waits_for_a_pipe() {
    let seed = Seed::new().unwrap();
    mkfifo("/run/pipe", Mode::S_IRWXU).unwrap();
    let said = refused(&seed.client, "--netns /run/pipe show");
    assert!(said.starts_with("there is no network namespace `/run/pipe`"), "{said}");

    done(&seed.server, "add from 192.168.1.7 drop");
    let folder = format!("/run/byway/{}", pins()[0]);
    fs::create_dir_all(&folder).unwrap();
    let note = format!("{folder}/unconfirmed");
    mkfifo(note.as_str(), Mode::S_IRWXU).unwrap();
    let warning = format!(
        "cannot tell whether an apply waits to be confirmed: {note} is damaged: it is no file; `byway confirm` keeps what is in \
         force, `byway rollback` undoes the last apply, and either removes the note"
    );
    let said = call(&seed.server, "show");
    assert!(said.warnings.contains(&warning), "{said:?}");
    let said = call(&seed.server, "confirm");
    assert_eq!((said.code, said.out.as_str()), (Some(0), "confirmed: the last apply stays\n"), "{said:?}");
    assert!(!fs::exists(&note).unwrap());

    // The guard of an apply that is overdue, which is asked whether it is alive, and the copy, which is compared.
    let rules = ["192.168.1.8", "192.168.1.9"]
        .map(|from| format!("[[rule]]\nfrom = \"{from}\"\ntarget = \"drop\"\n"));
    let config = format!("{folder}/byway.toml");
    fs::write(&config, &rules[0]).unwrap();
    done(&seed.server, &format!("apply {config}"));
    mkfifo(format!("{folder}/guard").as_str(), Mode::S_IRWXU).unwrap();
    fs::write(&note, "1-2 3\n").unwrap();
    let said = call(&seed.server, "show");
    assert!(said.err.contains("nobody confirmed the last apply in time, so it was rolled back"), "{said:?}");
    done(&seed.server, &format!("apply {config}"));
    fs::create_dir(format!("{folder}/older")).unwrap();
    fs::remove_file(format!("{folder}/before/config.toml")).unwrap();
    mkfifo(format!("{folder}/before/config.toml").as_str(), Mode::S_IRWXU).unwrap();
    fs::write(&config, &rules[1]).unwrap();
    done(&seed.server, &format!("apply {config}"));
    done(&seed.server, "rollback");
}
