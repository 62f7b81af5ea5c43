//! The linear layers of a block in the forward pass: which of them share a dispatch, and what meets their products.

use super::forward::Pass;
use super::params::{Block, Linear, LoraPair, Param};
use super::spec::Proj;
use super::workspace::Acts;
use crate::error::{Error, Result};
use crate::gpu::{Buffer, Recorder};
use crate::kernels::elementwise;
use crate::kernels::linear_fused::{self as fused, Bias, Epilogue, Product, Second, Side};
use crate::kernels::weight::Weight;

/// The layers that share attention's input.
const QKV: [Proj; 3] = [Proj::Q, Proj::K, Proj::V];

impl Block {
    /// The biases of q, k and v one after another, where they have any and no optimiser changes them.
    pub(super) fn joined_biases(&self) -> Option<&Buffer> {
        let mut biases = QKV.iter().filter_map(|p| self.linear(*p).bias.as_ref());
        self.qkv_biases
            .as_ref()
            .filter(|_| biases.all(|b| b.grad.is_none()))
    }

    /// Copies them there.
    ///
    /// # Errors
    /// Out of memory.
    pub(super) fn join_biases(&mut self, rec: &mut Recorder) -> Result<()> {
        let biases = QKV.iter().filter_map(|p| self.linear(*p).bias.as_ref());
        let biases: Vec<&Weight> = biases.map(|b| &b.value).collect();
        if biases.len() < QKV.len() {
            return Ok(());
        }
        let bytes = |w: &Weight| w.cols as u64 * 4;
        let joined = rec
            .gpu()
            .alloc("weights", biases.iter().map(|w| bytes(w)).sum())?;
        let mut to = 0;
        for w in biases {
            rec.copy(&w.shards[0].buffer, 0, &joined, to, bytes(w));
            to += bytes(w);
        }
        self.qkv_biases = Some(joined);
        Ok(())
    }
}

impl Pass<'_> {
    pub(super) fn lora<'l>(&self, linear: &'l Linear) -> Option<&'l LoraPair> {
        linear.lora.as_ref().filter(|_| self.adapter)
    }

    /// The adapter's second product of a layer: (alpha/R)·h Bᵀ, where h is what [`lora_down`](Self::lora_down) left.
    fn second<'s>(&self, l: &'s Linear, proj: Proj, acts: &'s Acts) -> Result<Option<Second<'s>>> {
        let Some(pair) = self.lora(l) else {
            return Ok(None);
        };
        Ok(Some(Second {
            h: hidden(acts, proj)?,
            b: &pair.b.value,
            factor: pair.factor(),
        }))
    }

    /// y = x Wᵀ + bias + the adapter's second product and what `with` adds.
    pub(super) fn linear(
        &self,
        rec: &mut Recorder,
        block: &Block,
        proj: Proj,
        acts: &Acts,
        (x, y, m): (&Buffer, &Buffer, usize),
        with: Epilogue<'_>,
    ) -> Result<()> {
        let l = block.linear(proj);
        let with = Epilogue {
            bias: l.bias.as_ref().map(Param::vector),
            lora: self.second(l, proj, acts)?,
            ..with
        };
        fused::forward_with(rec, x, &l.weight.value, &with, y, m)
    }

    /// h = x Aᵀ (M, R) of those of `projs`, which share x, that the adapter targets, into the layer's activations.
    pub(super) fn lora_down(
        &self,
        rec: &mut Recorder,
        block: &Block,
        projs: &[Proj],
        acts: &Acts,
        (x, m): (&Buffer, usize),
    ) -> Result<()> {
        let targeted = projs.iter().filter_map(|proj| {
            let pair = self.lora(block.linear(*proj))?;
            Some(hidden(acts, *proj).map(|h| Product::plain(&pair.a.value, h)))
        });
        let pairs: Vec<_> = targeted.collect::<Result<_>>()?;
        fused::forward_each(rec, x, &pairs, m)
    }

    /// q, k and v from the normed input, into `out`. Those without adapter share a dispatch where [`forward_each`](fused::forward_each)
    /// has one for them.
    pub(super) fn queries_keys_values(
        &self,
        rec: &mut Recorder,
        block: &Block,
        acts: &Acts,
        out: [&Buffer; 3],
        m: usize,
    ) -> Result<()> {
        let x = &acts.normed1;
        let projs = [Proj::Q, Proj::K, Proj::V];
        self.lora_down(rec, block, &projs, acts, (x, m))?;
        let (mut plain, mut first) = (Vec::new(), 0);
        for (proj, y) in projs.into_iter().zip(out) {
            let (l, joined) = (block.linear(proj), block.joined_biases());
            let weight = &l.weight.value;
            let bias = l.bias.as_ref().map(|own| Bias {
                own: own.vector(),
                joined: joined.map(|all| (all, first)),
            });
            first += weight.rows;
            if self.lora(l).is_none() {
                plain.push(Product { weight, bias, y });
            } else {
                self.linear(rec, block, proj, acts, (x, y, m), Epilogue::default())?;
            }
        }
        fused::forward_each(rec, x, &plain, m)
    }

    /// act = silu(gate) · up, in one dispatch where [`forward_gated`](fused::forward_gated) has one, unless gate and up are `kept`.
    pub(super) fn mlp_in(
        &self,
        rec: &mut Recorder,
        block: &Block,
        acts: &Acts,
        m: usize,
        kept: bool,
    ) -> Result<()> {
        let x = &acts.normed2;
        self.lora_down(rec, block, &[Proj::Gate, Proj::Up], acts, (x, m))?;
        if kept {
            let plain = Epilogue::default();
            self.linear(rec, block, Proj::Gate, acts, (x, &acts.gate, m), plain)?;
            self.linear(rec, block, Proj::Up, acts, (x, &acts.up, m), plain)?;
            let n = m * self.model.spec.intermediate_size;
            return elementwise::swiglu_forward(rec, &acts.gate, &acts.up, &acts.act, n);
        }
        let side = |proj| {
            let l = block.linear(proj);
            Ok(Side {
                weight: &l.weight.value,
                bias: l.bias.as_ref().map(Param::vector),
                lora: self.second(l, proj, acts)?,
            })
        };
        let sides = [side(Proj::Gate)?, side(Proj::Up)?];
        fused::forward_gated(rec, x, sides, &acts.gate, &acts.act, m)
    }
}

