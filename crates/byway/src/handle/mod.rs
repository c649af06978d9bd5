//! The handle: one method for each request.

mod change;
mod checker;
mod configure;
mod edit;
mod follow;
mod gateway_guard;
mod gc;
mod host;
mod rollback;
mod rollback_store;
mod way_watcher;

pub use checker::{Checker, Verdict};
pub use edit::{Edit, EditError, Edited};
pub use follow::AgentLock;
pub use gateway_guard::{GatewayEvent, GatewayGuard};
pub use gc::{Leftovers, Unknown};
pub use host::{import, lint_host};
pub use way_watcher::{WayEvent, WayWatcher};

use std::{collections::BTreeSet, slice, time::Duration};

use crate::{
    config::Attach,
    error::{Error, Result},
    kernel::{
        bpffs,
        hook::{self, Hook},
        leaves, lock, namespace,
        network::{Network, strict_rp_filter},
        pins::{Pins, Remembered},
        privilege,
        snapshot::{Scope, installed},
    },
    model::{
        Device, FlowSpec, Group, GroupSpec, NextHop, NextHopSpec, Rule, RuleSpec, Selection, Selector,
        Target, TargetSpec,
    },
    policy::{
        obstacles::{self, Facts, Obstacle, RULES_LOOKED_UP},
        request::{OnConflict, Request},
        snapshot::Questions,
        state::Role,
    },
    show::{
        flows::{self, Flows, ReplyFlow},
        get::{self, Decision},
        listing::{self, Listing},
        lookup::{Lookup, RefCounts},
        status::{self, Attachment, GroupStatus, MtuMismatch, NextHopStatus, RuleStatus, Status},
    },
};

/// Byway in one network namespace: that of the thread that called [`Byway::open`]. It may move to another thread, but refuses
/// calls from another namespace ([`Error::OtherNamespace`]).
///
/// Its changes stay in the kernel when the handle or the process is gone. Changes wait for each other, even those of other
/// processes. A call that fails has changed nothing.
#[derive(Debug)]
pub struct Byway {
    /// The network namespace that it was opened in.
    namespace: String,
    network: Network,
    hook: Option<Hook>,
    progress: Option<Progress>,
    wait: Duration,
    on_wait: Option<OnWait>,
    is_strict: bool,
    newly_attached: Vec<Device>,
    followed: Option<follow::Seen>,
    remembered: Option<Remembered>,
}

/// The callback for the progress of a change.
struct Progress(Box<dyn Fn(usize, usize) + Send>);

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Progress")
    }
}

/// The callback for a change that has to wait.
struct OnWait(Box<dyn Fn(&str) + Send>);

impl std::fmt::Debug for OnWait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnWait")
    }
}

impl Byway {
    /// Opens Byway in the calling thread's network namespace ([`enter_namespace`](crate::enter_namespace) enters
    /// another one). Changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Privilege`] names the missing capability.
    pub fn open() -> Result<Self> {
        privilege::check()?;
        Ok(Self {
            namespace: namespace::key()?,
            network: Network::open()?,
            hook: None,
            progress: None,
            wait: lock::WAIT,
            on_wait: None,
            is_strict: false,
            newly_attached: Vec::new(),
            followed: None,
            remembered: None,
        })
    }

    /// Attaches with this hook from now on. By default that is tcx if the kernel has it, and clsact if not.
    #[must_use]
    pub fn with_hook(mut self, hook: Hook) -> Self {
        self.hook = Some(hook);
        self
    }

    /// Calls `progress` from time to time with the number of steps that are done, and of all steps of the change. A change of
    /// many rules has about one step for each.
    #[must_use]
    pub fn with_progress(mut self, progress: impl Fn(usize, usize) + Send + 'static) -> Self {
        self.progress = Some(Progress(Box::new(progress)));
        self
    }

    /// Limits how long to wait for another Byway's change in this network namespace. The default is a minute.
    #[must_use]
    pub fn with_wait(mut self, limit: Duration) -> Self {
        self.wait = limit;
        self
    }

