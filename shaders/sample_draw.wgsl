// token (M), logp (M): one draw a row from softmax(logits / T) over the logits that reach the row's threshold, by
// argmax of (logit − max) / T − ln E with E exponential (Gumbel-max); greedy takes the greatest logit.
// logp = (logit − max) − log Σ e^(x−max) is at temperature 1 over the whole vocabulary; lse holds the two.
// E of token v is a function of (key, position, v) alone.
// Equal scores go to the lowest token. Rows that are not active give 0xffffffff and 0. Overwrites token and logp.
// A workgroup a row. Appended: shared/philox.wgsl, shared/sortable.wgsl.

override LANES: u32 = 8u;
const LOWEST: f32 = -3.3e38;

struct Params {
    m: u32,
    v: u32,
    stride4: u32,
    flags: u32, // 1: greedy, 2: thresholds
    inverse_temperature: f32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> logits: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> lse: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read> keys: array<vec4<u32>>; // key0, key1, position, active
@group(0) @binding(3) var<storage, read> threshold: array<u32>;
@group(0) @binding(4) var<storage, read_write> token: array<u32>;
@group(0) @binding(5) var<storage, read_write> logp: array<f32>;

var<workgroup> best_score: array<f32, 256>;
var<workgroup> best_token: array<u32, 256>;

// −ln(1 − u) for u = (bits + ½)·2⁻³². Small u by its series; else 1 − u is (~bits + ½)·2⁻³² without cancellation.
fn exponential(bits: u32) -> f32 {
    let u = (f32(bits) + 0.5) * 2.3283064365386963e-10;
    let series = u * (1.0 + u * (0.5 + u * (0.33333334 + u * (0.25 + u * 0.2))));
    let rest = (f32(~bits) + 0.5) * 2.3283064365386963e-10;
    return select(-log(rest), series, bits < 0x10000000u);
}

// x is relative to the greatest logit, so that E counts beside logits of any size.
fn score(x: f32, bits: u32) -> f32 {
    if (p.flags & 1u) != 0u { return x; }
    return x * p.inverse_temperature - log(exponential(bits));
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let row = group.y * 65535u + group.x;
    if row >= p.m { return; }
    let lane = local.x;
    let key = keys[row];
    let end = select(0u, (p.v + 3u) / 4u, key.w != 0u);
    var least = 0u;
    if (p.flags & 2u) != 0u { least = threshold[row]; }
    let top = lse[row].x;
    var high = LOWEST;
    var chosen = min(4u * lane, p.v - 1u);
    for (var c = lane; c < end; c += LANES) {
        let x = logits[row * p.stride4 + c];
        var bits = vec4<u32>();
        if (p.flags & 1u) == 0u { bits = philox(vec4<u32>(c, key.z, 0u, 0u), key.xy); }
        for (var i = 0u; i < 4u; i++) {
            let s = score(x[i] - top, bits[i]);
            if 4u * c + i < p.v && sortable(x[i]) >= least && s > high {
                high = s;
                chosen = 4u * c + i;
            }
        }
    }
    best_score[lane] = high;
    best_token[lane] = chosen;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if lane < half {
            let s = best_score[lane + half];
            let t = best_token[lane + half];
            if s > best_score[lane] || (s == best_score[lane] && t < best_token[lane]) {
                best_score[lane] = s;
                best_token[lane] = t;
            }
        }
        workgroupBarrier();
    }
    if lane == 0u {
        let t = best_token[0];
        token[row] = select(0xffffffffu, t, key.w != 0u);
        let drawn = (logits[row * p.stride4 + t / 4u][t % 4u] - lse[row].x) - lse[row].y;
        logp[row] = select(0.0, drawn, key.w != 0u);
    }
}
