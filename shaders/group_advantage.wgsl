// advantages (G, M) and flags (G) from rewards (G, M), by rule: 0 TEA, 1 GRPO, 2 GRPO-Z. Rewards count from the group's
// maximum. flags: 1 where the group gives no signal (every advantage is 0). A workgroup a group; overwrites both.
// TEA's k-th largest reward q is built bit by bit; how ties at q enter the tail does not matter, since ψ(q) = 0 and they
// are equal in the tail's sums.
// Appended: shared/row_reduce.wgsl, shared/sortable.wgsl.

override LANES: u32 = 8u;
const LOWEST: f32 = -3e38;

struct Params {
    groups: u32,
    m: u32,
    rule: u32,
    k: u32,           // tail samples
    inverse_alpha: f32,
    half_kappa: f32,  // κ / 2
    min_scale: f32,
    eps: f32,
    inverse_m: f32,
    inverse_k: f32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> rewards: array<f32>;
@group(0) @binding(1) var<storage, read_write> advantages: array<f32>;
@group(0) @binding(2) var<storage, read_write> flags: array<u32>;

// The tail: threshold, mean and κ / (2s).
struct Tail {
    q: f32,
    mean: f32,
    bend: f32,
}

fn tail_of(first: u32, lane: u32, top: f32) -> Tail {
    var word = 0u;
    for (var bit = 0x80000000u; bit > 0u; bit >>= 1u) {
        let candidate = word | bit;
        var count = 0u;
        for (var i = lane; i < p.m; i += LANES) {
            count += select(0u, 1u, sortable(rewards[first + i] - top) >= candidate);
        }
        if reduce_count(lane, count) >= p.k { word = candidate; }
    }
    let q = from_sortable(word);
    var above = 0u;
    var sum = 0.0;
    for (var i = lane; i < p.m; i += LANES) {
        let d = rewards[first + i] - top;
        if d > q {
            above++;
            sum += d;
        }
    }
    let ties = f32(p.k - reduce_count(lane, above));
    let mean = (reduce_add(lane, sum) + ties * q) * p.inverse_k;
    var squares = 0.0;
    for (var i = lane; i < p.m; i += LANES) {
        let d = rewards[first + i] - top;
        if d > q { squares = fma(d - mean, d - mean, squares); }
    }
    let variance = (reduce_add(lane, squares) + ties * (q - mean) * (q - mean)) * p.inverse_k;
    return Tail(q, mean, p.half_kappa / max(sqrt(variance), p.min_scale));
}

// max(ψ, 0) with (d−μ)² − (q−μ)² = (d−q)·((d−μ) + (q−μ)).
fn score(d: f32, t: Tail) -> f32 {
    if d <= t.q { return 0.0; }
    return max(p.inverse_alpha * (d - t.q) * (1.0 + t.bend * ((d - t.mean) + (t.q - t.mean))), 0.0);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let g = group.y * 65535u + group.x;
    if g >= p.groups { return; }
    let lane = local.x;
    let first = g * p.m;
    var high = LOWEST;
    for (var i = lane; i < p.m; i += LANES) { high = max(high, rewards[first + i]); }
    let top = reduce_max(lane, high);
    var tail = Tail(LOWEST, 0.0, 0.0);
    if p.rule == 0u { tail = tail_of(first, lane, top); }
    // u is TEA's score, else the reward below the maximum.
    var sum = 0.0;
    var largest = 0.0;
    for (var i = lane; i < p.m; i += LANES) {
        var u = rewards[first + i] - top;
        if p.rule == 0u { u = score(u, tail); }
        sum += u;
        largest = max(largest, abs(u));
    }
    let mean = reduce_add(lane, sum) * p.inverse_m;
    let signal = reduce_max(lane, largest) > 0.0;
    var factor = 1.0;
    if p.rule == 2u {
        var squares = 0.0;
        for (var i = lane; i < p.m; i += LANES) {
            let a = (rewards[first + i] - top) - mean;
            squares = fma(a, a, squares);
        }
        factor = 1.0 / (sqrt(reduce_add(lane, squares) * p.inverse_m) + p.eps);
    }
    for (var i = lane; i < p.m; i += LANES) {
        var u = rewards[first + i] - top;
        if p.rule == 0u { u = score(u, tail); }
        advantages[first + i] = select(0.0, (u - mean) * factor, signal);
    }
    if lane == 0u { flags[g] = select(1u, 0u, signal); }
}
