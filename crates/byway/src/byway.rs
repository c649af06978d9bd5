//! The handle: what a person asks for, checked against what the kernel holds, made into a plan, carried out.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use byway_abi::MAX_RULES;
use serde::Serialize;

use crate::{
    error::{Error, Result},
    kernel::{
        bpffs,
        execute::{self, Executor},
        hook::Hook,
        network::{Link, Network},
        pins::Pins,
        privilege,
    },
    plan::{Actual, Desired, Role, plan},
    rule::{Device, NextHop, Prefix, Rule, RuleSpec, Target, TargetSpec},
};

/// Byway in one network namespace: that of the thread that called [`Byway::open`], which every call has to be
/// made from as well.
///
/// What it changes stays in the kernel when the handle or the process is gone. Changes wait for each other, also
/// between processes, and a call that fails has changed nothing.
#[derive(Debug)]
pub struct Byway {
    network: Network,
    hook: Option<Hook>,
}

/// Packets and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Packets. A segmentation-offload packet counts as its segments.
    pub packets: u64,
    /// Bytes with one link-layer header, of a segmentation-offload packet as it stands.
    pub bytes: u64,
}

/// A rule that holds, and what it did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuleStatus {
    /// The rule.
    #[serde(flatten)]
    pub rule: Rule,
    /// What was redirected.
    pub departed: Count,
    /// What of it reached the egress of the next hop's device. What departed and did not arrive is lost, most
    /// often because the next hop does not answer.
    pub arrived: Count,
    /// What was left to normal routing.
    pub passed: Count,
    /// What was dropped.
    pub dropped: Count,
    /// The next hop's device is gone, so that what departs is lost.
    pub device_gone: bool,
}

/// Why a device carries a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Watch {
    /// It is an attachment: sources of packets that leave by it are looked up.
    Departures,
    /// A next hop is on it: what was redirected to there is counted.
    Arrivals,
}

/// A device that carries one of Byway's programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Attachment {
    /// The device.
    #[serde(flatten)]
    pub device: Device,
    /// What is watched there.
    pub watches: Watch,
    /// How the program is attached.
    pub hook: Hook,
    /// The program is there. If not, the device has gone, or somebody has taken the program off.
    pub is_there: bool,
    /// The device is gone.
    pub device_gone: bool,
}

impl Byway {
    /// Opens Byway in the calling thread's network namespace ([`enter_namespace`](crate::enter_namespace) goes to
    /// another one). Changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Privilege`] names the capability that is missing.
    pub fn open() -> Result<Self> {
        privilege::check()?;
        Ok(Self { network: Network::open()?, hook: None })
    }

    /// Attaches with this hook from now on, instead of with tcx where the kernel has it and clsact where not.
    #[must_use]
    pub fn with_hook(mut self, hook: Hook) -> Self {
        self.hook = Some(hook);
        self
    }

    /// Attaches to the named devices, or to each that carries a default route where none is named: puts the
    /// departure program on their egress. Those that are attached already stay so. Returns the attachments asked
    /// for.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchDevice`], [`Error::Loopback`], [`Error::NoEthernetHeader`], [`Error::NoDefaultRoute`],
    /// [`Error::IngressQdisc`], and those of the kernel.
    pub fn attach(&mut self, devices: &[&str]) -> Result<Vec<Device>> {
        self.change(|view, desired| {
            let found = if devices.is_empty() {
                view.default_gateway_devices()?
            } else {
                devices.iter().map(|name| view.attachable(name)).collect::<Result<_>>()?
            };
            desired.attachments.extend(found.iter().map(|device| (device.index, device.clone())));
            Ok(found)
        })
    }

    /// Detaches from the named devices, or from all where none is named. Rules stay, and redirect nothing where
    /// nothing is attached. Once there is neither rule nor attachment, nothing of Byway is left in the kernel.
    /// Returns the devices detached from.
    ///
    /// # Errors
    ///
    /// [`Error::NotAttached`], and those of the kernel.
    pub fn detach(&mut self, devices: &[&str]) -> Result<Vec<Device>> {
        self.change(|view, desired| {
            if devices.is_empty() {
                return Ok(std::mem::take(&mut desired.attachments).into_values().collect());
            }
            let mut detached = Vec::new();
            for name in devices {
                let found = desired
                    .attachments
                    .iter()
                    .find(|(index, device)| device.name == *name || view.is_called(**index, name));
                let index = *found.ok_or_else(|| Error::NotAttached((*name).to_owned()))?.0;
                detached.extend(desired.attachments.remove(&index));
            }
            Ok(detached)
        })
    }

