// delta (M, H) = Σ over D of dout · out
// A lane is one row of one head; one chain along D in ascending order.

override LANES: u32 = 8u;
override D4: u32 = 16u;

struct Params {
    count: u32, // M · H
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> dout: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> out: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> delta: array<f32>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let id = (group.y * 65535u + group.x) * LANES + local.x;
    let at = min(id, p.count - 1u) * D4;
    var s = 0.0;
    for (var d = 0u; d < D4; d++) { s = chain(dout[at + d], out[at + d], s); }
    if id < p.count { delta[id] = s; }
}
