//! Tests of `source` and `alias`.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::model::alias::alias;
use crate::model::load::Source;
use crate::model::spec::Head;
use crate::model::spec_tests::tiny_spec;
use crate::model::store::WeightStore;
use crate::tensor::DType;

fn offline(cache: &Path) -> HubSettings {
    HubSettings {
        cache: cache.to_path_buf(),
        offline: true,
        ..HubSettings::default()
    }
}

fn refusal(name: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let error = resolve_with(name, &offline(dir.path())).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    error.to_string()
}

/// Heads that no kernel takes are refused before weights are looked for, by `plan` too.
#[test]
fn heads_without_a_kernel_are_refused_before_weights_are_read() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models/llama_gqa/config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let name = dir.path().to_str().unwrap();
    let mut refused = |head_dim: usize| -> [Option<String>; 2] {
        config["head_dim"] = head_dim.into();
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let said = |source: Result<Source>| {
            let error = source.err()?;
            assert_eq!(error.exit_code(), 2);
            Some(error.to_string()).filter(|e| e.contains("head_dim"))
        };
        [
            said(Source::open(name)),
            said(Source::open_sizes(name, Head::CausalLm)),
        ]
    };
    for head_dim in [6, 258, 260] {
        for message in refused(head_dim) {
            let message = message.unwrap();
            let said = format!("{head_dim} dimensions (head_dim): multiples of 4 up to 256");
            assert!(message.contains(&said) && message.contains(name), "{message}");
        }
    }
    assert_eq!([refused(8), refused(256)], [[None, None], [None, None]]);
}

#[test]
fn aliases_are_complete() {
    let all = aliases().unwrap();
    for (name, id) in [
        ("llama-1b", "meta-llama/Llama-3.2-1B-Instruct"),
        ("llama-8b", "meta-llama/Llama-3.1-8B-Instruct"),
        ("qwen3-4b", "Qwen/Qwen3-4B-Instruct-2507"),
        ("smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("skywork-llama-8b", "Skywork/Skywork-Reward-V2-Llama-3.1-8B"),
        ("skywork-qwen3-8b", "Skywork/Skywork-Reward-V2-Qwen3-8B"),
        ("tiny", "embedded"),
        ("tiny-reward", "embedded"),
    ] {
        assert_eq!(all[name].id, id);
        assert!(all[name].is_embedded() || hub::is_hub_id(&all[name].id));
    }
    // Every default reward model is itself an alias, and comes together with prompts.
    for a in all.values() {
        assert_eq!(a.reward.is_some(), a.prompts.is_some());
        assert!(a.reward.as_ref().is_none_or(|r| all.contains_key(r)));
    }
    assert_eq!(
        alias("llama-1b").unwrap().unwrap().reward.as_deref(),
        Some("skywork-llama-8b")
    );
    assert_eq!(
        alias("meta-llama/Llama-3.2-1B-Instruct").unwrap(),
        alias("llama-1b").unwrap()
    );
    assert_eq!(alias("embedded").unwrap(), None);
    assert_eq!(alias("nope/nope").unwrap(), None);
}

#[test]
fn local_directories_and_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().display().to_string();
    assert!(refusal(&path).contains("no config.json there; a model directory"));
    std::fs::write(dir.path().join("m.gguf"), b"GGUF").unwrap();
    assert!(refusal(&path).contains("did you mean"));
    std::fs::write(dir.path().join("adapter_config.json"), b"{}").unwrap();
    assert!(refusal(&path).contains("--adapter"));
    std::fs::write(dir.path().join("x.bin"), b"x").unwrap();
    assert!(refusal(&format!("{path}/x.bin")).contains("neither"));
    let settings = offline(dir.path());
    let gguf = resolve_with(&format!("{path}/m.gguf"), &settings).unwrap();
    assert!(matches!(gguf, ModelFiles::Gguf(_)));
    assert_eq!(gguf.read("tokenizer.json").unwrap(), None);

    let config = tiny_spec().to_config_json(DType::F32).to_string();
    std::fs::write(dir.path().join("config.json"), config).unwrap();
    std::fs::write(
        dir.path().join("generation_config.json"),
        br#"{"eos_token_id": [2, 9]}"#,
    )
    .unwrap();
    let files = resolve_with(&path, &settings).unwrap();
    assert!(matches!(files, ModelFiles::Dir(_)));
    assert_eq!(files.spec().unwrap().eos_token_ids, [2, 9]);
    assert_eq!(files.read("tokenizer.json").unwrap(), None);
    std::fs::write(dir.path().join("config.json"), b"{").unwrap();
    let error = files.spec().unwrap_err();
    assert_eq!(error.exit_code(), 2);
    std::fs::remove_file(dir.path().join("config.json")).unwrap();
    assert_eq!(files.spec().unwrap_err().exit_code(), 2);
}

#[test]
fn unknown_names_say_what_was_tried() {
    for name in [
        "lama-1b",
        "./nowhere",
        "/nowhere/model",
        "a/b/c",
        "nowhere.gguf",
        "",
    ] {
        let text = refusal(name);
        assert!(
            text.contains("llama-1b") && text.contains("owner/name") && text.contains(".gguf"),
            "{name}: {text}"
        );
    }
    // A hub id that cannot be had offline.
    assert!(refusal("owner/model").contains("hf download owner/model"));
    assert!(refusal("llama-1b").contains("hf download meta-llama/Llama-3.2-1B-Instruct"));
}

#[test]
fn embedded_models_are_found_and_whole() {
    let mut bytes = 0;
    for (name, head) in [("tiny", Head::CausalLm), ("tiny-reward", Head::Score)] {
        let dir = tempfile::tempdir().unwrap();
        let files = resolve_with(name, &offline(dir.path())).unwrap();
        assert_eq!((files.name().as_str(), files.dir()), (name, None));
        assert_eq!(files.read("no-such-file").unwrap(), None);
        let spec = files.spec().unwrap();
        assert_eq!((spec.head, spec.eos_token_ids.len()), (head, 1), "{name}");
        assert!(
            (300_000..=1_500_000).contains(&spec.num_parameters()) && spec.vocab_size <= 512,
            "{name}"
        );
        let store = WeightStore::open(&files).unwrap();
        store.check(&spec).unwrap();
        bytes += files.read("model.safetensors").unwrap().unwrap().len();
        assert!(files.read("tokenizer.json").unwrap().is_some(), "{name}");
    }
    assert!(bytes <= 10_000_000, "{bytes}");
    static FILES: &[EmbeddedFile] = &[("config.json", b"{}"), ("a", b"x")];
    let files = ModelFiles::Embedded {
        name: "test",
        files: FILES,
    };
    assert_eq!(files.read("a").unwrap().unwrap(), b"x");
    assert!(
        files
            .spec()
            .unwrap_err()
            .to_string()
            .contains("test: config.json")
    );
}
