//! Attention in float64.

use super::Shape;

/// Where one query row's keys are: (prefix_start, prefix_len, own_start, position).
pub type Meta = [u32; 4];

/// The row of k and v that holds key position `p` of a row with this meta.
fn key_row(meta: Meta, p: u32) -> usize {
    let [prefix_start, prefix_len, own_start, _] = meta;
    let row = if p < prefix_len {
        prefix_start + p
    } else {
        own_start + p - prefix_len
    };
    row as usize
}

/// The slices of q, k and v (or their gradients) that row i, head h and key position p meet in.
struct At {
    q: usize,
    kv: usize,
}

fn at(s: Shape, meta: &[Meta], i: usize, h: usize, p: u32) -> At {
    let g = h / (s.heads / s.kv_heads);
    At {
        q: (i * s.heads + h) * s.head_dim,
        kv: (key_row(meta[i], p) * s.kv_heads + g) * s.head_dim,
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn add(to: &mut [f64], factor: f64, of: &[f64]) {
    to.iter_mut().zip(of).for_each(|(t, o)| *t += factor * o);
}

/// Returns out (M, H·D) and lse (M, H).
pub fn forward(q: &[f64], k: &[f64], v: &[f64], meta: &[Meta], s: Shape) -> (Vec<f64>, Vec<f64>) {
    let (mut out, mut lse) = (vec![0.0; q.len()], vec![0.0; s.m * s.heads]);
    let d = s.head_dim;
    for i in 0..s.m {
        for h in 0..s.heads {
            let keys: Vec<At> = (0..=meta[i][3]).map(|p| at(s, meta, i, h, p)).collect();
            let scores: Vec<f64> = keys
                .iter()
                .map(|a| dot(&q[a.q..a.q + d], &k[a.kv..a.kv + d]) * f64::from(s.scale))
                .collect();
            let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scores.iter().map(|x| (x - top).exp()).sum();
            lse[i * s.heads + h] = top + sum.ln();
            for (a, x) in keys.iter().zip(&scores) {
                add(&mut out[a.q..a.q + d], (x - top).exp() / sum, &v[a.kv..a.kv + d]);
            }
        }
    }
    (out, lse)
}

/// The rows of a cache in pages, in the order of its page table: what [`forward`] takes as k or v. `kv (pages · PAGE, width)`.
pub fn unpaged(kv: &[f64], pages: &[u32], width: usize) -> Vec<f64> {
    let size = super::PAGE * width;
    let page = |p: &u32| &kv[*p as usize * size..(*p as usize + 1) * size];
    pages.iter().flat_map(page).copied().collect()
}

/// Gradients of q, k and v, and Σ dout · out.
pub struct Gradients {
    /// (M, H)
    pub delta: Vec<f64>,
    /// (M, H·D)
    pub dq: Vec<f64>,
    /// As k.
    pub dk: Vec<f64>,
    /// As v.
    pub dv: Vec<f64>,
}

/// The gradients for the gradient `dout` of [`forward`]'s `out`.
pub fn backward(q: &[f64], k: &[f64], v: &[f64], dout: &[f64], meta: &[Meta], s: Shape) -> Gradients {
    let (out, lse) = forward(q, k, v, meta, s);
    let d = s.head_dim;
    let scale = f64::from(s.scale);
    let mut r = Gradients {
        delta: vec![0.0; s.m * s.heads],
        dq: vec![0.0; q.len()],
        dk: vec![0.0; k.len()],
        dv: vec![0.0; v.len()],
    };
    for i in 0..s.m {
        for h in 0..s.heads {
            let row = i * s.heads + h;
            let g = &dout[row * d..(row + 1) * d];
            r.delta[row] = dot(g, &out[row * d..(row + 1) * d]);
            for p in 0..=meta[i][3] {
                let a = at(s, meta, i, h, p);
                let (qs, ks) = (&q[a.q..a.q + d], &k[a.kv..a.kv + d]);
                let probability = (dot(qs, ks) * scale - lse[row]).exp();
                let ds = probability * (dot(g, &v[a.kv..a.kv + d]) - r.delta[row]) * scale;
                add(&mut r.dq[a.q..a.q + d], ds, ks);
                add(&mut r.dk[a.kv..a.kv + d], ds, qs);
                add(&mut r.dv[a.kv..a.kv + d], probability, g);
            }
        }
    }
    r
}
