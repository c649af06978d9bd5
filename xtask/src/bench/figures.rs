//! The figures of contestants that are measured in turn, and their tables.

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// The figures of one contestant, one value per round.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub(super) struct Figures(Vec<f64>);

/// Figures in a file, with what a reader would otherwise have to work out.
#[derive(Serialize, Deserialize)]
struct Stored {
    median: f64,
    lowest: f64,
    highest: f64,
    rounds: Vec<f64>,
}

impl From<Stored> for Figures {
    fn from(stored: Stored) -> Self {
        Self(stored.rounds)
    }
}

impl From<Figures> for Stored {
    fn from(figures: Figures) -> Self {
        Self {
            median: figures.median(),
            lowest: figures.lowest(),
            highest: figures.highest(),
            rounds: figures.0,
        }
    }
}

impl Figures {
    /// Returns the median of the rounds. With an even number of rounds, it is the mean of the two in the middle.
    pub(super) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => f64::NAN,
            odd if odd % 2 == 1 => sorted[middle],
            _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
        }
    }

    /// Adds the rounds of another.
    pub(super) fn join(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    pub(super) fn lowest(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }

    pub(super) fn highest(&self) -> f64 {
        self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }
}

/// Measures each contestant once per round, and returns its figures. One measurement gives `N` of them. Each round begins
/// with another contestant, so that none always follows the same one.
pub(super) fn in_turn<C, const N: usize>(
    rounds: usize,
    contestants: &[C],
    mut measure: impl FnMut(&C) -> Result<[f64; N]>,
) -> Result<Vec<[Figures; N]>> {
    let mut all: Vec<[Figures; N]> =
        contestants.iter().map(|_| std::array::from_fn(|_| Figures::default())).collect();
    for round in 0..rounds {
        for turn in 0..contestants.len() {
            let nth = (round + turn) % contestants.len();
            for (figures, value) in all[nth].iter_mut().zip(measure(&contestants[nth])?) {
                figures.0.push(value);
            }
        }
    }
    Ok(all)
}

/// The content of one chart and one table.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Chart {
    /// The name of its file.
    pub(super) name: String,
    /// What it measures, in one line.
    pub(super) title: String,
    /// The unit of the figures.
    pub(super) unit: String,
    /// How to draw it.
    pub(super) shape: Shape,
    /// The contestants. The others of a group are compared with its first one.
    pub(super) series: Vec<Series>,
    /// What a reader of the figures should know, such as that the machine had other work.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) notes: Vec<String>,
}

/// How to draw a chart.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Shape {
    /// One bar for each series, from zero.
    Bars,
    /// One line for each series, over a number that grows by factors.
    Lines {
        /// The name of that number.
        along: String,
        /// Whether the figures grow by factors, too. Otherwise their axis begins at zero.
        logarithmic: bool,
    },
}

/// One contestant of a chart.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Series {
    /// The group: what it has in common with some of the others, such as IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) group: Option<String>,
    /// Its name.
    pub(super) name: String,
    /// Its points from left to right.
    pub(super) points: Vec<Point>,
}

/// One point of a line, or a bar.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Point {
    /// Where it is along the axis. A bar has no place, and neither has a figure that is the same everywhere: it is drawn from
    /// the left to the right, for comparison.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) at: Option<u32>,
    /// Its figures.
    #[serde(flatten)]
    pub(super) figures: Figures,
}

/// A line without points.
pub(super) fn line(name: &str) -> Series {
    Series { group: None, name: name.to_owned(), points: Vec::new() }
}

impl Series {
    /// Returns a bar of a group, or of none if the name is empty.
    pub(super) fn bar(group: &str, name: &str, figures: Figures) -> Self {
        Self {
            group: Some(group.to_owned()).filter(|group| !group.is_empty()),
            name: name.to_owned(),
            points: vec![Point { at: None, figures }],
        }
    }

    /// Returns its name, with that of its group.
    pub(super) fn label(&self) -> String {
        self.group.iter().chain([&self.name]).map(String::as_str).collect::<Vec<_>>().join(", ")
    }
}

