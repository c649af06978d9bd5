mod background;
mod budget;
mod health;
mod serve;
mod voice;
mod wake;

use std::{path::Path, time::Duration};

use byway::{Byway, Checker, GatewayGuard, NetworkEvents, Owner, WayWatcher, config::Config};
use clap::Args;
use nix::time::{ClockId, clock_gettime};
use sd_notify::NotifyState;

use self::{
    budget::Budget,
    serve::Endpoint,
    voice::{Voice, tell},
    wake::{Request, Signals},
};
use super::{
    file::{AS_FILE, Configuration, FILE},
    open::ROLLED_BACK,
};
use crate::{error::Error, log, options::Options, output::Output, render::changes};

/// How often it looks for what no event tells, such as a program that somebody has taken off by hand.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// How long it waits after events were lost before it reads everything again.
const AFTER_OVERRUN: Duration = Duration::from_secs(1);

/// Keep the rules true while links and routes change
///
/// Applies the configuration, unless that says nothing, and then follows the network: attachments without a named interface
/// move with the default route, next hops without a named interface with the route to their gateway, and what waits for an
/// interface gets it. This includes rules that were added by hand.
///
/// Prints what it changes. SIGHUP makes it apply the configuration again. SIGTERM and Ctrl-C end it, and everything stays in
/// force. One is enough for a network namespace.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  byway run
  byway run byway.toml
  byway --netns blue run /etc/byway/blue.toml
  byway run --detach-on-exit       packets take the ordinary way once it ends")]
pub(crate) struct Run {
    #[command(flatten)]
    configuration: Configuration,
    /// Answer HTTP at a loopback address and port, or at the path of a Unix socket: /metrics, /healthz and /readyz
    #[arg(long, value_name = "ADDR:PORT|PATH", value_parser = serve::endpoint)]
    http: Option<Endpoint>,
    /// Stand in for a default gateway that does not answer, so that packets reach the rules all the same
    ///
    /// The kernel drops a packet whose ordinary gateway does not answer before any rule is asked. If there is no other default
    /// route, this gives the kernel an address for the gateway until it answers.
    #[arg(long)]
    guard_default_gateway: bool,
    /// When it ends, detach from all interfaces: rules stay, and do nothing
    #[arg(long)]
    detach_on_exit: bool,
}

impl Run {
    pub(crate) fn exec(&self, options: &Options) -> Result<Output, Error> {
        let mut agent = Agent {
            byway: self.configuration.open(options)?,
            voice: Voice::new(options),
            is_to_apply: false,
            has_applied: false,
            has_lost: false,
        };
        let _lock = agent.byway.lock_agent()?;
        let failed = |errno: nix::Error| Error::Agent(errno.into());
        let signals = Signals::take_over().map_err(failed)?;
        // What changes from here on wakes it.
        let mut events = NetworkEvents::open(None)?;
        agent.voice.health.vitals().looked = now();
        if let Some(endpoint) = &self.http {
            serve::start(endpoint, &agent.voice.health).map_err(Error::Http)?;
        }
        let mut checker = Checker::open()?;
        let check = move || checker.turn(Duration::MAX);
        background::start("verdict", agent.voice.clone(), |vitals| &mut vitals.of_health_checks, check)
            .map_err(Error::Agent)?;
        let mut watcher = WayWatcher::open()?;
        let watch = move || watcher.turn(Duration::MAX);
        background::start("way", agent.voice.clone(), |vitals| &mut vitals.of_ways, watch)
            .map_err(Error::Agent)?;
        if self.guard_default_gateway {
            let mut guard = GatewayGuard::open()?;
            let guard = move || guard.turn(Duration::MAX);
            background::start("guard", agent.voice.clone(), |vitals| &mut vitals.of_guard, guard)
                .map_err(Error::Agent)?;
        }
        agent.start(&self.configuration)?;
        tell(&[NotifyState::Ready]);

        let mut budget = Budget::new(now(), used());
        let watchdog = sd_notify::watchdog_enabled().map(|limit| limit / 2);
        let (mut due, mut rests_until) = (now(), Duration::ZERO);
        loop {
            if now() >= due.max(rests_until) {
                agent.follow(&self.configuration)?;
                due = now() + LOOK_AGAIN;
                // Once for each piece of work: what waking up costs must not make the rest longer.
                rests_until = now() + budget.wait(now(), used());
            }
            let rests = now() < rests_until;
            // Events that come meanwhile wait in the socket.
            let heard = (!rests).then_some(&events);
            let time = if rests { rests_until } else { due }.saturating_sub(now());
            wake::wait(&signals, heard, watchdog.map_or(time, |limit| limit.min(time))).map_err(failed)?;
            tell(&[NotifyState::Watchdog]);
            match signals.take().map_err(failed)? {
                Some(Request::End) => break,
                Some(Request::Reload) => {
                    agent.reload(&self.configuration)?;
                    due = Duration::ZERO;
                }
                None => {}
            }
            if !rests {
                let counts = events.take()?;
                if counts.overruns > 0 {
                    agent.voice.health.vitals().overruns += counts.overruns;
                    agent.voice.note("events were lost, so everything is read again")?;
                    due = due.min(now() + AFTER_OVERRUN);
                } else if counts.messages > 0 {
                    due = Duration::ZERO;
                }
            }
        }
        tell(&[NotifyState::Stopping]);
        if self.detach_on_exit {
            agent.byway.detach_all()?;
        }
        Ok(Output::printed())
    }
}

