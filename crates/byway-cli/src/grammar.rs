//! The words of rules and attachments, which are those of iproute2 (ip-route(8), ip-rule(8)).
//!
//! ```text
//! RULE   := from PREFIX TARGET [name NAME]
//! TARGET := via ADDR [dev IF] | dev IF | pass | drop
//! ```
//!
//! As there, the pairs may come in any order.

use std::{collections::BTreeMap, net::IpAddr};

use byway::{Owner, Prefix, PrefixError, RuleSpec, TargetSpec};
use thiserror::Error;

/// Why words make no sense.
#[derive(Debug, PartialEq, Eq, Error)]
pub(crate) enum GrammarError {
    #[error("`{0}` is not a word that belongs here; expected {1}")]
    Unknown(String, &'static str),
    #[error("`{0}` needs {1} behind it")]
    NoValue(&'static str, &'static str),
    #[error("`{0}` is there twice; say it once")]
    Twice(&'static str),
    #[error("a rule needs `from PREFIX`, the source of the packets, like `from 192.0.2.7`")]
    NoSource,
    #[error("the rule from {0} needs a target: `via ADDR`, `via ADDR dev IF`, `dev IF`, `pass` or `drop`")]
    NoTarget(Prefix),
    #[error("a rule has one target: `{0}` cannot stand beside `{1}`")]
    TwoTargets(&'static str, &'static str),
    #[error("`{0}` is not an IPv4 or IPv6 address; a gateway is written like `via 192.0.2.1`")]
    Gateway(String),
    #[error(transparent)]
    Prefix(#[from] PrefixError),
}

/// A keyword, and what has to follow it, if anything has to.
type Keyword = (&'static str, Option<&'static str>);
const FROM: Keyword = ("from", Some("a source address or prefix"));
const VIA: Keyword = ("via", Some("a gateway address"));
const A_DEVICE: &str = "the name of a device";
const DEV: Keyword = ("dev", Some(A_DEVICE));
const NAME: Keyword = ("name", Some("a name for the rule"));
const PASS: Keyword = ("pass", None);
const DROP: Keyword = ("drop", None);

/// `from PREFIX TARGET [name NAME]`
pub(crate) fn rule(words: &[String]) -> Result<RuleSpec, GrammarError> {
    let mut values =
        pairs(words, &[FROM, VIA, DEV, PASS, DROP, NAME], "`from`, `via`, `dev`, `pass`, `drop` or `name`")?;
    let source: Prefix = values.remove("from").ok_or(GrammarError::NoSource)?.parse()?;
    let gateway = values
        .remove("via")
        .map(|text| text.parse::<IpAddr>().map_err(|_| GrammarError::Gateway(text.to_owned())))
        .transpose()?;
    let device = values.remove("dev");
    let verdict = ["pass", "drop"].into_iter().find(|verdict| values.contains_key(verdict));
    let target = match (gateway, device, verdict) {
        (Some(gateway), Some(device), None) => TargetSpec::ViaDev(gateway, device.to_owned()),
        (Some(gateway), None, None) => TargetSpec::Via(gateway),
        (None, Some(device), None) => TargetSpec::Dev(device.to_owned()),
        (None, None, Some("pass")) if values.contains_key("drop") => {
            return Err(GrammarError::TwoTargets("pass", "drop"));
        }
        (None, None, Some("pass")) => TargetSpec::Pass,
        (None, None, Some(_)) => TargetSpec::Drop,
        (Some(_), _, Some(verdict)) => return Err(GrammarError::TwoTargets(verdict, "via")),
        (None, Some(_), Some(verdict)) => return Err(GrammarError::TwoTargets(verdict, "dev")),
        (None, None, None) => return Err(GrammarError::NoTarget(source)),
    };
    Ok(RuleSpec { source, target, owner: Owner::Cli, name: values.remove("name").map(str::to_owned) })
}

/// `from PREFIX`
pub(crate) fn source(words: &[String]) -> Result<Prefix, GrammarError> {
    let mut values = pairs(words, &[FROM], "`from`")?;
    Ok(values.remove("from").ok_or(GrammarError::NoSource)?.parse()?)
}

/// `[dev IF]...`
pub(crate) fn devices(words: &[String]) -> Result<Vec<&str>, GrammarError> {
    let mut devices = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word != DEV.0 {
            return Err(GrammarError::Unknown(word.clone(), "`dev IF`, once for each device"));
        }
        let device = words.next().ok_or(GrammarError::NoValue(DEV.0, A_DEVICE))?;
        if !devices.contains(&device.as_str()) {
            devices.push(device.as_str());
        }
    }
    Ok(devices)
}

fn pairs<'a>(
    words: &'a [String],
    keywords: &[Keyword],
    expected: &'static str,
) -> Result<BTreeMap<&'static str, &'a str>, GrammarError> {
    let mut values = BTreeMap::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let known = keywords.iter().find(|(keyword, _)| keyword == word);
        let (keyword, value) = *known.ok_or_else(|| GrammarError::Unknown(word.clone(), expected))?;
        let text = match value {
            Some(value) => words.next().ok_or(GrammarError::NoValue(keyword, value))?,
            None => word,
        };
        if values.insert(keyword, text.as_str()).is_some() {
            return Err(GrammarError::Twice(keyword));
        }
    }
    Ok(values)
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
        let cases = [
            ("from 192.0.2.7 via 10.0.0.1", TargetSpec::Via(gateway), None),
            ("from 192.0.2.7 via 10.0.0.1 dev eth1", TargetSpec::ViaDev(gateway, "eth1".into()), None),
            ("dev eth1 via 10.0.0.1 from 192.0.2.7/32", TargetSpec::ViaDev(gateway, "eth1".into()), None),
            ("from 192.0.2.7 dev wg0 name vpn", TargetSpec::Dev("wg0".into()), Some("vpn")),
            ("from 192.0.2.7 pass", TargetSpec::Pass, None),
            ("drop from 192.0.2.7 name bad", TargetSpec::Drop, Some("bad")),
            // A device may be called as a keyword is.
            ("from 192.0.2.7 dev via", TargetSpec::Dev("via".into()), None),
        ];
        for (text, target, name) in cases {
            let expected = RuleSpec {
                source: "192.0.2.7".parse().unwrap(),
                target,
                owner: Owner::Cli,
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
                "the rule from 192.0.2.7 needs a target: `via ADDR`, `via ADDR dev IF`, `dev IF`, `pass` or `drop`",
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
                "`192.0.2.7` is not a word that belongs here; expected `from`, `via`, `dev`, `pass`, `drop` or `name`",
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
    fn devices_are_named_one_by_one() {
        assert_eq!(devices(&words("dev eth0 dev eth1 dev eth0")), Ok(vec!["eth0", "eth1"]));
        assert_eq!(devices(&[]), Ok(vec![]));
        assert_eq!(devices(&words("dev")), Err(GrammarError::NoValue("dev", "the name of a device")));
        let sentence = "`eth0` is not a word that belongs here; expected `dev IF`, once for each device";
        assert_eq!(devices(&words("eth0")).unwrap_err().to_string(), sentence);
    }
}
