//! Cases and tests of the sampler.

use crate::kernels::harness::{Case, Gen, RecordFn, Slot, Tol, wide, with_scratch};
use crate::kernels::head::{HeadBuffers, log_probs_twin, row_stats};
use crate::kernels::pad4;
use crate::kernels::sample::{SampleParams, draw_twin, sample};
use crate::kernels::work::{Phase, Sizes, Wanted, Work};

const EXACT: Tol = Tol {
    atol: 0.0,
    rtol: 0.0,
    why: "token ids",
};
const LOGP: Tol = Tol {
    atol: 1e-6,
    rtol: 1e-6,
    why: "two f32 subtractions",
};

/// Draws whose best two scores are nearer than this may differ from the float64 twin.
const NEAR: f64 = 1e-4;

/// Rows of logits whose twin draws are no near-ties, with their keys (all active).
fn rows(m: usize, v: usize, scale: f32, params: &SampleParams) -> (Vec<f32>, Vec<u32>) {
    let mut g = Gen::new((1000 * m + v) as u64);
    let (mut logits, mut keys) = (Vec::new(), Vec::new());
    while keys.len() < 4 * m {
        let row = g.rows(1, v, scale);
        let key = g.below(3, u32::MAX);
        if draw_twin(&row[..v], [key[0], key[1]], key[2], params).1 > NEAR {
            logits.extend(row);
            keys.extend([key[0], key[1], key[2], 1]);
        }
    }
    (logits, keys)
}

fn case(m: usize, v: usize, scale: f32, params: SampleParams) -> Case {
    let (logits, keys) = rows(m, v, scale, &params);
    let lse: Vec<[f32; 2]> = logits
        .chunks_exact(pad4(v))
        .map(|r| log_probs_twin(&wide(&r[..v]), 0).1.map(|x| x as f32))
        .collect();
    let drawn: Vec<(usize, f64)> = (logits.chunks_exact(pad4(v)).zip(keys.chunks_exact(4)))
        .zip(&lse)
        .map(|((row, k), lse)| {
            let t = draw_twin(&row[..v], [k[0], k[1]], k[2], &params).0;
            (t, f64::from(row[t]) - f64::from(lse[0]) - f64::from(lse[1]))
        })
        .collect();
    Case {
        name: format!("sample M={m} V={v} scale={scale} {params:?}"),
        slots: vec![
            Slot::input(&logits),
            Slot::input(lse.as_flattened()),
            Slot::input(&keys),
            Slot::Out(m),
            Slot::Out(m),
            Slot::InOut(vec![0.0; m]),
        ],
        record: draw(m, v, params),
        expect: Box::new(move || {
            // Token words compare by their bits read as f32.
            let tokens = drawn
                .iter()
                .map(|d| f64::from(f32::from_bits(d.0 as u32)))
                .collect();
            vec![(3, tokens, EXACT), (4, drawn.iter().map(|d| d.1).collect(), LOGP)]
        }),
        flops: (m * v * 60) as f64,
    }
}

fn draw(m: usize, v: usize, params: SampleParams) -> RecordFn {
    Box::new(move |rec, b| sample(rec, &b[0], &b[1], &b[2], &b[3], &b[4], &b[5], m, v, &params))
}

/// What a model asks of the op: a draw from each row of logits, after the row's statistics.
pub(in crate::kernels) fn work(wanted: &Wanted<'_>) -> Vec<Work> {
    let decode = wanted
        .rows()
        .filter(|(_, phase)| matches!(phase, Phase::Decode(_)));
    let one = |(sizes, phase): (Sizes, Phase)| {
        // An exponential and two multiply-adds for the statistics; ten rounds of Philox and a logarithm for the noise.
        let (op, cost) = (("sampling", sizes, phase), (10.0, 1.0));
        Work::elements(op, sizes.vocab, cost, |m, v| {
            let params = SampleParams::PLAIN;
            let mut drawn = case(m, v, 1.0, params);
            drawn.slots[1] = Slot::Out(2 * m);
            drawn.slots.push(Slot::Out(m));
            let draw = draw(m, v, params);
            drawn.record = with_scratch(
                move |gpu| HeadBuffers::new(gpu, m),
                move |rec, b, hb| {
                    row_stats(rec, hb, &b[0], &b[1], &b[6], m, v)?;
                    draw(rec, b)
                },
            );
            drawn
        })
    };
    decode.map(one).collect()
}

pub(super) fn plain() -> Vec<Case> {
    let hot = SampleParams {
        temperature: 0.7,
        ..SampleParams::PLAIN
    };
    vec![
        case(1, 1, 1.0, SampleParams::GREEDY),
        case(5, 331, 4.0, SampleParams::GREEDY),
        case(2, 257, 1e4, SampleParams::GREEDY),
        case(9, 331, 4.0, SampleParams::PLAIN),
        case(2, 257, 1e4, SampleParams::PLAIN),
        case(3, 4097, 2.0, hot),
    ]
}