    /// Calls `on_wait` with the process that a change waits for, if that takes more than a second.
    #[must_use]
    pub fn with_on_wait(mut self, on_wait: impl Fn(&str) + Send + 'static) -> Self {
        self.on_wait = Some(OnWait(Box::new(on_wait)));
        self
    }

    /// Refuses a configuration if anything in it cannot work yet, instead of letting that wait ([`Byway::apply`]).
    #[must_use]
    pub fn with_strict(mut self) -> Self {
        self.is_strict = true;
        self
    }

    /// Refuses to work in another network namespace than the one it was opened in: its socket would see the links of the one,
    /// and its pins would be those of the other.
    fn check_namespace(&self) -> Result<()> {
        if namespace::key()? == self.namespace { Ok(()) } else { Err(Error::OtherNamespace) }
    }

    fn pins(&self) -> Result<Option<Pins>> {
        self.check_namespace()?;
        Pins::open()
    }

    /// How long the last apply still waits. A damaged note keeps nobody from seeing the rules.
    fn unconfirmed_to_show(&self) -> Result<Option<Duration>> {
        match self.unconfirmed() {
            Err(Error::DamagedNote { .. }) => Ok(None),
            unconfirmed => unconfirmed,
        }
    }

    /// The pins, for somebody who wants to see what there is.
    fn pins_to_show(&mut self) -> Result<Option<Pins>> {
        let pins = self.pins()?;
        if pins.is_some() || hook::check_none_elsewhere(&mut self.network).is_ok() {
            return Ok(pins);
        }
        // Another Byway may have made pins here meanwhile: look again while none can.
        let _lock = if bpffs::is_mounted() { self.lock().ok() } else { None };
        let pins = self.pins()?;
        if pins.is_none() {
            hook::check_none_elsewhere(&mut self.network)?;
        }
        Ok(pins)
    }

    /// Attaches to devices: puts the departure program on their egress. Existing attachments stay. Returns the requested
    /// attachments.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchDevice`], [`Error::Loopback`], [`Error::UnknownHeader`], [`Error::NoDefaultRoute`],
    /// [`Error::IngressQdisc`], and those of the kernel.
    pub fn attach(&mut self, attach: &Attach) -> Result<Vec<Device>> {
        self.change(&Scope::all(Questions::attach(attach)), |transaction| transaction.attach(attach))
    }

    /// Detaches from the named devices. Rules stay, but do nothing without an attachment. Once there are no rules, groups and
    /// attachments, nothing of Byway is left in the kernel. Returns the devices detached from.
    ///
    /// # Errors
    ///
    /// [`Error::NotAttached`], and those of the kernel.
    pub fn detach(&mut self, devices: &[&str]) -> Result<Vec<Device>> {
        self.change(&Scope::default(), |transaction| transaction.detach(devices))
    }

    /// Detaches from all devices, as [`Byway::detach`] does from some. Returns the devices detached from: none if nothing was
    /// attached.
    ///
    /// # Errors
    ///
    /// Those of the kernel.
    pub fn detach_all(&mut self) -> Result<Vec<Device>> {
        self.change(&Scope::default(), |transaction| Ok(transaction.detach_all()))
    }

    /// Adds a rule. If nothing is attached, and no attachment waits, it also attaches to the default-gateway devices.
    ///
    /// # Errors
    ///
    /// [`Error::RuleExists`], [`Error::UnknownKind`], [`Error::TablesFull`], [`Error::Rule`], [`Error::NotOnLink`] and its like
    /// for a next hop that cannot work, those of [`Byway::attach`], and those of the kernel.
    pub fn add(&mut self, spec: &RuleSpec) -> Result<Rule> {
        self.add_all(slice::from_ref(spec)).and_then(only)
    }

    /// Adds several rules, or none if one is wrong. Returns them by source and destination. It also checks them in that order,
    /// so the error is about the first wrong one.
    ///
    /// # Errors
    ///
    /// Those of [`Byway::add`].
    pub fn add_all(&mut self, specs: &[RuleSpec]) -> Result<Vec<Rule>> {
        self.change_rules(specs, OnConflict::Refuse)
    }

