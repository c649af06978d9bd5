//! `byway metrics`, docs/metrics.md, and what `show` says of the same packets.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    path::Path,
};

use byway_lab::seed::Seed;
use serde_json::Value;

use crate::support::{Agent, ConfigFile, done};

/// The samples, by their series.
fn samples(text: &str) -> BTreeMap<&str, u64> {
    let samples = text.lines().filter(|it| !it.starts_with('#'));
    samples
        .map(|it| it.rsplit_once(' ').unwrap())
        .map(|(series, value)| (series, value.parse().unwrap()))
        .collect()
}

#[test]
fn metrics_say_what_show_says() {
    let seed = Seed::new().unwrap();
    let byway = |words: &str| done(&seed.server, words);
    byway("add from 192.168.1.5 via 10.111.221.21 dev eth1 name web");
    byway("add from any reply-to");
    seed.server.run(|| {
        let socket = UdpSocket::bind("192.168.1.5:0").unwrap();
        let somewhere: SocketAddr = "198.51.100.9:9".parse().unwrap();
        (0..7).for_each(|_| assert_eq!(socket.send_to(b"1234", somewhere).unwrap(), 4));
    });
    let shown: Value = serde_json::from_str(&byway("--json show from 192.168.1.5")).unwrap();
    let text = byway("metrics");
    let all = samples(&text);
    let of = "from=\"192.168.1.5\",to=\"\",name=\"web\",owner=\"cli\"";
    for (series, value) in [
        (format!("byway_rule_packets_total{{{of},result=\"departed\"}}"), &shown["departed"]["packets"]),
        (format!("byway_rule_bytes_total{{{of},result=\"departed\"}}"), &shown["departed"]["bytes"]),
        (format!("byway_rule_arrived_packets_total{{{of}}}"), &shown["arrived"]["packets"]),
    ] {
        assert_eq!(Some(all[series.as_str()]), value.as_u64(), "{series}\n{text}");
    }
    assert_eq!(shown["departed"]["packets"], 7);
    let one = |series: &str| assert_eq!(all[series], 1, "{text}");
    one("byway_nexthop_up{via=\"10.111.221.21\",dev=\"eth1\"}");
    one("byway_nexthop_state{via=\"10.111.221.21\",dev=\"eth1\",state=\"up\"}");
    one("byway_programs{program=\"departure\"}");
    assert_eq!(all["byway_rules"], 3, "{text}");
    let most = byway("metrics --most 1");
    let of_rules = |it: &&&str| it.starts_with("byway_rule_arrived_packets_total");
    assert_eq!(samples(&most).keys().filter(of_rules).count(), 1, "{most}");
}

/// The page names the metrics that there are, with their labels, and no others.
#[test]
fn the_page_and_the_metrics_have_the_same_names() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
    let page = fs::read_to_string(page).unwrap();
    let mut on_page = BTreeMap::new();
    let quoted = |cell: &str| -> BTreeSet<String> {
        cell.split('`').skip(1).step_by(2).map(ToOwned::to_owned).collect()
    };
    for row in page.lines().filter(|it| it.starts_with("| `byway_")) {
        let cells: Vec<&str> = row.split('|').collect();
        for name in quoted(cells[1]) {
            on_page.insert(name, (cells[2].trim().to_owned(), quoted(cells[3])));
        }
    }
    let seed = Seed::new().unwrap();
    let config = tempfile::NamedTempFile::new().unwrap();
    fs::write(config.path(), "[[rule]]\nfrom = \"192.0.2.6\"\nvia = \"10.111.221.21\"\ndev = \"eth1\"\n")
        .unwrap();
    done(&seed.server, "add from any reply-to");
    done(&seed.server, &format!("apply {} --confirm 1h", config.path().display()));
    let at: SocketAddr = "192.168.1.5:80".parse().unwrap();
    let socket = seed.server.run(|| UdpSocket::bind(at)).unwrap();
    let client = seed.client.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    client.send_to(b"ask", at).unwrap();
    socket.recv(&mut [0; 3]).unwrap();
    // The agent has some more.
    let empty = ConfigFile::new("");
    let agent = Agent::start(&seed.server, &empty.words("run --http 127.0.0.1:9473"));
    agent.says();
    let mut stream = seed.server.run(|| TcpStream::connect("127.0.0.1:9473")).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (_, text) = answer.split_once("\r\n\r\n").unwrap();
    let without_agent = |text: &str| -> BTreeSet<String> {
        samples(text).keys().filter(|it| !it.starts_with("byway_agent_")).map(ToString::to_string).collect()
    };
    assert_eq!(without_agent(text), without_agent(&done(&seed.server, "metrics")));
    done(&seed.server, "confirm");
    let kinds: BTreeMap<&str, &str> =
        text.lines().filter_map(|it| it.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let mut printed = BTreeMap::new();
    for series in samples(text).keys() {
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let labels = labels.split('"').step_by(2).map(|it| it.trim_matches([',', '=', '}']).to_owned());
        let labels: BTreeSet<String> = labels.filter(|it| !it.is_empty()).collect();
        printed.insert(name.to_owned(), (kinds[name].to_owned(), labels));
    }
    assert_eq!(printed, on_page);
}

/// The rules for alerts ask for nothing that is not there.
#[test]
fn alerts_ask_for_metrics_that_there_are() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let page = fs::read_to_string(docs.join("metrics.md")).unwrap();
    let rules = fs::read_to_string(docs.join("byway.rules.yml")).unwrap();
    let no_name = |it: char| !it.is_ascii_lowercase() && it != '_';
    // Names of metrics, and values of labels.
    let names = rules.split(no_name).filter(|it| it.starts_with("byway_"));
    let asked: BTreeSet<&str> =
        names.chain(rules.split("=\"").skip(1).filter_map(|it| it.split('"').next())).collect();
    let unknown: Vec<_> = asked.iter().filter(|it| !page.contains(&format!("`{it}`"))).collect();
    assert!(asked.len() > 4 && unknown.is_empty(), "{unknown:?} of {asked:?}");
}
