//! The handle: what a person asks for, checked against what the kernel holds, made into a plan, carried out.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, btree_map::Entry as Place},
    rc::Rc,
};

use byway_abi::{MAX_DESTINATIONS, MAX_GROUPS, MAX_NEXT_HOPS, MAX_RULES};

use crate::{
    compile::{compile, destinations},
    error::{Error, Result},
    kernel::{
        bpffs,
        execute::{self, Executor},
        hook::Hook,
        network::{Header, Link, Network},
        pins::Pins,
        privilege,
    },
    listing::{self, Listing},
    plan::{Actual, Desired, plan},
    rule::{
        Device, Group, GroupSpec, Member, MemberSpec, Mss, NextHop, NextHopSpec, OnDown, Owner, Rule,
        RuleSpec, Selector, Target, TargetSpec, check_distinct, check_families,
    },
    status::{self, Attachment, GroupStatus, Narrow, NextHopStatus, RuleStatus, Status},
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
    /// [`Error::NoSuchDevice`], [`Error::Loopback`], [`Error::UnknownHeader`], [`Error::NoDefaultRoute`],
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

    /// Lets several new rules hold, or none of them where one is wrong. Returns them by source and destination, and
    /// that is the order in which they are looked at: the error is about the first one that is wrong.
    ///
    /// # Errors
    ///
    /// Those of [`Byway::add`].
    pub fn add_all(&mut self, specs: &[RuleSpec]) -> Result<Vec<Rule>> {
        self.put(None, specs, |existing| Err(Error::RuleExists(Box::new(existing.clone()))))
    }

    /// Lets a rule hold in place of the one for the same packets, or as a new one where there is none. Its
    /// counters start at zero, unless it is the same rule.
    ///
    /// # Errors
    ///
    /// Those of [`Byway::add`] but [`Error::RuleExists`].
    pub fn replace(&mut self, spec: &RuleSpec) -> Result<Rule> {
        self.replace_all(std::slice::from_ref(spec)).and_then(only)
    }

    /// Lets several rules hold in place of those for the same packets, from one instant to the next; or none of them
    /// where one is wrong. Returns them by source and destination.
    ///
    /// # Errors
    ///
    /// Those of [`Byway::replace`].
    pub fn replace_all(&mut self, specs: &[RuleSpec]) -> Result<Vec<Rule>> {
        self.put(None, specs, |_| Ok(()))
    }

    /// Lets exactly these rules of an owner hold, from one instant to the next, whoever they name. Those of others stay. A
    /// rule that is the same as before keeps its counters. Returns them by source and destination.
    ///
    /// # Errors
    ///
    /// [`Error::RuleExists`] where another owner has a rule for the same packets, and those of [`Byway::replace`].
    pub fn reconcile(&mut self, owner: Owner, specs: &[RuleSpec]) -> Result<Vec<Rule>> {
        let specs: Vec<RuleSpec> = specs.iter().map(|spec| RuleSpec { owner, ..spec.clone() }).collect();
        self.put(Some(owner), &specs, |existing| {
            if existing.owner == owner { Ok(()) } else { Err(Error::RuleExists(Box::new(existing.clone()))) }
        })
    }

    /// Puts rules, among those that there are or in place of all of one owner's.
    fn put(
        &mut self,
        in_place_of: Option<Owner>,
        specs: &[RuleSpec],
        on_existing: impl Fn(&Rule) -> Result<()>,
    ) -> Result<Vec<Rule>> {
        for spec in specs {
            spec.check()?;
        }
        let (asked, targets) = in_order(specs);
        let only = match specs {
            // Of groups that are one rule's own there is a limited number.
            [spec] if in_place_of.is_none() && !matches!(spec.target, TargetSpec::NextHops(_)) => {
                Some(&spec.selector)
            }
            _ => None,
        };
        let put = self.change_of(only, |view, desired| {
            if in_place_of.is_some() {
                desired.rules.retain(|_, rule| Some(rule.owner) != in_place_of);
            }
            let mut put = Vec::with_capacity(asked.len());
            let mut resolved: Vec<Option<Target>> = vec![None; targets.len()];
            for asked in &asked {
                let Asked { selector, target, on_down, mss, owner, name } = *asked;
                let is_full = desired.rules.len() + desired.unseen.rules >= MAX_RULES as usize;
                let place = desired.rules.entry(selector);
                match &place {
                    Place::Occupied(existing) => on_existing(existing.get())?,
                    Place::Vacant(_) if is_full => {
                        return Err(Error::TablesFull { selector, limit: MAX_RULES });
                    }
                    Place::Vacant(_) => {}
                }
                let target = match &mut resolved[target] {
                    Some(target) => target,
                    unresolved => unresolved.insert(view.resolve(targets[target])?),
                };
                if let Target::Group(name) = target {
                    let group = desired.groups.get(name).ok_or_else(|| Error::NoSuchGroup(name.clone()))?;
                    check_families(&selector.source(), gateways(group))?;
                }
                let rule = Rc::new(Rule {
                    source: selector.source(),
                    destination: selector.destination(),
                    target: target.clone(),
                    on_down,
                    mss,
                    owner,
                    name: name.map(str::to_owned),
                });
                place.and_modify(|existing| *existing = rule.clone()).or_insert_with(|| rule.clone());
                put.push(rule);
            }
            if !specs.is_empty() && desired.attachments.is_empty() {
                let found = view.default_gateway_devices()?;
                desired.attachments.extend(found.into_iter().map(|device| (device.index, device)));
            }
            Ok(put)
        })?;
        Ok(put.into_iter().map(Rc::unwrap_or_clone).collect())
    }

    /// Lets the rule for exactly these packets hold no longer, and returns it.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchRule`], and those of the kernel.
    pub fn del(&mut self, selector: &Selector) -> Result<Rule> {
        self.change_of(Some(selector), |_, desired| {
            desired.rules.remove(selector).ok_or(Error::NoSuchRule(*selector))
        })
        .map(Rc::unwrap_or_clone)
    }

    /// Lets no rule hold any longer, and returns those that did. Attachments and groups stay.
    ///
    /// # Errors
    ///
    /// Those of the kernel.
    pub fn flush(&mut self) -> Result<Vec<Rule>> {
        let flushed: Vec<Rc<Rule>> =
            self.change(|_, desired| Ok(std::mem::take(&mut desired.rules).into_values().collect()))?;
        Ok(flushed.into_iter().map(Rc::unwrap_or_clone).collect())
    }

    /// Makes a group of next hops, for rules to lead to.
    ///
    /// # Errors
    ///
    /// [`Error::GroupExists`], [`Error::Rule`], [`Error::NotOnLink`] and its like for a next hop that cannot work, and
    /// those of the kernel.
    pub fn add_group(&mut self, spec: &GroupSpec) -> Result<Group> {
        self.put_group(spec, |existing| Err(Error::GroupExists(existing.clone())))
    }

    /// Makes a group, or lets the one of that name be another from one instant to the next. Flows stay where they are as
    /// far as the new group lets them.
    ///
    /// # Errors
    ///
    /// Those of [`Byway::add_group`] but [`Error::GroupExists`].
    pub fn replace_group(&mut self, spec: &GroupSpec) -> Result<Group> {
        self.put_group(spec, |_| Ok(()))
    }

    fn put_group(&mut self, spec: &GroupSpec, on_existing: impl Fn(&Group) -> Result<()>) -> Result<Group> {
        spec.check()?;
        self.change(|view, desired| {
            if let Some(existing) = desired.groups.get(&spec.name) {
                on_existing(existing)?;
            }
            let members = view.resolve_members(&spec.members)?;
            let group = Group { name: spec.name.clone(), members, on_down: spec.on_down, owner: spec.owner };
            for rule in users(desired, &spec.name) {
                check_families(&rule.source, gateways(&group))?;
            }
            desired.groups.insert(group.name.clone(), group.clone());
            Ok(group)
        })
    }

    /// Deletes a group that no rule leads to, and returns it.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchGroup`], [`Error::GroupInUse`], and those of the kernel.
    pub fn del_group(&mut self, name: &str) -> Result<Group> {
        self.change(|_, desired| {
            if let Some(first) = users(desired, name).next() {
                let (first, rules) = (first.selector(), users(desired, name).count());
                return Err(Error::GroupInUse { name: name.to_owned(), rules, first });
            }
            desired.groups.remove(name).ok_or_else(|| Error::NoSuchGroup(name.to_owned()))
        })
    }

    /// Takes a next hop out of service (`is_down`) or puts it back, in every rule and group that has it. It stays so
    /// until it is put back, or nothing has it any more.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchNextHop`], [`Error::AmbiguousNextHop`], and those of the kernel.
    pub fn set_next_hop_down(&mut self, spec: &NextHopSpec, is_down: bool) -> Result<NextHop> {
        self.change(|view, desired| {
            let is_meant = |next_hop: &&NextHop| {
                next_hop.gateway == spec.gateway()
                    && spec.device().is_none_or(|name| {
                        next_hop.device.name == name || view.is_called(next_hop.device.index, name)
                    })
            };
            let meant: Vec<NextHop> = desired.next_hops().into_iter().filter(is_meant).cloned().collect();
            match &meant[..] {
                [] => Err(Error::NoSuchNextHop(spec.clone())),
                [next_hop] => {
                    if is_down {
                        desired.down.insert(next_hop.clone());
                    } else {
                        desired.down.remove(next_hop);
                    }
                    Ok(next_hop.clone())
                }
                several => Err(Error::AmbiguousNextHop {
                    spec: spec.clone(),
                    devices: several.iter().map(|next_hop| next_hop.device.name.clone()).collect(),
                }),
            }
        })
    }

    /// All that there is, read at once. Where there may be many rules, [`Byway::listing`] takes less memory.
    ///
    /// # Errors
    ///
    /// [`Error::Schema`], and those of the kernel.
    pub fn status(&mut self) -> Result<Status> {
        let Some(pins) = Pins::open()? else { return Ok(Status::default()) };
        listing::status(pins, &mut self.network)
    }

    /// All that there is, with the rules one after the other.
    ///
    /// # Errors
    ///
    /// Those of [`Byway::status`].
    pub fn listing(&mut self) -> Result<Listing> {
        let Some(pins) = Pins::open()? else { return Ok(Listing::default()) };
        listing::read(pins, &mut self.network)
    }

    /// The rules that hold, by source and destination, with their counters.
    ///
    /// # Errors
    ///
    /// Those of [`Byway::status`].
    pub fn rules(&mut self) -> Result<Vec<RuleStatus>> {
        Ok(self.status()?.rules)
    }

    /// The rule for exactly these packets, with its counters. It takes no longer where there are many.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchRule`], and those of [`Byway::status`].
    pub fn rule(&mut self, selector: &Selector) -> Result<RuleStatus> {
        let found = match Pins::open()? {
            Some(pins) => listing::rule(&pins, &mut self.network, selector)?,
            None => None,
        };
        found.ok_or(Error::NoSuchRule(*selector))
    }

    /// The groups that have a name, by that.
    ///
    /// # Errors
    ///
    /// Those of [`Byway::status`].
    pub fn groups(&mut self) -> Result<Vec<GroupStatus>> {
        Ok(self.listing()?.groups)
    }

    /// The next hops of all rules and groups, with their counters.
    ///
    /// # Errors
    ///
    /// Those of [`Byway::status`].
    pub fn next_hops(&mut self) -> Result<Vec<NextHopStatus>> {
        Ok(self.listing()?.next_hops)
    }

    /// The devices that carry a program, by name.
    ///
    /// # Errors
    ///
    /// Those of [`Byway::status`].
    pub fn attachments(&mut self) -> Result<Vec<Attachment>> {
        let Some(pins) = Pins::open()? else { return Ok(Vec::new()) };
        status::read_attachments(&pins, &mut self.network)
    }

    /// Which of these next hops have a device that takes smaller packets than an attachment. TCP's MSS option is clamped on
    /// the way there, and what is too big is answered with an ICMP error.
    ///
    /// # Errors
    ///
    /// Those of [`Byway::status`].
    pub fn narrow(&mut self, next_hops: &[NextHop]) -> Result<Vec<Narrow>> {
        let Some(pins) = Pins::open()? else { return Ok(Vec::new()) };
        status::narrow(&pins, &mut self.network, next_hops)
    }

    /// The one way to a change: `decide` turns what holds into what should hold, and may refuse. It is asked before
    /// anything is touched in the kernel, and again where something was tidied then.
    fn change<T>(&mut self, decide: impl Fn(&mut View<'_>, &mut Desired) -> Result<T>) -> Result<T> {
        self.change_of(None, decide)
    }

    /// The same, where only the rule for exactly these packets is put, changed or deleted.
    fn change_of<T>(
        &mut self,
        only: Option<&Selector>,
        decide: impl Fn(&mut View<'_>, &mut Desired) -> Result<T>,
    ) -> Result<T> {
        let mut first = None;
        if Pins::open()?.is_none() {
            let (actual, desired, decided) = self.decide(None, only, &decide)?;
            if desired == Desired::default() {
                return Ok(decided);
            }
            first = Some((actual, desired, decided));
            bpffs::ensure_mounted()?;
        }
        let lock = bpffs::Lock::wait()?;
        let mut pins = Pins::open()?; // another Byway may have made or removed them in the meantime
        let (mut actual, mut desired, mut decided) = match (&pins, first) {
            (None, Some(first)) if !lock.has_waited => first,
            _ => self.decide(pins.as_ref(), only, &decide)?,
        };
        Pins::remove_unfinished()?;
        if let Some(pins) = &mut pins {
            let mut executor = Executor { pins, network: &mut self.network, hook: self.hook };
            executor.renew()?;
            if executor.tidy()? {
                (actual, desired, decided) = self.decide(Some(pins), only, &decide)?;
            }
        }
        self.carry_out(pins, &actual, &desired)?;
        Ok(decided)
    }

    /// What holds, what should hold, and what `decide` says of it.
    fn decide<T>(
        &mut self,
        pins: Option<&Pins>,
        only: Option<&Selector>,
        decide: impl Fn(&mut View<'_>, &mut Desired) -> Result<T>,
    ) -> Result<(Actual, Desired, T)> {
        let (actual, links) = execute::actual(pins, &mut self.network, only)?;
        let held = actual.as_desired();
        let mut desired = held.clone();
        let mut view = View { network: &mut self.network, links: &links };
        let decided = decide(&mut view, &mut desired)?;
        if desired != held {
            let next_hops = [held.next_hops(), desired.next_hops()];
            check_room(&desired, next_hops[0].union(&next_hops[1]).count())?;
            // What is so already is not this change's fault, which may be the way out.
            let before = view.stacked(&next_hops[0], &held.attachments);
            let after = view.stacked(&next_hops[1], &desired.attachments);
            if let Some((upper, lower)) = after.difference(&before).next() {
                return Err(Error::Stacked { upper: upper.clone(), lower: lower.clone() });
            }
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
        let is_empty =
            desired.rules.is_empty() && desired.attachments.is_empty() && desired.groups.is_empty();
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

/// A rule that is asked for.
struct Asked<'a> {
    selector: Selector,
    /// Which of the targets it has.
    target: usize,
    on_down: OnDown,
    mss: Mss,
    owner: Owner,
    name: Option<&'a str>,
}

/// Rules by source and destination, and the targets that they have: many have few, and to resolve one asks the kernel for its
/// routes. From here on each pass over a million rules goes through memory from one end to the other, which saves a
/// third of the time.
fn in_order(specs: &[RuleSpec]) -> (Vec<Asked<'_>>, Vec<&TargetSpec>) {
    let (mut targets, mut places) = (Vec::new(), HashMap::new());
    let mut asked: Vec<Asked<'_>> = specs
        .iter()
        .map(|spec| Asked {
            selector: spec.selector,
            target: *places.entry(&spec.target).or_insert_with(|| {
                targets.push(&spec.target);
                targets.len() - 1
            }),
            on_down: spec.on_down,
            mss: spec.mss,
            owner: spec.owner,
            name: spec.name.as_deref(),
        })
        .collect();
    asked.sort_by_key(|asked| asked.selector);
    (asked, targets)
}

/// The rules that lead to a group.
fn users<'a>(desired: &'a Desired, name: &'a str) -> impl Iterator<Item = &'a Rule> {
    desired
        .rules
        .values()
        .map(Rc::as_ref)
        .filter(move |rule| matches!(&rule.target, Target::Group(of_rule) if of_rule == name))
}

fn gateways(group: &Group) -> impl Iterator<Item = &std::net::IpAddr> {
    group.members.iter().filter_map(|member| member.next_hop.gateway.as_ref())
}

/// Refuses what does not fit into the tables, with so many next hops: those that are to go are there still when the new
/// ones come.
fn check_room(desired: &Desired, next_hops: usize) -> Result<()> {
    if next_hops >= MAX_NEXT_HOPS as usize {
        return Err(Error::TooManyNextHops { limit: MAX_NEXT_HOPS - 1 });
    }
    let own = desired.rules.values().filter(|rule| matches!(rule.target, Target::NextHops(_))).count();
    if own + desired.groups.len() > MAX_GROUPS as usize {
        return Err(Error::TooManyGroups { limit: MAX_GROUPS });
    }
    if desired.rules.keys().any(|selector| selector.destination().is_some()) {
        let wanted = destinations(&compile(desired.rules.keys().map(|selector| (*selector, ())).collect()));
        if wanted > MAX_DESTINATIONS as usize {
            return Err(Error::TooManyDestinations { wanted, limit: MAX_DESTINATIONS });
        }
    }
    Ok(())
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
        if link.header != Header::Other {
            Ok(link.device.clone())
        } else {
            Err(Error::UnknownHeader(name.to_owned()))
        }
    }

    /// The devices that carry a default route and can be watched.
    fn default_gateway_devices(&mut self) -> Result<Vec<Device>> {
        let indexes = self.network.default_route_devices()?;
        let links: Vec<&Link> = indexes.iter().filter_map(|index| self.links.get(index)).collect();
        let usable: Vec<Device> = links
            .iter()
            .filter(|link| link.header != Header::Other && !link.is_loopback)
            .map(|link| link.device.clone())
            .collect();
        match (usable.is_empty(), links.first()) {
            (false, _) => Ok(usable),
            (true, Some(link)) => Err(Error::UnknownHeader(link.device.name.clone())),
            (true, None) => Err(Error::NoDefaultRoute),
        }
    }

    /// The next hops' devices whose packets come back to an attachment below them, with that attachment. There they
    /// would match again, and go round until the kernel drops them.
    fn stacked(
        &self,
        next_hops: &BTreeSet<&NextHop>,
        attachments: &BTreeMap<u32, Device>,
    ) -> BTreeSet<(String, String)> {
        let uppers: BTreeSet<u32> = next_hops.iter().map(|next_hop| next_hop.device.index).collect();
        let mut stacked = BTreeSet::new();
        for upper in uppers.iter().filter_map(|index| self.links.get(index)) {
            let watched = self.below(upper).into_iter().filter_map(|index| attachments.get(&index));
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
        Ok(match spec {
            TargetSpec::NextHop(next_hop) => Target::NextHop(self.resolve_next_hop(next_hop)?),
            TargetSpec::NextHops(members) => {
                let mut members = self.resolve_members(members)?;
                // A single one has all flows, whatever its weight.
                if members.len() == 1 {
                    Target::NextHop(members.remove(0).next_hop)
                } else {
                    Target::NextHops(members)
                }
            }
            TargetSpec::Group(name) => Target::Group(name.clone()),
            TargetSpec::Pass => Target::Pass,
            TargetSpec::Drop => Target::Drop,
        })
    }

    fn resolve_members(&mut self, specs: &[MemberSpec]) -> Result<Vec<Member>> {
        let resolve = |spec: &MemberSpec| {
            Ok(Member { next_hop: self.resolve_next_hop(&spec.next_hop)?, weight: spec.weight })
        };
        let members = specs.iter().map(resolve).collect::<Result<Vec<_>>>()?;
        check_distinct(&members)?;
        Ok(members)
    }

    fn resolve_next_hop(&mut self, spec: &NextHopSpec) -> Result<NextHop> {
        match spec {
            NextHopSpec::Dev(name) => Ok(NextHop { gateway: None, device: self.link(name)?.device.clone() }),
            NextHopSpec::ViaDev(gateway, name) => {
                let link = self.link(name)?;
                let (device, is_up) = (link.device.clone(), link.is_up);
                self.network.check_gateway(*gateway)?;
                if !is_up {
                    return Err(Error::DeviceDown { gateway: *gateway, device: device.name });
                }
                if !self.network.is_on_link(*gateway, &device)? {
                    return Err(Error::NotOnLink { gateway: *gateway, device: device.name });
                }
                Ok(NextHop { gateway: Some(*gateway), device })
            }
            NextHopSpec::Via(gateway) => {
                let index = self.network.device_of_gateway(*gateway)?;
                let link = self.links.get(&index).ok_or(Error::NoDeviceForGateway(*gateway))?;
                Ok(NextHop { gateway: Some(*gateway), device: link.device.clone() })
            }
        }
    }
}
