//! A kernel case: what it computes, what that costs at the least, how to run it, how to check it.

use super::variants::VariantName;
use crate::error::Result;
use crate::gpu::{Gpu, Recorder};
use crate::tensor::DType;

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
    /// The phases of the full list.
    pub const ALL: [Self; 5] = [
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

/// Which rate of the ceiling bounds a case's arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rate {
    /// f32 fused multiply-adds.
    F32,
    /// f16 fused multiply-adds.
    F16,
    /// Cooperative matrices, the adapter's fastest shape.
    Coop,
}

/// Records one run.
pub type RecordFn = Box<dyn Fn(&mut Recorder) -> Result<()>>;
/// Compares what a run left with float64.
pub type CheckFn = Box<dyn Fn(&Gpu) -> Result<f64>>;
/// Makes a case's buffers.
pub type BuildFn = Box<dyn Fn(&Gpu) -> Result<Prepared>>;

/// A case's buffers on the device.
pub struct Prepared {
    /// Records one run.
    pub record: RecordFn,
    /// After one run on fresh buffers: the largest error of the checked outputs relative to the largest of them.
    pub check: CheckFn,
}

/// One row of `bench kernels`.
pub struct BenchCase {
    /// The op ("linear_forward").
    pub op: &'static str,
    /// Which variant of it.
    pub variant: VariantName,
    /// The weight's element type, where it has one.
    pub dtype: Option<DType>,
    /// Whose shape this is ("smollm2-135m").
    pub model: String,
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
    /// Makes its buffers; an `Err` that is no fault of the device says why the case cannot be.
    pub build: BuildFn,
}

impl BenchCase {
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

/// What to list cases for.
pub struct Wanted<'a> {
    /// The device, whose variants are listed.
    pub gpu: &'a Gpu,
    /// Models, by [`Named`](crate::model::shapes::Named).
    pub models: &'a [crate::model::shapes::Named],
    /// Fewer shapes, element types and batches.
    pub quick: bool,
}

impl Wanted<'_> {
    /// The phases to run.
    pub fn phases(&self) -> Vec<Phase> {
        if self.quick {
            vec![
                Phase::Prefill,
                Phase::Training,
                Phase::Decode(1),
                Phase::Decode(16),
            ]
        } else {
            Phase::ALL.to_vec()
        }
    }

    /// The element types of weights to run.
    pub fn dtypes(&self) -> Vec<DType> {
        if self.quick {
            vec![DType::F32, DType::Q8_0, DType::Q4_1]
        } else {
            DType::ALL.to_vec()
        }
    }
}