    /// Lets a new rule hold. Where nothing is attached it attaches to the default-gateway devices as well.
    ///
    /// # Errors
    ///
    /// [`Error::RuleExists`], [`Error::TablesFull`], [`Error::Rule`], [`Error::NotOnLink`] and its like for a next
    /// hop that cannot work, those of [`Byway::attach`], and those of the kernel.
    pub fn add(&mut self, spec: &RuleSpec) -> Result<Rule> {
        self.add_all(std::slice::from_ref(spec)).and_then(only)
    }

    /// Lets several new rules hold, or none of them where one is wrong.
    ///
    /// # Errors
    ///
    /// Those of [`Byway::add`].
    pub fn add_all(&mut self, specs: &[RuleSpec]) -> Result<Vec<Rule>> {
        self.put_all(specs, |existing| Err(Error::RuleExists(existing.clone())))
    }

    /// Lets a rule hold in place of the one for the same source, or as a new one where there is none. Its
    /// counters start at zero, unless it is the same rule.
    ///
    /// # Errors
    ///
    /// Those of [`Byway::add`] but [`Error::RuleExists`].
    pub fn replace(&mut self, spec: &RuleSpec) -> Result<Rule> {
        self.put_all(std::slice::from_ref(spec), |_| Ok(())).and_then(only)
    }

    fn put_all(
        &mut self,
        specs: &[RuleSpec],
        on_existing: impl Fn(&Rule) -> Result<()>,
    ) -> Result<Vec<Rule>> {
        for spec in specs {
            spec.check()?;
        }
        self.change(|view, desired| {
            let mut put = Vec::with_capacity(specs.len());
            // Many rules share few next hops, and each look-up asks the kernel for its routes.
            let mut resolved: HashMap<&TargetSpec, Target> = HashMap::new();
            for spec in specs {
                if let Some(existing) = desired.rules.get(&spec.source) {
                    on_existing(existing)?;
                } else if desired.rules.len() >= MAX_RULES as usize {
                    return Err(Error::TablesFull { source_prefix: spec.source, limit: MAX_RULES });
                }
                let target = match resolved.get(&spec.target) {
                    Some(target) => target.clone(),
                    None => resolved.entry(&spec.target).or_insert(view.resolve(&spec.target)?).clone(),
                };
                let rule = Rule { source: spec.source, target, owner: spec.owner, name: spec.name.clone() };
                desired.rules.insert(rule.source, rule.clone());
                put.push(rule);
            }
            if desired.attachments.is_empty() {
                let found = view.default_gateway_devices()?;
                desired.attachments.extend(found.into_iter().map(|device| (device.index, device)));
            }
            Ok(put)
        })
    }

    /// Lets the rule for exactly this source hold no longer, and returns it.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchRule`], and those of the kernel.
    pub fn del(&mut self, source: &Prefix) -> Result<Rule> {
        self.change(|_, desired| desired.rules.remove(source).ok_or(Error::NoSuchRule(*source)))
    }

    /// Lets no rule hold any longer, and returns those that did. Attachments stay.
    ///
    /// # Errors
    ///
    /// Those of the kernel.
    pub fn flush(&mut self) -> Result<Vec<Rule>> {
        self.change(|_, desired| Ok(std::mem::take(&mut desired.rules).into_values().collect()))
    }

    /// The rules that hold, by source, with their counters.
    ///
    /// # Errors
    ///
    /// [`Error::Schema`], and those of the kernel.
    pub fn rules(&mut self) -> Result<Vec<RuleStatus>> {
        let Some(pins) = Pins::open()? else { return Ok(Vec::new()) };
        let (actual, links) = execute::actual(Some(&pins), &mut self.network)?;
        let status = |(id, rule): (u32, Rule)| {
            let counters = pins.tables.counters(id)?;
            Ok(RuleStatus {
                device_gone: rule
                    .target
                    .next_hop()
                    .is_some_and(|next_hop| !links.contains_key(&next_hop.device.index)),
                rule,
                departed: Count { packets: counters.departed_packets, bytes: counters.departed_bytes },
                arrived: Count { packets: counters.arrived_packets, bytes: counters.arrived_bytes },
                passed: Count { packets: counters.passed_packets, bytes: counters.passed_bytes },
                dropped: Count { packets: counters.dropped_packets, bytes: counters.dropped_bytes },
            })
        };
        actual.rules.into_values().map(status).collect()
    }

