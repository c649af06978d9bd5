//! The secret in the marks of packets ([`byway_abi::mark`]).

use std::path::Path;

use aya::maps::{Array, MapData};

use super::map::{cannot_make, cannot_read, map};
use crate::error::{Error, Result};

/// Reads the secret, which outlives the programs, or creates it. Pins its map only after filling it, so that an interrupted
/// Byway leaves all of it or nothing.
pub(super) fn read_or_make(folder: &Path) -> Result<u64> {
    if let Some(secret) = read(folder)? {
        return Ok(secret);
    }
    loop {
        let secret = getrandom::u64().map_err(|error| Error::kernel("get random bytes", error))?;
        if is_secret(secret) {
            make(folder, secret)?;
            return Ok(secret);
        }
    }
}

/// Whether a number can be the secret: neither half is 0, because packets without a mark often have 0 there.
fn is_secret(number: u64) -> bool {
    number as u32 != 0 && number >> 32 != 0
}

/// Reads the secret, if there is one yet.
fn read(folder: &Path) -> Result<Option<u64>> {
    if !folder.join("SECRET").exists() {
        return Ok(None);
    }
    let secret: Array<MapData, u64> = map!(folder, "SECRET");
    let secret = secret.get(&0, 0).map_err(cannot_read("SECRET"))?;
    if !is_secret(secret) {
        let what = "half of the secret is 0".to_owned();
        return Err(Error::Damaged { path: folder.to_owned(), map: "SECRET", what });
    }
    Ok(Some(secret))
}

/// Creates the map of the secret, and pins it filled.
fn make(folder: &Path, secret: u64) -> Result<()> {
    let making = cannot_make("SECRET");
    let mut map: Array<MapData, u64> = Array::create(1, 0).map_err(making)?;
    map.set(0, secret, 0).map_err(making)?;
    map.pin(folder.join("SECRET")).map_err(|error| Error::kernel("pin the map SECRET", error))
}
