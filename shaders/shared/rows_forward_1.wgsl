// 1 row of y a workgroup. Goes with linear_forward_subgroup.wgsl and linear_output.wgsl.
@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>,
        @builtin(subgroup_invocation_id) lane: u32) {
    let col = (begin(group) * LANES + local.x) * 4u;
    let n = rows_of(col);
    let row = group.y;
    let b0 = row * p.x_stride * 4u;
    var s0 = vec4<f32>();
    for (var k = 0u; k < p.k4; k += 2u) {
        let c = k * 4u + lane;
        let v0 = values(b0, c);
        let w = weights(n, k);
        s0 = chain8(v0, w, s0);
    }
    var t0 = vec4<f32>();
    if LORA {
        for (var k = 0u; k < rank4(); k++) {
            let b = second_weights(col, k);
            t0 = chain4(hidden_sides(row, k), b, t0);
        }
    }
    store_four(row, col, s0, t0);
}
