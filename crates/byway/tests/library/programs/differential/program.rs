//! The pinned program and what it has counted, straight from its maps.

use std::{
    cell::RefCell,
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use aya::{
    TestRunOptions,
    maps::{Array, Map, MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues},
    programs::{ProgramError, SchedClassifier, TestRun},
    util::nr_cpus,
};
use byway::{Device, NextHop, Prefix, Selector};
use byway_abi::{
    AttachmentCounters, Counters, ExceptionCounters, FAMILY_IPV4, FAMILY_IPV6, MAX_NEXT_HOPS, NEXT_HOP_FREE,
    NextHopCounters, RuleRecord, TARGET_DROP, TARGET_PASS, chunk_len, exception_map,
};

use crate::support::{departure::REDIRECT, proven::Proven};

use super::{
    model::{RuleCounters, add},
    parse::ETHERNET,
    traffic::Frame,
};

/// `struct __sk_buff` (include/uapi/linux/bpf.h), and where its fields are.
const CONTEXT: usize = 192;
const MARK: usize = 8;
const PRIORITY: usize = 32;
const IFINDEX: usize = 40;
const CB: usize = 48;
const GSO_SEGS: usize = 164;
const GSO_SIZE: usize = 176;

/// What a run shows of a packet afterwards. The kernel hands `tc_index` neither in nor out; that the packet arrives in a
/// later run shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) verdict: u32,
    pub(crate) cb: [u32; 5],
    pub(crate) mark: u32,
    pub(crate) priority: u32,
    /// The frame, where it is another now.
    pub(crate) changed: Option<Vec<u8>>,
    /// Between which times it was, by a clock of this test's.
    pub(crate) between: (Duration, Duration),
}

/// In `cb[4]` of a packet: it has been redirected a second time.
const AGAIN: u32 = 1 << 31;

impl Ran {
    /// The rule that a redirected packet found.
    pub(crate) fn rule(&self) -> u32 {
        self.cb[0]
    }

    /// The slot of the next hop that it was sent to.
    pub(crate) fn slot(&self) -> u32 {
        self.cb[4] & !AGAIN
    }

    pub(crate) fn is_redirected_again(&self) -> bool {
        self.cb[4] & AGAIN != 0
    }
}

pub(crate) struct Program {
    program: SchedClassifier,
    folder: PathBuf,
    next_hops: Array<MapData, byway_abi::NextHop>,
    /// By chunks of rules.
    counters: Vec<Array<MapData, Counters>>,
    /// By chunks of rules.
    exceptions: Vec<PerCpuHashMap<MapData, u32, ExceptionCounters>>,
    next_hop_counters: PerCpuArray<MapData, NextHopCounters>,
    proven: RefCell<Proven>,
    attachment_counters: PerCpuArray<MapData, AttachmentCounters>,
    /// By the rule: what the program knows it as.
    ids: HashMap<Selector, (u32, RuleRecord)>,
    slots: HashMap<NextHop, u32>,
    start: Instant,
}

impl Program {
    pub(crate) fn open(folder: &Path) -> Self {
        Self {
            program: SchedClassifier::from_pin(folder.join("departure")).unwrap(),
            folder: folder.to_owned(),
            next_hops: open(folder, "NEXT_HOPS"),
            counters: Vec::new(),
            exceptions: Vec::new(),
            next_hop_counters: open(folder, "NEXT_HOP_COUNTERS"),
            proven: RefCell::new(Proven::open(folder)),
            attachment_counters: open(folder, "ATTACHMENT_COUNTERS"),
            ids: HashMap::new(),
            slots: HashMap::new(),
            start: Instant::now(),
        }
    }

