//! Pairwise judging of two evaluations by a language model behind an OpenAI-compatible chat endpoint.
//!
//! For each prompt the best of n responses (by the stored reward) of either evaluation is shown to the judge, the two
//! in a random, seeded order. The judge answers with JSON `{winner, confidence, reason}`, which is mapped back. An answer
//! that is not such an object is asked for again, then recorded as invalid and left out of the win rate. A question that the
//! server refuses is left out too, and asked again when the judging is resumed; a server that refuses every question, or
//! the key, page or model, ends the run. A parameter that the server refuses is replaced or left
//! out for the rest of the run ([`Manner`]), which the judgements' settings say.

mod client;
mod manner;
mod object;
mod question;
mod result;
mod store;

pub use client::{Client, Endpoint, Reply, completions_url, read_answer};
pub use manner::{Manner, Sent};
pub use question::{Answer, Side, parse};
pub use result::{JudgeResult, summarise, table};
pub use store::{JudgeMeta, Judgement, Store, Winner};

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rand::RngExt;

use super::pairing::aligned;
use super::store::{StoredCompletion, StoredEval};
use crate::error::{Context, Error, Result};
use crate::report::Progress;
use crate::rng::{Stream, seed_for};
use crate::text::{PromptContent, sha256_hex};
use crate::words;

/// Purpose of the stream that draws positions.
const POSITIONS: u32 = 0x90b1_7100;
/// Times that a question is asked before its answer counts as invalid.
const ASKS: u32 = 3;
/// Refusals, before anything else was answered, after which the server is taken to refuse everything.
const REFUSALS: usize = 8;
/// Most tokens of an answer unless another number is asked for.
pub const MAX_TOKENS: u32 = 512;
/// What they are raised to, unless a number is asked for, for a judge that spends them before it
/// answers.
pub const MOST_TOKENS: u32 = 16_384;
/// Bytes that are kept of a judge's words: an answer of [`MOST_TOKENS`] fits.
const KEPT: usize = 64 << 10;
/// Begins the reason of a judgement whose answer never began.
const SPENT: &str = "the judge spent all";

/// How two evaluations are judged.
#[derive(Debug, Clone)]
pub struct JudgeSettings {
    /// The best of how many samples of a prompt; `None` for all (which must then be as many on both sides).
    pub n: Option<usize>,
    /// Seed of the positions.
    pub seed: u64,
    /// Questions in flight at once.
    pub concurrency: usize,
    /// Directory of the judgements; `None` keeps nothing.
    pub output: Option<PathBuf>,
    /// Go on with the judgements in `output`.
    pub resume: bool,
}

/// One prompt's two responses.
struct Pair {
    prompt_index: usize,
    key: String,
    prompt: PromptContent,
    texts: [String; 2],
    samples: [usize; 2],
    first_is_a: bool,
}

/// The best response among the first n: highest reward, lowest sample number on a tie.
fn best(completions: &[StoredCompletion], n: usize) -> Option<&StoredCompletion> {
    completions[..n]
        .iter()
        .reduce(|best, c| if c.reward > best.reward { c } else { best })
}

