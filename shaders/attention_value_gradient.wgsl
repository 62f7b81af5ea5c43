// dv (M, KV, D) = Σ over the key's query rows of P · dout, P = exp(q · k · scale − lse)
// Packed layout: key row j is read by query rows j ..< key_ends[j]. A lane is one key row of one KV head; the sum is
// one chain over the heads of the group and, within a head, the query rows, both ascending. Queries are loaded
// from addresses that all lanes share.

override LANES: u32 = 8u;
override D4: u32 = 16u;

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> key_ends: array<u32>;
@group(0) @binding(3) var<storage, read> dout: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> lse: array<f32>;
@group(0) @binding(5) var<storage, read_write> dv: array<vec4<f32>>;

var<private> acc: array<vec4<f32>, MAX_D4>;

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
            var s = vec4<f32>();
            for (var d = 0u; d < D4; d++) {
                let x = k[at + d];
                s.x = chain(q[r.x + d], x, s.x);
                s.y = chain(q[r.y + d], x, s.y);
                s.z = chain(q[r.z + d], x, s.z);
                s.w = chain(q[r.w + d], x, s.w);
            }
            let sums = vec4<f32>(lse[rows.x], lse[rows.y], lse[rows.z], lse[rows.w]);
            let e = select(vec4<f32>(), probabilities(s, p.scale, sums), is_seen(i, j, key_end));
            for (var d = 0u; d < D4; d++) {
                var t = acc[d];
                t = add_scaled(e.x, dout[r.x + d], t);
                t = add_scaled(e.y, dout[r.y + d], t);
                t = add_scaled(e.z, dout[r.z + d], t);
                t = add_scaled(e.w, dout[r.w + d], t);
                acc[d] = t;
            }
        }
    }
    if row < p.m {
        for (var d = 0u; d < D4; d++) { dv[at + d] = acc[d]; }
    }
}