    /// The devices that carry a program, by name.
    ///
    /// # Errors
    ///
    /// [`Error::Schema`], and those of the kernel.
    pub fn attachments(&mut self) -> Result<Vec<Attachment>> {
        let Some(pins) = Pins::open()? else { return Ok(Vec::new()) };
        let links = self.network.links()?;
        let attachment = |placed: execute::Placed| Attachment {
            watches: if placed.role == Role::Departure { Watch::Departures } else { Watch::Arrivals },
            hook: placed.attached.hook,
            is_there: placed.is_there,
            device_gone: !links.contains_key(&placed.device.index),
            device: placed.device,
        };
        Ok(execute::placed(&pins, &mut self.network, &links)?.into_iter().map(attachment).collect())
    }

    /// The one way to a change: `decide` turns what holds into what should hold, and may refuse. It is asked before
    /// anything is touched in the kernel, and again where something was tidied then.
    fn change<T>(&mut self, decide: impl Fn(&mut View<'_>, &mut Desired) -> Result<T>) -> Result<T> {
        if Pins::open()?.is_none() {
            let (actual, desired, decided) = self.decide(None, &decide)?;
            if plan(&actual, &desired).is_empty() {
                return Ok(decided);
            }
            bpffs::ensure_mounted()?;
        }
        let _lock = bpffs::Lock::wait()?;
        let mut pins = Pins::open()?; // another Byway may have made or removed them in the meantime
        let (mut actual, mut desired, mut decided) = self.decide(pins.as_ref(), &decide)?;
        Pins::remove_unfinished()?;
        if let Some(pins) = &mut pins {
            let mut executor = Executor { pins, network: &mut self.network, hook: self.hook };
            executor.renew()?;
            if executor.tidy()? {
                (actual, desired, decided) = self.decide(Some(pins), &decide)?;
            }
        }
        self.carry_out(pins, &actual, &desired)?;
        Ok(decided)
    }

    /// What holds, what should hold, and what `decide` says of it.
    fn decide<T>(
        &mut self,
        pins: Option<&Pins>,
        decide: impl Fn(&mut View<'_>, &mut Desired) -> Result<T>,
    ) -> Result<(Actual, Desired, T)> {
        let (actual, links) = execute::actual(pins, &mut self.network)?;
        let mut desired = actual.as_desired();
        let mut view = View { network: &mut self.network, links: &links };
        let decided = decide(&mut view, &mut desired)?;
        // What is so already is not this change's fault, which may be the way out.
        let before = view.stacked(&actual.as_desired());
        if let Some((upper, lower)) = view.stacked(&desired).difference(&before).next() {
            return Err(Error::Stacked { upper: upper.clone(), lower: lower.clone() });
        }
        Ok((actual, desired, decided))
    }

    fn carry_out(&mut self, pins: Option<Pins>, actual: &Actual, desired: &Desired) -> Result<()> {
        let steps = plan(actual, desired);
        let is_new = pins.is_none();
        let mut pins = match pins {
            Some(pins) => pins,
            None if steps.is_empty() => return Ok(()),
            None => Pins::create()?,
        };
        let mut executor = Executor { pins: &mut pins, network: &mut self.network, hook: self.hook };
        let carried_out = executor.carry_out(actual, &steps);
        let is_empty = desired.rules.is_empty() && desired.attachments.is_empty();
        match &carried_out {
            Ok(()) if is_empty => pins.remove()?,
            // What was made for a change that failed goes with it.
            Err(error) if is_new && !matches!(error, Error::NotUndone { .. }) => pins.remove()?,
            _ => {}
        }
        carried_out
    }
}

fn only(rules: Vec<Rule>) -> Result<Rule> {
    rules.into_iter().next().ok_or_else(|| Error::kernel("put the rule", "no rule was asked for"))
}

/// The network stack as a decision sees it.
struct View<'a> {
    network: &'a mut Network,
    links: &'a BTreeMap<u32, Link>,
}

impl View<'_> {
    fn link(&self, name: &str) -> Result<&Link> {
        let is_called =
            |link: &&Link| link.device.name == name || link.other_names.iter().any(|it| it == name);
        let link = self.links.values().find(is_called);
        let link = link.ok_or_else(|| Error::NoSuchDevice(name.to_owned()))?;
        if link.is_loopback { Err(Error::Loopback(name.to_owned())) } else { Ok(link) }
    }

