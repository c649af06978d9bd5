//! A Markdown page as a manual page, in the macros of groff_man(7).

use pulldown_cmark::{Event, HeadingLevel, Options, Parser, Tag, TagEnd};

/// The head of a manual page.
pub(super) struct Head<'a> {
    /// Its name, like `byway.toml`.
    pub(super) name: &'a str,
    /// Its section, like 5.
    pub(super) section: u8,
    /// What it is about, in a few words.
    pub(super) about: &'a str,
    /// The title of the section of the manual.
    pub(super) manual: &'a str,
    /// The date, like 2026-11-29.
    pub(super) date: &'a str,
    /// The package and its version.
    pub(super) source: &'a str,
    /// Other pages: their names and sections.
    pub(super) see_also: &'a [(&'a str, u8)],
}

/// Converts a page. Its first heading gives way to the name, and its headings become sections.
pub(super) fn page(head: &Head<'_>, markdown: &str) -> String {
    let Head { name, section, about, manual, date, source, see_also } = head;
    let mut writer = Writer {
        out: format!(
            ".TH {} {section} \"{date}\" \"{source}\" \"{manual}\"\n.SH NAME\n{} \\- {}\n.SH DESCRIPTION\n",
            name.to_uppercase(),
            escaped(name),
            escaped(about)
        ),
        ..Writer::default()
    };
    Parser::new_ext(markdown, Options::ENABLE_TABLES).for_each(|event| writer.event(event));
    writer.out += ".SH SEE ALSO\n";
    for (at, (name, section)) in see_also.iter().enumerate() {
        let comma = if at + 1 < see_also.len() { "," } else { "" };
        writer.out += &format!(".BR {} ({section}){comma}\n", escaped(name));
    }
    writer.out
}

#[derive(Default)]
struct Writer {
    out: String,
    /// The text of the paragraph, heading or cell under way.
    text: String,
    is_code_block: bool,
    /// How deep lists are nested.
    lists: usize,
    /// An item has just begun, so its first paragraph goes on behind the bullet.
    is_item_start: bool,
    /// Where a link leads to, if that is not in this repository.
    link: Option<String>,
    columns: Vec<String>,
    cells: Vec<String>,
}

impl Writer {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.start(tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text) => self.text += &escaped(&text),
            Event::Code(code) => self.text += &format!("\\fB{}\\fP", escaped(&code)),
            Event::SoftBreak => self.text += if self.is_code_block { "\n" } else { " " },
            Event::HardBreak => self.text += "\n.br\n",
            _ => {}
        }
    }

    fn start(&mut self, tag: Tag<'_>) {
        match tag {
            Tag::CodeBlock(_) => {
                self.flush_item();
                self.is_code_block = true;
            }
            Tag::List(_) => {
                self.flush_item();
                if self.lists > 0 {
                    self.out += ".RS 2\n";
                }
                self.lists += 1;
            }
            Tag::Item => {
                self.out += ".IP \\(bu 2\n";
                self.is_item_start = true;
            }
            Tag::Emphasis => self.text += "\\fI",
            Tag::Strong => self.text += "\\fB",
            Tag::Link { dest_url, .. } if dest_url.contains("://") => {
                self.link = Some(dest_url.into_string())
            }
            _ => {}
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Heading(HeadingLevel::H1) => self.text.clear(),
            TagEnd::Heading(HeadingLevel::H2) => self.heading(".SH"),
            TagEnd::Heading(_) => self.heading(".SS"),
            TagEnd::Paragraph => {
                match self.lists {
                    _ if self.is_item_start => {}
                    0 => self.paragraph(),
                    _ => self.out += ".IP\n",
                }
                self.line();
                self.is_item_start = false;
            }
            TagEnd::CodeBlock => {
                self.is_code_block = false;
                let lines: String = self.text.lines().map(|line| format!("{}\n", guarded(line))).collect();
                self.text.clear();
                self.paragraph();
                self.out += &format!(".nf\n.RS 4\n{lines}.RE\n.fi\n");
            }
            TagEnd::Item => self.flush_item(),
            TagEnd::List(_) => {
                self.lists -= 1;
                if self.lists > 0 {
                    self.out += ".RE\n";
                }
            }
            TagEnd::Emphasis | TagEnd::Strong => self.text += "\\fP",
            TagEnd::Link => {
                if let Some(url) = self.link.take() {
                    self.text += &format!(" <{}>", escaped(&url));
                }
            }
            TagEnd::TableCell => self.cells.push(std::mem::take(&mut self.text)),
            TagEnd::TableHead => self.columns = std::mem::take(&mut self.cells),
            TagEnd::TableRow => self.row(),
            _ => {}
        }
    }

    /// Begins a paragraph, unless a section has just begun.
    fn paragraph(&mut self) {
        let last = self.out.lines().next_back().unwrap_or_default();
        if !last.starts_with(".SH") && !last.starts_with(".SS") {
            self.out += ".PP\n";
        }
    }

    fn heading(&mut self, macro_: &str) {
        let heading = std::mem::take(&mut self.text).replace("\\fB", "").replace("\\fP", "");
        let heading = if macro_ == ".SH" { heading.to_uppercase() } else { heading };
        self.out += &format!("{macro_} {heading}\n");
    }

    /// A row of a table: the first cell, and the others below it with the names of their columns.
    fn row(&mut self) {
        let cells = std::mem::take(&mut self.cells);
        let mut cells = cells.iter().zip(&self.columns);
        let Some((first, _)) = cells.next() else { return };
        self.out += &format!(".TP\n{}\n", guarded(first));
        for (at, (cell, column)) in cells.filter(|(cell, _)| !cell.is_empty()).enumerate() {
            self.out += &match at {
                0 => format!("{}\n", guarded(cell)),
                _ => format!(".br\n{column}: {cell}\n"),
            };
        }
    }

    /// Writes the text of an item that is not a paragraph of its own.
    fn flush_item(&mut self) {
        if !self.text.trim().is_empty() {
            self.line();
        }
        self.is_item_start = false;
    }

    fn line(&mut self) {
        let text = std::mem::take(&mut self.text);
        self.out += &format!("{}\n", guarded(text.trim()));
    }
}

