//! Where config.json and the weights say different things, or config.json says nothing: what
//! transformers makes of both.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::config_json::Stated;
use super::source::ModelFiles;
use super::spec::{Head, ModelSpec};
use super::store::WeightStore;
use crate::error::{Context, Error, Result, warn_once};
use crate::kernels::attention::check_head_dim;

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";
const SCORE: &str = "score.weight";

/// Opens a model's weights and settles its specification with them.
///
/// # Errors
/// As [`ModelFiles::spec`], [`check_head_dim`] and [`WeightStore::open`]; config.json and weights
/// have different numbers of labels.
pub(super) fn open(files: &ModelFiles) -> Result<(ModelSpec, WeightStore)> {
    if let ModelFiles::Gguf(_) = files {
        let spec = files.spec()?;
        check_head_dim(spec.head_dim).context(files.name())?;
        return Ok((spec, WeightStore::open(files)?));
    }
    let stated = files.stated()?;
    check_head_dim(stated.spec.head_dim).context(files.name())?;
    let mut store = WeightStore::open(files)?;
    embedded_adapter(files);
    let spec = with_weights(stated, &mut store, &files.file_name("config.json"))?;
    Ok((spec, store))
}

/// The specification that config.json and the weights give together; names of tensors are made
/// those that the specification asks for. `file` is config.json's name for messages.
fn with_weights(stated: Stated, store: &mut WeightStore, file: &str) -> Result<ModelSpec> {
    let Stated {
        mut spec,
        head,
        labels,
    } = stated;
    bare_names(store);
    spec.head = match head {
        Some(head) => head,
        // No class is named: a wrapper's, or none.
        None if store.contains(SCORE) && !store.contains(HEAD) => Head::Score,
        None => Head::CausalLm,
    };
    if spec.head == Head::Score {
        let rows = store.shape(SCORE).and_then(|shape| shape.first().copied());
        if let (Some(labels), Some(rows)) = (labels, rows)
            && labels != rows
        {
            return Err(Error::user(format!(
                "{file}: there are {labels} labels (id2label, num_labels) and score.weight has {rows} rows; \
                 transformers refuses it too. Make the two agree: a reward model has one label"
            )));
        }
        return Ok(spec);
    }
    if spec.tie_word_embeddings {
        tie(&mut spec, store, file)?;
    }
    Ok(spec)
}

/// transformers 5 ties from either side, and keeps both matrices where both are stored and differ.
fn tie(spec: &mut ModelSpec, store: &mut WeightStore, file: &str) -> Result<()> {
    match (store.contains(EMBEDDING), store.contains(HEAD)) {
        (false, true) => store.alias(HEAD, EMBEDDING),
        (true, true) if !store.same(EMBEDDING, HEAD)? => {
            warn_once(format!(
                "{file}: tie_word_embeddings is true and the weights hold {HEAD} and {EMBEDDING} with different values; \
                 both are kept, as in transformers 5. \"tie_word_embeddings\": false in config.json says so without a \
                 warning"
            ));
            spec.tie_word_embeddings = false;
        }
        _ => {}
    }
    Ok(())
}

/// A model saved without its head's class (LlamaModel) has names without "model."; transformers
/// finds them too.
fn bare_names(store: &mut WeightStore) {
    const BARE: &str = "embed_tokens.weight";
    if store.contains(BARE) && !store.contains(EMBEDDING) {
        store.prefix("model.", &[HEAD, SCORE]);
    }
}

/// Warns of an adapter that lies beside a whole model: transformers applies it.
fn embedded_adapter(files: &ModelFiles) {
    let has = |dir: &std::path::Path, name: &str| dir.join(name).is_file();
    if let Some(dir) = files.dir()
        && has(dir, "adapter_config.json")
        && (has(dir, "adapter_model.safetensors") || has(dir, "adapter_model.bin"))
    {
        warn_once(format!(
            "{}: an adapter lies beside the model (adapter_config.json). transformers applies it on loading; here it is \
             applied only as --adapter",
            dir.display()
        ));
    }
}

/// Warns of tensors in a model's safetensors that it has no place for, as transformers reports
/// them.
pub(super) fn warn_of_unused(files: &ModelFiles, spec: &ModelSpec, store: &WeightStore) {
    if let ModelFiles::Gguf(_) = files {
        return;
    }
    let wanted: BTreeSet<String> = spec.tensors().map(|t| t.name).collect();
    // Buffers of older releases, which transformers leaves out of its report, and the other names
    // of tied matrices.
    let quiet = |n: &str| {
        n.ends_with("rotary_emb.inv_freq")
            || n.ends_with("rotary_emb.cos_cached")
            || n.ends_with("rotary_emb.sin_cached")
            || n.ends_with(".masked_bias")
            || n == HEAD
    };
    let unused: Vec<Cow<'_, str>> = store
        .names()
        .filter(|n| !wanted.contains(*n) && !quiet(n))
        .map(Cow::Borrowed)
        .collect();
    const NAMED: usize = 5;
    if !unused.is_empty() {
        let more = unused.len().saturating_sub(NAMED);
        warn_once(format!(
            "{}: {} tensors are not used, as this architecture has no place for them: {}{}",
            store.origin,
            unused.len(),
            unused[..unused.len().min(NAMED)].join(", "),
            if more > 0 {
                format!(" and {more} more")
            } else {
                String::new()
            }
        ));
    }
}

#[cfg(test)]
#[path = "settle_tests.rs"]
mod tests;
