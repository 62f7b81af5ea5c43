// out (M, H, D) = softmax(q · k · scale) · v over the keys at positions 0 ..= the row's, lse (M, H) = ln Σ exp
// A lane is one row of one head. Keys come in blocks of eight aligned to position 0 with an online softmax; within
// a block the sums are chains in ascending order. Masked keys add exact zeros and an unchanged maximum scales
// by exactly 1, so the bits depend on the row's keys alone.
// Heads have up to 4 · MAX_D4 dimensions.
// Appended: shared/attention_params.wgsl, attention_kv.wgsl, attention_rows.wgsl, attention_math.wgsl.

override LANES: u32 = 8u;
override D4: u32 = 16u;

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> rows_meta: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> lse: array<f32>;

var<private> acc: array<vec4<f32>, MAX_D4>;

fn accumulate(r: Rows, e: Eight, correction: f32) {
    for (var d = 0u; d < D4; d++) {
        var s = acc[d] * correction;
        s = add_scaled(e.a.x, value4(r.a.x + d), s);
        s = add_scaled(e.a.y, value4(r.a.y + d), s);
        s = add_scaled(e.a.z, value4(r.a.z + d), s);
        s = add_scaled(e.a.w, value4(r.a.w + d), s);
        s = add_scaled(e.b.x, value4(r.b.x + d), s);
        s = add_scaled(e.b.y, value4(r.b.y + d), s);
        s = add_scaled(e.b.z, value4(r.b.z + d), s);
        s = add_scaled(e.b.w, value4(r.b.w + d), s);
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
    for (var d = 0u; d < D4; d++) { acc[d] = vec4<f32>(); }
    var top = -3e38;
    var sum = 0.0;
    for (var block = 0u; block <= c.last; block += 8u) {
        let shared_rows = key_rows(c.first, block, c.last, stride, offset);
        let lane_rows = key_rows(t, block, t.w, stride, offset);
        var s: Eight;
        if is_uniform(c, block) { s = dots(at, shared_rows); } else { s = dots(at, lane_rows); }
        let position = vec4<u32>(block, block + 1u, block + 2u, block + 3u);
        let seen_a = position <= vec4<u32>(t.w);
        let seen_b = position + 4u <= vec4<u32>(t.w);
        let a = select(vec4<f32>(-3e38), s.a * p.scale, seen_a);
        let b = select(vec4<f32>(-3e38), s.b * p.scale, seen_b);
        let m4 = max(a, b);
        let new_top = max(top, max(max(m4.x, m4.y), max(m4.z, m4.w)));
        // exp(0) need not be exactly 1 on every driver.
        let correction = select(exp(max(top - new_top, -80.0)), 1.0, new_top == top);
        let e = Eight(select(vec4<f32>(), exp(max(a - new_top, vec4<f32>(-80.0))), seen_a),
                      select(vec4<f32>(), exp(max(b - new_top, vec4<f32>(-80.0))), seen_b));
        sum = fma(sum, correction, ((e.a.x + e.a.y) + (e.a.z + e.a.w)) + ((e.b.x + e.b.y) + (e.b.z + e.b.w)));
        top = new_top;
        if is_uniform(c, block) { accumulate(shared_rows, e, correction); } else { accumulate(lane_rows, e, correction); }
    }
    if row < p.m {
        let inverse = 1.0 / sum;
        for (var d = 0u; d < D4; d++) { out[at + d] = acc[d] * inverse; }
        lse[row * p.heads + head] = top + log(sum);
    }
}
