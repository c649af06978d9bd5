//! Takes over the pins of an older schema: in place, under traffic, with all rules and counters.
//!
//! The first change by a newer Byway does this before the change itself, with the lock held. It may be killed at any
//! instruction: because of the order of its steps, packets always find programs and maps that belong together, and the next
//! change takes over again or finds everything done.
//!
//! 1. `OBJECT` in [`META`](meta) becomes 0. From now on, devices may have other programs than the pinned ones. Whichever
//!    build makes the next change, even the older one, puts its own programs on all of them.
//! 2. Maps of another form are created beside the old ones, filled, and pinned. A map that changes its form changes its name.
//!    So nothing mistakes one for the other, no reader sees half a map, and one word (step 6) says which ones count. Maps of
//!    an earlier attempt are created anew, because the older Byway may have changed something since then.
//! 3. The programs of all rounds are loaded over the maps, before any device gets one: if the kernel refuses one, it does so
//!    here. Loading creates the new maps, and userspace those within them. They stay, because the programs of an interrupted
//!    attempt use them.
//! 4. Each device gets the programs, in one instant each. If their mark on packets differs from that of the older ones, this
//!    takes several [rounds](Migration::rounds), so that each program accepts what any other on any device writes. A round
//!    begins when no program of the round before runs any more.
//! 5. The programs replace the older ones as pins.
//! 6. `SCHEMA` in `META` is written. From this instant on, the older Byway refuses these pins, and the newer one reads them.
//! 7. Maps that nothing needs any more are removed.
//! 8. `OBJECT` is written. If Byway is killed before this, the next change finds its own schema with programs of another
//!    build, and [`Executor::renew`](super::execute::Executor::renew) does the rest. It also removes such maps.
//!
//! If one of the first four steps fails, those before it are undone: the devices get the older programs back.
//!
//! A map that programs write cannot change its form in this way, because they write to the old map while the new one is
//! filled. It keeps its form, and new counters get a map of their own.

use std::{collections::BTreeSet, ffi::OsString, path::Path};

use byway_abi::{SCHEMA, meta};

use super::{
    bpffs, grace_period,
    hook::Programs,
    meta::Meta,
    migrations::{Conversion, MIGRATIONS, Migration, remove_old, way},
    network::Network,
    pins::{self, Pins},
    signals::SignalsWait,
    snapshot::{Installed, installed},
    tables::Tables,
};
use crate::error::{Error, Result};

/// Takes over the pins of this network namespace if they have an older schema. The caller holds the lock.
///
/// # Errors
///
/// [`Error::Schema`] if the pins are too old or those of a newer Byway, and those of the kernel. Up to the fourth step, an
/// error leaves everything as it was, except [`Error::NotUndone`]. After a later one, the next change does the rest.
pub(crate) fn take_over(network: &mut Network) -> Result<()> {
    take_over_by(network, MIGRATIONS, &mut |_| ())
}

