//! The pinned source tables of the generations. Each is an array map that is written in place.

use std::{
    fs, io,
    net::IpAddr,
    ops::Range,
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aya::maps::{Array, ArrayOfMaps, MapData};
use byway_abi::{
    Target,
    sources::{ENTRIES, TableInfo, TableInfos, WORDS4, WORDS6},
};

use super::{
    grace_period,
    map::{cannot_look_at, cannot_make, cannot_open, cannot_read, cannot_write, map, open_if_there},
    sys::{self, Memory},
};
use crate::{
    error::{Error, Result},
    model::{Family, Prefix},
    policy::source_table::{Layout, Table, TakesNewTable, buckets, fault, lay_out, other_info},
};

/// `BPF_F_MMAPABLE` and `BPF_F_INNER_MAP` (include/uapi/linux/bpf.h), as `crates/byway-ebpf/src/maps.rs` has them.
pub(super) const INNER: u32 = 1 << 10 | 1 << 12;

type Inner4 = Array<MapData, [u64; ENTRIES * WORDS4]>;
type Inner6 = Array<MapData, [u64; ENTRIES * WORDS6]>;

/// The largest page size of any architecture, in bytes.
const LARGEST_PAGE: usize = 1 << 16;

/// How many times to try to fill a table, with other hashes or more room each time.
const ATTEMPTS: u32 = 32;

/// The tables of the generation in force, and during a change those of one more.
pub(crate) struct Sources {
    folder: PathBuf,
    outer4: ArrayOfMaps<MapData, Inner4>,
    outer6: ArrayOfMaps<MapData, Inner6>,
    infos: Array<MapData, TableInfos>,
    /// The tables that were opened last, with their generation.
    opened: Mutex<Option<(u32, Tables)>>,
}

/// The memory of a generation's tables. A family without rules has none.
#[derive(Clone)]
struct Tables {
    v4: Option<Arc<Memory>>,
    v6: Option<Arc<Memory>>,
}

/// The tables of one generation.
pub(crate) struct Generation {
    infos: TableInfos,
    tables: Tables,
}

impl Generation {
    fn table(&self, family: Family) -> Option<Table<'_>> {
        let (memory, info) = match family {
            Family::V4 => (self.tables.v4.as_ref()?, self.infos.v4),
            Family::V6 => (self.tables.v6.as_ref()?, self.infos.v6),
        };
        Some(Table { family, info, words: memory.words(), first: 0 })
    }

    fn info(&mut self, family: Family) -> &mut TableInfo {
        match family {
            Family::V4 => &mut self.infos.v4,
            Family::V6 => &mut self.infos.v6,
        }
    }

    /// Returns the target for exactly this source.
    pub(crate) fn source(&self, source: &Prefix) -> Option<Target> {
        self.table(source.family())?.source(source)
    }

    /// The target of the most specific source that holds an address.
    pub(crate) fn look_up(&self, address: IpAddr) -> Option<Target> {
        self.table(Family::of(address))?.look_up(address)
    }

    /// Returns the sources of rules, and their targets.
    pub(crate) fn sources(&self) -> Vec<(Prefix, Target)> {
        [Family::V4, Family::V6]
            .into_iter()
            .filter_map(|family| self.table(family))
            .flat_map(|table| table.sources())
            .collect()
    }
}

/// The table that a source is in. For a single address only the part where it may be.
struct Part {
    family: Family,
    infos: TableInfos,
    memory: Arc<Memory>,
    /// The number of the first bucket in it.
    first: usize,
}

impl Part {
    fn table(&self) -> Table<'_> {
        let info = match self.family {
            Family::V4 => self.infos.v4,
            Family::V6 => self.infos.v6,
        };
        Table { family: self.family, info, words: self.memory.words(), first: self.first }
    }
}

