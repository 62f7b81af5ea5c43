//! One prompt's search in words and numbers: a line of `search.jsonl`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::data::Id;
use crate::error::{Error, Result};
use crate::rollout::Finish;

use super::estimate::TailEstimate;
use super::run::{Node, Response, Searched};
use super::schedule::Schedule;

/// One prompt's search, as `search.jsonl` and `--json` have it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// The prompt's id in its file, or null.
    #[serde(default, skip_serializing_if = "Id::is_null")]
    pub id: Id,
    /// Its number, from 0.
    pub prompt_index: usize,
    /// A text or a conversation.
    pub prompt: Value,
    /// N, m and K.
    pub schedule: Schedule,
    /// Tokens after which the states were cut.
    pub prefix_tokens: usize,
    /// Among the K best, responses that had ended by the cut.
    pub ended: usize,
    /// Among the K best, responses that begin like a better one.
    pub merged: usize,
    /// The root (node 0) and the states.
    pub nodes: Vec<NodeLine>,
    /// The node that the rest of the budget went to.
    pub chosen: usize,
    /// Responses drawn.
    pub budget_used: usize,
    /// Tokens drawn; a prefix counts once, where it was drawn.
    pub tokens_generated: usize,
    /// Tokens of the prompt and of prefixes computed, once for each round they were needed in; those of the comparison with
    /// best-of-N too.
    pub prefill_tokens: usize,
    /// The best response seen.
    pub best: Best,
    /// Best-of-N with the same seeds, where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_of_n: Option<BestOfNLine>,
}

/// The root or a state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeLine {
    /// 0 at the root, states count from 1.
    pub node: usize,
    /// What a state's responses begin with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// The root's response that it was cut from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<usize>,
    /// The tail of its first m rewards.
    pub tail: TailEstimate,
    /// The predicted best of N from here.
    pub predicted: f64,
    /// Rewards of its responses, in order of their numbers.
    pub rewards: Vec<f64>,
}

/// A best response.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// The node it was drawn at.
    pub node: usize,
    /// Its number at that node.
    pub sample: usize,
    /// What it says.
    pub text: String,
    /// Its length in tokens, prefix and stop token included.
    pub tokens: usize,
    /// Why it ended.
    pub finish_reason: Finish,
    /// The judge's reward.
    pub reward: f64,
    /// The demo task's true score, where the prompts are the demo's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub true_score: Option<f64>,
}

/// Best-of-N of one prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BestOfNLine {
    /// The best of them.
    #[serde(flatten)]
    pub best: Best,
    /// Responses drawn, those shared with the search included.
    pub budget_used: usize,
    /// Tokens drawn.
    pub tokens_generated: usize,
    /// All rewards, in order of their numbers; the first m are the search's root's.
    pub rewards: Vec<f64>,
}

/// Judges a text beyond the reward model: the true score, where there is one.
pub type Truth<'a> = &'a mut dyn FnMut(&str) -> Result<Option<f64>>;

impl Line {
    /// The line of a search that computed `prefill_tokens` tokens of prompts and prefixes; `spell` turns tokens to text.
    ///
    /// # Errors
    /// Those of `spell` and `truth`.
    pub fn new(
        searched: &Searched,
        schedule: Schedule,
        prefill_tokens: usize,
        (id, prompt): (Id, Value),
        spell: &dyn Fn(&[u32]) -> Result<String>,
        truth: Truth<'_>,
    ) -> Result<Self> {
        let node = |(node, n): (usize, &Node)| {
            Ok(NodeLine {
                node,
                prefix: (node > 0).then(|| spell(&n.prefix)).transpose()?,
                from: n.from,
                tail: n.tail,
                predicted: n.predicted,
                rewards: rewards(&n.responses),
            })
        };
        let nothing = || Error::internal("a search without responses");
        let (at, sample, response) = searched.best().ok_or_else(nothing)?;
        let best = best(at, sample, response, truth)?;
        let best_of_n = match (searched.best_of_n(), searched.best_of_n_best()) {
            (Some(all), Some((sample, response))) => {
                let all: Vec<&Response> = all.collect();
                Some(BestOfNLine {
                    best: self::best(0, sample, response, truth)?,
                    budget_used: all.len(),
                    tokens_generated: all.iter().map(|r| r.tokens.len()).sum(),
                    rewards: all.iter().map(|r| r.reward).collect(),
                })
            }
            _ => None,
        };
        Ok(Self {
            id,
            prompt_index: searched.prompt,
            prompt,
            schedule,
            prefix_tokens: searched.prefix_tokens,
            ended: searched.ended,
            merged: searched.merged,
            nodes: searched
                .nodes
                .iter()
                .enumerate()
                .map(node)
                .collect::<Result<_>>()?,
            chosen: searched.chosen,
            budget_used: searched.budget_used(),
            tokens_generated: searched.tokens_generated(),
            prefill_tokens,
            best,
            best_of_n,
        })
    }
}

fn rewards(responses: &[Response]) -> Vec<f64> {
    responses.iter().map(|r| r.reward).collect()
}

fn best(node: usize, sample: usize, response: &Response, truth: Truth<'_>) -> Result<Best> {
    Ok(Best {
        node,
        sample,
        text: response.text.clone(),
        tokens: response.tokens.len(),
        finish_reason: response.finish,
        reward: response.reward,
        true_score: truth(&response.text)?,
    })
}
