//! Prefixes, in the file itself or in a list of their own.

use std::ops::Range;

use toml::de::DeValue;

use super::Parser;
use crate::{
    config::{
        File,
        draft::Origin,
        problem::{Place, Problem},
        values::Value,
    },
    model::Prefix,
};

impl Parser<'_> {
    /// One prefix, or several, with their places.
    pub(super) fn prefixes(&mut self, key: &str, value: Value<'_, '_>) -> Vec<(Prefix, Origin)> {
        let file = self.number as u32;
        let mut one = |value: Value<'_, '_>| {
            let prefix = self.notes().prefix(key, value)?;
            Some((prefix, Origin { file, start: value.span().start as u32 }))
        };
        match value.get_ref() {
            DeValue::Array(all) if all.is_empty() => {
                self.says_nothing(value, &format!("`{key}` is empty"));
                Vec::new()
            }
            DeValue::Array(all) => all.iter().filter_map(one).collect(),
            _ => one(value).into_iter().collect(),
        }
    }

    /// Warns that a list is empty, which a program may have written by mistake.
    fn says_nothing(&mut self, value: Value<'_, '_>, what: &str) {
        let message = format!("{what}, so the rule matches no packet");
        let place = self.notes().place(value.span());
        self.draft.problems.push(Problem::warning(place, &message, Some("delete it, or fill the list")));
    }

    /// The prefixes of a list file: one on each line, with comments after `#`.
    pub(super) fn list(&mut self, value: Value<'_, '_>) -> Option<Vec<(Prefix, Origin)>> {
        let name = self.notes().string("from-file", value)?;
        if name.is_empty() {
            self.notes().wrong(value.span(), "`from-file` names no file", Some("write the name of a list"));
            return None;
        }
        let path = self.folder.join(name);
        let text = match (self.load)(&path) {
            Ok(text) => text,
            Err(error) => {
                self.notes().wrong(value.span(), &error.to_string(), error.help().as_deref());
                return None;
            }
        };
        let file = self.draft.files.len();
        let mut prefixes = Vec::with_capacity(text.len() / 16);
        let mut is_empty = true;
        // What no problem may show.
        let mut hidden = Vec::new();
        // Windows starts a text with a byte order mark.
        let (mut start, lines) = text.strip_prefix('\u{feff}').map_or((0, &*text), |lines| (3, lines));
        hidden.push(0..start);
        for (nth, line) in lines.split('\n').enumerate() {
            let end = start + line.len();
            // Faster than `split` on lines as short as these.
            let comment = line.bytes().position(|byte| byte == b'#').unwrap_or(line.len());
            let said = &line[..comment];
            if said.len() < line.len() {
                hidden.push(start + said.len()..end);
            }
            let from_word = said.trim_start();
            let word = from_word.trim_end();
            if !word.is_empty() {
                is_empty = false;
                let at = start + (said.len() - from_word.len());
                match word.parse::<Prefix>() {
                    Ok(prefix) => {
                        prefixes.push((prefix, Origin { file: file as u32, start: at as u32 }));
                    }
                    Err(error) => {
                        let (length, message) = if may_quote(word) {
                            (word.len(), error.to_string())
                        } else {
                            hidden.push(at..at + word.len());
                            (0, format!("line {} is not a prefix", nth + 1))
                        };
                        let place = Place { file, span: at..at + length };
                        let help = error.help();
                        self.draft.problems.push(Problem::error(place, &message, help.as_deref()));
                    }
                }
            }
            start = end + 1;
        }
        if is_empty {
            self.says_nothing(value, &format!("there is no prefix in {}", path.display()));
        }
        let text = blank(text, hidden);
        self.draft.files.push(File { path, text });
        Some(prefixes)
    }
}

/// The longest word of a list that an error quotes, in bytes. A prefix has 49 at most.
const QUOTED_MAX: usize = 64;

/// Whether an error may quote this word of a list. Somebody may have named a file that only root may read, so only what looks
/// like an address or a prefix is shown.
fn may_quote(word: &str) -> bool {
    word.len() <= QUOTED_MAX
        && word.contains(['.', ':', '/'])
        && word.bytes().all(|byte| byte.is_ascii_hexdigit() || b".:/".contains(&byte))
}

/// Puts spaces in the place of these bytes.
fn blank(text: String, hidden: Vec<Range<usize>>) -> String {
    let mut bytes = text.into_bytes();
    hidden.into_iter().for_each(|range| bytes[range].fill(b' '));
    // They are whole characters.
    String::from_utf8(bytes).unwrap_or_default()
}
