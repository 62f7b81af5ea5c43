//! The memory plan against what is really allocated.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::process::{Command, Output};
use tea_wgpu::config::{ActivationMemory, FloatDtype, Optim, Residency, TrainConfig, TrainFlags};
use tea_wgpu::error::Result;
use tea_wgpu::gpu::{BufferLimits, DeviceKind, Gpu, GpuOptions, Imagined, Readback};
use tea_wgpu::kernels::weight::Weight;
use tea_wgpu::model::kv_cache::KvCache;
use tea_wgpu::model::load::Source;
use tea_wgpu::model::params::LoraShape;
use tea_wgpu::model::plan::Plan;
use tea_wgpu::model::spec::Proj;
use tea_wgpu::model::workspace::{Shape, Workspace};
use tea_wgpu::optim::{Optimizer, Settings};
use tea_wgpu::tensor::DType;
use tea_wgpu::train::run::{RunOptions, train};
use tea_wgpu::train::setup::default_reward;
use tea_wgpu::train::sizes::Outline;

const SETTINGS: Settings = Settings {
    learning_rate: 1e-3,
    warmup_steps: 0,
    weight_decay: 0.0,
    max_grad_norm: 1.0,
    optim: Optim::Adamw,
    schedule: tea_wgpu::config::Schedule::Constant,
    total_steps: 1,
};

fn golden(name: &str) -> Source {
    let dir = format!("{}/tests/golden/models/{name}", env!("CARGO_MANIFEST_DIR"));
    Source::open(&dir).unwrap()
}

/// A device of its own, so that nothing else is counted.
fn device() -> Gpu {
    Gpu::open(&GpuOptions {
        device: std::env::var("TEA_DEVICE").ok(),
        ..Default::default()
    })
    .unwrap()
}

/// What `make` allocates on a device of its own: planned, and by the device's count. They are the same to the byte.
fn planned<T>(what: &str, make: impl Fn(&Gpu) -> Result<T>) -> Plan {
    let gpu = device();
    let plan = Plan::of(&gpu.buffer_limits(), &make).unwrap();
    let _held = make(&gpu).unwrap();
    let real = gpu.memory();
    let rows: Vec<(String, u64)> = real.by_owner.into_iter().collect();
    assert_eq!(plan.rows, rows, "{what}");
    assert_eq!((plan.total(), &plan.unbound), (real.current, &None), "{what}");
    plan
}

fn shape(rank: usize, backward: bool, kept_blocks: usize) -> Shape {
    Shape {
        rows: 96,
        readouts: 64,
        rank,
        backward,
        kept_blocks,
        half: false,
        vocabulary_head: true,
    }
}

#[test]
fn training_an_adapter_takes_what_the_plan_says() {
    use FloatDtype::{Float16, Float32};
    for (name, kept, half, optim, kv) in [
        ("llama_gqa", 1, false, Optim::Adamw, Float32),
        ("llama_gqa_f16", 9, false, Optim::Adamw8bit, Float16),
        ("llama_gqa", 9, true, Optim::Adamw8bit, Float32),
        ("qwen2_bias", 1, false, Optim::Adamw8bit, Float16),
        ("qwen3_qknorm", 2, true, Optim::Adamw, Float32),
        ("qwen3_qknorm", 2, false, Optim::Adamw, Float16),
    ] {
        let source = golden(name);
        let lora = LoraShape {
            rank: 5,
            alpha: 10.0,
            targets: vec![Proj::Q, Proj::O, Proj::Down],
        };
        let wanted = Shape {
            half,
            ..shape(5, true, kept)
        };
        let settings = Settings { optim, ..SETTINGS };
        let plan = planned(name, |gpu| {
            let mut model = source.load(gpu, None, 64, None)?;
            model.new_adapter(&lora, 1, true)?;
            model.add_gradient_slots(2)?;
            let optimizer = Optimizer::new(gpu, model.trainable(), settings)?;
            let ws = Workspace::new(gpu, &model.spec, wanted)?;
            let cache = KvCache::new(&model, 200, kv)?;
            Ok((model, optimizer, ws, cache))
        });
        // Each matrix's rows are padded to four floats.
        let spec = &source.spec;
        let sides = lora.targets.iter().map(|p| spec.proj_dims(*p));
        let values: usize = sides
            .map(|(out, inp)| 5 * inp.next_multiple_of(4) + out * 8)
            .sum();
        let adapter = (4 * spec.num_layers * values) as u64;
        assert_eq!(plan.bytes("adapter"), adapter, "{name}");
        assert_eq!(plan.bytes("gradients"), 3 * adapter, "{name}");
        let row = spec.num_kv_heads * spec.head_dim * kv.bytes();
        let cache = (2 * spec.num_layers * 200 * row + 4 * 25) as u64;
        assert_eq!(plan.bytes("kv cache"), cache, "{name}");
    }
}

