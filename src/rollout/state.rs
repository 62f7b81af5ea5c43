//! The rows of a decode batch: their buffers on the device between readbacks, their tokens on the host.

use super::job::{Completion, Finish, Job, SampleConfig};
use super::schedule::{Seat, Table, WINDOW};
use crate::error::{Error, Result};
use crate::gpu::{Buffer, Gpu, Recorder};
use crate::kernels::advance::{AdvanceArgs, advance};
use crate::kernels::attention::PAGE;
use crate::kernels::sample::{self, SampleParams};
use crate::model::workspace::Workspace;
use crate::rng::seed_for;

/// Tokens the output buffers hold for a row: one that comes from its prompt's state, those of a window, and one more,
/// because the kernel ends a row whose buffer is full.
pub(super) const OUT_TOKENS: usize = WINDOW + 2;

/// What is drawn of one sample.
struct Sample {
    key: [u32; 2],
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
    finish: Option<Finish>,
}

/// The samples of all jobs, `[job][sample]`.
pub(super) struct Samples<'a> {
    jobs: &'a [Job],
    limits: &'a [usize],
    all: Vec<Vec<Sample>>,
}

impl<'a> Samples<'a> {
    pub(super) fn new(jobs: &'a [Job], limits: &'a [usize], config: &SampleConfig) -> Self {
        let sample = |job: &Job, limit: usize, number: usize| Sample {
            key: seed_for(config.seed, config.step, job.prompt, job.first + number as u64),
            tokens: Vec::new(),
            logprobs: Vec::new(),
            finish: (limit == 0).then_some(Finish::Length),
        };
        let group = |(job, limit): (&Job, &usize)| (0..job.samples).map(|n| sample(job, *limit, n)).collect();
        Self {
            jobs,
            limits,
            all: jobs.iter().zip(limits).map(group).collect(),
        }
    }

    fn of(&self, seat: &Seat) -> &Sample {
        &self.all[seat.group][seat.sample]
    }

    /// The tokens of a sample that are to be in the cache when it goes on: all but the last.
    pub(super) fn fed(&self, seat: &Seat) -> &[u32] {
        &self.of(seat).tokens[..seat.fed()]
    }

    /// Tokens of a job's prompt.
    pub(super) fn prompt(&self, group: usize) -> &'a [u32] {
        &self.jobs[group].tokens
    }

    /// The results.
    pub(super) fn finish(self) -> Result<Vec<Vec<Completion>>> {
        let completion = |s: Sample| {
            let finish = s.finish.ok_or_else(|| Error::internal("a sample was lost"))?;
            Ok(Completion {
                tokens: s.tokens,
                logprobs: s.logprobs,
                finish,
            })
        };
        let group = |g: Vec<Sample>| g.into_iter().map(completion).collect();
        self.all.into_iter().map(group).collect()
    }
}

/// The device's buffers of the rows, in the order of the schedule's seats.
pub(super) struct Rows {
    token: Buffer,
    logp: Buffer,
    keys: Buffer,
    cache_row: Buffer,
    out_tokens: Buffer,
    out_logp: Buffer,
    length: Buffer,
    limit: Buffer,
    remaining: Buffer,
    stop: Buffer,
    stops: usize,
}

impl Rows {
    pub(super) fn new(gpu: &Gpu, sequences: usize) -> Result<Self> {
        let words = |name: &str, n: usize| gpu.alloc(&format!("sampler/{name}"), n as u64 * 4);
        Ok(Self {
            token: words("token", sequences)?,
            logp: words("logp", sequences)?,
            keys: words("keys", sequences * 4)?,
            cache_row: words("cache row", sequences)?,
            out_tokens: words("tokens out", sequences * OUT_TOKENS)?,
            out_logp: words("logp out", sequences * OUT_TOKENS)?,
            length: words("length", sequences)?,
            limit: words("limit", sequences)?,
            remaining: words("remaining", 1)?,
            stop: words("stop tokens", 8)?,
            stops: 0,
        })
    }

    pub(super) fn reset(&mut self, gpu: &Gpu, stop: &[u32]) {
        self.stops = stop.len();
        gpu.write(&self.stop, 0, stop);
    }

    pub(super) fn cache_rows(&self) -> &Buffer {
        &self.cache_row
    }

