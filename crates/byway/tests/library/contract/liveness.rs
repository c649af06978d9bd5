//! Who sends through a group loses nothing to a member that is dead, however long it is, and however seldom packets come. Nobody's
//! packet is spent on finding out whether it is back.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use byway::{Hook, MemberSpec, NextHopState, OnDown, RuleSpec, TargetSpec};
use byway_lab::wait_until;

use crate::support::{
    ANSWER, SILENCE, hooks, hooks_and_families, on,
    routers::{Routers, Way, rule},
    the_rule, tun,
};

/// How router 1 dies.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Death {
    LinkDown,
    NoCarrier,
    /// The neighbour entry is permanent and outlives the carrier, so that the kernel goes on sending.
    NoCarrierAndPermanentNeighbour,
    /// It is there and answers no question.
    FailedNeighbour,
}

pub(crate) const DEATHS: [Death; 4] =
    [Death::LinkDown, Death::NoCarrier, Death::NoCarrierAndPermanentNeighbour, Death::FailedNeighbour];

impl Death {
    fn strike(self, hosts: &Routers) {
        match self {
            Self::LinkDown => hosts.server.set_up("eth1", false).unwrap(),
            Self::NoCarrier => hosts.router[0].set_up("eth0", false).unwrap(),
            Self::NoCarrierAndPermanentNeighbour => {
                let mac = hosts.router[0].mac("eth0").unwrap();
                hosts.server.permanent_neighbour("eth1", hosts.via[0], mac).unwrap();
                hosts.router[0].set_up("eth0", false).unwrap();
            }
            Self::FailedNeighbour => {
                hosts.router[0].delete_address("eth0", &hosts.on_link(1, 1)).unwrap();
                hosts.server.delete_neighbour("eth1", hosts.via[0]).unwrap();
            }
        }
    }

    fn end(self, hosts: &Routers) {
        match self {
            Self::LinkDown => {
                hosts.server.set_up("eth1", true).unwrap();
                hosts.address_again(&hosts.server, "eth1", &hosts.on_link(1, 2));
            }
            Self::NoCarrier | Self::NoCarrierAndPermanentNeighbour => {
                hosts.router[0].set_up("eth0", true).unwrap();
                hosts.address_again(&hosts.router[0], "eth0", &hosts.on_link(1, 1));
            }
            Self::FailedNeighbour => hosts.router[0].address("eth0", &hosts.on_link(1, 1)).unwrap(),
        }
    }
}

/// A group of both routers.
pub(crate) fn group(hosts: &Routers) -> RuleSpec {
    let member = |router| MemberSpec::new(hosts.hop(router));
    let both = TargetSpec::NextHops(vec![member(1), member(2)]);
    rule(&hosts.source(5).to_string(), None, both).on_down(OnDown::Drop)
}

/// How many flows there are.
const FLOWS: usize = 16;
/// The source port of the first flow. From here on they give each router some. Ports that the kernel picks would give all of
/// them to the same router once in 32,768 times.
const FIRST_PORT: u16 = 5_000;

/// Sends a packet of each flow, and waits until all have come to a router. Says where they came to.
fn come(hosts: &Routers, sockets: &[UdpSocket], to: SocketAddr) -> [usize; 3] {
    let (from, far) = (hosts.source(5), to.ip());
    let before = hosts.counts(from, far);
    for socket in sockets {
        hosts.server.run(|| socket.send_to(b"hello", to)).unwrap();
    }
    let grown = || {
        let now = hosts.counts(from, far);
        [0, 1, 2].map(|nth| now[nth] - before[nth])
    };
    // Those that are lost do not come, however long this waits.
    let _ = wait_until(SILENCE, || grown().iter().sum::<usize>() == sockets.len());
    grown()
}

fn sockets(hosts: &Routers) -> Vec<UdpSocket> {
    let from = hosts.source(5);
    hosts
        .server
        .run(|| (FIRST_PORT..).take(FLOWS).map(|port| UdpSocket::bind((from, port)).unwrap()).collect())
}

