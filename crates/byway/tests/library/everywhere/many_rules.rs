//! Rules by the ten thousand: tables and chunks that grow, and are gone in the end.

use std::net::Ipv4Addr;

use byway::{Byway, Error, MemberSpec, NextHopSpec, RuleSpec, RuleStatus, TargetSpec};

use crate::support::{
    any_hook, on, pins,
    routers::{Routers, Way, rule},
    rules,
};

/// More than some chunks of records have room for.
const MANY: u32 = 3_000;

fn source(nth: u32) -> String {
    Ipv4Addr::from(0x0A80_0000 + nth).to_string()
}

fn call<T: Send>(hosts: &Routers, call: impl FnOnce(&mut Byway) -> T + Send) -> T {
    on(&hosts.server, any_hook(), call)
}

#[test]
fn tables_grow_and_shrink_while_each_rule_holds() {
    let hosts = Routers::new(false);
    let via = |source: &str, hop: &NextHopSpec| rule(source, None, TargetSpec::NextHop(hop.clone()));
    let (first, second) = (hosts.hop(1), hosts.hop(2));
    let put = |spec: RuleSpec| call(&hosts, |byway| byway.replace(&spec)).unwrap();
    let (from, to) = (hosts.source(5), hosts.far(1));
    put(via(&from.to_string(), &second));
    let many: Vec<RuleSpec> = (0..MANY).map(|nth| via(&source(nth), &first)).collect();
    call(&hosts, |byway| byway.add_all(&many)).unwrap();
    assert_eq!(hosts.way(from, to), Way::Router2);
    assert_eq!(rules(&hosts.server).len(), MANY as usize + 1);

    // One by one: in place, until there is no room, and then in a larger table.
    for nth in 0..20 {
        put(via(&source(MANY + nth), &first));
        put(via(&source(nth), &second));
        call(&hosts, |byway| byway.del(&many[100 + nth as usize].selector)).unwrap();
    }
    let held = rules(&hosts.server);
    assert_eq!(held.len(), MANY as usize + 1);
    let is_second = |it: &&RuleStatus| it.rule.target.next_hops().any(|hop| hop.gateway == second.gateway());
    let by_second = held.iter().filter(is_second).count();
    assert_eq!(by_second, 21);
    assert_eq!(hosts.way(from, to), Way::Router2);

    // A change of one rule knows what the others need, without reading them: the last user of a next hop takes it along.
    let next_hops = || call(&hosts, |byway| byway.next_hops()).unwrap().len();
    let third = NextHopSpec::Dev("eth2".into());
    let (one, other) = (via("10.200.0.1", &third), via("10.200.0.2", &third));
    for (change, expected) in [(Some(&one), 3), (Some(&other), 3), (None, 3)] {
        match change {
            Some(spec) => put(spec.clone()),
            None => call(&hosts, |byway| byway.del(&one.selector)).unwrap(),
        };
        assert_eq!(next_hops(), expected);
    }
    call(&hosts, |byway| byway.del(&other.selector)).unwrap();
    assert_eq!(next_hops(), 2);
    put(one.clone());
    put(via("10.200.0.1", &first));
    assert_eq!(next_hops(), 2);
    // Also where that is a rule with several next hops of its own.
    let several = [&first, &third].map(|hop| MemberSpec::new(hop.clone()));
    put(rule("10.200.0.3", None, TargetSpec::NextHops(several.to_vec())));
    put(one.clone());
    call(&hosts, |byway| byway.del(&one.selector)).unwrap();
    assert_eq!(next_hops(), 3);
    call(&hosts, |byway| byway.del(&rule("10.200.0.3", None, TargetSpec::Pass).selector)).unwrap();
    assert_eq!(next_hops(), 2);
    put(one.clone());
    let again = call(&hosts, |byway| byway.add(&one)).unwrap_err();
    assert!(matches!(again, Error::RuleExists(_)), "{again}");
    call(&hosts, |byway| byway.del(&one.selector)).unwrap();
    let gone = call(&hosts, |byway| byway.del(&one.selector)).unwrap_err();
    assert!(matches!(gone, Error::NoSuchRule(_)), "{gone}");

    // All of them replaced at once need identities beside those that they have.
    let others: Vec<RuleSpec> = (0..MANY).map(|nth| via(&source(nth), &second)).collect();
    for all in [&others, &many, &others] {
        call(&hosts, |byway| byway.replace_all(all)).unwrap();
        assert_eq!(rules(&hosts.server).len(), MANY as usize + 21);
    }
    assert_eq!(call(&hosts, |byway| byway.flush()).unwrap().len(), MANY as usize + 21);
    assert_eq!(rules(&hosts.server).len(), 0);
    put(via(&from.to_string(), &first));
    assert_eq!(hosts.way(from, to), Way::Router1);
    call(&hosts, |byway| byway.flush().and_then(|_| byway.detach_all())).unwrap();
    assert_eq!(pins(), Vec::<String>::new());
}
