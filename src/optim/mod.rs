//! AdamW over a model's trainable tensors, gradient clipping, learning-rate schedule.

mod state;

pub use state::{Element, Part};

use crate::config::{Optim, Schedule};
use crate::error::{Error, Result};
use crate::gpu::{Buffer, Gpu, Recorder};
use crate::kernels::adamw::{self, AdamW, NormScratch};
use crate::kernels::pad4;
use crate::kernels::weight::{Shard, Weight};
use crate::model::params::Trainable;
use crate::tensor::DType;
use state::State;

/// Settings of the optimiser that do not change during a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Which optimiser.
    pub optim: Optim,
    /// Learning rate after warm-up.
    pub learning_rate: f64,
    /// Steps of linear warm-up.
    pub warmup_steps: u64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Global-norm clip; 0 turns it off.
    pub max_grad_norm: f64,
    /// What the rate does after warm-up.
    pub schedule: Schedule,
    /// Steps of the whole run, where the schedule ends.
    pub total_steps: u64,
}

impl Settings {
    /// Learning rate of the step after `done` steps: linear warm-up, then the schedule.
    pub fn rate(&self, done: u64) -> f64 {
        if done < self.warmup_steps {
            return self.learning_rate * (done + 1) as f64 / self.warmup_steps as f64;
        }
        let span = self.total_steps.saturating_sub(self.warmup_steps).max(1);
        let along = ((done - self.warmup_steps) as f64 / span as f64).min(1.0);
        self.learning_rate
            * match self.schedule {
                Schedule::Constant => 1.0,
                Schedule::Linear => 1.0 - along,
                Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * along).cos()),
            }
    }
}

/// Where [`Optimizer::restore`] gets the bytes of a part.
pub type PartSource<'a> = dyn FnMut(&Part) -> Result<Vec<u8>> + 'a;

/// AdamW with its state: first and second moments of every trainable tensor.
pub struct Optimizer {
    tensors: Vec<(Trainable, State)>,
    scratch: NormScratch,
    norm: Buffer,
    settings: Settings,
    /// Steps taken.
    pub steps: u64,
}

impl Optimizer {
    /// Zeroed state for `tensors`.
    ///
    /// # Errors
    /// Nothing to train, or out of memory.
    pub fn new(gpu: &Gpu, tensors: Vec<Trainable>, settings: Settings) -> Result<Self> {
        if tensors.is_empty() {
            return Err(Error::internal("nothing is trainable"));
        }
        let tensors = tensors
            .into_iter()
            .map(|t| Ok((State::new(gpu, &t, settings.optim)?, t)))
            .map(|r| r.map(|(state, t)| (t, state)));
        let tensors: Vec<(Trainable, State)> = tensors.collect::<Result<_>>()?;
        let sizes = tensors
            .iter()
            .flat_map(|(t, _)| t.grad.shards.iter().map(|s| s.rows * pad4(t.grad.cols)));
        Ok(Self {
            scratch: NormScratch::new(gpu, sizes.collect::<Vec<_>>())?,
            tensors,
            norm: gpu.alloc("optimizer", 4)?,
            settings,
            steps: 0,
        })
    }

    /// Sets every gradient to zero.
    pub fn zero_grad(&self, rec: &mut Recorder) {
        for shard in self.tensors.iter().flat_map(|(t, _)| &t.grad.shards) {
            rec.zero(&shard.buffer);
        }
    }

    /// Forgets the norm of earlier steps: before the first [`Optimizer::record`] whose norm is read together with others'.
    pub fn begin(&self, rec: &mut Recorder) {
        rec.zero(&self.norm);
    }

