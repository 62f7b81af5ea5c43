//! How a plot is drawn, on any of plotters' backends.

use std::sync::OnceLock;

use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};

use super::axis::{Axis, x_tick};
use super::plot::{Plot, PlotPoint};
use crate::error::{Error, Result};
use crate::words;

/// The compiled-in font's name.
pub(super) const FONT: &str = "dejavu-sans";
/// Colours that stay apart for colour-blind readers (Okabe and Ito's, then Tol's), so that ten methods can be told apart.
const COLOURS: [RGBColor; 10] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(90, 90, 90),
    RGBColor(136, 34, 85),
    RGBColor(51, 34, 136),
    RGBColor(153, 153, 51),
];
/// More points than this are drawn as a thinner line without dots.
const DENSE: usize = 40;
const INK: RGBColor = RGBColor(40, 44, 52);
const GRID: RGBColor = RGBColor(225, 228, 233);

impl Plot {
    pub(super) fn draw<DB: DrawingBackend>(
        &self,
        area: &DrawingArea<DB, plotters::coord::Shift>,
    ) -> Result<()> {
        register()?;
        let ((x0, x1), (y0, y1)) = self.ranges()?;
        let text = |size: i32| (FONT, size).into_font().color(&INK);
        area.fill(&WHITE).map_err(drawing)?;
        let mut chart = ChartBuilder::on(area)
            .caption(shown(&self.title), text(23))
            .margin(18)
            .margin_right(30)
            .x_label_area_size(52)
            .y_label_area_size(76)
            .build_cartesian_2d(
                Axis {
                    low: x0,
                    high: x1,
                    scale: self.x_scale,
                },
                y0..y1,
            )
            .map_err(drawing)?;
        let scale = self.x_scale;
        chart
            .configure_mesh()
            .x_desc(shown(&self.x_label))
            .y_desc(shown(&self.y_label))
            .axis_desc_style(text(17))
            .label_style(text(15))
            .x_label_formatter(&move |x| x_tick(scale, *x))
            .y_labels(8)
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .axis_style(INK.mix(0.5))
            .draw()
            .map_err(drawing)?;
        for (i, series) in self.series.iter().enumerate() {
            let colour = COLOURS[i % COLOURS.len()];
            let points = self.placed(series);
            chart.draw_series(band(&points, colour)).map_err(drawing)?;
            let line = points.iter().map(|p| (p.x, p.y));
            chart
                .draw_series(LineSeries::new(
                    line,
                    colour.stroke_width(if points.len() <= DENSE { 3 } else { 2 }),
                ))
                .map_err(drawing)?
                .label(shown(&series.label))
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 26, y)], colour.stroke_width(4)));
            if points.len() <= DENSE {
                let dots = points.iter().map(|p| Circle::new((p.x, p.y), 4, colour.filled()));
                chart.draw_series(dots).map_err(drawing)?;
            }
        }
        chart
            .configure_series_labels()
            .position(self.legend_corner((x0, x1), (y0, y1)))
            .background_style(WHITE.mix(0.85))
            .border_style(GRID)
            .label_font(text(16))
            .legend_area_size(36)
            .margin(14)
            .draw()
            .map_err(drawing)?;
        area.present().map_err(drawing)
    }

    /// The corner of the plot with the fewest points.
    fn legend_corner(&self, x: (f64, f64), y: (f64, f64)) -> SeriesLabelPosition {
        let corners = [
            (SeriesLabelPosition::LowerRight, 1.0, 0.0),
            (SeriesLabelPosition::UpperLeft, 0.0, 1.0),
            (SeriesLabelPosition::UpperRight, 1.0, 1.0),
            (SeriesLabelPosition::LowerLeft, 0.0, 0.0),
        ];
        let points: Vec<PlotPoint> = self.series.iter().flat_map(|s| self.placed(s)).collect();
        let crowd = |cx: f64, cy: f64| {
            let near = |p: &&PlotPoint| {
                let dx = ((p.x - x.0) / (x.1 - x.0) - cx).abs();
                let dy = ((p.y - y.0) / (y.1 - y.0) - cy).abs();
                dx < 0.4 && dy < 0.35
            };
            points.iter().filter(near).count()
        };
        let mut best = (usize::MAX, SeriesLabelPosition::LowerRight);
        for (corner, cx, cy) in corners {
            let n = crowd(cx, cy);
            if n < best.0 {
                best = (n, corner);
            }
        }
        best.1
    }
}

/// The interval's band: a polygon along the upper ends and back along the lower ones.
fn band(points: &[PlotPoint], colour: RGBColor) -> Option<Polygon<(f64, f64)>> {
    let ends: Vec<(f64, f64, f64)> = points
        .iter()
        .filter_map(|p| p.interval.map(|(low, high)| (p.x, low, high)))
        .collect();
    let upper = ends.iter().map(|&(x, _, high)| (x, high));
    let lower = ends.iter().rev().map(|&(x, low, _)| (x, low));
    (ends.len() >= 2).then(|| Polygon::new(upper.chain(lower).collect::<Vec<_>>(), colour.mix(0.18).filled()))
}

/// A text in a plot: one line, not longer than a plot is wide, of characters that XML has. The backend of SVG escapes markup.
fn shown(text: &str) -> String {
    words::cut(&words::piece(text), 256).into_owned()
}

fn register() -> Result<()> {
    static DONE: OnceLock<bool> = OnceLock::new();
    let done = DONE.get_or_init(|| register_font(FONT, FontStyle::Normal, dejavu::sans::regular()).is_ok());
    if *done {
        Ok(())
    } else {
        Err(Error::internal("the embedded font cannot be read"))
    }
}

fn drawing(error: impl std::fmt::Display) -> Error {
    Error::user(format!("cannot draw the plot: {error}"))
}
