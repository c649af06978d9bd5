//! The departure program on crafted packets, with a next hop for every source whose device has an MTU of its own.

use std::time::{Duration, Instant};

use byway::{Attach, Count, Mss, RuleSpec};
use byway_lab::{
    Frame, Node,
    seed::{IPV4, IPV6, Seed},
    wait_until,
};
use nix::{sched, unistd::Pid};

use super::{
    ANSWER, any_hook,
    departure::{Departure, REDIRECT, Ran, UNSPEC},
    matrix::ADDRESSES,
    on, packet, release, via,
};

/// The least that IPv6 asks for.
pub(crate) const NARROW: u32 = 1_280;

/// How often an answer is allowed for ever.
pub(crate) const PACE: Duration = Duration::from_millis(1);

/// What the counters say about packets that a rule spoke about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) departed: Count,
    pub(crate) clamped: Count,
    pub(crate) icmp_sent: Count,
    pub(crate) too_big_dropped: Count,
    pub(crate) passed: Count,
}

impl Counted {
    pub(crate) fn since(self, before: Self) -> Self {
        let grown = |now: Count, before: Count| Count {
            packets: now.packets - before.packets,
            bytes: now.bytes - before.bytes,
        };
        Self {
            departed: grown(self.departed, before.departed),
            clamped: grown(self.clamped, before.clamped),
            icmp_sent: grown(self.icmp_sent, before.icmp_sent),
            too_big_dropped: grown(self.too_big_dropped, before.too_big_dropped),
            passed: grown(self.passed, before.passed),
        }
    }
}

pub(crate) fn sum(one: Count, other: Count) -> Count {
    Count { packets: one.packets + other.packets, bytes: one.bytes + other.bytes }
}

/// All rules together, which have to agree with all next hops together.
pub(crate) fn counted(node: &Node) -> Counted {
    let status = on(node, any_hook(), |byway| byway.status()).unwrap();
    let by_rules = status.rules.iter().fold(Counted::default(), |counted, status| Counted {
        departed: sum(counted.departed, status.departed),
        clamped: sum(counted.clamped, status.clamped),
        icmp_sent: sum(counted.icmp_sent, status.icmp_sent),
        too_big_dropped: sum(counted.too_big_dropped, status.too_big_dropped),
        passed: sum(counted.passed, status.passed),
    });
    let by_next_hops = status.next_hops.iter().fold(Counted::default(), |counted, status| Counted {
        departed: sum(counted.departed, status.departed),
        clamped: sum(counted.clamped, status.clamped),
        icmp_sent: sum(counted.icmp_sent, status.icmp_sent),
        too_big_dropped: sum(counted.too_big_dropped, status.too_big_dropped),
        passed: by_rules.passed,
    });
    assert_eq!(by_rules, by_next_hops, "rules and next hops count differently");
    by_rules
}

/// Sets the MTU of a device with Byway's program, and lets Byway know where the kernel cannot be asked for each packet.
pub(crate) fn set_mtu(node: &Node, device: &str, mtu: u32) {
    node.set_mtu(device, mtu).unwrap();
    if !mtu_is_asked_for_each_packet() {
        on(node, any_hook(), |byway| byway.attach(&Attach::Auto)).unwrap();
    }
}

/// `bpf_check_mtu` came with Linux 5.12.
pub(crate) fn mtu_is_asked_for_each_packet() -> bool {
    release() >= [5, 12]
}

/// The counters for dead next hops and the allowance for answers are each CPU's own.
pub(crate) fn stay_on_cpu(nth: usize) -> bool {
    let may = sched::sched_getaffinity(Pid::from_raw(0)).unwrap();
    let cpu = (0..sched::CpuSet::count()).filter(|cpu| may.is_set(*cpu).unwrap()).nth(nth);
    let Some(cpu) = cpu else { return false };
    let mut set = sched::CpuSet::new();
    set.set(cpu).unwrap();
    sched::sched_setaffinity(Pid::from_raw(0), &set).unwrap();
    true
}

pub(crate) struct Bench {
    pub(crate) seed: Seed,
    pub(crate) program: Departure,
}

impl Bench {
    /// One rule in each family for every source, to a device of this MTU. The calling thread stays on one CPU.
    pub(crate) fn new(mtu: u32) -> Self {
        let specs = [via("0.0.0.0/0", IPV4.router, "eth1"), via("::/0", IPV6.router, "eth1")];
        Self::with(mtu, &specs)
    }

    /// IPv4 alone: below 1,280 bytes the kernel takes IPv6 off a device.
    pub(crate) fn ipv4(mtu: u32) -> Self {
        Self::with(mtu, &[via("0.0.0.0/0", IPV4.router, "eth1")])
    }

    pub(crate) fn with(mtu: u32, specs: &[RuleSpec]) -> Self {
        assert!(stay_on_cpu(0));
        let seed = Seed::new().unwrap();
        on(&seed.server, any_hook(), |byway| byway.add_all(specs)).unwrap();
        let program = Departure::on(&seed.server, "eth0");
        let bench = Self { seed, program };
        bench.set_mtu(mtu);
        bench
    }

    pub(crate) fn set_mtu(&self, mtu: u32) {
        set_mtu(&self.seed.server, "eth1", mtu);
    }

    /// Lets a packet through the program, and says what was counted then.
    pub(crate) fn run(&self, frame: &[u8]) -> (Ran, Counted) {
        let before = counted(&self.seed.server);
        let now = Instant::now();
        assert!(wait_until(ANSWER, || now.elapsed() >= PACE), "time passes");
        let ran = self.program.run(frame);
        (ran, counted(&self.seed.server).since(before))
    }

    /// A packet that departs and is not seen to arrive makes a next hop a dead one after a while. This one arrives, in each
    /// family.
    pub(crate) fn let_some_arrive(&self) {
        for addresses in ADDRESSES {
            let frame = packet::udp(addresses.service, addresses.client);
            assert_eq!(self.program.run_thrice(&frame).verdict, UNSPEC, "a small packet arrives");
        }
    }

    pub(crate) fn departs(&self, frame: &[u8], why: &str) {
        let (ran, counted) = self.run(frame);
        let once = Count { packets: 1, bytes: frame.len() as u64 };
        let expected = Counted { departed: once, ..Counted::default() };
        assert_eq!((ran.verdict, counted), (REDIRECT, expected), "{why} should depart");
        assert!(ran.frame == frame, "{why} should depart as it is");
        self.let_some_arrive();
    }
}

/// A rule with another word about the MSS.
pub(crate) fn with_mss(spec: RuleSpec, mss: Mss) -> RuleSpec {
    spec.mss(mss)
}

/// The hosts, with the way between server and router narrowed.
pub(crate) fn narrowed(seed: &Seed, mtu: u32) {
    seed.router.set_mtu("eth0", mtu).unwrap();
    seed.server.set_mtu("eth1", mtu).unwrap();
}

/// ICMP errors that say how long a packet may be, with that.
pub(crate) fn told_mtu(frame: &Frame) -> Option<u32> {
    let packet = frame.payload();
    match (frame.ether_type()?, frame.protocol()?) {
        (0x0800, 1) if packet[20..22] == [3, 4] => Some(u16::from_be_bytes([packet[26], packet[27]]).into()),
        (0x86DD, 58) if packet[40..42] == [2, 0] => {
            Some(u32::from_be_bytes(packet[44..48].try_into().unwrap()))
        }
        _ => None,
    }
}
