//! The study of reward laws as a table and plots.

use super::laws::{Law, Laws, RULES};
use crate::report::{Align, Cell, Plot, Series, Table, XScale};

impl Laws {
    /// A row a law, size and rule.
    pub fn table(&self) -> Table {
        let mut table = Table::new([
            ("law", Align::Left),
            ("m", Align::Right),
            ("rule", Align::Left),
            ("cosine, 1 group", Align::Right),
            ("8 groups", Align::Right),
            ("64 groups", Align::Right),
            ("limit", Align::Right),
            ("relative bias", Align::Right),
            ("Gaussian tail", Align::Right),
        ]);
        let number = |value: f64| Cell::Number { value, digits: 3 };
        for r in &self.rows {
            let mut row: Vec<Cell> = vec![r.law.name().into(), r.m.into(), r.rule.into()];
            row.extend(r.cosine.map(number));
            row.extend([number(r.limit), number(r.bias)]);
            row.push(r.gaussian_tail.map_or(Cell::Empty, number));
            table.push(row);
        }
        table
    }

    /// `laws_LAW`: cosine at 8 groups over m.
    pub fn plots(&self) -> Vec<(String, Plot)> {
        let one = |law: &Law| {
            let series = |rule: &&'static str| {
                let rows = self.rows.iter().filter(|r| r.law == *law && r.rule == *rule);
                Series::line(*rule, rows.map(|r| (r.m as f64, r.cosine[1])))
            };
            let plot = Plot {
                title: format!("{} rewards", law.name()),
                x_label: "m (responses a prompt)".into(),
                y_label: "cosine with the gradient of best-of-N (8 groups)".into(),
                x_scale: XScale::Log2,
                series: RULES.iter().map(series).collect(),
            };
            (format!("laws_{}", law.name()), plot)
        };
        self.config.laws.iter().map(one).collect()
    }
}