fn pairs(first: &StoredEval, second: &StoredEval, settings: &JudgeSettings) -> Result<(usize, Vec<Pair>)> {
    let samples = [first.meta.samples, second.meta.samples];
    let n = match settings.n {
        Some(n) if n == 0 || n > samples[0].min(samples[1]) => {
            return Err(Error::user(format!(
                "--n {n}: the evaluations have {} and {} samples a prompt",
                samples[0], samples[1]
            )));
        }
        Some(n) => n,
        None if samples[0] != samples[1] => {
            return Err(Error::user(format!(
                "the evaluations have {} and {} samples a prompt: give --n to compare the best of as many",
                samples[0], samples[1]
            )));
        }
        None => samples[0],
    };
    if first.prompts.len() != second.prompts.len() {
        return Err(Error::user(format!(
            "the evaluations have {} and {} prompts: judge evaluations of the same prompts",
            first.prompts.len(),
            second.prompts.len()
        )));
    }
    let second = aligned(("the first evaluation", first), ("the second", second))?;
    let mut out = Vec::with_capacity(first.prompts.len());
    for (i, a) in first.prompts.iter().enumerate() {
        let sides = [&first.completions[i], &second.completions[i]].map(|c| best(c, n));
        let [Some(one), Some(two)] = sides else {
            return Err(Error::internal("a prompt without responses"));
        };
        let mut coin = Stream::new(seed_for(settings.seed, 0, i as u64, 0), POSITIONS);
        out.push(Pair {
            prompt_index: i,
            key: a.key.clone(),
            prompt: a.content(),
            texts: [one.text.clone(), two.text.clone()],
            samples: [one.sample, two.sample],
            first_is_a: coin.random_range(0..2u32) == 0,
        });
    }
    Ok((n, out))
}

/// One prompt's judgement.
fn judge_one(client: &Client, pair: &Pair) -> Result<Judgement> {
    let mut out = Judgement {
        prompt_index: pair.prompt_index,
        key: pair.key.clone(),
        winner: Winner::Tie,
        confidence: None,
        reason: "the responses are equal".to_string(),
        first_is_a: None,
        samples: pair.samples,
        asked: 0,
        raw: None,
    };
    let [one, two] = &pair.texts;
    if one == two {
        return Ok(out);
    }
    out.first_is_a = Some(pair.first_is_a);
    let (a, b) = if pair.first_is_a { (one, two) } else { (two, one) };
    let mut messages = question::messages(&pair.prompt, a, b);
    out.winner = Winner::Invalid;
    while out.asked < ASKS {
        out.asked += 1;
        let (text, cut) = match client.ask(&messages, pair.prompt_index as u64)? {
            Reply::Text(text, cut) => (text, cut),
            Reply::Refused(status, why) => {
                out.winner = Winner::Refused;
                out.reason = format!("the server refused the question (HTTP {status}): {why}");
                return Ok(out);
            }
            Reply::Spent(tokens) => {
                out.reason = format!(
                    "{SPENT} {tokens} tokens before its answer began, as by a model that thinks first: raise --max-tokens"
                );
                return Ok(out);
            }
        };
        match parse(&text) {
            Ok(answer) => {
                out.winner = match (answer.side, pair.first_is_a) {
                    (Side::Tie, _) => Winner::Tie,
                    (Side::A, true) | (Side::B, false) => Winner::First,
                    (Side::A, false) | (Side::B, true) => Winner::Second,
                };
                let reason = words::cut(&client.without_key(answer.reason), KEPT).into_owned();
                (out.confidence, out.reason, out.raw) = (answer.confidence, reason, None);
                return Ok(out);
            }
            Err(why) => {
                let text = words::cut(&client.without_key(text), KEPT).into_owned();
                let why = client.without_key(why);
                out.reason = match cut {
                    true => format!("{why} (the answer was cut: raise --max-tokens)"),
                    false => why,
                };
                // Some servers refuse a turn without a text.
                if !text.trim().is_empty() {
                    messages.extend(question::again(&text));
                }
                out.raw = Some(text);
            }
        }
    }
    Ok(out)
}

