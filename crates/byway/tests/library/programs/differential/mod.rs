//! Random rules and random packets: what the pinned program does is compared with a model in plain Rust, packet by packet
//! (`BPF_PROG_TEST_RUN`, bpf(2)).
//!
//! The model was written from what is promised, without a look at the program. `BYWAY_DIFFERENTIAL_PACKETS`
//! says how many packets there are and `BYWAY_DIFFERENTIAL_SEED` which; `cargo xtask fuzz-datapath` sets
//! them. The clock decides nothing but when the fragments of a packet are too late to be sent, so a machine
//! that stands still may see other packets, and how many packets that are too big are answered.
//!
//! Not here, because BPF_PROG_TEST_RUN has no knob for it: VLAN tags beside the frame, which other tests send
//! for real, packets that wait for their neighbour, and packets whose segments decide whether they are too
//! big. What the answers say is compared elsewhere. Nor are there next hops that let nothing arrive, or lose
//! their device.

mod changes;
mod counters;
mod judge;
mod model;
mod parse;
mod program;
mod sizes;
mod traffic;
mod world;

use std::{collections::BTreeMap, env, fmt::Write, net::IpAddr, path::Path};

use byway::{Attach, Byway, Device, NextHop, Rule};
use byway_lab::seed::Seed;
use model::{Expected, Model};
use program::Program;
use traffic::Traffic;
use world::World;

use crate::support::any_hook;
use crate::support::random::Random;

#[test]
fn the_program_does_what_the_model_says() {
    let number = |name: &str, default: u64| {
        env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is {text}")))
    };
    let packets = number("BYWAY_DIFFERENTIAL_PACKETS", 2_400) as usize;
    let seed = number("BYWAY_DIFFERENTIAL_SEED", 1);
    let hook = any_hook();
    let hosts = hosts();
    hosts.server.run(|| {
        stay_on_one_cpu();
        let mut comparison = Comparison::new(Byway::open().unwrap().with_hook(hook), seed, packets);
        comparison.run();
        comparison.conclude();
    });
}

/// The seed's hosts, with another link to the router, and two devices that nothing leaves by unasked, so that every packet
/// counted there is a packet of the test's.
fn hosts() -> Seed {
    let seed = Seed::new().unwrap();
    seed.lab.link((&seed.server, "eth2"), (&seed.router, "eth2")).unwrap();
    for (node, v4, v6) in [
        (&seed.server, "10.111.223.11/24", "2001:db8:223::11/64"),
        (&seed.router, "10.111.223.21/24", "2001:db8:223::21/64"),
    ] {
        node.address("eth2", v4).unwrap();
        node.address("eth2", v6).unwrap();
    }
    for device in ATTACHMENTS {
        seed.lab.link((&seed.server, device), (&seed.gateway, device)).unwrap();
        seed.server.sysctl(&format!("net.ipv6.conf.{device}.disable_ipv6"), "1").unwrap();
    }
    for (device, mtu) in MTUS {
        seed.server.set_mtu(device, mtu).unwrap();
    }
    seed
}

const ATTACHMENTS: [&str; 2] = ["quiet0", "quiet1"];

/// Of all that packets are sent by: too small for IPv6, just enough for that, and more than most kernels let
/// BPF_PROG_TEST_RUN make. They stay as they are, since before Linux 5.12 the program knows those of the last
/// change alone.
const MTUS: [(&str, u32); 4] = [("eth0", 9_000), ("eth1", 1_500), ("eth2", 1_280), ("quiet1", 600)];

/// Gateways need not answer. One of the devices without a gateway is an attachment itself. There are enough for the
/// largest group.
fn next_hops() -> Vec<NextHop> {
    let few = [
        (Some("10.111.221.21"), "eth1"),
        (Some("10.111.223.21"), "eth2"),
        (Some("10.111.220.1"), "eth0"),
        (Some("2001:db8:221::21"), "eth1"),
        (Some("2001:db8:223::21"), "eth2"),
        (Some("2001:db8:220::1"), "eth0"),
        (None, "eth1"),
        (None, "eth2"),
        (None, "quiet1"),
    ];
    let few = few.map(|(gateway, name)| (gateway.map(|text: &str| text.parse().unwrap()), name));
    let many = (100..128).map(|last| {
        let gateway: IpAddr = match last % 4 {
            0 => [10, 111, 221, last as u8].into(),
            _ => [0x2001, 0xDB8, 0x221, 0, 0, 0, 0, last].into(),
        };
        (Some(gateway), "eth1")
    });
    few.into_iter().chain(many).map(|(gateway, name)| NextHop::new(gateway, device(name))).collect()
}

