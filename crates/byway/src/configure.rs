//! The calls that let a configuration hold: what would change, changing it, going back.

use std::{
    cell::Cell,
    collections::{BTreeSet, HashMap},
    io,
    time::Duration,
};

use crate::{
    asked::{Asked, Existing, attach_where_nothing_is, gateways, users},
    byway::Byway,
    change::Decision,
    changes::Changes,
    config::{ActionSpec, Attach, Config},
    error::{Error, Result},
    kernel::{
        actual::actual,
        bpffs,
        rollback_store::{self, RollbackStore, Unconfirmed},
    },
    model::{Action, Group, GroupSpec, Owner, Target, TargetSpec, check_families},
    plan::Desired,
    resolve::View,
    rollback::{Before, members},
};

/// What it was to go back.
#[derive(Debug, Clone, Copy)]
struct Back {
    /// How many rules the configuration had.
    rules: usize,
    /// The apply was cut off ahead of its change.
    was_none: bool,
}

impl Byway {
    /// What [`Byway::apply`] would change. Changes nothing.
    ///
    /// # Errors
    ///
    /// Those of [`Byway::apply`].
    pub fn diff(&mut self, config: &Config) -> Result<Changes> {
        let pins = self.pins()?;
        let decision = self.decide(pins.as_ref(), None, |view, desired| put(config, view, desired))?;
        Ok(decision.changes(config.rule_count()))
    }

    /// Lets exactly the rules and groups of a configuration hold, of those that belong to [`Owner::CONFIG`], from one
    /// instant to the next; and attaches as it says. Those of others stay: where one is the same as the
    /// configuration's, that is left to it. A rule that is the same as before keeps its counters.
    ///
    /// What held before is kept for [`Byway::rollback`].
    ///
    /// # Errors
    ///
    /// [`Error::RuleOfAnother`] and [`Error::GroupOfAnother`] where another owner has one that says something else,
    /// [`Error::GroupInUse`] where a rule of another owner leads to a group that is to go, [`Error::Unconfirmed`] while
    /// another apply waits to be confirmed, and those of [`Byway::attach`] and [`Byway::add`].
    pub fn apply(&mut self, config: &Config) -> Result<Changes> {
        self.apply_around(config, |_| Ok(()), |_| Ok(()))
    }

    /// The same, but [`Byway::rollback_unless_confirmed`] takes it back unless [`Byway::confirm`] comes within this time.
    /// `start_guard` gets the token for that call, and has to see to it that it is made when the time is over, whatever
    /// becomes of this process. It comes ahead of the change, and is not called where there is nothing to change. The time
    /// begins when the change is done; [`Byway::time_to_confirm`] says how much of it is left.
    ///
    /// # Errors
    ///
    /// Those of [`Byway::apply`], and of `start_guard`.
    pub fn apply_until_confirmed(
        &mut self,
        config: &Config,
        within: Duration,
        start_guard: impl FnOnce(&str) -> io::Result<()>,
    ) -> Result<Changes> {
        self.check_namespace()?;
        let token = format!("{}-{}", std::process::id(), rollback_store::now()?.as_nanos());
        let wait = |kept: &RollbackStore| {
            let until = rollback_store::now()? + within;
            kept.wait_for(&Unconfirmed { token: token.clone(), until })
        };
        let prepare = |kept: &RollbackStore| {
            wait(kept)?;
            start_guard(&token).map_err(Error::io("start the guard that would take the apply back"))
        };
        self.apply_around(config, prepare, wait)
    }

