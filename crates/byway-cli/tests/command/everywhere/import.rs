//! `byway import` on hosts with policy routing, and the kernel asked whether it is the same.

use std::net::IpAddr;

use byway::{Byway, Imported, RuleSpec, TargetSpec};
use byway_lab::{Lab, Node, seed::Seed};

use crate::support::{ANSWER, SILENCE, byway_as_nobody, call, works};

/// A host with a default route by eth0 and more devices.
fn host(lab: &Lab) -> Node {
    let (node, routers) = (lab.node("host").unwrap(), lab.node("routers").unwrap());
    for (device, number) in [("eth0", 0), ("eth1", 1), ("eth2", 2)] {
        lab.link((&node, device), (&routers, device)).unwrap();
        node.address(device, &format!("10.0.{number}.2/24")).unwrap();
        node.address(device, &format!("2001:db8:{number}::2/64")).unwrap();
    }
    node.route("default via 10.0.0.1 dev eth0").unwrap();
    node.route("-6 default via 2001:db8:0::1 dev eth0").unwrap();
    node
}

fn imported(node: &Node) -> Imported {
    node.run(byway::import).unwrap()
}

/// The text from `attach` on: what differs from host to host.
fn body(node: &Node, summary: &str) -> String {
    let said = call(node, "import");
    assert_eq!((said.code, said.err.as_str()), (Some(0), summary), "{said:?}");
    let start = said.out.find("\nattach").unwrap();
    assert!(said.out.starts_with("# The policy routing of this network namespace"));
    assert_eq!(said.out, imported(node).to_string(), "the same by the library");
    said.out[start + 1..].to_owned()
}

#[test]
fn a_host_without_entries_of_its_own_has_nothing_to_import() {
    let lab = Lab::new().unwrap();
    assert_eq!(
        body(&host(&lab), "imported 0 entries\n"),
        "attach = \"auto\"\n\n\
         # Nothing to import: `ip rule` has the three entries that are always there, and no others.\n"
    );
}

#[test]
fn sources_with_tables_become_rules() {
    let lab = Lab::new().unwrap();
    let node = host(&lab);
    node.route("default via 10.0.1.1 dev eth1 table 100").unwrap();
    node.route("10.0.1.0/24 dev eth1 table 100").unwrap();
    node.route("-6 default via 2001:db8:1::1 dev eth1 table 100").unwrap();
    node.route("default table 200 nexthop via 10.0.1.1 dev eth1 weight 2 nexthop via 10.0.2.1 dev eth2")
        .unwrap();
    node.rule("from 10.0.1.2 lookup 100 priority 1000").unwrap();
    node.rule("from 2001:db8:1::2 lookup 100 priority 1000").unwrap();
    node.rule("from 192.168.1.0/24 lookup 200 priority 1001").unwrap();
    node.rule("from 192.168.2.0/24 lookup 200 priority 1002").unwrap();
    node.rule("from 192.168.3.0/24 prohibit priority 1003").unwrap();
    node.rule("from 192.168.4.0/24 fwmark 7 lookup 100 priority 1004").unwrap();
    let text = body(&node, "imported 5 entries; 1 entry has no equivalent, see the comments\n");
    for part in [
        "attach = \"auto\"\n",
        "[group.table-200]\nnexthops = [\n    { via = \"10.0.1.1\", dev = \"eth1\", weight = 2 },\n    { via = \"10.0.2.1\", dev = \"eth2\" },\n]\n",
        "# `1000: from 10.0.1.2 lookup 100`\n",
        "[[rule]]\nfrom = \"10.0.1.2\"\nvia = \"10.0.1.1\"\ndev = \"eth1\"\n",
        "[[rule]]\nfrom = \"10.0.1.2\"\nto = \"10.0.1.0/24\"\ntarget = \"pass\"\n",
        "[[rule]]\nfrom = [\n    \"192.168.1.0/24\", \"192.168.2.0/24\",\n]\ngroup = \"table-200\"\n",
        "[[rule]]\nfrom = \"192.168.3.0/24\"\ntarget = \"drop\"\n",
        "# `1004: from 192.168.4.0/24 fwmark 0x7 lookup 100`\n# No equivalent: ",
        "[[rule]]\nfrom = \"2001:db8:1::2\"\nvia = \"2001:db8:1::1\"\ndev = \"eth1\"\n",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let json = call(&node, "--json import").out;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["imported"], &json["without_equivalent"]), (&5.into(), &1.into()));
}

