//! Groups of next hops: each flow has one, keeps it for its life, and moves only when that one is out of service.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr, UdpSocket},
};

use byway::{GroupSpec, MemberSpec, NextHopSpec, NextHopState, OnDown, RuleSpec, TargetSpec};
use byway_lab::{
    seed::{Addresses, IPV4, IPV6, Seed},
    wait_until,
};

use crate::support::{
    ANSWER, any_hook,
    departure::{Departure, UNSPEC},
    on, packet, pins,
    routers::rule,
    rules,
};

/// How many next hops there are on `eth1`, all of them addresses of the router.
const NEXT_HOPS: u16 = 4;

fn hop(addresses: &Addresses, nth: u16) -> NextHopSpec {
    let address: IpAddr = match addresses.router {
        IpAddr::V4(_) => [10, 111, 221, 100 + nth as u8].into(),
        IpAddr::V6(_) => [0x2001, 0xDB8, 0x221, 0, 0, 0, 0, 0x100 + nth].into(),
    };
    NextHopSpec::ViaDev(address, "eth1".into())
}

fn member(addresses: &Addresses, nth: u16, weight: u16) -> MemberSpec {
    MemberSpec::new(hop(addresses, nth)).weight(weight)
}

fn hosts(addresses: &Addresses) -> Seed {
    let seed = Seed::new().unwrap();
    for nth in 0..NEXT_HOPS {
        let gateway = hop(addresses, nth).gateway().unwrap();
        let length = if gateway.is_ipv4() { 24 } else { 64 };
        seed.router.address("eth0", &format!("{gateway}/{length}")).unwrap();
    }
    seed
}

fn group(name: &str, members: Vec<MemberSpec>, on_down: OnDown) -> GroupSpec {
    GroupSpec::new(name, members).on_down(on_down)
}

fn to_group(addresses: &Addresses, name: &str) -> RuleSpec {
    rule(&addresses.service.to_string(), None, TargetSpec::Group(name.into()))
}

/// The slot of the next hop that a packet gets. It runs until it has arrived, so that no next hop counts as dead.
fn slot_of(program: &Departure, frame: &[u8]) -> u32 {
    let ran = program.run_thrice(frame);
    assert_eq!(ran.verdict, UNSPEC);
    assert!(ran.cb[4] & 1 << 31 != 0, "the packet was not redirected");
    ran.cb[4] & !(1 << 31)
}

/// The same of many flows, by their source ports.
fn slots_of_flows(program: &Departure, addresses: &Addresses, flows: u16) -> BTreeMap<u16, u32> {
    (0..flows).map(|nth| (nth, slot_of(program, &datagram(addresses, 1024 + nth, 53)))).collect()
}

/// A UDP datagram from the service address to the client.
fn datagram(addresses: &Addresses, source_port: u16, destination_port: u16) -> Vec<u8> {
    let mut frame = packet::udp(addresses.service, addresses.client);
    let ports = if addresses.service.is_ipv4() { 34 } else { 54 };
    frame[ports..ports + 2].copy_from_slice(&source_port.to_be_bytes());
    frame[ports + 2..ports + 4].copy_from_slice(&destination_port.to_be_bytes());
    frame
}

/// Real traffic, and the counters of the next hops: 100,000 flows.
#[test]
fn weights_hold_within_two_percent_over_a_hundred_thousand_flows() {
    const FLOWS: u32 = 100_000;
    for addresses in [IPV4, IPV6] {
        let seed = hosts(&addresses);
        let weights = [1, 2, 5];
        let members = (0..).zip(weights).map(|(nth, weight)| member(&addresses, nth, weight)).collect();
        on(&seed.server, any_hook(), |byway| {
            byway.add_group(&group("uplinks", members, OnDown::Pass)).unwrap();
            byway.add(&to_group(&addresses, "uplinks")).unwrap();
        });
        // Once their neighbours are known no packet has to wait.
        let resolved = |nth| seed.server.neighbour("eth1", hop(&addresses, nth).gateway().unwrap()).unwrap();
        for nth in 0..3 {
            assert!(wait_until(ANSWER, || {
                send(&seed, &addresses, 1, 200);
                resolved(nth).is_some_and(|it| it.lladdr.is_some())
            }));
        }
        let before = on(&seed.server, any_hook(), |byway| byway.next_hops()).unwrap();
        // 100 source ports, and 1,000 destination ports each.
        send(&seed, &addresses, 100, 1_000);
        let after = on(&seed.server, any_hook(), |byway| byway.next_hops()).unwrap();
        let shares: Vec<u64> = after
            .iter()
            .zip(&before)
            .map(|(after, before)| after.departed.packets - before.departed.packets)
            .collect();
        assert_eq!(shares.iter().sum::<u64>(), u64::from(FLOWS), "{after:?}");
        for (share, weight) in shares.iter().zip(weights) {
            let ideal = f64::from(FLOWS) * f64::from(weight) / 8.0;
            assert!((*share as f64 - ideal).abs() <= ideal * 0.02, "{share} of {ideal}: {shares:?}");
        }
        let [status] = &rules(&seed.server)[..] else { panic!("one rule") };
        assert_eq!(status.departed, status.arrived, "all of them arrived");
    }
}

