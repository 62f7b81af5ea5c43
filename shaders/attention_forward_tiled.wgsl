// As attention_forward.wgsl, bit for bit, for GPUs: queries and keys meet in workgroup memory, a tile of LEFT by RIGHT at a time. Within a tile
// the maxima of the online softmax are exact in any order; sums and their corrections between blocks of eight keys are in ascending order.
// Appended: shared/attention_params.wgsl, attention_tiled.wgsl, attention_spans.wgsl, attention_kv.wgsl, attention_rows.wgsl,
// attention_math.wgsl.

const CORRECTED = true;

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> rows_meta: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> lse: array<f32>;

fn left4(which: u32, n: u32, d: u32) -> vec4<f32> { return q[query_at(n) * D4 + d]; }

fn right4(which: u32, n: u32, d: u32) -> vec4<f32> { return key4(key_at(n) * D4 + d); }

fn addend4(n: u32, d: u32) -> vec4<f32> { return value4(key_at(n) * D4 + d); }

fn store4(n: u32, d: u32, sums: vec4<f32>) {
    let quads = LEFT / 4u;
    if is_query(n) { out[query_at(n) * D4 + d] = sums * factors[n % quads][n / quads]; }
}

fn masked(s: vec4<f32>, position: u32, end: vec4<u32>) -> vec4<f32> {
    return select(vec4<f32>(-3e38), s * p.scale, vec4<u32>(position) < end);
}

fn exponential(a: vec4<f32>, top: vec4<f32>, position: u32, end: vec4<u32>) -> vec4<f32> {
    return select(vec4<f32>(), exp(max(a - top, vec4<f32>(-80.0))), vec4<u32>(position) < end);
}

// Sets the tile's weights and factors; returns the maxima with the tile's.
fn soften(lane: u32, s: mat4x4<f32>, end: vec4<u32>, top: vec4<f32>) -> vec4<f32> {
    let quads = LEFT / 4u;
    let quad = lane % quads;
    let four = lane / quads;
    let position = key0 + 4u * four;
    let a = masked(s[0], position, end);
    let b = masked(s[1], position + 1u, end);
    let c = masked(s[2], position + 2u, end);
    let d = masked(s[3], position + 3u, end);
    workgroupBarrier();
    staged[lane] = max(max(a, b), max(c, d));
    workgroupBarrier();
    // Before the thread's block of eight, with it, and with the whole tile.
    var before = top;
    for (var i = 0u; i < four / 2u * 2u; i++) { before = max(before, staged[i * quads + quad]); }
    let block = four / 2u * 2u * quads + quad;
    let upto = max(before, max(staged[block], staged[block + quads]));
    var after = upto;
    for (var i = four / 2u * 2u + 2u; i < RIGHT / 4u; i++) { after = max(after, staged[i * quads + quad]); }
    // exp(0) need not be exactly 1 on every driver.
    if four % 2u == 0u {
        factors[four / 2u * quads + quad] = select(exp(max(before - upto, vec4<f32>(-80.0))), vec4<f32>(1.0), upto == before);
    }
    let e = exponential(a, upto, position, end);
    let f = exponential(b, upto, position + 1u, end);
    let g = exponential(c, upto, position + 2u, end);
    let h = exponential(d, upto, position + 3u, end);
    let at = 4u * four * quads + quad;
    weights[at] = e;
    weights[at + quads] = f;
    weights[at + 2u * quads] = g;
    weights[at + 3u * quads] = h;
    staged[LANES + lane] = (e + f) + (g + h);
    workgroupBarrier();
    return after;
}

fn run(group: vec3<u32>, lane: u32) {
    let quads = LEFT / 4u;
    let quad = lane % quads;
    span = shared_span(group);
    let rows_end = span.rows.y;
    let prefix = span.keys.y;
    var next = span.rows.x;
    var top = vec4<f32>(-3e38);
    var sum = vec4<f32>();
    loop {
        let end = ends(quad);
        for (key0 = span.keys.x; key0 < span.keys.y; key0 += RIGHT) {
            top = soften(lane, products(0u, lane), end, top);
            for (var b = 0u; b < RIGHT / 8u; b++) {
                let half = LANES + 2u * b * quads + quad;
                sum = fma(sum, factors[b * quads + quad], staged[half] + staged[half + quads]);
            }
            accumulate(lane);
        }
        if next >= rows_end { break; }
        span = run_span(next, rows_end, prefix);
        next = span.rows.y;
    }
    workgroupBarrier();
    if lane < quads {
        factors[quad] = 1.0 / sum;
        let logs = top + log(sum);
        for (var i = 0u; i < 4u; i++) {
            let n = quad + i * quads;
            if is_query(n) { lse[query_at(n)] = logs[i]; }
        }
    }
    workgroupBarrier();
    store_sums(lane);
}
