// dw (N, K) = alpha · dyᵀ (N, M) · x (M, K) [+ dw], for subgroups of exactly LANES (8) threads.
// Appended: shared/linear_weight_gradient_output.wgsl.
// A workgroup is 16 rows of dw by LANES groups of four columns: two values of dy a lane, broadcast one after another. The
// chain of every output is that of linear_weight_gradient.wgsl, bit for bit: past the end of M it adds zeros.

override LANES: u32 = 8u;

@group(0) @binding(0) var<storage, read> dy: array<f32>;

// Four consecutive rows of M: a value of dy in each lane, four columns of x.
struct Values { a: f32, b: f32, c: f32, d: f32 }
struct Columns { a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32> }

fn value(m: u32, n: u32) -> f32 {
    return select(0.0, dy[(p.first + min(m, p.m - 1u)) * p.dy_stride * 4u + p.dy_offset + min(n, p.n - 1u)], m < p.m);
}

fn values(m: u32, n: u32) -> Values {
    return Values(value(m, n), value(m + 1u, n), value(m + 2u, n), value(m + 3u, n));
}

fn columns(m: u32, k: u32) -> Columns {
    let last = p.first + p.m - 1u;
    let at = p.first + m;
    return Columns(x[at * p.x_stride + k], x[min(at + 1u, last) * p.x_stride + k],
                   x[min(at + 2u, last) * p.x_stride + k], x[min(at + 3u, last) * p.x_stride + k]);
}

fn chain4(a: f32, b: f32, c: f32, d: f32, v: Columns, s: vec4<f32>) -> vec4<f32> {
    return fma(vec4<f32>(d), v.d, fma(vec4<f32>(c), v.c, fma(vec4<f32>(b), v.b, fma(vec4<f32>(a), v.a, s))));
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>,
        @builtin(subgroup_invocation_id) lane: u32) {
    let col = group.x * LANES + local.x;
    let k = min(col, p.k4 - 1u);
    let row = group.y * 16u;
    var s0 = vec4<f32>(); var s1 = vec4<f32>(); var s2 = vec4<f32>(); var s3 = vec4<f32>();
    var s4 = vec4<f32>(); var s5 = vec4<f32>(); var s6 = vec4<f32>(); var s7 = vec4<f32>();
    var s8 = vec4<f32>(); var s9 = vec4<f32>(); var s10 = vec4<f32>(); var s11 = vec4<f32>();
    var s12 = vec4<f32>(); var s13 = vec4<f32>(); var s14 = vec4<f32>(); var s15 = vec4<f32>();
    for (var m = 0u; m < p.m; m += 4u) {
        let q = values(m, row + lane);
        let r = values(m, row + 8u + lane);
        let v = columns(m, k);
        s0 = chain4(subgroupBroadcast(q.a, 0u), subgroupBroadcast(q.b, 0u),
            subgroupBroadcast(q.c, 0u), subgroupBroadcast(q.d, 0u), v, s0);
        s1 = chain4(subgroupBroadcast(q.a, 1u), subgroupBroadcast(q.b, 1u),
            subgroupBroadcast(q.c, 1u), subgroupBroadcast(q.d, 1u), v, s1);
        s2 = chain4(subgroupBroadcast(q.a, 2u), subgroupBroadcast(q.b, 2u),
            subgroupBroadcast(q.c, 2u), subgroupBroadcast(q.d, 2u), v, s2);
        s3 = chain4(subgroupBroadcast(q.a, 3u), subgroupBroadcast(q.b, 3u),
            subgroupBroadcast(q.c, 3u), subgroupBroadcast(q.d, 3u), v, s3);
        s4 = chain4(subgroupBroadcast(q.a, 4u), subgroupBroadcast(q.b, 4u),
            subgroupBroadcast(q.c, 4u), subgroupBroadcast(q.d, 4u), v, s4);
        s5 = chain4(subgroupBroadcast(q.a, 5u), subgroupBroadcast(q.b, 5u),
            subgroupBroadcast(q.c, 5u), subgroupBroadcast(q.d, 5u), v, s5);
        s6 = chain4(subgroupBroadcast(q.a, 6u), subgroupBroadcast(q.b, 6u),
            subgroupBroadcast(q.c, 6u), subgroupBroadcast(q.d, 6u), v, s6);
        s7 = chain4(subgroupBroadcast(q.a, 7u), subgroupBroadcast(q.b, 7u),
            subgroupBroadcast(q.c, 7u), subgroupBroadcast(q.d, 7u), v, s7);
        s8 = chain4(subgroupBroadcast(r.a, 0u), subgroupBroadcast(r.b, 0u),
            subgroupBroadcast(r.c, 0u), subgroupBroadcast(r.d, 0u), v, s8);
        s9 = chain4(subgroupBroadcast(r.a, 1u), subgroupBroadcast(r.b, 1u),
            subgroupBroadcast(r.c, 1u), subgroupBroadcast(r.d, 1u), v, s9);
        s10 = chain4(subgroupBroadcast(r.a, 2u), subgroupBroadcast(r.b, 2u),
            subgroupBroadcast(r.c, 2u), subgroupBroadcast(r.d, 2u), v, s10);
        s11 = chain4(subgroupBroadcast(r.a, 3u), subgroupBroadcast(r.b, 3u),
            subgroupBroadcast(r.c, 3u), subgroupBroadcast(r.d, 3u), v, s11);
        s12 = chain4(subgroupBroadcast(r.a, 4u), subgroupBroadcast(r.b, 4u),
            subgroupBroadcast(r.c, 4u), subgroupBroadcast(r.d, 4u), v, s12);
        s13 = chain4(subgroupBroadcast(r.a, 5u), subgroupBroadcast(r.b, 5u),
            subgroupBroadcast(r.c, 5u), subgroupBroadcast(r.d, 5u), v, s13);
        s14 = chain4(subgroupBroadcast(r.a, 6u), subgroupBroadcast(r.b, 6u),
            subgroupBroadcast(r.c, 6u), subgroupBroadcast(r.d, 6u), v, s14);
        s15 = chain4(subgroupBroadcast(r.a, 7u), subgroupBroadcast(r.b, 7u),
            subgroupBroadcast(r.c, 7u), subgroupBroadcast(r.d, 7u), v, s15);
    }
    store_columns(row, col, s0); store_columns(row + 1u, col, s1); store_columns(row + 2u, col, s2); store_columns(row + 3u, col, s3);
    store_columns(row + 4u, col, s4); store_columns(row + 5u, col, s5); store_columns(row + 6u, col, s6); store_columns(row + 7u, col, s7);
    store_columns(row + 8u, col, s8); store_columns(row + 9u, col, s9); store_columns(row + 10u, col, s10); store_columns(row + 11u, col, s11);
    store_columns(row + 12u, col, s12); store_columns(row + 13u, col, s13); store_columns(row + 14u, col, s14); store_columns(row + 15u, col, s15);
}
