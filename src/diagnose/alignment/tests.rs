//! Gram matrices against the full backward pass; cosines against sums of explicit gradients.
#![allow(clippy::unwrap_used, reason = "tests")]

use rand::RngExt;

use super::*;
use crate::advantage::{GroupContext, Rule, TeaParams};
use crate::gpu::{Gpu, GpuOptions};
use crate::model::load::Source;
use crate::model::run::{Group, each_packed};
use crate::model::workspace::{Shape, Workspace};
use crate::rng::{Stream, seed_for};
use crate::tensor::DType;

fn stream(n: u64) -> Stream {
    Stream::new(seed_for(n, 0, 0, 0), 0x7e57)
}

fn source(name: &str) -> Source {
    Source::open(&format!(
        "{}/tests/golden/models/{name}",
        env!("CARGO_MANIFEST_DIR")
    ))
    .unwrap()
}

fn gpu() -> Gpu {
    let device = std::env::var("TEA_DEVICE").ok();
    Gpu::open(&GpuOptions {
        device,
        ..Default::default()
    })
    .unwrap()
}

/// A prompt and responses of several lengths (one token included), some of them equal.
fn sequences(vocab: usize) -> (Vec<u32>, Vec<Vec<u32>>) {
    let mut rng = stream(3);
    let mut draw = |n: usize| -> Vec<u32> { (0..n).map(|_| rng.random_range(0..vocab as u32)).collect() };
    let prompt = draw(5);
    let mut responses: Vec<Vec<u32>> = [7, 1, 4, 9, 2].map(&mut draw).to_vec();
    responses.push(responses[0].clone());
    responses.push(responses[3].clone());
    (prompt, responses)
}

