//! The pinned maps of replies: the devices that requests come in by, the ways, and the flows ([`byway_abi::reply`]).

use std::{
    collections::BTreeSet,
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

use aya::maps::{
    Array, ArrayOfMaps, HashMap, Map, MapData,
    xdp::{DevMapHash, XdpMapError},
};
use aya_obj::generated::{BPF_F_INNER_MAP, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, bpf_map_type};
use byway_abi::reply::{Entry, FLOW_BUCKETS, FLOW_KEYS_LEN, FLOWS_OF_BUCKET, MAX_WAYS, Way};

use super::{
    bpffs, grace_period,
    map::{
        cannot_make, cannot_open, cannot_read, cannot_write, ignore_missing, map, open_if_there, optional,
    },
    sys::Memory,
};
use crate::error::{Error, Result};

/// The names of the pins of the maps within others.
const WAYS_PIN: &str = "WAYS-0";
const FLOWS_PIN: &str = "FLOWS-0";

/// The open maps.
pub(crate) struct Replies {
    receivers: DevMapHash<MapData>,
    ways: ArrayOfMaps<MapData>,
    /// The pin of the map in `ways`, which exists as long as that in `flows`.
    ways_pin: PathBuf,
    flows: ArrayOfMaps<MapData>,
    keys: Array<MapData, [u32; FLOW_KEYS_LEN]>,
    /// The pin of the map in `flows`, which exists as soon as there has been a rule that sends replies back.
    flows_pin: PathBuf,
}

impl Replies {
    /// Opens the maps that are pinned in `folder`.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        Ok(Self {
            receivers: map!(folder, "RECEIVERS"),
            ways: map!(folder, "WAYS"),
            ways_pin: folder.join(WAYS_PIN),
            flows: map!(folder, "FLOWS"),
            keys: map!(folder, "FLOW_KEYS"),
            flows_pin: folder.join(FLOWS_PIN),
        })
    }

    /// Notes the flows that come in by a device.
    pub(super) fn receive(&mut self, index: u32) -> Result<()> {
        if self.is_receiver(index)? {
            return Ok(());
        }
        // Those of an earlier device with this ifindex.
        self.forget_ways(index)?;
        self.receivers.insert(index, index, None, 0).map_err(|error| match error {
            XdpMapError::MapError(error) => cannot_write("RECEIVERS")(error),
            error => Error::kernel("write the map RECEIVERS", error),
        })
    }

    /// Whether the flows that come in by a device are noted. The kernel ends that when the device goes or moves to another
    /// network namespace, even if it comes back.
    pub(crate) fn is_receiver(&self, index: u32) -> Result<bool> {
        optional(self.receivers.get(index, 0)).map(|it| it.is_some()).map_err(cannot_read("RECEIVERS"))
    }

    /// Notes no flows any more that come in by a device, and sends none back there.
    pub(super) fn stop_receiving(&mut self, index: u32) -> Result<()> {
        ignore_missing(self.receivers.remove(index)).map_err(cannot_write("RECEIVERS"))?;
        self.forget_ways(index)
    }

    /// Removes the ways of a device that is no receiver. Their flows go first: the next way with one of these numbers may lead to
    /// somebody else.
    fn forget_ways(&mut self, index: u32) -> Result<()> {
        let Some(ways) = open_if_there(&self.ways_pin, WAYS_PIN)? else { return Ok(()) };
        let ways = Map::from_map_data(ways).map_err(cannot_open(WAYS_PIN))?;
        let mut ways: HashMap<MapData, u32, Way> = ways.try_into().map_err(cannot_open(WAYS_PIN))?;
        let mut gone = BTreeSet::new();
        for entry in ways.iter() {
            let (number, way) = entry.map_err(cannot_read(WAYS_PIN))?;
            if way.ifindex == index {
                gone.insert(number);
            }
        }
        if gone.is_empty() {
            return Ok(());
        }
        // A program that still found the device there may be noting a flow.
        grace_period::wait();
        self.forget_flows(&gone)?;
        let mut remove = |number: &u32| ignore_missing(ways.remove(number));
        gone.iter().try_for_each(&mut remove).map_err(cannot_write(WAYS_PIN))
    }

    /// Frees the places of the flows that have come in by these ways, or are moving to one of them.
    fn forget_flows(&self, ways: &BTreeSet<u32>) -> Result<()> {
        let Some(flows) = open_if_there(&self.flows_pin, FLOWS_PIN)? else { return Ok(()) };
        let bytes = FLOW_BUCKETS as usize * size_of::<[u64; 2 * FLOWS_OF_BUCKET]>();
        let memory = Memory::of(flows.fd().as_fd(), 0, bytes).map_err(Error::io("map the table of flows"))?;
        for word in memory.words().iter().skip(1).step_by(2) {
            let entry = Entry::read(word.load(Ordering::Relaxed));
            if ways.contains(&entry.way.into()) || (entry.is_moving && ways.contains(&entry.number)) {
                word.store(0, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Creates the maps of ways and flows, unless they exist, and the secret numbers in the fingerprints.
    pub(super) fn make_flows(&mut self) -> Result<()> {
        if open_if_there(&self.flows_pin, FLOWS_PIN)?.is_some() {
            return Ok(());
        }
        let mut keys = [0; FLOW_KEYS_LEN];
        for key in &mut keys {
            *key = getrandom::u32().map_err(|error| Error::kernel("get random bytes", error))?;
        }
        self.keys.set(0, keys, 0).map_err(cannot_write("FLOW_KEYS"))?;
        let ways = aya_obj::Map::new_from_params(
            bpf_map_type::BPF_MAP_TYPE_HASH as u32,
            size_of::<u32>() as u32,
            size_of::<Way>() as u32,
            MAX_WAYS,
            BPF_F_NO_PREALLOC,
        );
        let ways = MapData::create(ways, "ways", None).map_err(cannot_make("of ways"))?;
        // One that an interrupted change has left has no way.
        bpffs::remove(&self.ways_pin)?;
        ways.pin(&self.ways_pin).map_err(|error| Error::kernel("pin the map of ways", error))?;
        self.ways.set(0, &ways, 0).map_err(cannot_write("WAYS"))?;
        let table = aya_obj::Map::new_from_params(
            bpf_map_type::BPF_MAP_TYPE_ARRAY as u32,
            size_of::<u32>() as u32,
            size_of::<[u64; 2 * FLOWS_OF_BUCKET]>() as u32,
            FLOW_BUCKETS,
            BPF_F_MMAPABLE | BPF_F_INNER_MAP,
        );
        let table = MapData::create(table, "flows", None).map_err(cannot_make("of flows"))?;
        // The pin last: what is pinned is in use.
        self.flows.set(0, &table, 0).map_err(cannot_write("FLOWS"))?;
        table.pin(&self.flows_pin).map_err(|error| Error::kernel("pin the map of flows", error))
    }
}