/// Whatever the kernel knows of entries is read, and quoted as `ip rule` prints it.
#[test]
fn every_kind_of_entry_is_quoted() {
    let lab = Lab::new().unwrap();
    let node = host(&lab);
    node.route("default via 10.0.1.1 dev eth1 table 100").unwrap();
    for (rule, quoted) in [
        ("fwmark 1/255 lookup 100", "from all fwmark 0x1/0xff lookup 100"),
        ("not fwmark 51820 lookup 100", "not from all fwmark 0xca6c lookup 100"),
        ("iif eth1 lookup 100", "from all iif eth1 lookup 100"),
        ("oif eth1 lookup 100", "from all oif eth1 lookup 100"),
        ("ipproto 17 dport 53 lookup 100", "from all ipproto udp dport 53 lookup 100"),
        ("uidrange 1000-2000 lookup 100", "from all uidrange 1000-2000 lookup 100"),
        ("from 10.8.0.0/16 tos 16 lookup 100", "from 10.8.0.0/16 tos 0x10 lookup 100"),
        ("l3mdev", "from all lookup [l3mdev-table]"),
        (
            "to 10.9.0.0/16 lookup main suppress_prefixlength 0",
            "from all to 10.9.0.0/16 lookup main suppress_prefixlength 0",
        ),
        ("from 10.8.1.0/24 goto 900", "from 10.8.1.0/24 goto 900"),
        ("from 10.8.2.0/24 unreachable", "from 10.8.2.0/24 unreachable"),
        ("from 10.8.3.0/24 blackhole", "from 10.8.3.0/24 blackhole"),
        ("from 10.8.4.0/24 lookup 300", "from 10.8.4.0/24 lookup 300"),
        ("from 169.254.0.0/16 lookup 100", "from 169.254.0.0/16 lookup 100"),
    ] {
        node.rule(&format!("{rule} priority 800")).unwrap();
        let text = imported(&node).to_string();
        assert!(text.contains(&format!("`800: {quoted}`")), "{quoted} is not in {text}");
        node.delete_rule(&format!("{rule} priority 800")).unwrap();
    }
}

/// It looks and changes nothing, so anyone may call it.
#[test]
fn no_privilege_is_needed() {
    let lab = Lab::new().unwrap();
    let node = host(&lab);
    node.route("default via 10.0.1.1 dev eth1 table 100").unwrap();
    node.rule("from 10.0.1.2 lookup 100").unwrap();
    let output = node.output(&mut byway_as_nobody("import")).unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), imported(&node).to_string());
}