/// ∇ log π of one response over the last block, by the full backward pass of a model whose every tensor is trained.
fn full_gradient(gpu: &Gpu, name: &str, prompt: &[u32], response: &[u32]) -> Vec<f64> {
    let mut model = source(name).load(gpu, Some(DType::F32), 64, None).unwrap();
    model.train_base().unwrap();
    let shape = Shape {
        rows: 32,
        readouts: 32,
        rank: 0,
        backward: true,
        kept_blocks: usize::MAX,
        half: false,
        vocabulary_head: true,
    };
    let ws = Workspace::new(gpu, &model.spec, shape).unwrap();
    let groups = [Group {
        prefix: prompt,
        suffixes: vec![response],
    }];
    each_packed(&model, &ws, &groups, false, &mut |rec, packed| {
        packed.forward(rec, true)?;
        rec.write(ws.coefficients(), 0, &vec![1.0f32; packed.loaded.p])?;
        packed.backward(rec)
    })
    .unwrap();
    let block = format!(".layers.{}.", model.spec.num_layers - 1);
    let tensors: Vec<_> = model
        .trainable()
        .into_iter()
        .filter(|t| t.name.contains(&block))
        .collect();
    assert!(tensors.len() >= 9, "seven linear layers and two norms");
    tensors
        .iter()
        .flat_map(|t| t.grad.read_f32(gpu).unwrap())
        .map(f64::from)
        .collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

#[test]
fn inner_products_are_those_of_the_full_gradients() {
    let gpu = gpu();
    // Grouped heads without biases; QK-norms.
    for name in ["llama_gqa", "qwen3_qknorm"] {
        let source = source(name);
        let (prompt, responses) = sequences(source.spec.vocab_size);
        let want: Vec<Vec<f64>> = responses
            .iter()
            .map(|r| full_gradient(&gpu, name, &prompt, r))
            .collect();
        let mut model = source.load(&gpu, Some(DType::F32), 64, None).unwrap();
        model.watch_block(model.spec.num_layers - 1).unwrap();
        // All columns at once, and one chunk a sweep.
        let mut grams = Vec::new();
        for memory in [1 << 30, 0] {
            let builder = GramBuilder::new(&model, responses.len(), 32, memory).unwrap();
            assert_eq!(builder.sweeps() > 1, memory == 0);
            let mut ticks = 0;
            let gram = builder.gram(&prompt, &responses, &mut |_, _| ticks += 1).unwrap();
            assert_eq!((gram.distinct, ticks), (5, 5 * builder.sweeps()));
            for i in 0..responses.len() {
                for j in 0..responses.len() {
                    let got = f64::from(gram.values[gram.of[i] * gram.distinct + gram.of[j]]);
                    let scale = (dot(&want[i], &want[i]) * dot(&want[j], &want[j])).sqrt();
                    let off = (got - dot(&want[i], &want[j])).abs() / scale;
                    // f32 gradients and products of a few thousand terms.
                    assert!(off < 1e-4, "{name}: ⟨{i}, {j}⟩ is off by {off:.1e}");
                }
            }
            grams.push(gram);
        }
        // A second prompt through the same buffers leaves nothing of the first.
        let builder = GramBuilder::new(&model, responses.len(), 32, 1 << 30).unwrap();
        builder.gram(&responses[3], &responses, &mut |_, _| ()).unwrap();
        let again = builder.gram(&prompt, &responses, &mut |_, _| ()).unwrap();
        assert_eq!(again, grams[0], "{name}: run twice, the same bits");
    }
}

/// A pool of random gradients in d dimensions with their Gram matrix; responses 0 and 1 are equal.
fn pool(n: usize, d: usize, seed: u64) -> (Pool, Vec<Vec<f64>>) {
    let mut rng = stream(seed);
    // Quarters, so that products are exact in f32.
    let mut g: Vec<Vec<f64>> = (0..n)
        .map(|_| (0..d).map(|_| f64::from(rng.random_range(-8..9)) / 4.0).collect())
        .collect();
    g[1] = g[0].clone();
    let rewards: Vec<f64> = (0..n).map(|_| rng.random_range(-1.0..3.0)).collect();
    let responses: Vec<Vec<u32>> = (0..n as u32).map(|i| vec![if i == 1 { 0 } else { i }]).collect();
    let (_, first) = distinct(&responses);
    let values = first
        .iter()
        .flat_map(|a| {
            first
                .iter()
                .map(|b| dot(&g[*a], &g[*b]) as f32)
                .collect::<Vec<_>>()
        })
        .collect();
    let gram = Gram::new(&responses, values).unwrap();
    (Pool { rewards, gram }, g)
}

fn settings(rules: Vec<Rule>, sizes: Vec<usize>, seeds: usize) -> AlignmentSettings {
    AlignmentSettings {
        rules,
        sizes,
        seeds,
        seed: 9,
        bon: 16,
        baseline: Some("grpo".into()),
    }
}

fn update(weights: &[f64], g: &[Vec<f64>]) -> Vec<f64> {
    (0..g[0].len())
        .map(|k| weights.iter().zip(g).map(|(w, g)| w * g[k]).sum())
        .collect()
}

#[test]
fn cosines_are_those_of_the_summed_gradients() {
    // m = n: the group is the whole pool, whatever the permutation.
    let n = 24;
    let tea = Rule::Tea(TeaParams {
        bon: 16,
        ..TeaParams::DEFAULT
    });
    let pools: Vec<_> = (0..3).map(|s| pool(n, 11, s)).collect();
    let found = align(
        &pools.iter().map(|p| p.0.clone()).collect::<Vec<_>>(),
        &settings(vec![tea, Rule::Grpo], vec![n], 2),
    )
    .unwrap();
    for (rule, cell) in [tea, Rule::Grpo].iter().zip(&found.cells) {
        let mut all = Vec::new();
        for ((pool, g), got) in pools.iter().zip(&cell.per_prompt) {
            let a = update(&rule.advantages(&pool.rewards).unwrap(), g);
            let o = update(&cosine::oracle(16).advantages(&pool.rewards).unwrap(), g);
            let want = dot(&a, &o) / (dot(&a, &a) * dot(&o, &o)).sqrt();
            assert!((got.unwrap() - want).abs() < 1e-9, "{rule}: {got:?} {want}");
            all.push(want);
        }
        let mean = all.iter().sum::<f64>() / 3.0;
        let sd = (all.iter().map(|c| (c - mean).powi(2)).sum::<f64>() / 2.0).sqrt();
        assert!((cell.cosine.unwrap() - mean).abs() < 1e-9);
        assert!((cell.standard_error.unwrap() - sd / 3f64.sqrt()).abs() < 1e-9);
        assert_eq!((cell.no_signal, cell.m), (0.0, n));
    }
    let d = &found.differences[0];
    assert_eq!(
        (d.rule.as_str(), d.prompts, found.differences.len()),
        ("tea", 3, 1)
    );
    let want = found.cells[0].cosine.unwrap() - found.cells[1].cosine.unwrap();
    let i = d.interval.unwrap();
    assert!((i.mean - want).abs() < 1e-12 && i.low.unwrap() <= want && want <= i.high.unwrap());
    assert_eq!(d.with_zeros, i, "every group has a signal here");
}

#[test]
fn smaller_groups_are_seeded_subsets() {
    let pools: Vec<Pool> = (0..4).map(|s| pool(32, 9, 20 + s).0).collect();
    let of = |sizes: Vec<usize>, seeds| align(&pools, &settings(vec![Rule::Grpo], sizes, seeds)).unwrap();
    let (one, two) = (of(vec![8, 16], 3), of(vec![16], 3));
    assert_eq!(
        one.cells[1], two.cells[0],
        "other sizes do not change a cell, and runs repeat"
    );
    assert_ne!(one.cells[0].per_prompt, one.cells[1].per_prompt);
    assert_ne!(of(vec![8], 4).cells[0].per_prompt, one.cells[0].per_prompt);
}

#[test]
fn the_oracle_is_aligned_with_itself() {
    let (pool, g) = pool(40, 13, 5);
    let weights = cosine::oracle(16).advantages(&pool.rewards).unwrap();
    let o = update(&weights, &g);
    // An affine change of the weights that leaves the update: none. A scale: cosine 1; the opposite: −1.
    for scale in [1.0, 7.5, -2.0] {
        let a: Vec<f64> = pool
            .gram
            .collect(&weights.iter().map(|w| w * scale).collect::<Vec<_>>());
        let image = pool.gram.times(&pool.gram.collect(&weights));
        let got = cosine::cosine(&pool.gram, &a, &image, dot(&o, &o).sqrt()).unwrap();
        assert!((got - scale.signum()).abs() < 1e-9, "{got}");
    }
}

#[test]
fn every_rule_of_the_registry_has_a_row() {
    let pools: Vec<Pool> = (0..2).map(|s| pool(64, 9, 40 + s).0).collect();
    let mut s = settings(Rule::ALL.to_vec(), vec![64], 2);
    s.bon = 128;
    let found = align(&pools, &s).unwrap();
    let works = |rule: &&Rule| pools.iter().all(|p| rule.check(&p.rewards).is_ok());
    for (rule, cell) in Rule::ALL.iter().zip(&found.cells) {
        assert_eq!(cell.rule, rule.name());
        if !works(&rule) {
            let error = cell.error.as_deref().unwrap();
            assert!(error.contains("the reward of sample"), "{error}");
            continue;
        }
        assert_eq!(cell.error, None, "{rule}");
        assert!(
            cell.cosine.is_some_and(|c| (-1.0..=1.0 + 1e-9).contains(&c)),
            "{rule}"
        );
    }
    // Over the whole pool the oracle's group is the target itself.
    let own = found.cells.iter().find(|c| c.rule == "oracle").unwrap();
    assert!((own.cosine.unwrap() - 1.0).abs() < 1e-9);
    assert_eq!(
        found.differences.len(),
        Rule::ALL.iter().filter(works).count() - 1
    );
    // Chow's split is seeded by the group, not the same for all.
    let chow = Rule::ALL.iter().find(|r| r.name() == "chow").unwrap();
    let of = |seed| {
        chow.group_with(&pools[0].rewards, &GroupContext::at(seed, 1, 0))
            .unwrap()
            .advantages
    };
    assert_ne!(of(1), of(2));
}

#[test]
fn groups_without_a_signal_are_counted_and_left_out() {
    let (mut first, _) = pool(16, 7, 31);
    let (second, _) = pool(16, 7, 32);
    first.rewards = vec![0.0; 16];
    let s = settings(vec![Rule::Grpo], vec![4, 16], 3);
    let error = align(std::slice::from_ref(&first), &s).unwrap_err().to_string();
    assert!(error.contains("all equal"), "{error}");
    let found = align(&[first.clone(), second.clone()], &s).unwrap();
    assert_eq!(found.no_oracle, [0]);
    // One response stands out: most groups of 4 do not hold it.
    first.rewards[7] = 1.0;
    let found = align(&[first, second], &s).unwrap();
    let cell = &found.cells[0];
    assert!(
        cell.no_signal > 0.0 && cell.no_signal <= 0.5,
        "{}",
        cell.no_signal
    );
    assert_eq!(found.cells[1].no_signal, 0.0);
    // The missing seeds are all the first prompt's.
    let [one, two] = [0, 1].map(|p| cell.per_prompt[p].unwrap_or(0.0));
    let want = (one * (1.0 - 2.0 * cell.no_signal) + two) / 2.0;
    assert!((cell.cosine_with_zeros.unwrap() - want).abs() < 1e-12);
    let gap = cell.per_prompt_with_zeros[0] - cell.per_prompt_with_zeros[1];
    let error = gap.abs() / 2.0; // of a mean of two
    assert!((cell.standard_error_with_zeros.unwrap() - error).abs() < 1e-12);
    // A rule whose groups of equal rewards weigh something is compared on all groups, or on those both have.
    let (mut sparse, _) = pool(16, 7, 31);
    sparse.rewards = vec![0.0; 16];
    sparse.rewards[7] = 1.0;
    let mut s = settings(vec![Rule::Grpo, Rule::BonMaxSecond], vec![4], 3);
    let mut ties = sparse.clone();
    ties.rewards[3] = 1.0; // where both are in the group the best two are equal: no signal for the second rule alone
    s.seeds = 40;
    let found = align(&[sparse, ties], &s).unwrap();
    let [grpo, second] = [&found.cells[0], &found.cells[1]];
    assert!(second.no_signal > grpo.no_signal && grpo.no_signal > 0.0);
    let d = &found.differences[0];
    let paired =
        |f: &dyn Fn(&Cell, usize) -> f64| (f(second, 0) - f(grpo, 0) + f(second, 1) - f(grpo, 1)) / 2.0;
    assert_eq!((d.prompts, d.rule.as_str()), (2, "bon-max-second"));
    let signalled = paired(&|c, p| c.per_prompt[p].unwrap());
    assert!((d.interval.unwrap().mean - signalled).abs() < 1e-12);
    let all = paired(&|c, p| c.per_prompt_with_zeros[p]);
    assert!((d.with_zeros.mean - all).abs() < 1e-12 && (all - signalled).abs() > 1e-3);
    let shown = table_with_zeros(&found).markdown();
    let share = format!("({:.0}%)", 100.0 * (1.0 - second.no_signal));
    assert!(shown.contains(&share), "{shown}");
    let [one, two] = [false, true].map(|zeros| differences(&found, zeros).unwrap().markdown());
    assert_ne!(one, two);
    // A rule that does not work at a size says so; the others go on.
    let big = Rule::Tea(TeaParams {
        bon: 2,
        ..TeaParams::DEFAULT
    });
    let both = settings(vec![big, Rule::Grpo], vec![4], 1);
    let (third, _) = pool(16, 7, 33);
    let found = align(std::slice::from_ref(&third), &both).unwrap();
    assert!(found.cells[0].error.is_some() && found.cells[1].cosine.is_some());
    assert!(align(&[third], &settings(vec![Rule::Grpo], vec![17], 1)).is_err());
}

fn meta(seed: u64) -> SamplesMeta {
    SamplesMeta {
        model: "m".into(),
        adapter: None,
        reward_model: "r".into(),
        reward_adapter: None,
        prompts: "h".into(),
        num_prompts: 2,
        samples: 2,
        seed,
        max_completion_length: 4,
        raw: false,
        template_date: "2026-01-01".into(),
        matmul_precision: Default::default(),
        base_dtype: None,
        reward_dtype: None,
        weights_sha256: Default::default(),
    }
}

#[test]
fn a_store_resumes_after_a_torn_line_and_refuses_other_settings() {
    let dir = tempfile::tempdir().unwrap();
    let open = |seed, resume, overwrite| Store::open(dir.path(), meta(seed), resume, overwrite);
    let one = |i| PromptSamples {
        prompt_index: i,
        prompt: vec![1],
        responses: vec![vec![2, 3], vec![2, 3]],
        rewards: vec![0.1 + 0.2, 1.0 / 3.0],
    };
    let mut store = open(1, false, false).unwrap();
    store.push(one(0)).unwrap();
    let gram = Gram::new(&store.pools[0].responses, vec![2.5]).unwrap();
    store.keep(0, &gram).unwrap();
    let path = dir.path().join("samples.jsonl");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, [&whole[..], b"{\"prompt_in"].concat()).unwrap();
    let mut again = open(1, true, false).unwrap();
    assert_eq!(again.pools, [one(0)], "rewards keep every bit");
    assert_eq!(again.gram(0).unwrap(), Some(gram));
    again.push(one(1)).unwrap();
    assert_eq!(open(1, true, false).unwrap().pools.len(), 2);
    assert_eq!(again.gram(1).unwrap(), None);

    let error = open(1, false, false).unwrap_err().to_string();
    assert!(
        error.contains("--resume") && error.contains("--overwrite"),
        "{error}"
    );
    let error = open(2, true, false).unwrap_err().to_string();
    assert!(error.contains("seed = 1") && error.contains('2'), "{error}");
    let fresh = open(2, false, true).unwrap();
    assert!(fresh.pools.is_empty() && !path.exists() && !dir.path().join("gram").exists());

    // Weights are told by what they hold, not by where they lie.
    let with = |model: &str, field: &str, hash: &str| {
        let mut meta = meta(2);
        meta.model = model.to_string();
        meta.weights_sha256.insert("model".into(), "aa".into());
        meta.weights_sha256.insert(field.into(), hash.into());
        meta
    };
    let open = |meta: SamplesMeta, overwrite: bool| Store::open(dir.path(), meta, !overwrite, overwrite);
    open(with("m", "model_files", "cc"), true).unwrap();
    open(with("moved", "model_files", "cc"), false).unwrap();
    for (field, hash) in [("model", "bb"), ("model_files", "dd")] {
        let error = open(with("m", field, hash), false).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        for part in ["other weights", "tokenizer", "of m (model)", "--overwrite"] {
            assert!(error.to_string().contains(part), "{part:?} not in {error}");
        }
    }
}
