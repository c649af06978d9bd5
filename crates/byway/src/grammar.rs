//! The grammar of rules, groups and next hops, as in iproute2 (ip-route(8), ip-rule(8)). Pure.
//!
//! ```text
//! RULE    := from PREFIX [to PREFIX] (TARGET | reply-to [dev IF]... [else TARGET]) [on-down pass|drop] [mss N|off] [name NAME]
//! TARGET  := NEXTHOP | MEMBERS | group NAME | pass | drop
//! NEXTHOP := via ADDR [dev IF] | dev IF
//! MEMBERS := nexthop NEXTHOP [weight N | backup] [MEMBERS]
//! GROUP   := NAME MEMBERS [on-down pass|drop]
//! FLOW    := [from] ADDR [to ADDR] [proto P] [sport N] [dport N] [iif IF]
//! SELECTION := [within PREFIX] [covering PREFIX] [owner NAME] [group NAME] [via ADDR] [dev IF] [name PATTERN]
//!              [with loss] [unused] [sort by packets|bytes|loss|rate] [head N]
//! ```
//!
//! As in iproute2, the pairs may come in any order; what follows a `nexthop` belongs to it, and so does a `dev` right after
//! `reply-to`. A bare address in front is the source of a rule, and the gateway of a next hop. `from all`, `any` or
//! `default` is every address of a family: that of the destination, else of the gateways, unless the caller names one. The
//! specs print themselves in these words, and [`FromStr`] reads them back:
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

mod error;
mod flow;
mod selection;

use std::{
    collections::{BTreeMap, BTreeSet},
    iter::Peekable,
    net::IpAddr,
    slice,
    str::FromStr,
};

pub use error::GrammarError;
pub use flow::flow;
pub use selection::{begins_selection, selection};

use crate::model::{
    Family, GroupSpec, Learned, MemberSpec, Mss, NextHopSpec, OnDown, Prefix, PrefixError, RuleSpec,
    Selector, TargetSpec, zoned,
};

/// A keyword, and the value that has to follow it, if any.
type Keyword = (&'static str, Option<&'static str>);
const FROM: Keyword = ("from", Some("a source address or prefix"));
const TO: Keyword = ("to", Some("a destination address or prefix"));
const VIA: Keyword = ("via", Some("a gateway address"));
const A_DEVICE: &str = "the name of a device";
const DEV: Keyword = ("dev", Some(A_DEVICE));
const WEIGHT: Keyword = ("weight", Some("a number"));
const BACKUP: Keyword = ("backup", None);
const GROUP: Keyword = ("group", Some("the name of a group"));
const ON_DOWN: Keyword = ("on-down", Some("`pass` or `drop`"));
const MSS: Keyword = ("mss", Some("a number of bytes, or `off`"));
const NAME: Keyword = ("name", Some("a name for the rule"));
const REPLY_TO: Keyword = ("reply-to", None);
const ELSE: Keyword = ("else", None);
const PASS: Keyword = ("pass", None);
const DROP: Keyword = ("drop", None);
/// It is followed by words of its own, as `reply-to` may be.
const NEXTHOP: Keyword = ("nexthop", None);

type Words<'a, 'b> = Peekable<slice::Iter<'b, &'a str>>;
type Values<'a> = BTreeMap<&'static str, &'a str>;

/// Keywords with their values.
#[derive(Default)]
struct Pairs<'a> {
    values: Values<'a>,
    /// What the `nexthop`s say.
    members: Vec<MemberSpec>,
    /// The devices after `reply-to`.
    receivers: BTreeSet<String>,
}

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

/// Reads a rule: `from PREFIX [to PREFIX] TARGET [on-down pass|drop] [mss N|off] [name NAME]`
///
/// ```
/// use byway::grammar;
///
/// let rule = grammar::rule(&["192.0.2.7", "mss", "off", "dev", "wg0", "to", "10/8"])?;
/// assert_eq!(rule.to_string(), "from 192.0.2.7 to 10.0.0.0/8 dev wg0 mss off");
/// # Ok::<(), byway::grammar::GrammarError>(())
/// ```
///
/// # Errors
///
/// The first thing that is wrong.
pub fn rule(words: &[impl AsRef<str>]) -> Result<RuleSpec, GrammarError> {
    rule_of(None, words)
}

