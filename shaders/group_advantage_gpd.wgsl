// advantages (G, M) and flags (G) from rewards (G, M) and the same rewards in ascending order (ordered): TEA-GPD.
// Everything is a sum over the tail's gaps g_t = s_t − s_{t−1}. factors (M) holds each gap's factor in the L-moments
// λ₂ and λ₃ and the two polynomials P and Q of the score's slope; cubics hold κ_L over ξ in [−1.5, 0.5), 128 a unit.
//     τ₃ = λ₃/λ₂,  τ = w·τ₃ + prior,  ξ = (3τ−1)/(1+τ),  b = w·κ_L′(ξ)·4/(1+τ)²,  a = κ_L(ξ) − b·τ₃
//     ψ = Σ_gaps below r, above q of g·(1 + a·P + b·Q) / α,   u = max(ψ, 0),   A = u − mean(u)
// The Gaussian tail (TEA) stands in where λ₂ ≤ min_scale, ξ is outside, or κ_L ≤ 0.
// flags: 1 where the group gives no signal, 2 where the Gaussian tail stood in (not where the tail's rewards are equal).
// tails (G): q, e, s, κ, where e and s are the mean excess and the deviation of the k largest, and q + e + κ·s is the
// predicted best of N: κ = (e/(k−1) + κ_L·λ₂)/s, or the Gaussian tail's.
// A workgroup a group; overwrites curve (G, M, scratch), advantages, flags, tails.
// Appended: shared/row_reduce.wgsl, shared/ordered.wgsl.

override LANES: u32 = 8u;
const LEAST_SHAPE: f32 = -1.5;
const SHAPE_LIMIT: f32 = 0.5;
const PER_UNIT: f32 = 128.0;

struct Params {
    groups: u32,
    m: u32,
    k: u32,
    inverse_alpha: f32,
    half_kappa: f32,
    min_scale: f32,
    weight: f32, // w
    prior: f32,  // (1 − w)·τ of the Gaussian tail
    inverse_m: f32,
    inverse_k: f32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> rewards: array<f32>;
@group(0) @binding(1) var<storage, read> ordered: array<f32>;
@group(0) @binding(2) var<storage, read> factors: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> cubics: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> curve: array<f32>;
@group(0) @binding(5) var<storage, read_write> advantages: array<f32>;
@group(0) @binding(6) var<storage, read_write> flags: array<u32>;
@group(0) @binding(7) var<storage, read_write> tails: array<vec4<f32>>; // q, e, s, κ

// Slope of the score: 1 + linear·P + quadratic·Q; fitted is false where the Gaussian tail stands in.
struct Fit {
    fitted: bool,
    kappa: f32, // κ_L
    linear: f32,
    quadratic: f32,
}

fn fit_of(scale: f32, third: f32) -> Fit {
    if scale <= p.min_scale { return Fit(false, 0.0, 0.0, 0.0); }
    let raw = third / scale;
    let skewness = fma(p.weight, raw, p.prior);
    let shape = (3.0 * skewness - 1.0) / (1.0 + skewness);
    if !(shape >= LEAST_SHAPE && shape < SHAPE_LIMIT) { return Fit(false, 0.0, 0.0, 0.0); }
    let at = (shape - LEAST_SHAPE) * PER_UNIT;
    let cell = min(u32(at), arrayLength(&cubics) - 1u);
    let t = at - f32(cell);
    let c = cubics[cell];
    let kappa = fma(fma(fma(c.w, t, c.z), t, c.y), t, c.x);
    let slope = fma(fma(3.0 * c.w, t, 2.0 * c.z), t, c.y) * PER_UNIT;
    let quadratic = p.weight * slope * 4.0 / ((1.0 + skewness) * (1.0 + skewness));
    return Fit(kappa > 0.0, kappa, kappa - quadratic * raw, quadratic);
}

fn rise(first: u32, t: u32, f: Fit) -> f32 {
    if t + p.k <= p.m { return 0.0; }
    let w = 1.0 + f.linear * factors[t].z + f.quadratic * factors[t].w;
    return (ordered[first + t] - ordered[first + t - 1u]) * w;
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let g = group.y * 65535u + group.x;
    if g >= p.groups { return; }
    let lane = local.x;
    let first = g * p.m;
    let low = p.m - p.k; // the threshold's place
    let q = ordered[first + low];
    let run = (p.k + LANES - 1u) / LANES;
    let start = min(low + lane * run, p.m);
    let end = min(start + run, p.m);
    var second = 0.0;
    var third = 0.0;
    var sum = 0.0;
    for (var t = start; t < end; t++) {
        sum += ordered[first + t] - q;
        if t > low {
            let gap = ordered[first + t] - ordered[first + t - 1u];
            second = fma(factors[t].x, gap, second);
            third = fma(factors[t].y, gap, third);
        }
    }
    let scale = reduce_add(lane, second);
    let f = fit_of(scale, reduce_add(lane, third));
    let excess = reduce_add(lane, sum) * p.inverse_k;
    var squares = 0.0;
    var total = 0.0;
    for (var t = start; t < end; t++) {
        let d = (ordered[first + t] - q) - excess;
        squares = fma(d, d, squares);
        total += rise(first, t, f);
    }
    let deviation = sqrt(reduce_add(lane, squares) * p.inverse_k);
    let bend = p.half_kappa / max(deviation, p.min_scale);
    let below = sum_before(lane, total);
    var within = 0.0;
    var scores = 0.0;
    for (var t = start; t < end; t++) {
        within += rise(first, t, f);
        let x = ordered[first + t] - q;
        let psi = select(x * (1.0 + bend * (x - 2.0 * excess)), below + within, f.fitted);
        let u = p.inverse_alpha * max(psi, 0.0);
        curve[first + t] = u;
        scores += u;
    }
    let mean = reduce_add(lane, scores) * p.inverse_m;
    let signal = mean > 0.0;
    storageBarrier();
    for (var i = lane; i < p.m; i += LANES) {
        let rank = count_below(first, rewards[first + i]);
        var u = 0.0;
        if rank > low { u = curve[first + rank]; }
        advantages[first + i] = select(0.0, u - mean, signal);
    }
    if lane == 0u {
        flags[g] = select(1u, 0u, signal) | select(2u, 0u, f.fitted || excess == 0.0);
        var kappa = 2.0 * p.half_kappa;
        if f.fitted && deviation > 0.0 { kappa = (excess / f32(p.k - 1u) + f.kappa * scale) / deviation; }
        tails[g] = vec4<f32>(q, excess, deviation, kappa);
    }
}