    fn apply_around(
        &mut self,
        config: &Config,
        prepare: impl FnOnce(&RollbackStore) -> Result<()>,
        begin_to_wait: impl FnOnce(&RollbackStore) -> Result<()>,
    ) -> Result<Changes> {
        let kept = RollbackStore::open()?;
        let decide = |view: &mut View<'_>, desired: &mut Desired| {
            if kept.unconfirmed()?.is_some() {
                return Err(Error::Unconfirmed);
            }
            put(config, view, desired)
        };
        let decision = self.change_around(None, decide, |decision, carry_out| {
            if decision.changes_nothing() {
                return carry_out();
            }
            kept.save(&before(decision))?;
            let done = prepare(&kept).and_then(|()| carry_out());
            // What held before holds, or what is asked for does: the copy to go back to is of one change in any case.
            match done {
                Ok(()) => {
                    // Where that cannot be noted, the time has begun ahead of the change.
                    let _ = begin_to_wait(&kept);
                    kept.is_applied()
                }
                // The new rules may hold: whoever waits for them to be confirmed, or wants to go back, has to know.
                Err(failure @ Error::NotUndone { .. }) => Err(failure),
                Err(failure) => Err(kept.has_failed().err().unwrap_or(failure)),
            }
        })?;
        Ok(decision.changes(config.rule_count()))
    }

    /// Lets the last apply hold that waits to be confirmed. Says whether one has waited: an apply that changes nothing does
    /// not.
    ///
    /// # Errors
    ///
    /// [`Error::TakenBack`], [`Error::TooLateToConfirm`].
    pub fn confirm(&mut self) -> Result<bool> {
        self.check_namespace()?;
        let kept = RollbackStore::open()?;
        let nothing_waits = || kept.what_was_undone().map_or(Ok(false), |how| Err(Error::TakenBack(how)));
        if !bpffs::is_mounted() {
            bpffs::check_not_hidden()?;
            return nothing_waits();
        }
        let _lock = bpffs::Lock::wait()?;
        match kept.unconfirmed()? {
            None => nothing_waits(),
            Some(unconfirmed) if unconfirmed.until < rollback_store::now()? => Err(Error::TooLateToConfirm),
            Some(_) => kept.is_confirmed().map(|()| true),
        }
    }

    /// How long this apply still waits to be confirmed: no time where that is over, and nothing where it does not wait.
    ///
    /// # Errors
    ///
    /// Those of reading the note of it.
    pub fn time_to_confirm(&self, token: &str) -> Result<Option<Duration>> {
        self.check_namespace()?;
        time_left(&RollbackStore::open()?, token)
    }

    /// Goes back to what held before the last apply, as far as the configuration goes: its rules, its groups and, if they
    /// changed with it, the attachments. There is nothing to go back to then.
    ///
    /// Next hops whose device is gone are left out. A rule of which none is left passes or drops its packets, as it says for
    /// the case that none is in service.
    ///
    /// # Errors
    ///
    /// [`Error::NothingToRollBack`], and those of [`Byway::apply`].
    pub fn rollback(&mut self) -> Result<Changes> {
        let changes = self.go_back(None)?;
        changes.ok_or(Error::NothingToRollBack)
    }

    /// The same, if that apply waits to be confirmed and its time is over; nothing where not. The token is what
    /// [`Byway::apply_until_confirmed`] gave away.
    ///
    /// # Errors
    ///
    /// Those of [`Byway::rollback`].
    pub fn rollback_unless_confirmed(&mut self, token: &str) -> Result<Option<Changes>> {
        if bpffs::is_mounted() {
            // The apply may be under way. Where it is the first change of all, nobody would see anything of it yet.
            drop(bpffs::Lock::wait()?);
        }
        let gone_back = self.go_back(Some(token));
        if let Err(error) = &gone_back {
            let kept = RollbackStore::open()?;
            let _lock = bpffs::Lock::wait()?;
            if is_over(&kept, token)? {
                kept.note_undone(&format!(
                    "nobody confirmed it in time, and to take it back failed: {}",
                    error.sentence()
                ))?;
            }
        }
        gone_back
    }

    fn go_back(&mut self, token: Option<&str>) -> Result<Option<Changes>> {
        self.check_namespace()?;
        let kept = RollbackStore::open()?;
        let decide = |view: &mut View<'_>, desired: &mut Desired| {
            if let Some(token) = token
                && !is_over(&kept, token)?
            {
                return Ok(None);
            }
            let (Some(last), older) = kept.copies()? else { return Ok(None) };
            view.trusts = true;
            let back = |rules| Some(Back { rules, was_none: false });
            let Some(older) = older else { return put_back(last, view, desired).map(back) };
            // The last apply was cut off. Where it has changed nothing, it was none.
            let held = desired.clone();
            let rules = put_back(last, view, desired)?;
            match token {
                _ if *desired != held => Ok(back(rules)),
                Some(_) => Ok(Some(Back { rules, was_none: true })),
                None => put_back(older, view, desired).map(back),
            }
        };
        let is_noted = Cell::new(false);
        let note = |back: &Back| {
            if back.was_none {
                kept.has_failed()?
            } else {
                kept.forget()?
            }
            is_noted.set(true);
            match token {
                Some(_) => kept.note_undone("it was taken back, since nobody confirmed it in time"),
                None => Ok(()),
            }
        };
        let decision = self.change_around(None, decide, |decision, carry_out| {
            carry_out()?;
            decision.said.as_ref().map_or(Ok(()), note)
        })?;
        let Some(back) = decision.said else { return Ok(None) };
        if !is_noted.get() {
            bpffs::ensure_mounted()?;
            let _lock = bpffs::Lock::wait()?;
            // Somebody may have applied something meanwhile.
            if self.pins()?.is_none() {
                note(&back)?;
            }
        }
        Ok(Some(decision.changes(back.rules)))
    }

    /// What holds, as a configuration: the rules and groups of all owners, and the attachments. To apply it changes nothing,
    /// as long as the devices of its next hops are there.
    ///
    /// # Errors
    ///
    /// Those of [`Byway::status`].
    pub fn export(&mut self) -> Result<Config> {
        let pins = self.pins()?;
        let (actual, _) = actual(pins.as_ref(), &mut self.network, None)?;
        let held = actual.as_desired();
        Ok(as_config(&held, Some(attached(&held)), |_| true))
    }
}

