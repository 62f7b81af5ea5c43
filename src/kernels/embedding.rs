//! Token embedding: rows of a (V, C) table by token id, and the gradient of that table.
//!
//! The backward pass gets its tokens grouped on the CPU (which knows them anyway), so that every row of the gradient
//! has one owner and one order of summation: no atomics, the same bits in every run.

use super::harness::{Case, Gen, Slot, Tol};
use super::weight::{ByType, Weight, device_bytes, lanes, of, section_words, weight_entries, weight_kernels};
use super::weight_cases::{Shards, TestWeight, on_buffers, shard_bytes, split, test_cols, whole};
use super::work::{PORTABLE, Rate, Wanted, Work};
use super::{Entry, dequantize, fold, pad4};
use crate::error::{Error, Result};
use crate::gpu::{Buffer, Kernel, Recorder, params, shaders};
use crate::tensor::DType;

static FORWARD: ByType = weight_kernels!("embedding_forward", "embedding_forward.wgsl");
static BACKWARD: Kernel = Kernel::portable("embedding_backward", shaders!["embedding_backward.wgsl"]);

params! {
    struct ForwardParams {
        m: u32,
        k4: u32,
        w_section: u32,
        first: u32,
        rows: u32,
        vocab: u32,
    }

    struct BackwardParams {
        u: u32,
        k4: u32,
        first: u32,
        count: u32,
    }
}

/// `x (m, C)` = the rows of `w (V, C)` that `tokens (m)` u32 name; a token ≥ V reads the last row (the caller validates).
///
/// # Errors
/// A GPU error.
pub fn forward(rec: &mut Recorder, w: &Weight, tokens: &Buffer, x: &Buffer, m: usize) -> Result<()> {
    let k4 = pad4(w.cols) / 4;
    for shard in &w.shards {
        let params = ForwardParams {
            m: m as u32,
            k4: k4 as u32,
            w_section: section_words(w.dtype, shard.rows, w.cols) as u32,
            first: shard.first_row as u32,
            rows: shard.rows as u32,
            vocab: w.rows as u32,
        };
        let lanes = lanes(rec);
        rec.dispatch(
            of(&FORWARD, w.dtype),
            &[("LANES", lanes as f64)],
            &params,
            &[tokens.into(), (&shard.buffer).into(), x.into()],
            fold(m * k4, lanes),
        )?;
    }
    Ok(())
}

/// `dw (V, C) += ` for each of the `u` token ids in `unique` (u32, ascending), the rows of `dx (M, C)` where it stands.
/// `rows (M)` u32 holds the row indices grouped by token, ascending within a token; token `i` has
/// `starts[i] .. starts[i + 1]` of them (`starts` has u + 1 entries). [`group_tokens`] makes all three.
/// The terms are added one by one in that order.
///
/// # Errors
/// `dw` is not f32 (a bug), or a GPU error.
#[allow(clippy::too_many_arguments, reason = "the operands of one op")]
pub fn backward(
    rec: &mut Recorder,
    dx: &Buffer,
    unique: &Buffer,
    starts: &Buffer,
    rows: &Buffer,
    dw: &Weight,
    u: usize,
) -> Result<()> {
    if dw.dtype != DType::F32 {
        return Err(Error::internal("the gradient of an embedding is f32"));
    }
    let k4 = pad4(dw.cols) / 4;
    for shard in &dw.shards {
        let params = BackwardParams {
            u: u as u32,
            k4: k4 as u32,
            first: shard.first_row as u32,
            count: shard.rows as u32,
        };
        let lanes = lanes(rec);
        let buffer = (&shard.buffer).into();
        rec.dispatch(
            &BACKWARD,
            &[("LANES", lanes as f64)],
            &params,
            &[dx.into(), unique.into(), starts.into(), rows.into(), buffer],
            fold(u * k4, lanes),
        )?;
    }
    Ok(())
}

/// Tokens grouped for [`backward`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenGroups {
    /// Distinct ids, ascending (U).
    pub unique: Vec<u32>,
    /// Where each id's rows begin in `rows` (U + 1).
    pub starts: Vec<u32>,
    /// Row indices by id, ascending within an id (M).
    pub rows: Vec<u32>,
}

