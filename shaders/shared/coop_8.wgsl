// `main` of linear_*_coop.wgsl on 8 × 8 × 8 matrices: a subgroup has 4 × 4 of them. See shared/coop_tile.wgsl.
// Every index and stride is a `let`: naga's SPIR-V needs them so.

alias Left = coop_mat8x8<f16, A>;
alias Right = coop_mat8x8<f16, B>;
alias Sum = coop_mat8x8<f32, C>;
const WIDE = 32u;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) subgroup: u32,
) {
    let rows = group.y * EDGE;
    let cols = group.x * EDGE;
    if SCALED { prepare(rows, lane); }
    // Where subgroups are smaller than the adapter's largest there are more than four, and they repeat each other's work.
    let quarter = subgroup % 4u;
    let r = quarter / 2u * 32u;
    let c = quarter % 2u * 32u;
    var s00 = Sum(); var s01 = Sum(); var s02 = Sum(); var s03 = Sum();
    var s10 = Sum(); var s11 = Sum(); var s12 = Sum(); var s13 = Sum();
    var s20 = Sum(); var s21 = Sum(); var s22 = Sum(); var s23 = Sum();
    var s30 = Sum(); var s31 = Sum(); var s32 = Sum(); var s33 = Sum();
    let chunks = (steps() + STEPS - 1u) / STEPS;
    // One barrier a chunk: whoever is past it fills the other half, which nobody reads any more.
    for (var i = 0u; i < chunks; i++) {
        stage(i, rows, cols, lane);
        workgroupBarrier();
        let half = (i & 1u) * HALF;
        for (var k = 0u; k < STEPS; k += 8u) {
            let b0 = right_fragment(half, c, k);
            let b1 = right_fragment(half, c + 8u, k);
            let b2 = right_fragment(half, c + 16u, k);
            let b3 = right_fragment(half, c + 24u, k);
            let a0 = left_fragment(half, r, k);
            s00 = coopMultiplyAdd(a0, b0, s00); s01 = coopMultiplyAdd(a0, b1, s01);
            s02 = coopMultiplyAdd(a0, b2, s02); s03 = coopMultiplyAdd(a0, b3, s03);
            let a1 = left_fragment(half, r + 8u, k);
            s10 = coopMultiplyAdd(a1, b0, s10); s11 = coopMultiplyAdd(a1, b1, s11);
            s12 = coopMultiplyAdd(a1, b2, s12); s13 = coopMultiplyAdd(a1, b3, s13);
            let a2 = left_fragment(half, r + 16u, k);
            s20 = coopMultiplyAdd(a2, b0, s20); s21 = coopMultiplyAdd(a2, b1, s21);
            s22 = coopMultiplyAdd(a2, b2, s22); s23 = coopMultiplyAdd(a2, b3, s23);
            let a3 = left_fragment(half, r + 24u, k);
            s30 = coopMultiplyAdd(a3, b0, s30); s31 = coopMultiplyAdd(a3, b1, s31);
            s32 = coopMultiplyAdd(a3, b2, s32); s33 = coopMultiplyAdd(a3, b3, s33);
        }
    }
    let stride = WIDE;
    let at = quarter * 256u;
    let at1 = at + 8u;
    let at2 = at + 16u;
    let at3 = at + 24u;
    // One place in the code that stores: drivers take long to compile four.
    for (var i = 0u; i < 4u; i++) {
        if i == 0u {
            coopStoreT(s00, &sums[at], stride); coopStoreT(s01, &sums[at1], stride);
            coopStoreT(s02, &sums[at2], stride); coopStoreT(s03, &sums[at3], stride);
        } else if i == 1u {
            coopStoreT(s10, &sums[at], stride); coopStoreT(s11, &sums[at1], stride);
            coopStoreT(s12, &sums[at2], stride); coopStoreT(s13, &sums[at3], stride);
        } else if i == 2u {
            coopStoreT(s20, &sums[at], stride); coopStoreT(s21, &sums[at1], stride);
            coopStoreT(s22, &sums[at2], stride); coopStoreT(s23, &sums[at3], stride);
        } else {
            coopStoreT(s30, &sums[at], stride); coopStoreT(s31, &sums[at1], stride);
            coopStoreT(s32, &sums[at2], stride); coopStoreT(s33, &sums[at3], stride);
        }
        workgroupBarrier();
        flush(i, rows, cols, lane);
        workgroupBarrier();
    }
}
