//! Gradients of frozen tensors, for diagnostics: nothing is trained, so any element type will do.

use super::params::{Block, Model, Param};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::kernels::weight::Weight;

impl Param {
    /// Gives the tensor a zeroed f32 gradient though its values are never updated.
    ///
    /// # Errors
    /// Out of memory.
    pub fn watch(&mut self, gpu: &Gpu) -> Result<()> {
        self.grad = Some(Weight::zeros(gpu, "gradients", self.value.rows, self.value.cols)?);
        Ok(())
    }
}

impl Block {
    /// Calls `f` on every base tensor of the block: its norms, its linear layers' weights and biases.
    pub(super) fn each_base(&mut self, f: &mut dyn FnMut(&mut Param) -> Result<()>) -> Result<()> {
        f(&mut self.attn_norm)?;
        f(&mut self.mlp_norm)?;
        if let Some((q, k)) = &mut self.qk_norm {
            f(q)?;
            f(k)?;
        }
        for linear in &mut self.linears {
            f(&mut linear.weight)?;
            linear.bias.as_mut().map_or(Ok(()), &mut *f)?;
        }
        Ok(())
    }
}

impl Model {
    /// Has the backward pass compute the gradient of every base tensor of one block; [`Model::trainable`] lists them.
    ///
    /// # Errors
    /// There is no such block, or out of memory.
    pub fn watch_block(&mut self, layer: usize) -> Result<()> {
        let gpu = self.gpu.clone();
        let block = self
            .blocks
            .get_mut(layer)
            .ok_or_else(|| Error::internal(format!("the model has no block {layer}")))?;
        block.each_base(&mut |p| p.watch(&gpu))
    }
}