/// Groups the rows of a batch by their token.
pub fn group_tokens(tokens: &[u32]) -> TokenGroups {
    let mut rows: Vec<u32> = (0..tokens.len() as u32).collect();
    // Stable: rows of one token stay in ascending order.
    rows.sort_by_key(|r| tokens[*r as usize]);
    let (mut unique, mut starts) = (Vec::new(), Vec::new());
    for (at, row) in rows.iter().enumerate() {
        let token = tokens[*row as usize];
        if unique.last() != Some(&token) {
            unique.push(token);
            starts.push(at as u32);
        }
    }
    starts.push(rows.len() as u32);
    TokenGroups { unique, starts, rows }
}

/// Float64 twin of [`forward`]: `table (V, C)` → (M, C), both without padding.
pub fn forward_twin(table: &[f64], cols: usize, tokens: &[u32]) -> Vec<f64> {
    let rows = |t: &u32| table[*t as usize * cols..][..cols].to_vec();
    tokens.iter().flat_map(rows).collect()
}

/// Float64 twin of [`backward`]: adds to `dw (V, C)`, without padding.
pub fn backward_twin(dx: &[f64], cols: usize, tokens: &[u32], dw: &mut [f64]) {
    for (row, token) in dx.chunks_exact(cols).zip(tokens) {
        let sum = &mut dw[*token as usize * cols..][..cols];
        sum.iter_mut().zip(row).for_each(|(s, d)| *s += d);
    }
}

fn forward_case(g: &mut Gen, dtype: DType, (m, vocab, cols): (usize, usize, usize), shards: Shards) -> Case {
    let weight = TestWeight::random(g, dtype, vocab, cols, 1e4);
    let mut tokens = g.below(m, vocab as u32);
    tokens[0] = vocab as u32 - 1;
    let mut slots = vec![Slot::input(&tokens), Slot::Out(m * pad4(cols))];
    slots.extend(weight.slots(&shards));
    Case {
        name: format!("{m} tokens of {vocab} × {cols}"),
        slots,
        record: Box::new(move |rec, b| {
            let w = on_buffers(dtype, vocab, cols, &shards, &b[2..]);
            forward(rec, &w, &b[0], &b[1], m)
        }),
        expect: Box::new(move || {
            // Only the rows that are named: a vocabulary may be large.
            let rows: Vec<u32> = (0..m as u32).collect();
            let out = forward_twin(&weight.rows_of(&tokens), cols, &rows);
            let out: Vec<f32> = out.into_iter().map(|v| v as f32).collect();
            vec![(1, dequantize::padded(&out, cols), dequantize::EXACT)]
        }),
        flops: 0.0,
    }
}

fn forward_cases<const TYPE: usize>() -> Vec<Case> {
    let dtype = DType::ALL[TYPE];
    let mut g = Gen::new(60 + TYPE as u64);
    let [a, b, c, d] = test_cols(dtype);
    [(1, 1, a), (7, 331, b), (8, 5, c), (9, 331, a), (37, 331, d)]
        .into_iter()
        .map(|sizes| forward_case(&mut g, dtype, sizes, whole(sizes.1)))
        .collect()
}

fn backward_case(g: &mut Gen, tokens: Vec<u32>, vocab: usize, cols: usize, scale: f32) -> Case {
    let m = tokens.len();
    let dx = g.rows(m, cols, scale);
    let dw = g.rows(vocab, cols, scale);
    let groups = group_tokens(&tokens);
    let u = groups.unique.len();
    let slots = vec![
        Slot::input(&dx),
        Slot::input(&groups.unique),
        Slot::input(&groups.starts),
        Slot::input(&groups.rows),
        Slot::InOut(dw.clone()),
    ];
    Case {
        name: format!("{m} tokens, {u} distinct, of {vocab} × {cols}, |dx| = {scale:e}"),
        slots,
        record: Box::new(move |rec, b| {
            let w = Weight::from_buffer(DType::F32, vocab, cols, b[4].clone());
            backward(rec, &b[0], &b[1], &b[2], &b[3], &w, u)
        }),
        expect: Box::new(move || {
            let wide = |v: &[f32]| -> Vec<f64> { v.iter().map(|x| f64::from(*x)).collect() };
            let mut sum = wide(&dw);
            backward_twin(&wide(&dx), pad4(cols), &tokens, &mut sum);
            let tol = Tol {
                atol: f64::from(scale) * m as f64 / (1 << 23) as f64,
                rtol: 1.0 / (1 << 23) as f64,
                why: "an f32 sum of as many terms as the token has rows",
            };
            vec![(4, sum, tol)]
        }),
        flops: (m * cols) as f64,
    }
}

