//! The step between two decoded tokens, on the GPU: keep what was drawn, stop rows that are done, prepare the next
//! step's inputs. Many tokens are decoded per readback.

use super::harness::{Case, Gen, Slot, Tol};
use super::reduce::lanes;
use super::{Entry, fold};
use crate::error::Result;
use crate::gpu::{Buffer, Kernel, Recorder, params, shaders};

static DECODE_ADVANCE_APPEND: Kernel =
    Kernel::portable("decode_advance_append", shaders!["decode_advance_append.wgsl"]);
static DECODE_ADVANCE_NEXT: Kernel = Kernel::portable(
    "decode_advance_next",
    shaders!["decode_advance_next.wgsl", "shared/row_reduce.wgsl"],
);

/// Words of a set of stop tokens that has a bit for each of `vocabulary` tokens.
pub const fn stop_words(vocabulary: usize) -> usize {
    vocabulary.div_ceil(32)
}

/// The set of stop tokens as [`AdvanceArgs::stop`] takes it. Ids outside the vocabulary are left out: they are never drawn.
pub fn stop_bits(stop: &[u32], vocabulary: usize) -> Vec<u32> {
    let mut words = vec![0; stop_words(vocabulary)];
    for id in stop.iter().filter(|id| (**id as usize) < vocabulary) {
        words[*id as usize / 32] |= 1 << (id % 32);
    }
    words
}

params! {
    struct AppendParams {
        m: u32,
        max_len: u32,
        words: u32,
    }

    struct NextParams {
        m: u32,
    }
}

/// The buffers of [`advance`]; M rows.
#[derive(Debug, Clone, Copy)]
pub struct AdvanceArgs<'a> {
    /// `(M)` u32: the tokens just drawn.
    pub token: &'a Buffer,
    /// `(M)` f32: their log-probabilities.
    pub logp: &'a Buffer,
    /// `(stop_words)` u32: the tokens that end a response, as [`stop_bits`] lays them out.
    pub stop: &'a Buffer,
    /// Words of `stop` that count.
    pub stop_words: usize,
    /// `(M)` vec4 of u32, updated: Philox key (2), position, active.
    pub keys: &'a Buffer,
    /// `(M)` vec4 of u32, updated: prefix_start, prefix_len, own_start, position.
    pub meta: &'a Buffer,
    /// `(M)` u32, overwritten: the token the next step embeds; 0 for rows that are done.
    pub next_token: &'a Buffer,
    /// `(M)` u32, updated: the cache row of the next step's K and V.
    pub cache_row: &'a Buffer,
    /// `(M, max_len)` u32: the response so far.
    pub out_tokens: &'a Buffer,
    /// `(M, max_len)` f32: its log-probabilities.
    pub out_logp: &'a Buffer,
    /// `(M)` u32, updated: tokens of the response so far.
    pub length: &'a Buffer,
    /// `(M)` u32: most tokens of each response.
    pub limit: &'a Buffer,
    /// `(1)` u32, overwritten: rows that are still active.
    pub remaining: &'a Buffer,
}

/// Appends the tokens just drawn and prepares the next step.
///
/// A row that was active gets its token and log-probability at its length in the outputs (a stop token too), its
/// length and its keys' position grow by one, and it ends (active = 0) if the token is in `stop` or its length reached
/// `min(limit, max_len)`. Then, for rows *still* active, `next_token` is the token and `meta`'s position and
/// `cache_row` grow by one; rows that are done get `next_token` 0 and keep the rest, so that what later steps compute
/// for them stays inside their own part of the cache.
///
/// # Errors
/// A GPU error.
pub fn advance(rec: &mut Recorder, args: &AdvanceArgs<'_>, m: usize, max_len: usize) -> Result<()> {
    let lanes = lanes(rec, 64);
    let params = AppendParams {
        m: m as u32,
        max_len: max_len as u32,
        words: args.stop_words as u32,
    };
    let bindings = [
        args.token,
        args.logp,
        args.stop,
        args.keys,
        args.length,
        args.limit,
        args.out_tokens,
        args.out_logp,
    ];
    let bindings = bindings.map(Into::into);
    let constants = [("LANES", lanes as f64)];
    rec.dispatch(
        &DECODE_ADVANCE_APPEND,
        &constants,
        &params,
        &bindings,
        fold(m, lanes),
    )?;
    let bindings = [
        args.token,
        args.keys,
        args.meta,
        args.next_token,
        args.cache_row,
        args.remaining,
    ];
    let bindings = bindings.map(Into::into);
    let params = NextParams { m: m as u32 };
    rec.dispatch(&DECODE_ADVANCE_NEXT, &constants, &params, &bindings, [1, 1, 1])
}

