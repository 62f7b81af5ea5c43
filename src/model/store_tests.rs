//! Tests of `store`: every way a weights file can be wrong.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::model::spec::Head;
use crate::model::spec_tests::tiny_spec;
use std::fs;

/// A safetensors file of zeroes with the given tensors.
pub(crate) fn file_of(tensors: &[(&str, &str, &[usize])]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut at = 0;
    for (name, dtype, shape) in tensors {
        let size = if matches!(*dtype, "F16" | "BF16") {
            2
        } else if *dtype == "I64" {
            8
        } else {
            4
        };
        let len = size * shape.iter().product::<usize>();
        header.insert(
            (*name).to_string(),
            serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [at, at + len]}),
        );
        at += len;
    }
    let json = serde_json::to_vec(&header).unwrap();
    let mut out = (json.len() as u64).to_le_bytes().to_vec();
    out.extend(&json);
    out.extend((0..at).map(|i| i as u8 & 31));
    out
}

fn whole_model(spec: &ModelSpec, change: impl Fn(&mut Vec<(String, String, Vec<usize>)>)) -> Vec<u8> {
    let mut list: Vec<_> = spec
        .tensors()
        .map(|t| (t.name, "F32".to_string(), t.shape))
        .collect();
    change(&mut list);
    let list: Vec<_> = list
        .iter()
        .map(|(n, d, s)| (n.as_str(), d.as_str(), s.as_slice()))
        .collect();
    file_of(&list)
}

fn open_with(files: &[(&str, &[u8])]) -> (tempfile::TempDir, Result<WeightStore>) {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    let store = WeightStore::open(&ModelFiles::Dir(dir.path().to_path_buf()));
    (dir, store)
}

