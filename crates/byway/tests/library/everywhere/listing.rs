//! Listings: one rule alone, and many one after the other.

use byway::{Byway, Error, GroupSpec, MemberSpec, RuleSpec, RuleStatus, Selection, Selector, TargetSpec};

use crate::support::{
    FAMILIES, any_hook, on,
    routers::{Routers, Way, rule},
    rules,
};

fn call<T: Send>(hosts: &Routers, call: impl FnOnce(&mut Byway) -> T + Send) -> T {
    on(&hosts.server, any_hook(), call)
}

fn selector(source: &str, destination: Option<&str>) -> Selector {
    rule(source, destination, TargetSpec::Pass).selector
}

/// A group called `up` of both routers, and next hops of a rule's own.
fn both(hosts: &Routers) -> (GroupSpec, TargetSpec) {
    let members: Vec<MemberSpec> = [1, 2].map(|router| MemberSpec::new(hosts.hop(router))).to_vec();
    let group = GroupSpec::new("up", members.clone());
    (group, TargetSpec::NextHops(members))
}

#[test]
fn one_rule_is_found_by_its_words_and_no_other_in_its_place() {
    for v6 in FAMILIES {
        let hosts = Routers::new(v6);
        let (host, other) = (hosts.source(5).to_string(), hosts.source(0x105).to_string());
        let network = hosts.around(hosts.source(5), 8);
        let (near, wider) = (hosts.around(hosts.far(1), 4), hosts.around(hosts.far(1), 12));
        let none = call(&hosts, |byway| byway.rule(&selector(&host, None))).unwrap_err();
        assert!(matches!(none, Error::NoSuchRule(_)), "{none}");

        let (group, several) = both(&hosts);
        call(&hosts, |byway| byway.add_group(&group)).unwrap();
        let by = |router| TargetSpec::NextHop(hosts.hop(router));
        let specs = [
            rule(&host, None, by(1)),
            rule(&other, None, TargetSpec::Group("up".into())),
            rule(&hosts.source(0x106).to_string(), None, several),
            rule(&network, None, TargetSpec::Drop),
            // From here on sources have sets of destinations, those that are within the network its words, too.
            rule(&network, Some(&wider), by(2)),
            rule(&hosts.source(6).to_string(), Some(&near), TargetSpec::Pass),
        ];
        for spec in &specs {
            call(&hosts, |byway| byway.add(spec)).unwrap();
            for it in &rules(&hosts.server) {
                let selector = it.rule.selector();
                assert_eq!(call(&hosts, |byway| byway.rule(&selector)).unwrap(), *it);
            }
        }
        assert_eq!(hosts.way(hosts.source(5), hosts.far(1)), Way::Router1);
        assert_eq!(call(&hosts, |byway| byway.rule(&selector(&host, None))).unwrap().departed.packets, 1);

        let within = hosts.source(6).to_string();
        for (source, destination) in [
            // What the tables have for these is the network's.
            (within.as_str(), None),
            (&within, Some(wider.as_str())),
            // A rule for all destinations, or for others around these.
            (&host, Some(&near)),
            (&network, Some(&near)),
            (&other, Some(&near)),
            // A source within the network, and one around it.
            (&hosts.source(7).to_string(), None),
            (&hosts.around(hosts.source(5), 9), None),
            (&hosts.around(hosts.source(5), 0), Some(&wider)),
            (&hosts.around(hosts.source(5), 7), Some(&wider)),
        ] {
            let asked = selector(source, destination);
            let is_there = rules(&hosts.server).iter().any(|it| it.rule.selector() == asked);
            let found = call(&hosts, |byway| byway.rule(&asked));
            assert!(!is_there && matches!(found, Err(Error::NoSuchRule(_))), "{asked}: {found:?}");
        }
    }
}

/// More than are read at once, not in the order of a listing.
fn many() -> Vec<RuleSpec> {
    let pass = |source: String, destination: Option<&str>| rule(&source, destination, TargetSpec::Pass);
    let mut specs = vec![
        pass("10.0.0.0/8".into(), None),
        pass("10.0.0.0/8".into(), Some("172.16.0.0/12")),
        pass("10.0.0.0/9".into(), None),
        pass("2001:db8::/32".into(), Some("2001:db8:ff::/48")),
        pass("2001:db8::/32".into(), None),
    ];
    for nth in 0..700_u32 {
        let mixed = nth * 7_919 % 65_536;
        specs.push(pass(format!("10.9.{}.{}", mixed >> 8, mixed & 255), None));
        specs.push(pass(format!("2001:db8:0:{:x}::{:x}", mixed & 3, mixed >> 2), None));
    }
    specs
}

