//! What linear layers and embeddings promise beyond a single case: the bits do not depend on the batch nor on how a
//! weight is split into bindings.
#![allow(clippy::unwrap_used, reason = "tests")]

use tea_wgpu::gpu::{Buffer, Gpu, GpuOptions, Recorder};
use tea_wgpu::kernels::elementwise::swiglu_forward;
use tea_wgpu::kernels::harness::Gen;
use tea_wgpu::kernels::linear::{self, Write};
use tea_wgpu::kernels::linear_fused::{
    Bias, Epilogue, Product, Second, Side, forward_each, forward_gated, forward_with,
};
use tea_wgpu::kernels::linear_variants::{OPS, exact_variants, names, shares, variants};
use tea_wgpu::kernels::weight::{SHARD_ROWS, Weight, device_bytes};
use tea_wgpu::kernels::weight_cases::{TestWeight, test_cols};
use tea_wgpu::kernels::{dequantize, embedding, pad4};
use tea_wgpu::tensor::DType;

/// The variant that splits its sums.
const SPLIT: &str = "split-8";

fn open() -> Gpu {
    Gpu::open(&GpuOptions::default()).unwrap()
}

fn upload(gpu: &Gpu, weight: &TestWeight, cap: u64) -> Weight {
    let TestWeight {
        dtype, rows, cols, ..
    } = *weight;
    Weight::upload_split(gpu, "test", dtype, rows, cols, &weight.bytes, cap).unwrap()
}

/// Runs `record` on an output of `n` floats that starts as NaN.
fn run(gpu: &Gpu, n: usize, record: impl Fn(&mut Recorder, &Buffer)) -> Vec<u32> {
    let out = gpu.upload("out", &vec![f32::NAN; n]).unwrap();
    let mut rec = Recorder::new(gpu);
    record(&mut rec, &out);
    rec.submit().unwrap();
    let bits: Vec<u32> = gpu.read(&out, 0, n).unwrap();
    assert!(bits.iter().all(|b| f32::from_bits(*b).is_finite()));
    bits
}

/// A weight of three shards and the same weight in one, with an odd last shard.
fn split_and_whole(gpu: &Gpu, dtype: DType) -> (TestWeight, Weight, Weight) {
    let cols = if dtype.block_len() == 1 {
        8
    } else {
        dtype.block_len()
    };
    let weight = TestWeight::random(&mut Gen::new(1), dtype, 2 * SHARD_ROWS + 9, cols, 1.0);
    let split = upload(gpu, &weight, device_bytes(dtype, SHARD_ROWS, cols));
    let whole = upload(gpu, &weight, u64::MAX);
    assert_eq!((split.shards.len(), whole.shards.len()), (3, 1), "{dtype}");
    (weight, split, whole)
}

#[test]
fn sharded_weights_give_the_bits_of_whole_ones() {
    let gpu = open();
    for dtype in DType::ALL {
        let (weight, split, whole) = split_and_whole(&gpu, dtype);
        let (m, n, k) = (9, weight.rows, weight.cols);
        let mut g = Gen::new(2);
        let x = gpu.upload("x", &g.rows(m, k, 1.0)).unwrap();
        let dy = gpu.upload("dy", &g.rows(m, n, 1.0)).unwrap();
        let bias = gpu.upload("bias", &g.uniform(n, 1.0)).unwrap();
        let tokens = [0, 1, 4095, 4096, 4097, 8191, 8192, 8200, 17u32];
        let tokens = gpu.upload("tokens", &tokens).unwrap();
        let scaled = Write::SET.scaled(0.37);
        let all = |w: &Weight| {
            let forward = run(&gpu, m * pad4(n), |r, y| {
                linear::forward(r, &x, w, Some(&bias), y, m, scaled).unwrap();
            });
            let slice = SHARD_ROWS - 20..SHARD_ROWS + 11;
            let rows = run(&gpu, m * pad4(slice.len()), |r, y| {
                linear::forward_rows(r, &x, w, slice.clone(), None, y, m, Write::SET).unwrap();
            });
            let gradient = run(&gpu, m * k, |r, dx| {
                linear::input_gradient(r, &dy, w, dx, m, scaled).unwrap();
            });
            let embedded = run(&gpu, m * k, |r, x| {
                embedding::forward(r, w, &tokens, x, m).unwrap();
            });
            let expanded = run(&gpu, n * k, |r, y| dequantize::rows(r, w, 0..n, y).unwrap());
            [forward, rows, gradient, embedded, expanded]
        };
        assert!(all(&split) == all(&whole), "{dtype}");
    }
}

