//! The synthetic study as a table, notes and plots.

use super::synthetic::{ESTIMATORS, RESOLVED, Synthetic, SyntheticConfig};
use crate::report::{Align, Cell, Plot, PlotPoint, Series, Table, XScale};

impl Synthetic {
    /// A row a group size and estimator.
    pub fn table(&self) -> Table {
        let mut columns = vec![
            ("m".to_string(), Align::Right),
            ("estimator".into(), Align::Left),
            ("bias".into(), Align::Right),
            ("± error".into(), Align::Right),
            ("bias²".into(), Align::Right),
            ("± error".into(), Align::Right),
            ("variance".into(), Align::Right),
            ("variance × m".into(), Align::Right),
        ];
        columns.extend(SyntheticConfig::BATCHES.map(|b| (format!("MSE, B = {b}"), Align::Right)));
        let mut table = Table::new(columns);
        for x in &self.measured {
            let number = |value: f64, digits| Cell::Number { value, digits };
            let mut row: Vec<Cell> = vec![
                x.m.into(),
                x.estimator.into(),
                number(x.bias, 5),
                number(x.bias_error, 5),
                Cell::from(format!("{:.2e}", x.squared_bias)),
                Cell::from(format!("{:.1e}", x.squared_bias_error)),
                number(x.variance, 5),
                number(x.variance * x.m as f64, 2),
            ];
            row.extend(x.mse.iter().map(|mse| Cell::from(format!("{mse:.2e}"))));
            table.push(row);
        }
        table
    }

    /// What the table does not say: slopes, crossovers, and where the paper's Table 15 differs.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = vec![
            "bias² is free of the noise of the bias (it may lie below 0, which the MSE takes for 0); its error is the MSE's too."
                .to_string(),
        ];
        for s in &self.slopes {
            let sizes: Vec<String> = s.sizes.iter().map(usize::to_string).collect();
            notes.push(match s.slope {
                Some(slope) => format!(
                    "{}: bias falls as m^{slope:.2} over m = {}",
                    s.estimator,
                    sizes.join(", ")
                ),
                None => format!(
                    "{}: no slope, fewer than 2 biases above {RESOLVED} standard errors",
                    s.estimator
                ),
            });
        }
        for c in &self.crossovers {
            let doubt = if c.resolved {
                ""
            } else {
                " (the difference of the squared biases is within its error: uncertain)"
            };
            notes.push(match c.batch {
                Some(batch) => format!(
                    "m = {}: {}'s MSE is below tea-plug-in's from {batch:.0} prompts a batch on{doubt}",
                    c.m, c.estimator
                ),
                None => format!(
                    "m = {}: {}'s bias is the larger one: no crossover{doubt}",
                    c.m, c.estimator
                ),
            });
        }
        if let Some(x) = self
            .measured
            .iter()
            .find(|x| x.estimator == "prefix-tea-2" && x.m == 256)
        {
            notes.push(format!(
                "The paper's Table 15 gives Prefix-TEA a bias of 0.015 at m = 256; here it is {:.3} ± {:.3}{}",
                x.bias,
                x.bias_error,
                if (x.bias - 0.015).abs() > RESOLVED * x.bias_error { ": not reproduced" } else { "" }
            ));
        }
        notes
    }

    /// `synthetic_bias`: bias over m; `synthetic_mse`: MSE over the prompt batch at the largest m. Logarithmic.
    pub fn plots(&self) -> Vec<(String, Plot)> {
        let of = |e: &'static str| self.measured.iter().filter(move |x| x.estimator == e);
        let bias = |e: &&'static str| Series {
            label: (*e).to_string(),
            points: of(e)
                .map(|x| PlotPoint {
                    x: x.m as f64,
                    y: x.bias.log10(),
                    interval: Some((
                        (x.bias - x.bias_error).max(0.1 * x.bias).log10(),
                        (x.bias + x.bias_error).log10(),
                    )),
                })
                .collect(),
        };
        let largest = self.config.sizes.iter().copied().max().unwrap_or(0);
        let mse = |e: &&'static str| {
            let at = of(e).find(|x| x.m == largest);
            Series::line(
                *e,
                at.into_iter()
                    .flat_map(|x| (0..=17).map(|i| (f64::from(1 << i), x.mse_at(f64::from(1 << i)).log10()))),
            )
        };
        let plot = |title: String, x_label: &str, y_label: &str, series: Vec<Series>| Plot {
            title,
            x_label: x_label.into(),
            y_label: y_label.into(),
            x_scale: XScale::Log2,
            series,
        };
        vec![
            (
                "synthetic_bias".into(),
                plot(
                    "Bias of the gradient estimate (± 1 standard error)".into(),
                    "m (responses a prompt)",
                    "log10 of the bias's norm",
                    ESTIMATORS.iter().map(bias).collect(),
                ),
            ),
            (
                "synthetic_mse".into(),
                plot(
                    format!("Mean squared error at m = {largest}"),
                    "B (prompts a batch)",
                    "log10 of the MSE",
                    ESTIMATORS.iter().map(mse).collect(),
                ),
            ),
        ]
    }
}
