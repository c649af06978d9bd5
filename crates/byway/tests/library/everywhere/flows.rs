//! The table of flows that `reply-to` sends back, and the ways in it.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use byway::{
    Action, Attach, Byway, Error, FlowSpec, FlowState, LinkLayerAddress, Protocol, ReplyFlow, TargetSpec,
};
use byway_abi::MAX_DEVICES;
use byway_lab::{Direction, Frame, seed::Seed, wait_until};

use crate::support::{
    ANSWER, any_hook, hooks, hooks_and_families, on, pins,
    replies::{PORT, SYN, Steered, Traffic, call, replies, tcp, two_served_uplinks},
    sockets::connect,
};

/// Each of many neighbours on one link is a way of its own, however alike their Ethernet addresses are.
#[test]
fn each_of_many_neighbours_gets_its_replies() {
    for (hook, v6) in hooks_and_families() {
        let (hosts, _, at, _services) = two_served_uplinks(hook, v6);
        let receiver = hosts.server.mac("eth1").unwrap();
        let heard = hosts.router[0].capture("eth0").unwrap();
        let neighbours = 0..64_u8;
        let sender = |nth: u8| [0x02, 0x42, 0xAC, 0x11, 0, nth];
        let client = |nth: u8| SocketAddr::new(hosts.far(100 + u16::from(nth)), PORT + 2);
        for nth in neighbours.clone() {
            let frame = tcp(client(nth), at, SYN, sender(nth), receiver);
            hosts.router[0].send_frame("eth0", &frame).unwrap();
        }
        for nth in neighbours {
            let is_answer = |frame: &Frame| {
                frame.destination() == Some(client(nth).ip()) && frame.destination_mac() == Some(sender(nth))
            };
            assert!(heard.wait_for(ANSWER, is_answer).is_some(), "{hook}: neighbour {nth} got no answer");
        }
    }
}

/// The table of flows keeps nothing of a device that is gone: another way may get the numbers of its ways.
#[test]
fn flows_go_with_their_device() {
    for (hook, v6) in hooks_and_families() {
        let Steered { hosts, udp, .. } = Steered::new(hook, v6, TargetSpec::Pass);
        udp.ask(1);
        udp.ask(2);
        assert_eq!(udp.answer(&hosts), 1);
        let noted = || on(&hosts.server, hook, |byway| byway.flows(None)).unwrap().count();
        assert_eq!(noted(), 1);
        hosts.server.delete_link("eth2").unwrap();
        on(&hosts.server, hook, |byway| byway.attach(&Attach::Auto)).unwrap();
        assert_eq!(noted(), 0, "it was moving to a way by that device");
        udp.ask(1);
        assert_eq!(noted(), 1);
    }
}

/// Requests may come in by any device, and there are more than may carry programs.
#[test]
fn more_devices_than_may_carry_programs_are_refused() {
    let seed = Seed::new().unwrap();
    let call = |call: &(dyn Fn(&mut Byway) -> Result<(), Error> + Sync)| on(&seed.server, any_hook(), call);
    let rule = replies("0.0.0.0/0");
    call(&|byway| byway.add(&rule).map(drop)).unwrap();
    let before = on(&seed.server, any_hook(), |byway| byway.export()).unwrap();
    for nth in 0..MAX_DEVICES / 2 {
        let ends = [format!("a{nth}"), format!("b{nth}")];
        seed.lab.link((&seed.server, &ends[0]), (&seed.server, &ends[1])).unwrap();
    }
    // Two more are the seed's, and some kernels give each network namespace devices of tunnels besides.
    let assert_refused = |error: Error| {
        let is_it = matches!(error, Error::TooManyDevices { wanted, limit: 1_024 } if wanted >= 1_026);
        assert!(is_it, "{error}");
    };
    assert_refused(call(&|byway| byway.add(&replies("::/0")).map(drop)).unwrap_err());
    // This one wants nothing but what is there.
    assert_refused(call(&|byway| byway.attach(&Attach::Auto).map(drop)).unwrap_err());
    assert_eq!(on(&seed.server, any_hook(), |byway| byway.export()).unwrap(), before);
    call(&|byway| byway.flush().and_then(|_| byway.detach_all()).map(drop)).unwrap();
    assert_eq!(pins(), Vec::<String>::new());
    assert_refused(call(&|byway| byway.add(&rule).map(drop)).unwrap_err());
    assert_eq!(pins(), Vec::<String>::new());
}

