// dst (M, W)[i] = Σ over j in starts[i] .. starts[i + 1] of src (P, W)[j], in ascending order; 0 for an empty range
// A lane is four columns of one row of dst.

override LANES: u32 = 64u;

struct Params {
    m: u32,  // rows of dst
    w4: u32, // W / 4
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> src: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> starts: array<u32>;
@group(0) @binding(2) var<storage, read_write> dst: array<vec4<f32>>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let id = (group.y * 65535u + group.x) * LANES + local.x;
    let row = id / p.w4;
    if row >= p.m { return; }
    let col = id % p.w4;
    let end = min(starts[row + 1u], arrayLength(&src) / p.w4);
    var s = vec4<f32>();
    for (var j = starts[row]; j < end; j++) {
        s += src[j * p.w4 + col];
    }
    dst[id] = s;
}
