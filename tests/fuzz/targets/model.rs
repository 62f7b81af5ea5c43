//! Weights and the settings beside them.

use std::fs;
use std::path::Path;

use arbitrary::{Result as Drawn, Unstructured};
use serde_json::{Map, Value, json};
use tea_wgpu::error::Result;
use tea_wgpu::model::gguf::Gguf;
use tea_wgpu::model::load::gguf_vocab;
use tea_wgpu::model::peft;
use tea_wgpu::model::source::ModelFiles;
use tea_wgpu::model::spec::ModelSpec;
use tea_wgpu::model::store::WeightStore;
use tea_wgpu::text::Tokenizer;

use crate::make::{damage, edge, odd, put, text, twist, written};

const CONFIG: &str = include_str!("../../golden/models/qwen3_qknorm/config.json");
const GENERATION: &str = include_str!("../../golden/models/qwen3_qknorm/generation_config.json");
const ADAPTER: &str = include_str!("../run/adapter_config.json");

/// A small model of one layer.
fn spec() -> ModelSpec {
    let config = json!({
        "model_type": "llama", "vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 8, "rms_norm_eps": 1e-5, "rope_theta": 1e4,
        "max_position_embeddings": 64, "tie_word_embeddings": true, "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2,
    });
    ModelSpec::from_config_json(&serde_json::to_vec(&config).unwrap(), None, "config.json").unwrap()
}

fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// A safetensors file of these tensors: a header, twisted or not, with its length and data that fit or do not.
fn safetensors_bytes(
    u: &mut Unstructured<'_>,
    tensors: impl IntoIterator<Item = (String, Vec<usize>)>,
) -> Drawn<Vec<u8>> {
    let (mut header, mut at) = (Map::new(), 0usize);
    for (name, shape) in tensors {
        let size = shape.iter().fold(4usize, |n, d| n.saturating_mul(*d));
        let end = at.saturating_add(size);
        header.insert(
            name,
            json!({"dtype": "F32", "shape": shape, "data_offsets": [at, end]}),
        );
        at = end;
    }
    let mut header = Value::Object(header);
    if u.ratio(3, 4)? {
        twist(u, &mut header)?;
    }
    let mut head = written(u, &header)?;
    let length = match u.int_in_range(0..=9)? {
        0 => edge(u)? as u64,
        1 => head.len() as u64 + u.int_in_range(0..=16)?,
        _ => {
            head.resize(head.len().next_multiple_of(8), b' ');
            head.len() as u64
        }
    };
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.append(&mut head);
    // Floats that are ordinary numbers, or bit patterns of every kind.
    let ordinary = u.ratio(4, 5)?;
    let fill: [u8; 4] = if ordinary {
        0.5f32.to_le_bytes()
    } else {
        u.arbitrary()?
    };
    bytes.extend(fill.iter().cycle().take(at.min(1 << 16)));
    if u.ratio(1, 5)? {
        damage(u, &mut bytes)?;
    }
    Ok(bytes)
}

/// The model's own tensors.
pub(crate) fn safetensors(u: &mut Unstructured<'_>, dir: &Path) -> Drawn<Result<()>> {
    let spec = spec();
    let bytes = safetensors_bytes(u, spec.tensors().map(|t| (t.name, t.shape)))?;
    let path = dir.join("model.safetensors");
    fs::write(&path, bytes).unwrap();
    Ok(read_weights(&path, &spec))
}

fn read_weights(path: &Path, spec: &ModelSpec) -> Result<()> {
    let store = WeightStore::open_safetensors(path)?;
    store.check(spec)?;
    for t in spec.tensors() {
        let tensor = store.get(&t.name)?;
        std::hint::black_box(tensor.elements());
    }
    Ok(())
}

/// A GGUF value with its type.
fn gguf_value(u: &mut Unstructured<'_>, out: &mut Vec<u8>, depth: usize) -> Drawn<()> {
    let kind = u.int_in_range(0..=if depth < 3 { 13u32 } else { 12 })?;
    out.extend(kind.to_le_bytes());
    gguf_body(u, out, kind, depth)
}

fn gguf_body(u: &mut Unstructured<'_>, out: &mut Vec<u8>, kind: u32, depth: usize) -> Drawn<()> {
    match kind {
        0 | 1 | 7 => out.push(u.arbitrary()?),
        2 | 3 => out.extend((edge(u)? as u16).to_le_bytes()),
        4 | 5 => out.extend((edge(u)? as u32).to_le_bytes()),
        6 => out.extend(u.arbitrary::<f32>()?.to_le_bytes()),
        8 => gguf_text(out, &text(u)?),
        9 => {
            let inner = u.int_in_range(0..=12u32)?;
            let n = u.int_in_range(0..=8u64)?;
            out.extend(inner.to_le_bytes());
            let said = if u.ratio(1, 6)? { edge(u)? as u64 } else { n };
            out.extend(said.to_le_bytes());
            for _ in 0..n {
                if depth < 4 {
                    gguf_body(u, out, inner, depth + 1)?;
                }
            }
        }
        10 | 11 => out.extend((edge(u)? as u64).to_le_bytes()),
        12 => out.extend(u.arbitrary::<f64>()?.to_le_bytes()),
        _ => {}
    }
    Ok(())
}

