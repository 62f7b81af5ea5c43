//! What stands in an adapter's directory where its files are not: the cause, and the way on.

use std::path::{Path, PathBuf};

use super::peft::{CONFIG, WEIGHTS};
use super::store::WeightStore;
use crate::error::{Error, Result};

/// PEFT's file before 0.7, a pickle.
const PICKLE: &str = "adapter_model.bin";

/// The error for a directory without adapter_config.json.
pub(super) fn no_config(dir: &Path) -> Error {
    let name = dir.display();
    let has = |file: &str| dir.join(file).is_file();
    let why = if dir.is_file() {
        format!("this is a file; --adapter takes a PEFT adapter directory ({CONFIG} and {WEIGHTS})")
    } else if !dir.exists() {
        format!(
            "there is no such directory; --adapter takes a PEFT adapter directory ({CONFIG} and {WEIGHTS}). From the hub, get it with `hf \
             download OWNER/NAME --local-dir DIR`"
        )
    } else if has(WEIGHTS) || has(PICKLE) {
        format!(
            "{CONFIG} is missing beside the adapter's tensors; take it from where they are from, it says how they are applied"
        )
    } else if has("pytorch_lora_weights.safetensors") {
        "this is a LoRA of diffusers, for an image model; a PEFT adapter of a language model is needed".into()
    } else if has("adapters.safetensors") || has("adapters.npz") {
        "this is an adapter of MLX (mlx-lm), not of PEFT. Merge it there (mlx_lm.fuse) and pass the result as the model".into()
    } else if let Some(inner) = below(dir, CONFIG) {
        format!("no {CONFIG} there; did you mean {}?", inner.display())
    } else if has("config.json") {
        "this is a whole model, not an adapter; pass it as the model, without --adapter".into()
    } else {
        format!("no {CONFIG} there; --adapter takes a PEFT adapter directory (a checkpoint's, for example)")
    };
    Error::user(format!("{name}: {why}"))
}

/// The error for a directory with adapter_config.json and without adapter_model.safetensors.
pub(super) fn no_weights(dir: &Path) -> Error {
    let has = |file: &str| dir.join(file).is_file();
    let why = if has(PICKLE) {
        format!(
            "{PICKLE} is a pickle, which is not read. Convert it: python -c 'import torch; from safetensors.torch import \
             save_file; save_file({{k: v.contiguous() for k, v in torch.load(\"{PICKLE}\", weights_only=True).items()}}, \
             \"{WEIGHTS}\")'"
        )
    } else if has("adapters.safetensors") {
        "adapters.safetensors is MLX's format (mlx-lm). Merge the adapter there (mlx_lm.fuse) and pass the result as the model".into()
    } else if has("model.safetensors") || has("model.safetensors.index.json") {
        format!(
            "the directory holds a whole model beside {CONFIG}. If the adapter is merged into it, remove {CONFIG} and pass it as the model"
        )
    } else if let Some(inner) = below(dir, WEIGHTS) {
        format!("no {WEIGHTS} there; did you mean {}?", inner.display())
    } else {
        format!("{WEIGHTS} is missing; copy it from where {CONFIG} is from")
    };
    Error::user(format!("{}: {why}", dir.display()))
}

/// The first subdirectory that has a file.
fn below(dir: &Path, file: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(dir).ok()?;
    let paths = entries.filter_map(|e| e.ok().map(|e| e.path()));
    paths.filter(|p| p.join(file).is_file()).min()
}

/// The error for a tensor without elements.
pub(super) fn empty_tensor(name: &str, shape: &[usize]) -> Error {
    Error::user(format!(
        "tensor {name} has shape {shape:?}: it is empty. DeepSpeed ZeRO-3 keeps parameters apart while it trains; save \
         the adapter with accelerator.get_state_dict(model) (or stage3_gather_16bit_weights_on_model_save), or make it \
         from the checkpoint with zero_to_fp32.py"
    ))
}

/// Refuses a file whose tensors all bear names that PEFT does not write.
pub(super) fn other_names(store: &WeightStore) -> Result<()> {
    let Some(name) = store.names().next() else {
        return Err(Error::user(format!(
            "{WEIGHTS} holds no tensors; save the adapter again"
        )));
    };
    let why = if store
        .names()
        .all(|n| n.ends_with(".lora_a") || n.ends_with(".lora_b"))
    {
        "MLX's names (mlx-lm). Merge the adapter there (mlx_lm.fuse) and pass the result as the model"
    } else if store
        .names()
        .any(|n| n.contains(".lora_A.default.") || n.contains(".lora_B.default."))
    {
        "the adapter's own name, \"default\", stands in them: they were saved from the model's state_dict. Save with PEFT's \
         save_pretrained, or take \".default\" out of the names"
    } else if store.names().any(|n| n.contains("_orig_mod.")) {
        "they are those of torch.compile's wrapper. Save the model inside it (model._orig_mod), or take \"_orig_mod.\" out of the names"
    } else if store.names().any(|n| n.contains("_fsdp_wrapped_module.")) {
        "they are those of FSDP's wrapper. Save the whole state (FULL_STATE_DICT), or take \"_fsdp_wrapped_module.\" out of the names"
    } else if store.names().any(|n| n.starts_with("module.")) {
        "they are those of a parallel wrapper. Save the model inside it (model.module), or take \"module.\" off the names"
    } else if store
        .names()
        .all(|n| n.starts_with("lora_unet_") || n.starts_with("lora_te"))
    {
        "they are those of an image model's LoRA (kohya)"
    } else if store.names().all(|n| !n.starts_with("base_model.model.")) {
        "PEFT's names begin with \"base_model.model.\". Save the adapter with PEFT's save_pretrained"
    } else {
        return Ok(());
    };
    Err(Error::user(format!(
        "{WEIGHTS}: tensors have names like {name}: {why}"
    )))
}

/// What a superfluous tensor is, as an addition to a message.
pub(super) fn about(name: &str) -> &'static str {
    if name.contains("lora_magnitude_vector") {
        "; it is DoRA's, and use_dora is not set"
    } else if name.contains("lora_embedding_") || name.contains("embed_tokens") {
        "; it adapts the embedding, which is not supported"
    } else if name.contains("lm_head") {
        "; it adapts the vocabulary head, which is not supported"
    } else if name.ends_with(".lora_B.bias") {
        "; it is a bias of B, and lora_bias is not set"
    } else {
        ""
    }
}