#[test]
fn sharded_gradients_give_the_bits_of_whole_ones() {
    let gpu = open();
    let (weight, split, whole) = split_and_whole(&gpu, DType::F32);
    let (m, n, k) = (9, weight.rows, weight.cols);
    let mut g = Gen::new(3);
    let x = gpu.upload("x", &g.rows(m, k, 1.0)).unwrap();
    let dy = gpu.upload("dy", &g.rows(m, n, 1.0)).unwrap();
    let groups = embedding::group_tokens(&[8200, 4096, 4095, 0, 4096, 8192, 4096, 8200, 1]);
    let lists = [&groups.unique, &groups.starts, &groups.rows].map(|l| gpu.upload("tokens", l).unwrap());
    let all = |dw: &Weight| {
        let mut rec = Recorder::new(&gpu);
        linear::weight_gradient(&mut rec, &dy, &x, dw, m, Write::ADD).unwrap();
        let [unique, starts, rows] = &lists;
        embedding::backward(&mut rec, &x, unique, starts, rows, dw, groups.unique.len()).unwrap();
        rec.submit().unwrap();
        let values = dw.read_f32(&gpu).unwrap();
        values.into_iter().map(f32::to_bits).collect::<Vec<u32>>()
    };
    let bits = all(&split);
    assert_eq!(bits.len(), n * k);
    assert!(bits == all(&whole));
}

/// The chain of dx goes on from one shard to the next in every variant.
#[test]
fn variants_give_the_bits_of_whole_weights_for_sharded_ones() {
    let gpu = open();
    let (weight, split, whole) = split_and_whole(&gpu, DType::F32);
    let (m, n, k) = (9, weight.rows, weight.cols);
    let dy = gpu.upload("dy", &Gen::new(2).rows(m, n, 1.0)).unwrap();
    let gradient = |w: &Weight, variant| {
        run(&gpu, m * k, |r, dx| {
            r.force_variant(Some(variant));
            linear::input_gradient(r, &dy, w, dx, m, Write::SET.scaled(0.37)).unwrap();
        })
    };
    let expected = gradient(&whole, "portable");
    for variant in exact_variants(&gpu, "linear_input_gradient") {
        assert!(expected == gradient(&split, variant), "{variant}");
    }
}

#[test]
fn a_row_range_over_two_shards_must_be_aligned() {
    let gpu = open();
    let (_, split, _) = split_and_whole(&gpu, DType::F32);
    let some = gpu.upload("x", &[0.0f32; 64]).unwrap();
    let out = gpu.upload("y", &[0.0f32; 64]).unwrap();
    let range = SHARD_ROWS - 2..SHARD_ROWS + 2;
    let mut rec = Recorder::new(&gpu);
    let result = linear::input_gradient_rows(&mut rec, &some, &split, range, &out, 1, Write::SET);
    assert!(result.unwrap_err().to_string().contains("multiple of four"));
}

/// Row 17 of a batch of 37, and the same row alone or last of 8.
#[test]
fn a_rows_bits_do_not_depend_on_the_batch() {
    let gpu = open();
    for dtype in DType::ALL {
        let (n, k) = (331, test_cols(dtype)[1]);
        let mut g = Gen::new(5);
        let weight = upload(&gpu, &TestWeight::random(&mut g, dtype, n, k, 1.0), u64::MAX);
        for width in [pad4(n), k] {
            let forward = width == pad4(n);
            let (inputs, cols) = if forward { (k, k) } else { (n, pad4(n)) };
            let x = g.rows(37, inputs, 100.0);
            let result = |m: usize, rows: &[f32]| {
                let x = gpu.upload("x", rows).unwrap();
                run(&gpu, m * width, |r, y| {
                    if forward {
                        linear::forward(r, &x, &weight, None, y, m, Write::SET).unwrap();
                    } else {
                        linear::input_gradient(r, &x, &weight, y, m, Write::SET).unwrap();
                    }
                })
            };
            let many = result(37, &x);
            let row = &many[17 * width..18 * width];
            let alone = result(1, &x[17 * cols..18 * cols]);
            let last = result(8, &x[10 * cols..18 * cols]);
            assert!(alone == row, "{dtype}, forward: {forward}");
            assert!(last[7 * width..] == *row, "{dtype}, forward: {forward}");
        }
    }
}