/// The text without what groff(7) takes for an escape.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}

/// The line so that groff(7) does not take its beginning for a request.
fn guarded(line: &str) -> String {
    if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: Head<'_> = Head {
        name: "a.toml",
        section: 5,
        about: "an example",
        manual: "File Formats",
        date: "2026-01-02",
        source: "a 1.0",
        see_also: &[("a", 8), ("b", 1)],
    };

    #[test]
    fn markdown_becomes_macros() {
        let markdown = "# The page\n\nSee `a-b` and\n[there](https://example.com/).\n\n## Keys\n\n| key | value | default |\n|---|---|---|\n\
                        | `from` | a source | none |\n| `to` | | |\n\n* one\n* two\n\n  more\n\n```toml\n.a = \"\\\\\"\n```\n";
        let expected = ".TH A.TOML 5 \"2026-01-02\" \"a 1.0\" \"File Formats\"\n.SH NAME\na.toml \\- an example\n.SH DESCRIPTION\n\
                        See \\fBa\\-b\\fP and there <https://example.com/>.\n.SH KEYS\n\
                        .TP\n\\fBfrom\\fP\na source\n.br\ndefault: none\n.TP\n\\fBto\\fP\n\
                        .IP \\(bu 2\none\n.IP \\(bu 2\ntwo\n.IP\nmore\n\
                        .PP\n.nf\n.RS 4\n\\&.a = \"\\e\\e\"\n.RE\n.fi\n.SH SEE ALSO\n.BR a (8),\n.BR b (1)\n";
        assert_eq!(page(&HEAD, markdown), expected);
    }

    /// The page is made from this text, so it has what the text has.
    #[test]
    fn the_configuration_has_every_key() {
        let schema: serde_json::Value =
            serde_json::from_str(include_str!("../../../docs/byway.schema.json")).expect("it is JSON");
        let text = page(&HEAD, include_str!("../../../docs/configuration.md"));
        let keys = keys(&schema);
        assert!(keys.len() > 10, "{keys:?}");
        for key in keys {
            assert!(text.contains(&escaped(&key)), "docs/configuration.md does not have `{key}`");
        }
    }

    /// All keys of a JSON Schema, at any depth.
    fn keys(schema: &serde_json::Value) -> Vec<String> {
        let mut found = Vec::new();
        match schema {
            serde_json::Value::Object(object) => {
                for (name, value) in object {
                    if name == "properties" {
                        found.extend(value.as_object().into_iter().flatten().map(|(key, _)| key.clone()));
                    }
                    found.extend(keys(value));
                }
            }
            serde_json::Value::Array(values) => values.iter().for_each(|value| found.extend(keys(value))),
            _ => {}
        }
        found
    }
}
