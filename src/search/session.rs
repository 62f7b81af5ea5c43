//! A search of many prompts on the device, from loaded models to lines.

use serde_json::Value;

use crate::error::{Error, Result};
use crate::eval::run::{Policy, Sampling};
use crate::report::Progress;
use crate::reward::{DemoScore, Item, Reward};
use crate::text::{PromptContent, PromptRecord};

use super::outcome::Line;
use super::policy::PolicyDraw;
use super::run::{Settings, search};

/// What is searched, and how.
pub struct Session<'a> {
    /// The policy, loaded for these prompts.
    pub policy: &'a Policy,
    /// The prompts, in the policy's order.
    pub records: &'a [PromptRecord],
    /// How to sample.
    pub sampling: Sampling,
    /// How to search.
    pub settings: Settings,
    /// Whether the prompts are the demo's, so that responses have a true score.
    pub true_score: bool,
}

/// Rounds fill the sampler this many times, so that few sequences run in waves that are not full.
const WAVES: usize = 2;

impl Session<'_> {
    /// Prompts whose rounds run side by side.
    fn together(&self) -> usize {
        let wave = self.sampling.batch.div_ceil(self.settings.schedule.samples);
        (WAVES * wave).clamp(1, self.records.len().max(1))
    }

    /// Searches every prompt. Returns the lines and the tokens of prompts and prefixes that were computed.
    ///
    /// # Errors
    /// As [`PolicyDraw::new`] and [`search`]; a true score is wanted of a prompt that is not the demo's.
    pub fn run(&self, reward: &mut dyn Reward, progress: &mut Progress) -> Result<(Vec<Line>, usize)> {
        let contents: Vec<PromptContent> = self.records.iter().map(|r| r.prompt.clone()).collect();
        let together = self.together();
        let mut world = PolicyDraw::new(
            self.policy,
            &contents,
            reward,
            &self.sampling,
            &self.settings,
            together,
        )?;
        let numbers: Vec<usize> = (0..self.records.len()).collect();
        let mut lines = Vec::with_capacity(self.records.len());
        for chunk in numbers.chunks(together) {
            for searched in search(&mut world, chunk, &self.settings)? {
                let record = &self.records[searched.prompt];
                let names = (record.id.clone(), prompt_value(&record.prompt)?);
                let spell = |tokens: &[u32]| self.policy.tokenizer().decode(tokens, true);
                let mut truth = |text: &str| self.truth(&record.prompt, text);
                lines.push(Line::new(
                    &searched,
                    self.settings.schedule,
                    names,
                    &spell,
                    &mut truth,
                )?);
            }
            let best = lines.iter().map(|l| l.best.reward).sum::<f64>() / lines.len() as f64;
            progress.step(lines.len() as u64, &[("best reward", best)]);
        }
        progress.finish();
        Ok((lines, world.prefilled()))
    }

    fn truth(&self, prompt: &PromptContent, response: &str) -> Result<Option<f64>> {
        if !self.true_score {
            return Ok(None);
        }
        let scores = DemoScore.score(&[Item { prompt, response }])?;
        Ok(scores.first().copied())
    }
}

fn prompt_value(prompt: &PromptContent) -> Result<Value> {
    match prompt {
        PromptContent::Text(text) => Ok(Value::String(text.clone())),
        PromptContent::Messages(turns) => serde_json::to_value(turns).map_err(Error::internal),
    }
}