fn gguf_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// A GGUF file of one layer with a vocabulary, entry by entry; some entries are other than they should be.
pub(crate) fn gguf(u: &mut Unstructured<'_>, dir: &Path) -> Drawn<Result<()>> {
    let mut entries: Vec<Vec<u8>> = Vec::new();
    let whole = |key: &str, n: u32| {
        let mut out = Vec::new();
        gguf_text(&mut out, key);
        out.extend(4u32.to_le_bytes());
        out.extend(n.to_le_bytes());
        out
    };
    let words = |key: &str, word: &str| {
        let mut out = Vec::new();
        gguf_text(&mut out, key);
        out.extend(8u32.to_le_bytes());
        gguf_text(&mut out, word);
        out
    };
    entries.push(words("general.architecture", "llama"));
    for (key, n) in [
        ("block_count", 1),
        ("embedding_length", 32),
        ("feed_forward_length", 32),
        ("attention.head_count", 1),
        ("attention.head_count_kv", 1),
        ("context_length", 64),
        ("rope.dimension_count", 32),
        ("vocab_size", 8),
    ] {
        let n = if u.ratio(1, 12)? { edge(u)? as u32 } else { n };
        entries.push(whole(&format!("llama.{key}"), n));
    }
    let mut eps = Vec::new();
    gguf_text(&mut eps, "llama.attention.layer_norm_rms_epsilon");
    eps.extend(6u32.to_le_bytes());
    eps.extend(1e-5f32.to_le_bytes());
    entries.push(eps);
    vocabulary(u, &mut entries)?;
    for _ in 0..u.int_in_range(0..=2)? {
        let mut entry = Vec::new();
        let odd_key = text(u)?;
        gguf_text(
            &mut entry,
            u.choose(&[
                "general.alignment",
                "tokenizer.ggml.pre",
                "llama.rope.freq_base",
                &odd_key,
            ])?,
        );
        gguf_value(u, &mut entry, 0)?;
        entries.push(entry);
    }
    if u.ratio(1, 6)? {
        let at = u.choose_index(entries.len())?;
        entries.remove(at);
    }

    let (mut infos, mut data, mut tensors) = (Vec::new(), Vec::new(), 0u64);
    for (name, shape) in [
        ("token_embd.weight", vec![32u64, 8]),
        ("output_norm.weight", vec![32]),
        ("blk.0.attn_norm.weight", vec![32]),
        ("blk.0.ffn_norm.weight", vec![32]),
        ("blk.0.attn_q.weight", vec![32, 32]),
        ("blk.0.attn_k.weight", vec![32, 32]),
        ("blk.0.attn_v.weight", vec![32, 32]),
        ("blk.0.attn_output.weight", vec![32, 32]),
        ("blk.0.ffn_gate.weight", vec![32, 32]),
        ("blk.0.ffn_up.weight", vec![32, 32]),
        ("blk.0.ffn_down.weight", vec![32, 32]),
    ] {
        let mut shape = shape;
        if u.ratio(1, 20)? {
            let at = u.choose_index(shape.len())?;
            shape[at] = edge(u)? as u64;
        }
        // F32, or Q8_0: 34 bytes for 32 values.
        let quantised = u.ratio(1, 4)?;
        let kind: u32 = match u.int_in_range(0..=29)? {
            0 => u.int_in_range(0..=40)?,
            _ if quantised => 8,
            _ => 0,
        };
        gguf_text(&mut infos, name);
        infos.extend((shape.len() as u32).to_le_bytes());
        shape.iter().for_each(|d| infos.extend(d.to_le_bytes()));
        infos.extend(kind.to_le_bytes());
        let at = if u.ratio(1, 30)? {
            edge(u)? as u64
        } else {
            data.len() as u64
        };
        infos.extend(at.to_le_bytes());
        let values = shape.iter().fold(1u64, |n, d| n.saturating_mul(*d)).min(1024) as usize;
        data.resize(
            data.len() + if quantised { values / 32 * 34 } else { values * 4 },
            0u8,
        );
        data.resize(data.len().next_multiple_of(32), 0);
        tensors += 1;
    }
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    let said = if u.ratio(1, 30)? { edge(u)? as u64 } else { tensors };
    bytes.extend(said.to_le_bytes());
    let said = if u.ratio(1, 30)? {
        edge(u)? as u64
    } else {
        entries.len() as u64
    };
    bytes.extend(said.to_le_bytes());
    bytes.extend(entries.concat());
    bytes.extend(infos);
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    bytes.extend(data);
    if u.ratio(1, 4)? {
        damage(u, &mut bytes)?;
    }
    let path = dir.join("model.gguf");
    fs::write(&path, bytes).unwrap();
    let typed = text(u)?;
    Ok(read_gguf(&path, &typed))
}

