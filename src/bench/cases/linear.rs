//! Linear layers on the models' shapes, and a square product.

use super::data::{BenchWeight, Matrix, Worst, dot, one, output, places};
use crate::bench::case::{BenchCase, Phase, Prepared, Rate, Wanted};
use crate::bench::variants::{VariantName, forced, variants};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::kernels::harness::Gen;
use crate::kernels::linear::{self, Write};
use crate::kernels::weight::{Weight, device_bytes};
use crate::model::shapes::Named;
use crate::tensor::DType;

/// LoRA's rank in the cases.
const RANK: usize = 16;

/// Width out and in of one product, and what it is in a model.
#[derive(Debug, Clone, Copy)]
struct Layer {
    name: &'static str,
    n: usize,
    k: usize,
    /// An adapter's matrix: always f32.
    lora: bool,
}

fn layers(model: Named, quick: bool) -> Vec<Layer> {
    let spec = model.spec();
    let (c, f) = (spec.hidden_size, spec.intermediate_size);
    let (q, kv) = (spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim);
    let layer = |name, n, k| Layer {
        name,
        n,
        k,
        lora: false,
    };
    let mut all = vec![layer("gate/up", f, c), layer("down", c, f)];
    if !quick {
        all.extend([layer("q/o", q, c), layer("k/v", kv, c)]);
    }
    for (name, n, k) in [("lora A", RANK, c), ("lora B", c, RANK)] {
        all.push(Layer {
            lora: true,
            ..layer(name, n, k)
        });
    }
    all
}

/// M, N, K of one product and where it comes from.
#[derive(Clone)]
struct Product {
    model: String,
    phase: Phase,
    layer: Layer,
    m: usize,
    dtype: DType,
    variant: VariantName,
}

pub(super) fn cases(wanted: &Wanted<'_>) -> Vec<BenchCase> {
    let mut out = Vec::new();
    for model in wanted.models {
        for layer in layers(*model, wanted.quick) {
            for dtype in wanted.dtypes() {
                if layer.lora && dtype != DType::F32 {
                    continue;
                }
                for phase in wanted.phases() {
                    out.extend(of_phase(wanted, model.name, phase, layer, dtype));
                }
            }
        }
        if !wanted.quick {
            out.extend(vocabulary(wanted, *model));
        }
    }
    let square = Layer {
        name: "square",
        n: 1024,
        k: 1024,
        lora: false,
    };
    out.extend(products(
        wanted,
        "linear_forward",
        "gemm",
        Phase::Training,
        square,
        DType::F32,
    ));
    out
}

/// Forward in every phase, gradients in training.
fn of_phase(wanted: &Wanted<'_>, model: &str, phase: Phase, layer: Layer, dtype: DType) -> Vec<BenchCase> {
    let mut out = products(wanted, "linear_forward", model, phase, layer, dtype);
    if phase == Phase::Training {
        out.extend(products(
            wanted,
            "linear_input_gradient",
            model,
            phase,
            layer,
            dtype,
        ));
        if dtype == DType::F32 {
            out.extend(products(
                wanted,
                "linear_weight_gradient",
                model,
                phase,
                layer,
                dtype,
            ));
        }
    }
    out
}

/// The vocabulary head of a decode step, whole rows of logits.
fn vocabulary(wanted: &Wanted<'_>, model: Named) -> Vec<BenchCase> {
    let spec = model.spec();
    let layer = Layer {
        name: "logits",
        n: spec.vocab_size,
        k: spec.hidden_size,
        lora: false,
    };
    let mut out = Vec::new();
    for dtype in wanted.dtypes() {
        for phase in wanted.phases() {
            if matches!(phase, Phase::Decode(_)) {
                out.extend(products(
                    wanted,
                    "linear_forward",
                    model.name,
                    phase,
                    layer,
                    dtype,
                ));
            }
        }
    }
    out
}

fn products(
    wanted: &Wanted<'_>,
    op: &'static str,
    model: &str,
    phase: Phase,
    layer: Layer,
    dtype: DType,
) -> Vec<BenchCase> {
    let one = |variant| {
        let product = Product {
            model: model.to_string(),
            phase,
            layer,
            m: phase.rows(),
            dtype,
            variant,
        };
        case(op, product)
    };
    variants(wanted.gpu, op, Some(dtype))
        .into_iter()
        .map(one)
        .collect()
}