/// Sends one datagram to each of `destinations` ports from each of `sources` ports.
fn send(seed: &Seed, addresses: &Addresses, sources: u16, destinations: u16) {
    seed.server.run(|| {
        for source in 0..sources {
            let socket = UdpSocket::bind((addresses.service, 20_000 + source)).unwrap();
            for destination in 0..destinations {
                socket.send_to(b"hello", SocketAddr::new(addresses.client, 1_000 + destination)).unwrap();
            }
        }
    });
}

/// Backups get nothing while another one is in service, and then the first of them gets it all.
#[test]
fn backups_are_used_in_their_order_while_no_other_next_hop_is_in_service() {
    const FLOWS: u16 = 300;
    for addresses in [IPV4, IPV6] {
        let seed = hosts(&addresses);
        let call =
            |call: &(dyn Fn(&mut byway::Byway) + Sync)| on(&seed.server, any_hook(), |byway| call(byway));
        let down = |nth: u16| call(&|byway| drop(byway.take_out_of_service(&hop(&addresses, nth)).unwrap()));
        let up = |nth: u16| call(&|byway| drop(byway.put_in_service(&hop(&addresses, nth)).unwrap()));
        let backup = |nth| member(&addresses, nth, 1).backup();
        // Wherever they are named, they come last.
        let members = vec![backup(2), member(&addresses, 0, 1), backup(3), member(&addresses, 1, 1)];
        let spec = group("uplinks", members, OnDown::Drop);
        call(&|byway| {
            let group = byway.add_group(&spec).unwrap();
            let order: Vec<bool> = group.members.iter().map(|member| member.is_backup).collect();
            assert_eq!(order, [false, false, true, true]);
            byway.add(&to_group(&addresses, "uplinks")).unwrap();
            assert_eq!(byway.groups().unwrap()[0].group, group, "it is read as it was written");
        });
        let program = Departure::on(&seed.server, "eth0");
        // Slots are given out in the members' order.
        let slots =
            || -> BTreeSet<u32> { slots_of_flows(&program, &addresses, FLOWS).into_values().collect() };
        let whole = slots_of_flows(&program, &addresses, FLOWS);
        assert_eq!(slots(), [1, 2].into());
        down(0);
        assert_eq!(slots(), [2].into());
        down(1);
        assert_eq!(slots(), [3].into(), "the first backup");
        down(2);
        assert_eq!(slots(), [4].into(), "the second backup");
        up(2);
        assert_eq!(slots(), [3].into());
        up(1);
        assert_eq!(slots(), [2].into());
        up(0);
        assert_eq!(slots_of_flows(&program, &addresses, FLOWS), whole, "each flow has its own next hop back");

        // A single one with a backup, as the only next hops of a rule.
        let pair = TargetSpec::NextHops(vec![member(&addresses, 0, 1), backup(1)]);
        call(&|byway| {
            byway.replace(&rule(&addresses.service.to_string(), None, pair.clone())).unwrap();
            byway.del_group("uplinks").unwrap();
        });
        let only = slots();
        down(0);
        let instead = slots();
        assert!(only.len() == 1 && instead.len() == 1 && only != instead, "{only:?} {instead:?}");
        let exported = on(&seed.server, any_hook(), |byway| byway.export()).unwrap().to_string();
        assert!(exported.contains("backup = true"), "{exported}");
    }
}

