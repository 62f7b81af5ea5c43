// act = silu(gate) · up, silu(g) = g / (1 + exp(−g))

override LANES: u32 = 64u;

struct Params {
    n4: u32, // vec4s
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> gate: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> up: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> act: array<vec4<f32>>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let i = (group.y * 65535u + group.x) * LANES + local.x;
    if i >= p.n4 { return; }
    let g = gate[i];
    // Clamped so that exp stays finite: fast math may assume no infinity.
    let e = exp(min(-g, vec4<f32>(80.0)));
    act[i] = g / (1.0 + e) * up[i];
}
