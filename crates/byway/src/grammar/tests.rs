//! Tests of the grammar: what it reads, what it refuses in which words, and round trips.

use std::fmt::{Debug, Display};

use proptest::{
    collection::{btree_set, vec},
    option,
    prelude::*,
};
use serde::{Serialize, de::DeserializeOwned};

use super::{error::ELSEWHERE, *};
use crate::model::{Learned, Owner};

fn prefixes(v4: bool) -> impl Strategy<Value = Prefix> {
    (any::<[u8; 16]>(), 0..=128_u8).prop_map(move |(octets, length)| {
        let v4_octets: [u8; 4] = octets[..4].try_into().unwrap();
        let address = if v4 { IpAddr::from(v4_octets) } else { IpAddr::from(octets) };
        Prefix::holding(address, if v4 { length % 33 } else { length }).unwrap()
    })
}

/// Keywords are names as well.
fn names() -> impl Strategy<Value = String> {
    let keywords = [FROM, TO, VIA, DEV, WEIGHT, GROUP, ON_DOWN, MSS, NAME, PASS, DROP, NEXTHOP];
    let keywords = keywords.map(|(keyword, _)| keyword.to_owned());
    prop_oneof![4 => "[a-zA-Z0-9_.:-]{1,15}", 1 => prop::sample::select(keywords.to_vec())]
}

fn next_hops() -> impl Strategy<Value = NextHopSpec> {
    prop_oneof![
        any::<IpAddr>().prop_map(NextHopSpec::via),
        names().prop_map(NextHopSpec::on_link),
        (any::<IpAddr>(), names()).prop_map(|(gateway, device)| NextHopSpec::via(gateway).dev(device)),
        (prop::sample::select(&Learned::ALL[..]), names())
            .prop_map(|(learned, device)| NextHopSpec::learned_from(learned, device)),
    ]
}

fn members() -> impl Strategy<Value = MemberSpec> {
    (next_hops(), any::<u16>(), any::<bool>()).prop_map(|(next_hop, weight, is_backup)| {
        let member = MemberSpec::new(next_hop).weight(weight);
        if is_backup { member.backup() } else { member }
    })
}

fn targets() -> impl Strategy<Value = TargetSpec> {
    prop_oneof![
        next_hops().prop_map(TargetSpec::NextHop),
        vec(members(), 1..4).prop_map(TargetSpec::NextHops),
        names().prop_map(TargetSpec::Group),
        Just(TargetSpec::Pass),
        Just(TargetSpec::Drop),
    ]
}

fn on_downs() -> impl Strategy<Value = OnDown> {
    prop_oneof![Just(OnDown::Pass), Just(OnDown::Drop)]
}

fn msses() -> impl Strategy<Value = Mss> {
    prop_oneof![Just(Mss::Auto), Just(Mss::Off), any::<u16>().prop_map(Mss::Bytes)]
}

fn selectors() -> impl Strategy<Value = Selector> {
    let pairs = any::<bool>().prop_flat_map(|v4| (prefixes(v4), option::of(prefixes(v4))));
    pairs.prop_map(|(source, destination)| Selector::new(source, destination))
}

fn rules() -> impl Strategy<Value = RuleSpec> {
    let replies = option::of(btree_set(names(), 0..3));
    (selectors(), replies, targets(), on_downs(), msses(), option::of(names())).prop_map(
        |(selector, replies, target, on_down, mss, name)| RuleSpec {
            reply_to: replies.is_some(),
            reply_to_dev: replies.unwrap_or_default(),
            name,
            ..RuleSpec::new(selector, target).on_down(on_down).mss(mss)
        },
    )
}

fn groups() -> impl Strategy<Value = GroupSpec> {
    (names(), vec(members(), 1..4), on_downs())
        .prop_map(|(name, members, on_down)| GroupSpec::new(name, members).on_down(on_down))
}

fn survives_its_words<T>(value: T) -> Result<(), TestCaseError>
where
    T: FromStr<Err = GrammarError> + Display + Debug + PartialEq,
{
    let words = value.to_string();
    prop_assert_eq!(words.parse(), Ok(value), "{}", words);
    Ok(())
}

fn survives_json<T: Serialize + DeserializeOwned + Debug + PartialEq>(value: T) -> Result<(), TestCaseError> {
    let json = serde_json::to_string(&value).unwrap();
    prop_assert_eq!(serde_json::from_str::<T>(&json).unwrap(), value, "{}", json);
    Ok(())
}

