// mode 0: lse (M) = (max, log Σ e^(x−max)) and entropy (M) = log Σ e^(x−max) − Σ (x−max)·e^(x−max) / Σ e^(x−max) from state.
// mode 1: logp (M) = (target's logit − max) − log Σ e^(x−max), in a dispatch of its own so that these are the same two
// subtractions as the sampler's. The sum of lse's two words is never taken: beside a large logit the second would vanish.
// A lane a row; outputs are overwritten.

override LANES: u32 = 8u;

struct Params {
    m: u32,
    mode: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> state: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> lse: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> other: array<f32>; // entropy (mode 0) or logp (mode 1)

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let row = (group.y * 65535u + group.x) * LANES + local.x;
    if row >= p.m { return; }
    let s = state[row];
    if p.mode == 1u {
        other[row] = (s.w - lse[row].x) - lse[row].y;
        return;
    }
    let l = log(s.y);
    lse[row] = vec2<f32>(s.x, l);
    other[row] = max(l - s.z / s.y, 0.0);
}
