//! Rules that name a destination: the longest source counts, then the longest destination, over the whole rule set.

use byway::{Error, Selector, TargetSpec};

use crate::support::{
    any_hook, hooks_and_families, on, pins,
    routers::{Routers, Way, rule},
    rules,
};

#[test]
fn exceptions_and_detours_by_destination() {
    for (hook, v6) in hooks_and_families() {
        let hosts = Routers::new(v6);
        let (host, other) = (hosts.source(5), hosts.source(6));
        let (near, far) = (hosts.far(1), hosts.far(0x101));
        let (network, near_network) = (hosts.around(host, 8), hosts.around(near, 8));
        let by = |router| TargetSpec::NextHop(hosts.hop(router));
        let ways =
            || [hosts.way(host, near), hosts.way(host, far), hosts.way(other, near), hosts.way(other, far)];
        let byway =
            |specs: &[byway::RuleSpec]| on(&hosts.server, hook, |byway| byway.add_all(specs)).unwrap();
        let del = |selector: Selector| on(&hosts.server, hook, |byway| byway.del(&selector)).unwrap();

        // The everyday exception.
        let host_text = host.to_string();
        let everyday =
            [rule(&host_text, None, by(1)), rule(&host_text, Some(&near_network), TargetSpec::Pass)];
        byway(&everyday);
        assert_eq!(ways(), [Way::Gateway, Way::Router1, Way::Gateway, Way::Gateway]);
        assert_eq!(rules(&hosts.server).len(), 2);
        assert_eq!(rules(&hosts.server)[1].passed.packets, 1);

        // A network around it, which says something of the near destinations alone, and one more for the host.
        byway(&[rule(&network, Some(&near_network), by(2))]);
        assert_eq!(ways(), [Way::Gateway, Way::Router1, Way::Router2, Way::Gateway]);
        // Without its own word on the near destinations the host's rule for all counts, for its source is longer.
        del(everyday[1].selector);
        assert_eq!(ways(), [Way::Router1, Way::Router1, Way::Router2, Way::Gateway]);
        // Without that the network's counts, as far as it goes.
        byway(&[rule(&host_text, Some(&hosts.around(far, 0)), by(1))]);
        del(everyday[0].selector);
        assert_eq!(ways(), [Way::Router2, Way::Router1, Way::Router2, Way::Gateway]);
        // A longer destination of a shorter source does not count against a shorter one of a longer source.
        byway(&[
            rule(&network, Some(&hosts.around(near, 0)), by(1)),
            rule(&host_text, Some(&near_network), by(2)),
        ]);
        assert_eq!(ways(), [Way::Router2, Way::Router1, Way::Router1, Way::Gateway]);

        on(&hosts.server, hook, |byway| byway.flush().and_then(|_| byway.detach_all())).unwrap();
        assert_eq!(ways(), [Way::Gateway; 4]);
        assert_eq!(pins(), Vec::<String>::new());
    }
}

#[test]
fn a_rule_is_known_by_source_and_destination() {
    let hosts = Routers::new(false);
    let hook = any_hook();
    let spec = rule("192.168.1.5", Some("10.0.0.0/8"), TargetSpec::Pass);
    on(&hosts.server, hook, |byway| byway.add(&spec)).unwrap();
    let error = on(&hosts.server, hook, |byway| byway.del(&"192.168.1.5".parse().unwrap())).unwrap_err();
    assert_eq!(error.sentence(), "there is no rule from 192.168.1.5");
    let error = on(&hosts.server, hook, |byway| byway.add(&spec)).unwrap_err();
    assert!(matches!(error, Error::RuleExists(_)), "{error}");
    on(&hosts.server, hook, |byway| byway.add(&rule("192.168.1.5", None, TargetSpec::Drop))).unwrap();
    assert_eq!(rules(&hosts.server).len(), 2);
    // All destinations are none.
    let all = rule("192.168.1.5", Some("0.0.0.0/0"), TargetSpec::Pass);
    on(&hosts.server, hook, |byway| byway.replace(&all)).unwrap();
    let shown: Vec<String> = rules(&hosts.server).iter().map(|it| it.rule.to_string()).collect();
    assert_eq!(shown, ["from 192.168.1.5 pass", "from 192.168.1.5 to 10.0.0.0/8 pass"]);
}

/// 400 sources of 400 destinations each do not fit, and nothing has changed then.
#[test]
fn too_many_destinations_are_refused() {
    let hosts = Routers::new(false);
    let hook = any_hook();
    let destination = |nth: usize| format!("10.{}.{}.0/24", nth / 256, nth % 256);
    let mut specs: Vec<_> =
        (0..400).map(|nth| rule("0.0.0.0/0", Some(&destination(nth)), TargetSpec::Pass)).collect();
    on(&hosts.server, hook, |byway| byway.add_all(&specs)).unwrap();
    let few = |nth: usize| {
        rule(&format!("192.168.{}.{}", nth / 256, nth % 256), Some("172.16.0.0/12"), TargetSpec::Pass)
    };
    let error =
        on(&hosts.server, hook, |byway| byway.add_all(&(0..400).map(few).collect::<Vec<_>>())).unwrap_err();
    assert_ne!(error.kind(), byway::ErrorKind::Failed);
    assert!(error.sentence().starts_with("the rules need 160800 destinations"), "{error}");
    assert_eq!(rules(&hosts.server).len(), 400);
    // Rules for all destinations have nothing from the network around them.
    let all = |nth: usize| byway::RuleSpec::new(few(nth).selector.source().into(), few(nth).target);
    specs.extend((0..400).map(all));
    on(&hosts.server, hook, |byway| byway.replace_all(&specs)).unwrap();
    assert_eq!(rules(&hosts.server).len(), 800);
}
