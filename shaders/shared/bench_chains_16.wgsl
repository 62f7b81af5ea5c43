// 16 independent chains of multiply-adds, 8 links a round. Before it: shared/bench_chains.wgsl.
@compute @workgroup_size(LANES)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>) {
    let i = id.y * grid.x * LANES + id.x;
    let f = factor();
    let g = addend();
    let start = V(E(i % 16u));
    var a0 = start + V(E(0));
    var a1 = start + V(E(1));
    var a2 = start + V(E(2));
    var a3 = start + V(E(3));
    var a4 = start + V(E(4));
    var a5 = start + V(E(5));
    var a6 = start + V(E(6));
    var a7 = start + V(E(7));
    var a8 = start + V(E(8));
    var a9 = start + V(E(9));
    var a10 = start + V(E(10));
    var a11 = start + V(E(11));
    var a12 = start + V(E(12));
    var a13 = start + V(E(13));
    var a14 = start + V(E(14));
    var a15 = start + V(E(15));
    for (var r = 0u; r < p.rounds; r++) {
        a0 = fma(a0, f, g); a1 = fma(a1, f, g); a2 = fma(a2, f, g); a3 = fma(a3, f, g);
        a4 = fma(a4, f, g); a5 = fma(a5, f, g); a6 = fma(a6, f, g); a7 = fma(a7, f, g);
        a8 = fma(a8, f, g); a9 = fma(a9, f, g); a10 = fma(a10, f, g); a11 = fma(a11, f, g);
        a12 = fma(a12, f, g); a13 = fma(a13, f, g); a14 = fma(a14, f, g); a15 = fma(a15, f, g);
        a0 = fma(a0, f, g); a1 = fma(a1, f, g); a2 = fma(a2, f, g); a3 = fma(a3, f, g);
        a4 = fma(a4, f, g); a5 = fma(a5, f, g); a6 = fma(a6, f, g); a7 = fma(a7, f, g);
        a8 = fma(a8, f, g); a9 = fma(a9, f, g); a10 = fma(a10, f, g); a11 = fma(a11, f, g);
        a12 = fma(a12, f, g); a13 = fma(a13, f, g); a14 = fma(a14, f, g); a15 = fma(a15, f, g);
        a0 = fma(a0, f, g); a1 = fma(a1, f, g); a2 = fma(a2, f, g); a3 = fma(a3, f, g);
        a4 = fma(a4, f, g); a5 = fma(a5, f, g); a6 = fma(a6, f, g); a7 = fma(a7, f, g);
        a8 = fma(a8, f, g); a9 = fma(a9, f, g); a10 = fma(a10, f, g); a11 = fma(a11, f, g);
        a12 = fma(a12, f, g); a13 = fma(a13, f, g); a14 = fma(a14, f, g); a15 = fma(a15, f, g);
        a0 = fma(a0, f, g); a1 = fma(a1, f, g); a2 = fma(a2, f, g); a3 = fma(a3, f, g);
        a4 = fma(a4, f, g); a5 = fma(a5, f, g); a6 = fma(a6, f, g); a7 = fma(a7, f, g);
        a8 = fma(a8, f, g); a9 = fma(a9, f, g); a10 = fma(a10, f, g); a11 = fma(a11, f, g);
        a12 = fma(a12, f, g); a13 = fma(a13, f, g); a14 = fma(a14, f, g); a15 = fma(a15, f, g);
        a0 = fma(a0, f, g); a1 = fma(a1, f, g); a2 = fma(a2, f, g); a3 = fma(a3, f, g);
        a4 = fma(a4, f, g); a5 = fma(a5, f, g); a6 = fma(a6, f, g); a7 = fma(a7, f, g);
        a8 = fma(a8, f, g); a9 = fma(a9, f, g); a10 = fma(a10, f, g); a11 = fma(a11, f, g);
        a12 = fma(a12, f, g); a13 = fma(a13, f, g); a14 = fma(a14, f, g); a15 = fma(a15, f, g);
        a0 = fma(a0, f, g); a1 = fma(a1, f, g); a2 = fma(a2, f, g); a3 = fma(a3, f, g);
        a4 = fma(a4, f, g); a5 = fma(a5, f, g); a6 = fma(a6, f, g); a7 = fma(a7, f, g);
        a8 = fma(a8, f, g); a9 = fma(a9, f, g); a10 = fma(a10, f, g); a11 = fma(a11, f, g);
        a12 = fma(a12, f, g); a13 = fma(a13, f, g); a14 = fma(a14, f, g); a15 = fma(a15, f, g);
        a0 = fma(a0, f, g); a1 = fma(a1, f, g); a2 = fma(a2, f, g); a3 = fma(a3, f, g);
        a4 = fma(a4, f, g); a5 = fma(a5, f, g); a6 = fma(a6, f, g); a7 = fma(a7, f, g);
        a8 = fma(a8, f, g); a9 = fma(a9, f, g); a10 = fma(a10, f, g); a11 = fma(a11, f, g);
        a12 = fma(a12, f, g); a13 = fma(a13, f, g); a14 = fma(a14, f, g); a15 = fma(a15, f, g);
        a0 = fma(a0, f, g); a1 = fma(a1, f, g); a2 = fma(a2, f, g); a3 = fma(a3, f, g);
        a4 = fma(a4, f, g); a5 = fma(a5, f, g); a6 = fma(a6, f, g); a7 = fma(a7, f, g);
        a8 = fma(a8, f, g); a9 = fma(a9, f, g); a10 = fma(a10, f, g); a11 = fma(a11, f, g);
        a12 = fma(a12, f, g); a13 = fma(a13, f, g); a14 = fma(a14, f, g); a15 = fma(a15, f, g);
    }
    let s = a0 + a1 + a2 + a3 + a4 + a5 + a6 + a7 + a8 + a9 + a10 + a11 + a12 + a13 + a14 + a15;
    if i < p.count { out[i] = total(s); }
}