#[test]
fn training_everything_takes_what_the_plan_says() {
    for optim in [Optim::Adamw, Optim::Adamw8bit] {
        let source = golden("llama_tied");
        let settings = Settings { optim, ..SETTINGS };
        let plan = planned(optim.name(), |gpu| {
            let mut model = source.load(gpu, Some(DType::F32), 64, None)?;
            model.train_base()?;
            let optimizer = Optimizer::new(gpu, model.trainable(), settings)?;
            Ok((model, optimizer))
        });
        assert_eq!(plan.bytes("gradients"), plan.bytes("weights"));
    }
}

#[test]
fn scoring_takes_what_the_plan_says() {
    let source = golden("qwen3_score");
    let shape = Shape {
        vocabulary_head: false,
        ..shape(0, false, 1)
    };
    planned("a score", |gpu| {
        let model = source.load(gpu, Some(DType::BF16), 64, None)?;
        let ws = Workspace::new(gpu, &model.spec, shape)?;
        Ok((model, ws))
    });
}

/// A whole run of one step on the embedded models: plan, least by the formula, and the tracker's peak.
fn run_of(base: &str, reward: &str, set: impl FnOnce(&mut TrainFlags)) -> (Plan, Plan, u64) {
    let mut flags = TrainFlags {
        base_dtype: Some(base.into()),
        reward_dtype: Some(reward.into()),
        num_generations: Some(4),
        prompts_per_step: Some(2),
        max_completion_length: Some(8),
        steps: Some(1),
        ..Default::default()
    };
    set(&mut flags);
    let (config, gpu) = (flags.resolve(&default_reward).unwrap(), device());
    let (plan, least) = Outline::open(config.clone())
        .unwrap()
        .plan(&gpu.buffer_limits())
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let options = RunOptions {
        output: dir.path().join("run"),
        resume: false,
        overwrite: false,
    };
    train(&gpu, config, &options).unwrap();
    (plan, least, gpu.memory().peak)
}

/// Bytes for the activations of two of the embedded policy's blocks, not of all.
const SOME: u64 = 2_000_000;

/// Policy, sampler, resident judge, reference, workspace and optimiser, from the settings to the last checkpoint.
#[test]
fn the_peak_of_a_run_is_within_2_percent_of_its_plan() {
    type Set = fn(&mut TrainFlags);
    let cases: [(&str, &str, &str, Set); 10] = [
        ("checkpointed", "f32", "f32", |_| ()),
        ("cache in halves", "f32", "f32", |f| {
            f.kv_cache_dtype = Some(FloatDtype::Float16);
        }),
        ("activations kept", "f32", "q8_0", |f| {
            f.no_checkpointing = Some(true);
        }),
        ("some activations kept", "f32", "q4_0", |f| {
            f.activation_memory = Some(ActivationMemory::Bytes(SOME));
        }),
        ("q4_0 base", "q4_0", "q4_0", |f| f.lora_rank = Some(5)),
        ("q8_0 base, activations kept as f16", "q8_0", "q4_0", |f| {
            f.no_checkpointing = Some(true);
            f.dtype = Some(FloatDtype::Float16);
            f.token_budget = Some(64);
        }),
        ("streamed judge", "f32", "f32", |f| {
            f.reward_residency = Some(Residency::Stream);
        }),
        ("every weight, 8-bit moments", "f32", "q4_0", |f| {
            f.full = Some(true);
            f.beta = Some(0.0);
            f.optim = Some(Optim::Adamw8bit);
        }),
        ("every weight, with a reference", "f32", "bf16", |f| {
            f.full = Some(true)
        }),
        (
            "every weight, no reference, activations kept",
            "f32",
            "q4_0",
            |f| {
                f.full = Some(true);
                f.beta = Some(0.0);
                f.no_checkpointing = Some(true);
            },
        ),
    ];
    for (name, base, reward, set) in cases {
        let (plan, least, peak) = run_of(base, reward, set);
        let off = plan.total().abs_diff(peak);
        if name == "some activations kept" {
            let bytes = plan.bytes("training activations");
            assert!(bytes <= SOME && bytes > SOME / 4 * 3, "{plan}");
        }
        assert!(off * 50 <= peak, "{name}: peak {peak}, planned\n{plan}");
        assert!(least.total() <= peak, "{name}: peak {peak}, least\n{least}");
        for (owner, bytes) in &least.rows {
            assert!(*bytes <= plan.bytes(owner), "{name}: {owner}\n{plan}\n{least}");
        }
    }
}

