//! A model whose blocks' weights stay in their files: they pass through a ring of device buffers, block by block, while
//! a batch runs forward.
//!
//! The ring holds [`RING`] blocks. While the device computes one, the host reads, converts and writes the next into the other's
//! place; norms, biases, adapters, embedding and head are resident. Every block of [`Model::blocks`](super::params::Model) is there as
//! usual, but the matrices of block l are those of place l mod [`RING`], so that the same kernels run on the same values in the same
//! order: scores have the bits of a resident model's.

use super::params::{self, Block};
use super::parts::{Proj, Role};
use super::spec::{ModelSpec, TensorSpec};
use super::store::WeightStore;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::kernels::weight::{Weight, device_bytes};
use crate::tensor::DType;
use std::sync::Arc;

/// Blocks whose weights are on the device at once.
pub const RING: usize = 2;

/// A block's linear layer as it is stored, and the type it has on the device.
type Linear = (TensorSpec, DType);

/// Where the blocks' weights come from.
#[derive(Debug)]
pub struct Streamed {
    store: Arc<WeightStore>,
    /// By layer, in the order of [`Proj::ALL`].
    layers: Vec<Vec<Linear>>,
}

/// The buffers that blocks pass through.
pub(super) struct Ring {
    /// By place and linear layer.
    places: Vec<Vec<Weight>>,
}

/// The linear layers of each block, with the element types that `dtype` gives.
fn linears(spec: &ModelSpec, dtype: &dyn Fn(&TensorSpec) -> Result<DType>) -> Result<Vec<Vec<Linear>>> {
    let mut layers: Vec<Vec<Linear>> = vec![Vec::new(); spec.num_layers];
    for t in spec.tensors() {
        if let Some(layer) = t.layer.filter(|_| passes(&t)) {
            let dtype = dtype(&t)?;
            layers[layer].push((t, dtype));
        }
    }
    for layer in &mut layers {
        layer.sort_by_key(|(t, _)| match t.role {
            Role::Weight(p) => p as usize,
            _ => usize::MAX,
        });
        if layer.len() != Proj::ALL.len() {
            return Err(Error::internal("a block without its seven linear layers"));
        }
    }
    Ok(layers)
}

/// What each place of the ring must hold: rows, columns and the widest type of each linear layer of the blocks that pass through it.
fn widest(layers: &[Vec<Linear>]) -> Vec<Vec<(usize, usize, DType)>> {
    (0..RING.min(layers.len()))
        .map(|place| {
            (0..Proj::ALL.len())
                .map(|i| {
                    let (rows, cols) = size(&layers[place][i].0);
                    let types = layers.iter().skip(place).step_by(RING).map(|layer| layer[i].1);
                    let dtype = types.max_by_key(|d| device_bytes(*d, rows, cols));
                    (rows, cols, dtype.unwrap_or(DType::F32))
                })
                .collect()
        })
        .collect()
}

/// Whether a tensor passes through the ring.
pub(super) fn passes(t: &TensorSpec) -> bool {
    matches!(t.role, Role::Weight(_)) && t.layer.is_some()
}

fn size(t: &TensorSpec) -> (usize, usize) {
    (t.shape[0], t.shape.iter().skip(1).product())
}

impl Ring {
    /// Allocates the ring for what `streamed` will put into it.
    pub(super) fn new(gpu: &Gpu, streamed: &Streamed) -> Result<Self> {
        let one = |(rows, cols, dtype): (usize, usize, DType)| {
            Weight::unwritten(gpu, "weights", dtype, rows, cols, gpu.caps().max_binding)
        };
        let places = widest(&streamed.layers)
            .into_iter()
            .map(|place| place.into_iter().map(one).collect::<Result<_>>())
            .collect::<Result<_>>()?;
        Ok(Self { places })
    }

    /// The buffers of a linear layer, as a weight of the type it has in that block.
    pub(super) fn weight(&self, streamed: &Streamed, layer: usize, proj: Proj) -> Weight {
        Weight {
            dtype: streamed.layers[layer][proj as usize].1,
            ..self.places[layer % self.places.len()][proj as usize].clone()
        }
    }
}

impl Streamed {
    /// The blocks of `store`, with the element types that `dtype` gives.
    ///
    /// # Errors
    /// Those of `dtype`.
    pub(super) fn new(
        spec: &ModelSpec,
        store: &Arc<WeightStore>,
        dtype: impl Fn(&TensorSpec) -> Result<DType>,
    ) -> Result<Self> {
        Ok(Self {
            store: store.clone(),
            layers: linears(spec, &dtype)?,
        })
    }

    /// Writes the matrices of block number `layer` into its place of the ring, after what was submitted so far.
    ///
    /// # Errors
    /// A tensor that cannot be converted.
    pub(super) fn fill(&self, gpu: &Gpu, layer: usize, block: &Block) -> Result<()> {
        for ((t, _), linear) in self.layers[layer].iter().zip(&block.linears) {
            params::write(gpu, &linear.weight.value, &t.name, &self.store)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
