//! The list of settings: of `train` and `plan`, and of `sft` and `reward`.
//!
//! A setting stands here once. Its flag under a heading, its key in settings files, the check of its
//! range, its line in `config.toml`, the check at `--resume` and its row in
//! `docs/reference/settings.md` follow (`src/config/setting.rs`).
//!
//! An entry says name, type, help, range and rules, and then the default of the commands that take
//! the setting. The text after `=>` is printed where the default is no plain number. A setting that
//! may stay `open` has no value in the resolved settings. Defaults see `given`, the settings that are
//! given. Help fits one line; what is longer goes into [`Setting::more`] and so into the page.

use super::range::{
    EXACT, EXACT_WHY, GROUP, GROUP_WHY, HELD, HELD_WHY, LARGE, LARGE_WHY, MAX_GROUP, ROWS, ROWS_WHY, STORED,
    STORED_WHY, TOKENS, TOKENS_WHY,
};
use super::setting::{
    Setting, above, any, below, command, filled, one, printed, real, settings, whole, zero_or,
};
use super::supervised::{Schedule, TrainOn};
use super::train::{KlEstimator, LossType, ScaleAdvantages, default_rate};
use super::{
    ActivationMemory, DataSet, FloatDtype, Fraction, GradientSum, MatmulPrecision, Optim, Residency,
    TEMPLATE_DATE, TINY,
};
use std::path::PathBuf;