/// How long this apply still waits to be confirmed, if it waits.
fn time_left(kept: &RollbackStore, token: &str) -> Result<Option<Duration>> {
    let Some(unconfirmed) = kept.unconfirmed()?.filter(|it| it.token == token) else { return Ok(None) };
    Ok(Some(unconfirmed.until.saturating_sub(rollback_store::now()?)))
}

/// Whether this apply waits to be confirmed, and its time is over.
fn is_over(kept: &RollbackStore, token: &str) -> Result<bool> {
    Ok(time_left(kept, token)? == Some(Duration::ZERO))
}

/// Puts what held before in the place of what the configuration says now, and says how many rules that has.
fn put_back(before: Before, view: &mut View<'_>, desired: &mut Desired) -> Result<usize> {
    let config = before.possible(view, desired);
    put(&config, view, desired)?;
    Ok(config.rule_count())
}

/// Puts what a configuration says in the place of what it said before.
fn put(config: &Config, view: &mut View<'_>, desired: &mut Desired) -> Result<()> {
    view.in_use = desired.next_hops().into_iter().cloned().collect();
    desired.rules.retain(|_, rule| rule.owner != Owner::CONFIG);
    let named: BTreeSet<&str> = config.groups.iter().map(|group| group.name.as_str()).collect();
    let is_gone = |group: &Group| group.owner == Owner::CONFIG && !named.contains(group.name.as_str());
    let mut gone = Vec::new();
    for name in desired.groups.values().filter(|group| is_gone(group)).map(|group| &group.name) {
        match users(desired, name).next() {
            None => gone.push(name.clone()),
            // Somebody has led a rule there meanwhile.
            Some(_) if view.trusts => {}
            Some(first) => {
                let rules = users(desired, name).count();
                return Err(Error::GroupInUse { name: name.clone(), rules, first: *first });
            }
        }
    }
    desired.groups.retain(|name, _| !gone.contains(name));
    for spec in &config.groups {
        put_group(spec, view, desired)?;
    }
    let asked = Asked::from_config(&config.actions, &config.rules);
    let fate = if view.trusts { Existing::Stays } else { Existing::IsTheSame };
    asked.put(view, desired, |_, _| Ok(fate))?;
    match &config.attach {
        Some(attach) => {
            let devices = match attach {
                Attach::Auto => view.default_gateway_devices()?,
                Attach::Devices(names) => {
                    names.iter().map(|name| view.attachable(name)).collect::<Result<_>>()?
                }
            };
            desired.attachments = devices.into_iter().map(|device| (device.index, device)).collect();
            Ok(())
        }
        // Going back puts rules back, and attaches where it was attached.
        None if config.rules.is_empty() || view.trusts => Ok(()),
        None => attach_where_nothing_is(view, desired),
    }
}

