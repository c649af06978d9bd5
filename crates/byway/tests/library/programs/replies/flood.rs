//! A flood of spoofed requests through the real programs (`BPF_PROG_TEST_RUN`, bpf(2)): connections that are established keep
//! their way, and new ones still find a place.

use std::{
    collections::{BTreeMap, HashSet},
    net::{IpAddr, SocketAddr},
    path::Path,
    thread,
};

use aya::maps::{Array, HashMap, Map, MapData};
use byway_abi::reply::{
    FAR, FLOW_BUCKETS, FLOW_KEYS_LEN, FLOWS_OF_BUCKET, HINTS, MAX_FLOWS, MAX_WAYS_OF_DEVICE, NEAR,
    NEAR_BUCKETS, fingerprint, flow_buckets, flow_key, ways_key,
};
use byway_lab::seed::{IPV4, IPV6, Seed};

use super::{Programs, two_uplinks};
use crate::support::{
    any_hook,
    departure::{REDIRECT, UNSPEC},
    on, packet, pins,
    random::Random,
    replies::{ACK, SYN, replies},
    rules,
};

/// Connections that are established before the flood.
const ESTABLISHED: usize = 50_000;
/// Connections that are made during the flood.
const NEWCOMERS: usize = 5_000;
const SPOOFED: usize = 800_000;
/// All flows have all their buckets in one part of the table, as large as this fraction of it. So it is as hard on them as if
/// there were so many times as many: more than half as many again as the whole table has room for.
const FRACTION: u32 = 4;
/// Neighbours that requests come in by, on two devices.
const NEIGHBOURS: u32 = 64;

const SERVICE_PORT: u16 = 443;
/// What the server's numbers begin with.
const SERVER_NUMBER: u32 = 0x00FF_FFF0;

/// A client's flow, and the neighbour that its requests come in by.
#[derive(Clone, Copy)]
struct Flow {
    client: SocketAddr,
    neighbour: u32,
}

impl Flow {
    fn service(&self) -> SocketAddr {
        let address = if self.client.is_ipv4() { IPV4.service } else { IPV6.service };
        SocketAddr::new(address, SERVICE_PORT)
    }
}

fn mac_of_neighbour(nth: u32) -> [u8; 6] {
    let [a, b, c, d] = nth.to_be_bytes();
    [0x02, 0x42, a, b, c, d]
}

/// An address as the programs have it.
fn words(address: IpAddr) -> [u32; 4] {
    match address {
        IpAddr::V4(v4) => [u32::from_ne_bytes(v4.octets()), 0, 0, 0],
        IpAddr::V6(v6) => {
            let octets = v6.octets();
            std::array::from_fn(|nth| u32::from_ne_bytes(octets.as_chunks::<4>().0[nth]))
        }
    }
}

/// Flows from random clients in the part of the table, no two of them the same.
struct Flows {
    random: Random,
    keys: [u32; FLOW_KEYS_LEN],
    known: HashSet<u64>,
    /// How many buckets they may be in.
    buckets: u32,
}

impl Flows {
    fn next(&mut self, is_tcp: bool) -> Flow {
        let bits = self.random.next();
        let (high, low) = ((bits >> 32) as u32, bits as u32);
        let ip: IpAddr = if low & 1 == 0 {
            // No multicast and the like.
            (high & 0x1FFF_FFFF | 0x4000_0000).to_be_bytes().into()
        } else {
            [0x2001, 0xDB8, 0xFA, 0, 0, 0, (high >> 16) as u16, high as u16].into()
        };
        let mut flow = Flow { client: SocketAddr::new(ip, 0), neighbour: low >> 1 & (NEIGHBOURS - 1) };
        let mut port = (low >> 16) as u16;
        loop {
            port = port.wrapping_add(1);
            flow.client.set_port(port);
            let fingerprint = self.fingerprint(&flow, is_tcp);
            let [one, other] = flow_buckets(fingerprint, FAR);
            if one < self.buckets && other < self.buckets && self.known.insert(fingerprint) {
                return flow;
            }
        }
    }

    fn fingerprint(&self, flow: &Flow, is_tcp: bool) -> u64 {
        let protocol = if is_tcp { packet::TCP } else { packet::UDP };
        let version = if flow.client.is_ipv4() { 4 } else { 6 };
        let addresses = [flow.client.ip(), flow.service().ip()].map(words);
        let key = flow_key(addresses, [flow.client.port(), SERVICE_PORT], version, protocol);
        fingerprint(&key, &self.keys)
    }
}

