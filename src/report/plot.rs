//! Line plots with interval bands, as SVG or PNG: best-of-n curves and reward over steps.
//!
//! Text is set in DejaVu Sans, which is compiled in, so a plot looks the same on a machine without fonts.

use std::path::Path;

use plotters::prelude::*;

use super::axis::XScale;
use super::draw::FONT;
use crate::error::{Error, Result};
use crate::file::write::{replace_atomic, write_atomic};

const SIZE: (u32, u32) = (960, 600);

/// One point of a series, with its interval where there is one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PlotPoint {
    /// Position on the x axis.
    pub x: f64,
    /// Value.
    pub y: f64,
    /// Lower and upper end of the interval.
    pub interval: Option<(f64, f64)>,
}

/// One line of a plot.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Its name in the legend.
    pub label: String,
    /// Its points, in order of x; those that are not finite are left out.
    pub points: Vec<PlotPoint>,
}

impl Series {
    /// A series without intervals.
    pub fn line(label: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let points = points
            .into_iter()
            .map(|(x, y)| PlotPoint { x, y, interval: None })
            .collect();
        Self {
            label: label.into(),
            points,
        }
    }
}

/// A plot to be drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Plot {
    /// Above the plot.
    pub title: String,
    /// Under the x axis, with its unit.
    pub x_label: String,
    /// Beside the y axis, with its unit.
    pub y_label: String,
    /// The x axis's scale.
    pub x_scale: XScale,
    /// The lines, in the order of the legend.
    pub series: Vec<Series>,
}

impl Plot {
    /// A best-of-n plot: log2 x axis "n (responses a prompt)".
    pub fn best_of_n(title: impl Into<String>, y_label: impl Into<String>, series: Vec<Series>) -> Self {
        Self {
            title: title.into(),
            x_label: "n (responses a prompt)".into(),
            y_label: y_label.into(),
            x_scale: XScale::Log2,
            series,
        }
    }

    /// A value over training steps.
    pub fn over_steps(title: impl Into<String>, y_label: impl Into<String>, series: Vec<Series>) -> Self {
        Self {
            title: title.into(),
            x_label: "step".into(),
            y_label: y_label.into(),
            x_scale: XScale::Linear,
            series,
        }
    }

