// dlogp (P) and terms (P, 8) of a weighted negative log-likelihood: one token an invocation.
//     L = scale · Σ −weight · logp
// terms: −weight · logp, 0, 0, 0, what is not finite, where that is, 0, 0. Overwrites both.
// Appended: shared/not_finite.wgsl.

override LANES: u32 = 64u;

struct Params {
    count: u32, // P
    scale: f32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> logp: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read_write> dlogp: array<f32>;
@group(0) @binding(3) var<storage, read_write> terms: array<vec4<f32>>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let i = (group.y * 65535u + group.x) * LANES + local.x;
    if i >= p.count { return; }
    let l = logp[i];
    let w = weight[i];
    // A loss that is not finite can have a finite gradient: its coefficient must not, so that no weight moves.
    dlogp[i] = select(-(w * p.scale), l, not_finite(l));
    terms[2u * i] = vec4<f32>(-(w * l), 0.0, 0.0, 0.0);
    terms[2u * i + 1u] = vec4<f32>(marks(l, p.count - i), 0.0, 0.0);
}
