//! Tests of `bench train`, `bench e2e` and `bench rollout` on the embedded models.
#![allow(clippy::unwrap_used, reason = "tests")]
use super::*;
use crate::bench::policy::PolicySettings;
use crate::bench::{block, rollout};
use crate::gpu::{Gpu, GpuOptions};

fn settings() -> Settings {
    Settings {
        batch: 2,
        num_generations: 3,
        prompt_length: 5,
        max_completion_length: 4,
        repetitions: 2,
        token_budget: 20,
        no_checkpointing: false,
        activation_memory: None,
        dtype: Default::default(),
        optim: Default::default(),
        kv_cache_dtype: Default::default(),
        reference: true,
    }
}

fn open(gpu: &Gpu, name: &str, score: bool) -> Policy {
    let dir = format!("{}/models/{name}", env!("CARGO_MANIFEST_DIR"));
    let s = PolicySettings {
        model: dir,
        dtype: None,
        lora_rank: 4,
        seed: 1,
    };
    let policy = Policy::open(gpu, &s, 64, score).unwrap();
    policy.for_steps_of(settings().batch).unwrap()
}

#[test]
fn sizes_add_up() {
    let s = settings();
    // A response's last token is predicted, not read.
    assert_eq!(s.rows(), 2 * (5 + 3 * 3));
    assert_eq!(s.targets(), 24);
    let spec = crate::model::shapes::Named::find("135m").unwrap().spec();
    assert_eq!(s.workspace(&spec, 4).unwrap().rows, 20);
    assert!(Settings { batch: 0, ..s }.validate().is_err());
}

#[test]
fn a_step_is_measured_phase_by_phase() {
    let options = GpuOptions {
        device: std::env::var("TEA_DEVICE").ok(),
        ..Default::default()
    };
    let gpu = Gpu::open(&options).unwrap();
    let (policy, judge) = (open(&gpu, "tiny", false), open(&gpu, "tiny-reward", true));
    let rows = run(&policy, &settings(), Some(&judge), true).unwrap();
    let seconds = |phase: &str| {
        let row = rows.iter().find(|r| r.test.starts_with(phase));
        row.unwrap_or_else(|| panic!("no row {phase}")).value
    };
    let phases = [
        "sample ",
        "score ",
        "reference ",
        "forward ",
        "backward ",
        "optimizer ",
    ];
    assert!(phases.iter().all(|p| seconds(p) > 0.0));
    assert!(seconds("step ") > seconds("forward+backward "));
    // The sampling windows and one readback: two windows of four tokens each group, or fewer.
    assert!(seconds("whole step ") > 0.0);
    let waits = rows.iter().find(|r| r.test.starts_with("host waits")).unwrap();
    let windows = waits.extra["sampling windows"].as_f64().unwrap();
    assert!(windows > 0.0);
    assert_eq!(waits.samples, [windows + 1.0; 2]);
    let made = rows.iter().find(|r| r.test.starts_with("pipelines")).unwrap();
    assert_eq!(made.value, 0.0, "pipelines are made once");
    let all = rows.iter().find(|r| r.variant == "all").unwrap().value;
    let parts: f64 = rows
        .iter()
        .filter(|r| r.test == "peak on the device" && r.variant != "all")
        .map(|r| r.value)
        .sum();
    assert!((all - parts).abs() < 1e-6, "{all} {parts}");
    // Groups of 2 and of 4 tokens end in the same window. Scoring beside sampling needs nothing of its own.
    let made = |what: &str| rows.iter().find(|r| r.test.starts_with(what)).unwrap().value;
    assert_eq!(made("allocations"), 0.0);
    let compared: Vec<&Row> = rows.iter().filter(|r| r.test == "sample+score 2×3×4").collect();
    let groups = |row: &Row| row.extra["groups beside"].as_f64().unwrap();
    assert_eq!(compared.len(), 2);
    assert_eq!((groups(compared[0]), groups(compared[1])), (0.0, 0.0));
    let longer = Settings {
        max_completion_length: 20,
        token_budget: 32,
        ..settings()
    };
    let rows = run(&policy, &longer, Some(&judge), true).unwrap();
    let compared: Vec<&Row> = rows.iter().filter(|r| r.test == "sample+score 2×3×20").collect();
    assert_eq!((groups(compared[0]), groups(compared[1])), (1.0, 0.0));
    assert!(compared[0].extra["score recorded beside s"].as_f64().unwrap() > 0.0);
    assert!(compared.iter().all(|r| r.value > 0.0));
    // Without sampling and reward there are no such rows.
    let rows = run(&policy, &settings(), None, false).unwrap();
    assert!(!rows.iter().any(|r| {
        ["sample ", "score ", "whole step ", "host waits"]
            .iter()
            .any(|t| r.test.starts_with(t))
    }));
}

