// `main` of attention_*_coop.wgsl on 8 × 8 × 8 matrices: a subgroup has 2 × 4 of them. See shared/attention_coop.wgsl.
// Every index and stride is a `let`: naga's SPIR-V needs them so.

alias Left = coop_mat8x8<f16, A>;
alias Right = coop_mat8x8<f16, B>;
alias Sum = coop_mat8x8<f32, C>;

// Where subgroups are smaller than the adapter's largest there are more than four, and they repeat each other's work.
var<private> quarter: u32;

fn left_fragment(row: u32, step: u32) -> Left {
    let at = (quarter * 16u + row) * STRIDE + step;
    let stride = STRIDE;
    return coopLoadT<Left>(&halves[at], stride);
}

fn row_fragment(row: u32, step: u32) -> Right {
    let at = RIGHT_AT + row * STRIDE + step;
    let stride = STRIDE;
    return coopLoad<Right>(&halves[at], stride);
}

fn addend_fragment(step: u32, col: u32) -> Right {
    let at = RIGHT_AT + step * STRIDE + col;
    let stride = STRIDE;
    return coopLoadT<Right>(&halves[at], stride);
}

// The products of a tile's rows, into `sums`: (RIGHT, LEFT).
fn multiply_rows(which: u32, lane: u32) {
    var s00 = Sum(); var s01 = Sum(); var s02 = Sum(); var s03 = Sum();
    var s10 = Sum(); var s11 = Sum(); var s12 = Sum(); var s13 = Sum();
    for (var first = 0u; first < D4; first += 8u) {
        workgroupBarrier();
        stage_rows(which, first, lane);
        workgroupBarrier();
        for (var k = 0u; k < 32u; k += 8u) {
            let a0 = left_fragment(0u, k);
            let a1 = left_fragment(8u, k);
            let b0 = row_fragment(0u, k);
            let b1 = row_fragment(8u, k);
            let b2 = row_fragment(16u, k);
            let b3 = row_fragment(24u, k);
            s00 = coopMultiplyAdd(a0, b0, s00); s01 = coopMultiplyAdd(a0, b1, s01);
            s02 = coopMultiplyAdd(a0, b2, s02); s03 = coopMultiplyAdd(a0, b3, s03);
            s10 = coopMultiplyAdd(a1, b0, s10); s11 = coopMultiplyAdd(a1, b1, s11);
            s12 = coopMultiplyAdd(a1, b2, s12); s13 = coopMultiplyAdd(a1, b3, s13);
        }
    }
    let stride = LEFT;
    let at0 = quarter * 16u;
    let at1 = at0 + 8u * LEFT;
    let at2 = at0 + 16u * LEFT;
    let at3 = at0 + 24u * LEFT;
    let bt0 = at0 + 8u;
    let bt1 = at1 + 8u;
    let bt2 = at2 + 8u;
    let bt3 = at3 + 8u;
    coopStore(s00, &sums[at0], stride); coopStore(s01, &sums[at1], stride);
    coopStore(s02, &sums[at2], stride); coopStore(s03, &sums[at3], stride);
    coopStore(s10, &sums[bt0], stride); coopStore(s11, &sums[bt1], stride);
    coopStore(s12, &sums[bt2], stride); coopStore(s13, &sums[bt3], stride);
}

// The weights times what is staged beside them, into `sums`: (LEFT, 32).
fn multiply_weights() {
    var s00 = Sum(); var s01 = Sum(); var s02 = Sum(); var s03 = Sum();
    var s10 = Sum(); var s11 = Sum(); var s12 = Sum(); var s13 = Sum();
    for (var k = 0u; k < 32u; k += 8u) {
        let a0 = left_fragment(0u, k);
        let a1 = left_fragment(8u, k);
        let b0 = addend_fragment(k, 0u);
        let b1 = addend_fragment(k, 8u);
        let b2 = addend_fragment(k, 16u);
        let b3 = addend_fragment(k, 24u);
        s00 = coopMultiplyAdd(a0, b0, s00); s01 = coopMultiplyAdd(a0, b1, s01);
        s02 = coopMultiplyAdd(a0, b2, s02); s03 = coopMultiplyAdd(a0, b3, s03);
        s10 = coopMultiplyAdd(a1, b0, s10); s11 = coopMultiplyAdd(a1, b1, s11);
        s12 = coopMultiplyAdd(a1, b2, s12); s13 = coopMultiplyAdd(a1, b3, s13);
    }
    let stride = 32u;
    let at0 = quarter * 512u;
    let at1 = at0 + 8u;
    let at2 = at0 + 16u;
    let at3 = at0 + 24u;
    let bt0 = at0 + 256u;
    let bt1 = at1 + 256u;
    let bt2 = at2 + 256u;
    let bt3 = at3 + 256u;
    coopStoreT(s00, &sums[at0], stride); coopStoreT(s01, &sums[at1], stride);
    coopStoreT(s02, &sums[at2], stride); coopStoreT(s03, &sums[at3], stride);
    coopStoreT(s10, &sums[bt0], stride); coopStoreT(s11, &sums[bt1], stride);
    coopStoreT(s12, &sums[bt2], stride); coopStoreT(s13, &sums[bt3], stride);
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) subgroup: u32,
) {
    quarter = subgroup % 4u;
    run(group, lane);
}
