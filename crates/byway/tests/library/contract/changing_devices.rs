//! Devices that change while Byway watches them.

use std::{cell::RefCell, net::UdpSocket, time::Duration};

use byway::{Attach, Attachment, Hook, NextHopState, TargetSpec};
use byway_lab::{Node, wait_until};

use crate::support::{
    ANSWER, add_bridge, add_clsact_qdisc, any_hook, delete_clsact_qdisc, hooks, hooks_and_families, on, pins,
    routers::{Routers, Way, rule},
    the_rule,
};

/// Long enough for packets that are not lost.
const SOON: Duration = Duration::from_secs(5);

/// Attached to `eth0`, with a rule that leads to router 1.
fn redirected(hook: Hook, v6: bool) -> Routers {
    let hosts = Routers::new(v6);
    let spec = rule(&hosts.source(5).to_string(), None, TargetSpec::NextHop(hosts.hop(1)));
    on(&hosts.server, hook, |byway| byway.add(&spec)).unwrap();
    assert_eq!(way(&hosts), Way::Router1);
    hosts
}

fn for_each(test: impl Fn(Hook, bool)) {
    for (hook, v6) in hooks_and_families() {
        test(hook, v6);
    }
}

/// Where a packet from the rule's source goes.
fn way(hosts: &Routers) -> Way {
    hosts.way(hosts.source(5), hosts.far(1))
}

fn attachments(hosts: &Routers, hook: Hook) -> Vec<Attachment> {
    on(&hosts.server, hook, |byway| byway.attachments()).unwrap()
}

fn names(hosts: &Routers, hook: Hook) -> Vec<String> {
    attachments(hosts, hook).into_iter().map(|attachment| attachment.device.name).collect()
}

/// Takes everything back, and sees that nothing is left.
fn undo(hosts: &Routers, hook: Hook) {
    on(&hosts.server, hook, |byway| byway.flush()).unwrap();
    on(&hosts.server, hook, |byway| byway.detach_all()).unwrap();
    assert_eq!(pins(), Vec::<String>::new());
}

/// The server's address in the network of `ethN`, and the default route, which a device loses that was off.
fn restore(hosts: &Routers, v6: bool, nth: usize, device: &str) {
    if v6 {
        hosts.server.address(device, &format!("2001:db8:{nth}::2/64")).unwrap();
    }
    if nth == 0 {
        let gateway = if v6 { "2001:db8:0::1" } else { "10.0.0.1" };
        hosts.server.route(&format!("default via {gateway} dev {device}")).unwrap();
    }
}

#[test]
fn renamed() {
    for_each(|hook, v6| {
        let hosts = redirected(hook, v6);
        let before = the_rule(&hosts.server).departed.packets;
        for (nth, (device, name)) in [("eth0", "wan"), ("eth1", "lan")].into_iter().enumerate() {
            if hosts.server.rename_link(device, name).is_err() {
                // Before Linux 6.2 a device has to be off.
                hosts.server.set_up(device, false).unwrap();
                hosts.server.rename_link(device, name).unwrap();
                hosts.server.set_up(name, true).unwrap();
                restore(&hosts, v6, nth, name);
            }
        }
        assert!(hosts.goes(hosts.source(5), hosts.far(1), Way::Router1), "{:?}", the_rule(&hosts.server));
        assert_eq!(way(&hosts), Way::Router1);
        // Those that waited for the neighbour may be on their way still.
        let all_arrived = || {
            let status = the_rule(&hosts.server);
            status.departed.packets > before && status.departed == status.arrived
        };
        assert!(wait_until(ANSWER, all_arrived), "{:?}", the_rule(&hosts.server));
        let status = the_rule(&hosts.server);

        // Everything that is shown has the new names, and they are what commands take.
        assert_eq!(names(&hosts, hook), ["lan", "wan"]);
        assert!(status.rule.target.to_string().ends_with(" dev lan"), "{}", status.rule.target);
        let next_hops = on(&hosts.server, hook, |byway| byway.next_hops()).unwrap();
        assert_eq!((next_hops.len(), next_hops[0].next_hop.device.name.as_str()), (1, "lan"));
        let all = on(&hosts.server, hook, |byway| byway.status()).unwrap();
        assert!(!format!("{all:?}").contains("eth"), "{all:?}");
        let next_hop = byway::NextHopSpec::ViaDev(hosts.via[0], "lan".into());
        let again = rule(&hosts.source(5).to_string(), None, TargetSpec::NextHop(next_hop));
        on(&hosts.server, hook, |byway| byway.replace(&again)).unwrap();
        assert_eq!(the_rule(&hosts.server).departed, status.departed, "it is the same rule");
        on(&hosts.server, hook, |byway| byway.detach(&["wan"])).unwrap();
        assert_eq!(way(&hosts), Way::Gateway);
        undo(&hosts, hook);
    });
}

