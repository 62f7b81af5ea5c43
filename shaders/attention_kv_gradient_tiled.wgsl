// As attention_kv_gradient.wgsl, bit for bit, for GPUs: keys and query rows meet in workgroup memory, a tile of LEFT by RIGHT at a time.
// The left rows are LEFT neighbouring keys of the packed layout; the right rows are query rows of one head, RIGHT at a time, from the first
// key's own row to the last that reads any of the keys. On cooperative matrices (shared/attention_coop.wgsl) operands are rounded to f16
// and sums are in f32: tiles are walked in the same order, but within a tile the matrix unit adds.
// Appended: shared/attention_params.wgsl, attention_tiled.wgsl or attention_coop.wgsl, attention_math.wgsl.

const CORRECTED = false;
const DOUT_IS_LEFT = false;
const ADDS_DOUT = VALUES;

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> key_ends: array<u32>;
@group(0) @binding(4) var<storage, read> dout: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> lse: array<f32>;
@group(0) @binding(6) var<storage, read> delta: array<f32>;
@group(0) @binding(7) var<storage, read_write> out: array<vec4<f32>>;

fn left4(which: u32, n: u32, d: u32) -> vec4<f32> {
    let at = key_at(n) * D4 + d;
    if VALUES || which == 0u { return k[at]; }
    return v[at];
}

fn right4(which: u32, n: u32, d: u32) -> vec4<f32> {
    let at = query_at(n) * D4 + d;
    if VALUES || which == 0u { return q[at]; }
    return dout[at];
}

fn dout4(n: u32, d: u32) -> vec4<f32> { return dout[query_at(n) * D4 + d]; }

fn addend4(n: u32, d: u32) -> vec4<f32> {
    let at = query_at(n) * D4 + d;
    if VALUES { return dout[at]; }
    return q[at];
}

fn store4(n: u32, d: u32, sums: vec4<f32>) {
    if key0 + n < p.m { out[key_at(n) * D4 + d] = sums; }
}

var<private> key0: u32;
var<private> row0: u32; // the tile's first query row
var<private> kv_head: u32;
var<private> head: u32;

// Begins with the workgroup's keys; returns the end of the query rows.
fn rows_end(group: vec3<u32>) -> u32 {
    key0 = group.x * LEFT;
    kv_head = group.y;
    var end = 0u;
    for (var n = 0u; n < LEFT; n++) { end = max(end, key_ends[min(key0 + n, p.m - 1u)]); }
    return min(end, p.m);
}

fn takes_part(n: u32) -> bool { return true; }

// Which of (M, KV) key n is; past the end, the last.
fn key_at(n: u32) -> u32 { return min(key0 + n, p.m - 1u) * p.kv_heads + kv_head; }

// Which of (M, H) the tile's query row n is; past the end, the last.
fn query_at(n: u32) -> u32 { return min(row0 + n, p.m - 1u) * p.heads + head; }

// The keys of a thread, and where the query rows that read them end.
fn keys_of(quad: u32) -> vec4<u32> { return key0 + quad + LEFT / 4u * vec4<u32>(0u, 1u, 2u, 3u); }

fn ends_of(keys: vec4<u32>) -> vec4<u32> {
    let j = min(keys, vec4<u32>(p.m - 1u));
    return min(vec4<u32>(key_ends[j.x], key_ends[j.y], key_ends[j.z], key_ends[j.w]), vec4<u32>(p.m));
}

// Which of a thread's keys the query row reads.
fn reads(row: u32, keys: vec4<u32>, end: vec4<u32>) -> vec4<bool> {
    return (vec4<u32>(row) >= keys) & (vec4<u32>(row) < end);
}

fn weigh(lane: u32, i: u32, s: vec4<f32>, g: vec4<f32>, keys: vec4<u32>, end: vec4<u32>) {
    let n = lane / (LEFT / 4u) * 4u + i;
    let at = query_at(n);
    var e = probabilities(s, p.scale, vec4<f32>(lse[at]));
    if !VALUES { e = e * (g - delta[at]) * p.scale; }
    set_weights(n, lane, select(vec4<f32>(), e, reads(row0 + n, keys, end)));
}

fn run(group: vec3<u32>, lane: u32) {
    let last = rows_end(group);
    let keys = keys_of(lane % (LEFT / 4u));
    let end = ends_of(keys);
    for (head = kv_head * HEADS; head < (kv_head + 1u) * HEADS; head += 1u) {
        for (row0 = key0; row0 < last; row0 += RIGHT) {
            prepare(lane);
            let s = products(0u, lane);
            var g: mat4x4<f32>;
            if !VALUES { g = products(1u, lane); }
            weigh(lane, 0u, s[0], g[0], keys, end);
            weigh(lane, 1u, s[1], g[1], keys, end);
            weigh(lane, 2u, s[2], g[2], keys, end);
            weigh(lane, 3u, s[3], g[3], keys, end);
            accumulate(lane);
        }
    }
    store_sums(lane);
}
