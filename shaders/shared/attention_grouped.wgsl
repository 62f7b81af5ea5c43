// For attention_decode_grouped.wgsl: its workgroup memory, a lane's sums, and arithmetic in the order of attention_forward.wgsl.

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
