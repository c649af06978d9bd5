//! Hosts behind a next hop say whether packets get through there.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{Receiver, channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use byway::{
    Asked, Attach, Byway, Checker, Error, HealthCheck, HealthCheckSpec, Hook, MemberSpec, NextHopState,
    Owner, TargetSpec, Verdict, config::Config,
};
use byway_lab::{Node, Service};

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

/// A TCP service behind router 1, at each address that it has.
pub(crate) fn serve(hosts: &Routers, v6: bool) -> (u16, Service) {
    let any: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let service = hosts.router[0].tcp_serve((any, 0).into()).unwrap();
    (service.address().port(), service)
}

/// What a check of a host behind router 1 can ask.
fn all_asked(host: IpAddr, port: u16) -> [Asked; 3] {
    [Asked::Ping(vec![host]), Asked::Tcp(vec![host], port), Asked::Neighbour]
}

#[test]
fn a_verdict_moves_flows() {
    for (hook, v6) in hooks_and_families() {
        thread::scope(|scope| {
            for nth in 0..all_asked(behind(v6, 1), 0).len() {
                scope.spawn(move || {
                    let hosts = Routers::new(v6);
                    let host = behind(v6, 1);
                    let (port, _service) = serve(&hosts, v6);
                    a_verdict_moves_the_flows_of(hook, &hosts, host, all_asked(host, port)[nth].clone());
                });
            }
        });
    }
}

fn a_verdict_moves_the_flows_of(hook: Hook, hosts: &Routers, host: IpAddr, asked: Asked) {
    let (from, to, router) = (hosts.source(5), hosts.far(1), &hosts.router[0]);
    router.address("lo", &with_length(host)).unwrap();
    // A host behind the router is gone, or the router itself.
    let (device, address) = match asked {
        Asked::Neighbour => ("eth0", hosts.on_link(1, 1)),
        _ => ("lo", with_length(host)),
    };
    let config = configuration(hosts, HealthCheck::new(asked));
    on(&hosts.server, hook, |byway| apply(byway, &config));
    assert!(hosts.goes(from, to, Way::Router1));

    let checks = Checks::of(&hosts.server);
    router.delete_address(device, &address).unwrap();
    checks.says(false);
    assert_eq!((hosts.way(from, to), state(hosts)), (Way::Router2, NextHopState::Unhealthy));
    router.address(device, &address).unwrap();
    checks.says(true);
    assert_eq!((hosts.way(from, to), state(hosts)), (Way::Router1, NextHopState::Up));
    // Without the check there is no verdict.
    router.delete_address(device, &address).unwrap();
    checks.says(false);
    let without = Config::new(None, vec![], config.rules());
    on(&hosts.server, hook, |byway| apply(byway, &without));
    assert_ne!(state(hosts), NextHopState::Unhealthy);
    if device == "lo" {
        assert_eq!((hosts.way(from, to), state(hosts)), (Way::Router1, NextHopState::Up));
    }
}
