//! Losses of a step's micro-batches: forward, loss and backward passes are recorded one after another, and the host reads
//! what they add up to at once.

use crate::error::Result;
use crate::gpu::{Buffer, Gpu, Readback, Recorder};
use crate::kernels::policy_loss::{TERMS, policy_loss_sums};
use crate::kernels::supervised_loss::{pair_loss, token_loss};
use crate::model::workspace::Workspace;

/// Micro-batches that the host reads at once. A step or an evaluation of more waits once for each as many, so that what is
/// under way has an end.
const BATCHES: usize = 256;

/// The losses of `sft`, `reward` and `gradient`, with the coefficients that they give the backward pass.
pub struct Losses {
    gpu: Gpu,
    operands: Buffer, // (P): weights of tokens, or places of pairs
    terms: Buffer,    // (P, 8)
    sums: Buffer,     // (micro-batches, 8)
    report: Readback,
    /// Whose each term of each recorded micro-batch is.
    owners: Vec<Vec<usize>>,
    total: Report,
}

/// What the host learns of a step.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Sums over the tokens: the loss. Over the pairs: loss, how many are right, margin.
    pub sums: [f64; 3],
    /// How many tokens or pairs.
    pub count: f64,
    /// The first log-probability or score that is not finite, with its owner.
    pub bad: Option<(usize, f32)>,
    /// The gradient's norm; 0 where none was asked for.
    pub norm: f32,
}

impl Losses {
    /// Room for micro-batches of up to `readouts` readouts.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(gpu: &Gpu, readouts: usize) -> Result<Self> {
        let alloc = |what: &str, elements: usize| gpu.alloc(&format!("step/{what}"), 4 * elements as u64);
        Ok(Self {
            gpu: gpu.clone(),
            operands: alloc("operands", readouts)?,
            terms: alloc("terms", readouts * TERMS)?,
            sums: alloc("sums", BATCHES * TERMS)?,
            report: Readback::new(gpu, "step/report", 4 * (BATCHES * TERMS + 1) as u64)?,
            owners: Vec::new(),
            total: Report::default(),
        })
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Writes what the loss needs of a micro-batch from the host, before its passes are recorded: the weight of each token
    /// (P) f32, or the places of the two scores of each pair (N, 2) u32. `owners` says whose each of them is.
    ///
    /// # Errors
    /// A GPU error.
    pub fn load<T: bytemuck::Pod>(
        &mut self,
        rec: &mut Recorder,
        operands: &[T],
        owners: Vec<usize>,
    ) -> Result<()> {
        if self.owners.len() == BATCHES {
            self.drain(rec, None)?;
        }
        rec.write(&self.operands, 0, operands)?;
        self.owners.push(owners);
        Ok(())
    }

    /// Records the loss `scale` · Σ −weight · logp of the tokens that were loaded and run forward.
    ///
    /// # Errors
    /// A GPU error.
    pub fn tokens(&mut self, rec: &mut Recorder, ws: &Workspace, scale: f32) -> Result<()> {
        let count = self.owners.last().map_or(0, Vec::len);
        let given = (ws.log_probs(), &self.operands);
        token_loss(rec, given, (ws.coefficients(), &self.terms), (count, scale))?;
        self.add(rec, ws, count)
    }

    /// Records the loss `scale` · Σ −log σ(margin) of the pairs that were loaded and run forward.
    ///
    /// # Errors
    /// A GPU error.
    pub fn pairs(&mut self, rec: &mut Recorder, ws: &Workspace, scale: f32) -> Result<()> {
        let count = self.owners.last().map_or(0, Vec::len);
        pair_loss(rec, (&self.operands, ws.scores(), &self.terms), (count, scale))?;
        self.add(rec, ws, count)
    }