    /// After each change: which identity and which slot is whose.
    pub(crate) fn read_names(&mut self) -> Result<(), String> {
        self.ids.clear();
        for chunk in 0..fs::read_dir(self.folder.join("rules")).map_or(0, Iterator::count) {
            let records: Array<MapData, RuleRecord> = open(&self.folder, &format!("rules/{chunk}"));
            if self.counters.len() == chunk {
                self.counters.push(open(&self.folder, &format!("counters/{chunk}")));
                let number = exception_map((chunk as u32) << 16);
                self.exceptions.push(open(&self.folder, &format!("exceptions/{number}")));
            }
            for (place, record) in records.iter().enumerate() {
                let (id, record) = ((chunk as u32) << 16 | place as u32, record.unwrap());
                if record.family == 0 {
                    continue;
                }
                if let Some((other, _)) = self.ids.insert(selector(&record), (id, record)) {
                    return Err(format!("{} is rule {other} and rule {id}", selector(&record)));
                }
            }
        }
        self.slots.clear();
        for slot in 1..MAX_NEXT_HOPS {
            let record = self.next_hops.get(&slot, 0).unwrap();
            if record.ifindex == 0 || record.flags & NEXT_HOP_FREE != 0 {
                continue;
            }
            if let Some(other) = self.slots.insert(next_hop(&record), slot) {
                return Err(format!("{} is in slot {other} and slot {slot}", next_hop(&record)));
            }
        }
        self.proven.borrow_mut().prove_all();
        Ok(())
    }

    pub(crate) fn rule_count(&self) -> usize {
        self.ids.len()
    }

