//! Reward-model training: Bradley-Terry on pairs of answers (L = −log σ(score(chosen) − score(rejected))).

use super::examples::{Examples, Pair};
use super::losses::Losses;
use super::run::RunOptions;
use super::supervised::{self, About, Job, Outcome, Task};
use crate::config::SupervisedConfig;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Recorder};
use crate::kernels::linear::{self, Write};
use crate::model::forward::Pass;
use crate::model::load::Source;
use crate::model::params::Model;
use crate::model::run;
use crate::model::workspace::{Loaded, Workspace};

/// What both ways to train say of themselves.
const ABOUT: About = About {
    kind: "reward",
    value: "the score of an answer",
    means: &["loss", "accuracy", "margin"],
    count: None,
};

struct Preference<'a> {
    model: &'a Model,
    ws: Workspace,
    examples: &'a Examples<Pair>,
}

/// Splits pairs into runs as long as `fits` says, of one pair at least.
fn chunks(pairs: &[usize], fits: impl Fn(&[usize]) -> bool) -> Vec<&[usize]> {
    let (mut out, mut from) = (Vec::new(), 0);
    for at in 1..=pairs.len() {
        if at == pairs.len() || !fits(&pairs[from..=at]) {
            out.push(&pairs[from..at]);
            from = at;
        }
    }
    out
}

impl Preference<'_> {
    /// Chosen and rejected of each pair, in turn.
    fn sequences(&self, pairs: &[usize]) -> Vec<&[u32]> {
        let all = self.examples;
        pairs.iter().flat_map(|i| all.get(*i).sequences()).collect()
    }

    /// Whether one micro-batch holds these pairs: a pair's loss takes both of its scores.
    fn fits(&self, pairs: &[usize]) -> bool {
        let shape = self.ws.shape;
        2 * pairs.len() <= shape.readouts
            && run::scored_rows(&self.sequences(pairs), shape.rows) <= shape.rows
    }
}

impl Task for Preference<'_> {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn record(&mut self, losses: &mut Losses, pairs: &[usize], backward: bool) -> Result<()> {
        let (model, ws) = (self.model, &self.ws);
        // The loss is the mean over the pairs.
        let scale = 1.0 / pairs.len() as f32;
        for chunk in chunks(pairs, |chunk| self.fits(chunk)) {
            let sequences = self.sequences(chunk);
            run::each_scored(model, ws, &sequences, &mut |rec, packed| {
                if packed.owners.len() != sequences.len() {
                    return Err(Error::internal("a pair was split over two micro-batches"));
                }
                let places: Vec<[u32; 2]> = packed
                    .batch
                    .sequences
                    .chunks(2)
                    .map(|pair| [pair[0][0] as u32, pair[1][0] as u32])
                    .collect();
                losses.load(rec, &places, chunk.to_vec())?;
                packed.forward(rec, backward)?;
                losses.pairs(rec, ws, scale)?;
                if backward { packed.backward(rec) } else { Ok(()) }
            })?;
        }
        Ok(())
    }
}

/// Training of the head alone: the backbone's states are computed once, and a step is a small matrix product.
struct HeadOnly<'a> {
    model: &'a Model,
    ws: Workspace,
    /// Hidden states of chosen and rejected, in the order of the examples (2·pairs, C).
    states: Vec<f32>,
}

impl Task for HeadOnly<'_> {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn record(&mut self, losses: &mut Losses, pairs: &[usize], backward: bool) -> Result<()> {
        let (model, ws) = (self.model, &self.ws);
        let pass = Pass {
            model,
            ws,
            adapter: true,
        };
        let (both, scale) = (2 * model.spec.hidden_size, 1.0 / pairs.len() as f32);
        let mut rec = Recorder::new(&model.gpu);
        for chunk in pairs.chunks((ws.shape.readouts / 2).max(1)) {
            let states: Vec<f32> = chunk
                .iter()
                .flat_map(|i| &self.states[both * i..both * (i + 1)])
                .copied()
                .collect();
            let places: Vec<[u32; 2]> = (0..chunk.len() as u32).map(|i| [2 * i, 2 * i + 1]).collect();
            losses.load(&mut rec, &places, chunk.to_vec())?;
            rec.write(ws.hidden(), 0, &states)?;
            let loaded = Loaded::whole(0, 2 * chunk.len());
            pass.scores(&mut rec, &loaded)?;
            losses.pairs(&mut rec, ws, scale)?;
            if let Some(dw) = model.head_param().grad.as_ref().filter(|_| backward) {
                linear::weight_gradient(&mut rec, ws.scores(), ws.hidden(), dw, loaded.p, Write::ADD)?;
            }
        }
        rec.submit()
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
    if !job.config.head_only {
        let mut task = Preference {
            model: &model,
            ws,
            examples: &job.data,
        };
        return supervised::run(&job, options, &model, &mut task);
    }
    let states = hidden_states(&model, &ws, &job.data)?;
    let mut task = HeadOnly {
        model: &model,
        ws,
        states,
    };
    supervised::run(&job, options, &model, &mut task)
}

/// The states that the scores of every example are read from (2·pairs, C).
fn hidden_states(model: &Model, ws: &Workspace, examples: &Examples<Pair>) -> Result<Vec<f32>> {
    let all = examples.train.iter().chain(&examples.held_out);
    let sequences: Vec<&[u32]> = all.flat_map(Pair::sequences).collect();
    let c = model.spec.hidden_size;
    let mut out = Vec::with_capacity(sequences.len() * c);
    let mut progress = crate::report::Progress::new("backbone", 0, sequences.len() as u64);
    run::each_scored(model, ws, &sequences, &mut |rec, packed| {
        packed.forward(rec, false)?;
        rec.submit()?;
        let states: Vec<f32> = model.gpu.read(ws.hidden(), 0, packed.loaded.p * c)?;
        run::all_finite(&states, "a hidden state")?;
        for sequence in &packed.batch.sequences {
            out.extend_from_slice(&states[sequence[0] * c..(sequence[0] + 1) * c]);
        }
        progress.step((out.len() / c) as u64, &[]);
        Ok(())
    })?;
    progress.finish();
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_stay_together_and_fill_micro_batches() {
        let cost = |chunk: &[usize]| chunk.iter().map(|i| [3, 4, 5, 9, 1][*i]).sum::<usize>();
        let all = [0, 1, 2, 3, 4, 0];
        let parts = [&all[..2], &all[2..3], &all[3..4], &all[4..]];
        assert_eq!(chunks(&all, |chunk| cost(chunk) <= 7), parts);
        assert_eq!(chunks(&all, |_| true), [&all[..]]);
        assert!(chunks(&[], |_| true).is_empty());
    }
}