/// The table of flows is seen by its ways, one flow of it by what its packets are, and either may be forgotten.
#[test]
fn flows_are_seen_and_forgotten() {
    for (hook, v6) in hooks_and_families() {
        let Steered { hosts, udp, .. } = Steered::new(hook, v6, TargetSpec::Drop);
        let mut flow = FlowSpec::new(udp.at.ip());
        (flow.destination, flow.protocol) = (Some(udp.client.ip()), Some(Protocol::UDP));
        (flow.source_port, flow.destination_port) = (Some(udp.at.port()), Some(udp.client.port()));
        let get = || {
            let decision = on(&hosts.server, hook, |byway| byway.get(&flow)).unwrap();
            (decision.action, decision.reply)
        };
        assert_eq!(get(), (Action::Drop, None));
        udp.ask(2);
        let (action, reply) = get();
        let ReplyFlow { state, way: Some(way), age, .. } = reply.unwrap() else { panic!("it has no way") };
        assert_eq!((action, state), (Action::ReplyTo, FlowState::New));
        assert_eq!(way.device.name, "eth2");
        assert_eq!(way.lladdr, Some(LinkLayerAddress(hosts.router[1].mac("eth0").unwrap())));
        // The clock goes on by up to ten seconds at once, and here by another way than in the programs.
        assert!(age <= 10, "{age} seconds");
        assert_eq!(udp.answer(&hosts), 2);
        hosts.server.ping(None, hosts.via[1], ANSWER).unwrap();
        let (_, reply) = get();
        let ReplyFlow { state, way: Some(way), .. } = reply.unwrap() else { panic!("it has no way") };
        assert_eq!(state, FlowState::Answered);
        assert!(way.addresses.contains(&hosts.via[1]), "{way:?}");

        let flows = |device: Option<&str>| on(&hosts.server, hook, |byway| byway.flows(device));
        let all = flows(None).unwrap();
        assert_eq!(
            (all.count(), all.of_host, all.noted, all.evicted, all.refused),
            (1, 0, 1, 0, 0),
            "{all:?}"
        );
        assert_eq!(all.ways.iter().map(|it| (it.way.clone(), it.answered)).collect::<Vec<_>>(), [(way, 1)]);
        assert_eq!(flows(Some("eth1")).unwrap().count(), 0);
        assert!(matches!(flows(Some("eth7")), Err(Error::NoSuchDevice(name)) if name == "eth7"));

        let del = || on(&hosts.server, hook, |byway| byway.del_flow(&flow));
        let by_device = FlowSpec::from_str(&format!("{flow} iif eth1")).unwrap();
        let refused = on(&hosts.server, hook, |byway| byway.del_flow(&by_device)).unwrap_err();
        assert_eq!(refused.sentence(), "`iif` does not tell flows apart; leave it out");
        assert_eq!(del().unwrap().state, FlowState::Answered);
        assert!(matches!(del(), Err(Error::NoSuchFlow(it)) if it == flow));
        assert_eq!(get(), (Action::Drop, None));
        udp.ask(1);
        let flush =
            |device: Option<&str>| on(&hosts.server, hook, |byway| byway.flush_flows(device)).unwrap();
        assert_eq!((flush(Some("eth2")), flush(Some("eth1")), flush(None)), (0, 1, 0));
        // The host now begins the flow, and its packet is dropped.
        udp.server.send_to(b"begins", udp.client).unwrap();
        assert_eq!(get().1.map(|it| (it.state, it.way)), Some((FlowState::OfHost, None)));
        assert_eq!(flows(None).unwrap().of_host, 1);

        let _echo = hosts.server.tcp_serve(SocketAddr::new(udp.at.ip(), PORT + 3)).unwrap();
        call(&hosts.router[0], None, SocketAddr::new(udp.at.ip(), PORT + 3), Traffic::Tcp, ANSWER).unwrap();
        assert_eq!(flows(Some("eth1")).unwrap().ways[0].established, 1);
    }
}

/// Packets of no known flow are dropped if the rule says so, and the others are not.
#[test]
fn what_is_no_reply_may_be_dropped() {
    for (hook, v6) in hooks_and_families() {
        let Steered { hosts, udp, .. } = Steered::new(hook, v6, TargetSpec::Drop);
        let service = udp.at.ip();
        udp.ask(2);
        assert_eq!(udp.answer(&hosts), 2);
        hosts.send(service, hosts.far(8));
        assert_eq!(udp.answer(&hosts), 2);
        let status = crate::support::the_rule(&hosts.server);
        assert_eq!(status.no_next_hop.packets, 1, "{status:?}");
        assert_eq!(hosts.counts(service, hosts.far(8)), [0; 3]);
    }
}

/// What somebody says of an address moves no replies of other neighbours, nor on other devices.
#[test]
fn one_neighbours_card_is_nobody_elses() {
    for (hook, v6) in hooks_and_families() {
        let Steered { hosts, udp, .. } = Steered::new(hook, v6, TargetSpec::Pass);
        for router in &hosts.router {
            router.sysctl("net.ipv4.conf.eth0.arp_notify", "1").unwrap();
            router.sysctl("net.ipv6.conf.eth0.ndisc_notify", "1").unwrap();
        }
        udp.ask(1);
        hosts.router[1].set_mac("eth0", [0x02, 0, 0, 0, 0, 2]).unwrap();
        let heard = hosts.router[0].capture("eth0").unwrap();
        let first = hosts.router[0].mac("eth0").unwrap();
        assert_eq!(udp.answer(&hosts), 1);
        let is_it = |frame: &Frame| frame.destination() == Some(udp.client.ip());
        assert_eq!(heard.wait_for(ANSWER, is_it).unwrap().destination_mac(), Some(first));
    }
}