/// A Llama-3.2-1B policy with an 8B judge, both in q4_0, from their sizes alone.
fn llama(set: impl FnOnce(&mut TrainFlags)) -> TrainConfig {
    let mut flags = TrainFlags {
        model: Some("random:llama-1b".into()),
        reward_model: Some("random:llama-8b".into()),
        base_dtype: Some("q4_0".into()),
        reward_dtype: Some("q4_0".into()),
        max_prompt_length: Some(512),
        ..Default::default()
    };
    set(&mut flags);
    flags.resolve(&default_reward).unwrap()
}

/// On an adapter that binds 2³¹ − 4 bytes at once, as desktop GPUs do.
fn total(config: TrainConfig) -> u64 {
    let limits = BufferLimits {
        binding: (1 << 31) - 4,
        ..BufferLimits::least()
    };
    Outline::open(config).unwrap().plan(&limits).unwrap().0.total()
}

#[test]
fn a_1b_policy_and_an_8b_judge_fit_in_12_and_in_24_gb() {
    let small = llama(|f| {
        f.num_generations = Some(16);
        f.rollout_batch = Some(64);
    });
    assert!(total(small.clone()) <= 12_000_000_000, "{}", total(small));
    // The paper's groups: m = 64 responses of up to 512 tokens, 8 prompts a step, 256 sequences sampled at once.
    let paper = llama(|_| ());
    assert_eq!((paper.num_generations, paper.max_completion_length), (64, 512));
    assert!(total(paper.clone()) <= 24_000_000_000, "{}", total(paper));
}

/// `tea-wgpu plan` with words separated by spaces.
fn plan_command(line: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tea-wgpu"))
        .arg("plan")
        .args(line.split(' '))
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .unwrap()
}

#[test]
fn a_plan_needs_sizes_alone() {
    const SHAPES: &str =
        "--model random:135m --reward-model random:360m --base-dtype q8_0 --reward-dtype q4_0";
    let out = plan_command(&format!("{SHAPES} --max-prompt-length 64 --json"));
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let plan: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    // 61 norms of 576 stay f32; q8_0 takes 34 bytes for 32 weights.
    let vectors = 61 * 576u64;
    assert_eq!(
        plan["bytes"]["policy weights"],
        vectors * 4 + (134_515_008 - vectors) / 32 * 34
    );
    assert!(plan["plan_over_formula"].as_f64().unwrap() > 1.0);
    let out = plan_command(SHAPES);
    let error = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(2));
    assert!(error.contains("--max-prompt-length"), "{error}");
}

/// What `plan --json` counts for the activations of training.
fn activations(flags: &str, memory: Option<u64>) -> u64 {
    let line =
        format!("--model random:135m --reward-model random:135m --max-prompt-length 64 --json {flags}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tea-wgpu"));
    command
        .arg("plan")
        .args(line.split_whitespace())
        .env("HF_HUB_OFFLINE", "1");
    if let Some(bytes) = memory {
        command.env("TEA_MEMORY_LIMIT", bytes.to_string());
    }
    let out = command.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let plan: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    if let Some(have) = memory.filter(|have| *have >= 1 << 33) {
        assert!(plan["total"].as_u64().unwrap() <= have);
    }
    plan["bytes"]["training activations"].as_u64().unwrap()
}

