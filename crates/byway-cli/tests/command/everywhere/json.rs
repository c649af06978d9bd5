//! docs/json.md and what the commands print: each key of the one is in the other.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{SocketAddr, UdpSocket},
    path::Path,
};

use byway_lab::seed::Seed;
use serde_json::Value;

use crate::support::call;

/// The keys of the page's tables, by the heading that they stand below. `a.b` is the key `b`, and `` `a.b`, `.c` `` are two.
fn tables(page: &str) -> BTreeMap<String, BTreeSet<String>> {
    let (mut keys, mut heading, mut is_key_table) = (BTreeMap::new(), String::new(), false);
    for line in page.lines() {
        if let Some(text) = line.strip_prefix('#') {
            heading = text.trim_start_matches('#').trim().to_owned();
        }
        is_key_table = line.starts_with("| key |") || is_key_table && line.starts_with('|');
        if !is_key_table || line.starts_with("| key |") || line.starts_with("|---") {
            continue;
        }
        let cell = line.split('|').nth(1).unwrap();
        let of_heading: &mut BTreeSet<String> = keys.entry(heading.clone()).or_default();
        of_heading
            .extend(cell.split('`').skip(1).step_by(2).map(|it| it.rsplit('.').next().unwrap().to_owned()));
    }
    keys
}

/// The words between backticks, but for the examples.
fn quoted(page: &str) -> BTreeSet<&str> {
    let no_key = |it: char| !it.is_ascii_lowercase() && it != '_';
    // Between the fences, every second part is an example.
    let prose = page.split("```").step_by(2);
    prose.flat_map(|it| it.split('`').skip(1).step_by(2)).flat_map(|it| it.split(no_key)).collect()
}

/// All objects in a value, each with its keys.
fn objects<'a>(value: &'a Value, all: &mut Vec<BTreeSet<&'a str>>) {
    match value {
        Value::Object(object) => {
            all.push(object.keys().map(String::as_str).collect());
            object.values().for_each(|it| objects(it, all));
        }
        Value::Array(array) => array.iter().for_each(|it| objects(it, all)),
        _ => {}
    }
}

/// What the demo and the agent alone print, and what takes a rule of a newer Byway.
const NOT_HERE: [&str; 13] = [
    "applied",
    "followed",
    "verdict",
    "guard",
    "note",
    "ipv4",
    "ipv6",
    "failed_before",
    "lost_replies",
    "worked_after",
    "worked_with_reply_to",
    "bytes_back",
    "other",
];

/// A host with rules and groups of each kind, and one that waits.
const FILE: &str = r#"attach = "auto"

[group.uplinks]
nexthops = [{ via = "10.111.221.21", dev = "eth1" }, { via = "10.111.221.22", dev = "eth1", weight = 2 }]

[[rule]]
from = "192.168.3.0/24"
group = "uplinks"

[[rule]]
from = "192.168.4.0/24"
nexthops = [{ via = "10.111.221.21" }, { via = "10.111.221.22", backup = true }]
on-down = "drop"

[[rule]]
from = "192.168.5.0/24"
via = "10.9.9.9"
dev = "eth7"

[[health-check]]
via = "10.111.221.21"
dev = "eth1"
ping = "10.111.222.11"

[[health-check]]
via = "10.111.221.22"
dev = "eth1"
tcp = "10.111.222.11"
port = 443

[[health-check]]
via = "10.9.9.9"
dev = "eth7"
neighbour = true
"#;

