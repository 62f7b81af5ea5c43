// As attention_value_gradient.wgsl, bit for bit, for GPUs: keys and query rows meet in workgroup memory, a tile of LEFT by RIGHT at a time.
// Appended: shared/attention_params.wgsl, attention_tiled.wgsl, attention_key_tiles.wgsl, attention_math.wgsl.

const CORRECTED = false;
const DOUT_IS_LEFT = false;
const ADDS_DOUT = true;

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> key_ends: array<u32>;
@group(0) @binding(3) var<storage, read> dout: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> lse: array<f32>;
@group(0) @binding(5) var<storage, read_write> dv: array<vec4<f32>>;

fn left4(which: u32, n: u32, d: u32) -> vec4<f32> { return k[key_at(n) * D4 + d]; }

fn right4(which: u32, n: u32, d: u32) -> vec4<f32> { return q[query_at(n) * D4 + d]; }

fn dout4(n: u32, d: u32) -> vec4<f32> { return dout[query_at(n) * D4 + d]; }

fn addend4(n: u32, d: u32) -> vec4<f32> { return dout[query_at(n) * D4 + d]; }

fn store4(n: u32, d: u32, sums: vec4<f32>) {
    if key0 + n < p.m { dv[key_at(n) * D4 + d] = sums; }
}

fn weigh(lane: u32, i: u32, s: vec4<f32>, keys: vec4<u32>, end: vec4<u32>) {
    let n = lane / (LEFT / 4u) * 4u + i;
    let e = probabilities(s, p.scale, vec4<f32>(lse[query_at(n)]));
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
            weigh(lane, 0u, s[0], keys, end);
            weigh(lane, 1u, s[1], keys, end);
            weigh(lane, 2u, s[2], keys, end);
            weigh(lane, 3u, s[3], keys, end);
            accumulate(lane);
        }
    }
    store_sums(lane);
}