/// Does the same by these migrations. Calls `between` after each step.
fn take_over_by(
    network: &mut Network,
    migrations: &[Migration],
    between: &mut dyn FnMut(&'static str),
) -> Result<()> {
    let folder = &*pins::folder()?;
    if bpffs::identity(folder)?.is_none() {
        return Ok(());
    }
    let found = Meta::open(folder)?.get(meta::SCHEMA)?;
    if found == SCHEMA {
        return Ok(());
    }
    let Some(way) = way(migrations, found) else {
        return Err(Error::Schema { path: folder.to_owned(), found, known: SCHEMA });
    };
    let _quiet = SignalsWait::begin();
    let there = bpffs::names(folder)?;
    let object = Meta::open(folder)?.get(meta::OBJECT)?;
    Meta::open(folder)?.set(meta::OBJECT, 0)?;
    between("the programs are nobody's");
    if let Err(failure) = put_in_place(folder, network, way, between) {
        // After an interrupted attempt, devices may have programs that need what it left.
        let is_first = object != 0 && !matches!(failure, Error::NotUndone { .. });
        return Err(if is_first { without(folder, &there, object, failure) } else { failure });
    }
    pins::rename_programs(folder)?;
    between("the programs are pinned");
    Meta::open(folder)?.set(meta::SCHEMA, SCHEMA)?;
    between("the schema is the new one");
    remove_old(folder, migrations)?;
    between("old maps are removed");
    pins::note_object(folder)
}

/// Does steps 2 to 4.
fn put_in_place(
    folder: &Path,
    network: &mut Network,
    way: &[Migration],
    between: &mut dyn FnMut(&'static str),
) -> Result<()> {
    for Conversion { from, to, convert } in way.iter().flat_map(|migration| migration.converted) {
        bpffs::remove(&folder.join(to))?;
        convert(&folder.join(from), &folder.join(to))?;
        between("a map is converted");
    }
    let mut rounds = Vec::new();
    for taking_over in way.first().map_or(&[][..], |first| first.rounds).iter().chain(&[0]) {
        rounds.push(pins::load_beside(folder, *taking_over)?);
        between("programs are loaded");
    }
    let mut pins = Pins { tables: Tables::open(folder)?, programs: Programs::open(folder, folder)? };
    pins.tables.complete()?;
    between("the maps are complete");
    let links = network.links()?;
    let mut installed = installed(&pins, network, &links)?;
    installed.retain(|installed| installed.is_installed);
    // Before any device changes: whoever has removed a pin has left no program to go back to.
    for Installed { device, role, .. } in &installed {
        pins.programs.program(network, device, *role)?;
    }
    // First the old programs, to go back to.
    rounds.insert(0, pins.programs);
    for round in 1..rounds.len() {
        if let Err(failure) = put_on_all(&mut rounds[round], network, &installed, between) {
            return Err(go_back(&mut rounds[..=round], network, &installed, failure));
        }
    }
    Ok(())
}

/// Puts these programs on each device, and waits until none of the earlier ones runs any more.
fn put_on_all(
    programs: &mut Programs,
    network: &mut Network,
    installed: &[Installed],
    between: &mut dyn FnMut(&'static str),
) -> Result<()> {
    for Installed { device, role, attached, .. } in installed {
        programs.replace(network, device, *role, attached.hook)?;
        between("a device has other programs");
    }
    grace_period::wait();
    Ok(())
}

/// Puts the programs of all rounds before the last one on each device again, in reverse order.
fn go_back(rounds: &mut [Programs], network: &mut Network, installed: &[Installed], failure: Error) -> Error {
    let mut before = rounds.iter_mut().rev().skip(1);
    let undone = before.try_for_each(|programs| put_on_all(programs, network, installed, &mut |_| ()));
    match undone {
        Ok(()) => failure,
        Err(undo) => Error::NotUndone { failure: Box::new(failure), undo: Box::new(undo) },
    }
}

/// Removes what was created, and returns `failure`, or an error that says that this failed, too.
fn without(folder: &Path, there: &BTreeSet<OsString>, object: u32, failure: Error) -> Error {
    let undone = bpffs::names(folder).and_then(|now| {
        now.difference(there).try_for_each(|name| bpffs::remove(&folder.join(name)))?;
        Meta::open(folder)?.set(meta::OBJECT, object)
    });
    match undone {
        Ok(()) => failure,
        Err(undo) => Error::NotUndone { failure: Box::new(failure), undo: Box::new(undo) },
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        panic::{AssertUnwindSafe, catch_unwind},
        time::Duration,
    };

    use aya::maps::{Array, HashMap, Map, MapData};
    use byway_abi::{DIRECTION_EGRESS, NeighbourKey, ProgramKey, ProgramRecord, RuleRecord};
    use byway_lab::{
        Node,
        seed::{IPV4, Seed},
    };

    use super::*;
    use crate::kernel::migrations::{NO_PREALLOC, add_direction, pin_links_again};
    use crate::{Attach, Byway, Hook, Mss, NextHopSpec, OnDown, Owner, RuleSpec, TargetSpec};

    type Wide = [u8; size_of::<RuleRecord>()];
    type Short = [u8; size_of::<RuleRecord>() - 8];

    fn open(pin: &Path) -> Map {
        Map::from_map_data(MapData::from_pin(pin).unwrap()).unwrap()
    }

    /// A map of records by key whose value was half as wide.
    fn widen_neighbours(from: &Path, to: &Path) -> Result<()> {
        let old: HashMap<_, NeighbourKey, u16> = open(from).try_into().unwrap();
        let mut new: HashMap<MapData, NeighbourKey, u32> = HashMap::create(1_024, 1).unwrap(); // BPF_F_NO_PREALLOC
        for entry in old.iter() {
            let (key, value) = entry.unwrap();
            new.insert(key, u32::from(value), 0).unwrap();
        }
        new.pin(to).unwrap();
        Ok(())
    }

    /// A folder of maps of records whose names were shorter.
    fn widen_rules(from: &Path, to: &Path) -> Result<()> {
        bpffs::make_folder(to)?;
        for name in bpffs::names(from)? {
            let old: Array<_, Short> = open(&from.join(&name)).try_into().unwrap();
            let mut new: Array<MapData, Wide> = Array::create(old.len(), 1 << 10).unwrap(); // BPF_F_MMAPABLE
            for index in 0..old.len() {
                let mut wide = [0; size_of::<Wide>()];
                wide[..size_of::<Short>()].copy_from_slice(&old.get(&index, 0).unwrap());
                new.set(index, wide, 0).unwrap();
            }
            new.pin(to.join(&name)).unwrap();
        }
        Ok(())
    }

    /// Two made-up migrations, with what [`MIGRATIONS`] does to programs in between.
    const MADE_UP: &[Migration] = &[
        Migration {
            from: SCHEMA - 2,
            converted: &[Conversion { from: "NEIGHBOURS_OLD", to: "NEIGHBOURS", convert: widen_neighbours }],
            removed: &["UNUSED"],
            // The programs on the devices know no other marks than these.
            rounds: &[1, 1],
        },
        Migration {
            from: SCHEMA - 1,
            converted: &[
                Conversion { from: "rules_old", to: "rules", convert: widen_rules },
                Conversion { from: "DEVICES", to: "PROGRAMS", convert: add_direction },
                Conversion { from: "links", to: "egress", convert: pin_links_again },
            ],
            removed: &[],
            rounds: &[],
        },
    ];

    /// Turns pins into those of a Byway of two schemas before.
    fn make_old(folder: &Path) {
        let new: HashMap<_, NeighbourKey, u32> = open(&folder.join("NEIGHBOURS")).try_into().unwrap();
        let mut old: HashMap<MapData, NeighbourKey, u16> = HashMap::create(1_024, 1).unwrap();
        for entry in new.iter() {
            let (key, value) = entry.unwrap();
            old.insert(key, value as u16, 0).unwrap();
        }
        old.pin(folder.join("NEIGHBOURS_OLD")).unwrap();
        bpffs::make_folder(&folder.join("rules_old")).unwrap();
        let new: Array<_, Wide> = open(&folder.join("rules/0")).try_into().unwrap();
        let mut old: Array<MapData, Short> = Array::create(new.len(), 0).unwrap();
        for index in 0..new.len() {
            let wide = new.get(&index, 0).unwrap();
            old.set(index, std::array::from_fn(|nth| wide[nth]), 0).unwrap();
        }
        old.pin(folder.join("rules_old/0")).unwrap();
        Array::<MapData, u32>::create(1, 0).unwrap().pin(folder.join("UNUSED")).unwrap();
        let new: HashMap<_, ProgramKey, ProgramRecord> = open(&folder.join("PROGRAMS")).try_into().unwrap();
        let mut old: HashMap<MapData, u32, ProgramRecord> = HashMap::create(1_024, NO_PREALLOC).unwrap();
        for entry in new.iter() {
            let (key, record) = entry.unwrap();
            // That schema recorded no requests.
            if key.direction == DIRECTION_EGRESS {
                old.insert(key.ifindex, record, 0).unwrap();
            }
        }
        old.pin(folder.join("DEVICES")).unwrap();
        bpffs::make_folder(&folder.join("egress")).unwrap();
        fs::rename(folder.join("egress"), folder.join("links")).unwrap();
        for name in ["NEIGHBOURS", "PROGRAMS", "rules"] {
            bpffs::remove(&folder.join(name)).unwrap();
        }
        Meta::open(folder).unwrap().set(meta::SCHEMA, SCHEMA - 2).unwrap();
        Meta::open(folder).unwrap().set(meta::OBJECT, 7).unwrap();
    }

    fn spec() -> RuleSpec {
        RuleSpec {
            reply_to: false,
            reply_to_dev: BTreeSet::new(),
            selector: "192.168.1.5".parse().unwrap(),
            target: TargetSpec::NextHop(NextHopSpec::ViaDev(IPV4.router, "eth1".into())),
            on_down: OnDown::Pass,
            mss: Mss::Auto,
            owner: Owner::API,
            name: Some("service".into()),
        }
    }

    /// The service answers requests.
    fn works(client: &Node) {
        client.ping(None, IPV4.service, Duration::from_secs(20)).unwrap();
    }

    /// Takes over by the made-up migrations, and is killed after the step with this number. Returns the step.
    fn cut_off_at(seed: &Seed, cut: usize) -> Option<&'static str> {
        let client = seed.client.clone();
        seed.server.run(move || {
            let (mut steps, mut at) = (0, None);
            let between = &mut |step| {
                works(&client);
                if steps == cut {
                    at = Some(step);
                    panic!("cut off: {step}");
                }
                steps += 1;
            };
            let take_over = || take_over_by(&mut Network::open().unwrap(), MADE_UP, between);
            if let Ok(taken_over) = catch_unwind(AssertUnwindSafe(take_over)) {
                taken_over.unwrap();
            }
            at
        })
    }

    fn is_cut_off_anywhere(hook: Hook) {
        let seed = Seed::new().unwrap();
        let byway = || Byway::open().unwrap().with_hook(hook);
        match seed.server.run(|| byway().add(&spec())) {
            // A kernel without tcx runs only the other half.
            Err(Error::Unsupported { .. }) if hook == Hook::Tcx => return,
            added => drop(added.unwrap()),
        }
        let folder = seed.server.run(|| pins::folder().unwrap());
        let before = seed.server.run(|| byway().rules().unwrap().remove(0));
        // The hook matters when a device gets other programs, which happens in all of these cases.
        let apart = if hook == Hook::Clsact { 3 } else { 1 };
        for cut in (0..).step_by(apart) {
            make_old(&folder);
            let counted = seed.server.run(|| {
                let refused = byway().rules().unwrap_err();
                assert!(matches!(refused, Error::Schema { .. } | Error::OlderSchema { .. }), "{refused}");
                Meta::open(&folder).unwrap().get(meta::SCHEMA).unwrap()
            });
            assert_eq!(counted, SCHEMA - 2);
            let at = cut_off_at(&seed, cut);
            println!("{hook}, {cut}: {at:?}");
            assert_eq!(cut_off_at(&seed, usize::MAX), None);
            // Anything after the new schema is left to the next change.
            seed.server.run(|| byway().attach(&Attach::Auto).unwrap());
            let rule = seed.server.run(|| byway().rules().unwrap().remove(0));
            assert_eq!(rule.rule, before.rule);
            assert!(rule.departed.packets > before.departed.packets + cut as u64, "{rule:?}");
            assert_eq!(rule.departed, rule.arrived);
            let attachments = seed.server.run(|| byway().attachments().unwrap());
            assert!(
                attachments.len() == 2 && attachments.iter().all(|it| it.is_installed),
                "{attachments:?}"
            );
            assert!(!folder.join("renewed").exists());
            if at.is_none() {
                for name in ["NEIGHBOURS_OLD", "rules_old", "DEVICES", "links", "UNUSED"] {
                    assert!(!folder.join(name).exists(), "{name}");
                }
                assert!(cut >= 16, "{cut} steps");
                break;
            }
            remove_old(&folder, MADE_UP).unwrap();
        }
        seed.server.run(|| byway().flush().and_then(|_| byway().detach_all()).unwrap());
        assert!(!folder.exists());
    }

    #[test]
    fn a_made_up_migration_is_cut_off_between_any_two_steps() {
        is_cut_off_anywhere(Hook::Clsact);
        is_cut_off_anywhere(Hook::Tcx);
    }

    /// A failed conversion leaves everything as it was.
    #[test]
    fn what_fails_is_taken_back() {
        const FAILS: &[Migration] = &[Migration {
            from: SCHEMA - 1,
            converted: &[
                Conversion { from: "NEIGHBOURS_OLD", to: "COPY", convert: widen_neighbours },
                Conversion {
                    from: "",
                    to: "OTHER",
                    convert: |_, _| Err(Error::kernel("convert", "it fails")),
                },
            ],
            removed: &[],
            rounds: &[2, 1],
        }];
        let seed = Seed::new().unwrap();
        seed.server.run(|| Byway::open().unwrap().add(&spec()).unwrap());
        let folder = seed.server.run(|| pins::folder().unwrap());
        make_old(&folder);
        Meta::open(&folder).unwrap().set(meta::SCHEMA, SCHEMA - 1).unwrap();
        let before = bpffs::names(&folder).unwrap();
        let failure =
            seed.server.run(|| take_over_by(&mut Network::open().unwrap(), FAILS, &mut |_| ())).unwrap_err();
        assert_eq!(failure.to_string(), "cannot convert: it fails");
        assert_eq!(bpffs::names(&folder).unwrap(), before);
        assert_eq!(Meta::open(&folder).unwrap().get(meta::OBJECT).unwrap(), 7);
        assert_eq!(Meta::open(&folder).unwrap().get(meta::SCHEMA).unwrap(), SCHEMA - 1);
        works(&seed.client);
    }
}
