//! Devices of every kind that has an Ethernet header, as an attachment and as the device of a next hop.

use std::net::{IpAddr, SocketAddr};

use byway::{Attach, Error, NextHopSpec, TargetSpec};
use byway_lab::{Bonding, wait_until};

use crate::support::{
    ANSWER, FAMILIES, SILENCE,
    devices::{Hosts, Kind, unless_lacking},
    hooks, on, on_link,
    routers::rule,
    the_rule,
};

/// Tells the story with one kind of device at the gateway's side and another at the router's.
fn tell(uplink: Kind, side: Kind) {
    for v6 in FAMILIES {
        let Some(hosts) = unless_lacking(Hosts::joined(uplink, side, v6)) else { return };
        for hook in hooks() {
            hosts.tell(*hook, &hosts.via());
        }
    }
}

fn in_each_role(kind: Kind) {
    tell(kind, Kind::Veth);
    tell(Kind::Veth, kind);
}

#[test]
fn a_bridge_that_has_the_address() {
    in_each_role(Kind::Bridge);
    tell(Kind::Bridge, Kind::Bridge);
}

#[test]
fn a_bond_with_a_port_in_reserve() {
    in_each_role(Kind::Bond(Bonding::ActiveBackup));
}

#[test]
fn a_bond_whose_ports_take_turns() {
    in_each_role(Kind::Bond(Bonding::BalanceRoundRobin));
}

#[test]
fn a_vlan_device() {
    in_each_role(Kind::Vlan);
    tell(Kind::Vlan, Kind::Vlan);
}

#[test]
fn a_macvlan() {
    in_each_role(Kind::Macvlan);
    tell(Kind::Macvlan, Kind::Macvlan);
}

/// The port that carries everything loses its carrier, at the next hop's device and at the attachment.
#[test]
fn a_bond_fails_over_without_anybody_noticing() {
    let kind = Kind::Bond(Bonding::ActiveBackup);
    for v6 in FAMILIES {
        let Some(hosts) = unless_lacking(Hosts::joined(kind, kind, v6)) else { return };
        for hook in hooks() {
            hosts.redirect(*hook, hosts.via());
            assert_eq!(hosts.call(ANSWER).unwrap(), b"hello");
            for port in ["a", "b"] {
                for (peer, nth) in [(&hosts.router, 1), (&hosts.gateway, 0)] {
                    let port = format!("{port}{nth}");
                    peer.set_up(&port, false).unwrap();
                    // Until the bond has noticed it sends into the void.
                    let answers = || hosts.call(SILENCE).is_ok();
                    assert!(wait_until(ANSWER, answers), "{hook:?} {port}: {:?}", the_rule(&hosts.server));
                    peer.set_up(&port, true).unwrap();
                    assert!(wait_until(ANSWER, answers));
                }
            }
            hosts.undo(*hook);
        }
    }
}

/// The ports carry what the bond sends, and so they are no place to watch departures to it.
#[test]
fn a_bond_above_an_attachment_is_refused() {
    let kind = Kind::Bond(Bonding::ActiveBackup);
    let Some(hosts) = unless_lacking(Hosts::joined(Kind::Veth, kind, false)) else { return };
    for hook in hooks() {
        on(&hosts.server, *hook, |byway| byway.attach(&Attach::devices(["b1"]))).unwrap();
        let spec = on_link(&hosts.source().to_string(), "bond1");
        let error = on(&hosts.server, *hook, |byway| byway.add(&spec)).unwrap_err();
        assert!(matches!(error, Error::Stacked { .. }), "{error}");
        hosts.undo(*hook);
    }
}

/// On the device below, the packets of a VLAN device have a tag in their metadata, and are left alone.
#[test]
fn packets_of_a_vlan_device_pass_an_attachment_below_untouched() {
    for v6 in FAMILIES {
        let hosts = Hosts::joined(Kind::Veth, Kind::Veth, v6).unwrap();
        let Some(()) = unless_lacking(hosts.server.vlan("eth0.10", "eth0", 10)) else { return };
        hosts.gateway.vlan("eth0.10", "eth0", 10).unwrap();
        let (length, [here, there]) =
            if v6 { (64, ["2001:db8:10::2", "2001:db8:10::1"]) } else { (24, ["10.0.10.2", "10.0.10.1"]) };
        hosts.server.address("eth0.10", &format!("{here}/{length}")).unwrap();
        hosts.gateway.address("eth0.10", &format!("{there}/{length}")).unwrap();
        hosts.gateway.route(&format!("{} via {here}", hosts.host(hosts.source()))).unwrap();
        let there: IpAddr = there.parse().unwrap();
        let service = hosts.gateway.udp_serve(SocketAddr::new(there, 7)).unwrap();
        for hook in hooks() {
            hosts.redirect(*hook, hosts.via());
            assert_eq!(hosts.call(ANSWER).unwrap(), b"hello", "what has no tag is redirected");
            let before = the_rule(&hosts.server).departed;
            let tagged = || {
                let attachments = on(&hosts.server, *hook, |byway| byway.attachments()).unwrap();
                let attached =
                    attachments.iter().find(|attachment| attachment.device.name == "eth0").unwrap();
                attached.counters.unwrap().tagged.packets
            };
            let tagged_before = tagged();
            for _ in 0..5 {
                let from = Some(hosts.source());
                assert_eq!(
                    hosts.server.udp_echo(from, service.address(), b"hello", ANSWER).unwrap(),
                    b"hello"
                );
            }
            assert!(tagged() >= tagged_before + 5, "{hook:?}: {} of 5", tagged() - tagged_before);
            assert_eq!(the_rule(&hosts.server).departed, before, "what has a tag is left alone");
            hosts.undo(*hook);
        }
    }
}

