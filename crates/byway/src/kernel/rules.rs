//! The records of rules and their counters, in chunks: array maps that are read and written in place.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use aya::maps::{Array, ArrayOfMaps, Map, MapData, PerCpuHashMap};
use byway_abi::{
    Count, Counters, EXCEPTION_MAPS, ExceptionCounters, MAX_CHUNKS, RuleRecord, TARGET_NEXT_HOP, chunk_len,
    exception_map, without_reply_to,
};

use super::{
    bpffs,
    map::{
        add, cannot_make, cannot_open, cannot_read, cannot_write, ignore_missing, map, open_if_there,
        optional,
    },
    migrations::NO_PREALLOC,
    sources::{INNER, memory},
    sys::{Memory, RECORD_WORDS, record_of_words, record_to_words},
    wire,
};
use crate::error::{Error, Result};

/// `BPF_F_MMAPABLE` (include/uapi/linux/bpf.h).
const IN_PLACE: u32 = 1 << 10;

/// Up to how many removals to ask the kernel about each one: with many, that would take longer than everything else.
const ONE_BY_ONE: u32 = 64;

/// Which word of a record says whether it exists: the one with its family and its index.
const FAMILY: usize = 4;
/// Which word contains its kind, in the fourth byte.
const KIND: usize = 5;
/// 64-bit words of a rule's counters on one CPU.
const COUNTER_WORDS: usize = size_of::<Counters>() / size_of::<u64>();

/// The chunks of one network namespace. Once created, they stay.
pub(crate) struct Rules {
    folder: PathBuf,
    outer: ArrayOfMaps<MapData, Array<MapData, Counters>>,
    outer_exceptions: ArrayOfMaps<MapData, Exceptions>,
    /// The maps in it, and the one that schema 10 had instead of them. Those opened so far are set.
    exceptions: Vec<OnceLock<Exceptions>>,
    /// How many records were removed since the last grace period.
    removed: u32,
    /// The rules that have exception counters, read once if many are removed. A rule that was removed before the last grace
    /// period gets none any more.
    exception_ids: Option<BTreeSet<u32>>,
    /// All chunks that there may be. Those opened so far are set.
    chunks: Vec<OnceLock<Chunk>>,
    /// How many chunks there are.
    made: AtomicU32,
    cpus: usize,
}

type Exceptions = PerCpuHashMap<MapData, u32, ExceptionCounters>;

struct Chunk {
    records: Memory,
    counters: Memory,
    /// How many rules there are in the row of counters of one CPU.
    row: usize,
}

/// The counters of a rule, summed over the CPUs.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RuleCounters {
    pub(crate) matched: Count,
    pub(crate) arrived: Count,
    pub(crate) exceptions: ExceptionCounters,
}

impl Rules {
    /// Opens the maps that are pinned in `folder`.
    pub(super) fn open(folder: &Path, cpus: usize) -> Result<Self> {
        let made = made(folder)?;
        // Rules that packets find would not be shown.
        let names = (0..made).flat_map(|chunk| [format!("rules/{chunk}"), format!("counters/{chunk}")]);
        if let Some(name) = names.into_iter().find(|name| !folder.join(name).exists()) {
            return Err(Error::MissingPin { folder: folder.to_owned(), name });
        }
        Ok(Self {
            folder: folder.to_owned(),
            outer: map!(folder, "COUNTERS"),
            outer_exceptions: map!(folder, "EXCEPTIONS"),
            exceptions: (0..=EXCEPTION_MAPS).map(|_| OnceLock::new()).collect(),
            removed: 0,
            exception_ids: None,
            chunks: (0..MAX_CHUNKS).map(|_| OnceLock::new()).collect(),
            made: made.into(),
            cpus,
        })
    }

    /// Returns how many chunks there are.
    pub(crate) fn chunks(&self) -> u32 {
        self.made.load(Ordering::Relaxed)
    }

    /// Returns how many rules the chunks have room for.
    pub(crate) fn room(&self) -> u32 {
        (0..self.chunks()).map(chunk_len).sum()
    }

    /// Returns all identities in the chunks, except 0, which no rule has.
    fn identities(&self) -> impl Iterator<Item = u32> {
        (0..self.chunks())
            .flat_map(|chunk| (0..chunk_len(chunk)).map(move |place| chunk << 16 | place))
            .skip(1)
    }

    /// Finds a free identity, from `first` on.
    pub(crate) fn free(&self, first: u32) -> Result<Option<u32>> {
        let (mut chunk, mut place) = (first >> 16, first & 0xFFFF);
        for _ in 0..=self.room() {
            if chunk < self.chunks() && place >= chunk_len(chunk) {
                (chunk, place) = (chunk + 1, 0);
            }
            if chunk >= self.chunks() {
                (chunk, place) = (0, 1);
            }
            let id = chunk << 16 | place;
            if id != 0 && !self.has(id)? {
                return Ok(Some(id));
            }
            place += 1;
        }
        Ok(None)
    }

