//! One packet of each class, and of each kind of target: the program's word, and where it is counted.

use byway::{Attach, AttachmentCounters, Count, GroupSpec, MemberSpec, NextHopSpec, RuleSpec, TargetSpec};
use byway_lab::{
    Node,
    seed::{IPV4, IPV6, Seed},
};

use crate::support::{
    any_hook,
    departure::{Departure, REDIRECT, SHOT, UNSPEC},
    hooks, on,
    packet::{ICMPV6, ethernet, ipv6, udp},
    rules, via,
};

/// A device that nothing leaves by unasked, so that all that is counted there is a packet of the test's.
const QUIET: &str = "quiet0";

const FAR4: &str = "203.0.113.9";
const FAR6: &str = "2001:db8:99::9";

fn between(source: &str, destination: &str) -> Vec<u8> {
    udp(source.parse().unwrap(), destination.parse().unwrap())
}

/// Of a version of IP that is not the one of its EtherType.
fn malformed(mut frame: Vec<u8>) -> Vec<u8> {
    frame[14] = 0x55;
    frame
}

fn to(source: &str, target: TargetSpec) -> RuleSpec {
    RuleSpec::new(source.parse().unwrap(), target)
}

/// What an attachment has left alone, by class.
fn classes(seen: &AttachmentCounters) -> [(&'static str, Count); 8] {
    [
        ("not_ip", seen.not_ip),
        ("malformed", seen.malformed),
        ("tagged", seen.tagged),
        ("multicast", seen.multicast),
        ("broadcast", seen.broadcast),
        ("link_local", seen.link_local),
        ("neighbour_discovery", seen.neighbour_discovery),
        ("not_matched", seen.not_matched),
    ]
}

fn seen(node: &Node) -> AttachmentCounters {
    let attachments = on(node, any_hook(), |byway| byway.attachments()).unwrap();
    attachments.iter().find(|it| it.device.name == QUIET).unwrap().counters.unwrap()
}

/// Lets one packet pass, and says which classes have grown by one.
fn run(program: &Departure, node: &Node, frame: &[u8]) -> (u32, Vec<&'static str>) {
    let before = seen(node);
    let verdict = program.run(frame).verdict;
    let after = seen(node);
    assert_eq!(after.seen.packets - before.seen.packets, 1, "it is seen once");
    let grown = classes(&after).into_iter().zip(classes(&before)).filter(|(now, before)| {
        let packets = now.1.packets - before.1.packets;
        assert!(packets <= 1);
        packets == 1
    });
    (verdict, grown.map(|(now, _)| now.0).collect())
}

#[test]
fn one_packet_of_each() {
    for hook in hooks() {
        let seed = Seed::new().unwrap();
        let server = &seed.server;
        seed.lab.link((server, QUIET), (&seed.gateway, QUIET)).unwrap();
        server.sysctl(&format!("net.ipv6.conf.{QUIET}.disable_ipv6"), "1").unwrap();
        let member = MemberSpec::new(NextHopSpec::via(IPV4.router).dev("eth1"));
        let group = GroupSpec::new("up", [member]);
        on(server, *hook, |byway| byway.attach(&Attach::devices([QUIET]))).unwrap();
        on(server, *hook, |byway| byway.add_group(&group)).unwrap();
        let specs = [
            via(&IPV4.service.to_string(), IPV4.router, "eth1"),
            via(&IPV6.service.to_string(), IPV6.router, "eth1"),
            to("192.168.2.1", TargetSpec::Group("up".into())),
            to("192.168.2.2", TargetSpec::Pass),
            to("192.168.2.3", TargetSpec::Drop),
        ];
        on(server, *hook, |byway| byway.add_all(&specs)).unwrap();
        let program = Departure::on(server, QUIET);

        let solicitation = ipv6(
            "2001:db8:1::5".parse().unwrap(),
            FAR6.parse().unwrap(),
            ICMPV6,
            &[135, 0, 0, 0, 0, 0, 0, 0],
        );
        let mut to_all = between("192.168.1.5", FAR4);
        to_all[..6].fill(0xFF);
        let mut tagged = between("192.168.1.5", FAR4);
        tagged.splice(12..12, [0x81, 0, 0, 10]);
        for (frame, class) in [
            (ethernet(0x0806, &[0; 28]), "not_ip"),
            (malformed(between("192.168.1.5", FAR4)), "malformed"),
            (malformed(between("2001:db8:1::5", FAR6)), "malformed"),
            (tagged, "not_ip"),
            (between("192.168.1.5", "224.0.0.1"), "multicast"),
            (between("2001:db8:1::5", "ff02::1"), "multicast"),
            (between("192.168.1.5", "255.255.255.255"), "broadcast"),
            (to_all, "broadcast"),
            (between("169.254.1.1", FAR4), "link_local"),
            (between("fe80::5", FAR6), "link_local"),
            (ethernet(0x86DD, &solicitation), "neighbour_discovery"),
            (between("192.168.3.1", FAR4), "not_matched"),
            (between("2001:db8:3::1", FAR6), "not_matched"),
        ] {
            let left_alone = run(&program, server, &frame);
            assert_eq!(left_alone, (UNSPEC, vec![class]), "{hook}");
        }
        for (source, destination, verdict) in [
            ("192.168.1.5", FAR4, REDIRECT),
            ("2001:db8:1::5", FAR6, REDIRECT),
            ("192.168.2.1", FAR4, REDIRECT),
            ("192.168.2.2", FAR4, UNSPEC),
            ("192.168.2.3", FAR4, SHOT),
        ] {
            let spoken_about = run(&program, server, &between(source, destination));
            assert_eq!(spoken_about, (verdict, vec![]), "{hook} {source}");
            let status = rules(server).into_iter().find(|it| it.rule.source.address().to_string() == source);
            let status = status.unwrap();
            let counted = [status.departed.packets, status.passed.packets, status.dropped.packets];
            let expected = match verdict {
                REDIRECT => [1, 0, 0],
                UNSPEC => [0, 1, 0],
                _ => [0, 0, 1],
            };
            assert_eq!(counted, expected, "{hook} {source}");
        }
    }
}