fn put_group(spec: &GroupSpec, view: &mut View<'_>, desired: &mut Desired) -> Result<()> {
    let members = view.resolve_members(&spec.members)?;
    let group = Group { name: spec.name.clone(), members, on_down: spec.on_down, owner: Owner::CONFIG };
    match desired.groups.get(&group.name) {
        Some(existing) if existing.owner != Owner::CONFIG => {
            if *existing == (Group { owner: existing.owner, ..group }) {
                return Ok(());
            }
            return Err(Error::GroupOfAnother(existing.clone()));
        }
        _ => {}
    }
    for selector in users(desired, &group.name) {
        check_families(&selector.source(), gateways(&group))?;
    }
    desired.groups.insert(group.name.clone(), group);
    Ok(())
}

/// The configuration's part of what holds, with the attachments if they are to change.
fn before<T>(decision: &Decision<T>) -> Before {
    let Decision { held, desired, .. } = decision;
    let attach = (held.attachments != desired.attachments).then(|| attached(held));
    Before {
        config: as_config(held, attach, |owner| owner == Owner::CONFIG),
        attached: desired.attachments.values().map(|device| device.name.clone()).collect(),
    }
}

fn attached(held: &Desired) -> Attach {
    let mut names: Vec<String> = held.attachments.values().map(|device| device.name.clone()).collect();
    names.sort();
    Attach::Devices(names)
}

/// What holds and belongs to these owners.
fn as_config(held: &Desired, attach: Option<Attach>, is_meant: impl Fn(Owner) -> bool) -> Config {
    let mut config = Config { attach, ..Config::default() };
    // A configuration names the groups that its rules lead to, also where one is left to whoever put it in.
    let led_to: BTreeSet<&str> = held
        .rules
        .values()
        .filter(|rule| is_meant(rule.owner))
        .filter_map(|rule| if let Target::Group(name) = &rule.target { Some(name.as_str()) } else { None })
        .collect();
    let groups = held.groups.values();
    let groups = groups.filter(|group| is_meant(group.owner) || led_to.contains(group.name.as_str()));
    config.groups.extend(groups.map(|group| GroupSpec {
        name: group.name.clone(),
        members: members(&group.members),
        on_down: group.on_down,
        owner: Owner::CONFIG,
    }));
    let mut places = HashMap::new();
    for (selector, action) in held.rules.iter().filter(|(_, rule)| is_meant(rule.owner)) {
        let Action { target, on_down, mss, owner: _, name } = &**action;
        let place = *places.entry((target, on_down, mss, name)).or_insert_with(|| {
            config.actions.push(spec(action));
            config.actions.len() as u32 - 1
        });
        config.rules.push((*selector, place));
    }
    config
}

fn spec(action: &Action) -> ActionSpec {
    let target = match &action.target {
        Target::NextHop(next_hop) => TargetSpec::NextHop(next_hop.into()),
        Target::NextHops(all) => TargetSpec::NextHops(members(all)),
        Target::Group(name) => TargetSpec::Group(name.clone()),
        Target::Pass => TargetSpec::Pass,
        Target::Drop => TargetSpec::Drop,
    };
    let Action { on_down, mss, name, .. } = action;
    ActionSpec { target, on_down: *on_down, mss: *mss, name: name.clone() }
}