    /// Records a step: clips by the global norm, updates every tensor, and zeroes the gradients. Where the gradient is not
    /// finite, the device leaves everything as it is, in this step and in those recorded after it.
    ///
    /// # Errors
    /// A GPU error.
    pub fn record(&mut self, rec: &mut Recorder) -> Result<()> {
        let grads: Vec<(&Buffer, usize)> = self
            .tensors
            .iter()
            .flat_map(|(t, _)| {
                t.grad
                    .shards
                    .iter()
                    .map(|s| (&s.buffer, s.rows * pad4(t.grad.cols)))
            })
            .collect();
        adamw::global_norm(rec, &grads, &self.scratch, &self.norm)?;
        let hyper = AdamW {
            lr: self.settings.rate(self.steps),
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: self.settings.weight_decay,
            step: (self.steps + 1) as u32,
            max_grad_norm: self.settings.max_grad_norm,
        };
        for (number, (t, state)) in (0u64..).zip(&self.tensors) {
            state.step(rec, t, (&self.norm, number), hyper)?;
        }
        self.zero_grad(rec);
        self.steps += 1;
        Ok(())
    }

    /// Where the last step's norm is, once it has run: one f32.
    pub fn norm(&self) -> &Buffer {
        &self.norm
    }

    /// What came of the last `steps` recorded steps, from the norm that the device holds after them.
    ///
    /// # Errors
    /// A user error where a gradient was not finite: none of the steps from there on counts.
    pub fn finish(&mut self, norm: f32, steps: u64) -> Result<f64> {
        if norm.is_finite() {
            return Ok(f64::from(norm));
        }
        self.steps -= steps;
        Err(Error::user(
            "the gradient is not finite: the last checkpoint is intact; lower --learning-rate, --lora-alpha or \
             --max-grad-norm and resume",
        ))
    }

    /// The learning rate the next step will use.
    pub fn next_rate(&self) -> f64 {
        self.settings.rate(self.steps)
    }

    /// The state of every tensor, part by part, with its bytes.
    ///
    /// # Errors
    /// A GPU error.
    pub fn read(&self, gpu: &Gpu) -> Result<Vec<(Part, Vec<u8>)>> {
        let mut out = Vec::new();
        for (t, state) in &self.tensors {
            out.extend(state.parts(t).into_iter().zip(state.read(gpu)?));
        }
        Ok(out)
    }

    /// Which optimiser it is.
    pub fn optim(&self) -> Optim {
        self.settings.optim
    }

    /// The trainable tensors, in the order of [`Optimizer::read`].
    pub fn tensors(&self) -> impl Iterator<Item = &Trainable> {
        self.tensors.iter().map(|(t, _)| t)
    }

    /// Puts back what [`Optimizer::read`] gave, after `steps` steps.
    ///
    /// # Errors
    /// What `source` returns, or bytes that do not fill a part.
    pub fn restore(&mut self, gpu: &Gpu, steps: u64, source: &mut PartSource<'_>) -> Result<()> {
        for (t, state) in &self.tensors {
            let mut parts = Vec::new();
            for part in state.parts(t) {
                let bytes = source(&part)?;
                if bytes.len() != part.bytes() {
                    return Err(Error::internal(format!(
                        "{} bytes for {}",
                        bytes.len(),
                        part.name
                    )));
                }
                parts.push(bytes);
            }
            state.write(gpu, &parts)?;
        }
        self.steps = steps;
        Ok(())
    }
}

/// Overwrites an f32 weight on the device; `values` is row-major without padding.
///
/// # Errors
/// The weight is not f32 or the length is wrong (bugs).
pub fn write_f32(gpu: &Gpu, weight: &Weight, values: &[f32]) -> Result<()> {
    if weight.dtype != DType::F32 || values.len() != weight.rows * weight.cols {
        return Err(Error::internal("values do not fit the tensor"));
    }
    let ld = pad4(weight.cols);
    for Shard {
        first_row,
        rows,
        buffer,
    } in &weight.shards
    {
        let mut padded = vec![0.0f32; rows * ld];
        let source = values[first_row * weight.cols..].chunks_exact(weight.cols);
        for (target, row) in padded.chunks_exact_mut(ld).zip(source) {
            target[..weight.cols].copy_from_slice(row);
        }
        gpu.write(buffer, 0, &padded);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
