//! Rewards: what turns a response into a number.

mod model;
mod scoring;
mod verifier;

pub use model::{RewardModel, RewardOptions, RewardShape};
pub use scoring::{GroupScoring, Scoring};
pub use verifier::DemoScore;

use std::path::Path;

use crate::error::{Error, Result};
use crate::gpu::{Buffer, Gpu};
use crate::text::PromptContent;

/// The name by which [`DemoScore`] is asked for, in place of a reward model.
pub const TRUE_SCORE: &str = "true-score";

/// Whether a reward is the demo's true score (`demo-score` is another name of it) and not a model.
pub fn is_true_score(name: &str) -> bool {
    matches!(name, TRUE_SCORE | "demo-score")
}

/// The judge of a name: the demo's true score, or a reward model. Every command opens its judges
/// here.
///
/// # Errors
/// As [`RewardModel::load`]; an adapter for the true score, which has no weights.
pub fn open(gpu: &Gpu, name: &str, options: &RewardOptions<'_>) -> Result<Box<dyn Reward>> {
    match on_host(name, options.adapter)? {
        Some(judge) => Ok(judge),
        None => Ok(Box::new(RewardModel::load(gpu, name, options)?)),
    }
}

/// The judge of a name that needs neither a device nor weights, if it is one's.
///
/// # Errors
/// An adapter for such a judge.
pub fn on_host(name: &str, adapter: Option<&Path>) -> Result<Option<Box<dyn Reward>>> {
    match adapter {
        _ if !is_true_score(name) => Ok(None),
        None => Ok(Some(Box::new(DemoScore))),
        Some(dir) => Err(Error::user(format!(
            "{name} is computed from the texts and has no weights for the adapter {}: leave the adapter out",
            dir.display()
        ))),
    }
}

/// A response to be judged.
#[derive(Debug, Clone, Copy)]
pub struct Item<'a> {
    /// What was asked.
    pub prompt: &'a PromptContent,
    /// The answer, decoded without special tokens.
    pub response: &'a str,
}

/// A judge of responses.
pub trait Reward {
    /// What metrics and messages call it.
    fn name(&self) -> &str;

    /// One reward an item, in order; higher is better. Items of one prompt are best given side by side.
    ///
    /// # Errors
    /// A response that cannot be judged, or a reward that is not finite (naming prompt and sample).
    fn score(&mut self, items: &[Item<'_>]) -> Result<Vec<f64>>;

    /// Begins to score responses that are not all there yet; the rewards are those of [`Reward::score`]. What an earlier scoring left
    /// unfinished is forgotten. By default what is added is scored at once.
    fn scoring(&mut self) -> Box<dyn Scoring + '_> {
        Box::new(scoring::AtOnce {
            reward: self,
            rewards: Vec::new(),
        })
    }

    /// As [`Reward::scoring`], of a judge that computes on the device. Its scores stay in `scores`
    /// (rows, [`SCORE_WORDS`](crate::kernels::group_rewards::SCORE_WORDS)), which has a row for each
    /// response. [`Scoring::finish`] gives the row of each without waiting for it, so a score may turn
    /// out not to be finite. `None` for judges that compute on the host.
    fn scoring_on_device(&mut self, scores: &Buffer) -> Option<Box<dyn Scoring<u32> + '_>> {
        let _ = scores;
        None
    }
}

/// Refuses rewards that are not finite: one of them would make every advantage of its group meaningless.
///
/// # Errors
/// Names the judge, the prompt and the number of the sample among those of its prompt (from 0).
pub fn check_finite(name: &str, items: &[Item<'_>], rewards: &[f64]) -> Result<()> {
    match rewards.iter().position(|r| !r.is_finite()) {
        None => Ok(()),
        Some(at) => Err(not_finite(name, rewards[at], &place(items, at))),
    }
}

fn not_finite(name: &str, reward: f64, place: &str) -> Error {
    Error::user(format!(
        "{name} gave the reward {reward} to {place}; rewards must be finite. Check the reward model's weights, or try \
         --reward-dtype f32"
    ))
}

/// What messages call an item: the number of the sample among those of its prompt (from 0), and the prompt.
fn place(items: &[Item<'_>], at: usize) -> String {
    let prompt = items[at].prompt;
    sample_of(items[..at].iter().filter(|i| i.prompt == prompt).count(), prompt)
}

fn sample_of(sample: usize, prompt: &PromptContent) -> String {
    format!("sample {sample} of the prompt {:?}", excerpt(prompt))
}

/// The beginning of a prompt's last turn, for messages.
fn excerpt(prompt: &PromptContent) -> String {
    let text = match prompt {
        PromptContent::Text(text) => text.as_str(),
        PromptContent::Messages(turns) => turns.last().map_or("", |m| m.content.as_str()),
    };
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_reward_that_is_not_finite_names_prompt_and_sample() {
        let prompts = [
            PromptContent::Text("first".into()),
            PromptContent::Text("second".into()),
        ];
        let items = [0, 0, 1, 1].map(|p| Item {
            prompt: &prompts[p],
            response: "x",
        });
        check_finite("judge", &items, &[0.0; 4]).unwrap();
        for bad in [f64::NAN, f64::INFINITY] {
            let error = check_finite("judge", &items, &[0.0, 1.0, 2.0, bad]).unwrap_err();
            let text = error.to_string();
            assert!(
                text.contains("judge") && text.contains("sample 1") && text.contains("\"second\""),
                "{text}"
            );
            assert_eq!(error.exit_code(), 2);
        }
    }
}
