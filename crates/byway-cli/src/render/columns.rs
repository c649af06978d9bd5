//! Tables that are written row by row, so that a long one never fills the memory.

use std::{
    borrow::{Borrow, Cow},
    fmt::{self, Write as _},
    io,
};

use super::Reader;
use crate::error::Error;

/// Writes a column's cell for a row. A line break begins another line of the cell.
type Cell<'a, T> = Box<dyn Fn(&T, &mut dyn fmt::Write) -> fmt::Result + 'a>;

/// The columns that a narrow screen can do without, the first one most of all.
const EXPENDABLE: [&str; 16] = [
    "OWNER",
    "CLAMPED",
    "ICMP SENT",
    "TOO BIG",
    "MSS",
    "ON-DOWN",
    "MTU",
    "GROUPS",
    "FAILED OVER",
    "NAME",
    "BYTES",
    "ARRIVED",
    "NO NEXT HOP",
    "PACKETS",
    "BYTES/s",
    "DEV",
];

/// The columns of a table, from left to right.
pub(super) struct Columns<'a, T> {
    columns: Vec<Column<'a, T>>,
    reader: Reader,
}

struct Column<'a, T> {
    header: String,
    is_number: bool,
    cell: Cell<'a, T>,
    /// If set, the column appears only if this is true for some row.
    is_needed: Option<fn(&T) -> bool>,
    is_there: bool,
    /// The most characters of its header and of the lines of its cells.
    width: usize,
}

impl<'a, T> Columns<'a, T> {
    pub(super) fn new(reader: Reader) -> Self {
        Self { columns: Vec::new(), reader }
    }

    /// A column that begins at the left.
    pub(super) fn text(
        &mut self,
        header: &str,
        cell: impl Fn(&T, &mut dyn fmt::Write) -> fmt::Result + 'a,
    ) -> &mut Self {
        self.column(header, false, Box::new(cell))
    }

    /// A column that ends at the right.
    pub(super) fn number(
        &mut self,
        header: &str,
        cell: impl Fn(&T, &mut dyn fmt::Write) -> fmt::Result + 'a,
    ) -> &mut Self {
        self.column(header, true, Box::new(cell))
    }

    /// A column of counts, where there are any.
    pub(super) fn count(&mut self, header: &str, count: impl Fn(&T) -> Option<u64> + 'a) -> &mut Self {
        let reader = self.reader;
        self.number(header, move |row, to| match count(row) {
            Some(count) => to.write_str(&reader.number(count)),
            None => Ok(()),
        })
    }

    /// Shows the column added last to a person only if this is true for some row.
    pub(super) fn only_where(&mut self, is_needed: fn(&T) -> bool) -> &mut Self {
        let is_there = self.reader == Reader::Program;
        if let Some(column) = self.columns.last_mut() {
            column.is_needed = Some(is_needed);
            column.is_there = is_there;
        }
        self
    }

    fn column(&mut self, header: &str, is_number: bool, cell: Cell<'a, T>) -> &mut Self {
        let header = match self.reader {
            Reader::Person => header.to_owned(),
            Reader::Program => one_word(header),
        };
        let width = header.chars().count();
        self.columns.push(Column { header, is_number, cell, is_needed: None, is_there: true, width });
        self
    }

    /// The whole table, without a line break at its end.
    pub(super) fn table<R: Borrow<T>>(self, rows: &[R]) -> String {
        self.table_within(usize::MAX, rows)
    }

    /// The same, without the columns that a line of so many characters has no room for. What is still too wide is cut.
    pub(super) fn table_within<R: Borrow<T>>(mut self, width: usize, rows: &[R]) -> String {
        rows.iter().for_each(|row| self.measure(row.borrow()));
        for header in EXPENDABLE {
            if self.width() <= width {
                break;
            }
            self.columns.retain(|column| column.header != header);
        }
        while self.width() > width {
            let texts = self.columns.iter_mut().filter(|column| column.is_there && !column.is_number);
            match texts.max_by_key(|column| column.width) {
                Some(column) if column.width > LEAST => column.width -= 1,
                _ => break,
            }
        }
        let (mut cells, mut lines) = (Cells::default(), String::new());
        self.head(&mut cells, &mut lines);
        for row in rows {
            lines.push('\n');
            self.row(row.borrow(), &mut cells, &mut lines);
        }
        lines
    }

