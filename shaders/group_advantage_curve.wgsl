// advantages (G, M) and flags (G) from rewards (G, M) and the same rewards in ascending order (ordered), for the rules
// that depend on a reward's rank: BoN mean, PKPO, oracle, …. Each is a curve over the sorted rewards s,
//     v_0 = 0,  v_i = v_{i−1} + steps[i]·(s_i − s_{i−1}),
// whose steps (M) depend on sizes alone; all terms are ≥ 0, so nothing cancels and rewards near 1e4 keep their digits.
// A = v at the reward's rank, minus the baseline, over the curve's standard deviation + eps (scaled). The baseline is 0,
// the curve's mean, or its value at a place between two ranks.
// Equal rewards meet at the first of them: their gaps are 0. flags: 1 where the group gives no signal (every advantage
// is 0). A lane sums a run of neighbouring ranks, the lanes' totals are added in order.
// A workgroup a group; overwrites curve (G, M, scratch), advantages, flags.
// Appended: shared/row_reduce.wgsl, shared/ordered.wgsl.

override LANES: u32 = 8u;
const FAINT: f32 = 1e-30; // a curve no higher counts as flat: drivers may flush what is smaller still

struct Params {
    groups: u32,
    m: u32,
    baseline: u32, // 0: the lowest value, 1: the mean, 2: `part` of the way from rank `place` to the next
    place: u32,
    part: f32,
    scaled: u32,
    eps: f32,
    inverse_m: f32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> rewards: array<f32>;
@group(0) @binding(1) var<storage, read> ordered: array<f32>;
@group(0) @binding(2) var<storage, read> steps: array<f32>;
@group(0) @binding(3) var<storage, read_write> curve: array<f32>;
@group(0) @binding(4) var<storage, read_write> advantages: array<f32>;
@group(0) @binding(5) var<storage, read_write> flags: array<u32>;

fn rise(first: u32, i: u32) -> f32 {
    if i == 0u { return 0.0; }
    return steps[i] * (ordered[first + i] - ordered[first + i - 1u]);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let g = group.y * 65535u + group.x;
    if g >= p.groups { return; }
    let lane = local.x;
    let first = g * p.m;
    let run = (p.m + LANES - 1u) / LANES;
    let start = min(lane * run, p.m);
    let end = min(start + run, p.m);
    var total = 0.0;
    for (var i = start; i < end; i++) { total += rise(first, i); }
    let below = sum_before(lane, total);
    var within = 0.0;
    var sum = 0.0;
    for (var i = start; i < end; i++) {
        within += rise(first, i);
        curve[first + i] = below + within;
        sum += below + within;
    }
    let mean = reduce_add(lane, sum) * p.inverse_m;
    var squares = 0.0;
    for (var i = start; i < end; i++) {
        let a = curve[first + i] - mean;
        squares = fma(a, a, squares);
    }
    let deviation = sqrt(reduce_add(lane, squares) * p.inverse_m);
    var factor = 1.0;
    if p.scaled != 0u { factor = 1.0 / (deviation + p.eps); }
    let signal = reduce_add(lane, total) > FAINT;
    storageBarrier();
    var baseline = select(0.0, mean, p.baseline == 1u);
    if p.baseline == 2u {
        let over = min(p.place + 1u, p.m - 1u);
        let low = curve[first + p.place];
        baseline = fma(p.part, curve[first + over] - low, low);
    }
    for (var i = lane; i < p.m; i += LANES) {
        let v = curve[first + count_below(first, rewards[first + i])];
        advantages[first + i] = select(0.0, (v - baseline) * factor, signal);
    }
    if lane == 0u { flags[g] = select(1u, 0u, signal); }
}