#[test]
fn activations_fill_their_budget_block_by_block() {
    let (one, all) = (activations("", None), activations("--no-checkpointing", None));
    let block = (all - one) / 29;
    assert_eq!(one + 29 * block, all);
    let kept = |n: u64| one + (n - 1) * block;
    for (budget, blocks) in [
        (kept(1), 1),
        (kept(8) - 1, 7),
        (kept(8), 8),
        (all, 30),
        (all * 2, 30),
    ] {
        assert_eq!(
            activations(&format!("--activation-memory {budget}"), None),
            kept(blocks)
        );
    }
    assert_eq!(
        activations("--activation-memory 1GiB", None),
        kept((((1 << 30) - one) / block) + 1)
    );
    // What a device's memory leaves beside the rest; types are given, so that only the blocks kept differ.
    let auto = "--base-dtype q8_0 --reward-dtype q8_0 --activation-memory auto";
    assert_eq!(activations(auto, Some(1)), one);
    assert_eq!(activations(auto, Some(1 << 40)), all);
    let some = activations(auto, Some(8 << 30));
    assert!(some > one && some < all, "{one} {some} {all}");
    for (flags, says) in [
        (format!("--activation-memory {}", one - 1), one.to_string()),
        ("--activation-memory lots".into(), "512MiB".into()),
        (
            "--activation-memory 1GiB --no-checkpointing".into(),
            "--no-checkpointing".into(),
        ),
    ] {
        let line = format!("--model random:135m --reward-model random:135m --max-prompt-length 64 {flags}");
        let out = plan_command(&line);
        let error = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(2), "{error}");
        assert!(
            error.contains("--activation-memory") && error.contains(&says),
            "{error}"
        );
    }
}

#[test]
fn a_directory_of_config_json_alone_is_planned_and_not_trained() {
    let place = tempfile::tempdir().unwrap();
    let models = format!("{}/tests/golden/models", env!("CARGO_MANIFEST_DIR"));
    for name in ["qwen3_qknorm", "qwen3_score"] {
        std::fs::create_dir(place.path().join(name)).unwrap();
        let file = format!("{name}/config.json");
        std::fs::copy(format!("{models}/{file}"), place.path().join(&file)).unwrap();
    }
    let flags = |dir: &str| TrainFlags {
        model: Some(format!("{dir}/qwen3_qknorm")),
        reward_model: Some(format!("{dir}/qwen3_score")),
        prompts: Some(place.path().join("prompts.jsonl")),
        max_prompt_length: Some(16),
        max_completion_length: Some(8),
        ..Default::default()
    };
    std::fs::write(place.path().join("prompts.jsonl"), "{\"prompt\": \"a\"}\n").unwrap();
    let config = flags(place.path().to_str().unwrap())
        .resolve(&default_reward)
        .unwrap();
    let (plan, _) = Outline::open(config.clone())
        .unwrap()
        .plan(&BufferLimits::least())
        .unwrap();
    let whole = planned("the same with weights", |gpu| {
        golden("qwen3_qknorm").load(gpu, Some(DType::F32), 24, None)
    });
    assert_eq!(plan.bytes("policy weights"), whole.bytes("weights"));
    assert_eq!(plan.bytes("policy rope"), whole.bytes("rope"));
    let options = RunOptions {
        output: place.path().join("run"),
        resume: false,
        overwrite: false,
    };
    let error = train(&device(), config, &options).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("model.safetensors"), "{error}");
    assert!(!options.output.exists());
}

/// What the plan says of `make`, which is in what an allocation says.
fn said<T>(gpu: &Gpu, make: impl Fn(&Gpu) -> Result<T>) -> Option<String> {
    let said = Plan::of(&gpu.buffer_limits(), &make).unwrap().unbound;
    if let Some(said) = &said {
        let error = make(gpu).err().unwrap();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(said), "{said}\n{error}");
    }
    said
}

