//! The words of rules, groups and attachments, which are those of iproute2 (ip-route(8), ip-rule(8)).
//!
//! ```text
//! RULE    := from PREFIX [to PREFIX] TARGET [on-down pass|drop] [mss N|off] [name NAME]
//! TARGET  := NEXTHOP | MEMBERS | group NAME | pass | drop
//! NEXTHOP := via ADDR [dev IF] | dev IF
//! MEMBERS := nexthop NEXTHOP [weight N] [MEMBERS]
//! GROUP   := NAME MEMBERS [on-down pass|drop]
//! SHOWN   := nexthops | attachments | from PREFIX [to PREFIX]
//! ```
//!
//! As there, the pairs may come in any order; what follows a `nexthop` belongs to it.

use std::{collections::BTreeMap, iter::Peekable, net::IpAddr, slice};

use byway::{
    GroupSpec, MSS_MAX, MSS_MIN, MemberSpec, Mss, NextHopSpec, OnDown, Owner, Prefix, PrefixError, RuleSpec,
    Selector, TargetSpec, WEIGHT_MAX,
};
use thiserror::Error;

/// Why words make no sense.
#[derive(Debug, PartialEq, Eq, Error)]
pub(crate) enum GrammarError {
    #[error("`{0}` is not a word that belongs here; expected {1}")]
    Unknown(String, String),
    #[error("`{0}` needs {1} behind it")]
    NoValue(&'static str, &'static str),
    #[error("`{0}` is there twice; say it once")]
    Twice(&'static str),
    #[error("a rule needs `from PREFIX`, the source of the packets, like `from 192.0.2.7`")]
    NoSource,
    #[error(
        "the rule {0} needs a target: `via ADDR`, `via ADDR dev IF`, `dev IF`, `nexthop ...`, `group NAME`, `pass` or `drop`"
    )]
    NoTarget(Selector),
    #[error("a rule has one target: `{0}` cannot stand beside `{1}`")]
    TwoTargets(&'static str, &'static str),
    #[error("`{0}` is not an IPv4 or IPv6 address; a gateway is written like `via 192.0.2.1`")]
    Gateway(String),
    #[error("`{0}` is not a weight; it is a number from 1 to {WEIGHT_MAX}")]
    Weight(String),
    #[error("`on-down {0}` means nothing; it is `on-down pass` or `on-down drop`")]
    OnDown(String),
    #[error("`mss {0}` means nothing; it is `mss off`, or `mss N` with {MSS_MIN} to {MSS_MAX} bytes")]
    Mss(String),
    #[error("a next hop needs `via ADDR`, `via ADDR dev IF` or `dev IF`")]
    NoNextHop,
    #[error("the group {0} needs next hops, like `nexthop via 192.0.2.1 dev eth1 weight 2`")]
    NoMembers(String),
    #[error("a group needs a name, like `byway group add uplinks nexthop ...`")]
    NoGroup,
    #[error(transparent)]
    Prefix(#[from] PrefixError),
}

/// A keyword, and what has to follow it, if anything has to.
type Keyword = (&'static str, Option<&'static str>);
const FROM: Keyword = ("from", Some("a source address or prefix"));
const TO: Keyword = ("to", Some("a destination address or prefix"));
const VIA: Keyword = ("via", Some("a gateway address"));
const A_DEVICE: &str = "the name of a device";
const DEV: Keyword = ("dev", Some(A_DEVICE));
const WEIGHT: Keyword = ("weight", Some("a number"));
const GROUP: Keyword = ("group", Some("the name of a group"));
const ON_DOWN: Keyword = ("on-down", Some("`pass` or `drop`"));
const MSS: Keyword = ("mss", Some("a number of bytes, or `off`"));
const NAME: Keyword = ("name", Some("a name for the rule"));
const PASS: Keyword = ("pass", None);
const DROP: Keyword = ("drop", None);
/// It has words of its own behind it.
const NEXTHOP: Keyword = ("nexthop", None);

type Words<'a> = Peekable<slice::Iter<'a, String>>;
type Values<'a> = BTreeMap<&'static str, &'a str>;

