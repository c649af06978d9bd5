//! Reading what the kernel holds, and carrying out the steps of a plan.

use std::collections::BTreeMap;

use byway_abi::{DeviceRecord, HOOK_CLSACT, HOOK_TCX, ROLE_ARRIVAL, ROLE_DEPARTURE, meta};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};

use super::{
    hook::{Attached, Hook},
    network::{Link, Network},
    pins::Pins,
    tables::{read_name, wire_name},
};
use crate::{
    error::{Error, Result},
    plan::{Actual, Neighbour, Role, Step, plan},
    rule::{Device, Target},
};

/// A device that Byway has put a program on, as its record says.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    pub(crate) device: Device,
    pub(crate) role: Role,
    pub(crate) attached: Attached,
    /// The kernel says that the program is there.
    pub(crate) is_there: bool,
}

/// The devices with a program, those included that have lost it.
pub(crate) fn placed(pins: &Pins, network: &mut Network, links: &BTreeMap<u32, Link>) -> Result<Vec<Placed>> {
    let mut placed = Vec::new();
    for (index, record) in pins.tables.devices()? {
        let hook = if record.hook == HOOK_CLSACT { Hook::Clsact } else { Hook::Tcx };
        let recorded = if record.role == ROLE_DEPARTURE { Role::Departure } else { Role::Arrival };
        let link = links.get(&index);
        let on_device = match link {
            Some(_) => pins.programs.on_device(network, index, hook, recorded)?,
            None => None,
        };
        placed.push(Placed {
            device: link
                .map_or_else(|| Device { name: read_name(&record.name), index }, |link| link.device.clone()),
            role: on_device.unwrap_or(recorded),
            attached: Attached { hook, qdisc_added: record.qdisc_added != 0 },
            is_there: on_device.is_some(),
        });
    }
    placed.sort_by(|a, b| a.device.cmp(&b.device));
    Ok(placed)
}

/// What the kernel holds.
pub(crate) fn actual(pins: Option<&Pins>, network: &mut Network) -> Result<(Actual, BTreeMap<u32, Link>)> {
    let links = network.links()?;
    let devices: BTreeMap<u32, Device> =
        links.iter().map(|(index, link)| (*index, link.device.clone())).collect();
    let mut actual = Actual { devices, ..Actual::default() };
    let Some(pins) = pins else { return Ok((actual, links)) };
    for placed in placed(pins, network, &links)? {
        if placed.is_there {
            actual.programs.insert(placed.device.index, (placed.device, placed.role));
        } else if placed.role == Role::Departure && links.contains_key(&placed.device.index) {
            actual.lost.insert(placed.device.index, placed.device);
        }
    }
    for (id, mut rule) in pins.tables.rules()?.held {
        if let Target::NextHop(next_hop) = &mut rule.target
            && let Some(device) = actual.devices.get(&next_hop.device.index)
        {
            next_hop.device = device.clone();
        }
        actual.rules.insert(rule.source, (id, rule));
    }
    for (index, gateway) in pins.tables.neighbours()? {
        let gone = || Device { name: format!("if{index}"), index };
        let device = actual.devices.get(&index).cloned().unwrap_or_else(gone);
        actual.neighbours.insert(Neighbour { device, gateway });
    }
    Ok((actual, links))
}

/// Carries steps out. Where one fails, those before it are taken back. The caller holds the lock.
pub(crate) struct Executor<'a> {
    pub(crate) pins: &'a mut Pins,
    pub(crate) network: &'a mut Network,
    /// The hook to use instead of the one that the kernel offers.
    pub(crate) hook: Option<Hook>,
}

