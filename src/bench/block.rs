//! `bench train --block`: one transformer block with the gradients of all its weights.

use super::output::Row;
use super::policy::{Policy, at_least_one};
use super::timing::{Clock, median};
use crate::error::Result;
use crate::model::run;
use crate::model::workspace::{Shape, Workspace};
use std::time::Instant;

/// Times forward and backward of one block ([`Policy::block`]) over `sequences` of `length` tokens, gradients of every
/// weight included. Norm, embedding and a head of one output stand around it; they are less than 1% of the work.
///
/// # Errors
/// Out of memory or a GPU error.
pub fn run(policy: &Policy, sequences: usize, length: usize, repetitions: usize) -> Result<Vec<Row>> {
    at_least_one(&[("--batch", sequences), ("--max-completion-length", length)])?;
    let model = &policy.model;
    let shape = Shape {
        rows: sequences * length,
        readouts: sequences,
        rank: 0,
        backward: true,
        kept_blocks: usize::MAX,
        half: false,
        vocabulary_head: false,
    };
    let ws = Workspace::new(&model.gpu, &model.spec, shape)?;
    let tokens = policy.tokens(sequences, length);
    let slices: Vec<&[u32]> = tokens.iter().map(Vec::as_slice).collect();
    let once = || -> Result<f64> {
        let begun = Instant::now();
        run::each_scored(model, &ws, &slices, &mut |rec, packed| {
            packed.forward(rec, true)?;
            rec.write(ws.scores(), 0, &vec![[1.0f32, 0.0, 0.0, 0.0]; packed.loaded.p])?;
            packed.backward(rec)
        })?;
        model.gpu.wait()?;
        Ok(begun.elapsed().as_secs_f64())
    };
    once()?;
    let samples = (0..repetitions.max(1))
        .map(|_| once())
        .collect::<Result<Vec<f64>>>()?;
    let seconds = median(&samples);
    let row = Row {
        clock: Some(Clock::Wall),
        ..Row::of(samples, false)
    };
    let test = format!("block forward+backward {sequences}×{length}");
    let row = policy.row(test, "every weight", "s", row);
    let mut rows = vec![row.with("tok/s", (sequences * length) as f64 / seconds)];
    rows.extend(policy.memory_rows());
    Ok(rows)
}
