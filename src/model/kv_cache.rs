//! The keys and values that sampling keeps.

use super::params::Model;
use super::spec::ModelSpec;
use crate::config::FloatDtype;
use crate::error::{Error, Result};
use crate::gpu::{Buffer, Recorder};
use crate::kernels::attention::PAGE;

/// Keys and values of every layer, (pages · PAGE, KV·D) each in f32 or f16, and the table that says which pages the ranges of a pass's
/// `meta` are in: their row r is row `r % PAGE` of page `table[r / PAGE]`.
pub struct KvCache {
    pub(super) layers: Vec<(Buffer, Buffer)>,
    pub(super) table: Buffer, // (pages), all zero at first
    pub(super) dtype: FloatDtype,
    /// Pages held.
    pub pages: usize,
}

impl KvCache {
    /// Bytes of one token's keys in a layer, or of its values.
    pub fn row_bytes(spec: &ModelSpec, dtype: FloatDtype) -> usize {
        spec.num_kv_heads * spec.head_dim * dtype.bytes()
    }

    /// Allocates a cache of as many pages as hold `rows` rows.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(model: &Model, rows: usize, dtype: FloatDtype) -> Result<Self> {
        let (gpu, spec) = (&model.gpu, &model.spec);
        let pages = rows.div_ceil(PAGE).max(1);
        let one = || gpu.alloc("kv cache", (pages * PAGE * Self::row_bytes(spec, dtype)) as u64);
        let layers = (0..spec.num_layers)
            .map(|_| Ok((one()?, one()?)))
            .collect::<Result<_>>()?;
        let table = gpu.alloc("kv cache/pages", 4 * pages as u64)?;
        Ok(Self {
            layers,
            table,
            dtype,
            pages,
        })
    }

    /// Sets the first entries of the page table; `pages` are pages of this cache, no more than it has.
    ///
    /// # Errors
    /// A GPU error, or pages that the cache does not have (a bug).
    pub fn map(&self, rec: &mut Recorder, pages: &[u32]) -> Result<()> {
        if pages.len() > self.pages || pages.iter().any(|p| *p as usize >= self.pages) {
            return Err(Error::internal(format!(
                "a page beyond the cache's {}",
                self.pages
            )));
        }
        rec.write(&self.table, 0, pages)
    }
}
