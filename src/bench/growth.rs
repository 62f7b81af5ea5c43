//! `bench growth`: how time and memory of a step grow with its sizes, beside the laws they should follow.

use super::output::Row;
use super::policy::{Policy, PolicySettings};
use super::train::{self, Settings};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::model::spec::{ModelSpec, Proj};
use crate::tensor::DType;

/// One table: what varies, and the sizes of each row.
#[derive(Debug, Clone)]
pub struct Series {
    /// What varies, as its flag is called.
    pub what: &'static str,
    /// Model and sizes of each row.
    pub rows: Vec<(String, Settings)>,
}

impl Series {
    /// `base` with each of `values` put in by `set`.
    pub fn of(
        what: &'static str,
        model: &str,
        base: &Settings,
        values: &[usize],
        set: impl Fn(&mut Settings, usize),
    ) -> Self {
        let with = |value: &usize| {
            let mut s = base.clone();
            set(&mut s, *value);
            (model.to_string(), s)
        };
        Self {
            what,
            rows: values.iter().map(with).collect(),
        }
    }

    /// `base` for each of `models`.
    pub fn of_models(models: &[String], base: &Settings) -> Self {
        Self {
            what: "--model",
            rows: models.iter().map(|m| (m.clone(), base.clone())).collect(),
        }
    }
}

/// Floating-point operations of a step of [`train::run`] with sampling: two a multiply-add of the linear layers, of the head and of attention's
/// products. Norms, RoPE, softmax and the optimiser, whose work grows with rows or weights alone, are left out.
///
/// W weights of the blocks, A of the adapter, V·C of the head; a prompt is computed once a group:
/// sampling 2(W + A)·(B·P + B·m·(T − 1)) + 2VC·B·m·T; the forward and the reference's pass 2(W + A)·M + 2VC·B·m·T each with M = B(P + m(T − 1)) (the reference
/// without A); the backward pass 2W·M + 4A·M + 4VC·B·m·T, and 2(W + A)·M again where activations are recomputed; attention 4·H·D a pair of query and key forwards, 10·H·D
/// backwards.
pub fn operations(spec: &ModelSpec, rank: usize, s: &Settings) -> f64 {
    let layers = spec.num_layers as f64;
    let sum = |f: &dyn Fn(usize, usize) -> usize| -> f64 {
        let each = Proj::ALL.into_iter().map(|proj| {
            let (out, inputs) = spec.proj_dims(proj);
            f(out, inputs)
        });
        layers * each.sum::<usize>() as f64
    };
    let (w, a) = (sum(&|o, i| o * i), sum(&|o, i| rank * (o + i)));
    let head = (spec.vocab_size * spec.hidden_size) as f64;
    let [b, m, p, t] = [
        s.batch,
        s.num_generations,
        s.prompt_length,
        s.max_completion_length,
    ]
    .map(|n| n as f64);
    let (rows, readouts) = (s.rows() as f64, b * m * t);
    let pairs = layers * b * (p * (p + 1.0) / 2.0 + m * ((t - 1.0) * p + t * (t - 1.0) / 2.0));
    let width = (spec.num_heads * spec.head_dim) as f64;
    let forward = |a: f64| 2.0 * (w + a) * rows + 4.0 * width * pairs;
    let logits = 2.0 * head * readouts;
    let sampling = 2.0 * (w + a) * (b * p + b * m * (t - 1.0)) + 4.0 * width * pairs + logits;
    let reference = if s.reference { forward(0.0) + logits } else { 0.0 };
    // The last block's activations are still there.
    let recomputed = if s.no_checkpointing {
        0.0
    } else {
        forward(a) * (layers - 1.0) / layers
    };
    let backward = 2.0 * w * rows + 4.0 * a * rows + 10.0 * width * pairs + 2.0 * logits;
    sampling + reference + forward(a) + logits + recomputed + backward
}

/// Runs every row of every series, each on a device of its own (`open`), and puts its seconds and its peak bytes beside what the first row and the
/// laws predict: operations for time, the program's plan and the formula of `docs/memory.md` for bytes.
///
/// # Errors
/// An unknown model, sizes of zero, out of memory, or a GPU error.
pub fn run(
    series: &[Series],
    dtype: Option<DType>,
    rank: usize,
    open: &dyn Fn() -> Result<Gpu>,
) -> Result<Vec<Row>> {
    let mut out = Vec::new();
    for series in series {
        let mut first: Option<(f64, f64)> = None;
        for (model, s) in &series.rows {
            let (row, work) = one(series.what, model, s, dtype, rank, open)?;
            let (seconds, base) = *first.get_or_insert((row.value, work));
            let (law, time) = (work / base, row.value / seconds);
            out.push(
                row.with("law ×", law)
                    .with("time ×", time)
                    .with("time/law", time / law),
            );
        }
    }
    Ok(out)
}