/// The default gateway and the next hop are on one wire, told apart by a tag.
#[test]
fn a_next_hop_on_a_vlan_device_above_the_attachment() {
    for v6 in FAMILIES {
        let mut hosts = Hosts::apart(v6);
        let ends = [(&hosts.server, "eth0"), (&hosts.gateway, "eth0"), (&hosts.router, "eth0")];
        hosts.lab.bridge("lan", &ends).unwrap();
        let Some(()) = unless_lacking(hosts.server.vlan("eth0.10", "eth0", 10)) else { return };
        hosts.router.vlan("eth0.10", "eth0", 10).unwrap();
        hosts.connect_uplink("eth0", "eth0", true).unwrap();
        hosts.connect_side("eth0.10", "eth0.10").unwrap();
        hosts.server.address("lo", &hosts.host(hosts.source())).unwrap();
        hosts.serve();
        for hook in hooks() {
            hosts.tell(*hook, &hosts.via());
        }
    }
}

/// Both ways belong to one routing domain, whose table has the default route.
#[test]
fn members_of_a_vrf() {
    for v6 in FAMILIES {
        let mut hosts = Hosts::apart(v6);
        let to_gateway = hosts.join(0, Kind::Veth).unwrap();
        let to_router = hosts.join(1, Kind::Veth).unwrap();
        let Some(()) = unless_lacking(hosts.server.vrf("vrf0", 100, &[&to_gateway.0, &to_router.0])) else {
            return;
        };
        hosts.server.address("eth0", &in_network(&hosts, 0, 2)).unwrap();
        hosts.gateway.address("eth0", &in_network(&hosts, 0, 1)).unwrap();
        hosts.server.route(&format!("default via {} dev eth0 table 100", hosts.address(0, 1))).unwrap();
        hosts.uplink = "eth0".into();
        hosts.connect_side("eth1", "eth0").unwrap();
        hosts.server.address("vrf0", &hosts.host(hosts.source())).unwrap();
        hosts.bound_to = Some("vrf0");
        hosts.serve();
        for hook in hooks() {
            let error = on(&hosts.server, *hook, |byway| byway.attach(&Attach::Auto)).unwrap_err();
            assert!(matches!(error, Error::NoDefaultRoute), "the main table has none: {error}");
            hosts.tell(*hook, &hosts.via());

            // The device of the routing domain itself stands above its members.
            on(&hosts.server, *hook, |byway| byway.attach(&Attach::devices(["eth0"]))).unwrap();
            let spec = on_link(&hosts.source().to_string(), "vrf0");
            let error = on(&hosts.server, *hook, |byway| byway.add(&spec)).unwrap_err();
            assert!(matches!(error, Error::Stacked { .. }), "{error}");
            hosts.undo(*hook);
            // Packets of its sockets do not pass it, as long as it has no queueing discipline.
            on(&hosts.server, *hook, |byway| byway.attach(&Attach::devices(["vrf0"]))).unwrap();
            let spec = rule(&hosts.source().to_string(), None, TargetSpec::NextHop(hosts.via()));
            on(&hosts.server, *hook, |byway| byway.add(&spec)).unwrap();
            hosts.call(SILENCE).expect_err("the gateway does not lead to the service");
            assert_eq!(the_rule(&hosts.server).departed.packets, 0);
            hosts.undo(*hook);
        }
    }
}

fn in_network(hosts: &Hosts, network: u8, last: u8) -> String {
    let address = hosts.address(network, last);
    format!("{address}/{}", if address.is_ipv4() { 24 } else { 64 })
}