    fn records_pin(&self, chunk: u32) -> PathBuf {
        self.folder.join(format!("rules/{chunk}"))
    }

    fn counters_pin(&self, chunk: u32) -> PathBuf {
        self.folder.join(format!("counters/{chunk}"))
    }

    /// Returns the path of the pin of a map of exception counters.
    fn exceptions_pin(&self, number: u32) -> PathBuf {
        if number < EXCEPTION_MAPS {
            self.folder.join(format!("exceptions/{number}"))
        } else {
            self.folder.join("EXCEPTION_COUNTERS")
        }
    }

    /// Opens a map of exception counters, if there is one.
    fn exceptions_map(&self, number: u32) -> Result<Option<&Exceptions>> {
        let Some(cell) = self.exceptions.get(number as usize) else { return Ok(None) };
        if let Some(map) = cell.get() {
            return Ok(Some(map));
        }
        let Some(map) = open_if_there(&self.exceptions_pin(number), "EXCEPTIONS")? else { return Ok(None) };
        let map =
            Map::from_map_data(map).and_then(Exceptions::try_from).map_err(cannot_open("EXCEPTIONS"))?;
        Ok(Some(cell.get_or_init(|| map)))
    }

    /// Creates the map of exception counters that comes with a chunk, unless it exists.
    fn new_exceptions(&self, chunk: u32) -> Result<Option<Exceptions>> {
        if chunk >= EXCEPTION_MAPS || self.exceptions_pin(chunk).exists() {
            return Ok(None);
        }
        let map = Exceptions::create(chunk_len(chunk), NO_PREALLOC);
        map.map(Some).map_err(cannot_make("of exceptions"))
    }

    fn pin_exceptions(&self, chunk: u32, map: Option<Exceptions>) -> Result<()> {
        let Some(map) = map else { return Ok(()) };
        bpffs::make_folder(&self.folder.join("exceptions"))?;
        map.pin(self.exceptions_pin(chunk)).map_err(|error| Error::kernel("pin a map of exceptions", error))
    }

    /// Creates what an older Byway did not create with its chunks.
    pub(super) fn complete(&mut self) -> Result<()> {
        for chunk in 0..self.chunks() {
            let exceptions = self.new_exceptions(chunk)?;
            if let Some(map) = &exceptions {
                self.outer_exceptions.set(chunk, map, 0).map_err(cannot_write("EXCEPTIONS"))?;
            }
            self.pin_exceptions(chunk, exceptions)?;
        }
        Ok(())
    }

    /// Adds an empty chunk. If that fails, no pin is left of its records and counters.
    pub(crate) fn add_chunk(&mut self) -> Result<()> {
        let number = self.chunks();
        for folder in ["rules", "counters"] {
            bpffs::make_folder(&self.folder.join(folder))?;
        }
        // An interrupted change may have left its pins.
        self.remove_chunk(number)?;
        if let Err(error) = self.make_chunk(number) {
            // Records without counters are a damage that somebody else has done.
            let _ = self.remove_chunk(number);
            return Err(error);
        }
        *self.made.get_mut() = number + 1;
        Ok(())
    }

    fn make_chunk(&mut self, number: u32) -> Result<()> {
        let exceptions = self.new_exceptions(number)?;
        let making = cannot_make("of rules");
        let pinning = |error| Error::kernel("pin a map of rules", error);
        Array::<MapData, [u64; RECORD_WORDS]>::create(chunk_len(number), IN_PLACE)
            .map_err(making)?
            .pin(self.records_pin(number))
            .map_err(pinning)?;
        let counters = Array::<MapData, Counters>::create(chunk_len(number) * self.cpus as u32, INNER)
            .map_err(making)?;
        // Each write to a map of maps waits for all programs that are running (`maybe_wait_bpf_programs`,
        // kernel/bpf/syscall.c): the two wait at the same time.
        let Self { outer, outer_exceptions, .. } = self;
        let mut set_exceptions = || match &exceptions {
            Some(map) => outer_exceptions.set(number, map, 0),
            None => Ok(()),
        };
        let (of_counters, of_exceptions) = thread::scope(|scope| {
            let thread = thread::Builder::new().spawn_scoped(scope, &mut set_exceptions);
            let of_counters = outer.set(number, &counters, 0);
            (of_counters, thread.ok().and_then(|thread| thread.join().ok()))
        });
        of_counters.map_err(cannot_write("COUNTERS"))?;
        // The system may have had no thread to spare.
        of_exceptions.unwrap_or_else(set_exceptions).map_err(cannot_write("EXCEPTIONS"))?;
        // The pins last: what is pinned is in use.
        self.pin_exceptions(number, exceptions)?;
        counters.pin(self.counters_pin(number)).map_err(pinning)
    }