#[test]
fn a_block_is_measured_with_the_gradients_of_its_weights() {
    let options = GpuOptions {
        device: std::env::var("TEA_DEVICE").ok(),
        ..Default::default()
    };
    let gpu = Gpu::open(&options).unwrap();
    let s = PolicySettings {
        model: "random:smollm2-135m".into(),
        dtype: None,
        lora_rank: 0,
        seed: 1,
    };
    let policy = Policy::block(&gpu, &s, 8).unwrap();
    let rows = block::run(&policy, 2, 8, 2).unwrap();
    assert_eq!(rows[0].test, "block forward+backward 2×8");
    assert!(rows[0].value > 0.0);
    let gradients: Vec<_> = policy.model.trainable();
    assert!(gradients.len() >= 9);
    for t in gradients.iter().filter(|t| t.name.contains("proj")) {
        let sum: f64 = t
            .grad
            .read_f32(&gpu)
            .unwrap()
            .iter()
            .map(|g| f64::from(g.abs()))
            .sum();
        assert!(sum > 0.0, "{}", t.name);
    }
    let s = PolicySettings {
        model: "tiny".into(),
        ..s
    };
    assert!(Policy::block(&gpu, &s, 8).is_err());
}

#[test]
fn sampling_rates_are_reported() {
    let options = GpuOptions {
        device: std::env::var("TEA_DEVICE").ok(),
        ..Default::default()
    };
    let gpu = Gpu::open(&options).unwrap();
    let policy = open(&gpu, "tiny", false);
    let s = rollout::Settings {
        prefill: vec![8, 16],
        decode: vec![1, 4],
        decode_length: 3,
        batch: 2,
        num_generations: 3,
        prompt_length: 5,
        max_completion_length: 4,
        repetitions: 2,
        token_budget: 64,
        kv_cache_dtype: crate::config::FloatDtype::Float16,
    };
    let rows = rollout::run(&policy, &s).unwrap();
    let tests: Vec<&str> = rows.iter().map(|r| r.test.as_str()).collect();
    assert_eq!(
        tests[..7],
        [
            "pp8",
            "pp16",
            "tg3",
            "tg3",
            "tg3 batch 4 over pp16",
            "sample 2×3×4",
            "sample 2×3×4"
        ]
    );
    assert!(rows[..4].iter().all(|r| r.value > 0.0 && r.samples.len() == 2));
    let ratio = rows[3].value / rows[1].value;
    assert!((rows[4].value / ratio - 1.0).abs() < 1e-12);
    // Every place decodes to the end where lengths are even and all fit; each prompt is computed once.
    let extra = |at: usize, column: &str| rows[at].extra[column].as_f64().unwrap();
    assert_eq!(
        (
            extra(5, "occupancy"),
            extra(5, "prefilled"),
            extra(5, "allocations")
        ),
        (1.0, 10.0, 0.0)
    );
    // Three sequences: limits of 4 first, then of 2, whose last window's first step ends them.
    assert_eq!((extra(6, "occupancy"), extra(6, "prefilled")), (1.0, 10.0));
}
