//! What `get` says of a packet is what the pinned program does with it, and asking changes nothing.

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use aya::maps::{Array, Map, MapData};
use byway::{
    Action, Attach, Byway, Decision, Error, ErrorKind, FlowSpec, GroupSpec, LeftAlone, MemberSpec, Missing,
    NextHopSpec, OnDown, Prefix, Protocol, Route, RuleSpec, Selector, TargetSpec,
};
use byway_abi::{FAMILY_IPV4, FAMILY_ON_LINK, NextHop};
use byway_lab::seed::{IPV4, IPV6, Seed};

use crate::support::{
    any_hook,
    departure::{Departure, REDIRECT, SHOT, UNSPEC},
    on, packet, pins,
    random::Random,
    rules, via,
};

/// Nothing leaves by it unasked, so that what is counted there is this test's.
const QUIET: &str = "quiet0";

const ROUNDS: usize = 24;
const FLOWS: usize = 40;

/// With the program where nothing else leaves.
fn quiet_hosts() -> Seed {
    let seed = Seed::new().unwrap();
    seed.lab.link((&seed.server, QUIET), (&seed.gateway, QUIET)).unwrap();
    seed.server.sysctl(&format!("net.ipv6.conf.{QUIET}.disable_ipv6"), "1").unwrap();
    seed
}

/// The next hops that packets of a family may go to, whether they answer or not.
fn next_hops(is_v4: bool) -> Vec<NextHopSpec> {
    let v6 = (0x100..0x104).map(|last| IpAddr::from([0x2001, 0xDB8, 0x221, 0, 0, 0, 0, last]));
    let v4 = (100..104).map(|last| IpAddr::from([10, 111, 221, last])).filter(|_| is_v4);
    let gateways = v4.chain(v6).map(|gateway| NextHopSpec::via(gateway).dev("eth1"));
    gateways.chain([NextHopSpec::on_link("eth1")]).collect()
}

fn members(random: &mut Random, is_v4: bool) -> Vec<MemberSpec> {
    let mut all = next_hops(is_v4);
    random.shuffle(&mut all);
    all.truncate(random.between(2, 5));
    all.into_iter().map(|next_hop| MemberSpec::new(next_hop).weight(random.between(1, 4) as u16)).collect()
}

fn on_down(random: &mut Random) -> OnDown {
    if random.percent(50) { OnDown::Drop } else { OnDown::Pass }
}

/// The group of this name for sources of a family.
fn group(random: &mut Random, is_v4: bool) -> GroupSpec {
    GroupSpec::new(group_name(is_v4), members(random, is_v4)).on_down(on_down(random))
}

fn group_name(is_v4: bool) -> &'static str {
    if is_v4 { "four" } else { "six" }
}

/// An address that differs from another one in few of its bits, most of them the last.
fn near(random: &mut Random, text: &str) -> IpAddr {
    let change = 1_u128 << random.below(6) | if random.percent(20) { 1 << random.below(24) } else { 0 };
    let change = if random.percent(40) { 0 } else { change };
    match text.parse().unwrap() {
        IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) ^ change as u32).into()),
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) ^ change).into()),
    }
}

fn source(random: &mut Random, is_v4: bool) -> IpAddr {
    near(random, if is_v4 { "192.168.1.5" } else { "2001:db8:1::5" })
}

fn destination(random: &mut Random, is_v4: bool) -> IpAddr {
    near(random, if is_v4 { "198.51.100.9" } else { "2001:db8:fa::9" })
}

fn prefix(random: &mut Random, address: IpAddr) -> Prefix {
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let length = if random.percent(40) { bits } else { bits - random.below(12) };
    Prefix::holding(address, if random.percent(10) { 0 } else { length as u8 }).unwrap()
}

fn rule(random: &mut Random, is_v4: bool) -> RuleSpec {
    let from = source(random, is_v4);
    let from = prefix(random, from);
    let to = destination(random, is_v4);
    let to = random.percent(50).then(|| prefix(random, to));
    let target = match random.below(6) {
        0 => TargetSpec::Pass,
        1 => TargetSpec::Drop,
        2 => TargetSpec::Group(group_name(is_v4).into()),
        3 => TargetSpec::NextHops(members(random, is_v4)),
        _ => TargetSpec::NextHop(random.pick(&next_hops(is_v4)).clone()),
    };
    let has_next_hop = matches!(target, TargetSpec::NextHop(_) | TargetSpec::NextHops(_));
    let on_down = if has_next_hop { on_down(random) } else { OnDown::Pass };
    RuleSpec::new(Selector::new(from, to), target).on_down(on_down)
}

