//! A search of many prompts on the device, from loaded models to stored lines.

use serde_json::Value;

use crate::error::{Error, Result};
use crate::eval::run::{Policy, Sampling};
use crate::report::Progress;
use crate::reward::{DemoScore, Item, Reward};
use crate::run::interrupt;
use crate::text::{PromptContent, PromptRecord};

use super::line::Line;
use super::policy::PolicyDraw;
use super::run::{Searched, Settings, search};
use super::store::Store;

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

/// Rounds fill the sampler this many times, so that few steps run with empty places.
const WAVES: usize = 2;

impl Session<'_> {
    /// Prompts whose rounds run side by side.
    fn together(&self) -> usize {
        let wave = self.sampling.batch.div_ceil(self.settings.schedule.samples);
        (WAVES * wave).clamp(1, self.records.len().max(1))
    }

    /// Searches every prompt that `store` does not hold yet; `stop` is asked between the chunks of prompts that are searched
    /// side by side.
    ///
    /// # Errors
    /// As [`PolicyDraw::new`], [`search`] and [`Store::push`]; a true score is wanted of a prompt that is not the demo's;
    /// [`Error::Interrupted`] when `stop` says so.
    pub fn run(&self, reward: &mut dyn Reward, store: &mut Store, stop: &dyn Fn() -> bool) -> Result<()> {
        let total = self.records.len();
        let mut progress = Progress::new("search", store.lines().len() as u64, total as u64);
        if store.lines().len() == total {
            return Ok(());
        }
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
        // Without a directory there is nothing to store.
        let _held = store
            .keeps()
            .then(|| interrupt::hold("finishing the prompts in progress, which are then stored"));
        while store.lines().len() < total {
            let done = store.lines().len();
            if stop() {
                progress.finish();
                return Err(Error::Interrupted(store.interrupted(total)));
            }
            let chunk: Vec<usize> = (done..total.min(done + together)).collect();
            for searched in search(&mut world, &chunk, &self.settings)? {
                store.push(self.line(&searched, world.prefilled(searched.prompt))?)?;
            }
            let lines = store.lines();
            let best = lines.iter().map(|l| l.best.reward).sum::<f64>() / lines.len() as f64;
            progress.step(lines.len() as u64, &[("best reward", best)]);
        }
        progress.finish();
        Ok(())
    }

    fn line(&self, searched: &Searched, prefilled: usize) -> Result<Line> {
        let record = &self.records[searched.prompt];
        let names = (record.id.clone(), prompt_value(&record.prompt)?);
        let spell = |tokens: &[u32]| self.policy.tokenizer().decode(tokens, true);
        let mut truth = |text: &str| self.truth(&record.prompt, text);
        let schedule = self.settings.schedule;
        Line::new(searched, schedule, prefilled, names, &spell, &mut truth)
    }

    fn truth(&self, prompt: &PromptContent, response: &str) -> Result<Option<f64>> {
        if !self.true_score {
            return Ok(None);
        }
        let scores = DemoScore.score(&[Item { prompt, response }])?;
        Ok(scores.first().copied())
    }
}

/// A prompt as lines have it: a text or a list of turns.
///
/// # Errors
/// Never, for what [`PromptContent`] holds.
pub fn prompt_value(prompt: &PromptContent) -> Result<Value> {
    match prompt {
        PromptContent::Text(text) => Ok(Value::String(text.clone())),
        PromptContent::Messages(turns) => serde_json::to_value(turns).map_err(Error::internal),
    }
}
