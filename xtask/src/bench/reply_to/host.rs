//! A host with one rule, whose programs run on crafted packets: they come in from the router, and leave for the default
//! gateway.

use std::{
    cell::{Cell, RefCell},
    net::IpAddr,
    ops::Range,
    path::Path,
};

use anyhow::{Context, Result, ensure};
use aya::{
    maps::{Array, Map, MapData, PerCpuArray},
    programs::ProgramFd,
};
use byway::{Byway, NextHopSpec, RuleSpec};
use byway_abi::{
    flow::{TCP, UDP},
    reply::{
        Entry, FAR, FLOW_BUCKETS, FLOW_CONFIRMED, FLOW_KEYS_LEN, FLOWS_OF_BUCKET, FlowCounters, NEAR,
        fingerprint, flow_buckets, flow_key,
    },
};
use byway_lab::seed::{Addresses, Seed};

use crate::bench::{
    minimal,
    vary::{
        REDIRECT, Ran, SkBuff, Turn, UNSPEC, Varies, Vary, address, folder, frame, on_device, program,
        prove_next_hops, shuffle,
    },
};

/// What a host has a rule for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// `from any reply-to`
    ReplyTo,
    /// `from ADDRESS via GATEWAY dev eth1`, for the service address.
    Host,
    /// `from PREFIX reply-to`, and nobody has its addresses.
    Other,
}

/// A host, its programs, and the packets for them.
pub(super) struct Host {
    seed: Seed,
    service: IpAddr,
    flows: u32,
    /// Varies packets of the flows.
    vary: RefCell<Vary>,
    /// Varies packets of others, which the host does not know yet.
    vary_new: Option<RefCell<Vary>>,
    /// The largest share of these that have found no place.
    refused: Cell<f64>,
    departure: ProgramFd,
    arrival: ProgramFd,
    reception: Option<ProgramFd>,
    table: Option<Table>,
    pub(super) frames: Frames,
    /// Where packets leave, but for a rule.
    eth0: SkBuff,
    /// Where packets come in.
    eth1: SkBuff,
}

impl Host {
    /// Makes a host for packets of so many flows, whose clients have an address each.
    pub(super) fn new(addresses: Addresses, rule: Rule, flows: u32) -> Result<Self> {
        let seed = Seed::new()?;
        let server = &seed.server;
        let Addresses { service, router, .. } = addresses;
        let [any, nobody] =
            if service.is_ipv4() { ["0.0.0.0/0", "192.0.2.0/24"] } else { ["::/0", "2001:db8:ffff::/64"] };
        let spec = match rule {
            Rule::ReplyTo => RuleSpec::reply_to(any.parse()?),
            Rule::Host => RuleSpec::new(service.to_string().parse()?, NextHopSpec::via(router).dev("eth1")),
            Rule::Other => RuleSpec::reply_to(nobody.parse()?),
        };
        server.run(|| Byway::open()?.add(&spec))?;
        let folder = folder()?;
        prove_next_hops(&folder)?;
        let is_sent_back = rule != Rule::Host;
        let clients = clients(service.is_ipv4(), 0..flows);
        let mut vary = Vary::for_pins(&folder)?;
        vary.set_addresses(Varies::Source, &clients)?;
        Ok(Self {
            service,
            flows,
            vary: RefCell::new(vary),
            vary_new: None,
            refused: Cell::new(0.0),
            departure: program(&folder, "departure")?,
            arrival: program(&folder, "arrival")?,
            reception: is_sent_back.then(|| program(&folder, "reception")).transpose()?,
            table: is_sent_back.then(|| Table::open(&folder)).transpose()?,
            frames: Frames::new(service, clients[0], server.mac("eth1")?),
            eth0: on_device(server.ifindex("eth0")?),
            eth1: on_device(server.ifindex("eth1")?),
            seed,
        })
    }

    /// Prepares packets of so many flows that the host does not know: a power of two. The host has to be the one that was made
    /// last.
    pub(super) fn and_new_flows(mut self, flows: u32) -> Result<Self> {
        let mut vary = Vary::for_pins(&folder()?)?;
        let numbers = FIRST_NEW..FIRST_NEW + flows;
        vary.set_addresses(Varies::Source, &clients(self.service.is_ipv4(), numbers))?;
        self.vary_new = Some(RefCell::new(vary));
        Ok(self)
    }

