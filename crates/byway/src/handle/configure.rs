//! Configurations: diff, apply, confirm, rollback and export.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    time::Duration,
};

use super::{
    Byway,
    rollback_store::{self, RollbackStore, Unconfirmed},
};
use crate::{
    config::{ActionSpec, Attach, Config, Reading},
    error::{Error, Result},
    import::{Imported, translate},
    kernel::{
        bpffs, leaves,
        network::Network,
        pins::Pins,
        policy::policy,
        snapshot::{Scope, installed, snapshot},
    },
    model::{Action, GroupSpec, Owner, Rule, Selector, Target, TargetSpec},
    policy::{
        changes::Changes,
        obstacles::{self, Facts, Obstacle, RULES_LOOKED_UP},
        rollback::Saved,
        snapshot::{Host, Questions},
        state::{Desired, Role},
        transaction::Transaction,
    },
};

/// The result of a rollback.
#[derive(Debug, Clone, Copy)]
struct RolledBack {
    /// How many rules the configuration had.
    rules: usize,
    /// The apply was cut off before it changed anything.
    was_none: bool,
}

impl Byway {
    /// Returns what [`Byway::apply`] would change. Changes nothing.
    ///
    /// # Errors
    ///
    /// Those of [`Byway::apply`].
    pub fn diff(&mut self, owner: Owner, config: &Config) -> Result<Changes> {
        config.check()?;
        let pins = self.pins_to_show()?;
        let scope = Scope::all(Questions::config(config));
        let strict = self.is_strict;
        let (transaction, ()) =
            self.decide(pins.as_ref(), &scope, |transaction| transaction.apply(owner, config, strict))?;
        Ok(transaction.into_changes(config.rule_count()))
    }

    /// Replaces all rules and groups of an owner with those of `config` in one instant, and the attachments if `config` names
    /// them. Those of other owners stay; one that is the same as in `config` keeps its owner. A rule that is the same as before
    /// keeps its counters. Rules of a kind that this version does not know ([`Target::Other`]) stay, and with them
    /// the groups that they may lead to.
    ///
    /// What cannot hold yet waits ([`Changes::waiting`]): a next hop whose device is not there or down, or whose gateway is not
    /// on-link. Its flows go to the other members of the group, or do what `on_down` says. The next change of any kind that
    /// finds the device completes it. [`Byway::with_strict`] refuses it instead.
    ///
    /// Saves what the owner [`Owner::CONFIG`] had before, for [`Byway::rollback`]. Other owners have no such copy.
    ///
    /// # Errors
    ///
    /// [`Error::RuleOfAnother`] and [`Error::GroupOfAnother`] if another owner has a different one, [`Error::GroupInUse`] if a
    /// rule of another owner uses a group that is removed, [`Error::UnknownKind`] if a rule for the same packets is of a kind
    /// that this version does not know, [`Error::Unconfirmed`] while an apply of the same configuration
    /// ([`Owner::CONFIG`]) waits to be confirmed, and those of [`Byway::attach`] and [`Byway::add`].
    pub fn apply(&mut self, owner: Owner, config: &Config) -> Result<Changes> {
        if owner == Owner::CONFIG {
            return self.apply_saving(config, |_| Ok(()), |_| Ok(()));
        }
        config.check()?;
        let scope = Scope::all(Questions::config(config));
        let strict = self.is_strict;
        let mut change = self.begin(&scope, |transaction| transaction.apply(owner, config, strict))?;
        self.commit(&mut change)?;
        Ok(change.transaction.into_changes(config.rule_count()))
    }

