// dx (M, K) = alpha · dy (M, N) · W (N, K) [+ dx]
// Appended: shared/linear_input_gradient_output.wgsl, shared/weight.wgsl.
// One chain of fused multiply-adds along N in ascending order: the bits do not depend on M.
// A workgroup is 8 rows by LANES groups of four columns.

override LANES: u32 = 8u;

@group(0) @binding(0) var<storage, read> dy: array<vec4<f32>>;

fn rank_one(a: f32, w: vec4<f32>, c: vec4<f32>) -> vec4<f32> {
    return fma(vec4<f32>(a), w, c);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let col = group.x * LANES + local.x;
    let k = min(col, p.k4 - 1u);
    let row = group.y * 8u;
    let last = p.m - 1u;
    let offset = p.dy_offset / 4u;
    let b0 = row * p.dy_stride + offset;
    let b1 = min(row + 1u, last) * p.dy_stride + offset;
    let b2 = min(row + 2u, last) * p.dy_stride + offset;
    let b3 = min(row + 3u, last) * p.dy_stride + offset;
    let b4 = min(row + 4u, last) * p.dy_stride + offset;
    let b5 = min(row + 5u, last) * p.dy_stride + offset;
    let b6 = min(row + 6u, last) * p.dy_stride + offset;
    let b7 = min(row + 7u, last) * p.dy_stride + offset;
    var s0 = chain_start(row, k); var s1 = chain_start(row + 1u, k); var s2 = chain_start(row + 2u, k); var s3 = chain_start(row + 3u, k);
    var s4 = chain_start(row + 4u, k); var s5 = chain_start(row + 5u, k); var s6 = chain_start(row + 6u, k); var s7 = chain_start(row + 7u, k);
    let whole = p.n / 4u;
    for (var j = 0u; j < whole; j++) {
        let d0 = dy[b0 + j]; let d1 = dy[b1 + j]; let d2 = dy[b2 + j]; let d3 = dy[b3 + j];
        let d4 = dy[b4 + j]; let d5 = dy[b5 + j]; let d6 = dy[b6 + j]; let d7 = dy[b7 + j];
        let w0 = weight4(p.w_row + j * 4u, k);
        s0 = rank_one(d0.x, w0, s0); s1 = rank_one(d1.x, w0, s1); s2 = rank_one(d2.x, w0, s2); s3 = rank_one(d3.x, w0, s3);
        s4 = rank_one(d4.x, w0, s4); s5 = rank_one(d5.x, w0, s5); s6 = rank_one(d6.x, w0, s6); s7 = rank_one(d7.x, w0, s7);
        let w1 = weight4(p.w_row + j * 4u + 1u, k);
        s0 = rank_one(d0.y, w1, s0); s1 = rank_one(d1.y, w1, s1); s2 = rank_one(d2.y, w1, s2); s3 = rank_one(d3.y, w1, s3);
        s4 = rank_one(d4.y, w1, s4); s5 = rank_one(d5.y, w1, s5); s6 = rank_one(d6.y, w1, s6); s7 = rank_one(d7.y, w1, s7);
        let w2 = weight4(p.w_row + j * 4u + 2u, k);
        s0 = rank_one(d0.z, w2, s0); s1 = rank_one(d1.z, w2, s1); s2 = rank_one(d2.z, w2, s2); s3 = rank_one(d3.z, w2, s3);
        s4 = rank_one(d4.z, w2, s4); s5 = rank_one(d5.z, w2, s5); s6 = rank_one(d6.z, w2, s6); s7 = rank_one(d7.z, w2, s7);
        let w3 = weight4(p.w_row + j * 4u + 3u, k);
        s0 = rank_one(d0.w, w3, s0); s1 = rank_one(d1.w, w3, s1); s2 = rank_one(d2.w, w3, s2); s3 = rank_one(d3.w, w3, s3);
        s4 = rank_one(d4.w, w3, s4); s5 = rank_one(d5.w, w3, s5); s6 = rank_one(d6.w, w3, s6); s7 = rank_one(d7.w, w3, s7);
    }
    for (var n = whole * 4u; n < p.n; n++) {
        let w = weight4(p.w_row + n, k);
        let c = n % 4u;
        s0 = rank_one(dy[b0 + whole][c], w, s0); s1 = rank_one(dy[b1 + whole][c], w, s1);
        s2 = rank_one(dy[b2 + whole][c], w, s2); s3 = rank_one(dy[b3 + whole][c], w, s3);
        s4 = rank_one(dy[b4 + whole][c], w, s4); s5 = rank_one(dy[b5 + whole][c], w, s5);
        s6 = rank_one(dy[b6 + whole][c], w, s6); s7 = rank_one(dy[b7 + whole][c], w, s7);
    }
    store_columns(row, col, s0); store_columns(row + 1u, col, s1); store_columns(row + 2u, col, s2); store_columns(row + 3u, col, s3);
    store_columns(row + 4u, col, s4); store_columns(row + 5u, col, s5); store_columns(row + 6u, col, s6); store_columns(row + 7u, col, s7);
}