/// Names that change places: each device is still itself.
#[test]
fn names_that_change_places() {
    let hosts = redirected(any_hook(), false);
    for device in ["eth1", "eth2"] {
        hosts.server.set_up(device, false).unwrap();
    }
    for (device, name) in [("eth1", "swap"), ("eth2", "eth1"), ("swap", "eth2")] {
        hosts.server.rename_link(device, name).unwrap();
    }
    for device in ["eth1", "eth2"] {
        hosts.server.set_up(device, true).unwrap();
    }
    assert!(hosts.goes(hosts.source(5), hosts.far(1), Way::Router1), "{:?}", the_rule(&hosts.server));
    let status = the_rule(&hosts.server);
    assert_eq!(status.rule.target.to_string(), "via 10.0.1.1 dev eth2");
    on(&hosts.server, any_hook(), |byway| byway.attach(&Attach::devices(["eth0"]))).unwrap();
    assert_eq!(way(&hosts), Way::Router1, "also after the next change");
    undo(&hosts, any_hook());
}

#[test]
fn of_another_mtu() {
    for_each(|hook, v6| {
        let hosts = redirected(hook, v6);
        for mtu in [1400, 9000, 1500] {
            for device in ["eth0", "eth1"] {
                hosts.server.set_mtu(device, mtu).unwrap();
                assert_eq!(way(&hosts), Way::Router1, "{device} {mtu}");
            }
        }
        let status = the_rule(&hosts.server);
        assert_eq!((status.departed.packets, status.arrived.packets), (7, 7), "{status:?}");
        undo(&hosts, hook);
    });
}

/// Whether the gateway is on-link is a question of when the rule is made.
#[test]
fn of_other_addresses() {
    for_each(|hook, v6| {
        let hosts = redirected(hook, v6);
        let (old, new) =
            if v6 { ("2001:db8:1::2/64", "2001:db8:ff::2/64") } else { ("10.0.1.2/24", "10.9.9.2/24") };
        hosts.server.address("eth1", new).unwrap();
        assert_eq!(way(&hosts), Way::Router1);
        hosts.server.delete_address("eth1", old).unwrap();
        assert_eq!(way(&hosts), Way::Router1, "{:?}", the_rule(&hosts.server));
        hosts.server.delete_address("eth1", new).unwrap();
        assert_eq!(way(&hosts), Way::Router1, "{:?}", the_rule(&hosts.server));
        // Also where the gateway has to be found anew.
        hosts.server.set_up("eth1", false).unwrap();
        hosts.server.set_up("eth1", true).unwrap();
        assert!(hosts.goes(hosts.source(5), hosts.far(1), Way::Router1), "{:?}", the_rule(&hosts.server));
        // A change of anything else asks nobody about this rule.
        on(&hosts.server, hook, |byway| byway.attach(&Attach::devices(["eth2"]))).unwrap();
        assert_eq!(way(&hosts), Way::Router1);
        undo(&hosts, hook);
    });
}

