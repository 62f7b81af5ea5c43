// dw (N, K) = alpha · dyᵀ (N, M) · x (M, K) [+ dw]
// Appended: shared/linear_weight_gradient_output.wgsl.
// One chain of fused multiply-adds along M in ascending order.
// A workgroup is 8 rows of dw by LANES groups of four columns; reads of dy are uniform.

override LANES: u32 = 8u;

@group(0) @binding(0) var<storage, read> dy: array<vec4<f32>>;

fn rank_one(a: f32, b: vec4<f32>, c: vec4<f32>) -> vec4<f32> {
    return fma(vec4<f32>(a), b, c);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let col = group.x * LANES + local.x;
    let k = min(col, p.k4 - 1u);
    let row = group.y * 8u;
    // dy's rows are padded to four columns: the second vec4 is clamped to the last one.
    let columns = (p.n + 3u) / 4u;
    let first = p.dy_offset / 4u + row / 4u;
    let second = p.dy_offset / 4u + min(row / 4u + 1u, columns - 1u);
    var s0 = vec4<f32>(); var s1 = vec4<f32>(); var s2 = vec4<f32>(); var s3 = vec4<f32>();
    var s4 = vec4<f32>(); var s5 = vec4<f32>(); var s6 = vec4<f32>(); var s7 = vec4<f32>();
    for (var m = p.first; m < p.first + p.m; m++) {
        let a = dy[m * p.dy_stride + first];
        let b = dy[m * p.dy_stride + second];
        let v = x[m * p.x_stride + k];
        s0 = rank_one(a.x, v, s0); s1 = rank_one(a.y, v, s1); s2 = rank_one(a.z, v, s2); s3 = rank_one(a.w, v, s3);
        s4 = rank_one(b.x, v, s4); s5 = rank_one(b.y, v, s5); s6 = rank_one(b.z, v, s6); s7 = rank_one(b.w, v, s7);
    }
    store_columns(row, col, s0); store_columns(row + 1u, col, s1); store_columns(row + 2u, col, s2); store_columns(row + 3u, col, s3);
    store_columns(row + 4u, col, s4); store_columns(row + 5u, col, s5); store_columns(row + 6u, col, s6); store_columns(row + 7u, col, s7);
}
