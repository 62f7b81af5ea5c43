// As attention_forward.wgsl, bit for bit, for decoding on GPUs: a workgroup is up to ROWS neighbouring rows and one KV head, with all
// query heads that read it ("queries": row by row). Keys come in tiles of KEYS positions. Where all rows share a tile's keys (a group's
// prompt), they are read once, into workgroup memory; elsewhere a lane reads those of its row. A tile has three phases:
//   a lane a query and block of eight keys: the scores, each one chain along D, and their maximum;
//   the same lanes: the online softmax, whose maxima are exact in any order;
//   a lane a query and four elements of D: the sums over keys, in ascending order.
// The arithmetic is in the order of attention_forward.wgsl.
// Appended: shared/attention_params.wgsl, attention_kv.wgsl, attention_rows.wgsl, attention_math.wgsl.

const LANES = 128u;

override D4: u32 = 16u;
override ROWS: u32 = 8u;
override KEYS: u32 = 32u; // a multiple of eight; D4 · KEYS ≤ 512, queries · KEYS ≤ 1536, queries ≤ 48
override SHARES: u32 = 6u; // of the queries, that a lane's sums belong to: ⌈queries / (LANES / D4)⌉, at most ACCS

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> rows_meta: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> lse: array<f32>;

const ACCS = 8u; // vec4s of sums a lane holds at most

var<workgroup> tile: array<vec4<u32>, 512>;    // a tile's keys, then its values; or where each row's keys are
var<workgroup> weights: array<vec4<f32>, 384>; // (queries, KEYS): scores, then their exponentials
var<workgroup> peaks: array<f32, 192>;         // (queries, KEYS / 8)
var<workgroup> factors: array<f32, 192>;       // (queries, KEYS / 8): of the sums so far
var<workgroup> tops: array<f32, 48>;           // (queries)
var<private> acc: array<vec4<f32>, ACCS>;

fn tile4(at: u32) -> vec4<f32> { return bitcast<vec4<f32>>(tile[at]); }

// As `dots`, with the eight keys of the tile that begin there.
fn tile_dots(at: u32, begin: u32) -> Eight {
    var a = vec4<f32>();
    var b = vec4<f32>();
    for (var d = 0u; d < D4; d++) {
        let x = q[at + d];
        a.x = chain(x, tile4(begin + d), a.x);
        a.y = chain(x, tile4(begin + D4 + d), a.y);
        a.z = chain(x, tile4(begin + 2u * D4 + d), a.z);
        a.w = chain(x, tile4(begin + 3u * D4 + d), a.w);
        b.x = chain(x, tile4(begin + 4u * D4 + d), b.x);
        b.y = chain(x, tile4(begin + 5u * D4 + d), b.y);
        b.z = chain(x, tile4(begin + 6u * D4 + d), b.z);
        b.w = chain(x, tile4(begin + 7u * D4 + d), b.w);
    }
    return Eight(a, b);
}

fn add_four(e: vec4<f32>, v: mat4x4<f32>, start: vec4<f32>) -> vec4<f32> {
    return add_scaled(e.w, v[3], add_scaled(e.z, v[2], add_scaled(e.y, v[1], add_scaled(e.x, v[0], start))));
}

fn exponential(x: vec4<f32>, top: f32, seen: vec4<bool>) -> vec4<f32> {
    return select(vec4<f32>(), exp(max(x - top, vec4<f32>(-80.0))), seen);
}