/// The other end of the cable is switched off and on, at the next hop.
#[test]
fn without_a_carrier_for_a_while() {
    for_each(|hook, v6| {
        let hosts = redirected(hook, v6);
        hosts.router[0].set_up("eth0", false).unwrap();
        assert!(hosts.goes(hosts.source(5), hosts.far(1), Way::Gateway), "{:?}", the_rule(&hosts.server));
        let next_hops = on(&hosts.server, hook, |byway| byway.next_hops()).unwrap();
        assert_eq!((next_hops[0].state, next_hops[0].device_down), (NextHopState::Silent, false));
        assert!(next_hops[0].no_carrier);
        hosts.router[0].set_up("eth0", true).unwrap();
        if v6 {
            hosts.router[0].address("eth0", "2001:db8:1::1/64").unwrap();
        }
        assert!(hosts.goes(hosts.source(5), hosts.far(1), Way::Router1), "{:?}", the_rule(&hosts.server));
        assert!(!on(&hosts.server, hook, |byway| byway.next_hops()).unwrap()[0].no_carrier);
        undo(&hosts, hook);
    });
}

/// A device is there even if the kernel says things about it that are no text.
#[test]
fn with_an_alias_that_is_no_text() {
    for_each(|hook, v6| {
        let hosts = redirected(hook, v6);
        for device in ["eth0", "eth1"] {
            hosts.server.set_alias(device, b"B\xfcro").unwrap();
        }
        let another = rule(&hosts.source(6).to_string(), None, TargetSpec::NextHop(hosts.hop(1)));
        on(&hosts.server, hook, |byway| byway.add(&another)).unwrap();
        assert_eq!(names(&hosts, hook), ["eth0", "eth1"]);
        assert!(attachments(&hosts, hook).iter().all(|it| it.is_installed && !it.device_gone));
        assert_eq!(way(&hosts), Way::Router1);
        undo(&hosts, hook);
    });
}

/// The same at the attachment: while its own gateway cannot be reached nothing leaves, and then everything is as before.
#[test]
fn an_attachment_without_a_carrier_for_a_while() {
    for_each(|hook, v6| {
        let hosts = redirected(hook, v6);
        for _ in 0..2 {
            hosts.gateway.set_up("eth0", false).unwrap();
            hosts.gateway.set_up("eth0", true).unwrap();
            if v6 {
                hosts.gateway.address("eth0", "2001:db8:0::1/64").unwrap();
            }
            assert!(hosts.goes(hosts.source(5), hosts.far(1), Way::Router1), "{:?}", the_rule(&hosts.server));
        }
        assert!(attachments(&hosts, hook).iter().all(|attachment| attachment.is_installed));
        undo(&hosts, hook);
    });
}

/// The attachment goes to another network namespace, with a service address like the one here. There is a device with
/// the ifindex of the next hop's as well.
fn moved(hook: Hook, v6: bool) -> (Routers, Node) {
    let hosts = redirected(hook, v6);
    let elsewhere = hosts.lab.node("elsewhere").unwrap();
    let index = hosts.server.ifindex("eth1").unwrap();
    elsewhere.run(|| crate::support::add_bridge("trap", index));
    hosts.server.move_link("eth0", &elsewhere).unwrap();
    elsewhere.set_up("eth0", true).unwrap();
    let length = if v6 { 128 } else { 32 };
    elsewhere.address("lo", &format!("{}/{length}", hosts.source(5))).unwrap();
    elsewhere.address("eth0", if v6 { "2001:db8:0::2/64" } else { "10.0.0.2/24" }).unwrap();
    let gateway = if v6 { "2001:db8:0::1" } else { "10.0.0.1" };
    elsewhere.route(&format!("default via {gateway} dev eth0")).unwrap();
    (hosts, elsewhere)
}

/// Whether what the device sends there gets to where the device leads.
fn is_free(hosts: &Routers, elsewhere: &Node) -> bool {
    let (from, to) = (hosts.source(5), hosts.far(1));
    let before = hosts.counts(from, to);
    elsewhere.run(|| {
        let socket = UdpSocket::bind((from, 0)).unwrap();
        for _ in 0..5 {
            // A packet that a program drops is an error of the socket's for some kernels.
            let _ = socket.send_to(b"hello", (to, 9));
        }
    });
    let expected = [before[0] + 5, before[1], before[2]];
    wait_until(SOON, || hosts.counts(from, to) == expected)
}