/// Judges every prompt that `settings.output` does not hold yet, `concurrency` at a time. Each judgement is on disk before
/// the next question of its thread is asked.
///
/// # Errors
/// The evaluations do not match; as [`Store::open`] and [`Client::ask`] (what was judged until then is kept); no valid
/// judgement at all.
pub fn judge(
    (first_dir, first): (&Path, &StoredEval),
    (second_dir, second): (&Path, &StoredEval),
    endpoint: Endpoint,
    settings: &JudgeSettings,
) -> Result<JudgeResult> {
    let (n, pairs) = pairs(first, second, settings)?;
    if settings.concurrency == 0 {
        return Err(Error::user("--concurrency must be at least 1"));
    }
    let (model, max_tokens) = (endpoint.model.clone(), endpoint.max_tokens);
    let client = Client::new(endpoint)?;
    let all: Vec<_> = pairs.iter().map(|p| (&p.key, &p.texts)).collect();
    let meta = JudgeMeta {
        version: question::VERSION,
        first: first_dir.display().to_string(),
        second: second_dir.display().to_string(),
        responses: sha256_hex(&serde_json::to_vec(&all).map_err(Error::internal)?),
        n,
        model,
        endpoint: client.url().to_string(),
        seed: settings.seed,
        max_tokens,
        asked: Manner::default(),
    };
    let store = Store::open(settings.output.as_deref(), meta, settings.resume)?;
    client.set_manner(store.meta().asked.clone());
    let waiting: Vec<&Pair> = pairs
        .iter()
        .filter(|p| !store.done().iter().any(|d| d.prompt_index == p.prompt_index))
        .collect();
    let store = ask_all(&client, &waiting, store, settings)?;
    let mut judgements = store.done().to_vec();
    judgements.sort_by_key(|j| j.prompt_index);
    summarise(store.meta().clone(), judgements)
}

/// Threads that take the next waiting pair until there is none or one of them fails.
fn ask_all(client: &Client, waiting: &[&Pair], store: Store, settings: &JudgeSettings) -> Result<Store> {
    let done = store.done().len() as u64;
    let total = done + waiting.len() as u64;
    let shared = Mutex::new((store, Progress::new("judging", done, total), None));
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(pair) = waiting.get(next.fetch_add(1, Ordering::SeqCst)) {
            let judged = judge_one(client, pair);
            let mut guard = shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let (store, progress, failed) = &mut *guard;
            let pushed = judged
                .and_then(|j| store.push(j, client.manner()))
                .and_then(|()| all_refused(store.done()));
            if let Err(error) = pushed {
                next.store(waiting.len(), Ordering::SeqCst);
                failed.get_or_insert(error);
                return;
            }
            progress.step(store.done().len() as u64, &[]);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..settings.concurrency.min(waiting.len()) {
            scope.spawn(work);
        }
    });
    let (store, progress, failed) = shared
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    progress.finish();
    match failed {
        None => Ok(store),
        Some(error) => Err(error).context(match &settings.output {
            Some(_) if store.done().is_empty() => {
                format!("0 of {total} prompts are judged; nothing was stored")
            }
            Some(dir) => format!(
                "{} of {total} prompts are judged and kept in {}; the same command with --resume goes on",
                store.done().len(),
                dir.display()
            ),
            None => "nothing is kept without --output".to_string(),
        }),
    }
}

/// An error where the first [`REFUSALS`] questions were all refused, or all spent on the judge's
/// thoughts.
fn all_refused(done: &[Judgement]) -> Result<()> {
    let asked: Vec<&Judgement> = done.iter().filter(|j| j.asked > 0).collect();
    let [first, ..] = asked[..] else { return Ok(()) };
    if asked.len() != REFUSALS {
        return Ok(());
    }
    let all = |what: &dyn Fn(&Judgement) -> bool| asked.iter().all(|j| what(j));
    let (what, advice) = if all(&|j| j.winner == Winner::Refused) {
        let advice = match manner::is_about_size(&first.reason.to_lowercase()) {
            true => "Judge shorter responses, lower --max-tokens, or take a --model with a longer context",
            false => "The server's words say why; check --model and --endpoint",
        };
        ("refused", advice)
    } else if all(&|j| j.winner == Winner::Invalid && j.reason.starts_with(SPENT)) {
        let advice = "Where there is an --output, give another one too: its judgements keep their settings";
        ("not answered", advice)
    } else {
        return Ok(());
    };
    Err(Error::user(format!(
        "all of {REFUSALS} questions were {what}. The first one: {}. {advice}",
        first.reason
    )))
}

#[cfg(test)]
mod fault_server;
#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod tests;
