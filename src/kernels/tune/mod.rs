//! Which variant of a matrix product is fastest here: measured once an adapter, kept in the user's cache directory.
//!
//! The variants that are measured give the same bits ([`exact_variants`]), so that what is found changes no result. A [`Class`]
//! is what one choice holds for: op, element type, a band of rows and a kind of width. [`ensure`] measures the classes of a model
//! that the adapter's file lacks; [`load`] reads the file. A file of another adapter, driver or version of the kernels, a damaged
//! one, or one that cannot be written costs a new measurement and nothing else.

mod file;
mod measure;

use super::linear_variants::{self, FORWARD_OP, INPUT_GRADIENT_OP, OPS, WEIGHT_GRADIENT_OP, exact_variants};
use crate::error::Result;
use crate::gpu::{Gpu, Tune};
use crate::tensor::DType;
pub use file::{Choice, Table, file_of, stored};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Seconds that [`ensure`] may take; what is not measured by then keeps its default until the next run.
const BUDGET: Duration = Duration::from_millis(2500);
/// Names and upper ends of the bands of rows, and the rows that are measured for each.
const BANDS: [(&str, usize, usize); 4] = [
    ("1", 1, 1),
    ("2-8", 8, 4),
    ("9-32", 32, 16),
    ("33+", usize::MAX, 128),
];
/// Outputs or sums shorter than this are a kind of their own: an adapter's rank.
const NARROW: usize = 64;
/// Names of the kinds of width.
const WIDTHS: [&str; 3] = ["wide", "narrow output", "short sum"];
/// Longest side of a weight that is measured: more takes longer and tells no more.
const LONGEST: usize = 4096;
/// Rows that a weight gradient sums over when it is measured.
const SUMMED: usize = 256;

/// A matrix product, as far as the choice of a variant goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Class {
    /// The op, one of [`OPS`].
    pub op: &'static str,
    /// Element type of the weight.
    pub dtype: DType,
    /// Rows of the output.
    pub rows: usize,
    /// Columns of the output.
    pub cols: usize,
    /// Length of the sums.
    pub sum: usize,
}

impl Class {
    /// A product of an op of [`OPS`] with rows and columns of the output and the length of the sums.
    pub fn new(op: &'static str, dtype: DType, [rows, cols, sum]: [usize; 3]) -> Self {
        Self {
            op,
            dtype,
            rows,
            cols,
            sum,
        }
    }

    fn band_index(&self) -> usize {
        BANDS
            .iter()
            .position(|b| self.rows <= b.1)
            .unwrap_or(BANDS.len() - 1)
    }

    fn width_index(&self) -> usize {
        match self {
            _ if self.cols < NARROW => 1,
            _ if self.sum < NARROW && self.op != WEIGHT_GRADIENT_OP => 2,
            _ => 0,
        }
    }

    /// The band of rows.
    pub fn band(&self) -> &'static str {
        BANDS[self.band_index()].0
    }

    /// The kind of width.
    pub fn width(&self) -> &'static str {
        WIDTHS[self.width_index()]
    }

    /// The class as a number: products with the same one run on the same variant.
    pub fn key(&self) -> u64 {
        let at = |found: Option<usize>| found.unwrap_or(0) as u64;
        let op = at(OPS.iter().position(|op| *op == self.op));
        let dtype = at(DType::ALL.iter().position(|d| *d == self.dtype));
        op | dtype << 2 | (self.band_index() as u64) << 8 | (self.width_index() as u64) << 10
    }

    /// The variant that the table of defaults names on this adapter.
    pub fn default_variant(&self, gpu: &Gpu) -> &'static str {
        let name = linear_variants::default_of(gpu.caps().kind, self);
        let runs = exact_variants(gpu, self.op).contains(&name);
        if runs { name } else { linear_variants::PORTABLE }
    }

    /// The classes of `y = x Wᵀ`, W (n, k), for every band of rows.
    pub fn forward(dtype: DType, n: usize, k: usize) -> impl Iterator<Item = Self> {
        let (n, k) = (n.min(LONGEST), k.min(LONGEST));
        BANDS
            .iter()
            .map(move |b| Self::new(FORWARD_OP, dtype, [b.2, n, k]))
    }

    /// The class of `dx = dy W` for many rows.
    pub fn input_gradient(dtype: DType, n: usize, k: usize) -> Self {
        let [.., (_, _, rows)] = BANDS;
        Self::new(INPUT_GRADIENT_OP, dtype, [rows, k.min(LONGEST), n.min(LONGEST)])
    }

    /// The class of `dw = dyᵀ x`, dw (n, k), for many rows.
    pub fn weight_gradient(n: usize, k: usize) -> Self {
        Self::new(
            WEIGHT_GRADIENT_OP,
            DType::F32,
            [n.min(LONGEST), k.min(LONGEST), SUMMED],
        )
    }

    /// Multiply-adds.
    fn work(&self) -> usize {
        self.rows * self.cols * self.sum
    }
}

