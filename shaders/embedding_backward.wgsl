// dw (V, C) += for each token id, the rows of dx (M, C) where it stands, in ascending order
// unique (U): token ids, ascending; starts (U + 1): where each one's rows begin in rows (M): row indices by token.
// A lane owns four columns of one row of dw: no two lanes write the same place, and the order is fixed.

override LANES: u32 = 8u;

struct Params {
    u: u32,
    k4: u32,    // C / 4, rounded up
    first: u32, // the token of the shard's first row
    count: u32, // rows of the shard
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> dx: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> tokens: array<u32>;
@group(0) @binding(2) var<storage, read> starts: array<u32>;
@group(0) @binding(3) var<storage, read> rows: array<u32>;
@group(0) @binding(4) var<storage, read_write> dw: array<vec4<f32>>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let i = (group.y * 65535u + group.x) * LANES + local.x;
    if i >= p.u * p.k4 { return; }
    let token = i / p.k4;
    let k = i % p.k4;
    let id = tokens[token];
    if id < p.first || id - p.first >= p.count { return; }
    let at = (id - p.first) * p.k4 + k;
    var sum = dw[at];
    for (var r = starts[token]; r < starts[token + 1u]; r++) {
        sum += dx[rows[r] * p.k4 + k];
    }
    dw[at] = sum;
}
