//! Runs programs on a packet again and again (`BPF_PROG_TEST_RUN`), each time with another source or destination.
//!
//! `vary` (crates/byway-ebpf/src/bench.rs) gives the packet the next address of a list in random order, and tail-calls the
//! measured program. The cost of `vary` with a program that does nothing is to be subtracted.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf, TestRunOptions,
    maps::{Array, Map, MapData, PerCpuArray, PerCpuValues, ProgramArray},
    programs::{ProgramFd, SchedClassifier, TestRun},
    util::nr_cpus,
};
use byway_abi::{
    NextHopCounters,
    mark::{RULE, SECRET_LOW, SLOT},
};
use byway_lab::{Node, stay_on_processor};

use super::minimal;

/// How many runs of the program one figure is the mean of.
pub(super) const REPEAT: u32 = 2_000_000;
/// `TC_ACT_REDIRECT`
pub(super) const REDIRECT: u32 = 7;
/// `TC_ACT_SHOT`
pub(super) const SHOT: u32 = 2;
/// `TC_ACT_UNSPEC`, -1
pub(super) const UNSPEC: u32 = u32::MAX;

/// `struct __sk_buff` (include/uapi/linux/bpf.h), as bytes.
pub(super) type SkBuff = [u8; 192];
/// Where the device is in it: `ifindex`.
const IFINDEX: usize = 40;
/// Where `cb` is in it, which contains marks.
const CB: usize = 48;

/// What a program says about a packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ran {
    /// The mean time of a run, with that of `vary`.
    pub(super) nanoseconds: f64,
    /// What the last run returned.
    pub(super) verdict: u32,
    /// The context as the last run left it, with the mark of a packet that has departed.
    pub(super) context: SkBuff,
}

impl Ran {
    /// Returns whether the packet has departed, and has not arrived yet.
    pub(super) fn is_marked(&self) -> bool {
        word(&self.context, SECRET_LOW) != 0
    }
}

/// Returns a word of `cb`.
fn word(context: &SkBuff, nth: usize) -> u32 {
    let [a, b, c, d] = [0, 1, 2, 3].map(|byte| context[CB + 4 * nth + byte]);
    u32::from_ne_bytes([a, b, c, d])
}

/// What `vary` changes in a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Varies {
    Source = 0,
    Destination = 1,
}

/// Which program a run is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// The first one, each time with another packet.
    First = 0,
    /// The first and the second one in turn: each packet departs and arrives.
    Both = 1,
    /// The second one, each time with another packet that has departed.
    Second = 2,
    /// As [`Turn::Both`], also with programs that do nothing: for what `vary` itself costs.
    Alternating = 3,
}

/// The programs that measure, and their maps.
pub(super) struct Vary {
    object: Ebpf,
}

impl Vary {
    /// Loads them with room for this many sources of `minimal`.
    pub(super) fn load(entries: u32) -> Result<Self> {
        Ok(Self { object: minimal::load(entries, &["vary", "empty", "minimal"])? })
    }

    /// Loads them to vary packets for the Byway that has its pins in this folder.
    pub(super) fn for_pins(folder: &Path) -> Result<Self> {
        let mut vary = Self::load(1)?;
        let secret = secret(folder)?;
        vary.change_plan(|plan| plan[5..7].copy_from_slice(&[secret as u32, (secret >> 32) as u32]))?;
        Ok(vary)
    }

    /// Returns the object, for the maps of `minimal`.
    pub(super) fn object(&mut self) -> &mut Ebpf {
        &mut self.object
    }

    pub(super) fn program(&self, name: &str) -> Result<&SchedClassifier> {
        Ok(self.object.program(name).context("the object lacks a program")?.try_into()?)
    }

    /// Returns the program that does nothing.
    pub(super) fn empty(&self) -> Result<ProgramFd> {
        Ok(self.program("empty")?.fd()?.try_clone()?)
    }

    pub(super) fn go_over_to(&mut self, programs: [&ProgramFd; 2]) -> Result<()> {
        let map = self.object.map_mut("MEASURED").context("the object lacks a map")?;
        let mut measured: ProgramArray<&mut MapData> = map.try_into()?;
        for (nth, program) in programs.into_iter().enumerate() {
            measured.set(nth as u32, program, 0)?;
        }
        Ok(())
    }

    pub(super) fn set_turn(&mut self, turn: Turn) -> Result<()> {
        self.change_plan(|plan| plan[2] = turn as u32)
    }

    /// Gives it the addresses. `vary` goes through a power of two of them, so some may be there twice.
    pub(super) fn set_addresses(&mut self, varies: Varies, addresses: &[IpAddr]) -> Result<()> {
        ensure!(!addresses.is_empty(), "no addresses, no packets");
        let count = addresses.len().next_power_of_two();
        let map = self.object.map_mut("SOURCES").context("the object lacks a map")?;
        let mut all: Array<&mut MapData, [u32; 4]> = map.try_into()?;
        for nth in 0..count {
            all.set(nth as u32, minimal::words(addresses[nth % addresses.len()]), 0)?;
        }
        self.change_plan(|plan| {
            plan[..5].copy_from_slice(&[0, count as u32 - 1, 0, 0, 0]);
            plan[7] = varies as u32;
        })
    }

    /// Changes in which place of the packet the addresses are. Goes on with the next of them.
    pub(super) fn set_varies(&mut self, varies: Varies) -> Result<()> {
        self.change_plan(|plan| plan[7] = varies as u32)
    }