/// The rows of a twin run, as the GPU holds them.
#[derive(Clone, Default)]
struct Rows {
    keys: Vec<u32>,
    meta: Vec<u32>,
    next_token: Vec<u32>,
    cache_row: Vec<u32>,
    out_tokens: Vec<u32>,
    out_logp: Vec<f32>,
    length: Vec<u32>,
    remaining: Vec<u32>,
}

/// Twin of one [`advance`]: integers, so equal to the bit.
fn advance_twin(r: &mut Rows, token: &[u32], logp: &[f32], stop: &[u32], limit: &[u32], max_len: usize) {
    r.remaining[0] = 0;
    for i in 0..token.len() {
        let most = (limit[i] as usize).min(max_len);
        let (at, active) = (r.length[i] as usize, r.keys[4 * i + 3] != 0);
        if active && at < most {
            r.out_tokens[i * max_len + at] = token[i];
            r.out_logp[i * max_len + at] = logp[i];
            r.length[i] += 1;
            r.keys[4 * i + 2] += 1;
        }
        let on = active && at + 1 < most && !stop.contains(&token[i]);
        r.keys[4 * i + 3] = u32::from(on);
        r.next_token[i] = if on { token[i] } else { 0 };
        r.meta[4 * i + 3] += u32::from(on);
        r.cache_row[i] += u32::from(on);
        r.remaining[0] += u32::from(on);
    }
}

const MAX_LEN: usize = 5;

fn start(m: usize, g: &mut Gen) -> (Rows, Vec<u32>) {
    let small = |g: &mut Gen, n| g.below(n, 50);
    let keys = (0..m as u32)
        .flat_map(|i| [i + 9, i, 3, u32::from(i % 7 != 3)])
        .collect();
    let rows = Rows {
        keys,
        meta: small(g, 4 * m),
        next_token: vec![77; m],
        cache_row: small(g, m),
        out_tokens: vec![0; m * MAX_LEN],
        out_logp: vec![0.0; m * MAX_LEN],
        length: vec![0; m],
        remaining: vec![99],
    };
    let limit = (0..m as u32).map(|i| (i * 3 + 2) % 8).collect();
    (rows, limit)
}

