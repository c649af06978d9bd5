//! Draws bars from left to right, one below the other, each with its name before it and its figure after it.

use anyhow::Result;
use plotters::{
    prelude::{BLACK, Color, PathElement, Rectangle},
    style::text_anchor::HPos,
};

use super::{Area, GREY, WIDTH, colour, write};
use crate::bench::figures::{Chart, readable};

const ROW: i32 = 34;
const THICKNESS: i32 = 20;
/// The widths of the names and of the figures.
const NAMES: i32 = 240;
const FIGURES: i32 = 160;

pub(super) fn height(chart: &Chart) -> u32 {
    chart.series.len() as u32 * ROW as u32
}

pub(super) fn draw(area: &Area<'_>, chart: &Chart) -> Result<()> {
    let rows = || chart.series.iter().filter_map(|series| Some((series, &series.points.first()?.figures)));
    let mut names: Vec<&String> = Vec::new();
    for (series, _) in rows() {
        if !names.contains(&&series.name) {
            names.push(&series.name);
        }
    }
    let largest = rows().map(|(_, figures)| figures.highest()).fold(0.0, f64::max);
    let room = f64::from(WIDTH as i32 - NAMES - FIGURES);
    let x = |value: f64| NAMES + (value / largest * room) as i32;
    for (nth, (series, figures)) in rows().enumerate() {
        let middle = nth as i32 * ROW + ROW / 2;
        let (upper, lower) = (middle - THICKNESS / 2, middle + THICKNESS / 2);
        write(area, &series.label(), 14, (NAMES - 10, middle), HPos::Right, BLACK)?;
        // The same contestant has the same colour in every group.
        let kind = names.iter().position(|name| **name == series.name).unwrap_or(nth);
        let bar = [(NAMES, upper), (x(figures.median()), lower)];
        area.draw(&Rectangle::new(bar, colour(kind).mix(0.75).filled()))?;
        let (lowest, highest) = (x(figures.lowest()), x(figures.highest()));
        for line in [
            [(lowest, middle), (highest, middle)],
            [(lowest, middle - 4), (lowest, middle + 4)],
            [(highest, middle - 4), (highest, middle + 4)],
        ] {
            area.draw(&PathElement::new(line, BLACK))?;
        }
        let figure = format!("{} {}", readable(figures.median()), chart.unit);
        write(area, &figure, 14, (highest + 10, middle), HPos::Left, GREY)?;
    }
    area.draw(&PathElement::new([(NAMES, 0), (NAMES, height(chart) as i32)], BLACK))?;
    Ok(())
}
