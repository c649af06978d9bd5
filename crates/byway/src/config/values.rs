//! Reads TOML's values, and reports invalid ones with their places.

use std::{borrow::Borrow, ops::Range, str::FromStr};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::problem::{Place, Problem, Problems};
use crate::model::{Prefix, PrefixError};

/// A value of a file.
pub(super) type Value<'a, 'i> = &'a Spanned<DeValue<'i>>;

/// The file that is being read, and its problems so far.
pub(super) struct Notes<'p> {
    pub(super) file: usize,
    pub(super) problems: &'p mut Problems,
}

/// The longest word to guess a correction for, in bytes.
const LONGEST_WORD: usize = 64;

/// Words that other tools use, and what Byway calls the same.
const ALSO_CALLED: &[(&str, &str)] = &[
    ("gateway", "via"),
    ("gw", "via"),
    ("device", "dev"),
    ("interface", "dev"),
    ("iface", "dev"),
    ("oif", "dev"),
    ("source", "from"),
    ("src", "from"),
    ("sources", "from"),
    ("destination", "to"),
    ("dst", "to"),
    ("rules", "rule"),
    ("groups", "group"),
    ("nexthop", "nexthops"),
    ("action", "target"),
    ("attachments", "attach"),
    ("interfaces", "attach"),
];

impl Notes<'_> {
    pub(super) fn place(&self, span: Range<usize>) -> Place {
        Place { file: self.file, span }
    }

    /// Adds an error about this part of the file: what is wrong, and what to do.
    pub(super) fn wrong(&mut self, span: Range<usize>, message: &str, help: Option<&str>) {
        self.problems.push(Problem::error(self.place(span), message, help));
    }

    /// Reports the unknown keys of a table, and returns whether there are any: a missing key may be a misspelt one.
    pub(super) fn unknown_keys(&mut self, table: &DeTable<'_>, known: &[&str], of: &str) -> bool {
        let before = self.problems.as_slice().len();
        for key in table.keys() {
            let name: &str = key.get_ref().borrow();
            if known.contains(&name) {
                continue;
            }
            let help = match name {
                "pass" | "drop" if known.contains(&"target") => {
                    format!("write `target = \"{name}\"`")
                }
                _ => match nearest(name, known) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => format!("the keys of {of} are `{}`", known.join("`, `")),
                },
            };
            self.wrong(key.span(), &format!("{of} has no key `{name}`"), Some(&help));
        }
        self.problems.as_slice().len() > before
    }

    /// A string.
    pub(super) fn string<'a>(&mut self, key: &str, value: Value<'a, '_>) -> Option<&'a str> {
        let string = value.get_ref().as_str();
        if string.is_none() {
            self.wrong_type(key, value, "a string");
        }
        string
    }

    /// A number that fits the type.
    pub(super) fn number<T: FromStr>(&mut self, key: &str, value: Value<'_, '_>, is: &str) -> Option<T> {
        let Some(number) = value.get_ref().as_integer() else {
            self.wrong_type(key, value, is);
            return None;
        };
        if number.radix() != 10 {
            self.wrong(value.span(), &format!("`{key}` must be {is}"), Some("write it in decimal digits"));
            return None;
        }
        let parsed = number.as_str().parse().ok();
        if parsed.is_none() {
            self.wrong(value.span(), &format!("`{key}` must be {is}, not {}", number.as_str()), None);
        }
        parsed
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, key: &str, value: Value<'_, '_>) -> Option<bool> {
        let DeValue::Boolean(boolean) = value.get_ref() else {
            self.wrong_type(key, value, "`true` or `false`");
            return None;
        };
        Some(*boolean)
    }

    /// A prefix.
    pub(super) fn prefix(&mut self, key: &str, value: Value<'_, '_>) -> Option<Prefix> {
        let parsed: Result<Prefix, PrefixError> = self.string(key, value)?.parse();
        let refused = |error: PrefixError| {
            self.wrong(value.span(), &error.to_string(), error.help().as_deref());
        };
        parsed.map_err(refused).ok()
    }

    /// Reports a value of the wrong type.
    pub(super) fn wrong_type(&mut self, key: &str, value: Value<'_, '_>, is: &str) {
        let what = value.get_ref().type_str();
        let article = if what.starts_with(['a', 'i']) { "an" } else { "a" };
        self.wrong(value.span(), &format!("`{key}` must be {is}, not {article} {what}"), None);
    }
}

/// The known word that was most likely meant.
pub(super) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let lower = word.to_lowercase().replace('_', "-");
    if let Some((_, meant)) = ALSO_CALLED.iter().find(|(called, _)| *called == lower)
        && let Some(meant) = known.iter().find(|key| *key == meant)
    {
        return Some(meant);
    }
    // Too long to be a typing error.
    if word.len() > LONGEST_WORD {
        return None;
    }
    let distance = |key: &&&str| strsim::damerau_levenshtein(&lower, key);
    let nearest = known.iter().filter(|key| key.len() <= LONGEST_WORD).min_by_key(distance)?;
    // At most a third of the letters may differ, or else it is a mere guess.
    (distance(&nearest) <= word.len().max(nearest.len()) / 3).then_some(nearest)
}
