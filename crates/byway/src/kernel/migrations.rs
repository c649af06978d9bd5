//! The migrations: what changed from each schema to the next, and how to convert old maps to new ones.
//!
//! [`take_over`](super::migrate::take_over) carries them out.

use std::path::Path;

use aya::{
    maps::{HashMap, Map, MapData, MapError},
    programs::{
        SchedClassifier,
        links::{FdLink, PinnedLink},
    },
};
use byway_abi::{DIRECTION_EGRESS, MAX_PROGRAMS, ProgramKey, ProgramRecord, SCHEMA};

use super::{bpffs, map::retry_enomem};
use crate::error::{Error, Result};

/// A migration from one schema to the next.
pub(super) struct Migration {
    /// The schema that it starts from. It leads to the next number.
    pub(super) from: u32,
    /// The maps that change their form, and the pins that change their names.
    pub(super) converted: &'static [Conversion],
    /// The pins of maps, or folders of them, that nothing needs any more, besides the converted ones.
    pub(super) removed: &'static [&'static str],
    /// The values of the global `TAKING_OVER` for the programs that each device gets in between, one after the other. They
    /// are needed if the programs of this Byway and those of that schema do not accept each other's packets. The final
    /// programs have 0. The object must support these values as long as this migration exists.
    pub(super) rounds: &'static [u32],
}

/// How a map or each map of a folder changes its form, or how a pin changes its name. No program may write to a map that
/// changes its form.
pub(super) struct Conversion {
    /// The pin, or the folder.
    pub(super) from: &'static str,
    /// The new name, which no earlier schema has used.
    pub(super) to: &'static str,
    /// Converts the map or folder at the first path to one at the second path, where nothing exists yet.
    pub(super) convert: fn(&Path, &Path) -> Result<()>,
}

/// All migrations, the oldest first. The last one leads to [`SCHEMA`].
pub(super) const MIGRATIONS: &[Migration] = &[
    // Packets carry a mark that a sender cannot guess. The maps keep their forms. Loading the programs creates two new ones.
    Migration { from: 7, converted: &[], removed: &[], rounds: &[2, 1] },
    // New names for the same maps and programs.
    Migration {
        from: 8,
        converted: &[
            Conversion { from: "SHAPES", to: "TABLE_INFO", convert: pin_map_again },
            Conversion { from: "RECENT", to: "SOURCE_CACHE", convert: pin_map_again },
            Conversion { from: "RARE_COUNTERS", to: "EXCEPTION_COUNTERS", convert: pin_map_again },
            Conversion { from: "departure_bare", to: "departure_l3", convert: pin_program_again },
            Conversion { from: "arrival_bare", to: "arrival_l3", convert: pin_program_again },
        ],
        removed: &[],
        rounds: &[],
    },
    // A device may carry a program in each direction. Before, it had only one, on egress.
    Migration {
        from: 9,
        converted: &[
            Conversion { from: "DEVICES", to: "PROGRAMS", convert: add_direction },
            Conversion { from: "links", to: "egress", convert: pin_links_again },
        ],
        removed: &[],
        rounds: &[],
    },
    // Small maps for few rules. Exceptions are counted in new maps. What the old one (`EXCEPTION_COUNTERS`) has counted is
    // added to that as long as there are these pins.
    Migration { from: 10, converted: &[], removed: &["FRAGMENTS"], rounds: &[] },
    // Programs and maps for replies. Loading creates them.
    Migration { from: 11, converted: &[], removed: &[], rounds: &[] },
    // Maps for health checks. Loading creates them.
    Migration { from: 12, converted: &[], removed: &[], rounds: &[] },
    // Hints, of which 0 is right, and signs of life. Loading creates the maps.
    Migration { from: 13, converted: &[], removed: &[], rounds: &[] },
];

/// Pins a map under another name as well. It stays the same map, which programs of both schemas write to.
fn pin_map_again(from: &Path, to: &Path) -> Result<()> {
    let action = || format!("pin {} as {}", from.display(), to.display());
    let map = MapData::from_pin(from).map_err(|error| Error::kernel(action(), error))?;
    map.pin(to).map_err(|error| Error::kernel(action(), error))
}

/// Pins a program under another name as well.
fn pin_program_again(from: &Path, to: &Path) -> Result<()> {
    let action = || format!("pin {} as {}", from.display(), to.display());
    let mut program = SchedClassifier::from_pin(from).map_err(|error| Error::kernel(action(), error))?;
    program.pin(to).map_err(|error| Error::kernel(action(), error))
}