/// One step's seconds and memory, and its operations.
fn one(
    what: &str,
    model: &str,
    s: &Settings,
    dtype: Option<DType>,
    rank: usize,
    open: &dyn Fn() -> Result<Gpu>,
) -> Result<(Row, f64)> {
    let gpu = open()?;
    let settings = PolicySettings {
        model: model.into(),
        dtype,
        lora_rank: rank,
        seed: 0,
    };
    let policy = Policy::open(&gpu, &settings, s.positions(false), false)?;
    let work = operations(&policy.model.spec, rank, s);
    let rows = train::run(&policy, s, None, true)?;
    let value = |test: &str| {
        let found = rows.iter().find(|r| r.test.starts_with(test));
        found.ok_or_else(|| Error::internal(format!("a step without {test}")))
    };
    let step = value("step ")?.clone();
    let peak = rows
        .iter()
        .find(|r| r.test == "peak on the device" && r.variant == "all");
    let peak = peak.map_or(0.0, |r| r.value);
    let row = Row {
        variant: format!("varying {what}, {}", step.variant),
        extra: serde_json::Map::new(),
        ..step.clone()
    };
    let row = row
        .with("GFLOP/s", work / step.value / 1e9)
        .with("peak MiB", peak)
        .with("peak/plan", value("peak over plan")?.value)
        .with("peak/formula", value("peak over formula")?.value);
    Ok((row, work))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::gpu::GpuOptions;
    use crate::model::shapes::Named;

    fn base() -> Settings {
        Settings {
            batch: 1,
            num_generations: 2,
            prompt_length: 3,
            max_completion_length: 4,
            repetitions: 1,
            token_budget: 64,
            no_checkpointing: true,
            activation_memory: None,
            dtype: Default::default(),
            optim: Default::default(),
            kv_cache_dtype: Default::default(),
            reference: false,
        }
    }

    /// Counted by hand on a shape small enough for it.
    #[test]
    fn operations_are_counted() {
        let spec = ModelSpec {
            num_layers: 1,
            hidden_size: 4,
            intermediate_size: 8,
            num_heads: 1,
            num_kv_heads: 1,
            head_dim: 4,
            vocab_size: 10,
            ..Named::find("smollm2-135m").unwrap().spec()
        };
        // Four products of 4×4 and three of 4×8; rank 1 adds in + out each.
        let (w, a, head) = (160.0, 68.0, 40.0);
        // Nine rows: the prompt's 3 and three of each of two responses; 6 pairs among the prompt's rows, 4 + 5 + 6 a response.
        let (rows, readouts, pairs) = (9.0, 8.0, 36.0);
        let forward = 2.0 * (w + a) * rows + 16.0 * pairs + 2.0 * head * readouts;
        let backward = (2.0 * w + 4.0 * a) * rows + 40.0 * pairs + 4.0 * head * readouts;
        assert_eq!(operations(&spec, 1, &base()), 2.0 * forward + backward);
        let mut s = base();
        (s.reference, s.no_checkpointing) = (true, false);
        let reference = forward - 2.0 * a * rows;
        // The only block is not recomputed; of two, the first is.
        assert_eq!(operations(&spec, 1, &s), 2.0 * forward + backward + reference);
        let recomputed = forward - 2.0 * head * readouts;
        let two = ModelSpec {
            num_layers: 2,
            ..spec
        };
        let kept = operations(&two, 1, &base());
        s.reference = false;
        assert_eq!(operations(&two, 1, &s), kept + recomputed);
    }

    /// A row a size, the first of each series at 1.
    #[test]
    fn a_series_is_measured() {
        let open = || {
            Gpu::open(&GpuOptions {
                device: std::env::var("TEA_DEVICE").ok(),
                ..Default::default()
            })
        };
        let model = format!("{}/models/tiny", env!("CARGO_MANIFEST_DIR"));
        let series = [
            Series::of("--num-generations", &model, &base(), &[2, 6], |s, m| {
                s.num_generations = m;
            }),
            Series::of_models(std::slice::from_ref(&model), &base()),
        ];
        let rows = run(&series, None, 4, &open).unwrap();
        let column = |name: &str| {
            rows.iter()
                .map(|r| r.extra[name].as_f64().unwrap())
                .collect::<Vec<_>>()
        };
        let law = column("law ×");
        assert_eq!((law.len(), law[0], law[2]), (3, 1.0, 1.0));
        // Three times the responses to one prompt.
        assert!(law[1] > 2.0 && law[1] < 3.0, "{law:?}");
        assert!(
            column("peak/plan").iter().all(|r| (r - 1.0).abs() < 0.05),
            "{rows:?}"
        );
        assert!(rows[0].variant.contains("--num-generations") && rows[2].variant.contains("--model"));
    }
}