#[test]
fn the_page_has_the_keys_that_are_printed_and_no_others() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/json.md");
    let page = fs::read_to_string(page).unwrap();
    let seed = Seed::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let file = path("byway.toml", FILE);
    let wrong = path("wrong.toml", "[[rule]]\nfrom = \"10.0.0.1\"\ntarget = \"drop\"\n".repeat(2).as_str());
    let batch = path("batch", "add from 192.168.9.1 drop\nnexthop down 10.111.221.22\n");
    let less = path("less.toml", "attach = \"auto\"\n");
    seed.server.address("lo", "192.168.1.6/32").unwrap();
    let rule = "from 192.168.1.5 via 10.111.221.21 dev eth1 name web";
    let mut printed: Vec<(String, Value)> = Vec::new();
    let mut print = |words: &str| {
        let said = call(&seed.server, &format!("--json {words}"));
        let value =
            serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{words}: {error}: {said:?}"));
        printed.push((words.to_owned(), value));
    };
    for words in [
        &format!("diff {file}"),
        &format!("apply {file} --confirm 60s"),
        "show",
        "confirm",
        "confirm",
        &format!("add {rule} on-down drop mss 1400"),
        &format!("replace {rule} mss off"),
        "add from 192.168.1.5 to 10.9.0.0/16 drop",
        "add from 192.168.1.6 to 10.9.0.0/16 pass",
        "add from 192.168.1.0/24 dev eth1",
        &format!("-b {batch}"),
        "show",
        "show 192.168.1.5",
        "group show",
        "group add other nexthop via 10.111.221.21 dev eth1",
        "group del other",
        "nexthop up 10.111.221.22",
        "get 192.168.1.5",
        "get 192.168.1.5 to 203.0.113.9 proto tcp sport 80 dport 7777",
        "get 192.168.3.1 to 203.0.113.9 iif eth1",
        "get 192.168.4.1 to 203.0.113.9 iif eth1",
        "get 192.168.1.5 to 224.0.0.1",
        &format!("check {file}"),
        &format!("check {wrong}"),
        "gc",
        "import",
        &format!("diff {less}"),
        &format!("apply {less}"),
        "rollback",
        "del 192.168.1.5",
        "attach eth1",
        "detach eth1",
        "flush",
    ] {
        print(words);
    }
    seed.server.route("default via 10.111.221.21 dev eth1 proto dhcp table 100").unwrap();
    print("add from 192.168.1.9 via dhcp dev eth1");
    print("add from 192.168.1.5 reply-to dev eth1");
    let at: SocketAddr = "192.168.1.5:80".parse().unwrap();
    let socket = seed.server.run(|| UdpSocket::bind(at)).unwrap();
    let client = seed.client.run(|| UdpSocket::bind("0.0.0.0:7777")).unwrap();
    client.send_to(b"ask", at).unwrap();
    socket.recv(&mut [0; 3]).unwrap();
    let flow = "192.168.1.5 to 10.111.222.11 proto udp sport 80 dport 7777";
    for words in [&format!("get {flow}"), "flow show", &format!("flow del {flow}"), "flow flush"] {
        print(words);
    }

    let (tables, quoted) = (tables(&page), quoted(&page));
    let mut seen: BTreeSet<&str> = NOT_HERE.into();
    for (words, value) in &printed {
        let mut all = vec![];
        objects(value, &mut all);
        for key in all.iter().flatten() {
            assert!(
                quoted.contains(key),
                "`byway --json {words}` prints `{key}`, which docs/json.md does not name"
            );
        }
        seen.extend(all.iter().flatten());
    }
    for (heading, keys) in &tables {
        for key in keys {
            assert!(
                seen.contains(key.as_str()),
                "docs/json.md names `{key}` below `{heading}`, and no command prints it"
            );
        }
    }
    // What a table says of an object is all that there is to say.
    let keys = |headings: &[&str]| -> BTreeSet<&str> {
        headings.iter().flat_map(|it| &tables[*it]).map(String::as_str).collect()
    };
    for (at, headings) in [
        ("/rules/0", &["Rule", "Rule with its counters"][..]),
        ("/rules/0/departed", &["Counter"]),
        ("/nexthops/0/device", &["Device"]),
        ("/groups/0/nexthops/0", &["Member", "Next hop"]),
    ] {
        let status = &printed.iter().rfind(|(words, _)| words == "show").unwrap().1;
        let object =
            status.pointer(at).and_then(Value::as_object).unwrap_or_else(|| panic!("{at}: {status:#}"));
        let (found, known) = (object.keys().map(String::as_str).collect(), keys(headings));
        assert!(known.is_superset(&found), "{at}: {found:?}, and the page has {known:?}");
    }
}
