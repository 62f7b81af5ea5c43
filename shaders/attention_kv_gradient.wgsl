// dk (M, KV, D) = scale · Σ over the key's query rows of P · (dout · v − delta) · q, P = exp(q · k · scale − lse); or, for VALUES,
// dv (M, KV, D) = Σ P · dout.
// Packed layout: key row j is read by query rows j ..< key_ends[j]. A lane is one key row of one KV head; the sum is
// one chain over the heads of the group and, within a head, the query rows, both ascending. Queries are loaded
// from addresses that all lanes share. Heads have up to 4 · MAX_D4 dimensions.
// Appended: shared/attention_params.wgsl, attention_math.wgsl.

override LANES: u32 = 8u;
override D4: u32 = 16u;

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> key_ends: array<u32>;
@group(0) @binding(4) var<storage, read> dout: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> lse: array<f32>;
@group(0) @binding(6) var<storage, read> delta: array<f32>;
@group(0) @binding(7) var<storage, read_write> out: array<vec4<f32>>;

var<private> acc: array<vec4<f32>, MAX_D4>;

// What a query row adds, times its factor.
fn addend4(at: u32) -> vec4<f32> {
    if VALUES { return dout[at]; }
    return q[at];
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let first = group.x * LANES;
    let row = first + local.x;
    let j = min(row, p.m - 1u);
    let at = (j * p.kv_heads + group.y) * D4;
    let key_end = min(key_ends[j], p.m);
    var last = 0u;
    for (var i = 0u; i < LANES; i++) { last = max(last, key_ends[min(first + i, p.m - 1u)]); }
    last = min(last, p.m);
    for (var d = 0u; d < D4; d++) { acc[d] = vec4<f32>(); }
    let shared_heads = p.heads / p.kv_heads;
    for (var head = group.y * shared_heads; head < (group.y + 1u) * shared_heads; head++) {
        for (var i = first; i < last; i += 4u) {
            let rows = min(vec4<u32>(i, i + 1u, i + 2u, i + 3u), vec4<u32>(p.m - 1u)) * p.heads + head;
            let r = rows * D4;
            var s = vec4<f32>(); // q · k
            var g = vec4<f32>(); // dout · v
            for (var d = 0u; d < D4; d++) {
                let x = k[at + d];
                s.x = chain(q[r.x + d], x, s.x);
                s.y = chain(q[r.y + d], x, s.y);
                s.z = chain(q[r.z + d], x, s.z);
                s.w = chain(q[r.w + d], x, s.w);
                if VALUES { continue; }
                let y = v[at + d];
                g.x = chain(dout[r.x + d], y, g.x);
                g.y = chain(dout[r.y + d], y, g.y);
                g.z = chain(dout[r.z + d], y, g.z);
                g.w = chain(dout[r.w + d], y, g.w);
            }
            var weights = probabilities(s, p.scale, vec4<f32>(lse[rows.x], lse[rows.y], lse[rows.z], lse[rows.w]));
            if !VALUES {
                let shift = vec4<f32>(delta[rows.x], delta[rows.y], delta[rows.z], delta[rows.w]);
                weights = weights * (g - shift) * p.scale;
            }
            let e = select(vec4<f32>(), weights, is_seen(i, j, key_end));
            for (var d = 0u; d < D4; d++) {
                var t = acc[d];
                t = add_scaled(e.x, addend4(r.x + d), t);
                t = add_scaled(e.y, addend4(r.y + d), t);
                t = add_scaled(e.z, addend4(r.z + d), t);
                t = add_scaled(e.w, addend4(r.w + d), t);
                acc[d] = t;
            }
        }
    }
    if row < p.m {
        for (var d = 0u; d < D4; d++) { out[at + d] = acc[d]; }
    }
}
