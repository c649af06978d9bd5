//! Nothing that a packet brings along is believed: marks that somebody else has put on it, marks that got lost, and another Byway's.

use std::{
    net::{SocketAddr, UdpSocket},
    thread,
};

use aya::maps::{Array, Map, MapData};

use byway::{Attach, Byway, Error, Hook, NextHopState, Owner, RuleSpec, TargetSpec, config::Config};
use byway_abi::{MARK_OF_7, mark};
use byway_lab::{
    Frame,
    seed::{IPV4, Seed},
    wait_until,
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

use crate::support::{
    ANSWER, add_macvlan,
    foreign::{Foreign, Place, Verdict},
    hooks, on, pins,
    routers::{Routers, Way, rule},
    rules, the_rule, via,
};

/// What a sender may have put into `skb->cb` who knows the program, and not the secret.
fn forged() -> Vec<[u32; 5]> {
    let slots = [0, mark::COPY, mark::PROBE, mark::PASS, mark::FLAGS];
    let secrets = [[0, 0], [u32::MAX; 2]];
    slots.iter().flat_map(|flags| secrets.map(|[low, high]| [0, 0, low, high, 1 | flags])).collect()
}

/// The secret of the only pins there are.
fn secret() -> [u32; 2] {
    let pin = format!("{}/SECRET", pins().remove(0));
    let map: Array<MapData, u64> =
        Map::from_map_data(MapData::from_pin(pin).unwrap()).unwrap().try_into().unwrap();
    let secret = map.get(&0, 0).unwrap();
    [secret as u32, (secret >> 32) as u32]
}

/// A container on a macvlan of the attachment: what its root writes into a packet gets to the attachment as it is. (On its way
/// through a veth and a router, `tc_index` does, and most of `cb` does not.)
#[test]
fn a_sender_behind_the_host_cannot_pass_a_packet_off_as_one_that_has_departed() {
    for hook in hooks() {
        let hosts = Routers::new(false);
        let container = hosts.lab.node("container").unwrap();
        hosts.server.run(|| add_macvlan("mv0", "eth0"));
        hosts.server.move_link("mv0", &container).unwrap();
        container.address("mv0", "10.0.0.77/24").unwrap();
        container.set_up("mv0", true).unwrap();
        container.route("default via 10.0.0.1").unwrap();
        let source = "10.0.0.77".parse().unwrap();
        let dropped = rule("10.0.0.77", None, TargetSpec::Drop);
        let redirected = rule("10.0.0.77", None, TargetSpec::NextHop(hosts.hop(1)));
        on(&hosts.server, *hook, |byway| byway.add(&redirected)).unwrap();

        let send = || {
            // A packet that a program drops is an error of the socket's for some kernels.
            let to = SocketAddr::new(hosts.far(1), 9);
            let _ = container.run(|| UdpSocket::bind("10.0.0.77:0").unwrap().send_to(b"hello", to));
        };
        let counts = || hosts.counts(source, hosts.far(1));
        let mut came = 0;
        assert!(wait_until(ANSWER, || {
            send();
            came = counts()[1];
            came > 0 && the_rule(&hosts.server).departed == the_rule(&hosts.server).arrived
        }));
        for (nth, cb) in forged().into_iter().enumerate() {
            // Another rule counts from 0.
            on(&hosts.server, *hook, |byway| byway.replace(&dropped)).unwrap();
            on(&hosts.server, *hook, |byway| byway.replace(&redirected)).unwrap();
            let came = counts();
            let name = format!("forges{nth}");
            let verdict = Verdict::Write(MARK_OF_7 as u16, cb);
            let forges =
                container.run(|| Foreign::attach_with(verdict, &name, "mv0", Hook::Clsact, Place::Ahead));
            send();
            assert!(
                wait_until(ANSWER, || counts()[1] == came[1] + 1),
                "{cb:?}: {:?}",
                the_rule(&hosts.server)
            );
            assert!(forges.seen() > 0);
            let status = the_rule(&hosts.server);
            assert_eq!((status.departed.packets, status.arrived.packets), (1, 1), "{cb:?}");

            on(&hosts.server, *hook, |byway| byway.replace(&dropped)).unwrap();
            send();
            assert!(wait_until(ANSWER, || the_rule(&hosts.server).dropped.packets == 1), "{cb:?}");
            assert_eq!(counts(), [came[0], came[1] + 1, came[2]], "{cb:?}");
            container.run(|| drop(forges));
        }

        // Who knew the secret would get past the rule, so that what is written above did get there.
        let [low, high] = secret();
        let verdict = Verdict::Write(0, [0, 0, low, high, mark::PASS]);
        let _knows =
            container.run(|| Foreign::attach_with(verdict, "knows", "mv0", Hook::Clsact, Place::Ahead));
        let before = counts();
        send();
        assert!(wait_until(ANSWER, || counts() == [before[0] + 1, before[1], before[2]]));
        assert_eq!(the_rule(&hosts.server).dropped.packets, 1);
    }
}

/// Somebody ahead of Byway's program on the next hop's device overwrites the mark. The packet gets there, and the next hop looks
/// dead: that is all. Also where that device is an attachment, which would redirect the packet again.
#[test]
fn a_mark_that_is_lost_makes_the_next_hop_look_dead_and_no_more() {
    for hook in hooks() {
        for attached in [Attach::devices(["eth0"]), Attach::devices(["eth0", "eth1"])] {
            let hosts = Routers::new(false);
            let spec = rule(&hosts.source(5).to_string(), None, TargetSpec::NextHop(hosts.hop(1)));
            on(&hosts.server, *hook, |byway| byway.attach(&attached)).unwrap();
            on(&hosts.server, *hook, |byway| byway.add(&spec)).unwrap();
            let (from, to) = (hosts.source(5), hosts.far(1));
            assert!(hosts.goes(from, to, Way::Router1));
            let _loses = hosts.server.run(|| {
                Foreign::attach_with(Verdict::Write(0, [0; 5]), "loses", "eth1", *hook, Place::Ahead)
            });
            assert!(hosts.goes(from, to, Way::Gateway), "{:?}", the_rule(&hosts.server));
            let next_hops = on(&hosts.server, *hook, |byway| byway.next_hops()).unwrap();
            assert_eq!(next_hops[0].state, NextHopState::Silent);
        }
    }
}

/// A Byway in a container on the host's network has a BPF file system of its own, and sees nothing of the one that is there.
#[test]
fn another_byway_is_refused_where_there_is_one() {
    for hook in hooks() {
        let seed = Seed::new().unwrap();
        let first = via(&IPV4.service.to_string(), IPV4.router, "eth1");
        on(&seed.server, *hook, |byway| byway.add(&first)).unwrap();
        let in_a_container = |call: &(dyn Fn(&mut Byway) -> byway::Result<()> + Sync)| {
            seed.server.run(|| {
                thread::scope(|scope| {
                    let thread = scope.spawn(|| {
                        unshare(CloneFlags::CLONE_NEWNS).unwrap();
                        mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), None::<&str>)
                            .unwrap();
                        call(&mut Byway::open().unwrap().with_hook(*hook))
                    });
                    thread.join().unwrap()
                })
            })
        };
        let looked = in_a_container(&|byway| byway.listing().map(drop));
        assert!(matches!(&looked, Err(Error::AnotherByway(device)) if device == "eth0"), "{looked:?}");
        type Look = fn(&mut Byway) -> byway::Result<()>;
        let looks: [Look; 4] = [
            |byway| byway.get(&"192.168.1.5".parse().unwrap()).map(drop),
            |byway| byway.export().map(drop),
            |byway| byway.diff(Owner::CONFIG, &Config::new(None, vec![], [])).map(drop),
            |byway| byway.flush().map(drop),
        ];
        for (nth, look) in looks.iter().enumerate() {
            let looked = in_a_container(look);
            assert!(
                matches!(&looked, Err(Error::AnotherByway(device)) if device == "eth0"),
                "{nth}: {looked:?}"
            );
        }
        let second = RuleSpec::new("192.168.1.77".parse().unwrap(), first.target.clone());
        let refused = in_a_container(&|byway| byway.add(&second).map(drop));
        assert!(matches!(&refused, Err(Error::AnotherByway(device)) if device == "eth1"), "{refused:?}");
        let refused = in_a_container(&|byway| byway.attach(&Attach::devices(["eth0"])).map(drop));
        assert!(matches!(&refused, Err(Error::AnotherByway(device)) if device == "eth0"), "{refused:?}");
        // On another device it is welcome.
        seed.lab.link((&seed.server, "eth9"), (&seed.gateway, "eth9")).unwrap();
        in_a_container(&|byway| byway.attach(&Attach::devices(["eth9"])).map(drop)).unwrap();

        let heard = seed.router.capture("eth0").unwrap();
        for _ in 0..20 {
            seed.server.run(|| {
                UdpSocket::bind((IPV4.service, 0)).unwrap().send_to(b"hello", (IPV4.client, 9)).unwrap()
            });
        }
        let is_it =
            |frame: &Frame| frame.source() == Some(IPV4.service) && frame.destination() == Some(IPV4.client);
        assert!(wait_until(ANSWER, || heard.count(is_it) == 20), "{}", heard.count(is_it));
        let status = &rules(&seed.server)[0];
        assert_eq!((status.departed.packets, status.arrived.packets), (20, 20));
    }
}
