//! LoRA adapters on a model: fresh, loaded from PEFT files, read back.

use super::params::{LoraPair, LoraShape, Model, Param};
use super::peft::{Module, lora_name};
use super::spec::Proj;
use crate::error::{Error, Result};
use crate::kernels::weight::Weight;
use crate::rng::{Stream, seed_for};
use crate::tensor::DType;
use rand::Rng;

/// The random stream of initial weights.
const INIT: u32 = 0x1417;

/// A tensor read back: PEFT's name, shape, row-major values.
pub type NamedTensor = (String, Vec<usize>, Vec<f32>);

/// Where an adapter's values come from: name and shape (rows, cols) → row-major f32.
pub type Source<'a> = dyn FnMut(&str, usize, usize) -> Result<Vec<f32>> + 'a;

impl Model {
    /// Puts an adapter on the model, replacing any. With `train`, its tensors get gradients.
    ///
    /// # Errors
    /// What `source` returns, or out of memory.
    pub fn set_adapter(&mut self, shape: &LoraShape, train: bool, source: &mut Source<'_>) -> Result<()> {
        self.set_adapter_on(shape, &shape.modules(self.blocks.len()), train, source)
    }

    /// As [`Model::set_adapter`], on `modules` alone, each with its own rank and scale.
    ///
    /// # Errors
    /// As [`Model::set_adapter`]; a module that the model does not have, or of a larger rank than
    /// the shape's (a bug).
    pub fn set_adapter_on(
        &mut self,
        shape: &LoraShape,
        modules: &[Module],
        train: bool,
        source: &mut Source<'_>,
    ) -> Result<()> {
        let gpu = self.gpu.clone();
        for linear in self.blocks.iter_mut().flat_map(|b| &mut b.linears) {
            linear.lora = None;
        }
        for m in modules {
            let (out, inp) = self.spec.proj_dims(m.proj);
            let Some(block) = self.blocks.get_mut(m.layer).filter(|_| m.rank <= shape.rank) else {
                return Err(Error::internal(format!("{m:?} does not belong to {shape:?}")));
            };
            let mut one = |which: char, rows: usize, cols: usize| {
                let value = if gpu.counts() {
                    Weight::zeros(&gpu, "adapter", rows, cols)?
                } else {
                    let values = source(&lora_name(m.layer, m.proj, which), rows, cols)?;
                    let bytes = bytemuck::cast_slice(&values);
                    Weight::upload(&gpu, "adapter", DType::F32, rows, cols, bytes)?
                };
                let mut param = Param::frozen(value);
                if train {
                    param.train(&gpu)?;
                }
                Ok(param)
            };
            block.linears[m.proj as usize].lora = Some(LoraPair {
                a: one('A', m.rank, inp)?,
                b: one('B', out, m.rank)?,
                scale: m.scale,
            });
        }
        self.lora = Some(shape.clone());
        Ok(())
    }

    /// The linear layers that have a pair, block by block.
    pub fn adapter_modules(&self) -> Vec<Module> {
        let blocks = self.blocks.iter().enumerate();
        let all = blocks.flat_map(|(layer, b)| Proj::ALL.into_iter().map(move |p| (layer, p, b.linear(p))));
        all.filter_map(|(layer, proj, linear)| {
            linear.lora.as_ref().map(|pair| Module {
                layer,
                proj,
                rank: pair.a.value.rows,
                scale: pair.scale,
            })
        })
        .collect()
    }

    /// Puts a fresh adapter on the model: A Kaiming-uniform with a = √5 (uniform in ±1/√in, as PEFT), B = 0.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new_adapter(&mut self, shape: &LoraShape, seed: u64, train: bool) -> Result<()> {
        let mut tensor = 0;
        self.set_adapter(shape, train, &mut |name, rows, cols| {
            tensor += 1;
            if name.contains("lora_B") {
                return Ok(vec![0.0; rows * cols]);
            }
            let bound = 1.0 / (cols as f64).sqrt();
            let mut stream = Stream::new(seed_for(seed, 0, tensor, 0), INIT);
            Ok((0..rows * cols).map(|_| uniform(&mut stream, bound)).collect())
        })
    }

    /// The adapter's tensors: (PEFT name, shape, values).
    ///
    /// # Errors
    /// A GPU error.
    pub fn read_adapter(&self) -> Result<Vec<NamedTensor>> {
        let mut out = Vec::new();
        for (layer, block) in self.blocks.iter().enumerate() {
            for proj in Proj::ALL {
                let Some(pair) = &block.linear(proj).lora else {
                    continue;
                };
                for (which, p) in [('A', &pair.a), ('B', &pair.b)] {
                    let shape = vec![p.value.rows, p.value.cols];
                    out.push((lora_name(layer, proj, which), shape, p.value.read_f32(&self.gpu)?));
                }
            }
        }
        Ok(out)
    }
}

/// A value uniform in ±bound.
pub fn uniform(rng: &mut impl Rng, bound: f64) -> f32 {
    ((f64::from(rng.next_u32()) / f64::from(u32::MAX) * 2.0 - 1.0) * bound) as f32
}
