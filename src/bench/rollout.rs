//! `bench rollout`: tokens a second of prefill, of decoding, and of sampling groups, with what the schedule made of them:
//! the share of places that decoded a token, the tokens prefilled, and the most pages of the cache in use.

use super::output::Row;
use super::policy::{Policy, at_least_one, check_tokens};
use super::timing::Clock;
use crate::config::FloatDtype;
use crate::error::Result;
use crate::kernels::sample::SampleParams;
use crate::rollout::{Job, SampleConfig, Sampler, SamplerShape};
use std::time::Instant;

/// What to run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Prompt lengths of the prefill tests.
    pub prefill: Vec<usize>,
    /// Batches of the decode tests.
    pub decode: Vec<usize>,
    /// Tokens that a decode test generates for each sequence.
    pub decode_length: usize,
    /// Prompts of the sampling test, B.
    pub batch: usize,
    /// Responses a prompt, m.
    pub num_generations: usize,
    /// Prompt tokens.
    pub prompt_length: usize,
    /// Tokens a response, T; random weights never stop.
    pub max_completion_length: usize,
    /// Samples of each test.
    pub repetitions: usize,
    /// Most rows in a prefill pass.
    pub token_budget: usize,
    /// How keys and values are stored.
    pub kv_cache_dtype: FloatDtype,
}

impl Settings {
    /// Positions that the longest sequence takes.
    pub fn positions(&self) -> usize {
        let longest = self.prefill.iter().copied().max().unwrap_or(0);
        (longest + 1)
            .max(self.decode_length + 1)
            .max(self.prompt_length + self.max_completion_length)
    }

    /// # Errors
    /// A size of zero.
    pub fn validate(&self) -> Result<()> {
        at_least_one(&[
            ("--prefill", self.prefill.iter().copied().min().unwrap_or(1)),
            ("--decode", self.decode.iter().copied().min().unwrap_or(1)),
            ("--decode-length", self.decode_length),
            ("--batch", self.batch),
            ("--num-generations", self.num_generations),
            ("--prompt-length", self.prompt_length),
            ("--max-completion-length", self.max_completion_length),
            ("--repetitions", self.repetitions),
            ("--token-budget", self.token_budget),
        ])?;
        let most = |all: &[usize]| all.iter().copied().max().unwrap_or(0);
        check_tokens(&[], ("--prefill", most(&self.prefill)))?;
        check_tokens(
            &[("--decode", most(&self.decode))],
            ("--decode-length", self.decode_length),
        )?;
        check_tokens(
            &[
                ("--batch", self.batch),
                ("--num-generations", self.num_generations),
            ],
            (
                "--prompt-length + --max-completion-length",
                self.prompt_length + self.max_completion_length,
            ),
        )
    }
}

/// One test: prompts, samples of each, tokens of each sample.
#[derive(Debug, Clone, Copy)]
struct Test {
    prompts: usize,
    prompt: usize,
    samples: usize,
    length: usize,
    /// Prompt i's samples have i + 1 parts in `prompts` of that length, and half of all samples fit at once.
    uneven: bool,
}

impl Test {
    fn shape(&self, policy: &Policy, s: &Settings) -> SamplerShape {
        let all = self.prompts * self.samples;
        let sequences = if self.uneven { all.div_ceil(2) } else { all };
        SamplerShape {
            sequences,
            cache_rows: SamplerShape::rows_for(self.prompts, self.prompt, sequences, self.length),
            prefill_rows: (self.prompts * self.prompt).min(s.token_budget),
            rank: policy.rank(),
            kv_cache_dtype: s.kv_cache_dtype,
        }
    }

    /// Tokens of each prompt's samples.
    fn limits(&self) -> Vec<usize> {
        let part = |i: usize| (self.length * (i + 1)).div_ceil(self.prompts);
        (0..self.prompts)
            .map(|i| if self.uneven { part(i) } else { self.length })
            .collect()
    }
}

