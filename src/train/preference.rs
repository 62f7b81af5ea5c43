//! Reward-model training: Bradley-Terry on pairs of answers (L = −log σ(score(chosen) − score(rejected))).

use super::examples::{Example, Pair};
use super::loss::bradley_terry;
use super::run::RunOptions;
use super::supervised::{self, Job, Outcome, Task};
use crate::config::SupervisedConfig;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Recorder};
use crate::kernels::linear::{self, Write};
use crate::model::load::Source;
use crate::model::params::Model;
use crate::model::run;
use crate::model::workspace::Workspace;
use serde_json::{Map, Value, json};

struct Preference<'a> {
    model: &'a Model,
    ws: Workspace,
    train: &'a [Pair],
    held_out: &'a [Pair],
}

/// Means over pairs.
#[derive(Default)]
struct Sums {
    loss: f64,
    right: f64,
    margin: f64,
    pairs: usize,
}

impl Sums {
    /// Adds a pair and returns the loss's slope in the margin.
    fn add(&mut self, margin: f64) -> f64 {
        let (loss, slope) = bradley_terry(margin);
        self.loss += loss;
        // A tie is half right, as a coin would be.
        self.right += if margin == 0.0 {
            0.5
        } else {
            f64::from(u8::from(margin > 0.0))
        };
        self.margin += margin;
        self.pairs += 1;
        slope
    }

    fn metrics(&self, prefix: &str) -> Map<String, Value> {
        let n = self.pairs.max(1) as f64;
        [
            ("loss", self.loss / n),
            ("accuracy", self.right / n),
            ("margin", self.margin / n),
        ]
        .into_iter()
        .map(|(name, v)| (format!("{prefix}{name}"), json!(v)))
        .collect()
    }
}

/// Splits pairs into runs that fit one micro-batch, so that both scores of a pair are known before its backward pass.
fn chunks<'p>(pairs: &[&'p Pair], rows: usize) -> Vec<Vec<&'p Pair>> {
    let mut out: Vec<Vec<&Pair>> = Vec::new();
    let mut used = usize::MAX;
    for pair in pairs {
        let cost = pair.rows();
        if used.saturating_add(cost) > rows {
            out.push(Vec::new());
            used = 0;
        }
        used += cost;
        if let Some(last) = out.last_mut() {
            last.push(pair);
        }
    }
    out
}

impl Preference<'_> {
    fn gradients_of(&self, pairs: &[&Pair]) -> Result<Sums> {
        let mut sums = Sums::default();
        for chunk in chunks(pairs, self.ws.shape.rows) {
            let sequences: Vec<&[u32]> = chunk.iter().copied().flat_map(Pair::sequences).collect();
            run::each_scored(self.model, &self.ws, &sequences, &mut |rec, s| {
                if s.range != (0..sequences.len()) {
                    return Err(Error::internal("a pair was split over two micro-batches"));
                }
                let all = s.pass.read_scores(s.loaded)?;
                run::all_finite(&all, "the score of an answer")?;
                let mut dscore = vec![0.0f32; all.len()];
                for pair in s.batch.sequences.chunks(2) {
                    let (chosen, rejected) = (pair[0][0], pair[1][0]);
                    let slope =
                        sums.add(f64::from(all[chosen]) - f64::from(all[rejected])) / pairs.len() as f64;
                    dscore[chosen] = slope as f32;
                    dscore[rejected] = -slope as f32;
                }
                s.pass.backward_scores(rec, s.loaded, &dscore, &s.batch.tokens)
            })?;
        }
        Ok(sums)
    }
}

impl Task for Preference<'_> {
    fn kind(&self) -> &'static str {
        "reward"
    }

    fn len(&self) -> usize {
        self.train.len()
    }

    fn held_out(&self) -> usize {
        self.held_out.len()
    }

    fn gradients(&mut self, examples: &[usize]) -> Result<Map<String, Value>> {
        let pairs: Vec<&Pair> = examples.iter().map(|i| &self.train[*i]).collect();
        Ok(self.gradients_of(&pairs)?.metrics(""))
    }

    fn evaluate(&mut self) -> Result<Map<String, Value>> {
        let sequences: Vec<&[u32]> = self.held_out.iter().flat_map(Pair::sequences).collect();
        let scores = run::scores(self.model, &self.ws, &sequences)?;
        run::all_finite(&scores, "the score of an answer")?;
        let mut sums = Sums::default();
        for pair in scores.chunks(2) {
            sums.add(f64::from(pair[0]) - f64::from(pair[1]));
        }
        Ok(sums.metrics("eval_"))
    }
}

/// Training of the head alone: the backbone's states are computed once, and a step is a small matrix product.
struct HeadOnly<'a> {
    model: &'a Model,
    /// Hidden states of chosen and rejected, training pairs then held-out ones (2·pairs, C).
    states: Vec<f32>,
    train: usize,
    held_out: usize,
}

