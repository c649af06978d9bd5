//! The pinned map of the neighbours that the kernel keeps resolved for Byway.

use std::{net::IpAddr, path::Path};

use aya::maps::{HashMap, MapData};
use byway_abi::NeighbourKey;

use super::{
    map::{cannot_read, cannot_write, ignore_missing, map, optional},
    wire,
};
use crate::error::Result;

/// The open map.
pub(crate) struct Neighbours(HashMap<MapData, NeighbourKey, u32>);

impl Neighbours {
    /// Opens the map that is pinned in `folder`.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        Ok(Self(map!(folder, "NEIGHBOURS")))
    }

    /// Returns these neighbours as ifindex and gateway.
    pub(crate) fn all(&self) -> Result<Vec<(u32, IpAddr)>> {
        let mut neighbours = Vec::new();
        for key in self.0.keys() {
            let key = key.map_err(cannot_read("NEIGHBOURS"))?;
            neighbours.extend(wire::read_neighbour(&key));
        }
        Ok(neighbours)
    }

    /// Records a neighbour. Returns whether it was not recorded before.
    pub(crate) fn remember(&mut self, index: u32, gateway: IpAddr) -> Result<bool> {
        let key = wire::neighbour_key(index, gateway);
        let before = optional(self.0.get(&key, 0)).map_err(cannot_read("NEIGHBOURS"))?;
        self.0.insert(key, 1, 0).map_err(cannot_write("NEIGHBOURS"))?;
        Ok(before.is_none())
    }

    pub(crate) fn forget(&mut self, index: u32, gateway: IpAddr) -> Result<()> {
        ignore_missing(self.0.remove(&wire::neighbour_key(index, gateway)))
            .map_err(cannot_write("NEIGHBOURS"))
    }
}
