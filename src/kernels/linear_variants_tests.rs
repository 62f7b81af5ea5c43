#![allow(clippy::unwrap_used, reason = "tests")]
use super::*;

/// A forced name must lead to its kernel: one that fell back silently would make every comparison of variants vain.
#[test]
fn a_forced_variant_is_the_one_that_runs() {
    let gpu = Gpu::open(&Default::default()).unwrap();
    let mut rec = Recorder::new(&gpu);
    for op in OPS {
        for variant in variants(&gpu, op) {
            rec.force_variant(Some(variant));
            let tile = match op {
                FORWARD_OP => forward(&rec, DType::Q8_0, [100; 3]),
                INPUT_GRADIENT_OP => input_gradient(&rec, DType::Q8_0, [100; 3]),
                _ => weight_gradient(&rec, [100; 3]),
            };
            let rest = tile.kernel.name.strip_prefix(op).unwrap();
            let words: Vec<&str> = rest.split('_').collect();
            let word = variant.split('-').next().unwrap();
            assert_eq!(
                words.contains(&word),
                variant != PORTABLE,
                "{op} {variant}: {rest}"
            );
            let special = ["subgroup", "tile", "gemv", "split", "coop"]
                .iter()
                .any(|w| words.contains(w));
            assert_eq!(special, variant != PORTABLE, "{op} {variant}: {rest}");
            if let Some(number) = variant.split('-').nth(1) {
                let size = match word {
                    // The side of its matrices.
                    "coop" => tile.kernel.needs_coop.unwrap().m.to_string(),
                    _ => tile.variant.rows.to_string(),
                };
                assert_eq!(size, number, "{op} {variant}");
            }
        }
    }
}

/// Only GPUs choose tiles, only CPU adapters subgroups, and forced lanes neither.
#[test]
fn the_kind_of_adapter_decides() {
    let lanes = crate::gpu::GpuOptions {
        lanes: Some(16),
        ..Default::default()
    };
    for options in [Default::default(), lanes] {
        let gpu = Gpu::open(&options).unwrap();
        let rec = Recorder::new(&gpu);
        if rec.forced_variant().is_some() {
            continue;
        }
        let caps = gpu.caps();
        let name = match caps.kind {
            _ if caps.forced_lanes.is_some() => "linear_forward_f32",
            DeviceKind::Cpu if row(FORWARD_OP, "subgroup-16").is_some_and(|v| runs(&gpu, v)) => {
                "linear_forward_subgroup_16_f32"
            }
            DeviceKind::Cpu => "linear_forward_f32",
            _ => "linear_forward_tile_f32",
        };
        let kernel = forward(&rec, DType::F32, [100; 3]).kernel.name;
        assert_eq!(kernel, name);
    }
}

/// Decode steps under `high` split long sums of few rows, on GPUs, and nothing else does.
#[test]
fn high_splits_long_sums_of_few_rows_in_decode_steps() {
    let gpu = Gpu::open(&Default::default()).unwrap();
    let mut rec = Recorder::new(&gpu);
    let forward = |shape| Class::new(FORWARD_OP, DType::Q8_0, shape);
    for (precision, decoding) in [
        (MatmulPrecision::High, true),
        (MatmulPrecision::High, false),
        (MatmulPrecision::Highest, true),
    ] {
        gpu.set_matmul_precision(precision).unwrap();
        rec.let_sums_split(decoding);
        let wanted = precision == MatmulPrecision::High && decoding;
        for rows in [1, 8, 9, 16] {
            let class = forward([rows, 576, 576]);
            assert_eq!(may_split(&rec, &class), wanted, "{precision} {decoding} {rows}");
            if rec.forced_variant().is_none() && gpu.caps().forced_lanes.is_none() {
                let splits = wanted && gpu.caps().kind != DeviceKind::Cpu;
                assert_eq!(choose(&rec, class).name == SPLIT, splits);
            }
        }
        for shape in [[17, 576, 576], [1, 576, 16], [1, 300_000, 576]] {
            assert!(!may_split(&rec, &forward(shape)));
        }
        for op in [INPUT_GRADIENT_OP, WEIGHT_GRADIENT_OP] {
            assert!(!may_split(&rec, &Class::new(op, DType::F32, [1, 576, 576])));
        }
    }
}
