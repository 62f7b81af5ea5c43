// advantages (G, M) and flags (G) from rewards (G, M) and the same rewards in ascending order (ordered): CAT-BoN.
// A = z·ω / mean(ω) with z the GRPO-Z score and ω ∝ (b/b_top)^(N−1), b the number of rewards strictly below. Weights are
// taken relative to the largest, so none of them underflows before it is divided by their mean.
// flags: 1 where the group gives no signal (every advantage is 0). A workgroup a group; overwrites both.
// Appended: shared/row_reduce.wgsl, shared/ordered.wgsl.

override LANES: u32 = 8u;
const FAR: f32 = -87.0; // e^-87 is about the smallest normal f32: nothing next to the largest weight, 1

struct Params {
    groups: u32,
    m: u32,
    exponent: f32, // N − 1
    eps: f32,
    inverse_m: f32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> rewards: array<f32>;
@group(0) @binding(1) var<storage, read> ordered: array<f32>;
@group(0) @binding(2) var<storage, read_write> advantages: array<f32>;
@group(0) @binding(3) var<storage, read_write> flags: array<u32>;

// log(b / b_top) with a small relative error near 1 too: −2·artanh(y), y = (b_top − b)/(b_top + b), for y ≤ 1/3.
fn log_ratio(b: f32, b_top: f32) -> f32 {
    if 2.0 * b < b_top { return log(b / b_top); }
    let y = (b_top - b) / (b_top + b);
    let y2 = y * y;
    var series = 1.0 / 13.0;
    series = fma(series, y2, 1.0 / 11.0);
    series = fma(series, y2, 1.0 / 9.0);
    series = fma(series, y2, 1.0 / 7.0);
    series = fma(series, y2, 0.2);
    series = fma(series, y2, 1.0 / 3.0);
    return -2.0 * fma(series * y2, y, y);
}

fn weight(b: u32, b_top: u32) -> f32 {
    if b == b_top || p.exponent == 0.0 { return 1.0; }
    if b == 0u { return 0.0; }
    let x = p.exponent * log_ratio(f32(b), f32(b_top));
    if x < FAR { return 0.0; }
    return exp(x);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let g = group.y * 65535u + group.x;
    if g >= p.groups { return; }
    let lane = local.x;
    let first = g * p.m;
    let top = ordered[first + p.m - 1u];
    let b_top = count_below(first, top);
    var sum = 0.0;
    var weights = 0.0;
    for (var i = lane; i < p.m; i += LANES) {
        let r = rewards[first + i];
        let w = weight(count_below(first, r), b_top);
        sum += r - top;
        weights += w;
        advantages[first + i] = w; // read back below by the same lane
    }
    let mean = reduce_add(lane, sum) * p.inverse_m;
    let mean_weight = reduce_add(lane, weights) * p.inverse_m;
    var squares = 0.0;
    for (var i = lane; i < p.m; i += LANES) {
        let a = (rewards[first + i] - top) - mean;
        squares = fma(a, a, squares);
    }
    let deviation = sqrt(reduce_add(lane, squares) * p.inverse_m);
    let factor = 1.0 / ((deviation + p.eps) * mean_weight);
    let signal = b_top > 0u;
    for (var i = lane; i < p.m; i += LANES) {
        let z = ((rewards[first + i] - top) - mean) * factor;
        advantages[first + i] = select(0.0, z * advantages[first + i], signal);
    }
    if lane == 0u { flags[g] = select(1u, 0u, signal); }
}
