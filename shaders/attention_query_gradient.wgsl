// dq (M, H, D) = scale · Σ over keys of P · (dout · v − delta) · k, P = exp(q · k · scale − lse)
// A lane is one row of one head; keys ascend in blocks of eight aligned to position 0, one chain a component.

override LANES: u32 = 8u;
override D4: u32 = 16u;

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> rows_meta: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> dout: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> lse: array<f32>;
@group(0) @binding(6) var<storage, read> delta: array<f32>;
@group(0) @binding(7) var<storage, read_write> dq: array<vec4<f32>>;

var<private> acc: array<vec4<f32>, MAX_D4>;

// The gradient of the eight scaled scores.
fn scores(at: u32, r: Rows, log_sum: f32, shift: f32) -> Eight {
    var a = vec4<f32>(); var b = vec4<f32>();   // q · k
    var da = vec4<f32>(); var db = vec4<f32>(); // dout · v
    for (var d = 0u; d < D4; d++) {
        let x = q[at + d];
        let g = dout[at + d];
        a.x = chain(x, k[r.a.x + d], a.x); da.x = chain(g, v[r.a.x + d], da.x);
        a.y = chain(x, k[r.a.y + d], a.y); da.y = chain(g, v[r.a.y + d], da.y);
        a.z = chain(x, k[r.a.z + d], a.z); da.z = chain(g, v[r.a.z + d], da.z);
        a.w = chain(x, k[r.a.w + d], a.w); da.w = chain(g, v[r.a.w + d], da.w);
        b.x = chain(x, k[r.b.x + d], b.x); db.x = chain(g, v[r.b.x + d], db.x);
        b.y = chain(x, k[r.b.y + d], b.y); db.y = chain(g, v[r.b.y + d], db.y);
        b.z = chain(x, k[r.b.z + d], b.z); db.z = chain(g, v[r.b.z + d], db.z);
        b.w = chain(x, k[r.b.w + d], b.w); db.w = chain(g, v[r.b.w + d], db.w);
    }
    return Eight(probabilities(a, p.scale, vec4<f32>(log_sum)) * (da - shift) * p.scale,
                 probabilities(b, p.scale, vec4<f32>(log_sum)) * (db - shift) * p.scale);
}

fn accumulate(r: Rows, e: Eight) {
    for (var d = 0u; d < D4; d++) {
        var s = acc[d];
        s = add_scaled(e.a.x, k[r.a.x + d], s);
        s = add_scaled(e.a.y, k[r.a.y + d], s);
        s = add_scaled(e.a.z, k[r.a.z + d], s);
        s = add_scaled(e.a.w, k[r.a.w + d], s);
        s = add_scaled(e.b.x, k[r.b.x + d], s);
        s = add_scaled(e.b.y, k[r.b.y + d], s);
        s = add_scaled(e.b.z, k[r.b.z + d], s);
        s = add_scaled(e.b.w, k[r.b.w + d], s);
        acc[d] = s;
    }
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let head = group.y;
    let row = group.x * LANES + local.x;
    let i = min(row, p.m - 1u);
    let c = shared_meta(group.x * LANES, p.m);
    let t = rows_meta[i];
    let at = (i * p.heads + head) * D4;
    let stride = p.kv_heads * D4;
    let offset = head / (p.heads / p.kv_heads) * D4;
    let log_sum = lse[i * p.heads + head];
    let shift = delta[i * p.heads + head];
    for (var d = 0u; d < D4; d++) { acc[d] = vec4<f32>(); }
    for (var block = 0u; block <= c.last; block += 8u) {
        let shared_rows = key_rows(c.first, block, c.last, stride, offset);
        let lane_rows = key_rows(t, block, t.w, stride, offset);
        var s: Eight;
        if is_uniform(c, block) { s = scores(at, shared_rows, log_sum, shift); } else { s = scores(at, lane_rows, log_sum, shift); }
        let position = vec4<u32>(block, block + 1u, block + 2u, block + 3u);
        let e = Eight(select(vec4<f32>(), s.a, position <= vec4<u32>(t.w)),
                      select(vec4<f32>(), s.b, position + 4u <= vec4<u32>(t.w)));
        if is_uniform(c, block) { accumulate(shared_rows, e); } else { accumulate(lane_rows, e); }
    }
    if row < p.m {
        for (var d = 0u; d < D4; d++) { dq[at + d] = acc[d]; }
    }
}