impl Chart {
    /// A chart of bars without notes.
    pub(super) fn bars(name: &str, title: &str, unit: &str, series: Vec<Series>) -> Self {
        Self {
            name: name.into(),
            title: title.into(),
            unit: unit.into(),
            shape: Shape::Bars,
            series,
            notes: Vec::new(),
        }
    }

    /// Returns the name of the numbers along the axis of lines, or `None` for bars.
    pub(super) fn along(&self) -> &str {
        match &self.shape {
            Shape::Bars => "",
            Shape::Lines { along, .. } => along,
        }
    }

    /// Prints a table on the terminal, with the ratio of each to the first of its group.
    pub(super) fn print(&self) {
        let (along, unit) = (self.along(), &self.unit);
        println!("\n{}", self.title);
        println!("{:32}{along:>10}{unit:>12}{:>12}{:>12}{:>8}", "", "lowest", "highest", "ratio");
        for series in &self.series {
            let first = self.series.iter().find(|other| other.group == series.group);
            let first = first.and_then(|first| first.points.first()).map(|point| point.figures.median());
            for Point { at, figures } in &series.points {
                println!(
                    "{:32}{:>10}{:>12}{:>12}{:>12}{:>8}",
                    series.label(),
                    at.map(|at| readable(at.into())).unwrap_or_default(),
                    readable(figures.median()),
                    readable(figures.lowest()),
                    readable(figures.highest()),
                    ratio(figures.median(), first.unwrap_or(f64::NAN))
                );
            }
        }
        for note in &self.notes {
            println!("! {note}");
        }
    }
}

/// Returns the ratio of a figure to another one, for people. It is a dash if there is nothing to compare.
pub(super) fn ratio(figure: f64, other: f64) -> String {
    let ratio = figure / other;
    if ratio.is_finite() { format!("{ratio:.2}") } else { "-".to_owned() }
}

/// Formats a number for people: with commas and without decimals from a thousand on.
pub(super) fn readable(value: f64) -> String {
    if value.is_nan() {
        return "-".to_owned();
    }
    if !value.is_finite() || value.abs() < 1_000.0 {
        let decimals = if value.fract() == 0.0 || value.abs() >= 100.0 { 0 } else { 1 };
        return format!("{value:.decimals$}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (nth, digit) in digits.chars().enumerate() {
        if nth > 0 && (digits.len() - nth) % 3 == 0 && !text.ends_with('-') {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figure_is_the_one_in_the_middle() {
        assert_eq!(Figures(vec![3.0, 1.0, 100.0]).median(), 3.0);
        assert_eq!(Figures(vec![4.0, 1.0, 2.0, 100.0]).median(), 3.0);
    }

    #[test]
    fn every_contestant_has_one_turn_a_round_and_each_round_begins_with_another() {
        let mut order = String::new();
        let figures = in_turn(3, &['a', 'b', 'c'], |name| {
            order.push(*name);
            Ok([order.len() as f64])
        })
        .unwrap();
        assert_eq!(order, "abcbcacab");
        assert_eq!(figures[0][0].0, [1.0, 6.0, 8.0]);
    }

    #[test]
    fn numbers_are_for_people() {
        let cases =
            [(0.5, "0.5"), (12.0, "12"), (288.4, "288"), (1_000.0, "1,000"), (1_234_567.8, "1,234,568")];
        for (value, text) in cases {
            assert_eq!(readable(value), text);
        }
    }

    #[test]
    fn a_ratio_needs_two_figures() {
        assert_eq!(ratio(3.0, 2.0), "1.50");
        assert_eq!([ratio(1.0, f64::NAN), ratio(0.0, 0.0), readable(f64::NAN)], ["-"; 3]);
    }

    #[test]
    fn figures_survive_the_file() {
        let text =
            serde_json::to_string(&Point { at: Some(10), figures: Figures(vec![1.0, 2.0, 6.0]) }).unwrap();
        assert_eq!(text, r#"{"at":10,"median":2.0,"lowest":1.0,"highest":6.0,"rounds":[1.0,2.0,6.0]}"#);
        let point: Point = serde_json::from_str(&text).unwrap();
        assert_eq!(point.figures.median(), 2.0);
    }
}