/// Every variant computes the portable kernel's chains, which is what lets an op choose by the number of rows.
#[test]
fn variants_give_the_bits_of_the_portable_kernels() {
    let gpu = open();
    let report = gpu.report();
    // What needs no feature runs everywhere, subgroups of eight on some CPU adapters alone.
    let subgroup8 = report.subgroups && report.subgroup_size == (8, 8);
    let [forwards, dxs, dws] = [
        "linear_forward",
        "linear_input_gradient",
        "linear_weight_gradient",
    ]
    .map(|op| exact_variants(&gpu, op)[1..].to_vec());
    println!("{}: forward {forwards:?}, dx {dxs:?}, dw {dws:?}", report.name);
    for (op, exact) in OPS.iter().zip([&forwards, &dxs, &dws]) {
        let fits = |v: &&str| !v.starts_with("coop-") && (subgroup8 || !v.starts_with("subgroup-"));
        let all: Vec<&str> = names(Some(op)).filter(fits).collect();
        assert_eq!(
            all.iter()
                .filter(|v| **v != SPLIT)
                .skip(1)
                .copied()
                .collect::<Vec<_>>(),
            *exact,
            "{op}"
        );
    }
    for dtype in DType::ALL {
        for (m, n, cols) in [(1, 36, 1), (3, 41, 0), (70, 67, 2)] {
            let k = test_cols(dtype)[cols];
            let mut g = Gen::new(5);
            let weight = upload(&gpu, &TestWeight::random(&mut g, dtype, n, k, 1.0), u64::MAX);
            let x = gpu.upload("x", &g.rows(m, k, 1.0)).unwrap();
            let dy = gpu.upload("dy", &g.rows(m, n, 1.0)).unwrap();
            let forward = |variant| {
                run(&gpu, m * pad4(n), |r, y| {
                    r.force_variant(Some(variant));
                    linear::forward(r, &x, &weight, None, y, m, Write::SET).unwrap();
                })
            };
            let input_gradient = |variant| {
                run(&gpu, m * pad4(k), |r, dx| {
                    r.force_variant(Some(variant));
                    linear::input_gradient(r, &dy, &weight, dx, m, Write::SET).unwrap();
                })
            };
            let weight_gradient = |variant| {
                run(&gpu, n * pad4(k), |r, dw| {
                    r.force_variant(Some(variant));
                    let dw = Weight::from_buffer(DType::F32, n, k, dw.clone());
                    linear::weight_gradient(r, &dy, &x, &dw, m, Write::SET).unwrap();
                })
            };
            let same = |run: &dyn Fn(&'static str) -> Vec<u32>, variants: &[&'static str]| {
                let expected = run("portable");
                for variant in variants {
                    assert!(expected == run(variant), "{dtype} {m}×{n}×{k} {variant}");
                }
            };
            same(&forward, &forwards);
            same(&input_gradient, &dxs);
            same(&weight_gradient, &dws);
        }
    }
}

