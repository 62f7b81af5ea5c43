//! The rows of a decode batch: their buffers on the device between readbacks, their tokens on the host.

use super::job::{Completion, Finish, Job, SampleConfig};
use super::schedule::{Seat, Table, WINDOW};
use crate::error::{Error, Result};
use crate::gpu::{Buffer, Gpu, Readback, Recorder, Submission};
use crate::kernels::advance::{AdvanceArgs, advance, stop_bits, stop_words};
use crate::kernels::attention::PAGE;
use crate::kernels::sample::{self, SampleParams};
use crate::model::run;
use crate::model::workspace::Workspace;
use crate::rng::seed_for;

/// Tokens the output buffers hold for a row: one that comes from its prompt's state, those of a window, and one more,
/// because the kernel ends a row whose buffer is full.
pub(super) const OUT_TOKENS: usize = WINDOW + 2;

/// Words that are read back of a row: its key, its length, tokens and log-probabilities.
pub(super) const WORDS_A_ROW: usize = 4 + 1 + 2 * OUT_TOKENS;

/// What is drawn of one sample.
struct Sample {
    key: [u32; 2],
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
    finish: Option<Finish>,
}

impl Sample {
    fn completion(self) -> Result<Completion> {
        let finish = self.finish.ok_or_else(|| Error::internal("a sample was lost"))?;
        Ok(Completion {
            tokens: self.tokens,
            logprobs: self.logprobs,
            finish,
        })
    }
}

/// The samples of a job.
enum Group {
    /// With how many of them still go on.
    Open(Vec<Sample>, usize),
    Ended(Vec<Completion>),
}

/// The samples of all jobs.
pub(super) struct Samples<'a> {
    jobs: &'a [Job],
    limits: &'a [usize],
    groups: Vec<Group>,
    /// Jobs whose last sample has ended since this was last asked for.
    ended: Vec<usize>,
}

impl<'a> Samples<'a> {
    pub(super) fn new(jobs: &'a [Job], limits: &'a [usize], config: &SampleConfig) -> Self {
        let sample = |job: &Job, limit: usize, number: usize| Sample {
            key: seed_for(config.seed, config.step, job.prompt, job.first + number as u64),
            tokens: Vec::new(),
            logprobs: Vec::new(),
            finish: (limit == 0).then_some(Finish::Length),
        };
        let group = |(job, limit): (&Job, &usize)| {
            let going = if *limit == 0 { 0 } else { job.samples };
            Group::Open((0..job.samples).map(|n| sample(job, *limit, n)).collect(), going)
        };
        let groups: Vec<Group> = jobs.iter().zip(limits).map(group).collect();
        let nothing_to_draw = |i: &usize| matches!(groups[*i], Group::Open(_, 0));
        Self {
            jobs,
            limits,
            ended: (0..groups.len()).filter(nothing_to_draw).collect(),
            groups,
        }
    }

    fn of(&self, seat: &Seat) -> Result<&Sample> {
        match &self.groups[seat.group] {
            Group::Open(samples, _) => Ok(&samples[seat.sample]),
            Group::Ended(_) => Err(Error::internal("a sample of a job that has ended")),
        }
    }

    /// What a window drew of a sample; `done` says that it has ended.
    fn append(&mut self, seat: &Seat, tokens: &[u32], logprobs: &[f32], done: Option<Finish>) -> Result<()> {
        let Group::Open(samples, going) = &mut self.groups[seat.group] else {
            return Err(Error::internal("a sample of a job that has ended"));
        };
        let sample = &mut samples[seat.sample];
        sample.tokens.extend_from_slice(tokens);
        sample.logprobs.extend_from_slice(logprobs);
        if done.is_some() {
            sample.finish = done;
            *going -= 1;
            if *going == 0 {
                self.ended.push(seat.group);
            }
        }
        Ok(())
    }

    /// The jobs whose last sample has ended since the last call, in their order.
    pub(super) fn take_ended(&mut self) -> Vec<usize> {
        self.ended.sort_unstable();
        std::mem::take(&mut self.ended)
    }

    /// The completions of a job that has ended.
    pub(super) fn completions(&mut self, group: usize) -> Result<&[Completion]> {
        let place = &mut self.groups[group];
        if let Group::Open(samples, _) = place {
            let all = std::mem::take(samples).into_iter().map(Sample::completion);
            *place = Group::Ended(all.collect::<Result<_>>()?);
        }
        match place {
            Group::Ended(all) => Ok(all),
            Group::Open(..) => Err(Error::internal("a job that has not ended")),
        }
    }

