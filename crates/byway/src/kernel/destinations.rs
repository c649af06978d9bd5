//! The pinned maps of the sets of destinations. Each set belongs to a source whose rules have destinations.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use aya::maps::{
    HashMap, Map, MapData, MapError,
    lpm_trie::{Key, LpmTrie},
};
use byway_abi::{MAX_SETS, SetRecord, Target};

use super::{
    bpffs,
    map::{cannot_open, cannot_read, cannot_write, failed, ignore_missing, map, optional, retry_enomem},
    migrations::NO_PREALLOC,
    wire,
};
use crate::{
    error::{Error, Result},
    model::Prefix,
};

/// How many times as large the next map of sets is.
const GROWTH: u32 = 4;

/// A set's identity and an IPv4 address.
type Key4 = [u8; 8];
/// A set's identity and an IPv6 address.
type Key6 = [u8; 20];

/// A set: its identity and its destinations.
pub(crate) type Set = (u32, Vec<Prefix>);

/// The open maps.
pub(crate) struct Destinations {
    v4: LpmTrie<MapData, Key4, Target>,
    v6: LpmTrie<MapData, Key6, Target>,
    sets: HashMap<MapData, u32, SetRecord>,
    /// How many sets that map has room for.
    room: u32,
    /// Its pin.
    pin: PathBuf,
}

impl Destinations {
    /// Opens the maps that are pinned in `folder`.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let pin = folder.join("SETS");
        let opening = cannot_open("SETS");
        let sets =
            MapData::from_pin(&pin).map_err(|error| Error::opening_pin(folder, "SETS", opening(error)))?;
        let room = sets.info().map_err(opening)?.max_entries();
        Ok(Self {
            v4: map!(folder, "DESTINATIONS4"),
            v6: map!(folder, "DESTINATIONS6"),
            sets: Map::from_map_data(sets).and_then(HashMap::try_from).map_err(opening)?,
            room,
            pin,
        })
    }

    /// Returns the target in a set for a destination or for the next less specific one.
    pub(super) fn target(&self, set: u32, destination: &Prefix) -> Result<Option<Target>> {
        optional(match key(set, destination) {
            AnyKey::V4(bits, key) => self.v4.get(&Key::new(bits, key), 0),
            AnyKey::V6(bits, key) => self.v6.get(&Key::new(bits, key), 0),
        })
        .map_err(failed("read the destinations", &destination.to_string()))
    }

    /// Creates the set of a source's destinations under a free identity. No packet finds it yet. If that fails, nothing is
    /// left of it.
    pub(crate) fn make_set(
        &mut self,
        id: u32,
        source: &Prefix,
        destinations: &[(Prefix, Target)],
    ) -> Result<Set> {
        let record = wire::set_record(source);
        let mut put = retry_enomem(|| self.sets.insert(id, record, 0));
        if is_full(&put) && self.room < MAX_SETS {
            self.grow()?;
            put = retry_enomem(|| self.sets.insert(id, record, 0));
        }
        put.map_err(cannot_write("SETS"))?;
        let set = (id, destinations.iter().map(|(destination, _)| *destination).collect());
        for (destination, target) in destinations {
            let put = retry_enomem(|| match key(id, destination) {
                AnyKey::V4(bits, key) => self.v4.insert(&Key::new(bits, key), *target, 0),
                AnyKey::V6(bits, key) => self.v6.insert(&Key::new(bits, key), *target, 0),
            });
            if let Err(error) = put {
                // No packet finds it. The next change tidies up what cannot be removed now.
                let _ = self.remove_set(&set);
                return Err(failed("write the destinations", &destination.to_string())(error));
            }
        }
        Ok(set)
    }

    /// Replaces the map of sets, which no program reads, by a larger one with the same content, in one instant.
    fn grow(&mut self) -> Result<()> {
        let room = self.room.saturating_mul(GROWTH).min(MAX_SETS);
        let larger = self.copy(room).map_err(failed("make a larger map", "SETS"))?;
        self.tidy()?;
        let (beside, pin) = (self.larger_pin(), &self.pin);
        larger.pin(&beside).map_err(|error| Error::kernel("pin the map SETS", error))?;
        if let Err(error) = fs::rename(&beside, pin) {
            // The next growth removes what cannot be removed now.
            let _ = self.tidy();
            return Err(Error::kernel(format!("replace {}", self.pin.display()), error));
        }
        let opened = MapData::from_pin(pin).and_then(Map::from_map_data).and_then(HashMap::try_from);
        self.sets = opened.map_err(cannot_open("SETS"))?;
        self.room = room;
        Ok(())
    }

    /// Copies the map of sets to one with this much room.
    fn copy(&self, room: u32) -> std::result::Result<HashMap<MapData, u32, SetRecord>, MapError> {
        let mut copy = HashMap::create(room, NO_PREALLOC)?;
        for entry in self.sets.iter() {
            let (id, record) = entry?;
            retry_enomem(|| copy.insert(id, record, 0))?;
        }
        Ok(copy)
    }

    fn larger_pin(&self) -> PathBuf {
        self.pin.with_file_name("SETS-larger")
    }

    /// Removes a larger map of sets that an interrupted change has left.
    pub(crate) fn tidy(&self) -> Result<()> {
        bpffs::remove(&self.larger_pin())
    }

    /// Removes a set that no packet uses any more.
    pub(crate) fn remove_set(&mut self, (id, destinations): &Set) -> Result<()> {
        for destination in destinations {
            ignore_missing(match key(*id, destination) {
                AnyKey::V4(bits, key) => self.v4.remove(&Key::new(bits, key)),
                AnyKey::V6(bits, key) => self.v6.remove(&Key::new(bits, key)),
            })
            .map_err(failed("write the destinations", &destination.to_string()))?;
        }
        ignore_missing(self.sets.remove(id)).map_err(cannot_write("SETS"))
    }

    pub(super) fn has_set(&self, id: u32) -> bool {
        self.sets.get(&id, 0).is_ok()
    }

    /// Whether any source has a set.
    pub(crate) fn has_sets(&self) -> Result<bool> {
        let first = self.sets.keys().next().transpose();
        first.map(|first| first.is_some()).map_err(cannot_read("SETS"))
    }

    /// Returns every set with its source, or with `None` if its record is invalid.
    pub(crate) fn sets(&self) -> Result<Vec<(u32, Option<Prefix>)>> {
        let sets: std::result::Result<Vec<_>, _> = self.sets.iter().collect();
        let sets = sets.map_err(cannot_read("SETS"))?;
        Ok(sets.iter().map(|(id, record)| (*id, wire::read_set(record))).collect())
    }
}

/// Whether a map had no room for an insertion.
fn is_full(put: &std::result::Result<(), MapError>) -> bool {
    matches!(put, Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::E2BIG))
}

/// A key in a set, with its length in bits.
enum AnyKey {
    V4(u32, Key4),
    V6(u32, Key6),
}

fn key(set: u32, prefix: &Prefix) -> AnyKey {
    let bits = 32 + u32::from(prefix.len());
    match prefix.address() {
        IpAddr::V4(address) => {
            let mut key = [0; 8];
            key[..4].copy_from_slice(&set.to_ne_bytes());
            key[4..].copy_from_slice(&address.octets());
            AnyKey::V4(bits, key)
        }
        IpAddr::V6(address) => {
            let mut key = [0; 20];
            key[..4].copy_from_slice(&set.to_ne_bytes());
            key[4..].copy_from_slice(&address.octets());
            AnyKey::V6(bits, key)
        }
    }
}
