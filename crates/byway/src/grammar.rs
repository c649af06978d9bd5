//! The grammar of rules, groups and next hops, as in iproute2 (ip-route(8), ip-rule(8)). Pure.
//!
//! ```text
//! RULE    := from PREFIX [to PREFIX] TARGET [on-down pass|drop] [mss N|off] [name NAME]
//! TARGET  := NEXTHOP | MEMBERS | group NAME | pass | drop
//! NEXTHOP := via ADDR [dev IF] | dev IF
//! MEMBERS := nexthop NEXTHOP [weight N] [MEMBERS]
//! GROUP   := NAME MEMBERS [on-down pass|drop]
//! FLOW    := [from] ADDR [to ADDR] [proto P] [sport N] [dport N] [iif IF]
//! SELECTION := [within PREFIX] [covering PREFIX] [owner NAME] [group NAME] [via ADDR] [dev IF] [name PATTERN]
//!              [with loss] [unused] [sort by packets|bytes|loss|rate] [head N]
//! ```
//!
//! As there, the pairs may come in any order; what follows a `nexthop` belongs to it. A bare address in front is the source
//! of a rule, and the gateway of a next hop. `from all`, `any` or `default` is every address of a family: that of the
//! destination, else of the gateways, unless the caller names one. The specs print themselves in these
//! words, and [`FromStr`] reads them back:
//!
//! ```
//! use byway::{GroupSpec, RuleSpec};
//!
//! let rule: RuleSpec = "from 192.0.2.7 to 10.0.0.0/8 via 192.0.2.1 dev eth1 name web".parse()?;
//! assert_eq!(rule.to_string(), "from 192.0.2.7 to 10.0.0.0/8 via 192.0.2.1 dev eth1 name web");
//! let group: GroupSpec = "uplinks nexthop via 192.0.2.1 weight 2 nexthop dev wg0".parse()?;
//! assert_eq!(group.members[0].weight, 2);
//! # Ok::<(), byway::grammar::GrammarError>(())
//! ```
//!
//! The functions read words that are already split, as on a command line.

mod flow;
mod selection;

use std::{collections::BTreeMap, iter::Peekable, net::IpAddr, slice, str::FromStr};

use thiserror::Error;

pub use flow::flow;
pub use selection::{begins_selection, selection};

use crate::model::{
    Family, FlowError, GroupSpec, MSS_MAX, MSS_MIN, MemberSpec, Mss, NextHopSpec, OnDown, OwnerError, Prefix,
    PrefixError, RuleSpec, Selectable, Selector, TargetSpec, WEIGHT_MAX, in_one_sentence, zoned,
};

