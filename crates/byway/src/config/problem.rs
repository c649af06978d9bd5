//! Problems of a configuration, and their places.

use std::{ops::Range, path::PathBuf};

/// How many problems are kept: more are usually one mistake made many times.
pub const PROBLEMS_MAX: usize = 1_000;

/// The problems so far, up to [`PROBLEMS_MAX`].
#[derive(Default)]
pub(super) struct Problems(Vec<Problem>);

impl Problems {
    pub(super) fn push(&mut self, problem: Problem) {
        if self.0.len() < PROBLEMS_MAX {
            self.0.push(problem);
        }
    }

    pub(super) fn as_slice(&self) -> &[Problem] {
        &self.0
    }

    /// Removes and returns all after the first `at`.
    pub(super) fn split_off(&mut self, at: usize) -> Vec<Problem> {
        self.0.split_off(at)
    }

    pub(super) fn into_vec(self) -> Vec<Problem> {
        self.0
    }
}

/// One of the files that a configuration is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Where it is.
    pub path: PathBuf,
    /// Its content. In a list, spaces replace all words that do not look like an address or a prefix: somebody may have named a
    /// file that others must not see.
    pub text: String,
}

/// A part of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file: its index in [`Reading::files`](super::Reading::files).
    pub file: usize,
    /// The bytes of the file's text.
    pub span: Range<usize>,
}

/// Whether a problem makes a configuration invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration is invalid.
    Error,
    /// The configuration is valid, but suspicious.
    Warning,
}

/// One problem of a configuration.
///
/// ```
/// use byway::config::read;
///
/// let text = "[[rule]]\nfrom = \"192.0.2.7\"\nvia = \"10.0.0.256\"\n";
/// let reading = read([("byway.toml".into(), text.into())], &mut |_| unreachable!());
/// for problem in &reading.problems {
///     let file = &reading.files[problem.place.file];
///     let (line, column) = file.line_and_column(problem.place.span.start);
///     let said = format!("{}:{line}:{column}: {}", file.path.display(), problem.message);
///     assert_eq!(said, "byway.toml:3:7: `10.0.0.256` is not an IPv4 or IPv6 address");
/// }
/// assert_eq!(reading.problems.len(), 1);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
    /// Where it is.
    pub place: Place,
    /// Another place that has to do with it, and what is there.
    pub also: Option<(Place, String)>,
}

impl Problem {
    /// Makes an error from what is wrong, and what to do.
    pub(super) fn error(place: Place, message: &str, help: Option<&str>) -> Self {
        Self::new(Severity::Error, place, message, help)
    }

    /// Makes a warning from what is suspicious, and what to do.
    pub(super) fn warning(place: Place, message: &str, help: Option<&str>) -> Self {
        Self::new(Severity::Warning, place, message, help)
    }

    fn new(severity: Severity, place: Place, message: &str, help: Option<&str>) -> Self {
        Self { severity, message: message.to_owned(), help: help.map(str::to_owned), place, also: None }
    }

    pub(super) fn also(self, place: Place, what: &str) -> Self {
        Self { also: Some((place, what.to_owned())), ..self }
    }
}

impl File {
    /// Returns the line and the column of a byte, both from 1, the column in characters.
    pub fn line_and_column(&self, byte: usize) -> (usize, usize) {
        let before = self.text.get(..byte).unwrap_or(&self.text);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        (line, column)
    }
}

/// The span of the token that begins at this byte: a string in quotes, or a word.
pub(super) fn token(text: &str, start: usize) -> Range<usize> {
    let rest = text.get(start..).unwrap_or("");
    let length = match rest.chars().next() {
        Some(quote @ ('"' | '\'')) => rest[1..].find(quote).map(|end| end + 2),
        _ => rest.find(|at: char| at.is_whitespace() || at == '#'),
    };
    start..start + length.unwrap_or(rest.len())
}