/// Runs the tests.
///
/// # Errors
/// A size of zero, out of memory, or a GPU error.
pub fn run(policy: &Policy, s: &Settings) -> Result<Vec<Row>> {
    s.validate()?;
    let mut rows = Vec::new();
    for length in &s.prefill {
        let test = Test {
            prompts: 1,
            prompt: *length,
            samples: 1,
            length: 1,
            uneven: false,
        };
        // As llama-bench's pp: the prompt and the logits after it.
        rows.push(rate(policy, s, format!("pp{length}"), "", test, *length)?);
    }
    for batch in &s.decode {
        let test = Test {
            prompts: 1,
            prompt: 1,
            samples: *batch,
            length: s.decode_length,
            uneven: false,
        };
        let tokens = batch * s.decode_length;
        let (name, variant) = (format!("tg{}", s.decode_length), format!("batch {batch}"));
        rows.push(rate(policy, s, name, &variant, test, tokens)?);
    }
    if let Some(row) = ratio(policy, &rows) {
        rows.push(row);
    }
    let name = format!(
        "sample {}×{}×{}",
        s.batch, s.num_generations, s.max_completion_length
    );
    for uneven in [false, true] {
        let test = Test {
            prompts: s.batch,
            prompt: s.prompt_length,
            samples: s.num_generations,
            length: s.max_completion_length,
            uneven,
        };
        let tokens = s.num_generations * test.limits().iter().sum::<usize>();
        let variant = match uneven {
            false => format!("prompts of {}", s.prompt_length),
            true => format!("prompts of {}, uneven lengths, half at once", s.prompt_length),
        };
        rows.push(rate(policy, s, name.clone(), &variant, test, tokens)?);
    }
    rows.extend(policy.memory_rows());
    Ok(rows)
}

/// Tokens a second of the largest decode batch over those of the longest prefill.
fn ratio(policy: &Policy, rows: &[Row]) -> Option<Row> {
    let prefill = rows.iter().rfind(|r| r.test.starts_with("pp"))?;
    let decode = rows.iter().rfind(|r| r.test.starts_with("tg"))?;
    let test = format!("{} {} over {}", decode.test, decode.variant, prefill.test);
    Some(policy.row(test, "", "×", Row::of(vec![decode.value / prefill.value], true)))
}

fn rate(
    policy: &Policy,
    s: &Settings,
    name: String,
    variant: &str,
    test: Test,
    tokens: usize,
) -> Result<Row> {
    let gpu = &policy.model.gpu;
    let mut sampler = Sampler::new(&policy.model, test.shape(policy, s))?;
    let jobs: Vec<Job> = (0u64..)
        .zip(policy.tokens(test.prompts, test.prompt))
        .map(|(prompt, tokens)| Job {
            tokens,
            prompt,
            samples: test.samples,
            first: 0,
        })
        .collect();
    let config = SampleConfig {
        params: SampleParams::PLAIN,
        max_completion_length: test.length,
        stop: Vec::new(),
        seed: 1,
        step: 0,
    };
    let limits = test.limits();
    let mut once = || -> Result<f64> {
        let begun = Instant::now();
        sampler.generate_limited(&policy.model, &jobs, &limits, &config)?;
        Ok(begun.elapsed().as_secs_f64())
    };
    once()?;
    let before = (gpu.memory().allocations, gpu.pipelines_made());
    let samples = (0..s.repetitions)
        .map(|_| once().map(|seconds| tokens as f64 / seconds))
        .collect::<Result<Vec<f64>>>()?;
    let made = (
        gpu.memory().allocations - before.0,
        gpu.pipelines_made() - before.1,
    );
    let stats = sampler.stats();
    let row = Row {
        clock: Some(Clock::Wall),
        ..Row::of(samples, true)
    };
    Ok(policy
        .row(name, variant, "tok/s", row)
        .with("allocations", made.0)
        .with("pipelines", made.1)
        .with("occupancy", stats.occupancy())
        .with("prefilled", stats.prefill_tokens)
        .with("peak pages", stats.peak_pages))
}