/// Whether this host has no connection: all its sockets of TCP listen.
fn only_listens(v6: bool) -> bool {
    let table = if v6 { "/proc/thread-self/net/tcp6" } else { "/proc/thread-self/net/tcp" };
    let table = fs::read_to_string(table).unwrap();
    table.lines().skip(1).all(|line| line.split_whitespace().nth(3) == Some("0A"))
}

/// A client that comes by the other uplink with the same ports begins anew: its repeated SYN moves the connection there, unless
/// this host still has the old one. Then anybody might have sent it.
#[test]
fn a_connection_that_begins_anew_moves_with_its_second_syn() {
    for (hook, v6) in hooks_and_families() {
        let (hosts, client, at, _services) = two_served_uplinks(hook, v6);
        let at_first = hosts.router[0].capture("eth0").unwrap();
        let before = connect(&hosts.router[0], client, at);
        let from = before.local_addr().unwrap();
        let router = &hosts.router[1];
        let heard = router.capture("eth0").unwrap();
        let syn = tcp(from, at, SYN, router.mac("eth0").unwrap(), hosts.server.mac("eth2").unwrap());
        let is_answer = |frame: &Frame| {
            frame.source() == Some(at.ip())
                && frame.destination() == Some(client)
                && frame.protocol() == Some(6)
        };
        let is_moving = |byway: &mut byway::Byway| byway.flows(Some("eth2")).unwrap().ways.len() == 1;
        for _ in 0..3 {
            router.send_frame("eth0", &syn).unwrap();
        }
        // The server answers with the numbers that it expects (RFC 5961), where the connection is.
        let mut answers = 0;
        let is_second = |frame: &Frame| {
            answers += usize::from(is_answer(frame) && frame.direction == Direction::Incoming);
            answers == 2
        };
        assert!(at_first.wait_for(ANSWER, is_second).is_some(), "{hook}");
        assert!(!on(&hosts.server, hook, is_moving), "{hook}");
        assert_eq!(heard.count(is_answer), 0, "{hook}");

        // Now it is gone, and so is the first uplink: nobody there answers what comes by the old way.
        drop(before);
        assert!(wait_until(ANSWER, || hosts.server.run(|| only_listens(v6))), "{hook}: the server keeps it");
        hosts.router[0].set_up("eth0", false).unwrap();
        router.send_frame("eth0", &syn).unwrap();
        assert!(wait_until(ANSWER, || on(&hosts.server, hook, is_moving)), "the server has not got it");
        assert_eq!(heard.count(is_answer), 0, "one packet moves nothing");
        let moves = || {
            router.send_frame("eth0", &syn).unwrap();
            heard.count(is_answer) > 0
        };
        assert!(wait_until(ANSWER, moves), "{hook}: the answers still go to the first router");
    }
}

/// An ARP request of a neighbour for its own address (RFC 5227), as a frame to all.
fn announcement(sender: [u8; 6], address: IpAddr) -> Vec<u8> {
    let IpAddr::V4(address) = address else { panic!("ARP is for IPv4") };
    let mut frame = [[0xFF; 6], sender].concat();
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(sender);
    frame.extend(address.octets());
    frame.extend([0; 6]);
    frame.extend(address.octets());
    frame
}

/// An address that is not the first one of a router moves none of its replies, whoever takes it. If somebody takes the first one,
/// replies follow until the router notes a flow again.
#[test]
fn only_the_first_address_of_a_router_moves_its_replies() {
    for &hook in hooks() {
        let Steered { hosts, udp, .. } = Steered::new(hook, false, TargetSpec::Pass);
        let router = &hosts.router[0];
        let (first, other) = (router.mac("eth0").unwrap(), [0x02, 0, 0, 0, 0, 9]);
        let announce = |sender, address| router.send_frame("eth0", &announcement(sender, address)).unwrap();
        // Before it asks for the server, and so names the address that it is going to send from.
        announce(first, hosts.via[0]);
        udp.ask(1);
        let answered = || {
            let heard = router.capture("eth0").unwrap();
            udp.server.send_to(b"answer", udp.client).unwrap();
            let is_it = |frame: &Frame| frame.destination() == Some(udp.client.ip());
            heard.wait_for(ANSWER, is_it).unwrap().destination_mac().unwrap()
        };
        let shared = "10.0.1.99".parse().unwrap();
        announce(first, shared);
        announce(other, shared);
        assert_eq!(answered(), first, "the shared address is not its first one");
        announce(other, hosts.via[0]);
        assert!(wait_until(ANSWER, || answered() == other));
        let way = on(&hosts.server, hook, |byway| byway.flows(None)).unwrap().ways.remove(0).way;
        assert_eq!(way.lladdr, Some(LinkLayerAddress(other)), "this is where replies go");
        let echo = hosts.server.tcp_serve(SocketAddr::new(udp.at.ip(), PORT + 3)).unwrap();
        call(router, None, echo.address(), Traffic::Tcp, ANSWER).unwrap();
        assert_eq!(answered(), first, "it has asked, so it is there");
    }
}
