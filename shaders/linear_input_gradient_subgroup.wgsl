// dx (M, K) = alpha · dy (M, N) · W (N, K) [+ dx], for subgroups of exactly LANES (8) threads.
// Appended: shared/linear_input_gradient_params.wgsl, a shared/weight_*.wgsl part with `weight4`.
// A workgroup is 32 rows by LANES groups of four columns, and workgroups of the same columns follow each other: their part
// of W stays in the cache. Each lane loads one of the next eight values of a row of dy; they are broadcast one after another. The chain of every output is that of linear_input_gradient.wgsl, bit for bit: past
// the end of N it adds zeros.

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

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>,
        @builtin(subgroup_invocation_id) lane: u32) {
    let col = group.y * LANES + local.x;
    let k = min(col, p.k4 - 1u);
    let row = group.x * 32u;
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
    let b16 = min(row + 16u, last) * stride + p.dy_offset;
    let b17 = min(row + 17u, last) * stride + p.dy_offset;
    let b18 = min(row + 18u, last) * stride + p.dy_offset;
    let b19 = min(row + 19u, last) * stride + p.dy_offset;
    let b20 = min(row + 20u, last) * stride + p.dy_offset;
    let b21 = min(row + 21u, last) * stride + p.dy_offset;
    let b22 = min(row + 22u, last) * stride + p.dy_offset;
    let b23 = min(row + 23u, last) * stride + p.dy_offset;
    let b24 = min(row + 24u, last) * stride + p.dy_offset;
    let b25 = min(row + 25u, last) * stride + p.dy_offset;
    let b26 = min(row + 26u, last) * stride + p.dy_offset;
    let b27 = min(row + 27u, last) * stride + p.dy_offset;
    let b28 = min(row + 28u, last) * stride + p.dy_offset;
    let b29 = min(row + 29u, last) * stride + p.dy_offset;
    let b30 = min(row + 30u, last) * stride + p.dy_offset;
    let b31 = min(row + 31u, last) * stride + p.dy_offset;
    var s0 = start(row, k); var s1 = start(row + 1u, k); var s2 = start(row + 2u, k); var s3 = start(row + 3u, k);
    var s4 = start(row + 4u, k); var s5 = start(row + 5u, k); var s6 = start(row + 6u, k); var s7 = start(row + 7u, k);
    var s8 = start(row + 8u, k); var s9 = start(row + 9u, k); var s10 = start(row + 10u, k); var s11 = start(row + 11u, k);
    var s12 = start(row + 12u, k); var s13 = start(row + 13u, k); var s14 = start(row + 14u, k); var s15 = start(row + 15u, k);
    var s16 = start(row + 16u, k); var s17 = start(row + 17u, k); var s18 = start(row + 18u, k); var s19 = start(row + 19u, k);
    var s20 = start(row + 20u, k); var s21 = start(row + 21u, k); var s22 = start(row + 22u, k); var s23 = start(row + 23u, k);
    var s24 = start(row + 24u, k); var s25 = start(row + 25u, k); var s26 = start(row + 26u, k); var s27 = start(row + 27u, k);
    var s28 = start(row + 28u, k); var s29 = start(row + 29u, k); var s30 = start(row + 30u, k); var s31 = start(row + 31u, k);
    for (var n = 0u; n < p.n; n += 8u) {
        let inside = n + lane < p.n;
        let c = min(n + lane, p.n - 1u);
        let v0 = select(0.0, dy[b0 + c], inside); let v1 = select(0.0, dy[b1 + c], inside);
        let v2 = select(0.0, dy[b2 + c], inside); let v3 = select(0.0, dy[b3 + c], inside);
        let v4 = select(0.0, dy[b4 + c], inside); let v5 = select(0.0, dy[b5 + c], inside);
        let v6 = select(0.0, dy[b6 + c], inside); let v7 = select(0.0, dy[b7 + c], inside);
        let v8 = select(0.0, dy[b8 + c], inside); let v9 = select(0.0, dy[b9 + c], inside);
        let v10 = select(0.0, dy[b10 + c], inside); let v11 = select(0.0, dy[b11 + c], inside);
        let v12 = select(0.0, dy[b12 + c], inside); let v13 = select(0.0, dy[b13 + c], inside);
        let v14 = select(0.0, dy[b14 + c], inside); let v15 = select(0.0, dy[b15 + c], inside);
        let v16 = select(0.0, dy[b16 + c], inside); let v17 = select(0.0, dy[b17 + c], inside);
        let v18 = select(0.0, dy[b18 + c], inside); let v19 = select(0.0, dy[b19 + c], inside);
        let v20 = select(0.0, dy[b20 + c], inside); let v21 = select(0.0, dy[b21 + c], inside);
        let v22 = select(0.0, dy[b22 + c], inside); let v23 = select(0.0, dy[b23 + c], inside);
        let v24 = select(0.0, dy[b24 + c], inside); let v25 = select(0.0, dy[b25 + c], inside);
        let v26 = select(0.0, dy[b26 + c], inside); let v27 = select(0.0, dy[b27 + c], inside);
        let v28 = select(0.0, dy[b28 + c], inside); let v29 = select(0.0, dy[b29 + c], inside);
        let v30 = select(0.0, dy[b30 + c], inside); let v31 = select(0.0, dy[b31 + c], inside);
        let w = weights(n, k);
        s0 = chain8(v0, w, s0); s1 = chain8(v1, w, s1); s2 = chain8(v2, w, s2); s3 = chain8(v3, w, s3);
        s4 = chain8(v4, w, s4); s5 = chain8(v5, w, s5); s6 = chain8(v6, w, s6); s7 = chain8(v7, w, s7);
        s8 = chain8(v8, w, s8); s9 = chain8(v9, w, s9); s10 = chain8(v10, w, s10); s11 = chain8(v11, w, s11);
        s12 = chain8(v12, w, s12); s13 = chain8(v13, w, s13); s14 = chain8(v14, w, s14); s15 = chain8(v15, w, s15);
        s16 = chain8(v16, w, s16); s17 = chain8(v17, w, s17); s18 = chain8(v18, w, s18); s19 = chain8(v19, w, s19);
        s20 = chain8(v20, w, s20); s21 = chain8(v21, w, s21); s22 = chain8(v22, w, s22); s23 = chain8(v23, w, s23);
        s24 = chain8(v24, w, s24); s25 = chain8(v25, w, s25); s26 = chain8(v26, w, s26); s27 = chain8(v27, w, s27);
        s28 = chain8(v28, w, s28); s29 = chain8(v29, w, s29); s30 = chain8(v30, w, s30); s31 = chain8(v31, w, s31);
    }
    store(row, col, s0); store(row + 1u, col, s1); store(row + 2u, col, s2); store(row + 3u, col, s3);
    store(row + 4u, col, s4); store(row + 5u, col, s5); store(row + 6u, col, s6); store(row + 7u, col, s7);
    store(row + 8u, col, s8); store(row + 9u, col, s9); store(row + 10u, col, s10); store(row + 11u, col, s11);
    store(row + 12u, col, s12); store(row + 13u, col, s13); store(row + 14u, col, s14); store(row + 15u, col, s15);
    store(row + 16u, col, s16); store(row + 17u, col, s17); store(row + 18u, col, s18); store(row + 19u, col, s19);
    store(row + 20u, col, s20); store(row + 21u, col, s21); store(row + 22u, col, s22); store(row + 23u, col, s23);
    store(row + 24u, col, s24); store(row + 25u, col, s25); store(row + 26u, col, s26); store(row + 27u, col, s27);
    store(row + 28u, col, s28); store(row + 29u, col, s29); store(row + 30u, col, s30); store(row + 31u, col, s31);
}
