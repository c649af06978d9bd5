//! The numbers in `META`, by slot ([`byway_abi::meta`]). Every version of Byway can read that map.

use std::path::Path;

use aya::maps::{Array, MapData};

use super::map::{cannot_read, cannot_write, map};
use crate::error::Result;

/// The open map.
pub(crate) struct Meta(Array<MapData, u32>);

impl Meta {
    /// Opens the map that is pinned in `folder`, and none of the others, whose form may be that of another version.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        Ok(Self(map!(folder, "META")))
    }

    pub(crate) fn get(&self, slot: u32) -> Result<u32> {
        self.0.get(&slot, 0).map_err(cannot_read("META"))
    }

    pub(crate) fn set(&mut self, slot: u32, value: u32) -> Result<()> {
        self.0.set(slot, value, 0).map_err(cannot_write("META"))
    }
}
