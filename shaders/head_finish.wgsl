// mode 0: lse (M) = log Σ e^x and entropy (M) = log Σ e^(x−max) − Σ (x−max)·e^(x−max) / Σ e^(x−max) from state.
// mode 1: logp (M) = target's logit − lse, in a dispatch of its own so that it is the same subtraction as the sampler's.
// A lane a row; outputs are overwritten.

override LANES: u32 = 8u;

struct Params {
    m: u32,
    mode: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> state: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> lse: array<f32>;
@group(0) @binding(2) var<storage, read_write> other: array<f32>; // entropy (mode 0) or logp (mode 1)

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let row = (group.y * 65535u + group.x) * LANES + local.x;
    if row >= p.m { return; }
    let s = state[row];
    if p.mode == 1u {
        other[row] = s.w - lse[row];
        return;
    }
    let l = log(s.y);
    lse[row] = s.x + l;
    other[row] = max(l - s.z / s.y, 0.0);
}
