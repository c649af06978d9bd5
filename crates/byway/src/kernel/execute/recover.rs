//! Tidies up after an interrupted change, and replaces the programs of another build.

use std::collections::{BTreeMap, BTreeSet};

use byway_abi::{ProgramRecord, TARGET_BY_DESTINATION, TARGET_GROUP, meta, without_reply_to};

use super::Executor;
use crate::{
    error::Result,
    kernel::{
        hook::Hook,
        signals::SignalsWait,
        snapshot::{Installed, actual, installed},
        tables::Tables,
        wire,
    },
    model::Prefix,
    policy::{
        again,
        plan::plan,
        state::{DeviceSet, Place, Role},
    },
};

impl Executor<'_> {
    /// Removes what an interrupted change has left, and the records of devices that are gone. A named attachment then waits
    /// for its device. Returns whether there was anything to remove. The caller holds the lock.
    pub(crate) fn tidy(&mut self) -> Result<bool> {
        let _quiet = SignalsWait::begin();
        let links = self.network.links()?;
        let installed = installed(self.pins, self.network, &links)?;
        let gone = installed.iter().filter(|installed| installed.is_gone);
        let mut requests: BTreeSet<String> = self.pins.tables.attachments.requests()?.into_values().collect();
        let is_auto = requests.remove("");
        let attachments = gone.clone().filter(|it| it.role == Role::Departure).map(|it| it.asked_as.as_str());
        for request in again::outlive(&requests, is_auto, attachments) {
            self.pins.tables.attachments.set_request(&request, true)?;
        }
        for installed in gone.clone() {
            self.forget(installed)?;
        }
        if self.pins.tables.meta.get(meta::CHANGING)? == 0 {
            return Ok(gone.count() > 0);
        }
        for installed in &installed {
            if installed.is_installed {
                self.correct_role(installed)?;
            } else {
                // Half an attachment: its record, and perhaps a qdisc.
                self.forget(installed)?;
            }
        }
        tidy_tables(&mut self.pins.tables)?;
        let actual = actual(self.pins, self.network)?;
        let steps = plan(&actual, &actual.as_desired());
        if self.carry_out(&actual, &steps)? {
            self.pins.tables.meta.set(meta::CHANGING, 0)?;
        }
        Ok(true)
    }

    /// Records the role of the program that is on a device, if a change was interrupted between the two.
    fn correct_role(&mut self, installed: &Installed) -> Result<()> {
        let Installed { device, role, .. } = installed;
        let (place, role) = (Place::of(device, *role), wire::role(*role));
        let attachments = &mut self.pins.tables.attachments;
        match attachments.program(place)? {
            Some(record) if record.role != role => {
                attachments.set_program(place, ProgramRecord { role, ..record })
            }
            _ => Ok(()),
        }
    }

    /// Removes what is left of a program, and its record.
    fn forget(&mut self, installed: &Installed) -> Result<()> {
        let Installed { device, role, attached, is_gone, .. } = installed;
        // With clsact, what is there now belongs to whoever has made another device of that ifindex.
        if !is_gone || attached.hook == Hook::Tcx {
            self.pins.programs.detach(self.network, device, *role, *attached)?;
        }
        self.pins.tables.forget_program(Place::of(device, *role))
    }

    /// Replaces the programs of another build by those of this one, device by device. If this fails or is killed midway, some
    /// devices have the new programs and some the old ones, over the same maps. That works, and the next change starts again.
    /// The caller holds the lock.
    pub(crate) fn renew(&mut self) -> Result<()> {
        if !self.pins.are_outdated()? {
            return Ok(());
        }
        let _quiet = SignalsWait::begin();
        let links = self.network.links()?;
        let installed = installed(self.pins, self.network, &links)?;
        self.pins.load_programs()?;
        for Installed { device, role, attached, .. } in installed.iter().filter(|it| it.is_installed) {
            self.pins.load_for(self.network, device, *role)?;
            self.pins.programs.replace(self.network, device, *role, attached.hook)?;
        }
        self.pins.renew_programs()
    }
}

/// Removes what an interrupted change has left in the tables: everything that the entries in force do not lead to.
fn tidy_tables(tables: &mut Tables) -> Result<()> {
    let records = tables.rules()?;
    let all = || records.held.values().chain(records.leftover.values());
    let mut destinations: BTreeMap<Prefix, Vec<Prefix>> = BTreeMap::new();
    for selector in all().filter_map(wire::selector) {
        let any = Prefix::all_like(selector.source().address());
        destinations.entry(selector.source()).or_default().push(selector.destination().unwrap_or(any));
    }
    tables.wait_for_grace_period();
    // A change that was interrupted after its switch has left the previous generation, and one before its switch the next
    // one. Both are in the place that the generation in force does not use.
    tables.remove_generation(tables.generation()?.wrapping_add(1))?;
    tables.tidy_sources()?;
    tables.destinations.tidy()?;
    let in_force = tables.in_force()?;
    for (id, source) in tables.destinations.sets()? {
        let entry = source.as_ref().and_then(|source| in_force.source(source));
        if entry.is_some_and(|entry| entry.kind == TARGET_BY_DESTINATION && entry.index == id) {
            continue;
        }
        // It contains destinations of rules for its source and for the sources around it, and no others. There may be
        // thousands of sets and a million rules, so it looks at these sources alone.
        let around = source.iter().flat_map(|source| {
            (0..=source.len()).filter_map(|length| Prefix::holding(source.address(), length))
        });
        let may_be = around.filter_map(|source| destinations.get(&source)).flatten().copied();
        tables.destinations.remove_set(&(id, may_be.collect()))?;
    }
    let used: BTreeSet<u32> = records
        .held
        .values()
        .filter(|it| without_reply_to(it.kind) == TARGET_GROUP)
        .map(|it| it.index)
        .collect();
    // A rule of an unknown kind may have a group of its own.
    let is_any_unknown = records.held.values().any(|it| wire::is_unknown(it.kind));
    tables.tidy_groups()?;
    for (id, group) in tables.groups()? {
        if wire::read_name(&group.name).is_empty() && !used.contains(&id) && !is_any_unknown {
            tables.next_hops.forget_group(id)?;
        }
    }
    let sets: BTreeSet<u8> = records.held.values().map(|it| it.devices).collect();
    for (set, devices) in tables.replies.device_sets()? {
        // One in use keeps what its names mean. A change of it may have left more.
        let devices = if sets.contains(&set) { devices } else { DeviceSet::new() };
        tables.replies.set_devices(set, &devices)?;
    }
    records.leftover.keys().try_for_each(|id| tables.forget(*id))?;
    tables.note_identities()
}
