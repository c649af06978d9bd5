//! Draws charts as SVG. They are black on white, to be legible on a page of any colour, and series differ in shape as well as
//! in colour.

mod bars;
mod lines;

use anyhow::Result;
use plotters::{
    coord::Shift,
    prelude::{
        BLACK, Circle, Color, Cross, DrawingArea, DynElement, IntoDrawingArea, IntoDynElement, IntoFont,
        RGBColor, SVGBackend, Text, TextStyle, TriangleMarker, WHITE,
    },
    style::text_anchor::{HPos, Pos, VPos},
};

use super::figures::{Chart, Shape};

/// The drawing of a chart, in pixels from its upper left corner.
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const WIDTH: u32 = 900;
/// The space above and below the drawing, for the title and the footnote.
const HEAD: u32 = 48;
const FOOT: u32 = 32;
const MARGIN: i32 = 16;
const GREY: RGBColor = RGBColor(96, 96, 96);
/// The colours of Okabe and Ito, which colour-blind people can tell apart, too.
const COLOURS: [RGBColor; 6] = [
    RGBColor(64, 64, 64),
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(150, 150, 150),
];

/// Draws a chart, with a line below it that says where the figures come from.
pub(super) fn draw(chart: &Chart, footnote: &str) -> Result<String> {
    let mut svg = String::new();
    {
        let height = match chart.shape {
            Shape::Bars => bars::height(chart),
            Shape::Lines { .. } => lines::HEIGHT,
        };
        let size = (WIDTH, HEAD + height + FOOT);
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE)?;
        write(&root, &chart.title, 18, (MARGIN, HEAD as i32 / 2 + 2), HPos::Left, BLACK)?;
        write(&root, footnote, 12, (MARGIN, (size.1 - FOOT / 2) as i32), HPos::Left, GREY)?;
        let area = root.margin(HEAD, FOOT, 0, 0);
        match &chart.shape {
            Shape::Bars => bars::draw(&area, chart)?,
            Shape::Lines { along, logarithmic } => lines::draw(&area, chart, along, *logarithmic)?,
        }
        root.present()?;
    }
    Ok(svg)
}

/// Writes one line of text, with its middle at the height of `at`.
fn write(
    area: &Area<'_>,
    text: &str,
    size: i32,
    at: (i32, i32),
    horizontal: HPos,
    colour: RGBColor,
) -> Result<()> {
    let style = TextStyle::from(("sans-serif", size).into_font())
        .pos(Pos::new(horizontal, VPos::Center))
        .color(&colour);
    Ok(area.draw(&Text::new(text.to_owned(), at, style))?)
}

fn colour(nth: usize) -> RGBColor {
    COLOURS[nth % COLOURS.len()]
}

/// The marker of a series, on its line and before its name.
fn marker<'b, C>(nth: usize, at: C) -> DynElement<'static, SVGBackend<'b>, C>
where
    C: Clone + 'static,
    Circle<C, i32>: IntoDynElement<'static, SVGBackend<'b>, C>,
    TriangleMarker<C, i32>: IntoDynElement<'static, SVGBackend<'b>, C>,
    Cross<C, i32>: IntoDynElement<'static, SVGBackend<'b>, C>,
{
    match nth % 3 {
        0 => Cross::new(at, 5, colour(nth).stroke_width(2)).into_dyn(),
        1 => Circle::new(at, 4, colour(nth).filled()).into_dyn(),
        _ => TriangleMarker::new(at, 6, colour(nth).filled()).into_dyn(),
    }
}
