// advantages (G, M) and flags (G) from rewards (G, M): TEA over one prefix or several (Prefix-TEA).
// With q the k-th largest of a prefix's first `size` rewards and x = r − q their excess, mean excess e and deviation s
// over the k largest, the score is u = Σ_j weight_j · max(x/α · (1 + κ/(2s)·(x − 2e)), 0) and A = u − mean(u).
// Working with the excess keeps rewards near 1e4 exact: x is one rounding away from the true difference.
// q is built bit by bit; how ties at q enter the tail does not matter, since their x and ψ are 0.
// flags: 1 where the group gives no signal (every advantage is 0). tails (G): q, e, s, κ of the last prefix, which is the
// whole group; s without its lower bound. A workgroup a group; overwrites all three.
// Appended: shared/row_reduce.wgsl, shared/sortable.wgsl.

override LANES: u32 = 8u;

struct Params {
    groups: u32,
    m: u32,
    prefixes: u32,
    inverse_alpha: f32,
    half_kappa: f32,  // κ / 2
    min_scale: f32,
    inverse_m: f32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> rewards: array<f32>;
@group(0) @binding(1) var<storage, read> prefixes: array<vec4<f32>>; // size, tail samples k, weight, 1/k
@group(0) @binding(2) var<storage, read_write> advantages: array<f32>;
@group(0) @binding(3) var<storage, read_write> flags: array<u32>;
@group(0) @binding(4) var<storage, read_write> tails: array<vec4<f32>>; // q, e, s, κ

// A prefix's tail: threshold, mean excess, deviation and κ / (2s).
struct Tail {
    q: f32,
    excess: f32,
    deviation: f32,
    bend: f32,
}

fn threshold(first: u32, size: u32, k: u32, lane: u32) -> f32 {
    var word = 0u;
    for (var bit = 0x80000000u; bit > 0u; bit >>= 1u) {
        let candidate = word | bit;
        var count = 0u;
        for (var i = lane; i < size; i += LANES) {
            count += select(0u, 1u, sortable(rewards[first + i]) >= candidate);
        }
        if reduce_count(lane, count) >= k { word = candidate; }
    }
    return from_sortable(word);
}

fn tail_of(first: u32, prefix: vec4<f32>, lane: u32) -> Tail {
    let size = u32(prefix.x);
    let k = u32(prefix.y);
    let q = threshold(first, size, k, lane);
    var above = 0u;
    var sum = 0.0;
    for (var i = lane; i < size; i += LANES) {
        let x = rewards[first + i] - q;
        if x > 0.0 {
            above++;
            sum += x;
        }
    }
    let ties = f32(k - reduce_count(lane, above));
    let excess = reduce_add(lane, sum) * prefix.w;
    var squares = 0.0;
    for (var i = lane; i < size; i += LANES) {
        let x = rewards[first + i] - q;
        if x > 0.0 { squares = fma(x - excess, x - excess, squares); }
    }
    let deviation = sqrt((reduce_add(lane, squares) + ties * excess * excess) * prefix.w);
    return Tail(q, excess, deviation, p.half_kappa / max(deviation, p.min_scale));
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let g = group.y * 65535u + group.x;
    if g >= p.groups { return; }
    let lane = local.x;
    let first = g * p.m;
    // A lane reads and writes its own samples of `advantages` only, so the scores can grow there.
    for (var j = 0u; j < p.prefixes; j++) {
        let prefix = prefixes[j];
        let tail = tail_of(first, prefix, lane);
        let weight = prefix.z * p.inverse_alpha;
        for (var i = lane; i < p.m; i += LANES) {
            var u = 0.0;
            let x = rewards[first + i] - tail.q;
            if i < u32(prefix.x) && x > 0.0 {
                u = weight * max(x * (1.0 + tail.bend * (x - 2.0 * tail.excess)), 0.0);
            }
            if j > 0u { u += advantages[first + i]; }
            advantages[first + i] = u;
        }
        if lane == 0u && j + 1u == p.prefixes {
            tails[g] = vec4<f32>(tail.q, tail.excess, tail.deviation, 2.0 * p.half_kappa);
        }
    }
    var sum = 0.0;
    var largest = 0.0;
    for (var i = lane; i < p.m; i += LANES) {
        let u = advantages[first + i];
        sum += u;
        largest = max(largest, abs(u));
    }
    let mean = reduce_add(lane, sum) * p.inverse_m;
    let signal = reduce_max(lane, largest) > 0.0;
    for (var i = lane; i < p.m; i += LANES) {
        advantages[first + i] = select(0.0, advantages[first + i] - mean, signal);
    }
    if lane == 0u { flags[g] = select(1u, 0u, signal); }
}
