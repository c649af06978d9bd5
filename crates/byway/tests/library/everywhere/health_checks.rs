//! Health checks while other things change.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use byway::{
    Attach, Error, HealthCheck, HealthCheckSpec, NextHopSpec, NextHopState, TargetSpec, config::Config,
};
use byway_lab::wait_until;

use crate::{
    contract::health_checks::{Checks, apply, behind, configuration, state, with_length},
    support::{
        ANSWER, SILENCE, any_hook, on,
        routers::{Routers, rule},
    },
};

/// Whether the next hop stays in this state for longer than the checker needs to notice anything.
fn stays(hosts: &Routers, wanted: NextHopState) -> bool {
    let until = Instant::now() + Duration::from_millis(1_500);
    while Instant::now() < until {
        if state(hosts) != wanted {
            return false;
        }
    }
    true
}

#[test]
fn a_check_of_other_hosts_takes_no_verdict_over() {
    let hosts = Routers::new(false);
    let [absent, there] = [1, 2].map(|last| behind(false, last));
    hosts.router[0].address("lo", &with_length(there)).unwrap();
    let config = |host: IpAddr| configuration(&hosts, HealthCheck::ping([host]));
    let [before, after] = [config(absent), config(there)];
    on(&hosts.server, any_hook(), |byway| apply(byway, &before));
    let checks = Checks::of(&hosts.server);
    for _ in 0..4 {
        checks.says(false);
        // Another pace is no other question.
        let mut slower = before.clone();
        slower.health_checks[0].check.rise = 9;
        on(&hosts.server, any_hook(), |byway| apply(byway, &slower));
        assert!(stays(&hosts, NextHopState::Unhealthy));
        on(&hosts.server, any_hook(), |byway| apply(byway, &after));
        assert!(stays(&hosts, NextHopState::Up));
        on(&hosts.server, any_hook(), |byway| apply(byway, &before));
    }
}

#[test]
fn a_check_outlives_the_name_of_its_device() {
    let hosts = Routers::new(false);
    let config = configuration(&hosts, HealthCheck::ping([behind(false, 1)]));
    on(&hosts.server, any_hook(), |byway| apply(byway, &config));
    hosts.server.set_up("eth1", false).unwrap();
    hosts.server.rename_link("eth1", "wan0").unwrap();
    hosts.server.set_up("wan0", true).unwrap();
    on(&hosts.server, any_hook(), |byway| apply(byway, &config));
    let all = on(&hosts.server, any_hook(), |byway| byway.next_hops()).unwrap();
    let checked: Vec<&str> = all
        .iter()
        .filter(|it| it.health_check.is_some())
        .map(|it| it.next_hop.device.name.as_str())
        .collect();
    assert_eq!(checked, ["wan0"]);
    Checks::of(&hosts.server).says(false);
}

/// A verdict is one about a way.
#[test]
fn a_verdict_ends_where_the_next_hop_moves() {
    let hosts = Routers::new(false);
    let via = NextHopSpec::Via(hosts.via[0]);
    let spec = rule(&hosts.source(5).to_string(), None, TargetSpec::NextHop(via.clone()));
    let mut config = Config::new(Some(Attach::devices(["eth0"])), vec![], [spec]);
    let check = HealthCheck::ping([behind(false, 1)]).interval(Duration::from_secs(1)).rounds(1, 1);
    config.health_checks = vec![HealthCheckSpec::new(via, check)];
    on(&hosts.server, any_hook(), |byway| apply(byway, &config));
    let checks = Checks::of(&hosts.server);
    checks.says(false);
    drop(checks);
    // The gateway is on the link of router 2 now.
    hosts.server.delete_address("eth1", &hosts.on_link(1, 2)).unwrap();
    hosts.server.address("eth2", &hosts.on_link(1, 2)).unwrap();
    on(&hosts.server, any_hook(), |byway| byway.follow()).unwrap();
    assert_eq!(state(&hosts), NextHopState::Up);
}

/// What this host cannot do says nothing about a next hop.
#[test]
fn who_can_ask_nobody_gives_no_verdict() {
    let hosts = Routers::new(false);
    let config = configuration(&hosts, HealthCheck::ping([behind(false, 1)]));
    on(&hosts.server, any_hook(), |byway| apply(byway, &config));
    let checks = Checks::of(&hosts.server);
    checks.says(false);
    hosts.server.delete_address("eth1", &hosts.on_link(1, 2)).unwrap();
    assert!(wait_until(ANSWER, || state(&hosts) == NextHopState::Up), "the verdict ends");
    let error = checks.errors.recv_timeout(ANSWER).unwrap();
    assert!(matches!(error, Error::CannotCheck { .. }), "{error}");
    assert_eq!(
        error.to_string(),
        "the health check of via 10.0.1.1 dev eth1 asks nobody: eth1 has no address to ask from"
    );
    assert!(checks.verdicts.recv_timeout(SILENCE).is_err());
    hosts.server.address("eth1", &hosts.on_link(1, 2)).unwrap();
    checks.says(false);
}