settings! { given;

"Inputs" {
    model: String, "Model to train: an alias, a directory, a GGUF file, or a hub id",
        any().path(),
        train = TINY.into() => "the embedded policy and a small preset",
        supervised = String::new() => "";
    adapter: PathBuf, "LoRA adapter to start from instead of a fresh one",
        any().path().value("DIR"),
        supervised open "";
    reward_model: String, "Reward model, as --model",
        any().path().scored(),
        train = String::new() => "the policy's in models/aliases.toml";
    reward_adapter: PathBuf, "LoRA adapter of the reward model",
        any().path().value("DIR").scored(),
        train open "";
    prompts: PathBuf, "Training prompts: a file, a directory, or a data set of the hub",
        any().path().value("FILE|ID")
            .more("Rows of {\"prompt\": text} or {\"messages\": […]} as JSON Lines, JSON, CSV or Parquet, plain, gzip or \
                   zstd. A data set is ID or ID@REVISION. :SPLIT after a directory or data set chooses one of several"),
        train open "the policy's in models/aliases.toml";
    max_prompt_length: usize, "Leave out prompts of more tokens",
        whole(1, TOKENS, TOKENS_WHY).value("N"),
        train open "512 for a data set, else no limit";
    data: PathBuf, "Training data: a file, a directory, or a data set of the hub",
        any().path().value("FILE|ID")
            .more("JSON Lines, JSON, CSV or Parquet. A data set is OWNER/NAME or OWNER/NAME@REVISION. :SPLIT after a \
                   directory or data set chooses one of several. Other training examples are refused at --resume"),
        supervised = PathBuf::new() => "";
    eval_data: PathBuf, "Held-out data, as --data",
        any().path().value("FILE|ID"),
        supervised open "a share of --data";
    eval_fraction: f64, "Share of --data that is held out without --eval-data",
        below(0.0, 1.0, "a share, and something must be left to train on"),
        supervised = 0.05;
    train_on: TrainOn, "Assistant turns that sft learns",
        any().value("TURNS"),
        supervised open "all";
    max_length: usize, "Longest example in tokens; longer ones are left out and counted",
        whole(1, TOKENS, TOKENS_WHY).value("N"),
        supervised = 1024;
    raw: bool, "Do not wrap prompts in the model's chat template",
        any().scored(),
        both = false => "";
    template_date: String, "Date that chat templates see, YYYY-MM-DD",
        any().value("DATE").scored().more("It is fixed, so that runs can be repeated"),
        both = TEMPLATE_DATE.into() => "2026-01-01";
}

"Advantages" {
    advantage: String, "Rule that turns a group's rewards into advantages",
        any().no_memory(),
        train = "tea".into() => "tea";
    alpha: Fraction, "Tail share α of the TEA rules and cvar, in (0, 1/2]",
        any().no_memory().value("SHARE").more("A fraction such as 1/5 is taken exactly"),
        train = "0.2".into() => "0.2";
    bon: u64, "Deployment budget N of best-of-N that the rule aims at",
        whole(1, EXACT, EXACT_WHY).no_memory().value("N"),
        train open "128; the group size for cat-bon";
    min_scale: f64, "Least standard deviation of the tail (TEA and Prefix-TEA)",
        real(0.0, LARGE, LARGE_WHY).value("X"),
        train = 1e-8;
    prefix_order: usize, "Order p of prefix-tea",
        whole(1, 64, "its weights lose all digits beyond").no_memory().value("P")
            .more("Bias terms up to 1/m^(p-1) cancel"),
        train open "2";
    prefixes: usize, "Number of prefixes J of prefix-tea, at least the order",
        whole(1, 1024, "time grows with the square").no_memory().value("J"),
        train open "2";
    max_at_k: usize, "Subset size K of bon-mean, pkpo, max-at-k and pass-at-k",
        whole(1, HELD, HELD_WHY).no_memory().value("K"),
        train open "half the group";
    selection_size: usize, "How many of the group chow chooses its best from",
        whole(1, HELD, HELD_WHY).no_memory().value("N"),
        train open "half the group";
    gpd_shrinkage: f64, "Tail samples that the Gaussian shape weighs in tea-gpd's fit",
        real(0.0, LARGE, "").no_memory().value("N").more("0 trusts the fit"),
        train open "20";
    risk_beta: f64, "How much rs-grpo seeks risk, β in 1/reward",
        above(0.0, 1e6, "rewards are multiplied by it before they are exponents").no_memory().value("BETA"),
        train open "2";
    quantile: f64, "Quantile of the group that qae counts rewards from",
        real(0.0, 1.0, "it is a share of the group").no_memory().value("SHARE"),
        train open "0.5";
    max_advantage: f64, "Largest advantage that entropic gives",
        above(0.0, LARGE, LARGE_WHY).no_memory().value("X"),
        train open "no limit";
    scale_advantages: ScaleAdvantages, "Divide advantages by the root mean square of a group or step",
        any().no_memory().value("BY").more("Rules of different units are then comparable"),
        train = ScaleAdvantages::None => "none";
}

"Sampling" {
    num_generations: usize, "Responses to each prompt of a step, m",
        whole(2, MAX_GROUP,
              "a group has at least 2 responses to compare, and a GPU workgroup reduces all of them").value("M"),
        train = if given.is_tiny() { 16 } else { 64 } => "64, tiny 16";
    prompts_per_step: usize, "Prompts of a step, B",
        whole(1, GROUP, GROUP_WHY).value("B").same("which prompts a step draws follows from it"),
        train = if given.is_tiny() { 16 } else { 8 } => "8, tiny 16";
    max_completion_length: usize, "Most tokens in a response",
        whole(1, TOKENS, TOKENS_WHY).value("N").scored(),
        train = if given.is_tiny() { 24 } else { 512 } => "512, tiny 24";
    temperature: f64, "Sampling temperature; other than 1 is biased",
        zero_or(1e-4, 1e6, "logits are divided by it in float32").value("T").scored(),
        train = 1.0 => "1";
    top_p: f64, "Nucleus sampling; other than 1 is biased",
        above(0.0, 1.0, "it is a probability").value("P").scored(),
        train = 1.0 => "1";
    top_k: u32, "Keep only the k likeliest tokens; other than 0 is biased",
        whole(0, ROWS, "").value("K").scored(),
        train = 0;
    min_p: f64, "Drop tokens below this share of the likeliest; other than 0 is biased",
        below(0.0, 1.0, "it is a share of the likeliest token's probability").value("P").scored(),
        train = 0.0 => "0";
    allow_biased_sampling: bool, "Train on samples that are not the policy's own distribution",
        any(),
        train = false => "";
    rollout_batch: usize, "Sequences sampled together",
        whole(1, HELD, HELD_WHY).value("N"),
        train = 256;
}

"Loss" {
    loss_type: LossType, "How a response's tokens are weighted",
        any().value("TYPE"),
        train = LossType::DrGrpo => "dr_grpo";
    beta: f64, "Weight of the KL term",
        real(0.0, LARGE, LARGE_WHY).value("X"),
        train = 0.02;
    kl_estimator: KlEstimator, "Estimator of the KL term",
        any().value("NAME"),
        train = KlEstimator::K3 => "k3";
    num_iterations: usize, "Optimiser steps per batch of samples; above 1 PPO's ratio is used",
        whole(1, 1024, "each is an update from the same responses, and the sums of all are in memory").value("N"),
        train = 1;
    epsilon: f64, "PPO's clipping range",
        real(0.0, LARGE, LARGE_WHY).value("X"),
        train = 0.2;
}

"Training" {
    steps: u64, "Optimiser steps",
        whole(1, ROWS, "a step's number is part of its random numbers").no_memory().value("N"),
        train = if given.is_tiny() { 60 } else { 450 } => "450, tiny 60",
        supervised open "one pass over the data";
    batch_size: usize, "Examples in an optimiser step",
        whole(1, HELD, HELD_WHY).value("N"),
        supervised = 32;
    optim: Optim, "Optimiser: AdamW with f32 moments, or with 8-bit ones",
        any().value("NAME").same("its moments are stored so")
            .more("Moments of 8 bits take a quarter of the memory"),
        both = Optim::Adamw => "adamw";
    learning_rate: f64, "Learning rate",
        real(0.0, LARGE, LARGE_WHY).no_memory().value("X").more("With the embedded policy 5e-4, and 1e-4 with --full"),
        train = default_rate(given.full, given.is_tiny()) => "1e-4; 1e-5 with --full",
        supervised = default_rate(given.full, false) => "1e-4; 1e-5 with --full";
    warmup_steps: u64, "Steps of linear warm-up",
        whole(0, STORED, STORED_WHY).value("N"),
        train = if given.is_tiny() { 2 } else { 10 } => "10, tiny 2",
        supervised = 10;
    lr_scheduler_type: Schedule, "What the learning rate does after warm-up",
        any().value("TYPE"),
        supervised = Schedule::Constant => "constant";
    weight_decay: f64, "AdamW's decoupled weight decay",
        real(0.0, LARGE, LARGE_WHY).value("X"),
        both = 0.0 => "0";
    max_grad_norm: f64, "Global gradient-norm clip; 0 turns it off",
        real(0.0, LARGE, LARGE_WHY).value("X"),
        both = 1.0 => "1";
    full: bool, "Train every weight instead of a LoRA adapter",
        any().same("its checkpoints are of that"),
        both = false => "";
    head_only: bool, "Train only the score head (reward): the backbone runs once",
        any().same("its checkpoints are of that"),
        supervised = false => "";
    lora_rank: usize, "LoRA rank r",
        whole(1, 1 << 16, "an adapter of a higher rank is larger than any weight it adapts").value("R")
            .same("its lora_A.weight and lora_B.weight are of that"),
        train = 16,
        supervised = 16 => "16, or --adapter's";
    lora_alpha: f64, "LoRA alpha; the adapter is scaled by alpha / r",
        real(0.0, LARGE, LARGE_WHY).value("X").same("its lora_A.weight and lora_B.weight are of that"),
        train = 32.0 => "32",
        supervised = 32.0 => "2 r, or --adapter's";
    seed: u64, "Seed of everything random in the run",
        whole(0, STORED, STORED_WHY).no_memory().value("N").same("samples and the order of the data follow from it"),
        both = 1;
    save_steps: u64, "Steps between checkpoints",
        whole(1, STORED, STORED_WHY).value("N"),
        train = 25,
        supervised = 100;
    eval_steps: u64, "Steps between evaluations on the held-out data",
        whole(1, STORED, STORED_WHY).value("N"),
        supervised = 50;
}

"Validation" {
    validation_prompts: PathBuf, "Keep the best checkpoint by these prompts, as --prompts",
        any().path().value("FILE").more("`embedded` is the demo's validation set"),
        train open "none";
    validation_size: usize, "Most validation prompts: the file's first ones",
        whole(1, HELD, HELD_WHY).value("N"),
        train = 128;
    validation_samples: usize, "Responses sampled for each validation prompt",
        whole(1, GROUP, HELD_WHY).value("N"),
        train = 32;
    validation_top: usize, "A score is the mean of a prompt's best K rewards",
        whole(1, GROUP, HELD_WHY).value("K").alias("top"),
        train = 10;
    validation_steps: u64, "Steps between validations; the last step is always validated",
        whole(1, STORED, STORED_WHY).value("N"),
        train = 25;
}

"Memory" {
    token_budget: usize, "Most tokens in one forward and backward pass",
        whole(1, ROWS, ROWS_WHY).value("N")
            .more("Results do not depend on it. At least one piece of a prompt fits: 1024 tokens, or the longest prompt \
                   and response. For sft and reward, the longest example"),
        both = 2048;
    no_checkpointing: bool, "Keep all activations instead of recomputing them: faster, more memory",
        any(),
        both = false => "";
    activation_memory: ActivationMemory, "What kept activations may take: a size, or auto",
        any().value("SIZE").excludes("no_checkpointing")
            .more("As many of the last blocks' as fit are kept, and the others recomputed. A size is 512MiB, 2GiB or bytes. \
                   auto is what is left of the free memory, where that is known"),
        both open "one block's";
    gradient_sum: GradientSum, "Order in which the gradients of a step's prompts are added up",
        any().value("HOW").same("gradients are rounded by it")
            .more("A binary tree needs a set of gradient buffers more for each doubling of --prompts-per-step; ascending \
                   needs one. Neither depends on --token-budget. auto takes the tree where its buffers fit in the free \
                   memory; where that is not known, where they take at most 1 GiB"),
        train = GradientSum::Auto => "auto";
    matmul_precision: MatmulPrecision, "Precision of matrix products",
        any().value("HOW").same("its numbers are rounded so"),
        both = MatmulPrecision::Highest => "highest";
    dtype: FloatDtype, "Element type of kept activations (and of the KV cache)",
        any().value("TYPE")
            .more("For --no-checkpointing and --activation-memory. float16 takes a third of the memory and rounds what \
                   gradients are computed from, of recomputed blocks as well. In `train` the KV cache follows, unless \
                   --kv-cache-dtype is given"),
        both = FloatDtype::Float32 => "float32";
    kv_cache_dtype: FloatDtype, "Element type of the keys and values that sampling keeps",
        any().value("TYPE").same("its samples are of that")
            .more("float16 takes half the memory and moves the sampler's log-probabilities a little from the trainer's \
                   (`mismatch_kl`)"),
        train = given.dtype.unwrap_or_default() => "what --dtype says";
    base_dtype: String, "Element type of frozen weights: f32, f16, bf16, q8_0, q4_0",
        any().value("TYPE").scored()
            .more("Left open, it is the largest of f32, the stored type and q8_0 that fits, where the free memory is known. A \
                   GGUF file's blocks stay as they are"),
        both open "what fits";
    reward_dtype: String, "Element type of the reward model, as --base-dtype",
        any().value("TYPE").scored(),
        train open "what fits";
    reward_residency: Residency, "Reward model on the device, or streamed block by block",
        any().value("WHERE")
            .more("auto streams where the run does not fit in the free memory otherwise, as far as that is known"),
        train = Residency::Auto => "auto";
}

}
