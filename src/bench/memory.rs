//! The measured peak of a step beside its plan and beside the shape formula of `docs/memory.md`.

use super::output::Row;
use super::policy::Policy;
use crate::config::Optim;
use crate::error::{Error, Result};
use crate::model::floor;
use crate::model::params::Model;
use crate::model::plan::Plan;
use crate::model::workspace::Shape;
use crate::rollout::SamplerShape;
use crate::tensor::DType;
use std::collections::BTreeMap;

/// What a step holds beside policy, adapter, gradients and optimiser.
pub(super) struct Held<'a> {
    /// Forward and backward passes.
    pub(super) training: Shape,
    /// The optimiser.
    pub(super) optim: Optim,
    /// Sampling, with the tokens of a prompt and of a response and the responses a prompt.
    pub(super) sampling: Option<(SamplerShape, [usize; 3])>,
    /// The reward model and its passes.
    pub(super) reward: Option<(&'a Policy, Shape)>,
}

/// The least that a step can do with.
///
/// # Errors
/// A model that does not hold what its specification lists (a bug).
pub(super) fn least(policy: &Policy, held: &Held<'_>) -> Result<Plan> {
    let (model, spec) = (&policy.model, &policy.model.spec);
    let mut least = Plan::default();
    least.add("weights", weights(model)?);
    if let Some(lora) = &model.lora {
        least.extend("", &floor::adapter(spec, lora, held.optim));
    }
    least.extend("", &floor::training(spec, held.training));
    if let Some((shape, [prompt, response, m])) = &held.sampling {
        let rows = shape.sequences.div_ceil(*m) * prompt + shape.sequences * (response - 1);
        least.add("kv cache", floor::kv_cache(spec, rows, shape.kv_cache_dtype));
    }
    if let Some((reward, shape)) = &held.reward {
        least.add("weights", weights(&reward.model)?);
        least.add("activations", floor::forward(&reward.model.spec, shape.rows));
    }
    Ok(least)
}

/// The least for a loaded model's weights.
fn weights(model: &Model) -> Result<u64> {
    let tensors = model.base_tensors();
    let types: BTreeMap<String, DType> = tensors.into_iter().map(|(t, w)| (t.name, w.dtype)).collect();
    floor::weights(&model.spec, |t| {
        let found = types.get(&t.name).copied();
        found.ok_or_else(|| Error::internal(format!("{} is not loaded", t.name)))
    })
}

/// The rows of [`Policy::memory_rows`], with the formula beside every owner it knows, and the peak's ratios to plan and
/// formula.
pub(super) fn rows(policy: &Policy, plan: &Plan, least: &Plan) -> Vec<Row> {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let peak = policy.model.gpu.memory().peak;
    let mut rows = policy.memory_rows();
    for row in rows.iter_mut().filter(|r| r.test == "peak on the device") {
        let bytes = match row.variant.as_str() {
            "all" => least.total(),
            owner => least.bytes(owner),
        };
        if bytes > 0 {
            *row = row.clone().with("formula MiB", mib(bytes));
        }
    }
    let ratio = |test: &str, of: &Plan| {
        let row = Row::of(vec![peak as f64 / of.total() as f64], false);
        policy.row(test.into(), "", "", row)
    };
    rows.push(ratio("peak over plan", plan));
    rows.push(ratio("peak over formula", least));
    rows
}