proptest! {
    #[test]
    fn what_is_asked_for_survives_its_words(
        selector in selectors(), next_hop in next_hops(), member in members(), target in targets(),
        rule in rules(), group in groups(), on_down in on_downs(), mss in msses(),
    ) {
        survives_its_words(selector)?;
        survives_its_words(next_hop)?;
        survives_its_words(member)?;
        survives_its_words(target)?;
        survives_its_words(rule)?;
        survives_its_words(group)?;
        survives_its_words(on_down)?;
        survives_its_words(mss)?;
    }

    #[test]
    fn what_is_asked_for_survives_json(
        selector in selectors(), next_hop in next_hops(), member in members(), target in targets(),
        rule in rules(), group in groups(), on_down in on_downs(), mss in msses(), owner: u8,
    ) {
        survives_json(selector)?;
        survives_json(next_hop)?;
        survives_json(member)?;
        survives_json(target)?;
        survives_json(rule.owner(Owner::new(owner)))?;
        survives_json(group.owner(Owner::new(owner)))?;
        survives_json(on_down)?;
        survives_json(mss)?;
        // The words are the same in JSON.
        prop_assert_eq!(serde_json::to_value(on_down).unwrap(), on_down.to_string());
        let json = serde_json::to_string(&mss).unwrap();
        prop_assert_eq!(json.trim_matches('"'), mss.to_string());
    }

    #[test]
    fn no_words_make_the_grammar_panic(text in ".*") {
        let _ = text.parse::<RuleSpec>();
        let _ = text.parse::<GroupSpec>();
        let _ = devices(&split(&text));
    }
}

#[test]
fn what_goes_without_saying_may_be_missing_in_json() {
    let rule = r#"{"from": "192.0.2.7", "target": {"nexthop": {"gateway": "10.0.0.1", "device": "eth1"}}}"#;
    let spec: RuleSpec = serde_json::from_str(rule).unwrap();
    assert_eq!(Ok(&spec), "from 192.0.2.7 via 10.0.0.1 dev eth1".parse().as_ref());
    let group = r#"{"name": "up", "nexthops": [{"device": "wg0"}, {"gateway": "10.0.0.1", "weight": 2}]}"#;
    let spec: GroupSpec = serde_json::from_str(group).unwrap();
    assert_eq!(Ok(&spec), "up nexthop dev wg0 nexthop via 10.0.0.1 weight 2".parse().as_ref());
    let nowhere = r#"{"from": "192.0.2.7", "target": {"nexthop": {}}}"#;
    let error = serde_json::from_str::<RuleSpec>(nowhere).unwrap_err();
    assert!(error.to_string().contains("a next hop needs a `gateway`, a `device` or both"), "{error}");
}

fn words(text: &str) -> Vec<&str> {
    split(text)
}

#[test]
fn each_form_of_a_rule_is_understood() {
    let gateway = "10.0.0.1".parse().unwrap();
    let via_dev = NextHopSpec::ViaDev(gateway, "eth1".into());
    let one = TargetSpec::NextHop;
    let cases = [
        ("from 192.0.2.7 via 10.0.0.1", one(NextHopSpec::Via(gateway)), None),
        ("from 192.0.2.7 via 10.0.0.1 dev eth1", one(via_dev.clone()), None),
        ("dev eth1 via 10.0.0.1 from 192.0.2.7/32", one(via_dev.clone()), None),
        ("from 192.0.2.7 via dhcp dev eth1", one(NextHopSpec::learned_from(Learned::Dhcp, "eth1")), None),
        ("from 192.0.2.7 dev wg0 name vpn", one(NextHopSpec::Dev("wg0".into())), Some("vpn")),
        ("from 192.0.2.7 group uplinks", TargetSpec::Group("uplinks".into()), None),
        (
            "from 192.0.2.7 nexthop via 10.0.0.1 dev eth1 weight 3 nexthop dev wg0 name two",
            TargetSpec::NextHops(vec![
                MemberSpec::new(via_dev).weight(3),
                MemberSpec::new(NextHopSpec::Dev("wg0".into())),
            ]),
            Some("two"),
        ),
        ("from 192.0.2.7 pass", TargetSpec::Pass, None),
        ("drop from 192.0.2.7 name bad", TargetSpec::Drop, Some("bad")),
        // A device may be called as a keyword is.
        ("from 192.0.2.7 dev via", one(NextHopSpec::Dev("via".into())), None),
    ];
    for (text, target, name) in cases {
        let expected =
            RuleSpec { name: name.map(str::to_owned), ..RuleSpec::new("192.0.2.7".parse().unwrap(), target) };
        assert_eq!(rule(&words(text)), Ok(expected), "{text}");
    }
}

