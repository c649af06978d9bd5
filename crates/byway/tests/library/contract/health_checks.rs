//! Hosts behind a next hop say whether packets get through there.

use std::{
    net::IpAddr,
    sync::{
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{Receiver, channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use byway::{
    Attach, Byway, Checker, Error, HealthCheck, HealthCheckSpec, MemberSpec, NextHopState, Owner, TargetSpec,
    Verdict, config::Config,
};
use byway_lab::Node;

use crate::support::{
    ANSWER, hooks_and_families, on,
    routers::{Routers, Way, rule},
};

/// From one round to the next. Emulated kernels need some time for an answer.
pub(crate) const INTERVAL: Duration = Duration::from_millis(200);

/// A checker at work, until it is dropped.
pub(crate) struct Checks {
    pub(crate) verdicts: Receiver<Verdict>,
    /// What it cannot do.
    pub(crate) errors: Receiver<Error>,
    ends: &'static AtomicBool,
    thread: Option<JoinHandle<()>>,
}

impl Checks {
    pub(crate) fn of(node: &Node) -> Self {
        let (sender, verdicts) = channel();
        let (failed, errors) = channel();
        let ends: &'static AtomicBool = Box::leak(Box::default());
        let check = move || {
            let mut checker = Checker::open().unwrap();
            while !ends.load(Relaxed) {
                match checker.turn(Duration::from_millis(50)) {
                    Ok(all) => all.into_iter().for_each(|verdict| drop(sender.send(verdict))),
                    Err(error) => drop(failed.send(error)),
                }
            }
        };
        Self { verdicts, errors, ends, thread: Some(node.spawn(check)) }
    }

    /// Waits for the next verdict.
    #[track_caller]
    pub(crate) fn says(&self, is_healthy: bool) {
        let verdict = self.verdicts.recv_timeout(ANSWER).unwrap();
        assert_eq!(verdict.is_healthy, is_healthy, "{verdict}");
    }
}

impl Drop for Checks {
    fn drop(&mut self) {
        self.ends.store(true, Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(ended.is_some_and(|ended| ended.is_ok()) || std::thread::panicking());
    }
}

/// The host behind the routers, by its number.
pub(crate) fn behind(v6: bool, last: u8) -> IpAddr {
    if v6 { format!("2001:db8:100::{last}").parse().unwrap() } else { [198, 51, 100, last].into() }
}

pub(crate) fn with_length(host: IpAddr) -> String {
    format!("{host}/{}", if host.is_ipv4() { 32 } else { 128 })
}

/// Sends by router 1, and by router 2 behind it. Asks hosts behind router 1.
pub(crate) fn configuration(hosts: &Routers, check: HealthCheck) -> Config {
    let members = vec![MemberSpec::new(hosts.hop(1)), MemberSpec::new(hosts.hop(2)).backup()];
    let spec = rule(&hosts.source(5).to_string(), None, TargetSpec::NextHops(members));
    let mut config = Config::new(Some(Attach::devices(["eth0"])), vec![], [spec]);
    config.health_checks = vec![HealthCheckSpec::new(hosts.hop(1), check.interval(INTERVAL))];
    config
}

pub(crate) fn apply(byway: &mut Byway, config: &Config) {
    byway.apply(Owner::new(42), config).unwrap();
}

pub(crate) fn state(hosts: &Routers) -> NextHopState {
    let all = on(&hosts.server, crate::support::any_hook(), |byway| byway.next_hops()).unwrap();
    all.iter().find(|it| it.next_hop.gateway == Some(hosts.via[0])).unwrap().state
}

#[test]
fn a_verdict_moves_flows() {
    for (hook, v6) in hooks_and_families() {
        let hosts = Routers::new(v6);
        let (from, to, asked) = (hosts.source(5), hosts.far(1), behind(v6, 1));
        hosts.router[0].address("lo", &with_length(asked)).unwrap();
        let config = configuration(&hosts, HealthCheck::ping([asked]));
        on(&hosts.server, hook, |byway| apply(byway, &config));
        assert!(hosts.goes(from, to, Way::Router1));

        let checks = Checks::of(&hosts.server);
        hosts.router[0].delete_address("lo", &with_length(asked)).unwrap();
        checks.says(false);
        // The router itself answers all the while.
        assert_eq!((hosts.way(from, to), state(&hosts)), (Way::Router2, NextHopState::Unhealthy));
        hosts.router[0].address("lo", &with_length(asked)).unwrap();
        checks.says(true);
        assert_eq!((hosts.way(from, to), state(&hosts)), (Way::Router1, NextHopState::Up));
        // Without the check there is no verdict.
        hosts.router[0].delete_address("lo", &with_length(asked)).unwrap();
        checks.says(false);
        let without = Config::new(None, vec![], config.rules());
        on(&hosts.server, hook, |byway| apply(byway, &without));
        assert_eq!((hosts.way(from, to), state(&hosts)), (Way::Router1, NextHopState::Up));
    }
}