/// What is fused with a product rounds as its steps do one by one, in every variant: sampling fuses, training need not.
#[test]
fn fused_steps_give_the_bits_of_separate_ones() {
    let gpu = open();
    let up = |v: &[f32]| gpu.upload("test", v).unwrap();
    // One type, not that of the cases against the twin: software adapters take long to compile every combination.
    let dtype = DType::Q8_0;
    let exact = exact_variants(&gpu, "linear_forward");
    for (m, n) in [(1, 36), (7, 68), (20, 36)] {
        let (k, r) = (test_cols(dtype)[2], 5);
        let mut g = Gen::new(6);
        let weight = upload(&gpu, &TestWeight::random(&mut g, dtype, n, k, 1.0), u64::MAX);
        let b = upload(&gpu, &TestWeight::random(&mut g, DType::F32, n, r, 1.0), u64::MAX);
        let (x, h, bias) = (
            up(&g.rows(m, k, 1.0)),
            up(&g.rows(m, r, 1.0)),
            up(&g.uniform(n, 1.0)),
        );
        let beside = g.rows(m, n, 2.0);
        let (beside, copied) = (up(&beside), up(&beside));
        let second = Second {
            h: &h,
            b: &b,
            factor: 0.7,
        };
        for (bias, lora) in [(None, None), (Some(&bias), Some(second)), (None, Some(second))] {
            let product = |rec: &mut Recorder, y: &Buffer, write, variant| {
                rec.force_variant(Some(variant));
                linear::forward(rec, &x, &weight, bias, y, m, write).unwrap();
                if lora.is_some() {
                    // A second product is not split.
                    let second = if variant == SPLIT { "portable" } else { variant };
                    rec.force_variant(Some(second));
                    linear::forward(rec, &h, &b, None, y, m, Write::ADD.scaled(0.7)).unwrap();
                }
            };
            let apart = |gate: bool, variant| {
                run(&gpu, m * n, |rec, y| {
                    if gate {
                        let up = gpu.upload("up", &vec![f32::NAN; m * n]).unwrap();
                        product(rec, &up, Write::SET, variant);
                        swiglu_forward(rec, &beside, &up, y, m * n).unwrap();
                    } else {
                        rec.copy(&copied, 0, y, 0, (m * n * 4) as u64);
                        product(rec, y, Write::ADD, variant);
                    }
                })
            };
            let fused = |gate: bool, variant| {
                let with = Epilogue {
                    bias,
                    lora,
                    residual: (!gate).then_some(&beside),
                    gate: gate.then_some(&beside),
                };
                run(&gpu, m * n, |rec, y| {
                    rec.force_variant(Some(variant));
                    forward_with(rec, &x, &weight, &with, y, m).unwrap();
                })
            };
            for gate in [false, true] {
                let expected = apart(gate, "portable");
                for variant in variants(&gpu, "linear_forward") {
                    if !exact.contains(&variant) {
                        assert!(
                            apart(gate, variant) == fused(gate, variant),
                            "{dtype} {m} rows, {variant}"
                        );
                        continue;
                    }
                    let what = format!("{dtype} {m} rows, gate {gate}, {variant}");
                    assert!(expected == fused(gate, variant), "{what}");
                }
            }
        }
    }
}

/// Commands that `record` records.
fn commands(gpu: &Gpu, rec: &mut Recorder, record: impl FnOnce(&mut Recorder)) -> u64 {
    let before = gpu.commands_recorded();
    record(rec);
    gpu.commands_recorded() - before
}

/// Products that share a dispatch give the bits that each gives alone, on every variant: of one element type in one dispatch where the
/// variant has one, whatever their widths; those of another type beside them.
#[test]
fn products_of_one_input_give_the_bits_of_each() {
    let gpu = open();
    let k = test_cols(DType::Q4K)[0];
    let mut g = Gen::new(7);
    let mut one = |dtype, n| upload(&gpu, &TestWeight::random(&mut g, dtype, n, k, 1.0), u64::MAX);
    let plain = [(DType::F32, 5), (DType::F32, 70), (DType::F32, 33)].map(|(d, n)| one(d, n));
    let mixed = [(DType::Q4K, 37), (DType::Q6K, 9), (DType::Q4K, 9)].map(|(d, n)| one(d, n));
    let bias = |i: usize| Gen::new(10 + i as u64).uniform(plain[i].rows, 1.0);
    let own = [0, 1, 2].map(|i| gpu.upload("bias", &bias(i)).unwrap());
    let joined = gpu.upload("biases", &[0, 1, 2].map(bias).concat()).unwrap();
    for (weights, m, count, biased, dispatches) in [
        (&plain, 1, 3, false, 1),
        (&plain, 2, 3, true, 1),
        (&plain, 16, 2, false, 1),
        (&plain, 40, 3, true, 3),
        (&mixed, 3, 3, false, 2),
    ] {
        let x = gpu.upload("x", &Gen::new(8).rows(m, k, 1.0)).unwrap();
        for variant in variants(&gpu, "linear_forward") {
            let outputs = || {
                let y = |w: &Weight| gpu.upload("y", &vec![f32::NAN; m * pad4(w.rows)]).unwrap();
                weights.iter().map(y).collect::<Vec<_>>()
            };
            let (together, alone) = (outputs(), outputs());
            let mut rec = Recorder::new(&gpu);
            rec.force_variant(Some(variant));
            let product = |i: usize| Product {
                bias: biased.then(|| Bias {
                    own: &own[i],
                    joined: Some((&joined, weights[..i].iter().map(|w| w.rows).sum())),
                }),
                ..Product::plain(&weights[i], &together[i])
            };
            let products: Vec<_> = (0..count).map(product).collect();
            let recorded = commands(&gpu, &mut rec, |rec| forward_each(rec, &x, &products, m).unwrap());
            if shares(variant)[0] {
                assert_eq!(recorded, dispatches, "{m} rows, {variant}");
            }
            let is_exact = exact_variants(&gpu, "linear_forward").contains(&variant);
            rec.force_variant(Some(if is_exact { "portable" } else { variant }));
            for ((w, y), bias) in weights.iter().zip(&alone).zip(&own).take(count) {
                let bias = biased.then_some(bias);
                linear::forward(&mut rec, &x, w, bias, y, m, Write::SET).unwrap();
            }
            rec.submit().unwrap();
            let bits = |w: &Weight, y: &Buffer| gpu.read::<u32>(y, 0, m * pad4(w.rows)).unwrap();
            for ((w, a), b) in weights.iter().zip(&together).zip(&alone).take(count) {
                assert!(bits(w, a) == bits(w, b), "{m} rows, N {}, {variant}", w.rows);
            }
        }
    }
}

