//! The one way to a change: what should hold is decided, checked against what the kernel holds, made into a plan, and
//! carried out.

use byway_abi::{MAX_DESTINATIONS, MAX_GROUPS, MAX_NEXT_HOPS};

use crate::{
    byway::Byway,
    changes::Changes,
    compile::{compile, destinations},
    error::{Error, Result},
    kernel::{actual::actual, bpffs, execute::Executor, migrate, pins::Pins},
    model::{Selector, Target},
    plan::{Actual, Desired, plan},
    resolve::View,
};

/// What was decided.
pub(crate) struct Decision<T> {
    actual: Actual,
    /// What holds.
    pub(crate) held: Desired,
    /// What should hold.
    pub(crate) desired: Desired,
    /// What is said of it.
    pub(crate) said: T,
}

impl<T> Decision<T> {
    /// Whether what should hold is what holds.
    pub(crate) fn changes_nothing(&self) -> bool {
        self.held == self.desired
    }

    /// What changes, by a configuration with so many rules.
    pub(crate) fn changes(self, rules: usize) -> Changes {
        let Self { actual, mut held, desired, .. } = self;
        // Those that have lost their program get it back.
        held.attachments.retain(|index, _| !actual.lost.contains_key(index));
        Changes::new(held, desired, rules)
    }
}

impl Byway {
    /// Lets hold what `decide` makes of what holds. It may refuse. It is asked before anything is touched in the kernel, and
    /// again where something was tidied then.
    pub(crate) fn change<T>(
        &mut self,
        decide: impl Fn(&mut View<'_>, &mut Desired) -> Result<T>,
    ) -> Result<T> {
        self.change_of(None, decide)
    }

    /// The same, where only the rule for exactly these packets is put, changed or deleted.
    pub(crate) fn change_of<T>(
        &mut self,
        only: Option<&Selector>,
        decide: impl Fn(&mut View<'_>, &mut Desired) -> Result<T>,
    ) -> Result<T> {
        Ok(self.change_around(only, decide, |_, carry_out| carry_out())?.said)
    }

    /// The same, with something to be done around the change itself, while nobody else changes anything. `around` is not
    /// called where nothing holds, and nothing shall.
    pub(crate) fn change_around<T>(
        &mut self,
        only: Option<&Selector>,
        decide: impl Fn(&mut View<'_>, &mut Desired) -> Result<T>,
        around: impl FnOnce(&Decision<T>, &mut dyn FnMut() -> Result<()>) -> Result<()>,
    ) -> Result<Decision<T>> {
        self.check_namespace()?;
        let mut first = None;
        if !Pins::are_there()? {
            let decision = self.decide(None, only, &decide)?;
            if decision.desired == Desired::default() {
                return Ok(decision);
            }
            first = Some(decision);
            bpffs::ensure_mounted()?;
        }
        let lock = bpffs::Lock::wait()?;
        // Ahead of the decision, which takes reading what holds.
        migrate::take_over(&mut self.network)?;
        let mut pins = Pins::open()?; // another Byway may have made or removed them in the meantime
        let mut decision = match (&pins, first) {
            (None, Some(first)) if !lock.has_waited => first,
            _ => self.decide(pins.as_ref(), only, &decide)?,
        };
        Pins::remove_unfinished()?;
        if let Some(pins) = &mut pins {
            let mut executor = self.executor(pins);
            executor.renew()?;
            if executor.tidy()? {
                decision = self.decide(Some(pins), only, &decide)?;
            }
        }
        let mut pins = Some(pins);
        // Also where nothing changes: what follows from it may have to be put right.
        around(&decision, &mut || {
            self.carry_out(pins.take().flatten(), &decision.actual, &decision.desired)
        })?;
        Ok(decision)
    }

    /// What holds, what should hold, and what `decide` says of it. Changes nothing.
    pub(crate) fn decide<T>(
        &mut self,
        pins: Option<&Pins>,
        only: Option<&Selector>,
        decide: impl Fn(&mut View<'_>, &mut Desired) -> Result<T>,
    ) -> Result<Decision<T>> {
        let (actual, links) = actual(pins, &mut self.network, only)?;
        let held = actual.as_desired();
        let mut desired = held.clone();
        let mut view = View::new(&mut self.network, &links);
        let said = decide(&mut view, &mut desired)?;
        if desired != held {
            let next_hops = [held.next_hops(), desired.next_hops()];
            check_room(&desired, next_hops[0].union(&next_hops[1]).count())?;
            // What is so already is not this change's fault, which may be the way out.
            let before = view.stacked(&next_hops[0], &held.attachments);
            let after = view.stacked(&next_hops[1], &desired.attachments);
            let trusts = view.trusts;
            if let Some((upper, lower)) = after.difference(&before).next().filter(|_| !trusts) {
                return Err(Error::Stacked { upper: upper.clone(), lower: lower.clone() });
            }
        }
        Ok(Decision { actual, held, desired, said })
    }

    fn executor<'a>(&'a mut self, pins: &'a mut Pins) -> Executor<'a> {
        let Self { network, hook, progress, .. } = self;
        Executor { pins, network, hook: *hook, progress: progress.as_ref().map(|it| &*it.0 as _) }
    }

    fn carry_out(&mut self, pins: Option<Pins>, actual: &Actual, desired: &Desired) -> Result<()> {
        let steps = plan(actual, desired);
        let is_new = pins.is_none();
        let mut pins = match pins {
            Some(pins) => pins,
            None if steps.is_empty() => return Ok(()),
            None => Pins::create()?,
        };
        let mut executor = self.executor(&mut pins);
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