    /// Writes what a draw needs of each row.
    pub(super) fn upload(
        &self,
        rec: &mut Recorder,
        ws: &Workspace,
        seats: &[Seat],
        samples: &Samples<'_>,
    ) -> Result<()> {
        let of = |f: &dyn Fn(&Seat) -> u32| seats.iter().map(f).collect::<Vec<u32>>();
        let position = |s: &Seat| samples.prompt(s.group).len() + s.drawn;
        let keys: Vec<[u32; 4]> = seats
            .iter()
            .map(|s| (samples.of(s).key, position(s) as u32))
            .map(|(key, position)| [key[0], key[1], position, 1])
            .collect();
        let left = |s: &Seat| samples.limits[s.group] - s.drawn;
        rec.write(&self.keys, 0, &keys)?;
        let last = of(&|s| samples.of(s).tokens.last().copied().unwrap_or(0));
        rec.write(ws.tokens(), 0, &last)?;
        rec.write(&self.length, 0, &vec![0u32; seats.len()])?;
        rec.write(&self.limit, 0, &of(&|s| left(s) as u32))?;
        let identity: Vec<u32> = (0..seats.len() as u32).collect();
        rec.write(ws.readout_rows(), 0, &identity)
    }

    /// Writes where each row's keys are and where its next ones go. A row that just drew its first token has moved on
    /// from wherever these were, so they are written after that draw.
    pub(super) fn place(
        &self,
        rec: &mut Recorder,
        ws: &Workspace,
        seats: &[Seat],
        samples: &Samples<'_>,
        table: &Table,
    ) -> Result<()> {
        let meta: Vec<[u32; 4]> = seats
            .iter()
            .zip(&table.own)
            .map(|(s, own)| {
                let prompt = samples.prompt(s.group).len() as u32;
                let start = table.prompts[s.group] * PAGE as u32;
                [start, prompt, own * PAGE as u32, prompt + s.fed() as u32]
            })
            .collect();
        rec.write(ws.meta(), 0, &meta)?;
        let rows: Vec<u32> = seats.iter().map(Seat::cache_row).collect();
        rec.write(&self.cache_row, 0, &rows)
    }

    /// Draws a token for every active row among the first `m` and prepares the next step.
    pub(super) fn draw(
        &self,
        rec: &mut Recorder,
        ws: &Workspace,
        (logits, lse): (&Buffer, &Buffer),
        threshold: &Buffer,
        (m, v): (usize, usize),
        params: &SampleParams,
    ) -> Result<()> {
        sample::sample(
            rec,
            logits,
            lse,
            &self.keys,
            &self.token,
            &self.logp,
            threshold,
            m,
            v,
            params,
        )?;
        let args = AdvanceArgs {
            token: &self.token,
            logp: &self.logp,
            stop: &self.stop,
            stops: self.stops,
            keys: &self.keys,
            meta: ws.meta(),
            next_token: ws.tokens(),
            cache_row: &self.cache_row,
            out_tokens: &self.out_tokens,
            out_logp: &self.out_logp,
            length: &self.length,
            limit: &self.limit,
            remaining: &self.remaining,
        };
        advance(rec, &args, m, OUT_TOKENS)
    }

    /// Reads what was drawn since the upload; for each seat how many tokens, and whether it is done.
    pub(super) fn harvest(
        &self,
        gpu: &Gpu,
        seats: &[Seat],
        samples: &mut Samples<'_>,
        stop: &[u32],
    ) -> Result<Vec<(usize, bool)>> {
        let m = seats.len();
        let keys: Vec<[u32; 4]> = gpu.read(&self.keys, 0, m)?;
        let length: Vec<u32> = gpu.read(&self.length, 0, m)?;
        let tokens: Vec<u32> = gpu.read(&self.out_tokens, 0, m * OUT_TOKENS)?;
        let logprobs: Vec<f32> = gpu.read(&self.out_logp, 0, m * OUT_TOKENS)?;
        let mut results = Vec::with_capacity(m);
        for (i, seat) in seats.iter().enumerate() {
            let sample = &mut samples.all[seat.group][seat.sample];
            let (n, from) = (length[i] as usize, i * OUT_TOKENS);
            sample.tokens.extend_from_slice(&tokens[from..from + n]);
            sample.logprobs.extend_from_slice(&logprobs[from..from + n]);
            let done = keys[i][3] == 0;
            if done {
                let ended = sample.tokens.last().is_some_and(|t| stop.contains(t));
                sample.finish = Some(if ended { Finish::Stop } else { Finish::Length });
            }
            results.push((n, done));
        }
        Ok(results)
    }
}
