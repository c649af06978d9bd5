//! Which rule holds for a source: the longest prefix, whatever the order; and what no rule holds for is untouched.

use std::net::{IpAddr, UdpSocket};

use byway_lab::{Capture, Frame, Lab, Node};

use crate::support::{ANSWER, hooks, on, rules, via};

/// A server with a default gateway on `eth0` and two routers on `eth1`.
struct Hosts {
    _lab: Lab,
    server: Node,
    /// What each of gateway, router 1 and router 2 gets.
    heard: [Capture; 3],
    far: IpAddr,
    router: [IpAddr; 2],
}

const GATEWAY: usize = 0;
const ROUTER_1: usize = 1;
const ROUTER_2: usize = 2;

fn hosts(sources: &[&str], v6: bool) -> Hosts {
    let lab = Lab::new().unwrap();
    let node = |name| lab.node(name).unwrap();
    let (server, gateway, router_1, router_2) = (node("server"), node("gateway"), node("r1"), node("r2"));
    lab.link((&server, "eth0"), (&gateway, "eth0")).unwrap();
    lab.bridge("lan", &[(&server, "eth1"), (&router_1, "eth0"), (&router_2, "eth0")]).unwrap();
    let address = |node: &Node, device: &str, network: u8, host: u8| {
        let text =
            if v6 { format!("2001:db8:{network}::{host}/64") } else { format!("10.0.{network}.{host}/24") };
        node.address(device, &text).unwrap();
    };
    address(&server, "eth0", 1, 2);
    address(&gateway, "eth0", 1, 1);
    address(&server, "eth1", 2, 2);
    address(&router_1, "eth0", 2, 11);
    address(&router_2, "eth0", 2, 12);
    for source in sources {
        server.address("lo", &format!("{source}/{}", if v6 { 128 } else { 32 })).unwrap();
    }
    let ip = |v6_text: &str, v4_text: &str| if v6 { v6_text } else { v4_text }.parse().unwrap();
    server.route(if v6 { "default via 2001:db8:1::1" } else { "default via 10.0.1.1" }).unwrap();
    Hosts {
        heard: [&gateway, &router_1, &router_2].map(|node| node.capture("eth0").unwrap()),
        server,
        far: ip("2001:db8:9::9", "10.9.9.9"),
        router: [ip("2001:db8:2::11", "10.0.2.11"), ip("2001:db8:2::12", "10.0.2.12")],
        _lab: lab,
    }
}

impl Hosts {
    /// Sends a packet from `source` far away, and says where it went.
    fn goes_to(&self, source: &str) -> usize {
        let source: IpAddr = source.parse().unwrap();
        let is_it = |frame: &Frame| frame.source() == Some(source) && frame.destination() == Some(self.far);
        let before = self.heard.each_ref().map(|capture| capture.count(is_it));
        let far = self.far;
        self.server.run(|| UdpSocket::bind((source, 0)).unwrap().send_to(b"hello", (far, 9)).unwrap());
        let after = || self.heard.each_ref().map(|capture| capture.count(is_it));
        assert!(byway_lab::wait_until(ANSWER, || after() != before), "the packet from {source} got lost");
        let after = after();
        let went: Vec<usize> = (0..3).filter(|place| after[*place] > before[*place]).collect();
        assert_eq!(went.len(), 1, "the packet from {source} went to {went:?}");
        went[0]
    }
}

/// The sources: a host with a rule of its own, its neighbour in the longer prefix, one in the shorter prefix
/// alone, and a stranger.
fn longest_prefix_wins(sources: [&str; 4], [short, long, host]: [&str; 3], v6: bool) {
    for hook in hooks() {
        let hosts = hosts(&sources, v6);
        let [of_host, of_long, of_short, stranger] = sources;
        let all = |expected: [usize; 4]| {
            assert_eq!(sources.map(|source| hosts.goes_to(source)), expected);
        };
        all([GATEWAY; 4]);
        // The most specific first, so that order cannot be what decides.
        let [router_1, router_2] = hosts.router;
        for (prefix, router) in [(host, router_1), (short, router_1), (long, router_2)] {
            on(&hosts.server, *hook, |byway| byway.add(&via(prefix, router, "eth1"))).unwrap();
        }
        all([ROUTER_1, ROUTER_2, ROUTER_1, GATEWAY]);

        let del = |prefix: &str| {
            on(&hosts.server, *hook, |byway| byway.del(&prefix.parse().unwrap())).unwrap();
        };
        del(long);
        assert_eq!(hosts.goes_to(of_long), ROUTER_1);
        del(host);
        assert_eq!(hosts.goes_to(of_host), ROUTER_1);
        del(short);
        assert_eq!(hosts.goes_to(of_short), GATEWAY);

        // A prefix of length zero holds every source, and a replacement takes its place.
        let everything = if v6 { "::/0" } else { "0.0.0.0/0" };
        on(&hosts.server, *hook, |byway| byway.add(&via(everything, router_1, "eth1"))).unwrap();
        assert_eq!(hosts.goes_to(stranger), ROUTER_1);
        on(&hosts.server, *hook, |byway| byway.replace(&via(everything, router_2, "eth1"))).unwrap();
        assert_eq!(hosts.goes_to(stranger), ROUTER_2);
        assert_eq!(rules(&hosts.server).len(), 1);
        on(&hosts.server, *hook, |byway| byway.flush()).unwrap();
        all([GATEWAY; 4]);
    }
}

#[test]
fn longest_prefix_wins_over_ipv4() {
    longest_prefix_wins(
        ["192.168.1.5", "192.168.1.6", "192.168.2.5", "172.16.0.1"],
        ["192.168.0.0/16", "192.168.1.0/24", "192.168.1.5"],
        false,
    );
}

#[test]
fn longest_prefix_wins_over_ipv6() {
    longest_prefix_wins(
        ["2001:db8:a:1::5", "2001:db8:a:1::6", "2001:db8:a:2::5", "2001:db8:b::1"],
        ["2001:db8:a::/48", "2001:db8:a:1::/64", "2001:db8:a:1::5"],
        true,
    );
}
