//! Hosts behind a next hop say whether packets get through there.

use std::{
    net::IpAddr,
    sync::{
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{Receiver, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use byway::{
    Attach, Byway, Checker, Error, HealthCheck, HealthCheckSpec, MemberSpec, NextHopState, Owner, TargetSpec,
    Verdict, config::Config,
};
use byway_lab::{Frame, Node, wait_until};

use crate::support::{
    ANSWER, hooks_and_families, on,
    routers::{Routers, Way, rule},
};

/// How long a verdict holds that nobody renews.
const LEASE: Duration = Duration::from_secs(5);
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

/// Whoever begins goes on from the verdicts that there are. If nobody does, they end.
#[test]
fn a_verdict_outlives_who_gave_it_for_a_while() {
    let hosts = Routers::new(false);
    let (from, to, asked) = (hosts.source(5), hosts.far(1), behind(false, 1));
    let config = configuration(&hosts, HealthCheck::ping([asked]));
    on(&hosts.server, crate::support::any_hook(), |byway| apply(byway, &config));
    let checks = Checks::of(&hosts.server);
    checks.says(false);
    assert!(hosts.goes(from, to, Way::Router2));
    drop(checks);
    let checks = Checks::of(&hosts.server);
    let until = Instant::now() + LEASE + LEASE / 5;
    while Instant::now() < until {
        assert_eq!(hosts.way(from, to), Way::Router2);
    }
    assert!(checks.verdicts.try_recv().is_err(), "nothing has changed");
    drop(checks);
    let ended = Instant::now();
    assert_eq!(hosts.way(from, to), Way::Router2);
    assert!(wait_until(ANSWER, || hosts.way(from, to) == Way::Router1));
    assert!(ended.elapsed() > LEASE / 2, "{:?}", ended.elapsed());
    assert_eq!(state(&hosts), NextHopState::Up);
}

/// What stands in the way of other packets from this host, and of answers to them.
#[test]
fn questions_go_by_their_next_hop_whatever_the_host_is_like() {
    for (hook, v6) in hooks_and_families() {
        let hosts = Routers::new(v6);
        let [first, second] = [1, 2].map(|last| behind(v6, last));
        for router in &hosts.router {
            router.address("lo", &with_length(first)).unwrap();
        }
        if !v6 {
            hosts.server.sysctl("net.ipv4.conf.eth1.rp_filter", "1").unwrap();
        }
        // The route to it leads elsewhere, and so does a rule for the source that the questions have.
        let mut config = configuration(&hosts, HealthCheck::ping([first, second]));
        let own: IpAddr = hosts.on_link(1, 2).split('/').next().unwrap().parse().unwrap();
        let away = rule(&own.to_string(), None, TargetSpec::NextHop(hosts.hop(2)));
        let checks = std::mem::take(&mut config.health_checks);
        config = Config::new(Some(Attach::devices(["eth0", "eth1"])), vec![], config.rules().chain([away]));
        config.health_checks = checks;
        on(&hosts.server, hook, |byway| apply(byway, &config));
        let asks = |host: IpAddr| {
            move |frame: &Frame| frame.source() == Some(own) && frame.destination() == Some(host)
        };
        let counts = |host: IpAddr| hosts.heard().each_ref().map(|heard| heard.count(asks(host)));

        let running = Checks::of(&hosts.server);
        assert!(wait_until(ANSWER, || counts(first)[1] > 10));
        let (of_first, of_second) = (counts(first), counts(second));
        assert_eq!([of_first[0], of_first[2], of_second[0], of_second[2]], [0; 4]);
        assert!(of_second[1] > 8, "both are asked: {of_first:?} {of_second:?}");
        // One of the two answers.
        assert_eq!(state(&hosts), NextHopState::Up);
        assert!(running.verdicts.try_recv().is_err());

        // Two have to.
        config.health_checks[0].check.quorum = 2;
        on(&hosts.server, hook, |byway| apply(byway, &config));
        running.says(false);
        assert_eq!(state(&hosts), NextHopState::Unhealthy);
    }
}

/// The Ethernet frame of an echo reply to this request, with another secret or the same.
fn forged(request: &[u8], v6: bool, is_guessed: bool) -> Vec<u8> {
    let mut frame = request.to_vec();
    let (ip, address, length) = (14, if v6 { 22 } else { 26 }, if v6 { 16 } else { 4 });
    frame[..6].copy_from_slice(&request[6..12]);
    frame[6..12].copy_from_slice(&request[..6]);
    frame[address..address + length].copy_from_slice(&request[address + length..address + 2 * length]);
    frame[address + length..address + 2 * length].copy_from_slice(&request[address..address + length]);
    let icmp = ip + if v6 { 40 } else { 20 };
    frame[icmp] = if v6 { 129 } else { 0 };
    if is_guessed {
        frame[icmp + 8] ^= 1;
    }
    frame
}

/// Whoever does not see the questions cannot answer them.
#[test]
fn an_answer_has_to_repeat_the_question() {
    for (hook, v6) in hooks_and_families() {
        let hosts = Routers::new(v6);
        let asked = behind(v6, 1);
        let config = configuration(&hosts, HealthCheck::ping([asked]).rounds(3, 1));
        on(&hosts.server, hook, |byway| apply(byway, &config));
        let checks = Checks::of(&hosts.server);
        checks.says(false);
        let answer = |is_guessed: bool| {
            let seen = hosts.heard()[1].count(|_| true);
            let mut nth = 0;
            let is_new = |frame: &Frame| {
                nth += 1;
                nth > seen && frame.destination() == Some(asked)
            };
            let request = hosts.heard()[1].wait_for(ANSWER, is_new).unwrap();
            let bytes = forged(&request.bytes, v6, is_guessed);
            hosts.router[0].send_frame("eth0", &bytes).unwrap();
        };
        for _ in 0..5 {
            answer(true);
        }
        assert!(checks.verdicts.try_recv().is_err());
        // A real one may come too late on a slow machine.
        assert!((0..20).any(|_| {
            answer(false);
            checks.verdicts.recv_timeout(INTERVAL).is_ok_and(|verdict| verdict.is_healthy)
        }));
    }
}