#[test]
fn taking_a_next_hop_out_moves_its_flows_alone_and_putting_it_back_returns_them() {
    const FLOWS: u16 = 3_000;
    for addresses in [IPV4, IPV6] {
        let seed = hosts(&addresses);
        let call =
            |call: &(dyn Fn(&mut byway::Byway) + Sync)| on(&seed.server, any_hook(), |byway| call(byway));
        let members = |all: &[u16]| all.iter().map(|nth| member(&addresses, *nth, 1)).collect::<Vec<_>>();
        call(&|byway| {
            byway.add_group(&group("uplinks", members(&[0, 1, 2]), OnDown::Pass)).unwrap();
            byway.add(&to_group(&addresses, "uplinks")).unwrap();
        });
        let program = Departure::on(&seed.server, "eth0");
        let all = slots_of_flows(&program, &addresses, FLOWS);
        assert_eq!(all, slots_of_flows(&program, &addresses, FLOWS), "a flow keeps its next hop");
        let slots: Vec<u32> = BTreeMap::from_iter(all.values().map(|slot| (*slot, ()))).into_keys().collect();
        assert_eq!(slots.len(), 3);
        let share = |of: &BTreeMap<u16, u32>, slot: u32| of.values().filter(|it| **it == slot).count();

        // By hand: the flows of that one alone, to both others in about the same numbers.
        let gone = slots[1];
        call(&|byway| drop(byway.take_out_of_service(&hop(&addresses, 1)).unwrap()));
        let without = slots_of_flows(&program, &addresses, FLOWS);
        assert!(all.iter().all(|(flow, slot)| *slot == gone || without[flow] == *slot));
        assert_eq!(share(&without, gone), 0);
        for slot in [slots[0], slots[2]] {
            let taken = share(&without, slot) - share(&all, slot);
            let half = share(&all, gone) / 2;
            assert!(taken.abs_diff(half) < half / 5, "{taken} of {half}");
        }
        call(&|byway| drop(byway.put_in_service(&hop(&addresses, 1)).unwrap()));
        assert_eq!(slots_of_flows(&program, &addresses, FLOWS), all);

        // By another group in its place.
        call(&|byway| drop(byway.replace_group(&group("uplinks", members(&[0, 2]), OnDown::Pass)).unwrap()));
        let without = slots_of_flows(&program, &addresses, FLOWS);
        assert!(all.iter().all(|(flow, slot)| *slot == gone || without[flow] == *slot));
        call(&|byway| {
            drop(byway.replace_group(&group("uplinks", members(&[0, 1, 2, 3]), OnDown::Pass)).unwrap())
        });
        let more = slots_of_flows(&program, &addresses, FLOWS);
        let moved = without.iter().filter(|(flow, slot)| more[*flow] != **slot).count();
        assert!(
            without
                .iter()
                .all(|(flow, slot)| more[flow] == *slot || ![slots[0], slots[2]].contains(&more[flow])),
            "a flow that moved has moved to a new next hop"
        );
        assert!(moved.abs_diff(usize::from(FLOWS) / 2) < usize::from(FLOWS) / 10, "half of them: {moved}");

        // A rule's own next hops do the same, also when it had one before.
        let several = |all: &[u16]| TargetSpec::NextHops(members(all));
        let own = |target| RuleSpec::new(to_group(&addresses, "uplinks").selector, target);
        call(&|byway| drop(byway.replace(&own(TargetSpec::NextHop(hop(&addresses, 0)))).unwrap()));
        let one = slots_of_flows(&program, &addresses, 1)[&0];
        call(&|byway| drop(byway.replace(&own(several(&[0, 1]))).unwrap()));
        let two = slots_of_flows(&program, &addresses, FLOWS);
        assert!(share(&two, one).abs_diff(usize::from(FLOWS) / 2) < usize::from(FLOWS) / 10);
        call(&|byway| drop(byway.replace(&own(several(&[0, 1, 2]))).unwrap()));
        let three = slots_of_flows(&program, &addresses, FLOWS);
        let moved = two.iter().filter(|(flow, slot)| three[*flow] != **slot).count();
        assert!(moved.abs_diff(usize::from(FLOWS) / 3) < usize::from(FLOWS) / 10, "a third of them: {moved}");
    }
}

/// A fragmented packet goes one way, whichever of its fragments comes first, and the same as its flow's other packets.
#[test]
fn fragments_go_with_their_flow() {
    for addresses in [IPV4, IPV6] {
        let seed = hosts(&addresses);
        let members = (0..NEXT_HOPS).map(|nth| member(&addresses, nth, 1)).collect();
        on(&seed.server, any_hook(), |byway| {
            byway.add(&rule(&addresses.service.to_string(), None, TargetSpec::NextHops(members))).unwrap();
        });
        let program = Departure::on(&seed.server, "eth0");
        let mut ways = BTreeMap::new();
        for flow in 0..200_u16 {
            let of_flow = slot_of(&program, &datagram(&addresses, 1024 + flow, 53));
            let [first, second] = fragments(&addresses, 1024 + flow, 53, flow);
            assert_eq!(slot_of(&program, &first), of_flow, "the first fragment of flow {flow}");
            assert_eq!(slot_of(&program, &second), of_flow, "the second fragment of flow {flow}");
            *ways.entry(of_flow).or_insert(0) += 1;
            // Of another packet the second comes first.
            let [first, second] = fragments(&addresses, 1024 + flow, 53, 10_000 + flow);
            assert_eq!(slot_of(&program, &second), slot_of(&program, &first), "out of order");
        }
        assert_eq!(ways.len(), usize::from(NEXT_HOPS), "{ways:?}");
    }
}