/// Why words are not a rule, group or next hop.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum GrammarError {
    /// An unexpected word, and what was expected.
    #[error("`{0}` does not belong here")]
    Unknown(String, String),
    /// A word of ip-rule(8), ip-route(8) or tc(8) that Byway does not have, and what it has instead.
    #[error("byway has no `{0}`")]
    NotHere(&'static str, &'static str),
    /// A keyword without its value, and what value it needs.
    #[error("`{0}` needs {1} after it")]
    NoValue(&'static str, &'static str),
    /// A keyword that may appear only once.
    #[error("`{0}` is there twice")]
    Twice(&'static str),
    /// A rule without `from`.
    #[error("a rule needs `from PREFIX`, the source of the packets, like `from 192.0.2.7`")]
    NoSource,
    /// `all` addresses, and nothing says of which family.
    #[error("`{0}` is {ipv4} or {ipv6}, and a rule has one source", ipv4 = Prefix::all(Family::V4), ipv6 = Prefix::all(Family::V6))]
    NoFamily(String),
    /// A prefix of the other family than the one that was asked for.
    #[error("{0} is {family}, and {1} was asked for", family = .0.family())]
    OtherFamily(Prefix, Family),
    /// A rule without a target.
    #[error(
        "the rule {0} needs a target: `via ADDR`, `via ADDR dev IF`, `dev IF`, `nexthop ...`, `group NAME`, `pass` or `drop`"
    )]
    NoTarget(Selector),
    /// Nothing where a target was expected.
    #[error(
        "a target is `via ADDR`, `via ADDR dev IF`, `dev IF`, `nexthop ...`, `group NAME`, `pass` or `drop`"
    )]
    NoTargetAlone,
    /// Keywords of two targets.
    #[error("a rule has one target: `{0}` cannot be combined with `{1}`")]
    TwoTargets(&'static str, &'static str),
    /// A gateway that is not an address.
    #[error("`{0}` is not an IPv4 or IPv6 address")]
    Gateway(String),
    /// A weight that is not a number.
    #[error("`{0}` is not a weight")]
    Weight(String),
    /// Something other than [`OnDown`] after `on-down`.
    #[error("`on-down {0}` is not valid")]
    OnDown(String),
    /// Something other than [`Mss`] after `mss`.
    #[error("`mss {0}` is not valid")]
    Mss(String),
    /// Neither a gateway nor a device.
    #[error("a next hop needs `via ADDR`, `via ADDR dev IF` or `dev IF`")]
    NoNextHop,
    /// A group without next hops.
    #[error("the group {0} needs next hops, like `nexthop via 192.0.2.1 dev eth1 weight 2`")]
    NoMembers(String),
    /// A group without a name.
    #[error("a group needs a name, like `uplinks nexthop ...`")]
    NoGroup,
    /// A keyword of a selection, what it is for, and what was to be chosen from.
    #[error("`{0}` is for {of}, not for {2}", of = one_of(.1))]
    NotOf(&'static str, &'static [Selectable], Selectable),
    /// Something other than `loss` after `with`.
    #[error("`with {0}` is not valid")]
    With(String),
    /// Something other than [`SortBy`](crate::SortBy) after `sort by`.
    #[error("`sort by {0}` is not valid")]
    Sort(String),
    /// A number of rows that is none.
    #[error("`head {0}` is not valid")]
    Head(String),
    /// An owner that is none.
    #[error(transparent)]
    Owner(#[from] OwnerError),
    /// A source or a destination that is not a prefix.
    #[error(transparent)]
    Prefix(#[from] PrefixError),
    /// Words that are not a flow.
    #[error(transparent)]
    Flow(#[from] FlowError),
}

impl GrammarError {
    /// What to do, if anything can be done. It reads as a continuation of [`Display`](std::fmt::Display), after a semicolon.
    pub fn help(&self) -> Option<String> {
        let help = match self {
            Self::Unknown(_, expected) => return Some(format!("expected {expected}")),
            Self::NotHere(_, instead) => instead,
            Self::Twice(_) => "use it once",
            Self::NoFamily(_) => "write one of them; two rules cover both",
            Self::OtherFamily(..) => "name one of that family",
            Self::NoTargetAlone => "name one",
            Self::Gateway(text) => return Some(gateway_help(text)),
            Self::Weight(_) => return Some(format!("write a number from 1 to {WEIGHT_MAX}")),
            Self::OnDown(_) => "write `on-down pass` or `on-down drop`",
            Self::Mss(_) => {
                return Some(format!("write `mss off`, or `mss N` with {MSS_MIN} to {MSS_MAX} bytes"));
            }
            Self::NotOf(..) => "leave it out",
            Self::With(_) => "write `with loss`",
            Self::Sort(_) => "write `sort by` and `packets`, `bytes`, `loss` or `rate`",
            Self::Head(_) => "write `head N` with a number from 1",
            Self::Owner(error) => return error.help(),
            Self::Prefix(error) => return error.help(),
            Self::Flow(error) => return error.help(),
            // These say what is missing, which is what to write.
            Self::NoValue(..)
            | Self::NoSource
            | Self::NoTarget(_)
            | Self::TwoTargets(..)
            | Self::NoNextHop
            | Self::NoMembers(_)
            | Self::NoGroup => return None,
        };
        Some(help.to_owned())
    }

    /// What is wrong and what to do, in one sentence.
    pub fn sentence(&self) -> String {
        in_one_sentence(self, self.help())
    }

    /// A word that does not belong here, and what does. If it is one of iproute2's, the error says what Byway has instead.
    fn unexpected(word: &str, expected: impl Into<String>) -> Self {
        let not_here = ELSEWHERE.iter().find_map(|(words, instead)| {
            words.iter().find(|it| **it == word).map(|word| Self::NotHere(word, instead))
        });
        not_here.unwrap_or_else(|| Self::Unknown(word.to_owned(), expected.into()))
    }
}

/// The words of ip-rule(8), ip-route(8) and tc(8) that Byway does not have, and what it has instead.
const ELSEWHERE: [(&[&str], &str); 17] = [
    (&["table", "lookup"], "name the next hop itself, `via ADDR dev IF`, or share it with `group NAME`"),
    (
        &["prio", "priority", "preference", "pref", "order", "metric"],
        "leave it out: the longest prefix wins, and order never matters",
    ),
    (
        &["fwmark", "mark"],
        "a rule matches the source and, with `to`, the destination; keep `ip rule` for marks",
    ),
    (
        &["ipproto", "sport", "dport", "tos", "dsfield", "uidrange"],
        "a rule matches the source and, with `to`, the destination; keep `ip rule` for this",
    ),
    (&["iif"], "a rule matches the source, whichever interface the packet came in by"),
    (&["oif"], "`byway attach dev IF` says which egress follows the rules, and `dev IF` where packets go"),
    (&["blackhole"], "write `drop`"),
    (&["unreachable", "prohibit"], "write `drop`, which sends no ICMP error"),
    (&["throw"], "write `pass`: the packet takes its ordinary route"),
    (&["goto", "nop"], "the longest prefix wins; write `pass` for an exception"),
    (
        &["src"],
        "packets keep their source address; `from PREFIX` matches it, and netfilter's SNAT changes it",
    ),
    (&["onlink"], "leave it out, and add a route to the gateway: `ip route add ADDR dev IF scope link`"),
    (&["proto", "protocol"], "leave it out; `byway show` says who owns a rule, and `name NAME` names it"),
    (&["nat", "masquerade"], "packets keep their addresses; netfilter (nft, iptables) translates them"),
    (
        &["scope", "type", "unicast", "realms", "encap", "nhid"],
        "leave it out; a next hop is `via ADDR dev IF`",
    ),
    (&["mtu", "advmss"], "it follows the MTU of the next hop's device; `mss N` clamps TCP"),
    (
        &["suppress_prefixlength", "suppress_ifgroup", "not", "l3mdev"],
        "write rules for the prefixes themselves; `pass` makes an exception",
    ),
];

fn gateway_help(text: &str) -> String {
    let address = |text: &str| text.parse::<IpAddr>().ok();
    if let Some((gateway, device)) = zoned(text) {
        return format!("write `via {gateway} dev {device}`");
    }
    if let Some((gateway, _)) = text.split_once('/').filter(|(gateway, _)| address(gateway).is_some()) {
        return format!("a gateway is one address: `via {gateway}`");
    }
    "a gateway is written like `via 192.0.2.1`".to_owned()
}

/// A keyword, and the value that has to follow it, if any.
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
/// It is followed by words of its own.
const NEXTHOP: Keyword = ("nexthop", None);

type Words<'a, 'b> = Peekable<slice::Iter<'b, &'a str>>;
type Values<'a> = BTreeMap<&'static str, &'a str>;

fn refs<W: AsRef<str>>(words: &[W]) -> Vec<&str> {
    words.iter().map(AsRef::as_ref).collect()
}

/// Puts a keyword before a first word that can mean only that.
fn with_keyword(keyword: Keyword, mut words: Vec<&str>, is_bare: fn(&str) -> bool) -> Vec<&str> {
    if words.first().is_some_and(|word| is_bare(word)) {
        words.insert(0, keyword.0);
    }
    words
}

/// Whether this is an address or a prefix, if only a wrong one, or all addresses.
fn is_source(word: &str) -> bool {
    is_all(word) || !matches!(word.parse::<Prefix>(), Err(PrefixError::Syntax(_)))
}

/// Whether this is an address, if only with a zone.
fn is_gateway(word: &str) -> bool {
    word.parse::<IpAddr>().is_ok() || zoned(word).is_some()
}

/// Whether this means all addresses of a family, as in ip-rule(8) and ip-route(8).
fn is_all(word: &str) -> bool {
    matches!(word, "all" | "any" | "default")
}

/// `from PREFIX [to PREFIX] TARGET [on-down pass|drop] [mss N|off] [name NAME]`
///
/// # Errors
///
/// The first thing that is wrong.
pub fn rule(words: &[impl AsRef<str>]) -> Result<RuleSpec, GrammarError> {
    rule_of(None, words)
}

/// The same, of one family if one is named.
///
/// # Errors
///
/// The first thing that is wrong.
pub fn rule_of(family: Option<Family>, words: &[impl AsRef<str>]) -> Result<RuleSpec, GrammarError> {
    let keywords = [FROM, TO, VIA, DEV, NEXTHOP, GROUP, PASS, DROP, ON_DOWN, MSS, NAME];
    let words = with_keyword(FROM, refs(words), is_source);
    let (mut values, members) = pairs(&mut words.iter().peekable(), &keywords, false)?;
    let gateway = values.get(VIA.0).and_then(|text| text.parse().ok());
    let gateways = gateway.into_iter().chain(members.iter().filter_map(|it| it.next_hop.gateway()));
    let mut families = gateways.map(Family::of);
    let of_gateways = families.next().filter(|first| families.all(|other| other == *first));
    let selector = take_selector(&mut values, family, of_gateways)?;
    let on_down = take_on_down(&mut values)?;
    let mss = take_mss(&mut values)?;
    let target = take_target(&mut values, members)?.ok_or(GrammarError::NoTarget(selector))?;
    let spec = RuleSpec::new(selector, target).on_down(on_down).mss(mss);
    Ok(match values.remove("name") {
        Some(name) => spec.name(name),
        None => spec,
    })
}

/// `from PREFIX [to PREFIX]`
///
/// # Errors
///
/// The first thing that is wrong.
pub fn selector(words: &[impl AsRef<str>]) -> Result<Selector, GrammarError> {
    selector_of(None, words)
}

/// The same, of one family if one is named.
///
/// # Errors
///
/// The first thing that is wrong.
pub fn selector_of(family: Option<Family>, words: &[impl AsRef<str>]) -> Result<Selector, GrammarError> {
    let words = with_keyword(FROM, refs(words), is_source);
    let (mut values, _) = pairs(&mut words.iter().peekable(), &[FROM, TO], false)?;
    take_selector(&mut values, family, None)
}

/// `NAME nexthop NEXTHOP [weight N] nexthop ... [on-down pass|drop]`
///
/// # Errors
///
/// The first thing that is wrong.
pub fn group(words: &[impl AsRef<str>]) -> Result<GroupSpec, GrammarError> {
    let words = refs(words);
    let (name, rest) = match words[..] {
        // A group may have the keyword as its name.
        [name, ref rest @ ..] if name != NEXTHOP.0 || rest.first() == Some(&NEXTHOP.0) => (name, rest),
        _ => return Err(GrammarError::NoGroup),
    };
    let (mut values, members) = pairs(&mut rest.iter().peekable(), &[NEXTHOP, ON_DOWN], false)?;
    let on_down = take_on_down(&mut values)?;
    if members.is_empty() {
        return Err(GrammarError::NoMembers(name.to_owned()));
    }
    Ok(GroupSpec::new(name, members).on_down(on_down))
}

/// `via ADDR [dev IF]` or `dev IF`
///
/// # Errors
///
/// The first thing that is wrong.
pub fn next_hop(words: &[impl AsRef<str>]) -> Result<NextHopSpec, GrammarError> {
    let words = with_keyword(VIA, refs(words), is_gateway);
    let (mut values, _) = pairs(&mut words.iter().peekable(), &[VIA, DEV], false)?;
    take_next_hop(&mut values)
}

/// `[dev IF]...` or `[IF]...`, each device once.
///
/// # Errors
///
/// The first thing that is wrong.
pub fn devices(words: &[impl AsRef<str>]) -> Result<Vec<&str>, GrammarError> {
    let mut devices = Vec::new();
    let mut words = words.iter().map(AsRef::as_ref);
    while let Some(word) = words.next() {
        let device = match word {
            word if word == DEV.0 => words.next().ok_or(GrammarError::NoValue(DEV.0, A_DEVICE))?,
            word => word,
        };
        if !devices.contains(&device) {
            devices.push(device);
        }
    }
    Ok(devices)
}

fn split(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

impl FromStr for RuleSpec {
    type Err = GrammarError;

    /// `from PREFIX [to PREFIX] TARGET [on-down pass|drop] [mss N|off] [name NAME]`; the owner is [`Owner::API`](crate::Owner::API).
    fn from_str(text: &str) -> Result<Self, GrammarError> {
        rule(&split(text))
    }
}

impl FromStr for Selector {
    type Err = GrammarError;

    /// `from PREFIX [to PREFIX]`, or the source's prefix alone.
    fn from_str(text: &str) -> Result<Self, GrammarError> {
        match split(text)[..] {
            ["from" | "to", ..] => selector(&split(text)),
            _ => Ok(text.parse::<Prefix>()?.into()),
        }
    }
}

impl FromStr for TargetSpec {
    type Err = GrammarError;

    /// `NEXTHOP`, `nexthop NEXTHOP [weight N] nexthop ...`, `group NAME`, `pass` or `drop`
    fn from_str(text: &str) -> Result<Self, GrammarError> {
        let keywords = [VIA, DEV, NEXTHOP, GROUP, PASS, DROP];
        let (mut values, members) = pairs(&mut split(text).iter().peekable(), &keywords, false)?;
        take_target(&mut values, members)?.ok_or(GrammarError::NoTargetAlone)
    }
}

impl FromStr for NextHopSpec {
    type Err = GrammarError;

    /// `via ADDR [dev IF]` or `dev IF`
    fn from_str(text: &str) -> Result<Self, GrammarError> {
        next_hop(&split(text))
    }
}

impl FromStr for MemberSpec {
    type Err = GrammarError;

    /// `nexthop NEXTHOP [weight N]`
    fn from_str(text: &str) -> Result<Self, GrammarError> {
        let (_, members) = pairs(&mut split(text).iter().peekable(), &[NEXTHOP], false)?;
        match <[MemberSpec; 1]>::try_from(members) {
            Ok([member]) => Ok(member),
            Err(members) if members.is_empty() => Err(GrammarError::NoNextHop),
            Err(_) => Err(GrammarError::Twice(NEXTHOP.0)),
        }
    }
}

impl FromStr for GroupSpec {
    type Err = GrammarError;

    /// `NAME nexthop NEXTHOP [weight N] nexthop ... [on-down pass|drop]`; the owner is [`Owner::API`](crate::Owner::API).
    fn from_str(text: &str) -> Result<Self, GrammarError> {
        group(&split(text))
    }
}

/// The source and the destination, of the family that is asked for, if any. Where the source is `all`, the gateways may tell
/// its family.
fn take_selector(
    values: &mut Values<'_>,
    family: Option<Family>,
    of_gateways: Option<Family>,
) -> Result<Selector, GrammarError> {
    let source = values.remove("from").ok_or(GrammarError::NoSource)?;
    let destination: Option<Prefix> =
        values.remove("to").filter(|to| !is_all(to)).map(str::parse).transpose()?;
    let source = if is_all(source) {
        let family = family.or(destination.map(|to| to.family())).or(of_gateways);
        Prefix::all(family.ok_or_else(|| GrammarError::NoFamily(source.to_owned()))?)
    } else {
        source.parse()?
    };
    match family {
        Some(family) if source.family() != family => Err(GrammarError::OtherFamily(source, family)),
        _ => Ok(Selector::new(source, destination)),
    }
}

/// The target, if there is one. Each of its keywords may appear only once.
fn take_target(
    values: &mut Values<'_>,
    members: Vec<MemberSpec>,
) -> Result<Option<TargetSpec>, GrammarError> {
    let said: Vec<&'static str> = ["pass", "drop", "group", "nexthop", "via", "dev"]
        .into_iter()
        .filter(|word| values.contains_key(word))
        .collect();
    match said[..] {
        ["pass"] => Ok(Some(TargetSpec::Pass)),
        ["drop"] => Ok(Some(TargetSpec::Drop)),
        ["group"] => Ok(values.remove("group").map(|name| TargetSpec::Group(name.to_owned()))),
        ["nexthop"] => Ok(Some(TargetSpec::NextHops(members))),
        ["via"] | ["dev"] | ["via", "dev"] => take_next_hop(values).map(TargetSpec::NextHop).map(Some),
        [first, second, ..] => Err(GrammarError::TwoTargets(first, second)),
        [_] | [] => Ok(None),
    }
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
fn member(words: &mut Words<'_, '_>) -> Result<MemberSpec, GrammarError> {
    let (mut values, _) = pairs(words, &[VIA, DEV, WEIGHT], true)?;
    let next_hop = take_next_hop(&mut values)?;
    let weight = match values.remove("weight") {
        Some(text) => text.parse().map_err(|_| GrammarError::Weight(text.to_owned()))?,
        None => 1,
    };
    Ok(MemberSpec { next_hop, weight })
}

/// Reads keywords and their values. At any other word it ends if others may follow, or else fails.
fn pairs<'a>(
    words: &mut Words<'a, '_>,
    keywords: &[Keyword],
    others_may_follow: bool,
) -> Result<(Values<'a>, Vec<MemberSpec>), GrammarError> {
    let mut values = BTreeMap::new();
    let mut members = Vec::new();
    while let Some(word) = words.peek() {
        let known = keywords.iter().find(|(keyword, _)| keyword == *word);
        let Some((keyword, value)) = known else {
            if others_may_follow {
                break;
            }
            return Err(GrammarError::unexpected(word, expected(keywords)));
        };
        let word = words.next().copied().unwrap_or_default();
        if *keyword == NEXTHOP.0 {
            members.push(member(words)?);
            values.insert(*keyword, word);
            continue;
        }
        let text = match value {
            // ip-route(8) names the family of a gateway that is not the destination's. The address says it as well.
            Some(value) if *keyword == VIA.0 => {
                words.next_if(|word| matches!(**word, "inet" | "inet6"));
                words.next().ok_or(GrammarError::NoValue(keyword, value))?
            }
            Some(value) => {
                words.next_if(|word| *keyword == selection::SORT.0 && **word == "by");
                words.next().ok_or(GrammarError::NoValue(keyword, value))?
            }
            None => word,
        };
        if values.insert(*keyword, text).is_some() {
            return Err(GrammarError::Twice(keyword));
        }
    }
    Ok((values, members))
}

/// `rules or groups`
fn one_of(all: &[Selectable]) -> String {
    all.iter().map(Selectable::to_string).collect::<Vec<_>>().join(" or ")
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
    use std::fmt::{Debug, Display};

    use proptest::{collection::vec, option, prelude::*};
    use serde::{Serialize, de::DeserializeOwned};

    use super::*;
    use crate::model::Owner;

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
        ]
    }

    fn members() -> impl Strategy<Value = MemberSpec> {
        (next_hops(), any::<u16>()).prop_map(|(next_hop, weight)| MemberSpec::new(next_hop).weight(weight))
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

    fn selectors() -> impl Strategy<Value = Selector> {
        let pairs = any::<bool>().prop_flat_map(|v4| (prefixes(v4), option::of(prefixes(v4))));
        pairs.prop_map(|(source, destination)| Selector::new(source, destination))
    }

    fn rules() -> impl Strategy<Value = RuleSpec> {
        let mss = prop_oneof![Just(Mss::Auto), Just(Mss::Off), any::<u16>().prop_map(Mss::Bytes)];
        (selectors(), targets(), on_downs(), mss, option::of(names())).prop_map(
            |(selector, target, on_down, mss, name)| RuleSpec {
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

    fn survives_json<T: Serialize + DeserializeOwned + Debug + PartialEq>(
        value: T,
    ) -> Result<(), TestCaseError> {
        let json = serde_json::to_string(&value).unwrap();
        prop_assert_eq!(serde_json::from_str::<T>(&json).unwrap(), value, "{}", json);
        Ok(())
    }

    proptest! {
        #[test]
        fn what_is_asked_for_survives_its_words(
            selector in selectors(), next_hop in next_hops(), member in members(), target in targets(),
            rule in rules(), group in groups(),
        ) {
            survives_its_words(selector)?;
            survives_its_words(next_hop)?;
            survives_its_words(member)?;
            survives_its_words(target)?;
            survives_its_words(rule)?;
            survives_its_words(group)?;
        }

        #[test]
        fn what_is_asked_for_survives_json(
            selector in selectors(), next_hop in next_hops(), member in members(), target in targets(),
            rule in rules(), group in groups(), owner: u8,
        ) {
            survives_json(selector)?;
            survives_json(next_hop)?;
            survives_json(member)?;
            survives_json(target)?;
            survives_json(rule.owner(Owner::new(owner)))?;
            survives_json(group.owner(Owner::new(owner)))?;
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
        let rule =
            r#"{"from": "192.0.2.7", "target": {"nexthop": {"gateway": "10.0.0.1", "device": "eth1"}}}"#;
        let spec: RuleSpec = serde_json::from_str(rule).unwrap();
        assert_eq!(Ok(&spec), "from 192.0.2.7 via 10.0.0.1 dev eth1".parse().as_ref());
        let group =
            r#"{"name": "up", "nexthops": [{"device": "wg0"}, {"gateway": "10.0.0.1", "weight": 2}]}"#;
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
                name: name.map(str::to_owned),
                ..RuleSpec::new("192.0.2.7".parse().unwrap(), target)
            };
            assert_eq!(rule(&words(text)), Ok(expected), "{text}");
        }
    }

    #[test]
    fn each_mistake_has_its_sentence() {
        let cases = [
            ("", "a rule needs `from PREFIX`, the source of the packets, like `from 192.0.2.7`"),
            ("from", "`from` needs a source address or prefix after it"),
            (
                "from 192.0.2.7",
                "the rule from 192.0.2.7 needs a target: `via ADDR`, `via ADDR dev IF`, `dev IF`, `nexthop ...`, `group NAME`, `pass` or `drop`",
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
                "web via 10.0.0.1",
                "`web` does not belong here; expected `from`, `to`, `via`, `dev`, `nexthop`, `group`, `pass`, `drop`, `on-down`, `mss` or `name`",
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
            (
                "uplinks nexthop via 10.0.0.1 weight many",
                "`many` is not a weight; write a number from 1 to 256",
            ),
            (
                "uplinks nexthop dev eth1 on-down fail",
                "`on-down fail` is not valid; write `on-down pass` or `on-down drop`",
            ),
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
            (
                "192.0.2.7/24",
                "`192.0.2.7/24` has bits set beyond its length of 24; did you mean 192.0.2.0/24?",
            ),
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
            (
                "via fe80::1%eth1",
                "`fe80::1%eth1` is not an IPv4 or IPv6 address; write `via fe80::1 dev eth1`",
            ),
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
}
