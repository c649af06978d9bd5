//! What TOML's values mean, each with its place, and what is said where one means nothing.

use std::{borrow::Borrow, str::FromStr};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::problem::{Place, Problem, Problems};

/// A value of a file.
pub(super) type Value<'a, 'i> = &'a Spanned<DeValue<'i>>;

/// The file that is being read, and what is wrong with it so far.
pub(super) struct Notes<'p> {
    pub(super) file: usize,
    pub(super) problems: &'p mut Problems,
}

/// The longest word to look for what was meant by it, in bytes.
const LONGEST_WORD: usize = 64;

/// Words of others for what Byway calls by another name.
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
    pub(super) fn place(&self, span: std::ops::Range<usize>) -> Place {
        Place { file: self.file, span }
    }

    /// Something is wrong with this part of the file.
    pub(super) fn wrong(&mut self, span: std::ops::Range<usize>, sentence: &str) {
        self.problems.push(Problem::error(self.place(span), sentence));
    }

    /// Says which keys of a table are none of these, and whether there are any: what the table lacks may be one of them.
    pub(super) fn unknown_keys(&mut self, table: &DeTable<'_>, known: &[&str], of: &str) -> bool {
        let before = self.problems.as_slice().len();
        for key in table.keys() {
            let name: &str = key.get_ref().borrow();
            if known.contains(&name) {
                continue;
            }
            let help = match name {
                "pass" | "drop" if known.contains(&"target") => format!("write `target = \"{name}\"`"),
                _ => match nearest(name, known) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => format!("the keys of {of} are `{}`", known.join("`, `")),
                },
            };
            self.wrong(key.span(), &format!("{of} has no key `{name}`; {help}"));
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

    /// A number that fits.
    pub(super) fn number<T: FromStr>(&mut self, key: &str, value: Value<'_, '_>, is: &str) -> Option<T> {
        let Some(number) = value.get_ref().as_integer() else {
            self.wrong_type(key, value, is);
            return None;
        };
        if number.radix() != 10 {
            self.wrong(value.span(), &format!("`{key}` is {is}; write it in decimal digits"));
            return None;
        }
        let parsed = number.as_str().parse().ok();
        if parsed.is_none() {
            self.wrong(value.span(), &format!("`{key}` is {is}, and this one is {}", number.as_str()));
        }
        parsed
    }

    /// A string that means something.
    pub(super) fn parsed<T: FromStr>(&mut self, key: &str, value: Value<'_, '_>) -> Option<T>
    where
        T::Err: std::fmt::Display,
    {
        let text = self.string(key, value)?;
        match text.parse() {
            Ok(parsed) => Some(parsed),
            Err(error) => {
                self.wrong(value.span(), &error.to_string());
                None
            }
        }
    }

    /// A value is of another type than it should be.
    pub(super) fn wrong_type(&mut self, key: &str, value: Value<'_, '_>, is: &str) {
        let (what, text) = (value.get_ref().type_str(), "here is");
        let article = if what.starts_with(['a', 'i']) { "an" } else { "a" };
        self.wrong(value.span(), &format!("`{key}` is {is}, and {text} {article} {what}"));
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
    // Nobody mistypes anything as long as this.
    if word.len() > LONGEST_WORD {
        return None;
    }
    let distance = |key: &&&str| strsim::damerau_levenshtein(&lower, key);
    let nearest = known.iter().filter(|key| key.len() <= LONGEST_WORD).min_by_key(distance)?;
    // A third of the letters at the most, or it is a guess.
    (distance(&nearest) <= word.len().max(nearest.len()) / 3).then_some(nearest)
}
