//! What all pinned maps have in common: opening one, and its errors.

use std::{path::Path, thread, time::Duration};

use aya::maps::{ArrayOfMaps, Map, MapData, MapError};
use aya_obj::generated::bpf_map_type;
use byway_abi::Count;

use super::bpffs;
use crate::error::{Error, Result};

pub(super) fn open(folder: &Path, name: &str) -> Result<Map> {
    MapData::from_pin(folder.join(name))
        .and_then(Map::from_map_data)
        .map_err(|error| Error::opening_pin(folder, name, cannot_open(name)(error)))
}

/// Opens a pinned map, or returns `None` if there is none. It judges by the kernel's answer: a look afterwards may find the pin
/// that another Byway has made in the meantime.
pub(super) fn open_if_there(pin: &Path, name: &str) -> Result<Option<MapData>> {
    match MapData::from_pin(pin).map_err(cannot_open(name)) {
        Err(error) if error.errno() == Some(libc::ENOENT) => Ok(None),
        map => map.map(Some),
    }
}

// Each turns what the kernel says of a map into an error with the map's name.

pub(super) fn cannot_open(name: &str) -> impl Fn(MapError) -> Error + Copy {
    failed("open the map", name)
}

pub(super) fn cannot_make(name: &str) -> impl Fn(MapError) -> Error + Copy {
    failed("make the map", name)
}

pub(super) fn cannot_read(name: &str) -> impl Fn(MapError) -> Error + Copy {
    failed("read the map", name)
}

pub(super) fn cannot_write(name: &str) -> impl Fn(MapError) -> Error + Copy {
    failed("write the map", name)
}

pub(super) fn cannot_look_at(name: &str) -> impl Fn(MapError) -> Error + Copy {
    failed("look at the map", name)
}

/// The same for any other verb.
pub(super) fn failed(verb: &str, name: &str) -> impl Fn(MapError) -> Error + Copy {
    move |error| Error::kernel(format!("{verb} {name}"), error)
}

/// Opens the map with this name in a folder, as the type that the caller expects.
macro_rules! map {
    ($folder:expr, $name:literal) => {
        $crate::kernel::map::open($folder, $name)?
            .try_into()
            .map_err($crate::kernel::map::cannot_open($name))?
    };
}
pub(super) use map;

pub(crate) fn add(sum: &mut Count, count: Count) {
    sum.packets = sum.packets.wrapping_add(count.packets);
    sum.bytes = sum.bytes.wrapping_add(count.bytes);
}

/// How many times to retry an insertion, [`REFILL_STEP`] apart: for a second.
const REFILL_STEPS: u32 = 20_000;
const REFILL_STEP: Duration = Duration::from_micros(50);

/// Inserts, and waits if memory is short. The kernel takes the elements of a map from a small stock that it refills in the
/// background (kernel/bpf/memalloc.c), and returns `ENOMEM` to a caller that is faster than that.
pub(super) fn retry_enomem(
    mut insert: impl FnMut() -> std::result::Result<(), MapError>,
) -> std::result::Result<(), MapError> {
    for _ in 0..REFILL_STEPS {
        match insert() {
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOMEM) => {
                thread::sleep(REFILL_STEP);
            }
            done => return done,
        }
    }
    insert()
}

/// A map that is made when it is needed, within a map of maps that has one place.
pub(super) struct Within {
    pub(super) kind: bpf_map_type,
    pub(super) key: usize,
    pub(super) value: usize,
    pub(super) entries: u32,
    pub(super) flags: u32,
}

impl Within {
    /// Makes the map, puts it into its place, and pins it. The pin comes last: what is pinned is in use.
    pub(super) fn make(&self, name: &str, place: &mut ArrayOfMaps<MapData>, pin: &Path) -> Result<()> {
        let (key, value) = (self.key as u32, self.value as u32);
        let map = aya_obj::Map::new_from_params(self.kind as u32, key, value, self.entries, self.flags);
        let map = MapData::create(map, name, None).map_err(failed("make the map", name))?;
        place.set(0, &map, 0).map_err(failed("put in place the map", name))?;
        // An interrupted change may have left one.
        bpffs::remove(pin)?;
        map.pin(pin).map_err(|error| Error::kernel(format!("pin the map {name}"), error))
    }
}

/// Turns the "no such key" of a lookup into `None`.
pub(super) fn optional<T>(
    result: std::result::Result<T, MapError>,
) -> std::result::Result<Option<T>, MapError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Ignores the "no such key" of a removal.
pub(super) fn ignore_missing(result: std::result::Result<(), MapError>) -> std::result::Result<(), MapError> {
    match result {
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(()),
        other => other,
    }
}