/// Pins each link of a folder in another one as well. No program moves: a link exists as long as any of its pins.
pub(super) fn pin_links_again(from: &Path, to: &Path) -> Result<()> {
    bpffs::make_folder(to)?;
    for name in bpffs::names(from)? {
        let (from, to) = (from.join(&name), to.join(&name));
        let action = || format!("pin {} as {}", from.display(), to.display());
        let link = PinnedLink::from_pin(&from).map_err(|error| Error::kernel(action(), error))?;
        FdLink::from(link).pin(&to).map_err(|error| Error::kernel(action(), error))?;
    }
    Ok(())
}

/// `BPF_F_NO_PREALLOC` (bpf(2)).
pub(super) const NO_PREALLOC: u32 = 1;

/// Copies the records of devices, and adds the direction: each program was on egress.
pub(super) fn add_direction(from: &Path, to: &Path) -> Result<()> {
    let action = || format!("make {} of {}", to.display(), from.display());
    let fill = || {
        let old = MapData::from_pin(from).and_then(Map::from_map_data)?;
        let old: HashMap<MapData, u32, ProgramRecord> = old.try_into()?;
        let mut new = HashMap::<MapData, ProgramKey, ProgramRecord>::create(MAX_PROGRAMS, NO_PREALLOC)?;
        for entry in old.iter() {
            let (ifindex, record) = entry?;
            retry_enomem(|| new.insert(ProgramKey { ifindex, direction: DIRECTION_EGRESS }, record, 0))?;
        }
        Ok(new)
    };
    let new = fill().map_err(|error: MapError| Error::kernel(action(), error))?;
    new.pin(to).map_err(|error| Error::kernel(action(), error))
}

/// Returns the migrations from a schema to that of this Byway, if there is a way.
pub(super) fn way(migrations: &[Migration], found: u32) -> Option<&[Migration]> {
    let first = migrations.iter().position(|migration| migration.from == found)?;
    let way = &migrations[first..];
    let leads_here = way.iter().zip(found..).all(|(migration, schema)| migration.from == schema)
        && found.checked_add(way.len() as u32) == Some(SCHEMA);
    leads_here.then_some(way)
}

/// Whether the next change takes over pins of this schema.
pub(super) fn is_known(found: u32) -> bool {
    way(MIGRATIONS, found).is_some()
}

/// Removes the maps that only older schemas have.
pub(super) fn remove_old(folder: &Path, migrations: &[Migration]) -> Result<()> {
    for Migration { converted, removed, .. } in migrations {
        let old = converted.iter().map(|conversion| conversion.from).chain(removed.iter().copied());
        for name in old {
            bpffs::remove(&folder.join(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::tables::NAMES;

    /// A migration from this schema that changes nothing.
    const fn from(from: u32) -> Migration {
        Migration { from, converted: &[], removed: &[], rounds: &[] }
    }

    #[test]
    fn a_way_leads_from_schema_to_schema_up_to_this_one() {
        let from_there = |schemas: &[u32], found| {
            let migrations: Vec<Migration> = schemas.iter().map(|schema| from(*schema)).collect();
            way(&migrations, found).map(<[Migration]>::len)
        };
        assert_eq!(from_there(&[SCHEMA - 2, SCHEMA - 1], SCHEMA - 2), Some(2));
        assert_eq!(from_there(&[SCHEMA - 2, SCHEMA - 1], SCHEMA - 1), Some(1));
        assert_eq!(from_there(&[SCHEMA - 2, SCHEMA - 1], SCHEMA - 3), None, "it is too old");
        assert_eq!(from_there(&[SCHEMA - 2, SCHEMA - 1], SCHEMA + 1), None, "it is newer");
        assert_eq!(from_there(&[SCHEMA - 2], SCHEMA - 2), None, "the way does not lead here");
        assert_eq!(from_there(&[], u32::MAX), None);
    }

    #[test]
    fn all_migrations_lead_here_and_take_away_no_map_that_is_needed() {
        for migration in MIGRATIONS {
            assert!(is_known(migration.from), "from {}", migration.from);
            for old in migration.converted.iter().map(|it| it.from).chain(migration.removed.iter().copied()) {
                assert!(!NAMES.contains(&old) && !["rules", "counters", "egress"].contains(&old), "{old}");
            }
        }
    }
}