impl Programs {
    /// A frame of a flow comes in by its neighbour.
    fn receive(&self, flow: &Flow, frame: Vec<u8>) {
        let device = flow.neighbour as usize & 1;
        let receiver = self.comes_in_by[device].1;
        self.comes_in(device, &packet::addressed(frame, mac_of_neighbour(flow.neighbour), receiver));
    }

    /// A reply leaves. Returns the neighbour that it is sent back to, by its Ethernet address.
    fn reply(&self, frame: &[u8]) -> Option<[u8; 6]> {
        match self.leaves(frame) {
            (REDIRECT, out) => Some(out[..6].try_into().unwrap()),
            (UNSPEC, _) => None,
            (other, _) => panic!("verdict {other}"),
        }
    }

    fn request(&self, flow: &Flow) {
        self.receive(flow, packet::tcp(flow.client, flow.service(), [1, 0], SYN, &[]));
    }

    fn answer(&self, flow: &Flow) -> Option<[u8; 6]> {
        self.reply(&packet::tcp(flow.service(), flow.client, [SERVER_NUMBER, 2], SYN | ACK, &[]))
    }

    /// SYN, SYN-ACK, and the ACK that has the right number. Returns whether the flow has a place.
    fn establish(&self, flow: &Flow) -> bool {
        self.request(flow);
        let Some(went_to) = self.answer(flow) else { return false };
        assert_eq!(went_to, mac_of_neighbour(flow.neighbour));
        let numbers = [2, SERVER_NUMBER.wrapping_add(1)];
        self.receive(flow, packet::tcp(flow.client, flow.service(), numbers, ACK, &[]));
        true
    }

    /// Where a segment of an established connection goes.
    fn goes_on(&self, flow: &Flow) -> Option<[u8; 6]> {
        self.reply(&packet::tcp(flow.service(), flow.client, [SERVER_NUMBER.wrapping_add(1), 2], ACK, &[]))
    }

    /// A datagram comes in, and perhaps one leaves.
    fn datagram(&self, flow: &Flow, is_answered: bool) -> Option<[u8; 6]> {
        let (client, service) = (flow.client, flow.service());
        let ip = |from: SocketAddr, to: SocketAddr| {
            packet::ip(from.ip(), to.ip(), packet::UDP, &packet::datagram(from, to, b"flood"))
        };
        self.receive(flow, ip(client, service));
        is_answered.then(|| self.reply(&ip(service, client))).flatten()
    }

    /// A request of a flood. Returns where the answer goes, if there is one.
    fn spoof(&self, flow: &Flow, is_tcp: bool, is_answered: bool) -> Option<[u8; 6]> {
        if is_tcp {
            self.request(flow);
            is_answered.then(|| self.answer(flow)).flatten()
        } else {
            self.datagram(flow, is_answered)
        }
    }
}

/// Which of the spoofed requests are TCP's, and which are answered.
fn is_tcp(nth: usize) -> bool {
    !nth.is_multiple_of(4)
}

fn is_answered(nth: usize) -> bool {
    (nth / 4).is_multiple_of(4)
}

/// Hosts with a rule for all replies, and the programs of the server.
fn with_programs(fraction: u32) -> (Seed, Programs, Flows) {
    let seed = two_uplinks();
    let specs = ["0.0.0.0/0", "::/0"].map(replies);
    on(&seed.server, any_hook(), |byway| byway.add_all(&specs)).unwrap();
    let programs = Programs::new(&seed.server);
    let keys: Array<MapData, [u32; FLOW_KEYS_LEN]> = pinned("FLOW_KEYS").try_into().unwrap();
    let flows = Flows {
        random: Random::new(7),
        keys: keys.get(&0, 0).unwrap(),
        known: HashSet::new(),
        buckets: FLOW_BUCKETS / fraction,
    };
    (seed, programs, flows)
}

fn pinned(name: &str) -> Map {
    Map::from_map_data(MapData::from_pin(Path::new(&pins().remove(0)).join(name)).unwrap()).unwrap()
}

