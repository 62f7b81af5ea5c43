// partial[slot + block] = Σ x² over block `block` of x: BLOCK elements, lanes strided over it, a fixed tree.
// A workgroup a block. Overwrites its partials. Appended: shared/row_reduce.wgsl.

override LANES: u32 = 8u;
const BLOCK: u32 = 16384u;

struct Params {
    n: u32,
    slot: u32,
    blocks: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> partial: array<f32>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let block = group.y * 65535u + group.x;
    if block >= p.blocks { return; }
    let first = block * BLOCK;
    let end = min(BLOCK, p.n - first);
    // Four chains a lane keep each chain short.
    var s = vec4<f32>();
    for (var i = local.x; i < end; i += 4u * LANES) {
        var v = vec4<f32>();
        v.x = x[first + i];
        if i + LANES < end { v.y = x[first + i + LANES]; }
        if i + 2u * LANES < end { v.z = x[first + i + 2u * LANES]; }
        if i + 3u * LANES < end { v.w = x[first + i + 3u * LANES]; }
        s = fma(v, v, s);
    }
    let sum = reduce_add(local.x, (s.x + s.y) + (s.z + s.w));
    if local.x == 0u { partial[p.slot + block] = sum; }
}
