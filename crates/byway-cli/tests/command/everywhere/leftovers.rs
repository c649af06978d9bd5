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
    let said = call(&seed.server, "confirm");
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.ends_with(&format!("cannot read {note}: it is no file; remove it\n")), "{said:?}");
}
