//! What is wrong with a configuration, with the text that it is about underlined.

use std::io::{self, IsTerminal, Write};

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use byway::{
    Obstacle,
    config::{PROBLEMS_MAX, Place, Problem, Reading, Severity},
};
use serde_json::{Value, json};

use super::{count, thousands};
use crate::output::printable;

/// How many are shown: more are usually one mistake made many times.
const SHOWN: usize = 50;

/// Prints them on standard error.
pub(crate) fn print(reading: &Reading) -> io::Result<()> {
    let mut out = anstream::stderr().lock();
    let renderer = if io::stderr().is_terminal() { Renderer::styled() } else { Renderer::plain() };
    for problem in reading.problems.iter().take(SHOWN) {
        writeln!(out, "{}\n", renderer.render(&[group(reading, problem)]))?;
    }
    match reading.problems.len().saturating_sub(SHOWN) {
        0 => Ok(()),
        more => writeln!(out, "... and {more} more\n"),
    }
}

/// Says which files others may write. Who applies the configuration is refused.
pub(crate) fn of_unsafe_files(reading: &Reading) -> Vec<String> {
    reading.unsafe_files.iter().map(|error| printable(&error.sentence())).collect()
}

fn group<'a>(reading: &'a Reading, problem: &'a Problem) -> Group<'a> {
    let level = match problem.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let mut group = level.primary_title(problem.message.as_str()).element(snippet(
        reading,
        &problem.place,
        AnnotationKind::Primary,
        None,
    ));
    if let Some((place, what)) = &problem.also {
        group = group.element(snippet(reading, place, AnnotationKind::Context, Some(what)));
    }
    match &problem.help {
        Some(help) => group.element(Level::HELP.message(help.as_str())),
        None => group,
    }
}

/// The lines of a place, and no others: a file may have a million.
fn snippet<'a>(
    reading: &'a Reading,
    place: &Place,
    kind: AnnotationKind,
    label: Option<&'a str>,
) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
    let Some(file) = reading.files.get(place.file) else { return Snippet::source("") };
    let text = &file.text;
    let start = boundary(text, place.span.start);
    let first = text[..start].rfind('\n').map_or(0, |end| end + 1);
    // The first line of a table is enough to tell which one it is.
    let last = text[start..].find('\n').map_or(text.len(), |end| start + end);
    let end = boundary(text, place.span.end.clamp(start, last));
    let (line, _) = file.line_and_column(start);
    let annotation = kind.span(start - first..end - first).label(label);
    Snippet::source(&text[first..last])
        .line_start(line)
        .path(file.path.to_string_lossy().into_owned())
        .annotation(annotation)
}

/// Where the character that contains this byte begins.
fn boundary(text: &str, byte: usize) -> usize {
    (0..=byte.min(text.len())).rev().find(|byte| text.is_char_boundary(*byte)).unwrap_or(0)
}

/// As JSON.
pub(crate) fn json(reading: &Reading, obstacles: &[Obstacle]) -> Value {
    let place = |place: &Place| match reading.files.get(place.file) {
        Some(file) => {
            let (line, column) = file.line_and_column(place.span.start);
            let text = file.text.get(place.span.clone()).unwrap_or("");
            json!({ "file": file.path, "line": line, "column": column, "text": text })
        }
        None => Value::Null,
    };
    let problem = |problem: &Problem| {
        let severity = if problem.severity == Severity::Error { "error" } else { "warning" };
        json!({
            "severity": severity,
            "message": problem.message,
            "help": problem.help,
            "place": place(&problem.place),
            "also": problem.also.as_ref().map(|(at, _)| place(at)),
        })
    };
    let without_place = |message: String, help: Option<String>| json!({ "severity": "warning", "message": message, "help": help, "place": null, "also": null });
    let unsafe_files = reading.unsafe_files.iter().map(|it| without_place(it.to_string(), it.help()));
    let obstacles = obstacles.iter().map(|it| without_place(it.to_string(), it.help()));
    reading.problems.iter().map(problem).chain(unsafe_files).chain(obstacles).collect()
}

/// `2 errors and 1 warning`
pub(crate) fn counted(reading: &Reading) -> String {
    let of = |severity| reading.problems.iter().filter(|it| it.severity == severity).count() as u64;
    if reading.problems.len() >= PROBLEMS_MAX {
        return format!("{} problems or more", thousands(PROBLEMS_MAX as u64));
    }
    match (of(Severity::Error), of(Severity::Warning) + reading.unsafe_files.len() as u64) {
        (0, warnings) => count(warnings, "warning"),
        (errors, 0) => count(errors, "error"),
        (errors, warnings) => format!("{} and {}", count(errors, "error"), count(warnings, "warning")),
    }
}
