// In place: gate ← dgate = dact · up · σ(g) · (1 + g · (1 − σ(g))), up ← dup = dact · silu(g)
// with σ(g) = 1 / (1 + e), 1 − σ(g) = e · σ(g), e = exp(−g): no cancellation.

override LANES: u32 = 64u;

struct Params {
    n4: u32, // vec4s
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> dact: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> gate: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> up: array<vec4<f32>>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let i = (group.y * 65535u + group.x) * LANES + local.x;
    if i >= p.n4 { return; }
    let g = gate[i];
    let d = dact[i];
    let e = exp(min(-g, vec4<f32>(80.0)));
    let sigma = 1.0 / (1.0 + e);
    gate[i] = d * up[i] * sigma * fma(g, e * sigma, vec4<f32>(1.0));
    up[i] = d * g * sigma;
}