fn flow(random: &mut Random) -> FlowSpec {
    let is_v4 = random.percent(50);
    let odd = if is_v4 {
        ["224.0.0.5", "255.255.255.255", "169.254.7.7"]
    } else {
        ["ff02::1", "fe80::7", "ff0e::7"]
    };
    let mut flow = FlowSpec::new(source(random, is_v4));
    flow.destination = Some(if random.percent(10) {
        random.pick(&odd).parse().unwrap()
    } else {
        destination(random, is_v4)
    });
    let icmp = if is_v4 { packet::ICMP } else { packet::ICMPV6 };
    // GRE and UDP-Lite besides.
    let number = *random.pick(&[packet::TCP, packet::UDP, icmp, packet::SCTP, 47, 136]);
    let protocol = Protocol::new(number);
    flow.protocol = Some(protocol);
    if protocol.has_ports() {
        flow.source_port = Some(random.next() as u16);
        flow.destination_port = Some(random.next() as u16);
    }
    flow
}

fn frame(flow: &FlowSpec) -> Vec<u8> {
    let protocol = flow.protocol.unwrap().number();
    let mut payload = vec![0; 32];
    // An echo request (RFC 792, RFC 4443), or two ports.
    payload[0] = if protocol == packet::ICMPV6 { 128 } else { 8 };
    if let (Some(from), Some(to)) = (flow.source_port, flow.destination_port) {
        payload[..2].copy_from_slice(&from.to_be_bytes());
        payload[2..4].copy_from_slice(&to.to_be_bytes());
    }
    match (flow.source, flow.destination) {
        (IpAddr::V4(from), Some(IpAddr::V4(to))) => {
            packet::ethernet(0x0800, &packet::ipv4(from, to, protocol, &payload))
        }
        (IpAddr::V6(from), Some(IpAddr::V6(to))) => {
            packet::ethernet(0x86DD, &packet::ipv6(from, to, protocol, &payload))
        }
        other => panic!("no packet is of {other:?}"),
    }
}

/// The gateway in a slot, and its device.
fn in_slot(slot: u32) -> (Option<IpAddr>, u32) {
    let pin = Path::new(&pins()[0]).join("NEXT_HOPS");
    let map = Map::from_map_data(MapData::from_pin(pin).unwrap()).unwrap();
    let next_hop: NextHop = Array::try_from(map).unwrap().get(&slot, 0).unwrap();
    let gateway = match next_hop.family {
        FAMILY_ON_LINK => None,
        FAMILY_IPV4 => Some(<[u8; 4]>::try_from(&next_hop.gateway[..4]).unwrap().into()),
        _ => Some(next_hop.gateway.into()),
    };
    (gateway, next_hop.ifindex)
}