struct Agent {
    byway: Byway,
    voice: Voice,
    /// Whether the configuration is to be applied as soon as that is possible.
    is_to_apply: bool,
    /// Whether it has been applied.
    has_applied: bool,
    /// Whether the pins have gone since then, so that nothing is in force.
    has_lost: bool,
}

impl Agent {
    /// Applies the configuration again, for a service manager that waits for it.
    fn reload(&mut self, configuration: &Configuration) -> Result<(), Error> {
        let reloading: Vec<NotifyState<'_>> =
            [Ok(NotifyState::Reloading), NotifyState::monotonic_usec_now()].into_iter().flatten().collect();
        tell(&reloading);
        // Whoever reloads wants to know, also of the same trouble.
        self.voice.health.vitals().of_configuration = None;
        let applied = self.apply(configuration);
        tell(&[NotifyState::Ready]);
        applied
    }

    /// Applies the configuration when the agent starts, unless that says nothing: what was set up without one stays.
    fn start(&mut self, configuration: &Configuration) -> Result<(), Error> {
        let path = configuration.path();
        if path == Path::new(FILE) && !path.exists() {
            return self.voice.note(&format!("there is no {FILE}, so what is in force stays"));
        }
        match configuration.read() {
            Ok((config, _)) if config == Config::default() => {
                self.voice.note(&format!("{} says nothing, so what is in force stays", path.display()))
            }
            read => self.apply_read(configuration, read),
        }
    }

    /// Applies the configuration. If that cannot be, what was in force before stays.
    fn apply(&mut self, configuration: &Configuration) -> Result<(), Error> {
        self.apply_read(configuration, configuration.read())
    }

    /// Does the same with what was read of it.
    fn apply_read(
        &mut self,
        configuration: &Configuration,
        read: Result<(Config, Vec<String>), Error>,
    ) -> Result<(), Error> {
        self.is_to_apply = false;
        let config = match read {
            Ok((config, warnings)) => {
                for warning in warnings {
                    anstream::eprintln!("byway: warning: {warning}");
                }
                config
            }
            Err(error) => {
                self.voice.trouble(&error, |vitals| &mut vitals.of_configuration);
                return Ok(());
            }
        };
        let applied = match self.has_lost {
            true => self.byway.apply_again(&config),
            false => self.byway.apply(Owner::CONFIG, &config),
        };
        match applied {
            Ok(changes) => {
                (self.has_applied, self.has_lost) = (true, false);
                self.voice.health.vitals().of_configuration = None;
                let done = log::shortened(&changes::done(&changes, AS_FILE));
                let sentence = format!("applied {}: {done}", configuration.path().display());
                self.voice.say("applied", &changes, &sentence)
            }
            Err(error) => {
                // Whatever else keeps it may pass. An apply that waits may be rolled back, and this configuration be its own.
                self.is_to_apply = !matches!(error, byway::Error::Unconfirmed);
                self.voice.trouble(&error.into(), |vitals| &mut vitals.of_configuration);
                Ok(())
            }
        }
    }

    /// Fits what is in force to the devices and routes of now.
    fn follow(&mut self, configuration: &Configuration) -> Result<(), Error> {
        match self.byway.has_lost_pins() {
            Ok(true) if self.has_applied => {
                self.voice.note(
                    "the pins are gone, which no byway has removed, so the configuration is applied again",
                )?;
                self.has_lost = true;
            }
            Ok(true) => self.voice.note(
                "the pins are gone, which no byway has removed; apply a configuration to make them anew",
            )?,
            Ok(false) => self.voice.health.vitals().of_pins = None,
            Err(error) => self.voice.trouble(&error.into(), |vitals| &mut vitals.of_pins),
        }
        if self.is_to_apply || self.has_lost {
            self.apply(configuration)?;
        }
        match self.byway.rollback_if_overdue() {
            Ok(Some(_)) => self.voice.note(ROLLED_BACK)?,
            Ok(None) => self.voice.health.vitals().of_rollback = None,
            Err(error) => self.voice.trouble(&error.into(), |vitals| &mut vitals.of_rollback),
        }
        let followed = self.byway.follow();
        self.voice.health.vitals().looked = now();
        match followed {
            Ok(followed) => {
                let mut vitals = self.voice.health.vitals();
                let had_trouble = vitals.of_network.take().is_some();
                vitals.followed += followed.len() as u64;
                drop(vitals);
                if had_trouble {
                    self.voice.note("follows the network again")?;
                }
                followed.iter().try_for_each(|it| self.voice.say("followed", it, &it.to_string()))
            }
            Err(error) => {
                self.voice.trouble(&error.into(), |vitals| &mut vitals.of_network);
                Ok(())
            }
        }
    }
}

/// The time.
fn now() -> Duration {
    clock(ClockId::CLOCK_MONOTONIC)
}

/// The processor time that the agent itself has used, without those who ask it.
fn used() -> Duration {
    clock(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

/// The time of a clock (clock_gettime(2)).
fn clock(clock: ClockId) -> Duration {
    clock_gettime(clock).map_or(Duration::ZERO, Duration::from)
}