fn seen_from(position: u32, last: u32) -> vec4<bool> {
    return vec4<u32>(position, position + 1u, position + 2u, position + 3u) <= vec4<u32>(last);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row0 = group.x * ROWS;
    let rows = min(ROWS, p.m - row0);
    let heads = p.heads / p.kv_heads;
    let head0 = group.y * heads;
    let queries = rows * heads;
    let blocks = KEYS / 8u;
    let stride = p.kv_heads * D4;
    let offset = group.y * D4;
    let t0 = rows_meta[row0];
    var alike = true;
    var last = t0.w;
    for (var i = 1u; i < rows; i++) {
        let t = rows_meta[row0 + i];
        alike = alike && t.x == t0.x && t.y == t0.y;
        last = max(last, t.w);
    }
    let shared_end = select(0u, t0.y, alike);
    // In the last phase a lane's queries are every `apart`-th from its first.
    let apart = LANES / D4;
    let mine = lane / D4;
    let d = lane % D4;
    for (var n = 0u; n < SHARES; n++) { acc[n] = vec4<f32>(); }
    var sum = 0.0;
    if lane < queries { tops[lane] = -3e38; }
    for (var first = 0u; first <= last; first += KEYS) {
        let in_tile = first + KEYS <= shared_end;
        if in_tile {
            for (var i = lane; i < KEYS * D4; i += LANES) {
                tile[i] = bitcast<vec4<u32>>(key4(key_row(t0, first + i / D4, last) * stride + offset + i % D4));
            }
        } else {
            for (var i = lane; i < rows * blocks; i += LANES) {
                let t = rows_meta[row0 + i / blocks];
                let r = key_rows(t, first + i % blocks * 8u, t.w, stride, offset);
                tile[2u * i] = r.a;
                tile[2u * i + 1u] = r.b;
            }
        }
        workgroupBarrier();
        for (var i = lane; i < queries * blocks; i += LANES) {
            let query = i % queries;
            let block = i / queries;
            let row = query / heads;
            let at = ((row0 + row) * p.heads + head0 + query % heads) * D4;
            let places = 2u * (row * blocks + block);
            var s: Eight;
            if in_tile { s = tile_dots(at, block * 8u * D4); } else { s = dots(at, Rows(tile[places], tile[places + 1u])); }
            let position = first + block * 8u;
            let end = rows_meta[row0 + row].w;
            let a = select(vec4<f32>(-3e38), s.a * p.scale, seen_from(position, end));
            let b = select(vec4<f32>(-3e38), s.b * p.scale, seen_from(position + 4u, end));
            let m4 = max(a, b);
            let to = query * blocks + block;
            weights[2u * to] = a;
            weights[2u * to + 1u] = b;
            peaks[to] = max(max(m4.x, m4.y), max(m4.z, m4.w));
        }
        workgroupBarrier();
        if in_tile {
            for (var i = lane; i < KEYS * D4; i += LANES) {
                tile[i] = bitcast<vec4<u32>>(value4(key_row(t0, first + i / D4, last) * stride + offset + i % D4));
            }
        }
        for (var i = lane; i < queries * blocks; i += LANES) {
            let query = i % queries;
            let block = i / queries;
            let to = query * blocks + block;
            var top = tops[query];
            for (var b = 0u; b < block; b++) { top = max(top, peaks[query * blocks + b]); }
            let new_top = max(top, peaks[to]);
            // exp(0) need not be exactly 1 on every driver.
            factors[to] = select(exp(max(top - new_top, -80.0)), 1.0, new_top == top);
            let position = first + block * 8u;
            let end = rows_meta[row0 + query / heads].w;
            weights[2u * to] = exponential(weights[2u * to], new_top, seen_from(position, end));
            weights[2u * to + 1u] = exponential(weights[2u * to + 1u], new_top, seen_from(position + 4u, end));
        }
        workgroupBarrier();
        for (var block = 0u; block < blocks; block++) {
            // Loaded once for all of a lane's queries where they are of the tile.
            let begin = block * 8u * D4 + d;
            var a: mat4x4<f32>;
            var b: mat4x4<f32>;
            if in_tile {
                a = mat4x4<f32>(tile4(begin), tile4(begin + D4), tile4(begin + 2u * D4), tile4(begin + 3u * D4));
                b = mat4x4<f32>(tile4(begin + 4u * D4), tile4(begin + 5u * D4), tile4(begin + 6u * D4), tile4(begin + 7u * D4));
            }
            for (var n = 0u; n < SHARES; n++) {
                let query = mine + n * apart;
                if mine >= apart || query >= queries { break; }
                if !in_tile {
                    let places = 2u * (query / heads * blocks + block);
                    let r = tile[places] + d;
                    let s = tile[places + 1u] + d;
                    a = mat4x4<f32>(value4(r.x), value4(r.y), value4(r.z), value4(r.w));
                    b = mat4x4<f32>(value4(s.x), value4(s.y), value4(s.z), value4(s.w));
                }
                let to = query * blocks + block;
                acc[n] = add_four(weights[2u * to + 1u], b, add_four(weights[2u * to], a, acc[n] * factors[to]));
            }
        }
        if lane < queries {
            var top = tops[lane];
            for (var block = 0u; block < blocks; block++) {
                let to = lane * blocks + block;
                let a = weights[2u * to];
                let b = weights[2u * to + 1u];
                sum = fma(sum, factors[to], ((a.x + a.y) + (a.z + a.w)) + ((b.x + b.y) + (b.z + b.w)));
                top = max(top, peaks[to]);
            }
            tops[lane] = top;
        }
        workgroupBarrier();
    }
    if lane < queries {
        factors[lane] = 1.0 / sum;
        lse[(row0 + lane / heads) * p.heads + head0 + lane % heads] = tops[lane] + log(sum);
    }
    workgroupBarrier();
    for (var n = 0u; n < SHARES; n++) {
        let query = mine + n * apart;
        if mine >= apart || query >= queries { break; }
        out[((row0 + query / heads) * p.heads + head0 + query % heads) * D4 + d] = acc[n] * factors[query];
    }
}