/// A datagram in two fragments: 8 bytes of UDP header and 8 of data, and 8 more.
fn fragments(addresses: &Addresses, source_port: u16, destination_port: u16, id: u16) -> [Vec<u8>; 2] {
    let from = SocketAddr::new(addresses.service, source_port);
    let to = SocketAddr::new(addresses.client, destination_port);
    packet::fragments(from, to, &[1; 16], 16, id).try_into().unwrap()
}

#[test]
fn a_group_with_nothing_in_service_does_what_on_down_says() {
    for (on_down, verdict) in [(OnDown::Pass, u32::MAX), (OnDown::Drop, 2)] {
        let addresses = IPV4;
        let seed = hosts(&addresses);
        let members = vec![member(&addresses, 0, 1), member(&addresses, 1, 1)];
        let other: RuleSpec =
            rule("192.168.7.7", None, TargetSpec::NextHop(hop(&addresses, 0))).on_down(on_down);
        on(&seed.server, any_hook(), |byway| {
            byway.add_group(&group("uplinks", members, on_down)).unwrap();
            byway.add_all(&[to_group(&addresses, "uplinks"), other]).unwrap();
            for nth in [0, 1] {
                byway.take_out_of_service(&hop(&addresses, nth)).unwrap();
            }
        });
        let program = Departure::on(&seed.server, "eth0");
        for source in [addresses.service, [192, 168, 7, 7].into()] {
            let frame = packet::udp(source, addresses.client);
            assert_eq!(program.run(&frame).verdict, verdict);
        }
        let all = rules(&seed.server);
        assert!(
            all.iter().all(|status| status.no_next_hop.packets == 1 && status.departed.packets == 0),
            "{all:?}"
        );
        let next_hops = on(&seed.server, any_hook(), |byway| byway.next_hops()).unwrap();
        assert!(next_hops.iter().all(|it| it.state == NextHopState::Down), "{next_hops:?}");
        // Each packet once, at the next hop that would have had it.
        assert_eq!(next_hops.iter().map(|it| it.failed_over.packets).sum::<u64>(), 2, "{next_hops:?}");
        assert_eq!(next_hops.iter().map(|it| it.rules).collect::<Vec<_>>(), [2, 1]);
        assert!(next_hops.iter().all(|it| it.groups == ["uplinks"]));
    }
}

#[test]
fn what_cannot_be_a_group_is_refused() {
    let addresses = IPV4;
    let seed = hosts(&addresses);
    let hook = any_hook();
    let refused = |call: &(dyn Fn(&mut byway::Byway) -> byway::Result<()> + Sync), sentence: &str| {
        let error = on(&seed.server, hook, |byway| call(byway)).unwrap_err();
        assert_eq!(error.sentence(), sentence);
        assert_ne!(error.kind(), byway::ErrorKind::Failed);
    };
    let two = || vec![member(&addresses, 0, 1), member(&addresses, 1, 1)];
    refused(&|byway| byway.add(&to_group(&addresses, "uplinks")).map(drop), "there is no group `uplinks`");
    refused(
        &|byway| {
            let twice = vec![member(&addresses, 0, 1), member(&addresses, 0, 2)];
            byway.add_group(&group("uplinks", twice, OnDown::Pass)).map(drop)
        },
        "the next hop via 10.111.221.100 dev eth1 is named twice; name it once, with a weight for a larger share",
    );
    assert_eq!(pins(), Vec::<String>::new(), "nothing has changed");

    on(&seed.server, hook, |byway| byway.add_group(&group("uplinks", two(), OnDown::Pass))).unwrap();
    refused(
        &|byway| byway.add(&to_group(&IPV6, "uplinks")).map(drop),
        "the gateway 10.111.221.100 is IPv4, but packets from 2001:db8:1::5 are IPv6, which an IPv4 gateway cannot take; name an IPv6 gateway",
    );
    refused(
        &|byway| byway.add_group(&group("uplinks", two(), OnDown::Drop)).map(drop),
        "there is already a group of that name (uplinks nexthop via 10.111.221.100 dev eth1 nexthop via 10.111.221.101 dev eth1); use `replace` to change it",
    );
    on(&seed.server, hook, |byway| byway.add(&to_group(&addresses, "uplinks"))).unwrap();
    refused(
        &|byway| byway.del_group("uplinks").map(drop),
        "the group uplinks is in use by the rule from 192.168.1.5; delete that rule first, or give it another target",
    );
    refused(
        &|byway| byway.take_out_of_service(&hop(&addresses, 3)).map(drop),
        "no rule or group uses the next hop via 10.111.221.103 dev eth1",
    );
    on(&seed.server, hook, |byway| byway.flush()).unwrap();
    on(&seed.server, hook, |byway| byway.detach_all()).unwrap();
    assert_eq!(pins().len(), 1, "the group is kept");
    on(&seed.server, hook, |byway| byway.del_group("uplinks")).unwrap();
    assert_eq!(pins(), Vec::<String>::new());
}