/// Makes connections. A few may find no place: all sixteen that each may have are those of established ones.
fn establish(programs: &Programs, flows: &[Flow]) -> Vec<Flow> {
    let established: Vec<Flow> = flows.iter().filter(|flow| programs.establish(flow)).copied().collect();
    assert!(established.len() >= flows.len() * 999 / 1_000, "{} connections", established.len());
    established
}

/// Each connection's segments go to its own neighbour.
fn assert_all_go_on(programs: &Programs, established: &[Flow]) {
    for (nth, flow) in established.iter().enumerate() {
        let to = Some(mac_of_neighbour(flow.neighbour));
        assert_eq!(programs.goes_on(flow), to, "connection {nth}, of {}", flow.client);
    }
}

/// Of two buckets that a connection may be in it takes the emptier one. So hardly any is refused as long as the table has much
/// room: here it is two fifths full of connections whose places nobody may take.
#[test]
fn connections_are_spread_evenly() {
    const CONNECTIONS: u32 = MAX_FLOWS / (2 * FRACTION) * 2 / 5;
    let (seed, programs, mut flows) = with_programs(2 * FRACTION);
    let connections: Vec<Flow> = (0..CONNECTIONS).map(|_| flows.next(true)).collect();
    seed.server.run(|| {
        let established = establish(&programs, &connections);
        assert_all_go_on(&programs, &established);
    });
    let known = on(&seed.server, any_hook(), |byway| byway.flows(None)).unwrap();
    println!("{} of {CONNECTIONS} connections were refused", known.refused);
    assert_eq!((known.noted + known.refused, known.evicted), (CONNECTIONS.into(), 0), "{known:?}");
    // By chance it is one in a million or fewer, and would be one in a thousand if the first bucket were taken whenever it has room.
    assert!(known.refused <= 3, "{known:?}");
}

/// Up to schema 13 no buckets were near, and there were no hints. Flows that were noted then are found.
#[test]
fn flows_of_older_schemas_are_found() {
    const MASK: u64 = FLOW_BUCKETS as u64 - 1;
    let (seed, programs, mut flows) = with_programs(1);
    let connections: Vec<Flow> = (0..2_000).map(|_| flows.next(true)).collect();
    seed.server.run(|| {
        let established = establish(&programs, &connections);
        let mut table: Array<MapData, [u64; 2 * FLOWS_OF_BUCKET]> = pinned("FLOWS-0").try_into().unwrap();
        let mut words: BTreeMap<u64, u64> = BTreeMap::new();
        for number in 0..NEAR_BUCKETS {
            let bucket = table.get(&number, 0).unwrap();
            words.extend(bucket.as_chunks::<2>().0.iter().map(|[first, second]| (first ^ second, *second)));
            table.set(number, [0; 2 * FLOWS_OF_BUCKET], 0).unwrap();
        }
        for (nth, flow) in established.iter().enumerate() {
            let fingerprint = flows.fingerprint(flow, true);
            let number = (if nth % 2 == 0 { fingerprint } else { fingerprint >> 32 } & MASK) as u32;
            let mut bucket = table.get(&number, 0).unwrap();
            let free = bucket.as_chunks_mut::<2>().0.iter_mut().find(|entry| **entry == [0, 0]).unwrap();
            *free = [fingerprint ^ words[&fingerprint], words[&fingerprint]];
            table.set(number, bucket, 0).unwrap();
        }
        let mut hints: Array<MapData, u64> = pinned("REPLY_HINTS").try_into().unwrap();
        (0..HINTS).for_each(|hint| hints.set(hint, 0, 0).unwrap());
        assert_all_go_on(&programs, &established);
        // What changes is written where it is found.
        established.iter().for_each(|flow| assert!(programs.establish(flow)));
    });
    let known = on(&seed.server, any_hook(), |byway| byway.flows(None)).unwrap();
    assert_eq!(known.count(), 2_000, "{known:?}");
}