impl Executor<'_> {
    /// Carries the steps of a plan out, all or none.
    pub(crate) fn carry_out(&mut self, actual: &Actual, steps: &[Step]) -> Result<()> {
        if steps.is_empty() {
            return Ok(());
        }
        let _quiet = SignalsWait::begin();
        self.pins.tables.set_meta(meta::CHANGING, 1)?;
        let mut undo: Vec<Step> = Vec::new();
        for step in steps {
            match self.step(actual, step) {
                // In reverse, from the back of the list.
                Ok(back) => undo.extend(back.into_iter().rev()),
                // Nothing can be taken back by now. What is left is tidied by the next change.
                Err(_) if matches!(step, Step::Forget(_)) => return Ok(()),
                Err(failure) => return Err(self.take_back(actual, undo, failure)),
            }
        }
        self.pins.tables.set_meta(meta::CHANGING, 0)
    }

    fn take_back(&mut self, actual: &Actual, undo: Vec<Step>, failure: Error) -> Error {
        let mut failed = None;
        for step in undo.into_iter().rev() {
            if let Err(error) = self.step(actual, &step) {
                failed.get_or_insert(error);
            }
        }
        match failed.map_or_else(|| self.pins.tables.set_meta(meta::CHANGING, 0), Err) {
            Ok(()) => failure,
            Err(undo) => Error::NotUndone { failure: Box::new(failure), undo: Box::new(undo) },
        }
    }

    /// Carries one step out and returns the steps that take it back, first the first.
    fn step(&mut self, actual: &Actual, step: &Step) -> Result<Vec<Step>> {
        let Self { pins, network, hook } = self;
        Ok(match step.clone() {
            Step::Attach(device, role) => {
                let Pins { tables, programs } = &mut **pins;
                let record = |attached| tables.set_device(device.index, record(&device, role, attached));
                if let Err(error) = programs.attach(network, &device, role, *hook, record) {
                    tables.forget_device(device.index)?;
                    return Err(error);
                }
                vec![Step::Detach(device, role)]
            }
            Step::ChangeRole(device, role) => {
                let attached = attached(pins, &device)?;
                pins.programs.replace(network, &device, role, attached.hook)?;
                pins.tables.set_device(device.index, record(&device, role, attached))?;
                let other = if role == Role::Departure { Role::Arrival } else { Role::Departure };
                vec![Step::ChangeRole(device, other)]
            }
            Step::Detach(device, role) => {
                let attached = attached(pins, &device)?;
                pins.programs.detach(network, &device, attached)?;
                pins.tables.forget_device(device.index)?;
                vec![Step::Attach(device, role)]
            }
            Step::KeepResolved(neighbour) => {
                pins.tables.remember_neighbour(neighbour.device.index, neighbour.gateway)?;
                let kept = network.keep_resolved(&neighbour);
                if !matches!(kept, Ok(true)) {
                    pins.tables.forget_neighbour(neighbour.device.index, neighbour.gateway)?;
                }
                if kept? { vec![Step::LetGo(neighbour)] } else { vec![] }
            }
            Step::LetGo(neighbour) => {
                network.let_go(&neighbour)?;
                pins.tables.forget_neighbour(neighbour.device.index, neighbour.gateway)?;
                vec![Step::KeepResolved(neighbour)]
            }
            Step::Put(rule, instead_of) => {
                let id = pins.tables.put(&rule)?;
                match instead_of.and_then(|_| actual.rules.get(&rule.source)) {
                    Some((old_id, old)) => vec![Step::Restore(old.clone(), *old_id), Step::Forget(id)],
                    None => vec![Step::Withdraw(rule, id), Step::Forget(id)],
                }
            }
            Step::Withdraw(rule, id) => {
                pins.tables.withdraw(&rule.source)?;
                vec![Step::Restore(rule, id)]
            }
            Step::Restore(rule, id) => {
                pins.tables.point(&rule, id)?;
                vec![]
            }
            Step::Forget(id) => {
                pins.tables.forget(id)?;
                vec![]
            }
        })
    }

    /// Clears away what a change left that was cut off, and the records of devices that are gone. Says whether there
    /// was anything. The caller holds the lock.
    pub(crate) fn tidy(&mut self) -> Result<bool> {
        let _quiet = SignalsWait::begin();
        let links = self.network.links()?;
        let placed = placed(self.pins, self.network, &links)?;
        let gone = placed.iter().filter(|placed| !links.contains_key(&placed.device.index));
        for placed in gone.clone() {
            self.pins.programs.detach(self.network, &placed.device, placed.attached)?;
            self.pins.tables.forget_device(placed.device.index)?;
        }
        if self.pins.tables.meta(meta::CHANGING)? == 0 {
            return Ok(gone.count() > 0);
        }
        for placed in placed.iter().filter(|placed| !placed.is_there) {
            // Half of an attach: the record, perhaps a qdisc.
            self.pins.programs.detach(self.network, &placed.device, placed.attached)?;
            self.pins.tables.forget_device(placed.device.index)?;
        }
        for id in self.pins.tables.rules()?.leftover {
            self.pins.tables.forget(id)?;
        }
        let (actual, _) = actual(Some(self.pins), self.network)?;
        let steps = plan(&actual, &actual.as_desired());
        self.carry_out(&actual, &steps)?;
        self.pins.tables.set_meta(meta::CHANGING, 0)?;
        Ok(true)
    }

    /// Puts this binary's programs in place of those of another build, one device after the other. Cut off at any
    /// moment, some devices have the new ones and some the old, over the same maps, and the next change begins anew.
    /// The caller holds the lock.
    pub(crate) fn renew(&mut self) -> Result<()> {
        if !self.pins.are_outdated()? {
            return Ok(());
        }
        let _quiet = SignalsWait::begin();
        let links = self.network.links()?;
        let placed = placed(self.pins, self.network, &links)?;
        self.pins.load_programs()?;
        for placed in placed.into_iter().filter(|placed| placed.is_there) {
            self.pins.programs.replace(self.network, &placed.device, placed.role, placed.attached.hook)?;
        }
        self.pins.renew_programs()
    }
}

fn record(device: &Device, role: Role, attached: Attached) -> DeviceRecord {
    DeviceRecord {
        name: wire_name(&device.name),
        role: if role == Role::Departure { ROLE_DEPARTURE } else { ROLE_ARRIVAL },
        hook: if attached.hook == Hook::Tcx { HOOK_TCX } else { HOOK_CLSACT },
        qdisc_added: attached.qdisc_added.into(),
        reserved: 0,
    }
}

fn attached(pins: &Pins, device: &Device) -> Result<Attached> {
    let record = pins.tables.devices()?.into_iter().find(|(index, _)| *index == device.index);
    let (_, record) = record.ok_or_else(|| Error::NotAttached(device.name.clone()))?;
    Ok(Attached {
        hook: if record.hook == HOOK_CLSACT { Hook::Clsact } else { Hook::Tcx },
        qdisc_added: record.qdisc_added != 0,
    })
}

/// Holds off the signals that end a command, so that a Ctrl-C comes before a change or after it. What cannot be
/// held off (`SIGKILL`) is what [`Executor::tidy`] is for.
struct SignalsWait(Option<SigSet>);

impl SignalsWait {
    fn begin() -> Self {
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGPIPE] {
            signals.add(signal);
        }
        let mut before = SigSet::empty();
        let held = pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&signals), Some(&mut before));
        Self(held.is_ok().then_some(before))
    }
}

impl Drop for SignalsWait {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // Cannot fail: it puts back what the kernel gave.
            let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(before), None);
        }
    }
}