/// SwiGLU's gate and up in one dispatch give the bits of a product, its epilogue and an elementwise step, on every variant, with an
/// adapter on both, on neither, and on one (which has no dispatch of its own).
#[test]
fn gate_and_up_together_give_the_bits_of_each() {
    let gpu = open();
    let up = |v: &[f32]| gpu.upload("test", v).unwrap();
    for (dtype, m, n) in [(DType::Q4_1, 1, 36), (DType::Q4_1, 7, 67), (DType::F32, 20, 36)] {
        let (k, r) = (test_cols(dtype)[2], 5);
        let mut g = Gen::new(9);
        let mut one = |dtype, k| upload(&gpu, &TestWeight::random(&mut g, dtype, n, k, 1.0), u64::MAX);
        let (weights, b) = (
            [one(dtype, k), one(dtype, k)],
            [one(DType::F32, r), one(DType::F32, r)],
        );
        let (x, h) = (up(&g.rows(m, k, 1.0)), [(); 2].map(|()| up(&g.rows(m, r, 1.0))));
        for adapters in [[false, false], [true, true], [true, false]] {
            let side = |i: usize| Side {
                weight: &weights[i],
                bias: None,
                lora: adapters[i].then_some(Second {
                    h: &h[i],
                    b: &b[i],
                    factor: 0.7,
                }),
            };
            let nan = || up(&vec![f32::NAN; m * pad4(n)]);
            let apart = |variant| {
                run(&gpu, m * pad4(n), |rec, y| {
                    rec.force_variant(Some(variant));
                    let (gate, other) = (nan(), nan());
                    for (i, y) in [&gate, &other].into_iter().enumerate() {
                        let with = Epilogue {
                            lora: side(i).lora,
                            ..Epilogue::default()
                        };
                        forward_with(rec, &x, &weights[i], &with, y, m).unwrap();
                    }
                    swiglu_forward(rec, &gate, &other, y, m * pad4(n)).unwrap();
                })
            };
            let expected = apart("portable");
            for variant in variants(&gpu, "linear_forward") {
                let fused = run(&gpu, m * pad4(n), |rec, y| {
                    rec.force_variant(Some(variant));
                    let scratch = nan();
                    let sides = [side(0), side(1)];
                    let recorded = commands(&gpu, rec, |rec| {
                        forward_gated(rec, &x, sides, &scratch, y, m).unwrap();
                    });
                    if shares(variant)[1] {
                        let alike = m <= 16 && adapters[0] == adapters[1];
                        assert_eq!(recorded, if alike { 1 } else { 2 }, "{dtype} {m} rows, {variant}");
                    }
                });
                let is_exact = exact_variants(&gpu, "linear_forward").contains(&variant);
                let what = format!("{dtype} {m} rows, {adapters:?}, {variant}");
                assert!(
                    fused
                        == if is_exact {
                            expected.clone()
                        } else {
                            apart(variant)
                        },
                    "{what}"
                );
            }
        }
    }
}

