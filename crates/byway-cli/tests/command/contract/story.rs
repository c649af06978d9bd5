//! One story of the command, each call a process of its own: what one leaves in the kernel the next one finds.

use byway_lab::seed::Seed;

use crate::support::{ANSWER, SILENCE, done, pins, works};

const RULE: &str = "from 192.168.1.5 via 10.111.221.21 dev eth1";

/// The counters differ from run to run; this is everything else.
fn rules_without_counters(node: &byway_lab::Node) -> String {
    let shown = done(node, "show");
    let rules = shown.split("\n\n").nth(1).unwrap();
    rules.lines().map(|line| line.split_whitespace().take(6).collect::<Vec<_>>().join(" ") + "\n").collect()
}

#[test]
fn each_command_finds_what_the_one_before_it_has_left() {
    let seed = Seed::new().unwrap();
    let server = &seed.server;
    assert!(!works(&seed, SILENCE));
    assert_eq!(
        done(server, "show"),
        "no rules, attached to nothing; `byway add from PREFIX via ADDR dev IF` adds a rule\n"
    );
    assert_eq!(done(server, &format!("add {RULE}")), format!("added: {RULE}\nattached to eth0\n"));
    assert!(works(&seed, ANSWER));
    assert_eq!(
        done(server, "add from 2001:db8:1::/48 via 2001:db8:221::21 name six"),
        "added: from 2001:db8:1::/48 via 2001:db8:221::21 (dev eth1) name six\n"
    );
    assert_eq!(
        rules_without_counters(server),
        "FROM TO VIA DEV ON-DOWN OWNER\n\
         192.168.1.5 - 10.111.221.21 eth1 pass cli\n\
         2001:db8:1::/48 - 2001:db8:221::21 (eth1) pass cli\n"
    );
    assert_eq!(done(server, "replace from 192.168.1.5 dev eth0"), "replaced: from 192.168.1.5 dev eth0\n");
    assert!(!works(&seed, SILENCE));
    assert_eq!(done(server, &format!("replace {RULE}")), format!("replaced: {RULE}\n"));
    assert!(works(&seed, ANSWER));
    assert_eq!(done(server, "detach"), "detached from eth0\n");
    assert!(!works(&seed, SILENCE), "nothing is watched");
    assert!(done(server, "show").contains("there are no attachments, so the rules do nothing"));
    assert_eq!(done(server, "attach"), "attached to eth0\n");
    assert!(works(&seed, ANSWER), "the rules were kept");
    assert_eq!(done(server, "attach dev eth1 dev eth0"), "attached to eth1 and eth0\n");
    assert!(works(&seed, ANSWER));
    assert_eq!(done(server, "detach dev eth1"), "detached from eth1\n");
    assert!(works(&seed, ANSWER));
    assert_eq!(done(server, "del from 192.168.1.5"), format!("deleted: {RULE}\n"));
    assert!(!works(&seed, SILENCE));
    assert_eq!(done(server, "add from 192.168.1.7 pass"), "added: from 192.168.1.7 pass\n");
    assert_eq!(done(server, "add drop from 192.168.1.8"), "added: from 192.168.1.8 drop\n");
    assert_eq!(done(server, "flush"), "deleted 3 rules\n");
    assert_eq!(done(server, "flush"), "deleted 0 rules\n");
    assert_eq!(done(server, "detach"), "detached from eth0\n");
    assert_eq!(done(server, "detach"), "nothing was attached\n");
    assert_eq!(pins(), Vec::<String>::new(), "nothing is left");
}