/// Packets at several paces while router 1 is dead, and afterwards.
pub(crate) fn nothing_is_lost(death: Death, hosts: &Routers, paces: &[(Duration, u32)]) {
    let (sockets, to) = (sockets(hosts), SocketAddr::new(hosts.far(1), 9));
    let mut came = [0; 3];
    let both = |came: &[usize; 3]| came[1] > 0 && came[2] > 0 && came[1] + came[2] == FLOWS;
    // Their neighbours are not known yet.
    assert!(
        wait_until(ANSWER, || {
            came = come(hosts, &sockets, to);
            both(&came)
        }),
        "{death:?}: {came:?} {:?} {:?}",
        on(&hosts.server, crate::support::any_hook(), |byway| byway.next_hops()),
        the_rule(&hosts.server)
    );
    death.strike(hosts);
    // The first quarter of a second.
    let struck = Instant::now();
    while struck.elapsed() < Duration::from_millis(250) {
        for socket in &sockets {
            // A packet that a queue drops is an error of the socket's.
            let _ = hosts.server.run(|| socket.send_to(b"hello", to));
        }
        thread::sleep(Duration::from_millis(10));
    }
    let is_quiet = || {
        let before = hosts.counts(hosts.source(5), to.ip());
        thread::sleep(Duration::from_millis(50));
        hosts.counts(hosts.source(5), to.ip()) == before
    };
    assert!(wait_until(ANSWER, is_quiet));
    let before = hosts.counts(hosts.source(5), to.ip());
    for (pace, times) in paces {
        for nth in 0..*times {
            let came = come(hosts, &sockets, to);
            assert_eq!(
                came,
                [0, 0, FLOWS],
                "{death:?}, packet {nth} at {pace:?}: {:?}",
                the_rule(&hosts.server)
            );
            thread::sleep(*pace);
        }
    }
    // None comes twice, late.
    assert!(wait_until(ANSWER, is_quiet));
    let sent: usize = paces.iter().map(|(_, times)| *times as usize * sockets.len()).sum();
    assert_eq!(hosts.counts(hosts.source(5), to.ip()), [before[0], before[1], before[2] + sent], "{death:?}");
    death.end(hosts);
    assert!(
        wait_until(ANSWER, || {
            came = come(hosts, &sockets, to);
            both(&came)
        }),
        "{death:?}: {came:?} {:?}",
        on(&hosts.server, crate::support::any_hook(), |byway| byway.next_hops())
    );
}

#[test]
fn a_dead_member_costs_nobody_a_packet() {
    for (hook, v6) in hooks_and_families() {
        for death in DEATHS {
            let hosts = Routers::new(v6);
            let spec = group(&hosts);
            on(&hosts.server, hook, |byway| byway.add(&spec)).unwrap();
            nothing_is_lost(death, &hosts, &[(Duration::ZERO, 50), (Duration::from_millis(300), 3)]);
        }
    }
}

/// A tunnel has no neighbours, so that everything arrives at its device, also while that is down.
#[test]
fn a_tunnel_that_is_down_costs_nobody_a_packet() {
    for hook in hooks() {
        let hosts = Routers::new(false);
        let _wire = tun::Wire::new((&hosts.server, "tun0"), (&hosts.gateway, "tun0")).unwrap();
        let members = [byway::NextHopSpec::Dev("tun0".into()), hosts.hop(2)];
        let members = members.into_iter().map(MemberSpec::new).collect();
        let spec = rule(&hosts.source(5).to_string(), None, TargetSpec::NextHops(members));
        on(&hosts.server, *hook, |byway| byway.add(&spec)).unwrap();
        let (sockets, to) = (sockets(&hosts), SocketAddr::new(hosts.far(1), 9));
        // Those that the tunnel takes are seen by nobody.
        assert!(wait_until(ANSWER, || (1..FLOWS).contains(&come(&hosts, &sockets, to)[2])));
        hosts.server.set_up("tun0", false).unwrap();
        // Those that are on their way.
        come(&hosts, &sockets, to);
        for nth in 0..50 {
            assert_eq!(
                come(&hosts, &sockets, to),
                [0, 0, FLOWS],
                "packet {nth}: {:?}",
                the_rule(&hosts.server)
            );
        }
    }
}

