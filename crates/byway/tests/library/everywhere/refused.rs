//! What cannot work is refused in one sentence, and nothing has changed then.

use byway::{Attach, Byway, Error, NextHopSpec, RuleSpec, TargetSpec};
use byway_lab::{Lab, seed::Seed};

use crate::support::{any_hook, on, on_link, pins, rules, via};

/// Everything of the server's that a refused request could have changed.
fn state(seed: &Seed) -> String {
    let mut attachments = on(&seed.server, any_hook(), |byway| byway.attachments()).unwrap();
    // The host sends packets of its own.
    attachments.iter_mut().for_each(|attachment| attachment.counters = None);
    let neighbour = seed.server.neighbour("eth1", [10, 111, 221, 21].into()).unwrap();
    format!("{:?} {:?} {attachments:?} {neighbour:?}", pins(), rules(&seed.server))
}

fn gateway(text: &str) -> TargetSpec {
    TargetSpec::NextHop(NextHopSpec::Via(text.parse().unwrap()))
}

#[test]
fn each_mistake_has_its_sentence_and_changes_nothing() {
    let seed = Seed::new().unwrap();
    seed.lab.link((&seed.server, "eth2"), (&seed.router, "eth9")).unwrap();
    seed.server.address("eth2", "10.111.229.11/24").unwrap();
    seed.server.set_up("eth2", false).unwrap();
    let cases: Vec<(RuleSpec, &str)> = vec![
        (
            via("192.168.1.5", "10.111.221.21".parse().unwrap(), "eth7"),
            "there is no device `eth7` in this network namespace; `ip link` lists them",
        ),
        (
            on_link("192.168.1.5", "lo"),
            "lo is the loopback device, which no packet leaves by; name another device",
        ),
        (
            via("192.168.1.5", "10.111.220.1".parse().unwrap(), "eth1"),
            "the gateway 10.111.220.1 is not on-link on eth1: no connected route of eth1 covers it; check the address and the device, or add a route: `ip route add ADDR dev IF scope link`",
        ),
        (
            via("192.168.1.5", "10.111.221.11".parse().unwrap(), "eth1"),
            "the gateway 10.111.221.11 is an address of this host; name the address of the next router",
        ),
        (
            via("192.168.1.5", "10.111.221.255".parse().unwrap(), "eth1"),
            "10.111.221.255 cannot be a gateway: it is a broadcast address; name the address of the next router",
        ),
        (
            RuleSpec::new("192.168.1.5".parse().unwrap(), gateway("10.111.221.255")),
            "10.111.221.255 cannot be a gateway: it is a broadcast address; name the address of the next router",
        ),
        (
            via("192.168.1.5", "10.111.229.1".parse().unwrap(), "eth2"),
            "eth2 is down, so the gateway 10.111.229.1 cannot be on-link there; bring it up: `ip link set eth2 up`",
        ),
        (
            RuleSpec::new("192.168.1.5".parse().unwrap(), gateway("10.111.222.11")),
            "no device leads straight to the gateway 10.111.222.11: no connected route covers it; check the address, name the device with `dev`, or add a route: `ip route add ADDR dev IF scope link`",
        ),
        (
            RuleSpec::new("192.168.1.5".parse().unwrap(), gateway("10.111.221.11")),
            "the gateway 10.111.221.11 is an address of this host; name the address of the next router",
        ),
        (
            RuleSpec::new("2001:db8:1::5".parse().unwrap(), gateway("fe80::1")),
            "the gateway fe80::1 is link-local and exists on every link; name the device with `dev`",
        ),
        (
            via("2001:db8:1::5", "10.111.221.21".parse().unwrap(), "eth1"),
            "the gateway 10.111.221.21 is IPv4, but packets from 2001:db8:1::5 are IPv6, which an IPv4 gateway cannot take; name an IPv6 gateway",
        ),
        (
            on_link("192.168.1.5", "eth1").name("two words"),
            "`two words` cannot be a rule's name; use 1 to 32 letters, digits, `-`, `_`, `.` or `:`",
        ),
    ];
    // Once with nothing of Byway's in the kernel, and once beside a rule that holds.
    for round in 0..2 {
        let before = state(&seed);
        for (spec, sentence) in &cases {
            let error = on(&seed.server, any_hook(), |byway| byway.add(spec)).unwrap_err();
            assert_eq!(error.sentence(), *sentence);
            assert_ne!(error.kind(), byway::ErrorKind::Failed);
            let error = on(&seed.server, any_hook(), |byway| byway.replace(spec)).unwrap_err();
            assert_eq!(error.sentence(), *sentence);
        }
        assert_eq!(state(&seed), before);
        if round == 0 {
            let spec = via("192.168.1.6", "10.111.221.21".parse().unwrap(), "eth1");
            on(&seed.server, any_hook(), |byway| byway.add(&spec)).unwrap();
        }
    }
}

