//! The x axis of plots: ticks at powers of two or at round numbers.

use plotters::coord::ranged1d::{KeyPointHint, Ranged};

/// The x axis's scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XScale {
    /// Evenly spaced values.
    Linear,
    /// Evenly spaced powers of two, each labelled.
    Log2,
}

/// An axis whose ticks are whole powers of two on the log scale, round numbers on the linear one.
#[derive(Clone)]
pub(super) struct Axis {
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) scale: XScale,
}

impl Ranged for Axis {
    type FormatOption = plotters::coord::ranged1d::NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = (value - self.low) / (self.high - self.low);
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        let steps = match self.scale {
            XScale::Log2 => vec![1.0, 2.0, 4.0, 8.0],
            XScale::Linear => {
                let base = 10_f64.powf(((self.high - self.low) / 10.0).log10().floor());
                [1.0, 2.0, 5.0, 10.0, 20.0].map(|s| s * base).to_vec()
            }
        };
        // The finest step with no more than a dozen ticks, and no more than asked for.
        let most = hint.max_num_points().clamp(2, 12) as f64;
        // A little slack keeps an end that is a tick up to rounding.
        let ends = |step: f64| {
            (
                (self.low / step - 1e-9).ceil() as i64,
                (self.high / step + 1e-9).floor() as i64,
            )
        };
        let ticks = |step: f64| (ends(step).1 - ends(step).0 + 1) as f64;
        let step = steps
            .iter()
            .copied()
            .find(|&s| ticks(s) <= most)
            .unwrap_or(steps[steps.len() - 1]);
        let (first, last) = ends(step);
        (first..=last).map(|i| i as f64 * step).collect()
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.low..self.high
    }
}

impl plotters::coord::ranged1d::ValueFormatter<f64> for Axis {
    fn format(value: &f64) -> String {
        value.to_string()
    }
}

/// The label of a tick at `x`, which is on the axis's scale.
pub(super) fn x_tick(scale: XScale, x: f64) -> String {
    let value = if scale == XScale::Log2 { x.exp2() } else { x };
    // Ticks are multiples of a round step: nine significant digits drop what the multiplication left over.
    let rounded: f64 = format!("{value:.9e}").parse().unwrap_or(value);
    rounded.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        let ticks = |low: f64, high: f64, scale| {
            let axis = Axis { low, high, scale };
            let points = axis.key_points(plotters::coord::ranged1d::BoldPoints(12));
            points
                .iter()
                .map(|x| x_tick(scale, *x))
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(ticks(-0.1, 6.1, XScale::Log2), "1 2 4 8 16 32 64");
        assert_eq!(ticks(0.0, 60.5, XScale::Linear), "0 10 20 30 40 50 60");
        assert_eq!(ticks(0.0, 0.6, XScale::Linear), "0 0.1 0.2 0.3 0.4 0.5 0.6");
    }
}