impl HeadOnly<'_> {
    fn scores(&self, weights: &[f32], pair: usize) -> f64 {
        let c = weights.len();
        let at = |i: usize| &self.states[(2 * pair + i) * c..(2 * pair + i + 1) * c];
        let (chosen, rejected) = (at(0), at(1));
        (0..c)
            .map(|i| f64::from(weights[i]) * (f64::from(chosen[i]) - f64::from(rejected[i])))
            .sum()
    }

    fn weights(&self) -> Result<Vec<f32>> {
        self.model.head_param().value.read_f32(&self.model.gpu)
    }
}

impl Task for HeadOnly<'_> {
    fn kind(&self) -> &'static str {
        "reward"
    }

    fn len(&self) -> usize {
        self.train
    }

    fn held_out(&self) -> usize {
        self.held_out
    }

    fn gradients(&mut self, examples: &[usize]) -> Result<Map<String, Value>> {
        let weights = self.weights()?;
        let (c, gpu) = (weights.len(), &self.model.gpu);
        let mut sums = Sums::default();
        let (mut dscore, mut states) = (Vec::new(), Vec::new());
        for pair in examples {
            let slope = (sums.add(self.scores(&weights, *pair)) / examples.len() as f64) as f32;
            dscore.extend([[slope, 0.0, 0.0, 0.0], [-slope, 0.0, 0.0, 0.0]]);
            states.extend_from_slice(&self.states[2 * pair * c..2 * (pair + 1) * c]);
        }
        let (dscore, states) = (
            gpu.upload("head only", &dscore)?,
            gpu.upload("head only", &states)?,
        );
        if let Some(dw) = &self.model.head_param().grad {
            let mut rec = Recorder::new(gpu);
            linear::weight_gradient(&mut rec, &dscore, &states, dw, 2 * examples.len(), Write::ADD)?;
            rec.submit()?;
        }
        Ok(sums.metrics(""))
    }

    fn evaluate(&mut self) -> Result<Map<String, Value>> {
        let weights = self.weights()?;
        let mut sums = Sums::default();
        for pair in self.train..self.train + self.held_out {
            sums.add(self.scores(&weights, pair));
        }
        Ok(sums.metrics("eval_"))
    }
}

/// The refusal of `--train-on`.
pub fn no_turns() -> Error {
    Error::user(
        "--train-on chooses the turns that `sft` learns; `reward` compares two whole answers: leave it out",
    )
}

/// Trains a reward model on `{"prompt", "chosen", "rejected"}` JSONL.
///
/// # Errors
/// Bad data or settings, a run that does not fit in memory, a failing device or disk.
pub fn train(gpu: &Gpu, config: SupervisedConfig, options: &RunOptions) -> Result<Outcome> {
    // A resumed `sft` run has it too, and is refused as such.
    if config.train_on.is_some() && !options.resume {
        return Err(no_turns());
    }
    let source = Source::open_with_score(&config.model)?;
    let mut job = Job::<Pair>::open(config, source, options)?;
    job.fit(gpu)?;
    let model = job.load(gpu)?;
    let ws = Workspace::new(gpu, &model.spec, job.shape()?)?;
    let (train, held_out) = (&job.data.train[..], &job.data.held_out[..]);
    if !job.config.head_only {
        let mut task = Preference {
            model: &model,
            ws,
            train,
            held_out,
        };
        return supervised::run(&job, options, &model, &mut task);
    }
    let sequences: Vec<&[u32]> = train.iter().chain(held_out).flat_map(Pair::sequences).collect();
    let states = hidden_states(&model, &ws, &sequences)?;
    let mut task = HeadOnly {
        model: &model,
        states,
        train: train.len(),
        held_out: held_out.len(),
    };
    supervised::run(&job, options, &model, &mut task)
}

/// The state each sequence's score is read from (sequences, C).
fn hidden_states(model: &Model, ws: &Workspace, sequences: &[&[u32]]) -> Result<Vec<f32>> {
    let c = model.spec.hidden_size;
    let mut out = Vec::with_capacity(sequences.len() * c);
    let mut progress = crate::report::Progress::new("backbone", 0, sequences.len() as u64);
    run::each_judged(model, ws, sequences, false, &mut |_, s| {
        let states: Vec<f32> = model.gpu.read(ws.hidden(), 0, s.loaded.p * c)?;
        run::all_finite(&states, "a hidden state")?;
        for sequence in &s.batch.sequences {
            out.extend_from_slice(&states[sequence[0] * c..(sequence[0] + 1) * c]);
        }
        progress.step(s.range.end as u64, &[]);
        Ok(())
    })?;
    progress.finish();
    Ok(out)
}
