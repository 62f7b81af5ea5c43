// y (M, N) = alpha · x (M, K) · Wᵀ (N, K) [+ linear_output.wgsl's]
// Appended: shared/linear_params.wgsl, linear_output.wgsl, linear_columns.wgsl, shared/weight.wgsl, or
// linear_slices.wgsl (several products), or linear_gated.wgsl (SwiGLU) in the place of some.
// Every output is one chain of fused multiply-adds along K in ascending order: the bits do not depend on M.
// A workgroup is ROWS rows by 2 · LANES columns; the rows come from workgroup_id alone, so reads of x are uniform.

override LANES: u32 = 8u;

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;

// What `with_weight` reads: the rows of W of two columns.
alias At = vec2<u32>;
struct Work { u: vec4<f32>, v: vec4<f32> }

fn work(n: At, k: u32) -> Work {
    return Work(side4(0u, n.x, k), side4(1u, n.y, k));
}

fn dot_chain(a: vec4<f32>, b: vec4<f32>, c: f32) -> f32 {
    return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, c))));
}

// h Bᵀ, the adapter's second product.
fn second(side: u32, row: u32, col: u32) -> f32 {
    var s = 0.0;
    for (var k = 0u; k < rank4(); k++) { s = dot_chain(hidden4(side, row, k), second4(side, col, k), s); }
    return s;
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let c0 = begin(group) * 2u * LANES + local.x;
    let c1 = c0 + LANES;
    // Lanes past the edge compute on the last row of W and are not stored.
    let n = vec2<u32>(row_of(c0), row_of(c1));
    let row = group.y * 8u;
    let last = p.m - 1u;
    let b0 = row * p.x_stride;
    let b1 = min(row + 1u, last) * p.x_stride;
    let b2 = min(row + 2u, last) * p.x_stride;
    let b3 = min(row + 3u, last) * p.x_stride;
    let b4 = min(row + 4u, last) * p.x_stride;
    let b5 = min(row + 5u, last) * p.x_stride;
    let b6 = min(row + 6u, last) * p.x_stride;
    let b7 = min(row + 7u, last) * p.x_stride;
    var s0 = 0.0; var s1 = 0.0; var s2 = 0.0; var s3 = 0.0;
    var s4 = 0.0; var s5 = 0.0; var s6 = 0.0; var s7 = 0.0;
    var t0 = 0.0; var t1 = 0.0; var t2 = 0.0; var t3 = 0.0;
    var t4 = 0.0; var t5 = 0.0; var t6 = 0.0; var t7 = 0.0;
    for (var k = 0u; k < p.k4; k++) {
        let w = with_weight(n, k);
        let u = w.u;
        let v = w.v;
        let x0 = x[b0 + k]; s0 = dot_chain(x0, u, s0); t0 = dot_chain(x0, v, t0);
        let x1 = x[b1 + k]; s1 = dot_chain(x1, u, s1); t1 = dot_chain(x1, v, t1);
        let x2 = x[b2 + k]; s2 = dot_chain(x2, u, s2); t2 = dot_chain(x2, v, t2);
        let x3 = x[b3 + k]; s3 = dot_chain(x3, u, s3); t3 = dot_chain(x3, v, t3);
        let x4 = x[b4 + k]; s4 = dot_chain(x4, u, s4); t4 = dot_chain(x4, v, t4);
        let x5 = x[b5 + k]; s5 = dot_chain(x5, u, s5); t5 = dot_chain(x5, v, t5);
        let x6 = x[b6 + k]; s6 = dot_chain(x6, u, s6); t6 = dot_chain(x6, v, t6);
        let x7 = x[b7 + k]; s7 = dot_chain(x7, u, s7); t7 = dot_chain(x7, v, t7);
    }
    // One place in the code that stores: sixteen take drivers long to compile.
    var outputs = array<vec2<f32>, 8>(vec2<f32>(s0, t0), vec2<f32>(s1, t1), vec2<f32>(s2, t2), vec2<f32>(s3, t3),
                                      vec2<f32>(s4, t4), vec2<f32>(s5, t5), vec2<f32>(s6, t6), vec2<f32>(s7, t7));
    for (var i = 0u; i < 8u; i++) {
        let r = row + i;
        var h = vec2<f32>();
        if LORA { h = vec2<f32>(second(0u, r, c0), second(1u, r, c1)); }
        store_sides(r, vec2<u32>(c0, c1), outputs[i], h);
    }
}
