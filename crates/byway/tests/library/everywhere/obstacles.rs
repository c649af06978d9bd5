//! What keeps a rule from doing its work is said where the rule is added, and nothing is said where nothing is in the way.

use std::time::Duration;

use byway::{Attach, Byway, Rule, RuleSpec};
use byway_lab::{
    Node,
    seed::{IPV4, IPV6, Seed},
};

use crate::support::{ANSWER, any_hook, on, on_link, via};

fn add(server: &Node, spec: &RuleSpec) -> Rule {
    on(server, any_hook(), |byway| byway.replace(spec)).unwrap()
}

/// What is said about these rules, with time for each gateway to answer.
fn said(server: &Node, rules: &[Rule], patience: Duration) -> Vec<String> {
    let ask = |byway: &mut Byway| byway.obstacles(rules, patience);
    on(server, any_hook(), ask).unwrap().iter().map(ToString::to_string).collect()
}

#[test]
fn what_is_in_the_way_is_said_and_no_longer_than_it_is() {
    let seed = Seed::new().unwrap();
    let server = &seed.server;
    let rules = [IPV4, IPV6].map(|ip| add(server, &via(&ip.service.to_string(), ip.router, "eth1")));
    let nothing: [&str; 0] = [];
    assert_eq!(said(server, &rules, ANSWER), nothing);

    server.sysctl("net.ipv4.conf.eth1.rp_filter", "1").unwrap();
    assert_eq!(
        said(server, &rules, ANSWER),
        [
            "eth1 drops requests unless the route back to the sender leaves by eth1 (strict rp_filter), so there may be nothing to \
          answer"
        ]
    );
    server.sysctl("net.ipv4.conf.eth1.rp_filter", "2").unwrap();

    // Another device takes everything, as that of a tunnel does, with the default route still there.
    seed.lab.link((server, "tun7"), (&seed.gateway, "eth7")).unwrap();
    server.address("tun7", "10.9.9.1/24").unwrap();
    for half in ["0.0.0.0/1", "128.0.0.0/1"] {
        server.route(&format!("{half} dev tun7")).unwrap();
    }
    let past = "packets from 192.168.1.5 leave by tun7, where byway is not attached";
    assert_eq!(said(server, &rules, ANSWER), [past]);
    on(server, any_hook(), |byway| byway.attach(&Attach::devices(["tun7"]))).unwrap();
    assert_eq!(said(server, &rules, ANSWER), nothing);
    on(server, any_hook(), |byway| byway.detach(&["tun7"])).unwrap();
    // An exception has nothing to do that could be kept from it, and other destinations go another way.
    let to = |destination: &str| format!("from 192.168.1.5 to {destination} via 10.111.221.21 dev eth1");
    let near = add(server, &to("10.111.220.0/24").parse().unwrap());
    assert_eq!(said(server, &[near], ANSWER), nothing);
    let pass = add(server, &"from 192.168.1.5 to 198.51.100.0/24 pass".parse().unwrap());
    assert_eq!(said(server, &[pass], ANSWER), nothing);
    server.delete_link("tun7").unwrap();

    for default in ["default via 10.111.220.1", "default via 2001:db8:220::1"] {
        server.delete_route(default).unwrap();
    }
    assert_eq!(
        said(server, &rules, ANSWER),
        [
            "there is no route for packets from 192.168.1.5 and from 2001:db8:1::5, so they never leave, and byway \
          never sees them"
        ]
    );
}

#[test]
fn a_gateway_that_does_not_answer_is_said() {
    let seed = Seed::new().unwrap();
    let silent = add(&seed.server, &via("192.168.1.5", [10, 111, 221, 99].into(), "eth1"));
    let expected = ["the gateway 10.111.221.99 does not answer on eth1"];
    assert_eq!(said(&seed.server, std::slice::from_ref(&silent), Duration::from_millis(100)), expected);
    // It may have one of an older kernel's, which nobody asks for again.
    seed.router.address("eth0", "10.111.221.99/24").unwrap();
    seed.server.delete_neighbour("eth1", [10, 111, 221, 99].into()).unwrap();
    assert_eq!(said(&seed.server, &[silent], ANSWER), [""; 0]);
}

#[test]
fn a_source_that_is_nowhere_is_said_unless_the_host_forwards() {
    let seed = Seed::new().unwrap();
    let nowhere = add(&seed.server, &on_link("198.51.100.0/24", "eth1"));
    let rules = [nowhere];
    assert_eq!(
        said(&seed.server, &rules, ANSWER),
        [
            "there may be no packets from 198.51.100.0/24: this host has no such address, and it does not forward"
        ]
    );
    // Any address of the prefix will do, also one that only a route makes local.
    seed.server.address("lo", "198.51.100.77/32").unwrap();
    assert_eq!(said(&seed.server, &rules, ANSWER), [""; 0]);
    seed.server.delete_address("lo", "198.51.100.77/32").unwrap();
    seed.server.forwarding().unwrap();
    assert_eq!(said(&seed.server, &rules, ANSWER), [""; 0]);
    // Its packets come in by eth1, and leave by the default route: where that is not attached, they pass byway by.
    seed.server.route("198.51.100.0/24 via 10.111.221.21").unwrap();
    assert_eq!(said(&seed.server, &rules, ANSWER), [""; 0]);
    seed.lab.link((&seed.server, "eth2"), (&seed.gateway, "eth2")).unwrap();
    on(&seed.server, any_hook(), |byway| {
        byway.attach(&Attach::devices(["eth2"]))?;
        byway.detach(&["eth0"])
    })
    .unwrap();
    assert_eq!(
        said(&seed.server, &rules, ANSWER),
        ["packets from 198.51.100.0/24 leave by eth0, where byway is not attached"]
    );
}
