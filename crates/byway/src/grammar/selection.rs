//! The words for a selection.

use std::str::FromStr;

use super::{GrammarError, Keyword, Pairs, Values, pairs, refs, split};
use crate::model::{Family, Prefix, Selectable, Selection, SortBy};

/// Followed by `by`, as people say it.
pub(super) const SORT: Keyword = ("sort", Some("`by` and what to sort by"));

use Selectable::{Groups, NextHops, Rules};

/// The keywords, each with what it chooses from.
const KEYWORDS: [(Keyword, &[Selectable]); 11] = [
    (("within", Some("a prefix")), &[Rules]),
    (("covering", Some("an address or prefix")), &[Rules]),
    (("owner", Some("an owner")), &[Rules, Groups]),
    (super::GROUP, &[Rules, NextHops]),
    (super::VIA, &[Rules, NextHops, Groups]),
    (super::DEV, &[Rules, NextHops, Groups]),
    (("name", Some("a name or a pattern, like `web-*`")), &[Rules, Groups]),
    (("with", Some("`loss`")), &[Rules, NextHops]),
    (("unused", None), &[Rules, NextHops, Groups]),
    (SORT, &[Rules, NextHops]),
    (("head", Some("a number")), &[Rules, NextHops, Groups]),
];

/// Returns whether a selection may begin with this word.
///
/// ```
/// use byway::grammar::begins_selection;
///
/// assert!(begins_selection("within") && !begins_selection("from"));
/// ```
pub fn begins_selection(word: &str) -> bool {
    KEYWORDS.iter().any(|((keyword, _), _)| *keyword == word)
}

/// Reads a selection: `[within PREFIX] [covering PREFIX] [owner NAME] [group NAME] [via ADDR] [dev IF] [name PATTERN]
/// [with loss] [unused] [sort by packets|bytes|loss|rate] [head N]`
///
/// Refuses words that have no meaning for what it chooses `from`. If `family` names one, the prefixes have to be of that
/// family, and the selection chooses only what belongs to it.
///
/// ```
/// use byway::{Owner, Selectable, grammar};
///
/// let words = ["owner", "cli", "unused"];
/// let selection = grammar::selection(Selectable::Rules, None, &words)?;
/// assert_eq!((selection.owner, selection.unused), (Some(Owner::CLI), true));
/// let error = grammar::selection(Selectable::NextHops, None, &words).unwrap_err();
/// assert_eq!(error.to_string(), "`owner` is for rules or groups, not for next hops");
/// # Ok::<(), byway::grammar::GrammarError>(())
/// ```
///
/// # Errors
///
/// The first thing that is wrong.
pub fn selection(
    from: Selectable,
    family: Option<Family>,
    words: &[impl AsRef<str>],
) -> Result<Selection, GrammarError> {
    let keywords = KEYWORDS.map(|(keyword, _)| keyword);
    let here: Vec<Keyword> =
        KEYWORDS.iter().filter(|(_, of)| of.contains(&from)).map(|(keyword, _)| *keyword).collect();
    let Pairs { mut values, .. } =
        pairs(&mut refs(words).iter().peekable(), &keywords, false).map_err(|error| match error {
            GrammarError::Unknown(word, _) => GrammarError::Unknown(word, super::expected(&here)),
            error => error,
        })?;
    let not_here = |((keyword, _), of): &(Keyword, &'static [Selectable])| {
        (!of.contains(&from) && values.contains_key(keyword)).then_some((*keyword, *of))
    };
    if let Some((keyword, of)) = KEYWORDS.iter().find_map(not_here) {
        return Err(GrammarError::NotOf(keyword, of, from));
    }
    let mut prefix = |keyword: &str| -> Result<Option<Prefix>, GrammarError> {
        let prefix: Option<Prefix> = values.remove(keyword).map(str::parse).transpose()?;
        match (prefix, family) {
            (Some(prefix), Some(family)) if prefix.family() != family => {
                Err(GrammarError::OtherFamily(prefix, family))
            }
            _ => Ok(prefix),
        }
    };
    let (within, covering) = (prefix("within")?, prefix("covering")?);
    let text = |values: &mut Values<'_>, keyword: &str| values.remove(keyword).map(str::to_owned);
    let gateway = values.remove("via");
    let with = values.remove("with");
    Ok(Selection {
        family,
        within,
        covering,
        owner: values.remove("owner").map(str::parse).transpose()?,
        group: text(&mut values, "group"),
        gateway: gateway.map(|it| it.parse().map_err(|_| GrammarError::Gateway(it.into()))).transpose()?,
        device: text(&mut values, "dev"),
        name: text(&mut values, "name"),
        with_loss: with.map_or(Ok(false), |it| match it {
            "loss" => Ok(true),
            other => Err(GrammarError::With(other.to_owned())),
        })?,
        unused: values.remove("unused").is_some(),
        sort: values.remove("sort").map(sort_by).transpose()?,
        head: values.remove("head").map(rows).transpose()?,
    })
}

