//! Devices whose packets have no Ethernet header, as an attachment and as the device of a next hop.

use byway::Attach;
use byway_lab::wait_until;

use crate::support::{
    ANSWER, FAMILIES, SILENCE,
    devices::{Hosts, Kind, unless_lacking},
    hooks, on, the_rule,
};

/// Tells the story with one kind of device at the gateway's side and another at the router's.
fn tell(uplink: Kind, side: Kind) {
    for v6 in FAMILIES {
        if v6 && !(uplink.carries_ipv6() && side.carries_ipv6()) {
            continue;
        }
        let Some(hosts) = unless_lacking(Hosts::joined(uplink, side, v6)) else { return };
        for hook in hooks() {
            hosts.tell(*hook, &hosts.via());
            if side != Kind::Veth {
                // There is one at the other end and no more: nobody has to be named.
                hosts.tell(*hook, &hosts.dev());
            }
        }
    }
}

#[test]
fn from_a_tun_device() {
    tell(Kind::Tun, Kind::Veth);
}

#[test]
fn to_a_tun_device() {
    tell(Kind::Veth, Kind::Tun);
}

#[test]
fn from_wireguard() {
    tell(Kind::WireGuard, Kind::Veth);
}

#[test]
fn to_wireguard() {
    tell(Kind::Veth, Kind::WireGuard);
}

#[test]
fn from_one_wireguard_tunnel_to_another() {
    tell(Kind::WireGuard, Kind::WireGuard);
}

#[test]
fn from_ipip() {
    tell(Kind::IpIp, Kind::Veth);
}

#[test]
fn to_ipip() {
    tell(Kind::Veth, Kind::IpIp);
}

#[test]
fn from_gre() {
    tell(Kind::Gre, Kind::Veth);
}

#[test]
fn to_gre() {
    tell(Kind::Veth, Kind::Gre);
}

/// Without a name Byway attaches to what carries the default route, whatever it is.
#[test]
fn found_by_the_default_route() {
    for kind in [Kind::Tun, Kind::WireGuard, Kind::IpIp, Kind::Gre] {
        let Some(hosts) = unless_lacking(Hosts::joined(kind, Kind::Veth, false)) else { continue };
        for hook in hooks() {
            let attached = on(&hosts.server, *hook, |byway| byway.attach(&Attach::Auto)).unwrap();
            let names: Vec<&str> = attached.iter().map(|device| device.name.as_str()).collect();
            assert_eq!(names, [hosts.uplink.as_str()]);
            hosts.undo(*hook);
        }
    }
}

/// Somebody tells the sender, or the tunnel sends it in fragments (WireGuard does).
#[test]
fn packets_longer_than_the_tunnels_mtu_get_there_in_the_end() {
    for kind in [Kind::WireGuard, Kind::IpIp, Kind::Gre] {
        for v6 in FAMILIES {
            if v6 && !kind.carries_ipv6() {
                continue;
            }
            let Some(hosts) = unless_lacking(Hosts::joined(Kind::Veth, kind, v6)) else { break };
            let payload = vec![1; 1500 - if v6 { 48 } else { 28 }];
            for hook in hooks() {
                hosts.redirect(*hook, hosts.via());
                let call =
                    || hosts.server.udp_echo(Some(hosts.source()), hosts.far(), &payload, SILENCE).is_ok();
                assert!(wait_until(ANSWER, call), "{hook:?} {kind:?} {v6}: {:?}", the_rule(&hosts.server));
                let status = the_rule(&hosts.server);
                assert_eq!(status.departed.packets, status.arrived.packets, "{hook:?} {kind:?} {v6}");
                hosts.undo(*hook);
            }
        }
    }
}

/// While the next hop's neighbour is not resolved the kernel holds packets back, and then sends them as the ordinary
/// route's device would: without an Ethernet header, on a link that needs one. They get to their next hop all the same.
#[test]
fn packets_that_wait_for_their_neighbour_get_there() {
    for v6 in FAMILIES {
        let hosts = Hosts::joined(Kind::Tun, Kind::Veth, v6).unwrap();
        for hook in hooks() {
            hosts.redirect(*hook, hosts.via());
            let router = hosts.address(1, 1);
            for round in 1..=5 {
                if hosts.server.neighbour(&hosts.side, router).unwrap().is_some() {
                    hosts.server.delete_neighbour(&hosts.side, router).unwrap();
                }
                assert_eq!(hosts.call(ANSWER).unwrap(), b"hello", "{:?}", the_rule(&hosts.server));
                let status = the_rule(&hosts.server);
                assert_eq!(status.departed.packets, round, "each is counted once");
                assert_eq!(status.departed.packets, status.arrived.packets);
            }
            hosts.undo(*hook);
        }
    }
}
