// x (M, C) = rows of W (V, C) that tokens (M) name; rows whose token lies in another shard stay as they are
// Appended: shared/weight.wgsl. A lane writes four columns.

override LANES: u32 = 8u;

struct Params {
    m: u32,
    k4: u32,        // C / 4, rounded up
    w_section: u32, // words before the scales of a quantised weight
    first: u32,     // the token of the shard's first row
    rows: u32,      // rows of the shard
    vocab: u32,     // V: tokens are clamped below it
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> tokens: array<u32>;
@group(0) @binding(2) var<storage, read_write> x: array<vec4<f32>>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let i = (group.y * 65535u + group.x) * LANES + local.x;
    if i >= p.m * p.k4 { return; }
    let token = min(tokens[i / p.k4], p.vocab - 1u);
    if token < p.first || token - p.first >= p.rows { return; }
    x[i] = weight4(token - p.first, i % p.k4);
}
