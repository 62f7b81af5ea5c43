//! Tests of `gguf` and `gguf_model` on files built here.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::model::gguf_model::open_weights;
use crate::model::source::ModelFiles;
use crate::model::spec::{Family, ModelSpec, RopeScaling};
use crate::model::store::WeightStore;

#[derive(Clone)]
enum V {
    U(u32),
    F(f32),
    S(&'static str),
    Strings(Vec<&'static str>),
    Ints(Vec<i32>),
    Bool(bool),
}

/// A file to be: metadata and tensors (GGUF name, row-major shape, GGML type, bytes).
#[derive(Clone)]
struct Build {
    meta: Vec<(String, V)>,
    tensors: Vec<(String, Vec<usize>, u32, Vec<u8>)>,
}

fn string(out: &mut Vec<u8>, s: &str) {
    out.extend((s.len() as u64).to_le_bytes());
    out.extend(s.as_bytes());
}

impl Build {
    fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.meta.len() as u64).to_le_bytes());
        for (key, value) in &self.meta {
            string(&mut out, key);
            let tag = |out: &mut Vec<u8>, t: u32| out.extend(t.to_le_bytes());
            match value {
                V::U(v) => {
                    tag(&mut out, 4);
                    out.extend(v.to_le_bytes());
                }
                V::F(v) => {
                    tag(&mut out, 6);
                    out.extend(v.to_le_bytes());
                }
                V::Bool(v) => {
                    tag(&mut out, 7);
                    out.push(u8::from(*v));
                }
                V::S(s) => {
                    tag(&mut out, 8);
                    string(&mut out, s);
                }
                V::Strings(list) => {
                    tag(&mut out, 9);
                    tag(&mut out, 8);
                    out.extend((list.len() as u64).to_le_bytes());
                    list.iter().for_each(|s| string(&mut out, s));
                }
                V::Ints(list) => {
                    tag(&mut out, 9);
                    tag(&mut out, 5);
                    out.extend((list.len() as u64).to_le_bytes());
                    list.iter().for_each(|v| out.extend(v.to_le_bytes()));
                }
            }
        }
        let mut data = Vec::new();
        for (name, shape, kind, bytes) in &self.tensors {
            string(&mut out, name);
            out.extend((shape.len() as u32).to_le_bytes());
            shape
                .iter()
                .rev()
                .for_each(|n| out.extend((*n as u64).to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend((data.len() as u64).to_le_bytes());
            data.extend(bytes);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(data);
        out
    }

    fn set(mut self, key: &str, value: V) -> Self {
        self.meta.retain(|(k, _)| k != key);
        self.meta.push((key.to_string(), value));
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.meta.retain(|(k, _)| k != name);
        self.tensors.retain(|t| t.0 != name);
        self
    }

    fn tensor(mut self, name: &str, shape: &[usize], kind: u32) -> Self {
        let n: usize = shape.iter().product();
        let bytes = match kind {
            8 => counted(n / 32 * 34),
            _ => (0..n).flat_map(|i| (i as f32).to_le_bytes()).collect(),
        };
        self.tensors.push((name.to_string(), shape.to_vec(), kind, bytes));
        self
    }
}

/// One block, two heads of width 4, one key head, hidden 32; queries and keys stored as Q8_0.
fn model(arch: &'static str) -> Build {
    let mut b = Build {
        meta: Vec::new(),
        tensors: Vec::new(),
    };
    for (key, value) in [
        ("block_count", V::U(1)),
        ("context_length", V::U(64)),
        ("embedding_length", V::U(32)),
        ("feed_forward_length", V::U(40)),
        ("attention.head_count", V::U(2)),
        ("attention.head_count_kv", V::U(1)),
        ("attention.key_length", V::U(4)),
        ("attention.layer_norm_rms_epsilon", V::F(1e-5)),
        ("rope.freq_base", V::F(5e5)),
    ] {
        b = b.set(&format!("{arch}.{key}"), value);
    }
    b = b.set("general.architecture", V::S(arch));
    for (key, value) in [
        ("tokens", V::Strings(vec!["<s>", "a", "b"])),
        ("token_type", V::Ints(vec![3, 1, 1])),
        ("merges", V::Strings(vec!["a b"])),
        ("model", V::S("gpt2")),
        ("pre", V::S("smollm")),
        ("eos_token_id", V::U(2)),
        ("eot_token_id", V::U(1)),
        ("add_bos_token", V::Bool(true)),
    ] {
        b = b.set(&format!("tokenizer.ggml.{key}"), value);
    }
    for (name, shape, kind) in [
        ("token_embd.weight", &[3, 32][..], 0),
        ("output_norm.weight", &[32], 0),
        ("blk.0.attn_norm.weight", &[32], 0),
        ("blk.0.ffn_norm.weight", &[32], 0),
        ("blk.0.attn_q.weight", &[8, 32], 8),
        ("blk.0.attn_k.weight", &[4, 32], 8),
        ("blk.0.attn_v.weight", &[4, 32], 8),
        ("blk.0.attn_output.weight", &[32, 8], 0),
        ("blk.0.ffn_gate.weight", &[40, 32], 8),
        ("blk.0.ffn_up.weight", &[40, 32], 8),
        ("blk.0.ffn_down.weight", &[32, 40], 0),
    ] {
        b = b.tensor(name, shape, kind);
    }
    b
}

fn written(bytes: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    std::fs::write(&path, bytes).unwrap();
    (dir, path)
}

fn spec_of(build: &Build) -> Result<ModelSpec> {
    let (_dir, path) = written(&build.bytes());
    Gguf::open(&path)?.spec()
}

fn message<T>(result: Result<T>) -> String {
    let error = result.err().unwrap();
    assert_eq!(error.exit_code(), 2, "{error}");
    let mut text = error.to_string();
    if let Some(source) = std::error::Error::source(&error) {
        text.push_str(&source.to_string());
    }
    text
}

/// Bytes of quantised blocks: counted up, but that a scale with every bit of its exponent set would be infinite.
fn counted(n: usize) -> Vec<u8> {
    let finite = |byte: u8| if byte & 0x7c == 0x7c { byte & 0x7b } else { byte };
    (0..n).map(|i| finite(i as u8)).collect()
}

#[test]
fn whole_model_reads() {
    let (_dir, path) = written(&model("llama").bytes());
    let files = ModelFiles::Gguf(path.clone());
    let spec = files.spec().unwrap();
    assert_eq!(
        (spec.family, spec.vocab_size, spec.head_dim, spec.num_kv_heads),
        (Family::Llama, 3, 4, 1)
    );
    assert!(spec.tie_word_embeddings && !spec.qkv_bias);
    assert_eq!((spec.rms_norm_eps, spec.rope.theta), (1e-5, 5e5));
    assert_eq!(spec.eos_token_ids, [2, 1]);
    let store = WeightStore::open(&files).unwrap();
    store.check(&spec).unwrap();

    let vocab = Gguf::open(&path).unwrap().vocab().unwrap();
    assert_eq!(vocab.tokens, ["<s>", "a", "b"]);
    assert_eq!(
        (vocab.token_types, vocab.merges),
        (vec![3, 1, 1], vec!["a b".to_string()])
    );
    assert_eq!(
        (vocab.model.as_str(), vocab.pre.as_deref()),
        ("gpt2", Some("smollm"))
    );
    assert_eq!(
        (vocab.eos, vocab.add_bos, vocab.bos),
        (vec![2, 1], Some(true), None)
    );
}

#[test]
fn llama_rows_are_put_into_half_order_and_others_kept() {
    let row = |t: &[u8], r: usize| t[r * 34..(r + 1) * 34].to_vec();
    let raw = counted(8 * 34);
    let (_dir, path) = written(&model("llama").bytes());
    let store = open_weights(&path).unwrap();
    let q = store.get("model.layers.0.self_attn.q_proj.weight").unwrap();
    // Head of four rows (0, 1), (2, 3) → first halves 0, 2, then second halves 1, 3; the second head likewise.
    for (to, from) in [0, 2, 1, 3, 4, 6, 5, 7].into_iter().enumerate() {
        assert_eq!(row(&q.bytes, to), row(&raw, from));
    }
    let k = store.get("model.layers.0.self_attn.k_proj.weight").unwrap();
    assert_eq!(row(&k.bytes, 1), row(&raw, 2));
    let v = store.get("model.layers.0.self_attn.v_proj.weight").unwrap();
    assert_eq!(v.bytes[..], raw[..4 * 34]);

    let (_dir, path) = written(&model("qwen2").tensor("blk.0.attn_q.bias", &[8], 0).bytes());
    let store = open_weights(&path).unwrap();
    assert_eq!(
        store.get("model.layers.0.self_attn.q_proj.weight").unwrap().bytes[..],
        raw[..]
    );
    assert!(store.contains("model.layers.0.self_attn.q_proj.bias"));
}

#[test]
fn rope_factors() {
    // Llama 3.2's: recovered as its four parameters. head_dim 4 at θ 5e5 has frequencies 1 and 1/707 (wavelength 4443).
    let original = 8192.0 / (std::f64::consts::TAU * 5e5f64.sqrt());
    let smooth = (original - 1.0) / 3.0;
    let factor = 1.0 / ((1.0 - smooth) / 32.0 + smooth);
    let with = |factors: [f32; 2]| {
        let mut b = model("llama").tensor("rope_freqs.weight", &[2], 0);
        b.tensors.last_mut().unwrap().3 = factors.iter().flat_map(|f| f.to_le_bytes()).collect();
        spec_of(&b).unwrap().rope.scaling
    };
    assert!(factor > 1.0);
    assert_eq!(
        with([1.0, factor as f32]),
        RopeScaling::Factors(vec![1.0, f64::from(factor as f32)])
    );
    assert_eq!(with([1.0, 1.0]), RopeScaling::None);
    let wide = model("llama").set("llama.rope.freq_base", V::F(1e12));
    let mut b = wide.tensor("rope_freqs.weight", &[2], 0);
    b.tensors.last_mut().unwrap().3 = [1.0f32, 32.0].iter().flat_map(|f| f.to_le_bytes()).collect();
    let RopeScaling::Llama3 { factor, .. } = spec_of(&b).unwrap().rope.scaling else {
        unreachable!()
    };
    assert_eq!(factor, 32.0);
    let b = model("llama").tensor("rope_freqs.weight", &[3], 0);
    assert!(message(spec_of(&b)).contains("has 3 factors, 2 are needed"));
}

#[test]
fn unsupported_models_are_refused() {
    let llama = || model("llama");
    for (build, why) in [
        (model("gemma3"), "\"gemma3\" is not supported"),
        (llama().set("general.type", V::S("adapter")), "--adapter"),
        (llama().set("general.type", V::S("mmproj")), "\"mmproj\""),
        (llama().set("llama.expert_count", V::U(8)), "8 experts"),
        (llama().set("llama.rope.scaling.type", V::S("yarn")), "yarn"),
        (llama().set("llama.attention.sliding_window", V::U(16)), "sliding"),
        (
            llama().set("llama.attention.value_length", V::U(8)),
            "value_length",
        ),
        (
            llama().set("llama.rope.dimension_count", V::U(2)),
            "dimension_count",
        ),
        (
            llama().set("llama.attention.head_count", V::U(0)),
            "num_attention_heads is 0",
        ),
        (
            llama().without("llama.block_count"),
            "llama.block_count is missing",
        ),
        (
            llama().without("llama.attention.layer_norm_rms_epsilon"),
            "epsilon is missing",
        ),
        (
            llama().without("token_embd.weight"),
            "token_embd.weight is missing",
        ),
        (llama().set("llama.block_count", V::S("x")), "block_count"),
    ] {
        let text = message(spec_of(&build));
        assert!(text.contains(why), "{text}");
    }
    let (_dir, path) = written(&llama().without("tokenizer.ggml.tokens").bytes());
    assert!(message(Gguf::open(&path).unwrap().vocab()).contains("no tokenizer"));
    let (_dir, path) = written(&llama().set("tokenizer.ggml.token_type", V::Ints(vec![1])).bytes());
    assert!(message(Gguf::open(&path).unwrap().vocab()).contains("has 1 entries for 3"));

    let mut build = llama();
    build.tensors[4].2 = 13;
    let text = message(spec_of(&build));
    assert!(text.contains("blk.0.attn_q.weight has type Q5_K"), "{text}");
    let (_dir, path) = written(&llama().set("llama.attention.head_count", V::U(4)).bytes());
    assert!(message(open_weights(&path)).contains("attn_q.weight has 8 rows"));
    let missing = llama().without("blk.0.ffn_up.weight");
    let (_dir, path) = written(&missing.bytes());
    let store = open_weights(&path).unwrap();
    let text = message(store.check(&spec_of(&missing).unwrap()));
    assert!(text.contains("mlp.up_proj.weight is missing"), "{text}");
}

#[test]
fn every_truncation_is_a_user_error() {
    let bytes = model("llama").bytes();
    for cut in 0..bytes.len() - 32 {
        // All cuts of the header, and some of the data.
        if cut < 2000 || cut % 97 == 0 {
            assert!(parse(&&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }
    let (_dir, path) = written(&bytes[..100]);
    let text = message(Gguf::open(&path));
    assert!(
        text.contains("truncated GGUF at byte") && text.contains("m.gguf"),
        "{text}"
    );
    let (_dir, path) = written(b"");
    assert!(message(Gguf::open(&path)).contains("empty"));
}

#[test]
fn corrupt_bytes_never_panic_or_allocate_wildly() {
    let bytes = model("llama").bytes();
    let header = 2200.min(bytes.len());
    for at in 0..header {
        for value in [0x00, 0x01, 0x7f, 0xff] {
            let mut broken = bytes.clone();
            broken[at] = value;
            if let Ok((_, tensors)) = parse(&&broken[..]) {
                assert!(
                    tensors.iter().all(|t| t.range.end <= broken.len()),
                    "byte {at} = {value}"
                );
            }
        }
    }
    let header = |version: u32, tensors: u64, meta: u64| {
        let mut out = b"GGUF".to_vec();
        out.extend(version.to_le_bytes());
        out.extend(tensors.to_le_bytes());
        out.extend(meta.to_le_bytes());
        out
    };
    for (bytes, why) in [
        (b"GGML".to_vec(), "not a GGUF file"),
        (header(1, 0, 0), "version 1 is not read"),
        (header(9, 0, 0), "version 9 is not read"),
        (header(3u32.swap_bytes(), 0, 0), "big-endian"),
        (header(3, u64::MAX, 0), "more than the file can hold"),
        (header(3, 0, u64::MAX), "more than the file can hold"),
    ] {
        let text = parse(&&bytes[..]).unwrap_err().to_string();
        assert!(text.contains(why), "{text}");
    }
    let odd = model("llama").set("general.alignment", V::U(48));
    assert!(message(spec_of(&odd)).contains("power of two"));
}

/// A file of metadata alone, one entry: its key, its type and its bytes.
fn metadata(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend(0u64.to_le_bytes());
    out.extend(1u64.to_le_bytes());
    string(&mut out, key);
    out.extend(kind.to_le_bytes());
    out.extend(value);
    out
}

fn array_head(kind: u32, n: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &n.to_le_bytes()].concat()
}

#[test]
fn metadata_is_bounded_before_memory_is_taken() {
    let refused = |bytes: Vec<u8>, why: &str| {
        let error = read_metadata(&bytes).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let said = error.to_string();
        assert!(said.contains(why), "{said}");
    };
    refused(
        metadata("a", 8, &u64::MAX.to_le_bytes()),
        "needs 18446744073709551615 bytes",
    );
    refused(
        metadata("a", 9, &array_head(8, 1 << 60)),
        "more than the file can hold",
    );
    refused(
        metadata(&"k".repeat(1 << 17), 0, &[1]),
        "length of a metadata key: 128 KiB",
    );
    let long = [array_head(0, 5 << 20), vec![1; 5 << 20]].concat();
    refused(
        metadata("a", 9, &long),
        "length of a metadata array: 5242880 elements",
    );
    let nested = array_head(9, 1).repeat(100_000);
    refused(metadata("a", 9, &nested), "nested too deeply");
    refused(
        metadata("a", 9, &[array_head(13, 1), vec![0; 8]].concat()),
        "unknown type 13",
    );
    // Arrays of nothing take nothing.
    let nothing = [array_head(9, 100_000), array_head(0, 0).repeat(100_000)].concat();
    assert!(read_metadata(&metadata("a", 9, &nothing)).unwrap().is_empty());
    let mut many = metadata("a", 9, &[]);
    many[16..24].copy_from_slice(&5u64.to_le_bytes());
    let entry = many.split_off(24);
    let four = [entry, array_head(0, 4 << 20), vec![1; 4 << 20]].concat();
    refused(
        [many, four.repeat(5)].concat(),
        "length of all metadata arrays: 20971520 elements",
    );
    let (_dir, path) = written(&model("llama").bytes());
    std::fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(10 << 40)
        .unwrap();
    assert!(message(Gguf::open(&path)).contains("what follows the last tensor"));
    // Counts are compared before anything is read.
    let mut counts = b"GGUF".to_vec();
    counts.extend(3u32.to_le_bytes());
    counts.extend((2u64 << 20).to_le_bytes());
    counts.extend(0u64.to_le_bytes());
    counts.resize(64 << 20, 0);
    refused(counts.clone(), "number of tensors: 2097152 tensors");
    counts[8..16].fill(0);
    counts[16..24].copy_from_slice(&100_000u64.to_le_bytes());
    refused(counts, "number of metadata entries: 100000 entries");
}

#[test]
fn arrays_of_numbers_of_every_type() {
    let read = |kind: u32, bytes: &[u8], n: u64| {
        let file = metadata("a", 9, &[array_head(kind, n), bytes.to_vec()].concat());
        match read_metadata(&file).unwrap().remove("a") {
            Some(MetaValue::NumArray(list)) => list,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(read(0, &[1, 255], 2), [1.0, 255.0]);
    assert_eq!(read(1, &[1, 255], 2), [1.0, -1.0]);
    assert_eq!(read(2, &[0xff, 0xff], 1), [65535.0]);
    assert_eq!(read(3, &[0xff, 0xff], 1), [-1.0]);
    assert_eq!(read(4, &[0xff; 4], 1), [4_294_967_295.0]);
    assert_eq!(read(5, &[0xff; 4], 1), [-1.0]);
    assert_eq!(read(6, &1e-5f32.to_le_bytes(), 1), [1e-5]);
    assert_eq!(read(7, &[0, 1, 2], 3), [0.0, 1.0, 1.0]);
    assert_eq!(read(10, &[0xff; 8], 1), [u64::MAX as f64]);
    assert_eq!(read(11, &[0xff; 8], 1), [-1.0]);
    assert_eq!(read(12, &0.1f64.to_le_bytes(), 1), [0.1]);
    assert!(read(12, &[], 0).is_empty());
}

#[test]
fn blocks_with_scales_that_are_no_number_are_refused_by_name() {
    let mut build = model("llama");
    // The scale of the third block of queries, whose rows are put into another order.
    build.tensors[4].3[2 * 34..2 * 34 + 2].copy_from_slice(&[0xff, 0x7f]);
    let (_dir, path) = written(&build.bytes());
    let store = open_weights(&path).unwrap();
    for said in [
        message(store.get("model.layers.0.self_attn.q_proj.weight")),
        message(store.each_piece("model.layers.0.self_attn.q_proj.weight", &mut |_, _| Ok(()))),
    ] {
        assert!(
            said.contains("self_attn.q_proj.weight holds NaN (element 32)"),
            "{said}"
        );
    }
    let kept = "model.layers.0.self_attn.k_proj.weight";
    let whole = store.get(kept).unwrap().to_f32();
    let mut pieces = Vec::new();
    store
        .each_piece(kept, &mut |_, piece| {
            pieces.extend(piece.to_f32());
            Ok(())
        })
        .unwrap();
    assert_eq!(pieces, whole);
}

#[test]
fn every_key_of_the_table_that_is_refused_is_refused_by_name() {
    let rows = crate::model::gguf_keys::tests::refused();
    assert!(rows.len() > 20);
    for (key, bad, neutral) in rows {
        let full = format!("llama.{key}");
        let text = message(spec_of(&model("llama").set(&full, V::F(bad as f32))));
        assert!(text.contains(&format!("{full} is {bad}")), "{text}");
        if let Some(neutral) = neutral {
            let float = model("llama").set(&full, V::F(neutral as f32));
            assert!(spec_of(&float).is_ok(), "{key} {neutral}");
            let layers = model("llama").set(&full, V::Ints(vec![neutral as i32; 2]));
            assert!(spec_of(&layers).is_ok(), "{key} {neutral} per layer");
        }
    }
    for (key, value, good) in [
        ("attention.causal", V::Bool(false), false),
        ("attention.causal", V::Bool(true), true),
        ("use_parallel_residual", V::Bool(true), false),
        ("use_parallel_residual", V::Bool(false), true),
        ("rope.dimension_sections", V::Ints(vec![1, 1, 2]), false),
        ("pooling_type", V::U(4), false),
        ("logit_scale", V::S("x"), false),
        // Not in the table: a warning, and the model is read.
        ("attention.of_the_future", V::U(1), true),
    ] {
        let full = format!("llama.{key}");
        let spec = spec_of(&model("llama").set(&full, value));
        assert_eq!(spec.is_ok(), good, "{full}");
    }
}

/// llama.cpp takes "linear" for the type where none is given, the old name of the factor where the
/// new is missing, and 0 for 1.
#[test]
fn rotary_scaling_without_a_type_is_linear() {
    let with = |entries: &[(&str, V)]| {
        let mut build = model("llama");
        for (key, value) in entries {
            build = build.set(&format!("llama.rope.{key}"), value.clone());
        }
        spec_of(&build)
    };
    let kind = |kind| ("scaling.type", V::S(kind));
    let factor = |v| ("scaling.factor", V::F(v));
    let old = |v| ("scale_linear", V::F(v));
    for refused in [
        &[factor(4.0)][..],
        &[old(4.0)],
        &[kind("linear"), factor(4.0)],
        &[kind("linear"), old(4.0)],
        &[factor(2.0), old(1.0)],
        &[kind("yarn"), factor(4.0)],
        &[kind("longrope")],
    ] {
        let text = message(with(refused));
        assert!(
            text.contains("rotary scaling") && text.contains("llama.rope.scaling"),
            "{text}"
        );
    }
    for read in [
        &[factor(1.0)][..],
        &[factor(0.0)],
        &[old(1.0)],
        &[factor(1.0), old(4.0)],
        &[kind("linear")],
        &[kind("none"), factor(4.0)],
    ] {
        assert_eq!(with(read).unwrap().rope.scaling, RopeScaling::None);
    }
    assert!(message(with(&[("scaling.type", V::U(1))])).contains("no string"));
    assert!(message(with(&[("freq_base", V::S("x"))])).contains("rope.freq_base is no number"));
}

#[test]
fn sizes_per_layer_are_read_where_they_are_equal() {
    let with =
        |key: &str, list: Vec<i32>| spec_of(&model("llama").set(&format!("llama.{key}"), V::Ints(list)));
    for (key, value) in [
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
        ("feed_forward_length", 40),
    ] {
        let spec = with(key, vec![value; 3]).unwrap();
        assert_eq!(
            (spec.num_heads, spec.num_kv_heads, spec.intermediate_size),
            (2, 1, 40)
        );
        let text = message(with(key, vec![value, value + 1]));
        assert!(text.contains(key) && text.contains("layer to layer"), "{text}");
        assert!(message(with(key, vec![])).contains(key));
    }
}

#[test]
fn tensors_without_a_place_are_refused() {
    for (name, why) in [
        ("blk.0.ffn_up.bias", "no place"),
        ("blk.0.attn_q_norm.weight", "no place"),
        ("blk.0.attn_sinks.weight", "no place"),
        ("blk.1.ffn_up.weight", "no place"),
        ("output.bias", "no place"),
        ("cls.output.weight", "classification or reward model"),
    ] {
        let (_dir, path) = written(&model("llama").tensor(name, &[8], 0).bytes());
        let text = message(open_weights(&path));
        assert!(text.contains(name) && text.contains(why), "{text}");
    }
    let mut build = model("llama").tensor("rope_freqs.weight", &[2], 0);
    build.tensors.last_mut().unwrap().3 = [1.0f32, 1.0].iter().flat_map(|f| f.to_le_bytes()).collect();
    let (_dir, path) = written(&build.bytes());
    assert!(open_weights(&path).is_ok());
}

/// A model's tensors dealt to files; the metadata is in the first, which may have no tensor.
fn split(whole: &Build, cuts: &[usize]) -> Vec<Build> {
    let count = cuts.len() + 1;
    let mut tensors = whole.tensors.clone().into_iter();
    (0..count)
        .map(|no| {
            let n = match cuts.get(no) {
                Some(cut) => *cut,
                None => usize::MAX,
            };
            let part = Build {
                meta: if no == 0 { whole.meta.clone() } else { Vec::new() },
                tensors: tensors.by_ref().take(n).collect(),
            };
            part.set("split.no", V::U(no as u32))
                .set("split.count", V::U(count as u32))
                .set("split.tensors.count", V::U(whole.tensors.len() as u32))
        })
        .collect()
}

fn write_parts(dir: &Path, name: &str, parts: &[Build]) -> Vec<std::path::PathBuf> {
    let path = |i| dir.join(format!("{name}-{:05}-of-{:05}.gguf", i + 1, parts.len()));
    for (i, part) in parts.iter().enumerate() {
        std::fs::write(path(i), part.bytes()).unwrap();
    }
    (0..parts.len()).map(path).collect()
}

#[test]
fn a_model_in_parts_is_the_model() {
    let (_dir, one) = written(&model("llama").bytes());
    let want = open_weights(&one).unwrap();
    for cuts in [&[4, 3][..], &[0, 5], &[11, 0]] {
        let dir = tempfile::tempdir().unwrap();
        for path in write_parts(dir.path(), "m", &split(&model("llama"), cuts)) {
            let files = ModelFiles::Gguf(path.clone());
            let (spec, store) = (files.spec().unwrap(), WeightStore::open(&files).unwrap());
            store.check(&spec).unwrap();
            assert_eq!(spec, ModelFiles::Gguf(one.clone()).spec().unwrap());
            for name in want.names() {
                assert_eq!(store.get(name).unwrap(), want.get(name).unwrap(), "{name}");
            }
            assert_eq!(
                Gguf::open(&path).unwrap().vocab().unwrap().tokens,
                ["<s>", "a", "b"]
            );
        }
    }
}

#[test]
fn parts_that_are_missing_or_mixed_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let parts = split(&model("llama"), &[4, 3]);
    let paths = write_parts(dir.path(), "m", &parts);
    let refused = |path: &std::path::PathBuf| message(Gguf::open(path));

    std::fs::remove_file(&paths[1]).unwrap();
    for path in [&paths[0], &paths[2]] {
        let text = refused(path);
        assert!(
            text.contains("m-00002-of-00003.gguf: part 2 of 3 is missing"),
            "{text}"
        );
    }
    // The third part under the second's name, a part of a model with more tensors, one of another
    // model.
    std::fs::copy(&paths[2], &paths[1]).unwrap();
    assert!(refused(&paths[0]).contains("m-00002-of-00003.gguf: not the part 2 of 3"));
    let other = split(&model("llama").tensor("blk.0.x", &[2], 0), &[4, 3]);
    std::fs::write(&paths[1], other[1].bytes()).unwrap();
    assert!(refused(&paths[0]).contains("split.tensors.count 12"));
    let other = split(&model("llama"), &[3, 4]);
    std::fs::write(&paths[1], other[1].bytes()).unwrap();
    assert!(refused(&paths[0]).contains("is also in"));
    let short = parts[1].clone().without("blk.0.attn_k.weight");
    std::fs::write(&paths[1], short.bytes()).unwrap();
    assert!(refused(&paths[0]).contains("10 tensors together, split.tensors.count says 11"));
    let foreign = parts[1].clone().set("general.architecture", V::S("qwen2"));
    std::fs::write(&paths[1], foreign.bytes()).unwrap();
    assert!(refused(&paths[0]).contains("different models"));

    let found = |name: &str| Gguf::files(&dir.path().join(name)).len();
    assert_eq!(
        (
            found("m-00002-of-00003.gguf"),
            found("m.gguf"),
            found("m-1-of-3.gguf")
        ),
        (3, 1, 1)
    );
    assert_eq!(found("m-00004-of-00003.gguf"), 1);
    let renamed = dir.path().join("renamed.gguf");
    std::fs::copy(&paths[0], &renamed).unwrap();
    let text = refused(&renamed);
    assert!(
        text.contains("part 1 of 3") && text.contains("-00001-of-00003.gguf"),
        "{text}"
    );
    let alone = model("llama")
        .set("split.count", V::U(1))
        .set("split.no", V::U(0));
    let (_dir, path) = written(&alone.bytes());
    assert!(Gguf::open(&path).is_ok());
}

#[test]
fn tokenizer_keys() {
    let vocab = |key: &str, value: V| {
        let (_dir, path) = written(
            &model("llama")
                .set(&format!("tokenizer.ggml.{key}"), value)
                .bytes(),
        );
        Gguf::open(&path).unwrap().vocab()
    };
    let text = message(vocab("add_sep_token", V::Bool(true)));
    assert!(text.contains("tokenizer.ggml.add_sep_token is true"), "{text}");
    assert!(vocab("add_sep_token", V::Bool(false)).is_ok());
    assert!(vocab("of_the_future", V::Bool(true)).is_ok());
    assert_eq!(vocab("add_eos_token", V::Bool(true)).unwrap().add_eos, Some(true));
}