    /// Records the sums of the last micro-batch. The entropies are not read.
    fn add(&self, rec: &mut Recorder, ws: &Workspace, count: usize) -> Result<()> {
        let row = self.owners.len().saturating_sub(1);
        policy_loss_sums(rec, &self.terms, ws.entropy(), &self.sums, row, 0..count)
    }

    /// Waits for the micro-batches since the last call and says what came of them, with the `norm` that an optimiser's
    /// step left.
    ///
    /// # Errors
    /// A GPU error.
    pub fn read(&mut self, norm: Option<&Buffer>) -> Result<Report> {
        let mut rec = Recorder::new(&self.gpu);
        self.drain(&mut rec, norm)?;
        Ok(std::mem::take(&mut self.total))
    }

    /// Adds the recorded micro-batches to the total.
    fn drain(&mut self, rec: &mut Recorder, norm: Option<&Buffer>) -> Result<()> {
        let owners = std::mem::take(&mut self.owners);
        let words = owners.len() * TERMS;
        rec.read_back(&self.sums, 0, &self.report, 0, 4 * words as u64);
        if let Some(norm) = norm {
            rec.read_back(norm, 0, &self.report, 4 * words as u64, 4);
        }
        let point = rec.submitted()?;
        let read: Vec<f32> = self.report.read(&point, words + norm.map_or(0, |_| 1))?;
        let (rows, norm) = read.split_at(words);
        let total = &mut self.total;
        total.norm = norm.first().copied().unwrap_or_default();
        for (row, owners) in rows.chunks_exact(TERMS).zip(owners) {
            let v = |i: usize| f64::from(row[i]);
            (0..3).for_each(|i| total.sums[i] += v(i));
            total.count += v(7);
            // The sixth is how far the first bad term is from the last.
            if row[5] > 0.0 && total.bad.is_none() {
                let owner = owners.get(owners.len().saturating_sub(row[5] as usize));
                total.bad = owner.map(|owner| (*owner, row[4]));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::config::{Optim, Schedule};
    use crate::gpu::GpuOptions;
    use crate::model::init::random_model;
    use crate::model::run::{Group, each_packed};
    use crate::model::shapes::Named;
    use crate::model::spec::ModelSpec;
    use crate::model::workspace::Shape;
    use crate::optim::{Optimizer, Settings};
    use crate::tensor::DType;

    fn open() -> (Gpu, ModelSpec) {
        let gpu = Gpu::open(&GpuOptions {
            device: std::env::var("TEA_DEVICE").ok(),
            ..Default::default()
        });
        let spec = ModelSpec {
            num_layers: 1,
            hidden_size: 16,
            intermediate_size: 24,
            num_heads: 2,
            num_kv_heads: 2,
            head_dim: 8,
            vocab_size: 61,
            ..Named::find("smollm2-135m").unwrap().spec()
        };
        (gpu.unwrap(), spec)
    }

    fn workspace(gpu: &Gpu, spec: &ModelSpec) -> Workspace {
        let shape = Shape {
            rows: 12,
            readouts: 8,
            rank: 0,
            backward: true,
            kept_blocks: 1,
            half: false,
            vocabulary_head: true,
        };
        Workspace::new(gpu, spec, shape).unwrap()
    }

    #[test]
    fn any_number_of_micro_batches_adds_up_and_the_first_bad_one_is_named() {
        let (gpu, spec) = open();
        let ws = workspace(&gpu, &spec);
        let mut losses = Losses::new(&gpu, 8).unwrap();
        let mut rec = Recorder::new(&gpu);
        // Twice the micro-batches that are read at once, and one.
        let n = 2 * BATCHES + 1;
        let (mut loss, mut tokens) = (0.0, 0);
        let waits = gpu.host_waits();
        for i in 0..n {
            let count = 1 + i % 5;
            let logp: Vec<f32> = (0..count).map(|j| -((i * 3 + j) as f32) / 16.0).collect();
            let weights: Vec<f32> = (0..count).map(|j| 0.5 + j as f32).collect();
            loss -= logp
                .iter()
                .zip(&weights)
                .map(|(l, w)| f64::from(l * w))
                .sum::<f64>();
            tokens += count;
            losses.load(&mut rec, &weights, vec![i; count]).unwrap();
            rec.write(ws.log_probs(), 0, &logp).unwrap();
            losses.tokens(&mut rec, &ws, 0.25).unwrap();
        }
        rec.submit().unwrap();
        let report = losses.read(None).unwrap();
        assert_eq!(gpu.host_waits() - waits, 3);
        assert!(
            (report.sums[0] - loss).abs() < 1e-6 * loss.abs(),
            "{report:?}, not {loss}"
        );
        assert_eq!((report.count, report.bad), (tokens as f64, None));
        // Nothing of it is left.
        for (i, bad) in [(0, None), (1, Some(3)), (2, Some(0))] {
            let mut logp = [-1.0f32; 5];
            if let Some(at) = bad {
                logp[at] = f32::NEG_INFINITY;
            }
            let owners = (0..5).map(|token| 10 * i + token).collect();
            losses.load(&mut rec, &[1.0f32; 5], owners).unwrap();
            rec.write(ws.log_probs(), 0, &logp).unwrap();
            losses.tokens(&mut rec, &ws, 1.0).unwrap();
        }
        rec.submit().unwrap();
        let report = losses.read(None).unwrap();
        assert_eq!(report.count, 15.0);
        assert_eq!(report.bad, Some((13, f32::NEG_INFINITY)));
    }

    /// A token of probability 0 has an infinite loss and, but for the coefficient, a finite gradient.
    #[test]
    fn a_loss_that_is_not_finite_leaves_weights_and_moments_alone() {
        let (gpu, spec) = open();
        let mut model = random_model(&gpu, &spec, DType::F32, 16, 5).unwrap();
        model.train_base().unwrap();
        let ws = workspace(&gpu, &spec);
        let settings = Settings {
            optim: Optim::Adamw,
            learning_rate: 0.1,
            warmup_steps: 0,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            schedule: Schedule::Constant,
            total_steps: 9,
        };
        let mut optimizer = Optimizer::new(&gpu, model.trainable(), settings).unwrap();
        let mut losses = Losses::new(&gpu, 8).unwrap();
        let group = Group {
            prefix: &[1, 2, 3],
            suffixes: vec![&[4, 5, 6, 7]],
        };
        let mut step = |bad: Option<usize>| {
            let mut rec = Recorder::new(&gpu);
            optimizer.begin(&mut rec);
            rec.submit().unwrap();
            let groups = [group.clone()];
            each_packed(&model, &ws, &groups, true, &mut |rec, packed| {
                losses.load(rec, &[1.0f32; 4], vec![9; 4])?;
                packed.forward(rec, true)?;
                if let Some(at) = bad {
                    rec.write(ws.log_probs(), 4 * at as u64, &[f32::NEG_INFINITY])?;
                }
                losses.tokens(rec, &ws, 0.25)?;
                packed.backward(rec)
            })
            .unwrap();
            optimizer.record(&mut rec).unwrap();
            rec.submit().unwrap();
            let report = losses.read(Some(optimizer.norm())).unwrap();
            let weights: Vec<Vec<f32>> = model
                .trainable()
                .iter()
                .map(|t| t.value.read_f32(&gpu).unwrap())
                .collect();
            (report, weights, optimizer.read(&gpu).unwrap())
        };
        let (report, weights, moments) = step(None);
        assert!(report.norm > 0.0 && report.bad.is_none());
        let (report, same_weights, same_moments) = step(Some(2));
        assert!(!report.norm.is_finite());
        assert_eq!(report.bad, Some((9, f32::NEG_INFINITY)));
        assert!(weights == same_weights && moments == same_moments);
        let (report, other, _) = step(None);
        assert!(report.norm.is_finite() && other != weights);
    }
}
