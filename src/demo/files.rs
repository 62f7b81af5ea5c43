//! The demo's JSONL files: prompts, supervised pairs, and preference pairs ranked by the true score.

use std::path::Path;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{Example, Kind, score};
use crate::error::Result;
use crate::file::write::write_atomic_with;

/// A line of a supervised file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Supervised {
    /// The instruction.
    pub prompt: String,
    /// The response to imitate.
    pub response: String,
}

/// A line of a preference file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preference {
    /// The instruction.
    pub prompt: String,
    /// The response with the higher true score.
    pub chosen: String,
    /// The other.
    pub rejected: String,
}

/// Responses sampled for one prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampledGroup {
    /// The instruction.
    pub prompt: String,
    /// What a policy answered.
    pub responses: Vec<String>,
}

#[derive(Serialize)]
struct PromptLine<'a> {
    id: &'a str,
    prompt: &'a str,
}

/// Writes one JSON object a line.
///
/// # Errors
/// An I/O error naming the file.
pub fn write_jsonl<T: Serialize>(path: &Path, rows: impl IntoIterator<Item = T>) -> Result<()> {
    write_atomic_with(path, |out| {
        for row in rows {
            writeln!(out, "{}", serde_json::to_string(&row)?)?;
        }
        Ok(())
    })
}

/// Writes `{"id","prompt"}` lines.
///
/// # Errors
/// An I/O error naming the file.
pub fn write_prompts(path: &Path, examples: &[Example]) -> Result<()> {
    write_jsonl(
        path,
        examples.iter().map(|e| PromptLine {
            id: &e.id,
            prompt: &e.prompt,
        }),
    )
}

/// Supervised pairs (one an example), a share `noise` of them with a wrong but plausible response, so that the policy
/// keeps answering in different ways.
pub fn sft_examples(examples: &[Example], noise: f64, seed: u64) -> Vec<Supervised> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(10);
    let respond = |example: &Example| {
        let noisy = rng.random_bool(noise.clamp(0.0, 1.0));
        // Small slips are commoner than large ones.
        let severity = [1, 1, 1, 1, 2, 2, 2, 3, 3, 4][rng.random_range(0..10_usize)];
        let wrong = noisy.then(|| Kind::parse(&example.prompt).map(|task| task.wrong(&mut rng, severity)));
        let response = wrong.flatten().unwrap_or_else(|| example.answer.clone());
        Supervised {
            prompt: example.prompt.clone(),
            response,
        }
    };
    examples.iter().map(respond).collect()
}

/// Writes `{"prompt","response"}` lines from [`sft_examples`].
///
/// # Errors
/// An I/O error naming the file.
pub fn write_sft(path: &Path, examples: &[Example], noise: f64, seed: u64) -> Result<()> {
    write_jsonl(path, sft_examples(examples, noise, seed))
}

/// Least difference of true scores in a pair of corruptions: closer responses teach little but noise.
const LEAST_GAP: f64 = 0.04;
/// The same between a policy's own responses, most of which are wrong in several ways at once.
const LEAST_SAMPLE_GAP: f64 = 0.1;

/// Up to `per_example` pairs an example: right answers and wrong ones of graded severity, two at a time, ranked by the
/// true score.
pub fn preferences(examples: &[Example], per_example: usize, seed: u64) -> Vec<Preference> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(11);
    let mut pairs = Vec::with_capacity(examples.len() * per_example);
    for example in examples {
        let Some(task) = Kind::parse(&example.prompt) else {
            continue;
        };
        let mut ladder = vec![example.answer.clone()];
        ladder.extend([1, 1, 1, 2, 2, 3, 4].map(|severity| task.wrong(&mut rng, severity)));
        pairs.extend(ranked_pairs(
            &mut rng,
            &example.prompt,
            &ladder,
            per_example,
            LEAST_GAP,
        ));
    }
    pairs
}

/// Up to `per_group` pairs a group of sampled responses, ranked by the true score; groups whose prompt has no true
/// score, or whose responses are all alike, give none.
pub fn preferences_from_samples(groups: &[SampledGroup], per_group: usize, seed: u64) -> Vec<Preference> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(12);
    groups
        .iter()
        .flat_map(|group| {
            ranked_pairs(
                &mut rng,
                &group.prompt,
                &group.responses,
                per_group,
                LEAST_SAMPLE_GAP,
            )
        })
        .collect()
}

/// Up to `per_group` pairs an example of its right answer over different wrong responses of a policy: the plainest lesson
/// in what is wrong with them. `groups` are the examples' samples, in order.
pub fn preferences_for_answers(
    examples: &[Example],
    groups: &[SampledGroup],
    per_group: usize,
    seed: u64,
) -> Vec<Preference> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(13);
    let mut pairs = Vec::with_capacity(examples.len() * per_group);
    for (example, group) in examples.iter().zip(groups) {
        let mut wrong: Vec<&String> = group
            .responses
            .iter()
            .filter(|r| score(&example.prompt, r).is_ok_and(|s| s < 1.0))
            .collect();
        wrong.sort_unstable();
        wrong.dedup();
        for _ in 0..per_group.min(wrong.len()) {
            pairs.push(Preference {
                prompt: example.prompt.clone(),
                chosen: example.answer.clone(),
                rejected: wrong.swap_remove(rng.random_range(0..wrong.len())).clone(),
            });
        }
    }
    pairs
}

/// Writes `{"prompt","chosen","rejected"}` lines.
///
/// # Errors
/// An I/O error naming the file.
pub fn write_preferences(path: &Path, pairs: &[Preference]) -> Result<()> {
    write_jsonl(path, pairs)
}

fn ranked_pairs(
    rng: &mut ChaCha8Rng,
    prompt: &str,
    responses: &[String],
    most: usize,
    least_gap: f64,
) -> Vec<Preference> {
    let scored: Vec<(f64, &String)> = responses
        .iter()
        .filter_map(|r| score(prompt, r).ok().map(|s| (s, r)))
        .collect();
    let mut all = Vec::new();
    for (i, high) in scored.iter().enumerate() {
        for (j, low) in scored.iter().enumerate() {
            let repeated =
                scored[..i].iter().any(|s| s.1 == high.1) || scored[..j].iter().any(|s| s.1 == low.1);
            if high.0 - low.0 >= least_gap && !repeated {
                all.push((high.1, low.1));
            }
        }
    }
    let mut pairs = Vec::with_capacity(most.min(all.len()));
    while pairs.len() < most && !all.is_empty() {
        let (chosen, rejected) = all.swap_remove(rng.random_range(0..all.len()));
        pairs.push(Preference {
            prompt: prompt.to_string(),
            chosen: chosen.clone(),
            rejected: rejected.clone(),
        });
    }
    pairs
}
