//! AdamW over a model's trainable tensors, gradient clipping, learning-rate schedule.

use crate::config::Schedule;
use crate::error::{Error, Result};
use crate::gpu::{Buffer, Gpu, Recorder};
use crate::kernels::adamw::{self, AdamW, AdamWArgs, NormScratch};
use crate::kernels::pad4;
use crate::kernels::weight::{Shard, Weight};
use crate::model::params::Trainable;
use crate::tensor::DType;

/// Settings of the optimiser that do not change during a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
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

/// A tensor's moments on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    /// The tensor's name.
    pub name: String,
    /// Its shape in files.
    pub shape: Vec<usize>,
    /// First moment, row-major.
    pub m: Vec<f32>,
    /// Second moment, row-major.
    pub v: Vec<f32>,
}

/// Where [`Optimizer::restore`] gets its values: (name, "m" or "v", elements) → row-major f32.
pub type MomentSource<'a> = dyn FnMut(&str, &str, usize) -> Result<Vec<f32>> + 'a;

/// AdamW's state: first and second moments of every trainable tensor.
pub struct Optimizer {
    tensors: Vec<(Trainable, Weight, Weight)>,
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
        let zeros = |t: &Trainable| Weight::zeros(gpu, "optimizer", t.value.rows, t.value.cols);
        let tensors = tensors
            .into_iter()
            .map(|t| Ok((zeros(&t)?, zeros(&t)?, t)))
            .map(|r| r.map(|(m, v, t)| (t, m, v)));
        let tensors: Vec<(Trainable, Weight, Weight)> = tensors.collect::<Result<_>>()?;
        let sizes = tensors
            .iter()
            .flat_map(|(t, _, _)| t.grad.shards.iter().map(|s| s.rows * pad4(t.grad.cols)));
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
        for shard in self.tensors.iter().flat_map(|(t, _, _)| &t.grad.shards) {
            rec.zero(&shard.buffer);
        }
    }

    /// Clips by the global norm, updates every tensor, and zeroes the gradients. Returns the norm before clipping.
    ///
    /// # Errors
    /// A GPU error, or a gradient that is not finite (nothing is updated then).
    pub fn step(&mut self, rec: &mut Recorder) -> Result<f64> {
        let grads: Vec<(&Buffer, usize)> = self
            .tensors
            .iter()
            .flat_map(|(t, _, _)| {
                t.grad
                    .shards
                    .iter()
                    .map(|s| (&s.buffer, s.rows * pad4(t.grad.cols)))
            })
            .collect();
        adamw::global_norm(rec, &grads, &self.scratch, &self.norm)?;
        rec.submit()?;
        let gpu = rec.gpu().clone();
        let norm = f64::from(gpu.read::<f32>(&self.norm, 0, 1)?[0]);
        if !norm.is_finite() {
            return Err(Error::user(
                "the gradient is not finite: the last checkpoint is intact; lower --learning-rate or --max-grad-norm \
                 and resume",
            ));
        }
        let hyper = AdamW {
            lr: self.settings.rate(self.steps),
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: self.settings.weight_decay,
            step: (self.steps + 1) as u32,
            max_grad_norm: self.settings.max_grad_norm,
        };
        for (t, m, v) in &self.tensors {
            for (((p, g), m), v) in t
                .value
                .shards
                .iter()
                .zip(&t.grad.shards)
                .zip(&m.shards)
                .zip(&v.shards)
            {
                let args = AdamWArgs {
                    param: &p.buffer,
                    grad: &g.buffer,
                    m: &m.buffer,
                    v: &v.buffer,
                    norm: &self.norm,
                };
                adamw::step(rec, &args, p.rows * pad4(t.value.cols), hyper)?;
            }
        }
        self.zero_grad(rec);
        rec.submit()?;
        self.steps += 1;
        Ok(norm)
    }

    /// The learning rate the next step will use.
    pub fn next_rate(&self) -> f64 {
        self.settings.rate(self.steps)
    }

    /// The moments of every tensor.
    ///
    /// # Errors
    /// A GPU error.
    pub fn read(&self, gpu: &Gpu) -> Result<Vec<Moments>> {
        let one = |(t, m, v): &(Trainable, Weight, Weight)| {
            Ok(Moments {
                name: t.name.clone(),
                shape: t.shape.clone(),
                m: m.read_f32(gpu)?,
                v: v.read_f32(gpu)?,
            })
        };
        self.tensors.iter().map(one).collect()
    }

    /// The trainable tensors, in the order of [`Optimizer::read`].
    pub fn tensors(&self) -> impl Iterator<Item = &Trainable> {
        self.tensors.iter().map(|(t, _, _)| t)
    }

    /// Puts back moments that [`Optimizer::read`] gave.
    ///
    /// # Errors
    /// What `source` returns.
    pub fn restore(&mut self, gpu: &Gpu, steps: u64, source: &mut MomentSource<'_>) -> Result<()> {
        for (t, m, v) in &self.tensors {
            let n = t.value.rows * t.value.cols;
            write_f32(gpu, m, &source(&t.name, "m", n)?)?;
            write_f32(gpu, v, &source(&t.name, "v", n)?)?;
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
mod tests {
    use super::*;

    #[test]
    fn warm_up_is_linear_then_the_schedule_rules() {
        let with = |schedule| Settings {
            learning_rate: 1.0,
            warmup_steps: 4,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            schedule,
            total_steps: 8,
        };
        let rates = |s| (0..9).map(|i| with(s).rate(i)).collect::<Vec<f64>>();
        assert_eq!(
            rates(Schedule::Constant),
            [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
        );
        assert_eq!(
            rates(Schedule::Linear),
            [0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
        );
        assert!((rates(Schedule::Cosine)[6] - 0.5).abs() < 1e-12);
        assert_eq!(
            Settings {
                warmup_steps: 0,
                ..with(Schedule::Constant)
            }
            .rate(0),
            1.0
        );
    }
}
