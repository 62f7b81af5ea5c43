// dlogp (P) and terms (P, 8) of the policy-gradient loss: one token an invocation.
//     L = Σ weight · (−A·logp, or PPO's −min(ρA, clip(ρ)A)  +  β · KL),   ρ = exp(logp − old),  d = ref − logp
// k3: exp(d) − d − 1; k2: d²/2; k1: −d, whose coefficient is that of a penalty in the reward.
// terms: loss, k3 of d, clipped from below, clipped from above, k3 of logp − old, |logp − old|, 0, 0.
// A token's advantage is that of its response (owner). Overwrites both.
// Appended: shared/not_finite.wgsl.

override LANES: u32 = 64u;

struct Params {
    tokens: u32,
    first_reference: u32, // this batch's first token in `reference`
    estimator: u32,       // 0: β is 0 and there is no reference; else k1, k2, k3
    beta: f32,
    clips: u32,           // 0: on-policy, the ratio is 1
    low: f32,             // 1 − ε
    high: f32,            // 1 + ε
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> logp: array<f32>;
@group(0) @binding(1) var<storage, read> old: array<f32>;
@group(0) @binding(2) var<storage, read> reference: array<f32>;
@group(0) @binding(3) var<storage, read> owner: array<u32>;
@group(0) @binding(4) var<storage, read> weight: array<f32>;
@group(0) @binding(5) var<storage, read> advantages: array<f32>;
@group(0) @binding(6) var<storage, read_write> dlogp: array<f32>;
@group(0) @binding(7) var<storage, read_write> terms: array<vec4<f32>>;

// exp(d) − 1: by its series where the difference would lose digits.
fn exp_m1(d: f32) -> f32 {
    if abs(d) >= 0.5 { return exp(d) - 1.0; }
    var s = 1.0;
    for (var n = 9.0; n >= 2.0; n -= 1.0) { s = fma(s, d / n, 1.0); }
    return s * d;
}

// exp(d) − d − 1, of second order in d.
fn k3(d: f32) -> f32 {
    if abs(d) >= 0.5 { return exp(d) - 1.0 - d; }
    var s = 1.0;
    for (var n = 10.0; n >= 3.0; n -= 1.0) { s = fma(s, d / n, 1.0); }
    return s * d * d * 0.5;
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let i = (group.y * 65535u + group.x) * LANES + local.x;
    if i >= p.tokens { return; }
    let l = logp[i];
    let w = weight[i];
    let a = advantages[owner[i]];
    let moved = l - old[i];
    var slope = -a;
    var loss = -a * l;
    var clipped = vec2<f32>(0.0);
    if p.clips != 0u {
        let ratio = exp(moved);
        let bounded = clamp(ratio, p.low, p.high);
        slope = -ratio * a;
        loss = slope;
        if bounded * a < ratio * a {
            slope = 0.0;
            loss = -bounded * a;
            clipped = select(vec2<f32>(0.0, 1.0), vec2<f32>(1.0, 0.0), ratio < bounded);
        }
    }
    var kl = 0.0;
    if p.estimator != 0u {
        let d = reference[p.first_reference + i] - l;
        kl = k3(d);
        var value = kl;
        var step = -exp_m1(d);
        if p.estimator != 3u {
            value = select(-d, d * d * 0.5, p.estimator == 2u);
            step = -d;
        }
        loss = fma(p.beta, value, loss);
        slope = fma(p.beta, step, slope);
    }
    // A loss that is not finite can have a finite gradient: its coefficient must not, so that no weight moves.
    let value = select(l, loss, not_finite(loss));
    dlogp[i] = select(w * slope, value, not_finite(value));
    terms[2u * i] = vec4<f32>(w * loss, kl, clipped);
    terms[2u * i + 1u] = vec4<f32>(k3(moved), abs(moved), 0.0, 0.0);
}
