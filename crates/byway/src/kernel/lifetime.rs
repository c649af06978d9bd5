//! Whether the network namespace that pins belong to still exists.
//!
//! Beside the pins is the map `NAMESPACE`, a DEVMAP whose only entry is the loopback device of their namespace. That device
//! exists exactly as long as its namespace: nobody can delete it or move it to another one, and the kernel removes it once
//! no process, mount, descriptor or socket keeps the namespace (`cleanup_net`, net/core/net_namespace.c). A device that goes
//! leaves every DEVMAP (`dev_map_notification`, kernel/bpf/devmap.c). So the entry says it, whatever namespaces the asking
//! process is in, and no number that the kernel gives away twice is involved. No program reads this map.

use std::{fs, io, path::Path};

use aya::maps::{Map, MapData, xdp::DevMap};

use super::{
    bpffs, features,
    map::{cannot_make, cannot_open, cannot_read, open_if_there, optional},
    sys,
};
use crate::error::{Error, Result};

const MAP: &str = "NAMESPACE";
/// The ifindex of the loopback device in each network namespace (`LOOPBACK_IFINDEX`, include/net/flow.h).
const LOOPBACK: u32 = 1;

/// Notes which network namespace the pins in `folder` belong to: that of the calling thread. Pins the map filled, so that an
/// interrupted Byway leaves all of it or nothing.
pub(crate) fn note(folder: &Path) -> Result<()> {
    let pin = folder.join(MAP);
    if pin.exists() {
        return Ok(());
    }
    features::find()?;
    let making = || format!("make the map {MAP}");
    let map = sys::create_devmap(1).map_err(Error::io(making()))?;
    let map = MapData::from_fd(map).and_then(Map::from_map_data).map_err(cannot_make(MAP))?;
    let mut map: DevMap<MapData> = map.try_into().map_err(cannot_make(MAP))?;
    map.set(0, LOOPBACK, None, 0).map_err(|error| Error::kernel(making(), error))?;
    map.pin(pin).map_err(|error| Error::kernel(format!("pin the map {MAP}"), error))
}

/// Whether the network namespace of the pins in `folder` exists. Returns `None` if nobody has noted which one it is.
pub(crate) fn exists(folder: &Path) -> Result<Option<bool>> {
    let Some(map) = open_if_there(&folder.join(MAP), MAP)? else { return Ok(None) };
    features::find()?;
    let map: DevMap<MapData> =
        Map::from_map_data(map).and_then(DevMap::try_from).map_err(cannot_open(MAP))?;
    let loopback = optional(map.get(0, 0)).map_err(cannot_read(MAP))?;
    Ok(Some(loopback.is_some()))
}

/// Removes a folder of pins, and the note last: if Byway is killed meanwhile, the rest can still be told from that of a
/// namespace that exists. A missing folder is not an error.
pub(crate) fn remove(folder: &Path) -> Result<()> {
    match fs::symlink_metadata(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        _ => {}
    }
    for name in bpffs::names(folder)?.iter().filter(|name| *name != MAP) {
        bpffs::remove(&folder.join(name))?;
    }
    bpffs::remove(folder)
}
