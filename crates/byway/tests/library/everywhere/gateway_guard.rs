//! Packets whose rule sends them elsewhere need no answer of the default gateway.

use std::{
    net::IpAddr,
    sync::{
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{Receiver, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use byway::{GatewayEvent, GatewayGuard};
use byway_lab::{
    NeighbourState, Node, Traffic,
    seed::{IPV4, IPV6, Seed},
    wait_until,
};

use crate::support::{ANSWER, SILENCE, any_hook, on, via};

/// A guard at work, until it is dropped.
struct Guarding {
    events: Receiver<GatewayEvent>,
    ends: &'static AtomicBool,
    thread: Option<JoinHandle<()>>,
}

impl Guarding {
    fn of(node: &Node) -> Self {
        let (sender, events) = channel();
        let ends: &'static AtomicBool = Box::leak(Box::default());
        let guard = move || {
            let mut guard = GatewayGuard::open().unwrap();
            while !ends.load(Relaxed) {
                for event in guard.turn(Duration::from_millis(50)).unwrap() {
                    let _ = sender.send(event);
                }
            }
        };
        Self { events, ends, thread: Some(node.spawn(guard)) }
    }

    /// Waits for what it says about the gateways of both families.
    #[track_caller]
    fn says(&self, stands_in: bool) {
        let mut gateways = [(); 2].map(|()| {
            let event = self.events.recv_timeout(ANSWER).unwrap();
            assert_eq!((event.stands_in, event.device.name.as_str()), (stands_in, "eth0"), "{event}");
            event.gateway
        });
        gateways.sort();
        assert_eq!(gateways, [IPV4.gateway, IPV6.gateway]);
    }
}

impl Drop for Guarding {
    fn drop(&mut self) {
        self.ends.store(true, Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(ended.is_some_and(|ended| ended.is_ok()) || thread::panicking());
    }
}

/// The seed with its two rules.
fn seed() -> Seed {
    let seed = Seed::new().unwrap();
    on(&seed.server, any_hook(), |byway| {
        byway.add(&via("192.168.1.5", IPV4.router, "eth1")).unwrap();
        byway.add(&via("2001:db8:1::5", IPV6.router, "eth1")).unwrap();
    });
    // Entries fail within a second, and not only after eight.
    for family in ["ipv4", "ipv6"] {
        for (name, value) in [("delay_first_probe_time", "0"), ("retrans_time_ms", "100")] {
            seed.server.sysctl(&format!("net.{family}.neigh.eth0.{name}"), value).unwrap();
        }
    }
    seed
}

/// The default gateway loses its addresses, and the server what it knows of them.
fn go_silent(seed: &Seed) {
    for (address, gateway) in [("10.111.220.1/24", IPV4.gateway), ("2001:db8:220::1/64", IPV6.gateway)] {
        seed.gateway.delete_address("eth0", address).unwrap();
        // It may know nothing of it yet.
        let _ = seed.server.delete_neighbour("eth0", gateway);
    }
}

fn come_back(seed: &Seed) {
    for address in ["10.111.220.1/24", "2001:db8:220::1/64"] {
        seed.gateway.address("eth0", address).unwrap();
    }
}

fn works(seed: &Seed, service: IpAddr) -> bool {
    seed.client.ping(None, service, SILENCE).is_ok()
}

#[test]
fn a_silent_default_gateway_costs_no_packet() {
    let seed = seed();
    assert!(wait_until(ANSWER, || works(&seed, IPV4.service) && works(&seed, IPV6.service)));
    go_silent(&seed);
    assert!(!works(&seed, IPV4.service) && !works(&seed, IPV6.service));

    let guard = Guarding::of(&seed.server);
    // Whoever sends makes the kernel ask, and notice that nobody answers.
    assert!(wait_until(ANSWER, || works(&seed, IPV4.service) && works(&seed, IPV6.service)));
    guard.says(true);
    let own = seed.server.mac("eth0").unwrap();
    for gateway in [IPV4.gateway, IPV6.gateway] {
        let entry = seed.server.neighbour("eth0", gateway).unwrap().unwrap();
        assert_eq!(entry.lladdr, Some(own), "{entry:?}");
    }

    // The entries fail all the while.
    let heard = seed.router.capture("eth0").unwrap();
    let flows = [(IPV4.service, IPV4.client), (IPV6.service, IPV6.client)];
    let traffic = Traffic::default();
    let sent = thread::scope(|scope| {
        let ending = traffic.ending();
        let sender = scope.spawn(|| seed.server.run(|| traffic.send(&flows, Duration::from_millis(1))));
        let mut failed = 0;
        // Long enough for the kernel to be let ask by itself.
        let until = Instant::now() + Duration::from_secs(12);
        while Instant::now() < until {
            let state = seed.server.neighbour("eth0", IPV4.gateway).unwrap().map(|it| it.state);
            failed += u32::from(state == Some(NeighbourState::Probe));
            thread::sleep(Duration::from_millis(10));
        }
        assert!(failed > 0, "the kernel asks for it again and again");
        drop(ending);
        sender.join().unwrap().unwrap()
    });
    let came = || heard.count(|frame| [Some(IPV4.service), Some(IPV6.service)].contains(&frame.source()));
    assert!(wait_until(ANSWER, || came() == sent), "{} of {sent} came", came());
    assert!(guard.events.try_recv().is_err());

    // Another machine takes its place.
    seed.gateway.set_mac("eth0", [2, 0, 0, 0, 0, 9]).unwrap();
    come_back(&seed);
    guard.says(false);
    for gateway in [IPV4.gateway, IPV6.gateway] {
        let entry = seed.server.neighbour("eth0", gateway).unwrap().unwrap();
        assert_eq!(entry.lladdr, Some([2, 0, 0, 0, 0, 9]), "{entry:?}");
        assert!(seed.server.ping(None, gateway, ANSWER).is_ok());
    }
    assert!(works(&seed, IPV4.service) && works(&seed, IPV6.service));
}

/// Nothing that it leaves behind stays.
#[test]
fn a_guard_that_is_gone_leaves_the_host_as_it_is_without() {
    let seed = seed();
    go_silent(&seed);
    let guard = Guarding::of(&seed.server);
    assert!(wait_until(ANSWER, || works(&seed, IPV4.service) && works(&seed, IPV6.service)));
    guard.says(true);
    // One that starts goes on with it.
    drop(guard);
    let guard = Guarding::of(&seed.server);
    guard.says(true);
    drop(guard);
    assert!(wait_until(ANSWER, || !works(&seed, IPV4.service) && !works(&seed, IPV6.service)));
    come_back(&seed);
    assert!(wait_until(ANSWER, || works(&seed, IPV4.service) && works(&seed, IPV6.service)));
}

/// Whether the gateways of both families fail without anybody standing in.
fn is_left_alone(seed: &Seed, guard: &Guarding) -> bool {
    let failed = |gateway: IpAddr| {
        let _ = works(seed, if gateway.is_ipv4() { IPV4.service } else { IPV6.service });
        let entry = seed.server.neighbour("eth0", gateway).unwrap();
        entry.is_some_and(|entry| entry.state == NeighbourState::Failed)
    };
    assert!(wait_until(ANSWER, || failed(IPV4.gateway) && failed(IPV6.gateway)));
    guard.events.recv_timeout(SILENCE).is_err()
}

/// The kernel may find one that answers by itself, and must not be misled. It takes one that nobody has asked for one that answers.
#[test]
fn it_stands_in_for_no_gateway_beside_another_way() {
    let seed = seed();
    let second = seed.lab.node("second").unwrap();
    seed.lab.link((&seed.server, "eth2"), (&second, "eth0")).unwrap();
    for (address, gateway) in [("10.111.225.1/24", "10.111.225.9"), ("2001:db8:225::1/64", "2001:db8:225::9")]
    {
        seed.server.address("eth2", address).unwrap();
        seed.server.route(&format!("default via {gateway} metric 2000")).unwrap();
    }
    go_silent(&seed);
    let guard = Guarding::of(&seed.server);
    assert!(is_left_alone(&seed, &guard));
    // When it is the only way, it is guarded, until there is another one again.
    let others = ["default via 10.111.225.9 metric 2000", "default via 2001:db8:225::9 metric 2000"];
    others.iter().for_each(|route| seed.server.delete_route(route).unwrap());
    assert!(wait_until(ANSWER, || works(&seed, IPV4.service) && works(&seed, IPV6.service)));
    guard.says(true);
    others.iter().for_each(|route| seed.server.route(route).unwrap());
    guard.says(false);
    let own = seed.server.mac("eth0").unwrap();
    for gateway in [IPV4.gateway, IPV6.gateway] {
        let entry = seed.server.neighbour("eth0", gateway).unwrap();
        assert!(entry.is_none_or(|entry| entry.lladdr != Some(own)), "nothing misleads the kernel");
    }
}

/// Flows of a group have to go elsewhere when it dies.
#[test]
fn it_stands_in_for_no_next_hop() {
    let seed = seed();
    on(&seed.server, any_hook(), |byway| {
        byway.add(&via("192.168.1.77", IPV4.gateway, "eth0")).unwrap();
        byway.add(&via("2001:db8:1::77", IPV6.gateway, "eth0")).unwrap();
    });
    go_silent(&seed);
    let guard = Guarding::of(&seed.server);
    assert!(is_left_alone(&seed, &guard));
}

/// Whoever answers for another does not claim to be the first to do so (RFC 4861, 7.2.4), and the kernel keeps what it has.
#[test]
fn a_gateway_that_a_proxy_answers_for_is_found_again() {
    let seed = seed();
    seed.gateway.delete_address("eth0", "2001:db8:220::1/64").unwrap();
    let _ = seed.server.delete_neighbour("eth0", IPV6.gateway);
    let guard = Guarding::of(&seed.server);
    assert!(wait_until(ANSWER, || works(&seed, IPV6.service)));
    let event = guard.events.recv_timeout(ANSWER).unwrap();
    assert!(event.stands_in && event.gateway == IPV6.gateway, "{event}");
    seed.gateway.sysctl("net.ipv6.conf.all.proxy_ndp", "1").unwrap();
    seed.gateway.sysctl("net.ipv6.conf.all.forwarding", "1").unwrap();
    seed.gateway.sysctl("net.ipv6.neigh.eth0.proxy_delay", "0").unwrap();
    seed.gateway.proxy_neighbour("eth0", IPV6.gateway).unwrap();
    let event = guard.events.recv_timeout(ANSWER).unwrap();
    assert!(!event.stands_in && event.gateway == IPV6.gateway, "{event}");
}