#[test]
fn replies_go_back_and_others_elsewhere() {
    for (text, said) in [
        ("from 192.0.2.7 reply-to", "from 192.0.2.7 reply-to"),
        ("reply-to from 192.0.2.7 else pass", "from 192.0.2.7 reply-to"),
        ("from 192.0.2.7 reply-to else drop mss 1400", "from 192.0.2.7 reply-to else drop mss 1400"),
        (
            "from 192.0.2.7 reply-to else via 10.0.0.1 dev eth1 on-down drop",
            "from 192.0.2.7 reply-to else via 10.0.0.1 dev eth1 on-down drop",
        ),
        ("from 192.0.2.7 reply-to else group up", "from 192.0.2.7 reply-to else group up"),
        (
            "reply-to dev wg0 dev eth1 dev wg0 from 192.0.2.7 name web",
            "from 192.0.2.7 reply-to dev eth1 dev wg0 name web",
        ),
        ("from 192.0.2.7 reply-to dev eth1 else dev wg0", "from 192.0.2.7 reply-to dev eth1 else dev wg0"),
    ] {
        let rule = rule(&words(text)).unwrap();
        assert_eq!((rule.reply_to, rule.to_string().as_str()), (true, said));
        assert_eq!(rule.check(), Ok(()), "{text}");
    }
}

#[test]
fn each_mistake_has_its_sentence() {
    let cases = [
        (
            "from 192.0.2.7 reply-to via 10.0.0.1",
            "`reply-to` stands alone or with `dev IF`, and says after `else` what becomes of packets that are no replies",
        ),
        (
            "from 192.0.2.7 reply-to dev eth1 via 10.0.0.1",
            "`reply-to` stands alone or with `dev IF`, and says after `else` what becomes of packets that are no replies",
        ),
        ("from 192.0.2.7 reply-to dev", "`dev` needs the name of a device after it"),
        ("from 192.0.2.7 reply-to else", "`else` needs a target after it"),
        ("from 192.0.2.7 else drop", "`else` does not belong here; expected `reply-to` with it"),
        ("", "a rule needs `from PREFIX`, the source of the packets, like `from 192.0.2.7`"),
        ("from", "`from` needs a source address or prefix after it"),
        (
            "from 192.0.2.7",
            "the rule from 192.0.2.7 needs a target: `via ADDR`, `via ADDR dev IF`, `dev IF`, `nexthop ...`, `group NAME`, `reply-to`, `pass` or `drop`",
        ),
        ("from 192.0.2.7 via", "`via` needs a gateway address after it"),
        (
            "from 192.0.2.7 via eth1",
            "`eth1` is not an IPv4 or IPv6 address; a gateway is written like `via 192.0.2.1`",
        ),
        ("from 192.0.2.7 from 192.0.2.8 dev eth1", "`from` is there twice; use it once"),
        (
            "from 192.0.2.7/24 dev eth1",
            "`192.0.2.7/24` has bits set beyond its length of 24; did you mean 192.0.2.0/24?",
        ),
        (
            "from 192.0.2.7 dev eth1 mss 70000",
            "`mss` cannot be `70000`; write `auto`, `off` or a number of bytes from 88 to 65495",
        ),
        (
            "web via 10.0.0.1",
            "`web` does not belong here; expected `from`, `to`, `via`, `dev`, `nexthop`, `group`, `reply-to`, `else`, `pass`, `drop`, `on-down`, `mss` or `name`",
        ),
        (
            "from web via 10.0.0.1",
            "`web` is not an IPv4 or IPv6 address or prefix; write it like 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32",
        ),
    ];
    for (text, sentence) in cases {
        assert_eq!(rule(&words(text)).unwrap_err().sentence(), sentence, "{text}");
    }
}

