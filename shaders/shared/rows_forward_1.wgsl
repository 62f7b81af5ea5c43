// 1 row of y a workgroup. Goes with linear_forward_subgroup.wgsl and linear_output.wgsl.
struct At { n: vec4<u32>, lane: u32 }
alias Work = vec4<f32>;

// The sums of a row.
fn work(at: At, row: u32) -> Work {
    let b0 = row * p.x_stride * 4u;
    var s0 = vec4<f32>();
    for (var k = 0u; k < p.k4; k += 2u) {
        s0 = chain8(values(b0, k * 4u + at.lane), eight(at.n, k), s0);
    }
    return s0;
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>,
        @builtin(subgroup_invocation_id) lane: u32) {
    let col = (begin(group) * LANES + local.x) * 4u;
    let row = group.y;
    let s0 = with_weight(At(rows_of(col), lane), row);
    var t0 = vec4<f32>();
    if LORA {
        for (var k = 0u; k < rank4(); k++) {
            let b = second_weights(col, k);
            t0 = chain4(hidden_sides(row, k), b, t0);
        }
    }
    store_four(row, col, s0, t0);
}