    /// Returns the table of flows.
    pub(super) fn table(&self) -> Result<&Table> {
        self.table.as_ref().context("a rule without reply-to has no flows")
    }

    /// Forgets all flows, and establishes those that `vary` has packets of, by the programs themselves and with real
    /// handshakes: a SYN of each comes in, its SYN-ACK leaves, and the acknowledgement of that comes in. A million of them take
    /// about a second, so nothing has to be written past the programs.
    pub(super) fn establish(&self) -> Result<()> {
        self.table()?.clear()?;
        let mut vary = self.vary.borrow_mut();
        let reception = self.reception.as_ref().context("a rule with reply-to has a reception")?;
        let empty = vary.empty()?;
        // Some come twice, and that changes nothing.
        let all = self.flows.next_power_of_two();
        for (frame, device, program, varies) in [
            (&self.frames.syn, &self.eth1, reception, Varies::Source),
            (&self.frames.syn_ack, &self.eth0, &self.departure, Varies::Destination),
            (&self.frames.request, &self.eth1, reception, Varies::Source),
        ] {
            vary.go_over_to([program, &empty])?;
            vary.set_turn(Turn::First)?;
            vary.set_varies(varies)?;
            vary.run(&self.seed.server, device, frame, all)?;
        }
        Ok(())
    }

    /// Establishes all flows. From now on, packets are only of those that found a place in the table. Returns how many these
    /// are. The host has to be the one that was made last.
    pub(super) fn establish_for_good(&mut self) -> Result<usize> {
        self.establish()?;
        let table = self.table()?;
        let mut known = clients(self.service.is_ipv4(), 0..self.flows);
        let mut error = Ok(());
        known.retain(|client| {
            table.has(*client, self.service).unwrap_or_else(|cause| {
                error = Err(cause);
                false
            })
        });
        error?;
        ensure!(
            known.len() as f64 >= ENOUGH * f64::from(self.flows),
            "of {} flows, {} are known",
            self.flows,
            known.len()
        );
        self.vary.borrow_mut().set_addresses(Varies::Source, &known)?;
        self.check(known.len())?;
        Ok(known.len())
    }

    /// Checks that so many flows are established by one way, and that each of their replies is sent back.
    fn check(&self, known: usize) -> Result<()> {
        let server = &self.seed.server;
        let flows = server.run(|| Byway::open()?.flows(None))?;
        let established: u64 = flows.ways.iter().map(|way| way.established).sum();
        ensure!(
            established == known as u64 && flows.ways.len() == 1,
            "{known} flows were to be established by one way: {flows:?}"
        );
        let before = self.found_no_way()?;
        // A departure and an arrival of each.
        let all = 2 * u32::try_from(known.next_power_of_two())?;
        self.departure_and_arrival(all)?;
        let after = self.found_no_way()?;
        ensure!(after == before, "{} replies found no way", after - before);
        Ok(())
    }

    /// Returns how many packets that rules match were of no known flow.
    fn found_no_way(&self) -> Result<u64> {
        let rules = self.seed.server.run(|| Byway::open()?.rules())?;
        Ok(rules.iter().map(|rule| rule.no_next_hop.packets).sum())
    }

    /// Measures the nanoseconds for a packet that comes in.
    pub(super) fn reception(&self, frame: &[u8], repeat: u32) -> Result<f64> {
        let mut vary = self.vary.borrow_mut();
        self.receive(&mut vary, frame, repeat)
    }

    /// Measures the nanoseconds for the first packets of the new flows. Those that find no place in the table take part.
    pub(super) fn first_packets(&self, flows: u32) -> Result<f64> {
        let vary = self.vary_new.as_ref().context("no new flows were prepared")?;
        let before = self.table()?.counters()?;
        let took = self.receive(&mut vary.borrow_mut(), &self.frames.syn, flows)?;
        let after = self.table()?.counters()?;
        let [noted, refused] = [after.noted - before.noted, after.refused - before.refused];
        ensure!(
            noted + refused == u64::from(flows) && noted > refused,
            "{flows} flows were to be noted: {before:?}, {after:?}"
        );
        self.refused.set(self.refused.get().max(refused as f64 / f64::from(flows)));
        Ok(took)
    }

