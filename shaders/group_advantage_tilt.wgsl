// advantages (G, M) and flags (G) from rewards (G, M), for the rules that weigh samples by e^y, y = β·(r − top), top the
// group's best reward: 0 fixed β, A = (e^y / mean(e^y) − 1) / β; 1 the β at which the weights' divergence from the
// uniform law is ln 2, A = (M − 1)·e^y / (the others' sum) − 1, at most `cap`.
// e^y and e^y − 1 come from one reduction of the argument, so that a small y keeps its digits.
// flags: 1 where the group gives no signal (every advantage is 0). A workgroup a group; overwrites both.
// Appended: shared/row_reduce.wgsl.

override LANES: u32 = 8u;
const LOWEST: f32 = -3e38;
const FAINT: f32 = 1e-30; // a spread no larger counts as none: drivers may flush what is smaller still
const FAR: f32 = -87.0; // e^-87 is about the smallest normal f32: nothing next to the best sample's 1
const LN_2: f32 = 0.6931471805599453;
const STEPS: u32 = 10u; // of Newton: 4 for smooth groups, more where the top is tied by nearly half

struct Params {
    groups: u32,
    m: u32,
    balanced: u32,
    beta: f32,
    cap: f32,
    inverse_m: f32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> rewards: array<f32>;
@group(0) @binding(1) var<storage, read_write> advantages: array<f32>;
@group(0) @binding(2) var<storage, read_write> flags: array<u32>;

var<workgroup> sums: array<vec3<f32>, 256>;

// (e^y, e^y − 1) for y ≤ 0: y = k·ln 2 + r with |r| ≤ ln 2 / 2, e^r − 1 by its series, k in the exponent's bits.
fn power(y: f32) -> vec2<f32> {
    if !(y >= FAR) { return vec2(0.0, -1.0); }
    let k = round(y * 1.4426950408889634);
    let r = fma(k, 2.12194440e-4, fma(k, -0.693359375, y));
    var series = 1.0 / 5040.0;
    series = fma(series, r, 1.0 / 720.0);
    series = fma(series, r, 1.0 / 120.0);
    series = fma(series, r, 1.0 / 24.0);
    series = fma(series, r, 1.0 / 6.0);
    series = fma(series, r, 0.5);
    let grown = fma(series * r, r, r);
    let scale = bitcast<f32>(u32(i32(k) + 127) << 23u);
    return vec2(fma(scale, grown, scale), fma(scale, grown, scale - 1.0));
}

// As reduce_add, of three sums at once.
fn reduce_add3(lane: u32, value: vec3<f32>) -> vec3<f32> {
    workgroupBarrier();
    sums[lane] = value;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if lane < half { sums[lane] += sums[lane + half]; }
        workgroupBarrier();
    }
    return sums[0];
}

// Of the weights e^y, y = beta·(r − top) / range: their divergence from the uniform law, and y's variance under them.
fn divergence(first: u32, top: f32, beta: f32, inverse_range: f32, lane: u32) -> vec2<f32> {
    var sum = vec3(0.0);
    for (var i = lane; i < p.m; i += LANES) {
        let y = ((rewards[first + i] - top) * inverse_range) * beta;
        let e = power(y).x;
        if e > 0.0 { sum += e * vec3(1.0, y, y * y); }
    }
    let all = reduce_add3(lane, sum);
    let mean = all.y / all.x;
    return vec2(mean - log(all.x * p.inverse_m), all.z / all.x - mean * mean);
}

// The β, in units of 1/range, whose divergence is ln 2; it is at least ln 2. The power of 2 below it comes from the bits of
// its exponent, then Newton's steps inside the bracket. The variance is the derivative by log β.
fn balance(first: u32, top: f32, inverse_range: f32, lane: u32) -> f32 {
    var exponent = 126u; // of 1/2
    for (var bit = 64u; bit > 0u; bit >>= 1u) {
        let candidate = exponent + bit;
        let found = divergence(first, top, bitcast<f32>(candidate << 23u), inverse_range, lane);
        if found.x < LN_2 { exponent = candidate; }
    }
    var low = bitcast<f32>(exponent << 23u);
    var high = 2.0 * low;
    var beta = 1.5 * low;
    for (var step = 0u; step < STEPS; step++) {
        let found = divergence(first, top, beta, inverse_range, lane);
        if found.x < LN_2 { low = beta; } else { high = beta; }
        let newton = beta - beta * ((found.x - LN_2) / found.y);
        // Where it has arrived, rounding may put it beside the bracket.
        let inside = newton >= low * 0.99999 && newton <= high * 1.00001;
        beta = select(0.5 * (low + high), newton, inside);
    }
    return beta;
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
    var spread = 0.0;
    var ties = 0u;
    for (var i = lane; i < p.m; i += LANES) {
        let r = rewards[first + i];
        spread = max(spread, top - r);
        ties += select(0u, 1u, r == top);
    }
    let range = reduce_max(lane, spread);
    let best = reduce_count(lane, ties);
    let signal = range > FAINT;
    if p.balanced == 0u {
        var sum = vec2(0.0);
        for (var i = lane; i < p.m; i += LANES) { sum += power(p.beta * (rewards[first + i] - top)); }
        let mean = vec2(reduce_add(lane, sum.x), reduce_add(lane, sum.y)) * p.inverse_m;
        // Where weights are small, their difference from 1 has lost their digits; where they are near 1, they have.
        let small = mean.x < 0.5;
        for (var i = lane; i < p.m; i += LANES) {
            let e = power(p.beta * (rewards[first + i] - top));
            let lead = select(e.y - mean.y, e.x - mean.x, small);
            advantages[first + i] = select(0.0, lead / (mean.x * p.beta), signal);
        }
    } else {
        let inverse_range = 1.0 / select(1.0, range, signal);
        let beta = balance(first, top, inverse_range, lane);
        // With half of the group or more at the top no β reaches ln 2: the limit, where the top holds all weight.
        let limit = 2u * best >= p.m;
        var sum = 0.0;
        for (var i = lane; i < p.m; i += LANES) {
            sum += power(((rewards[first + i] - top) * inverse_range) * beta).x;
        }
        let weights = reduce_add(lane, sum);
        for (var i = lane; i < p.m; i += LANES) {
            let r = rewards[first + i];
            let e = power(((r - top) * inverse_range) * beta).x;
            var share = e / (weights - e);
            if limit {
                share = 0.0;
                if r == top { share = select(-LOWEST, 1.0 / f32(best - 1u), best > 1u); }
            }
            let a = fma(f32(p.m - 1u), share, -1.0);
            advantages[first + i] = select(0.0, min(a, p.cap), signal);
        }
    }
    if lane == 0u { flags[g] = select(1u, 0u, signal); }
}
