//! A page of Markdown: its blocks of code, and what is to be done with each.

use std::ops::Range;

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

pub(super) struct Page {
    pub(super) path: String,
    pub(super) text: String,
    pub(super) blocks: Vec<Block>,
}

pub(super) struct Block {
    /// The first line is 1.
    pub(super) line: usize,
    pub(super) action: Action,
}

pub(super) enum Action {
    /// Runs commands and compares what they print.
    Compare(Vec<Command>),
    /// Runs commands that must succeed.
    Run(String),
    /// Does nothing, for this reason.
    NotRun(String),
}

/// A command of a transcript.
pub(super) struct Command {
    pub(super) text: String,
    /// Where the page has what it prints.
    pub(super) output: Range<usize>,
}

/// What a comment says about the block behind it.
enum Marker {
    NotRun(String),
    File(String),
}

impl Page {
    /// Panics where the page does not keep the convention.
    pub(super) fn read(path: &str, text: String) -> Self {
        let mut page = Self { path: path.to_owned(), text: String::new(), blocks: Vec::new() };
        let mut marker = None;
        let mut code: Option<(String, String)> = None;
        let options = Options::ENABLE_TABLES;
        for (event, range) in Parser::new_ext(&text, options).into_offset_iter() {
            let line = text[..range.start].matches('\n').count() + 1;
            let place = || format!("{path}:{line}");
            match event {
                Event::Start(Tag::CodeBlock(CodeBlockKind::Indented)) => {
                    code = Some(("sh".to_owned(), String::new()));
                }
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language))) => {
                    code = Some((language.into_string(), String::new()));
                }
                Event::Text(more) if code.is_some() => {
                    code.iter_mut().for_each(|(_, text)| text.push_str(&more));
                }
                Event::End(TagEnd::CodeBlock) => {
                    let (language, code) = code.take().unwrap();
                    let actions = actions(&language, &code, &text, range, marker.take(), &place());
                    page.blocks.extend(actions.into_iter().map(|action| Block { line, action }));
                }
                Event::Html(html) => {
                    // The lines of a comment come one by one, so it is taken from the text, with its first line.
                    let Some(rest) = html.starts_with("<!--").then(|| &text[range.start + 4..]) else {
                        continue;
                    };
                    let comment =
                        rest.split("-->").next().unwrap_or_else(|| panic!("{}: it never ends", place()));
                    let (word, rest) =
                        comment.split_once(':').unwrap_or_else(|| panic!("{}: no marker", place()));
                    assert!(marker.is_none(), "{}: no block follows the marker before", place());
                    let rest = rest.trim().to_owned();
                    match word.trim() {
                        "run" => page.blocks.push(Block { line, action: Action::Run(rest) }),
                        "not run" => marker = Some(Marker::NotRun(rest)),
                        "file" => marker = Some(Marker::File(rest)),
                        other => panic!("{}: there is no marker `{other}`", place()),
                    }
                }
                _ => {}
            }
        }
        assert!(marker.is_none(), "{path}: no block follows the last marker");
        page.text = text;
        page
    }
}

/// What to do with a block, whose text with its fences is at `range`.
fn actions(
    language: &str,
    code: &str,
    page: &str,
    range: Range<usize>,
    marker: Option<Marker>,
    place: &str,
) -> Vec<Action> {
    let mut actions = Vec::new();
    match marker {
        Some(Marker::NotRun(reason)) => return vec![Action::NotRun(reason)],
        Some(Marker::File(path)) => actions.push(write(&path, code)),
        None => {}
    }
    match language {
        "console" => actions.push(Action::Compare(transcript(page, range, place))),
        "sh" => actions.push(Action::Run(code.to_owned())),
        "toml" => {
            actions.push(write("/run/block/byway.toml", code));
            actions.push(Action::Run("byway check --offline /run/block/byway.toml".to_owned()));
        }
        "json" => {
            serde_json::from_str::<serde_json::Value>(code)
                .unwrap_or_else(|error| panic!("{place}: {error}"));
        }
        "text" => {
            let is_command = |line: &str| ["# ", "$ ", "byway "].iter().any(|start| line.starts_with(start));
            assert!(
                !actions.is_empty() || !code.lines().any(is_command),
                "{place}: make a block of commands `console` or `sh`"
            );
        }
        "rust" => {
            let library = include_str!("../../../../../byway/src/lib.rs");
            let example: String =
                code.lines().map(|line| format!("//! {line}").trim_end().to_owned() + "\n").collect();
            assert!(
                library.contains(&example),
                "{place}: take the example of byway/src/lib.rs, which is compiled"
            );
        }
        other => panic!("{place}: there is no kind of block `{other}`"),
    }
    actions
}

fn write(path: &str, text: &str) -> Action {
    Action::Run(format!("install -D -m 644 /dev/null {path}; printf %s {} >{path}", quoted(text)))
}

/// The word for a shell.
pub(super) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn transcript(page: &str, range: Range<usize>, place: &str) -> Vec<Command> {
    let mut commands: Vec<Command> = Vec::new();
    let mut at = range.start;
    let mut is_continued = false;
    // Without the fences.
    let lines: Vec<&str> = page[range].split_inclusive('\n').collect();
    at += lines[0].len();
    let lines = &lines[1..lines.len() - 1];
    let prompt = lines.first().and_then(|line| line.get(..2)).unwrap_or_default();
    assert!(["# ", "$ "].contains(&prompt), "{place}: begin it with a prompt, `# ` or `$ `");
    for line in lines {
        let end = at + line.len();
        if is_continued {
            let last = commands.last_mut().unwrap();
            last.text += line;
            last.output = end..end;
        } else if let Some(text) = line.strip_prefix(prompt) {
            commands.push(Command { text: text.to_owned(), output: end..end });
        } else {
            commands.last_mut().unwrap().output.end = end;
        }
        let is_command = commands.last().unwrap().output.start == end;
        is_continued = is_command && line.trim_end().ends_with('\\');
        at = end;
    }
    commands
}