    /// Writes the plot, whole or not at all; the path's extension (`.svg` or `.png`) decides the format.
    ///
    /// # Errors
    /// A user error when the extension is another one or there is nothing to draw; an I/O error naming the file.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        match path.extension().and_then(|e| e.to_str()) {
            Some("svg") => write_atomic(path, self.svg()?.as_bytes()),
            Some("png") => self.save_png(path),
            _ => Err(Error::user(format!(
                "{}: a plot is written as .svg or .png",
                path.display()
            ))),
        }
    }

    /// The plot as SVG text.
    ///
    /// # Errors
    /// A user error when there is nothing to draw.
    pub fn svg(&self) -> Result<String> {
        let mut text = String::new();
        self.draw(&SVGBackend::with_string(&mut text, SIZE).into_drawing_area())?;
        // The family by which other machines know the font.
        Ok(text.replace(
            &format!("font-family=\"{FONT}\""),
            "font-family=\"DejaVu Sans, Verdana, sans-serif\"",
        ))
    }

    fn save_png(&self, path: &Path) -> Result<()> {
        self.ranges()?;
        // The encoder hides the cause of a failed write; the file is made first, which names it.
        replace_atomic(path, |temporary| {
            self.draw(&BitMapBackend::new(temporary, SIZE).into_drawing_area())
        })
    }

    fn position(&self, x: f64) -> f64 {
        match self.x_scale {
            XScale::Linear => x,
            XScale::Log2 => x.log2(),
        }
    }

    /// The finite points of a series, x already on the axis's scale.
    pub(super) fn placed(&self, series: &Series) -> Vec<PlotPoint> {
        let place = |p: &PlotPoint| PlotPoint {
            x: self.position(p.x),
            y: p.y,
            interval: p
                .interval
                .filter(|(low, high)| low.is_finite() && high.is_finite()),
        };
        series
            .points
            .iter()
            .map(place)
            .filter(|p| p.x.is_finite() && p.y.is_finite())
            .collect()
    }

    /// Ranges of x and y with a little air.
    pub(super) fn ranges(&self) -> Result<((f64, f64), (f64, f64))> {
        let points: Vec<PlotPoint> = self.series.iter().flat_map(|s| self.placed(s)).collect();
        if points.is_empty() {
            return Err(Error::user(format!(
                "the plot \"{}\" has no finite point to draw",
                self.title
            )));
        }
        let range = |values: &mut dyn Iterator<Item = f64>| {
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| {
                (low.min(v), high.max(v))
            })
        };
        let x = range(&mut points.iter().map(|p| p.x));
        let ends = |p: &PlotPoint| {
            [
                p.y,
                p.interval.map_or(p.y, |i| i.0),
                p.interval.map_or(p.y, |i| i.1),
            ]
        };
        let y = range(&mut points.iter().flat_map(ends));
        let air = |(low, high): (f64, f64), share: f64| {
            let spread = if high > low {
                high - low
            } else {
                high.abs().max(1.0)
            };
            (low - share * spread, high + share * spread)
        };
        Ok((air(x, 0.02), air(y, 0.06)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn curve(label: &str, base: f64) -> Series {
        let point = |i: i32| {
            let y = base + 0.07 * f64::from(i) - 0.002 * f64::from(i * i);
            PlotPoint {
                x: f64::from(1 << i),
                y,
                interval: Some((y - 0.03, y + 0.03)),
            }
        };
        Series {
            label: label.to_string(),
            points: (0..=6).map(point).collect(),
        }
    }

    fn best_of_n() -> Plot {
        let series = vec![curve("base", 0.25), curve("TEA, m = 16", 0.36)];
        Plot::best_of_n(
            "Best-of-n on 200 held-out prompts",
            "true score (0 to 1, 95% interval)",
            series,
        )
    }

    #[test]
    fn svg_holds_every_label_and_tick() {
        let svg = best_of_n().svg().unwrap();
        for text in [
            "Best-of-n on 200 held-out prompts",
            "base",
            "TEA, m = 16",
            "n (responses a prompt)",
            "64",
            "DejaVu Sans",
        ] {
            assert!(svg.contains(text), "{text}");
        }
        assert_eq!(
            svg.matches("<polyline").count() >= 2,
            svg.matches("<polygon").count() >= 2
        );
        assert!(svg.matches("<circle").count() == 14);
    }

    #[test]
    fn png_is_written_with_text_on_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plot.png");
        best_of_n().save(&path).unwrap();
        let with_text = std::fs::read(&path).unwrap();
        assert_eq!(&with_text[1..4], b"PNG");
        let mut silent = best_of_n();
        silent.title = String::new();
        silent.save(&path).unwrap();
        assert_ne!(
            std::fs::read(&path).unwrap(),
            with_text,
            "the title leaves pixels"
        );
    }

    #[test]
    fn a_plot_is_written_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["plot.svg", "plot.png"] {
            let path = dir.path().join(name);
            best_of_n().save(&path).unwrap();
            let before = std::fs::read(&path).unwrap();
            // A reader that has the old file open keeps it whole: the name gets a new file.
            let mut open = std::fs::File::open(&path).unwrap();
            let mut other = best_of_n();
            other.title = "another".into();
            other.save(&path).unwrap();
            let mut held = Vec::new();
            std::io::Read::read_to_end(&mut open, &mut held).unwrap();
            assert_eq!(held, before, "{name}");
            let after = std::fs::read(&path).unwrap();
            assert_ne!(after, before, "{name}");
            let mut empty = best_of_n();
            empty.series.clear();
            empty.save(&path).unwrap_err();
            assert_eq!(
                std::fs::read(&path).unwrap(),
                after,
                "{name}: a failed plot changed it"
            );
        }
        let left = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, 2, "temporary files are left");
    }

    #[test]
    fn odd_input_is_an_error_or_a_gap() {
        let empty = Plot::over_steps("t", "y", vec![Series::line("a", [(0.0, f64::NAN)])]);
        assert!(empty.svg().unwrap_err().to_string().contains("no finite point"));
        let one = Plot::over_steps(
            "t",
            "y",
            vec![Series::line("a", [(3.0, 1.0), (4.0, f64::INFINITY)])],
        );
        assert!(one.svg().unwrap().matches("<circle").count() == 1);
        assert!(
            best_of_n()
                .save("x.gif")
                .unwrap_err()
                .to_string()
                .contains(".svg or .png")
        );
        let dir = tempfile::tempdir().unwrap();
        assert!(
            best_of_n()
                .save(dir.path().join("no/plot.png"))
                .unwrap_err()
                .to_string()
                .contains("plot.png")
        );
    }

    #[test]
    fn svg_is_xml_whatever_the_names_are() {
        let name = "\0\u{1b}[31m</text><script>alert(1)</script>&\"'\u{202e}\u{fffe}\n\u{b}";
        let series = vec![Series::line(name, [(1.0, 1.0), (2.0, 3.0)])];
        let svg = Plot::over_steps(name, name, series).svg().unwrap();
        let allowed = |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
        assert!(svg.chars().all(allowed), "{svg}");
        assert!(!svg.contains("<script") && !svg.contains('\u{202e}'), "{svg}");
        assert_eq!(svg.matches("&lt;/text&gt;&lt;script&gt;").count(), 3, "{svg}");
        // Every ampersand begins one of the five entities of XML.
        let entities = ["lt;", "gt;", "amp;", "quot;", "apos;"];
        for (at, _) in svg.match_indices('&') {
            assert!(
                entities.iter().any(|e| svg[at + 1..].starts_with(e)),
                "{}",
                &svg[at..at + 8]
            );
        }
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
        let long = Plot::over_steps("t".repeat(1 << 20), "y", vec![Series::line("s", [(1.0, 1.0)])]);
        assert!(long.svg().unwrap().len() < 100_000);
    }
}
