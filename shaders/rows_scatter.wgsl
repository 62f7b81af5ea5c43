// dst (rows, W)[index[i]] = src (M, W)[i], distinct indices; an index past the end drops its row
// A lane is four columns of one row.

override LANES: u32 = 64u;

struct Params {
    m: u32,  // rows of src
    w4: u32, // W / 4
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> src: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> index: array<u32>;
@group(0) @binding(2) var<storage, read_write> dst: array<vec4<f32>>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let id = (group.y * 65535u + group.x) * LANES + local.x;
    let row = id / p.w4;
    if row >= p.m { return; }
    let to = index[row];
    if to < arrayLength(&dst) / p.w4 { dst[to * p.w4 + id % p.w4] = src[id]; }
}