    pub(crate) fn next_hop_count(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn id(&self, selector: &Selector) -> Result<u32, String> {
        self.record(selector).map(|(id, _)| id)
    }

    fn record(&self, selector: &Selector) -> Result<(u32, RuleRecord), String> {
        self.ids.get(selector).copied().ok_or_else(|| format!("no record of {selector}"))
    }

    pub(crate) fn slot(&self, next_hop: &NextHop) -> Result<u32, String> {
        self.slots.get(next_hop).copied().ok_or_else(|| format!("no slot of {next_hop}"))
    }

    pub(crate) fn in_slot(&self, slot: u32) -> Option<&NextHop> {
        self.slots.iter().find(|(_, of)| **of == slot).map(|(next_hop, _)| next_hop)
    }

    /// Summed over the CPUs.
    pub(crate) fn rule(&self, selector: &Selector) -> Result<RuleCounters, String> {
        let (id, record) = self.record(selector)?;
        let mut sum = RuleCounters::default();
        let (number, place) = (id >> 16, id & 0xFFFF);
        let chunk = &self.counters[number as usize];
        for cpu in 0..nr_cpus().unwrap() as u32 {
            let counters = chunk.get(&(cpu * chunk_len(number) + place), 0).unwrap();
            let done = match record.kind {
                TARGET_PASS => &mut sum.passed,
                TARGET_DROP => &mut sum.dropped,
                _ => &mut sum.departed,
            };
            add(done, counters.matched);
            add(&mut sum.arrived, counters.arrived);
        }
        if let Ok(per_cpu) = self.exceptions[number as usize].get(&id, 0) {
            for cpu in per_cpu.iter() {
                add(&mut sum.no_next_hop, cpu.no_next_hop);
                add(&mut sum.clamped, cpu.clamped);
                add(&mut sum.icmp_sent, cpu.icmp_sent);
                add(&mut sum.too_big_dropped, cpu.too_big_dropped);
            }
        }
        Ok(sum)
    }

    /// Summed over the CPUs, but for what has not arrived yet, and when answers were given.
    pub(crate) fn next_hop(&self, next_hop: &NextHop) -> Result<NextHopCounters, String> {
        let per_cpu = self.next_hop_counters.get(&self.slot(next_hop)?, 0).unwrap();
        Ok(summed(&per_cpu, |sum: &mut NextHopCounters, cpu| {
            add(&mut sum.departed, cpu.departed);
            add(&mut sum.arrived, cpu.arrived);
            add(&mut sum.failed_over, cpu.failed_over);
            add(&mut sum.clamped, cpu.clamped);
            add(&mut sum.icmp_sent, cpu.icmp_sent);
            add(&mut sum.too_big_dropped, cpu.too_big_dropped);
        }))
    }

    pub(crate) fn attachment(&self, ifindex: u32) -> AttachmentCounters {
        let is_its = |per_cpu: &PerCpuValues<AttachmentCounters>| per_cpu[0].ifindex == u64::from(ifindex);
        let per_cpu = self.attachment_counters.iter().map(|per_cpu| per_cpu.unwrap()).find(is_its).unwrap();
        summed(&per_cpu, |sum: &mut AttachmentCounters, cpu| {
            for (sum, cpu) in sum.of.iter_mut().zip(cpu.of) {
                add(sum, cpu);
            }
        })
    }

    /// Lets a packet through the program, `times` times one after the other, and says what is left after the last.
    pub(crate) fn run(&self, frame: &Frame, times: u32) -> Result<Ran, ProgramError> {
        let mut context = [0; CONTEXT];
        let mut set = |at: usize, value: u32| context[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        set(MARK, frame.mark);
        set(PRIORITY, frame.priority);
        set(IFINDEX, frame.ifindex);
        set(GSO_SEGS, frame.segments);
        set(GSO_SIZE, if frame.segments == 0 { 0 } else { 1_000 });
        for (nth, word) in frame.cb.iter().enumerate() {
            set(CB + 4 * nth, *word);
        }
        let (mut out, mut context_out) = (vec![0; frame.bytes.len()], [0; CONTEXT]);
        let before = self.start.elapsed();
        let result = self.program.test_run(TestRunOptions {
            data_in: Some(&frame.bytes),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ctx_out: Some(&mut context_out),
            repeat: times,
            ..TestRunOptions::default()
        })?;
        let after = self.start.elapsed();
        out.truncate(result.data_size_out as usize);
        let get = |at: usize| u32::from_ne_bytes(context_out[at..at + 4].try_into().unwrap());
        let ran = Ran {
            verdict: result.return_value,
            cb: std::array::from_fn(|nth| get(CB + 4 * nth)),
            mark: get(MARK),
            priority: get(PRIORITY),
            changed: (out != frame.bytes).then_some(out),
            between: (before, after),
        };
        // One that has not arrived leaves its next hop unproven.
        if ran.verdict == REDIRECT && self.in_slot(ran.slot()).is_some() {
            self.proven.borrow_mut().prove(ran.slot());
        }
        Ok(ran)
    }

    /// The longest frame that the kernel takes: a page's worth before Linux 6.19 or so.
    pub(crate) fn longest(&self) -> usize {
        let is_taken = |length: &usize| {
            let mut bytes = vec![0; *length];
            bytes[12..ETHERNET].copy_from_slice(&0x88B5_u16.to_be_bytes()); // for local experiments (IEEE 802)
            let options = TestRunOptions { data_in: Some(&bytes), ..TestRunOptions::default() };
            self.program.test_run(options).is_ok()
        };
        (1_000..=9_014).rev().find(is_taken).unwrap()
    }
}

fn open<T: TryFrom<Map, Error = MapError>>(folder: &Path, name: &str) -> T {
    let data = MapData::from_pin(folder.join(name)).unwrap();
    T::try_from(Map::from_map_data(data).unwrap()).unwrap()
}

fn summed<T: aya::Pod + Default>(per_cpu: &PerCpuValues<T>, add: impl Fn(&mut T, &T)) -> T {
    let mut sum = T::default();
    per_cpu.iter().for_each(|cpu| add(&mut sum, cpu));
    sum
}

fn address(family: u32, bytes: [u8; 16]) -> std::net::IpAddr {
    match family {
        FAMILY_IPV4 => <[u8; 4]>::try_from(&bytes[..4]).unwrap().into(),
        FAMILY_IPV6 => bytes.into(),
        other => panic!("no address is of the family {other}"),
    }
}

fn selector(record: &RuleRecord) -> Selector {
    let prefix = |bytes, length| Prefix::holding(address(record.family, bytes), length).unwrap();
    Selector::new(
        prefix(record.source, record.source_len),
        Some(prefix(record.destination, record.destination_len)),
    )
}

fn next_hop(record: &byway_abi::NextHop) -> NextHop {
    let name = record.device.iter().take_while(|byte| **byte != 0).map(|byte| char::from(*byte)).collect();
    let gateway =
        (record.family != byway_abi::FAMILY_ON_LINK).then(|| address(record.family, record.gateway));
    NextHop::new(gateway, Device { name, index: record.ifindex })
}