/// A connection that this host ends by a SYN of its own leaves nothing behind that hides a later one between the same ports.
#[test]
fn what_is_forgotten_hides_nothing() {
    let (seed, programs, mut flows) = with_programs(1);
    let flow = flows.next(true);
    seed.server.run(|| {
        let mut table: Array<MapData, [u64; 2 * FLOWS_OF_BUCKET]> = pinned("FLOWS-0").try_into().unwrap();
        let buckets = flow_buckets(flows.fingerprint(&flow, true), NEAR);
        assert!(programs.establish(&flow));
        // It takes the first place of one of them, which is free in both.
        let words = buckets.map(|number| table.get(&number, 0).unwrap()[1]);
        let word = words[0] | words[1];
        let mut in_first_place = |entry: [u64; 2]| {
            for number in buckets {
                let mut bucket = table.get(&number, 0).unwrap();
                bucket[..2].copy_from_slice(&entry);
                table.set(number, bucket, 0).unwrap();
            }
        };
        // Now these are somebody else's, and nobody may take them.
        in_first_place([word ^ 7, word]);
        assert!(programs.establish(&flow));
        let syn = packet::tcp(flow.service(), flow.client, [1, 0], SYN, &[]);
        assert_eq!(programs.reply(&syn), None);
        assert_eq!(programs.goes_on(&flow), None, "it is forgotten");
        // The other one goes, and a later one gets its place.
        in_first_place([0, 0]);
        assert!(programs.establish(&flow));
        assert_eq!(programs.goes_on(&flow), Some(mac_of_neighbour(flow.neighbour)));
    });
}

/// A flood of requests from everywhere takes the places of its own, and of no connection that is established. The counters know
/// each flow, and the table holds those that were noted without the evicted ones.
#[test]
fn a_flood_takes_no_place_of_an_established_connection() {
    let (seed, programs, mut flows) = with_programs(FRACTION);
    let before: Vec<Flow> = (0..ESTABLISHED).map(|_| flows.next(true)).collect();
    let newcomers: Vec<Flow> = (0..NEWCOMERS).map(|_| flows.next(true)).collect();
    let spoofed: Vec<Flow> = (0..SPOOFED).map(|nth| flows.next(is_tcp(nth))).collect();
    let mut established = Vec::new();
    let (mut sent_back, mut went_on, mut began) = (0, 0, 0);
    seed.server.run(|| {
        established = establish(&programs, &before);
        let phase = SPOOFED / NEWCOMERS;
        for (nth, flow) in spoofed.iter().enumerate() {
            let went_to = programs.spoof(flow, is_tcp(nth), is_answered(nth));
            match went_to {
                Some(mac) => assert_eq!(mac, mac_of_neighbour(flow.neighbour)),
                // Without a note of the request, the answer looks like a datagram that the host sends first.
                None if is_answered(nth) && !is_tcp(nth) => began += 1,
                None => {}
            }
            if is_answered(nth) {
                *(if went_to.is_some() { &mut sent_back } else { &mut went_on }) += 1;
            }
            if nth % phase == 0 && programs.establish(&newcomers[nth / phase]) {
                established.push(newcomers[nth / phase]);
            }
        }
        assert_all_go_on(&programs, &established);
    });
    sent_back += 2 * established.len() as u64;
    went_on += (ESTABLISHED + NEWCOMERS - established.len()) as u64;
    let known = on(&seed.server, any_hook(), |byway| byway.flows(None)).unwrap();
    let what = format!(
        "{} established; noted {}, evicted {}, refused {}, in the table {}",
        established.len(),
        known.noted,
        known.evicted,
        known.refused,
        known.count()
    );
    println!("{what}");
    let all = (ESTABLISHED + NEWCOMERS + SPOOFED) as u64;
    assert_eq!(known.noted + known.refused, all + began, "{what}");
    assert_eq!(known.count(), known.noted - known.evicted, "{what}");
    let in_service: u64 = known.ways.iter().map(|it| it.established).sum();
    assert_eq!((in_service, known.ways.len()), (established.len() as u64, NEIGHBOURS as usize), "{what}");
    // It was a flood, and nearly every newcomer has found a place all the same.
    assert!(known.count() > u64::from(MAX_FLOWS / FRACTION) * 99 / 100, "{what}");
    assert!(known.evicted > all / 4, "{what}");
    assert!(established.len() > ESTABLISHED + NEWCOMERS * 99 / 100, "{what}");
    let counted = rules(&seed.server);
    assert_eq!(counted.iter().map(|it| it.departed.packets).sum::<u64>(), sent_back, "{what}");
    assert_eq!(counted.iter().map(|it| it.no_next_hop.packets).sum::<u64>(), went_on, "{what}");
}