/// Where sums are split, too, a row's bits depend on the row alone: alone, at any place among up to 8, in a second pass, and with
/// an adapter's second product. They are not the chain's.
#[test]
fn a_rows_bits_do_not_depend_on_the_batch_when_sums_are_split() {
    const ROW: usize = 11;
    let gpu = open();
    for dtype in DType::ALL {
        let block = dtype.block_len();
        let (n, k, rank) = (37, if block == 1 { 777 } else { 768 }, 5);
        let mut g = Gen::new(9);
        let weight = upload(&gpu, &TestWeight::random(&mut g, dtype, n, k, 1.0), u64::MAX);
        let b = upload(
            &gpu,
            &TestWeight::random(&mut g, DType::F32, n, rank, 1.0),
            u64::MAX,
        );
        let (x, h) = (g.rows(16, k, 100.0), g.rows(16, rank, 1.0));
        let result = |rows: std::ops::Range<usize>, variant, adapter: bool| {
            let part = |cols: usize| rows.start * cols..rows.end * cols;
            let x = gpu.upload("x", &x[part(pad4(k))]).unwrap();
            let h = gpu.upload("h", &h[part(pad4(rank))]).unwrap();
            let lora = adapter.then_some(Second {
                h: &h,
                b: &b,
                factor: 0.7,
            });
            let with = Epilogue {
                lora,
                ..Epilogue::default()
            };
            run(&gpu, rows.len() * pad4(n), |r, y| {
                r.force_variant(Some(variant));
                forward_with(r, &x, &weight, &with, y, rows.len()).unwrap();
            })
        };
        for adapter in [false, true] {
            let alone = result(ROW..ROW + 1, SPLIT, adapter);
            assert!(alone != result(ROW..ROW + 1, "portable", adapter), "{dtype}");
            // 16: the row is the fourth of the second pass.
            for rows in [ROW..13, ROW - 2..12, ROW - 3..14, ROW - 7..12, 5..13, 0..16] {
                let many = result(rows.clone(), SPLIT, adapter);
                let at = (ROW - rows.start) * pad4(n);
                assert!(
                    many[at..at + pad4(n)] == alone,
                    "{dtype} {rows:?} adapter {adapter}"
                );
            }
        }
    }
}

/// `high` lets a decode step's products of few rows be split, on GPUs or where that was chosen, and no others.
#[test]
fn the_precision_high_splits_products_of_few_rows_alone() {
    use tea_wgpu::config::MatmulPrecision::{High, Highest};
    use tea_wgpu::gpu::DeviceKind;
    use tea_wgpu::kernels::tune::Class;
    let gpu = open();
    if gpu.forced_variant().is_some() || gpu.caps().forced_lanes.is_some() {
        println!("skipped: the environment forces a variant or lanes");
        return;
    }
    let (n, k) = (40, 776);
    let mut g = Gen::new(7);
    let weight = upload(&gpu, &TestWeight::random(&mut g, DType::F32, n, k, 1.0), u64::MAX);
    let x = gpu.upload("x", &g.rows(17, k, 1.0)).unwrap();
    let product = |m: usize, variant| {
        run(&gpu, m * n, |r, y| {
            r.force_variant(variant);
            r.let_sums_split(true);
            linear::forward(r, &x, &weight, None, y, m, Write::SET).unwrap();
        })
    };
    let is = |m, variant| product(m, None) == product(m, Some(variant));
    let by_default = if gpu.caps().kind == DeviceKind::Cpu {
        "portable"
    } else {
        SPLIT
    };
    gpu.set_matmul_precision(High).unwrap();
    assert_eq!(gpu.matmul_precision(), High);
    assert!(is(9, by_default) && is(17, "portable"));
    // As if it had been chosen for these rows.
    let chosen = |m| (Class::new(OPS[0], DType::F32, [m, n, k]).key(), SPLIT);
    gpu.set_choices([1, 8, 16, 17].map(chosen).into());
    assert!(is(1, SPLIT) && is(8, SPLIT) && is(9, SPLIT) && is(16, SPLIT) && is(17, "portable"));
    assert!(product(9, Some(SPLIT)) != product(9, Some("portable")));
    gpu.set_matmul_precision(Highest).unwrap();
    assert!(is(1, "portable") && is(9, "portable"));
}