#[test]
fn packets_of_an_attachment_in_another_namespace_are_no_longer_ours() {
    let caught = RefCell::new(Vec::new());
    for_each(|hook, v6| {
        let (hosts, elsewhere) = moved(hook, v6);
        let before = the_rule(&hosts.server);
        let is_free = is_free(&hosts, &elsewhere);
        let after = the_rule(&hosts.server);
        if !is_free || after != before {
            caught.borrow_mut().push((hook, v6, after.departed.packets - before.departed.packets));
        }
    });
    let caught = caught.into_inner();
    assert!(caught.is_empty(), "hook, IPv6, packets that departed by the rule all the same: {caught:?}");
}

#[test]
fn an_attachment_in_another_namespace_is_forgotten() {
    for_each(|hook, v6| {
        let (hosts, elsewhere) = moved(hook, v6);
        let shown = attachments(&hosts, hook);
        let gone = shown.iter().find(|attachment| attachment.device.name == "eth0").unwrap();
        assert!(gone.device_gone, "{hook:?} {gone:?}");
        on(&hosts.server, hook, |byway| byway.attach(&Attach::devices(["eth2"]))).unwrap();
        assert_eq!(names(&hosts, hook), ["eth1", "eth2"], "it is forgotten");
        assert!(is_free(&hosts, &elsewhere), "{hook:?} {v6}: {:?}", the_rule(&hosts.server));

        // Byway is at home there as well, with rules of its own, and the device comes back as a new one.
        on(&elsewhere, hook, |byway| byway.attach(&Attach::Auto)).unwrap();
        assert!(is_free(&hosts, &elsewhere), "there is no rule there");
        on(&elsewhere, hook, |byway| byway.detach_all()).unwrap();
        elsewhere.move_link("eth0", &hosts.server).unwrap();
        hosts.server.set_up("eth0", true).unwrap();
        hosts.server.address("eth0", if v6 { "2001:db8:0::2/64" } else { "10.0.0.2/24" }).unwrap();
        let gateway = if v6 { "2001:db8:0::1" } else { "10.0.0.1" };
        hosts.server.route(&format!("default via {gateway} dev eth0")).unwrap();
        assert_eq!(way(&hosts), Way::Gateway, "nobody has attached to it");
        on(&hosts.server, hook, |byway| byway.attach(&Attach::Auto)).unwrap();
        assert_eq!(way(&hosts), Way::Router1);
        undo(&hosts, hook);
    });
}

/// It went and came back between two commands.
#[test]
fn an_attachment_that_was_in_another_namespace_for_a_while() {
    for_each(|hook, v6| {
        let (hosts, elsewhere) = moved(hook, v6);
        let index = elsewhere.ifindex("eth0").unwrap();
        elsewhere.move_link("eth0", &hosts.server).unwrap();
        hosts.server.set_up("eth0", true).unwrap();
        hosts.server.address("eth0", if v6 { "2001:db8:0::2/64" } else { "10.0.0.2/24" }).unwrap();
        let gateway = if v6 { "2001:db8:0::1" } else { "10.0.0.1" };
        hosts.server.route(&format!("default via {gateway} dev eth0")).unwrap();
        assert_eq!(hosts.server.ifindex("eth0").unwrap(), index, "the system shows nothing of it");
        assert_eq!(way(&hosts), Way::Gateway, "the kernel has let go of it for good");
        let shown = attachments(&hosts, hook);
        let back = shown.iter().find(|attachment| attachment.device.name == "eth0").unwrap();
        assert!(!back.device_gone && !back.is_installed, "{back:?}");
        on(&hosts.server, hook, |byway| byway.attach(&Attach::devices(["eth0"]))).unwrap();
        assert_eq!(names(&hosts, hook), ["eth0", "eth1"]);
        assert!(attachments(&hosts, hook).iter().all(|attachment| attachment.is_installed));
        assert_eq!(way(&hosts), Way::Router1);
        undo(&hosts, hook);
    });
}

