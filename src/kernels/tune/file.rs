//! What was measured, as a file: one an adapter.

use super::{BANDS, Class, NARROW, OPS, WIDTHS};
use crate::file::limits::SETTINGS_FILE;
use crate::file::open::read;
use crate::gpu::{Gpu, cache_dir, write_cache};
use crate::kernels::linear_variants::exact_variants;
use crate::tensor::DType;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What the times depend on: a table with another key is measured anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Key {
    adapter: String,
    backend: String,
    driver: String,
    driver_info: String,
    /// A hash of the kernels' texts and of this crate's version.
    kernels: String,
    /// Shaders with bounds checks are other shaders.
    checked: bool,
}

impl Key {
    fn of(gpu: &Gpu) -> Self {
        let r = gpu.report();
        Self {
            adapter: r.name.clone(),
            backend: r.backend.clone(),
            driver: r.driver.clone(),
            driver_info: r.driver_info.clone(),
            kernels: format!("{:016x}", kernels_hash()),
            checked: !gpu.trusts_shaders(),
        }
    }
}

/// FNV-1a, 64 bits.
fn kernels_hash() -> u64 {
    let entries = crate::kernels::linear::entries();
    let texts = entries.iter().map(|e| e.kernel.wgsl());
    let version = std::iter::once(env!("CARGO_PKG_VERSION").to_string());
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for text in version.chain(texts) {
        for byte in text.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}

/// The best variant of a class, and how it was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// The op.
    pub op: String,
    /// Element type of the weight.
    pub dtype: String,
    /// The band of rows.
    pub rows: String,
    /// The kind of width.
    pub width: String,
    /// Rows and columns of the output and length of the sums, as measured.
    pub shape: [usize; 3],
    /// The variant to take.
    pub variant: String,
    /// Milliseconds by variant.
    pub ms: BTreeMap<String, f64>,
}

impl Choice {
    pub(super) fn new(class: &Class, variant: &str, times: &[(&'static str, f64)]) -> Self {
        Self {
            op: class.op.to_string(),
            dtype: class.dtype.name().to_string(),
            rows: class.band().to_string(),
            width: class.width().to_string(),
            shape: [class.rows, class.cols, class.sum],
            variant: variant.to_string(),
            ms: times.iter().map(|(n, s)| ((*n).to_string(), s * 1e3)).collect(),
        }
    }

    /// The class it is for; `None` where it names none of this program's.
    pub fn class(&self) -> Option<Class> {
        let op = OPS.iter().find(|op| **op == self.op)?;
        let dtype = DType::ALL.into_iter().find(|d| d.name() == self.dtype)?;
        let (_, _, rows) = BANDS.iter().find(|b| b.0 == self.rows)?;
        // A member of the class: its size is not that of the measured one.
        let (cols, sum) = match WIDTHS.iter().position(|w| *w == self.width)? {
            1 => (1, NARROW),
            2 => (NARROW, 1),
            _ => (NARROW, NARROW),
        };
        Some(Class::new(op, dtype, [*rows, cols, sum]))
    }

    /// The variant by its static name, where it is one that this adapter runs and that gives the portable kernel's bits.
    pub fn variant_on(&self, gpu: &Gpu) -> Option<&'static str> {
        let op = OPS.iter().find(|op| **op == self.op)?;
        exact_variants(gpu, op).into_iter().find(|v| *v == self.variant)
    }

    /// Whether it says something that this program understands.
    fn is_sound(&self, gpu: &Gpu) -> bool {
        self.class().is_some() && self.variant_on(gpu).is_some()
    }
}

/// All that is known of an adapter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Table {
    key: Key,
    /// In the order they were measured.
    pub choices: Vec<Choice>,
}

impl Table {
    /// Nothing known yet.
    pub fn new(gpu: &Gpu) -> Self {
        Self {
            key: Key::of(gpu),
            choices: Vec::new(),
        }
    }

    /// Adds choices in place of those for the same classes.
    pub fn add(&mut self, found: Vec<Choice>) {
        let key = |c: &Choice| c.class().map(|c| c.key());
        self.choices
            .retain(|old| found.iter().all(|new| key(new) != key(old)));
        self.choices.extend(found);
    }

    /// Writes it whole or not at all; a table that cannot be written is measured again next time.
    pub fn save(&self, file: &Path) {
        if let Ok(text) = serde_json::to_vec_pretty(self) {
            write_cache(file, &text);
        }
    }
}

/// Where the table of this adapter is kept; `None` without a home directory.
pub fn file_of(gpu: &Gpu) -> Option<PathBuf> {
    let r = gpu.report();
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let name: String = format!("{}_{}", r.backend, r.name).chars().map(plain).collect();
    Some(cache_dir("tuned")?.join(format!("{name}.json")))
}

/// The table in `file`: empty where there is none, it is damaged, or it was measured with another driver or other kernels.
pub fn stored(gpu: &Gpu, file: &Path) -> Table {
    let new = Table::new(gpu);
    let Ok(text) = read(file, &SETTINGS_FILE) else {
        return new;
    };
    match serde_json::from_slice::<Table>(&text) {
        Ok(mut table) if table.key == new.key => {
            table.choices.retain(|c| c.is_sound(gpu));
            table
        }
        Ok(_) => {
            log::debug!("{} is of another driver or version", file.display());
            new
        }
        Err(e) => {
            log::debug!("{}: {e}", file.display());
            new
        }
    }
}
