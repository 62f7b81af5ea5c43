// dx (M, K) = alpha · dy (M, N) · W (N, K) [+ dx], for subgroups of exactly LANES (8) threads.
// Appended: shared/linear_input_gradient_params.wgsl, shared/weight.wgsl.
// A workgroup is ROWS rows by LANES groups of four columns, and workgroups of the same columns follow each other: their part of W
// stays in the cache. Each lane loads one of the next eight values of a row of dy; they are broadcast one after another. The chain of
// every output is that of linear_input_gradient.wgsl, bit for bit: past the end of N it adds zeros.

override LANES: u32 = 8u;

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

var<private> begins: array<u32, ROWS>;
var<private> sums: array<vec4<f32>, ROWS>;

// A quarter of the rows: drivers do not unroll a loop over all of them.
fn add_rows(first: u32, v: ptr<function, array<f32, ROWS>>, w: Eight) {
    for (var r = first; r < first + ROWS / 4u; r++) { sums[r] = chain8((*v)[r], w, sums[r]); }
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>,
        @builtin(subgroup_invocation_id) lane: u32) {
    let col = group.y * LANES + local.x;
    let k = min(col, p.k4 - 1u);
    let row = group.x * ROWS;
    for (var r = 0u; r < ROWS; r++) {
        begins[r] = min(row + r, p.m - 1u) * p.dy_stride * 4u + p.dy_offset;
        sums[r] = start(row + r, k);
    }
    for (var n = 0u; n < p.n; n += 8u) {
        let c = min(n + lane, p.n - 1u);
        let inside = n + lane < p.n;
        var v: array<f32, ROWS>;
        for (var r = 0u; r < ROWS; r++) { v[r] = select(0.0, dy[begins[r] + c], inside); }
        let w = weights(n, k);
        add_rows(0u, &v, w);
        add_rows(ROWS / 4u, &v, w);
        add_rows(ROWS / 2u, &v, w);
        add_rows(ROWS / 4u * 3u, &v, w);
    }
    var outputs = sums;
    for (var r = 0u; r < ROWS; r++) { store(row + r, col, outputs[r]); }
}