/// Whether choices matter: nothing is forced.
fn matters(gpu: &Gpu) -> bool {
    gpu.forced_variant().is_none() && gpu.caps().forced_lanes.is_none()
}

/// Takes over what was measured on this adapter earlier.
pub fn load(gpu: &Gpu) {
    if gpu.tune() == Tune::Off || !matters(gpu) {
        return;
    }
    let Some(file) = file_of(gpu) else { return };
    apply(gpu, &stored(gpu, &file));
}

/// Measures those of `classes` for which nothing is known, as far as the time allows, where the device was opened so
/// ([`Tune::Measure`]).
///
/// # Errors
/// A GPU error.
pub fn ensure(gpu: &Gpu, classes: &[Class]) -> Result<()> {
    if gpu.tune() != Tune::Measure || !matters(gpu) {
        return Ok(());
    }
    let missing = distinct(classes.iter().filter(|c| gpu.choice(c.key()).is_none()));
    if missing.is_empty() {
        return Ok(());
    }
    let begun = Instant::now();
    let found = measure::all(gpu, &missing, Some(begun + BUDGET))?;
    log::info!(
        "{} of {} classes of matrix products measured in {:.1} s",
        found.len(),
        missing.len(),
        begun.elapsed().as_secs_f64()
    );
    keep(gpu, found, false);
    Ok(())
}

/// Measures all `classes`, however long it takes, and forgets what was known of others.
///
/// # Errors
/// A GPU error.
pub fn retune(gpu: &Gpu, classes: &[Class]) -> Result<Table> {
    let found = measure::all(gpu, &distinct(classes.iter()), None)?;
    Ok(keep(gpu, found, true))
}

/// One class a key: the largest.
fn distinct<'a>(classes: impl Iterator<Item = &'a Class>) -> Vec<Class> {
    let mut out: Vec<Class> = Vec::new();
    for class in classes {
        match out.iter_mut().find(|c| c.key() == class.key()) {
            Some(c) if c.work() < class.work() => *c = *class,
            Some(_) => {}
            None => out.push(*class),
        }
    }
    out
}

/// Adds to the adapter's file (or begins it anew) and takes over all that it says.
fn keep(gpu: &Gpu, found: Vec<Choice>, anew: bool) -> Table {
    let file = file_of(gpu);
    let mut table = match &file {
        Some(file) if !anew => stored(gpu, file),
        _ => Table::new(gpu),
    };
    table.add(found);
    if let Some(file) = &file {
        table.save(file);
    }
    apply(gpu, &table);
    table
}

/// Sets the choices that the table holds.
pub fn apply(gpu: &Gpu, table: &Table) {
    let known: HashMap<u64, &'static str> = table
        .choices
        .iter()
        .filter_map(|c| Some((c.class()?.key(), c.variant_on(gpu)?)))
        .collect();
    gpu.set_choices(known);
}

#[cfg(test)]
mod tests;