/// The kernel is asked before and after, and where a packet leaves by the default route's device, the imported rules
/// make up the difference.
#[test]
fn the_kernel_says_that_it_is_the_same() {
    let lab = Lab::new().unwrap();
    let node = host(&lab);
    let sources =
        ["192.168.1.1", "192.168.1.2", "192.168.2.1", "192.168.3.1", "2001:db8:100::1", "2001:db8:100::2"];
    for source in sources {
        let length = if source.contains(':') { 128 } else { 32 };
        node.address("lo", &format!("{source}/{length}")).unwrap();
    }
    for route in [
        "default via 10.0.1.1 dev eth1 table 100",
        "throw 172.16.0.0/16 table 100",
        "172.17.0.0/16 via 10.0.2.1 dev eth2 table 100",
        "10.0.0.0/24 dev eth0 table 100",
        "default via 10.0.2.1 dev eth2 table 200",
        "172.18.0.0/16 via 10.0.0.9 dev eth0",
        "172.19.0.0/16 via 10.0.2.9 dev eth2",
        "-6 default via 2001:db8:1::1 dev eth1 table 100",
        "-6 throw 2001:db8:a::/48 table 100",
        "-6 2001:db8:b::/48 via 2001:db8:2::1 dev eth2 table 100",
        "-6 2001:db8:c::/48 via 2001:db8:0::9 dev eth0",
    ] {
        node.route(route).unwrap();
    }
    let rules = [
        "to 172.18.0.0/16 lookup 200 priority 100",
        "from 192.168.1.0/24 lookup 100 priority 200",
        "from 192.168.1.2 lookup 200 priority 300",
        "from 192.168.2.0/24 lookup main suppress_prefixlength 0 priority 400",
        "from 192.168.2.0/24 lookup 100 priority 500",
        "from 192.168.3.0/24 goto 700 priority 600",
        "from 192.168.3.1 lookup 100 priority 650",
        "from 192.168.0.0/16 lookup 200 priority 700",
        "from 2001:db8:100::/64 lookup 100 priority 800",
        "from 2001:db8:100::2 lookup main priority 700",
    ];
    for rule in rules {
        node.rule(rule).unwrap();
    }
    let destinations = [
        "10.0.0.7",
        "172.16.0.1",
        "172.17.0.1",
        "172.18.0.1",
        "172.19.0.1",
        "198.51.100.1",
        "2001:db8:0::7",
        "2001:db8:a::1",
        "2001:db8:b::1",
        "2001:db8:c::1",
        "2001:db8:d::1",
    ];
    let pairs: Vec<(IpAddr, IpAddr)> = sources
        .iter()
        .flat_map(|source| destinations.iter().map(move |to| (source.parse().unwrap(), to.parse().unwrap())))
        .filter(|(source, to): &(IpAddr, IpAddr)| source.is_ipv4() == to.is_ipv4())
        .collect();
    let before: Vec<_> = pairs.iter().map(|(from, to)| node.route_of(*from, *to).unwrap()).collect();
    let said = imported(&node);
    let config: Vec<RuleSpec> = said.config().rules().collect();
    for rule in rules {
        node.delete_rule(rule).unwrap();
    }
    let attachment = node.ifindex("eth0").unwrap();
    let (mut compared, mut redirected) = (0, 0);
    for ((from, to), before) in pairs.iter().zip(before) {
        let main = node.route_of(*from, *to).unwrap();
        if main.1 != attachment {
            continue;
        }
        let after = match most_specific(&config, *from, *to) {
            None | Some(TargetSpec::Pass) => main,
            Some(TargetSpec::NextHop(hop)) => {
                redirected += 1;
                (hop.gateway(), node.ifindex(hop.device().unwrap()).unwrap())
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(after, before, "{from} to {to}: {said}");
        compared += 1;
    }
    assert!(compared > 25 && redirected > 15, "{compared} compared, {redirected} redirected");
}

/// Byway's choice: the most specific source, then the most specific destination.
fn most_specific(rules: &[RuleSpec], from: IpAddr, to: IpAddr) -> Option<&TargetSpec> {
    let speaks = |rule: &&RuleSpec| {
        rule.selector.source().contains(from)
            && rule.selector.destination().is_none_or(|prefix| prefix.contains(to))
    };
    let key = |rule: &&RuleSpec| {
        (rule.selector.source().len(), rule.selector.destination().map(|prefix| prefix.len()))
    };
    rules.iter().filter(speaks).max_by_key(key).map(|rule| &rule.target)
}

/// The way over: what the entry did, the imported rule does when the entry is gone.
#[test]
fn a_host_moves_over_to_byway() {
    let seed = Seed::new().unwrap();
    let server = &seed.server;
    assert!(!works(&seed, SILENCE), "replies leave by the default route");
    server.route("default via 10.111.221.21 dev eth1 table 100").unwrap();
    server.rule("from 192.168.1.5 lookup 100").unwrap();
    assert!(works(&seed, ANSWER), "by the entry");
    let rules: Vec<RuleSpec> = imported(server).config().rules().collect();
    server.run(|| {
        let mut byway = Byway::open().unwrap();
        rules.iter().for_each(|rule| drop(byway.add(rule).unwrap()));
    });
    assert!(works(&seed, ANSWER), "both are in force");
    server.delete_rule("from 192.168.1.5 lookup 100").unwrap();
    assert!(works(&seed, ANSWER), "by Byway alone");
}
