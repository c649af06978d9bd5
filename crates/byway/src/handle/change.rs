//! How every change runs: [`begin`](Byway::begin) reads the state and lets a request edit a copy of it, and
//! [`commit`](Byway::commit) plans the difference and carries it out.

use super::{Byway, gc};
use crate::{
    error::{Error, Result},
    kernel::{
        bpffs,
        execute::Executor,
        lock::{Lock, Wait},
        migrate,
        pins::Pins,
        privilege,
        snapshot::{Scope, snapshot},
    },
    policy::{snapshot::Snapshot, step::Step, transaction::Transaction},
};

/// A change that is decided, but not carried out yet.
pub(crate) struct Change<T> {
    pub(crate) transaction: Transaction,
    /// What the request returned.
    pub(crate) returned: T,
    pins: Option<Pins>,
    /// `None` if there are no pins, and none are needed.
    lock: Option<Lock>,
}

impl<T> Change<T> {
    /// Whether this holds the lock, so no other Byway can change anything.
    pub(crate) fn is_locked(&self) -> bool {
        self.lock.is_some()
    }
}

impl Byway {
    /// Begins a change, edits and commits. `edit` may refuse.
    pub(crate) fn change<T>(
        &mut self,
        scope: &Scope<'_>,
        edit: impl Fn(&mut Transaction) -> Result<T>,
    ) -> Result<T> {
        let mut change = self.begin(scope, edit)?;
        self.commit(&mut change)?;
        Ok(change.returned)
    }

    /// Reads the state, and lets `edit` change a copy of it. Before that, it touches only what gone network namespaces have left,
    /// and pins of an older schema, which keep every rule. It calls `edit` again if it then had to tidy up, or if another Byway
    /// was quicker.
    pub(crate) fn begin<T>(
        &mut self,
        scope: &Scope<'_>,
        edit: impl Fn(&mut Transaction) -> Result<T>,
    ) -> Result<Change<T>> {
        self.check_namespace()?;
        let mut first = None;
        if !Pins::are_there()? {
            let decided = self.decide(None, scope, &edit);
            if decided.is_err() {
                // What is not here may be where another Byway is.
                self.pins_to_show()?;
            }
            let (transaction, returned) = decided?;
            if transaction.wants_nothing() && self.pins_to_show()?.is_none() {
                return Ok(Change { transaction, returned, pins: None, lock: None });
            }
            first = Some((transaction, returned));
            bpffs::ensure_mounted()?;
        }
        // Before the first map is made.
        privilege::lift_memlock();
        let lock = self.lock()?;
        // Before the pins are opened, which before Linux 5.14 may be those of a namespace that is gone. A change does not fail
        // because of what others have left.
        let _ = gc::remove(Some(&self.namespace));
        // Before the decision, which needs the state.
        migrate::take_over(&mut self.network)?;
        let mut pins = Pins::open()?; // another Byway may have made or removed them in the meantime
        let mut decided = match (&pins, first) {
            (None, Some(first)) if !lock.has_waited => first,
            _ => self.decide(pins.as_ref(), scope, &edit)?,
        };
        Pins::remove_unfinished()?;
        if let Some(pins) = &mut pins {
            // No change fails for want of the note: the next one writes it.
            let _ = pins.note_namespace();
            let mut executor = self.executor(pins);
            executor.renew()?;
            if executor.tidy()? {
                decided = self.decide(Some(pins), scope, &edit)?;
            }
        }
        let (transaction, returned) = decided;
        Ok(Change { transaction, returned, pins, lock: Some(lock) })
    }

    /// Reads the state, and lets `edit` change a copy of it. Changes nothing.
    pub(crate) fn decide<T>(
        &mut self,
        pins: Option<&Pins>,
        scope: &Scope<'_>,
        edit: impl Fn(&mut Transaction) -> Result<T>,
    ) -> Result<(Transaction, T)> {
        let mut transaction = Transaction::on(snapshot(pins, &mut self.network, scope)?);
        let returned = edit(&mut transaction)?;
        transaction.keep_down();
        transaction.check()?;
        Ok((transaction, returned))
    }

    /// Plans the difference between the actual and the desired state, and carries it out, all or nothing. Returns the steps.
    pub(crate) fn commit<T>(&mut self, change: &mut Change<T>) -> Result<Vec<Step>> {
        self.newly_attached.clear();
        // Even if nothing changes: what follows from the state may need repair.
        let steps = change.transaction.plan();
        self.carry_out(change, &steps)?;
        let Snapshot { actual, .. } = &change.transaction.snapshot;
        let wanted = change.transaction.desired.attachments.values();
        self.newly_attached = wanted.filter(|device| !actual.is_attached(device.index)).cloned().collect();
        self.newly_attached.sort();
        Ok(steps)
    }

    fn carry_out<T>(&mut self, change: &mut Change<T>, steps: &[Step]) -> Result<()> {
        let Change { transaction, pins, .. } = change;
        let is_new = pins.is_none();
        let mut pins = match pins.take() {
            Some(pins) => pins,
            None if steps.is_empty() => return Ok(()),
            None => Pins::create()?,
        };
        let carried_out = self.executor(&mut pins).carry_out(&transaction.snapshot.actual, steps);
        // The programs of a newer byway go on with the pins.
        let is_all = transaction.snapshot.actual.unknown.is_empty();
        match &carried_out {
            // What could not be removed needs its records. The change is in force, so it has not failed if its pins stay: the next
            // one removes them.
            Ok(true) if transaction.desired.is_empty() && is_all => drop(pins.remove()),
            // Remove what was created for a change that failed, and report only that failure.
            Err(error) if is_new && !matches!(error, Error::NotUndone { .. }) => drop(pins.remove()),
            _ => {}
        }
        carried_out.map(drop)
    }

    /// Waits until no other Byway changes anything in this network namespace.
    pub(crate) fn lock(&self) -> Result<Lock> {
        self.check_namespace()?;
        let tell = self.on_wait.as_ref().map(|it| &*it.0 as &dyn Fn(&str));
        Lock::wait(&Wait { limit: self.wait, tell })
    }

    fn executor<'a>(&'a mut self, pins: &'a mut Pins) -> Executor<'a> {
        let Self { network, hook, progress, .. } = self;
        Executor { pins, network, hook: *hook, progress: progress.as_ref().map(|it| &*it.0 as _) }
    }
}
