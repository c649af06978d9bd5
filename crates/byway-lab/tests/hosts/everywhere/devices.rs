//! Devices of every kind.

use std::{net::Ipv4Addr, time::Duration};

use byway_lab::{Bonding, Error, Lab, Node, Result};

const SOON: Duration = Duration::from_secs(5);

/// Makes the devices of two neighbours, who call each other by them then.
fn carries(make: impl Fn(&Lab, &Node, &Node) -> Result<()>, device: &str) {
    let lab = Lab::new().unwrap();
    let (a, b) = (lab.node("a").unwrap(), lab.node("b").unwrap());
    match make(&lab, &a, &b) {
        Err(error @ Error::KernelLacks { .. }) => return println!("not tested: {error}"),
        made => made.unwrap(),
    }
    a.address(device, "10.1.0.1/24").unwrap();
    b.address(device, "10.1.0.2/24").unwrap();
    let service = b.udp_serve("10.1.0.2:7".parse().unwrap()).unwrap();
    assert_eq!(a.udp_echo(None, service.address(), b"hello", SOON).unwrap(), b"hello", "{device}");
}

#[test]
fn those_on_a_cable() {
    carries(
        |lab, a, b| {
            lab.link((a, "eth0"), (b, "eth0"))?;
            a.vlan("eth0.10", "eth0", 10)?;
            b.vlan("eth0.10", "eth0", 10)
        },
        "eth0.10",
    );
    carries(
        |lab, a, b| {
            lab.link((a, "eth0"), (b, "eth0"))?;
            a.macvlan("mv0", "eth0")?;
            b.macvlan("mv0", "eth0")
        },
        "mv0",
    );
}

#[test]
fn those_with_ports() {
    carries(
        |lab, a, b| {
            lab.link((a, "p0"), (b, "p0"))?;
            a.bridge("br0", &["p0"])?;
            b.bridge("br0", &["p0"])
        },
        "br0",
    );
    carries(
        |lab, a, b| {
            for port in ["p0", "p1"] {
                lab.link((a, port), (b, port))?;
            }
            a.bond("bond0", Bonding::BalanceRoundRobin, &["p0", "p1"])?;
            b.bond("bond0", Bonding::BalanceRoundRobin, &["p0", "p1"])
        },
        "bond0",
    );
}

#[test]
fn tunnels() {
    let ends = [Ipv4Addr::new(172, 31, 0, 1), Ipv4Addr::new(172, 31, 0, 2)];
    let cable = |lab: &Lab, a: &Node, b: &Node| {
        lab.link((a, "eth0"), (b, "eth0"))?;
        a.address("eth0", "172.31.0.1/24")?;
        b.address("eth0", "172.31.0.2/24")
    };
    carries(
        |lab, a, b| {
            cable(lab, a, b)?;
            a.ipip("ipip1", ends[0], ends[1])?;
            b.ipip("ipip1", ends[1], ends[0])
        },
        "ipip1",
    );
    carries(
        |lab, a, b| {
            cable(lab, a, b)?;
            a.gre("gre1", ends[0], ends[1])?;
            b.gre("gre1", ends[1], ends[0])
        },
        "gre1",
    );
    carries(
        |lab, a, b| {
            cable(lab, a, b)?;
            let [end, other_end] = ends.map(|end| (end, 51_820).into());
            lab.wireguard((a, "wg0", end), (b, "wg0", other_end))
        },
        "wg0",
    );
}

#[test]
fn a_device_goes_to_another_node() {
    let lab = Lab::new().unwrap();
    let (a, b, c) = (lab.node("a").unwrap(), lab.node("b").unwrap(), lab.node("c").unwrap());
    lab.link((&a, "eth0"), (&b, "eth0")).unwrap();
    a.move_link("eth0", &c).unwrap();
    a.ifindex("eth0").unwrap_err();
    c.set_up("eth0", true).unwrap();
    c.address("eth0", "10.1.0.1/24").unwrap();
    b.address("eth0", "10.1.0.2/24").unwrap();
    let service = b.udp_serve("10.1.0.2:7".parse().unwrap()).unwrap();
    assert_eq!(c.udp_echo(None, service.address(), b"hello", SOON).unwrap(), b"hello");
}