/// A buffer that no adapter of the smallest kind binds is refused by the plan in the words of the allocation.
#[test]
fn a_plan_names_the_buffer_that_could_not_be_bound() {
    let adapter = Imagined {
        kind: DeviceKind::Discrete,
        f16: false,
        subgroup_size: None,
        coop: None,
    };
    let gpu = Gpu::imagine(adapter, &GpuOptions::default()).unwrap();
    let limits = gpu.buffer_limits();
    assert_eq!(limits.binding, BufferLimits::least().binding);
    let source = golden("llama_gqa");
    let spec = &source.spec;
    let most = |width: usize| (limits.binding / 4) as usize / width;
    let shape = |rows, readouts, rank| Shape {
        rows,
        readouts,
        ..shape(rank, false, 1)
    };
    // One buffer in each is a row too long.
    for (label, shape) in [
        (
            "activations/q",
            shape(most(spec.num_heads * spec.head_dim) + 1, 1, 0),
        ),
        ("activations/lora", shape(most(1 << 16) + 1, 1, 1 << 16)),
        ("head/logits", shape(1, most(4096) + 1, 0)),
    ] {
        let said = said(&gpu, |gpu| Workspace::new(gpu, spec, shape)).unwrap();
        assert!(said.starts_with(label), "{said}");
    }
    let fits = shape(most(1 << 16), 1, 1 << 16);
    assert_eq!(said(&gpu, |gpu| Workspace::new(gpu, spec, fits)), None);
    let rows = most(spec.num_kv_heads * spec.head_dim) / 8 * 8;
    for (rows, fits) in [(rows, true), (rows + 1, false)] {
        let said = said(&gpu, |gpu| {
            KvCache::new(&source.load(gpu, None, 8, None)?, rows, FloatDtype::Float32)
        });
        assert_eq!(said.is_none(), fits, "{said:?}");
    }
    let positions = most(spec.head_dim) + 1;
    let long = said(&gpu, |gpu| source.load(gpu, None, positions, None)).unwrap();
    assert!(long.starts_with("rope/turns"), "{long}");
    // A matrix is split between rows, 4,096 at least.
    let split = said(&gpu, |gpu| Weight::zeros(gpu, "weights", 1 << 20, 8192));
    assert_eq!(split, None);
    let wide = said(&gpu, |gpu| Weight::zeros(gpu, "weights", 4096, 8196)).unwrap();
    assert!(
        wide.starts_with("4096 rows of a f32 matrix of 8196 columns needs"),
        "{wide}"
    );
    // Results on their way to the host are held to the size of a buffer.
    let report = |bytes: u64| said(&gpu, |gpu| Readback::new(gpu, "step/report", bytes));
    assert_eq!(report(limits.buffer), None);
    assert!(report(limits.buffer + 8).unwrap().starts_with("step/report"));
}

/// Both ends of every numeric flag's range, as the program itself states them: a plan, or a refusal that names the flag.
#[test]
fn the_ends_of_every_range_are_planned_or_refused_by_name() {
    // No driver is found, so that the plan is that of the smallest adapter.
    let plan = |words: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_tea-wgpu"))
            .args(["plan", "--model", "random:135m", "--reward-model", "random:135m"])
            .args(words)
            .envs([("VK_DRIVER_FILES", "/none"), ("VK_ICD_FILENAMES", "/none")])
            .envs([("WGPU_BACKEND", "vulkan"), ("HF_HUB_OFFLINE", "1")])
            .output()
            .unwrap();
        (out.status.code(), String::from_utf8(out.stderr).unwrap())
    };
    let help = Command::new(env!("CARGO_BIN_EXE_tea-wgpu"))
        .args(["plan", "--help"])
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let flags = help.lines().filter_map(|line| {
        let (flag, value) = line.trim().split_once(' ')?;
        (flag.starts_with("--") && value.starts_with('<')).then_some(flag)
    });
    let mut numbers = 0;
    for flag in flags {
        let (_, said) = plan(&[&format!("{flag}=~")]);
        let words: Vec<&str> = said.split([' ', ':', '\n', ',']).collect();
        let Some(at) = words.windows(4).position(|w| w[0] == "from" && w[2] == "to") else {
            continue;
        };
        numbers += 1;
        for end in [words[at + 1], words[at + 3]] {
            let given = format!("{flag}={end}");
            let mut line = vec![given.as_str()];
            if flag != "--max-prompt-length" {
                line.push("--max-prompt-length=64");
            }
            let (code, said) = plan(&line);
            let named = code == Some(2) && said.contains(flag) && !said.contains("internal error");
            assert!(code == Some(0) || named, "{given}: {code:?} {said}");
        }
    }
    assert!(numbers > 25, "{numbers}");
}