    fn is_called(&self, index: u32, name: &str) -> bool {
        let is_it = |link: &Link| link.device.name == name || link.other_names.iter().any(|it| it == name);
        self.links.get(&index).is_some_and(is_it)
    }

    /// The device, if its egress can be watched.
    fn attachable(&self, name: &str) -> Result<Device> {
        let link = self.link(name)?;
        if link.is_ethernet { Ok(link.device.clone()) } else { Err(Error::NoEthernetHeader(name.to_owned())) }
    }

    /// The devices that carry a default route and can be watched.
    fn default_gateway_devices(&mut self) -> Result<Vec<Device>> {
        let indexes = self.network.default_route_devices()?;
        let links: Vec<&Link> = indexes.iter().filter_map(|index| self.links.get(index)).collect();
        let usable: Vec<Device> =
            links.iter().filter(|link| link.is_ethernet).map(|link| link.device.clone()).collect();
        match (usable.is_empty(), links.first()) {
            (false, _) => Ok(usable),
            (true, Some(link)) => Err(Error::NoEthernetHeader(link.device.name.clone())),
            (true, None) => Err(Error::NoDefaultRoute),
        }
    }

    /// The next hops' devices whose packets come back to an attachment below them, with that attachment. There they
    /// would match again, and go round until the kernel drops them.
    fn stacked(&self, desired: &Desired) -> BTreeSet<(String, String)> {
        let next_hops = desired.rules.values().filter_map(|rule| rule.target.next_hop());
        let uppers: BTreeSet<u32> = next_hops.map(|next_hop| next_hop.device.index).collect();
        let mut stacked = BTreeSet::new();
        for upper in uppers.iter().filter_map(|index| self.links.get(index)) {
            let watched = self.below(upper).into_iter().filter_map(|index| desired.attachments.get(&index));
            stacked.extend(watched.map(|lower| (upper.device.name.clone(), lower.name.clone())));
        }
        stacked
    }

    /// The devices that packets of `upper` may leave by in the end, however deep the stack is.
    fn below(&self, upper: &Link) -> BTreeSet<u32> {
        let mut below = BTreeSet::new();
        let mut uppers = vec![upper];
        while let Some(upper) = uppers.pop() {
            let is_next = |lower: &&Link| {
                upper.parent == Some(lower.device.index) || lower.master == Some(upper.device.index)
            };
            uppers
                .extend(self.links.values().filter(is_next).filter(|lower| below.insert(lower.device.index)));
        }
        below
    }

    /// The target that is asked for, if it can work.
    fn resolve(&mut self, spec: &TargetSpec) -> Result<Target> {
        let next_hop = |gateway, device| Target::NextHop(NextHop { gateway, device });
        match spec {
            TargetSpec::Pass => Ok(Target::Pass),
            TargetSpec::Drop => Ok(Target::Drop),
            TargetSpec::Dev(name) => Ok(next_hop(None, self.link(name)?.device.clone())),
            TargetSpec::ViaDev(gateway, name) => {
                let link = self.link(name)?;
                let (device, is_up) = (link.device.clone(), link.is_up);
                self.network.check_gateway(*gateway)?;
                if !is_up {
                    return Err(Error::DeviceDown { gateway: *gateway, device: device.name });
                }
                if !self.network.is_on_link(*gateway, &device)? {
                    return Err(Error::NotOnLink { gateway: *gateway, device: device.name });
                }
                Ok(next_hop(Some(*gateway), device))
            }
            TargetSpec::Via(gateway) => {
                let index = self.network.device_of_gateway(*gateway)?;
                let link = self.links.get(&index).ok_or(Error::NoDeviceForGateway(*gateway))?;
                Ok(next_hop(Some(*gateway), link.device.clone()))
            }
        }
    }
}
