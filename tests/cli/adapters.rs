//! Adapters of others: `logprobs` with what PEFT 0.21.2 computes from the same files (float64,
//! transformers 5.24).

use std::borrow::Cow;

use serde_json::{Value, json};
use tea_wgpu::model::save::write_safetensors;
use tea_wgpu::model::store::{HostTensor, WeightStore};

use super::{adapter, f32s, golden, jsonl, max_abs, model, tea, text};

const NAME: &str = "llama_gqa";
const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

type Tensor = HostTensor<'static>;

/// The rank that a tensor is cut to; none leaves it out.
type Rank<'a> = &'a dyn Fn(&str) -> Option<usize>;

/// The first rows of A, or columns of B, of a rank.
fn cut(name: &str, t: &Tensor, rank: usize) -> Tensor {
    let values = t.to_f32();
    let (rows, cols) = (t.shape[0], t.shape[1]);
    let (shape, kept): (_, Vec<f32>) = if name.contains("lora_A") {
        (vec![rank, cols], values[..rank * cols].to_vec())
    } else {
        let row = |r: usize| values[r * cols..r * cols + rank].to_vec();
        (vec![rows, rank], (0..rows).flat_map(row).collect())
    };
    HostTensor {
        dtype: tea_wgpu::tensor::DType::F32,
        shape,
        bytes: Cow::Owned(bytemuck::pod_collect_to_vec(&kept)),
    }
}

/// Log-probabilities of the golden model's second sequence with its adapter, whose configuration is
/// changed and whose tensors are chosen and cut to the rank that `rank` gives (none: left out).
fn logprobs(changes: &Value, rank: Rank) -> Vec<f32> {
    let dir = tempfile::tempdir().unwrap();
    let from = adapter(NAME);
    let mut config: Value = serde_json::from_slice(&std::fs::read(from.join(CONFIG)).unwrap()).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    std::fs::write(dir.path().join(CONFIG), config.to_string()).unwrap();
    let store = WeightStore::open_safetensors(&from.join(WEIGHTS)).unwrap();
    let tensors: Vec<(String, Tensor)> = store
        .names()
        .filter_map(|name| {
            let whole = store.get(name).unwrap().into_owned();
            rank(name).map(|r| (name.to_string(), cut(name, &whole, r)))
        })
        .collect();
    write_safetensors(&dir.path().join(WEIGHTS), &tensors).unwrap();
    let input = jsonl(
        dir.path(),
        [json!({"id": 0, "tokens": golden(NAME)["sequences"][1]})],
    );
    let run = tea(&[
        "logprobs",
        "--model",
        text(&model(NAME)),
        "--adapter",
        text(dir.path()),
        "--input",
        text(&input),
    ]);
    f32s(&run.lines()[0]["logprobs"])
}

#[test]
fn ranks_scales_and_layers_are_pefts() {
    let whole = |_: &str| Some(5);
    let uneven = |name: &str| match name {
        n if n.contains(".q_proj.") => Some(2),
        n if n.contains("layers.1.mlp.down_proj") => Some(3),
        _ => Some(5),
    };
    let second = |name: &str| name.contains(".layers.1.").then_some(5);
    let two = |name: &str| (name.contains("q_proj") || name.contains("gate_proj")).then_some(5);
    let rest = |name: &str| {
        let out = name.contains("layers.0.mlp.up_proj") || name.contains("v_proj");
        (!out).then_some(5)
    };
    let ranks = json!({"q_proj": 2, "layers.1.mlp.down_proj": 3});
    let cases: [(Value, Rank, [f32; 10]); 8] = [
        (
            json!({}),
            &whole,
            [
                -6.33427, -5.76383, -6.18888, -6.28543, -6.66728, -8.65342, -7.59151, -7.37341, -6.957,
                -5.94478,
            ],
        ),
        (
            json!({"use_rslora": true}),
            &whole,
            [
                -5.44593, -6.28813, -6.38202, -6.26023, -7.44348, -7.96031, -8.026, -6.82829, -6.76077,
                -5.89935,
            ],
        ),
        (
            json!({"alpha_pattern": {"q_proj": 3, r"layers\.0\.mlp\..*": 40}}),
            &whole,
            [
                -6.28274, -6.41768, -7.04052, -7.51907, -7.26537, -8.27509, -7.77255, -7.31745, -6.99492,
                -4.46224,
            ],
        ),
        (
            json!({"rank_pattern": ranks}),
            &uneven,
            [
                -6.28726, -5.77566, -6.0018, -6.33291, -6.62509, -8.59166, -7.29203, -7.27922, -6.53696,
                -5.73223,
            ],
        ),
        (
            json!({"rank_pattern": ranks, "alpha_pattern": {"up_proj": 2}, "use_rslora": true}),
            &uneven,
            [
                -5.76085, -6.00932, -6.07715, -6.4179, -7.11854, -8.10108, -7.83755, -7.04043, -7.1071,
                -5.27288,
            ],
        ),
        (
            json!({"layers_to_transform": [1]}),
            &second,
            [
                -6.16389, -5.11596, -5.91505, -5.9529, -6.39377, -8.41246, -7.1144, -7.62113, -5.97327,
                -6.11975,
            ],
        ),
        (
            json!({"target_modules": r".*\.(q_proj|gate_proj)"}),
            &two,
            [
                -7.54703, -5.27928, -5.94429, -6.71767, -6.14849, -8.61698, -6.55534, -7.42082, -6.70594,
                -5.99884,
            ],
        ),
        (
            json!({"target_modules": "all-linear", "exclude_modules": ["layers.0.mlp.up_proj", "v_proj"]}),
            &rest,
            [
                -7.56964, -5.53505, -5.94685, -6.44165, -5.97274, -8.80263, -7.4626, -7.40057, -7.20585,
                -6.2921,
            ],
        ),
    ];
    for (changes, rank, want) in cases {
        let off = max_abs(&logprobs(&changes, rank), &want);
        assert!(off < 1e-4, "{changes}: off by {off}");
    }
}
