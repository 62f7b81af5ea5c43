//! Tests of `settle`, and of what a directory without readable weights says.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::kernels::quant;
use crate::model::load::Source;
use crate::model::save::write_safetensors;
use crate::model::spec_tests::tiny_spec;
use crate::model::store::HostTensor;
use crate::tensor::DType;
use serde_json::{Value, json};
use std::path::Path;

type Tensors = Vec<(String, HostTensor<'static>)>;

/// A tiny Llama whose heads the kernels take.
fn small() -> ModelSpec {
    ModelSpec {
        head_dim: 8,
        ..tiny_spec()
    }
}

fn tensor(shape: &[usize], from: f32, dtype: DType) -> HostTensor<'static> {
    let values: Vec<f32> = (0..shape.iter().product::<usize>())
        .map(|i| from + (i % 17) as f32)
        .collect();
    HostTensor {
        dtype,
        shape: shape.to_vec(),
        bytes: Cow::Owned(quant::quantize(dtype, &values).unwrap()),
    }
}

fn tensors(spec: &ModelSpec) -> Tensors {
    spec.tensors()
        .map(|t| (t.name, tensor(&t.shape, 1.0, DType::F32)))
        .collect()
}

fn write(dir: &Path, spec: &ModelSpec, changes: Value, tensors: &Tensors) {
    let mut config = spec.to_config_json(DType::F32);
    for (key, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(config.as_object_mut().unwrap().shift_remove(key)),
            _ => config[key] = value.clone(),
        }
    }
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    write_safetensors(&dir.join("model.safetensors"), tensors).unwrap();
}

fn opened(spec: &ModelSpec, changes: Value, tensors: &Tensors) -> Result<Source> {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), spec, changes, tensors);
    Source::open(dir.path().to_str().unwrap())
}

fn refused(spec: &ModelSpec, changes: Value, tensors: &Tensors) -> String {
    let error = opened(spec, changes, tensors).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    error.to_string()
}

fn swap(tensors: &mut Tensors, from: &str, to: &str) {
    tensors.iter_mut().find(|(n, _)| n == from).unwrap().0 = to.into();
}

/// transformers 5.24 (`tie_weights`): equal matrices are tied, different ones are both kept, one
/// alone serves as both.
#[test]
fn heads_and_embeddings() {
    let spec = small();
    let tied = json!({"tie_word_embeddings": true});
    let both = |from: f32, dtype: DType| {
        let mut list = tensors(&spec);
        list.last_mut().unwrap().1 = tensor(&[33, 24], from, dtype);
        list
    };
    for (dtype, from, is_tied) in [
        (DType::F32, 1.0, true),
        (DType::BF16, 1.0, true),
        (DType::F32, 2.0, false),
        (DType::BF16, 2.0, false),
    ] {
        let source = opened(&spec, tied.clone(), &both(from, dtype)).unwrap();
        assert_eq!(source.spec.tie_word_embeddings, is_tied, "{dtype} {from}");
        // What is written of it is read back the same, without a contradiction.
        let written = source.spec.to_config_json(DType::F32);
        assert_eq!(written["tie_word_embeddings"], json!(is_tied));
    }
    let mut head_alone = tensors(&spec);
    head_alone.remove(0);
    let source = opened(&spec, tied.clone(), &head_alone).unwrap();
    assert!(source.spec.tie_word_embeddings);
    assert_eq!(source.store.get(EMBEDDING).unwrap(), head_alone.last().unwrap().1);

    let mut embedding_alone = tensors(&spec);
    embedding_alone.pop();
    opened(&spec, tied, &embedding_alone).unwrap();
    let untied = refused(&spec, json!({}), &embedding_alone);
    assert!(
        untied.contains("lm_head.weight is missing") && untied.contains("\"tie_word_embeddings\": true"),
        "{untied}"
    );
    let absent = refused(&spec, json!({"tie_word_embeddings": null}), &embedding_alone);
    assert!(absent.contains("\"tie_word_embeddings\": true"), "{absent}");
    let mut scored = embedding_alone;
    scored.push((SCORE.into(), tensor(&[1, 24], 0.0, DType::F32)));
    let hint = refused(&spec, json!({}), &scored);
    assert!(hint.contains("ForSequenceClassification"), "{hint}");
}

#[test]
fn labels_are_counted_by_the_weights() {
    let spec = small().with_head(Head::Score);
    let rows = |n: usize| {
        let mut list = tensors(&spec);
        list.last_mut().unwrap().1 = tensor(&[n, 24], 0.0, DType::F32);
        list
    };
    let silent = json!({"id2label": null, "label2id": null});
    assert_eq!(
        opened(&spec, silent.clone(), &rows(1)).unwrap().spec.head,
        Head::Score
    );
    let two = refused(&spec, silent, &rows(2));
    assert!(two.contains("this one has 2"), "{two}");
    let contradiction = refused(&spec, json!({}), &rows(3));
    assert!(
        contradiction.contains("there are 1 labels") && contradiction.contains("3 rows"),
        "{contradiction}"
    );
    // No class is named: the weights say which head the model has.
    for class in [json!(null), json!(["OptimizedModule"]), json!(["LlamaModel"])] {
        let changes = json!({"architectures": class});
        assert_eq!(
            opened(&spec, changes.clone(), &rows(1)).unwrap().spec.head,
            Head::Score
        );
        let causal = small();
        assert_eq!(
            opened(&causal, changes, &tensors(&causal)).unwrap().spec.head,
            Head::CausalLm
        );
    }
}