/// The same with the next hop's device: packets go by what `on-down` says at once, and the device is free.
#[test]
fn a_next_hops_device_in_another_namespace() {
    for_each(|hook, v6| {
        let hosts = redirected(hook, v6);
        let elsewhere = hosts.lab.node("elsewhere").unwrap();
        hosts.server.move_link("eth1", &elsewhere).unwrap();
        assert_eq!(way(&hosts), Way::Gateway, "not one packet is lost");
        elsewhere.set_up("eth1", true).unwrap();
        assert_eq!(way(&hosts), Way::Gateway);
        let next_hops = on(&hosts.server, hook, |byway| byway.next_hops()).unwrap();
        assert_eq!(next_hops[0].state, NextHopState::DeviceGone);
        on(&hosts.server, hook, |byway| byway.attach(&Attach::devices(["eth2"]))).unwrap();
        assert_eq!(names(&hosts, hook), ["eth0", "eth2"], "it is forgotten");

        // It comes back, and is used again once it is asked for.
        elsewhere.move_link("eth1", &hosts.server).unwrap();
        hosts.server.set_up("eth1", true).unwrap();
        hosts.server.address("eth1", if v6 { "2001:db8:1::2/64" } else { "10.0.1.2/24" }).unwrap();
        let spec = rule(&hosts.source(5).to_string(), None, TargetSpec::NextHop(hosts.hop(1)));
        on(&hosts.server, hook, |byway| byway.replace(&spec)).unwrap();
        assert!(hosts.goes(hosts.source(5), hosts.far(1), Way::Router1), "{:?}", the_rule(&hosts.server));
        undo(&hosts, hook);
    });
}

/// A device that is made anew is another device, to which nobody has attached until the next change.
#[test]
fn an_attachment_that_is_made_anew() {
    for_each(|hook, v6| {
        let hosts = redirected(hook, v6);
        let before = the_rule(&hosts.server);
        hosts.server.delete_link("eth0").unwrap();
        hosts.lab.link((&hosts.server, "eth0"), (&hosts.gateway, "eth0")).unwrap();
        for (node, last) in [(&hosts.server, 2), (&hosts.gateway, 1)] {
            let address = if v6 { format!("2001:db8:0::{last}/64") } else { format!("10.0.0.{last}/24") };
            node.address("eth0", &address).unwrap();
        }
        hosts.server.route(if v6 { "default via 2001:db8:0::1" } else { "default via 10.0.0.1" }).unwrap();
        let gateway_hears = hosts.gateway.capture("eth0").unwrap();
        let (from, to) = (hosts.source(5), hosts.far(1));
        let at_gateway =
            || gateway_hears.count(|frame| frame.source() == Some(from) && frame.destination() == Some(to));
        hosts.send(from, to);
        assert!(wait_until(ANSWER, || at_gateway() == 1), "nobody has attached to it");
        assert_eq!(the_rule(&hosts.server).departed, before.departed);

        on(&hosts.server, hook, |byway| byway.attach(&Attach::Auto)).unwrap();
        assert_eq!(names(&hosts, hook), ["eth0", "eth1"], "the old one is forgotten");
        assert_eq!(way(&hosts), Way::Router1);
        assert_eq!(at_gateway(), 1);
        undo(&hosts, hook);
    });
}

/// Another device that gets the ifindex of one that is gone has never had a program.
#[test]
fn another_device_with_the_ifindex_of_one_that_is_gone() {
    for hook in hooks() {
        let hosts = redirected(*hook, false);
        let mut others = Vec::new();
        for device in ["eth0", "eth1"] {
            let index = hosts.server.ifindex(device).unwrap();
            hosts.server.delete_link(device).unwrap();
            let other = format!("other{index}");
            hosts.server.run(|| add_bridge(&other, index));
            assert_eq!(hosts.server.ifindex(&other).unwrap(), index);
            // That it has a qdisc of its own is nobody's business.
            hosts.server.run(|| add_clsact_qdisc(&other));
            others.push(other);
        }
        let shown = attachments(&hosts, *hook);
        assert_eq!(names(&hosts, *hook), ["eth0", "eth1"], "{shown:?}");
        assert!(shown.iter().all(|it| it.device_gone && !it.is_installed), "{shown:?}");
        on(&hosts.server, *hook, |byway| byway.attach(&Attach::devices(["eth2"]))).unwrap();
        let shown = attachments(&hosts, *hook);
        assert!(shown.iter().all(|it| !it.device.name.starts_with("other")), "{shown:?}");
        for other in &others {
            // This fails if there is none.
            hosts.server.run(|| delete_clsact_qdisc(other));
        }
        undo(&hosts, *hook);
    }
}
