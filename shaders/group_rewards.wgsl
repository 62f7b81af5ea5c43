// rewards (G, M)[i] = scores (N, 4)[rows[i]].x, word by word. Where a group cannot be compared, norm (1) becomes infinite,
// so that the optimiser leaves everything as it is: a score is not finite (its reward is 0 then, for what follows), is
// none that the rule takes, or lies more than `far` below the group's best. A row past the end counts as not finite. A workgroup a group.
// Appended: shared/row_reduce.wgsl.

override LANES: u32 = 8u;
const LOWEST: f32 = -3.4e38;
const INFINITE: u32 = 0x7f800000u;

struct Params {
    groups: u32,
    m: u32,
    far: f32,
    takes: u32, // rewards the rule takes: 0 any, 1 of at least 0, 2 of 0 or 1
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> scores: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> rows: array<u32>;
@group(0) @binding(2) var<storage, read_write> rewards: array<u32>;
@group(0) @binding(3) var<storage, read_write> norm: array<atomic<u32>>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let g = group.y * 65535u + group.x;
    if g >= p.groups { return; }
    let lane = local.x;
    let first = g * p.m;
    var bad = 0u;
    var high = LOWEST;
    for (var i = lane; i < p.m; i += LANES) {
        let row = rows[first + i];
        var word = INFINITE;
        if row < arrayLength(&scores) { word = scores[row].x; }
        if (word & INFINITE) == INFINITE {
            bad = 1u;
            word = 0u;
        }
        let r = bitcast<f32>(word);
        if p.takes == 1u && r < 0.0 { bad = 1u; }
        if p.takes == 2u && r != 0.0 && r != 1.0 { bad = 1u; }
        high = max(high, r);
        rewards[first + i] = word;
    }
    let best = reduce_max(lane, high);
    for (var i = lane; i < p.m; i += LANES) {
        if best - bitcast<f32>(rewards[first + i]) > p.far { bad = 1u; }
    }
    if reduce_count(lane, bad) > 0u && lane == 0u { atomicOr(&norm[0], INFINITE); }
}
