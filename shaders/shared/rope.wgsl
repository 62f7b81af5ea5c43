// Rotary position embedding, for rope_*.wgsl: parameters, what both kernels read, and the rotation.
// A lane is two of a head's D/2 pairs (two, because D/2 need not be a multiple of four).

override LANES: u32 = 64u;

struct Params {
    m: u32,
    heads: u32,
    kv_heads: u32,
    half2: u32,     // D / 4: vec2s in half a head
    positions: u32, // rows of the table
    sign: f32,      // 1 forward, −1 backward (rotation by −θ)
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> q: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read> rows: array<vec4<u32>>; // .w = position
@group(0) @binding(3) var<storage, read> table: array<vec4<f32>>; // (positions, D/4): two cosines, two sines

// (x1·cos − x2·sin, x2·cos + x1·sin)
fn turned(a: vec2<f32>, b: vec2<f32>, row: u32, pair: u32) -> vec4<f32> {
    let t = table[min(rows[row].w, p.positions - 1u) * p.half2 + pair];
    let c = t.xy;
    let s = t.zw * p.sign;
    return vec4<f32>(fma(a, c, -(b * s)), fma(b, c, a * s));
}

// In place, `at` of q.
fn turn_q(at: u32, row: u32, pair: u32) {
    let r = turned(q[at], q[at + p.half2], row, pair);
    q[at] = r.xy;
    q[at + p.half2] = r.zw;
}