    /// Gives the packets that arrive in the turn [`Turn::Second`] the mark of one that has departed.
    pub(super) fn set_mark(&mut self, departed: &Ran) -> Result<()> {
        let [rule, slot] = [RULE, SLOT].map(|nth| word(&departed.context, nth));
        self.change_plan(|plan| (plan[3], plan[4]) = (rule, slot))
    }

    /// Changes the `Plan`, as words.
    fn change_plan(&mut self, change: impl FnOnce(&mut [u32; 9])) -> Result<()> {
        let map = self.object.map_mut("PLAN").context("the object lacks a map")?;
        let mut plan: Array<&mut MapData, [u32; 9]> = map.try_into()?;
        let mut now = plan.get(&0, 0)?;
        change(&mut now);
        Ok(plan.set(0, now, 0)?)
    }

    /// Runs the programs that were named last on a packet of a device of this host, so many times.
    pub(super) fn run(&self, host: &Node, context: &SkBuff, frame: &[u8], repeat: u32) -> Result<Ran> {
        self.run_on(0, host, context, frame, repeat)
    }

    /// Does so on a processor.
    pub(super) fn run_on(
        &self,
        processor: usize,
        host: &Node,
        context: &SkBuff,
        frame: &[u8],
        repeat: u32,
    ) -> Result<Ran> {
        let mut after = [0; size_of::<SkBuff>()];
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(context),
            ctx_out: Some(&mut after),
            repeat,
            ..TestRunOptions::default()
        };
        let vary = self.program("vary")?;
        // The kernel looks for the device in the network namespace of the caller. If the runs moved to another processor
        // between a departure and its arrival, the next departure on the first processor would be a probe.
        let ran = host.run(|| -> Result<_> {
            stay_on_processor(processor)?;
            Ok(vary.test_run(options)?)
        })?;
        Ok(Ran { nanoseconds: ran.duration.as_nanos() as f64, verdict: ran.return_value, context: after })
    }
}

/// Returns the context of packets of a device, which is all that programs need of it.
pub(super) fn on_device(ifindex: u32) -> SkBuff {
    let mut context = [0; 192];
    context[IFINDEX..IFINDEX + 4].copy_from_slice(&ifindex.to_ne_bytes());
    context
}

/// Returns the folder of Byway's pins. Each contestant has a BPF file system of its own.
pub(super) fn folder() -> Result<PathBuf> {
    Ok(fs::read_dir("/sys/fs/bpf/byway")?.next().context("nothing is pinned")??.path())
}

/// Reads the secret of these pins, which marks contain.
pub(super) fn secret(folder: &Path) -> Result<u64> {
    let map: Array<MapData, u64> =
        Map::from_map_data(MapData::from_pin(folder.join("SECRET"))?)?.try_into()?;
    Ok(map.get(&0, 0)?)
}

/// Opens one of Byway's programs.
pub(super) fn program(folder: &Path, name: &str) -> Result<ProgramFd> {
    Ok(SchedClassifier::from_pin(folder.join(name))?.fd()?.try_clone()?)
}

/// Marks the next hops as proven alive for good, so that no packet is a probe: the kernel runs the program on one packet,
/// whose departures and arrivals must take turns. Under traffic, about one packet in a tenth of a second is a probe.
pub(super) fn prove_next_hops(folder: &Path) -> Result<()> {
    let map = Map::from_map_data(MapData::from_pin(folder.join("NEXT_HOP_COUNTERS"))?)?;
    let mut counters: PerCpuArray<MapData, NextHopCounters> = map.try_into()?;
    // Slots are given out in order, and there are at most two next hops.
    for slot in 1..=2 {
        let proven = NextHopCounters { proven: i64::MAX as u64, ..NextHopCounters::default() };
        let of_each = vec![proven; nr_cpus().map_err(|(_, error)| error)?];
        counters.set(slot, PerCpuValues::try_from(of_each)?, 0)?;
    }
    Ok(())
}

/// Returns the `nth` of many different addresses.
pub(super) fn address(is_v4: bool, nth: u32) -> IpAddr {
    // An odd factor spreads them.
    let spread = nth.wrapping_mul(0x9E37_79B1);
    if is_v4 {
        // In 64.0.0.0/3, which has no special addresses.
        IpAddr::from((0x4000_0000_u32 | spread & 0x1FFF_FFFF).to_be_bytes())
    } else {
        IpAddr::from((0x2400_0000_u128 << 96 | u128::from(spread) << 64 | u128::from(nth)).to_be_bytes())
    }
}

/// Shuffles a list, so that no cache can predict the order. The order is the same each time.
pub(super) fn shuffle<T>(list: &mut [T]) {
    let mut state: u64 = 1;
    for last in (1..list.len()).rev() {
        // A linear congruential generator (Knuth's MMIX).
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        list.swap(last, (state >> 33) as usize % (last + 1));
    }
}

/// An Ethernet frame with an IP packet. Programs read it, and nobody sends it.
pub(super) fn frame(source: IpAddr, destination: IpAddr, protocol: u8, content: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    let length = content.len() as u8;
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            frame.extend([0x08, 0x00, 0x45, 0, 0, 20 + length, 0, 0, 0, 0, 64, protocol, 0, 0]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            frame.extend([0x86, 0xDD, 0x60, 0, 0, 0, 0, length, protocol, 64]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        _ => {}
    }
    frame.extend(content);
    frame
}

/// Ends hosts, the last ones first: those inside others end before those.
pub(super) fn end<T>(hosts: impl IntoIterator<Item = T>) {
    let mut hosts: Vec<T> = hosts.into_iter().collect();
    while hosts.pop().is_some() {}
}
