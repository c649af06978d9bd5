//! Draws lines over the number of rules, on a logarithmic axis. Their names are to the right of them.

use anyhow::{Context, Result};
use plotters::{
    coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter},
    prelude::{
        BLACK, ChartBuilder, Color, DashedLineSeries, IntoFont, IntoLogRange, LineSeries, PathElement,
        ShapeStyle,
    },
    style::text_anchor::HPos,
};

use super::{Area, GREY, MARGIN, WIDTH, colour, marker, write};
use crate::bench::figures::{Chart, Series, readable};

pub(super) const HEIGHT: u32 = 430;
/// The width of the names.
const NAMES: u32 = 220;
const ROW: i32 = 26;

pub(super) fn draw(area: &Area<'_>, chart: &Chart, along: &str, logarithmic: bool) -> Result<()> {
    let (plot, names) = area.split_horizontally(WIDTH - NAMES);
    let points = || chart.series.iter().flat_map(|series| &series.points);
    let at = || points().filter_map(|point| point.at).map(f64::from);
    let from = at().reduce(f64::min).context("there is nothing along which to draw lines")?;
    let to = at().fold(from, f64::max);
    // Room for half a marker, and for a range that is a single point.
    let horizontal = (from / 1.5, to * 1.5);
    let lowest = points().map(|point| point.figures.lowest()).fold(f64::INFINITY, f64::min);
    let highest = points().map(|point| point.figures.highest()).fold(0.0, f64::max);
    if logarithmic {
        draw_on(&plot, chart, along, horizontal, (lowest / 1.5..highest * 1.5).log_scale())?;
    } else {
        draw_on(&plot, chart, along, horizontal, 0.0..highest * 1.1)?;
    }
    for (nth, series) in chart.series.iter().enumerate() {
        let middle = MARGIN + nth as i32 * ROW;
        if is_constant(series) {
            // As long as two dashes with a gap.
            for x in [0, 14] {
                names.draw(&PathElement::new([(x, middle), (x + 10, middle)], thick(nth)))?;
            }
        } else {
            names.draw(&PathElement::new([(0, middle), (24, middle)], thick(nth)))?;
            names.draw(&marker(nth, (12, middle)))?;
        }
        write(&names, &series.name, 14, (34, middle), HPos::Left, BLACK)?;
    }
    Ok(())
}

/// A figure that is the same everywhere is a dashed line.
fn is_constant(series: &Series) -> bool {
    series.points.iter().all(|point| point.at.is_none())
}

fn thick(nth: usize) -> ShapeStyle {
    colour(nth).stroke_width(2)
}

fn draw_on<Y>(plot: &Area<'_>, chart: &Chart, along: &str, (from, to): (f64, f64), y: Y) -> Result<()>
where
    Y: AsRangedCoord<Value = f64>,
    Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let mut on = ChartBuilder::on(plot)
        .margin(10)
        .x_label_area_size(46)
        .y_label_area_size(84)
        .build_cartesian_2d((from..to).log_scale(), y)?;
    on.configure_mesh()
        .x_desc(along)
        .y_desc(&chart.unit)
        .x_label_formatter(&|x| readable(*x))
        .y_label_formatter(&|y| readable(*y))
        .label_style(("sans-serif", 13).into_font())
        .axis_desc_style(("sans-serif", 14).into_font())
        .bold_line_style(GREY.mix(0.3))
        .light_line_style(GREY.mix(0.1))
        .draw()?;
    for (nth, series) in chart.series.iter().enumerate() {
        let middles =
            || series.points.iter().map(|point| (point.at.map_or(from, f64::from), point.figures.median()));
        if is_constant(series) {
            let everywhere = middles().flat_map(|(_, y)| [(from, y), (to, y)]).collect::<Vec<_>>();
            on.draw_series(DashedLineSeries::new(everywhere, 10, 4, thick(nth)))?;
            continue;
        }
        on.draw_series(LineSeries::new(middles(), thick(nth)))?;
        on.draw_series(series.points.iter().map(|point| {
            let at = point.at.map_or(from, f64::from);
            PathElement::new([(at, point.figures.lowest()), (at, point.figures.highest())], thick(nth))
        }))?;
        on.draw_series(middles().map(|at| marker(nth, at)))?;
    }
    Ok(())
}
