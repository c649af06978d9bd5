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
        let until = Instant::now() + Duration::from_secs(4);
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

/// The kernel finds one that answers by itself, and must not be kept from it.
#[test]
fn it_stands_in_for_no_gateway_beside_one_that_answers() {
    let seed = seed();
    let second = seed.lab.node("second").unwrap();
    seed.lab.link((&seed.server, "eth2"), (&second, "eth0")).unwrap();
    for (address, gateway) in [("10.111.225.1/24", "10.111.225.9"), ("2001:db8:225::1/64", "2001:db8:225::9")]
    {
        let length = address.split('/').nth(1).unwrap();
        seed.server.address("eth2", address).unwrap();
        second.address("eth0", &format!("{gateway}/{length}")).unwrap();
        seed.server.route(&format!("default via {gateway} metric 2000")).unwrap();
    }
    on(&seed.server, any_hook(), |byway| byway.attach(&byway::Attach::devices(["eth2"]))).unwrap();
    for gateway in ["10.111.225.9", "2001:db8:225::9"] {
        assert!(seed.server.ping(None, gateway.parse().unwrap(), ANSWER).is_ok());
    }
    go_silent(&seed);
    let guard = Guarding::of(&seed.server);
    let asked = |gateway: IpAddr| {
        let _ = works(&seed, if gateway.is_ipv4() { IPV4.service } else { IPV6.service });
        let entry = seed.server.neighbour("eth0", gateway).unwrap();
        entry.is_some_and(|entry| entry.state == NeighbourState::Failed)
    };
    assert!(wait_until(ANSWER, || asked(IPV4.gateway) && asked(IPV6.gateway)));
    assert!(guard.events.recv_timeout(SILENCE).is_err());
}