fn sort_by(text: &str) -> Result<SortBy, GrammarError> {
    match text {
        "packets" => Ok(SortBy::Packets),
        "bytes" => Ok(SortBy::Bytes),
        "loss" => Ok(SortBy::Loss),
        "rate" => Ok(SortBy::Rate),
        other => Err(GrammarError::Sort(other.to_owned())),
    }
}

fn rows(text: &str) -> Result<usize, GrammarError> {
    text.parse().ok().filter(|rows| *rows > 0).ok_or_else(|| GrammarError::Head(text.to_owned()))
}

impl FromStr for Selection {
    type Err = GrammarError;

    /// The words for a selection of rules.
    fn from_str(text: &str) -> Result<Self, GrammarError> {
        selection(Rules, None, &split(text))
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::{option, prelude::*};

    use super::*;
    use crate::model::Owner;

    fn selections() -> impl Strategy<Value = Selection> {
        let prefixes = || {
            (any::<[u8; 4]>(), 0..=32_u8)
                .prop_map(|(octets, length)| Prefix::holding(IpAddr::from(octets), length).unwrap())
        };
        let sorts =
            prop_oneof![Just(SortBy::Packets), Just(SortBy::Bytes), Just(SortBy::Loss), Just(SortBy::Rate),];
        let prefixes = (option::of(prefixes()), option::of(prefixes()));
        let names = [(); 3].map(|()| option::of("[a-z0-9*?.-]{1,15}"));
        let others = (option::of(any::<u8>()), option::of(any::<IpAddr>()), any::<[bool; 2]>());
        (prefixes, names, others, option::of(sorts), option::of(1..usize::MAX)).prop_map(
            |(
                (within, covering),
                [group, device, name],
                (owner, gateway, [with_loss, unused]),
                sort,
                head,
            )| {
                let owner = owner.map(Owner::new);
                Selection {
                    family: None,
                    within,
                    covering,
                    owner,
                    group,
                    gateway,
                    device,
                    name,
                    with_loss,
                    unused,
                    sort,
                    head,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn a_selection_survives_its_words(selection in selections()) {
            prop_assert_eq!(selection.to_string().parse(), Ok(selection));
        }

        #[test]
        fn no_words_make_the_grammar_panic(text in ".*") {
            let _ = text.parse::<Selection>();
        }
    }

    #[test]
    fn each_word_has_its_things_to_choose_from() {
        let read = |from, text: &str| selection(from, None, &split(text));
        let said = |from, text: &str| read(from, text).unwrap_err().sentence();
        for (from, text) in [
            (
                Rules,
                "within 10/8 covering 10.0.0.1 owner cli group up via 10.0.0.1 dev eth1 name w* with loss unused",
            ),
            (NextHops, "group up via fe80::1 dev eth1 with loss unused sort by rate head 3"),
            (Groups, "owner 42 via 10.0.0.1 dev wg0 name up* unused head 3"),
            (Rules, ""),
        ] {
            assert!(read(from, text).is_ok(), "{text}");
        }
        for (from, text, sentence) in [
            (NextHops, "within 10/8", "`within` is for rules, not for next hops; leave it out"),
            (NextHops, "owner cli", "`owner` is for rules or groups, not for next hops; leave it out"),
            (Groups, "unused sort by loss", "`sort` is for rules or next hops, not for groups; leave it out"),
            (
                Groups,
                "up",
                "`up` does not belong here; expected `owner`, `via`, `dev`, `name`, `unused` or `head`",
            ),
        ] {
            assert_eq!(said(from, text), sentence, "{text}");
        }
    }

    #[test]
    fn each_mistake_has_its_sentence() {
        for (text, sentence) in [
            ("within", "`within` needs a prefix after it"),
            (
                "within web",
                "`web` is not an IPv4 or IPv6 address or prefix; write it like 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32",
            ),
            (
                "owner me",
                "`me` is not an owner; use `cli`, `api`, `config`, `kubernetes` or a number from 0 to 255",
            ),
            ("via eth1", "`eth1` is not an IPv4 or IPv6 address; a gateway is written like `via 192.0.2.1`"),
            ("with", "`with` needs `loss` after it"),
            ("with rate", "`with rate` is not valid; write `with loss`"),
            ("sort", "`sort` needs `by` and what to sort by after it"),
            ("sort by", "`sort` needs `by` and what to sort by after it"),
            (
                "sort by name",
                "`sort by name` is not valid; write `sort by` and `packets`, `bytes`, `loss` or `rate`",
            ),
            ("head 0", "`head 0` is not valid; write `head N` with a number from 1"),
            ("head all", "`head all` is not valid; write `head N` with a number from 1"),
            ("head 1 head 2", "`head` is there twice; use it once"),
            (
                "table 100",
                "byway has no `table`; name the next hop itself, `via ADDR dev IF`, or share it with `group NAME`",
            ),
        ] {
            assert_eq!(text.parse::<Selection>().unwrap_err().sentence(), sentence, "{text}");
        }
        let other = selection(Rules, Some(Family::V6), &["within", "10.0.0.0/8"]).unwrap_err();
        assert_eq!(other.sentence(), "10.0.0.0/8 is IPv4, and IPv6 was asked for; name one of that family");
    }
}