#[test]
fn many_rules_one_after_the_other_are_what_they_are_at_once() {
    let hosts = Routers::new(false);
    let (group, several) = both(&hosts);
    call(&hosts, |byway| byway.add_group(&group)).unwrap();
    let second = hosts.hop(2);
    let mut specs = many();
    specs.push(rule("192.168.1.1", None, TargetSpec::Group("up".into())));
    specs.push(rule("192.168.1.2", None, several));
    specs.push(rule("192.168.0.5", None, TargetSpec::NextHop(hosts.hop(1))));
    specs.push(rule("192.168.0.6", None, TargetSpec::NextHop(hosts.hop(2))));
    for specs in [&specs[specs.len() - 4..], &specs] {
        call(&hosts, |byway| byway.replace_all(specs)).unwrap();
        call(&hosts, |byway| byway.take_out_of_service(&second)).unwrap();
        assert_eq!(hosts.way(hosts.source(5), hosts.far(1)), Way::Router1);
        assert_eq!(hosts.way(hosts.source(6), hosts.far(1)), Way::Gateway);
        let mut status = call(&hosts, |byway| byway.status()).unwrap();
        assert_eq!(status.rules.len(), specs.len());
        assert!(status.rules.is_sorted_by(|one, next| one.rule.selector() < next.rule.selector()));
        assert_eq!(status.groups[0].rules, 1);
        let users: Vec<_> = status.next_hops.iter().map(|it| (it.rules, it.groups.join(" "))).collect();
        assert_eq!(users, [(3, "up".to_owned()), (3, "up".to_owned())]);
        // Exceptions have counters of their own.
        assert_eq!(status.rules.iter().filter(|it| it.no_next_hop.packets > 0).count(), 1);
        call(&hosts, |byway| {
            let mut listing = byway.listing().unwrap();
            // What has left by the attachments may be more by now: the kernel itself sends something now and then.
            for it in listing.attachments.iter_mut().chain(&mut status.attachments) {
                it.counters = None;
            }
            let rules = || listing.rules().collect::<byway::Result<Vec<RuleStatus>>>().unwrap();
            assert_eq!(rules(), status.rules);
            // Another thread reads them as well.
            assert_eq!(std::thread::scope(|scope| scope.spawn(rules).join()).unwrap(), status.rules);
            assert_eq!(listing.attachments, status.attachments);
            assert_eq!((&listing.groups, &listing.next_hops), (&status.groups, &status.next_hops));
            assert_eq!(serde_json::to_value(&listing).unwrap(), serde_json::to_value(&status).unwrap());
        });
    }
}

#[test]
fn many_rules_are_chosen_as_few_are() {
    let hosts = Routers::new(false);
    let specs = many();
    call(&hosts, |byway| {
        byway.add_all(&specs).unwrap();
        let status = byway.status().unwrap();
        for (words, number) in [
            ("within 10.9.0.0/16", 700),
            ("within 10.9.0.0/16 head 3", 3),
            ("covering 10.9.1.1", 3),
            ("sort by packets head 5", 5),
            ("owner cli", 0),
            ("unused", 1_405),
        ] {
            let selection: Selection = words.parse().unwrap();
            let chosen: Vec<RuleStatus> = selection.rules(&status, None).into_iter().cloned().collect();
            assert_eq!(chosen.len(), number, "{words}");
            let mut listing = byway.listing().unwrap();
            listing.select(&selection).unwrap();
            assert_eq!(listing.rules().collect::<byway::Result<Vec<_>>>().unwrap(), chosen, "{words}");
            assert_eq!(listing.rule_count(), 1_405, "{words}");
            let json = serde_json::to_value(&listing).unwrap();
            assert_eq!(json["rules"].as_array().unwrap().len(), chosen.len(), "{words}");
        }
    });
}

#[test]
fn a_flush_deletes_what_it_chooses_and_nothing_else() {
    let hosts = Routers::new(false);
    let (group, _) = both(&hosts);
    call(&hosts, |byway| byway.add_group(&group)).unwrap();
    let by = |router| TargetSpec::NextHop(hosts.hop(router));
    let specs = [
        rule(&hosts.source(5).to_string(), None, by(1)),
        rule(&hosts.source(6).to_string(), None, by(2)).name("web-1"),
        rule(&hosts.source(7).to_string(), None, TargetSpec::Group("up".into())),
        rule("10.9.0.0/16", None, TargetSpec::Pass).name("web-2"),
        rule("10.9.1.0/24", None, TargetSpec::Drop),
    ];
    call(&hosts, |byway| byway.add_all(&specs)).unwrap();
    assert_eq!(hosts.way(hosts.source(5), hosts.far(1)), Way::Router1);
    let flushed = |words: &str| -> Vec<String> {
        let deleted = call(&hosts, |byway| byway.flush_only(&words.parse().unwrap())).unwrap();
        deleted.iter().map(|rule| rule.source.to_string()).collect()
    };
    let gateway = hosts.hop(2).gateway().unwrap();
    assert_eq!(flushed("name nothing"), Vec::<String>::new());
    assert_eq!(flushed("within 10.9.0.0/16 name web-*"), ["10.9.0.0/16"]);
    // The rule of the group goes there as well.
    assert_eq!(
        flushed(&format!("via {gateway}")),
        [hosts.source(6).to_string(), hosts.source(7).to_string()]
    );
    assert_eq!(flushed("unused"), ["10.9.1.0/24"]);
    assert_eq!(rules(&hosts.server).len(), 1);
    assert_eq!(flushed("owner api"), [hosts.source(5).to_string()]);
    assert_eq!(call(&hosts, |byway| byway.groups()).unwrap().len(), 1);
}

#[test]
fn rules_that_change_while_they_are_listed() {
    let hosts = Routers::new(false);
    let specs = many();
    call(&hosts, |byway| byway.add_all(&specs)).unwrap();
    call(&hosts, |byway| {
        let (before, listing) = (byway.rules().unwrap(), byway.listing().unwrap());
        let mut rules = listing.rules();
        assert_eq!(rules.next().unwrap().unwrap(), before[0]);
        let [gone, other] = [before[100].rule.selector(), before[200].rule.selector()];
        byway.del(&gone).unwrap();
        byway.replace(&rule(&other.source().to_string(), None, TargetSpec::Drop)).unwrap();
        byway.add(&rule("10.9.255.255", None, TargetSpec::Drop)).unwrap();
        let rest: Vec<RuleStatus> = rules.collect::<byway::Result<_>>().unwrap();
        let stay = |it: &&RuleStatus| ![gone, other].contains(&it.rule.selector());
        assert_eq!(rest, before[1..].iter().filter(stay).cloned().collect::<Vec<_>>());
        // All of Byway's may go, too.
        let again = listing.rules();
        byway.flush().unwrap();
        byway.detach_all().unwrap();
        assert_eq!(again.count(), 0);
    });
}