    /// Adds a rule, or replaces the one for the same packets. Its counters start at zero, unless it is the same rule.
    ///
    /// # Errors
    ///
    /// Those of [`Byway::add`] but [`Error::RuleExists`].
    pub fn replace(&mut self, spec: &RuleSpec) -> Result<Rule> {
        self.replace_all(slice::from_ref(spec)).and_then(only)
    }

    /// Replaces several rules, all in the same instant, or none if one is wrong. Returns them by source and destination.
    ///
    /// # Errors
    ///
    /// Those of [`Byway::replace`].
    pub fn replace_all(&mut self, specs: &[RuleSpec]) -> Result<Vec<Rule>> {
        self.change_rules(specs, OnConflict::Replace)
    }

    fn change_rules(&mut self, specs: &[RuleSpec], on_conflict: OnConflict) -> Result<Vec<Rule>> {
        specs.iter().try_for_each(RuleSpec::check)?;
        let request = Request::of_specs(specs);
        let scope = Scope {
            only: match specs {
                // The number of groups is limited, even of those that belong to one rule.
                [spec] if !matches!(spec.target, TargetSpec::NextHops(_)) => Some(&spec.selector),
                _ => None,
            },
            ..Scope::all(Questions::targets(specs.iter().map(|spec| &spec.target)))
        };
        let actions = self.change(&scope, |transaction| {
            let actions = transaction.put_rules(&request, on_conflict)?;
            if !specs.is_empty() {
                transaction.attach_unless_attached()?;
            }
            Ok(actions)
        })?;
        Ok(request.rules(&actions))
    }

    /// Deletes the rule for exactly these packets, and returns it.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchRule`], [`Error::UnknownKind`], [`Error::AnotherByway`] as for [`Byway::status`], and those of the kernel.
    pub fn del(&mut self, selector: &Selector) -> Result<Rule> {
        let scope = Scope { only: Some(selector), ..Scope::default() };
        self.change(&scope, |transaction| transaction.delete_rule(selector))
    }

    /// Deletes all rules, of every owner, and returns them. Attachments and groups stay, and rules of a kind that this version
    /// does not know ([`Target::Other`](crate::Target::Other)).
    ///
    /// # Errors
    ///
    /// [`Error::AnotherByway`] as for [`Byway::status`], and those of the kernel.
    pub fn flush(&mut self) -> Result<Vec<Rule>> {
        self.change(&Scope::default(), |transaction| Ok(transaction.flush(|_, _| true)))
    }

    /// Deletes the rules that a selection chooses, all in the same instant, and returns them. If their counters or their order
    /// matter, it looks at these just before.
    ///
    /// # Errors
    ///
    /// Those of the kernel, and those of [`Byway::status`] if it looks at counters.
    pub fn flush_only(&mut self, selection: &Selection) -> Result<Vec<Rule>> {
        let without_counters =
            Selection { with_loss: false, unused: false, sort: None, head: None, ..selection.clone() };
        let counted: Option<BTreeSet<Selector>> = match *selection == without_counters {
            true => None,
            false => {
                let mut listing = self.listing()?;
                listing.select(selection)?;
                Some(listing.rules().map(|it| it.map(|it| it.rule.selector())).collect::<Result<_>>()?)
            }
        };
        self.change(&Scope::default(), |transaction| {
            let groups = transaction.desired.groups.values();
            let groups: Vec<GroupStatus> = groups.map(|group| GroupStatus::new(group.clone(), 0)).collect();
            Ok(transaction.flush(|selector, action| {
                let status = RuleStatus::new(Rule::of(*selector, action));
                counted.as_ref().is_none_or(|it| it.contains(selector))
                    && without_counters.chooses_rule(&status, &groups)
            }))
        })
    }

    /// Adds a group of next hops, for rules to use.
    ///
    /// # Errors
    ///
    /// [`Error::GroupExists`], [`Error::Rule`], [`Error::NotOnLink`] and its like for a next hop that cannot work, and
    /// those of the kernel.
    pub fn add_group(&mut self, spec: &GroupSpec) -> Result<Group> {
        self.put_group(spec, OnConflict::Refuse)
    }

    /// Adds a group, or replaces the one of that name in one instant. Moves as few flows as possible. The group
    /// keeps its owner, whose next apply may change it back.
    ///
    /// # Errors
    ///
    /// Those of [`Byway::add_group`] but [`Error::GroupExists`].
    pub fn replace_group(&mut self, spec: &GroupSpec) -> Result<Group> {
        self.put_group(spec, OnConflict::Replace)
    }

