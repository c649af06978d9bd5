//! Random rules and random packets: what the pinned program does is compared with a model in plain Rust, packet by packet
//! (`BPF_PROG_TEST_RUN`, bpf(2)).
//!
//! The model was written from what is promised, without a look at the program. `BYWAY_DIFFERENTIAL_PACKETS` says how many
//! packets there are and `BYWAY_DIFFERENTIAL_SEED` which; `cargo xtask fuzz-datapath` sets them.
//!
//! Not here, because BPF_PROG_TEST_RUN has no knob for it: VLAN tags beside the frame, which other tests send for real,
//! and next hops that answer late or not at all.

// A test that cannot go on has failed.
#![allow(clippy::unwrap_used)]

mod support;

#[path = "differential/model.rs"]
mod model;
#[path = "differential/program.rs"]
mod program;
#[path = "differential/random.rs"]
mod random;
#[path = "differential/traffic.rs"]
mod traffic;
#[path = "differential/world.rs"]
mod world;

use std::{collections::BTreeMap, env, fmt::Write, path::Path};

use byway::{Byway, Count, Device, NextHop, NextHopState, OnDown, Rule, RuleSpec, Selector, Target};
use byway_abi::class;
use byway_lab::seed::Seed;
use model::{Choice, ETHERNET, Expected, IPV4, IPV6, Model};
use program::{Program, Ran};
use random::Random;
use traffic::{Frame, Traffic};
use world::World;

const UNSPEC: u32 = u32::MAX; // TC_ACT_UNSPEC, -1
const SHOT: u32 = 2; // TC_ACT_SHOT
const REDIRECT: u32 = 7; // TC_ACT_REDIRECT

/// In `cb[4]` of a packet: it has been redirected a second time.
const AGAIN: u32 = 1 << 31;

/// How many packets all counters are compared after each of, not only those that should have changed.
const SHORT: usize = 20_000;

#[test]
fn the_program_does_what_the_model_says() {
    let number = |name: &str, default: u64| {
        env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is {text}")))
    };
    let packets = number("BYWAY_DIFFERENTIAL_PACKETS", 2_400) as usize;
    let seed = number("BYWAY_DIFFERENTIAL_SEED", 1);
    let hook = support::hooks()[0];
    let hosts = hosts();
    let run = hosts.server.run(|| {
        stay_on_one_cpu();
        let mut comparison = Comparison::new(Byway::open().unwrap().with_hook(hook), seed, packets);
        comparison.run();
        (comparison.compared, comparison.refused, comparison.changes)
    });
    let (compared, refused, changes) = run;
    assert!(refused < compared / 10, "{refused} of {compared} packets were too short for the kernel");
    println!(
        "seed {seed}: {compared} packets compared, {changes} changes of the rules, {refused} packets too short for BPF_PROG_TEST_RUN"
    );
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
    seed
}

const ATTACHMENTS: [&str; 2] = ["quiet0", "quiet1"];

/// Gateways need not answer. One of the devices without a gateway is an attachment itself.
const NEXT_HOPS: [(Option<&str>, &str); 12] = [
    (Some("10.111.221.21"), "eth1"),
    (Some("10.111.221.22"), "eth1"),
    (Some("10.111.223.21"), "eth2"),
    (Some("10.111.223.99"), "eth2"),
    (Some("10.111.220.1"), "eth0"),
    (Some("2001:db8:221::21"), "eth1"),
    (Some("2001:db8:221::22"), "eth1"),
    (Some("2001:db8:223::21"), "eth2"),
    (Some("2001:db8:220::1"), "eth0"),
    (None, "eth1"),
    (None, "eth2"),
    (None, "quiet1"),
];

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
}

