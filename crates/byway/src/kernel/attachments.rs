//! The pinned maps of attachments, of the programs on devices, and of requested attachments.

use std::{collections::BTreeMap, path::Path};

use aya::maps::{
    HashMap, MapData, MapError, PerCpuArray, PerCpuValues,
    xdp::{DevMapHash, XdpMapError},
};
use byway_abi::{
    ATTACHMENT_PROBES, AttachmentCounters, DIRECTION_NONE, MAX_ATTACHMENTS, ProgramKey, ProgramRecord,
};

use super::{
    map::{add, cannot_read, cannot_write, ignore_missing, map, optional},
    wire,
};
use crate::{
    error::{Error, Result},
    policy::state::{Direction, Place},
};

/// The open maps.
pub(crate) struct Attachments {
    devices: DevMapHash<MapData>,
    counters: PerCpuArray<MapData, AttachmentCounters>,
    programs: HashMap<MapData, ProgramKey, ProgramRecord>,
    cpus: usize,
}

impl Attachments {
    /// Opens the maps that are pinned in `folder`.
    pub(super) fn open(folder: &Path, cpus: usize) -> Result<Self> {
        Ok(Self {
            devices: map!(folder, "ATTACHMENTS"),
            counters: map!(folder, "ATTACHMENT_COUNTERS"),
            programs: map!(folder, "PROGRAMS"),
            cpus,
        })
    }

    /// Applies the rules to packets that leave by a device. Counts them from zero, unless they are counted already. Does not
    /// count them if the few places for its counters, which its ifindex says, belong to others.
    pub(crate) fn watch(&mut self, index: u32) -> Result<()> {
        if self.counters_place(index)?.is_none() {
            if let Some(place) = self.counters_place_of(index, 0)? {
                let counters = AttachmentCounters { ifindex: index.into(), ..Default::default() };
                self.set_counters(place, counters)?;
            } else if !self.is_watched(index)? && self.watched()? >= MAX_ATTACHMENTS as usize {
                return Err(Error::TooManyAttachments { limit: MAX_ATTACHMENTS });
            }
        }
        self.devices.insert(index, index, None, 0).map_err(|error| match error {
            XdpMapError::MapError(error) => cannot_write("ATTACHMENTS")(error),
            error => Error::kernel("write the map ATTACHMENTS", error),
        })
    }

    /// Returns to how many devices the rules apply.
    fn watched(&self) -> Result<usize> {
        let programs = self.programs()?;
        let egress = programs
            .iter()
            .filter_map(|(key, _)| wire::read_place(key))
            .filter(|place| place.direction == Direction::Egress);
        egress.map(|place| Ok(usize::from(self.is_watched(place.ifindex)?))).sum()
    }

    /// Whether the rules apply to packets that leave by a device. The kernel ends that when the device goes or moves to
    /// another network namespace, even if it comes back.
    pub(crate) fn is_watched(&self, index: u32) -> Result<bool> {
        let device = optional(self.devices.get(index, 0));
        device.map(|device| device.is_some()).map_err(cannot_read("ATTACHMENTS"))
    }

    /// Applies no rules any more to packets that leave by a device, and drops its counters.
    pub(crate) fn stop_watching(&mut self, index: u32) -> Result<()> {
        ignore_missing(self.devices.remove(index)).map_err(cannot_write("ATTACHMENTS"))?;
        match self.counters_place(index)? {
            Some(place) => self.set_counters(place, AttachmentCounters::default()),
            None => Ok(()),
        }
    }

    /// Returns the place of an attachment's counters.
    fn counters_place(&self, index: u32) -> Result<Option<u32>> {
        self.counters_place_of(index, index)
    }

    /// Returns the first place, of those where the attachment's counters may be, that belongs to `owner`.
    fn counters_place_of(&self, index: u32, owner: u32) -> Result<Option<u32>> {
        for probe in 0..ATTACHMENT_PROBES {
            let place = index.wrapping_add(probe) % MAX_ATTACHMENTS;
            let values = self.read_counters(place)?;
            if values.first().is_some_and(|counters| counters.ifindex == u64::from(owner)) {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    fn read_counters(&self, place: u32) -> Result<PerCpuValues<AttachmentCounters>> {
        self.counters.get(&place, 0).map_err(cannot_read("ATTACHMENT_COUNTERS"))
    }

    fn set_counters(&mut self, place: u32, counters: AttachmentCounters) -> Result<()> {
        PerCpuValues::try_from(vec![counters; self.cpus])
            .map_err(MapError::from)
            .and_then(|values| self.counters.set(place, values, 0))
            .map_err(cannot_write("ATTACHMENT_COUNTERS"))
    }

    /// Returns the counters of an attachment, summed over the CPUs. All are zero if there is none.
    pub(crate) fn counters(&self, index: u32) -> Result<AttachmentCounters> {
        let mut sum = AttachmentCounters::default();
        let Some(place) = self.counters_place(index)? else { return Ok(sum) };
        for cpu in self.read_counters(place)?.iter() {
            for (sum, count) in sum.of.iter_mut().zip(cpu.of) {
                add(sum, count);
            }
        }
        Ok(sum)
    }

    /// Returns all records in `PROGRAMS`, valid or not.
    pub(crate) fn programs(&self) -> Result<Vec<(ProgramKey, ProgramRecord)>> {
        self.programs.iter().collect::<std::result::Result<_, _>>().map_err(cannot_read("PROGRAMS"))
    }

    /// Returns the record of the program at a place.
    pub(crate) fn program(&self, place: Place) -> Result<Option<ProgramRecord>> {
        optional(self.programs.get(&wire::program_key(place), 0)).map_err(cannot_read("PROGRAMS"))
    }

    pub(crate) fn set_program(&mut self, place: Place, record: ProgramRecord) -> Result<()> {
        self.programs.insert(wire::program_key(place), record, 0).map_err(cannot_write("PROGRAMS"))
    }

    /// Removes the record of the program at a place.
    pub(super) fn forget_program(&mut self, place: Place) -> Result<()> {
        ignore_missing(self.programs.remove(&wire::program_key(place))).map_err(cannot_write("PROGRAMS"))
    }

    /// Returns the requested attachments by number: the name of each, which is empty for the devices that carry a default
    /// route.
    pub(crate) fn requests(&self) -> Result<BTreeMap<u32, String>> {
        let all = self.programs()?;
        let requests = all.into_iter().filter(|(key, _)| key.direction == DIRECTION_NONE);
        Ok(requests.map(|(key, record)| (key.ifindex, wire::read_request(&record.name))).collect())
    }

    /// Adds such a request if it does not exist, or removes it.
    pub(crate) fn set_request(&mut self, name: &str, is_asked: bool) -> Result<()> {
        let requests = self.requests()?;
        let key = |ifindex| ProgramKey { ifindex, direction: DIRECTION_NONE };
        let noted: Vec<u32> =
            requests.iter().filter(|(_, it)| *it == name).map(|(number, _)| *number).collect();
        let written = match (is_asked, noted.first()) {
            (true, Some(_)) => Ok(()),
            (true, None) => {
                let free = (0..).find(|number| !requests.contains_key(number)).unwrap_or_default();
                self.programs.insert(key(free), wire::request(name), 0)
            }
            (false, _) => {
                noted.iter().try_for_each(|number| ignore_missing(self.programs.remove(&key(*number))))
            }
        };
        written.map_err(cannot_write("PROGRAMS"))
    }
}