    /// Returns the largest share of new flows that have found no place in the table.
    pub(super) fn refused(&self) -> f64 {
        self.refused.get()
    }

    fn receive(&self, vary: &mut Vary, frame: &[u8], repeat: u32) -> Result<f64> {
        let reception = self.reception.as_ref().context("a rule with reply-to has a reception")?;
        let empty = vary.empty()?;
        vary.set_varies(Varies::Source)?;
        vary.set_turn(Turn::First)?;
        let mut run = |program| {
            vary.go_over_to([program, &empty])?;
            vary.run(&self.seed.server, &self.eth1, frame, repeat)
        };
        let without = run(&empty)?;
        let with = run(reception)?;
        ensure!(with.verdict == UNSPEC, "the reception says {}", with.verdict);
        Ok(with.nanoseconds - without.nanoseconds)
    }

    /// Measures the nanoseconds for a packet that leaves and that no rule matches.
    pub(super) fn departure(&self, repeat: u32) -> Result<f64> {
        let mut vary = self.vary.borrow_mut();
        let empty = vary.empty()?;
        let mut run = |programs, turn| self.leave(&mut vary, programs, turn, repeat);
        let without = run([&empty, &empty], Turn::First)?;
        let with = run([&self.departure, &empty], Turn::First)?;
        ensure!(with.verdict == UNSPEC, "the departure says {}", with.verdict);
        Ok(with.nanoseconds - without.nanoseconds)
    }

    /// Measures the nanoseconds for a reply that departs and arrives, and those for its departure: what is left without those
    /// for an arrival, which is measured alone. A departure cannot be measured alone: before a next hop's packet has arrived,
    /// the next one is a probe.
    pub(super) fn departure_and_arrival(&self, repeat: u32) -> Result<[f64; 2]> {
        let mut vary = self.vary.borrow_mut();
        let empty = vary.empty()?;
        let departed = self.leave(&mut vary, [&self.departure, &empty], Turn::First, 1)?;
        ensure!(
            departed.verdict == REDIRECT && departed.is_marked(),
            "the departure says {}",
            departed.verdict
        );
        vary.set_mark(&departed)?;
        let mut run = |programs, turn| self.leave(&mut vary, programs, turn, repeat);
        let arrived = run([&empty, &self.arrival], Turn::Second)?;
        let without_arrived = run([&empty, &empty], Turn::Second)?;
        let without = run([&empty, &empty], Turn::Alternating)?;
        // Every second run is an arrival, and the last one is: they come in pairs.
        let both = run([&self.departure, &self.arrival], Turn::Both)?;
        for ran in [arrived, both] {
            ensure!(ran.verdict == UNSPEC && !ran.is_marked(), "the arrival says {}", ran.verdict);
        }
        let whole = 2.0 * (both.nanoseconds - without.nanoseconds);
        Ok([whole, whole - (arrived.nanoseconds - without_arrived.nanoseconds)])
    }

    /// Lets a reply of each flow leave in turn.
    fn leave(&self, vary: &mut Vary, programs: [&ProgramFd; 2], turn: Turn, repeat: u32) -> Result<Ran> {
        vary.go_over_to(programs)?;
        vary.set_turn(turn)?;
        vary.set_varies(Varies::Destination)?;
        vary.run(&self.seed.server, &self.eth0, &self.frames.reply, repeat)
    }
}

/// Returns the addresses of clients, in random order.
fn clients(is_v4: bool, numbers: Range<u32>) -> Vec<IpAddr> {
    let mut clients: Vec<IpAddr> = numbers.map(|nth| address(is_v4, nth)).collect();
    shuffle(&mut clients);
    clients
}

/// The packets of a flow, whose remote address varies.
pub(super) struct Frames {
    syn: Vec<u8>,
    syn_ack: Vec<u8>,
    /// What the client says in an established connection, and to complete the handshake.
    pub(super) request: Vec<u8>,
    /// What the host says in it.
    reply: Vec<u8>,
    /// A datagram of the client.
    pub(super) datagram: Vec<u8>,
}

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
/// The share of the flows that have to find a place in the table.
const ENOUGH: f64 = 0.99;
/// The number of the first client whose flows are new: far above those of the known ones.
const FIRST_NEW: u32 = 1 << 24;
/// The number of the SYN-ACK.
const NUMBER: u32 = 0x1234_5678;
const CLIENT_PORT: u16 = 40_000;
const SERVER_PORT: u16 = 443;

