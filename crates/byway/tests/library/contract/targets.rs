//! What a rule can say besides a next hop: `pass`, how exceptions are written, and `drop`.

use std::net::{IpAddr, UdpSocket};

use byway::{Count, RuleSpec, RuleStatus, TargetSpec};
use byway_lab::{
    Frame,
    seed::{Addresses, Seed},
    wait_until,
};

use crate::support::{
    ANSWER, any_hook,
    departure::{Departure, SHOT, UNSPEC},
    hooks, hooks_and_addresses, on, packet, pins, rules, via,
};

fn verdict(source: &str, target: TargetSpec) -> RuleSpec {
    RuleSpec::new(source.parse().unwrap(), target)
}

/// A network of sources, and three addresses of it: by the rule, an exception, and one that is dropped.
fn sources(addresses: &Addresses) -> (&'static str, [IpAddr; 3]) {
    if addresses.service.is_ipv4() {
        ("192.168.7.0/24", [[192, 168, 7, 1].into(), [192, 168, 7, 2].into(), [192, 168, 7, 3].into()])
    } else {
        let address = |last| IpAddr::from([0x2001, 0xDB8, 7, 0, 0, 0, 0, last]);
        ("2001:db8:7::/64", [address(1), address(2), address(3)])
    }
}

fn send(seed: &Seed, from: IpAddr, to: IpAddr, packets: usize) {
    seed.server.run(|| {
        let socket = UdpSocket::bind((from, 0)).unwrap();
        for _ in 0..packets {
            // A packet that a tc program drops is an error of the socket's for some kernels.
            let _ = socket.send_to(&[0; 100], (to, 9));
        }
    });
}

fn status(seed: &Seed, source: &str) -> RuleStatus {
    rules(&seed.server).into_iter().find(|status| status.rule.source.to_string() == source).unwrap()
}

#[test]
fn exceptions_go_the_ordinary_way_and_what_is_dropped_goes_nowhere() {
    for (hook, addresses) in hooks_and_addresses() {
        let seed = Seed::new().unwrap();
        let (network, all) = sources(&addresses);
        let host = if addresses.service.is_ipv4() { 32 } else { 128 };
        for address in all {
            seed.server.address("lo", &format!("{address}/{host}")).unwrap();
        }
        let [by_rule, passed, dropped] = all;
        let (at_gateway, at_router) =
            (seed.gateway.capture("eth0").unwrap(), seed.router.capture("eth0").unwrap());
        let specs = [
            verdict(&passed.to_string(), TargetSpec::Pass),
            verdict(&dropped.to_string(), TargetSpec::Drop),
            via(network, addresses.router, "eth1"),
        ];
        on(&seed.server, hook, |byway| byway.add_all(&specs)).unwrap();

        for source in [by_rule, passed, dropped] {
            send(&seed, source, addresses.client, 20);
        }
        let from = |source| {
            move |frame: &Frame| {
                frame.source() == Some(source) && frame.destination() == Some(addresses.client)
            }
        };
        assert!(wait_until(ANSWER, || at_router.count(from(by_rule)) == 20));
        assert!(wait_until(ANSWER, || at_gateway.count(from(passed)) == 20));
        assert_eq!(at_gateway.count(from(by_rule)) + at_router.count(from(passed)), 0);
        assert_eq!(at_gateway.count(from(dropped)) + at_router.count(from(dropped)), 0);

        let nothing = Count::default();
        let of = |source: String| {
            let status = status(&seed, &source);
            (status.departed.packets, status.arrived.packets, status.passed.packets, status.dropped.packets)
        };
        assert_eq!(of(network.to_owned()), (20, 20, 0, 0));
        assert_eq!(of(passed.to_string()), (0, 0, 20, 0));
        assert_eq!(of(dropped.to_string()), (0, 0, 0, 20));
        assert_eq!(status(&seed, &passed.to_string()).departed, nothing);
        let bytes = status(&seed, &dropped.to_string()).dropped.bytes;
        assert!(bytes >= 20 * 100, "{bytes}");

        // Each can take the other's place, and the counters begin anew.
        on(&seed.server, hook, |byway| byway.replace(&verdict(&dropped.to_string(), TargetSpec::Pass)))
            .unwrap();
        send(&seed, dropped, addresses.client, 5);
        assert!(wait_until(ANSWER, || at_gateway.count(from(dropped)) == 5));
        assert_eq!(of(dropped.to_string()), (0, 0, 5, 0));
        on(&seed.server, hook, |byway| byway.del(&dropped.to_string().parse().unwrap())).unwrap();
        send(&seed, dropped, addresses.client, 5);
        assert!(wait_until(ANSWER, || at_router.count(from(dropped)) == 5), "by the rule around it");

        on(&seed.server, hook, |byway| byway.flush().and_then(|_| byway.detach_all())).unwrap();
        assert_eq!(pins(), Vec::<String>::new());
    }
}

#[test]
fn a_verdict_needs_no_next_hop() {
    for hook in hooks() {
        let seed = Seed::new().unwrap();
        let specs = [verdict("192.168.1.5", TargetSpec::Drop), verdict("192.168.1.0/24", TargetSpec::Pass)];
        let added = on(&seed.server, *hook, |byway| byway.add_all(&specs)).unwrap();
        let added: Vec<String> = added.iter().map(ToString::to_string).collect();
        assert_eq!(added, ["from 192.168.1.0/24 pass", "from 192.168.1.5 drop"], "by source");
        let attachments = on(&seed.server, *hook, |byway| byway.attachments()).unwrap();
        let names: Vec<&str> = attachments.iter().map(|it| it.device.name.as_str()).collect();
        assert_eq!(names, ["eth0"], "only the attachment carries a program");
    }
}

/// The program's own word, also for packets that no rule may speak about.
#[test]
fn the_verdicts_of_the_program() {
    let seed = Seed::new().unwrap();
    let specs = [
        verdict("0.0.0.0/0", TargetSpec::Drop),
        verdict("::/0", TargetSpec::Drop),
        verdict("192.168.1.5", TargetSpec::Pass),
        verdict("2001:db8:1::5", TargetSpec::Pass),
    ];
    on(&seed.server, any_hook(), |byway| byway.add_all(&specs)).unwrap();
    let program = Departure::on(&seed.server, "eth0");
    for (source, destination, expected) in [
        ("10.1.1.1", "203.0.113.9", SHOT),
        ("2001:db8:9::9", "2001:db8:99::9", SHOT),
        ("192.168.1.5", "203.0.113.9", UNSPEC),
        ("2001:db8:1::5", "2001:db8:99::9", UNSPEC),
        // Never redirected is never dropped either.
        ("10.1.1.1", "224.0.0.1", UNSPEC),
        ("10.1.1.1", "255.255.255.255", UNSPEC),
        ("169.254.1.1", "203.0.113.9", UNSPEC),
        ("2001:db8:9::9", "ff02::1", UNSPEC),
        ("fe80::9", "2001:db8:99::9", UNSPEC),
    ] {
        let frame = packet::udp(source.parse().unwrap(), destination.parse().unwrap());
        let verdict = program.run(&frame).verdict;
        assert_eq!(verdict, expected, "{source} to {destination}");
    }
}
