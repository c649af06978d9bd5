//! Tables that fit a terminal.

use std::io;

use super::columns::Columns;

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Screen {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

/// What is on a screen, from top to bottom, with an empty line between each two parts.
pub(super) struct Parts<'a, T> {
    /// If there is no room for it, it is left out.
    pub(super) head: Option<String>,
    pub(super) columns: Columns<'a, T>,
    pub(super) rows: &'a [&'a T],
    /// What is said below the table if it shows this many rows.
    pub(super) foot: Box<dyn Fn(usize) -> Option<String> + 'a>,
    pub(super) troubles: Vec<String>,
}

/// The fewest rows of a table for which something above it stays.
const FEW: usize = 8;
/// The most troubles.
const TROUBLES: usize = 3;

impl Screen {
    /// The terminal's, if standard output is one.
    pub(crate) fn of_stdout() -> Option<Self> {
        let (columns, rows) = terminal_size::terminal_size_of(io::stdout())?;
        Some(Self { rows: rows.0.into(), columns: columns.0.into() })
    }

    /// Shows as many rows as there is room for. The last line of the screen is the cursor's.
    pub(super) fn show<T>(self, parts: Parts<'_, T>) -> String {
        let Parts { head, columns, rows, foot, mut troubles } = parts;
        if troubles.len() > TROUBLES {
            let more = troubles.split_off(TROUBLES - 1).len();
            troubles.push(format!("and {more} more; `byway show` has all of them"));
        }
        let height = |part: &str| 1 + part.lines().count();
        let troubles = Some(troubles.join("\n")).filter(|it| !it.is_empty());
        // The table's own header, and what stands below it.
        let around = 1 + 2 + troubles.as_deref().map_or(0, height);
        let room = self.rows.saturating_sub(1 + around);
        let fitting = |room: usize| {
            let heights = rows.iter().map(|row| columns.height(row)).scan(0, |end, height| {
                *end += height;
                Some(*end)
            });
            heights.take_while(|end| *end <= room).count()
        };
        let below_head = fitting(room.saturating_sub(head.as_deref().map_or(0, height)));
        let (head, shown) = match below_head {
            shown if shown < rows.len().min(FEW) => (None, fitting(room).max(1).min(rows.len())),
            shown => (head, shown),
        };
        let foot = foot(shown);
        let table = columns.table_within(self.columns, &rows[..shown]);
        let parts: Vec<String> = [head, Some(table), foot, troubles].into_iter().flatten().collect();
        self.cut(&parts.join("\n\n"))
    }

    /// Returns a first line with a text at each end, and what is left of the screen below it and an empty line.
    pub(crate) fn titled(self, left: &str, right: &str) -> (String, Self) {
        let room = self.columns.saturating_sub(left.chars().count() + 2);
        (format!("{left}  {right:>room$}"), Self { rows: self.rows.saturating_sub(2), ..self })
    }

    /// The part of a text that there is room for.
    pub(crate) fn cut(self, text: &str) -> String {
        let cut = |line: &str| line.chars().take(self.columns).collect::<String>();
        let lines: Vec<String> = text.lines().take(self.rows.saturating_sub(1)).map(cut).collect();
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::Reader;

    fn shown(screen: (usize, usize), rows: &[&u32], head: Option<&str>, troubles: &[&str]) -> String {
        let mut columns = Columns::<u32>::new(Reader::Person);
        columns.count("NUMBER", |it| Some((*it).into()));
        columns.text("LONG", |_, to| to.write_str(&"x".repeat(20)));
        let foot = |shown| Some(format!("{shown} are shown"));
        let troubles = troubles.iter().map(|it| (*it).to_owned()).collect();
        let parts = Parts { head: head.map(str::to_owned), columns, rows, foot: Box::new(foot), troubles };
        Screen { rows: screen.0, columns: screen.1 }.show(parts)
    }

    #[test]
    fn a_screen_is_never_overflown_and_has_the_header_and_the_foot() {
        let numbers: Vec<u32> = (0..100).collect();
        let rows: Vec<&u32> = numbers.iter().collect();
        for height in 6..120 {
            let text = shown((height, 20), &rows, Some("head\nof two"), &["trouble"]);
            let lines: Vec<&str> = text.lines().collect();
            assert!(lines.len() < height, "{height}: {text}");
            assert!(lines.iter().all(|line| line.chars().count() <= 20), "{text}");
            assert!(text.contains("NUMBER  LONG"), "{height}: {text}");
            let rows = lines.iter().filter(|line| line.contains("xx")).count();
            assert!(height < 8 || text.contains(&format!("\n\n{rows} are shown\n\ntrouble")), "{text}");
            // All room is used, but for what makes no row.
            assert!(rows == 100 || height < 8 || lines.len() == height - 1, "{height}: {text}");
        }
        assert!(!shown((13, 20), &rows, Some("head"), &[]).contains("head"));
        assert!(shown((14, 20), &rows, Some("head"), &[]).contains("head"));
    }

    #[test]
    fn a_title_has_a_text_at_each_end() {
        let titled = |columns| Screen { rows: 24, columns }.titled("Every 1s", "now");
        assert_eq!(titled(20).0, "Every 1s         now");
        assert_eq!(titled(4).0, "Every 1s  now", "what is too long is cut");
        assert_eq!(titled(20).1.rows, 22);
    }

    #[test]
    fn of_many_troubles_some_are_said() {
        let text = shown((24, 80), &[&1], None, &["one", "two", "three", "four"]);
        assert!(text.ends_with("\n\none\ntwo\nand 2 more; `byway show` has all of them"), "{text}");
    }
}
