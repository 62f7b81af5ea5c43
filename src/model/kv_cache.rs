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
    /// Bytes of a cache for `rows` rows: whole pages, and their table.
    pub fn bytes(spec: &ModelSpec, rows: usize, dtype: FloatDtype) -> u64 {
        let table = 4 * rows.div_ceil(PAGE).max(1) as u64;
        2 * spec.num_layers as u64 * Self::layer_bytes(spec, rows, dtype) + table
    }

    /// Bytes of one layer's keys, or of its values.
    pub fn layer_bytes(spec: &ModelSpec, rows: usize, dtype: FloatDtype) -> u64 {
        let pages = rows.div_ceil(PAGE).max(1);
        (pages * PAGE * spec.num_kv_heads * spec.head_dim * dtype.bytes()) as u64
    }

    /// Allocates a cache of as many pages as hold `rows` rows.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(model: &Model, rows: usize, dtype: FloatDtype) -> Result<Self> {
        let pages = rows.div_ceil(PAGE).max(1);
        let bytes = Self::layer_bytes(&model.spec, rows, dtype);
        let one = || model.gpu.alloc("kv cache", bytes);
        let layers = (0..model.spec.num_layers)
            .map(|_| Ok((one()?, one()?)))
            .collect::<Result<_>>()?;
        let table = model.gpu.upload("kv cache/pages", &vec![0u32; pages])?;
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