/// `from PREFIX [to PREFIX] TARGET [on-down pass|drop] [mss N|off] [name NAME]`
pub(crate) fn rule(words: &[String]) -> Result<RuleSpec, GrammarError> {
    let keywords = [FROM, TO, VIA, DEV, NEXTHOP, GROUP, PASS, DROP, ON_DOWN, MSS, NAME];
    let (mut values, members) = pairs(&mut words.iter().peekable(), &keywords, false)?;
    let selector = take_selector(&mut values)?;
    let on_down = take_on_down(&mut values)?;
    let mss = take_mss(&mut values)?;
    // What a rule can say of its target, each only once.
    let said: Vec<&'static str> = ["pass", "drop", "group", "nexthop", "via", "dev"]
        .into_iter()
        .filter(|word| values.contains_key(word))
        .collect();
    let target = match said[..] {
        [] => return Err(GrammarError::NoTarget(selector)),
        ["pass"] => TargetSpec::Pass,
        ["drop"] => TargetSpec::Drop,
        ["group"] => TargetSpec::Group(values.remove("group").unwrap_or_default().to_owned()),
        ["nexthop"] => TargetSpec::NextHops(members),
        ["via"] | ["dev"] | ["via", "dev"] => TargetSpec::NextHop(take_next_hop(&mut values)?),
        [first, second, ..] => return Err(GrammarError::TwoTargets(first, second)),
        [_] => return Err(GrammarError::NoTarget(selector)),
    };
    let name = values.remove("name").map(str::to_owned);
    Ok(RuleSpec { selector, target, on_down, mss, owner: Owner::CLI, name })
}

/// `from PREFIX [to PREFIX]`
pub(crate) fn selector(words: &[String]) -> Result<Selector, GrammarError> {
    let (mut values, _) = pairs(&mut words.iter().peekable(), &[FROM, TO], false)?;
    take_selector(&mut values)
}

/// What is to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    All,
    NextHops,
    Attachments,
    Rule(Selector),
}

/// Nothing, `nexthops`, `attachments` or `from PREFIX [to PREFIX]`
pub(crate) fn shown(words: &[String]) -> Result<Shown, GrammarError> {
    let (first, rest) = match words {
        [] => return Ok(Shown::All),
        [first, rest @ ..] => (first.as_str(), rest.first()),
    };
    match (first, rest) {
        ("nexthops", None) => Ok(Shown::NextHops),
        ("attachments", None) => Ok(Shown::Attachments),
        ("nexthops" | "attachments", Some(word)) => {
            Err(GrammarError::Unknown(word.clone(), format!("nothing behind `{first}`")))
        }
        ("from" | "to", _) => selector(words).map(Shown::Rule),
        _ => {
            let expected = "`nexthops`, `attachments`, or a rule's `from` and `to`";
            Err(GrammarError::Unknown(first.to_owned(), expected.to_owned()))
        }
    }
}

/// `NAME nexthop NEXTHOP [weight N] nexthop ... [on-down pass|drop]`
pub(crate) fn group(words: &[String]) -> Result<GroupSpec, GrammarError> {
    let (name, words) =
        words.split_first().filter(|(name, _)| *name != NEXTHOP.0).ok_or(GrammarError::NoGroup)?;
    let (mut values, members) = pairs(&mut words.iter().peekable(), &[NEXTHOP, ON_DOWN], false)?;
    let on_down = take_on_down(&mut values)?;
    if members.is_empty() {
        return Err(GrammarError::NoMembers(name.clone()));
    }
    Ok(GroupSpec { name: name.clone(), members, on_down, owner: Owner::CLI })
}

/// `via ADDR [dev IF]` or `dev IF`
pub(crate) fn next_hop(words: &[String]) -> Result<NextHopSpec, GrammarError> {
    let (mut values, _) = pairs(&mut words.iter().peekable(), &[VIA, DEV], false)?;
    take_next_hop(&mut values)
}

/// `[dev IF]...`
pub(crate) fn devices(words: &[String]) -> Result<Vec<&str>, GrammarError> {
    let mut devices = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word != DEV.0 {
            return Err(GrammarError::Unknown(word.clone(), "`dev IF`, once for each device".to_owned()));
        }
        let device = words.next().ok_or(GrammarError::NoValue(DEV.0, A_DEVICE))?;
        if !devices.contains(&device.as_str()) {
            devices.push(device.as_str());
        }
    }
    Ok(devices)
}

fn take_selector(values: &mut Values<'_>) -> Result<Selector, GrammarError> {
    let source: Prefix = values.remove("from").ok_or(GrammarError::NoSource)?.parse()?;
    let destination = values.remove("to").map(str::parse).transpose()?;
    Ok(Selector::new(source, destination))
}

fn take_on_down(values: &mut Values<'_>) -> Result<OnDown, GrammarError> {
    match values.remove("on-down") {
        None | Some("pass") => Ok(OnDown::Pass),
        Some("drop") => Ok(OnDown::Drop),
        Some(other) => Err(GrammarError::OnDown(other.to_owned())),
    }
}