    fn put_group(&mut self, spec: &GroupSpec, on_conflict: OnConflict) -> Result<Group> {
        spec.check()?;
        let scope = Scope::all(Questions::group(spec));
        self.change(&scope, |transaction| transaction.put_group(spec, on_conflict))
    }

    /// Deletes a group that no rule uses, and returns it.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchGroup`], [`Error::GroupInUse`], [`Error::GroupMayBeInUse`], and those of the kernel.
    pub fn del_group(&mut self, name: &str) -> Result<Group> {
        self.change(&Scope::default(), |transaction| transaction.delete_group(name))
    }

    /// Takes a next hop out of service, in every rule and group that uses it. It stays out of service until it is put back, or
    /// nothing uses it any more.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchNextHop`], [`Error::AmbiguousNextHop`], and those of the kernel.
    pub fn take_out_of_service(&mut self, spec: &NextHopSpec) -> Result<NextHop> {
        self.change(&Scope::default(), |transaction| transaction.set_down(spec, true))
    }

    /// Puts a next hop back in service.
    ///
    /// # Errors
    ///
    /// Those of [`Byway::take_out_of_service`].
    pub fn put_in_service(&mut self, spec: &NextHopSpec) -> Result<NextHop> {
        self.change(&Scope::default(), |transaction| transaction.set_down(spec, false))
    }

    /// Returns the whole state, read at once. With many rules, [`Byway::listing`] takes less memory.
    ///
    /// # Errors
    ///
    /// [`Error::Schema`], [`Error::AnotherByway`] where a device carries a program of a Byway whose pins cannot be seen here, and
    /// those of the kernel.
    pub fn status(&mut self) -> Result<Status> {
        let unconfirmed = self.unconfirmed_to_show()?;
        let Some(pins) = self.pins_to_show()? else { return Ok(Status { unconfirmed, ..Status::default() }) };
        Ok(Status { unconfirmed, ..listing::status(pins, &mut self.network)? })
    }

    /// Returns the whole state, with the rules one by one.
    ///
    /// # Errors
    ///
    /// Those of [`Byway::status`].
    pub fn listing(&mut self) -> Result<Listing> {
        let mut listing = match self.pins_to_show()? {
            Some(pins) => listing::read(pins, &mut self.network)?,
            None => Listing::default(),
        };
        listing.unconfirmed = self.unconfirmed_to_show()?;
        Ok(listing)
    }

    /// Returns the rules, by source and destination, with their counters.
    ///
    /// # Errors
    ///
    /// Those of [`Byway::status`].
    pub fn rules(&mut self) -> Result<Vec<RuleStatus>> {
        Ok(self.status()?.rules)
    }

    /// Returns the rule for exactly these packets, with its counters. This is fast even among many rules.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchRule`], and those of [`Byway::status`].
    pub fn rule(&mut self, selector: &Selector) -> Result<RuleStatus> {
        let found = match self.pins_to_show()? {
            Some(pins) => listing::rule(&pins, &mut self.network, selector)?,
            None => None,
        };
        found.ok_or(Error::NoSuchRule(*selector))
    }

    /// Returns the named groups, by name.
    ///
    /// # Errors
    ///
    /// Those of [`Byway::status`].
    pub fn groups(&mut self) -> Result<Vec<GroupStatus>> {
        Ok(self.listing()?.groups)
    }

    /// Returns the next hops of all rules and groups, with their counters.
    ///
    /// # Errors
    ///
    /// Those of [`Byway::status`].
    pub fn next_hops(&mut self) -> Result<Vec<NextHopStatus>> {
        Ok(self.listing()?.next_hops)
    }

    /// Says what becomes of the packets of a flow, and why. It searches the tables that the programs search, and asks the kernel
    /// for the route. It sends no packet and changes no counter.
    ///
    /// # Errors
    ///
    /// [`Error::Rule`] for a flow between two families, [`Error::NoSuchDevice`], and those of [`Byway::status`].
    pub fn get(&mut self, flow: &FlowSpec) -> Result<Decision> {
        flow.check()?;
        let pins = self.pins_to_show()?;
        get::read(pins.as_ref(), &mut self.network, flow)
    }