/// The same with connections, each of which is a packet that nobody sends again within a second.
#[test]
fn a_dead_member_costs_no_connection_a_second() {
    for hook in hooks() {
        for death in DEATHS {
            no_connection_is_late(*hook, false, death, (40, Duration::ZERO));
        }
    }
}

/// Connects so many times with such a pause while router 1 is dead.
pub(crate) fn no_connection_is_late(hook: Hook, v6: bool, death: Death, (times, pause): (u32, Duration)) {
    let hosts = Routers::new(v6);
    let spec = group(&hosts);
    on(&hosts.server, hook, |byway| byway.add(&spec)).unwrap();
    let (far, source) = (hosts.far(1), hosts.source(5));
    let to = SocketAddr::new(far, 7);
    let _services: Vec<_> = hosts
        .router
        .iter()
        .enumerate()
        .map(|(nth, router)| {
            let back = hosts.on_link(nth + 1, 2);
            let server = back.split('/').next().unwrap();
            router.route(&format!("local {} dev lo", hosts.around(far, 16))).unwrap();
            router.route(&format!("{} via {server}", hosts.around(source, 16))).unwrap();
            if v6 {
                router.sysctl("net.ipv6.ip_nonlocal_bind", "1").unwrap();
            }
            router.tcp_serve(to).unwrap()
        })
        .collect();
    // Less than the second after which TCP sends a SYN again.
    const AT_ONCE: Duration = Duration::from_millis(900);
    let connect = || hosts.server.tcp_echo(Some(source), to, b"hello", AT_ONCE);
    assert!(wait_until(ANSWER, || connect().is_ok()));
    death.strike(&hosts);
    thread::sleep(Duration::from_millis(250));
    for nth in 0..times {
        let connected = connect();
        assert!(connected.is_ok(), "{death:?}, connection {nth}: {connected:?}");
        thread::sleep(pause);
    }
}

/// Without a gateway each destination is a neighbour of its own. One that is not there does not make the next hop look dead.
#[test]
fn one_neighbours_silence_is_nobody_elses() {
    for (hook, v6) in hooks_and_families() {
        neighbours_are_told_apart(hook, v6, 25, (40, Duration::from_millis(25)));
    }
}

/// Packets to so many neighbours that are not there, and one to one that is there, so many times with such a pause.
pub(crate) fn neighbours_are_told_apart(hook: Hook, v6: bool, dead: u16, (times, pause): (usize, Duration)) {
    let hosts = Routers::new(v6);
    let dev = byway::NextHopSpec::Dev("eth1".into());
    let spec = rule(&hosts.source(5).to_string(), None, TargetSpec::NextHop(dev));
    on(&hosts.server, hook, |byway| byway.add(&spec)).unwrap();
    // One of them is there.
    let living = hosts.far(1);
    hosts.router[0].address("eth0", &format!("{living}/{}", if v6 { 128 } else { 32 })).unwrap();
    assert!(hosts.goes(hosts.source(5), living, Way::Router1));
    let from = hosts.source(5);
    let socket = hosts.server.run(|| UdpSocket::bind((from, 0))).unwrap();
    let send = |to: IpAddr| match hosts.server.run(|| socket.send_to(b"hello", (to, 9))) {
        // What the kernel says of a neighbour that does not answer.
        Err(error) if error.kind() == ErrorKind::HostUnreachable => {}
        sent => drop(sent.unwrap()),
    };
    let before = hosts.counts(from, living);
    for nth in 0..times {
        // Five hundred a second at the most.
        for nth in 0..(pause.as_millis() as u16 / 2).max(dead) {
            send(hosts.far(100 + nth % dead));
            thread::sleep(pause / 1_000);
        }
        send(living);
        thread::sleep(pause / 2);
        assert!(
            wait_until(ANSWER, || hosts.counts(from, living)[1] == before[1] + nth + 1),
            "{nth}: {:?}",
            the_rule(&hosts.server)
        );
    }
    let next_hops = on(&hosts.server, hook, |byway| byway.next_hops()).unwrap();
    assert_eq!(next_hops[0].state, NextHopState::Up);

    // Without carrier it is dead for all, at once.
    hosts.router[0].set_up("eth0", false).unwrap();
    assert!(hosts.goes(from, living, Way::Gateway), "{:?}", the_rule(&hosts.server));
}