/// The same from two processors at once, which share the table without a lock.
#[test]
fn a_flood_on_two_processors_takes_no_place_of_an_established_connection() {
    let (seed, programs, mut flows) = with_programs(2 * FRACTION);
    let before: Vec<Flow> = (0..ESTABLISHED / 2).map(|_| flows.next(true)).collect();
    let spoofed: Vec<Flow> = (0..SPOOFED * 3 / 8).map(|nth| flows.next(is_tcp(nth))).collect();
    let mut established = Vec::new();
    let programs = &programs;
    seed.server.run(|| {
        established = establish(programs, &before);
        thread::scope(|scope| {
            for half in 0..2 {
                let spoofed = spoofed.iter().enumerate().skip(half).step_by(2);
                scope.spawn(move || {
                    spoofed.for_each(|(nth, flow)| {
                        programs.spoof(flow, is_tcp(nth), is_answered(nth));
                    });
                });
            }
            assert_all_go_on(programs, &established);
        });
        assert_all_go_on(programs, &established);
    });
    let known = on(&seed.server, any_hook(), |byway| byway.flows(None)).unwrap();
    let in_service: u64 = known.ways.iter().map(|it| it.established).sum();
    assert_eq!(in_service, established.len() as u64, "{known:?}");
    assert!(known.evicted > spoofed.len() as u64 / 10, "{known:?}");
}

/// Whoever makes up neighbours on one link uses up the room for that link. Neighbours that are known there, and those of other
/// links, keep theirs and get more, and the link has room again once Byway has let go of it.
#[test]
fn made_up_neighbours_take_no_room_of_another_link() {
    let (seed, programs, mut flows) = with_programs(1);
    let mut of = |neighbour| Flow { neighbour, ..flows.next(true) };
    // Those with an even number are on eth1.
    let made_up: Vec<Flow> = (0..MAX_WAYS_OF_DEVICE + 100).map(|nth| of(2 * nth)).collect();
    let newcomers: Vec<Flow> = (0..100).map(|nth| of(2 * nth + 1)).collect();
    let eth1 = seed.server.ifindex("eth1").unwrap();
    let known = |device: &str| {
        let known = on(&seed.server, any_hook(), |byway| byway.flows(None)).unwrap();
        known.ways.iter().filter(|it| it.way.device.name == device).count()
    };
    seed.server.run(|| {
        let established: Vec<Flow> =
            made_up.iter().filter(|flow| programs.establish(flow)).copied().collect();
        assert_eq!(established.len(), MAX_WAYS_OF_DEVICE as usize);
        assert!(newcomers.iter().all(|flow| programs.establish(flow)));
        assert_all_go_on(&programs, &established);
        assert!(!programs.establish(&of(2 * MAX_WAYS_OF_DEVICE)));
    });
    assert_eq!(["eth1", "eth2"].map(known), [MAX_WAYS_OF_DEVICE as usize, newcomers.len()]);
    let specs = ["0.0.0.0/0", "::/0"].map(replies);
    on(&seed.server, any_hook(), |byway| {
        specs.iter().for_each(|spec| {
            byway.del(&spec.selector).unwrap();
        });
        // As if somebody had been killed between the last way and the count.
        let mut ways: HashMap<MapData, u32, [u64; 2]> = pinned("WAYS-0").try_into().unwrap();
        assert_eq!(ways.keys().count(), 0);
        ways.insert(ways_key(eth1), [MAX_WAYS_OF_DEVICE.into(), 0], 0).unwrap();
        byway.add_all(&specs).unwrap();
    });
    assert_eq!(["eth1", "eth2"].map(known), [0, 0]);
    let programs = Programs::new(&seed.server);
    seed.server.run(|| assert!(programs.establish(&of(2 * MAX_WAYS_OF_DEVICE))));
}

/// An Ethernet address of a group is no neighbour's: nobody can make replies go to all hosts on the link.
#[test]
fn no_reply_goes_to_a_group() {
    let (seed, programs, mut flows) = with_programs(1);
    let flow = flows.next(true);
    seed.server.run(|| {
        for sender in [[0xFF; 6], [0x01, 0, 0x5E, 0, 0, 1]] {
            let request = packet::tcp(flow.client, flow.service(), [1, 0], SYN, &[]);
            programs.comes_in(0, &packet::addressed(request, sender, programs.comes_in_by[0].1));
            assert_eq!(programs.answer(&flow), None);
        }
        assert!(programs.establish(&flow));
    });
}
