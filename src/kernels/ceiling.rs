//! What an adapter can do at best: fused multiply-adds, cooperative matrices, reading, copying, and one dispatch.
//!
//! These kernels compute nothing that anyone wants. `bench ceiling` times them, and the roofline of the other kernels
//! is drawn against what they reach (Williams, Waterman & Patterson 2009, "Roofline", CACM 52(4)).

use super::{Entry, MAX_GROUPS, fold};
use crate::error::Result;
use crate::gpu::{Buffer, Coop, DeviceKind, Kernel, Recorder, Value, params, shaders};

#[path = "ceiling_cases.rs"]
mod cases;

/// A kernel of independent chains of multiply-adds.
#[derive(Debug)]
pub struct Chains {
    /// The kernel.
    pub kernel: Kernel,
    /// Chains an invocation runs.
    pub chains: usize,
    /// Numbers in a chain: 4 (a vec4) or 1.
    pub width: usize,
    /// Links a round adds to each.
    pub unroll: usize,
    /// Element type, "f32" or "f16".
    pub dtype: &'static str,
}

impl Chains {
    /// Floating-point operations of `invocations` that run `rounds` rounds.
    pub fn flops(&self, invocations: usize, rounds: u32) -> f64 {
        2.0 * (self.width * self.chains * self.unroll) as f64 * f64::from(rounds) * invocations as f64
    }
}

macro_rules! chains {
    ($dtype:literal, $kind:literal, $chains:literal x $width:literal, $unroll:literal) => {
        Chains {
            kernel: Kernel {
                needs_f16: matches!($dtype.as_bytes(), b"f16"),
                values: &[
                    ("E", Value::Type($dtype)),
                    ("WIDTH", Value::Number($width)),
                    ("CHAINS", Value::Number($chains)),
                    ("LINKS", Value::Number($unroll)),
                ],
                ..Kernel::portable(
                    concat!("bench_fma_", $dtype, $kind, "_", $chains),
                    shaders!["bench_fma.wgsl"],
                )
            },
            chains: $chains,
            width: $width,
            unroll: $unroll,
            dtype: $dtype,
        }
    };
}

/// The multiply-add kernels: with few chains the latency shows, with many a small register file spills. Twelve single numbers are what sixteen
/// registers hold beside factor and addend.
pub static FMA: [Chains; 8] = [
    chains!("f32", "", 4 x 4, 16),
    chains!("f32", "", 8 x 4, 8),
    chains!("f32", "", 16 x 4, 8),
    chains!("f32", "_scalar", 12 x 1, 16),
    chains!("f16", "", 4 x 4, 16),
    chains!("f16", "", 8 x 4, 8),
    chains!("f16", "", 16 x 4, 8),
    chains!("f16", "_scalar", 12 x 1, 16),
];

macro_rules! coop {
    ($side:literal, $ab:literal, $c:literal) => {
        Kernel {
            needs_f16: matches!($ab.as_bytes(), b"f16"),
            needs_coop: Some(Coop {
                m: $side,
                n: $side,
                k: $side,
                ab: $ab,
                c: $c,
            }),
            values: &[
                ("FROM", Value::Type($ab)),
                ("TO", Value::Type($c)),
                ("TILES", Value::Number(COOP_TILES)),
                ("LINKS", Value::Number(COOP_LINKS)),
            ],
            ..Kernel::portable(
                concat!("bench_coop_", $side, "_", $ab, "_", $c),
                shaders!["bench_coop.wgsl"],
            )
        }
    };
}

/// The cooperative-matrix kernels, one a shape.
pub static COOP: [Kernel; 6] = [
    coop!(8, "f16", "f32"),
    coop!(8, "f16", "f16"),
    coop!(8, "f32", "f32"),
    coop!(16, "f16", "f32"),
    coop!(16, "f16", "f16"),
    coop!(16, "f32", "f32"),
];

