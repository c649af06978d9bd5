use byway::{
    RuleStatus, Selectable, Selection, Target,
    grammar::{self, GrammarError},
};
use clap::Args;

use super::{answer, open::open};
use crate::{error::Error, options::Options, output::Output, render::count};

/// Delete all rules, or those that a selection chooses
///
/// Deletes them in one instant. Attachments and groups stay: `byway detach` and `byway group del` remove those. Rules of a kind
/// that only a newer byway knows stay too. Exits with 6 if the selection chooses no rule.
#[derive(Debug, Args)]
#[command(after_help = "\
The words for a selection are those of `byway show`, but for `sort` and `head`.

Examples:
  byway flush
  byway -6 flush                      those with an IPv6 source
  byway flush within 192.168.0.0/16   those with a source in there
  byway flush name 'web-*' owner cli  those that match both
  byway flush unused                  those that have matched no packet")]
pub(crate) struct Flush {
    /// Which rules, like `within PREFIX` or `owner NAME`; all by default
    #[arg(value_name = "SELECTION", num_args = 0..)]
    words: Vec<String>,
}

impl Flush {
    pub(crate) fn exec(&self, options: &Options) -> Result<Output, Error> {
        let selection = selection(&self.words, options)?;
        let mut byway = open(options)?;
        let rules = match selection == Selection::default() {
            true => byway.flush()?,
            false => byway.flush_only(&selection)?,
        };
        let is_unknown = |it: &RuleStatus| matches!(it.rule.target, Target::Other { .. });
        // The flush is done, whether or not this can be read.
        let left: Vec<RuleStatus> = byway
            .listing()
            .and_then(|mut listing| {
                listing.select(&selection)?;
                Ok(listing.rules().flatten().filter(is_unknown).collect())
            })
            .unwrap_or_default();
        if !self.words.is_empty() && rules.is_empty() && left.is_empty() {
            return Err(Error::NothingChosen(answer::none_matches("rule", &selection)));
        }
        let mut text = format!("deleted {}", count(rules.len() as u64, "rule"));
        for left in left {
            text += &format!("\nleft alone, since this byway does not know its kind: {}", left.rule);
        }
        Ok(Output::line(text, &rules))
    }
}

fn selection(words: &[String], options: &Options) -> Result<Selection, GrammarError> {
    let unknown = |word: String| {
        let expected = "words that say which rules, like `within PREFIX`: `flush` deletes all that match";
        GrammarError::Unknown(word, expected.to_owned())
    };
    let selection =
        grammar::selection(Selectable::Rules, options.family(), words).map_err(|error| match error {
            GrammarError::Unknown(word, _) => unknown(word),
            error => error,
        })?;
    let of_order = [("sort", selection.sort.is_some()), ("head", selection.head.is_some())];
    match of_order.into_iter().find(|(_, is_there)| *is_there) {
        Some((word, _)) => Err(unknown(word.to_owned())),
        None => Ok(selection),
    }
}
