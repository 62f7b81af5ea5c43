// y (M, N) = alpha · x (M, K) · Wᵀ (N, K) [+ bias (N)] [+ y], for subgroups of exactly LANES threads.
// Appended: shared/rows_forward_*.wgsl with `main`, a shared/weight_*.wgsl part with `weight4`.
// A lane is four columns. x goes through registers: each lane loads one of the next LANES (8) values of a row, and they are
// broadcast one after another. The chain of every output is that of linear_forward.wgsl, bit for bit: past the end of
// K it adds zeros.

override LANES: u32 = 8u;

struct Params {
    m: u32,
    n: u32,
    k4: u32,        // K / 4, rounded up
    x_stride: u32,  // vec4s from one row of x to the next
    y_stride: u32,  // floats from one row of y to the next
    y_offset: u32,  // column of y where this weight's first row goes
    w_section: u32, // words before the scales of a quantised weight
    w_row: u32,     // first row of the weight to use
    flags: u32,     // 1: add to y, 2: add the bias, 4: zero the padding columns n .. pad4(n)
    alpha: f32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

// Eight consecutive K of four columns; a member is one K.
struct Eight {
    a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>,
    e: vec4<f32>, f: vec4<f32>, g: vec4<f32>, h: vec4<f32>,
}

// Past the end of K they repeat the last four: `values` are 0 there.
fn weights(n: vec4<u32>, k4: u32) -> Eight {
    let k = min(k4, p.k4 - 1u);
    let last = min(k4 + 1u, p.k4 - 1u);
    let q = weight4(n.x, k); let r = weight4(n.y, k); let s = weight4(n.z, k); let t = weight4(n.w, k);
    let u = weight4(n.x, last); let v = weight4(n.y, last); let w = weight4(n.z, last); let z = weight4(n.w, last);
    return Eight(vec4<f32>(q.x, r.x, s.x, t.x), vec4<f32>(q.y, r.y, s.y, t.y),
                 vec4<f32>(q.z, r.z, s.z, t.z), vec4<f32>(q.w, r.w, s.w, t.w),
                 vec4<f32>(u.x, v.x, w.x, z.x), vec4<f32>(u.y, v.y, w.y, z.y),
                 vec4<f32>(u.z, v.z, w.z, z.z), vec4<f32>(u.w, v.w, w.w, z.w));
}

// One value of the row that starts at `at` in each lane.
fn values(at: u32, column: u32) -> f32 {
    return select(0.0, x[at + min(column, p.k4 * 4u - 1u)], column < p.k4 * 4u);
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
    if row >= p.m { return; }
    let at = row * p.y_stride + p.y_offset + col;
    for (var i = 0u; i < 4u; i++) {
        if col + i < p.n {
            var v = p.alpha * value[i];
            if (p.flags & 2u) != 0u { v += bias[p.y_offset + col + i]; }
            if (p.flags & 1u) != 0u { v += y[at + i]; }
            y[at + i] = v;
        } else if (p.flags & 4u) != 0u && col < p.n {
            y[at + i] = 0.0;
        }
    }
}

// The rows of W behind four columns; those past the edge compute on the last row and are not stored.
fn rows_of(col: u32) -> vec4<u32> {
    return p.w_row + min(vec4<u32>(col, col + 1u, col + 2u, col + 3u), vec4<u32>(p.n - 1u));
}
