// `main` of attention_*_coop.wgsl on 16 × 16 × 16 matrices: a subgroup has 1 × 2 of them. See shared/attention_coop.wgsl.
// Every index and stride is a `let`: naga's SPIR-V needs them so.

alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sum = coop_mat16x16<f32, C>;

// Where subgroups are smaller than the adapter's largest there are more than four, and they repeat each other's work.
var<private> quarter: u32;

fn left_fragment(step: u32) -> Left {
    let at = quarter * 16u * STRIDE + step;
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
    var s0 = Sum(); var s1 = Sum();
    for (var first = 0u; first < D4; first += 8u) {
        workgroupBarrier();
        stage_rows(which, first, lane);
        workgroupBarrier();
        for (var k = 0u; k < 32u; k += 16u) {
            let a = left_fragment(k);
            let b0 = row_fragment(0u, k);
            let b1 = row_fragment(16u, k);
            s0 = coopMultiplyAdd(a, b0, s0); s1 = coopMultiplyAdd(a, b1, s1);
        }
    }
    let stride = LEFT;
    let at0 = quarter * 16u;
    let at1 = at0 + 16u * LEFT;
    coopStore(s0, &sums[at0], stride); coopStore(s1, &sums[at1], stride);
}

// The weights times what is staged beside them, into `sums`: (LEFT, 32).
fn multiply_weights() {
    var s0 = Sum(); var s1 = Sum();
    for (var k = 0u; k < 32u; k += 16u) {
        let a = left_fragment(k);
        let b0 = addend_fragment(k, 0u);
        let b1 = addend_fragment(k, 16u);
        s0 = coopMultiplyAdd(a, b0, s0); s1 = coopMultiplyAdd(a, b1, s1);
    }
    let stride = 32u;
    let at0 = quarter * 512u;
    let at1 = at0 + 16u;
    coopStoreT(s0, &sums[at0], stride); coopStoreT(s1, &sums[at1], stride);
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