/// Reads a rule as [`rule`] does. If `family` names one, the source has to be of that family, and `all` is every address of it.
///
/// ```
/// use byway::{Family, grammar};
///
/// let rule = grammar::rule_of(Some(Family::V6), &["all", "dev", "wg0"])?;
/// assert_eq!(rule.to_string(), "from ::/0 dev wg0");
/// let error = grammar::rule_of(Some(Family::V6), &["192.0.2.7", "dev", "wg0"]).unwrap_err();
/// assert_eq!(error.to_string(), "192.0.2.7 is IPv4, and IPv6 was asked for");
/// # Ok::<(), byway::grammar::GrammarError>(())
/// ```
///
/// # Errors
///
/// The first thing that is wrong.
pub fn rule_of(family: Option<Family>, words: &[impl AsRef<str>]) -> Result<RuleSpec, GrammarError> {
    let keywords = [FROM, TO, VIA, DEV, NEXTHOP, GROUP, REPLY_TO, ELSE, PASS, DROP, ON_DOWN, MSS, NAME];
    let words = with_keyword(FROM, refs(words), is_source);
    let Pairs { mut values, members, receivers } = pairs(&mut words.iter().peekable(), &keywords, false)?;
    let gateway = values.get(VIA.0).and_then(|text| match Learned::named(text) {
        Some(learned) => Some(learned.unspecified()),
        None => text.parse().ok(),
    });
    let of_members = members.iter().filter_map(|it| it.next_hop.gateway_or_unspecified());
    let gateways = gateway.into_iter().chain(of_members);
    let mut families = gateways.map(Family::of);
    let of_gateways = families.next().filter(|first| families.all(|other| other == *first));
    let selector = take_selector(&mut values, family, of_gateways)?;
    let on_down = take_or_default(&mut values, ON_DOWN)?;
    let mss = take_or_default(&mut values, MSS)?;
    let (reply_to, has_else) = (values.remove("reply-to").is_some(), values.remove("else").is_some());
    let target = match (take_target(&mut values, members)?, reply_to) {
        (_, false) if has_else => {
            return Err(GrammarError::unexpected("else", "`reply-to` with it".to_owned()));
        }
        (Some(_), true) if !has_else => return Err(GrammarError::NoElse),
        (None, true) if has_else => return Err(GrammarError::NoValue("else", "a target")),
        (None, true) => TargetSpec::Pass,
        (target, _) => target.ok_or(GrammarError::NoTarget(selector))?,
    };
    let name = values.remove("name").map(str::to_owned);
    Ok(RuleSpec {
        reply_to,
        reply_to_dev: receivers,
        name,
        ..RuleSpec::new(selector, target).on_down(on_down).mss(mss)
    })
}

/// Reads a rule as [`rule_of`] does. If nothing says of which family all sources of a `reply-to` are, there are two rules: one
/// for each family.
///
/// ```
/// use byway::grammar;
///
/// let rules = grammar::rules_of(None, &["from", "any", "reply-to"])?;
/// let rules: Vec<String> = rules.iter().map(ToString::to_string).collect();
/// assert_eq!(rules, ["from 0.0.0.0/0 reply-to", "from ::/0 reply-to"]);
/// # Ok::<(), byway::grammar::GrammarError>(())
/// ```
///
/// # Errors
///
/// The first thing that is wrong.
pub fn rules_of(family: Option<Family>, words: &[impl AsRef<str>]) -> Result<Vec<RuleSpec>, GrammarError> {
    match rule_of(family, words) {
        // Other targets have a family: that of their gateway, or of what an exception is an exception from.
        Err(GrammarError::NoFamily(word)) => {
            let both = [Family::V4, Family::V6].map(|family| rule_of(Some(family), words));
            match both {
                [Ok(v4), Ok(v6)] if v4.reply_to => Ok(vec![v4, v6]),
                [Err(error), _] | [_, Err(error)] => Err(error),
                _ => Err(GrammarError::NoFamily(word)),
            }
        }
        rule => rule.map(|rule| vec![rule]),
    }
}

/// Reads a selector: `from PREFIX [to PREFIX]`
///
/// ```
/// use byway::grammar;
///
/// let selector = grammar::selector(&["192.0.2.0/24", "to", "10.0.0.0/8"])?;
/// assert_eq!(selector.to_string(), "from 192.0.2.0/24 to 10.0.0.0/8");
/// # Ok::<(), byway::grammar::GrammarError>(())
/// ```
///
/// # Errors
///
/// The first thing that is wrong.
pub fn selector(words: &[impl AsRef<str>]) -> Result<Selector, GrammarError> {
    selector_of(None, words)
}

