//! Configurations: diff, apply and export.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    io,
    time::Duration,
};

use super::{
    Byway,
    change::Change,
    rollback_store::{self, RollbackStore, Unconfirmed},
};
use crate::{
    config::{ActionSpec, Attach, Config},
    error::{Error, Result},
    kernel::snapshot::{Scope, snapshot},
    model::{Action, GroupSpec, HealthCheckSpec, Owner, Rule, Target, TargetSpec},
    policy::{
        changes::Changes, rollback::Saved, snapshot::Questions, state::Desired, transaction::Transaction,
    },
};

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

    /// Applies a configuration of the owner [`Owner::CONFIG`] once more after [`Byway::has_lost_pins`]. A rollback goes back to what
    /// was in force before the last other apply, and not to nothing.
    ///
    /// # Errors
    ///
    /// Those of [`Byway::apply`].
    pub fn apply_again(&mut self, config: &Config) -> Result<Changes> {
        let store = self.store()?;
        let mut change = self.begin_apply(&store, config)?;
        self.commit(&mut change)?;
        Ok(change.transaction.into_changes(config.rule_count()))
    }

    fn begin_apply(&mut self, store: &RollbackStore, config: &Config) -> Result<Change<()>> {
        config.check()?;
        let strict = self.is_strict;
        self.begin(&Scope::all(Questions::config(config)), |transaction| {
            if store.unconfirmed()?.is_some() {
                return Err(Error::Unconfirmed);
            }
            transaction.apply(Owner::CONFIG, config, strict)
        })
    }

    fn apply_saving(
        &mut self,
        config: &Config,
        prepare: impl FnOnce(&RollbackStore) -> Result<()>,
        begin_to_wait: impl FnOnce(&RollbackStore) -> Result<()>,
    ) -> Result<Changes> {
        let store = self.store()?;
        let mut change = self.begin_apply(&store, config)?;
        if change.transaction.changes_nothing() {
            self.commit(&mut change)?;
            return Ok(change.transaction.into_changes(config.rule_count()));
        }
        store.save(&saved(&change.transaction))?;
        // Either the old or the new state is in force: the rollback copy is of one change in any case.
        match prepare(&store).and_then(|()| self.commit(&mut change)) {
            Ok(_) => {
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
        let Action { reply_to, reply_to_dev, target, on_down, mss, owner: _, name } = &**action;
        let said = (reply_to, reply_to_dev, target, on_down, mss, name);
        let place = *places.entry(said).or_insert_with(|| {
            let (target, name) = (TargetSpec::try_from(target).ok()?, name.clone());
            config.actions.push(ActionSpec {
                reply_to: *reply_to,
                reply_to_dev: reply_to_dev.clone(),
                target,
                on_down: *on_down,
                mss: *mss,
                name,
            });
            Some(config.actions.len() as u32 - 1)
        });
        match place {
            Some(place) => config.rules.push((*selector, place)),
            // No apply touches it, and so none has to put it back.
            None => config.left_out.push(Rule::of(*selector, action)),
        }
    }
    let checks = held.health_checks.iter().filter(|(_, check)| is_meant(check.owner));
    let specs = checks.map(|(next_hop, check)| HealthCheckSpec::new(next_hop.into(), check.clone()));
    // The rules of the configuration that led there may be gone. And where the routing tables have found one gateway on several
    // devices in turn, a configuration can name only one of them.
    let mut seen = HashSet::new();
    let is_used = |spec: &HealthCheckSpec| {
        config.next_hops().any(|used| *used == spec.next_hop) && seen.insert(spec.next_hop.clone())
    };
    config.health_checks = specs.filter(is_used).collect();
    config
}
