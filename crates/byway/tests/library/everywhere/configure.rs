//! What holds, as a configuration, and back: nothing changes.

use byway::{
    Attach, Byway, GroupSpec, MemberSpec, Mss, NextHopSpec, OnDown, Owner, RuleSpec, Selector, TargetSpec,
    config::{Severity, read},
};
use byway_lab::seed::{IPV4, Seed};
use proptest::{
    collection::vec,
    option,
    prelude::*,
    test_runner::{Config, TestRunner},
};

fn any_next_hop() -> impl Strategy<Value = NextHopSpec> {
    prop_oneof![
        Just(NextHopSpec::Via(IPV4.router)),
        Just(NextHopSpec::ViaDev(IPV4.router, "eth1".into())),
        Just(NextHopSpec::ViaDev([10, 111, 221, 77].into(), "eth1".into())),
        Just(NextHopSpec::Dev("eth1".into())),
        Just(NextHopSpec::Dev("eth0".into())),
    ]
}

fn any_members() -> impl Strategy<Value = Vec<MemberSpec>> {
    let distinct = [
        NextHopSpec::ViaDev(IPV4.router, "eth1".into()),
        NextHopSpec::ViaDev([10, 111, 221, 77].into(), "eth1".into()),
        NextHopSpec::Dev("eth0".into()),
    ];
    (1..=3_usize, vec(1..=256_u16, 3)).prop_map(move |(count, weights)| {
        let members = distinct.iter().cloned().zip(weights).take(count);
        members.map(|(next_hop, weight)| MemberSpec::new(next_hop).weight(weight)).collect()
    })
}

fn any_rule() -> impl Strategy<Value = RuleSpec> {
    let target = prop_oneof![
        Just(TargetSpec::Pass),
        Just(TargetSpec::Drop),
        Just(TargetSpec::Group("up.links".into())),
        any_next_hop().prop_map(TargetSpec::NextHop),
        any_members().prop_map(TargetSpec::NextHops),
    ];
    let prefix = |base: [u8; 3]| {
        (any::<u8>(), 24..=32_u8).prop_map(move |(last, length)| {
            byway::Prefix::holding([base[0], base[1], base[2], last].into(), length).unwrap()
        })
    };
    let mss = prop_oneof![Just(Mss::Auto), Just(Mss::Off), Just(Mss::Bytes(1_400))];
    let owner = prop_oneof![Just(Owner::CLI), Just(Owner::API), Just(Owner::CONFIG)];
    let selector = (prefix([192, 168, 1]), option::of(prefix([203, 0, 113])));
    (selector, target, any::<bool>(), mss, owner, option::of("[a-z]{1,8}")).prop_map(
        |((source, destination), target, drops, mss, owner, name)| {
            let has_own = matches!(target, TargetSpec::NextHop(_) | TargetSpec::NextHops(_));
            let leads_on = !matches!(target, TargetSpec::Pass | TargetSpec::Drop);
            let on_down = if drops && has_own { OnDown::Drop } else { OnDown::Pass };
            let mss = if leads_on { mss } else { Mss::Auto };
            let spec = RuleSpec::new(Selector::new(source, destination), target);
            let spec = spec.on_down(on_down).mss(mss).owner(owner);
            if let Some(name) = name { spec.name(name) } else { spec }
        },
    )
}

/// Also one that this version has no name for.
#[test]
fn what_another_owner_has_stays() {
    let seed = Seed::new().unwrap();
    seed.server.run(|| {
        let mut byway = Byway::open().unwrap();
        let owner = Owner::new(42);
        let rule = "from 192.168.1.7 pass".parse::<RuleSpec>().unwrap().owner(owner);
        let group = "up nexthop via 10.111.221.21 dev eth1".parse::<GroupSpec>().unwrap().owner(owner);
        byway.add(&rule).unwrap();
        byway.add_group(&group).unwrap();
        for other in [Owner::API, Owner::CONFIG] {
            byway.apply(other, &byway::config::Config::default()).unwrap();
        }
        let status = byway.status().unwrap();
        assert_eq!(
            status.rules.iter().map(|it| RuleSpec::try_from(&it.rule).unwrap()).collect::<Vec<_>>(),
            [rule]
        );
        assert_eq!(status.groups.iter().map(|it| GroupSpec::from(&it.group)).collect::<Vec<_>>(), [group]);
        assert_eq!(status.rules[0].rule.owner.to_string(), "42");
        byway.flush().unwrap();
        byway.del_group("up").unwrap();
        byway.detach_all().unwrap();
    });
}

#[test]
fn export_and_apply_is_the_identity() {
    let seed = Seed::new().unwrap();
    // Each takes half a second, and five on an emulated machine.
    let cases = if std::env::var_os("BYWAY_EMULATED").is_some() { 4 } else { 16 };
    let states = (vec(any_rule(), 0..12), any_members(), any::<bool>(), any::<bool>());
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let result = runner.run(&states, |(mut rules, members, drops, attaches)| {
        seed.server.run(|| {
            let mut byway = Byway::open().unwrap();
            byway.flush().unwrap();
            byway.detach_all().unwrap();
            if attaches {
                byway.attach(&Attach::devices(["eth0", "eth1"])).unwrap();
            }
            let on_down = if drops { OnDown::Drop } else { OnDown::Pass };
            let group = GroupSpec::new("up.links", members).on_down(on_down).owner(Owner::CLI);
            byway.replace_group(&group).unwrap();
            rules.sort_by_key(|rule| rule.selector);
            rules.dedup_by_key(|rule| rule.selector);
            byway.add_all(&rules).unwrap();

            // Without what has left by the attachments: the kernel itself sends something now and then.
            let status = |byway: &mut Byway| {
                let mut status = byway.status().unwrap();
                status.attachments.iter_mut().for_each(|it| it.counters = None);
                status
            };
            let before = status(&mut byway);
            let text = byway.export().unwrap().to_string();
            let reading = read([("export.toml".into(), text.clone())], &mut |path| {
                Err(byway::FileError::Missing(path.to_owned()))
            });
            let errors = reading.problems.iter().filter(|it| it.severity == Severity::Error);
            assert_eq!(errors.count(), 0, "{text}");
            let config = reading.config.unwrap();
            assert!(byway.diff(Owner::CONFIG, &config).unwrap().is_empty(), "{text}");
            assert!(byway.apply(Owner::CONFIG, &config).unwrap().is_empty(), "{text}");
            assert_eq!(status(&mut byway), before, "{text}");
            assert_eq!(byway.export().unwrap().to_string(), text);

            // On a host where nothing of it holds it makes the same rules, of the configuration.
            byway.flush().unwrap();
            byway.del_group("up.links").unwrap();
            byway.detach_all().unwrap();
            byway.apply(Owner::CONFIG, &config).unwrap();
            assert_eq!(byway.export().unwrap().to_string(), text);
            assert!(byway.status().unwrap().rules.iter().all(|it| it.rule.owner == Owner::CONFIG));
            byway.apply(Owner::CONFIG, &byway::config::Config::default()).unwrap();
        });
        Ok(())
    });
    result.unwrap();
}
