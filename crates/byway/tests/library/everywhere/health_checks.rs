//! Health checks while other things change, and what stands in their way.

use std::{
    io::ErrorKind,
    net::{IpAddr, TcpListener},
    thread,
    time::{Duration, Instant},
};

use byway::{
    Asked, Attach, Error, HealthCheck, HealthCheckSpec, MemberSpec, NextHopSpec, NextHopState, TargetSpec,
    config::Config,
};
use byway_lab::{Direction, Frame, wait_until};

use crate::{
    contract::health_checks::{Checks, INTERVAL, apply, behind, configuration, serve, state, with_length},
    support::{
        ANSWER, FAMILIES, SILENCE, any_hook, hooks_and_families, on,
        routers::{Routers, Way, rule},
        tun,
    },
};

/// How long a verdict holds that nobody renews.
const LEASE: Duration = Duration::from_secs(5);

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

/// Whoever begins goes on from the verdicts that there are. If nobody does, they end.
#[test]
fn a_verdict_outlives_who_gave_it_for_a_while() {
    let hosts = Routers::new(false);
    let (from, to, asked) = (hosts.source(5), hosts.far(1), behind(false, 1));
    let config = configuration(&hosts, HealthCheck::ping([asked]));
    on(&hosts.server, any_hook(), |byway| apply(byway, &config));
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

/// A connection that a check has asked for is reset before the service hears of it. A port where nobody listens is no answer.
#[test]
fn a_service_never_hears_of_a_check() {
    const TCP: u8 = 6;
    for (hook, v6) in hooks_and_families() {
        let hosts = Routers::new(v6);
        let host = behind(v6, 1);
        let router = &hosts.router[0];
        router.address("lo", &with_length(host)).unwrap();
        let back = hosts.on_link(1, 2);
        let listener = router.run(|| TcpListener::bind((host, 0))).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let config = configuration(&hosts, HealthCheck::new(Asked::Tcp(vec![host], port)).rounds(3, 1));
        on(&hosts.server, hook, |byway| apply(byway, &config));
        let checks = Checks::of(&hosts.server);
        // Flags of TCP: a request, and what resets it with the number that the answer has acknowledged.
        let flags = |frame: &Frame| {
            let tcp = &frame.payload()[if v6 { 40 } else { 20 }..];
            (frame.protocol() == Some(TCP) && frame.destination() == Some(host)).then(|| tcp[13])
        };
        let (syn, reset) = (|it: &Frame| flags(it) == Some(0x02), |it: &Frame| flags(it) == Some(0x04));
        let heard = &hosts.heard()[1];
        assert!(wait_until(ANSWER, || heard.count(syn) > 5));
        assert!(wait_until(ANSWER, || heard.count(reset) > 5));
        let from: IpAddr = back.split('/').next().unwrap().parse().unwrap();
        assert!(heard.frames().iter().filter(|it| syn(it)).all(|it| it.source() == Some(from)));
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        assert!(checks.verdicts.try_recv().is_err());

        // A connection from the same port that this host forwards acknowledges something else, and is none of its business.
        const ELSEWHERE: [u8; 4] = [0x12, 0x34, 0x56, 0x78];
        let request = heard.wait_for(ANSWER, syn).unwrap();
        let mut frame = forged(&request.bytes, v6, false);
        let tcp = 14 + if v6 { 40 } else { 20 };
        frame[tcp..tcp + 4]
            .copy_from_slice(&[&request.bytes[tcp + 2..tcp + 4], &request.bytes[tcp..tcp + 2]].concat());
        frame[tcp + 8..tcp + 12].copy_from_slice(&ELSEWHERE);
        frame[tcp + 13] = 0x10;
        let before = heard.count(syn);
        router.send_frame("eth0", &frame).unwrap();
        assert!(wait_until(ANSWER, || heard.count(syn) > before + 3));
        let is_reset = |it: &Frame| reset(it) && it.bytes[tcp + 4..tcp + 8] == ELSEWHERE;
        assert_eq!(heard.count(is_reset), 0);
        drop(listener);
        checks.says(false);
    }
}

/// The gateway has a new Ethernet address, or another machine is the gateway. The check finds that out, and asks everybody only
/// now and then.
#[test]
fn a_gateway_is_asked_alone_and_found_again_with_another_ethernet_address() {
    for (hook, v6) in hooks_and_families() {
        let hosts = Routers::new(v6);
        let config = configuration(&hosts, HealthCheck::new(Asked::Neighbour).rounds(10, 1));
        on(&hosts.server, hook, |byway| apply(byway, &config));
        let checks = Checks::of(&hosts.server);
        let router = &hosts.router[0];
        let (heard, own) = (&hosts.heard()[1], hosts.server.mac("eth1").unwrap());
        let is_question = |frame: &Frame| {
            let is = if v6 {
                frame.protocol() == Some(58) && frame.payload()[40] == 135
            } else {
                frame.ether_type() == Some(0x0806) && frame.payload()[7] == 1
            };
            is && frame.source_mac() == Some(own)
        };
        let to_everybody = |frame: &Frame| is_question(frame) && frame.destination_mac().unwrap()[0] & 1 == 1;
        let to_it_alone = |frame: &Frame| is_question(frame) && !to_everybody(frame);
        assert!(wait_until(ANSWER, || heard.count(to_it_alone) > 10));
        assert!(checks.verdicts.try_recv().is_err());

        // Nobody says so, and whoever asks the old address is not heard.
        router.set_mac("eth0", [2, 0, 0, 0, 0, 0x77]).unwrap();
        let before = heard.count(to_everybody);
        assert!(wait_until(ANSWER, || heard.count(to_everybody) > before));
        let is_new = |frame: &Frame| to_it_alone(frame) && frame.destination_mac().unwrap()[5] == 0x77;
        assert!(heard.wait_for(ANSWER, is_new).is_some());
        while state(&hosts) != NextHopState::Up {
            checks.says(false);
            checks.says(true);
        }
        assert!(hosts.goes(hosts.source(5), hosts.far(1), Way::Router1));
    }
}

/// What has no Ethernet header has no ARP either.
#[test]
fn a_gateway_without_an_ethernet_address_cannot_be_asked() {
    let hosts = Routers::new(false);
    let _wire = tun::Wire::new((&hosts.server, "tun0"), (&hosts.gateway, "tun0")).unwrap();
    hosts.server.address("tun0", "10.0.9.2/24").unwrap();
    let hop = NextHopSpec::via("10.0.9.1".parse().unwrap()).dev("tun0");
    let spec = rule(&hosts.source(5).to_string(), None, TargetSpec::NextHop(hop.clone()));
    let mut config = Config::new(Some(Attach::devices(["eth0"])), vec![], [spec]);
    config.health_checks = vec![HealthCheckSpec::new(hop, HealthCheck::new(Asked::Neighbour))];
    on(&hosts.server, any_hook(), |byway| apply(byway, &config));
    let checks = Checks::of(&hosts.server);
    assert_eq!(
        checks.errors.recv_timeout(ANSWER).unwrap().to_string(),
        "the health check of via 10.0.9.1 dev tun0 asks nobody: packets of tun0 have no Ethernet header"
    );
    assert!(checks.verdicts.try_recv().is_err());
}

/// Whoever takes the address of a dead gateway as well does not keep it in service: packets go to the one that the kernel knows.
#[test]
fn nobody_answers_for_a_gateway_that_the_kernel_sends_elsewhere() {
    for (hook, v6) in hooks_and_families() {
        let hosts = Routers::new(v6);
        // The kernel keeps this one, whoever says what.
        hosts.server.permanent_neighbour("eth1", hosts.via[0], [2, 0, 0, 0, 0, 0x99]).unwrap();
        let config = configuration(&hosts, HealthCheck::new(Asked::Neighbour).rounds(3, 1));
        on(&hosts.server, hook, |byway| apply(byway, &config));
        let checks = Checks::of(&hosts.server);
        checks.says(false);
        let heard = &hosts.heard()[1];
        let is_answer = |frame: &Frame| {
            let is = if v6 {
                frame.protocol() == Some(58) && frame.payload()[40] == 136
            } else {
                frame.ether_type() == Some(0x0806) && frame.payload()[7] == 2
            };
            is && frame.direction == Direction::Outgoing
        };
        // It answers what everybody is asked.
        let before = heard.count(is_answer);
        assert!(wait_until(ANSWER, || heard.count(is_answer) > before + 2));
        assert!(checks.verdicts.recv_timeout(SILENCE).is_err());
    }
}

/// Rounds under way at the same time, and two checks that ask the same, each have a connection of their own.
#[test]
fn connections_of_a_check_do_not_meet() {
    thread::scope(|scope| {
        for v6 in FAMILIES {
            scope.spawn(move || connections_do_not_meet(v6));
        }
    });
}

/// An answer takes longer than a round. On its way, the host still waits for the connection of the round before.
fn connections_do_not_meet(v6: bool) {
    const ROUND: Duration = Duration::from_secs(1);
    const DELAY: Duration = Duration::from_millis(600);
    let hosts = Routers::new(v6);
    let host = behind(v6, 1);
    let router = &hosts.router[0];
    let _wire = tun::Wire::with_delay((&hosts.server, "tun0"), (router, "tun0"), DELAY).unwrap();
    let (port, _service) = serve(&hosts, v6);
    router.address("lo", &with_length(host)).unwrap();
    let link = |host: u8| hosts.on_link(9, host);
    hosts.server.address("tun0", &link(2)).unwrap();
    router.address("tun0", &link(1)).unwrap();
    let hops = [1, 3].map(|host| {
        let gateway = link(host).split('/').next().unwrap().parse().unwrap();
        NextHopSpec::via(gateway).dev("tun0")
    });
    let members = hops.clone().map(MemberSpec::new).to_vec();
    let spec = rule(&hosts.source(5).to_string(), None, TargetSpec::NextHops(members));
    let mut config = Config::new(Some(Attach::devices(["eth0"])), vec![], [spec]);
    let check = HealthCheck::new(Asked::Tcp(vec![host], port));
    let check = check.interval(ROUND).timeout(2 * ROUND).rounds(1, 1);
    config.health_checks = hops.map(|hop| HealthCheckSpec::new(hop, check.clone())).to_vec();
    let heard = router.capture("tun0").unwrap();
    on(&hosts.server, any_hook(), |byway| apply(byway, &config));
    let checks = Checks::of(&hosts.server);
    // Two checks, a request and a reset each: more rounds than there are ports.
    assert!(wait_until(ANSWER, || heard.count(|it| it.direction == Direction::Incoming) > 2 * 2 * 6));
    assert!(checks.verdicts.try_recv().is_err());
}
