//! Tables that are written row by row, so that a long one never fills the memory.

use std::{
    borrow::Borrow,
    fmt::{self, Write as _},
    io,
};

use crate::error::Error;

/// Writes a column's cell for a row. A line break begins another line of the cell.
type Cell<'a, T> = Box<dyn Fn(&T, &mut dyn fmt::Write) -> fmt::Result + 'a>;

/// The columns of a table, from left to right.
pub(super) struct Columns<'a, T>(Vec<Column<'a, T>>);

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
    pub(super) fn new() -> Self {
        Self(Vec::new())
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

    /// Shows the column added last only if this is true for some row.
    pub(super) fn only_where(&mut self, is_needed: fn(&T) -> bool) -> &mut Self {
        if let Some(column) = self.0.last_mut() {
            column.is_needed = Some(is_needed);
            column.is_there = false;
        }
        self
    }

    fn column(&mut self, header: &str, is_number: bool, cell: Cell<'a, T>) -> &mut Self {
        let width = header.chars().count();
        let header = header.to_owned();
        self.0.push(Column { header, is_number, cell, is_needed: None, is_there: true, width });
        self
    }

    /// The whole table, without a line break at its end.
    pub(super) fn table(mut self, rows: &[T]) -> String {
        rows.iter().for_each(|row| self.measure(row));
        let (mut cells, mut lines) = (Cells::default(), String::new());
        self.head(&mut cells, &mut lines);
        for row in rows {
            lines.push('\n');
            self.row(row, &mut cells, &mut lines);
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

    /// Makes room for a row.
    fn measure(&mut self, row: &T) {
        for column in &mut self.0 {
            column.is_there |= column.is_needed.is_some_and(|is_needed| is_needed(row));
            let mut width = Width::default();
            // Writing to it cannot fail.
            let _ = (column.cell)(row, &mut width);
            column.width = column.width.max(width.widest);
        }
    }

    fn there(&self) -> impl Iterator<Item = &Column<'a, T>> {
        self.0.iter().filter(|column| column.is_there)
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
        cells.clear();
        for column in self.there() {
            // Writing to it cannot fail.
            let _ = (column.cell)(row, &mut cells.text);
            cells.end();
        }
        self.lines(cells, to);
    }

    /// Writes as many lines as the tallest cell has, without trailing spaces.
    fn lines(&self, cells: &Cells, to: &mut String) {
        let more = cells.each().map(|cell| cell.matches('\n').count()).max().unwrap_or(0);
        for nth in 0..=more {
            if nth > 0 {
                to.push('\n');
            }
            for (column, cell) in self.there().zip(cells.each()) {
                let line = cell.split('\n').nth(nth).unwrap_or_default();
                let width = column.width;
                // Writing to it cannot fail.
                let _ = match column.is_number {
                    true => write!(to, "{line:>width$}  "),
                    false => write!(to, "{line:<width$}  "),
                };
            }
            to.truncate(to.trim_end_matches(' ').len());
        }
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

    fn each(&self) -> impl Iterator<Item = &str> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.text[start..*end])
    }
}

/// Counts the characters of the longest line that is written to it.
#[derive(Default)]
struct Width {
    line: usize,
    widest: usize,
}

impl fmt::Write for Width {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for (nth, part) in text.split('\n').enumerate() {
            if nth > 0 {
                self.line = 0;
            }
            self.line += part.chars().count();
            self.widest = self.widest.max(self.line);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Row = (&'static str, u32);
    const ROWS: [Row; 3] = [("one", 1), ("two\nlines", 2_000), ("", 3)];

    fn columns(is_needed: fn(&Row) -> bool) -> Columns<'static, Row> {
        let mut columns = Columns::<Row>::new();
        columns
            .text("WORD", |(word, _), to| to.write_str(word))
            .number("N", |(_, number), to| write!(to, "{number}"))
            .text("SELDOM", |(word, _), to| write!(to, "{}", word.len()))
            .only_where(is_needed);
        columns
    }

    #[test]
    fn cells_stand_in_line() {
        let expected = "\
WORD      N
one       1
two    2000
lines
          3";
        assert_eq!(columns(|_| false).table(&ROWS), expected);
        let expected = "\
WORD      N  SELDOM
one       1  3
two    2000  9
lines
          3  0";
        assert_eq!(columns(|(_, number)| *number == 3).table(&ROWS), expected);
    }

    #[test]
    fn a_table_is_the_same_row_by_row() {
        let mut written = Vec::new();
        columns(|_| true).write(|| ROWS.iter().map(Ok), &mut written).unwrap();
        assert_eq!(String::from_utf8(written).unwrap(), columns(|_| true).table(&ROWS));
    }
}
