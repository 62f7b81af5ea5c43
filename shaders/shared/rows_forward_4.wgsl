// 4 rows of y a workgroup. Goes with linear_forward_subgroup.wgsl and linear_output.wgsl.
struct At { n: vec4<u32>, lane: u32 }
struct Work { s0: vec4<f32>, s1: vec4<f32>, s2: vec4<f32>, s3: vec4<f32> }

// The sums of four rows; those past the last repeat it and are not stored.
fn work(at: At, row: u32) -> Work {
    let last = p.m - 1u;
    let stride = p.x_stride * 4u;
    let b0 = row * stride;
    let b1 = min(row + 1u, last) * stride;
    let b2 = min(row + 2u, last) * stride;
    let b3 = min(row + 3u, last) * stride;
    var s0 = vec4<f32>(); var s1 = vec4<f32>(); var s2 = vec4<f32>(); var s3 = vec4<f32>();
    for (var k = 0u; k < p.k4; k += 2u) {
        let c = k * 4u + at.lane;
        let v0 = values(b0, c); let v1 = values(b1, c); let v2 = values(b2, c); let v3 = values(b3, c);
        let w = eight(at.n, k);
        s0 = chain8(v0, w, s0); s1 = chain8(v1, w, s1); s2 = chain8(v2, w, s2); s3 = chain8(v3, w, s3);
    }
    return Work(s0, s1, s2, s3);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>,
        @builtin(subgroup_invocation_id) lane: u32) {
    let col = (begin(group) * LANES + local.x) * 4u;
    let row = group.y * 4u;
    let s = with_weight(At(rows_of(col), lane), row);
    var t0 = vec4<f32>(); var t1 = vec4<f32>(); var t2 = vec4<f32>(); var t3 = vec4<f32>();
    if LORA {
        for (var k = 0u; k < rank4(); k++) {
            let b = second_weights(col, k);
            t0 = chain4(hidden_sides(row, k), b, t0);
            t1 = chain4(hidden_sides(row + 1u, k), b, t1);
            t2 = chain4(hidden_sides(row + 2u, k), b, t2);
            t3 = chain4(hidden_sides(row + 3u, k), b, t3);
        }
    }
    store_four(row, col, s.s0, t0); store_four(row + 1u, col, s.s1, t1);
    store_four(row + 2u, col, s.s2, t2); store_four(row + 3u, col, s.s3, t3);
}