impl Sources {
    /// Opens the maps that are pinned in `folder`.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        Ok(Self {
            folder: folder.to_owned(),
            outer4: map!(folder, "SOURCES4"),
            outer6: map!(folder, "SOURCES6"),
            infos: map!(folder, "TABLE_INFO"),
            opened: Mutex::new(None),
        })
    }

    /// Locks the tables that were opened last. Nobody panics while they hold the lock, so it cannot be poisoned.
    fn opened(&self) -> MutexGuard<'_, Option<(u32, Tables)>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the path of the pin of a family's table in a generation.
    fn pin(&self, family: Family, generation: u32) -> PathBuf {
        self.folder.join(format!("{}-{}", name(family), generation & 1))
    }

    /// Opens the tables of a generation.
    pub(crate) fn generation(&self, generation: u32) -> Result<Generation> {
        let open = |family| match self.open_map(family, generation)? {
            Some(map) => memory(&map, name(family)).map(Arc::new).map(Some),
            None => Ok(None),
        };
        let opened = self.opened().as_ref().filter(|(of, _)| *of == generation).map(|(_, it)| it.clone());
        let tables = match opened {
            Some(tables) => tables,
            None => Tables { v4: open(Family::V4)?, v6: open(Family::V6)? },
        };
        *self.opened() = Some((generation, tables.clone()));
        let infos = self.infos(generation)?;
        let check = |family: Family, info: &TableInfo, memory: Option<&Arc<Memory>>| match memory {
            Some(memory) => {
                self.check(family, info, (memory.words().len() / (ENTRIES * family.words())) as u32)
            }
            // Rules that packets find would not be shown.
            None if info.used > 0 => {
                let name = format!("{}-{}", name(family), generation & 1);
                Err(Error::MissingPin { folder: self.folder.clone(), name })
            }
            None => Ok(()),
        };
        check(Family::V4, &infos.v4, tables.v4.as_ref())?;
        check(Family::V6, &infos.v6, tables.v6.as_ref())?;
        Ok(Generation { infos, tables })
    }

    /// Refuses an info that does not fit a table with this many buckets. A reader without the lock may find the info of one
    /// table with another table, and then reads again ([`read_consistent`](super::snapshot::read_consistent)).
    fn check(&self, family: Family, info: &TableInfo, buckets: u32) -> Result<()> {
        fault(family, info, buckets).map_or(Ok(()), |fault| {
            let what = format!("it says of {} that {fault}", name(family));
            Err(Error::Damaged { path: self.folder.clone(), map: "TABLE_INFO", what })
        })
    }

    fn open_map(&self, family: Family, generation: u32) -> Result<Option<MapData>> {
        open_if_there(&self.pin(family, generation), name(family))
    }

    /// Opens the part of a table where a source may be. To map all of a large table takes longer than everything else in a
    /// change of one rule.
    fn part(&self, generation: u32, source: &Prefix) -> Result<Option<Part>> {
        let family = source.family();
        let infos = self.infos(generation)?;
        let info = match family {
            Family::V4 => &infos.v4,
            Family::V6 => &infos.v6,
        };
        let is_open = self.opened().as_ref().is_some_and(|(of, _)| *of == generation);
        let map = if is_open || !source.is_host() { None } else { self.open_map(family, generation)? };
        if let Some(map) = &map {
            let map_info = map.info().map_err(cannot_look_at(name(family)))?;
            self.check(family, info, map_info.max_entries())?;
        }
        let few = map.and_then(|map| Some((map, buckets(family, info, source)?)));
        let Some((map, few)) = few else {
            // With the infos that were checked against these tables.
            let Generation { infos, tables } = self.generation(generation)?;
            let memory = match family {
                Family::V4 => tables.v4,
                Family::V6 => tables.v6,
            };
            return Ok(memory.map(|memory| Part { family, infos, memory, first: 0 }));
        };
        let bytes = ENTRIES * family.words() * size_of::<u64>();
        let first = few.start * bytes / LARGEST_PAGE * LARGEST_PAGE;
        let memory = part_of_memory(&map, name(family), first..few.end * bytes)?;
        Ok(Some(Part { family, infos, memory: Arc::new(memory), first: first / bytes }))
    }

    /// Returns the target for exactly this source in a generation.
    pub(crate) fn source(&self, generation: u32, source: &Prefix) -> Result<Option<Target>> {
        Ok(self.part(generation, source)?.and_then(|part| part.table().source(source)))
    }

    fn infos(&self, generation: u32) -> Result<TableInfos> {
        self.infos.get(&(generation & 1), 0).map_err(cannot_read("TABLE_INFO"))
    }

    fn set_infos(&mut self, generation: u32, infos: TableInfos) -> Result<()> {
        self.infos.set(generation & 1, infos, 0).map_err(cannot_write("TABLE_INFO"))
    }

    /// Gives a source this target, or none, in the generation in force. Packets see it from the instant when the new epoch
    /// begins. Returns the target before, or that this needs new tables.
    pub(crate) fn set(
        &mut self,
        generation: u32,
        source: &Prefix,
        target: Option<Target>,
    ) -> Result<std::result::Result<Option<Target>, TakesNewTable>> {
        let Some(part) = self.part(generation, source)? else {
            return Ok(if target.is_some() { Err(TakesNewTable) } else { Ok(None) });
        };
        let mut infos = part.infos;
        self.end_epoch(generation, &mut infos)?;
        let mut table = part.table();
        let set = table.set(source, target, grace_period::wait);
        match part.family {
            Family::V4 => infos.v4 = table.info,
            Family::V6 => infos.v6 = table.info,
        }
        if !cfg!(target_arch = "x86_64") {
            // Other CPUs may see the last write before the earlier ones, and would cache an old result for the new epoch.
            grace_period::wait();
        }
        self.begin_epoch(generation, infos)?;
        Ok(set)
    }

    /// Creates the tables of a generation that is not in force, from sources in order.
    pub(crate) fn make(&mut self, generation: u32, mut sources: Vec<(Prefix, Target)>) -> Result<()> {
        let v6 = sources.split_off(sources.partition_point(|(source, _)| source.family() == Family::V4));
        let v4 = self.make_table(Family::V4, generation, sources)?;
        let v6 = self.make_table(Family::V6, generation, v6)?;
        self.begin_epoch(generation, TableInfos { v4, v6, ..TableInfos::EMPTY })
    }

    /// Makes every cached result of a search invalid.
    fn end_epoch(&mut self, generation: u32, infos: &mut TableInfos) -> Result<()> {
        infos.epoch = 0;
        self.set_infos(generation, *infos)
    }

    /// Makes results of searches valid that are cached from now on.
    fn begin_epoch(&mut self, generation: u32, infos: TableInfos) -> Result<()> {
        let first = self.infos(0)?;
        let epoch = first.last_epoch.wrapping_add(1).max(1);
        if generation & 1 != 0 {
            self.set_infos(0, TableInfos { last_epoch: epoch, ..first })?;
        }
        self.set_infos(generation, TableInfos { epoch, last_epoch: epoch, ..infos })
    }

    fn make_table(
        &mut self,
        family: Family,
        generation: u32,
        sources: Vec<(Prefix, Target)>,
    ) -> Result<TableInfo> {
        if sources.is_empty() {
            self.remove_table(family, generation)?;
            return Ok(TableInfo::EMPTY);
        }
        let layout = lay_out(sources);
        let mut info = layout.info;
        for attempt in 1..=ATTEMPTS {
            match self.try_make_table(family, generation, &layout, info)? {
                Ok(info) => return Ok(info),
                Err(TakesNewTable) => info = other_info(&info, attempt),
            }
        }
        Err(Error::kernel(format!("fill the table {}", name(family)), "no hash spreads these sources"))
    }

    fn try_make_table(
        &mut self,
        family: Family,
        generation: u32,
        layout: &Layout,
        info: TableInfo,
    ) -> Result<std::result::Result<TableInfo, TakesNewTable>> {
        let making = cannot_make(name(family));
        self.remove_table(family, generation)?;
        let pin = self.pin(family, generation);
        let buckets = info.mask.saturating_add(1);
        match family {
            Family::V4 => Inner4::create(buckets, INNER).map_err(making)?.pin(&pin),
            Family::V6 => Inner6::create(buckets, INNER).map_err(making)?.pin(&pin),
        }
        .map_err(|error| Error::kernel(format!("pin the map {}", name(family)), error))?;
        let data = MapData::from_pin(&pin).map_err(cannot_open(name(family)))?;
        let memory = memory(&data, name(family))?;
        let mut table = Table { family, info, words: memory.words(), first: 0 };
        if table.fill(layout).is_err() {
            return Ok(Err(TakesNewTable));
        }
        let info = table.info;
        let map = aya::maps::Map::from_map_data(data).map_err(making)?;
        let slot = generation & 1;
        match family {
            Family::V4 => self.outer4.set(slot, &map.try_into().map_err(making)?, 0),
            Family::V6 => self.outer6.set(slot, &map.try_into().map_err(making)?, 0),
        }
        .map_err(cannot_write(name(family)))?;
        Ok(Ok(info))
    }

    /// Removes the tables of a generation that is not in force.
    pub(crate) fn remove(&mut self, generation: u32) -> Result<()> {
        self.remove_table(Family::V4, generation)?;
        self.remove_table(Family::V6, generation)?;
        let last_epoch = self.infos(generation)?.last_epoch;
        self.set_infos(generation, TableInfos { last_epoch, ..TableInfos::EMPTY })
    }

    fn remove_table(&mut self, family: Family, generation: u32) -> Result<()> {
        // A generation that is not in force may get new tables.
        self.opened().take();
        empty(&self.folder, family, generation & 1)?;
        let pin = self.pin(family, generation);
        match fs::remove_file(&pin) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::kernel(format!("remove {}", pin.display()), error))
            }
            _ => Ok(()),
        }
    }

    /// Removes what an interrupted change has left in the tables in force.
    pub(crate) fn tidy(&mut self, generation: u32) -> Result<()> {
        let mut tables = self.generation(generation)?;
        self.end_epoch(generation, &mut tables.infos)?;
        for family in [Family::V4, Family::V6] {
            let Some(mut table) = tables.table(family) else { continue };
            table.tidy();
            let info = table.info;
            *tables.info(family) = info;
        }
        self.begin_epoch(generation, tables.infos)
    }
}

fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "SOURCES4",
        Family::V6 => "SOURCES6",
    }
}

/// Maps all the memory of an array map.
pub(super) fn memory(map: &MapData, name: &str) -> Result<Memory> {
    part_of_memory(map, name, 0..usize::MAX)
}

/// Maps these bytes of the memory of an array map, as far as they exist. The first must begin a page.
fn part_of_memory(map: &MapData, name: &str, part: Range<usize>) -> Result<Memory> {
    let info = map.info().map_err(cannot_look_at(name))?;
    let bytes = info.value_size().next_multiple_of(8) as usize * info.max_entries() as usize;
    Memory::of(map.fd().as_fd(), part.start, bytes.min(part.end).saturating_sub(part.start))
        .map_err(|error| Error::kernel(format!("map {name} into memory"), error))
}

fn empty(folder: &Path, family: Family, slot: u32) -> Result<()> {
    let outer = MapData::from_pin(folder.join(name(family))).map_err(cannot_open(name(family)))?;
    match sys::empty_slot(outer.fd().as_fd(), slot) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::kernel(format!("write the map {}", name(family)), error))
        }
        _ => Ok(()),
    }
}