/// Reads a selector as [`selector`] does. If `family` names one, the source has to be of that family, and `all` is every
/// address of it.
///
/// ```
/// use byway::{Family, grammar};
///
/// let selector = grammar::selector_of(Some(Family::V4), &["all"])?;
/// assert_eq!(selector.to_string(), "from 0.0.0.0/0");
/// assert!(grammar::selector_of(Some(Family::V4), &["2001:db8::7"]).is_err());
/// # Ok::<(), byway::grammar::GrammarError>(())
/// ```
///
/// # Errors
///
/// The first thing that is wrong.
pub fn selector_of(family: Option<Family>, words: &[impl AsRef<str>]) -> Result<Selector, GrammarError> {
    let words = with_keyword(FROM, refs(words), is_source);
    let Pairs { mut values, .. } = pairs(&mut words.iter().peekable(), &[FROM, TO], false)?;
    take_selector(&mut values, family, None)
}

/// Reads a group: `NAME nexthop NEXTHOP [weight N | backup] nexthop ... [on-down pass|drop]`
///
/// ```
/// use byway::{OnDown, grammar};
///
/// let words = "uplinks nexthop via 192.0.2.1 weight 2 nexthop dev wg0 on-down drop";
/// let group = grammar::group(&words.split(' ').collect::<Vec<_>>())?;
/// assert_eq!((&*group.name, group.on_down), ("uplinks", OnDown::Drop));
/// assert_eq!(group.members[1].to_string(), "nexthop dev wg0");
/// # Ok::<(), byway::grammar::GrammarError>(())
/// ```
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
    let Pairs { mut values, members, .. } = pairs(&mut rest.iter().peekable(), &[NEXTHOP, ON_DOWN], false)?;
    let on_down = take_or_default(&mut values, ON_DOWN)?;
    if members.is_empty() {
        return Err(GrammarError::NoMembers(name.to_owned()));
    }
    Ok(GroupSpec::new(name, members).on_down(on_down))
}

/// Reads a next hop: `via ADDR [dev IF]` or `dev IF`
///
/// ```
/// use byway::{NextHopSpec, grammar};
///
/// let gateway = NextHopSpec::via("192.0.2.1".parse()?).dev("eth1");
/// assert_eq!(grammar::next_hop(&["via", "192.0.2.1", "dev", "eth1"])?, gateway);
/// assert_eq!(grammar::next_hop(&["dev", "wg0"])?, NextHopSpec::on_link("wg0"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// The first thing that is wrong.
pub fn next_hop(words: &[impl AsRef<str>]) -> Result<NextHopSpec, GrammarError> {
    let words = with_keyword(VIA, refs(words), is_gateway);
    let Pairs { mut values, .. } = pairs(&mut words.iter().peekable(), &[VIA, DEV], false)?;
    take_next_hop(&mut values)
}

/// Reads the names of devices, `[dev IF]...` or `[IF]...`, and returns each once.
///
/// ```
/// use byway::grammar;
///
/// assert_eq!(grammar::devices(&["eth0", "dev", "eth1", "eth0"])?, ["eth0", "eth1"]);
/// # Ok::<(), byway::grammar::GrammarError>(())
/// ```
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

    /// `from PREFIX [to PREFIX] TARGET [on-down pass|drop] [mss N|off] [name NAME]`. The owner is
    /// [`Owner::API`](crate::Owner::API).
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

    /// `NEXTHOP`, `nexthop NEXTHOP [weight N | backup] nexthop ...`, `group NAME`, `pass` or `drop`
    fn from_str(text: &str) -> Result<Self, GrammarError> {
        let keywords = [VIA, DEV, NEXTHOP, GROUP, PASS, DROP];
        let Pairs { mut values, members, .. } = pairs(&mut split(text).iter().peekable(), &keywords, false)?;
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

    /// `nexthop NEXTHOP [weight N | backup]`
    fn from_str(text: &str) -> Result<Self, GrammarError> {
        let Pairs { members, .. } = pairs(&mut split(text).iter().peekable(), &[NEXTHOP], false)?;
        match <[MemberSpec; 1]>::try_from(members) {
            Ok([member]) => Ok(member),
            Err(members) if members.is_empty() => Err(GrammarError::NoNextHop),
            Err(_) => Err(GrammarError::Twice(NEXTHOP.0)),
        }
    }
}