/// Products that a cooperative kernel's subgroup has side by side, and how often a round adds to each.
const COOP_TILES: u32 = 4;
const COOP_LINKS: u32 = 4;

/// Floating-point operations of `groups` subgroups that run `rounds` rounds of a cooperative kernel.
pub fn coop_flops(shape: &Coop, groups: usize, rounds: u32) -> f64 {
    let product = 2.0 * f64::from(shape.m) * f64::from(shape.n) * f64::from(shape.k);
    f64::from(COOP_TILES * COOP_LINKS) * product * f64::from(rounds) * groups as f64
}

static COPY: Kernel = Kernel::portable("bench_copy", shaders!["bench_copy.wgsl"]);
static READ: Kernel = Kernel::portable("bench_read", shaders!["bench_read.wgsl"]);
static MARK: Kernel = Kernel::portable("bench_mark", shaders!["bench_mark.wgsl"]);

params! {
    struct FmaParams {
        rounds: u32,
        count: u32,
    }

    struct CoopParams {
        rounds: u32,
    }

    struct CopyParams {
        n4: u32,
    }

    struct ReadParams {
        n4: u32,
        chunk: u32,
        count: u32,
    }

    struct MarkParams {
        at: u32,
        value: f32,
    }
}

/// Lanes of a workgroup: a SIMD register on a CPU adapter, a few subgroups on a GPU.
pub fn lanes(kind: DeviceKind) -> usize {
    if kind == DeviceKind::Cpu { 8 } else { 256 }
}

/// `out (count)`: each invocation's sum of chains `a ← a·f + g` with `x (2) vec4 = f, g`, after `rounds` rounds.
///
/// # Errors
/// A GPU error.
pub fn fma(
    rec: &mut Recorder,
    chains: &'static Chains,
    x: &Buffer,
    out: &Buffer,
    count: usize,
    rounds: u32,
) -> Result<()> {
    let lanes = lanes(rec.gpu().caps().kind);
    let params = FmaParams {
        rounds,
        count: count as u32,
    };
    rec.dispatch(
        &chains.kernel,
        &[("LANES", lanes as f64)],
        &params,
        &[x.into(), out.into()],
        fold(count, lanes),
    )
}

/// `out (groups, 4, n, n) = 4·rounds · x (n, n) · y_j (n, n)`, `y (4, n, n)`; element types as the kernel's name says.
/// `kernel` is one of [`COOP`].
///
/// # Errors
/// A GPU error.
pub fn coop(
    rec: &mut Recorder,
    kernel: &'static Kernel,
    x: &Buffer,
    y: &Buffer,
    out: &Buffer,
    groups: usize,
    rounds: u32,
) -> Result<()> {
    // One subgroup a workgroup: with a larger one each subgroup would compute the same tile again.
    let lanes = rec.gpu().report().subgroup_size.0.max(1);
    rec.dispatch(
        kernel,
        &[("LANES", f64::from(lanes))],
        &CoopParams { rounds },
        &[x.into(), y.into(), out.into()],
        fold(groups, 1),
    )
}

/// `dst = src`, `n` floats (a multiple of 4).
///
/// # Errors
/// A GPU error.
pub fn copy(rec: &mut Recorder, src: &Buffer, dst: &Buffer, n: usize) -> Result<()> {
    debug_assert!(n.is_multiple_of(4));
    let lanes = lanes(rec.gpu().caps().kind);
    rec.dispatch(
        &COPY,
        &[("LANES", lanes as f64)],
        &CopyParams { n4: (n / 4) as u32 },
        &[src.into(), dst.into()],
        fold(n / 4, lanes * 8),
    )
}

/// How [`read`] divides a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadShape {
    /// Floats that are read: a whole number of rounds of 32 a lane.
    pub n: usize,
    /// Rounds a workgroup.
    pub chunk: usize,
    /// Workgroups.
    pub groups: usize,
    /// Lanes of a workgroup.
    pub lanes: usize,
}