/// `stops` stop tokens spread over a vocabulary of `vocabulary`, the first and the last token among them where there
/// are two or more.
fn case(m: usize, stops: usize, vocabulary: usize) -> Case {
    const STEPS: usize = 4;
    let mut g = Gen::new(m as u64);
    let (rows, limit) = start(m, &mut g);
    let tokens: Vec<Vec<u32>> = (0..STEPS).map(|_| g.below(m, vocabulary as u32)).collect();
    let logps: Vec<Vec<f32>> = (0..STEPS).map(|_| g.uniform(m, 3.0)).collect();
    let spread = |i: usize| (i * (vocabulary - 1) / stops.saturating_sub(1).max(1)) as u32;
    let stop: Vec<u32> = (0..stops).map(spread).collect();
    let bits = stop_bits(&stop, vocabulary);
    let stop_words = bits.len();
    let words = |w: &[u32]| Slot::InOut(w.iter().map(|w| f32::from_bits(*w)).collect());
    let mut slots = vec![
        Slot::input(&bits),
        Slot::input(&limit),
        words(&rows.keys),
        words(&rows.meta),
        words(&rows.next_token),
        words(&rows.cache_row),
        words(&rows.out_tokens),
        Slot::InOut(rows.out_logp.clone()),
        words(&rows.length),
        words(&rows.remaining),
    ];
    slots.extend(tokens.iter().map(|t| Slot::input(t)));
    slots.extend(logps.iter().map(|l| Slot::input(l)));
    Case {
        name: format!("decode_advance M={m} stops={stops} V={vocabulary}"),
        slots,
        record: Box::new(move |rec, b| {
            (0..STEPS).try_for_each(|step| {
                let args = AdvanceArgs {
                    token: &b[10 + step],
                    logp: &b[10 + STEPS + step],
                    stop: &b[0],
                    stop_words,
                    keys: &b[2],
                    meta: &b[3],
                    next_token: &b[4],
                    cache_row: &b[5],
                    out_tokens: &b[6],
                    out_logp: &b[7],
                    length: &b[8],
                    limit: &b[1],
                    remaining: &b[9],
                };
                advance(rec, &args, m, MAX_LEN)
            })
        }),
        expect: Box::new(move || {
            let mut r = rows.clone();
            for (t, l) in tokens.iter().zip(&logps) {
                advance_twin(&mut r, t, l, &stop, &limit, MAX_LEN);
            }
            let exact = Tol {
                atol: 0.0,
                rtol: 0.0,
                why: "integers and copies",
            };
            // Small integers compare by their bits read as f32.
            let words = |w: &[u32]| w.iter().map(|w| f64::from(f32::from_bits(*w))).collect();
            vec![
                (2, words(&r.keys), exact),
                (3, words(&r.meta), exact),
                (4, words(&r.next_token), exact),
                (5, words(&r.cache_row), exact),
                (6, words(&r.out_tokens), exact),
                (7, r.out_logp.iter().map(|x| f64::from(*x)).collect(), exact),
                (8, words(&r.length), exact),
                (9, words(&r.remaining), exact),
            ]
        }),
        flops: 0.0,
    }
}

fn cases() -> Vec<Case> {
    vec![
        case(1, 1, 12),
        case(7, 0, 12),
        case(9, 8, 31),
        case(65, 2, 32),
        case(70, 9, 33),
        case(257, 3, 12),
        case(300, 100, 257),
    ]
}

/// Table rows.
pub fn entries() -> Vec<Entry> {
    [&DECODE_ADVANCE_APPEND, &DECODE_ADVANCE_NEXT]
        .map(|kernel| Entry::new(kernel, cases))
        .into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn stop_tokens_are_the_bits_of_a_set() {
        assert_eq!(stop_bits(&[], 33), [0, 0]);
        assert_eq!(stop_bits(&[0, 31, 32, 31], 33), [0x8000_0001, 1]);
        // What is outside the vocabulary is never drawn, also where the last word has a bit for it.
        assert_eq!(stop_bits(&[33, 64, u32::MAX], 33), [0, 0]);
    }

    #[test]
    fn a_stop_token_ends_a_row_and_is_kept() {
        let mut g = Gen::new(1);
        let (mut r, limit) = start(3, &mut g);
        let cache = r.cache_row.clone();
        advance_twin(&mut r, &[5, 6, 5], &[-1.0; 3], &[5], &limit, MAX_LEN);
        assert_eq!(limit, [2, 5, 0]);
        assert_eq!(r.next_token, [0, 6, 0]);
        assert_eq!(r.length, [1, 1, 0]);
        assert_eq!(r.out_tokens[0], 5);
        assert_eq!(r.remaining, [1]);
        assert_eq!(r.cache_row, [cache[0], cache[1] + 1, cache[2]]);
    }
}