impl Frames {
    /// Returns packets between a client and the service address, which come in at a device with this Ethernet address.
    fn new(service: IpAddr, client: IpAddr, mac: [u8; 6]) -> Self {
        let tcp_in =
            |number, acknowledged, flags| tcp([CLIENT_PORT, SERVER_PORT], [number, acknowledged], flags);
        let tcp_out =
            |number, acknowledged, flags| tcp([SERVER_PORT, CLIENT_PORT], [number, acknowledged], flags);
        let comes_in = |protocol, content: &[u8]| {
            let mut frame = frame(client, service, protocol, content);
            // The programs leave alone what is for another host.
            frame[..mac.len()].copy_from_slice(&mac);
            frame
        };
        let leaves = |content: [u8; 20]| frame(service, client, TCP, &content);
        Self {
            syn: comes_in(TCP, &tcp_in(1, 0, SYN)),
            syn_ack: leaves(tcp_out(NUMBER, 2, SYN | ACK)),
            request: comes_in(TCP, &tcp_in(2, NUMBER + 1, ACK)),
            reply: leaves(tcp_out(NUMBER + 1, 2, ACK)),
            datagram: comes_in(UDP, &[0; 8]),
        }
    }
}

/// Returns a TCP header without options (RFC 9293): with both ports, both numbers, and the flags.
fn tcp(ports: [u16; 2], numbers: [u32; 2], flags: u8) -> [u8; 20] {
    let mut header = [0; 20];
    for (place, port) in header[..4].chunks_exact_mut(2).zip(ports) {
        place.copy_from_slice(&port.to_be_bytes());
    }
    for (place, number) in header[4..12].chunks_exact_mut(4).zip(numbers) {
        place.copy_from_slice(&number.to_be_bytes());
    }
    // Its length in words, and the flags.
    (header[12], header[13]) = (5 << 4, flags);
    header
}

type Bucket = [u64; 2 * FLOWS_OF_BUCKET];

/// The table of flows.
pub(super) struct Table {
    buckets: RefCell<Array<MapData, Bucket>>,
    /// The secret numbers in fingerprints.
    keys: [u32; FLOW_KEYS_LEN],
    counters: PerCpuArray<MapData, FlowCounters>,
}

impl Table {
    fn open(folder: &Path) -> Result<Self> {
        let map =
            |name: &str| -> Result<Map> { Ok(Map::from_map_data(MapData::from_pin(folder.join(name))?)?) };
        let buckets = RefCell::new(map("FLOWS-0")?.try_into()?);
        let keys: Array<MapData, [u32; FLOW_KEYS_LEN]> = map("FLOW_KEYS")?.try_into()?;
        Ok(Self { buckets, keys: keys.get(&0, 0)?, counters: map("FLOW_COUNTERS")?.try_into()? })
    }

    /// Forgets all flows.
    fn clear(&self) -> Result<()> {
        let mut buckets = self.buckets.borrow_mut();
        for number in 0..FLOW_BUCKETS {
            buckets.set(number, Bucket::default(), 0)?;
        }
        Ok(())
    }

    /// Returns whether the connection of a client with the service address is in the table, and established.
    fn has(&self, client: IpAddr, service: IpAddr) -> Result<bool> {
        let version = if service.is_ipv4() { 4 } else { 6 };
        let words = flow_key([client, service].map(minimal::words), [CLIENT_PORT, SERVER_PORT], version, TCP);
        let fingerprint = fingerprint(&words, &self.keys);
        let buckets = self.buckets.borrow();
        for number in [NEAR, FAR].into_iter().flat_map(|part| flow_buckets(fingerprint, part)) {
            let bucket = buckets.get(&number, 0)?;
            let mut entries = bucket.as_chunks::<2>().0.iter();
            if entries.any(|[first, second]| {
                first ^ second == fingerprint && Entry::read(*second).state == FLOW_CONFIRMED
            }) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns the counters of all CPUs together.
    pub(super) fn counters(&self) -> Result<FlowCounters> {
        Ok(FlowCounters::sum(self.counters.get(&0, 0)?.iter()))
    }
}
