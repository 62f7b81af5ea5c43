//! The work that `bench kernels` measures: an op's own cases in the sizes of real models, with what they cost at the least.

use super::harness::Case;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::tensor::DType;
use std::borrow::Cow;

/// The variant that every op has.
pub const PORTABLE: &str = "portable";

/// When an op runs with how many rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// A prompt of 512 tokens.
    Prefill,
    /// 8 sequences of 128 tokens, forward and backward.
    Training,
    /// One token for each of so many sequences.
    Decode(usize),
}

impl Phase {
    /// The phases of the full list; the quick one has all but the last.
    const ALL: [Self; 5] = [
        Self::Prefill,
        Self::Training,
        Self::Decode(1),
        Self::Decode(16),
        Self::Decode(64),
    ];

    /// Rows M.
    pub const fn rows(self) -> usize {
        match self {
            Self::Prefill => 512,
            Self::Training => 1024,
            Self::Decode(batch) => batch,
        }
    }

    /// "prefill", "training", "decode16".
    pub fn name(self) -> String {
        match self {
            Self::Prefill => "prefill".into(),
            Self::Training => "training".into(),
            Self::Decode(batch) => format!("decode{batch}"),
        }
    }
}

/// Which rate of the ceiling bounds the arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rate {
    /// f32 fused multiply-adds.
    F32,
    /// f16 fused multiply-adds.
    F16,
    /// Cooperative matrices, the adapter's fastest shape.
    Coop,
}

/// A model as its kernels see it.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// The name in reports.
    pub name: &'static str,
    /// C.
    pub hidden: usize,
    /// F.
    pub intermediate: usize,
    /// H.
    pub heads: usize,
    /// KV.
    pub kv_heads: usize,
    /// D.
    pub head_dim: usize,
    /// V.
    pub vocab: usize,
    /// Weights of an adapter of rank 16 on every projection.
    pub adapter: usize,
}

/// What to list work for.
pub struct Wanted<'a> {
    /// The device, whose variants are listed.
    pub gpu: &'a Gpu,
    /// Models.
    pub models: &'a [Sizes],
    /// Fewer shapes, element types and batches.
    pub quick: bool,
}

impl Wanted<'_> {
    /// Every model in every phase.
    pub(super) fn rows(&self) -> impl Iterator<Item = (Sizes, Phase)> {
        let phases = &Phase::ALL[..Phase::ALL.len() - usize::from(self.quick)];
        let models = self.models.iter();
        models.flat_map(move |sizes| phases.iter().map(move |phase| (*sizes, *phase)))
    }

    /// An op over all weights of each model's adapter: operations, least traffic and memory of a weight, in bytes.
    pub(super) fn adapters(
        &self,
        op: &'static str,
        (flops, bytes, memory): (f64, f64, f64),
        build: fn(usize) -> Case,
    ) -> Vec<Work> {
        let one = |sizes: &Sizes| {
            let n = sizes.adapter;
            Work {
                op: op.into(),
                variant: PORTABLE,
                dtype: None,
                model: sizes.name,
                phase: Phase::Training,
                shape: format!("{n} weights of a rank-16 adapter"),
                flops: flops * n as f64,
                bytes: bytes * n as f64,
                memory: memory * n as f64,
                rate: Rate::F32,
                build: Box::new(move || Ok(build(n).forced(PORTABLE))),
            }
        };
        self.models.iter().map(one).collect()
    }

    /// The element types of weights.
    pub(super) fn dtypes(&self) -> &'static [DType] {
        match self.quick {
            true => &[DType::F32, DType::Q8_0, DType::Q4_1],
            false => &DType::ALL,
        }
    }
}

/// Makes the case.
pub type BuildFn = Box<dyn Fn() -> Result<Case>>;

/// One row of `bench kernels`.
pub struct Work {
    /// The op ("linear_forward").
    pub op: Cow<'static, str>,
    /// Which variant of it.
    pub variant: &'static str,
    /// The weight's element type, where it has one.
    pub dtype: Option<DType>,
    /// Whose shape this is ("smollm2-135m").
    pub model: &'static str,
    /// When it runs.
    pub phase: Phase,
    /// Its sizes, for people ("512×576×1536 gate").
    pub shape: String,
    /// Floating-point operations of one run.
    pub flops: f64,
    /// Bytes that one run must move at the least: every operand once.
    pub bytes: f64,
    /// Bytes of its buffers.
    pub memory: f64,
    /// What bounds the arithmetic.
    pub rate: Rate,
    /// Makes the case; an `Err` that is no fault of the device says why it cannot be.
    pub build: BuildFn,
}

impl Work {
    /// f32 alone, bound by memory: `flops` operations and `floats` numbers moved for each of `m × c` elements.
    pub(super) fn elements(
        (op, sizes, phase): (&'static str, Sizes, Phase),
        c: usize,
        (flops, floats): (f64, f64),
        build: impl Fn(usize, usize) -> Case + 'static,
    ) -> Self {
        let m = phase.rows();
        let (elements, bytes) = ((m * c) as f64, 4.0 * floats * (m * c) as f64);
        Self {
            op: op.into(),
            variant: PORTABLE,
            dtype: None,
            model: sizes.name,
            phase,
            shape: format!("{m}×{c}"),
            flops: flops * elements,
            bytes,
            memory: bytes,
            rate: Rate::F32,
            build: Box::new(move || Ok(build(m, c).forced(PORTABLE))),
        }
    }

    /// "linear_forward/q8_0/smollm2-135m/prefill/512×576×1536 gate": what `bench kernels FILTER` matches against.
    pub fn name(&self) -> String {
        let dtype = self.dtype.map_or("f32", DType::name);
        format!(
            "{}/{dtype}/{}/{}/{}/{}",
            self.op,
            self.model,
            self.phase.name(),
            self.shape,
            self.variant
        )
    }
}
