//! What is measured end to end: a model with an adapter, made-up prompts, and the process's own memory.

use super::output::Row;
use crate::config::range;
use crate::error::{Context, Error, Result};
use crate::gpu::Gpu;
use crate::model::init::random_model;
use crate::model::load::Source;
use crate::model::params::{LoraShape, Model};
use crate::model::pieces::Summand;
use crate::model::shapes::{Named, RANDOM};
use crate::model::spec::{Head, ModelSpec, Proj};
use crate::rng::{Stream, seed_for};
use crate::tensor::DType;
use rand::RngExt;

/// The random stream of prompts.
const PROMPTS: u32 = 0xbe7c;

/// Which model, and how it is loaded.
#[derive(Debug, Clone)]
pub struct PolicySettings {
    /// What `--model` takes elsewhere, or "random:" and a shape.
    pub model: String,
    /// Element type of the matrices: `None` keeps what is stored (f32 for random weights).
    pub dtype: Option<DType>,
    /// Rank of a fresh adapter on every linear layer; 0 for none.
    pub lora_rank: usize,
    /// Seed of weights, adapter, prompts and samples.
    pub seed: u64,
}

/// A model on the device.
pub struct Policy {
    /// The name in reports.
    pub name: String,
    /// The element type in reports.
    pub dtype: String,
    /// The model.
    pub model: Model,
    seed: u64,
}

impl Policy {
    /// Loads a language model, its adapter trainable (or, with `score`, a reward model without one) for sequences of up to
    /// `positions` tokens.
    ///
    /// # Errors
    /// An unknown model, a type weights are not converted to, or out of memory.
    pub fn open(gpu: &Gpu, s: &PolicySettings, positions: usize, score: bool) -> Result<Self> {
        let (name, mut model) = match s.model.strip_prefix(RANDOM) {
            Some(shape) => {
                let named = Named::find(shape).context("--model")?;
                let head = if score { Head::Score } else { Head::CausalLm };
                let spec = named.spec().with_head(head);
                let dtype = s.dtype.unwrap_or(DType::F32);
                (
                    format!("{RANDOM}{}", named.name),
                    random_model(gpu, &spec, dtype, positions, s.seed)?,
                )
            }
            None if score => {
                let source = Source::open_with_score(&s.model)?;
                let model = source.load_reward(gpu, source.dtype(s.dtype)?, positions, None, false)?;
                (last_part(&s.model), model)
            }
            None => {
                let source = Source::open_causal(&s.model)?;
                let model = source.load(gpu, source.dtype(s.dtype)?, source.positions(positions)?, None)?;
                (last_part(&s.model), model)
            }
        };
        if s.lora_rank > 0 && !score {
            let shape = LoraShape {
                rank: s.lora_rank,
                alpha: 2.0 * s.lora_rank as f64,
                targets: Proj::ALL.to_vec(),
            };
            model.new_adapter(&shape, s.seed, true)?;
        }
        let dtype = model.blocks[0].linear(Proj::Q).weight.value.dtype;
        Ok(Self {
            name,
            dtype: dtype.name().into(),
            model,
            seed: s.seed,
        })
    }

    /// One block of a shape with every weight trainable, between a small embedding and a head with one output: what
    /// a framework's transformer block is compared with.
    ///
    /// # Errors
    /// Not "random:" and a shape, or out of memory.
    pub fn block(gpu: &Gpu, s: &PolicySettings, positions: usize) -> Result<Self> {
        let shape = s.model.strip_prefix(RANDOM).ok_or_else(|| {
            Error::user(format!(
                "--block takes a shape, as in --model {RANDOM}smollm2-135m"
            ))
        })?;
        let named = Named::find(shape).context("--model")?;
        let spec = ModelSpec {
            num_layers: 1,
            vocab_size: 1024,
            ..named.spec().with_head(Head::Score)
        };
        let mut model = random_model(gpu, &spec, DType::F32, positions, s.seed)?;
        model.train_base()?;
        Ok(Self {
            name: named.name.into(),
            dtype: DType::F32.name().into(),
            model,
            seed: s.seed,
        })
    }

    /// With the gradient buffers of steps of so many prompts.
    ///
    /// # Errors
    /// Out of memory.
    pub fn for_steps_of(mut self, prompts: usize) -> Result<Self> {
        self.model.add_gradient_slots(Summand::extra_slots(prompts))?;
        Ok(self)
    }

