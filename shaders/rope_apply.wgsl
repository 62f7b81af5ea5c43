// In place, x (M, H, D): (x1, x2) ← (x1·cos − x2·sin, x2·cos + x1·sin) with x1 = x[..D/2], x2 = x[D/2..]
// A lane is two of a head's D/2 pairs (two, because D/2 need not be a multiple of four).

override LANES: u32 = 64u;

struct Params {
    m: u32,
    heads: u32,
    half2: u32,     // D / 4: vec2s in half a head
    positions: u32, // rows of the tables
    sign: f32,      // 1 forward, −1 backward (rotation by −θ)
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> x: array<vec2<f32>>;
@group(0) @binding(1) var<storage, read> rows: array<vec4<u32>>; // .w = position
@group(0) @binding(2) var<storage, read> cosines: array<vec2<f32>>; // (positions, D/2)
@group(0) @binding(3) var<storage, read> sines: array<vec2<f32>>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let id = (group.y * 65535u + group.x) * LANES + local.x;
    let head = id / p.half2; // over all rows
    let row = head / p.heads;
    if row >= p.m { return; }
    let pair = id % p.half2;
    let at = head * 2u * p.half2 + pair;
    let angle = min(rows[row].w, p.positions - 1u) * p.half2 + pair;
    let c = cosines[angle];
    let s = sines[angle] * p.sign;
    let a = x[at];
    let b = x[at + p.half2];
    x[at] = fma(a, c, -(b * s));
    x[at + p.half2] = fma(b, c, a * s);
}
