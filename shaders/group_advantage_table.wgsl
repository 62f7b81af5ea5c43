// advantages (G, M) and flags (G) from rewards (G, M) of 0 or 1, by a table of the number of successes: row c of the
// table (M + 1, 2) has the advantage of a success and of a failure in a group with c successes.
// flags: 1 where the group gives no signal (every advantage is 0). A workgroup a group; overwrites both.
// Appended: shared/row_reduce.wgsl.

override LANES: u32 = 8u;

struct Params {
    groups: u32,
    m: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> rewards: array<f32>;
@group(0) @binding(1) var<storage, read> by_successes: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> advantages: array<f32>;
@group(0) @binding(3) var<storage, read_write> flags: array<u32>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let g = group.y * 65535u + group.x;
    if g >= p.groups { return; }
    let lane = local.x;
    let first = g * p.m;
    var count = 0u;
    for (var i = lane; i < p.m; i += LANES) { count += select(0u, 1u, rewards[first + i] > 0.5); }
    let row = by_successes[reduce_count(lane, count)];
    for (var i = lane; i < p.m; i += LANES) {
        advantages[first + i] = select(row.y, row.x, rewards[first + i] > 0.5);
    }
    if lane == 0u { flags[g] = select(0u, 1u, row.x == 0.0 && row.y == 0.0); }
}
