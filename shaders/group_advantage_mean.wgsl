// advantages (G, M) and flags (G) from rewards (G, M), for the rules that compare with the group's mean or its second
// best, by rule: 0 GRPO, 1 GRPO-Z, 2 BoN-max mean, 3 BoN-max second, 4 Chow BoN-RL, 5 MaxRL.
// Rewards count from the group's maximum. Rule 5 also reads the rewards themselves, which are bases (G) higher and at
// least 0. The star is the best candidate, the lowest index on a tie; every sample is a
// candidate except under rule 4, which reads selection (G, M): 1 for the selection set, 0 for the correction set.
// flags: 1 where the group gives no signal (every advantage is 0). A workgroup a group; overwrites both.
// Appended: shared/row_reduce.wgsl.

override LANES: u32 = 8u;
const LOWEST: f32 = -3e38;
const GRPO_Z: u32 = 1u;
const SECOND: u32 = 3u;
const CHOW: u32 = 4u;
const RATIO: u32 = 5u;

struct Params {
    groups: u32,
    m: u32,
    rule: u32,
    eps: f32,
    inverse_m: f32,
    star: f32,   // factor of the star's advantage
    others: f32, // factor of the correction set's
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> rewards: array<f32>;
@group(0) @binding(1) var<storage, read> selection: array<u32>;
@group(0) @binding(2) var<storage, read> bases: array<f32>;
@group(0) @binding(3) var<storage, read_write> advantages: array<f32>;
@group(0) @binding(4) var<storage, read_write> flags: array<u32>;

fn candidate(at: u32) -> bool {
    if p.rule != CHOW { return true; }
    return selection[at] != 0u;
}

// Index of the best candidate: among equals the largest M − i, exact in f32 (M ≤ 4096).
fn find_star(first: u32, best: f32, lane: u32) -> u32 {
    var key = 0.0;
    for (var i = lane; i < p.m; i += LANES) {
        if candidate(first + i) && rewards[first + i] == best { key = max(key, f32(p.m - i)); }
    }
    return p.m - u32(reduce_max(lane, key));
}

fn deviation(first: u32, top: f32, mean: f32, lane: u32) -> f32 {
    var squares = 0.0;
    for (var i = lane; i < p.m; i += LANES) {
        let a = (rewards[first + i] - top) - mean;
        squares = fma(a, a, squares);
    }
    return sqrt(reduce_add(lane, squares) * p.inverse_m);
}

// The mean of the rewards themselves: terms of one sign.
fn level(g: u32, lane: u32) -> f32 {
    var sum = 0.0;
    for (var i = lane; i < p.m; i += LANES) { sum += rewards[g * p.m + i]; }
    return bases[g] + reduce_add(lane, sum) * p.inverse_m;
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let g = group.y * 65535u + group.x;
    if g >= p.groups { return; }
    let lane = local.x;
    let first = g * p.m;
    var high = LOWEST;
    var chosen = LOWEST;
    for (var i = lane; i < p.m; i += LANES) {
        let r = rewards[first + i];
        high = max(high, r);
        if candidate(first + i) { chosen = max(chosen, r); }
    }
    let top = reduce_max(lane, high);
    let best = reduce_max(lane, chosen);
    let star = find_star(first, best, lane);
    var sum = 0.0;
    var largest = 0.0;
    var other = LOWEST;
    for (var i = lane; i < p.m; i += LANES) {
        let d = rewards[first + i] - top;
        sum += d;
        largest = max(largest, -d);
        if i != star { other = max(other, d); }
    }
    let mean = reduce_add(lane, sum) * p.inverse_m;
    let second = reduce_max(lane, other);
    var signal = reduce_max(lane, largest) > 0.0;
    if p.rule <= GRPO_Z || p.rule == RATIO {
        var factor = p.star;
        if p.rule == RATIO { factor /= level(g, lane); }
        if p.rule == GRPO_Z { factor /= deviation(first, top, mean, lane) + p.eps; }
        for (var i = lane; i < p.m; i += LANES) {
            advantages[first + i] = select(0.0, ((rewards[first + i] - top) - mean) * factor, signal);
        }
    } else {
        let lead = (best - top) - select(mean, second, p.rule == SECOND);
        signal = signal && lead != 0.0;
        for (var i = lane; i < p.m; i += LANES) {
            var a = 0.0;
            if i == star {
                a = p.star * lead;
            } else if !candidate(first + i) && rewards[first + i] <= best {
                a = p.others * lead;
            }
            advantages[first + i] = select(0.0, a, signal);
        }
    }
    if lane == 0u { flags[g] = select(1u, 0u, signal); }
}
