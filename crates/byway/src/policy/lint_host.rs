//! Compares a configuration with this host, which needs no privileges: finds what an apply would refuse here, and what drops
//! incoming requests.

use std::collections::{BTreeSet, HashMap};

use super::{obstacles::Obstacle, resolve::Checks, snapshot::Host};
use crate::{
    config::{HostRef, Reading},
    error::{Error, ErrorKind, Result},
    model::{Target, TargetSpec},
};

impl Reading {
    /// Adds warnings about this host: next hops that cannot be reached, interfaces that do not exist, and strict `rp_filter`
    /// where requests come in. On another host the configuration may be right.
    pub(crate) fn lint_host(&mut self, host: &Host) -> Result<()> {
        // Report each place, but look each thing up only once.
        let mut odd: HashMap<HostRef, Option<Odd>> = HashMap::new();
        let mut strict = BTreeSet::new();
        for (host_ref, place) in std::mem::take(&mut self.host_refs) {
            let found = match odd.get(&host_ref) {
                Some(known) => known,
                None => {
                    let found = lint(&host_ref, host, &mut strict)?;
                    odd.entry(host_ref).or_insert(found)
                }
            };
            if let Some(Odd { message, help }) = found {
                self.warn(place, message, help.as_deref());
            }
        }
        Ok(())
    }
}

/// A problem on this host, and what to do about it.
struct Odd {
    message: String,
    help: Option<String>,
}

/// Finds the problem with one thing on this host. `strict` are the devices whose strict `rp_filter` has been reported
/// already.
fn lint(host_ref: &HostRef, host: &Host, strict: &mut BTreeSet<u32>) -> Result<Option<Odd>> {
    let found = match host_ref {
        HostRef::Device(name) if !host.has(name) => Err(Error::NoSuchDevice(name.clone())),
        HostRef::Device(_) => return Ok(None),
        // The missing device has been reported already.
        HostRef::NextHop(next_hop) if next_hop.device().is_some_and(|name| !host.has(name)) => {
            return Ok(None);
        }
        HostRef::NextHop(next_hop) => host.resolve(&TargetSpec::NextHop(next_hop.clone()), &Checks::Full),
        HostRef::Receiver(name) => host.receiver(name).map(|_| Target::Pass),
        HostRef::Attach(name) => host.attachable(name).map(|_| Target::Pass),
        HostRef::AttachAuto => host.default_gateway_devices().map(|_| Target::Pass),
    };
    match found {
        Ok(Target::NextHop(next_hop)) => {
            let device = next_hop.device;
            if !host.strict_rp_filter.contains(&device.index) || !strict.insert(device.index) {
                return Ok(None);
            }
            let obstacle = Obstacle::StrictRpFilter(device);
            Ok(Some(Odd { message: obstacle.to_string(), help: obstacle.help() }))
        }
        Ok(_) => Ok(None),
        Err(error) if error.kind() != ErrorKind::Failed => {
            Ok(Some(Odd { message: format!("on this host {error}"), help: error.help() }))
        }
        Err(error) => Err(error),
    }
}