    /// Returns the ways that requests have come in by, and how many flows have each of them. With a device, only what has come in
    /// there.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchDevice`], and those of [`Byway::status`].
    pub fn flows(&mut self, device: Option<&str>) -> Result<Flows> {
        flows::read(self.pins_to_show()?.as_ref(), &mut self.network, device)
    }

    /// Forgets a flow, and returns it. Its replies go the ordinary way from then on, or where else the rule says, until the next
    /// request that begins a flow. `flow` names packets as they leave.
    ///
    /// # Errors
    ///
    /// [`Error::Flow`] for words that may be many flows, [`Error::NoSuchFlow`], and those of [`Byway::status`].
    pub fn del_flow(&mut self, flow: &FlowSpec) -> Result<ReplyFlow> {
        flow.check()?;
        flows::remove(self.pins_to_show()?.as_ref(), &mut self.network, flow)
    }

    /// Forgets all flows, or those that have come in by a device. Returns how many.
    ///
    /// # Errors
    ///
    /// Those of [`Byway::flows`].
    pub fn flush_flows(&mut self, device: Option<&str>) -> Result<u64> {
        flows::flush(self.pins_to_show()?.as_ref(), &mut self.network, device)
    }

    /// Returns the devices that carry a program, by name.
    ///
    /// # Errors
    ///
    /// Those of [`Byway::status`].
    pub fn attachments(&mut self) -> Result<Vec<Attachment>> {
        let Some(pins) = self.pins_to_show()? else { return Ok(Vec::new()) };
        status::read_attachments(&pins, &mut self.network)
    }

    /// Returns the devices that the last change of this handle has attached to, by name. [`Byway::add`] attaches by itself, and
    /// returns only the rule.
    #[must_use]
    pub fn newly_attached(&self) -> &[Device] {
        &self.newly_attached
    }

    /// Returns what keeps these rules from doing their work on this host, although they are in force. Looks up the routes of
    /// the first 256, and the next hops of all. Waits up to `patience` for gateways that have just been asked for their address.
    ///
    /// # Errors
    ///
    /// Those of [`Byway::status`].
    pub fn obstacles(&mut self, rules: &[Rule], patience: Duration) -> Result<Vec<Obstacle>> {
        let Some(pins) = self.pins()? else { return Ok(Vec::new()) };
        let links = self.network.links()?;
        let attached = installed(&pins, &mut self.network, &links)?;
        let selectors: Vec<Selector> = rules.iter().take(RULES_LOOKED_UP).map(Rule::selector).collect();
        let groups = match rules.iter().any(|rule| matches!(rule.target, Target::Group(_))) {
            true => Lookup::read(&pins.tables, &mut self.network)?.groups(&RefCounts::default()),
            false => Vec::new(),
        };
        let groups = groups.into_iter().map(|(group, _)| (group.name.clone(), group)).collect();
        let next_hops = rules.iter().flat_map(|rule| obstacles::next_hops(&rule.target, &groups));
        let next_hops = next_hops.cloned().collect();
        let facts = Facts {
            attached: attached
                .iter()
                .filter(|it| it.role == Role::Departure && it.is_installed)
                .map(|it| it.device.index)
                .collect(),
            strict_rp_filter: strict_rp_filter(&links),
            receivers: links.iter().filter(|(_, link)| link.is_receiver()).map(|(index, _)| *index).collect(),
            leaves: leaves::leaves(&mut self.network, &selectors)?,
            unanswered: leaves::unanswered(&mut self.network, &next_hops, patience)?,
            devices: links.into_iter().map(|(index, link)| (index, link.device)).collect(),
            groups,
        };
        Ok(obstacles::find(rules, &facts))
    }

    /// Returns which of these next hops have a device with a smaller MTU than an attachment. On the way there, Byway clamps
    /// TCP's MSS option, and answers packets that are too big with an ICMP error.
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
    rules.into_iter().next().ok_or_else(|| Error::inconsistent("put the rule", "nothing came of it"))
}