/// Eight tokens with scores and types, or merges.
fn vocabulary(u: &mut Unstructured<'_>, entries: &mut Vec<Vec<u8>>) -> Drawn<()> {
    let start = |key: &str, kind: u32, n: u64| {
        let mut out = Vec::new();
        gguf_text(&mut out, key);
        out.extend(9u32.to_le_bytes());
        out.extend(kind.to_le_bytes());
        out.extend(n.to_le_bytes());
        out
    };
    let model = *u.choose(&["llama", "gpt2", "bert"])?;
    let mut out = Vec::new();
    gguf_text(&mut out, "tokenizer.ggml.model");
    out.extend(8u32.to_le_bytes());
    gguf_text(&mut out, model);
    entries.push(out);
    let usual = ["<unk>", "<s>", "</s>", "\u{2581}", "a", "b", "ab", "\u{2581}a"];
    let mut tokens = start("tokenizer.ggml.tokens", 8, 8);
    for token in usual {
        let odd = text(u)?;
        gguf_text(&mut tokens, if u.ratio(1, 12)? { &odd } else { token });
    }
    entries.push(tokens);
    let mut scores = start("tokenizer.ggml.scores", 6, 8);
    for i in 0..8 {
        let score = if u.ratio(1, 20)? {
            u.arbitrary()?
        } else {
            -(i as f32)
        };
        scores.extend(score.to_le_bytes());
    }
    entries.push(scores);
    let mut types = start("tokenizer.ggml.token_type", 5, 8);
    for i in 0..8i32 {
        let kind = if u.ratio(1, 20)? {
            edge(u)? as i32
        } else {
            [2, 3, 3, 1, 1, 1, 1, 1][i as usize]
        };
        types.extend(kind.to_le_bytes());
    }
    entries.push(types);
    if model == "gpt2" {
        let mut merges = start("tokenizer.ggml.merges", 8, 1);
        let odd = text(u)?;
        gguf_text(&mut merges, if u.ratio(1, 4)? { &odd } else { "a b" });
        entries.push(merges);
    }
    Ok(())
}

fn read_gguf(path: &Path, typed: &str) -> Result<()> {
    let gguf = Gguf::open(path)?;
    let spec = gguf.spec()?;
    let store = WeightStore::open(&ModelFiles::Gguf(path.to_path_buf()))?;
    store.check(&spec)?;
    for t in spec.tensors() {
        std::hint::black_box(store.get(&t.name)?.elements());
    }
    let tokenizer = Tokenizer::from_gguf(&gguf_vocab(&gguf)?)?;
    let ids = tokenizer.encode(typed, true)?;
    tokenizer.decode(&ids, false)?;
    Ok(())
}

/// `config.json` and `generation_config.json`, twisted.
pub(crate) fn config(u: &mut Unstructured<'_>, _: &Path) -> Drawn<Result<()>> {
    let (mut config, mut generation) = (value(CONFIG), value(GENERATION));
    if u.ratio(9, 10)? {
        twist(u, &mut config)?;
    }
    if u.ratio(1, 4)? {
        let known = [
            "rope_scaling",
            "rope_parameters",
            "layer_types",
            "sliding_window",
            "head_dim",
            "quantization_config",
        ];
        put(&mut config, u.choose(&known)?, odd(u, 0)?);
    }
    if u.ratio(1, 3)? {
        twist(u, &mut generation)?;
    }
    let (config, generation) = (written(u, &config)?, written(u, &generation)?);
    let generation = u.ratio(1, 2)?.then_some(&generation[..]);
    Ok(
        ModelSpec::from_config_json(&config, generation, "config.json").map(|spec| {
            std::hint::black_box(spec.tensors().take(1000).count());
        }),
    )
}

/// `adapter_config.json`, twisted, without weights.
pub(crate) fn adapter(u: &mut Unstructured<'_>, dir: &Path) -> Drawn<Result<()>> {
    let (mut config, spec) = (value(ADAPTER), spec());
    if u.ratio(3, 4)? {
        twist(u, &mut config)?;
    }
    let bytes = written(u, &config)?;
    fs::write(dir.join("adapter_config.json"), bytes).unwrap();
    // Weights that fit, where the settings can be read.
    let tensors = peft::read_config(dir).and_then(|c| c.tensors(&spec));
    let path = dir.join("adapter_model.safetensors");
    if u.ratio(9, 10)? {
        let bytes = safetensors_bytes(u, tensors.unwrap_or_default())?;
        fs::write(path, bytes).unwrap();
    } else {
        let _ = fs::remove_file(path);
    }
    Ok(peft::read_adapter(dir, &spec).map(drop))
}
