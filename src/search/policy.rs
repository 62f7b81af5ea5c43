//! Drawing from a policy on the device and judging by a reward model.

use crate::error::Result;
use crate::eval::run::{self, Policy, Sampling};
use crate::kernels::pad4;
use crate::reward::Reward;
use crate::rollout::{Completion, Finish, Job, SampleConfig, Sampler, SamplerShape};
use crate::text::PromptContent;

use super::run::{Draw, Request, Response, Settings};
use super::states::LONGEST_PREFIX;

/// Prompt tokens computed in one pass.
const PREFILL: usize = 1024;

/// A policy that continues prefixes, and its judge.
///
/// The responses of a node attend to one copy of prompt and prefix in the KV cache, computed once a request. A response's
/// random numbers come from (seed, prompt, node, number): they depend neither on what is sampled beside it nor on the order.
/// The root's are those of `generate` and `eval` with the same seed.
pub struct PolicyDraw<'a> {
    policy: &'a Policy,
    contents: &'a [PromptContent],
    reward: &'a mut dyn Reward,
    sampler: Sampler,
    config: SampleConfig,
    prefilled: usize,
}

impl<'a> PolicyDraw<'a> {
    /// Allocates the sampler for a search of `together` prompts at once.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(
        policy: &'a Policy,
        contents: &'a [PromptContent],
        reward: &'a mut dyn Reward,
        sampling: &Sampling,
        settings: &Settings,
        together: usize,
    ) -> Result<Self> {
        let config = SampleConfig {
            params: sampling.params,
            max_completion_length: policy.max_completion_length(),
            stop: policy.stop().to_vec(),
            seed: sampling.seed,
            step: 0,
        };
        let sampler = Sampler::new(policy.model(), shape(policy, sampling.batch, settings, together))?;
        Ok(Self {
            policy,
            contents,
            reward,
            sampler,
            config,
            prefilled: 0,
        })
    }

    /// Tokens of prompts and prefixes computed so far, each request's once.
    pub fn prefilled(&self) -> usize {
        self.prefilled
    }

    fn response(&self, prefix: &[u32], completion: Completion) -> Result<Response> {
        let tokens = [prefix, &completion.tokens].concat();
        let stopped = completion.finish == Finish::Stop;
        let spelled = &tokens[..tokens.len() - usize::from(stopped)];
        Ok(Response {
            text: self.policy.tokenizer().decode(spelled, true)?,
            tokens,
            finish: completion.finish,
            reward: f64::NAN,
        })
    }
}

/// Buffers for as many sequences at once as were asked for and as one binding allows.
fn shape(policy: &Policy, batch: usize, settings: &Settings, together: usize) -> SamplerShape {
    let (model, schedule) = (policy.model(), &settings.schedule);
    let length = policy.max_completion_length();
    let longest = policy.prompts().iter().map(Vec::len).max().unwrap_or(1);
    let prefix = settings.prefix_tokens.unwrap_or(LONGEST_PREFIX).min(length);
    let shape = |sequences: usize| {
        let nodes = sequences.div_ceil(schedule.samples) + 1;
        SamplerShape {
            sequences,
            cache_rows: nodes * (longest + prefix) + sequences * length,
            prefill_rows: PREFILL.min(nodes * (longest + prefix)),
            rank: model.lora.as_ref().map_or(0, |l| l.rank),
        }
    };
    let cap = model.gpu.caps().max_binding;
    let fits = |s: &SamplerShape| {
        let cache = s.cache_rows * model.spec.num_kv_heads * model.spec.head_dim;
        (cache.max(s.sequences * pad4(model.spec.vocab_size)) * 4) as u64 <= cap
    };
    let most = schedule.budget.saturating_mul(together);
    let mut sequences = batch.min(most).max(1);
    while sequences > 1 && !fits(&shape(sequences)) {
        sequences = sequences.div_ceil(2);
    }
    shape(sequences)
}

impl Draw for PolicyDraw<'_> {
    fn draw(&mut self, requests: &[Request]) -> Result<Vec<Vec<Response>>> {
        let job = |r: &Request| Job {
            tokens: [&self.policy.prompts()[r.prompt], r.prefix.as_slice()].concat(),
            prompt: r.prompt as u64,
            samples: r.samples,
            first: ((r.node as u64) << 32) + r.first as u64,
        };
        let jobs: Vec<Job> = requests.iter().map(job).collect();
        let length = self.config.max_completion_length;
        let limits: Vec<usize> = requests
            .iter()
            .map(|r| length.saturating_sub(r.prefix.len()).max(1))
            .collect();
        self.prefilled += jobs.iter().map(|j| j.tokens.len()).sum::<usize>();
        let completions = self
            .sampler
            .generate_limited(self.policy.model(), &jobs, &limits, &self.config)?;
        let mut responses = requests
            .iter()
            .zip(completions)
            .map(|(r, group)| {
                group
                    .into_iter()
                    .map(|c| self.response(&r.prefix, c))
                    .collect::<Result<Vec<_>>>()
            })
            .collect::<Result<Vec<_>>>()?;
        let contents: Vec<PromptContent> = requests.iter().map(|r| self.contents[r.prompt].clone()).collect();
        let texts: Vec<Vec<run::Response>> = responses.iter().map(|g| g.iter().map(text).collect()).collect();
        let judged = run::judge(&contents, &texts, self.reward)?;
        for (response, reward) in responses.iter_mut().flatten().zip(judged.values.iter().flatten()) {
            response.reward = *reward;
        }
        Ok(responses)
    }
}

/// What a judge reads of a response.
fn text(r: &Response) -> run::Response {
    run::Response {
        text: r.text.clone(),
        tokens: r.tokens.len(),
        truncated: r.finish == Finish::Length,
    }
}