/// Other rules, of which some next hops are out of service.
fn new_rules(byway: &mut Byway, random: &mut Random) {
    byway.flush().unwrap();
    for is_v4 in [true, false] {
        byway.replace_group(&group(random, is_v4)).unwrap();
    }
    let mut rules: BTreeMap<Selector, RuleSpec> = BTreeMap::new();
    for _ in 0..random.between(1, 30) {
        let is_v4 = random.percent(50);
        let rule = rule(random, is_v4);
        rules.insert(rule.selector, rule);
    }
    byway.add_all(&rules.into_values().collect::<Vec<_>>()).unwrap();
    // Often so many that of some group none is left.
    let share = *random.pick(&[20, 50, 85]);
    for next_hop in next_hops(true) {
        let done = if random.percent(share) {
            byway.take_out_of_service(&next_hop)
        } else {
            byway.put_in_service(&next_hop)
        };
        match done {
            // No rule leads there.
            Ok(_) | Err(Error::NoSuchNextHop(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn get_says_what_the_program_does_and_changes_nothing() {
    let seed = quiet_hosts();
    let mut random = Random::new(7);
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    on(&seed.server, any_hook(), |byway| byway.attach(&Attach::devices([QUIET]))).unwrap();
    let program = Departure::on(&seed.server, QUIET);
    for round in 0..ROUNDS {
        let flows: Vec<FlowSpec> = (0..FLOWS).map(|_| flow(&mut random)).collect();
        let decisions: Vec<Decision> = on(&seed.server, any_hook(), |byway| {
            new_rules(byway, &mut random);
            let before = byway.status().unwrap();
            let decisions = flows.iter().map(|flow| byway.get(flow).unwrap()).collect();
            assert_eq!(byway.status().unwrap(), before, "asking has changed something");
            decisions
        });
        let mut matched: BTreeMap<Selector, u64> = BTreeMap::new();
        for (flow, decision) in flows.iter().zip(&decisions) {
            let ran = program.run(&frame(flow));
            let why = || format!("round {round}, {flow}: {decision:?}");
            let expected = match decision.action {
                Action::Redirect => REDIRECT,
                Action::Pass => UNSPEC,
                Action::Drop => SHOT,
                _ => panic!("nothing is left open: {}", why()),
            };
            assert_eq!(ran.verdict, expected, "{}", why());
            assert!(decision.depends_on.is_empty(), "{}", why());
            let taken: Vec<_> = decision.ways.iter().filter(|way| way.is_taken).collect();
            if ran.verdict == REDIRECT {
                let [way] = taken[..] else { panic!("one next hop: {}", why()) };
                let sent = in_slot(ran.cb[4]);
                assert_eq!((way.next_hop.gateway, way.next_hop.device.index), sent, "{}", why());
            } else {
                assert!(taken.is_empty(), "{}", why());
            }
            if let Some(rule) = &decision.rule {
                *matched.entry(rule.selector()).or_default() += 1;
            }
            let is_group = decision.ways.len() > 1;
            *seen.entry(format!("{:?}, group: {is_group}", decision.action)).or_default() += 1;
        }
        // The rules that were named are those that the program has counted the packets for.
        let counted: BTreeMap<Selector, u64> = rules(&seed.server)
            .into_iter()
            .map(|it| {
                let all = [it.departed, it.passed, it.dropped, it.no_next_hop];
                (it.rule.selector(), all.iter().map(|count| count.packets).sum::<u64>())
            })
            .filter(|(_, packets)| *packets > 0)
            .collect();
        assert_eq!(counted, matched, "round {round}");
    }
    println!("{seen:?}");
    for (action, group) in
        [("Redirect", true), ("Redirect", false), ("Drop", true), ("Pass", true), ("Pass", false)]
    {
        let key = format!("{action}, group: {group}");
        assert!(seen.contains_key(&key), "no packet was of that kind: {key}");
    }
}

fn ask(seed: &Seed, words: &str) -> Decision {
    on(&seed.server, any_hook(), |byway| byway.get(&words.parse().unwrap())).unwrap()
}

#[test]
fn get_says_whether_an_attachment_sees_the_packet() {
    for (addresses, far, broadcast) in
        [(IPV4, "203.0.113.9", Some("10.111.220.255")), (IPV6, "2001:db8:fa::9", None)]
    {
        let seed = Seed::new().unwrap();
        let from = addresses.service;
        let spec = via(&from.to_string(), addresses.router, "eth1");
        let nothing = ask(&seed, &format!("{from} to {far}"));
        assert!(nothing.attachments.is_empty() && nothing.rule.is_none(), "{nothing:?}");
        on(&seed.server, any_hook(), |byway| byway.add(&spec)).unwrap();
        let names = |decision: &Decision| -> Vec<String> {
            decision.seen_by.iter().map(|device| device.name.clone()).collect()
        };
        let leaves = |decision: &Decision| match &decision.route {
            Route::Leaves { device, gateway } => Some((device.name.clone(), *gateway)),
            _ => None,
        };

        let seen = ask(&seed, &format!("{from} to {far} proto tcp sport 443 dport 5000"));
        assert_eq!(leaves(&seen), Some(("eth0".into(), Some(addresses.gateway))));
        assert_eq!((names(&seen), seen.action), (vec!["eth0".to_owned()], Action::Redirect));
        assert_eq!(seen.ways[0].next_hop.gateway, Some(addresses.router));
        assert_eq!((seen.ways[0].mtu, seen.warnings.len()), (Some(1_500), 0), "{:?}", seen.warnings);

        let elsewhere = ask(&seed, &format!("{from} to {}", addresses.router));
        assert_eq!((leaves(&elsewhere), names(&elsewhere)), (Some(("eth1".into(), None)), vec![]));
        let local = ask(&seed, &format!("{from} to {}", addresses.server));
        assert_eq!((&local.route, names(&local)), (&Route::Local, vec![]));
        if let Some(broadcast) = broadcast {
            let decision = ask(&seed, &format!("{from} to {broadcast}"));
            assert_eq!((decision.left_alone, decision.action), (Some(LeftAlone::Broadcast), Action::Pass));
        }
        let open = ask(&seed, &from.to_string());
        assert_eq!((&open.route, open.action), (&Route::Unknown, Action::Redirect));

        // A packet of somebody else comes in by a device, and this host has to forward it.
        let client = addresses.client;
        assert_eq!(ask(&seed, &format!("{client} to {far}")).route, Route::SourceNotLocal);
        for device in ["all", "eth1"] {
            seed.server.sysctl(&format!("net.ipv4.conf.{device}.rp_filter"), "0").unwrap();
        }
        let forwarded = format!("{client} to {far} iif eth1");
        assert_eq!(ask(&seed, &forwarded).route, Route::NotForwarded);
        seed.server.forwarding().unwrap();
        let forwarded = ask(&seed, &forwarded);
        assert_eq!(
            (leaves(&forwarded).unwrap().0, names(&forwarded)),
            ("eth0".into(), vec!["eth0".to_owned()])
        );
        let gone = on(&seed.server, any_hook(), |byway| {
            byway.get(&format!("{client} to {far} iif eth7").parse().unwrap())
        });
        assert!(matches!(gone, Err(Error::NoSuchDevice(name)) if name == "eth7"));

        if addresses.service.is_ipv4() {
            seed.server.sysctl("net.ipv4.conf.eth1.rp_filter", "1").unwrap();
            let strict = ask(&seed, &format!("{from} to {far}"));
            let sentence = format!(
                "eth1 drops requests of {far}, since the route back to it leaves by eth0 (strict rp_filter); \
                 `sysctl net.ipv4.conf.eth1.rp_filter=2` lets them in"
            );
            assert_eq!(strict.warnings, [sentence]);
        }
        on(&seed.server, any_hook(), |byway| byway.detach_all()).unwrap();
        let detached = ask(&seed, &format!("{from} to {far}"));
        assert!(detached.seen_by.is_empty() && detached.rule.is_some(), "{detached:?}");
    }
}

/// What decides is left open where it is not known, and only there.
#[test]
fn get_says_what_the_destination_decides() {
    let seed = Seed::new().unwrap();
    let specs = [
        via("192.168.1.5", IPV4.router, "eth1").to("198.51.100.0/24".parse().unwrap()),
        RuleSpec::new("192.168.1.5".parse().unwrap(), TargetSpec::Drop).to("198.51.100.9".parse().unwrap()),
        RuleSpec::new("192.168.0.0/16".parse().unwrap(), TargetSpec::Pass),
        RuleSpec::new("192.168.2.0/24".parse().unwrap(), TargetSpec::Drop),
    ];
    on(&seed.server, any_hook(), |byway| byway.add_all(&specs)).unwrap();
    let open = ask(&seed, "192.168.1.5");
    assert_eq!((open.action, open.depends_on.as_slice()), (Action::Depends, &[Missing::To][..]));
    let order: Vec<String> = open.beaten.iter().map(|rule| rule.selector().to_string()).collect();
    assert_eq!(
        order,
        ["from 192.168.1.5 to 198.51.100.9", "from 192.168.1.5 to 198.51.100.0/24", "from 192.168.0.0/16"]
    );
    for (to, action, beaten) in [
        ("198.51.100.9", Action::Drop, 2),
        ("198.51.100.8", Action::Redirect, 1),
        ("203.0.113.1", Action::Pass, 0),
    ] {
        let decision = ask(&seed, &format!("192.168.1.5 to {to}"));
        assert_eq!((decision.action, decision.beaten.len()), (action, beaten), "{to}");
    }
    assert_eq!(ask(&seed, "192.168.2.1").action, Action::Drop, "no destination matters there");
    let families = on(&seed.server, any_hook(), |byway| byway.get(&"192.0.2.7 to ::1".parse().unwrap()));
    assert_eq!(families.unwrap_err().kind(), ErrorKind::Invalid);
}