#[test]
fn a_destination_narrows_a_rule() {
    let spec = rule(&words("from 192.0.2.7 to 10.0.0.0/8 pass")).unwrap();
    assert_eq!(spec.selector.to_string(), "from 192.0.2.7 to 10.0.0.0/8");
    assert_eq!(selector(&words("to 10.0.0.0/8 from 192.0.2.7")), Ok(spec.selector));
    let all = rule(&words("from 192.0.2.7 to 0.0.0.0/0 pass")).unwrap();
    assert_eq!(all.selector, "192.0.2.7".parse().unwrap(), "all destinations are none");
    let drops = rule(&words("from 192.0.2.7 dev wg0 on-down drop")).unwrap();
    assert_eq!(drops.on_down, OnDown::Drop);
}

#[test]
fn groups_have_a_name_and_next_hops() {
    let spec =
        group(&words("uplinks nexthop via 10.0.0.1 weight 2 nexthop via 10.0.0.2 on-down drop")).unwrap();
    assert_eq!((spec.name.as_str(), spec.members.len(), spec.on_down), ("uplinks", 2, OnDown::Drop));
    for (text, sentence) in [
        ("", "a group needs a name, like `uplinks nexthop ...`"),
        ("nexthop via 10.0.0.1", "a group needs a name, like `uplinks nexthop ...`"),
        ("uplinks", "the group uplinks needs next hops, like `nexthop via 192.0.2.1 dev eth1 weight 2`"),
        ("uplinks nexthop", "a next hop needs `via ADDR`, `via ADDR dev IF` or `dev IF`"),
        ("uplinks nexthop via 10.0.0.1 weight many", "`many` is not a weight; write a number from 1 to 256"),
        (
            "uplinks nexthop dev eth1 spare",
            "`spare` does not belong here; expected `weight`, `backup`, `nexthop` or `on-down`",
        ),
        ("uplinks nexthop dev eth1 on-down fail", "`on-down` cannot be `fail`; write `pass` or `drop`"),
        ("uplinks via 10.0.0.1", "`via` does not belong here; expected `nexthop` or `on-down`"),
    ] {
        assert_eq!(group(&words(text)).unwrap_err().sentence(), sentence, "{text}");
    }
}

#[test]
fn devices_are_named_one_by_one() {
    assert_eq!(devices(&words("dev eth0 dev eth1 dev eth0")), Ok(vec!["eth0", "eth1"]));
    assert_eq!(devices(&[""; 0]), Ok(vec![]));
    assert_eq!(devices(&words("dev")), Err(GrammarError::NoValue("dev", "the name of a device")));
    assert_eq!(devices(&words("eth0 dev eth1 eth1 dev dev")), Ok(vec!["eth0", "eth1", "dev"]));
}

#[test]
fn a_bare_address_stands_where_one_thing_can_be_meant() {
    let whole = |text: &str| rule(&words(text)).unwrap();
    for (bare, full) in [
        ("192.0.2.7 via 10.0.0.1", "from 192.0.2.7 via 10.0.0.1"),
        ("2001:db8::/32 to 2001:db8:1::/48 pass", "from 2001:db8::/32 to 2001:db8:1::/48 pass"),
        ("10/8 drop", "from 10.0.0.0/8 drop"),
        ("default via 10.0.0.1", "from 0.0.0.0/0 via 10.0.0.1"),
    ] {
        assert_eq!(whole(bare), whole(full), "{bare}");
    }
    assert_eq!(selector(&words("192.0.2.7 to 10/8")), selector(&words("from 192.0.2.7 to 10.0.0.0/8")));
    assert_eq!(next_hop(&words("10.0.0.1")), next_hop(&words("via 10.0.0.1")));
    assert_eq!(next_hop(&words("10.0.0.1 dev eth1")), next_hop(&words("via 10.0.0.1 dev eth1")));
    for (text, sentence) in [
        ("192.0.2.7/24", "`192.0.2.7/24` has bits set beyond its length of 24; did you mean 192.0.2.0/24?"),
        ("from 192.0.2.7 192.0.2.8", "`192.0.2.8` does not belong here; expected `from` or `to`"),
    ] {
        assert_eq!(selector(&words(text)).unwrap_err().sentence(), sentence, "{text}");
    }
    let sentence = "`eth1` does not belong here; expected `via` or `dev`";
    assert_eq!(next_hop(&words("eth1")).unwrap_err().sentence(), sentence);
}

