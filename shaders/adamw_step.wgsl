// One AdamW step on param (N) with moments m and v (N), in place; grad is only read. Order of operations as
// torch.optim.AdamW: decay, m ← lerp(m, g), v ← β₂v + (1−β₂)g², param −= step · m / (√v / √(1−β₂ᵗ) + ε).
// g = grad · min(1, max_norm / (norm + 1e-6)). A norm that is not finite leaves everything as it is.

override LANES: u32 = 8u;

struct Params {
    n: u32,
    decay: f32,              // 1 − lr · weight_decay
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    step_size: f32,          // lr / (1 − β₁ᵗ)
    second_correction: f32,  // √(1 − β₂ᵗ)
    eps: f32,
    max_norm: f32,           // 0: no clipping
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> param: array<f32>;
@group(0) @binding(1) var<storage, read> grad: array<f32>;
@group(0) @binding(2) var<storage, read_write> m: array<f32>;
@group(0) @binding(3) var<storage, read_write> v: array<f32>;
@group(0) @binding(4) var<storage, read> norm: array<f32>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let total = norm[0];
    if (bitcast<u32>(total) & 0x7f800000u) == 0x7f800000u { return; }
    var clip = 1.0;
    if p.max_norm > 0.0 { clip = min(1.0, p.max_norm / (total + 1e-6)); }
    let first = (group.y * 65535u + group.x) * LANES * 8u + local.x;
    for (var k = 0u; k < 8u; k++) {
        let i = first + k * LANES;
        if i >= p.n { return; }
        let g = grad[i] * clip;
        let m1 = m[i] + (g - m[i]) * p.one_minus_beta1;
        let v1 = v[i] * p.beta2 + p.one_minus_beta2 * g * g;
        m[i] = m1;
        v[i] = v1;
        let denominator = sqrt(v1) / p.second_correction + p.eps;
        param[i] = param[i] * p.decay - p.step_size * (m1 / denominator);
    }
}