/// Where the adapter's A x of a layer lives.
fn hidden(acts: &Acts, proj: Proj) -> Result<&Buffer> {
    let h = acts.lora[proj as usize].as_ref();
    h.ok_or_else(|| Error::internal("no room for the adapter"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use crate::gpu::{Gpu, GpuOptions};
    use crate::model::params::Model;
    use crate::model::source::ModelFiles;
    use crate::model::store::WeightStore;
    use crate::tensor::DType;
    use std::path::Path;

    /// A copy of biases that an optimiser changes would be stale after its first step.
    #[test]
    fn joined_biases_are_those_of_frozen_layers_alone() {
        let gpu = Gpu::open(&GpuOptions::default()).unwrap();
        let load = |name: &str| {
            let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models");
            let files = ModelFiles::Dir(models.join(name));
            let (spec, store) = (files.spec().unwrap(), WeightStore::open(&files).unwrap());
            Model::load(&gpu, &spec, &store, Some(DType::F32), 64).unwrap()
        };
        let mut model = load("qwen2_bias");
        for block in &model.blocks {
            let joined: Vec<f32> = gpu
                .read(block.joined_biases().unwrap(), 0, block_biases(block))
                .unwrap();
            let own = super::QKV.map(|p| {
                block
                    .linear(p)
                    .bias
                    .as_ref()
                    .unwrap()
                    .value
                    .read_f32(&gpu)
                    .unwrap()
            });
            assert_eq!(joined, own.concat());
        }
        model.train_base().unwrap();
        assert!(model.blocks.iter().all(|b| b.joined_biases().is_none()));
        assert!(
            load("llama_gqa")
                .blocks
                .iter()
                .all(|b| b.joined_biases().is_none())
        );
    }

    fn block_biases(block: &super::Block) -> usize {
        super::QKV
            .iter()
            .map(|p| block.linear(*p).weight.value.rows)
            .sum()
    }
}