    /// Writes the same table. Goes through the rows twice: for the widths, and to write them. Rows that have changed in
    /// between may be misaligned.
    pub(super) fn write<I, R>(mut self, rows: impl Fn() -> I, to: &mut impl io::Write) -> Result<(), Error>
    where
        I: Iterator<Item = byway::Result<R>>,
        R: Borrow<T>,
    {
        for row in rows() {
            self.measure(row?.borrow());
        }
        let (mut cells, mut lines) = (Cells::default(), String::new());
        self.head(&mut cells, &mut lines);
        for row in rows() {
            lines.push('\n');
            self.row(row?.borrow(), &mut cells, &mut lines);
            to.write_all(lines.as_bytes()).map_err(Error::Print)?;
            lines.clear();
        }
        to.write_all(lines.as_bytes()).map_err(Error::Print)
    }

    /// How many lines a row takes.
    pub(super) fn height(&self, row: &T) -> usize {
        let mut cells = Cells::default();
        self.cells(row, &mut cells);
        cells.height()
    }

    /// Makes room for a row.
    fn measure(&mut self, row: &T) {
        let mut text = String::new();
        for column in &mut self.columns {
            column.is_there |= column.is_needed.is_some_and(|is_needed| is_needed(row));
            text.clear();
            column.write(row, self.reader, &mut text);
            let widths = text.split('\n').map(|line| line.chars().count());
            column.width = widths.fold(column.width, usize::max);
        }
    }

    /// How many characters a line has.
    fn width(&self) -> usize {
        self.there().map(|column| column.width + GAP).sum::<usize>().saturating_sub(GAP)
    }

    fn there(&self) -> impl Iterator<Item = &Column<'a, T>> {
        self.columns.iter().filter(|column| column.is_there)
    }

    fn head(&self, cells: &mut Cells, to: &mut String) {
        cells.clear();
        for column in self.there() {
            cells.text.push_str(&column.header);
            cells.end();
        }
        self.lines(cells, to);
    }

    fn row(&self, row: &T, cells: &mut Cells, to: &mut String) {
        self.cells(row, cells);
        self.lines(cells, to);
    }

    fn cells(&self, row: &T, cells: &mut Cells) {
        cells.clear();
        for column in self.there() {
            column.write(row, self.reader, &mut cells.text);
            cells.end();
        }
    }

    /// Writes as many lines as the tallest cell has, without trailing spaces.
    fn lines(&self, cells: &Cells, to: &mut String) {
        for nth in 0..cells.height() {
            if nth > 0 {
                to.push('\n');
            }
            for (column, cell) in self.there().zip(cells.each()) {
                let line = cell.split('\n').nth(nth).unwrap_or_default();
                let width = column.width;
                let line = cut(line, width);
                // Writing to it cannot fail.
                let _ = match column.is_number {
                    true => write!(to, "{line:>width$}{:GAP$}", ""),
                    false => write!(to, "{line:<width$}{:GAP$}", ""),
                };
            }
            to.truncate(to.trim_end_matches(' ').len());
        }
    }
}

/// Characters between two columns.
const GAP: usize = 2;
/// The width to which a column of words may be cut.
const LEAST: usize = 8;

/// A line of at most so many characters. An ellipsis stands for its middle: addresses differ at their ends.
fn cut(line: &str, width: usize) -> Cow<'_, str> {
    let length = line.chars().count();
    if length <= width {
        return line.into();
    }
    let end = width / 2;
    let start = line.chars().take(width.saturating_sub(end + 1));
    start.chain(['…']).chain(line.chars().skip(length - end)).collect()
}

impl<T> Column<'_, T> {
    /// Appends the cell for a row.
    fn write(&self, row: &T, reader: Reader, to: &mut String) {
        let start = to.len();
        // Writing to it cannot fail.
        let _ = (self.cell)(row, to);
        if reader == Reader::Program {
            let word = one_word(&to[start..]);
            to.truncate(start);
            to.push_str(&word);
        }
    }
}