fn backward_cases() -> Vec<Case> {
    let mut g = Gen::new(70);
    let mut cases = vec![
        backward_case(&mut g, vec![0], 1, 4, 1.0),
        backward_case(&mut g, vec![3; 67], 5, 60, 1.0),
    ];
    for (m, vocab, cols, scale) in [
        (7, 331, 60, 1.0),
        (8, 331, 64, 1e4),
        (9, 5, 5, 1.0),
        (131, 31, 576, 1.0),
    ] {
        let tokens = g.below(m, vocab as u32);
        cases.push(backward_case(&mut g, tokens, vocab, cols, scale));
    }
    cases
}

/// What a model asks of the op.
pub(super) fn work(wanted: &Wanted<'_>) -> Vec<Work> {
    let mut all = Vec::new();
    for (sizes, phase) in wanted.rows() {
        let (m, v, c) = (phase.rows(), sizes.vocab, sizes.hidden);
        for dtype in wanted.dtypes().iter().copied() {
            let (row, x) = (device_bytes(dtype, 1, c) as f64, (4 * m * c) as f64);
            let cap = shard_bytes(wanted.gpu);
            all.push(Work {
                op: "embedding_forward".into(),
                variant: PORTABLE,
                dtype: Some(dtype),
                model: sizes.name,
                phase,
                shape: format!("{m} of {v}×{c}"),
                flops: 0.0,
                bytes: m as f64 * row + x,
                memory: device_bytes(dtype, v, c) as f64 + x,
                rate: Rate::F32,
                build: Box::new(move || {
                    let shards = split(dtype, v, c, cap)?;
                    let mut g = Gen::new(m as u64);
                    Ok(forward_case(&mut g, dtype, (m, v, c), shards).forced(PORTABLE))
                }),
            });
        }
    }
    all
}

/// The kernels of this file.
pub fn entries() -> Vec<Entry> {
    let backward = Entry::new(&BACKWARD, backward_cases);
    weight_entries!(FORWARD, forward_cases)
        .chain([backward])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_tokens_sorts_stably() {
        let groups = group_tokens(&[5, 2, 5, 9, 2, 5]);
        assert_eq!(groups.unique, [2, 5, 9]);
        assert_eq!(groups.starts, [0, 2, 5, 6]);
        assert_eq!(groups.rows, [1, 4, 0, 2, 5, 3]);
        assert_eq!(group_tokens(&[]).starts, [0]);
    }

    /// The gradient of Σ c · x over the table, by differences: the op is linear, so they are exact up to rounding.
    #[test]
    fn backward_twin_is_the_derivative_of_the_forward_twin() {
        let (vocab, cols) = (7, 3);
        let mut g = Gen::new(71);
        let tokens = g.below(11, vocab as u32);
        let wide = |v: Vec<f32>| -> Vec<f64> { v.into_iter().map(f64::from).collect() };
        let c = wide(g.uniform(tokens.len() * cols, 1.0));
        let mut table = wide(g.uniform(vocab * cols, 1.0));
        let mut dw = vec![0.0; vocab * cols];
        backward_twin(&c, cols, &tokens, &mut dw);
        let loss = |t: &[f64]| -> f64 {
            let x = forward_twin(t, cols, &tokens);
            x.iter().zip(&c).map(|(x, c)| x * c).sum()
        };
        for i in 0..table.len() {
            let at = table[i];
            table[i] = at + 0.5;
            let up = loss(&table);
            table[i] = at - 0.5;
            let down = loss(&table);
            table[i] = at;
            assert!((up - down - dw[i]).abs() < 1e-12, "element {i}");
        }
    }
}