fn message<T: std::fmt::Debug>(result: Result<T>) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(inner) = source {
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

#[test]
fn whole_model_passes_and_reads_back() {
    let spec = tiny_spec();
    let bytes = whole_model(&spec, |_| {});
    let (_dir, store) = open_with(&[(SINGLE, &bytes)]);
    let store = store.unwrap();
    store.check(&spec).unwrap();
    let norm = store.get("model.norm.weight").unwrap();
    assert_eq!(
        (norm.dtype, norm.shape.as_slice()),
        (DType::F32, &[spec.hidden_size][..])
    );
    let half = norm.convert(DType::F16).unwrap();
    assert_eq!(half.bytes.len(), 2 * spec.hidden_size);
    assert!(norm.convert(DType::Q4K).is_err());
    assert_eq!(store.names().count(), spec.tensors().count());
}

#[test]
fn missing_tensor_names_the_closest() {
    let spec = tiny_spec();
    let bytes = whole_model(&spec, |list| {
        for t in list
            .iter_mut()
            .filter(|t| t.0 == "model.layers.1.mlp.up_proj.weight")
        {
            t.0 = "model.layers.1.mlp.upp_proj.weight".into();
        }
    });
    let (dir, store) = open_with(&[(SINGLE, &bytes)]);
    let text = message(store.unwrap().check(&spec));
    assert!(
        text.contains("model.layers.1.mlp.up_proj.weight is missing"),
        "{text}"
    );
    assert!(
        text.contains("closest name there is model.layers.1.mlp.upp_proj.weight"),
        "{text}"
    );
    assert!(text.contains(&dir.path().display().to_string()), "{text}");
}

#[test]
fn score_head_is_required_of_reward_models() {
    let spec = tiny_spec();
    let bytes = whole_model(&spec, |_| {});
    let (_dir, store) = open_with(&[(SINGLE, &bytes)]);
    let text = message(store.unwrap().check(&spec.with_head(Head::Score)));
    assert!(text.contains("score.weight is missing"), "{text}");
}

#[test]
fn wrong_shape_and_dtype() {
    let spec = tiny_spec();
    let bytes = whole_model(&spec, |list| list[0].2[0] += 1);
    let (_dir, store) = open_with(&[(SINGLE, &bytes)]);
    let text = message(store.unwrap().check(&spec));
    assert!(text.contains("model.embed_tokens.weight has shape"), "{text}");

    let bytes = whole_model(&spec, |list| list[0].1 = "I64".into());
    let (_dir, store) = open_with(&[(SINGLE, &bytes)]);
    let store = store.unwrap();
    let text = message(store.check(&spec));
    assert!(text.contains("element type I64"), "{text}");
    assert!(message(store.get("model.embed_tokens.weight")).contains("I64"));
}

#[test]
fn truncated_and_garbage_files() {
    let bytes = whole_model(&tiny_spec(), |_| {});
    for cut in [0, 4, 8, 20, 300, bytes.len() - 1] {
        let (_dir, store) = open_with(&[(SINGLE, &bytes[..cut])]);
        let text = message(store);
        assert!(text.contains("download it again"), "cut at {cut}: {text}");
    }
    let (_dir, store) = open_with(&[(SINGLE, &[0xff; 64])]);
    assert!(message(store).contains("not a whole safetensors file"));
}

#[test]
fn shards_and_index() {
    let one = file_of(&[("a", "F32", &[2, 3])]);
    let two = file_of(&[("b", "BF16", &[4])]);
    let index = br#"{"metadata":{},"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors"}}"#;
    let (_dir, store) = open_with(&[
        ("m-1.safetensors", &one),
        ("m-2.safetensors", &two),
        (INDEX, index),
    ]);
    let store = store.unwrap();
    assert_eq!(store.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(store.get("b").unwrap().dtype, DType::BF16);
    assert_eq!(store.get("a").unwrap().shape, [2, 3]);

    let (_dir, store) = open_with(&[("m-1.safetensors", &one), (INDEX, index)]);
    assert!(message(store).contains("shard m-2.safetensors is not there"));

    let wrong = br#"{"weight_map":{"a":"m-1.safetensors","c":"m-1.safetensors"}}"#;
    let (_dir, store) = open_with(&[("m-1.safetensors", &one), (INDEX, wrong)]);
    assert!(message(store).contains("c is not in m-1.safetensors"));

    let twice = br#"{"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors"}}"#;
    let (_dir, store) = open_with(&[
        ("m-1.safetensors", &one),
        ("m-2.safetensors", &one),
        (INDEX, twice),
    ]);
    assert!(message(store).contains("tensor a is also in"));

    for (bad, why) in [
        (&b"{"[..], "not valid JSON"),
        (b"{}", "weight_map is missing"),
        (br#"{"weight_map":{}}"#, "weight_map is empty"),
        (br#"{"weight_map":{"a":7}}"#, "weight_map gives 7"),
        (br#"{"weight_map":{"a":"../x.safetensors"}}"#, "same directory"),
        (br#"{"weight_map":{"a":"/etc/passwd"}}"#, "same directory"),
        (br#"{"weight_map":{"a":".."}}"#, "same directory"),
        (br#"{"weight_map":{"a":".x.safetensors"}}"#, "same directory"),
        (br#"{"weight_map":{"a":"c:x.safetensors"}}"#, "same directory"),
        (br#"{"weight_map":{"a":"x\u001b[31m"}}"#, "same directory"),
        (br#"{"weight_map":{"a":"x\u0000"}}"#, "same directory"),
    ] {
        let (_dir, store) = open_with(&[("m-1.safetensors", &one), (INDEX, bad)]);
        let text = message(store);
        assert!(text.contains(why), "{text}");
    }
}

/// A file with one tensor of these values.
fn one_tensor(shape: &[usize], dtype: DType, values: &[f32]) -> Vec<u8> {
    let kind = match dtype {
        DType::F32 => "F32",
        DType::F16 => "F16",
        _ => "BF16",
    };
    let mut bytes = file_of(&[("w", kind, shape)]);
    let data = quant::quantize(dtype, values).unwrap();
    let start = bytes.len() - data.len();
    bytes[start..].copy_from_slice(&data);
    bytes
}

#[test]
fn values_that_cannot_be_computed_with_are_refused_by_name() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = vec![0.5; 12];
            values[7] = bad;
            let (dir, store) = open_with(&[(SINGLE, &one_tensor(&[3, 4], dtype, &values))]);
            let store = store.unwrap();
            let file = dir.path().join(SINGLE).display().to_string();
            for said in [
                message(store.get("w")),
                message(store.each_piece("w", &mut |_, _| Ok(()))),
            ] {
                let value = format!("tensor w holds {bad:?} (element 7)");
                assert!(said.contains(&value) && said.contains(&file), "{said}");
            }
        }
    }
    let (_dir, store) = open_with(&[(SINGLE, &one_tensor(&[2], DType::F32, &[1.0, 3e38]))]);
    let said = message(store.unwrap().get("w"));
    assert!(
        said.contains("holds 3e38, which is too large to compute with (element 1)"),
        "{said}"
    );
    // What is fine in the file may not be in the type that it is loaded as.
    let (_dir, store) = open_with(&[(SINGLE, &one_tensor(&[1, 32], DType::F32, &[1e6; 32]))]);
    let store = store.unwrap();
    let tensor = store.get("w").unwrap();
    assert!(message(tensor.convert(DType::F16)).contains("too large for f16"));
    assert!(message(tensor.convert(DType::Q4_0)).contains("too large for q4_0"));
    assert!(tensor.convert(DType::BF16).is_ok() && tensor.convert(DType::Q8_0).is_ok());
}

#[test]
fn a_matrix_in_pieces_is_the_matrix() {
    // Rows of which not a whole number fits into a piece, and an odd number of them.
    let shape = [2 * PIECE_BYTES / 4000 + 1, 1000];
    let values: Vec<f32> = (0..shape[0] * shape[1]).map(|i| i as f32).collect();
    let mut bytes = one_tensor(&shape, DType::F32, &values);
    let (_dir, store) = open_with(&[(SINGLE, &bytes)]);
    let store = store.unwrap();
    let (mut all, mut pieces) = (Vec::new(), 0);
    store
        .each_piece("w", &mut |first, piece| {
            assert_eq!((first % 2, first * 1000), (0, all.len()));
            all.extend(piece.to_f32());
            pieces += 1;
            Ok(())
        })
        .unwrap();
    assert_eq!(all, values);
    assert!(pieces > 2, "{pieces}");
    let last = bytes.len() - 4;
    bytes[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    let (_dir, store) = open_with(&[(SINGLE, &bytes)]);
    let said = message(store.unwrap().each_piece("w", &mut |_, _| Ok(())));
    assert!(said.contains(&format!("element {}", values.len() - 1)), "{said}");
}

#[test]
fn a_file_that_shrinks_while_it_is_used_is_an_error() {
    let spec = tiny_spec();
    let bytes = whole_model(&spec, |_| {});
    let (dir, store) = open_with(&[(SINGLE, &bytes)]);
    let store = store.unwrap();
    let file = fs::File::options()
        .write(true)
        .open(dir.path().join(SINGLE))
        .unwrap();
    file.set_len(bytes.len() as u64 - 8).unwrap();
    // The first tensor is whole, the last is cut.
    let [first, last] = [
        spec.tensors().next().unwrap().name,
        spec.tensors().last().unwrap().name,
    ];
    assert!(store.get(&first).is_ok());
    for said in [message(store.get(&last)), message(store.fingerprint())] {
        assert!(said.contains(SINGLE) && said.contains("became shorter"), "{said}");
    }
}

#[test]
fn names_far_from_the_missing_one_are_not_compared() {
    let names: Vec<String> = (0..1000).map(|i| format!("{i:0>4000}")).collect();
    let tensors: Vec<(&str, &str, &[usize])> = names.iter().map(|n| (n.as_str(), "F32", &[0][..])).collect();
    let header = file_of(&tensors);
    let (_dir, store) = open_with(&[(SINGLE, &header)]);
    let said = message(store.unwrap().get("model.norm.weight"));
    assert!(said.ends_with("tensor model.norm.weight is missing"), "{said}");
}

#[test]
fn more_files_than_any_model_has() {
    let map: serde_json::Map<String, Value> = (0..5000)
        .map(|i| (format!("t{i}"), format!("m-{i}.safetensors").into()))
        .collect();
    let index = serde_json::json!({ "weight_map": map }).to_string();
    let (_dir, store) = open_with(&[(INDEX, index.as_bytes())]);
    let said = message(store);
    assert!(
        said.contains("number of weight files: 5000 files, where the limit is 4096"),
        "{said}"
    );
}

#[test]
fn no_weights_at_all() {
    let (_dir, store) = open_with(&[]);
    assert!(message(store).contains("neither model.safetensors nor"));
    let (_dir, store) = open_with(&[("pytorch_model.bin", b"x")]);
    assert!(message(store).contains("save_pretrained"));
}

#[test]
fn deinterleave_restores_half_order() {
    // Two heads of four rows, one byte a row; GGUF order (i, j) → Hugging Face order (j, i).
    assert_eq!(
        deinterleave(&[0, 2, 1, 3, 4, 6, 5, 7], 8, 2),
        [0, 1, 2, 3, 4, 5, 6, 7]
    );
    assert_eq!(distance("kitten", "sitting"), 3);
}
