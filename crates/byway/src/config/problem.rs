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
    /// Its content. That of a list has only the words that look like an address or a prefix, and spaces for all the rest:
    /// somebody may have named a file that others must not see.
    pub text: String,
}

/// A part of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Which of the [`Reading`](super::Reading)'s files.
    pub file: usize,
    /// The bytes of its text.
    pub span: Range<usize>,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration is invalid.
    Error,
    /// It is valid, but suspicious.
    Warning,
}

/// One problem.
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

    /// Makes a warning, likewise.
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
    /// The line and the column of a byte, both from 1, the column in characters.
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
