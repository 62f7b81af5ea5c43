//! What a diagnostic leaves: a JSON file and plots.

use std::path::Path;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::file::dirs;
use crate::model::save::write_atomic;
use crate::report::Plot;

/// What a diagnostic found, ready to be written.
pub struct Report<'a, T: Serialize> {
    /// Stem of the JSON file: `synthetic` gives `synthetic.json`.
    pub name: &'a str,
    /// Everything that was found, with the settings.
    pub value: &'a T,
    /// Plots by the stem of their files.
    pub plots: Vec<(String, Plot)>,
}

impl<T: Serialize> Report<'_, T> {
    /// Writes `NAME.json`, and `STEM.svg` and `STEM.png` for every plot, into `output`, which is made where it is missing.
    /// Each file is whole or absent.
    ///
    /// # Errors
    /// An I/O error naming the file, or a user error when a plot has nothing to draw.
    pub fn write(&self, output: &Path) -> Result<()> {
        dirs::make(output)?;
        let mut json = serde_json::to_vec_pretty(self.value).map_err(Error::internal)?;
        json.push(b'\n');
        write_atomic(&output.join(format!("{}.json", self.name)), &json)?;
        for (stem, plot) in &self.plots {
            write_atomic(&output.join(format!("{stem}.svg")), plot.svg()?.as_bytes())?;
            plot.save(output.join(format!("{stem}.png")))?;
        }
        Ok(())
    }
}