#[test]
fn all_addresses_are_of_the_family_that_something_names() {
    use Family::{V4, V6};
    for word in ["all", "any", "default"] {
        for (family, rest, source) in [
            (None, "via 10.0.0.1", "0.0.0.0/0"),
            (None, "via fe80::1 dev eth1", "::/0"),
            // RFC 8950: IPv4 packets by an IPv6 gateway
            (Some(V4), "via fe80::1 dev eth1", "0.0.0.0/0"),
            (Some(V6), "dev wg0", "::/0"),
            (None, "to 10.0.0.0/8 pass", "0.0.0.0/0"),
            (None, "to 10.0.0.0/8 via fe80::1 dev eth1", "0.0.0.0/0"),
            (None, "to 2001:db8::/32 dev wg0", "::/0"),
            (None, "nexthop via 10.0.0.1 nexthop dev wg0 nexthop via 10.0.0.2", "0.0.0.0/0"),
        ] {
            let spec = rule_of(family, &words(&format!("from {word} {rest}"))).unwrap();
            assert_eq!(spec.selector.source().to_string(), source, "from {word} {rest}");
        }
        for rest in ["dev wg0", "pass", "group up", "nexthop via 10.0.0.1 nexthop via fe80::1 dev eth1"] {
            assert_eq!(
                rule(&words(&format!("from {word} {rest}"))).unwrap_err().sentence(),
                format!(
                    "`{word}` is 0.0.0.0/0 or ::/0, and a rule has one source; write one of them; two rules cover both"
                )
            );
        }
        assert_eq!(selector_of(Some(V6), &[word]), Ok("::/0".parse().unwrap()));
        assert!(selector(&[word]).is_err());
    }
    let spec = rule(&words("from 192.0.2.7 to all pass")).unwrap();
    assert_eq!(spec.selector, "192.0.2.7".parse().unwrap(), "all destinations are none");
}

#[test]
fn a_source_is_of_the_family_that_was_asked_for() {
    let of = |family, text| rule_of(Some(family), &words(text));
    assert!(of(Family::V4, "from 192.0.2.7 pass").is_ok());
    let sentence = "2001:db8::1 is IPv6, and IPv4 was asked for; name one of that family";
    assert_eq!(of(Family::V4, "from 2001:db8::1 pass").unwrap_err().sentence(), sentence);
    let sentence = "192.0.2.7 is IPv4, and IPv6 was asked for; name one of that family";
    assert_eq!(of(Family::V6, "from 192.0.2.7 pass").unwrap_err().sentence(), sentence);
}

#[test]
fn gateways_are_written_in_several_ways() {
    for text in ["via inet6 fe80::1 dev eth1", "via fe80::1 dev eth1"] {
        assert_eq!(
            next_hop(&words(text)),
            Ok(NextHopSpec::ViaDev("fe80::1".parse().unwrap(), "eth1".into()))
        );
    }
    for (text, sentence) in [
        ("via fe80::1%eth1", "`fe80::1%eth1` is not an IPv4 or IPv6 address; write `via fe80::1 dev eth1`"),
        (
            "via 10.0.0.1/24",
            "`10.0.0.1/24` is not an IPv4 or IPv6 address; a gateway is one address: `via 10.0.0.1`",
        ),
        ("via inet6", "`via` needs a gateway address after it"),
    ] {
        assert_eq!(next_hop(&words(text)).unwrap_err().sentence(), sentence, "{text}");
    }
}

#[test]
fn what_byway_does_not_have_is_answered_by_name() {
    for (names, instead) in ELSEWHERE {
        for name in names {
            let expected = format!("byway has no `{name}`; {instead}");
            for text in [
                format!("from 192.0.2.7 {name} 100 via 10.0.0.1"),
                format!("{name} from 192.0.2.7"),
                format!("from 192.0.2.7 nexthop via 10.0.0.1 {name} 100"),
            ] {
                assert_eq!(rule(&words(&text)).unwrap_err().sentence(), expected, "{text}");
            }
            let text = format!("from 192.0.2.7 {name} 100");
            assert_eq!(selector(&words(&text)).unwrap_err().sentence(), expected, "{text}");
            let text = format!("up nexthop via 10.0.0.1 {name} 100");
            assert_eq!(group(&words(&text)).unwrap_err().sentence(), expected, "{text}");
            // It is a name where a name belongs.
            assert!(rule(&words(&format!("from 192.0.2.7 dev {name} name {name}"))).is_ok());
        }
    }
    let sentence = rule(&words("from 192.0.2.7 prio 100 via 10.0.0.1")).unwrap_err().sentence();
    assert_eq!(
        sentence,
        "byway has no `prio`; leave it out: the longest prefix wins, and order never matters"
    );
}