impl ReadShape {
    /// At most `n` floats over at most `groups` workgroups of `lanes` (see [`lanes`]).
    pub fn new(lanes: usize, n: usize, groups: usize) -> Self {
        let rounds = n / (lanes * 32);
        let chunk = rounds.div_ceil(groups.clamp(1, MAX_GROUPS)).max(1);
        Self {
            n: rounds * lanes * 32,
            chunk,
            groups: rounds.div_ceil(chunk),
            lanes,
        }
    }

    /// Sums that [`read`] writes, one a lane.
    pub fn outputs(&self) -> usize {
        self.groups * self.lanes
    }
}

/// `out (outputs)`: the sum that each lane read of `src (n)`.
///
/// # Errors
/// A GPU error.
pub fn read(rec: &mut Recorder, src: &Buffer, out: &Buffer, shape: ReadShape) -> Result<()> {
    let params = ReadParams {
        n4: (shape.n / 4) as u32,
        chunk: shape.chunk as u32,
        count: shape.outputs() as u32,
    };
    rec.dispatch(
        &READ,
        &[("LANES", shape.lanes as f64)],
        &params,
        &[src.into(), out.into()],
        fold(shape.groups, 1),
    )
}

/// `out[at] = value`, by one invocation.
///
/// # Errors
/// A GPU error.
pub fn mark(rec: &mut Recorder, out: &Buffer, at: usize, value: f32) -> Result<()> {
    let params = MarkParams { at: at as u32, value };
    rec.dispatch(&MARK, &[], &params, &[out.into()], [1, 1, 1])
}

/// Table rows.
pub fn entries() -> Vec<Entry> {
    vec![
        Entry::new(&FMA[0].kernel, cases::fma::<0>),
        Entry::new(&FMA[1].kernel, cases::fma::<1>),
        Entry::new(&FMA[2].kernel, cases::fma::<2>),
        Entry::new(&FMA[3].kernel, cases::fma::<3>),
        Entry::new(&FMA[4].kernel, cases::fma::<4>),
        Entry::new(&FMA[5].kernel, cases::fma::<5>),
        Entry::new(&FMA[6].kernel, cases::fma::<6>),
        Entry::new(&FMA[7].kernel, cases::fma::<7>),
        Entry::new(&COOP[0], cases::coop::<0>),
        Entry::new(&COOP[1], cases::coop::<1>),
        Entry::new(&COOP[2], cases::coop::<2>),
        Entry::new(&COOP[3], cases::coop::<3>),
        Entry::new(&COOP[4], cases::coop::<4>),
        Entry::new(&COOP[5], cases::coop::<5>),
        Entry::new(&COPY, cases::copy),
        Entry::new(&READ, cases::read),
        Entry::new(&MARK, cases::mark),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The operations that are counted are the operations in the text.
    #[test]
    fn flops_are_those_of_the_shader() {
        for c in &FMA {
            let fmas = c.kernel.wgsl().matches("= fma(").count();
            assert_eq!(fmas, c.chains * c.unroll, "{}", c.kernel.name);
            assert_eq!(c.flops(3, 2), (2 * c.width * fmas * 3 * 2) as f64);
        }
        for k in &COOP {
            let products = k.wgsl().matches("coopMultiplyAdd(").count();
            assert_eq!(products, (COOP_TILES * COOP_LINKS) as usize);
        }
    }

    #[test]
    fn a_read_covers_whole_rounds() {
        for (n, groups) in [(1 << 20, 64), (5000, 3), (300, 4), (1 << 12, 1)] {
            let s = ReadShape::new(8, n, groups);
            assert!(s.n <= n && n - s.n < 256, "{s:?}");
            assert!(s.groups <= groups && s.groups * s.chunk * 256 >= s.n, "{s:?}");
            assert!((s.groups - 1) * s.chunk * 256 < s.n, "{s:?}");
        }
    }
}