/// The next hop is outside of the attachment's routing domain.
#[test]
fn out_of_a_vrf() {
    for v6 in FAMILIES {
        let mut hosts = Hosts::apart(v6);
        hosts.join(0, Kind::Veth).unwrap();
        hosts.join(1, Kind::Veth).unwrap();
        let Some(()) = unless_lacking(hosts.server.vrf("vrf0", 100, &["eth0"])) else { return };
        hosts.server.address("eth0", &in_network(&hosts, 0, 2)).unwrap();
        hosts.gateway.address("eth0", &in_network(&hosts, 0, 1)).unwrap();
        hosts.server.route(&format!("default via {} dev eth0 table 100", hosts.address(0, 1))).unwrap();
        hosts.uplink = "eth0".into();
        hosts.connect_side("eth1", "eth0").unwrap();
        hosts.server.address("vrf0", &hosts.host(hosts.source())).unwrap();
        hosts.bound_to = Some("vrf0");
        hosts.serve();
        for hook in hooks() {
            hosts.redirect(*hook, hosts.via());
            // The answer comes in by a device outside, where the sender does not listen.
            let heard = hosts.heard()[1];
            hosts.call(SILENCE).expect_err("the answer comes in outside of the routing domain");
            assert!(wait_until(ANSWER, || hosts.heard()[1] > heard), "{:?}", the_rule(&hosts.server));
            let status = the_rule(&hosts.server);
            assert_eq!((status.departed.packets, status.arrived.packets), (1, 1), "{status:?}");
            hosts.undo(*hook);
        }
    }
}

/// What a host without a default gateway does: it has a default route to a device that swallows everything.
#[test]
fn a_default_route_to_a_dummy_device() {
    for v6 in FAMILIES {
        let mut hosts = Hosts::apart(v6);
        let Some(()) = unless_lacking(hosts.server.dummy("dummy0")) else { return };
        hosts.join(1, Kind::Veth).unwrap();
        hosts.connect_side("eth1", "eth0").unwrap();
        hosts.server.address("dummy0", &hosts.host(hosts.source())).unwrap();
        hosts.server.route(if v6 { "-6 default dev dummy0" } else { "default dev dummy0" }).unwrap();
        hosts.uplink = "dummy0".into();
        hosts.serve();
        for hook in hooks() {
            hosts.tell(*hook, &hosts.via());
        }
    }
}

/// A next hop that swallows everything: packets arrive there, and are gone.
#[test]
fn a_dummy_device_as_a_next_hop() {
    for v6 in FAMILIES {
        let hosts = Hosts::joined(Kind::Veth, Kind::Veth, v6).unwrap();
        let Some(()) = unless_lacking(hosts.server.dummy("dummy0")) else { return };
        for hook in hooks() {
            let before = hosts.heard();
            hosts.call(SILENCE).expect_err("the gateway does not lead to the service");
            assert!(wait_until(ANSWER, || hosts.heard()[0] > before[0]), "it was sent there");
            let heard = hosts.heard();
            let sent = hosts.server.counters("dummy0").unwrap().tx_packets;
            hosts.redirect(*hook, NextHopSpec::Dev("dummy0".into()));
            for _ in 0..3 {
                hosts.call(SILENCE).expect_err("nothing comes back");
            }
            let status = the_rule(&hosts.server);
            assert_eq!((status.departed.packets, status.arrived.packets), (3, 3), "{hook:?} {status:?}");
            assert!(hosts.server.counters("dummy0").unwrap().tx_packets >= sent + 3);
            assert_eq!(hosts.heard(), heard);
            hosts.undo(*hook);
        }
    }
}

/// A host that forwards for a container behind a veth: the container's answers go back the way that the requests came.
#[test]
fn a_container_behind_a_veth() {
    for v6 in FAMILIES {
        let hosts = Hosts::joined(Kind::Veth, Kind::Veth, v6).unwrap();
        let container = hosts.lab.node("container").unwrap();
        hosts.lab.link((&hosts.server, "c0"), (&container, "eth0")).unwrap();
        hosts.server.forwarding().unwrap();
        hosts.server.address("c0", &in_network(&hosts, 60, 1)).unwrap();
        container.address("eth0", &in_network(&hosts, 60, 2)).unwrap();
        container.route(&format!("default via {}", hosts.address(60, 1))).unwrap();
        let inside = hosts.address(60, 2);
        hosts.router.route(&format!("{} via {}", hosts.host(inside), hosts.address(1, 2))).unwrap();
        let service = container.udp_serve(SocketAddr::new(inside, 7)).unwrap();
        let from = Some(hosts.far().ip());
        let call = |timeout| hosts.router.udp_echo(from, service.address(), b"hello", timeout);
        for hook in hooks() {
            let before = hosts.gateway_heard(inside);
            call(SILENCE).expect_err("the answer goes to the gateway");
            // It may have waited for a neighbour, and is none of the rule's.
            assert!(wait_until(ANSWER, || hosts.gateway_heard(inside) > before));
            let spec = rule(&inside.to_string(), None, TargetSpec::NextHop(hosts.via()));
            on(&hosts.server, *hook, |byway| byway.add(&spec)).unwrap();
            for _ in 0..5 {
                assert_eq!(call(ANSWER).unwrap(), b"hello");
            }
            let status = the_rule(&hosts.server);
            assert_eq!((status.departed.packets, status.arrived.packets), (5, 5), "{hook:?} {status:?}");
            hosts.undo(*hook);
        }
    }
}

/// A container that forwards for its host (a VPN in a container) is the default gateway, or the next hop.
#[test]
fn a_container_as_a_gateway() {
    tell(Kind::Veth, Kind::Veth);
}