impl FromStr for GroupSpec {
    type Err = GrammarError;

    /// `NAME nexthop NEXTHOP [weight N | backup] nexthop ... [on-down pass|drop]`; the owner is [`Owner::API`](crate::Owner::API).
    fn from_str(text: &str) -> Result<Self, GrammarError> {
        group(&split(text))
    }
}

impl FromStr for OnDown {
    type Err = GrammarError;

    /// `pass` or `drop`
    fn from_str(text: &str) -> Result<Self, GrammarError> {
        match text {
            "pass" => Ok(Self::Pass),
            "drop" => Ok(Self::Drop),
            _ => Err(GrammarError::OnDown(text.to_owned())),
        }
    }
}

impl FromStr for Mss {
    type Err = GrammarError;

    /// `auto`, `off` or a number of bytes. [`RuleSpec::check`] refuses one that is out of range.
    fn from_str(text: &str) -> Result<Self, GrammarError> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            _ => text.parse().map(Self::Bytes).map_err(|_| GrammarError::Mss(text.to_owned())),
        }
    }
}

/// Takes the source and the destination. If a family is asked for, they have to be of it. If the source is `all`, the gateways
/// may tell its family.
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

fn take_or_default<T>(values: &mut Values<'_>, keyword: Keyword) -> Result<T, GrammarError>
where
    T: FromStr<Err = GrammarError> + Default,
{
    values.remove(keyword.0).map_or_else(|| Ok(T::default()), str::parse)
}

fn take_next_hop(values: &mut Values<'_>) -> Result<NextHopSpec, GrammarError> {
    let (via, device) = (values.remove("via"), values.remove("dev"));
    if let Some(learned) = via.and_then(Learned::named) {
        let device = device.ok_or(GrammarError::NoDevice(learned))?;
        return Ok(NextHopSpec::Learned(learned, device.to_owned()));
    }
    let gateway = via
        .map(|text| text.parse::<IpAddr>().map_err(|_| GrammarError::Gateway(text.to_owned())))
        .transpose()?;
    match (gateway, device) {
        (Some(gateway), Some(device)) => Ok(NextHopSpec::ViaDev(gateway, device.to_owned())),
        (Some(gateway), None) => Ok(NextHopSpec::Via(gateway)),
        (None, Some(device)) => Ok(NextHopSpec::Dev(device.to_owned())),
        (None, None) => Err(GrammarError::NoNextHop),
    }
}

/// What follows a `nexthop`.
fn member(words: &mut Words<'_, '_>) -> Result<MemberSpec, GrammarError> {
    let Pairs { mut values, .. } = pairs(words, &[VIA, DEV, WEIGHT, BACKUP], true)?;
    let next_hop = take_next_hop(&mut values)?;
    let weight = match values.remove("weight") {
        Some(text) => text.parse().map_err(|_| GrammarError::Weight(text.to_owned()))?,
        None => 1,
    };
    Ok(MemberSpec { next_hop, weight, is_backup: values.contains_key(BACKUP.0) })
}

/// Reads keywords and their values. At any other word it ends if others may follow, or else fails.
fn pairs<'a>(
    words: &mut Words<'a, '_>,
    keywords: &[Keyword],
    others_may_follow: bool,
) -> Result<Pairs<'a>, GrammarError> {
    let Pairs { mut values, mut members, mut receivers } = Pairs::default();
    while let Some(word) = words.peek() {
        let known = keywords.iter().find(|(keyword, _)| keyword == *word);
        let Some((keyword, value)) = known else {
            if others_may_follow {
                break;
            }
            // It may be a word of the next hop before it.
            let of_member: &[Keyword] = if members.is_empty() { &[] } else { &[WEIGHT, BACKUP] };
            return Err(GrammarError::unexpected(word, expected(&[of_member, keywords].concat())));
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
        while *keyword == REPLY_TO.0 && words.next_if(|word| **word == DEV.0).is_some() {
            let device = words.next().ok_or(GrammarError::NoValue(DEV.0, A_DEVICE))?;
            receivers.insert((*device).to_owned());
        }
    }
    Ok(Pairs { values, members, receivers })
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
mod tests;