#[test]
fn a_device_is_found_by_route_look_up() {
    let seed = Seed::new().unwrap();
    for (source, hop) in [("192.168.1.5", "10.111.221.21"), ("2001:db8:1::5", "2001:db8:221::21")] {
        let spec = RuleSpec::new(source.parse().unwrap(), gateway(hop));
        let rule = on(&seed.server, any_hook(), |byway| byway.add(&spec)).unwrap();
        assert_eq!(rule.target.to_string(), format!("via {hop} (dev eth1)"));
    }
}

#[test]
fn rules_are_added_once_and_deleted_once() {
    let seed = Seed::new().unwrap();
    let spec = via("192.168.1.0/24", "10.111.221.21".parse().unwrap(), "eth1");
    on(&seed.server, any_hook(), |byway| byway.add(&spec)).unwrap();
    let error = on(&seed.server, any_hook(), |byway| byway.add(&spec)).unwrap_err();
    assert_eq!(
        error.sentence(),
        "there is already a rule for these packets (from 192.168.1.0/24 via 10.111.221.21 dev eth1); use `replace` to change it"
    );
    // A longer or shorter prefix is another source.
    for source in ["192.168.1.0/25", "192.168.0.0/23", "192.168.1.0"] {
        let error = on(&seed.server, any_hook(), |byway| byway.del(&source.parse().unwrap())).unwrap_err();
        assert_eq!(error.sentence(), format!("there is no rule from {source}"));
        let error = on(&seed.server, any_hook(), |byway| byway.detach(&["eth1"])).unwrap_err();
        assert_eq!(error.sentence(), "byway is not attached to eth1");
    }
    // None is none, and not all.
    let attached = || on(&seed.server, any_hook(), |byway| byway.attachments()).unwrap();
    let before = attached();
    assert_eq!(on(&seed.server, any_hook(), |byway| byway.detach(&[])).unwrap(), []);
    let none = Attach::Devices(Vec::new());
    assert_eq!(on(&seed.server, any_hook(), |byway| byway.attach(&none)).unwrap(), []);
    assert_eq!(attached(), before);
    on(&seed.server, any_hook(), |byway| byway.del(&spec.selector)).unwrap();
    assert!(matches!(
        on(&seed.server, any_hook(), |byway| byway.del(&spec.selector)),
        Err(Error::NoSuchRule(_))
    ));
}

#[test]
fn nothing_to_attach_to_is_said() {
    let lab = Lab::new().unwrap();
    let (a, b) = (lab.node("a").unwrap(), lab.node("b").unwrap());
    lab.link((&a, "eth1"), (&b, "eth0")).unwrap();
    a.address("eth1", "10.0.0.1/24").unwrap();
    let no_default_route = |result: byway::Result<()>| {
        assert_eq!(
            result.unwrap_err().sentence(),
            "there is no default route, so there is no interface to attach to; name the interface to attach to"
        );
        assert_eq!(pins(), Vec::<String>::new());
    };
    no_default_route(on(&a, any_hook(), |byway| byway.attach(&Attach::Auto).map(drop)));
    let spec = via("10.9.9.9", "10.0.0.2".parse().unwrap(), "eth1");
    no_default_route(on(&a, any_hook(), |byway| byway.add(&spec).map(drop)));

    // Each device of a default route, of either family, is attached to; `unreachable` is no device.
    lab.link((&a, "eth2"), (&b, "eth2")).unwrap();
    a.address("eth2", "2001:db8::1/64").unwrap();
    a.route("unreachable default metric 900").unwrap();
    no_default_route(on(&a, any_hook(), |byway| byway.attach(&Attach::Auto).map(drop)));
    a.route("default via 10.0.0.2").unwrap();
    a.route("default via 2001:db8::2").unwrap();
    let attached = on(&a, any_hook(), |byway| byway.attach(&Attach::Auto)).unwrap();
    let names: Vec<&str> = attached.iter().map(|device| device.name.as_str()).collect();
    assert_eq!(names, ["eth1", "eth2"]);
}

#[test]
fn pins_of_another_schema_are_left_alone() {
    let seed = Seed::new().unwrap();
    let spec = via("192.168.1.5", "10.111.221.21".parse().unwrap(), "eth1");
    on(&seed.server, any_hook(), |byway| byway.add(&spec)).unwrap();
    let folder = pins().remove(0);
    let mut meta: aya::maps::Array<_, u32> =
        aya::maps::Map::from_map_data(aya::maps::MapData::from_pin(format!("{folder}/META")).unwrap())
            .unwrap()
            .try_into()
            .unwrap();
    meta.set(0, 999, 0).unwrap();
    let sentence = format!(
        "the pins in {folder} have schema 999, and this byway uses schema {}; use the byway that made them, or flush and detach with it first",
        byway_abi::SCHEMA
    );
    let refused = |call: fn(&mut Byway, &RuleSpec) -> byway::Result<()>| {
        let error = on(&seed.server, any_hook(), |byway| call(byway, &spec)).unwrap_err();
        assert_eq!(error.sentence(), sentence);
        assert_ne!(error.kind(), byway::ErrorKind::Failed);
    };
    refused(|byway, spec| byway.add(spec).map(drop));
    refused(|byway, spec| byway.replace(spec).map(drop));
    refused(|byway, spec| byway.del(&spec.selector).map(drop));
    refused(|byway, _| byway.flush().map(drop));
    refused(|byway, _| byway.attach(&Attach::Auto).map(drop));
    refused(|byway, _| byway.detach_all().map(drop));
    refused(|byway, _| byway.rules().map(drop));
    meta.set(0, byway_abi::SCHEMA, 0).unwrap();
    assert_eq!(rules(&seed.server).len(), 1);
}