pub(super) fn filtered() -> Vec<Case> {
    let with = |temperature, top_k, top_p, min_p| SampleParams {
        temperature,
        top_k,
        top_p,
        min_p,
    };
    vec![
        case(9, 331, 4.0, with(1.0, 5, 1.0, 0.0)),
        case(9, 331, 4.0, with(1.0, 1, 1.0, 0.0)),
        case(7, 331, 4.0, with(0.7, 0, 0.8, 0.0)),
        case(7, 331, 4.0, with(1.3, 0, 1.0, 0.1)),
        case(7, 331, 4.0, with(1.0, 0, 1.0, 1.0)),
        case(7, 331, 4.0, with(1.0, 40, 0.9, 0.05)),
        case(2, 4099, 3.0, with(1.0, 5000, 0.5, 0.0)),
        case(1, 1, 1.0, with(1.0, 3, 0.5, 0.5)),
        case(2, 257, 1e4, with(1.0, 20, 0.9, 0.01)),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::gpu::{Gpu, GpuOptions, Recorder};
    use crate::kernels::sample::{NO_TOKEN, kept_twin};

    fn run(gpu: &Gpu, logits: &[f32], keys: &[u32], v: usize, params: &SampleParams) -> (Vec<u32>, Vec<f32>) {
        let m = keys.len() / 4;
        let buffer = |n: usize| gpu.alloc("b", 4 * n as u64).unwrap();
        let (l, k) = (gpu.upload("l", logits).unwrap(), gpu.upload("k", keys).unwrap());
        let lse: Vec<[f32; 2]> = logits
            .chunks_exact(pad4(v))
            .map(|r| log_probs_twin(&wide(&r[..v]), 0).1.map(|x| x as f32))
            .collect();
        let lse = gpu.upload("lse", lse.as_flattened()).unwrap();
        let (token, logp, scratch) = (buffer(m), buffer(m), buffer(m));
        let mut rec = Recorder::new(gpu);
        sample(&mut rec, &l, &lse, &k, &token, &logp, &scratch, m, v, params).unwrap();
        rec.submit().unwrap();
        (gpu.read(&token, 0, m).unwrap(), gpu.read(&logp, 0, m).unwrap())
    }

    #[test]
    fn idle_rows_draw_nothing_and_ties_go_to_the_lowest() {
        let gpu = Gpu::open(&GpuOptions::default()).unwrap();
        let logits = [[1.0f32, 7.0, 7.0, 2.0, 7.0, 0.0, 0.0, 0.0]; 3].concat();
        let keys = [1u32, 2, 3, 1, 1, 2, 3, 0, 1, 2, 3, 1];
        let filtered = SampleParams {
            top_k: 2,
            min_p: 0.9,
            ..SampleParams::PLAIN
        };
        let (token, logp) = run(&gpu, &logits, &keys, 5, &SampleParams::GREEDY);
        assert_eq!(token, [1, NO_TOKEN, 1]);
        let expected = log_probs_twin(&wide(&logits[..5]), 1).0;
        assert!((f64::from(logp[0]) - expected).abs() < 1e-6, "{logp:?}");
        assert_eq!((logp[1], logp[2].to_bits()), (0.0, logp[0].to_bits()));
        for params in [SampleParams::PLAIN, filtered] {
            let (token, logp) = run(&gpu, &logits, &keys, 5, &params);
            assert_eq!((token[1], logp[1]), (NO_TOKEN, 0.0));
            assert!(token[0] == token[2] && token[0] < 5);
        }
        // Three tokens tie at the second place of top-2: all stay.
        assert_eq!(
            kept_twin(&logits[..5], &filtered),
            [false, true, true, false, true]
        );
    }

    /// Beside logits of 1e20 both the random part of a score and the logarithm of the sum are below half an ulp.
    #[test]
    fn large_logits_are_drawn_as_small_ones() {
        let gpu = Gpu::open(&GpuOptions::default()).unwrap();
        let (m, v) = (64, 20);
        let keys: Vec<u32> = (0..m as u32).flat_map(|i| [i, 3, 5, 1]).collect();
        let params = [
            SampleParams::PLAIN,
            SampleParams {
                temperature: 1e-4,
                top_p: 0.9,
                ..SampleParams::PLAIN
            },
        ];
        for params in params {
            let small = run(&gpu, &vec![0.0; m * v], &keys, v, &params);
            assert!(small.0.iter().any(|t| *t != small.0[0]));
            for level in [1e20f32, -1e20, 3e37] {
                let large = run(&gpu, &vec![level; m * v], &keys, v, &params);
                assert_eq!(large.0, small.0, "{level} {params:?}");
                for logp in large.1 {
                    assert!(
                        (f64::from(logp) + libm::log(v as f64)).abs() < 1e-6,
                        "{level}: {logp}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_draw_does_not_depend_on_the_batch() {
        let gpu = Gpu::open(&GpuOptions::default()).unwrap();
        let params = SampleParams {
            top_p: 0.95,
            temperature: 1.1,
            ..SampleParams::PLAIN
        };
        let v = 331;
        let (logits, keys) = rows(37, v, 3.0, &params);
        for params in [params, SampleParams::PLAIN] {
            let all = run(&gpu, &logits, &keys, v, &params);
            for r in [0, 20, 36] {
                let row = &logits[r * pad4(v)..(r + 1) * pad4(v)];
                let one = run(&gpu, row, &keys[4 * r..4 * r + 4], v, &params);
                assert_eq!((all.0[r], all.1[r].to_bits()), (one.0[0], one.1[0].to_bits()));
            }
        }
    }

    /// Pearson's statistic of `counts` against `probabilities`, with its degrees of freedom.
    fn chi_square(counts: &[u32], probabilities: &[f64]) -> (f64, f64) {
        let n: f64 = counts.iter().map(|c| f64::from(*c)).sum();
        let cells: Vec<_> = (counts.iter().zip(probabilities))
            .filter(|(_, p)| **p > 0.0)
            .collect();
        let statistic = cells
            .iter()
            .map(|(c, p)| (f64::from(**c) - n * **p).powi(2) / (n * **p))
            .sum();
        (statistic, (cells.len() - 1) as f64)
    }

    /// The upper 1e-4 quantile of chi-square (Wilson and Hilferty).
    fn bound(df: f64) -> f64 {
        let t = 2.0 / (9.0 * df);
        df * (1.0 - t + 3.719 * t.sqrt()).powi(3)
    }

    #[test]
    fn draws_follow_the_softmax() {
        const DRAWS: usize = 100_000;
        let gpu = Gpu::open(&GpuOptions::default()).unwrap();
        let v = 23;
        let row = Gen::new(11).rows(1, v, 2.0);
        let logits: Vec<f32> = (0..DRAWS).flat_map(|_| row.iter().copied()).collect();
        // Positions of a few responses, as a rollout draws them.
        let keys: Vec<u32> = (0..DRAWS as u32)
            .flat_map(|i| {
                let key = crate::rng::seed_for(1, 2, u64::from(i % 7), u64::from(i % 50));
                [key[0], key[1], i / 50, 1]
            })
            .collect();
        let with = |temperature, top_k, top_p, min_p| SampleParams {
            temperature,
            top_k,
            top_p,
            min_p,
        };
        for params in [
            SampleParams::PLAIN,
            with(0.7, 0, 1.0, 0.0),
            with(1.0, 6, 1.0, 0.0),
            with(1.0, 0, 0.8, 0.0),
            with(1.0, 0, 1.0, 0.1),
            with(1.2, 12, 0.9, 0.05),
        ] {
            let kept = kept_twin(&row[..v], &params);
            let law = |temperature: f64| {
                let weight =
                    |i: usize| f64::from(u8::from(kept[i])) * (f64::from(row[i]) / temperature).exp();
                let total: f64 = (0..v).map(weight).sum();
                (0..v).map(|i| weight(i) / total).collect::<Vec<_>>()
            };
            let mut counts = vec![0u32; v];
            for t in run(&gpu, &logits, &keys, v, &params).0 {
                counts[t as usize] += 1;
            }
            for i in 0..v {
                assert!(
                    kept[i] || counts[i] == 0,
                    "{params:?}: token {i} was filtered out"
                );
            }
            let t = f64::from(params.temperature);
            let (statistic, df) = chi_square(&counts, &law(t));
            assert!(
                statistic < bound(df),
                "{params:?}: {statistic} with {df} degrees of freedom"
            );
            let (other, _) = chi_square(&counts, &law(t * 1.25));
            assert!(
                other > bound(df),
                "{params:?}: the test cannot tell a temperature 25% off"
            );
        }
    }

    #[test]
    fn bad_settings_name_their_flag() {
        let bad = [
            (
                SampleParams {
                    temperature: -1.0,
                    ..SampleParams::PLAIN
                },
                "--temperature",
            ),
            (
                SampleParams {
                    temperature: f32::NAN,
                    ..SampleParams::PLAIN
                },
                "--temperature",
            ),
            (
                SampleParams {
                    top_p: 0.0,
                    ..SampleParams::PLAIN
                },
                "--top-p",
            ),
            (
                SampleParams {
                    min_p: 1.5,
                    ..SampleParams::PLAIN
                },
                "--min-p",
            ),
        ];
        for (params, flag) in bad {
            assert!(params.validate().unwrap_err().to_string().contains(flag));
        }
        assert!(SampleParams::GREEDY.validate().is_ok() && SampleParams::PLAIN.is_policy());
    }
}