fn take_mss(values: &mut Values<'_>) -> Result<Mss, GrammarError> {
    match values.remove("mss") {
        None | Some("auto") => Ok(Mss::Auto),
        Some("off") => Ok(Mss::Off),
        Some(text) => text.parse().map(Mss::Bytes).map_err(|_| GrammarError::Mss(text.to_owned())),
    }
}

fn take_next_hop(values: &mut Values<'_>) -> Result<NextHopSpec, GrammarError> {
    let gateway = values
        .remove("via")
        .map(|text| text.parse::<IpAddr>().map_err(|_| GrammarError::Gateway(text.to_owned())))
        .transpose()?;
    match (gateway, values.remove("dev")) {
        (Some(gateway), Some(device)) => Ok(NextHopSpec::ViaDev(gateway, device.to_owned())),
        (Some(gateway), None) => Ok(NextHopSpec::Via(gateway)),
        (None, Some(device)) => Ok(NextHopSpec::Dev(device.to_owned())),
        (None, None) => Err(GrammarError::NoNextHop),
    }
}

/// What follows a `nexthop`.
fn member(words: &mut Words<'_>) -> Result<MemberSpec, GrammarError> {
    let (mut values, _) = pairs(words, &[VIA, DEV, WEIGHT], true)?;
    let next_hop = take_next_hop(&mut values)?;
    let weight = match values.remove("weight") {
        Some(text) => text.parse().map_err(|_| GrammarError::Weight(text.to_owned()))?,
        None => 1,
    };
    Ok(MemberSpec { next_hop, weight })
}

/// Reads keywords and their values. At a word that is none of them it ends, if others may follow, or fails.
fn pairs<'a>(
    words: &mut Words<'a>,
    keywords: &[Keyword],
    others_may_follow: bool,
) -> Result<(Values<'a>, Vec<MemberSpec>), GrammarError> {
    let mut values = BTreeMap::new();
    let mut members = Vec::new();
    while let Some(word) = words.peek() {
        let known = keywords.iter().find(|(keyword, _)| keyword == word);
        let Some((keyword, value)) = known else {
            if others_may_follow {
                break;
            }
            return Err(GrammarError::Unknown((*word).clone(), expected(keywords)));
        };
        let word = words.next().map_or("", String::as_str);
        if *keyword == NEXTHOP.0 {
            members.push(member(words)?);
            values.insert(*keyword, word);
            continue;
        }
        let text = match value {
            Some(value) => words.next().ok_or(GrammarError::NoValue(keyword, value))?,
            None => word,
        };
        if values.insert(*keyword, text).is_some() {
            return Err(GrammarError::Twice(keyword));
        }
    }
    Ok((values, members))
}

