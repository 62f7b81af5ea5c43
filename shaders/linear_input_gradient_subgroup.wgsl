// dx (M, K) = alpha · dy (M, N) · W (N, K) [+ dx], for subgroups of exactly LANES (8) threads.
// Appended: a shared/weight_*.wgsl part with `weight4`.
// A workgroup is 16 rows by LANES groups of four columns. Each lane loads one of the next eight values of a row of dy, and
// they are broadcast one after another. The chain of every output is that of linear_input_gradient.wgsl, bit for bit: past
// the end of N it adds zeros.

override LANES: u32 = 8u;

struct Params {
    m: u32,
    n: u32,
    k4: u32,         // K / 4, rounded up
    dy_stride: u32,  // vec4s
    dx_stride: u32,  // vec4s
    dy_offset: u32,  // column of dy that meets this weight's first row; a multiple of 4
    w_section: u32,
    w_row: u32,      // first row of the weight to use
    flags: u32,      // 1: add to dx, 2: the chain goes on from dx
    alpha: f32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> dy: array<f32>;
@group(0) @binding(2) var<storage, read_write> dx: array<vec4<f32>>;

// Four columns of eight consecutive rows of W.
struct Eight {
    a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>,
    e: vec4<f32>, f: vec4<f32>, g: vec4<f32>, h: vec4<f32>,
}

fn weight(n: u32, k: u32) -> vec4<f32> {
    return weight4(p.w_row + min(n, p.n - 1u), k);
}

fn weights(n: u32, k: u32) -> Eight {
    return Eight(weight(n, k), weight(n + 1u, k), weight(n + 2u, k), weight(n + 3u, k),
                 weight(n + 4u, k), weight(n + 5u, k), weight(n + 6u, k), weight(n + 7u, k));
}

// One value of the row that starts at `at` in each lane.
fn values(at: u32, n: u32) -> f32 {
    return select(0.0, dy[at + min(n, p.n - 1u)], n < p.n);
}

fn chain8(v: f32, w: Eight, s: vec4<f32>) -> vec4<f32> {
    var t = fma(vec4<f32>(subgroupBroadcast(v, 0u)), w.a, s);
    t = fma(vec4<f32>(subgroupBroadcast(v, 1u)), w.b, t);
    t = fma(vec4<f32>(subgroupBroadcast(v, 2u)), w.c, t);
    t = fma(vec4<f32>(subgroupBroadcast(v, 3u)), w.d, t);
    t = fma(vec4<f32>(subgroupBroadcast(v, 4u)), w.e, t);
    t = fma(vec4<f32>(subgroupBroadcast(v, 5u)), w.f, t);
    t = fma(vec4<f32>(subgroupBroadcast(v, 6u)), w.g, t);
    return fma(vec4<f32>(subgroupBroadcast(v, 7u)), w.h, t);
}

fn store(row: u32, col: u32, value: vec4<f32>) {
    if row >= p.m || col >= p.k4 { return; }
    let at = row * p.dx_stride + col;
    var v = p.alpha * value;
    if (p.flags & 1u) != 0u { v += dx[at]; }
    dx[at] = v;
}

// Where row's chain starts.
fn start(row: u32, k: u32) -> vec4<f32> {
    if (p.flags & 2u) == 0u { return vec4<f32>(); }
    return dx[min(row, p.m - 1u) * p.dx_stride + k];
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>,
        @builtin(subgroup_invocation_id) lane: u32) {
    let col = group.x * LANES + local.x;
    let k = min(col, p.k4 - 1u);
    let row = group.y * 16u;
    let last = p.m - 1u;
    let stride = p.dy_stride * 4u;
    let b0 = row * stride + p.dy_offset;
    let b1 = min(row + 1u, last) * stride + p.dy_offset;
    let b2 = min(row + 2u, last) * stride + p.dy_offset;
    let b3 = min(row + 3u, last) * stride + p.dy_offset;
    let b4 = min(row + 4u, last) * stride + p.dy_offset;
    let b5 = min(row + 5u, last) * stride + p.dy_offset;
    let b6 = min(row + 6u, last) * stride + p.dy_offset;
    let b7 = min(row + 7u, last) * stride + p.dy_offset;
    let b8 = min(row + 8u, last) * stride + p.dy_offset;
    let b9 = min(row + 9u, last) * stride + p.dy_offset;
    let b10 = min(row + 10u, last) * stride + p.dy_offset;
    let b11 = min(row + 11u, last) * stride + p.dy_offset;
    let b12 = min(row + 12u, last) * stride + p.dy_offset;
    let b13 = min(row + 13u, last) * stride + p.dy_offset;
    let b14 = min(row + 14u, last) * stride + p.dy_offset;
    let b15 = min(row + 15u, last) * stride + p.dy_offset;
    var s0 = start(row, k); var s1 = start(row + 1u, k); var s2 = start(row + 2u, k); var s3 = start(row + 3u, k);
    var s4 = start(row + 4u, k); var s5 = start(row + 5u, k); var s6 = start(row + 6u, k); var s7 = start(row + 7u, k);
    var s8 = start(row + 8u, k); var s9 = start(row + 9u, k); var s10 = start(row + 10u, k); var s11 = start(row + 11u, k);
    var s12 = start(row + 12u, k); var s13 = start(row + 13u, k); var s14 = start(row + 14u, k); var s15 = start(row + 15u, k);
    for (var n = 0u; n < p.n; n += 8u) {
        let c = n + lane;
        let v0 = values(b0, c); let v1 = values(b1, c); let v2 = values(b2, c); let v3 = values(b3, c);
        let v4 = values(b4, c); let v5 = values(b5, c); let v6 = values(b6, c); let v7 = values(b7, c);
        let v8 = values(b8, c); let v9 = values(b9, c); let v10 = values(b10, c); let v11 = values(b11, c);
        let v12 = values(b12, c); let v13 = values(b13, c); let v14 = values(b14, c); let v15 = values(b15, c);
        let w = weights(n, k);
        s0 = chain8(v0, w, s0); s1 = chain8(v1, w, s1); s2 = chain8(v2, w, s2); s3 = chain8(v3, w, s3);
        s4 = chain8(v4, w, s4); s5 = chain8(v5, w, s5); s6 = chain8(v6, w, s6); s7 = chain8(v7, w, s7);
        s8 = chain8(v8, w, s8); s9 = chain8(v9, w, s9); s10 = chain8(v10, w, s10); s11 = chain8(v11, w, s11);
        s12 = chain8(v12, w, s12); s13 = chain8(v13, w, s13); s14 = chain8(v14, w, s14); s15 = chain8(v15, w, s15);
    }
    store(row, col, s0); store(row + 1u, col, s1); store(row + 2u, col, s2); store(row + 3u, col, s3);
    store(row + 4u, col, s4); store(row + 5u, col, s5); store(row + 6u, col, s6); store(row + 7u, col, s7);
    store(row + 8u, col, s8); store(row + 9u, col, s9); store(row + 10u, col, s10); store(row + 11u, col, s11);
    store(row + 12u, col, s12); store(row + 13u, col, s13); store(row + 14u, col, s14); store(row + 15u, col, s15);
}