    /// As this one, on a device that only counts.
    ///
    /// # Errors
    /// As [`Model::outline`].
    pub(super) fn counted(&self, gpu: &Gpu) -> Result<Self> {
        let mut model = self.model.outline(gpu)?;
        if let Some(shape) = &self.model.lora {
            model.new_adapter(shape, self.seed, true)?;
            model.add_gradient_slots(self.model.gradient_slots())?;
        }
        Ok(Self {
            name: self.name.clone(),
            dtype: self.dtype.clone(),
            model,
            seed: self.seed,
        })
    }

    /// `count` made-up sequences of `length` tokens, the same for the same seed.
    pub fn tokens(&self, count: usize, length: usize) -> Vec<Vec<u32>> {
        let vocab = self.model.spec.vocab_size as u32;
        (0..count as u64)
            .map(|i| {
                let mut stream = Stream::new(seed_for(self.seed, 0, i, 0), PROMPTS);
                (0..length).map(|_| stream.random_range(0..vocab)).collect()
            })
            .collect()
    }

    /// A row of this model.
    pub fn row(&self, test: String, variant: &str, unit: &str, row: Row) -> Row {
        Row {
            model: self.name.clone(),
            dtype: self.dtype.clone(),
            test,
            variant: variant.into(),
            unit: unit.into(),
            ..row
        }
    }

    /// The rank of the adapter; 0 for none.
    pub fn rank(&self) -> usize {
        self.model.lora.as_ref().map_or(0, |l| l.rank)
    }

    /// Rows for the device's peak by owner and the process's memory, in MiB.
    pub fn memory_rows(&self) -> Vec<Row> {
        let mib = |bytes: u64| Row::of(vec![bytes as f64 / f64::from(1 << 20)], false);
        let memory = self.model.gpu.memory();
        let mut rows = vec![self.row("peak on the device".into(), "all", "MiB", mib(memory.peak))];
        let mut owners: Vec<(&String, &u64)> =
            memory.by_owner_at_peak.iter().filter(|(_, b)| **b > 0).collect();
        owners.sort_by_key(|(_, bytes)| std::cmp::Reverse(**bytes));
        rows.extend(
            owners
                .into_iter()
                .map(|(owner, bytes)| self.row("peak on the device".into(), owner, "MiB", mib(*bytes))),
        );
        if let Some(bytes) = resident() {
            rows.push(self.row("process, peak resident".into(), "", "MiB", mib(bytes)));
        }
        rows
    }
}

/// The last component of a path or hub id.
fn last_part(name: &str) -> String {
    let trimmed = name.trim_end_matches(['/', '\\']);
    trimmed.rsplit(['/', '\\']).next().unwrap_or(trimmed).to_string()
}

/// The most memory this process had resident, in bytes, where the system says (Linux).
fn resident() -> Option<u64> {
    high_water(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// `VmHWM` of Linux's status file, in bytes.
fn high_water(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().split(' ').next()?.parse().ok()?;
    Some(kib * 1024)
}

/// Refuses sizes of zero.
///
/// # Errors
/// A user error that names the flag.
pub fn at_least_one(flags: &[(&str, usize)]) -> Result<()> {
    match flags.iter().find(|(_, n)| *n == 0) {
        Some((flag, _)) => Err(Error::user(format!("{flag} must be at least 1"))),
        None => Ok(()),
    }
}

/// Refuses more made-up tokens than memory should hold: the product of `counts` sequences, each of `length`. All come
/// with their flags.
///
/// # Errors
/// A user error with the flags and numbers.
pub fn check_tokens(counts: &[(&'static str, usize)], length: (&'static str, usize)) -> Result<()> {
    let wide = |(flag, n): &(&'static str, usize)| (*flag, *n as u64);
    let mut all: Vec<_> = counts.iter().map(wide).collect();
    range::check_product(&all, range::RESPONSES, "responses")?;
    all.push(wide(&length));
    range::check_product(&all, range::TOKENS_HELD, "tokens")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn memory_is_read_from_the_status_file() {
        let text = "Name:\tx\nVmPeak:\t  999 kB\nVmHWM:\t   12345 kB\nVmRSS:\t 1 kB\n";
        assert_eq!(high_water(text), Some(12345 * 1024));
        assert_eq!(high_water("Name:\tx\n"), None);
        assert!(resident().is_none_or(|b| b > 1 << 20));
    }

    #[test]
    fn names_are_short() {
        assert_eq!(last_part("a/b/model.gguf"), "model.gguf");
        assert_eq!(last_part("models/tiny/"), "tiny");
        assert!(
            at_least_one(&[("--batch", 1), ("--x", 0)])
                .unwrap_err()
                .to_string()
                .contains("--x")
        );
    }
}
