//! `byway get`: what it says to people and to programs.

use byway_lab::seed::Seed;

use crate::support::{done, refused};

#[test]
fn a_packet_is_explained() {
    let seed = Seed::new().unwrap();
    let server = &seed.server;
    let said = "192.168.1.5 to 203.0.113.9: left to normal routing: no rule matches\n  \
                leaves by  eth0 via 10.111.220.1; byway is attached to nothing, and `byway attach` attaches it\n";
    assert_eq!(done(server, "get 192.168.1.5 to 203.0.113.9"), said);

    done(server, "add from 192.168.0.0/16 pass");
    done(server, "add from 192.168.1.5 via 10.111.221.21 dev eth1");
    assert_eq!(
        done(server, "get 192.168.1.5 to 203.0.113.9 proto tcp"),
        "192.168.1.5 to 203.0.113.9 proto tcp: redirected via 10.111.221.21 dev eth1\n  \
         rule       from 192.168.1.5 via 10.111.221.21 dev eth1\n  \
         beats      from 192.168.0.0/16 pass\n  \
         next hop   via 10.111.221.21 dev eth1: in service, MTU 1500\n  \
         leaves by  eth0 via 10.111.220.1, where byway is attached\n"
    );
    let elsewhere = done(server, "get 192.168.1.5 to 10.111.221.21");
    let first = "192.168.1.5 to 10.111.221.21: left to normal routing: byway does not see it\n";
    assert!(elsewhere.starts_with(first), "{elsewhere}");
    assert!(elsewhere.contains("leaves by  eth1, where byway is not attached"), "{elsewhere}");

    let two = "nexthop via 10.111.221.21 dev eth1 nexthop via 10.111.221.22 dev eth1 weight 2";
    done(server, &format!("replace from 192.168.1.5 {two}"));
    let open = done(server, "get 192.168.1.5 to 203.0.113.9");
    assert!(open.contains(": redirected to one of 2 next hops, by `proto`, `sport` and `dport`\n"), "{open}");
    let json: serde_json::Value = serde_json::from_str(&done(
        server,
        "--json get 192.168.1.5 to 203.0.113.9 proto udp sport 7 dport 9",
    ))
    .unwrap();
    assert_eq!(json["from"], "192.168.1.5");
    assert_eq!((&json["proto"], &json["dport"]), (&"udp".into(), &9.into()));
    assert_eq!((&json["action"], &json["seen_by"][0]["name"]), (&"redirect".into(), &"eth0".into()));
    assert_eq!(json["route"]["kind"], "leaves");
    assert_eq!(
        (&json["rule"]["from"], &json["beaten"][0]["from"]),
        (&"192.168.1.5".into(), &"192.168.0.0/16".into())
    );
    let ways = json["nexthops"].as_array().unwrap();
    assert_eq!((ways.len(), ways.iter().filter(|way| way["is_taken"] == true).count()), (2, 1));
    assert_eq!((&ways[1]["weight"], &ways[1]["state"]), (&2.into(), &"up".into()));
    assert_eq!(json["depends_on"], serde_json::json!([]));

    // Nothing has been counted.
    let json: serde_json::Value = serde_json::from_str(&done(server, "--json show")).unwrap();
    assert!(json["rules"].as_array().unwrap().iter().all(|rule| rule["departed"]["packets"] == 0));
}

#[test]
fn what_is_no_packet_is_refused() {
    let seed = Seed::new().unwrap();
    for (words, sentence) in [
        ("get", "name the source address of the packet, like `byway get 192.0.2.7 to 198.51.100.9`"),
        (
            "get 192.168.1.0/24",
            "`192.168.1.0/24` is not an IPv4 or IPv6 address; name one address, like 192.0.2.7 or 2001:db8::7",
        ),
        (
            "get 192.168.1.5 to 2001:db8::7",
            "no packet goes from 192.168.1.5 to 2001:db8::7: one is IPv4 and the other IPv6; name two of the same family",
        ),
        (
            "get 192.168.1.5 to 203.0.113.9 iif eth7",
            "there is no device `eth7` in this network namespace; `ip link` lists them",
        ),
    ] {
        assert_eq!(refused(&seed.server, words), sentence, "byway {words}");
    }
}