/// The cooperative variants this adapter runs; none is printed, not passed over in silence.
fn coop_variants(gpu: &Gpu) -> Vec<&'static str> {
    let all = variants(gpu, "linear_forward");
    let coop: Vec<&str> = all.into_iter().filter(|v| v.starts_with("coop-")).collect();
    println!("{}: cooperative variants {coop:?}", gpu.report().name);
    let listed = gpu
        .report()
        .coop
        .iter()
        .any(|s| s.m == s.n && s.m == s.k && s.ab == "f16" && s.c == "f32");
    assert_eq!(
        coop.is_empty(),
        !listed || !gpu.report().f16 || !gpu.report().subgroups
    );
    coop
}

/// On cooperative matrices too, a row's bits depend on the row alone: alone, last of 8, or in the middle of 150, which is another
/// place of another tile.
#[test]
fn a_rows_bits_do_not_depend_on_the_batch_on_cooperative_matrices() {
    let gpu = open();
    for variant in coop_variants(&gpu) {
        for dtype in [DType::F32, DType::Q4_0] {
            let (n, k) = (100, test_cols(dtype)[1]);
            let mut g = Gen::new(6);
            let weight = upload(&gpu, &TestWeight::random(&mut g, dtype, n, k, 1.0), u64::MAX);
            for forward in [true, false] {
                let (inputs, width) = if forward { (k, n) } else { (n, k) };
                // Rows of very different sizes: a gradient's scale must be its own row's.
                let x: Vec<f32> = (0..150)
                    .flat_map(|r| g.rows(1, inputs, 10.0f32.powi(r % 13 - 6)))
                    .collect();
                let result = |m: usize, rows: &[f32]| {
                    let x = gpu.upload("x", rows).unwrap();
                    run(&gpu, m * pad4(width), |r, y| {
                        r.force_variant(Some(variant));
                        if forward {
                            linear::forward(r, &x, &weight, None, y, m, Write::SET).unwrap();
                        } else {
                            linear::input_gradient(r, &x, &weight, y, m, Write::SET).unwrap();
                        }
                    })
                };
                let (cols, out) = (pad4(inputs), pad4(width));
                let many = result(150, &x);
                let row = &many[77 * out..78 * out];
                assert!(
                    result(1, &x[77 * cols..78 * cols]) == row,
                    "{variant} {dtype} {forward}"
                );
                assert!(
                    result(8, &x[70 * cols..78 * cols])[7 * out..] == *row,
                    "{variant} {dtype} {forward}"
                );
            }
        }
    }
}

/// The setting moves every product to cooperative matrices and back, and is refused where there are none.
#[test]
fn the_precision_setting_chooses_cooperative_matrices_or_is_refused() {
    use tea_wgpu::config::MatmulPrecision::{Highest, Medium};
    let gpu = open();
    if gpu.forced_variant().is_some() {
        return;
    }
    let coop = coop_variants(&gpu);
    let Some(best) = coop.last() else {
        let error = gpu.set_matmul_precision(Medium).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let text = error.to_string();
        assert!(
            text.contains("--matmul-precision medium") && text.contains("use --matmul-precision highest"),
            "{text}"
        );
        assert_eq!(gpu.matmul_precision(), Highest);
        return;
    };
    let mut g = Gen::new(7);
    let weight = upload(
        &gpu,
        &TestWeight::random(&mut g, DType::F32, 40, 72, 1.0),
        u64::MAX,
    );
    let x = gpu.upload("x", &g.rows(9, 72, 1.0)).unwrap();
    let product = |variant| {
        run(&gpu, 9 * 40, |r, y| {
            r.force_variant(variant);
            linear::forward(r, &x, &weight, None, y, 9, Write::SET).unwrap();
        })
    };
    let (exact, rounded) = (product(None), product(Some(*best)));
    assert!(exact != rounded);
    gpu.set_matmul_precision(Medium).unwrap();
    assert!(product(None) == rounded && product(Some("portable")) == exact);
    gpu.set_matmul_precision(Highest).unwrap();
    assert!(product(None) == exact);
}