fn case(op: &'static str, p: Product) -> BenchCase {
    let (m, n, k) = (p.m, p.layer.n, p.layer.k);
    let weight = device_bytes(p.dtype, n, k) as f64;
    let bytes = weight + 4.0 * (m * n + m * k) as f64;
    BenchCase {
        op,
        variant: p.variant,
        dtype: Some(p.dtype),
        model: p.model.clone(),
        phase: p.phase,
        shape: format!("{m}×{n}×{k} {}", p.layer.name),
        flops: 2.0 * (m * n * k) as f64,
        bytes,
        memory: bytes,
        rate: if p.variant.starts_with("coop-") {
            Rate::Coop
        } else {
            Rate::F32
        },
        build: Box::new(move |gpu| match op {
            "linear_forward" => forward(gpu, &p),
            "linear_input_gradient" => input_gradient(gpu, &p),
            _ => weight_gradient(gpu, &p),
        }),
    }
}

fn forward(gpu: &Gpu, p: &Product) -> Result<Prepared> {
    let (m, n, k, variant) = (p.m, p.layer.n, p.layer.k, p.variant);
    let mut g = Gen::new((n + k) as u64);
    let w = BenchWeight::new(gpu, &mut g, p.dtype, n, k)?;
    let x = Matrix::new(&mut g, m, k, 1.0);
    let (xb, y, weight) = (x.upload(gpu, m)?, output(gpu, m * n)?, w.weight.clone());
    let result = y.clone();
    Ok(Prepared {
        record: Box::new(move |rec| {
            forced(rec, variant, |rec| {
                linear::forward(rec, &xb, &weight, None, &y, m, Write::SET)
            })
        }),
        check: Box::new(move |gpu| {
            let mut worst = Worst::default();
            for (r, c) in places(m, n) {
                worst.add(one(gpu, &result, r * n + c)?, dot(&x.row(r), &w.row(c)));
            }
            Ok(worst.relative())
        }),
    })
}

fn input_gradient(gpu: &Gpu, p: &Product) -> Result<Prepared> {
    let (m, n, k, variant) = (p.m, p.layer.n, p.layer.k, p.variant);
    let mut g = Gen::new((n * 3 + k) as u64);
    let w = BenchWeight::new(gpu, &mut g, p.dtype, n, k)?;
    let dy = Matrix::new(&mut g, m, n, 1.0);
    let (dyb, dx, weight) = (dy.upload(gpu, m)?, output(gpu, m * k)?, w.weight.clone());
    let result = dx.clone();
    Ok(Prepared {
        record: Box::new(move |rec| {
            forced(rec, variant, |rec| {
                linear::input_gradient(rec, &dyb, &weight, &dx, m, Write::SET)
            })
        }),
        check: Box::new(move |gpu| {
            let mut worst = Worst::default();
            for (r, c) in places(m, k) {
                let want = (0..n).map(|j| dy.at(r, j) * w.at(j, c)).sum();
                worst.add(one(gpu, &result, r * k + c)?, want);
            }
            Ok(worst.relative())
        }),
    })
}

fn weight_gradient(gpu: &Gpu, p: &Product) -> Result<Prepared> {
    let (m, n, k, variant) = (p.m, p.layer.n, p.layer.k, p.variant);
    let mut g = Gen::new((n * 5 + k) as u64);
    let (dy, x) = (Matrix::new(&mut g, m, n, 1.0), Matrix::new(&mut g, m, k, 1.0));
    let (dyb, xb, dw) = (
        dy.upload(gpu, m)?,
        x.upload(gpu, m)?,
        Weight::zeros(gpu, "bench", n, k)?,
    );
    let result = dw.clone();
    Ok(Prepared {
        record: Box::new(move |rec| {
            forced(rec, variant, |rec| {
                linear::weight_gradient(rec, &dyb, &xb, &dw, m, Write::SET)
            })
        }),
        check: Box::new(move |gpu| {
            let mut worst = Worst::default();
            for (r, c) in places(n, k) {
                let want = (0..m).map(|i| dy.at(i, r) * x.at(i, c)).sum();
                let Some(shard) = result
                    .shards
                    .iter()
                    .find(|s| (s.first_row..s.first_row + s.rows).contains(&r))
                else {
                    continue;
                };
                worst.add(one(gpu, &shard.buffer, (r - shard.first_row) * k + c)?, want);
            }
            Ok(worst.relative())
        }),
    })
}
