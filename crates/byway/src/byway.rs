//! The handle: what a person asks for.

use crate::{
    asked::{Asked, Existing, attach_where_nothing_is, exists, gateways, users},
    config::Attach,
    error::{Error, Result},
    kernel::{hook::Hook, namespace, network::Network, pins::Pins, privilege},
    listing::{self, Listing},
    model::{
        Action, Device, Group, GroupSpec, NextHop, NextHopSpec, Owner, Rule, RuleSpec, Selector, TargetSpec,
        check_families,
    },
    status::{self, Attachment, GroupStatus, MtuMismatch, NextHopStatus, RuleStatus, Status},
};

/// Byway in one network namespace: that of the thread that called [`Byway::open`]. It may go to another thread, but a call
/// from another namespace is refused ([`Error::OtherNamespace`]).
///
/// What it changes stays in the kernel when the handle or the process is gone. Changes wait for each other, also
/// between processes, and a call that fails has changed nothing.
#[derive(Debug)]
pub struct Byway {
    /// The network namespace that it was opened in.
    namespace: String,
    pub(crate) network: Network,
    pub(crate) hook: Option<Hook>,
    pub(crate) progress: Option<Progress>,
}

/// What is told how far a change is.
pub(crate) struct Progress(pub(crate) Box<dyn Fn(usize, usize) + Send>);

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Progress")
    }
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
        Ok(Self { namespace: namespace::key()?, network: Network::open()?, hook: None, progress: None })
    }

    /// Attaches with this hook from now on, instead of with tcx where the kernel has it and clsact where not.
    #[must_use]
    pub fn with_hook(mut self, hook: Hook) -> Self {
        self.hook = Some(hook);
        self
    }

    /// Tells `progress` from time to time how many steps of a change are done, of how many. A change of many rules has about
    /// one for each.
    #[must_use]
    pub fn with_progress(mut self, progress: impl Fn(usize, usize) + Send + 'static) -> Self {
        self.progress = Some(Progress(Box::new(progress)));
        self
    }

    /// Attaches to these devices as well: puts the departure program on their egress. Returns the attachments asked for.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchDevice`], [`Error::Loopback`], [`Error::UnknownHeader`], [`Error::NoDefaultRoute`],
    /// [`Error::IngressQdisc`], and those of the kernel.
    pub fn attach(&mut self, devices: &Attach) -> Result<Vec<Device>> {
        self.change(|view, desired| {
            let found = match devices {
                Attach::Auto => view.default_gateway_devices()?,
                Attach::Devices(names) => {
                    names.iter().map(|name| view.attachable(name)).collect::<Result<_>>()?
                }
            };
            desired.attachments.extend(found.iter().map(|device| (device.index, device.clone())));
            Ok(found)
        })
    }

    /// Detaches from the named devices. Rules stay, and redirect nothing where nothing is attached. Once there is neither
    /// rule nor attachment, nothing of Byway is left in the kernel. Returns the devices detached from.
    ///
    /// # Errors
    ///
    /// [`Error::NotAttached`], and those of the kernel.
    pub fn detach(&mut self, devices: &[&str]) -> Result<Vec<Device>> {
        self.change(|view, desired| {
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

    /// Detaches from all devices, otherwise as [`Byway::detach`].
    ///
    /// # Errors
    ///
    /// Those of the kernel.
    pub fn detach_all(&mut self) -> Result<Vec<Device>> {
        self.change(|_, desired| Ok(std::mem::take(&mut desired.attachments).into_values().collect()))
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
        self.put(None, specs, |selector, existing| Err(exists(selector, existing)))
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
        self.put(None, specs, |_, _| Ok(()))
    }

    /// Lets exactly these rules of an owner hold, from one instant to the next, whoever they name. Those of others stay. A
    /// rule that is the same as before keeps its counters. Returns them by source and destination.
    ///
    /// # Errors
    ///
    /// [`Error::RuleExists`] where another owner has a rule for the same packets, and those of [`Byway::replace`].
    pub fn reconcile(&mut self, owner: Owner, specs: &[RuleSpec]) -> Result<Vec<Rule>> {
        let specs: Vec<RuleSpec> = specs.iter().map(|spec| RuleSpec { owner, ..spec.clone() }).collect();
        self.put(Some(owner), &specs, |selector, existing| {
            if existing.owner == owner { Ok(()) } else { Err(exists(selector, existing)) }
        })
    }

    /// Refuses to go on in another network namespace than the one it was opened in: its socket would see the links of the
    /// one, and its pins would be those of the other.
    pub(crate) fn check_namespace(&self) -> Result<()> {
        if namespace::key()? == self.namespace { Ok(()) } else { Err(Error::OtherNamespace) }
    }

    pub(crate) fn pins(&self) -> Result<Option<Pins>> {
        self.check_namespace()?;
        Pins::open()
    }

    /// Puts rules, among those that there are or in place of all of one owner's.
    fn put(
        &mut self,
        in_place_of: Option<Owner>,
        specs: &[RuleSpec],
        on_existing: impl Fn(&Selector, &Action) -> Result<()>,
    ) -> Result<Vec<Rule>> {
        for spec in specs {
            spec.check()?;
        }
        let asked = Asked::from_specs(specs);
        let only = match specs {
            // Of groups that are one rule's own there is a limited number.
            [spec] if in_place_of.is_none() && !matches!(spec.target, TargetSpec::NextHops(_)) => {
                Some(&spec.selector)
            }
            _ => None,
        };
        let actions = self.change_of(only, |view, desired| {
            if in_place_of.is_some() {
                desired.rules.retain(|_, rule| Some(rule.owner) != in_place_of);
            }
            let actions = asked.put(view, desired, |selector, existing| {
                on_existing(selector, existing).map(|()| Existing::Goes)
            })?;
            if !specs.is_empty() {
                attach_where_nothing_is(view, desired)?;
            }
            Ok(actions)
        })?;
        Ok(asked.rules(&actions))
    }

    /// Lets the rule for exactly these packets hold no longer, and returns it.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchRule`], and those of the kernel.
    pub fn del(&mut self, selector: &Selector) -> Result<Rule> {
        let action = self.change_of(Some(selector), |_, desired| {
            desired.rules.remove(selector).ok_or(Error::NoSuchRule(*selector))
        })?;
        Ok(Rule::new(*selector, &action))
    }

    /// Lets no rule hold any longer, and returns those that did. Attachments and groups stay.
    ///
    /// # Errors
    ///
    /// Those of the kernel.
    pub fn flush(&mut self) -> Result<Vec<Rule>> {
        let flushed = self.change(|_, desired| Ok(std::mem::take(&mut desired.rules)))?;
        Ok(flushed.iter().map(|(selector, action)| Rule::new(*selector, action)).collect())
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
    /// far as the new group lets them. One of the configuration stays the configuration's, and the next apply puts it right.
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
            // Else the configuration could neither put it right nor let it go, as long as its own rules lead there.
            let is_config = desired.groups.get(&spec.name).is_some_and(|it| it.owner == Owner::CONFIG);
            let owner = if is_config { Owner::CONFIG } else { spec.owner };
            let group = Group { name: spec.name.clone(), members, on_down: spec.on_down, owner };
            for selector in users(desired, &spec.name) {
                check_families(&selector.source(), gateways(&group))?;
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
                let rules = users(desired, name).count();
                return Err(Error::GroupInUse { name: name.to_owned(), rules, first: *first });
            }
            desired.groups.remove(name).ok_or_else(|| Error::NoSuchGroup(name.to_owned()))
        })
    }

    /// Takes a next hop out of service, in every rule and group that has it. It stays so until it is put back, or nothing
    /// has it any more.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchNextHop`], [`Error::AmbiguousNextHop`], and those of the kernel.
    pub fn take_out_of_service(&mut self, spec: &NextHopSpec) -> Result<NextHop> {
        self.set_next_hop_down(spec, true)
    }

    /// Puts a next hop back in service.
    ///
    /// # Errors
    ///
    /// Those of [`Byway::take_out_of_service`].
    pub fn put_in_service(&mut self, spec: &NextHopSpec) -> Result<NextHop> {
        self.set_next_hop_down(spec, false)
    }

    fn set_next_hop_down(&mut self, spec: &NextHopSpec, is_down: bool) -> Result<NextHop> {
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
        let Some(pins) = self.pins()? else { return Ok(Status::default()) };
        listing::status(pins, &mut self.network)
    }

    /// All that there is, with the rules one after the other.
    ///
    /// # Errors
    ///
    /// Those of [`Byway::status`].
    pub fn listing(&mut self) -> Result<Listing> {
        let Some(pins) = self.pins()? else { return Ok(Listing::default()) };
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
        let found = match self.pins()? {
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
        let Some(pins) = self.pins()? else { return Ok(Vec::new()) };
        status::read_attachments(&pins, &mut self.network)
    }

    /// Which of these next hops have a device that takes smaller packets than an attachment. TCP's MSS option is clamped on
    /// the way there, and what is too big is answered with an ICMP error.
    ///
    /// # Errors
    ///
    /// Those of [`Byway::status`].
    pub fn mtu_mismatches(&mut self, next_hops: &[NextHop]) -> Result<Vec<MtuMismatch>> {
        let Some(pins) = self.pins()? else { return Ok(Vec::new()) };
        status::mtu_mismatches(&pins, &mut self.network, next_hops)
    }
}

fn only(rules: Vec<Rule>) -> Result<Rule> {
    rules.into_iter().next().ok_or_else(|| Error::kernel("put the rule", "no rule was asked for"))
}