    fn remove_chunk(&self, number: u32) -> Result<()> {
        for pin in [self.records_pin(number), self.counters_pin(number)] {
            match fs::remove_file(&pin) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::kernel(format!("remove {}", pin.display()), error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Returns the pin that the last chunk lacks, if it lacks one: between two changes, somebody has removed it. `has_rules`
    /// says whether packets find rules, and so there has to be a chunk.
    pub(crate) fn lacks(&self, has_rules: bool) -> Result<Option<String>> {
        let next = made(&self.folder)?;
        let is_half = self.records_pin(next).exists();
        Ok((is_half || has_rules && next == 0).then(|| format!("counters/{next}")))
    }

    /// Returns the chunk of an identity, and the identity's place in it.
    fn chunk(&self, id: u32) -> Result<Option<(&Chunk, usize)>> {
        let (number, place) = (id >> 16, (id & 0xFFFF) as usize);
        if number >= self.chunks() {
            // Another process may have added one.
            self.made.store(made(&self.folder)?, Ordering::Relaxed);
        }
        let cell = self.chunks.get(number as usize).filter(|_| number < self.chunks());
        let Some(cell) = cell else { return Ok(None) };
        if let Some(chunk) = cell.get() {
            return Ok(Some((chunk, place)));
        }
        // There is none if another Byway has removed all pins.
        let open =
            |pin: PathBuf| open_if_there(&pin, "of rules")?.map(|map| memory(&map, "of rules")).transpose();
        let chunk = (open(self.records_pin(number))?, open(self.counters_pin(number))?);
        let (Some(records), Some(counters)) = chunk else { return Ok(None) };
        let row = chunk_len(number) as usize;
        Ok(Some((cell.get_or_init(|| Chunk { records, counters, row }), place)))
    }

    /// Returns the record of a rule.
    pub(crate) fn record(&self, id: u32) -> Result<Option<RuleRecord>> {
        let Some((chunk, place)) = self.chunk(id)? else { return Ok(None) };
        let Some(record) = chunk.records.words().get(place * RECORD_WORDS..(place + 1) * RECORD_WORDS) else {
            return Ok(None);
        };
        let mut words = [0; RECORD_WORDS];
        for (word, record) in words.iter_mut().zip(record) {
            *word = record.load(Ordering::Acquire);
        }
        let record = record_of_words(words);
        Ok((record.family != 0).then_some(record))
    }

    /// Whether there is a record with this identity.
    pub(crate) fn has(&self, id: u32) -> Result<bool> {
        let Some((chunk, place)) = self.chunk(id)? else { return Ok(false) };
        let word = chunk.records.words().get(place * RECORD_WORDS + FAMILY);
        Ok(word.is_some_and(|word| word.load(Ordering::Acquire) as u32 != 0))
    }

    /// Writes a record, and sets its counters to zero. No packet finds the rule yet.
    pub(crate) fn write(&mut self, id: u32, record: RuleRecord) -> Result<()> {
        let Some((chunk, place)) = self.chunk(id)? else {
            return Err(Error::inconsistent(
                format!("write the record of rule {id}"),
                "there is no such chunk",
            ));
        };
        for cpu in 0..self.cpus {
            for word in counters(chunk, cpu, place) {
                word.store(0, Ordering::Relaxed);
            }
        }
        let words = record_to_words(record);
        let start = place * RECORD_WORDS;
        let Some(place) = chunk.records.words().get(start..start + RECORD_WORDS) else { return Ok(()) };
        for (nth, word) in words.iter().enumerate().filter(|(nth, _)| *nth != FAMILY) {
            place[nth].store(*word, Ordering::Relaxed);
        }
        place[FAMILY].store(words[FAMILY], Ordering::Release);
        Ok(())
    }

    /// Tells this that all programs have ended that may have seen a removed rule.
    pub(crate) fn grace_period_ended(&mut self) {
        (self.removed, self.exception_ids) = (0, None);
    }

    /// Removes a record that no packet sees. A missing one is not an error.
    pub(crate) fn remove(&mut self, id: u32) -> Result<()> {
        self.removed = self.removed.saturating_add(1);
        let has_exceptions = if self.removed <= ONE_BY_ONE {
            true
        } else {
            let ids = match self.exception_ids.take() {
                Some(ids) => ids,
                None => self.exceptions()?,
            };
            self.exception_ids.insert(ids).remove(&id)
        };
        if has_exceptions {
            for number in exception_maps(id) {
                self.exceptions_map(number)?;
                let map = self.exceptions.get_mut(number as usize).and_then(OnceLock::get_mut);
                map.map_or(Ok(()), |map| ignore_missing(map.remove(&id)))
                    .map_err(cannot_write("EXCEPTIONS"))?;
            }
        }
        if let Some((chunk, place)) = self.chunk(id)?
            && let Some(word) = chunk.records.words().get(place * RECORD_WORDS + FAMILY)
        {
            word.store(0, Ordering::Release);
        }
        Ok(())
    }

    /// Returns all records with their identities, including those that another process has added meanwhile.
    pub(crate) fn records(&self) -> Result<impl Iterator<Item = Result<(u32, RuleRecord)>>> {
        self.made.store(made(&self.folder)?, Ordering::Relaxed);
        Ok(self.identities().filter_map(|id| match self.record(id) {
            Ok(record) => Some(Ok((id, record?))),
            Err(error) => Some(Err(error)),
        }))
    }

    /// Whether another record than that of `id` uses the next hop in a slot directly, without a group. Counts records of an
    /// unknown kind, because they may.
    pub(crate) fn leads_elsewhere(&self, slot: u32, id: u32) -> Result<bool> {
        for number in 0..self.chunks() {
            let Some((chunk, _)) = self.chunk(number << 16)? else { continue };
            for (place, words) in chunk.records.words().chunks_exact(RECORD_WORDS).enumerate() {
                // Look at no more of the record, because there may be a million.
                let leads_there = (words[FAMILY].load(Ordering::Relaxed) >> 32) as u32 == slot;
                let is_unknown = || wire::is_unknown((words[KIND].load(Ordering::Relaxed) >> 24) as u8);
                if number << 16 | place as u32 == id || !leads_there && !is_unknown() {
                    continue;
                }
                let record = self.record(number << 16 | place as u32)?;
                if record.is_some_and(|record| match without_reply_to(record.kind) {
                    TARGET_NEXT_HOP => record.index == slot,
                    kind => wire::is_unknown(kind),
                }) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Returns the rules that have exception counters.
    pub(crate) fn exceptions(&self) -> Result<BTreeSet<u32>> {
        let mut ids = BTreeSet::new();
        for number in 0..=EXCEPTION_MAPS {
            for id in self.exceptions_map(number)?.iter().flat_map(|map| map.keys()) {
                ids.insert(id.map_err(cannot_read("EXCEPTIONS"))?);
            }
        }
        Ok(ids)
    }

    /// Returns the counters of a rule. All are zero if the rule is gone. Exceptions need a call to the kernel, and are zero
    /// without `with_exceptions`.
    pub(crate) fn counters(&self, id: u32, with_exceptions: bool) -> Result<RuleCounters> {
        let mut sum = RuleCounters::default();
        if let Some((chunk, place)) = self.chunk(id)? {
            for cpu in 0..self.cpus {
                let mut words = counters(chunk, cpu, place).map(|word| word.load(Ordering::Relaxed));
                let mut count =
                    || Count { packets: words.next().unwrap_or(0), bytes: words.next().unwrap_or(0) };
                add(&mut sum.matched, count());
                add(&mut sum.arrived, count());
            }
        }
        if !with_exceptions {
            return Ok(sum);
        }
        for number in exception_maps(id) {
            let Some(map) = self.exceptions_map(number)? else { continue };
            let exceptions = optional(map.get(&id, 0)).map_err(cannot_read("EXCEPTIONS"))?;
            for cpu in exceptions.iter().flat_map(|values| values.iter()) {
                add(&mut sum.exceptions.no_next_hop, cpu.no_next_hop);
                add(&mut sum.exceptions.clamped, cpu.clamped);
                add(&mut sum.exceptions.icmp_sent, cpu.icmp_sent);
                add(&mut sum.exceptions.too_big_dropped, cpu.too_big_dropped);
            }
        }
        Ok(sum)
    }
}

/// Returns the numbers of the maps that a rule's exception counters may be in: its own, and that of schema 10.
fn exception_maps(id: u32) -> [u32; 2] {
    [exception_map(id), EXCEPTION_MAPS]
}

/// Returns how many chunks there are. The counters of a chunk are pinned last. Whoever takes too few for all loses rules.
fn made(folder: &Path) -> Result<u32> {
    match fs::read_dir(folder.join("counters")) {
        Ok(pins) => Ok(pins.count().min(MAX_CHUNKS as usize) as u32),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(Error::kernel("list the pins of the counters", error)),
    }
}

/// Returns the words of a rule's counters on one CPU.
fn counters(chunk: &Chunk, cpu: usize, place: usize) -> impl Iterator<Item = &std::sync::atomic::AtomicU64> {
    let start = (cpu * chunk.row + place) * COUNTER_WORDS;
    chunk.counters.words().get(start..start + COUNTER_WORDS).into_iter().flatten()
}