#[test]
fn names_that_others_write() {
    let spec = small();
    // LlamaModel's own names, as embedding models have them; the head is tied.
    let mut bare = tensors(&spec);
    bare.pop();
    for (name, _) in &mut bare {
        *name = name.strip_prefix("model.").unwrap().into();
    }
    let source = opened(
        &spec,
        json!({"architectures": ["LlamaModel"], "tie_word_embeddings": true}),
        &bare,
    )
    .unwrap();
    assert_eq!(source.spec.head, Head::CausalLm);
    assert!(source.store.contains("model.layers.1.mlp.up_proj.weight"));
    for (prefix, why) in [
        ("_orig_mod.", "torch.compile"),
        ("module.", "model.module.save_pretrained"),
        ("base_model.model.", "merge_and_unload"),
        ("pretrained_model.", "value-head"),
    ] {
        let list = tensors(&spec)
            .into_iter()
            .map(|(n, t)| (format!("{prefix}{n}"), t))
            .collect();
        let text = refused(&spec, json!({}), &list);
        assert!(text.contains(why) && text.contains(prefix), "{text}");
    }
    let mut inner = tensors(&spec);
    swap(
        &mut inner,
        "model.norm.weight",
        "model._fsdp_wrapped_module.norm.weight",
    );
    assert!(refused(&spec, json!({}), &inner).contains("FULL_STATE_DICT"));
    let mut missing = tensors(&spec);
    swap(
        &mut missing,
        "model.layers.1.mlp.up_proj.weight",
        "model.layers.1.mlp.up.weight",
    );
    let text = refused(&spec, json!({}), &missing);
    assert!(
        text.contains("up_proj.weight is missing; the closest name there is model.layers.1.mlp.up.weight"),
        "{text}"
    );
    let mut empty = tensors(&spec);
    empty[0].1 = HostTensor {
        dtype: DType::F32,
        shape: vec![0],
        bytes: Cow::Borrowed(&[]),
    };
    assert!(refused(&spec, json!({}), &empty).contains("ZeRO-3"));
    // More than the model needs is no error.
    let mut more = tensors(&spec);
    more.push((
        "model.layers.0.self_attn.q_proj.bias".into(),
        tensor(&[32], 0.0, DType::F32),
    ));
    more.push((
        "model.layers.0.self_attn.rotary_emb.inv_freq".into(),
        tensor(&[4], 0.0, DType::F32),
    ));
    opened(&spec, json!({}), &more).unwrap();
}

#[test]
fn files_that_are_no_safetensors_and_heads_of_another_name() {
    for (bytes, why) in [
        (
            &b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"[..],
            "git lfs pull",
        ),
        (b"PK\x03\x04archive/data.pkl", "torch.save"),
        (b"\x80\x02}q\x00.", "torch.save"),
        (b"GGUF\x03\0\0\0", "rename it to .gguf"),
        (b"<!doctype html><html></html>", "web page"),
        (b"12345678{", "not a whole safetensors file"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &small(), json!({}), &tensors(&small()));
        std::fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
        let text = Source::open(dir.path().to_str().unwrap())
            .unwrap_err()
            .to_string();
        assert!(text.contains(why), "{text}");
    }
    let spec = small().with_head(Head::Score);
    let mut named = tensors(&spec);
    swap(&mut named, SCORE, "value_head.weight");
    let text = refused(&spec, json!({}), &named);
    assert!(
        text.contains("value_head.weight has the shape") && text.contains("rename it"),
        "{text}"
    );
    swap(&mut named, "value_head.weight", "v_head.summary.weight");
    named.push(("v_head.summary.bias".into(), tensor(&[1], 0.0, DType::F32)));
    let text = refused(&spec, json!({}), &named);
    assert!(text.contains("it has a bias (v_head.summary.bias)"), "{text}");
}

#[test]
fn a_directory_without_weights_says_what_is_there_instead() {
    for (files, why) in [
        (&["pytorch_model.bin"][..], "pytorch_model.bin is a pickle"),
        (
            &["pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin"],
            "is a pickle",
        ),
        (&["consolidated.00.pth"], "original format of Meta"),
        (&["consolidated.safetensors"], "original format"),
        (&["model.fp16.safetensors"], "is a variant; rename it"),
        (
            &["model-00001-of-00002.safetensors"],
            "model.safetensors.index.json, which says",
        ),
        (
            &["adapter_config.json", "adapter_model.safetensors"],
            "this is an adapter",
        ),
        (&["x.Q8_0.gguf"], "x.Q8_0.gguf itself"),
        (&["tf_model.h5"], "another framework"),
        (&["flax_model.msgpack"], "another framework"),
        (&["zero_to_fp32.py"], "zero_to_fp32.py"),
        (&["__0_0.distcp"], "accelerate merge-weights"),
        (&["checkpoint-5/model.safetensors"], "did you mean"),
        (&[], "pass a directory with safetensors weights or a .gguf file"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("config.json"),
            small().to_config_json(DType::F32).to_string(),
        )
        .unwrap();
        for file in files {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let text = Source::open(dir.path().to_str().unwrap())
            .unwrap_err()
            .to_string();
        assert!(text.contains(why), "{files:?}: {text}");
    }
}