/// A failure half-way takes back what was done before it.
#[test]
fn a_change_that_fails_half_way_is_taken_back() {
    let seed = Seed::new().unwrap();
    // The clsact attach to the default-gateway device is the last step; an ingress qdisc makes it fail.
    seed.server.run(|| crate::support::add_ingress_qdisc("eth0"));
    let spec = via("192.168.1.5", "10.111.221.21".parse().unwrap(), "eth1");
    let before = seed.server.neighbour("eth1", [10, 111, 221, 21].into()).unwrap();
    let error = on(&seed.server, byway::Hook::Clsact, |byway| byway.add(&spec)).unwrap_err();
    assert_eq!(
        error.sentence(),
        "cannot attach to eth0: it has an `ingress` qdisc, which leaves no room for an egress hook; replace it: `tc qdisc del dev eth0 ingress; tc qdisc add dev eth0 clsact`"
    );
    assert_eq!(pins(), Vec::<String>::new());
    let managed =
        |neighbour: Option<byway_lab::Neighbour>| neighbour.is_some_and(|neighbour| neighbour.managed);
    let after = seed.server.neighbour("eth1", [10, 111, 221, 21].into()).unwrap();
    assert_eq!(managed(after), managed(before));

    // The same with something there before: it stays as it was.
    on(&seed.server, byway::Hook::Clsact, |byway| byway.attach(&Attach::devices(["eth1"]))).unwrap();
    let before = state(&seed);
    on(&seed.server, byway::Hook::Clsact, |byway| byway.attach(&Attach::devices(["eth0"]))).unwrap_err();
    assert_eq!(state(&seed), before);
}

/// A next hop on a device whose packets leave through an attachment would bring them back to it without end.
#[test]
fn a_next_hop_above_an_attachment_is_refused() {
    let seed = Seed::new().unwrap();
    let call = |call: fn(&mut Byway) -> byway::Result<()>| on(&seed.server, any_hook(), call);
    seed.server.run(|| crate::support::add_macvlan("mv0", "eth0"));
    seed.server.set_up("mv0", true).unwrap();
    let sentence = "mv0 sends its packets through eth0, where an attachment would redirect them again and again; use eth0 for the next hop, or do not attach to eth0";
    let error = call(|byway| byway.add(&on_link("192.168.1.5", "mv0")).map(drop)).unwrap_err();
    assert_eq!(error.sentence(), sentence);
    assert_eq!(pins(), Vec::<String>::new());
    // Also where there is a device in between.
    seed.server.run(|| crate::support::add_macvlan("mv1", "mv0"));
    let error = call(|byway| byway.add(&on_link("192.168.1.5", "mv1")).map(drop)).unwrap_err();
    assert!(error.sentence().starts_with("mv1 sends its packets through eth0"), "{error}");
    // The other way round: the rule first, on another attachment, and then the device below.
    call(|byway| byway.attach(&Attach::devices(["eth1"])).map(drop)).unwrap();
    call(|byway| byway.add(&on_link("192.168.1.5", "mv0")).map(drop)).unwrap();
    let error = call(|byway| byway.attach(&Attach::devices(["eth0"])).map(drop)).unwrap_err();
    assert_eq!(error.sentence(), sentence);
    assert_ne!(error.kind(), byway::ErrorKind::Failed);
}

/// Its links would be those of one network namespace, and its rules those of the other.
#[test]
fn a_handle_works_in_its_own_network_namespace_alone() {
    let seed = Seed::new().unwrap();
    let [server, router] = [&seed.server, &seed.router].map(|node| node.path().display().to_string());
    let moves = move || {
        byway::enter_namespace(&server).unwrap();
        let mut byway = byway::Byway::open().unwrap();
        assert_eq!(byway.status().unwrap(), byway::Status::default());
        byway::enter_namespace(&router).unwrap();
        for refused in [
            byway.status().map(drop),
            byway.attach(&Attach::Auto).map(drop),
            byway.add(&"from 192.168.1.5 pass".parse().unwrap()).map(drop),
            byway.export().map(drop),
            byway.unconfirmed().map(drop),
            byway.time_to_confirm("1-1").map(drop),
            byway.guarding().map(drop),
            byway.confirm().map(drop),
            byway.rollback_if_overdue().map(drop),
            byway.rollback_unless_confirmed("1-1", true).map(drop),
            byway.rollback().map(drop),
        ] {
            assert!(matches!(refused, Err(Error::OtherNamespace)), "{refused:?}");
        }
        byway::enter_namespace(&server).unwrap();
        byway.status().unwrap();
    };
    std::thread::spawn(moves).join().unwrap();
}