impl Comparison {
    fn new(mut byway: Byway, seed: u64, packets: usize) -> Self {
        let next_hop = |(gateway, name): &(Option<&str>, &str)| NextHop {
            gateway: gateway.map(|text| text.parse().unwrap()),
            device: device(name),
        };
        let world = World::new(NEXT_HOPS.iter().map(next_hop).collect());
        byway.attach(&ATTACHMENTS).unwrap();
        let attachments: Vec<u32> = ATTACHMENTS.iter().map(|name| device(name).index).collect();
        let program = Program::open(Path::new(&support::pins()[0]));
        let traffic = Traffic::new(attachments.clone(), program.longest());
        let mut model = Model::default();
        attachments.iter().for_each(|ifindex| model.attach(*ifindex));
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
        }
    }

    /// One set of rules after the other, each with changes while it is there.
    fn run(&mut self) {
        let phase = (self.packets / 24).clamp(50, 500);
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

    fn rules(&self) -> Vec<Rule> {
        self.model.rules().cloned().collect()
    }

    /// Other rules, in one of the ways to come there.
    fn new_rules(&mut self) {
        self.history.clear();
        self.world.turn(&mut self.random);
        let count =
            if self.random.percent(25) { self.random.between(1, 4) } else { self.random.between(5, 60) };
        let rules = self.world.rules(&mut self.random, count);
        match self.random.below(4) {
            0 => {
                self.flush();
                self.put(&rules);
            }
            1 => {
                self.put(&rules);
                let gone = self.rules().into_iter().filter(|rule| !rules.contains(rule));
                let gone: Vec<Selector> = gone.map(|rule| rule.selector()).collect();
                for selector in gone {
                    self.delete(&selector);
                }
            }
            2 => {
                // One by one, from the most specific to the least.
                let mut old = self.rules();
                old.reverse();
                for rule in old {
                    self.delete(&rule.selector());
                }
                for rule in &rules {
                    self.put(std::slice::from_ref(rule));
                }
            }
            _ => {
                // On top of those that are there, as far as it stays readable.
                let mut old = self.rules();
                self.random.shuffle(&mut old);
                for rule in old.iter().skip(20) {
                    self.delete(&rule.selector());
                }
                self.put(&rules);
            }
        }
        let rules = self.rules();
        self.traffic.turn(&mut self.random, &self.world, &rules);
    }

    /// Changes some rules where they are: others go, come back the same, or get another target.
    fn edit(&mut self) {
        let mut rules = self.rules();
        self.random.shuffle(&mut rules);
        let (deleted, kept) = rules.split_at(rules.len() / 4);
        for rule in deleted {
            self.delete(&rule.selector());
        }
        let mut put: Vec<Rule> = Vec::new();
        for (nth, rule) in kept.iter().enumerate() {
            match nth % 3 {
                0 => put.push(rule.clone()),
                1 => {
                    let other = self.world.rule(&mut self.random, rule.selector());
                    put.push(other);
                }
                _ => {}
            }
        }
        let count = self.random.below(8);
        let new = self.world.rules(&mut self.random, count);
        let is_new = |rule: &Rule| put.iter().all(|other| other.selector() != rule.selector());
        let new: Vec<Rule> = new.into_iter().filter(is_new).collect();
        put.extend(new);
        self.put(&put);
    }

    fn toggle_next_hops(&mut self) {
        let mut next_hops: Vec<(NextHop, bool)> =
            self.model.next_hops().map(|(next_hop, is_down)| (next_hop.clone(), is_down)).collect();
        self.random.shuffle(&mut next_hops);
        let most = if self.random.percent(10) { next_hops.len() } else { next_hops.len().min(5) };
        next_hops.truncate(self.random.between(most.min(1), most));
        for (next_hop, is_down) in next_hops {
            self.set_down(&next_hop, !is_down);
        }
    }

    fn all_up(&mut self) {
        let down: Vec<NextHop> = self
            .model
            .next_hops()
            .filter(|(_, is_down)| *is_down)
            .map(|(next_hop, _)| next_hop.clone())
            .collect();
        for next_hop in down {
            self.set_down(&next_hop, false);
        }
    }

    fn put(&mut self, rules: &[Rule]) {
        let specs: Vec<RuleSpec> = rules.iter().map(world::spec).collect();
        let texts: Vec<String> = rules.iter().map(Rule::to_string).collect();
        self.history.push(format!("replace {}", texts.join("; ")));
        let put = self.byway.replace_all(&specs).unwrap_or_else(|error| self.fail(&error.to_string()));
        assert_eq!(put, rules);
        rules.iter().for_each(|rule| self.model.put(rule));
        self.settle();
    }

    fn delete(&mut self, selector: &Selector) {
        self.history.push(format!("del {selector}"));
        self.byway.del(selector).unwrap_or_else(|error| self.fail(&error.to_string()));
        self.model.delete(selector);
        self.settle();
    }

    fn flush(&mut self) {
        self.history.push("flush".to_owned());
        self.byway.flush().unwrap_or_else(|error| self.fail(&error.to_string()));
        self.model.flush();
        self.settle();
    }

    fn put_group(&mut self, name: &str, for_v4: bool) {
        let group = self.world.group(&mut self.random, name, for_v4);
        self.history.push(format!("group replace {group}"));
        let put = self
            .byway
            .replace_group(&world::group_spec(&group))
            .unwrap_or_else(|error| self.fail(&error.to_string()));
        assert_eq!(put, group);
        self.model.put_group(&group);
        self.settle();
    }

    fn set_down(&mut self, next_hop: &NextHop, is_down: bool) {
        self.history.push(format!("nexthop {next_hop} {}", if is_down { "down" } else { "up" }));
        self.byway
            .set_next_hop_down(&world::next_hop_spec(next_hop), is_down)
            .unwrap_or_else(|error| self.fail(&error.to_string()));
        self.model.set_down(next_hop, is_down);
        self.settle();
    }

    fn settle(&mut self) {
        self.changes += 1;
        self.traffic.forget_fragments();
        self.model.settle(|flow| self.traffic.is_pooled(flow));
        self.program.read_names().unwrap_or_else(|difference| self.fail(&difference));
        let (rules, next_hops) = (self.model.rules().count(), self.model.next_hops().count());
        if (self.program.rule_count(), self.program.next_hop_count()) != (rules, next_hops) {
            self.fail(&format!(
                "{rules} rules and {next_hops} next hops should be there, and there are {} and {}",
                self.program.rule_count(),
                self.program.next_hop_count()
            ));
        }
    }

    /// Compares so many packets, and all counters in the end.
    fn send(&mut self, packets: usize) {
        let rules = self.rules();
        let end = self.packets.min(self.compared + packets);
        while self.compared < end {
            let frame = self.traffic.frame(&mut self.random, &self.world, &rules);
            match self.compare(&frame) {
                Ok(true) => self.compared += 1,
                Ok(false) => self.refused += 1,
                Err(difference) => self.fail(&format!("{difference}\n{}", shown(&frame))),
            }
        }
        self.compare_status().unwrap_or_else(|difference| self.fail(&difference));
    }

    /// Whether the kernel lets the program have a look at the frame, and if so, whether it does what it should.
    fn compare(&mut self, frame: &Frame) -> Result<bool, String> {
        // The arrival follows, without which the next hop would be taken for a dead one. Now and then there is no
        // packet before that which departs and comes to nothing.
        if self.random.percent(80) {
            let Some(expected) = self.step(frame, 1)? else { return Ok(false) };
            if matches!(expected, Expected::NextHop(..) | Expected::Member(..)) {
                self.step(frame, 3)?;
            }
        } else {
            let is_redirected = matches!(
                self.model.clone_expectation(&frame.bytes),
                Expected::NextHop(..) | Expected::Member(..)
            );
            if self.step(frame, if is_redirected { 3 } else { 1 })?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Lets the frame through the program, once or thrice: then it departs, is redirected a second time because its
    /// Ethernet addresses are still the old ones, and arrives.
    fn step(&mut self, frame: &Frame, times: u32) -> Result<Option<Expected>, String> {
        let ran = match self.program.run(frame, times) {
            Ok(ran) => ran,
            // From Linux 6.17 or so on the kernel refuses what has not its whole IP header.
            Err(_) if is_too_short(&frame.bytes) => return Ok(None),
            Err(error) => return Err(format!("the kernel refuses it: {error}")),
        };
        let expected = self.model.expect(&frame.bytes);
        let say = |what: &str| format!("{what}\nmodel:   {expected:?}\nprogram, after {times}: {ran:x?}");
        self.judge(frame, times, &expected, &ran).map_err(|what| say(&what))?;
        let counters = if self.packets <= SHORT {
            self.compare_all_counters()
        } else {
            self.compare_counters_of(frame, &expected, &ran)
        };
        counters.map_err(|what| say(&what))?;
        Ok(Some(expected))
    }

    /// Compares what is to be seen of one packet, and has the model count it.
    fn judge(&mut self, frame: &Frame, times: u32, expected: &Expected, ran: &Ran) -> Result<(), String> {
        let (packets, bytes) = (u64::from(frame.segments.max(1)), frame.bytes.len() as u64);
        let left_alone = if let Expected::LeftAlone(class) = expected { Some(*class) } else { None };
        self.model.count_seen(frame.ifindex, left_alone, packets, bytes);
        let verdict = match expected {
            Expected::NextHop(..) | Expected::Member(..) if times == 1 => REDIRECT,
            Expected::Drop(_) | Expected::Down(_, OnDown::Drop, _) => SHOT,
            _ => UNSPEC,
        };
        is("verdict", verdict as i32, ran.verdict as i32)?;
        is("mark and priority", (frame.mark, frame.priority), (ran.mark, ran.priority))?;
        if !ran.is_same_frame {
            return Err("the frame is another".to_owned());
        }
        match expected {
            Expected::LeftAlone(_) => {}
            Expected::Pass(selector) => {
                self.model.count_rule(selector, |it| model::add(&mut it.passed, packets, bytes));
            }
            Expected::Drop(selector) => {
                self.model.count_rule(selector, |it| model::add(&mut it.dropped, packets, bytes));
            }
            Expected::Down(selector, _, next_hops) => {
                self.model.count_rule(selector, |it| model::add(&mut it.down, packets, bytes));
                let tries = self.count_skipped(next_hops.iter(), packets, bytes)?;
                let is_group = !matches!(self.model.rule(selector).target, Target::NextHop(_));
                if tries == 0 || !is_group && tries != 1 {
                    return Err(format!("{tries} failed tries were counted"));
                }
            }
            Expected::NextHop(selector, next_hop) => {
                self.departs(selector, next_hop, times, packets, bytes, ran)?;
            }
            Expected::Member(selector, choice) => {
                self.departs_to_member(selector, choice, times, packets, bytes, ran)?;
            }
        }
        if verdict == UNSPEC && times == 1 {
            is("cb of a packet left alone", frame.cb, ran.cb)?;
        }
        Ok(())
    }

    fn departs(
        &mut self,
        selector: &Selector,
        next_hop: &NextHop,
        times: u32,
        packets: u64,
        bytes: u64,
        ran: &Ran,
    ) -> Result<(), String> {
        let slot = self.program.slot(next_hop)? | if times == 1 { 0 } else { AGAIN };
        is("rule and slot in cb", (self.program.id(selector)?, slot), (ran.cb[0], ran.cb[4]))?;
        let has_arrived = times == 3;
        self.model.count_rule(selector, |it| {
            model::add(&mut it.departed, packets, bytes);
            if has_arrived {
                model::add(&mut it.arrived, packets, bytes);
            }
        });
        self.model.count_next_hop(next_hop, |it| {
            model::add(&mut it.departed, packets, bytes);
            if has_arrived {
                model::add(&mut it.arrived, packets, bytes);
            }
        });
        Ok(())
    }

    fn departs_to_member(
        &mut self,
        selector: &Selector,
        choice: &Choice,
        times: u32,
        packets: u64,
        bytes: u64,
        ran: &Ran,
    ) -> Result<(), String> {
        let slot = ran.cb[4] & !AGAIN;
        let member =
            self.program.in_slot(slot).cloned().ok_or_else(|| format!("nothing is in slot {slot}"))?;
        self.model.chose(choice, &member)?;
        if self.count_skipped(choice.down(), packets, bytes)? == 0 {
            self.model.chose_first(choice, &member)?;
        }
        self.departs(selector, &member, times, packets, bytes, ran)
    }

    /// Takes in what next hops that are down have counted as skipped. Which of a group's it was, and after how many
    /// tries, the contract leaves open; but it was whole packets.
    fn count_skipped<'a>(
        &mut self,
        down: impl Iterator<Item = &'a NextHop>,
        packets: u64,
        bytes: u64,
    ) -> Result<u64, String> {
        let mut tries = 0;
        for next_hop in down {
            let (now, before) =
                (self.program.next_hop(next_hop)?.skipped, self.model.next_hop_counters(next_hop).skipped);
            let grown = (now.packets - before.packets) / packets;
            let expected =
                Count { packets: before.packets + grown * packets, bytes: before.bytes + grown * bytes };
            is(&format!("skipped by {next_hop}"), expected, now.into())?;
            self.model.count_next_hop(next_hop, |it| it.skipped = now);
            tries += grown;
        }
        Ok(tries)
    }

    fn compare_rule(&self, selector: &Selector) -> Result<(), String> {
        is(&selector.to_string(), self.model.rule_counters(selector), &self.program.rule(selector)?)
    }

    fn compare_next_hop(&self, next_hop: &NextHop) -> Result<(), String> {
        let (expected, counted) = (self.model.next_hop_counters(next_hop), self.program.next_hop(next_hop)?);
        is(&next_hop.to_string(), expected, &counted)
    }

    fn compare_attachment(&self, ifindex: u32) -> Result<(), String> {
        let (expected, counted) = (self.model.attachment_counters(ifindex), self.program.attachment(ifindex));
        is(&format!("attachment {ifindex}"), expected, &counted)
    }

    /// The counters that the packet should have changed, and those that a slip is likely to change.
    fn compare_counters_of(&self, frame: &Frame, expected: &Expected, ran: &Ran) -> Result<(), String> {
        self.compare_attachment(frame.ifindex)?;
        let selector = match expected {
            Expected::LeftAlone(_) => return Ok(()),
            Expected::Pass(selector) | Expected::Drop(selector) => selector,
            Expected::Down(selector, ..) => selector,
            Expected::NextHop(selector, next_hop) => {
                self.compare_next_hop(next_hop)?;
                selector
            }
            Expected::Member(selector, _) => {
                if let Some(member) = self.program.in_slot(ran.cb[4] & !AGAIN) {
                    self.compare_next_hop(member)?;
                }
                selector
            }
        };
        self.compare_rule(selector)
    }

    fn compare_all_counters(&self) -> Result<(), String> {
        self.model.rules().try_for_each(|rule| self.compare_rule(&rule.selector()))?;
        self.model.next_hops().try_for_each(|(next_hop, _)| self.compare_next_hop(next_hop))?;
        self.attachments.iter().try_for_each(|ifindex| self.compare_attachment(*ifindex))
    }

    /// What the library says of it all.
    fn compare_status(&mut self) -> Result<(), String> {
        self.compare_all_counters()?;
        let status = self.byway.status().map_err(|error| error.to_string())?;
        is("rules", self.rules(), status.rules.iter().map(|it| it.rule.clone()).collect())?;
        is(
            "groups",
            self.model.groups().cloned().collect(),
            status.groups.iter().map(|it| it.group.clone()).collect::<Vec<_>>(),
        )?;
        for it in &status.rules {
            let counted = self.model.rule_counters(&it.rule.selector());
            let expected = [counted.departed, counted.arrived, counted.passed, counted.dropped, counted.down];
            let shown = [it.departed, it.arrived, it.passed, it.dropped, it.down];
            is(&it.rule.to_string(), expected.map(Count::from), shown)?;
        }
        let states: BTreeMap<_, _> = self.model.next_hops().collect();
        is("next hops", states.len(), status.next_hops.len())?;
        for it in &status.next_hops {
            let counted = self.model.next_hop_counters(&it.next_hop);
            let state = if states[&it.next_hop] { NextHopState::Down } else { NextHopState::Up };
            let expected = [counted.departed, counted.arrived, counted.skipped].map(Count::from);
            let shown = [it.departed, it.arrived, it.skipped];
            is(&it.next_hop.to_string(), (state, expected), (it.state, shown))?;
        }
        for ifindex in &self.attachments {
            let attachment = status.attachments.iter().find(|it| it.device.index == *ifindex);
            let seen = attachment.and_then(|it| it.counted).ok_or("an attachment is gone")?;
            let counted = self.model.attachment_counters(*ifindex);
            let shown = [
                (class::NOT_IP, seen.not_ip),
                (class::MALFORMED, seen.malformed),
                (class::TAGGED, seen.tagged),
                (class::MULTICAST, seen.multicast),
                (class::BROADCAST, seen.broadcast),
                (class::LINK_LOCAL, seen.link_local),
                (class::NEIGHBOUR_DISCOVERY, seen.neighbour_discovery),
                (class::NOT_MATCHED, seen.not_matched),
            ];
            is("seen", counted.seen.into(), seen.seen)?;
            for (class, count) in shown {
                is(&format!("class {class}"), counted.left_alone[class].into(), count)?;
            }
        }
        Ok(())
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

fn is<T: PartialEq + std::fmt::Debug>(what: &str, expected: T, found: T) -> Result<(), String> {
    if expected == found { Ok(()) } else { Err(format!("{what} should be {expected:?} and is {found:?}")) }
}

fn is_too_short(frame: &[u8]) -> bool {
    let header = match model::ether_type(frame) {
        Some(IPV4) => 20,
        Some(IPV6) => 40,
        _ => 1,
    };
    frame.len() < ETHERNET + header
}

fn shown(frame: &Frame) -> String {
    let hex: String = frame.bytes.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    });
    let Frame { bytes, ifindex, segments, mark, priority, cb } = frame;
    format!(
        "parsed: {:?}\nframe of {} bytes, ifindex {ifindex}, {segments} segments, mark {mark:#x}, priority {priority:#x}, cb {cb:x?}:\n{hex}",
        model::parse(bytes),
        bytes.len()
    )
}
