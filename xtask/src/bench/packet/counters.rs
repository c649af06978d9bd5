//! Measures what the counters cost: loads Byway's programs without some of them, over the same maps.

use std::fs;

use anyhow::{Context, Result};
use aya::{
    EbpfLoader,
    programs::{ProgramFd, SchedClassifier},
};
use byway_abi::counters::{OF_ATTACHMENTS, OF_NEXT_HOPS, OF_RULES};
use byway_lab::seed::Addresses;

use super::{Case, Contestant, Effort, Rules, Series, end, folder, measured};
use crate::bench::vary::secret;

/// Byway's programs.
static PROGRAMS: &[u8] = aya::include_bytes_aligned!("../../../../crates/byway/src/kernel/byway.bpf.o");

/// The counters to leave out.
const WITHOUT: [(&str, u32); 5] = [
    ("all counters", 0),
    ("no attachment counters", OF_ATTACHMENTS),
    ("no rule counters", OF_RULES),
    ("no next hop counters", OF_NEXT_HOPS),
    ("no counters", OF_ATTACHMENTS | OF_RULES | OF_NEXT_HOPS),
];

/// Measures a packet that is redirected and arrives, with these counters and without.
pub(super) fn measure(effort: Effort, family: &str, addresses: Addresses) -> Result<Vec<Series>> {
    let rules = Rules::new(Case::Hosts, addresses, 1_000);
    let contestants = WITHOUT
        .iter()
        .map(|(_, counters)| without(*counters, addresses, &rules))
        .collect::<Result<Vec<_>>>()?;
    let figures = measured(effort, &contestants)?;
    end(contestants);
    let bars = WITHOUT.iter().zip(figures).map(|((name, _), [figures])| Series::bar(family, name, figures));
    Ok(bars.collect())
}

/// Returns Byway without these counters.
fn without(counters: u32, addresses: Addresses, rules: &Rules) -> Result<Contestant> {
    let mut contestant = Contestant::byway(addresses, rules)?;
    let folder = folder()?;
    let pins = fs::read_dir(&folder)?
        .map(|pin| Ok(pin?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<Vec<_>>>()?;
    let mut loader = EbpfLoader::new();
    let secret = secret(&folder)?;
    loader.override_global("HAS_CHECK_MTU", &1_u32, true).override_global("UNCOUNTED", &counters, true);
    loader.override_global("MARK_SECRET", &secret, true);
    // Of the pins there, the object knows only the maps.
    for name in &pins {
        loader.map_pin_path(name, folder.join(name));
    }
    let mut object = loader.load(PROGRAMS)?;
    let mut program = |name: &str| -> Result<ProgramFd> {
        let program: &mut SchedClassifier =
            object.program_mut(name).context("the object lacks a program")?.try_into()?;
        program.load()?;
        Ok(program.fd()?.try_clone()?)
    };
    contestant.departure = program("byway_departure")?;
    contestant.arrival = Some(program("byway_arrival")?);
    Ok(contestant)
}
