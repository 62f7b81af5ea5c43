// threshold (M): the least logit that top-k, top-p and min-p leave, as a sortable word; each filter works on what the
// one before left. Equal logits stay or go together: ties at a threshold stay.
// A workgroup a row; a threshold is built bit by bit, one pass over the row a bit. Overwrites threshold.
// Appended: shared/row_reduce.wgsl, shared/sortable.wgsl.

override LANES: u32 = 8u;
const LOWEST: f32 = -3e38;

struct Params {
    m: u32,
    v: u32,
    stride: u32,
    top_k: u32,            // 0: off
    inverse_temperature: f32,
    top_p: f32,            // 1 or more: off
    min_p_drop: f32,       // T · ln(min_p), how far below the maximum a logit may be; 0 or more: off
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> keys: array<vec4<u32>>; // key0, key1, position, active
@group(0) @binding(2) var<storage, read_write> threshold: array<u32>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let row = group.y * 65535u + group.x;
    if row >= p.m { return; }
    let lane = local.x;
    // Rows that are done have an empty range: every lane still meets the barriers.
    let first = row * p.stride;
    let end = first + select(0u, p.v, keys[row].w != 0u);
    var high = LOWEST;
    for (var i = first + lane; i < end; i += LANES) { high = max(high, logits[i]); }
    let top = reduce_max(lane, high);
    var least = 0u;
    if p.top_k > 0u {
        // The greatest word that at least k logits reach.
        for (var bit = 0x80000000u; bit > 0u; bit >>= 1u) {
            let candidate = least | bit;
            var count = 0u;
            for (var i = first + lane; i < end; i += LANES) { count += select(0u, 1u, sortable(logits[i]) >= candidate); }
            if reduce_count(lane, count) >= p.top_k { least = candidate; }
        }
    }
    if p.top_p < 1.0 {
        // The greatest word such that the logits that reach it hold at least top_p of the mass: a logit stays if the
        // mass strictly above it is less than top_p.
        var total = 0.0;
        for (var i = first + lane; i < end; i += LANES) {
            let x = logits[i];
            total += select(0.0, exp(max((x - top) * p.inverse_temperature, -100.0)), sortable(x) >= least);
        }
        let wanted = p.top_p * reduce_add(lane, total);
        var reached = 0u;
        for (var bit = 0x80000000u; bit > 0u; bit >>= 1u) {
            let candidate = reached | bit;
            let bound = max(candidate, least);
            var mass = 0.0;
            for (var i = first + lane; i < end; i += LANES) {
                let x = logits[i];
                if sortable(x) >= bound { mass += exp(max((x - top) * p.inverse_temperature, -100.0)); }
            }
            if reduce_add(lane, mass) >= wanted { reached = candidate; }
        }
        // The most likely token always stays.
        least = min(max(least, reached), sortable(top));
    }
    if p.min_p_drop < 0.0 {
        least = max(least, sortable(top + p.min_p_drop));
    }
    if lane == 0u { threshold[row] = least; }
}
