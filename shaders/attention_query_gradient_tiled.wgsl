// As attention_query_gradient.wgsl, bit for bit, for GPUs: queries and keys meet in workgroup memory, a tile of LEFT by RIGHT at a time.
// On cooperative matrices (shared/attention_coop.wgsl) as attention_kv_gradient_tiled.wgsl.
// Appended: shared/attention_params.wgsl, attention_tiled.wgsl or attention_coop.wgsl, attention_spans.wgsl, attention_rows.wgsl,
// attention_math.wgsl.

const CORRECTED = false;
const DOUT_IS_LEFT = true;
const ADDS_DOUT = false;

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> rows_meta: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> dout: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> lse: array<f32>;
@group(0) @binding(6) var<storage, read> delta: array<f32>;
@group(0) @binding(7) var<storage, read_write> dq: array<vec4<f32>>;

fn left4(which: u32, n: u32, d: u32) -> vec4<f32> {
    let at = query_at(n) * D4 + d;
    if which == 0u { return q[at]; }
    return dout[at];
}

fn right4(which: u32, n: u32, d: u32) -> vec4<f32> {
    let at = key_at(n) * D4 + d;
    if which == 0u { return k[at]; }
    return v[at];
}

fn dout4(n: u32, d: u32) -> vec4<f32> { return dout[query_at(n) * D4 + d]; }

fn addend4(n: u32, d: u32) -> vec4<f32> { return k[key_at(n) * D4 + d]; }

fn store4(n: u32, d: u32, sums: vec4<f32>) {
    if is_query(n) { dq[query_at(n) * D4 + d] = sums; }
}

fn weigh(lane: u32, i: u32, s: vec4<f32>, g: vec4<f32>, sums: vec4<f32>, shift: vec4<f32>, end: vec4<u32>) {
    let n = lane / (LEFT / 4u) * 4u + i;
    let ds = probabilities(s, p.scale, sums) * (g - shift) * p.scale;
    set_weights(n, lane, select(vec4<f32>(), ds, vec4<u32>(key0 + n) < end));
}

fn run(group: vec3<u32>, lane: u32) {
    let quads = LEFT / 4u;
    let quad = lane % quads;
    span = shared_span(group);
    let rows_end = span.rows.y;
    let prefix = span.keys.y;
    var next = span.rows.x;
    let at = vec4<u32>(query_at(quad), query_at(quad + quads), query_at(quad + 2u * quads), query_at(quad + 3u * quads));
    let sums = vec4<f32>(lse[at.x], lse[at.y], lse[at.z], lse[at.w]);
    let shift = vec4<f32>(delta[at.x], delta[at.y], delta[at.z], delta[at.w]);
    prepare(lane);
    loop {
        let end = ends(quad);
        for (key0 = span.keys.x; key0 < span.keys.y; key0 += RIGHT) {
            let s = products(0u, lane);
            let g = products(1u, lane);
            weigh(lane, 0u, s[0], g[0], sums, shift, end);
            weigh(lane, 1u, s[1], g[1], sums, shift, end);
            weigh(lane, 2u, s[2], g[2], sums, shift, end);
            weigh(lane, 3u, s[3], g[3], sums, shift, end);
            accumulate(lane);
        }
        if next >= rows_end { break; }
        span = run_span(next, rows_end, prefix);
        next = span.rows.y;
    }
    store_sums(lane);
}
