// `main` of linear_*_coop.wgsl on 16 × 16 × 16 matrices: a subgroup has 2 × 2 of them. See shared/coop_tile.wgsl.
// Every index and stride is a `let`: naga's SPIR-V needs them so.

alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sum = coop_mat16x16<f32, C>;
const WIDE = 16u;

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
    var s00 = Sum(); var s01 = Sum(); var s10 = Sum(); var s11 = Sum();
    let chunks = (steps() + STEPS - 1u) / STEPS;
    // One barrier a chunk: whoever is past it fills the other half, which nobody reads any more.
    for (var i = 0u; i < chunks; i++) {
        stage(i, rows, cols, lane);
        workgroupBarrier();
        let half = (i & 1u) * HALF;
        let a0 = left_fragment(half, r, 0u);
        let a1 = left_fragment(half, r + 16u, 0u);
        let b0 = right_fragment(half, c, 0u);
        let b1 = right_fragment(half, c + 16u, 0u);
        s00 = coopMultiplyAdd(a0, b0, s00); s01 = coopMultiplyAdd(a0, b1, s01);
        s10 = coopMultiplyAdd(a1, b0, s10); s11 = coopMultiplyAdd(a1, b1, s11);
    }
    let at = quarter * 256u;
    let stride = WIDE;
    // One place in the code that stores: drivers take long to compile four.
    for (var i = 0u; i < 4u; i++) {
        if i == 0u {
            coopStoreT(s00, &sums[at], stride);
        } else if i == 1u {
            coopStoreT(s01, &sums[at], stride);
        } else if i == 2u {
            coopStoreT(s10, &sums[at], stride);
        } else {
            coopStoreT(s11, &sums[at], stride);
        }
        workgroupBarrier();
        flush(i, rows, cols, lane);
        workgroupBarrier();
    }
}