/// `` `from`, `via` or `dev` ``
fn expected(keywords: &[Keyword]) -> String {
    let quoted: Vec<String> = keywords.iter().map(|(keyword, _)| format!("`{keyword}`")).collect();
    match &quoted[..] {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
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
            ("from 192.0.2.7 dev wg0 name vpn", one(NextHopSpec::Dev("wg0".into())), Some("vpn")),
            ("from 192.0.2.7 group uplinks", TargetSpec::Group("uplinks".into()), None),
            (
                "from 192.0.2.7 nexthop via 10.0.0.1 dev eth1 weight 3 nexthop dev wg0 name two",
                TargetSpec::NextHops(vec![
                    MemberSpec { next_hop: via_dev, weight: 3 },
                    MemberSpec { next_hop: NextHopSpec::Dev("wg0".into()), weight: 1 },
                ]),
                Some("two"),
            ),
            ("from 192.0.2.7 pass", TargetSpec::Pass, None),
            ("drop from 192.0.2.7 name bad", TargetSpec::Drop, Some("bad")),
            // A device may be called as a keyword is.
            ("from 192.0.2.7 dev via", one(NextHopSpec::Dev("via".into())), None),
        ];
        for (text, target, name) in cases {
            let expected = RuleSpec {
                selector: "192.0.2.7".parse().unwrap(),
                target,
                on_down: OnDown::Pass,
                mss: Mss::Auto,
                owner: Owner::CLI,
                name: name.map(str::to_owned),
            };
            assert_eq!(rule(&words(text)), Ok(expected), "{text}");
        }
    }

    #[test]
    fn each_mistake_has_its_sentence() {
        let cases = [
            ("", "a rule needs `from PREFIX`, the source of the packets, like `from 192.0.2.7`"),
            ("from", "`from` needs a source address or prefix behind it"),
            (
                "from 192.0.2.7",
                "the rule from 192.0.2.7 needs a target: `via ADDR`, `via ADDR dev IF`, `dev IF`, `nexthop ...`, `group NAME`, `pass` or `drop`",
            ),
            ("from 192.0.2.7 via", "`via` needs a gateway address behind it"),
            (
                "from 192.0.2.7 via eth1",
                "`eth1` is not an IPv4 or IPv6 address; a gateway is written like `via 192.0.2.1`",
            ),
            ("from 192.0.2.7 from 192.0.2.8 dev eth1", "`from` is there twice; say it once"),
            (
                "from 192.0.2.7/24 dev eth1",
                "`192.0.2.7/24` has bits set behind its length of 24; did you mean 192.0.2.0/24?",
            ),
            (
                "192.0.2.7 via 10.0.0.1",
                "`192.0.2.7` is not a word that belongs here; expected `from`, `to`, `via`, `dev`, `nexthop`, `group`, `pass`, `drop`, `on-down`, `mss` or `name`",
            ),
            (
                "from web via 10.0.0.1",
                "`web` is not an IPv4 or IPv6 address or prefix; write it like 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32",
            ),
        ];
        for (text, sentence) in cases {
            assert_eq!(rule(&words(text)).unwrap_err().to_string(), sentence, "{text}");
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
    fn a_rule_is_shown_by_the_words_that_delete_it() {
        let rule = |text| selector(&words(text)).map(Shown::Rule);
        for text in ["from 192.0.2.7", "from 192.0.2.7 to 10.0.0.0/8", "to 10.0.0.0/8 from 192.0.2.7"] {
            assert_eq!(shown(&words(text)), rule(text), "{text}");
        }
        let others = [("", Shown::All), ("nexthops", Shown::NextHops), ("attachments", Shown::Attachments)];
        for (text, what) in others {
            assert_eq!(shown(&words(text)), Ok(what), "{text}");
        }
        for (text, sentence) in [
            (
                "me",
                "`me` is not a word that belongs here; expected `nexthops`, `attachments`, or a rule's `from` and `to`",
            ),
            (
                "nexthops from 192.0.2.7",
                "`from` is not a word that belongs here; expected nothing behind `nexthops`",
            ),
            ("from", "`from` needs a source address or prefix behind it"),
            ("to 10.0.0.0/8", "a rule needs `from PREFIX`, the source of the packets, like `from 192.0.2.7`"),
            (
                "from 192.0.2.7 nexthops",
                "`nexthops` is not a word that belongs here; expected `from` or `to`",
            ),
        ] {
            assert_eq!(shown(&words(text)).unwrap_err().to_string(), sentence, "{text}");
        }
    }

    #[test]
    fn groups_have_a_name_and_next_hops() {
        let spec =
            group(&words("uplinks nexthop via 10.0.0.1 weight 2 nexthop via 10.0.0.2 on-down drop")).unwrap();
        assert_eq!((spec.name.as_str(), spec.members.len(), spec.on_down), ("uplinks", 2, OnDown::Drop));
        for (text, sentence) in [
            ("", "a group needs a name, like `byway group add uplinks nexthop ...`"),
            ("nexthop via 10.0.0.1", "a group needs a name, like `byway group add uplinks nexthop ...`"),
            ("uplinks", "the group uplinks needs next hops, like `nexthop via 192.0.2.1 dev eth1 weight 2`"),
            ("uplinks nexthop", "a next hop needs `via ADDR`, `via ADDR dev IF` or `dev IF`"),
            (
                "uplinks nexthop via 10.0.0.1 weight many",
                "`many` is not a weight; it is a number from 1 to 256",
            ),
            (
                "uplinks nexthop dev eth1 on-down fail",
                "`on-down fail` means nothing; it is `on-down pass` or `on-down drop`",
            ),
            (
                "uplinks via 10.0.0.1",
                "`via` is not a word that belongs here; expected `nexthop` or `on-down`",
            ),
        ] {
            assert_eq!(group(&words(text)).unwrap_err().to_string(), sentence, "{text}");
        }
    }

    #[test]
    fn devices_are_named_one_by_one() {
        assert_eq!(devices(&words("dev eth0 dev eth1 dev eth0")), Ok(vec!["eth0", "eth1"]));
        assert_eq!(devices(&[]), Ok(vec![]));
        assert_eq!(devices(&words("dev")), Err(GrammarError::NoValue("dev", "the name of a device")));
        let sentence = "`eth0` is not a word that belongs here; expected `dev IF`, once for each device";
        assert_eq!(devices(&words("eth0")).unwrap_err().to_string(), sentence);
    }
}