    /// Applies a configuration of the owner [`Owner::CONFIG`], and rolls it back unless [`Byway::confirm`] comes within this
    /// time. The time begins when the change is done; [`Byway::unconfirmed`] says how much of it is left.
    ///
    /// `start_guard` gets a token. It starts a guard, which calls [`Byway::rollback_unless_confirmed`] with that token when the
    /// time is over, even if this process is gone. It is called before the change, and only if there is something to change.
    /// If the guard dies, the next [`Byway::rollback_if_overdue`] does its work.
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
        let token = format!("{}-{}", std::process::id(), rollback_store::now()?.as_nanos());
        let wait = |store: &RollbackStore| {
            let until = rollback_store::now()?.saturating_add(within);
            store.wait_for(&Unconfirmed { token: token.clone(), until })
        };
        let prepare = |store: &RollbackStore| {
            wait(store)?;
            start_guard(&token).map_err(Error::io("start the guard that would roll the apply back"))
        };
        self.apply_saving(config, prepare, wait)
    }

    fn apply_saving(
        &mut self,
        config: &Config,
        prepare: impl FnOnce(&RollbackStore) -> Result<()>,
        begin_to_wait: impl FnOnce(&RollbackStore) -> Result<()>,
    ) -> Result<Changes> {
        config.check()?;
        let (store, strict) = (RollbackStore::open()?, self.is_strict);
        let scope = Scope::all(Questions::config(config));
        let mut change = self.begin(&scope, |transaction| {
            if store.unconfirmed()?.is_some() {
                return Err(Error::Unconfirmed);
            }
            transaction.apply(Owner::CONFIG, config, strict)
        })?;
        if change.transaction.changes_nothing() {
            self.commit(&mut change)?;
            return Ok(change.transaction.into_changes(config.rule_count()));
        }
        store.save(&saved(&change.transaction))?;
        // Either the old or the new state is in force: the rollback copy is of one change in any case.
        match prepare(&store).and_then(|()| self.commit(&mut change)) {
            Ok(()) => {
                // If that cannot be noted, the time has begun before the change.
                let _ = begin_to_wait(&store);
                // A copy too many looks like an apply that was cut off, and `go_back` can tell from the state that this one was not.
                let _ = store.drop_older();
            }
            // The new rules may be in force, so keep the note and the copy: someone may want to confirm, or go back.
            Err(failure @ Error::NotUndone { .. }) => return Err(failure),
            Err(failure) => return Err(store.abort().err().unwrap_or(failure)),
        }
        Ok(change.transaction.into_changes(config.rule_count()))
    }

    /// Confirms the last apply, so that it is not rolled back. Returns whether one was waiting: an apply that changed nothing
    /// does not wait. Ends the waiting as well if the note of it is damaged, or if there is no copy to go back to.
    ///
    /// # Errors
    ///
    /// [`Error::TakenBack`], [`Error::TooLateToConfirm`].
    pub fn confirm(&mut self) -> Result<bool> {
        let store = RollbackStore::open()?;
        let nothing_waits = || store.what_was_undone().map_or(Ok(false), |how| Err(Error::TakenBack(how)));
        if !bpffs::is_mounted() {
            bpffs::check_not_hidden()?;
            return nothing_waits();
        }
        let _lock = self.lock()?;
        match store.unconfirmed() {
            Ok(None) => return nothing_waits(),
            Ok(Some(unconfirmed)) if unconfirmed.time_left()?.is_zero() => {
                if let Ok((Some(_), _)) = store.copies() {
                    return Err(Error::TooLateToConfirm);
                }
                // Nobody can roll it back, and without this it would wait forever.
                store.clear()?;
            }
            Ok(Some(_)) | Err(Error::DamagedNote { .. }) => store.end_wait()?,
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Returns how long the last apply still waits to be confirmed, if it does. Zero means that it is overdue: its guard has
    /// died, and nobody has rolled it back yet.
    ///
    /// # Errors
    ///
    /// [`Error::DamagedNote`], and those of reading the note.
    pub fn unconfirmed(&self) -> Result<Option<Duration>> {
        self.check_namespace()?;
        RollbackStore::open()?.unconfirmed()?.map(|unconfirmed| unconfirmed.time_left()).transpose()
    }

    /// Returns how long the apply with this token still waits to be confirmed, if it does. Zero means that it is overdue.
    ///
    /// # Errors
    ///
    /// Those of [`Byway::unconfirmed`].
    pub fn time_to_confirm(&self, token: &str) -> Result<Option<Duration>> {
        time_left(&RollbackStore::open()?, token)
    }

    /// Rolls back the last apply: restores the configuration's rules and groups and, if the apply changed them, the attachments.
    /// Works once: afterwards there is nothing to go back to.
    ///
    /// A next hop whose device is gone waits for it.
    ///
    /// # Errors
    ///
    /// [`Error::NothingToRollBack`], [`Error::NoteRemoved`], [`Error::DamagedCopy`], and those of [`Byway::apply`].
    pub fn rollback(&mut self) -> Result<Changes> {
        if let Some(changes) = self.go_back(&Back::Asked)? {
            return Ok(changes);
        }
        let store = RollbackStore::open()?;
        let _lock = if bpffs::is_mounted() { Some(self.lock()?) } else { None };
        match store.unconfirmed() {
            // Somebody may have applied something meanwhile.
            Ok(None) => Err(Error::NothingToRollBack),
            _ if store.copies()?.0.is_some() => Err(Error::NothingToRollBack),
            _ => store.clear().and(Err(Error::NoteRemoved)),
        }
    }

    /// Rolls back the apply with this token if it still waits to be confirmed, and its time is over or `at_once` is set.
    ///
    /// # Errors
    ///
    /// Those of [`Byway::rollback`].
    pub fn rollback_unless_confirmed(&mut self, token: &str, at_once: bool) -> Result<Option<Changes>> {
        if bpffs::is_mounted() {
            // Wait for the apply, which may be under way. If it is the first change of all, nothing shows it yet.
            drop(self.lock()?);
        }
        let back = Back::Unconfirmed { token: token.to_owned(), at_once };
        let gone_back = self.go_back(&back);
        if let Err(error) = &gone_back {
            let store = RollbackStore::open()?;
            let _lock = self.lock()?;
            if back.is_due(&store)? {
                store.note_undone(&format!(
                    "nobody confirmed the last one in time, and rolling it back failed: {}",
                    error.sentence()
                ))?;
            }
        }
        gone_back
    }

    /// Tells all other processes that the guard of the last apply is alive, until the returned value is dropped. Otherwise they
    /// do its work ([`Byway::rollback_if_overdue`]).
    ///
    /// # Errors
    ///
    /// Those of the file system.
    pub fn guarding(&self) -> Result<impl Drop + use<>> {
        RollbackStore::open()?.lock_guard()
    }

    /// Rolls back the last apply if it still waits to be confirmed, its time is over, and its guard has died.
    ///
    /// # Errors
    ///
    /// Those of [`Byway::rollback`].
    pub fn rollback_if_overdue(&mut self) -> Result<Option<Changes>> {
        let store = RollbackStore::open()?;
        match store.unconfirmed()? {
            Some(unconfirmed) if unconfirmed.time_left()?.is_zero() && !store.has_guard() => {
                self.rollback_unless_confirmed(&unconfirmed.token, false)
            }
            _ => Ok(None),
        }
    }

    fn go_back(&mut self, back: &Back) -> Result<Option<Changes>> {
        let store = RollbackStore::open()?;
        // What is asked of the host. Where another apply comes in between, its copy has to do with less.
        let (last, older) = store.copies()?;
        let mut questions = Questions::default();
        for saved in last.iter().chain(&older) {
            questions.add_config(&saved.config);
        }
        let mut change = self.begin(&Scope::all(questions), |transaction| {
            if !back.is_due(&store)? {
                return Ok(None);
            }
            let (Some(last), older) = store.copies()? else { return Ok(None) };
            let rolled_back = |rules| Some(RolledBack { rules, was_none: false });
            let Some(older) = older else { return go_back_to(last, transaction).map(rolled_back) };
            // The last apply was cut off. If it has changed nothing, it does not count.
            let rules = go_back_to(last, transaction)?;
            match back {
                _ if !transaction.changes_nothing() => Ok(rolled_back(rules)),
                Back::Unconfirmed { .. } => Ok(Some(RolledBack { rules, was_none: true })),
                Back::Asked => go_back_to(older, transaction).map(rolled_back),
            }
        })?;
        self.commit(&mut change)?;
        let Some(rolled_back) = change.returned else { return Ok(None) };
        let note = || {
            if rolled_back.was_none {
                store.abort()?;
            } else {
                store.clear()?;
            }
            match back {
                Back::Unconfirmed { .. } => {
                    store.note_undone("the last one was rolled back, because nobody confirmed it in time")
                }
                Back::Asked => Ok(()),
            }
        };
        if change.is_locked() {
            note()?;
        } else {
            // There were no pins, and there are none.
            bpffs::ensure_mounted()?;
            let _lock = self.lock()?;
            // Somebody may have applied something meanwhile.
            if self.pins()?.is_none() {
                note()?;
            }
        }
        Ok(Some(change.transaction.into_changes(rolled_back.rules)))
    }

    /// Returns everything as a configuration: the rules and groups of all owners, and the attachments. Applying it changes
    /// nothing, as long as the devices of its next hops exist. A rule of a kind that this version does not know
    /// ([`Target::Other`]) is left out, and a comment in its text form says so.
    ///
    /// # Errors
    ///
    /// Those of [`Byway::status`].
    pub fn export(&mut self) -> Result<Config> {
        let pins = self.pins_to_show()?;
        let snapshot = snapshot(pins.as_ref(), &mut self.network, &Scope::default())?;
        let held = snapshot.actual.as_desired();
        let attach = if held.is_auto { Attach::Auto } else { Attach::devices(held.attachment_names()) };
        Ok(as_config(&held, Some(attach), |_| true))
    }
}

/// Adds warnings about this host to a reading, for the calling thread's network namespace: next hops that cannot be reached,
/// interfaces that do not exist, and strict `rp_filter` where requests come in. Returns what else would keep its rules from
/// doing their work: packets that would leave past all attachments, or never leave. On another host the configuration may be
/// right. Needs no privilege; with that of a change, it knows the attachments that there are.
///
/// # Errors
///
/// Those of the kernel.
pub fn lint_host(reading: &mut Reading) -> Result<Vec<Obstacle>> {
    let mut network = Network::open()?;
    let links = network.links()?;
    let mut questions = Questions::host_refs(reading.host_refs.iter().map(|(host_ref, _)| host_ref));
    questions.default_routes = true;
    let host = network.host(links, &questions, false)?;
    reading.lint_host(&host)?;
    let Some(config) = &reading.config else { return Ok(Vec::new()) };
    let selectors: Vec<Selector> = config.redirected().take(RULES_LOOKED_UP).collect();
    let facts = Facts {
        attached: would_attach(config.attach.as_ref(), &host, &mut network),
        leaves: leaves::leaves(&mut network, &selectors)?,
        devices: host.links.into_iter().map(|(index, link)| (index, link.device)).collect(),
        ..Facts::default()
    };
    let rules: Vec<Rule> = selectors.into_iter().map(|it| Rule::new(it, Target::Drop)).collect();
    Ok(obstacles::find(&rules, &facts))
}

/// Returns the devices that an apply would be attached to, as far as they can be seen.
fn would_attach(attach: Option<&Attach>, host: &Host, network: &mut Network) -> BTreeSet<u32> {
    let mut attached = BTreeSet::new();
    if let Some(Attach::Devices(names)) = attach {
        attached.extend(names.iter().filter_map(|name| Some(host.attachable(name).ok()?.index)));
        return attached;
    }
    // Without `attach` the attachments stay as they are, and where there are none, the default route has them.
    if attach.is_none()
        && let Ok(Some(pins)) = Pins::open()
        && let Ok(installed) = installed(&pins, network, &host.links)
    {
        let departures = installed.into_iter().filter(|it| it.role == Role::Departure && it.is_installed);
        attached.extend(departures.map(|it| it.device.index));
    }
    if attached.is_empty() {
        attached.extend(host.default_gateway_devices().unwrap_or_default().iter().map(|it| it.index));
    }
    attached
}

/// Reads the policy routing of the calling thread's network namespace, of both families, and says it in Byway's words.
/// Changes nothing, and needs no privilege and no BPF.
///
/// # Errors
///
/// [`Error::Kernel`] where the kernel does not list rules, routes or devices.
pub fn import() -> Result<Imported> {
    let mut network = Network::open()?;
    let links = network.links()?;
    let questions = Questions { rp_filter: true, ..Questions::default() };
    let host = network.host(links, &questions, false)?;
    Ok(translate(&policy(&mut network, &host)?))
}

/// Why to go back.
enum Back {
    /// Somebody has asked for it.
    Asked,
    /// The apply with this token waits to be confirmed: roll back when its time is over, or at once.
    Unconfirmed { token: String, at_once: bool },
}

impl Back {
    fn is_due(&self, store: &RollbackStore) -> Result<bool> {
        match self {
            Self::Asked => Ok(true),
            Self::Unconfirmed { token, at_once } => match time_left(store, token) {
                // Who knows of that apply otherwise is its guard. Nobody has confirmed it, which would have removed the note.
                Err(Error::DamagedNote { .. }) => Ok(true),
                left => Ok(left?.is_some_and(|left| *at_once || left.is_zero())),
            },
        }
    }
}

/// Returns how long this apply still waits to be confirmed, if it does.
fn time_left(store: &RollbackStore, token: &str) -> Result<Option<Duration>> {
    let unconfirmed = store.unconfirmed()?.filter(|it| it.token == token);
    unconfirmed.map(|unconfirmed| unconfirmed.time_left()).transpose()
}

/// Replaces the configuration's current state with the saved one. Returns how many rules that has.
fn go_back_to(saved: Saved, transaction: &mut Transaction) -> Result<usize> {
    let (found, is_auto) = (saved.found.clone(), saved.is_auto);
    let config = saved.feasible(&transaction.snapshot.host, &transaction.desired);
    transaction.go_back_to(Owner::CONFIG, &config, found, is_auto)?;
    Ok(config.rule_count())
}

/// The config-owned state, for rollback. Includes the attachments only if this change touches them.
fn saved(transaction: &Transaction) -> Saved {
    let Transaction { held, desired, .. } = transaction;
    let attachments = |it: &Desired| (it.attachments.clone(), it.awaited.clone(), it.is_auto);
    let names = Attach::devices(held.attachment_names());
    let attach = (attachments(held) != attachments(desired)).then_some(names);
    Saved {
        config: as_config(held, attach, |owner| owner == Owner::CONFIG),
        attached: desired.attachment_names(),
        is_auto: held.is_auto,
        found: held
            .next_hops()
            .into_iter()
            .filter(|next_hop| next_hop.by_route)
            .filter(|next_hop| !next_hop.is_waiting())
            .filter_map(|next_hop| Some((next_hop.gateway?, next_hop.device.name.clone())))
            .collect(),
    }
}

/// The rules and groups of these owners as a configuration.
fn as_config(held: &Desired, attach: Option<Attach>, is_meant: impl Fn(Owner) -> bool) -> Config {
    let mut config = Config { attach, ..Config::default() };
    // A configuration names the groups that its rules use, even one that belongs to another owner.
    let led_to: BTreeSet<&str> = held
        .rules
        .values()
        .filter(|rule| is_meant(rule.owner))
        .filter_map(|rule| if let Target::Group(name) = &rule.target { Some(name.as_str()) } else { None })
        .collect();
    let groups = held.groups.values();
    let groups = groups.filter(|group| is_meant(group.owner) || led_to.contains(group.name.as_str()));
    config.groups.extend(groups.map(|group| GroupSpec::from(group).owner(Owner::CONFIG)));
    let mut places = HashMap::new();
    for (selector, action) in held.rules.iter().filter(|(_, rule)| is_meant(rule.owner)) {
        let Action { target, on_down, mss, owner: _, name } = &**action;
        let place = *places.entry((target, on_down, mss, name)).or_insert_with(|| {
            let (target, name) = (TargetSpec::try_from(target).ok()?, name.clone());
            config.actions.push(ActionSpec { target, on_down: *on_down, mss: *mss, name });
            Some(config.actions.len() as u32 - 1)
        });
        match place {
            Some(place) => config.rules.push((*selector, place)),
            // No apply touches it, and so none has to put it back.
            None => config.left_out.push(Rule::of(*selector, action)),
        }
    }
    config
}