/// A cell for a program: its lines as a list, and `-` for nothing.
fn one_word(cell: &str) -> String {
    if cell.is_empty() {
        "-".to_owned()
    } else {
        cell.replace(", ", ",").replace('\n', ",").replace(' ', "-")
    }
}

/// The cells of a row, one after the other.
#[derive(Default)]
struct Cells {
    text: String,
    ends: Vec<usize>,
}

impl Cells {
    fn clear(&mut self) {
        self.text.clear();
        self.ends.clear();
    }

    fn end(&mut self) {
        self.ends.push(self.text.len());
    }

    /// How many lines the tallest cell has.
    fn height(&self) -> usize {
        self.each().map(|cell| 1 + cell.matches('\n').count()).max().unwrap_or(1)
    }

    fn each(&self) -> impl Iterator<Item = &str> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.text[start..*end])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Row = (&'static str, u32);
    const ROWS: [Row; 3] = [("one", 1), ("two\nlines", 2_000), ("", 3)];

    fn columns(reader: Reader, is_needed: fn(&Row) -> bool) -> Columns<'static, Row> {
        let mut columns = Columns::<Row>::new(reader);
        columns
            .text("WORD", |(word, _), to| to.write_str(word))
            .count("N", |(_, number)| Some((*number).into()))
            .text("SELDOM", |(word, _), to| write!(to, "{}", word.len()))
            .only_where(is_needed);
        columns
    }

    #[test]
    fn cells_stand_in_line() {
        let expected = "\
WORD       N
one        1
two    2,000
lines
           3";
        assert_eq!(columns(Reader::Person, |_| false).table(&ROWS), expected);
        let expected = "\
WORD       N  SELDOM
one        1  3
two    2,000  9
lines
           3  0";
        assert_eq!(columns(Reader::Person, |(_, number)| *number == 3).table(&ROWS), expected);
    }

    #[test]
    fn a_table_is_the_same_row_by_row() {
        for reader in [Reader::Person, Reader::Program] {
            let mut written = Vec::new();
            columns(reader, |_| true).write(|| ROWS.iter().map(Ok), &mut written).unwrap();
            assert_eq!(String::from_utf8(written).unwrap(), columns(reader, |_| true).table(&ROWS));
        }
    }

    #[test]
    fn a_program_finds_the_same_columns_in_each_line() {
        let expected = "\
WORD          N  SELDOM
one           1  3
two,lines  2000  9
-             3  0";
        assert_eq!(columns(Reader::Program, |_| false).table(&ROWS), expected);
        assert_eq!(one_word("NO NEXT HOP"), "NO-NEXT-HOP");
        assert_eq!(one_word("up, down"), "up,down");
    }

    #[test]
    fn a_narrow_screen_has_the_columns_that_matter() {
        let columns = || {
            let mut columns = Columns::<Row>::new(Reader::Person);
            columns.text("FROM", |(word, _), to| to.write_str(word));
            for header in ["OWNER", "PACKETS", "PACKETS/s"] {
                columns.count(header, |(_, number)| Some((*number).into()));
            }
            columns
        };
        let head = |width| columns().table_within(width, &ROWS[..1]).lines().next().unwrap().to_owned();
        assert_eq!(head(31), "FROM  OWNER  PACKETS  PACKETS/s");
        assert_eq!(head(30), "FROM  PACKETS  PACKETS/s");
        assert_eq!(head(24), "FROM  PACKETS  PACKETS/s");
        assert_eq!(head(23), "FROM  PACKETS/s");
        assert_eq!(head(3), "FROM  PACKETS/s");
    }

    #[test]
    fn words_that_are_too_long_are_cut_the_longest_first() {
        let row = ("2001:db8:1234:5678:9abc:def0:1234:5678", 12_000);
        let mut columns = Columns::<Row>::new(Reader::Person);
        columns
            .text("FROM", |(word, _), to| to.write_str(word))
            .text("VIA", |_, to| to.write_str("2001:db8::1"))
            .count("PACKETS/s", |(_, number)| Some((*number).into()));
        let expected = "\
FROM                  VIA          PACKETS/s
2001:db8:…:1234:5678  2001:db8::1     12,000";
        assert_eq!(columns.table_within(44, &[row]), expected);
    }
}