/// A next hop is taken for dead when packets depart there and none arrives, on this CPU. With one CPU a packet that has
/// arrived leaves nothing behind that a pause of the whole machine could turn into that.
fn stay_on_one_cpu() {
    use nix::{sched, unistd::Pid};
    let mut set = sched::CpuSet::new();
    let may = sched::sched_getaffinity(Pid::from_raw(0)).unwrap();
    set.set((0..sched::CpuSet::count()).find(|cpu| may.is_set(*cpu).unwrap()).unwrap()).unwrap();
    sched::sched_setaffinity(Pid::from_raw(0), &set).unwrap();
}

fn device(name: &str) -> Device {
    Device { name: name.to_owned(), index: nix::net::if_::if_nametoindex(name).unwrap() }
}

struct Comparison {
    byway: Byway,
    program: Program,
    model: Model,
    world: World,
    traffic: Traffic,
    random: Random,
    attachments: Vec<u32>,
    seed: u64,
    packets: usize,
    /// What was done to the rules since they were last new, for whoever has to find a difference's cause.
    history: Vec<String>,
    compared: usize,
    refused: usize,
    changes: usize,
    /// How often each kind of packet came.
    kinds: BTreeMap<&'static str, usize>,
}

impl Comparison {
    fn new(mut byway: Byway, seed: u64, packets: usize) -> Self {
        let world = World::new(next_hops());
        byway.attach(&Attach::devices(ATTACHMENTS)).unwrap();
        let attachments: Vec<u32> = ATTACHMENTS.iter().map(|name| device(name).index).collect();
        let program = Program::open(Path::new(&crate::support::pins()[0]));
        let traffic = Traffic::new(attachments.clone(), program.longest());
        let mut model = Model::default();
        attachments.iter().for_each(|ifindex| model.attach(*ifindex));
        MTUS.iter().for_each(|(name, mtu)| model.set_mtu(device(name).index, *mtu as usize));
        let random = Random::new(seed);
        Self {
            byway,
            program,
            model,
            world,
            traffic,
            random,
            attachments,
            seed,
            packets,
            history: Vec::new(),
            compared: 0,
            refused: 0,
            changes: 0,
            kinds: BTreeMap::new(),
        }
    }

    /// One set of rules after the other, each with changes while it is there.
    fn run(&mut self) {
        let phase = (self.packets / 24).clamp(50, 1_500);
        for (name, for_v4) in world::GROUPS {
            self.put_group(name, for_v4);
        }
        while self.compared < self.packets {
            self.new_rules();
            self.send(phase);
            self.toggle_next_hops();
            self.send(phase);
            self.edit();
            self.send(phase);
            if self.random.percent(50) {
                let (name, for_v4) = *self.random.pick(&world::GROUPS);
                self.put_group(name, for_v4);
            } else {
                self.all_up();
            }
            self.send(phase);
        }
    }

    fn conclude(&self) {
        let Self { seed, compared, changes, refused, .. } = self;
        println!("seed {seed}: {compared} packets compared, after {changes} changes");
        println!("too short for BPF_PROG_TEST_RUN were {refused} more");
        self.kinds.iter().for_each(|(kind, runs)| println!("{runs:10} runs: {kind}"));
        assert!(refused * 10 < *compared, "too many packets were too short");
        let kinds = self.kinds.keys().filter(|kind| **kind != judge::TOO_MANY_ANSWERS).count();
        assert!(*compared < 100_000 || kinds == Expected::KINDS, "some kind of packet never came");
    }

    fn rules(&self) -> Vec<Rule> {
        self.model.rules().cloned().collect()
    }

    fn fail(&self, difference: &str) -> ! {
        let mut text = format!(
            "BYWAY_DIFFERENTIAL_SEED={} BYWAY_DIFFERENTIAL_PACKETS={}, after {} packets and {} changes\n",
            self.seed, self.packets, self.compared, self.changes
        );
        let mut line = |what: &str, it: &dyn std::fmt::Display| writeln!(text, "{what} {it}").unwrap();
        self.model.rules().for_each(|rule| line("rule", rule));
        self.model.groups().for_each(|group| line("group", group));
        for (next_hop, is_down) in self.model.next_hops() {
            line(if is_down { "down" } else { "up" }, next_hop);
        }
        self.history.iter().for_each(|change| line("done:", change));
        panic!("{text}{difference}");
    }
}
