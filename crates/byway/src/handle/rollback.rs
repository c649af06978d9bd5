//! Confirms an apply, or rolls it back.

use std::time::Duration;

use super::{Byway, rollback_store::RollbackStore};
use crate::{
    error::{Error, Result},
    kernel::{bpffs, snapshot::Scope},
    model::Owner,
    policy::{changes::Changes, rollback::Saved, snapshot::Questions, transaction::Transaction},
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
    /// Opens the rollback copy of this handle's network namespace.
    pub(super) fn store(&self) -> Result<RollbackStore> {
        self.check_namespace()?;
        RollbackStore::open()
    }

    /// Confirms the last apply, so that it is not rolled back. Returns whether one was waiting: an apply that changed nothing
    /// does not wait. Ends the waiting as well if the note of it is damaged, or if there is no copy to go back to.
    ///
    /// # Errors
    ///
    /// [`Error::TakenBack`], [`Error::TooLateToConfirm`].
    pub fn confirm(&mut self) -> Result<bool> {
        let store = self.store()?;
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
        self.store()?.unconfirmed()?.map(|unconfirmed| unconfirmed.time_left()).transpose()
    }

    /// Returns how long the apply with this token still waits to be confirmed, if it does. Zero means that it is overdue.
    ///
    /// # Errors
    ///
    /// Those of [`Byway::unconfirmed`].
    pub fn time_to_confirm(&self, token: &str) -> Result<Option<Duration>> {
        time_left(&self.store()?, token)
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
        let store = self.store()?;
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
            let store = self.store()?;
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
        self.store()?.lock_guard()
    }

    /// Rolls back the last apply if it still waits to be confirmed, its time is over, and its guard has died.
    ///
    /// # Errors
    ///
    /// Those of [`Byway::rollback`].
    pub fn rollback_if_overdue(&mut self) -> Result<Option<Changes>> {
        let store = self.store()?;
        match store.unconfirmed()? {
            Some(unconfirmed) if unconfirmed.time_left()?.is_zero() && !store.has_guard() => {
                self.rollback_unless_confirmed(&unconfirmed.token, false)
            }
            _ => Ok(None),
        }
    }

    fn go_back(&mut self, back: &Back) -> Result<Option<Changes>> {
        let store = self.store()?;
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
            // It is done. A note too many is taken for an apply that waits, and going back once more changes nothing.
            let _ = note();
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
