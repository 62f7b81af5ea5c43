// The Bradley-Terry loss of preference pairs: one pair an invocation.
//     L = scale · Σ −log σ(margin),   margin = score(chosen) − score(rejected)
// Reads the scores (S, 4), first column, at the two places of each pair (N, 2), and leaves dL/dscore there, zeros in the other
// columns. No two pairs share a place. terms (N, 8): −log σ(margin), right (a tie is half right), margin, 0, what is not finite,
// where that is, 0, 0.
// Appended: shared/not_finite.wgsl.

override LANES: u32 = 64u;

struct Params {
    count: u32, // N
    scale: f32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> pairs: array<vec2<u32>>;
@group(0) @binding(1) var<storage, read_write> scores: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> terms: array<vec4<f32>>;

// log(1 + e) for e in [0, 1], as 2 artanh(e / (2 + e)): exact also where 1 + e would lose e.
fn log_1p(e: f32) -> f32 {
    let s = e / (2.0 + e);
    let q = s * s;
    var sum = 0.0;
    for (var n = 17.0; n >= 1.0; n -= 2.0) { sum = fma(sum, q, 1.0 / n); }
    return 2.0 * s * sum;
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let i = (group.y * 65535u + group.x) * LANES + local.x;
    if i >= p.count { return; }
    let at = pairs[i];
    let chosen = scores[at.x].x;
    let rejected = scores[at.y].x;
    let margin = chosen - rejected;
    // exp never overflows: its argument is at most 0.
    let e = exp(-abs(margin));
    let loss = log_1p(e) + max(-margin, 0.0);
    let slope = select(1.0, e, margin >= 0.0) / (1.0 + e);
    let right = select(select(0.0, 1.0, margin > 0.0), 0.5, margin == 0.0);
    // Named as it is, before the difference of two of them is.
    let value = select(select(margin, rejected, not_finite(rejected)), chosen, not_finite(chosen));
    // What is not finite must not become a finite coefficient, so that no weight moves.
    let step = select(-slope * p.scale, value, not_finite(value));
    scores[at.x] = vec4<f32>(step, 0.0, 0.0, 0.0);
    scores[at.y] = vec4<f32>(-step, 0.0, 0.0, 0.0);
    terms[2u * i] = vec4<f32>(loss, right, margin, 0.0);
    terms[2u * i + 1u] = vec4<f32>(marks(value, p.count - i), 0.0, 0.0);
}
