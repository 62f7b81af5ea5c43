//! Drawing from a policy on the device and judging by a reward model.

use crate::error::Result;
use crate::eval::judging;
use crate::eval::run::{self, Policy, Sampling};
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
    /// By prompt.
    prefilled: Vec<usize>,
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
        let sampler = Sampler::new(policy.model(), shape(policy, sampling, settings, together))?;
        Ok(Self {
            policy,
            contents,
            reward,
            sampler,
            config,
            prefilled: vec![0; contents.len()],
        })
    }

    /// Tokens of a prompt and its prefixes computed so far, each request's once.
    pub fn prefilled(&self, prompt: usize) -> usize {
        self.prefilled[prompt]
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
fn shape(policy: &Policy, sampling: &Sampling, settings: &Settings, together: usize) -> SamplerShape {
    let (model, schedule) = (policy.model(), &settings.schedule);
    let length = policy.max_completion_length();
    let longest = policy.prompts().iter().map(Vec::len).max().unwrap_or(1);
    let prefix = settings.prefix_tokens.unwrap_or(LONGEST_PREFIX).min(length);
    let shape = |sequences: usize| {
        let nodes = sequences.div_ceil(schedule.samples) + 1;
        SamplerShape {
            sequences,
            cache_rows: SamplerShape::rows_for(nodes, longest + prefix, sequences, length),
            prefill_rows: PREFILL.min(nodes * (longest + prefix)),
            rank: model.lora.as_ref().map_or(0, |l| l.rank),
            kv_cache_dtype: sampling.kv_cache_dtype,
        }
    };
    let cap = model.gpu.caps().max_binding;
    let most = schedule.budget.saturating_mul(together);
    SamplerShape::within(cap, &model.spec, sampling.batch.min(most).max(1), shape)
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
        for (request, job) in requests.iter().zip(&jobs) {
            self.prefilled[request.prompt] += job.tokens.len();
        }
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
        let judged = judging::judge(&contents, &texts, self.reward)?;
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::advantage::Alpha;
    use crate::config::TEMPLATE_DATE;
    use crate::demo::{Split, generate};
    use crate::eval::run::PolicyOptions;
    use crate::gpu::{Gpu, GpuOptions};
    use crate::kernels::sample::SampleParams;
    use crate::reward::DemoScore;
    use crate::search::Schedule;
    use crate::search::schedule::Asked;

    const LENGTH: usize = 12;

    fn request(prompt: usize, node: usize, prefix: &[u32], first: usize, samples: usize) -> Request {
        Request {
            prompt,
            node,
            prefix: prefix.to_vec(),
            first,
            samples,
        }
    }

    fn with_world(temperature: f32, batch: usize, body: &mut dyn FnMut(&mut PolicyDraw<'_>)) {
        let options = GpuOptions {
            device: std::env::var("TEA_DEVICE").ok(),
            ..Default::default()
        };
        let gpu = Gpu::open(&options).unwrap();
        let contents: Vec<PromptContent> = generate(1, 3, Split::HeldOut)
            .into_iter()
            .map(|e| PromptContent::Text(e.prompt))
            .collect();
        let options = PolicyOptions {
            adapter: None,
            dtype: None,
            max_completion_length: LENGTH,
            raw: false,
            date: TEMPLATE_DATE.parse().unwrap(),
            prompts_file: None,
        };
        let policy = Policy::load(&gpu, "tiny", &contents, &options).unwrap();
        let sampling = Sampling {
            params: SampleParams {
                temperature,
                ..SampleParams::PLAIN
            },
            seed: 3,
            batch,
            kv_cache_dtype: Default::default(),
        };
        let asked = Asked {
            samples: Some(4),
            width: Some(2),
        };
        let settings = Settings {
            schedule: Schedule::new(12, asked).unwrap(),
            prefix_tokens: None,
            fill_width: false,
            alpha: Alpha::DEFAULT,
            predictor: Default::default(),
            compare_bon: false,
        };
        let mut judge = DemoScore;
        let mut world = PolicyDraw::new(&policy, &contents, &mut judge, &sampling, &settings, 3).unwrap();
        body(&mut world);
    }

    /// A prefix that is computed again, beside its prompt, gives the bits that decoding it gave: the likeliest
    /// continuation of a greedy response's beginning is the response, wherever it is cut.
    #[test]
    fn a_state_goes_on_as_the_response_did() {
        with_world(0.0, 8, &mut |world| {
            let whole = world
                .draw(&[request(0, 0, &[], 0, 1), request(1, 0, &[], 0, 1)])
                .unwrap();
            let cuts: Vec<Request> = (0..2)
                .flat_map(|p| {
                    let tokens = &whole[p][0].tokens;
                    (1..tokens.len()).map(move |cut| request(p, cut, &tokens[..cut], 0, 1))
                })
                .collect();
            assert!(cuts.len() > 4);
            let again = world.draw(&cuts).unwrap();
            for (request, response) in cuts.iter().zip(&again) {
                assert_eq!(response[0], whole[request.prompt][0], "{request:?}");
            }
        });
    }

    #[test]
    fn a_response_depends_on_prompt_node_and_number_alone() {
        let prefix = [20, 21, 22];
        let requests = [
            request(0, 0, &[], 0, 6),
            request(2, 1, &prefix, 0, 5),
            request(2, 2, &prefix, 0, 5),
            request(1, 1, &prefix[..1], 3, 4),
        ];
        let mut together = Vec::new();
        with_world(1.0, 64, &mut |world| {
            together = world.draw(&requests).unwrap();
            for prompt in 0..3 {
                let own = requests.iter().filter(|r| r.prompt == prompt);
                let tokens: usize = own
                    .map(|r| world.policy.prompts()[prompt].len() + r.prefix.len())
                    .sum();
                assert_eq!(world.prefilled(prompt), tokens, "prompt {prompt}");
            }
        });
        // The same prefix at another node is drawn anew; a response never outgrows the limit.
        assert_ne!(together[1], together[2]);
        assert!(together.iter().flatten().all(|r| r.tokens.len() <= LENGTH));
        for (request, group) in requests.iter().zip(&together) {
            assert!(group.iter().all(|r| r.tokens.starts_with(&request.prefix)));
        }
        with_world(1.0, 3, &mut |world| {
            let mut parts = vec![
                request(1, 1, &prefix[..1], 5, 2),
                request(0, 0, &[], 4, 2),
                request(2, 2, &prefix, 0, 1),
            ];
            let drawn = world.draw(&parts).unwrap();
            assert_eq!(drawn[0], together[3][2..]);
            assert_eq!(drawn[1], together[0][4..]);
            assert_eq!(drawn[2], together[2][..1]);
            parts.truncate(1);
            assert_eq!(world.draw(&parts).unwrap()[0], together[3][2..]);
        });
    }
}