    /// The tokens of a sample that are to be in the cache when it goes on: all but the last.
    pub(super) fn fed(&self, seat: &Seat) -> Result<&[u32]> {
        Ok(&self.of(seat)?.tokens[..seat.fed()])
    }

    /// Tokens of a job's prompt.
    pub(super) fn prompt(&self, group: usize) -> &'a [u32] {
        &self.jobs[group].tokens
    }

    /// The results, `[job][sample]`.
    pub(super) fn finish(self) -> Result<Vec<Vec<Completion>>> {
        let group = |g: Group| match g {
            Group::Open(samples, _) => samples.into_iter().map(Sample::completion).collect(),
            Group::Ended(all) => Ok(all),
        };
        self.groups.into_iter().map(group).collect()
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
    stop_words: usize,
    /// The host's copy of what a window drew, in the order of [`Rows::drawn`].
    results: Readback,
}

impl Rows {
    pub(super) fn new(gpu: &Gpu, sequences: usize, vocabulary: usize) -> Result<Self> {
        let stop_words = stop_words(vocabulary);
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
            stop: words("stop tokens", stop_words)?,
            stop_words,
            results: Readback::new(gpu, "sampler/results", (sequences * WORDS_A_ROW * 4) as u64)?,
        })
    }

    /// Sets the tokens that end a response, any number of them.
    pub(super) fn stop_at(&self, gpu: &Gpu, stop: &[u32], vocabulary: usize) {
        gpu.write(&self.stop, 0, &stop_bits(stop, vocabulary));
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
        let own = seats.iter().map(|s| samples.of(s)).collect::<Result<Vec<_>>>()?;
        let keys: Vec<[u32; 4]> = seats
            .iter()
            .zip(&own)
            .map(|(seat, sample)| [sample.key[0], sample.key[1], position(seat) as u32, 1])
            .collect();
        let left = |s: &Seat| samples.limits[s.group] - s.drawn;
        rec.write(&self.keys, 0, &keys)?;
        let last: Vec<u32> = own
            .iter()
            .map(|s| s.tokens.last().copied().unwrap_or(0))
            .collect();
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
            stop_words: self.stop_words,
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

    /// What is read back of the first `m` rows, with its words.
    fn drawn(&self, m: usize) -> [(&Buffer, usize); 4] {
        [
            (&self.keys, 4 * m),
            (&self.length, m),
            (&self.out_tokens, m * OUT_TOKENS),
            (&self.out_logp, m * OUT_TOKENS),
        ]
    }

    /// Records the way of what was drawn since the upload to the host.
    pub(super) fn collect(&self, rec: &mut Recorder, m: usize) {
        let mut at = 0;
        for (source, words) in self.drawn(m) {
            let bytes = words as u64 * 4;
            rec.read_back(source, 0, &self.results, at, bytes);
            at += bytes;
        }
    }

    /// Reads what [`Rows::collect`] brought, once the submission it was part of has run, whatever was submitted since; for each
    /// seat how many tokens, and whether it is done.
    pub(super) fn harvest(
        &self,
        window: &Submission,
        seats: &[Seat],
        samples: &mut Samples<'_>,
        stop: &[u32],
    ) -> Result<Vec<(usize, bool)>> {
        let m = seats.len();
        let all: Vec<u32> = self.results.read(window, m * WORDS_A_ROW)?;
        let (keys, rest) = all.split_at(4 * m);
        let (length, rest) = rest.split_at(m);
        let (tokens, logprobs) = rest.split_at(m * OUT_TOKENS);
        let logprobs: &[f32] = bytemuck::cast_slice(logprobs);
        let mut results = Vec::with_capacity(m);
        for (i, seat) in seats.iter().enumerate() {
            let (n, from) = (length[i] as usize, i * OUT_TOKENS);
            let (tokens, logprobs) = (&tokens[from..from + n], &logprobs[from..from + n]);
            run::all_finite(logprobs, "the log-probability of a drawn token")?;
            let done = keys[4 * i + 3] == 0;
            let last = tokens.last().or(samples.of(seat)?.tokens.last());
            let finish = if last.is_some_and(|t| stop.contains(t)) {
                Finish::Stop
            } else {
                Finish::Length
            };
            samples.append(seat, tokens, logprobs, done.then_some(finish))?;
            results.push((n, done));
        }
        Ok(results)
    }
}
