//! A neighbour that replies go to dies: what the rule says `else` holds until it is back.

use std::{
    fs,
    path::PathBuf,
    sync::{
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{Receiver, channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use aya::maps::{Array, Map, MapData};
use byway::{Action, Attach, FlowSpec, Hook, TargetSpec, WayEvent, WayState, WayWatcher};
use byway_abi::meta;
use byway_lab::{Frame, Node, wait_until};

use crate::support::{
    ANSWER, hooks_and_families, on, packet, pins,
    replies::{PORT, Steered},
    routers::Routers,
};

const ARP: u16 = 0x0806;
/// The number of ICMPv6.
const ICMPV6: u8 = 58;

/// A watcher at work, until it is dropped.
struct Watching {
    events: Receiver<WayEvent>,
    ends: &'static AtomicBool,
    thread: Option<JoinHandle<()>>,
}

impl Watching {
    fn of(node: &Node) -> Self {
        let (sender, events) = channel();
        let ends: &'static AtomicBool = Box::leak(Box::default());
        let watch = move || {
            let mut watcher = WayWatcher::open().unwrap();
            while !ends.load(Relaxed) {
                for event in watcher.turn(Duration::from_millis(50)).unwrap() {
                    let _ = sender.send(event);
                }
            }
        };
        Self { events, ends, thread: Some(node.spawn(watch)) }
    }

    #[track_caller]
    fn says(&self, state: WayState) -> WayEvent {
        let event = self.events.recv_timeout(ANSWER).unwrap();
        assert_eq!((event.state, event.way.device.name.as_str()), (state, "eth1"), "{event}");
        event
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.ends.store(true, Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(ended.is_some_and(|ended| ended.is_ok()) || thread::panicking());
    }
}

/// Two uplinks, and a rule that sends what is no reply to the second router. A datagram has come in by the first one.
fn steered(hook: Hook, v6: bool) -> Steered {
    let hosts = Routers::new(v6);
    let otherwise = TargetSpec::NextHop(hosts.hop(2));
    drop(hosts);
    let steered = Steered::new(hook, v6, otherwise);
    steered.udp.ask(1);
    assert_eq!(steered.udp.answer(&steered.hosts), 1);
    steered
}

fn state(hosts: &Routers, hook: Hook) -> WayState {
    let flows = on(&hosts.server, hook, |byway| byway.flows(Some("eth1"))).unwrap();
    assert_eq!(flows.ways.len(), 1, "{flows:?}");
    flows.ways[0].state
}

/// What `byway get` says of the answers.
fn action(steered: &Steered, hook: Hook) -> (Action, Option<WayState>) {
    let (at, client) = (steered.udp.at, steered.udp.client);
    let flow = format!("{} to {} proto udp sport {PORT} dport {}", at.ip(), client.ip(), client.port());
    let flow: FlowSpec = flow.parse().unwrap();
    let decision = on(&steered.hosts.server, hook, |byway| byway.get(&flow)).unwrap();
    (decision.action, decision.reply.map(|it| it.way_state))
}

#[test]
fn replies_leave_a_silent_router_until_it_answers() {
    for (hook, v6) in hooks_and_families() {
        let steered = steered(hook, v6);
        let Steered { hosts, udp, .. } = &steered;
        let watching = Watching::of(&hosts.server);
        // Replies alone are no reason to give a router up that answers. Some of them leave before the watcher looks.
        for _ in 0..20 {
            assert_eq!(udp.answer(hosts), 1, "{hook}");
            thread::sleep(Duration::from_millis(100));
        }
        assert!(watching.events.try_recv().is_err());

        // It answers for none of its addresses (`arp_ignore`, ip-sysctl).
        let (name, mute, talk) = match v6 {
            true => ("net.ipv6.conf.eth0.disable_ipv6", "1", "0"),
            false => ("net.ipv4.conf.eth0.arp_ignore", "8", "0"),
        };
        hosts.router[0].sysctl(name, mute).unwrap();
        assert!(wait_until(ANSWER, || udp.answer(hosts) == 2), "{hook}");
        let event = watching.says(WayState::Silent);
        assert!(event.to_string().ends_with("the neighbour does not answer"), "{event}");
        assert_eq!(state(hosts, hook), WayState::Silent);
        assert_eq!(action(&steered, hook), (Action::Redirect, Some(WayState::Silent)));
        assert_eq!(udp.answer(hosts), 2);

        hosts.router[0].sysctl(name, talk).unwrap();
        hosts.address_again(&hosts.router[0], "eth0", &hosts.on_link(1, 1));
        assert!(wait_until(ANSWER, || udp.answer(hosts) == 1), "{hook}");
        watching.says(WayState::Up);
        assert_eq!((state(hosts, hook), action(&steered, hook).0), (WayState::Up, Action::ReplyTo));
    }
}

#[test]
fn replies_leave_a_link_without_carrier_and_a_verdict_ends_by_itself() {
    for (hook, v6) in hooks_and_families() {
        let steered = steered(hook, v6);
        let Steered { hosts, udp, .. } = &steered;
        let watching = Watching::of(&hosts.server);
        hosts.router[0].set_up("eth0", false).unwrap();
        watching.says(WayState::NoCarrier);
        assert_eq!((state(hosts, hook), udp.answer(hosts)), (WayState::NoCarrier, 2));
        hosts.server.set_up("eth1", false).unwrap();
        assert!(wait_until(ANSWER, || state(hosts, hook) == WayState::DeviceDown));
        hosts.server.set_up("eth1", true).unwrap();
        hosts.router[0].set_up("eth0", true).unwrap();
        watching.says(WayState::Up);
        assert!(wait_until(ANSWER, || udp.answer(hosts) == 1), "{hook}");

        // When nobody renews it, a verdict ends within five seconds.
        hosts.router[0].set_up("eth0", false).unwrap();
        watching.says(WayState::NoCarrier);
        drop(watching);
        assert_eq!(udp.answer(hosts), 2);
        hosts.router[0].set_up("eth0", true).unwrap();
        assert!(wait_until(ANSWER, || udp.answer(hosts) == 1), "{hook}");
    }
}

/// While this host's device has another Ethernet address, nothing can come in by the way, and nobody may take the old one for
/// its address.
#[test]
fn nobody_hears_of_an_ethernet_address_that_is_gone() {
    for (hook, v6) in hooks_and_families() {
        let steered = steered(hook, v6);
        let Steered { hosts, udp, .. } = &steered;
        let watching = Watching::of(&hosts.server);
        let asked = hosts.router[0].capture("eth0").unwrap();
        let old = hosts.server.mac("eth1").unwrap();
        let is_question = |frame: &Frame| {
            let is_of_neighbours = frame.ether_type() == Some(ARP) || frame.protocol() == Some(ICMPV6);
            is_of_neighbours && frame.payload().windows(6).any(|it| it == old)
        };
        let asks = || {
            udp.answer(hosts);
            asked.count(is_question) > 0
        };
        assert!(wait_until(ANSWER, asks), "{hook}: it asks whoever gets replies");
        hosts.server.set_mac("eth1", [0x02, 0, 0, 0, 0, 9]).unwrap();
        thread::sleep(Duration::from_secs(1));
        let before = asked.count(is_question);
        // Longer than a router gets that is silent.
        for _ in 0..40 {
            udp.answer(hosts);
            thread::sleep(Duration::from_millis(100));
        }
        assert_eq!(asked.count(is_question), before, "{hook}");
        assert!(watching.events.try_recv().is_err(), "{hook}");
    }
}

/// Pins of schema 13 have no signs of life. Whoever takes them over makes them, also if no rule changes.
#[test]
fn ways_of_an_older_schema_are_watched() {
    for (hook, v6) in hooks_and_families() {
        let steered = steered(hook, v6);
        let Steered { hosts, udp, .. } = &steered;
        let folder = PathBuf::from(pins().remove(0));
        for map in ["WAY_LIVENESS", "WAY_LIVENESS-0", "REPLY_HINTS"] {
            fs::remove_file(folder.join(map)).unwrap();
        }
        let meta_map = Map::from_map_data(MapData::from_pin(folder.join("META")).unwrap()).unwrap();
        let mut meta_map: Array<MapData, u32> = meta_map.try_into().unwrap();
        meta_map.set(meta::SCHEMA, 13, 0).unwrap();
        on(&hosts.server, hook, |byway| byway.attach(&Attach::Auto)).unwrap();
        assert_eq!(udp.answer(hosts), 1, "{hook}: the flow is known");
        let watching = Watching::of(&hosts.server);
        hosts.router[0].set_up("eth0", false).unwrap();
        watching.says(WayState::NoCarrier);
        assert_eq!(udp.answer(hosts), 2, "{hook}");
    }
}

/// What comes in by a way ends its verdict at once, also if nobody watches any more.
#[test]
fn a_request_puts_its_way_back_in_service() {
    for (hook, v6) in hooks_and_families() {
        let steered = steered(hook, v6);
        let Steered { hosts, udp, .. } = &steered;
        let watching = Watching::of(&hosts.server);
        hosts.router[0].set_up("eth0", false).unwrap();
        watching.says(WayState::NoCarrier);
        drop(watching);
        hosts.router[0].set_up("eth0", true).unwrap();
        let request = packet::datagram(udp.client, udp.at, b"ask");
        let request = packet::ip(udp.client.ip(), udp.at.ip(), packet::UDP, &request);
        let [sender, receiver] = [hosts.router[0].mac("eth0").unwrap(), hosts.server.mac("eth1").unwrap()];
        hosts.router[0].send_frame("eth0", &packet::addressed(request, sender, receiver)).unwrap();
        udp.server.recv_from(&mut [0; 16]).unwrap();
        assert_eq!((udp.answer(hosts), state(hosts, hook)), (1, WayState::Up), "{hook}");
    }
}
